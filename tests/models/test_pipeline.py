import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import cv2
import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from models.checkpoint import Card, read_card
from models.config import METHODS, REFINERS, PipelineConfig
from models.errors import CheckpointError
from models.masks.components import without_small_components
from models.pipeline import fit_square, load_pipeline, read_pipeline, save_pipeline
from models.runtime import FLOAT32
from models.threads import limit_threads, thread_count
from models.trimap import UNKNOWN


def card(name="small"):
    return Card(name, [], "", "2026-01-01T00:00:00+00:00")


def bright_corner(height, width):
    """An image that is bright in its lower right quarter."""
    image = np.zeros((height, width, 3), np.uint8)
    image[height // 2 :, width // 2 :] = 255
    return image


class Brightness(torch.nn.Module):
    """Stands in for a trained classifier: the score map of class 'a' is brightness, 'b' is nowhere."""

    def __init__(self, classifier):
        super().__init__()
        self.config, self.head, self.wall_reader = classifier.config, classifier.head, None

    def forward(self, images):
        from models.classifier import ClassifierOutput

        bright = torch.nn.functional.avg_pool2d(images.mean(1, keepdim=True), 4)
        features = torch.cat([bright, torch.ones_like(bright)] + [torch.zeros_like(bright)] * 14, dim=1)
        weight = torch.zeros(2, 16)
        weight[0, :2] = torch.tensor([20.0, -10.0])
        weight[1, 1] = -10
        self.head.weight.data = weight[:, :, None, None]
        score_maps = self.head(features)
        return ClassifierOutput(score_maps.amax(dim=(2, 3)), features, score_maps, {4: features})


@pytest.mark.parametrize("shape", [(120, 120), (97, 301), (301, 97), (90, 700), (1500, 1000)])
def test_masks_lie_where_the_object_is_on_images_of_any_shape(make_pipeline, shape):
    """Not square, odd, smaller and larger than the network's input: the mask has the image's size and place."""
    pipeline = make_pipeline(seen_by=Brightness)
    found = pipeline.predict([bright_corner(*shape)])[0]
    assert [segment.label for segment in found.segments] == ["a"]
    assert found.segments[0].mask.shape == shape
    assert agreement(found.segments[0].mask, bright_corner(*shape)[..., 0] > 0) > 0.8
    assert found.presence["a"] > 0.9 > 0.1 > found.presence["b"]
    assert 0 <= found.score <= 1


@pytest.mark.parametrize(
    ("probability", "thresholds", "drawn"),
    [(0.35, {}, True), (0.25, {}, False), (0.35, {"a": 0.6}, False), (0.25, {"a": 0.2}, True)],
)
def test_a_class_is_present_and_drawn_from_its_threshold_on(make_pipeline, monkeypatch, probability, thresholds, drawn):
    pipeline = make_pipeline()
    pipeline.config = replace(pipeline.config, presence_threshold=thresholds)
    maps = np.zeros((2, 64, 64), np.float32)
    maps[0, 20:40, 20:40] = 1
    monkeypatch.setattr(pipeline, "maps", lambda images: (np.array([[probability, 0.0]], np.float32), [maps]))
    found = pipeline.predict([np.zeros((64, 64, 3), np.uint8)])[0]
    assert [segment.label for segment in found.segments] == (["a"] if drawn else [])
    assert found.present == ({"a"} if drawn else set())


@pytest.fixture
def passes():
    """Makes a list of the shapes of what a pipeline's classifier is asked for from then on."""

    def listen(pipeline):
        shapes = []
        pipeline.classifier.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
        return shapes

    return listen


@pytest.mark.parametrize("scale", [1.0, 0.75, 0.5])
def test_presence_is_judged_on_the_frame_at_another_scale_and_maps_are_not(make_pipeline, passes, scale):
    pipeline = make_pipeline(config=PipelineConfig(presence_scale=scale))
    asked = passes(pipeline)
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    presence, maps = pipeline.maps([image])
    assert asked == [(1, 3, side, side) for side in (128, round(128 * scale))][: 1 if scale == 1 else 2]
    whole, at_whole = make_pipeline().maps([image])
    assert np.array_equal(maps[0], at_whole[0])
    assert np.array_equal(presence, whole) == (scale == 1)


def test_only_what_could_be_drawn_and_is_not_sure_is_judged_on_a_smaller_frame(make_pipeline, passes):
    """Black shows nothing, white surely a class; grey perhaps, and one line of it is gone on the smaller frame."""
    pipeline = make_pipeline(seen_by=Brightness, config=PipelineConfig(presence_scale=0.75, second_look="open"))
    black, white, grey = (np.full((128, 128, 3), value, np.uint8) for value in (0, 255, 120))
    grey[60] = 255  # one row of cells has a logit of 2.0; on the smaller frame less is white of it
    asked = passes(pipeline)
    presence, _ = pipeline.maps([black, white, grey])
    assert asked == [(3, 3, 128, 128), (1, 3, 96, 96)]
    pipeline.config = replace(pipeline.config, second_look="all")
    every, _ = pipeline.maps([black, white, grey])
    assert asked[2:] == [(3, 3, 128, 128), (3, 3, 96, 96)]
    first, _ = make_pipeline(seen_by=Brightness).maps([black, white, grey])
    assert np.array_equal(presence[:2], first[:2])
    assert presence[2, 0] == every[2, 0] < first[2, 0]
    assert presence[2, 1] == first[2, 1]  # never drawn, so the first pass says so


@pytest.mark.parametrize(("method", "count"), [("HiResCAM", 1), ("LayerCAM", 2)])
def test_an_embedding_asks_for_presence_only_where_maps_have_no_unit(make_pipeline, passes, method, count):
    pipeline = make_pipeline(config=PipelineConfig(cam=method, presence_scale=0.75))
    asked = passes(pipeline)
    pipeline.embed(np.zeros((128, 128, 3), np.uint8))
    assert asked == [(1, 3, 128, 128), (1, 3, 96, 96)][:count]


def test_on_a_gpu_one_half_of_a_batch_is_worked_on_while_the_other_is_computed(make_pipeline):
    """Each half waits for the other in the middle of the networks. These are stand-ins that need no GPU."""
    pipeline = make_pipeline(seen_by=Brightness)
    images = [bright_corner(120, 120), bright_corner(80, 200), np.zeros((50, 60, 3), np.uint8)]
    expected, ours, meeting = pipeline.predict(images), pipeline.networks, Barrier(2)

    def classify(frames, *, features=False):
        assert thread_count() == 1
        meeting.wait(60)
        return ours.classifier(frames, features=features)

    pipeline.networks = replace(ours, runtimes=dict.fromkeys(ours.runtimes, FLOAT32), classifier=classify)
    pipeline.device = "cuda"
    with ThreadPoolExecutor(1, initializer=limit_threads, initargs=(1,)) as thread:
        found = thread.submit(pipeline.predict, images).result()
    for one, other in zip(found, expected, strict=True):
        assert [s.label for s in one.segments] == [s.label for s in other.segments]
        for a, b in zip(one.segments, other.segments, strict=True):
            assert (a.mask == b.mask).mean() > 0.999


def test_a_cpu_takes_a_batch_as_a_whole(make_pipeline, passes):
    pipeline = make_pipeline()
    asked = passes(pipeline)
    pipeline.predict([np.zeros((50, 60, 3), np.uint8)] * 3)
    assert asked == [(3, 3, 128, 128)]


def test_a_half_that_fails_fails_the_batch(make_pipeline):
    pipeline = make_pipeline(seen_by=Brightness)
    ours = pipeline.networks

    def classify(frames, *, features=False):
        if frames.max() == 0:
            raise RuntimeError("black")
        return ours.classifier(frames, features=features)

    pipeline.networks = replace(ours, runtimes=dict.fromkeys(ours.runtimes, FLOAT32), classifier=classify)
    pipeline.device = "cuda"
    with pytest.raises(RuntimeError, match="black"):
        pipeline.predict([bright_corner(120, 120), np.zeros((50, 60, 3), np.uint8)])


def test_a_batch_gives_what_single_images_give(make_pipeline):
    pipeline = make_pipeline(seen_by=Brightness)
    images = [bright_corner(120, 120), bright_corner(80, 200), np.zeros((50, 60, 3), np.uint8)]
    together = pipeline.predict(images)
    for image, prediction in zip(images, together, strict=True):
        alone = pipeline.predict([image])[0]
        assert [s.label for s in alone.segments] == [s.label for s in prediction.segments]
        for a, b in zip(alone.segments, prediction.segments, strict=True):
            assert (a.mask == b.mask).mean() > 0.999
    assert together[2].segments == []


def test_one_pixel_is_an_image_too(make_pipeline):
    make_pipeline().predict([np.zeros((1, 1, 3), np.uint8)])


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_rgb_image_is_refused(make_pipeline, image):
    with pytest.raises(ValueError, match=r"image must have shape \(H, W, 3\)"):
        make_pipeline().predict([image])


def test_without_the_refiner_the_mask_is_the_coarse_one(make_pipeline):
    pipeline = make_pipeline(config=PipelineConfig(refiner="none"), seen_by=Brightness)
    step = pipeline.steps([bright_corner(120, 120)])[0][0]
    assert (step.mask == step.coarse).all()


def agreement(mask, truth):
    return (mask & truth).sum() / (mask | truth).sum()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_object_without_a_threshold_measured_for_it(make_pipeline, method):
    pipeline = make_pipeline(config=PipelineConfig(cam=method, refiner="none"), seen_by=Brightness)
    image = bright_corner(120, 120)
    found = pipeline.steps([image, np.zeros_like(image)])
    assert agreement(found[0][0].mask, image[..., 0] > 0) > 0.8
    assert not found[0][1].mask.any()  # an absent class
    assert not found[1][0].mask.any()  # an image without the object


@pytest.mark.parametrize("refiner", REFINERS)
def test_every_refiner_draws_the_object_and_nothing_where_a_class_is_absent(make_pipeline, refiner):
    pipeline = make_pipeline(config=PipelineConfig(refiner=refiner), seen_by=Brightness)
    found = pipeline.predict([bright_corner(120, 120)])[0]
    assert [segment.label for segment in found.segments] == ["a"]
    assert agreement(found.segments[0].mask, bright_corner(120, 120)[..., 0] > 0) > 0.9


def test_thresholds_belong_to_a_method_and_its_layers():
    config = PipelineConfig(map_threshold={"HiResCAM": {"a": 0.3}, "LayerCAM@4+8": {"a": 0.7}})
    assert config.map_threshold_of("a") == 0.3
    assert config.map_threshold_of("b") == 0.5
    assert replace(config, layers=(8, 4), cam="LayerCAM").map_threshold_of("a") == 0.7
    assert replace(config, layers=(4, 8)).map_threshold_of("a") > 0.5
    assert replace(config, cam="EigenCAM").map_threshold_of("a") == replace(config, layers=(4, 8)).map_threshold_of("a")


def test_a_class_has_its_own_threshold_and_band(make_pipeline):
    """A lower threshold makes the coarse mask larger, a wider band the unknown zone."""
    image = cv2.GaussianBlur(bright_corner(120, 120), (0, 0), 8)

    def step(**options):
        pipeline = make_pipeline(config=PipelineConfig(refiner="none", **options), seen_by=Brightness)
        return pipeline.steps([image])[0][0]

    plain = step()
    assert step(map_threshold={"HiResCAM": {"a": 0.01}}).coarse.sum() > plain.coarse.sum()
    assert step(map_threshold={"HiResCAM": {"b": 0.01}}).coarse.sum() == plain.coarse.sum()
    narrow, wide = step(band={"a": 0.03, "b": 0.2}), step(band={"a": 0.06})
    assert (narrow.trimap == UNKNOWN).sum() < (wide.trimap == UNKNOWN).sum() < (plain.trimap == UNKNOWN).sum()


def test_fba_net_leaves_the_map_of_an_unrefined_class(make_pipeline, monkeypatch):
    """Its mask is the map's, and its alpha still says how sure the map is; other refiners and classes are not told."""
    image = cv2.GaussianBlur(bright_corner(120, 120), (0, 0), 8)
    monkeypatch.setattr(
        "models.pipeline.fba_matting", lambda *_: lambda crops: [np.zeros_like(crop.cam) for crop in crops]
    )

    def step(**options):
        pipeline = make_pipeline(config=PipelineConfig(**options), seen_by=Brightness)
        return pipeline.steps([image])[0][0]

    spoiled = step(unrefined=("b",))
    kept = step(unrefined=("a",))
    assert agreement(spoiled.mask, spoiled.coarse) < 0.9
    assert agreement(kept.mask, kept.coarse) > 0.97
    assert ((kept.alpha > 0) & (kept.alpha < 1)).any()
    solved = step(refiner="closed-form", unrefined=("a",))
    assert (solved.alpha == step(refiner="closed-form").alpha).all()


@pytest.mark.parametrize(
    "options", [{"cam": "CAM"}, {"refiner": "hand"}, {"layers": ()}, {"presence_scale": 0.0}, {"second_look": ""}]
)
def test_settings_that_no_pipeline_has_are_refused(options):
    with pytest.raises(
        ValueError, match=r"no activation-map method|no refiner|at least one layer|presence_scale|no second look"
    ):
        PipelineConfig(**options)


def test_settings_travel_with_the_weights(make_pipeline, tmp_path):
    config = PipelineConfig(
        cam="LayerCAM",
        layers=(4, 16),
        refiner="closed-form",
        map_threshold={"LayerCAM@4+16": {"a": 0.4}},
        presence_scale=0.5,
        band={"b": 0.2},
        unrefined=("a",),
    )
    save_pipeline(make_pipeline(config=config), tmp_path / "v1", card())
    assert load_pipeline(tmp_path / "v1").config == config


def test_a_card_from_before_layers_and_bands_loads_with_the_last_layer_and_one_band(make_pipeline, tmp_path):
    save_pipeline(make_pipeline(), tmp_path / "v1", card())
    path = tmp_path / "v1" / "card.json"
    values = json.loads(path.read_text())
    for newer in ("layers", "band", "unrefined", "presence_scale", "second_look"):
        del values["config"]["pipeline"][newer]
    path.write_text(json.dumps(values))
    assert load_pipeline(tmp_path / "v1").config == PipelineConfig()


def test_a_saved_pipeline_predicts_the_same_after_loading(make_pipeline, tmp_path):
    """Weights travel as float16, so the maps agree to its precision."""
    pipeline = make_pipeline(config=PipelineConfig(map_threshold={"HiResCAM": {"a": 0.4}}))
    save_pipeline(pipeline, tmp_path / "v1", card())
    loaded = load_pipeline(tmp_path / "v1")
    assert loaded.classes == ("a", "b")
    assert loaded.name == "small"
    assert loaded.config == pipeline.config
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8)
    before, after = pipeline.maps([image]), loaded.maps([image])
    assert np.allclose(before[1][0], after[1][0], atol=0.02)


def test_a_checkpoint_is_never_overwritten(make_pipeline, tmp_path):
    save_pipeline(make_pipeline(), tmp_path / "v1", card())
    with pytest.raises(CheckpointError, match="never overwritten"):
        save_pipeline(make_pipeline(), tmp_path / "v1", card())


def test_a_save_that_dies_leaves_no_checkpoint(make_pipeline, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_pipeline(make_pipeline(), tmp_path / "v1", card())
    assert not (tmp_path / "v1").exists()


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda d: (d / "card.json").unlink(), "it has no card.json"),
        (lambda d: (d / "card.json").write_text("{"), "does not read as a model card"),
        (lambda d: (d / "refiner.safetensors").unlink(), "refiner.safetensors is missing"),
        (lambda d: (d / "classifier.safetensors").write_bytes(b"x" * 100), "is damaged"),
    ],
)
def test_a_damaged_checkpoint_is_named(make_pipeline, tmp_path, damage, complaint):
    save_pipeline(make_pipeline(), tmp_path / "v1", card())
    damage(tmp_path / "v1")
    with pytest.raises(CheckpointError, match=complaint):
        load_pipeline(tmp_path / "v1")


@pytest.mark.parametrize(
    ("part", "values", "complaint"),
    [
        ("classifier", {"input_size": "wide"}, "input_size: Input should be a valid integer"),
        ("classifier", {"input_size": -3}, "input_size must be a multiple of 32, got -3"),
        ("classifier", {"classes": ["b", "a"]}, "are not those of its classifier"),
        ("refiner", {"crop_size": 7}, "crop_size must be a multiple of 8, got 7"),
        ("pipeline", {"wall": {"lumen": "c", "classes": ["a"]}}, "the wall's classes, c, a, are not among the others"),
    ],
)
def test_a_card_that_no_network_can_have_is_refused_before_the_first_image(
    make_pipeline, tmp_path, part, values, complaint
):
    save_pipeline(make_pipeline(), tmp_path / "v1", card())
    path = tmp_path / "v1" / "card.json"
    content = json.loads(path.read_text())
    content["config"][part] |= values
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=complaint):
        read_pipeline(tmp_path / "v1")


def test_no_images_have_no_predictions(make_pipeline):
    assert make_pipeline().predict([]) == []


def test_a_full_disk_leaves_no_checkpoint_and_says_so(make_pipeline, tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(CheckpointError, match=r"v1 cannot be written: .*No space left.*make room"):
        save_pipeline(make_pipeline(), tmp_path / "v1", card())
    assert list(tmp_path.iterdir()) == []


def test_large_weights_are_kept_in_parts(make_pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr("models.checkpoint.PART_BYTES", 100_000)
    pipeline = make_pipeline()
    save_pipeline(pipeline, tmp_path / "v1", card())
    parts = sorted(path.name for path in tmp_path.glob("v1/classifier*"))
    assert len(parts) > 2
    assert parts[0] == f"classifier-1-of-{len(parts)}.safetensors"
    largest = max(value.nbytes for value in pipeline.classifier.state_dict().values()) / 2  # saved as float16
    assert all(path.stat().st_size < max(100_000, largest + 1000) for path in tmp_path.glob("v1/classifier*"))
    loaded = load_pipeline(tmp_path / "v1").classifier.state_dict()
    for key, value in pipeline.classifier.state_dict().items():
        torch.testing.assert_close(loaded[key], value.half().to(value.dtype), msg=key)
    (tmp_path / "v1" / parts[1]).unlink()
    with pytest.raises(CheckpointError, match=f"{parts[1]} is missing"):
        load_pipeline(tmp_path / "v1")


def test_a_card_of_another_network_is_refused(make_pipeline, tmp_path):
    save_pipeline(make_pipeline(), tmp_path / "v1", card())
    path = tmp_path / "v1" / "card.json"
    values = json.loads(path.read_text())
    values["config"]["classifier"]["width"] = 32
    path.write_text(json.dumps(values))
    assert read_card(tmp_path / "v1").classes == ["a", "b"]
    with pytest.raises(CheckpointError, match="does not fit the network"):
        load_pipeline(tmp_path / "v1")


def test_small_components_go_and_small_holes_close():
    mask = np.zeros((100, 100), bool)
    mask[20:60, 20:60] = True
    mask[30, 30] = False
    mask[90, 90] = True
    cleaned = without_small_components(mask, 2e-4)
    assert cleaned[30, 30]
    assert not cleaned[90, 90]
    assert cleaned.sum() == 1600


def test_fitting_keeps_the_aspect_and_pads_below_or_right():
    square, height, width = fit_square(np.full((100, 50, 3), 255, np.uint8), 64)
    assert (height, width) == (64, 32)
    assert (square[:, :32] == 255).all()
    assert (square[:, 32:] == 0).all()
    assert cv2.countNonZero(square[..., 0]) == 64 * 32
