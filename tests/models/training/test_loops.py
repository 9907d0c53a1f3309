"""The loops on small networks and frames of bright squares: they learn, and the same seed gives the same weights."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from models.checkpoint import packaged_backbone
from models.classifier import Classifier
from models.config import ClassifierConfig, FBANetConfig, PipelineConfig
from models.errors import DataError
from models.fba_net import FBANet
from models.masks.metrics import iou
from models.phantom import CLASSES
from models.pipeline import Pipeline
from models.training.augmentation import Frame, random_view
from models.training.classifier_loop import ClassifierHyperparameters, _draw_batch, train_classifier
from models.training.frames import Frames, phantom_frames
from models.training.losses import (
    classifier_loss,
    contrastive_loss,
    dice_loss,
    log_dice_loss,
    refiner_loss,
    window_logits,
)
from models.training.optimisation import OptimisationLoop
from models.training.refiner_loop import RefinerHyperparameters, train_refiner
from models.training.schedule import Clock, Progress
from models.training.state import TrainingState
from models.wall import WallView

CPU = torch.device("cpu")


def silent(progress):
    pass


def square_frame(index, masked=True, side=128):
    """Noise with a bright square on three frames of four; class 'square', and 'nothing', which is nowhere."""
    rng = np.random.default_rng(index)
    image = rng.integers(0, 60, (side, side, 3)).astype(np.uint8)
    masks = np.zeros((2, side, side), np.uint8)
    present = index % 4 != 0
    if present:
        x, y = rng.integers(10, side - 60, 2)
        size = int(rng.integers(25, 50))
        image[y : y + size, x : x + size] += 150
        masks[0, y : y + size, x : x + size] = 255
    presence = np.array([present, 0], np.float32)
    return Frame(image, masks if masked else np.zeros_like(masks), presence, np.array([masked or not present, True]))


def square_frames(count=16, masked=True):
    frames = [square_frame(i, masked) for i in range(count)]
    return Frames(count, frames.__getitem__, np.stack([frame.presence for frame in frames]))


def light_classifier():
    torch.manual_seed(0)
    classifier = Classifier(ClassifierConfig(("square", "nothing"), "tf_efficientnet_lite0", 128, 32))
    weights = packaged_backbone("tf_efficientnet_lite0")
    classifier.backbone.load_state_dict(weights, strict=False)
    return classifier


def learn(steps, frames, seed=0):
    hyperparameters = ClassifierHyperparameters(steps, batch=4, view=128)
    trained, _ = train_classifier(
        light_classifier(), frames, hyperparameters, score=None, report=silent, seed=seed, device=CPU, seconds=None
    )
    return trained


def mean_iou(pipeline, indices):
    frames = [square_frame(i) for i in indices]
    values = []
    for frame in frames:
        step = pipeline.steps([frame.image])[0][0]
        if frame.masks[0].any():
            values.append(iou(step.mask, frame.masks[0] > 0))
    return np.mean(values)


@pytest.fixture(scope="module")
def trained():
    return learn(60, square_frames())


def test_region_labels_teach_where_the_object_is(trained):
    """On frames it never saw, and the class that is nowhere is nowhere."""
    pipeline = Pipeline.of(trained, FBANet(FBANetConfig()), PipelineConfig(refiner="none"))
    assert mean_iou(pipeline, range(101, 108)) > 0.7
    found = pipeline.predict([square_frame(101).image])[0]
    assert found.presence["square"] > 0.5 > found.presence["nothing"]


@pytest.mark.slow
def test_frame_labels_alone_teach_presence():
    classifier = learn(60, square_frames(masked=False))
    pipeline = Pipeline.of(classifier, FBANet(FBANetConfig()))
    found = [pipeline.predict([square_frame(i).image])[0].presence["square"] for i in (100, 104, 101, 102)]
    assert max(found[:2]) < min(found[2:])


def test_each_view_teaches_the_classifier_that_reads_it():
    """With a reader of the wall: strips teach it alone, frames the other alone, and a batch of both teaches both."""
    phantoms = phantom_frames(range(4), CLASSES, 128, wall=WallView("Lumen", CLASSES[1:]))
    torch.manual_seed(0)
    before = Classifier(ClassifierConfig(CLASSES, "tf_efficientnet_lite0", 128, 16, "tf_efficientnet_lite0"))
    for share, taught in ((0.0, (True, False)), (1.0, (False, True)), (0.5, (True, True))):
        hyperparameters = ClassifierHyperparameters(2, batch=4, view=128, wall_share=share)
        after, _ = train_classifier(
            before, phantoms, hyperparameters, score=None, report=silent, seed=1, device=CPU, seconds=None
        )
        changed = tuple(
            not torch.equal(one.head.weight, other.head.weight)
            for one, other in zip(before.readers, after.readers, strict=True)
        )
        assert changed == taught, share


def test_the_same_seed_gives_the_same_weights():
    a, b, c = (learn(2, square_frames(), seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert any(not torch.equal(a[key], c[key]) for key in a)


def scored(scores, steps=8):
    """Train with held-out scores that are given, a row of frames for each check."""
    rows = iter(scores)
    before = light_classifier()
    hyperparameters = ClassifierHyperparameters(steps, batch=2, view=64, checks=4)
    after, history = train_classifier(
        before, square_frames(), hyperparameters, score=lambda _: np.array(next(rows)),
        report=silent, seed=0, device=CPU, seconds=None,
    )  # fmt: skip
    unchanged = all(torch.equal(value, after.state_dict()[key]) for key, value in before.state_dict().items())
    return unchanged, history


def test_training_that_only_harms_stops_early_and_returns_what_it_began_from():
    unchanged, history = scored([[0.9, 0.8], [0.5, 0.4], [0.4, 0.4], [0.3, 0.3], [0.2, 0.1]])
    assert unchanged
    assert [line["step"] for line in history] == [2, 4, 6]
    assert history[0]["score"] == pytest.approx(0.45)


def test_the_later_classifier_is_kept_where_chance_explains_the_difference():
    """Two frames better, two worse: the mean fell, but by less than its standard error."""
    unchanged, history = scored([[0.5] * 4, [0.3, 0.8, 0.2, 0.6], [0.3, 0.8, 0.2, 0.6], [0.3, 0.8, 0.2, 0.6]] * 2)
    assert not unchanged
    assert len(history) == 4


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path):
    """Stopped at step 5 of 8, saved at 4: the second run begins there and ends like a whole one."""
    steps = []

    def learn_until(last, folder):
        def report(progress):
            steps.append((progress.metrics or {}).get("step", progress.message))
            if steps[-1] == last:
                raise KeyboardInterrupt

        return train_classifier(
            light_classifier(), square_frames(), ClassifierHyperparameters(8, batch=2, view=64, checks=2),
            score=lambda network: np.array([network.head.weight.sum().item()] * 2),
            report=report, seed=0, device=CPU, seconds=None, state=TrainingState(folder, "same"),
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        learn_until(5, tmp_path / "killed")
    steps.clear()
    resumed, history = learn_until(None, tmp_path / "killed")
    assert steps[:2] == ["goes on at step 4", 5]
    whole, expected = learn_until(None, tmp_path / "whole")
    assert history == expected
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())


def test_the_state_is_saved_again_and_again(tmp_path):
    """Without a check of held-out frames too; a loop of the same run begins where the last one stopped."""
    network = torch.nn.Linear(2, 1)

    def begun(save_every):
        groups = [{"params": network.parameters(), "lr": 1e-3}]
        state = TrainingState(tmp_path, "one")
        return OptimisationLoop(
            network, groups, stage="s", clip=1.0, clock=Clock(9, None), report=silent, state=state,
            save_every=save_every,
        )  # fmt: skip

    loop = begun(save_every=0.0)
    for _ in range(3):
        loop.step(network(torch.ones(1, 2)).sum())
    loop = begun(save_every=3600.0)
    assert loop.clock.step == 3
    loop.step(network(torch.ones(1, 2)).sum())
    assert begun(save_every=3600.0).clock.step == 3


def test_what_another_run_saved_is_left_alone(tmp_path):
    TrainingState(tmp_path, "one").save("classifier", {"a": torch.ones(2)}, {"step": 3})
    assert TrainingState(tmp_path, "two").load("classifier") is None
    tensors, numbers = TrainingState(tmp_path, "one").load("classifier")
    assert torch.equal(tensors["a"], torch.ones(2))
    assert numbers == {"step": 3}
    TrainingState(tmp_path, "one").save("refiner", {"a": torch.ones(2)}, {"elapsed": 7.5})
    assert (TrainingState(tmp_path, "one").spent(), TrainingState(tmp_path, "two").spent()) == (7.5, 0.0)
    (tmp_path / "classifier.safetensors").write_bytes(b"half a file")
    assert TrainingState(tmp_path, "one").load("classifier") is None


@pytest.mark.slow
def test_the_refiner_improves_the_map_it_is_given(trained):
    pipeline = Pipeline.of(trained, FBANet(FBANetConfig((8, 16, 16, 16), crop_size=64)))
    before = mean_iou(pipeline, range(101, 112))
    hyperparameters = RefinerHyperparameters(80, batch=4, rate=3e-3, views=16)
    refiner = train_refiner(pipeline, square_frames(), hyperparameters, report=silent, seed=0, seconds=None)
    after = mean_iou(Pipeline.of(trained, refiner, pipeline.config), range(101, 112))
    assert after > before


def test_without_masks_the_refiner_stays_as_it_is(trained):
    pipeline = Pipeline.of(trained, FBANet(FBANetConfig((8, 8, 8, 8), crop_size=64)))
    hyperparameters = RefinerHyperparameters(2, views=4)
    same = train_refiner(pipeline, square_frames(masked=False), hyperparameters, report=silent, seed=0, seconds=None)
    assert all(torch.equal(v, same.state_dict()[k]) for k, v in pipeline.refiner.state_dict().items())


def test_objects_too_small_for_a_trimap_leave_the_refiner_as_it_is(trained):
    """Drawing a batch gives up instead of looking for ever."""
    masks = np.zeros((2, 128, 128), np.uint8)
    masks[0, 64, 64] = 255
    frame = Frame(np.zeros((128, 128, 3), np.uint8), masks, np.array([1, 0], np.float32), np.ones(2, bool))
    frames = Frames(1, lambda index: frame, frame.presence[None])
    pipeline = Pipeline.of(trained, FBANet(FBANetConfig((8, 8, 8, 8), crop_size=64)))
    same = train_refiner(pipeline, frames, RefinerHyperparameters(2, views=2), report=silent, seed=0, seconds=None)
    assert all(torch.equal(v, same.state_dict()[k]) for k, v in pipeline.refiner.state_dict().items())


def test_a_limit_of_seconds_ends_training_early():
    seen: list[Progress] = []
    hyperparameters = ClassifierHyperparameters(100_000, batch=2, view=64)
    train_classifier(
        light_classifier(),
        square_frames(),
        hyperparameters,
        score=None,
        report=seen.append,
        seed=0,
        device=CPU,
        seconds=2,
    )
    assert 0 < seen[-1].metrics["step"] < 1000
    assert seen[-1].done == seen[-1].total


def test_views_carry_their_masks_along():
    """What is bright in the view is what its mask covers, at any turn and scale."""
    frame = square_frame(1)
    rng = np.random.default_rng(0)
    for _ in range(10):
        image, masks = random_view(frame, 96, rng, focus=0)
        if (masks[0] > 128).sum() > 200:
            inside, outside = image[masks[0] > 250].mean(), image[masks[0] == 0].mean()
            assert inside > 1.5 * outside


def test_phantoms_are_frames_of_their_kind():
    frames = phantom_frames(range(3), ("Lumen", "Vasa vasorum"), 64)
    assert frames.presence.shape == (3, 2)
    assert frames.presence[:, 0].all()
    assert frames.read(0).masks.shape == (2, 64, 64)
    others = phantom_frames([0, 2], ("Lumen", "Vasa vasorum"), 64, kind="vessel")
    assert len(others) == 2
    assert not np.array_equal(others.read(0).image, frames.read(0).image)


def test_classes_are_drawn_evenly():
    """One frame in fifty shows the rare class, but two in five draws do (one in three for it, the rest by chance)."""
    presence = np.zeros((50, 2), np.float32)
    presence[:, 0] = 1
    presence[7, 1] = 1
    frames = Frames(50, lambda i: Frame(None, None, presence[i], np.ones(2, bool)), presence)
    rng = np.random.default_rng(0)
    rare = np.mean([frames.draw(rng)[0].presence[1] for _ in range(600)])
    assert 0.25 < rare < 0.45


def test_window_logits_pool_what_lies_in_the_window():
    score_maps = torch.full((1, 1, 8, 8), -5.0)
    score_maps[..., 0, 0] = 5
    pooled = window_logits(score_maps, 4)
    assert pooled.shape == (1, 1, 2, 2)
    assert pooled[0, 0, 0, 0] > 4
    assert torch.allclose(pooled.flatten()[1:], torch.tensor(-5.0))


def test_unknown_labels_and_masks_teach_nothing(trained):
    with torch.no_grad():
        output = trained(torch.rand(2, 3, 64, 64))
        unknown = torch.full((2, 2), torch.nan)
        nothing = torch.zeros(2, 2, dtype=torch.bool)
        loss = classifier_loss(output, torch.zeros(2, 2, 16, 16), unknown, nothing)
    assert loss == 0


def test_a_class_that_was_not_drawn_is_no_background(trained):
    """One class drawn, the other left open: the loss does not depend on what stands for the other's mask."""
    images, unknown = torch.rand(2, 3, 64, 64), torch.full((2, 2), torch.nan)
    known = torch.tensor([[True, False], [True, False]])
    coverage = torch.zeros(2, 2, 16, 16)
    coverage[:, 0, 4:8, 4:8] = 1
    with torch.no_grad():
        output = trained(images)
        loss = classifier_loss(output, coverage, unknown, known)
        coverage[:, 1] = 1
        assert classifier_loss(output, coverage, unknown, known) == loss
        coverage[:, 0] = 0
        assert classifier_loss(output, coverage, unknown, known) != loss


def test_a_perfect_answer_costs_nothing():
    target = torch.zeros(2, 16, 16)
    target[:, 4:12, 4:12] = 1
    boundary = torch.full((2, 4, 4), -30.0)
    boundary[:, 1:3, 1:3] = 30  # no cell lies on the edge here, so the boundary term is what remains
    band = torch.ones(2, 16, 16, dtype=torch.bool)
    assert refiner_loss(target * 3 - 1, torch.full((2, 4, 4), -30.0), target, band) < 1e-6
    assert refiner_loss(1 - target, boundary, target, band) > 0.9
    assert dice_loss(target[None], target[None]) < 1e-3
    assert log_dice_loss(target[None], target[None]) < 1e-3


def test_an_object_that_is_not_seen_at_all_still_pulls_with_log_dice():
    """A tenth as sure of it: 1 - Dice pulls a tenth as hard, its logarithm nearly as hard as before."""
    target = torch.zeros(1, 1, 16, 16)
    target[..., 4:8, 4:8] = 1

    def pull(loss, logit):
        score_maps = torch.full((1, 1, 16, 16), logit, requires_grad=True)
        loss(score_maps.sigmoid(), target).backward()
        return -score_maps.grad[target > 0].mean().item()

    assert pull(dice_loss, -7.0) < 0.2 * pull(dice_loss, -4.7)
    assert pull(log_dice_loss, -7.0) > 0.7 * pull(log_dice_loss, -4.7)


def crops_of(foreground, background) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of crops whose left half is object; one feature vector for each crop and side."""
    features = torch.zeros(len(foreground), 2, 4, 4)
    features[:, :, :, :2] = torch.tensor(foreground)[:, :, None, None]
    features[:, :, :, 2:] = torch.tensor(background)[:, :, None, None]
    alpha = torch.zeros(len(foreground), 16, 16)
    alpha[:, :, :8] = 1
    return features, alpha


def test_the_contrastive_term_wants_like_sides_alike():
    """Least where the objects of a class look the same and unlike their surroundings; nothing to compare costs 0."""
    right, up = [1.0, 0.0], [0.0, 1.0]
    same = torch.tensor([0, 0])
    apart = contrastive_loss(*crops_of([right, right], [up, up]), same)
    mixed = contrastive_loss(*crops_of([right, up], [up, right]), same)
    assert apart < 0.01 < 1 < mixed
    assert contrastive_loss(*crops_of([right, up], [up, right]), torch.tensor([0, 1])) == 0


def test_frames_without_masks_move_the_refiner_only_through_the_contrastive_term(trained):
    """Half of the frames have no masks: with a weight of 0 they change nothing, with another they do."""
    pipeline = Pipeline.of(trained, FBANet(FBANetConfig((8, 8, 8, 8), crop_size=64)))
    mixed = [square_frame(i, masked=i % 2 == 0) for i in range(1, 13)]
    frames = Frames(len(mixed), mixed.__getitem__, np.stack([frame.presence for frame in mixed]))

    def weights(contrast):
        hyperparameters = RefinerHyperparameters(2, batch=4, views=24, contrast=contrast)
        network = train_refiner(pipeline, frames, hyperparameters, report=silent, seed=0, seconds=None)
        return torch.cat([parameter.flatten() for parameter in network.parameters()])

    assert torch.equal(weights(0.0), weights(0.0))
    assert not torch.equal(weights(0.0), weights(0.5))


KEPT = """
import sys, torch
from models.training.optimisation import keep_freed_memory

def resident():  # MiB
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 >> 20

if sys.argv[1] == "keep":
    keep_freed_memory()
block = torch.ones(256 << 18)  # 256 MiB
full = resident()
del block
print(full - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_that_a_step_frees_is_kept_for_the_next():
    given_back = {
        way: int(subprocess.run([sys.executable, "-c", KEPT, way], capture_output=True, check=True, text=True).stdout)
        for way in ("keep", "default")
    }
    assert given_back["default"] > 200
    assert given_back["keep"] < 50


def test_other_processes_draw_the_same_batches():
    """A GPU learns faster than one process draws."""
    hyperparameters = ClassifierHyperparameters(6, batch=2, view=64)
    batches = []
    for workers in (0, 2):
        clock = Clock(6, None)
        network = light_classifier()
        groups = [{"params": network.parameters(), "lr": 0.0}]
        loop = OptimisationLoop(network, groups, stage="classifier", clip=1.0, clock=clock, report=lambda _: None)
        drawn = []
        for batch in loop.batches(lambda step: _draw_batch(square_frames(), hyperparameters, 0, step), workers):
            drawn.append(batch)
            clock.step += 1
        batches.append(drawn)
    assert len(batches[0]) == len(batches[1]) == 6
    for one, other in zip(*batches, strict=True):
        for array, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(array, same)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_while_drawing_reads_the_same_from_another_process(workers):
    def broken(step):
        raise DataError("frame-7.png is gone")

    network = light_classifier()
    groups = [{"params": network.parameters(), "lr": 0.0}]
    loop = OptimisationLoop(network, groups, stage="classifier", clip=1.0, clock=Clock(2, None), report=silent)
    with pytest.raises(DataError, match=r"^frame-7\.png is gone$"):
        next(loop.batches(broken, workers))


@pytest.mark.slow
def test_batch_statistics_are_learned_where_no_layer_was_trained_before():
    def statistics(fresh: bool) -> torch.Tensor:
        hyperparameters = ClassifierHyperparameters(3, batch=2, view=64, fresh=fresh)
        learned, _ = train_classifier(
            light_classifier(), square_frames(), hyperparameters, score=None, report=lambda _: None, seed=0, device=CPU,
            seconds=None,
        )  # fmt: skip
        return learned.backbone.get_buffer("bn1.running_mean")

    torch.testing.assert_close(statistics(fresh=False), light_classifier().backbone.bn1.running_mean)
    assert not torch.allclose(statistics(fresh=True), light_classifier().backbone.bn1.running_mean)
