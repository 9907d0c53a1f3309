"""YOLO segmentation: images/SUBSET/, labels/SUBSET/NAME.txt with a polygon a line, data.yaml."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import yaml

from backend.exports.export import Export, Mask, Result, Tick, each, save_picture, write_table
from models.masks.components import connected_components
from models.masks.outlines import outlines
from models.masks.rasterising import Points, fill_polygon

DIGITS = 6
TOLERANCE = 0.4  # pixels beside the edge: just below the half at which whole pixels are gained or lost


def write_yolo(export: Export, out: Path, tick: Tick) -> Result:
    """Write an export. Polygons are not exact: `figures` has their IoU against the masks, per class and the lowest."""
    result, files = Result(), {}
    ious: dict[str, list[float]] = defaultdict(list)
    lowest: tuple[float, str, str] | None = None
    for image, shape in each(export, tick):
        file = save_picture(image.sample, out / "images" / image.subset, image.stem)
        files[image.stem] = f"images/{image.subset}/{file}"
        lines: list[str] = []
        for number, label in enumerate(export.drawn):
            if label not in image.sample.masks:
                continue
            mask = image.sample.read_mask(label, shape)
            polygons = [_rounded(polygon, shape) for polygon in _polygons(mask)]
            lines += [" ".join([str(number), *(f"{value:.{DIGITS}f}" for value in p.reshape(-1))]) for p in polygons]
            result.count(label, len(polygons))
            iou = _iou(mask, polygons)
            ious[label].append(iou)
            lowest = min(lowest or (2.0, "", ""), (iou, image.name, label))
        path = out / "labels" / image.subset / f"{image.stem}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        result.images += 1
    content = {subset: f"images/{subset}" for subset in export.subsets} | {"names": dict(enumerate(export.drawn))}
    (out / "data.yaml").write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")
    write_table(export, out, files)
    result.figures["iou"] = {label: float(np.mean(values)) for label, values in ious.items()}
    if lowest is not None:
        iou, name, label = lowest
        result.figures["lowest_iou"] = {"iou": iou, "name": name, "class": label}
        means = ", ".join(f"{label} {np.mean(values):.4f}" for label, values in ious.items())
        result.notes.append(f"polygons against masks, mean IoU: {means}; the lowest is {iou:.4f} ({label} on {name})")
    return result


def _polygons(mask: Mask) -> list[Points]:
    """Polygons of a mask's connected parts; one that is too small for an outline gets its box."""
    labels, components = connected_components(mask, connectivity=4)  # outlines part at corners too
    polygons: list[Points] = []
    for part in components:
        corner = np.array([part.x, part.y], dtype=np.float64)
        box = np.array([[0, 0], [part.width, 0], [part.width, part.height], [0, part.height]], dtype=np.float64)
        polygons += [polygon + corner for polygon in outlines(labels[part.box] == part.number, TOLERANCE) or [box]]
    return polygons


def _rounded(polygon: Points, shape: tuple[int, int]) -> Points:
    """Corners as fractions of the image's width and height, as the file has them."""
    size = np.array([shape[1], shape[0]], dtype=np.float64)
    return np.asarray(np.clip(polygon / size, 0, 1).round(DIGITS), dtype=np.float64)


def _iou(mask: Mask, polygons: list[Points]) -> float:
    """Of the polygons, drawn as a pixel belongs to one if its centre does, against the mask."""
    drawn = np.zeros(mask.shape, dtype=bool)
    for polygon in polygons:
        drawn |= fill_polygon(polygon * (mask.shape[1], mask.shape[0]), mask.shape)
    return float((drawn & mask).sum() / (drawn | mask).sum())
