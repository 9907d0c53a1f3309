"""Tools beside a `<Labels>` tag: Label Studio keeps two results with one id, which the rest sees as one region.

One says what was drawn (type "brush"), the other repeats it and says what it is (type "labels"). Put together they are
what the tag with labels of its own writes (type "brushlabels").
"""

from collections.abc import Mapping, Sequence
from typing import Any

from backend.label_studio.controls.control import Control
from backend.label_studio.controls.region import value_of

# A tool without labels -> the tag whose regions it draws.
TOOLS = {"Brush": "BrushLabels", "Polygon": "PolygonLabels", "Rectangle": "RectangleLabels", "Ellipse": "EllipseLabels"}
# Type of a tool's result -> that of the region.
WHOLE = {tool.lower(): tag.lower() for tool, tag in TOOLS.items()}
WHOLE |= {"magicwand": "brushlabels", "keypoint": "keypointlabels"}
LABELS = "labels"
HALVES = {*WHOLE, LABELS}
# Where the tool's result is missing, the coordinates tell what was drawn.
MARKS = {"rle": "brushlabels", "points": "polygonlabels", "radiusX": "ellipselabels", "height": "rectanglelabels"}


def joined(result: Any) -> list[Mapping[str, Any]]:
    """The regions of a result, in order, each with its labels; what is no object is left out.

    Args:
        result: of an annotation, a prediction, a draft or a smart tool's context.
    """
    regions = [region for region in result if isinstance(region, Mapping)] if isinstance(result, list) else []
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for position, region in enumerate(regions):
        # Choices about a region have its id too, and are none of its halves.
        half = _type(region) in HALVES and region.get("id")
        groups.setdefault(("half", str(half)) if half else position, []).append(region)
    return [_whole(group) for group in groups.values()]


def parted(region: dict[str, Any], control: Control) -> list[dict[str, Any]]:
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


def _whole(halves: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The region that these results are about; the tool's says which control drew it."""
    region = next((half for half in halves if _type(half) in WHOLE), halves[-1])
    if _type(region) not in HALVES:
        return region
    value = {key: part for half in halves for key, part in value_of(half).items() if key != LABELS}
    kind = WHOLE.get(_type(region)) or next((kind for mark, kind in MARKS.items() if mark in value), None)
    if kind is None:
        return region
    labels = [label for half in halves for label in _listed(value_of(half).get(LABELS))]
    return {**region, "type": kind, "value": {**value, kind: list(dict.fromkeys(labels))}}


def _type(region: Mapping[str, Any]) -> str:
    return str(region.get("type"))


def _listed(labels: Any) -> list[str]:
    return [str(label) for label in labels] if isinstance(labels, list) else []
