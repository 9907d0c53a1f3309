"""The formats of `premask export`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.exports.coco import write_coco
from backend.exports.cvat import write_cvat
from backend.exports.dicom_seg import write_dicom_seg
from backend.exports.export import Export, Result, Tick, all_told, unknown_masks, unknown_presence
from backend.exports.nnunet import write_nnunet
from backend.exports.png import write_png_folder
from backend.exports.yolo import write_yolo
from models.data.sample import Sample


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        write: writes an export into a folder that exists and is empty.
        problem: of a sample, given the classes that masks are drawn of and all classes: why it cannot be told in this
            format, "" if it can. Unknown presence is never written as absence.
    """

    write: Callable[[Export, Path, Tick], Result]
    problem: Callable[[Sample, Sequence[str], Sequence[str]], str]


FORMATS = {
    "coco": Format(write_coco, unknown_masks),
    "yolo-seg": Format(write_yolo, unknown_masks),
    "nnunet": Format(write_nnunet, unknown_masks),
    "png": Format(write_png_folder, all_told),
    "cvat": Format(write_cvat, unknown_presence),
    "dicom-seg": Format(write_dicom_seg, unknown_masks),
}
