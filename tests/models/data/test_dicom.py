"""A DICOM file of any transfer syntax, depth, window and colours is shown as a viewer shows it."""

import copy
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread, uid
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_windowing
from pydicom.sequence import Sequence

from models.data.decoding import decode_image, open_pages

MANY = 1_000_000
NO_FRAGMENTS = bytes.fromhex("feff00e000000000feffdde000000000")  # an empty table of frames, and the end
RAMP = np.tile(np.linspace(0, 1, 64), (32, 1))  # (32, 64), dark on the left


def ramp(top: float, dtype: Any, low: float = 0) -> NDArray[Any]:
    return (low + RAMP * (top - low)).round(6).astype(dtype)


def written(
    frames: list[NDArray[Any]], syntax: str = uid.ExplicitVRLittleEndian, encode: Any = None, **more: Any
) -> bytes:
    first = frames[0]
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = uid.UID(syntax)
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = uid.SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = uid.generate_uid()
    data.Rows, data.Columns = first.shape[:2]
    data.SamplesPerPixel = 3 if first.ndim == 3 else 1
    data.PhotometricInterpretation = "RGB" if first.ndim == 3 else "MONOCHROME2"
    if first.ndim == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = 8 * first.dtype.itemsize
    data.PixelRepresentation = int(first.dtype.kind == "i")
    if len(frames) > 1:
        data.NumberOfFrames = len(frames)
    for name, value in more.items():
        setattr(data, name, value)
    if first.dtype.kind != "f":
        data.HighBit = data.BitsStored - 1
        if encode is None:
            data.PixelData = b"".join(frame.tobytes() for frame in frames)
        else:
            data.PixelData = encapsulate([encode(frame) for frame in frames])
            data["PixelData"].VR = "OB"
    elif first.dtype.itemsize == 4:
        data.FloatPixelData = b"".join(frame.tobytes() for frame in frames)
    else:
        data.DoubleFloatPixelData = b"".join(frame.tobytes() for frame in frames)
    file = BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def assert_shows_the_ramp(data: bytes, tolerance: float = 0.99) -> NDArray[np.uint8]:
    image = decode_image(data, MANY)
    assert (image.shape, image.dtype) == ((32, 64, 3), np.dtype(np.uint8))
    assert np.corrcoef(image[:, :, 1].ravel(), RAMP.ravel())[0, 1] > tolerance
    assert image.max() >= 240
    assert image.min() <= 15
    return image


@pytest.mark.parametrize(
    ("top", "dtype", "stored"),
    [
        *((top, np.uint16, bits) for top, bits in ((1023, 10), (4095, 12), (16383, 14), (65535, 16))),
        *((4095, np.uint16, 16), (255, np.uint8, 8), (255, np.uint16, 16), (4095, np.int16, 16), (1e6, np.uint32, 32)),
        *((1, np.float32, 32), (1e9, np.float64, 64)),
    ],
)
def test_every_depth_uses_the_whole_range(top: float, dtype: Any, stored: int) -> None:
    assert_shows_the_ramp(written([ramp(top, dtype)], BitsStored=stored))


def test_the_stored_bits_are_the_range_and_overlays_above_them_are_not_shown() -> None:
    dark = ramp(1000, np.uint16)
    assert decode_image(written([dark], BitsStored=12), MANY).max() == round(1000 * 255 / 4095)
    assert_shows_the_ramp(written([ramp(4095, np.uint16) | np.uint16(0x8000)], BitsStored=12))


@pytest.mark.parametrize(
    ("top", "low", "dtype", "stored"),
    [
        *((4095, 0, np.uint16, 8), (65535, 0, np.uint16, 12), (4095, 0, np.uint16, 11), (1000, -1000, np.int16, 8)),
        *((255, 0, np.uint8, 7), (65535, 0, np.uint32, 12), (65535, 50000, np.uint16, 12)),
    ],
)
def test_stored_bits_that_the_samples_exceed_are_not_believed(top: int, low: int, dtype: Any, stored: int) -> None:
    """The bits above were cut off: brightness wrapped around."""
    shown = decode_image(written([ramp(top, dtype, low)], BitsStored=stored), MANY)[:, :, 0].astype(int)
    assert (np.diff(shown, axis=1) >= 0).all()
    assert shown.max() == 255


def test_what_lies_above_the_stored_bits_is_cut_off_where_it_is_no_brightness() -> None:
    """Padding that is too large, a sign that is missing, an overlay right above that the file tells of."""
    wide = ramp(4095, np.uint16)
    wide[0, 0] = 65535
    assert_shows_the_ramp(written([wide], BitsStored=12))
    unsigned = ramp(2000, np.int16, -2000) & 0xFFF
    assert_shows_the_ramp(written([unsigned.astype(np.int16)], BitsStored=12))
    overlaid = ramp(4095, np.uint16)
    overlaid[10:20] |= 0x1000
    data = dcmread(BytesIO(written([overlaid], BitsStored=12)))
    data.add_new((0x6000, 0x0102), "US", 12)
    file = BytesIO()
    data.save_as(file)
    assert_shows_the_ramp(file.getvalue())


def test_a_window_in_which_nothing_of_the_picture_lies_is_not_used() -> None:
    for centre, width in ((50000, 100), (-5000, 1)):
        data = written([ramp(4095, np.uint16)], BitsStored=12, WindowCenter=centre, WindowWidth=width)
        assert_shows_the_ramp(data)
    dark = [ramp(100, np.uint16), ramp(4095, np.uint16)]
    shown = decode_image(written(dark, BitsStored=12, WindowCenter=3000, WindowWidth=1001), MANY)
    assert shown.max() == 0


def test_a_file_that_names_no_colours_is_grey() -> None:
    assert_shows_the_ramp(written([ramp(255, np.uint8)], PhotometricInterpretation=""))


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless])
def test_samples_may_lie_at_the_upper_end_of_their_words(syntax: str) -> None:
    """Their upper bits were cut off: brightness wrapped around, four times from dark to bright."""
    high = written([ramp(4095, np.uint16) << 4], BitsStored=12)
    data = dcmread(BytesIO(high))
    data.HighBit = 15
    if syntax == uid.RLELossless:
        data.compress(uid.RLELossless)
    file = BytesIO()
    data.save_as(file)
    assert_shows_the_ramp(file.getvalue())


@pytest.mark.parametrize(
    ("dtype", "top", "low", "padding", "more"),
    [
        (np.int16, 900, -1000, -2000, {}),
        (np.int16, 900, -1000, 63536, {"PixelPaddingValue": -2000}),
        (np.uint16, 4095, 0, 65535, {}),
        (np.uint16, 1000, 0, 4095, {"BitsStored": 12, "WindowCenter": 500, "WindowWidth": 1001}),
        (np.int16, 900, -1000, -32768, {"PixelPaddingRangeLimit": -32000}),
        (np.int16, 900, -1000, -2000, {"RescaleSlope": 2, "RescaleIntercept": 5}),
        (np.uint16, 4000, 95, 0, {"BitsStored": 12, "PhotometricInterpretation": "MONOCHROME1"}),
    ],
)
def test_padding_is_black_and_does_not_count(
    dtype: Any, top: int, low: int, padding: int, more: dict[str, Any]
) -> None:
    """It took nearly the whole range, and was white beside a window."""
    frame = ramp(top, dtype, low)
    frame[:8] = np.array(more.get("PixelPaddingValue", padding)).astype(dtype)
    if "PixelPaddingRangeLimit" in more:
        frame[4:8] += 700
    image = decode_image(written([frame], **{"PixelPaddingValue": padding, **more}), MANY)
    assert not image[:8].any()
    expected = RAMP[8:] if more.get("PhotometricInterpretation") is None else 1 - RAMP[8:]
    assert np.corrcoef(image[8:, :, 1].ravel(), expected.ravel())[0, 1] > 0.99
    assert image[8:].max() >= 240
    assert image[8:].min() <= 15


JPEG_LS, JPEG_2000 = imagecodecs.jpegls_encode, imagecodecs.jpeg2k_encode
SYNTAXES = [
    (uid.ImplicitVRLittleEndian, None, np.uint16),
    (uid.DeflatedExplicitVRLittleEndian, None, np.uint16),
    (uid.JPEGBaseline8Bit, lambda frame: imagecodecs.jpeg8_encode(frame, level=95), np.uint8),
    (uid.JPEGExtended12Bit, lambda frame: imagecodecs.jpeg8_encode(frame, level=95, bitspersample=12), np.uint16),
    (uid.JPEGLossless, lambda frame: imagecodecs.jpeg8_encode(frame, lossless=True, bitspersample=12), np.uint16),
    (uid.JPEGLosslessSV1, lambda frame: imagecodecs.ljpeg_encode(frame, bitspersample=12), np.uint16),
    (uid.JPEGLSLossless, JPEG_LS, np.uint16),
    (uid.JPEGLSLossless, JPEG_LS, np.uint8),
    (uid.JPEGLSNearLossless, lambda frame: JPEG_LS(frame, level=2), np.uint16),
    (uid.JPEG2000Lossless, lambda frame: JPEG_2000(frame, level=0, reversible=True, codecformat="j2k"), np.uint16),
    (uid.JPEG2000, lambda frame: JPEG_2000(frame, level=60, codecformat="j2k"), np.uint8),
    (uid.HTJ2KLossless, imagecodecs.htj2k_encode, np.uint16),
    (uid.RLELossless, "rle", np.uint16),
]


@pytest.mark.parametrize(("syntax", "encode", "dtype"), SYNTAXES, ids=lambda value: getattr(value, "name", None))
def test_every_transfer_syntax_with_several_frames(syntax: uid.UID, encode: Any, dtype: Any) -> None:
    top, bits = (255, 8) if dtype is np.uint8 else (4095, 12)
    frames = [ramp(top, dtype), ramp(top, dtype) // 2, ramp(top, dtype)[:, ::-1].copy()]
    if encode == "rle":
        data = dcmread(BytesIO(written(frames, BitsStored=bits)))
        data.compress(uid.RLELossless)
        file = BytesIO()
        data.save_as(file)
        stored = file.getvalue()
    else:
        stored = written(frames, syntax, encode, BitsStored=bits)
    assert_shows_the_ramp(stored)
    with open_pages(stored, MANY) as pages:
        assert (len(pages), pages.names[1], list(pages.sizes)) == (3, "frame 2", [(32, 64)] * 3)
        last, middle = pages.read(2), pages.read(1)
    assert np.corrcoef(last[:, :, 0].ravel(), RAMP[:, ::-1].ravel())[0, 1] > 0.99
    assert 120 <= middle.max() <= 132


def test_inverted_grey() -> None:
    for dtype, top, bits in ((np.uint8, 255, 8), (np.uint16, 4095, 12)):
        assert_shows_the_ramp(
            written([top - ramp(top, dtype)], PhotometricInterpretation="MONOCHROME1", BitsStored=bits)
        )


def test_the_first_window_is_applied_after_the_rescale() -> None:
    hounsfield = ramp(4095, np.uint16)  # -1024 .. 3071 after the rescale
    more: dict[str, Any] = {"RescaleSlope": "1", "RescaleIntercept": "-1024", "BitsStored": 12}
    windowed = written([hounsfield], WindowCenter=["40", "500"], WindowWidth=["400", "2000"], **more)
    image = decode_image(windowed, MANY)[0, :, 0]
    values = hounsfield[0].astype(float) - 1024
    expected = np.clip(np.round((values - (40 - 0.5 - 399 / 2)) / 399 * 255), 0, 255)
    assert np.abs(image - expected).max() <= 1
    exact = written([hounsfield], WindowCenter="1024", WindowWidth="4096", VOILUTFunction="LINEAR_EXACT", **more)
    assert_shows_the_ramp(exact)
    smooth = decode_image(
        written([hounsfield], WindowCenter="1024", WindowWidth="2000", VOILUTFunction="SIGMOID", **more), MANY
    )
    assert abs(int(smooth[0, 32, 0]) - 128) < 6
    assert np.all(np.diff(smooth[0, :, 0].astype(int)) >= 0)
    assert_shows_the_ramp(written([hounsfield], WindowCenter="0", WindowWidth="0", **more))


def test_a_window_of_width_one_is_a_threshold() -> None:
    """PS3.3 C.11.2.1.2.1: at most the centre less one half is black, all else white; pydicom agrees."""
    values = ramp(4095, np.uint16)
    for centre in (2000, 2000.3):
        file = written([values], WindowCenter=str(centre), WindowWidth="1", BitsStored=12)
        shown = decode_image(file, MANY)[..., 0]
        assert np.array_equal(shown, np.where(values <= centre - 0.5, 0, 255))
        assert np.array_equal(shown > 0, apply_windowing(values, dcmread(BytesIO(file))) > 0)


def test_a_window_of_negative_values() -> None:
    image = decode_image(written([ramp(500, np.int16, -1500)], WindowCenter="-500", WindowWidth="2001"), MANY)
    assert np.corrcoef(image[0, :, 0], RAMP[0])[0, 1] > 0.99
    assert_shows_the_ramp(written([ramp(500, np.int16, -1500)]))


def table(entries: NDArray[Any], first: int, bits: int) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item["LUTDescriptor"].VR = "US"
    item.LUTData = entries.astype(np.uint16).tobytes()
    item["LUTData"].VR = "OW"
    return item


def test_tables_of_modality_and_view() -> None:
    inverse = table(np.arange(4096)[::-1], 0, 12)
    frame = [4095 - ramp(4095, np.uint16)]
    assert_shows_the_ramp(written(frame, BitsStored=12, VOILUTSequence=Sequence([inverse])))
    inverse.ModalityLUTType = "US"
    assert_shows_the_ramp(written(frame, BitsStored=12, ModalityLUTSequence=Sequence([inverse])))


def test_windows_and_rescales_of_functional_groups() -> None:
    """The first frame's window is every frame's, so that frames stay comparable; the rescale is each frame's own."""
    groups = []
    for slope in (1, 2):
        transform, view, group = Dataset(), Dataset(), Dataset()
        transform.RescaleSlope, transform.RescaleIntercept = slope, 0
        view.WindowCenter, view.WindowWidth = 2048 * slope, 4096 * slope
        group.PixelValueTransformationSequence = Sequence([transform])
        group.FrameVOILUTSequence = Sequence([view])
        groups.append(group)
    frame = ramp(2000, np.uint16)
    data = written([frame, frame], BitsStored=12, PerFrameFunctionalGroupsSequence=Sequence(groups))
    with open_pages(data, MANY) as pages:
        assert abs(int(pages.read(0).max()) - 125) <= 1
        assert abs(int(pages.read(1).max()) - 249) <= 1


def test_palettes() -> None:
    for bits, top in ((8, 255), (16, 65535), (16, 255)):
        colours: dict[str, Any] = {}
        for name, values in (("Red", np.linspace(0, top, 256)), ("Green", np.zeros(256)), ("Blue", np.zeros(256))):
            colours[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
            entries = values.astype(np.uint16 if bits == 16 else np.uint8)
            colours[f"{name}PaletteColorLookupTableData"] = entries.tobytes()
        data = written([ramp(255, np.uint8)], PhotometricInterpretation="PALETTE COLOR", **colours)
        image = decode_image(data, MANY)
        assert image[0, -1].tolist() == [255, 0, 0], (bits, top)
        assert image[0, 32, 0] in (129, 130)


def test_colours_interleaved_in_planes_and_as_brightness_and_colour() -> None:
    colour = np.stack([ramp(255, np.uint8), np.zeros((32, 64), np.uint8), 255 - ramp(255, np.uint8)], axis=2)
    assert np.array_equal(decode_image(written([colour]), MANY), colour)
    planes = np.ascontiguousarray(np.moveaxis(colour, 2, 0))
    in_planes = written([colour], PlanarConfiguration=1, PixelData=planes.tobytes())
    stored = dcmread(BytesIO(in_planes))
    stored.PixelData = planes.tobytes()
    file = BytesIO()
    stored.save_as(file)
    assert np.array_equal(decode_image(file.getvalue(), MANY), colour)
    grey = np.full((32, 64, 3), (200, 128, 128), np.uint8)
    assert abs(decode_image(written([grey], PhotometricInterpretation="YBR_FULL"), MANY).astype(int) - 200).max() <= 1
    deep = (colour.astype(np.uint16) * 16).astype(np.uint16)
    assert abs(decode_image(written([deep], BitsStored=12), MANY).astype(int) - colour).max() <= 1


OF_PYDICOM = [
    *("CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm"),
    *("MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "image_dfl.dcm", "examples_overlay.dcm"),
    *("JPGExtended.dcm", "JPEG-lossy.dcm", "JPEG2000.dcm", "693_J2KI.dcm", "JPEGLSNearLossless_16.dcm"),
    *("SC_rgb_jpeg_gdcm.dcm", "SC_rgb_jls_lossy_sample.dcm", "SC_rgb_gdcm_KY.dcm", "SC_rgb_rle_16bit.dcm"),
    *("SC_rgb_dcmtk_+eb+cy+np.dcm", "SC_ybr_full_422_uncompressed.dcm", "examples_ybr_color.dcm"),
    *("examples_palette.dcm", "rtdose.dcm", "rtdose_rle.dcm", "GDCMJ2K_TextGBR.dcm"),
]


def sample(name: str) -> bytes:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return Path(path).read_bytes()


@pytest.mark.parametrize("name", OF_PYDICOM)
def test_pydicoms_own_samples_are_read(name: str) -> None:
    image = decode_image(sample(name), MANY)
    assert image.std() > 3


def test_one_picture_in_six_encodings_is_the_same() -> None:
    names = ["", "_RLE", "_bigendian", "_implicit", "_jp2klossless", "_jpeg_ls_lossless"]
    pictures = [decode_image(sample(f"MR_small{name}.dcm"), MANY) for name in names]
    assert all(np.array_equal(picture, pictures[0]) for picture in pictures)


def test_a_file_without_its_preamble_is_read() -> None:
    data = dcmread(BytesIO(written([ramp(255, np.uint8)], uid.ImplicitVRLittleEndian)))
    file = BytesIO()
    bare = Dataset()
    bare.update(data)
    bare.save_as(file, implicit_vr=True, little_endian=True)
    assert file.getvalue()[:2] == b"\x08\0"
    assert_shows_the_ramp(file.getvalue())


def test_what_has_no_picture_or_an_unknown_kind_is_named() -> None:
    for masks in (sample("liver_1frame.dcm"), written([ramp(255, np.uint8)], Modality="SEG")):
        with pytest.raises(ValueError, match="it is a DICOM Segmentation, masks of other files, and no picture"):
            decode_image(masks, MANY)
    for name, said in (("test-SR.dcm", "without pixels .Comprehensive SR"), ("rtplan.dcm", "without pixels .RT Plan")):
        with pytest.raises(ValueError, match=f"DICOM file {said}"):
            decode_image(sample(name), MANY)
    with pytest.raises(ValueError, match="DICOM file in HSV colours, which is not supported"):
        decode_image(written([np.zeros((4, 4, 3), np.uint8)], PhotometricInterpretation="HSV"), MANY)
    frame = [ramp(255, np.uint8)]
    unknown = written(frame).replace(b"1.2.840.10008.1.2.1\0", b"1.2.3.4.5.6.7.8.9.1\0")
    with pytest.raises(ValueError, match=r"compressed by 1\.2\.3\.4\.5\.6\.7\.8\.9\.1, which is not supported"):
        decode_image(unknown, MANY)
    with pytest.raises(ValueError, match=r"compressed by .*, which is not supported"):
        decode_image(written(frame, "1.2.840.10008.1.2.4.94", lambda frame: b"abcd"), MANY)
    with pytest.raises(ValueError, match="at most 100 are taken"):
        decode_image(written(frame), 100)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_frames_that_are_not_counted_are_all_shown(dtype: Any) -> None:
    """The first was shown alone."""
    data = dcmread(BytesIO(written([ramp(200, dtype), ramp(100, dtype), ramp(50, dtype)])))
    del data.NumberOfFrames
    file = BytesIO()
    data.save_as(file)
    with open_pages(file.getvalue(), MANY) as pages:
        assert len(pages) == 3
        assert pages.read(0).max() > pages.read(1).max() > pages.read(2).max()


@pytest.mark.parametrize("encode", [None, imagecodecs.jpeg8_encode])
def test_a_file_without_a_frame_or_a_size_says_so(encode: Any) -> None:
    """Its error was one of a library: object of type 'NoneType' has no len()."""
    syntax = uid.ExplicitVRLittleEndian if encode is None else uid.JPEGBaseline8Bit
    whole = dcmread(BytesIO(written([ramp(255, np.uint8)], syntax, encode)))
    for missing, said in (
        ("PixelData", "without a frame: its pixel data is empty"),
        ("Rows", "does not state its size"),
    ):
        data = copy.deepcopy(whole)
        if missing == "Rows":
            del data.Rows
        else:
            data.PixelData = b"" if encode is None else NO_FRAGMENTS
        file = BytesIO()
        data.save_as(file)
        with pytest.raises(ValueError, match=said):
            decode_image(file.getvalue(), MANY)


def test_a_frame_of_another_size_than_the_file_says_is_refused() -> None:
    """A few bytes that would make the decoder take memory for billions of pixels."""
    codestream = bytearray(JPEG_2000(ramp(255, np.uint8), level=0, reversible=True, codecformat="j2k"))
    codestream[8:12] = (1_000_000).to_bytes(4, "big")
    data = written([ramp(255, np.uint8)], uid.JPEG2000Lossless, lambda frame: bytes(codestream))
    with pytest.raises(ValueError, match="1000000 x 32 pixels, the file says 64 x 32"):
        decode_image(data, MANY)


def test_a_file_that_is_cut_off_is_damaged() -> None:
    with pytest.raises(ValueError, match="damaged"):
        decode_image(written([ramp(4095, np.uint16)])[:-1000], MANY)


def test_a_deflated_file_that_would_fill_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte took two gigabytes."""
    whole = written([ramp(255, np.uint8)], uid.DeflatedExplicitVRLittleEndian)
    assert_shows_the_ramp(whole)
    start = 144 + int.from_bytes(whole[140:144], "little")
    packer = zlib.compressobj(9, wbits=-15)
    head = struct.pack("<HH2sHI", 9, 0x1001, b"OB", 0, 3 << 20)
    bomb = whole[:start] + packer.compress(head + bytes(3 << 20)) + packer.flush()
    monkeypatch.setattr("models.data.dicom.MAX_PAGE_BYTES", 2 << 20)
    with pytest.raises(ValueError, match="unpacks to more than 2 MB"):
        decode_image(bomb, MANY)
