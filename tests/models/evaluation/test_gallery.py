import cv2
import numpy as np
import pytest

from models.checkpoint import Card, read_card
from models.data.sample import Sample
from models.evaluation.evaluate import Agreement, Decision, FrameFigures
from models.evaluation.gallery import SIDE, add_gallery
from models.pipeline import save_pipeline


def figures(name, drawn=(), in_vain=()):
    """An image with classes at these IoUs, and with classes drawn on it that are not there."""
    agreements = {label: Agreement(iou, iou, iou, iou) for label, iou in dict(drawn).items()}
    decisions = {label: Decision(True, True) for label in agreements}
    return FrameFigures(name, 0.1, agreements, decisions | {label: Decision(True, False) for label in in_vain})


@pytest.fixture
def gallery(tmp_path, make_pipeline):
    """Draws the gallery of images with these figures; returns its folder and what the card on disk lists."""

    def draw(*frames, classes=("a", "b"), size=(40, 60)):
        samples = []
        for frame in frames:
            image, mask = tmp_path / f"{frame.name}.png", tmp_path / f"{frame.name}-mask.png"
            cv2.imwrite(str(image), np.full((*size, 3), 90, np.uint8))
            cv2.imwrite(str(mask), np.full(size, 255, np.uint8))
            samples.append(Sample(frame.name, image, dict.fromkeys(frame.agreements, mask), {}, True))
        pipeline, checkpoint = make_pipeline(classes), tmp_path / "checkpoint"
        card = Card("r1", [], "", "2026-01-01T00:00:00+00:00")
        save_pipeline(pipeline, checkpoint, card)
        add_gallery(checkpoint, card, pipeline, samples, frames)
        assert read_card(checkpoint).gallery == card.gallery
        return checkpoint / "gallery", card.gallery

    return draw


def test_the_worst_and_the_best_images_are_shown_worst_first(gallery):
    frames = [figures(f"f{i}", {"a": i / 10}) for i in (3, 9, 0, 7, 1, 8, 5, 2)]
    _, listed = gallery(*frames)
    assert [(entry["name"], entry["end"], entry["iou"]) for entry in listed] == [
        ("f0", "worst", 0.0),
        ("f1", "worst", 0.1),
        ("f2", "worst", 0.2),
        ("f7", "best", 0.7),
        ("f8", "best", 0.8),
        ("f9", "best", 0.9),
    ]


def test_no_image_is_shown_twice_where_there_are_few(gallery):
    _, listed = gallery(figures("x", {"a": 0.9}), figures("y", {"a": 0.1}), figures("z", {"a": 0.5}))
    assert [(entry["name"], entry["end"]) for entry in listed] == [("y", "worst"), ("z", "worst"), ("x", "best")]


def test_a_mask_drawn_where_its_class_is_not_is_among_the_worst(gallery):
    _, listed = gallery(figures("x", {"a": 0.9}, in_vain=["b"]), figures("y", {"a": 0.5}))
    assert [(entry["name"], entry["iou"]) for entry in listed] == [("x", 0.45), ("y", 0.5)]
    assert [(shown["class"], shown["iou"]) for shown in listed[0]["classes"]] == [("b", 0.0), ("a", 0.9)]


def test_images_on_which_nothing_is_and_nothing_was_drawn_show_nothing(gallery):
    folder, listed = gallery(figures("x"), figures("y"))
    assert (listed, list(folder.iterdir())) == ([], [])


def test_each_class_has_figure_5s_pictures_at_one_small_size(gallery):
    folder, (entry,) = gallery(figures("wide", {"a": 0.5, "b": 0.6}), size=(480, 960))
    listed = {entry["frame"]}
    for shown in entry["classes"]:
        assert set(shown) == {"class", "iou", "map", "trimap", "boundary", "mask", "accepted"}
        listed |= {name for column, name in shown.items() if column not in ("class", "iou")}
    assert listed == {path.name for path in folder.iterdir()}
    for name in listed:
        assert cv2.imread(str(folder / name)).shape[:2] == (SIDE // 2, SIDE)
    accepted = cv2.imread(str(folder / entry["classes"][0]["accepted"]), cv2.IMREAD_UNCHANGED)
    assert (accepted.ndim, accepted.min()) == (2, 255)


@pytest.mark.slow
def test_a_gallery_stays_small_for_large_images_and_many_classes(gallery, monkeypatch):
    """Noise is what compresses least: real frames take a fifth of this."""
    monkeypatch.setattr(
        Sample, "read_image", lambda self: np.random.default_rng(0).integers(0, 255, (700, 700, 3)).astype(np.uint8)
    )
    monkeypatch.setattr(Sample, "read_mask", lambda self, label, shape: np.zeros(shape, bool))
    classes = tuple("abcdefg")
    folder, listed = gallery(*(figures(f"f{i}", dict.fromkeys(classes, i / 10)) for i in range(9)), classes=classes)
    assert len(listed) == 6
    assert all(len(entry["classes"]) == 4 for entry in listed)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5 << 20
    print(sum(path.stat().st_size for path in folder.iterdir()))
