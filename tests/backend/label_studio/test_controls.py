"""Regions that Label Studio reads as they were meant, and masks that are what the annotator drew."""

import io
import math
import struct
from base64 import b64decode, b64encode
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from backend.errors import RegionError
from backend.label_studio.controls import CHOICES, REGION_CONTROLS
from backend.label_studio.controls.bitmask import PREFIX as BITMASK_PREFIX
from backend.label_studio.controls.bitmask import encode_bitmask
from backend.label_studio.controls.region import Mask, NoArea
from backend.label_studio.rle import encode_rle
from models.masks.rasterising import fill_polygon
from models.segment import Prediction, Segment
from tests.backend.label_studio.configs import control


def region(tag: str, shape: tuple[int, int] = (48, 64), **value: Any) -> dict[str, Any]:
    return {"id": "r1", "type": tag.lower(), "original_height": shape[0], "original_width": shape[1], "value": value}


def iou(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))


def box(shape: tuple[int, int], x: int, y: int, width: int, height: int) -> Mask:
    mask = np.zeros(shape, dtype=bool)
    mask[y : y + height, x : x + width] = True
    return mask


@st.composite
def boxes(draw: st.DrawFn) -> tuple[Mask, tuple[int, int, int, int]]:
    height, width = draw(st.integers(4, 60)), draw(st.integers(4, 60))
    x, y = draw(st.integers(0, width - 3)), draw(st.integers(0, height - 3))
    w, h = draw(st.integers(3, width - x)), draw(st.integers(3, height - y))
    return box((height, width), x, y, w, h), (x, y, w, h)


def data_url(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return BITMASK_PREFIX + b64encode(file.getvalue()).decode()


def claiming(url: str, width: int, height: int) -> str:
    """A bitmask whose PNG header names another size."""
    png = bytearray(b64decode(url.removeprefix(BITMASK_PREFIX)))
    png[16:24] = struct.pack(">II", width, height)
    return BITMASK_PREFIX + b64encode(png).decode()


# Brush


@given(st.lists(st.integers(-1, 300), max_size=40))
def test_garbage_is_an_error_and_never_a_mask(rle: list[int]) -> None:
    """No forty bytes announce just that size and then hold as much."""
    with pytest.raises(RegionError):
        REGION_CONTROLS["BrushLabels"].to_mask(region("BrushLabels", (500, 6000), format="rle", rle=rle))


@given(st.data())
def test_a_damaged_encoding_gives_a_mask_or_an_error_of_ours(data: st.DataObject) -> None:
    rle = encode_rle(box((20, 30), 3, 4, 5, 6))
    for _ in range(data.draw(st.integers(1, 4))):
        rle[data.draw(st.integers(4, len(rle) - 1))] = data.draw(st.integers(0, 255))
    try:
        mask = REGION_CONTROLS["BrushLabels"].to_mask(region("BrushLabels", (20, 30), rle=rle))
    except RegionError:
        return
    assert mask.shape == (20, 30)


def test_a_truncated_encoding_is_an_error() -> None:
    rle = encode_rle(box((20, 20), 3, 4, 5, 6))
    with pytest.raises(RegionError, match="RLE"):
        REGION_CONTROLS["BrushLabels"].to_mask(region("BrushLabels", (20, 20), rle=rle[: len(rle) // 2]))


def test_an_encoding_of_another_size_is_named_before_it_is_decoded() -> None:
    rle = encode_rle(np.zeros((10, 10), dtype=bool))
    with pytest.raises(RegionError, match="holds 100 pixels, expected 20 x 20"):
        REGION_CONTROLS["BrushLabels"].to_mask(region("BrushLabels", (20, 20), rle=rle))


# Bitmask


@given(arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_a_bitmask_holds_any_mask_pixel_for_pixel(mask: Mask) -> None:
    adapter = REGION_CONTROLS["BitmaskLabels"]
    (made,) = adapter.to_regions(Segment("Lumen", 0.5, mask), control("BitmaskLabels"))
    assert np.array_equal(adapter.to_mask(made), mask)


@given(arrays(np.bool_, st.tuples(st.integers(1, 30), st.integers(1, 30))).filter(np.any))
def test_bitmasks_per_object_are_the_mask_together(mask: Mask) -> None:
    adapter = REGION_CONTROLS["BitmaskLabels"]
    masks = [
        adapter.to_mask(made)
        for made in adapter.to_regions(Segment("Lumen", 0.5, mask), control("BitmaskLabels"), per_object=True)
    ]
    assert np.array_equal(np.sum(masks, axis=0), mask)


def test_a_bitmask_is_black_on_a_transparent_picture_as_the_editor_draws_it() -> None:
    url = encode_bitmask(box((30, 50), 5, 6, 20, 10))
    pixels = np.asarray(Image.open(io.BytesIO(b64decode(url.removeprefix(BITMASK_PREFIX)))))
    assert pixels.shape == (30, 50, 4)
    assert not pixels[..., :3].any()
    assert np.array_equal(pixels[..., 3] == 255, box((30, 50), 5, 6, 20, 10))
    assert np.isin(pixels[..., 3], (0, 255)).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_of_a_bitmask_alpha_alone_counts(mode: str) -> None:
    """The soft edge of a stroke belongs to it from half of the full alpha on."""
    picture = Image.new("RGBA", (3, 1), (255, 255, 255, 0))
    picture.putpixel((1, 0), (9, 9, 9, 127))
    picture.putpixel((2, 0), (9, 9, 9, 128))
    url = data_url(picture.quantize() if mode == "P" else picture.convert(mode))
    mask = REGION_CONTROLS["BitmaskLabels"].to_mask(region("BitmaskLabels", (1, 3), imageDataURL=url))
    assert mask.tolist() == [[False, False, True]]


def test_a_bitmask_of_another_size_is_scaled_to_the_image() -> None:
    mask = box((20, 30), 3, 4, 9, 6)
    made = region("BitmaskLabels", (40, 60), imageDataURL=encode_bitmask(mask))
    assert np.array_equal(REGION_CONTROLS["BitmaskLabels"].to_mask(made), mask.repeat(2, axis=0).repeat(2, axis=1))


# Vector


def vertices(*points: tuple[float, float], **fields: Any) -> list[dict[str, Any]]:
    """Vertices along a closed path, each naming the one before it."""
    before = [len(points) - 1, *range(len(points) - 1)]
    return [
        {"id": str(i), "prevPointId": str(before[i]), "x": x, "y": y, "isBezier": False, **fields}
        for i, (x, y) in enumerate(points)
    ]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1)])
def test_a_closed_path_is_filled_in_the_order_that_its_vertices_name(order: tuple[int, ...]) -> None:
    path = vertices((25, 25), (75, 25), (75, 75), (25, 75))
    made = region("VectorLabels", (40, 80), vertices=[path[i] for i in order], closed=True)
    assert np.array_equal(REGION_CONTROLS["VectorLabels"].to_mask(made), box((40, 80), 20, 10, 40, 20))


def test_without_names_vertices_follow_each_other_as_listed() -> None:
    path = [{"x": x, "y": y} for x, y in ((25, 25), (75, 25), (75, 75), (25, 75))]
    made = region("VectorLabels", (40, 80), vertices=path, closed=True)
    assert np.array_equal(REGION_CONTROLS["VectorLabels"].to_mask(made), box((40, 80), 20, 10, 40, 20))


def test_four_curves_make_a_circle() -> None:
    """The handles of the usual approximation, 0.5523 of the radius, are a thousandth off a true circle."""
    radius, handle = 40.0, 40 * 0.5523
    path = vertices((50 + radius, 50), (50, 50 + radius), (50 - radius, 50), (50, 50 - radius), isBezier=True)
    for vertex, (dx, dy) in zip(path, ((0, 1), (-1, 0), (0, -1), (1, 0)), strict=True):
        vertex["controlPoint1"] = {"x": vertex["x"] - dx * handle, "y": vertex["y"] - dy * handle}
        vertex["controlPoint2"] = {"x": vertex["x"] + dx * handle, "y": vertex["y"] + dy * handle}
    mask = REGION_CONTROLS["VectorLabels"].to_mask(region("VectorLabels", (200, 200), vertices=path, closed=True))
    y, x = np.mgrid[:200, :200] + 0.5
    assert iou(mask, (x - 100) ** 2 + (y - 100) ** 2 <= 80**2) > 0.995


def test_a_curve_with_one_handle_bends_towards_it() -> None:
    path = vertices((20, 50), (80, 50), (50, 90))
    path[0] |= {"isBezier": True, "controlPoint1": {"x": 20, "y": 50}, "controlPoint2": {"x": 30, "y": 0}}
    bent = REGION_CONTROLS["VectorLabels"].to_mask(region("VectorLabels", (100, 100), vertices=path, closed=True))
    assert bent[40, 40]
    assert not bent[45, 75]


@pytest.mark.parametrize("closed", [{}, {"closed": False}, {"closed": "true"}])
def test_an_open_path_has_no_area(closed: dict[str, Any]) -> None:
    made = region("VectorLabels", vertices=vertices((0, 0), (50, 0), (50, 50)), **closed)
    with pytest.raises(NoArea, match="not closed"):
        REGION_CONTROLS["VectorLabels"].to_mask(made)


@given(boxes())
def test_closed_paths_around_a_mask_are_within_a_pixel_of_it(drawn: tuple[Mask, tuple[int, int, int, int]]) -> None:
    adapter = REGION_CONTROLS["VectorLabels"]
    (made,) = adapter.to_regions(Segment("Lumen", 1.0, drawn[0]), control("VectorLabels"))
    assert np.array_equal(adapter.to_mask(made), drawn[0])


# Every kind


@pytest.mark.parametrize("tag", REGION_CONTROLS)
def test_a_region_carries_what_the_editor_needs(tag: str) -> None:
    mask = box((30, 50), 5, 6, 20, 10)
    (made,) = REGION_CONTROLS[tag].to_regions(Segment("a", 0.75, mask), control(tag, {"a": "Lumen"}))
    assert made["type"] == tag.lower()
    assert (made["from_name"], made["to_name"]) == ("tag", "image")
    assert (made["original_height"], made["original_width"]) == (30, 50)
    assert made["value"][tag.lower()] == ["Lumen"]
    assert made["score"] == 0.75
    assert REGION_CONTROLS[tag].labels(made) == ["Lumen"]


@pytest.mark.parametrize("tag", REGION_CONTROLS)
@pytest.mark.parametrize("size", [(None, 5), (0, 5), ("5", 5), (10**6, 10**6)])
def test_an_impossible_size_is_an_error(tag: str, size: tuple[Any, Any]) -> None:
    broken = region(tag) | {"original_height": size[0], "original_width": size[1]}
    with pytest.raises(RegionError, match="'r1'"):
        REGION_CONTROLS[tag].to_mask(broken)


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("BrushLabels", {}),
        ("BrushLabels", {"rle": None}),
        ("PolygonLabels", {"points": [[1, 2], [3, 4]]}),
        ("PolygonLabels", {"points": [[1, 2], [3, 4], [5, math.nan]]}),
        ("PolygonLabels", {"points": [[1, 2], [3], [5, 6]]}),
        ("PolygonLabels", {"points": "abc"}),
        ("RectangleLabels", {"x": 1, "y": 1, "width": 3}),
        ("RectangleLabels", {"x": 1, "y": 1, "width": 3, "height": math.inf}),
        ("RectangleLabels", {"x": 1, "y": 1, "width": 3, "height": 3, "rotation": "quarter"}),
        ("EllipseLabels", {"x": 1, "y": 1, "radiusX": True, "radiusY": 2}),
        ("BitmaskLabels", {"imageDataURL": "https://example.com/mask.png"}),
        ("BitmaskLabels", {"imageDataURL": BITMASK_PREFIX + "%%%"}),
        ("BitmaskLabels", {"imageDataURL": BITMASK_PREFIX + "AAAA"}),
        ("BitmaskLabels", {"imageDataURL": encode_bitmask(np.ones((9, 9), bool))[:-40]}),
        ("BitmaskLabels", {"imageDataURL": data_url(Image.new("L", (64, 48), 255))}),
        ("BitmaskLabels", {"imageDataURL": claiming(encode_bitmask(np.ones((9, 9), bool)), 200_000, 200_000)}),
        ("VectorLabels", {"closed": True, "vertices": [{"x": 1, "y": 1}, {"x": 2, "y": 2}]}),
        ("VectorLabels", {"closed": True, "vertices": [{"x": 1, "y": 1}, {"x": 2, "y": 2}, {"x": None, "y": 2}]}),
        ("VectorLabels", {"closed": True, "vertices": [[1, 1], [2, 2], [3, 1]]}),
        (
            "VectorLabels",
            {"closed": True, "vertices": [{"id": i, "prevPointId": 1, "x": i, "y": 0} for i in (1, 2, 3)]},
        ),
    ],
)
def test_a_value_that_cannot_be_is_an_error(tag: str, value: dict[str, Any]) -> None:
    with pytest.raises(RegionError):
        REGION_CONTROLS[tag].to_mask(region(tag, **value))


@pytest.mark.parametrize("tag", REGION_CONTROLS)
@pytest.mark.parametrize("value", [None, [], "text"])
def test_a_region_without_a_value_is_an_error(tag: str, value: Any) -> None:
    broken = region(tag) | {"value": value}
    assert REGION_CONTROLS[tag].labels(broken) == []
    with pytest.raises(RegionError):
        REGION_CONTROLS[tag].to_mask(broken)


def test_a_region_whose_label_was_taken_away_has_none() -> None:
    assert REGION_CONTROLS["BrushLabels"].labels(region("BrushLabels", rle=[])) == []


# Polygons


@given(boxes())
def test_a_rectangular_mask_survives_as_a_polygon(drawn: tuple[Mask, tuple[int, int, int, int]]) -> None:
    adapter = REGION_CONTROLS["PolygonLabels"]
    (made,) = adapter.to_regions(Segment("Lumen", 1.0, drawn[0]), control("PolygonLabels"))
    assert np.array_equal(adapter.to_mask(made), drawn[0])


def test_a_round_mask_becomes_a_polygon_of_few_corners_within_a_pixel() -> None:
    rows, columns = np.mgrid[:200, :300]
    mask = (rows - 90) ** 2 + (columns - 150) ** 2 <= 70**2
    adapter = REGION_CONTROLS["PolygonLabels"]
    (made,) = adapter.to_regions(Segment("Lumen", 1.0, mask), control("PolygonLabels"))
    assert len(made["value"]["points"]) < 60
    assert iou(adapter.to_mask(made), mask) > 0.97


def test_each_part_becomes_a_polygon_without_specks_and_with_its_holes() -> None:
    mask = box((60, 80), 5, 5, 30, 30) | box((60, 80), 50, 10, 10, 10)
    hollow = mask & ~box((60, 80), 10, 10, 5, 5)
    specked = hollow.copy()
    specked[58, 78] = True
    made = REGION_CONTROLS["PolygonLabels"].to_regions(Segment("Lumen", 1.0, specked), control("PolygonLabels"))
    masks = [REGION_CONTROLS["PolygonLabels"].to_mask(one) for one in made]
    assert len(made) == len({one["id"] for one in made}) == 2
    assert iou(masks[0] | masks[1], hollow) > 0.98


@st.composite
def blobs(draw: st.DrawFn) -> Mask:
    """Discs of at least 30 pixels across, grown together, on an image of odd sides."""
    height, width = draw(st.integers(75, 151)), draw(st.integers(75, 151))
    rows, columns = np.mgrid[:height, :width]
    mask = np.zeros((height, width), dtype=bool)
    for _ in range(draw(st.integers(1, 4))):
        row, column = draw(st.integers(20, height - 20)), draw(st.integers(20, width - 20))
        mask |= np.hypot(rows - row, columns - column) <= draw(st.integers(15, 50))
    return mask


@given(blobs())
def test_a_blob_of_any_shape_survives_as_polygons_in_percent(mask: Mask) -> None:
    adapter = REGION_CONTROLS["PolygonLabels"]
    made = adapter.to_regions(Segment("Lumen", 1.0, mask), control("PolygonLabels"))
    drawn = np.zeros_like(mask)
    for one in made:
        assert all(0 <= number <= 100 for point in one["value"]["points"] for number in point)
        drawn |= adapter.to_mask(one)
    assert iou(drawn, mask) >= 0.97


@given(blobs(), st.sampled_from(["RectangleLabels", "EllipseLabels"]))
@settings(max_examples=50)
def test_boxes_and_ellipses_stay_within_their_hundred_percent(mask: Mask, tag: str) -> None:
    for one in REGION_CONTROLS[tag].to_regions(Segment("Lumen", 1.0, mask), control(tag)):
        sizes = {key: number for key, number in one["value"].items() if isinstance(number, float)}
        sizes.pop("rotation", None)
        assert all(0 <= number <= 100 for number in sizes.values())


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(-20, 60), st.floats(-20, 60)), min_size=3, max_size=8))
def test_a_pixel_is_in_a_polygon_by_the_crossings_of_its_centre(corners: list[tuple[float, float]]) -> None:
    shape = (20, 30)
    expected = np.zeros(shape, dtype=bool)
    for row in range(shape[0]):
        for column in range(shape[1]):
            x, y = column + 0.5, row + 0.5
            for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
                if (y0 <= y) != (y1 <= y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x:
                    expected[row, column] ^= True
    assert np.array_equal(fill_polygon(np.array(corners), shape), expected)


def test_a_polygon_beyond_any_image_is_cut_off_at_its_edges() -> None:
    points = [[-1e300, -1e300], [1e300, -1e300], [1e300, 1e300], [-1e300, 1e300]]
    assert REGION_CONTROLS["PolygonLabels"].to_mask(region("PolygonLabels", points=points)).all()


# Rectangles


@given(boxes())
def test_a_rectangular_mask_survives_as_a_rectangle(drawn: tuple[Mask, tuple[int, int, int, int]]) -> None:
    mask, (x, y, width, height) = drawn
    adapter = REGION_CONTROLS["RectangleLabels"]
    (made,) = adapter.to_regions(Segment("Lumen", 1.0, mask), control("RectangleLabels"))
    assert made["value"]["x"] == pytest.approx(x / mask.shape[1] * 100)
    assert made["value"]["y"] == pytest.approx(y / mask.shape[0] * 100)
    assert made["value"]["width"] == pytest.approx(width / mask.shape[1] * 100)
    assert made["value"]["height"] == pytest.approx(height / mask.shape[0] * 100)
    assert np.array_equal(adapter.to_mask(made), mask)


def test_a_rectangle_turns_clockwise_about_its_top_left_corner() -> None:
    """A quarter turn of a box 30 wide and 10 high hangs it below its corner, to the left."""
    shape = (50, 100)
    value = {"x": 40, "y": 10 / 50 * 100, "width": 30, "height": 10 / 50 * 100, "rotation": 90}
    turned = REGION_CONTROLS["RectangleLabels"].to_mask(region("RectangleLabels", shape, **value))
    assert np.array_equal(turned, box(shape, x=30, y=10, width=10, height=30))


def test_a_turned_rectangle_keeps_its_area_on_an_oblong_image() -> None:
    shape = (200, 400)
    value = {"x": 40, "y": 20, "width": 20, "height": 30, "rotation": 33}
    mask = REGION_CONTROLS["RectangleLabels"].to_mask(region("RectangleLabels", shape, **value))
    assert mask.sum() == pytest.approx(80 * 60, rel=0.02)


# Ellipses


def test_an_ellipse_covers_its_area_around_its_centre() -> None:
    shape = (200, 400)
    value = {"x": 50, "y": 50, "radiusX": 10, "radiusY": 40, "rotation": 0}
    mask = REGION_CONTROLS["EllipseLabels"].to_mask(region("EllipseLabels", shape, **value))
    assert mask.sum() == pytest.approx(math.pi * 40 * 80, rel=0.01)
    assert np.array_equal(np.flatnonzero(mask.any(axis=0))[[0, -1]], [160, 239])
    assert np.array_equal(np.flatnonzero(mask.any(axis=1))[[0, -1]], [20, 179])


def test_an_ellipse_turns_clockwise_about_its_centre() -> None:
    shape = (100, 100)
    value = {"x": 50, "y": 50, "radiusX": 40, "radiusY": 5, "rotation": 45}
    mask = REGION_CONTROLS["EllipseLabels"].to_mask(region("EllipseLabels", shape, **value))
    assert mask[70, 70]  # down to the right, as seen on the screen
    assert not mask[70, 30]


@given(
    st.floats(20, 80),
    st.floats(20, 80),
    st.floats(10, 30),
    st.floats(10, 30),
    st.floats(-180, 180),
    st.integers(60, 160),
)
@settings(max_examples=50)
def test_an_elliptic_mask_survives_as_an_ellipse(
    x: float, y: float, radius_x: float, radius_y: float, rotation: float, width: int
) -> None:
    adapter = REGION_CONTROLS["EllipseLabels"]
    shape = (400, 2 * width)
    inner = {"x": 50, "y": 50, "radiusX": radius_x, "radiusY": radius_y / 2, "rotation": rotation}
    mask = adapter.to_mask(region("EllipseLabels", shape, **inner))
    (made,) = adapter.to_regions(Segment("Lumen", 1.0, mask), control("EllipseLabels"))
    assert iou(adapter.to_mask(made), mask) > 0.93 or mask[[0, -1]].any() or mask[:, [0, -1]].any()


def test_an_ellipse_goes_around_a_ring() -> None:
    rows, columns = np.mgrid[:101, :151]
    distance = np.hypot(rows - 50, columns - 75)
    adapter = REGION_CONTROLS["EllipseLabels"]
    (made,) = adapter.to_regions(
        Segment("a", 1.0, (distance < 40) & (distance > 25)), control("EllipseLabels", {"a": "A"})
    )
    assert iou(adapter.to_mask(made), distance < 40) > 0.98


# Choices


def test_the_choices_of_the_classes_judged_present_are_taken_at_any_threshold() -> None:
    prediction = Prediction({"Lumen": 0.9, "Lipid core": 0.2, "blood": 0.6}, present=frozenset({"Lumen", "Lipid core"}))
    labels = {"Lumen": "lumen", "Lipid core": "core", "blood": "blood", "unknown": "unknown"}
    (made,) = CHOICES.to_regions(prediction, control("Choices", labels))
    assert made["type"] == "choices"
    assert made["value"] == {"choices": ["lumen", "core"]}
    assert made["score"] == 0.2


TWO = Prediction({"a": 0.6, "b": 0.8}, present=frozenset({"a", "b"}))


def test_of_a_single_choice_the_most_probable_is_taken() -> None:
    (made,) = CHOICES.to_regions(TWO, control("Choices", {"a": "a", "b": "b"}, single=True))
    assert made["value"] == {"choices": ["b"]}
    assert made["score"] == 0.8


def test_no_choice_is_taken_when_no_class_is_present() -> None:
    assert CHOICES.to_regions(Prediction({"a": 0.9}), control("Choices", {"a": "a"}, single=True)) == []


def test_a_choice_that_stands_for_several_classes_is_as_probable_as_the_likeliest() -> None:
    (made,) = CHOICES.to_regions(TWO, control("Choices", {"a": "x", "b": "x"}))
    assert (made["value"], made["score"]) == ({"choices": ["x"]}, 0.8)


def test_a_nested_choice_is_its_paths_last_step() -> None:
    assert CHOICES.labels({"value": {"choices": ["a", ["b", "c"]]}}) == ["a", "c"]
    for value in (None, {}, {"choices": "a"}):
        assert CHOICES.labels({"value": value}) == []
