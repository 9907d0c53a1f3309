"""Damaged exports of every format: no traceback, and nothing is lost without a word."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.sources.source import open_source
from models.errors import DataError
from tests.backend.sources import (
    test_coco,
    test_cvat,
    test_cvat_video,
    test_datumaro,
    test_segmentation_mask,
    test_yolo,
)
from tests.backend.sources.exports import cvat_export, read

JUNK = [
    *(None, True, -1, 1.5, 10**30, 10**400, float("nan"), float("inf"), "", "x", " ", "\0", "\ud800", "../..", "/"),
    *("a" * 300, [], {}, [[]], [None], {"a": 1}, [1, 2], [[[1]]], "s3://bucket/a.png", "C:\\a.png", "http://[::1"),
]
IMAGES = ("a", "b")
TESTS_OF_A_KIND = 40  # five documents of text and numbers, and their bytes: 200 of each


def coco(folder: Path) -> Path:
    rows = [test_coco.SQUARE, test_coco.SQUARE | {"image_id": 2, "segmentation": test_coco.RUNS}]
    return test_coco.export(folder, rows, ("a.png", "b.png")) / "annotations" / "instances_default.json"


def datumaro(folder: Path) -> Path:
    rle = {"type": "mask", "label_id": 0, "rle": test_datumaro.RLE}
    items = test_datumaro.item("a", [test_datumaro.POLYGON]), test_datumaro.item("b", [rle])
    return test_datumaro.export(folder, *items) / "annotations" / "default.json"


def cvat(folder: Path) -> Path:
    images = {"a.png": test_cvat.BOX.format(label="scratch"), "b.png": test_cvat.MASK}
    return cvat_export(folder, images) / "annotations.xml"


def video(folder: Path) -> Path:
    boxes = (test_cvat_video.box(0), test_cvat_video.box(1))
    xml = test_cvat_video.video_xml(test_cvat_video.track("scratch", *boxes), stop_frame="1")
    return test_cvat_video.export(folder, xml, numbers=range(2)) / "annotations.xml"


def masks(folder: Path) -> Path:
    pixels = test_segmentation_mask.painted((test_segmentation_mask.SCRATCH, test_segmentation_mask.RED))
    return test_segmentation_mask.export(folder, {"a": pixels, "b": pixels}) / "labelmap.txt"


def yolo(folder: Path) -> Path:
    texts = {"train/a": test_yolo.SCRATCH, "train/b": test_yolo.SCRATCH}
    return test_yolo.export(folder, texts) / "labels" / "train" / "a.txt"


def places(content: Any) -> list[tuple[Any, Any]]:
    """Container and key of every value within a JSON document."""
    if not isinstance(content, dict | list):
        return []
    keys = list(content) if isinstance(content, dict) else list(range(len(content)))
    return [(content, key) for key in keys] + [place for key in keys for place in places(content[key])]


def mutated_json(text: str, chance: random.Random) -> str:
    content = json.loads(text)
    container, key = chance.choice(places(content))
    if isinstance(container, dict) and chance.random() < 0.3:
        del container[key]
    else:
        container[key] = chance.choice(JUNK)
    return json.dumps(content)


def mutated_xml(text: str, chance: random.Random) -> str:
    """Another value of an attribute or of an element's text, or without that attribute."""
    place = chance.choice([*re.finditer(r' (\w+)="([^"]*)"|<(\w+)>([^<>]+)</', text)])
    junk = re.sub(r"[\0\ud800&<>\"]", "?", str(chance.choice(JUNK)))
    if place[1] is None:
        return text[: place.start(4)] + junk + text[place.end(4) :]
    return text[: place.start()] + (f' {place[1]}="{junk}"' if chance.random() < 0.7 else "") + text[place.end() :]


def mutated_text(text: str, chance: random.Random) -> str:
    place = chance.choice([*re.finditer(r"[^\s:,]+|\n", text)])
    junk = str(chance.choice(JUNK)).replace("\ud800", "?")
    return text[: place.start()] + junk + text[place.end() :]


KINDS: list[tuple[Callable[[Path], Path], Callable[[str, random.Random], str]]] = [
    *((coco, mutated_json), (datumaro, mutated_json), (cvat, mutated_xml), (video, mutated_xml)),
    *((masks, mutated_text), (yolo, mutated_text)),
]


def opened(folder: Path) -> tuple[dict[str, bool | None], int] | None:
    """Presence of scratch on each image, and how many rows were left out; None for a refusal by name."""
    try:
        with open_source(folder, skip_bad=True) as source:
            data = read(source.folder)[0]
    except DataError:
        return None
    if "scratch" not in data.classes:  # the label itself was changed
        return {name: None for name in data.samples}, len(data.skipped)
    return {name: sample.presence.get("scratch") for name, sample in data.samples.items()}, len(data.skipped)


@pytest.mark.parametrize(("make", "mutate"), KINDS, ids=[make.__name__ for make, _ in KINDS])
def test_a_changed_value_is_read_or_left_out_or_refused_by_name(
    tmp_path: Path, make: Callable[[Path], Path], mutate: Callable[[str, random.Random], str]
) -> None:
    """Both images show a scratch: where one is said to show none, a row was left out and counted."""
    path = make(tmp_path / "export")
    text, chance = path.read_text(encoding="utf-8"), random.Random(make.__name__)
    read_somehow = 0
    for _ in range(TESTS_OF_A_KIND):
        changed = mutate(text, chance)
        path.write_text(changed, encoding="utf-8")
        found = opened(tmp_path / "export")
        if found is not None:
            presence, left_out = found
            read_somehow += 1
            assert len(presence) + left_out >= len(IMAGES), changed
            assert left_out or False not in presence.values(), changed
    assert read_somehow >= 5


@pytest.mark.parametrize(("make", "mutate"), KINDS, ids=[make.__name__ for make, _ in KINDS])
def test_changed_bytes_end_in_no_traceback(
    tmp_path: Path, make: Callable[[Path], Path], mutate: Callable[[str, random.Random], str]
) -> None:
    path = make(tmp_path / "export")
    data, chance = path.read_bytes(), random.Random(make.__name__)
    for _ in range(TESTS_OF_A_KIND):
        changed = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(changed))
            changed[place : place + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        path.write_bytes(changed)
        found = opened(tmp_path / "export")
        if found is not None:
            presence, left_out = found
            assert len(presence) + left_out >= len(IMAGES), bytes(changed)
