"""Pullbacks as files: DICOM of any transfer syntax, films, stacks."""

from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from pydicom import Dataset, dcmread, uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

PRESENTATION = "1.2.840.10008.5.1.4.1.1.14.1"
PROCESSING = "1.2.840.10008.5.1.4.1.1.14.2"
NAME, PATIENT = "Doe^Jane", "ID-4711"
Frames = list[NDArray[Any]]
# Transfer syntax -> how a grey frame of 8 bits is compressed losslessly; None where it is not.
LOSSLESS = {
    uid.ImplicitVRLittleEndian: None,
    uid.ExplicitVRLittleEndian: None,
    uid.DeflatedExplicitVRLittleEndian: None,
    uid.RLELossless: "rle",
    uid.JPEGLosslessSV1: imagecodecs.ljpeg_encode,
    uid.JPEGLSLossless: imagecodecs.jpegls_encode,
    uid.JPEG2000Lossless: lambda frame: imagecodecs.jpeg2k_encode(frame, level=0, reversible=True, codecformat="j2k"),
}


def frames(count: int, height: int = 24, width: int = 32) -> Frames:
    """Grey frames that differ from each other, the same ones each time."""
    ramp = np.add.outer(np.arange(height), np.arange(width))
    return [((ramp * 3 + 29 * number) % 256).astype(np.uint8) for number in range(count)]


def items(**tags: Any) -> Sequence:
    """A sequence of one item with these tags."""
    return Sequence([dataset(**tags)])


def dataset(**tags: Any) -> Dataset:
    data = Dataset()
    for name, value in tags.items():
        setattr(data, name, value)
    return data


def write_dicom(path: Path, images: Frames, syntax: Any = uid.ExplicitVRLittleEndian, **tags: Any) -> Path:
    """Frames (H, W) or (H, W, 3) as one file of a named patient; `tags` state the depth unless it is 8 bits."""
    first = images[0]
    data = dataset(
        SOPClassUID=PRESENTATION,
        SOPInstanceUID=uid.generate_uid(),
        StudyInstanceUID="1.2.3",
        SeriesInstanceUID=uid.generate_uid(),
        InstanceNumber=1,
        Modality="IVOCT",
        PatientName=NAME,
        PatientID=PATIENT,
        PatientBirthDate="19500101",
        InstitutionName="St. Somewhere",
        SeriesDescription=f"LAD of {NAME}",
        Rows=first.shape[0],
        Columns=first.shape[1],
        SamplesPerPixel=3 if first.ndim == 3 else 1,
        PhotometricInterpretation="RGB" if first.ndim == 3 else "MONOCHROME2",
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
        NumberOfFrames=len(images),
    )
    if first.ndim == 3:
        data.PlanarConfiguration = 0
    for name, value in tags.items():
        setattr(data, name, value)
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    encode: Any = LOSSLESS[syntax]
    raw = b"".join(image.tobytes() for image in images)
    if encode is None or encode == "rle":
        data.PixelData = raw + b"\0" * (len(raw) % 2)
        data.file_meta.TransferSyntaxUID = syntax if encode is None else uid.ExplicitVRLittleEndian
    else:
        data.PixelData = encapsulate([encode(image) for image in images])
        data.file_meta.TransferSyntaxUID = syntax
    data["PixelData"].VR = "OW" if first.dtype.itemsize > 1 else "OB"
    if encode == "rle":
        file = BytesIO()
        data.save_as(file, enforce_file_format=True)
        data = dcmread(BytesIO(file.getvalue()))
        data.compress(uid.RLELossless, generate_instance_uid=False)
    data.save_as(path, enforce_file_format=True)
    return path


def write_series(folder: Path, images: Frames, **tags: Any) -> Path:
    """A file a frame, whose names sort the wrong way round."""
    folder.mkdir(parents=True)
    series = {"SeriesInstanceUID": uid.generate_uid(), **tags}
    for number, image in enumerate(images, 1):
        write_dicom(
            folder / f"IM{999 - number}", [image], **series | {"InstanceNumber": number, "NumberOfFrames": None}
        )
    return folder


def write_film(path: Path, images: Frames) -> Path:
    """A film whose frames come back pixel for pixel (FFV1 in AVI), or nearly so (H.264 in MP4)."""
    lossless = path.suffix == ".avi"
    with av.open(str(path), "w") as film:
        stream = film.add_stream("ffv1" if lossless else "libx264", rate=Fraction(20))
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "bgr0" if lossless else "yuv420p"
        for image in images:
            picture = av.VideoFrame.from_ndarray(np.repeat(image[:, :, None], 3, axis=2), format="rgb24")
            film.mux(stream.encode(picture))
        film.mux(stream.encode())
    return path


def write_stack(path: Path, images: Frames) -> Path:
    tifffile.imwrite(path, np.stack(images), photometric="minisblack")
    return path
