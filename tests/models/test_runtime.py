"""Networks computed by OpenVINO: the same masks as PyTorch's, kept beside the weights, and a way back."""

import json
import logging
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

import models.runtime as runtime
from models.checkpoint import Card
from models.data.files import read_image
from models.data.reader import open_data_folder
from models.families import Runtime
from models.families import load_model as load_any
from models.phantom import render_phantom
from models.pipeline import Pipeline, PipelineConfig, load_pipeline, save_pipeline
from models.starter import STARTERS
from models.wall import WallView

pytest.importorskip("openvino")


@pytest.fixture(autouse=True)
def in_float32(monkeypatch):
    """PyTorch computes in float32, as what others are compared with."""
    monkeypatch.setattr("models.runtime.autocast", lambda device: nullcontext())
    monkeypatch.setattr("models.pipeline.autocast", lambda device: nullcontext())


@pytest.fixture
def checkpoint(tmp_path, make_pipeline):
    """A small untrained model, saved."""
    pipeline = make_pipeline(classes=("a", "b"))
    save_pipeline(pipeline, tmp_path / "v1", Card("v1", ["a", "b"], "", ""))
    return tmp_path / "v1"


@pytest.fixture(scope="module")
def light():
    """The shipped light model and its converted networks."""
    pipeline = load_pipeline(STARTERS["light"])
    return pipeline, runtime._Graphs(runtime.convert(pipeline.classifier, pipeline.refiner))


def load_model(directory: Path, *, runtime: Runtime) -> Pipeline:
    loaded = load_any(directory, runtime=runtime)
    assert isinstance(loaded, Pipeline)
    return loaded


def graphs_of(pipeline):
    return runtime._Graphs(runtime.convert(pipeline.classifier, pipeline.refiner))


def least_iou(pipeline, networks, images):
    """Over the classes: IoU of the masks by `networks` with PyTorch's, over all images."""
    ours = pipeline.networks
    both = np.zeros((len(pipeline.classes), 2))
    for image in images:
        pipeline.networks = ours
        expected = pipeline.steps([image])[0]
        pipeline.networks = networks
        for known, one, other in zip(both, expected, pipeline.steps([image])[0], strict=True):
            known += (one.mask & other.mask).sum(), (one.mask | other.mask).sum()
    pipeline.networks = ours
    seen = both[both[:, 1] > 0]
    assert len(seen), "no class is on these images"
    return (seen[:, 0] / seen[:, 1]).min()


def test_masks_on_phantoms_are_those_of_pytorch(light):
    pipeline, graphs = light
    name = "OpenVINO float32"
    images = [render_phantom(seed, 512).image for seed in range(2)]
    assert least_iou(pipeline, graphs.networks(name, pipeline.classifier), images) >= runtime.MIN_AGREEMENT[name]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model", list(STARTERS))
def test_masks_on_real_frames_are_those_of_pytorch(oct_data, model):
    """Each class for itself, over the held-out frames, in every precision that the measurement lets through."""
    pipeline = load_pipeline(STARTERS[model])
    graphs = graphs_of(pipeline)
    measured = runtime.measure(graphs, pipeline.classifier, pipeline.refiner)
    accepted = [name for name, least in runtime.MIN_AGREEMENT.items() if measured.agreement.get(name, 0.0) >= least]
    assert "OpenVINO float32" in accepted
    images = [read_image(sample.image) for sample in open_data_folder(oct_data).split("val")]
    for name in accepted:
        networks = graphs.networks(name, pipeline.classifier)
        assert least_iou(pipeline, networks, images) >= runtime.MIN_AGREEMENT[name], name


def test_a_classifier_of_the_wall_is_converted_kept_and_measured(tmp_path, make_pipeline):
    pipeline = make_pipeline(classes=("a", "b"), wall_backbone="tf_efficientnet_lite0")
    graphs = runtime._Graphs(runtime._stored(tmp_path / "kept", pipeline.classifier, pipeline.refiner))
    assert (tmp_path / "kept" / "wall_reader.xml").is_file()
    again = runtime._Graphs(runtime._stored(tmp_path / "kept", pipeline.classifier, pipeline.refiner))
    strips = torch.rand((1, 3, 256, 896), generator=torch.Generator().manual_seed(0))
    expected = pipeline.networks.wall_reader(strips)
    assert not torch.equal(expected.score_maps, pipeline.networks.classifier(strips).score_maps)
    for made in (graphs, again):
        found = made.networks("OpenVINO float32", pipeline.classifier)
        assert len(found.readers) == 2
        torch.testing.assert_close(found.wall_reader(strips).logits, expected.logits, rtol=1e-3, atol=1e-3)
    assert runtime.measure(graphs, pipeline.classifier, pipeline.refiner).agreement["OpenVINO float32"] > 0.99


@pytest.mark.parametrize("shape", [(1, 3, 128, 128), (3, 3, 128, 128), (2, 3, 96, 96), (1, 3, 256, 896)])
def test_one_conversion_takes_batches_and_sizes_of_all_kinds(make_pipeline, shape):
    """The frame, the smaller frame that presence is judged on, and the strip of a wall."""
    pipeline = make_pipeline()
    found = graphs_of(pipeline).networks("OpenVINO float32", pipeline.classifier)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    expected, seen = pipeline.networks.classifier(images), found.classifier(images)
    for one, other in zip(expected[:3], seen[:3], strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3)
    assert list(seen.layers) == [4]
    crops = torch.rand((shape[0], 12, 64, 64), generator=torch.Generator().manual_seed(1))
    for one, other in zip(pipeline.networks.refiner(crops), found.refiner(crops), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "config",
    [
        PipelineConfig(layers=(4, 8)),
        PipelineConfig(cam="LayerCAM", layers=(8, 16), presence_scale=0.5),
        PipelineConfig(cam="ScoreCAM"),
        PipelineConfig(wall=WallView("a", ("b",)), presence_scale=0.75, map_threshold={"HiResCAM": {"a": 0.05}}),
    ],
    ids=lambda config: f"{config.maps}{'-wall' if config.wall else ''}",
)
def test_maps_of_every_kind_are_the_same(make_pipeline, config):
    """Also those that need gradients, which PyTorch computes, and those of the unrolled wall."""
    pipeline = make_pipeline(config=config)
    image = render_phantom(0, 128).image
    presence, maps = pipeline.maps([image])
    embedding = pipeline.embed(image)
    pipeline.networks = graphs_of(pipeline).networks("OpenVINO float32", pipeline.classifier)
    other_presence, other_maps = pipeline.maps([image])
    np.testing.assert_allclose(other_presence, presence, atol=1e-3)
    np.testing.assert_allclose(other_maps[0], maps[0], atol=2e-3)
    np.testing.assert_allclose(pipeline.embed(image).maps, embedding.maps, atol=2e-3)


def test_threads_that_share_a_network_get_their_own_answers(light):
    pipeline, graphs = light
    networks = graphs.networks("OpenVINO float32", pipeline.classifier)
    images = torch.rand((8, 1, 3, 64, 96), generator=torch.Generator().manual_seed(0))
    alone = [networks.classifier(image).score_maps for image in images]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda image: networks.classifier(image).score_maps, images))
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_it_is_converted_and_measured_once(checkpoint, monkeypatch):
    first = load_model(checkpoint, runtime="openvino")
    assert first.networks.name.startswith("OpenVINO")
    monkeypatch.setattr(runtime, "convert", lambda *_: pytest.fail("converted again"))
    monkeypatch.setattr(runtime, "measure", lambda *_: pytest.fail("measured again"))
    image = render_phantom(0, 128).image
    again = load_model(checkpoint, runtime="openvino")
    assert again.networks.name == first.networks.name
    np.testing.assert_array_equal(again.maps([image])[0], first.maps([image])[0])


def test_a_new_openvino_is_converted_and_measured_for(checkpoint, monkeypatch):
    load_model(checkpoint, runtime="auto")
    (before,) = (checkpoint / "runtime").iterdir()
    monkeypatch.setattr(runtime, "version", lambda package: version(package) + ".post1")
    load_model(checkpoint, runtime="auto")
    (after,) = (checkpoint / "runtime").iterdir()
    assert after != before
    assert sorted(file.suffix for file in after.iterdir()) == [".bin", ".bin", ".json", ".xml", ".xml"]


def test_a_copy_with_other_weights_is_converted_for_itself(checkpoint, tmp_path, make_pipeline):
    load_model(checkpoint, runtime="auto")
    torch.manual_seed(1)
    other = make_pipeline(classes=("a", "b"))
    with torch.no_grad():
        other.classifier.head.weight.mul_(2)
    save_pipeline(other, tmp_path / "v2", Card("v2", ["a", "b"], "", ""))
    shutil.copytree(checkpoint / "runtime", tmp_path / "v2" / "runtime")
    loaded = load_model(tmp_path / "v2", runtime="openvino")
    image = render_phantom(0, 128).image
    np.testing.assert_allclose(loaded.maps([image])[0], load_pipeline(tmp_path / "v2").maps([image])[0], atol=0.02)


@pytest.mark.parametrize("damaged", ["classifier.xml", "refiner.bin", "measured"])
def test_what_is_damaged_is_made_again(checkpoint, damaged):
    load_model(checkpoint, runtime="auto")
    (file,) = (checkpoint / "runtime").glob(f"*/{damaged}*")
    file.write_bytes(file.read_bytes()[:40])
    assert load_model(checkpoint, runtime="openvino").networks.name.startswith("OpenVINO")
    (file,) = (checkpoint / "runtime").glob(f"*/{damaged}*")
    assert file.stat().st_size > 40


def test_a_checkpoint_that_cannot_be_written_to_is_served_all_the_same(checkpoint):
    (checkpoint / "runtime").write_text("in the way")
    assert load_model(checkpoint, runtime="openvino").networks.name.startswith("OpenVINO")


def test_without_openvino_pytorch_computes_and_a_sentence_says_so(checkpoint, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "openvino", None)
    runtime._core.cache_clear()
    with caplog.at_level(logging.WARNING):
        loaded = load_model(checkpoint, runtime="openvino")
    runtime._core.cache_clear()
    assert loaded.networks.name == "PyTorch"
    (record,) = caplog.records
    assert record.getMessage().startswith("v1 is computed by PyTorch, because OpenVINO cannot: ")
    assert loaded.predict([render_phantom(0, 128).image])


def test_pytorch_when_asked_for_touches_nothing(checkpoint):
    assert load_model(checkpoint, runtime="pytorch").networks.name == "PyTorch"
    assert not (checkpoint / "runtime").exists()


@pytest.mark.parametrize(
    ("wanted", "agreement", "chosen"),
    [
        ("auto", {"OpenVINO float32": 1.0, "OpenVINO bfloat16": 0.995}, "OpenVINO bfloat16"),
        ("auto", {"OpenVINO float32": 1.0, "OpenVINO bfloat16": 0.98}, "PyTorch"),
        ("openvino", {"OpenVINO float32": 1.0, "OpenVINO bfloat16": 0.98}, "OpenVINO float32"),
        ("openvino", {"OpenVINO float32": 0.99, "OpenVINO bfloat16": 0.98}, "PyTorch"),
    ],
)
def test_the_fastest_is_taken_whose_masks_are_the_same(checkpoint, monkeypatch, wanted, agreement, chosen):
    seconds = {"PyTorch": 2.0, "OpenVINO float32": 3.0, "OpenVINO bfloat16": 1.0}
    measured = runtime.Measured(seconds, {"PyTorch": 1.0, **agreement})
    monkeypatch.setattr(runtime, "measure", lambda *_: measured)
    assert load_model(checkpoint, runtime=wanted).networks.name == chosen
    (file,) = (checkpoint / "runtime").glob("*/measured-*.json")
    assert json.loads(file.read_text())["seconds"] == seconds


def test_probes_are_drawn_at_any_size():
    """What is measured on is drawn at any size a model may have."""
    for size in (64, 96, 512):
        frames, crops = runtime._probes(size, 64)
        assert frames.shape == (runtime.PROBES, 3, size, size)
        assert crops.shape == (runtime.PROBES, 12, 64, 64)
        assert ((crops[:, 3] == 0) & (crops[:, 4] == 0)).any(), "FBANet has something to decide"
