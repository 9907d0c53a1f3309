"""Outlines and run lengths in each form that tools write, compared with pycocotools, and what is refused."""

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backend.sources.drawing import decode_counts, draw_box, draw_coco_rle, draw_ellipse, draw_polygons
from models.errors import DataError
from models.masks.rasterising import fill_polygon
from tests.backend.sources.exports import block

reference = pytest.importorskip("pycocotools.mask")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11
SHAPE = (30, 40)
SQUARE = [10, 5, 22, 5, 22, 13, 10, 13]
SECOND = [30, 20, 34, 20, 34, 25, 30, 25]
DEEP: Any = []
for _ in range(500):
    DEEP = [DEEP]
MASKS = st.tuples(st.integers(1, 20), st.integers(1, 20)).flatmap(lambda shape: arrays(bool, shape))


def paired(corners: list[int]) -> list[list[int]]:
    return [corners[i : i + 2] for i in range(0, len(corners), 2)]


@pytest.mark.parametrize(
    "value",
    [
        [SQUARE],
        SQUARE,
        paired(SQUARE),
        [paired(SQUARE)],
        [SQUARE, [1, 1, 5, 5]],
        [[1, 1], SQUARE],
        [[], SQUARE],
        [SQUARE + SQUARE[:2]],
        [[float(number) for number in SQUARE]],
        [[SQUARE]],
        [[[paired(SQUARE)]]],
        [{"x": x, "y": y} for x, y in paired(SQUARE)],
        [[{"x": str(x), "y": y} for x, y in paired(SQUARE)]],
        [[str(number) for number in SQUARE]],
        "10,5,22,5,22,13,10,13",
        ["10 5 22 5 22 13 10 13"],
        ["10,5", "22,5", "22,13", "10,13"],
        "[10.0, 5, 22, 5; 22, 13; 10, 13]",
    ],
)
def test_a_polygon_is_the_same_in_every_form(value: Any) -> None:
    assert np.array_equal(draw_polygons(value, SHAPE), block(5, 10, 13, 22))


@pytest.mark.parametrize(
    "value", [[SQUARE, SECOND], [paired(SQUARE), paired(SECOND)], [SQUARE, paired(SECOND)], [[SQUARE], [SECOND]]]
)
def test_polygons_are_united(value: Any) -> None:
    assert np.array_equal(draw_polygons(value, SHAPE), block(5, 10, 13, 22) | block(20, 30, 25, 34))


@pytest.mark.parametrize(
    "value", [[[4, 5, 14, 13]], [4, 5, 14, 13], [[4, 5]], [[1, 1, 2, 2, 3, 3]], [[]], [[4, 5], [14, 13]]]
)
def test_an_outline_without_an_area_is_said_to_have_none(value: Any) -> None:
    with pytest.raises(DataError, match="its outline has no area"):
        draw_polygons(value, SHAPE)


@pytest.mark.parametrize(
    "value",
    [
        *("somewhere", None, 7, {}, [], [None], [[1, 2, 3]], [[1, 2, 3, None, 5, 6]], [[1, 2, "a", 4, 5, 6]]),
        *([[1, 2, float("nan"), 4, 5, 6]], [[1, 2, float("inf"), 4, 5, 6]], [[1, 2, 10**400, 4, 5, 6]]),
        *(
            [[[1, 2], [3, 4, 5], [6, 7]]],
            [SQUARE, "x"],
            [[1, 2, True, 4, 5, 6]],
            {"x": [10, 22, 22], "y": [5, 5, 13]},
            DEEP,
        ),
    ],
)
def test_what_is_no_polygon_is_refused(value: Any) -> None:
    with pytest.raises(DataError, match="its polygons must be lists"):
        draw_polygons(value, SHAPE)


@given(
    st.lists(st.floats(0.9, 1.1), min_size=5, max_size=12),
    st.tuples(st.floats(-5, 40), st.floats(-5, 35)),
    st.floats(4, 12),
)
def test_a_polygon_is_that_of_pycocotools_up_to_a_pixel(
    radii: list[float], centre: tuple[float, float], radius: float
) -> None:
    """pycocotools takes in pixels that the outline touches; ours takes those whose centre is inside."""
    angles = np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.array(radii)[:, None] * radius + centre
    ours = draw_polygons([corners.ravel().tolist()], SHAPE)
    theirs = reference.decode(reference.frPyObjects([corners.ravel().tolist()], *SHAPE))[..., 0].astype(bool)
    wider = np.ones((3, 3), dtype=np.uint8)
    for inner, outer in ((ours, theirs), (theirs, ours)):
        # What the border of the image cuts off is missing beside it: only the middle is compared.
        missing = inner & ~cv2.dilate(outer.astype(np.uint8), wider).astype(bool)
        assert not missing[1:-1, 1:-1].any()


@given(st.lists(st.tuples(st.floats(-50, 80), st.floats(-50, 80)), min_size=3, max_size=9))
def test_drawing_within_its_extent_changes_nothing(corners: list[tuple[float, float]]) -> None:
    points = np.round(np.array(corners), 2)
    try:
        mask = draw_polygons([points.ravel().tolist()], SHAPE)
    except DataError:
        return  # corners in a line, whose pixels are all on the outline
    assert (mask != fill_polygon(points, SHAPE)).sum() <= 1  # a centre on the outline itself may fall to either side


@given(MASKS)
def test_run_lengths_are_those_of_pycocotools(mask: np.ndarray) -> None:
    encoded = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
    compressed = {"size": list(mask.shape), "counts": encoded["counts"].decode()}
    assert np.array_equal(draw_coco_rle(compressed, mask.shape), mask)
    lengths = decode_counts(compressed["counts"])
    assert np.array_equal(draw_coco_rle({"size": list(mask.shape), "counts": lengths}, mask.shape), mask)
    uncompressed = reference.frPyObjects({"size": list(mask.shape), "counts": lengths}, *mask.shape)
    assert np.array_equal(reference.decode(uncompressed).astype(bool), mask)


@given(MASKS, st.data())
def test_a_damaged_string_is_refused_or_another_mask_of_the_size(mask: np.ndarray, data: st.DataObject) -> None:
    counts = list(reference.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode())
    place = data.draw(st.integers(0, len(counts) - 1))
    counts[place : place + 1] = data.draw(st.text(max_size=3))
    try:
        found = draw_coco_rle({"size": list(mask.shape), "counts": "".join(counts)}, mask.shape)
    except DataError:
        return
    assert found.shape == mask.shape
    assert found.dtype == bool


@pytest.mark.parametrize(
    ("rle", "said"),
    [
        ({"size": [40, 30], "counts": [1200]}, r"its RLE is of size \[40, 30\], the image is \[30, 40\]"),
        ({"size": [30, 40], "counts": [5, 100_000]}, "must add up to"),
        ({"size": [30, 40], "counts": [-5, 1205]}, "must add up to"),
        ({"size": [30, 40], "counts": []}, "must add up to"),
        ({"size": [30, 40], "counts": None}, "its RLE cannot be read: it must have size"),
        ({"size": [30, 40], "counts": "\0\0\0"}, "no sign of a compressed RLE"),
        ({"size": [30, 40], "counts": "o" * 100}, "longer than any image"),
        ({"size": [30, 40], "counts": "o"}, "does not end"),
        ({"size": [30, 40], "counts": [1.5, 1198.5]}, "its RLE cannot be read"),
        ({"size": [30, 40], "counts": [float("nan")]}, "its RLE cannot be read"),
        ({"size": [30, 40], "counts": [float("inf")]}, "its RLE cannot be read"),
        ({"size": [30, 40], "counts": {"a": 1}}, "its RLE cannot be read"),
        ({"size": [30, 40], "counts": 7}, "its RLE cannot be read"),
        ({"size": 7, "counts": [1200]}, "its RLE cannot be read"),
        ({"size": ["x", 40], "counts": [1200]}, "its RLE cannot be read"),
        ({"counts": "abc"}, "its RLE cannot be read: it must have size, .height, width., .* it has size None"),
    ],
)
def test_run_lengths_that_do_not_fit_are_named(rle: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        draw_coco_rle(rle, SHAPE)


def test_a_box_turns_about_its_middle() -> None:
    assert np.array_equal(draw_box([10, 5, 12, 8], SHAPE), block(5, 10, 13, 22))
    assert np.array_equal(draw_box([10, 5, 12, 8], SHAPE, 90), block(3, 12, 15, 20))


def test_an_ellipse_fills_its_box() -> None:
    rows, columns = np.nonzero(draw_ellipse([10, 5, 22, 13], SHAPE))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 12, 10, 21)


@pytest.mark.parametrize("value", [None, [1, 2], "abcd", [1, 2, 3, None], [1, 2, 3, float("nan")], [1, 2, 3, 10**400]])
def test_what_is_no_box_is_refused(value: Any) -> None:
    with pytest.raises(DataError, match="its bbox must be x, y, width, height"):
        draw_box(value, SHAPE)
    with pytest.raises(DataError, match="its ellipse must be left, top, right, bottom"):
        draw_ellipse(value, SHAPE)


@given(arrays(bool, (18, 24)))
def test_contours_that_opencv_finds_are_the_mask_that_they_were_found_in(mask: np.ndarray) -> None:
    """As Label Studio exports brushes to COCO: a row and a column of each object were lost."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    for contour in contours:
        filled = cv2.drawContours(np.zeros(mask.shape, np.uint8), [contour], -1, 1, cv2.FILLED).astype(bool)
        outline = [contour.ravel().tolist()]
        assert np.array_equal(draw_polygons(outline, mask.shape, list(cv2.boundingRect(contour))), filled)


@pytest.mark.parametrize("box", [[2, 2, 4, 3], None, [2, 2, 5], "x", [2.5, 2, 5, 4], [1, 2, 5, 4], [2, 2, 5, 4]])
def test_other_corners_are_those_of_pixels(box: Any) -> None:
    """The last has the box of a contour, but goes the other way round."""
    assert draw_polygons([[2, 2, 6, 2, 6, 5, 2, 5]], (8, 8), box).sum() == 12
