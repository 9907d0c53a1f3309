"""COCO instances, as CVAT, Label Studio, Roboflow and many others export them: JSON, polygons and run lengths."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.label_studio.task_data import group_field, group_of
from backend.sources.conversion import Conversion, Exported, LeftOut, Mask, Region, convert
from backend.sources.drawing import draw_coco_rle, draw_even_odd, draw_polygons, draw_turned_box, plain_corners
from backend.sources.finding import ImageFiles, subset_of
from models.errors import DataError

# Exports of other kinds, which some tools write beside the instances of the same images.
OTHER_KINDS = re.compile(r"(?:person_)?keypoints_|captions_|panoptic_|stuff_|labels_|image_info_")

# An image's sides: a box that reaches farther was not drawn beyond an edge by accident.
BEYOND = 1.1
HOLES = 0.05  # of an object, from which on its area tells them


def is_coco(content: Any) -> bool:
    """Whether a JSON file has COCO's shape, of whichever kind."""
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in ("images", "annotations"))


def convert_coco(files: Mapping[Path, Any], images: ImageFiles, out: Path) -> Conversion:
    """Write COCO files as a data folder; see `convert`. The split is read from names of files, else of folders.

    An annotation with a box and no outline is a filled box; one with keypoints and no outline says that the class is
    there, but not where. An outline that lies mostly outside of its own box is not believed, nor are boxes that fit
    their images only as corners. Corners and boxes of a file of which none exceeds 1 are parts of the image's size, as
    Azure writes them. Where an image says which classes it was searched for, as in LVIS, the others are unknown. Groups
    are read from the first of the fields patient, study, series and group that all images have.

    Raises:
        DataError: no file has instances.
    """
    read = {path: content for path, content in files.items() if not _doubled(path, files)}
    others = {path.name: kind for path, content in read.items() if (kind := _other_kind(content))}
    read = {path: content for path, content in read.items() if path.name not in others}
    named = ", ".join(f"{name} has {kind}" for name, kind in others.items())
    if not read:
        raise DataError(f"{named}, and nothing has an outline; export COCO instances")
    field = group_field(image for content in read.values() for image in content["images"] if isinstance(image, dict))
    tables = {path: _Tables(path, content) for path, content in read.items()}
    classes = tuple(dict.fromkeys(chain.from_iterable(table.classes for table in tables.values())))
    exported = chain.from_iterable(table.exported(field) for table in tables.values())
    result = convert(exported, classes, images, out)
    result.notes += [f"not read: {named}"] if named else []
    result.notes += [
        f"{path.name}: no corner or box exceeds 1, so they are taken for parts of the image's size"
        for path, table in tables.items()
        if table.relative
    ]
    return result


def _doubled(path: Path, files: Mapping[Path, Any]) -> bool:
    """Whether the instances of the images of a file of another kind are in a file beside it."""
    subset = OTHER_KINDS.sub("", path.name, count=1)
    return subset != path.name and any(path.with_name(name) in files for name in (f"instances_{subset}", subset))


def _other_kind(content: Mapping[str, Any]) -> str | None:
    """The kind of a COCO file without instances, for people; None if it has instances."""
    annotations = [entry for entry in content["annotations"] if isinstance(entry, dict)]
    if not isinstance(content.get("categories"), list):
        return "captions" if any("caption" in entry for entry in annotations) else "no categories"
    if annotations and all("segments_info" in entry for entry in annotations):
        return "panoptic segments"
    if annotations and all(entry.get("keypoints") and not entry.get("segmentation") for entry in annotations):
        return "keypoints"
    return None


class _Tables:
    """The three tables of a COCO file, joined.

    Attributes:
        classes: names of the categories, in their order.
        relative: whether corners and boxes are parts of the image's size, not pixels.
    """

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        self._path = path
        self._images: list[Any] = content["images"]
        self._annotations: list[Any] = content["annotations"]
        self._names, self._bad_categories = _categories(path.name, content["categories"])
        self.classes = [name for name in self._names.values() if name is not None]
        self.relative = _are_relative(self._annotations)
        self._corners = not self.relative and self._are_corners()

    def exported(self, field: str | None) -> Iterator[Exported | LeftOut]:
        """The images with what is drawn on them, and the rows that do not fit.

        Args:
            field: of an image, which names its group.

        Raises:
            DataError: no annotation is of a listed image.
        """
        yield from self._bad_categories
        ids = Counter(_id(image, "id") for image in self._images)
        of_image: dict[str | None, list[tuple[int, Any]]] = defaultdict(list)
        written: dict[str, set[str]] = defaultdict(
            set
        )  # an id without spaces and leading zeros -> ids as images have it
        for known in filter(None, ids):
            written[_bare(known)].add(known)
        for index, annotation in enumerate(self._annotations):
            key = _id(annotation, "image_id")
            alike = written.get(_bare(key), set()) if key is not None and key not in ids else set()
            key = next(iter(alike)) if len(alike) == 1 else key
            of_image[key if key in ids else None].append((index, annotation))
        if 0 < len(self._annotations) == len(of_image[None]):
            # Ids of another kind than those of the images, such as names of files: all images would seem empty.
            said = (
                f"{_shown(self._annotations[0], 'image_id')}, and the images have ids such as {next(iter(ids), None)!r}"
            )
            raise DataError(f"{self._path.name} has no annotation of an image that it lists: the first is of {said}")
        for index, image in enumerate(self._images):
            key = _id(image, "id")
            path = image.get("file_name") or image.get("coco_url") if isinstance(image, dict) else None
            if not isinstance(path, str) or not path.strip():
                yield LeftOut(self._row("image", image, index), "it lacks a file_name")
            elif key is None:
                yield LeftOut(path, "it lacks an id, so that its annotations are not known")
            elif ids[key] > 1:
                yield LeftOut(path, f"{ids[key]} images have the id {key}: which of them is annotated is not known")
            else:
                found = self._image(image, path, of_image.get(key, []), field)
                if isinstance(found, Exported) and not found.regions and of_image[None]:
                    # An annotation whose image is not known may be of any that seems to have none.
                    found = replace(found, offered=())
                yield found
        for index, annotation in of_image[None]:
            why = f"it is of image {_shown(annotation, 'image_id')}, which the file does not list"
            yield LeftOut(self._row("annotation", annotation, index), why)

    def _are_corners(self) -> bool:
        """Whether boxes seem to be left, top, right, bottom: so all lie within their images, as x, y, w, h not."""
        shapes = {_id(image, "id"): _shape(image) for image in self._images if isinstance(image, dict)}
        beyond = False
        for row in self._annotations:
            shape = shapes.get(_id(row, "image_id"))
            box = _box(row.get("bbox")) if isinstance(row, dict) and not row.get("segmentation") else None
            if shape is None or box is None:
                continue
            corner, extent, sides = box[:2], box[2:], np.array(shape[::-1])
            if not (corner < extent).all() or not (extent <= sides + 1).all():
                return False
            beyond = beyond or bool((corner + extent > BEYOND * sides).any())
        return beyond

    def _image(
        self, image: Mapping[str, Any], path: str, annotations: list[tuple[int, Any]], field: str | None
    ) -> Exported | LeftOut:
        regions = []
        for index, annotation in annotations:
            label = self._names.get(_id(annotation, "category_id") or "")
            if label is None:
                row = self._row("annotation", annotation, index)
                return LeftOut(path, f"{row} is of category {_shown(annotation, 'category_id')}, which is not listed")
            regions.append(Region(label, _drawing(annotation, self.relative, self._corners)))
        folders = PurePosixPath(path.replace("\\", "/")).parts[-2:-4:-1]
        subset = subset_of(self._path.stem, *folders, self._path.parent.name, self._path.parent.parent.name)
        regions += [Region(label) for label in self._listed(image, "not_exhaustive_category_ids")]
        searched = self._listed(image, "neg_category_ids") if "neg_category_ids" in image else self.classes
        return Exported(
            path,
            regions,
            _shape(image),
            subset=subset,
            group=group_of(image, field),
            offered=searched,
        )

    def _listed(self, image: Mapping[str, Any], field: str) -> list[str]:
        """The classes that a field of an image lists."""
        ids = image.get(field)
        named = (self._names.get(str(key)) for key in ids) if isinstance(ids, list) else ()
        return [label for label in named if label is not None]

    def _row(self, kind: str, row: Any, index: int) -> str:
        key = _id(row, "id")
        return f"{kind} {key if key is not None else f'no. {index + 1}'} of {self._path.name}"


def _categories(file: str, rows: list[Any]) -> tuple[dict[str, str | None], list[LeftOut]]:
    """Id -> name of the categories, None for an id of several; and the rows that cannot be read."""
    names: dict[str, str | None] = {}
    bad: list[LeftOut] = []
    for index, row in enumerate(rows):
        key = _id(row, "id")
        name = row.get("name") if isinstance(row, dict) else None
        what = f"category {key if key is not None else f'no. {index + 1}'} of {file}"
        if key is None or not isinstance(name, str | int | float) or not str(name).strip():
            bad.append(LeftOut(what, f"it lacks {'an id' if key is None else 'a name'}"))
        elif names.get(key, str(name)) != str(name):
            bad.append(LeftOut(what, f"its id is that of {names[key]!r} and of {name!r}"))
            names[key] = None
        else:
            names[key] = str(name)
    return names, bad


def _id(row: Any, field: str) -> str | None:
    """An id as text, since some tools write numbers as text; None without one."""
    value = row.get(field) if isinstance(row, dict) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None


def _bare(key: str) -> str:
    """An id without spaces around it and zeros before it, with which some tools write one of two tables."""
    return key.strip().lstrip("0") or "0"


def _shown(row: Any, field: str) -> str:
    return repr(row.get(field))[:40] if isinstance(row, dict) else repr(row)[:40]


def _shape(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """(H, W), None where the file does not say it as positive whole numbers."""
    try:
        height, width = float(image["height"]), float(image["width"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    whole = height.is_integer() and width.is_integer() and min(height, width) >= 1
    return (int(height), int(width)) if whole else None


def _are_relative(annotations: list[Any]) -> bool:
    """Whether all corners and boxes are between 0 and 1, and some within: parts of the image's size."""
    fractions = False
    for annotation in annotations:
        fields = annotation if isinstance(annotation, dict) else {}
        for value in _numbers([_outline(fields), fields.get("bbox")]):
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                return False
            fractions = fractions or value not in (0, 1)
    return fractions


def _numbers(value: Any) -> Iterator[Any]:
    """The entries of lists within lists, without run lengths."""
    if isinstance(value, list):
        for entry in value:
            yield from _numbers(entry)
    elif value is not None and not isinstance(value, dict):
        yield value


def _in_pixels(value: Any, shape: tuple[int, int]) -> Any:
    """Parts of the image's size, in lists x, y, x, y ... of any depth, as pixels."""
    if not isinstance(value, list):
        return value
    sides = shape[1], shape[0]
    return [
        entry * sides[index % 2] if isinstance(entry, int | float) else _in_pixels(entry, shape)
        for index, entry in enumerate(value)
    ]


def _outline(annotation: Mapping[str, Any]) -> Any:
    """The outline, its corners as lists of numbers where they can be read so."""
    outline = annotation.get("segmentation")
    try:
        return plain_corners(outline)
    except ValueError:
        return outline


def _box(value: Any) -> NDArray[np.float64] | None:
    """A box as four numbers, None where it is none with an area."""
    try:
        box = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return box if box.shape == (4,) and np.isfinite(box).all() and (box[2:] > 0).all() else None


def _drawing(annotation: Mapping[str, Any], relative: bool, corners: bool) -> Callable[[tuple[int, int]], Mask] | None:
    outline = _outline(annotation)
    box = annotation.get("bbox")
    if outline and outline != [[]]:
        return partial(_draw, outline, box, None if relative else annotation.get("area"), relative)
    if not box or annotation.get("keypoints"):
        return None
    return partial(_draw_box, box, annotation, relative, corners)


def _draw_box(box: Any, annotation: Mapping[str, Any], relative: bool, corners: bool, shape: tuple[int, int]) -> Mask:
    if corners:
        raise DataError(
            f"the boxes of its file lie within their images only if they are corners, such as {str(box)[:60]}; write "
            "x, y, width, height"
        )
    return draw_turned_box(_in_pixels(box, shape) if relative else box, annotation, shape)


def _draw(outline: Any, box: Any, area: Any, relative: bool, shape: tuple[int, int]) -> Mask:
    """Run lengths, a list of them, or polygons, whose box tells whether their corners are pixels.

    COCO has no holes. A polygon within another of the same object is one, as OpenCV finds them, where the object's area
    is that of what is left.
    """
    parts = outline if isinstance(outline, list) else [outline]
    if all(isinstance(part, dict) for part in parts):
        mask = np.asarray(np.logical_or.reduce([draw_coco_rle(part, shape) for part in parts]))
    else:
        mask = draw_polygons(_in_pixels(outline, shape) if relative else outline, shape, None if relative else box)
        if len(parts) > 1 and isinstance(area, int | float) and 0 < area < (1 - HOLES) * mask.sum():
            cut = draw_even_odd(outline, shape)
            mask = cut if abs(cut.sum() - area) < HOLES / 2 * mask.sum() else mask
    _check_within(mask, _box(_in_pixels(box, shape) if relative else box))
    return mask


def _check_within(mask: Mask, box: NDArray[np.float64] | None) -> None:
    """Raise DataError where most of a mask lies outside of the box that its annotation gives it.

    Run lengths that go row after row, corners that are y, x, and outlines of an image of another size do.
    """
    if box is None or (box <= 1).all():  # parts of the image's size, beside an outline in pixels
        return
    left, top = np.floor(np.maximum(box[:2], 0)).astype(int)
    right, bottom = np.ceil(np.maximum(box[:2] + box[2:], 0)).astype(int)
    if 2 * mask[top:bottom, left:right].sum() < mask.sum():
        raise DataError(f"most of its outline lies outside of its bbox, {box.tolist()}; correct one of them")
