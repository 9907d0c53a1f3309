"""Datumaro's JSON, as CVAT exports it: annotations/SUBSET.json and images/SUBSET/."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from backend.label_studio.task_data import group_field, group_of
from backend.sources.conversion import Conversion, Exported, LeftOut, Mask, Region, convert
from backend.sources.cvat_shapes import is_background
from backend.sources.drawing import draw_coco_rle, draw_ellipse, draw_polygons, draw_turned_box, rotation_of
from backend.sources.finding import ImageFiles, subset_of
from models.errors import DataError


def is_datumaro(content: Any) -> bool:
    """Whether a JSON file has Datumaro's shape."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("items"), list)
        and isinstance(content.get("categories"), dict)
    )


def convert_datumaro(files: Mapping[Path, Any], images: ImageFiles, out: Path) -> Conversion:
    """Write Datumaro files as a data folder; see `convert`. Each file is a subset, after its name.

    The label "background" cuts holes, as in `convert_cvat`. Labels, points and lines say that a class is there, not
    where. The library datumaro is not used: it asks for pandas, pyarrow and older versions of what is installed here.

    Raises:
        DataError: a file lists no labels.
    """
    labels = {path: _labels(path, content) for path, content in files.items()}
    names = dict.fromkeys(name for listed in labels.values() for name in listed if name and not is_background(name))
    items = [item for content in files.values() for item in content["items"]]
    field = group_field(_attributes(item) for item in items)
    exported = (
        _exported(path, item, index, labels[path], field)
        for path, content in files.items()
        for index, item in enumerate(content["items"])
    )
    return convert(exported, tuple(names), images, out)


def _labels(path: Path, content: Mapping[str, Any]) -> list[str | None]:
    """The names of the labels in their order, None for one that cannot be read."""
    table = content["categories"].get("label")
    rows = table.get("labels") if isinstance(table, dict) else None
    if not isinstance(rows, list):
        raise DataError(f"{path.name} lists no labels under categories")
    # Parts of skeletons are labels with a parent.
    names = [row.get("name") if isinstance(row, dict) else None for row in rows]
    return [name if isinstance(name, str) and name.strip() else None for name in names]


def _attributes(item: Any) -> Any:
    return item.get("attr") if isinstance(item, dict) else None


def _exported(path: Path, item: Any, index: int, labels: list[str | None], field: str | None) -> Exported | LeftOut:
    row = f"item no. {index + 1} of {path.name}"
    if not isinstance(item, dict) or not isinstance(item.get("id"), str | int):
        return LeftOut(row, "it lacks an id")
    image = item.get("image") or item.get("media")
    image = image if isinstance(image, dict) else {}
    path_of_image = image.get("path")
    file = path_of_image if isinstance(path_of_image, str) and path_of_image else str(item["id"])
    annotations = item.get("annotations")
    if not isinstance(annotations, list):
        return LeftOut(file, "its annotations are no list")
    regions: list[tuple[int, Region]] = []
    for number, annotation in enumerate(annotations):
        what = f"annotation no. {number + 1}"
        if not isinstance(annotation, dict):
            return LeftOut(file, f"{what} cannot be read")
        if annotation.get("type") == "caption":
            continue  # text about the image, of no label
        label_id = annotation.get("label_id")
        label = dict(enumerate(labels)).get(label_id) if type(label_id) is int else None
        if label is None:
            return LeftOut(file, f"{what} is of label {label_id!r:.40}, which is not listed")
        region = Region(None if is_background(label) else label, _drawing(annotation))
        regions.append((_z_order(annotation), region))
    regions.sort(key=lambda pair: pair[0])
    return Exported(
        file,
        [region for _, region in regions],
        _size(image),
        subset=subset_of(path.stem),
        group=group_of(_attributes(item), field),
        offered=[name for name in labels if name],
    )


def _z_order(annotation: Mapping[str, Any]) -> int:
    value = annotation.get("z_order", 0)
    return value if isinstance(value, int) else 0


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """(H, W), None where the file does not say it."""
    match image.get("size"):
        case [int(height), int(width)] if min(height, width) > 0:
            return height, width
        case _:
            return None


def _drawing(annotation: Mapping[str, Any]) -> Callable[[tuple[int, int]], Mask] | None:
    match annotation.get("type"):
        case "polygon":
            return partial(draw_polygons, annotation.get("points"))
        case "bbox":
            return partial(_box, annotation)
        case "ellipse":
            return partial(_ellipse, annotation)
        case "mask":
            return partial(_mask, annotation)
        case _:
            return None


def _box(annotation: Mapping[str, Any], shape: tuple[int, int]) -> Mask:
    return draw_turned_box(annotation.get("bbox"), annotation, shape)


def _ellipse(annotation: Mapping[str, Any], shape: tuple[int, int]) -> Mask:
    return draw_ellipse(annotation.get("points"), shape, rotation_of(annotation))


def _mask(annotation: Mapping[str, Any], shape: tuple[int, int]) -> Mask:
    rle = annotation.get("rle")
    if not isinstance(rle, dict):
        raise DataError(f"its rle must be counts and size, it is {rle!r:.60}")
    return draw_coco_rle(rle, shape)
