"""Four times the input costs about four times the time, in everything that reads what strangers write.

The time is that of this thread on its core, so that a busy machine changes nothing, and sixteen times is told from four
with a wide margin. What is refused by a limit is as good as read.
"""

import gc
import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from backend.entrypoints.buffered_worker import Chunks, Head
from backend.label_studio.annotations import read_annotation
from backend.label_studio.controls.pairs import merge_results
from backend.label_studio.images import AMBIGUOUS, _leads_out, image_address, shown
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.prompts import read_prompts
from backend.label_studio.protocol import parse_predict, parse_setup, parse_webhook
from backend.label_studio.rle import decode_rle
from backend.label_studio.task_data import field_of, storage_key
from backend.label_studio.task_images import task_images
from backend.sources.documents import read_json, read_text, read_xml
from backend.sources.drawing import decode_counts, draw_polygons
from backend.sources.finding import readings
from backend.sources.source import open_source
from backend.system.logs import JsonLines, redacted, shortened
from models.errors import PremaskError, brief
from tests.backend.label_studio.configs import BRUSH, SHAPES
from tests.backend.sources import test_coco, test_cvat, test_datumaro, test_label_studio, test_yolo
from tests.backend.sources.exports import cvat_export, picture, write_json

READABLE = 0.03  # seconds: what four times the input takes less than is quick enough, whatever its growth
GROWTH = 9.0  # 4 is linear, 16 is quadratic
IMAGE = '<Image name="image" value="$image"/>'
CONFIG = parse_label_config(BRUSH)
FORMS = parse_label_config(SHAPES)


def seconds(read: Callable[[Any], Any], made: Any) -> float:
    gc.disable()  # it would look through all that other tests have left
    began = time.thread_time()
    try:
        with suppress(Exception):  # whether it is refused in our words is tested elsewhere
            read(made)
        return time.thread_time() - began
    finally:
        gc.enable()


def assert_linear(make: Callable[[int], Any], read: Callable[[Any], Any], size: int) -> None:
    """Grow the input until its time can be told, and compare; a first measurement may be spoilt, a third is not."""
    while seconds(read, make(4 * size)) < READABLE and size < 30_000:
        size *= 4
    for _ in range(3):
        whole, part = seconds(read, make(4 * size)), seconds(read, make(size))
        if whole < READABLE or whole < GROWTH * part:
            return
    raise AssertionError(f"{size} take {part:.3f} s, {4 * size} take {whole:.3f} s")


CONFIGS: dict[str, Callable[[int], str]] = {
    "polygons": lambda n: f"<View>{IMAGE}" + '<PolygonLabels name="a" toName="image"/>' * n + "</View>",
    "labels": lambda n: (
        f'<View>{IMAGE}<BrushLabels name="a" toName="image">'
        + "".join(f'<Label value="{i}"/>' for i in range(n))
        + "</BrushLabels></View>"
    ),
    "tools and labels": lambda n: (
        f"<View>{IMAGE}"
        + "".join(f'<Brush name="b{i}" toName="image"/><Labels name="l{i}" toName="image"/>' for i in range(n))
        + "</View>"
    ),
    "a long name": lambda n: (
        f'<View><Image name="{"i" * n}" value="$image"/><BrushLabels name="{"a" * n}" toName="{"i" * n}"/></View>'
    ),
    "long names": lambda n: (
        "<View>"
        + "".join(f'<Image name="{i}" value="$i"/>' for i in range(n))
        + f'<Taxonomy name="{"t" * n}" toName="{",".join(map(str, range(n)))}"/></View>'
    ),
    "nested": lambda n: (
        f"<View>{IMAGE}" + '<BrushLabels name="a" toName="image">' * n + "</BrushLabels>" * n + "</View>"
    ),
    "nested labels": lambda n: f"<View>{IMAGE}" + '<Labels name="a" toName="image">' * n + "</Labels>" * n + "</View>",
    "repeaters": lambda n: f"<View>{IMAGE}" + "<Repeater>" * n + "</Repeater>" * n + "</View>",
    "one toName": lambda n: f'<View>{IMAGE}<BrushLabels name="a" toName="{"image," * n}"/></View>',
    "predicted values": lambda n: (
        f'<View>{IMAGE}<BrushLabels name="a" toName="image"><Label value="x" predicted_values="'
        + ",".join(map(str, range(n)))
        + '"/></BrushLabels></View>'
    ),
    "images": lambda n: (
        "<View>"
        + "".join(
            f'<Image name="i{i}" value="$c{i}"/><BrushLabels name="b{i}" toName="i{i}"><Label value="x"/></BrushLabels>'
            for i in range(n)
        )
        + "</View>"
    ),
    "attributes": lambda n: "<View " + " ".join(f'a{i}="x"' for i in range(n)) + "/>",
    "text": lambda n: f"<View>{'x&amp;' * n}</View>",
    "no XML": lambda n: "<" * n,
}


def _read_config(xml: str) -> None:
    config = parse_label_config(xml)
    assert config.columns is not None
    assert config.classes == config.classes
    for label in config.classes[:20]:
        config.control_for(label)
        config.control_for(label, stored=True)
    assert config.training_classes is not None
    for column in config.columns:
        config.on(column)
        config.shows_list(column)


def region(kind: str, **value: Any) -> dict[str, Any]:
    return {
        "id": "r", "type": kind, "from_name": "tag", "to_name": "image",
        "original_width": 8, "original_height": 6, "value": {kind: ["Lumen"], **value},
    }  # fmt: skip


RECTANGLE = {"x": 0, "y": 0, "width": 50, "height": 50}
RESULTS: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "rectangles": lambda n: [{**region("rectanglelabels", **RECTANGLE), "id": str(i)} for i in range(n)],
    "pairs": lambda n: [
        {**region(kind, **RECTANGLE), "id": str(i)} for i in range(n) for kind in ("rectangle", "labels")
    ],
    "one id": lambda n: [region("rectangle", **RECTANGLE) for _ in range(n)],
    "labels": lambda n: [region("rectanglelabels", **RECTANGLE) | {"value": {"rectanglelabels": ["Lumen"] * n}}],
    "choices": lambda n: [{"id": str(i), "type": "choices", "value": {"choices": [["a"] * 3]}} for i in range(n)],
    "polygon": lambda n: [region("polygonlabels", points=[[i % 100, i * 7 % 100] for i in range(n)])],
    "vector": lambda n: [
        region(
            "vectorlabels",
            closed=True,
            vertices=[{"id": str(i), "prevPointId": str(i - 1), "x": i % 9, "y": i % 7} for i in range(n)],
        )
    ],
    "RLE": lambda n: [region("brushlabels", format="rle", rle=[255] * n)],
    "data URL": lambda n: [region("bitmasklabels", imageDataURL="data:image/png;base64," + "iVBORw0KGgoA" * n)],
    "texts": lambda n: [
        region("rectanglelabels", x="A" * n, y=0, width=1, height=1) | {"id": "i" * n, "type": "t" * n}
    ],
    "keypoints": lambda n: [region("keypointlabels", x=1, y=1) | {"id": str(i)} for i in range(n)],
    "unknown": lambda n: [region("t" * n) for _ in range(20)],
}

TASKS: dict[str, Callable[[int], Any]] = {
    "tasks": lambda n: [{"id": i, "data": {"image": "a"}} for i in range(n)],
    "keys": lambda n: [{"id": 1, "data": {str(i): "a" for i in range(n)}}],
    "mistyped": lambda n: [{"id": "9" * n, "data": {"image": [["a"] * n]}}],
}

ADDRESSES: dict[str, Callable[[int], str]] = {
    "up": lambda n: "/data/" + "../" * n,
    "query": lambda n: "/data/local-files/?" + "d=a/&" * n,
    "percent": lambda n: "/data/" + "%25" * n,
    "schemes": lambda n: "s3://" * n,
    "users": lambda n: "http://" + "a@" * n,
    "backslashes": lambda n: "http://a" + "\\" * n,
    "data": lambda n: "data:image/png;base64," + "A" * n,
    "brackets": lambda n: "http://[" + "[" * n,
    "fileuri": lambda n: "/x?fileuri=" + "YWFh" * n,
}


def _read_address(text: str) -> None:
    task = {"id": 1, "data": {"image": text}}
    shown(image_address(task, "image"))
    storage_key(text)
    AMBIGUOUS.search(text)
    readings(text)
    _leads_out(text)


LOGGED: dict[str, str] = {
    "tokens": "-eyJ",
    "tokens with dots": "eyJ.-",
    "long tokens": "eyJaaaa",
    "keys": 'token"',
    "keys and blanks": 'password" : ',
    "assignments": "secret=",
    "headers": "authorization: basic ",
    "users": "://a",
    "hex": "0123456789abcdef",
    "blanks": " ",
    "controls": "\x00\u2028",
    "dashes": "-.",
}

KEYS: dict[str, Callable[[int], str]] = {
    "steps": lambda n: "a." * n,
    "brackets": lambda n: "a" + "[1" * n,
    "items": lambda n: "a" + "[1]" * n,
    "digits": lambda n: "a[" + "1" * n + "]",
}

TEXTS: dict[str, Callable[[int], str]] = {
    "lists": lambda n: "[" * n + "]" * n,
    "objects": lambda n: '{"a":' * n + "1" + "}" * n,
    "numbers": lambda n: "[" + "1," * n + "1]",
    "digits": lambda n: "1" * n,
    "halves": lambda n: '"' + "\\ud800" * n + '"',
    "quotes": lambda n: '"' * n,
}

SQUARE = test_coco.SQUARE
EXPORTS: dict[str, Callable[[Path, int], Any]] = {
    "COCO": lambda folder, n: test_coco.export(folder, [SQUARE | {"id": i} for i in range(n)]),
    "CVAT": lambda folder, n: cvat_export(folder, {"a.png": test_cvat.POLYGON * n}),
    "Datumaro": lambda folder, n: test_datumaro.export(
        folder, test_datumaro.item("a", [test_datumaro.POLYGON for _ in range(n)])
    ),
    "YOLO": lambda folder, n: test_yolo.export(folder, {"train/a": test_yolo.SCRATCH * n}),
    "Label Studio": lambda folder, n: (
        picture(folder / "0123abcd-plate_1.png"),
        write_json(folder / "export.json", [test_label_studio.task(1, *[test_label_studio.RECTANGLE] * n)]),
    ),
    "COCO's images": lambda folder, n: test_coco.export(folder, [], tuple(f"{i}.png" for i in range(n // 8))),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_labelling_config(kind: str) -> None:
    assert_linear(CONFIGS[kind], _read_config, 200)


@pytest.mark.parametrize("kind", RESULTS)
def test_an_annotation(kind: str) -> None:
    for config in (CONFIG, FORMS):
        read: Callable[[Any], Any] = lambda made: read_annotation(made, config, (6, 8), Counter())  # noqa: B023, E731
        assert_linear(lambda n: {"id": 1, "result": RESULTS[kind](n)}, read, 50)
    assert_linear(RESULTS[kind], merge_results, 200)


@pytest.mark.parametrize("kind", RESULTS)
def test_a_prompt(kind: str) -> None:
    def read(result: Any) -> None:
        drawn = [{"id": 1, "result": result}]
        read_prompts({"id": 1, "data": {}, "drafts": drawn}, {"result": result}, FORMS, (6, 8))

    assert_linear(RESULTS[kind], read, 50)


@pytest.mark.parametrize("kind", TASKS)
def test_a_request(kind: str) -> None:
    def read(tasks: Any) -> None:
        with suppress(PremaskError):
            parse_setup({"project": tasks, "schema": tasks})
        with suppress(PremaskError):
            parse_webhook({"project": {"id": str(tasks)}, "action": "x"})
        asked = parse_predict({"tasks": tasks, "project": 1, "label_config": BRUSH, "params": {"context": {}}})
        for task in asked.tasks:
            task_images(task, asked.config)
            image_address(task, "image")

    assert_linear(TASKS[kind], read, 200)


@pytest.mark.parametrize("kind", ADDRESSES)
def test_an_address(kind: str) -> None:
    assert_linear(ADDRESSES[kind], _read_address, 500)


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_into_a_tasks_data(kind: str) -> None:
    assert_linear(KEYS[kind], lambda key: field_of({"a": [[1]]}, key), 500)


@pytest.mark.parametrize("kind", LOGGED)
def test_a_line_of_the_log(kind: str) -> None:
    assert_linear(lambda n: LOGGED[kind] * n, redacted, 1000)
    assert_linear(lambda n: LOGGED[kind] * n, shortened, 1000)
    record = lambda n: logging.makeLogRecord({"msg": LOGGED[kind] * n})  # noqa: E731
    assert_linear(record, JsonLines().format, 1000)


@pytest.mark.parametrize("kind", TEXTS)
def test_json(kind: str, tmp_path: Path) -> None:
    def write(n: int) -> Path:
        path = tmp_path / f"{n}.json"
        path.write_text(TEXTS[kind](n))
        return path

    assert_linear(write, read_json, 500)
    assert_linear(TEXTS[kind], brief, 500)


@pytest.mark.parametrize("kind", CONFIGS)
def test_xml(kind: str, tmp_path: Path) -> None:
    def write(n: int) -> Path:
        path = tmp_path / f"{n}.xml"
        path.write_text(CONFIGS[kind](n))
        return path

    assert_linear(write, read_xml, 500)
    assert_linear(write, read_text, 500)


@pytest.mark.parametrize("kind", EXPORTS)
@pytest.mark.slow
def test_an_export(kind: str, tmp_path: Path) -> None:
    numbers = iter(range(10**6))

    def write(n: int) -> Path:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        EXPORTS[kind](folder, n)
        return folder

    def read(folder: Path) -> None:
        with open_source(folder) as source:
            assert source.folder

    for _ in range(3):
        part, whole = seconds(read, write(250)), seconds(read, write(1000))
        if whole < GROWTH * part:
            return
    raise AssertionError(f"250 rows take {part:.3f} s, 1,000 take {whole:.3f} s")


def test_run_lengths_and_outlines() -> None:
    assert_linear(lambda n: "1" * n, decode_counts, 500)
    assert_linear(lambda n: [[float(i % 40) for i in range(2 * n)]], lambda made: draw_polygons(made, (30, 40)), 500)
    assert_linear(lambda n: [[1, 2, 3, 4, 5, 6]] * n, lambda made: draw_polygons(made, (30, 40)), 100)
    header = [0, 1, 0x77, 0x00]  # 96,000 values
    assert_linear(lambda n: [*header, *[57, 27] * n], lambda rle: decode_rle(rle, (100, 240)), 500)


def test_an_outline_of_a_million_corners_is_refused_before_it_is_drawn() -> None:
    corners = [[i % 2 * 100, i % 7] for i in range(100_000)]
    for value in ({"points": corners}, {"closed": True, "vertices": [{"x": x, "y": y} for x, y in corners]}):
        kind = "polygonlabels" if "points" in value else "vectorlabels"
        truth = read_annotation({"id": 1, "result": [region(kind, **value)]}, FORMS, (6, 8), Counter())
        assert truth.presence["Lumen"] is None or "Lumen" not in truth.masks


def test_what_the_server_receives() -> None:
    assert_linear(lambda n: b"1\r\na\r\n" * n, lambda body: Chunks().ends(body), 500)
    assert_linear(lambda n: b"1" * n, lambda body: [Chunks().ends(b"1") for _ in body], 500)
    assert_linear(lambda n: b"GET / HTTP/1.1" + b"\r\nX: y" * n + b"\r\n\r\n", Head, 500)
    assert_linear(lambda n: b"GET / HTTP/1.1" + b"\r\ncontent-length: " * n + b"\r\n\r\n", Head, 500)


def test_the_yardstick_tells_squares_from_lines() -> None:
    """A parser that compares everything with everything fails; so does a regular expression that goes back."""
    with pytest.raises(AssertionError, match="take"):
        assert_linear(lambda n: "x" * n, lambda text: sum(one == other for one in text for other in text), 500)
    assert_linear(lambda n: json.dumps(["x"] * n), json.loads, 1000)
