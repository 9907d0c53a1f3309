"""The label-efficiency curve, on phantoms with trainings of a step, and what it trains on."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import ClassifierConfig
from models.data.reader import open_data_folder
from models.errors import DataError
from models.evaluation.charts import curve_chart
from models.studies import curve as curve_module
from models.studies.curve import label_efficiency, link_samples, spread_order
from models.studies.plain_network import plain_loss, train_plain
from models.training.pretrained import LIGHT
from models.training.spec import TrainingSpec


def silent(*progress):
    pass


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(0, 5))
def test_every_beginning_of_the_order_is_spread_over_the_series(count, seed):
    """An order of all, and no gap of a beginning (round the end) is more than three times its share."""
    order = spread_order(count, seed)
    assert sorted(order) == list(range(count))
    for size in (2, 5, 10, 20):
        if 2 * size <= count:
            taken = sorted(order[:size])
            gaps = [b - a for a, b in zip(taken, [*taken[1:], taken[0] + count], strict=True)]
            assert max(gaps) <= 3 * count / size + 1


def test_the_seed_chooses_the_images():
    assert spread_order(82, 0) == spread_order(82, 0)
    assert spread_order(82, 0) != spread_order(82, 1)


def test_linked_samples_are_a_data_folder_of_the_same_knowledge(squares_data, tmp_path):
    """Also of images that have labels but no masks, and of classes that are unknown."""
    folder = open_data_folder(squares_data)
    (squares_data / "labels.csv").write_text("name,square,nothing\nf1,1,\nf9,0,0\nf8,,1\n")
    labelled = open_data_folder(squares_data)
    for known, names in ((folder, ("f0", "f9")), (labelled, ("f0", "f1", "f8", "f9"))):
        chosen = [known.samples[name] for name in names]
        link_samples(chosen, known.classes, tmp_path / "linked")
        linked = open_data_folder(tmp_path / "linked")
        assert linked.classes == known.classes
        assert list(linked.samples) == list(names)
        for one, other in zip(chosen, linked.samples.values(), strict=True):
            assert other.presence == one.presence
            assert other.has_masks == one.has_masks
            assert other.masks.keys() == one.masks.keys()


@pytest.fixture
def trainings(monkeypatch, make_pipeline):
    """Trainings that only write an untrained checkpoint; the list of what each was given."""
    from models.checkpoint import Card
    from models.pipeline import save_pipeline

    done = []

    def train(spec, report):
        done.append(open_data_folder(spec.data))
        pipeline = make_pipeline(done[-1].classes, name=spec.name)
        save_pipeline(pipeline, spec.out, Card(spec.name, [], "", "2026", training={"seconds": 0.5}))

    monkeypatch.setattr(curve_module, "train", train)
    return done


def test_the_contrastive_term_sees_the_other_images_without_their_labels(squares_data, tmp_path, trainings):
    label_efficiency(TrainingSpec(squares_data, tmp_path / "out", "c", contrast=0.1), [2], plain=False, report=silent)
    everything, _ = open_data_folder(squares_data).train_and_held_out()
    (seen,) = trainings
    assert sorted(seen.samples) == sorted(sample.name for sample in everything)
    assert sum(sample.has_masks for sample in seen.samples.values()) == 2
    assert sum(not sample.presence and not sample.masks for sample in seen.samples.values()) == len(everything) - 2


def test_sizes_are_nested_and_see_no_held_out_image(squares_data, tmp_path, trainings):
    spec = TrainingSpec(squares_data, tmp_path / "out", "curve")
    curve = label_efficiency(spec, [3, None], plain=False, report=silent)
    assert list(curve["sizes"]) == ["3", "6"]
    small, all_of_them = (set(folder.samples) for folder in trainings)
    assert small < all_of_them == {f"f{i}" for i in range(6)}
    assert curve["sizes"]["3"]["present"] == {"square": 3, "nothing": 0}
    assert curve["sizes"]["3"]["names"] == sorted(small)
    assert curve["frames"] == 4
    for point in curve["sizes"].values():
        assert {"map", "chain"} <= set(point["results"])
        assert 0 <= point["results"]["chain"]["square"]["iou"] <= 1
        assert point["results"]["chain"]["nothing"] == {"iou": None, "iou_ci": None}
    assert json.loads((tmp_path / "out" / "curve.json").read_text()) == curve
    assert not list((tmp_path / "out").glob("*-data"))


def test_no_group_is_learnt_from_and_measured_on(squares_data, tmp_path, trainings):
    """Ten images in turn of three patients: one patient is measured on and in no subset."""
    (squares_data / "split.json").unlink()
    groups = {f"f{i}": f"patient {i % 3}" for i in range(10)}
    (squares_data / "groups.json").write_text(json.dumps(groups))
    curve = label_efficiency(TrainingSpec(squares_data, tmp_path / "out", "c"), [3, None], plain=False, report=silent)
    small, everything = ({sample.group for sample in folder.samples.values()} for folder in trainings)
    assert small <= everything
    assert len(everything) == 2
    assert curve["frames"] == sum(group not in everything for group in groups.values()) >= 3
    assert curve["sizes"]["3"]["results"]["chain"]["square"]["iou_ci"] is None  # of a single patient


def test_what_is_measured_is_not_trained_again(squares_data, tmp_path, trainings):
    spec = TrainingSpec(squares_data, tmp_path / "out", "curve")
    first = label_efficiency(spec, [3], plain=False, report=silent)
    again = label_efficiency(spec, [3, 5], plain=False, report=silent)
    assert [len(folder.samples) for folder in trainings] == [3, 5]
    assert again["sizes"]["3"] == first["sizes"]["3"]
    with pytest.raises(DataError, match=r"other settings \(seed\)"):
        label_efficiency(replace(spec, seed=1), [3], plain=False, report=silent)
    assert len(trainings) == 2


@pytest.mark.parametrize("size", [1, 7])
def test_sizes_that_cannot_be_are_refused(squares_data, tmp_path, size):
    spec = TrainingSpec(squares_data, tmp_path / "out", "curve")
    with pytest.raises(DataError, match=f"has 6 training images.*not {size}"):
        label_efficiency(spec, [size], plain=False, report=silent)


def test_a_damaged_result_is_not_overwritten(squares_data, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "curve.json").write_text("[]")
    with pytest.raises(DataError, match="does not read as a curve"):
        label_efficiency(TrainingSpec(squares_data, tmp_path / "out", "c"), [3], plain=False, report=silent)


def test_the_plain_network_learns_from_masks_alone(squares_data, tmp_path):
    """A few steps on small views draw the squares on images it never saw; its masks are its map at one half."""
    folder = open_data_folder(squares_data)
    config = ClassifierConfig(folder.classes, LIGHT, input_size=128, width=32)
    spec = TrainingSpec(squares_data, tmp_path, "x")
    network = train_plain(folder.split("train"), config, spec, silent, seconds=1000, steps=50, batch_size=4, view=96)
    sample = folder.samples["f7"]
    image = sample.read_image()
    step = network.steps([image])[0][0]
    truth = sample.read_mask("square", (80, 120))
    assert (step.mask & truth).sum() / (step.mask | truth).sum() > 0.6
    assert (step.mask == step.coarse).all()
    unmasked = [replace(sample, has_masks=False)]
    with pytest.raises(DataError, match="learns from masks"):
        train_plain(unmasked, config, spec, silent, seconds=1)


def test_the_plain_loss_falls_as_the_score_maps_approach_the_masks():
    masks = torch.zeros(1, 2, 32, 32)
    masks[:, 0, 8:24, 8:24] = 1
    cells = torch.nn.functional.avg_pool2d(masks, 4)
    losses = [float(plain_loss((cells - 0.5) * sharpness, masks)) for sharpness in (-5, 0, 5, 20)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.2


def test_the_chart_shows_what_was_measured(tmp_path):
    def result(iou):
        return {"a": {"iou": iou, "iou_ci": [iou - 0.1, iou + 0.1]}, "b": {"iou": None, "iou_ci": None}}

    points = {"5": {"results": {"chain": result(0.5), "map": result(0.4)}}, "10": {"results": {"chain": result(0.6)}}}
    curve_chart({"sizes": points}, tmp_path / "one.png")
    points["10"]["results"]["plain"] = result(0.3)
    curve_chart({"sizes": points}, tmp_path / "two.png")
    one, two = ((tmp_path / name).read_bytes() for name in ("one.png", "two.png"))
    assert one[:4] == two[:4] == b"\x89PNG"
    assert one != two
