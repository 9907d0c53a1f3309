"""A decoding plugin of pydicom for compressed frames that Pillow does not read, by imagecodecs.

pydicom's own choice for them, pylibjpeg-libjpeg, is under the GPL.
"""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from models.data.pages import BadImage
from models.data.pictures import jpeg2k_header

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import DecodeRunner

NAME = "imagecodecs"
# Transfer syntaxes.
JPEG_BASELINE, RLE = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.5"
JPEG = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (51, 57, 70))  # 12 bits, lossless
JPEG_LS = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (80, 81))
JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203))  # and of high throughput
DECODER_DEPENDENCIES = {syntax: ("imagecodecs",) for syntax in (*JPEG, *JPEG_LS, *JPEG_2000)}


def plugin_for(syntax: str) -> str:
    """The name to give as `decoding_plugin` for a transfer syntax; empty for raw samples."""
    if syntax not in DECODER_DEPENDENCIES:
        return {JPEG_BASELINE: "pillow", RLE: "pydicom"}.get(syntax, "")
    from pydicom.pixels.decoders.base import get_decoder

    decoder = get_decoder(syntax)
    if NAME not in decoder.available_plugins:
        with suppress(ValueError):  # another thread was first
            decoder.add_plugin(NAME, (__name__, "decode_frame"))
    return NAME


def is_available(syntax: str) -> bool:
    """Whether frames of a transfer syntax can be decoded: pydicom asks."""
    return syntax in DECODER_DEPENDENCIES


def decode_frame(src: bytes, runner: "DecodeRunner") -> bytes:
    """Decode one frame to samples by pixel, little-endian; sets the runner's options as they have become."""
    import imagecodecs

    syntax = runner.transfer_syntax
    if syntax in JPEG_2000:
        _check_codestream(src, runner)
    colours = (runner.photometric_interpretation, runner.samples_per_pixel)
    samples: Any
    if syntax in JPEG:
        # 3 (YCbCr) in and out, so that pydicom converts the colours as the file's tags say.
        space = 3 if colours[1] == 3 else None
        samples = imagecodecs.jpeg8_decode(src, colorspace=space, outcolorspace=space)
    elif syntax in JPEG_LS:
        samples = imagecodecs.jpegls_decode(src)
    else:
        # Of high throughput too: htj2k_decode returns memory that nothing was written to where a frame is damaged.
        samples = imagecodecs.jpeg2k_decode(src)
        if (runner.samples_per_pixel > 1 and "ICT" in colours[0]) or "RCT" in colours[0]:
            runner.set_option("photometric_interpretation", "RGB")
        # The codestream may hold signed samples where the tags say unsigned, and the other way round.
        if samples.dtype.kind == "i" and runner.pixel_representation == 0:
            samples = samples.view(samples.dtype.str.replace("i", "u"))
    runner.set_option("bits_allocated", 8 * samples.dtype.itemsize)
    runner.set_option("planar_configuration", 0)
    return np.ascontiguousarray(samples).astype(samples.dtype.newbyteorder("<"), copy=False).tobytes()


def _check_codestream(src: bytes, runner: "DecodeRunner") -> None:
    """Refuse JPEG 2000 of another size than the file's tags say, or of very many tiles, before memory is taken for it.

    Raises:
        BadImage: it is such a one, or cut off.
    """
    width, height, _, _ = jpeg2k_header(src)
    if (height, width) != (runner.rows, runner.columns):
        raise BadImage(
            f"it is damaged: a frame has {width} x {height} pixels, the file says {runner.columns} x {runner.rows}"
        )
