"""CVAT's own exports, "CVAT for images 1.1" and "CVAT for video 1.1": XML, and images/ if they were saved with it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from backend.sources.conversion import Conversion, Exported, LeftOut, convert, offering
from backend.sources.cvat_shapes import is_background, labelled, regions, size_of
from backend.sources.cvat_video import Film, tracked_frames
from backend.sources.finding import ImageFiles, subset_of

# Labels that are made for one kind of shape, which has no area, are not learnt.
NO_AREA = ("points", "polyline", "skeleton", "cuboid")

ELEMENTS = ("version", "meta", "image", "track")


def is_cvat(content: Any) -> bool:
    """Whether an XML file is an export of CVAT's."""
    return isinstance(content, Element) and content.tag == "annotations" and content.find("meta") is not None


def convert_cvat(files: Mapping[Path, Any], images: ImageFiles, out: Path) -> Conversion:
    """Write CVAT exports as a data folder; see `convert`. A tag says that a class is on the image, not where.

    A shape with the label "background" is no class: it cuts a hole into what lies below it, as in CVAT's export of
    masks. Other labels cut nothing: there the topmost label takes a pixel, but a model has a mask for each class, and
    one may lie within another.

    Raises:
        DataError: nothing of the export can be read.
    """
    kinds: dict[str, str] = {}
    for root in files.values():
        kinds |= _kinds(root)
    ignored = {name for name, kind in kinds.items() if kind in NO_AREA}
    classes = tuple(name for name in kinds if name not in ignored and not is_background(name))
    exported = (
        row
        for path, root in files.items()
        for row in offering(_exported(path, root, images, ignored, len(files)), _kinds(root))
    )
    result = convert(exported, classes, images, out)
    result.notes += [f"{name}: not learnt, its label is for {kinds[name]}, without an area" for name in sorted(ignored)]
    return result


def _kinds(root: Element) -> dict[str, str]:
    """The labels of a document and what each is for; parts of a skeleton are listed as labels with a parent."""
    listed = [label for label in root.iterfind("meta//label") if label.find("parent") is None]
    return {label.findtext("name", ""): label.findtext("type", "any") for label in listed}


def _exported(
    path: Path, root: Element, images: ImageFiles, ignored: set[str], documents: int
) -> Iterator[Exported | LeftOut]:
    film = Film(root, images)
    for element in root:
        if element.tag not in ELEMENTS:
            yield LeftOut(f"element {element.tag} of {path.name}", "it is none of CVAT's that are known")
    for index, image in enumerate(root.iterfind("image")):
        yield _image(image, f"image no. {index + 1} of {path.name}", film, ignored)
    if root.find("track") is not None:
        yield from tracked_frames(path.name, root, film, ignored, group=film.title if documents > 1 else None)


def _image(image: Element, row: str, film: Film, ignored: set[str]) -> Exported | LeftOut:
    name = image.get("name", "").strip()
    if not name:
        return LeftOut(row, "it lacks a name")
    drawn = regions((label, shape) for label, shape in labelled(image) if label not in ignored)
    subset, page = image.get("subset", ""), film.page(name)
    return Exported(
        name,
        drawn,
        size_of(image.attrib),
        page=page or 0,
        subset=subset_of(subset),
        name="" if page is None else name,
        file=None if page is None else film.file,
    )
