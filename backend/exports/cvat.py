"""CVAT's "CVAT for images 1.1": annotations.xml with run-length encoded masks, images/SUBSET/."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from xml.sax.saxutils import XMLGenerator
from xml.sax.xmlreader import AttributesImpl

import numpy as np

from backend.errors import ExportError
from backend.exports.export import Export, Mask, Result, Tick, each, save_picture, write_table
from backend.exports.xml_text import is_xml_text
from models.masks.components import connected_components

BACKGROUND = "background"  # a label that CVAT gives a meaning


def write_cvat(export: Export, out: Path, tick: Tick) -> Result:
    """Write an export; a mask for each connected part, a tag for a class that is there without a mask.

    Raises:
        ExportError: a label has a character that XML cannot hold.
    """
    for label in export.classes:
        if not is_xml_text(label):
            raise ExportError(f"label {label!r} has a character that XML cannot hold; rename it for this format")
    result, files, names = Result(), {}, _names(export.classes)
    source = "manual" if export.version is None else "auto"
    with (out / "annotations.xml").open("w", encoding="utf-8") as file:
        xml = XMLGenerator(file, encoding="utf-8", short_empty_elements=True)
        xml.startDocument()
        with _element(xml, "annotations"):
            _text(xml, "version", "1.1")
            _meta(xml, export, names)
            for number, (image, shape) in enumerate(each(export, tick)):
                name = save_picture(image.sample, out / "images" / image.subset, image.stem)
                files[image.stem] = f"images/{image.subset}/{name}"
                fields = {"id": str(number), "name": name, "subset": image.subset}
                with _element(xml, "image", fields | {"width": str(shape[1]), "height": str(shape[0])}):
                    for label in export.classes:
                        if label in image.sample.masks:
                            for part in _parts(image.sample.read_mask(label, shape)):
                                shown = {
                                    "label": names[label],
                                    "source": source,
                                    "occluded": "0",
                                    **part,
                                    "z_order": "0",
                                }
                                with _element(xml, "mask", shown):
                                    result.count(label)
                        elif image.sample.presence.get(label):
                            with _element(xml, "tag", {"label": names[label], "source": source}):
                                result.count(label)
                result.images += 1
        xml.endDocument()
    write_table(export, out, files)
    return result


@contextmanager
def _element(xml: XMLGenerator, name: str, fields: Mapping[str, str] | None = None) -> Iterator[None]:
    xml.startElement(name, AttributesImpl(dict(fields or {})))
    yield
    xml.endElement(name)
    xml.ignorableWhitespace("\n")


def _text(xml: XMLGenerator, name: str, text: str) -> None:
    with _element(xml, name):
        xml.characters(text)


def _names(classes: Sequence[str]) -> dict[str, str]:
    """Class -> label. Shapes of a label "background", in any case, would cut holes into all others."""
    names: dict[str, str] = {}
    for label in classes:
        name = label
        while name.strip().casefold() == BACKGROUND or (name != label and name in (*classes, *names.values())):
            name = f"{name.strip()} (class)"
        names[label] = name
    return names


def _meta(xml: XMLGenerator, export: Export, names: Mapping[str, str]) -> None:
    described = "accepted annotations" if export.version is None else f"predictions of {export.version}, not accepted"
    with _element(xml, "meta"), _element(xml, "project"):
        _text(xml, "name", described if is_xml_text(described) else "predictions, not accepted")
        _text(xml, "subsets", "\n".join(export.subsets))
        with _element(xml, "labels"):
            for label in export.classes:
                with _element(xml, "label"):
                    _text(xml, "name", names[label])
                    _text(xml, "type", "any" if label in export.drawn else "tag")
                    _text(xml, "attributes", "")


def _parts(mask: Mask) -> Iterator[dict[str, str]]:
    """Attributes of a mask element for each connected part of a mask of shape (H, W)."""
    labels, components = connected_components(mask)
    for part in components:
        inside = (labels[part.box] == part.number).reshape(-1)
        ends = np.flatnonzero(np.diff(inside)) + 1
        lengths = np.diff(np.concatenate([[0], ends, [inside.size]])).tolist()
        runs = [0, *lengths] if inside[0] else lengths  # the first run is outside
        fields = {"left": part.x, "top": part.y, "width": part.width, "height": part.height}
        yield {"rle": ", ".join(map(str, runs))} | {name: str(value) for name, value in fields.items()}
