"""Our codec of brush masks against Label Studio's own, in both directions."""

import doctest
from importlib.metadata import distribution
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from backend.errors import RegionError
from backend.label_studio import rle as codec
from backend.label_studio.controls import REGION_CONTROLS
from backend.label_studio.controls.region import Mask
from backend.label_studio.rle import CHUNK, PAINTED, decode_rle, encode_rle


def label_studio_brush() -> Any:
    """The module label_studio_sdk.converter.brush, from its file: the package's own import takes seconds."""
    path = distribution("label-studio-sdk").locate_file("label_studio_sdk/converter/brush.py")
    spec = spec_from_file_location("label_studio_brush", str(path))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LABEL_STUDIO = label_studio_brush()
SHAPES = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40)


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    """Noise, nothing, everything, thin lines and blocks of odd and even sizes."""
    height, width = draw(SHAPES)
    kind = draw(st.sampled_from(["noise", "empty", "full", "rows", "columns", "block"]))
    if kind == "noise":
        return draw(arrays(np.bool_, (height, width)))
    mask = np.full((height, width), kind == "full")
    every = draw(st.integers(1, 9))
    if kind == "rows":
        mask[::every] = True
    if kind == "columns":
        mask[:, ::every] = True
    if kind == "block":
        mask[height // 3 : height // 3 + every, width // 4 : width // 4 + every] = True
    return mask


@st.composite
def encodings(draw: st.DrawFn, word_widths: st.SearchStrategy[int]) -> tuple[list[int], list[int], tuple[int, int]]:
    """RLE with any widths in its header and both kinds of run, as any encoder may write it: bytes, values and shape."""
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    word_width = draw(word_widths)
    length_widths = draw(st.lists(st.integers(1, 16), min_size=4, max_size=4))
    word = st.integers(0, 2**word_width - 1) | st.sampled_from([0, 2**word_width - 1])
    size = height * width * 4
    bits = f"{size:032b}{word_width - 1:05b}" + "".join(f"{bits - 1:04b}" for bits in length_widths)
    values: list[int] = []
    while len(values) < size:
        index = draw(st.integers(0, 3))
        repeated = draw(st.booleans())
        left = size - len(values) + (20 if repeated else 0)  # the last run may be longer than what is left
        length = draw(st.integers(1, min(left, 2 ** length_widths[index])))
        words = [draw(word)] if repeated else draw(st.lists(word, min_size=length, max_size=length))
        bits += f"{int(repeated)}{index:02b}{length - 1:0{length_widths[index]}b}"
        bits += "".join(f"{value:0{word_width}b}" for value in words)
        values += words * length if repeated else words
    bits += "0" * (-len(bits) % 8 + 8 * draw(st.integers(0, 2)))
    return [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)], values[:size], (height, width)


@given(masks())
@example(np.zeros((1, 1), dtype=bool))
@example(np.ones((1, 1), dtype=bool))
def test_the_bytes_are_label_studios_own(mask: Mask) -> None:
    rle = encode_rle(mask)
    assert rle == LABEL_STUDIO.mask2rle(mask.astype(np.uint8) * 255)
    assert all(type(byte) is int for byte in rle)


@given(masks())
def test_label_studio_reads_full_opacity_in_all_four_channels(mask: Mask) -> None:
    rgba = LABEL_STUDIO.decode_rle(encode_rle(mask)).reshape(*mask.shape, 4)
    assert np.array_equal(rgba, np.repeat(mask[:, :, None] * np.uint8(255), 4, axis=2))


@given(arrays(np.uint8, SHAPES))
def test_what_label_studio_writes_is_read(alpha: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> None:
    height, width = alpha.shape
    assert np.array_equal(decode_rle(LABEL_STUDIO.mask2rle(alpha), (height, width)), alpha >= PAINTED)


@given(encodings(st.integers(1, 8)))
def test_any_header_and_run_is_read_as_label_studio_reads_it(
    encoding: tuple[list[int], list[int], tuple[int, int]],
) -> None:
    rle, _, shape = encoding
    rgba = LABEL_STUDIO.decode_rle(rle).reshape(*shape, 4)
    assert np.array_equal(decode_rle(rle, shape), rgba[:, :, 3] >= PAINTED)


@given(encodings(st.integers(9, 32)))
def test_words_wider_than_a_byte_are_opacities_too(encoding: tuple[list[int], list[int], tuple[int, int]]) -> None:
    """Label Studio's decoder fails on them; its editor takes all from 255 on for opaque."""
    rle, values, shape = encoding
    assert np.array_equal(decode_rle(rle, shape), np.reshape(values, (*shape, 4))[:, :, 3] >= PAINTED)


@given(encodings(st.just(8)), st.data())
def test_an_encoding_that_ends_early_is_an_error(
    encoding: tuple[list[int], list[int], tuple[int, int]], data: st.DataObject
) -> None:
    rle, _, shape = encoding
    kept = data.draw(st.integers(0, len(rle) - 4))  # up to 3 bytes are padding
    with pytest.raises(ValueError, match=r"ends early|less than its header|it holds"):
        decode_rle(rle[:kept], shape)


@pytest.mark.parametrize("shape", [(1, 1), (1, 70000), (70000, 1), (301, 257), (4320, 7680)])
@pytest.mark.parametrize("value", [False, True])
def test_runs_longer_than_the_encodings_longest_survive(shape: tuple[int, int], value: bool) -> None:
    mask = np.full(shape, value)
    assert np.array_equal(decode_rle(encode_rle(mask), shape), mask)


def test_an_encoding_of_many_chunks_survives() -> None:
    mask = np.random.default_rng(0).random((512, 512)) < 0.5
    rle = encode_rle(mask)
    assert len(rle) > 3 * CHUNK
    assert np.array_equal(decode_rle(rle, (512, 512)), mask)


def test_a_mask_in_any_order_of_memory_is_encoded() -> None:
    mask = np.random.default_rng(0).random((30, 20)) < 0.5
    assert encode_rle(mask.T) == encode_rle(np.ascontiguousarray(mask.T))


def test_the_editors_own_bytes_are_read() -> None:
    """A 2x3 block in a 4x6 image, as written by the editor."""
    mask = np.zeros((4, 6), dtype=bool)
    mask[1:3, 2:5] = True
    golden = [0, 0, 0, 96, 57, 27, 254, 31, 0, 183, 255, 108, 2, 223, 254, 27, 0]
    assert encode_rle(mask)[: len(golden)] == golden
    assert np.array_equal(decode_rle(golden, (4, 6)), mask)


@pytest.mark.parametrize(
    ("rle", "reason"),
    [
        (None, "list of whole numbers"),
        (10**12, "list of whole numbers"),
        ("AAAA", "list of whole numbers"),
        ({"0": 0}, "list of whole numbers"),
        ([0, 0, 256], "list of whole numbers"),
        ([-1], "list of whole numbers"),
        ([0.5], "list of whole numbers"),
        ([10**30], "list of whole numbers"),
        ([], "less than its header"),
        ([0, 0, 0, 8, 57, 27], "less than its header"),
        ([255, 255, 255, 255, 57, 27, 255], "expected 1 x 2 = 2"),
        ([0, 0, 0, 8, 57, 27, 248], "ends early"),
        ([0, 0, 0, 8, 57, 27, 252], "ends early"),
    ],
)
def test_a_malformed_encoding_is_named(rle: Any, reason: str) -> None:
    region = {"id": "a", "type": "brushlabels", "original_height": 1, "original_width": 2, "value": {"rle": rle}}
    with pytest.raises(RegionError, match=reason):
        REGION_CONTROLS["BrushLabels"].to_mask(region)


def test_the_examples_in_the_documentation_hold() -> None:
    assert doctest.testmod(codec) == (0, 2)
