"""A film's frames are pages, each as it is shown."""

from fractions import Fraction
from io import BytesIO
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate

from models.data.decoding import decode_image, open_pages

MANY = 1_000_000
RAMP = np.tile(np.linspace(0, 255, 64), (32, 1)).astype(np.uint8)
COUNT = 13


def frame(number: int) -> NDArray[np.uint8]:
    """A ramp whose row of that number is white."""
    image = np.repeat(RAMP[:, :, None], 3, axis=2)
    image[2 * number : 2 * number + 2] = 255
    return image


def film(kind: str, codec: str, pixels: str, **options: Any) -> bytes:
    file = BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 32, pixels
        stream.time_base = Fraction(1, 25)
        for number in range(COUNT):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame(number), format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


FILMS = {
    "AVI, uncompressed": film("avi", "rawvideo", "bgr24"),
    "AVI, FFV1": film("avi", "ffv1", "bgr0"),
    "AVI, Motion JPEG": film("avi", "mjpeg", "yuvj444p", qmin="1", qmax="2"),
    "AVI, MPEG-4": film("avi", "mpeg4", "yuv420p", qmin="1", qmax="2"),
    "MP4, H.264 with frames out of order": film("mp4", "libx264", "yuv420p", crf="1", bf="3"),
    "MOV, PNG": film("mov", "png", "rgb24"),
    "Matroska, VP9": film("matroska", "libvpx-vp9", "yuv444p", crf="2", b="0"),
    "MPEG-2": film("mpeg", "mpeg2video", "yuv420p", qmin="1", qmax="2"),
}


@pytest.mark.parametrize("kind", FILMS)
def test_every_frame_is_a_page_in_the_order_shown(kind: str) -> None:
    with open_pages(FILMS[kind], MANY) as pages:
        assert (len(pages), list(pages.sizes)) == (COUNT, [(32, 64)] * COUNT)
        assert pages.names[3] == "frame 4"
        for number in (0, 1, 5, 12, 2):
            image = pages.read(number)
            assert int(np.argmax(image[:, 10, 0])) // 2 == number
            rows = np.delete(np.arange(32), np.arange(2 * number - 4, 2 * number + 6) % 32)
            assert np.corrcoef(image[rows][:, :, 1].ravel(), RAMP[rows].ravel())[0, 1] > 0.98
            assert image.max() >= 240


def test_uncompressed_frames_are_exact() -> None:
    for kind in ("AVI, uncompressed", "AVI, FFV1", "MOV, PNG"):
        with open_pages(FILMS[kind], MANY) as pages:
            assert all(np.array_equal(pages.read(number), frame(number)) for number in range(COUNT))


def test_the_first_frame_is_the_image() -> None:
    assert np.array_equal(decode_image(FILMS["AVI, FFV1"], MANY), frame(0))


def test_deep_grey_films_are_scaled_by_their_format() -> None:
    file = BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "gray12le"
        deep = (RAMP.astype(np.uint32) * 4095 // 255).astype(np.uint16)
        made: Any = av.VideoFrame(64, 32, "gray12le")
        made.planes[0].update(deep.tobytes())
        container.mux(stream.encode(made))
        container.mux(stream.encode(None))
    image = decode_image(file.getvalue(), MANY)
    assert np.abs(image[:, :, 0].astype(int) - RAMP).max() <= 1


def test_a_film_within_dicom() -> None:
    elementary = film("h264", "libx264", "yuv420p", crf="1")
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = uid.MPEG4HP41
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = uid.VideoEndoscopicImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = uid.generate_uid()
    data.Rows, data.Columns, data.SamplesPerPixel, data.NumberOfFrames = 32, 64, 3, COUNT
    data.PhotometricInterpretation, data.PlanarConfiguration = "YBR_PARTIAL_420", 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.PixelData = encapsulate([elementary])
    data["PixelData"].VR = "OB"
    file = BytesIO()
    data.save_as(file, enforce_file_format=True)
    with open_pages(file.getvalue(), MANY) as pages:
        assert len(pages) == COUNT
        assert int(np.argmax(pages.read(7)[:, 10, 0])) // 2 == 7


def test_a_film_too_large_cut_off_or_without_pictures_is_refused() -> None:
    with pytest.raises(ValueError, match="64 x 32 pixels, at most 100"):
        open_pages(FILMS["AVI, FFV1"], 100)
    with pytest.raises(ValueError, match=r"damaged|without a"):
        open_pages(FILMS["MOV, PNG"][:200], MANY)
    sound = BytesIO()
    with av.open(sound, "w", format="avi") as container:
        stream: Any = container.add_stream("pcm_s16le", rate=8000)
        made: Any = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        made.sample_rate = 8000
        container.mux(stream.encode(made))
    with pytest.raises(ValueError, match="AVI film without a picture track"):
        open_pages(sound.getvalue(), MANY)


def test_a_playlist_is_no_film() -> None:
    """FFmpeg would open what it names."""
    for start in (b"#EXTM3U\n", b"ffconcat version 1.0\nfile /etc/hostname\n"):
        with pytest.raises(ValueError, match="not an image"):
            open_pages(start + b"/etc/hostname\n", MANY)
