"""Tools beside a `<Labels>` tag: Label Studio keeps two results with one id, which the rest sees as one region.

One result has the shape (type "brush"), the other repeats the shape and has the label (type "labels"). Merged they are
the region that a tag with labels of its own writes (type "brushlabels").
"""

from collections.abc import Mapping, Sequence
from typing import Any

from backend.label_studio.controls.control import Control
from backend.label_studio.controls.region import value_of

# A tool without labels -> the tag whose regions it draws.
TOOLS = {tool: f"{tool}Labels" for tool in ("Brush", "Bitmask", "Polygon", "Vector", "Rectangle", "Ellipse")}
# Type of a tool's result -> that of the region.
MERGED = {tool.lower(): tag.lower() for tool, tag in TOOLS.items()}
MERGED |= {"magicwand": "brushlabels", "keypoint": "keypointlabels"}
LABELS = "labels"
PAIRED = {*MERGED, LABELS}
# Where the tool's result is missing, the coordinates tell the kind of the region.
MARKS = {
    "rle": "brushlabels",
    "imageDataURL": "bitmasklabels",
    "points": "polygonlabels",
    "vertices": "vectorlabels",
    "radiusX": "ellipselabels",
    "height": "rectanglelabels",
}


def merge_results(result: Any) -> list[Mapping[str, Any]]:
    """The regions of a result, in order, each with its labels; entries that are no objects are left out.

    Args:
        result: of an annotation, a prediction, a draft or a smart tool's context.
    """
    regions = [region for region in result if isinstance(region, Mapping)] if isinstance(result, list) else []
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for position, region in enumerate(regions):
        # Choices about a region have its id too, and are neither of its two results.
        paired = _type(region) in PAIRED and region.get("id")
        groups.setdefault(("pair", str(paired)) if paired else position, []).append(region)
    return [_merged(group) for group in groups.values()]


def split_results(region: dict[str, Any], control: Control) -> list[dict[str, Any]]:
    """A region as Label Studio keeps it: itself, or two results if the labels of its control are another tag's."""
    if control.labels_name is None:
        return [region]
    kind = region["type"]
    value = {key: part for key, part in region["value"].items() if key != kind}
    labels = {**value, LABELS: region["value"][kind]}
    return [
        {**region, "type": kind.removesuffix(LABELS), "value": value},
        {**region, "type": LABELS, "from_name": control.labels_name, "value": labels},
    ]


def _merged(results: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The region that these results are about; the tool's says which control drew it."""
    region = next((result for result in results if _type(result) in MERGED), results[-1])
    if _type(region) not in PAIRED:
        return region
    value = {key: part for result in results for key, part in value_of(result).items() if key != LABELS}
    kind = MERGED.get(_type(region)) or next((kind for mark, kind in MARKS.items() if mark in value), None)
    if kind is None:
        return region
    labels = [label for result in results for label in _listed(value_of(result).get(LABELS))]
    return {**region, "type": kind, "value": {**value, kind: list(dict.fromkeys(labels))}}


def _type(region: Mapping[str, Any]) -> str:
    return str(region.get("type"))


def _listed(labels: Any) -> list[str]:
    return [str(label) for label in labels] if isinstance(labels, list) else []
