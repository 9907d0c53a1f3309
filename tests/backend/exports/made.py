"""Data folders to export, and DICOM files that their images are frames of."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from backend.exports.export import make_export
from backend.exports.formats import FORMATS
from models.data.reader import DataFolder, open_data_folder
from models.data.writer import DataFolderWriter

Mask = NDArray[np.bool_]
ULTRASOUND = "1.2.840.10008.5.1.4.1.1.3.1"
CT = "1.2.840.10008.5.1.4.1.1.2"


def square(size: tuple[int, int], top: int, left: int, side: int) -> Mask:
    mask = np.zeros(size, dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def data_folder(
    out: Path,
    classes: Sequence[str],
    images: Mapping[str, Mapping[str, Mask]],
    *,
    size: tuple[int, int],
    presence: Mapping[str, Mapping[str, bool | None]] | None = None,
    groups: Mapping[str, str] | None = None,
) -> DataFolder:
    """A data folder of random pictures; `presence` of the images whose masks do not tell all."""
    noise = np.random.default_rng(0)
    with DataFolderWriter(out, classes) as folder:
        for name, masks in images.items():
            picture = noise.integers(0, 255, (*size, 3), dtype=np.uint8)
            drawn = {label: mask for label, mask in masks.items() if mask.any()}
            folder.add(name, picture, drawn, (presence or {}).get(name), (groups or {}).get(name))
    return open_data_folder(out)


def written(folder: DataFolder, format_name: str, out: Path, **options):
    """Write a data folder in a format; returns the result and image -> why it was left out."""
    made, left_out = make_export(folder, FORMATS[format_name].problem, **options)
    out.mkdir(parents=True, exist_ok=True)
    result = FORMATS[format_name].write(made, out, lambda done, total: None)
    return result, left_out | result.left_out


def masks_of(folder: DataFolder) -> dict[str, dict[str, bytes]]:
    """Name -> class -> the bits of its mask, for comparisons."""
    found = {}
    for name, sample in folder.samples.items():
        shape = sample.read_image().shape[:2]
        masks = {label: sample.read_mask(label, (shape[0], shape[1])) for label in sample.masks}
        found[name] = {label: np.packbits(mask).tobytes() for label, mask in masks.items()}
    return found


def dicom_file(path: Path, frames: int, size: tuple[int, int], *, sop_class: str = ULTRASOUND, **tags) -> Dataset:
    """Write a DICOM file with grey frames; with several, or an ultrasound class, it is a multi-frame one."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = UID(sop_class)
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.StudyInstanceUID = generate_uid()
    data.SeriesInstanceUID = generate_uid()
    data.PatientID, data.PatientName, data.Modality = "P1", "Test^Pätient", "US"
    data.SpecificCharacterSet = "ISO_IR 192"
    data.Rows, data.Columns = size
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 7, 0, 1
    data.PhotometricInterpretation = "MONOCHROME2"
    if sop_class == ULTRASOUND:
        data.NumberOfFrames = frames
    pixels = np.random.default_rng(1).integers(0, 255, (frames, *size), dtype=np.uint8).tobytes()
    data.PixelData = pixels + b"\0" * (len(pixels) % 2)
    for name, value in tags.items():
        setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return data
