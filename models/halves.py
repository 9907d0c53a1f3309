"""A converted classifier in two, so that its first layers can be computed more exactly than the others.

What bfloat16 moves in the masks of light networks comes from their first layers, few channels of many places; most of
the time goes into the deeper ones. The cut lies where the finest features leave the backbone:

    images -> first layers -> features of stride 4 -> deeper layers, top-down path, class maps
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from typing import Any


def halves(model: Any) -> tuple[Any, Any] | None:
    """A classifier's model as two: images to the tensor at the cut; images, for their size, and it to the outputs.

    Args:
        model: OpenVINO's, with one input; is not changed.

    Returns:
        None where there is no such place: all paths from the images to the outputs have to lead through it.
    """
    cut = _cut(model)
    if cut is None:
        return None
    openvino, ops = import_module("openvino"), import_module("openvino.opset13")
    one, other = model.clone(), model.clone()
    tensor = _named(one, cut).output(0)
    passed = _named(other, cut).output(0)
    given = ops.parameter(passed.get_partial_shape(), passed.get_element_type())
    for reader in passed.get_target_inputs():
        reader.replace_source_output(given.output(0))
    first = openvino.Model([tensor], one.get_parameters(), f"{model.get_friendly_name()}-first")
    rest = openvino.Model(other.get_results(), [*other.get_parameters(), given], f"{model.get_friendly_name()}-rest")
    return first, rest


def _cut(model: Any) -> str | None:
    """Name of the operation after which most of the network hangs on one tensor; None if that is the input."""
    order = model.get_ordered_ops()
    names = [operation.get_friendly_name() for operation in order]
    if len(set(names)) < len(names):
        return None
    narrow = _narrow(order, {name: place for place, name in enumerate(names)})
    before, _ = max(pairwise(narrow), key=lambda gap: gap[1] - gap[0], default=(narrow[0], narrow[0]))
    return None if order[before].get_type_name() == "Parameter" else str(names[before])


def _narrow(order: Sequence[Any], place_of: Mapping[str, int]) -> list[int]:
    """Places in an order of operations at which one image-like tensor is all that the later ones read."""
    last_read: dict[int, int] = {}
    for place, operation in enumerate(order):
        sources = {place_of[value.get_node().get_friendly_name()] for value in operation.input_values()}
        if operation.get_type_name() == "Parameter" or (_is_image_like(operation) and sources & last_read.keys()):
            last_read[place] = place
        if operation.get_type_name() != "ShapeOf":  # sizes can be told from the images
            last_read |= dict.fromkeys(sources & last_read.keys(), place)
    narrow, read_until = [], -1
    for place, last in last_read.items():
        if read_until <= place:
            narrow.append(place)
        read_until = max(read_until, last)
    return narrow


def _is_image_like(operation: Any) -> bool:
    """Whether it gives floats of shape (B, K, h, w)."""
    if operation.get_type_name() == "Result":
        return False
    rank = operation.get_output_partial_shape(0).rank
    return bool(operation.get_output_element_type(0).is_real() and rank.is_static and rank.get_length() == 4)


def _named(model: Any, name: str) -> Any:
    return next(operation for operation in model.get_ops() if operation.get_friendly_name() == name)
