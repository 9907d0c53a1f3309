"""What a data folder holds, in words: counts of every class, and what to do where there is little."""

from dataclasses import replace
from pathlib import Path

import pytest

from models.data.reader import DataFolder
from models.data.report import data_report
from models.data.sample import Sample
from models.data.splitter import ONE_GROUP


def sample(number, *, drawn=(), labels=None, coverage=0.05):
    """An image on which classes are drawn; `labels` is its row of labels.csv, without which all else is absent."""
    presence = dict.fromkeys(drawn, True) | (labels if labels is not None else {c: c in drawn for c in "abc"})
    masks = {label: Path(f"{label}/{number}.png") for label in drawn}
    known = all(c in masks or presence.get(c) is False for c in "abc")
    return Sample(f"{number}", Path(f"{number}.png"), masks, presence, known, dict.fromkeys(drawn, coverage))


def report(samples, **options):
    return data_report(DataFolder(Path("data"), tuple("abc"), {s.name: s for s in samples}, {}, **options))


def warnings_about(label, found):
    return [text for text in found.warnings if text.startswith(label)]


def test_every_class_is_counted():
    found = report([sample(i, drawn="ab" if i % 2 else "a", labels={"c": False} if i < 10 else {}) for i in range(40)])
    assert found.counts["a"] == {
        "present": 40, "masks": 40, "absent": 0, "unknown": 0, "train": 32, "held_out": 8,
    }  # fmt: skip
    assert found.counts["b"]["masks"] == 20
    assert found.counts["c"] == {"present": 0, "masks": 0, "absent": 10, "unknown": 30, "train": 0, "held_out": 0}
    assert found.sentences[0] == "40 images, 32 to learn from and 8 held out"
    assert found.sentences[1] == "a: on 40 images (32 to learn from, 8 held out), drawn on 40, absent from 0"
    assert found.sentences[3].endswith("absent from 10, unknown on 30")


def test_plenty_of_everything_brings_no_warning():
    assert report([sample(i, drawn="abc"[i % 3]) for i in range(60)]).warnings == []


def test_a_rare_class_is_named_with_what_would_help():
    found = report([sample(i, drawn="abc" if i in (3, 30, 40) else "ab"[i % 2]) for i in range(60)])
    assert warnings_about("c", found) == ["c is drawn on 2 images to learn from: expect little; 10 or more help"]


def test_a_class_on_all_images_or_none_is_named():
    found = report([sample(i, drawn="ab" if i % 2 else "a") for i in range(60)])
    assert warnings_about("a", found) == [
        "a is never absent: it will be drawn on every image; if some lack it, add a few of those"
    ]
    assert warnings_about("b", found) == []
    assert warnings_about("c", found) == [
        "c is on no image: it cannot be learnt; draw it on 10 or take it out of the classes"
    ]


def test_labels_without_masks_are_named():
    found = report([sample(i, labels={c: c == "abc"[i % 3] for c in "abc"}) for i in range(60)])
    assert warnings_about("a", found) == [
        "a is labelled on 20 images and drawn on none: its masks will be rough; draw it on 10"
    ]


def test_a_class_on_one_side_of_the_split_is_named():
    samples = {str(i): sample(i, drawn="a" if i < 8 else "b") for i in range(10)}
    splits = {"train": tuple("01234567"), "val": ("8", "9")}
    found = data_report(DataFolder(Path("data"), ("a", "b"), samples, splits))
    assert any("a is on no held-out image" in text for text in found.warnings)
    assert any("b is on held-out images only" in text for text in found.warnings)


def test_tiny_objects_are_named():
    found = report([sample(i, drawn="abc"[i % 3], coverage=0.01 if i % 3 else 0.0001) for i in range(60)])
    assert len(found.warnings) == 1
    assert found.warnings[0].startswith("a covers 0.01 % of an image")
    assert "tiles" in found.warnings[0]


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (sample(99), "1 image is empty, which teaches that no class is there"),
        (sample(99, drawn="a", labels={"b": False}), "1 image is drawn in part"),
        (sample(99, labels={}), "1 image is not labelled at all"),
    ],
)
def test_images_that_teach_little_are_counted(odd, said):
    found = report([*(sample(i, drawn="abc"[i % 3]) for i in range(60)), odd])
    assert len(found.warnings) == 1
    assert found.warnings[0].startswith(said)


def test_a_single_group_is_told():
    samples = [replace(sample(i, drawn="abc"[i % 3]), group="patient 1") for i in range(60)]
    assert report(samples).warnings == [ONE_GROUP]


def test_what_was_left_out_is_counted_with_the_first_reasons():
    skipped = {f"x{i}": f"x{i}.png cannot be read" for i in range(5)}
    found = report([sample(i, drawn="abc"[i % 3]) for i in range(60)], skipped=skipped)
    assert found.warnings == [
        "5 left out: x0.png cannot be read; x1.png cannot be read; x2.png cannot be read and 2 more"
    ]
