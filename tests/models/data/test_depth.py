"""Samples of any depth become 0..255 by one rule for a whole file."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.data.depth import Scale, measured_scale, scale_of_bits


def scaled(*pages: Any, stated: int | None = None) -> list[list[int]]:
    arrays = [np.atleast_1d(page) for page in pages]
    scale = measured_scale(arrays, len(arrays), stated)
    return [scale.apply(page).tolist() for page in arrays]


@pytest.mark.parametrize(
    ("brightest", "top"),
    [(200, 255), (255, 255), (256, 1023), (1023, 1023), (1024, 4095), (4000, 4095), (4096, 16383), (16384, 65535)],
)
def test_the_smallest_depth_that_holds_the_brightest_sample_is_taken(brightest: int, top: int) -> None:
    samples = np.array([0, brightest - 1, brightest], np.uint16)
    assert scaled(samples)[0] == [round(int(value) * 255 / top) for value in samples]


def test_eight_bits_are_never_changed() -> None:
    dark = np.array([0, 1, 7], np.uint8)
    assert scaled(dark) == [[0, 1, 7]]
    assert scaled(dark.astype(np.uint16)) == [[0, 1, 7]]


def test_all_pages_of_a_file_are_scaled_alike() -> None:
    """A dark frame of a 12-bit stack stays dark."""
    assert scaled(np.array([0, 100], np.uint16), np.array([0, 4095], np.uint16)) == [[0, 6], [0, 255]]
    assert scaled(np.array([0, 1], np.float32), np.array([0, 2], np.float32))[0][1] == pytest.approx(128, abs=2)


def test_eight_bits_that_were_widened_become_those_again() -> None:
    assert scaled(np.arange(40, dtype=np.uint16) * 257)[0] == list(range(40))


def test_a_stated_depth_is_taken_where_the_samples_fit_in_it() -> None:
    assert scaled(np.array([0, 900], np.uint16), stated=12) == [[0, 56]]
    assert scaled(np.array([0, 5000], np.uint16), stated=12) == [[0, 78]]  # they do not
    assert scaled(np.array([0, 255], np.uint16), stated=12) == [[0, 255]]  # three upper bits are empty in all pages
    assert scaled(np.array([0, 1], np.uint8), stated=1) == [[0, 255]]


def test_signed_samples_without_negatives_have_fifteen_bits_at_most() -> None:
    assert scaled(np.array([0, 32767], np.int16)) == [[0, 255]]
    assert scaled(np.array([0, 4095], np.int16)) == [[0, 255]]


def test_negatives_and_large_integers_are_scaled_by_what_they_hold() -> None:
    assert scaled(np.array([-1000, 500, 1000], np.int16)) == [[0, 191, 255]]
    assert scaled(np.array([0, 3_000_000, 4_000_000], np.uint32)) == [[0, 191, 255]]
    assert scaled(np.array([0, 25700, 65535], np.int32)) == [[0, 100, 255]]


def test_percentiles_pass_over_a_few_extremes() -> None:
    samples = np.append(np.linspace(0, 1, 100_000), [1e9, -1e9])
    eight = np.array(scaled(samples)[0])
    assert abs(int(eight[50_000]) - 128) <= 1
    assert (eight[-2], eight[-1]) == (255, 0)


def test_a_few_objects_on_nothing_are_scaled_by_the_extremes() -> None:
    sparse = np.zeros(100_000, np.float32)
    sparse[7], sparse[8] = 5.0, 2.5
    assert np.array(scaled(sparse)[0])[[0, 7, 8]].tolist() == [0, 255, 128]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_what_is_no_number_is_black_and_infinity_is_white(dtype: Any) -> None:
    assert scaled(np.array([0, 1, np.nan, np.inf, -np.inf], dtype)) == [[0, 255, 0, 255, 0]]
    assert scaled(np.full(3, np.nan, dtype)) == [[0, 0, 0]]
    assert scaled(np.full(3, 7, dtype)) == [[0, 0, 0]]


@pytest.mark.parametrize("lowest", [-3.4028234663852886e38, -3.4e38, np.finfo(np.float64).min])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_lowest_float_stands_for_nothing(lowest: float, dtype: Any) -> None:
    """Programs write it where they have no value: everything else was white beside it."""
    with np.errstate(over="ignore"):
        assert scaled(np.array([lowest, 0, 0.5, 1, lowest], dtype)) == [[0, 0, 128, 255, 0]]


def test_the_largest_floats_do_not_overflow() -> None:
    assert scaled(np.array([-1.7e308, 0.85e308, 1.7e308])) == [[0, 191, 255]]


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=50))
def test_order_is_kept_and_nothing_becomes_darker_than_its_high_byte(values: list[int]) -> None:
    eight = scaled(np.array(sorted(values), np.uint16))[0]
    assert eight == sorted(eight)
    assert all(mine >= round(value / 257) for mine, value in zip(eight, sorted(values), strict=True))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.uint32, np.float32, ">u2", ">i2"])
def test_a_range_is_applied_alike_to_every_dtype(dtype: Any) -> None:
    samples = np.array([[0, 50], [100, 120]], dtype)
    assert Scale(0, 100).apply(samples).tolist() == [[0, 128], [255, 255]]
    assert scale_of_bits(8).apply(samples).tolist() == [[0, 50], [100, 120]]
