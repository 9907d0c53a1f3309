"""Charts, by matplotlib: how IoU is spread over the images, and how it grows with the accepted images."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.evaluation.evaluate import FrameFigures
from models.evaluation.figures import COLOURS

# Way of `label_efficiency` -> how it is named and drawn.
WAYS = {
    "map": ("map alone", "#888888", "--"),
    "closed-form": ("closed-form", "#d55e00", ":"),
    "chain": ("FBANet", "#0072b2", "-"),
    "plain": ("plain network", "#000000", "-."),
}


def iou_chart(frames: Sequence[FrameFigures], classes: Sequence[str]) -> str:
    """A dot an image and a line at the median, a row a class; an SVG document."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    picture = Figure(figsize=(5, 0.8 + 0.55 * len(classes)), layout="constrained")
    axes = picture.subplots()
    for row, label in enumerate(classes):
        values = np.array([frame.agreements[label].iou for frame in frames if label in frame.agreements])
        jitter = np.random.default_rng(row).uniform(-0.22, 0.22, len(values))
        colour = np.array(COLOURS[row % len(COLOURS)]) / 255
        axes.scatter(values, row + jitter, s=14, color=colour, edgecolor="black", linewidth=0.3, alpha=0.9)
        if len(values):
            axes.vlines(float(np.median(values)), row - 0.35, row + 0.35, color="black")
    axes.set(xlim=(-0.02, 1.02), ylim=(len(classes) - 0.5, -0.5), xlabel="IoU (line: median)")
    axes.set_yticks(range(len(classes)), classes)
    axes.grid(axis="x", alpha=0.3)
    with io.StringIO() as buffer, rc_context({"svg.hashsalt": "premask"}):
        picture.savefig(buffer, format="svg", metadata={"Date": None})
        return buffer.getvalue()


def curve_chart(curve: Mapping[str, Any], path: Path) -> None:
    """Draw `label_efficiency`'s result as a PNG: a panel a class and one for their mean, a line a way."""
    from matplotlib.figure import Figure

    points = {int(size): point["results"] for size, point in curve["sizes"].items() if point["results"]}
    classes = list(next(iter(points.values()))["chain"])
    sizes = sorted(points)
    columns = min(len(classes) + 1, 3)
    rows = -(-(len(classes) + 1) // columns)
    picture = Figure(figsize=(3.4 * columns, 2.8 * rows), layout="constrained", dpi=150)
    panels = list(picture.subplots(rows, columns, squeeze=False).flat)
    for panel, label in zip(panels, [*classes, None], strict=False):
        for way, (name, colour, style) in WAYS.items():
            measured = [size for size in sizes if way in points[size]]
            if not measured:
                continue
            known = [points[size][way] for size in measured]
            values = [mean_iou(one) if label is None else one[label]["iou"] for one in known]
            panel.plot(measured, _gaps(values), style, color=colour, marker="o", markersize=3, label=name)
            if way in ("chain", "plain") and label is not None:
                bounds = [one[label]["iou_ci"] or (None, None) for one in known]
                low, high = ([bound[side] for bound in bounds] for side in (0, 1))
                panel.fill_between(measured, _gaps(low), _gaps(high), color=colour, alpha=0.12, linewidth=0)
        panel.set(title=label or "mean of the classes", ylim=(0, 1), xscale="log")
        panel.set_xticks(sizes, [str(size) for size in sizes])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    for panel in panels[len(classes) + 1 :]:
        panel.remove()
    panels[0].legend(fontsize=7, loc="lower right")
    picture.supxlabel("accepted images")
    picture.supylabel("IoU, with 95 % intervals")
    picture.savefig(path)


def mean_iou(result: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Mean over the classes that have an IoU."""
    values = [known["iou"] for known in result.values() if known["iou"] is not None]
    return float(np.mean(values)) if values else None


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [np.nan if value is None else value for value in values]
