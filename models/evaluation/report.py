"""The figures and the pictures behind them, as one HTML file that needs no other."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from models.config import METHODS
from models.data.png import encode_png
from models.data.sample import Sample
from models.evaluation.charts import iou_chart
from models.evaluation.evaluate import FrameFigures, with_settings
from models.evaluation.figures import Picture, heat, line_width, outline, step_pictures
from models.evaluation.gallery import COLUMNS
from models.masks.metrics import Mask
from models.pipeline import Pipeline

SIDE = 240  # pixels of a picture's longer side


def write_report(
    path: Path,
    pipeline: Pipeline,
    samples: Sequence[Sample],
    frames: Sequence[FrameFigures],
    figures: Mapping[str, Any],
    title: str,
) -> None:
    """Write the report.

    Args:
        path: the HTML file.
        pipeline: what was measured; draws the pictures.
        samples: what it was measured on ...
        frames: ... and the figures of each, in the same order.
        figures: of all, with intervals, and the tables under "tables" where they were asked for.
        title: what was measured on what.
    """
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"figure": _figure, "interval": _interval}
    template = environment.from_string((Path(__file__).parent / "report.html").read_text(encoding="utf-8"))
    by_name = {sample.name: sample for sample in samples}
    ranked = {
        label: sorted((frame.agreements[label].iou, frame.name) for frame in frames if label in frame.agreements)
        for label in pipeline.classes
    }
    examples = [
        {"label": label, "which": which, "name": name, "iou": value, "steps": _example(pipeline, by_name[name], label)}
        for label, values in ranked.items()
        for which, (value, name) in _worst_and_best(values)
    ]
    sheet = {
        label: {"name": name, "maps": _maps(pipeline, by_name[name], label)}
        for label, values in ranked.items()
        if values and "tables" in figures
        for _, name in [values[len(values) // 2]]
    }
    html = template.render(
        title=title,
        figures=figures,
        chart=_uri(iou_chart(frames, pipeline.classes).encode(), "image/svg+xml"),
        presence={label: confusion(frames, label) for label in pipeline.classes},
        examples=examples,
        sheet=sheet,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")


def confusion(frames: Sequence[FrameFigures], label: str) -> dict[str, int]:
    """On how many images a class was rightly drawn, missed, falsely drawn and rightly not drawn."""
    decisions = [frame.decisions[label] for frame in frames if label in frame.decisions]
    return {
        "found": sum(d.predicted and d.present for d in decisions),
        "missed": sum(not d.predicted and d.present for d in decisions),
        "false": sum(d.predicted and not d.present for d in decisions),
        "absent": sum(not d.predicted and not d.present for d in decisions),
    }


def _worst_and_best(values: Sequence[tuple[float, str]]) -> list[tuple[str, tuple[float, str]]]:
    if len(values) < 2:
        return [("only", value) for value in values]
    return [("worst", values[0]), ("best", values[-1])]


def _example(pipeline: Pipeline, sample: Sample, label: str) -> dict[str, str]:
    """A row like the paper's Figure 5: image, map, trimap, boundary, mask, truth."""
    image = sample.read_image()
    step = next(step for step in pipeline.steps([image])[0] if step.label == label)
    pictures = step_pictures(image, step)
    truth = sample.read_mask(label, (image.shape[0], image.shape[1]))
    shown = {"image": image} | {column: pictures[name] for column, name in COLUMNS.items()}
    shown["truth"] = truth.astype(np.uint8) * 255
    window = _window(truth | step.mask)
    return {name: _thumbnail(picture[window]) for name, picture in shown.items()}


def _maps(pipeline: Pipeline, sample: Sample, label: str) -> dict[str, str]:
    """The map of a class by every method, over the image with the true outline in white."""
    image = sample.read_image()
    truth = sample.read_mask(label, (image.shape[0], image.shape[1]))
    pictures = {}
    for method in METHODS:
        _, (maps,) = with_settings(pipeline, cam=method).maps([image])
        picture = heat(image, maps[pipeline.classes.index(label)])
        picture[outline(truth, line_width(image))] = 255
        pictures[method] = _thumbnail(picture[_window(truth)])
    return pictures


def _window(objects: Mask) -> tuple[slice, slice]:
    """A square around what is true in a mask, with as much again around it, so that small objects can be seen."""
    x, y, width, height = cv2.boundingRect(objects.astype(np.uint8))
    side = max(2 * max(width, height), max(objects.shape) // 6)
    top, left = max(y + (height - side) // 2, 0), max(x + (width - side) // 2, 0)
    return slice(top, y + (height + side) // 2 + 1), slice(left, x + (width + side) // 2 + 1)


def _thumbnail(picture: Picture) -> str:
    scale = min(SIDE / max(picture.shape[:2]), 1.0)
    size = (max(round(picture.shape[1] * scale), 1), max(round(picture.shape[0] * scale), 1))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    if small.ndim == 2:
        return _uri(encode_png(np.asarray(small, dtype=np.uint8)), "image/png")
    colours = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    return _uri(cv2.imencode(".jpg", colours, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes(), "image/jpeg")


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _figure(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _interval(bounds: Sequence[float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"
