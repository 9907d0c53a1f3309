"""Every image of a source as premask reads it, before anything is trained on it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.sources.conversion import LeftOut
from backend.sources.finding import files_below
from backend.sources.source import IMAGES, NO_ENDING, Source, open_source
from models.data.decoding import RgbImage
from models.data.files import IMAGE_SUFFIXES, image_shape, open_image
from models.data.names import page_name
from models.data.png import write_png
from models.data.reader import open_data_folder
from models.data.report import data_report
from models.data.sample import Sample
from models.errors import DataError

Progress = Callable[[int, int, str], None]


@dataclass
class Inspection:
    """A source as it is read.

    Attributes:
        kind: of the source: a format's, "data-folder", "images" or "project".
        classes: labels, in order.
        splits: part of the data -> names of images.
        notes: sentences for people.
        images: one dictionary an image, as `as_json` gives them.
        left_out: what is not used.
    """

    kind: str
    classes: list[str] = field(default_factory=list)
    splits: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The inspection for machines; see docs/models.md."""
        return {
            "kind": self.kind,
            "classes": self.classes,
            "splits": self.splits,
            "notes": self.notes,
            "images": self.images,
            "left_out": [{"what": row.what, "why": row.why} for row in self.left_out],
        }


def inspect_source(
    path: Path,
    *,
    images: Path | None = None,
    pictures: Path | None = None,
    progress: Progress = lambda done, total, text: None,
) -> Inspection:
    """Read a source as a training would, one image at a time, leaving out what does not fit.

    Args:
        path: as `open_source` takes it, and images without labels.
        images: where an export's images are, if not beside it.
        pictures: folder for the decoded images, which is made; None writes none.
        progress: called with images done, how many there are, and the name of one.

    Raises:
        DataError: nothing of it can be read.
    """
    with open_source(path, images=images, skip_bad=True, unlabelled=True) as source:
        if source.kind == IMAGES:
            return _inspect_images(source, pictures, progress)
        found = inspect_data_folder(
            source.folder, source.kind, notes=source.notes, unread=source.unread, pictures=pictures, progress=progress
        )
    # A data folder in an archive has been read from where it was unpacked to.
    unpacked = str(source.folder)
    found.notes = [note.replace(unpacked, str(path)) for note in found.notes]
    found.left_out = [LeftOut(row.what, row.why.replace(unpacked, str(path))) for row in found.left_out]
    return found


def inspect_data_folder(
    root: Path,
    kind: str,
    *,
    notes: list[str] | None = None,
    unread: list[LeftOut] | None = None,
    pictures: Path | None = None,
    progress: Progress = lambda done, total, text: None,
) -> Inspection:
    """Read a data folder; see `inspect_source`.

    Args:
        root: the folder.
        kind: of the source that it was written from.
        notes: sentences about the source.
        unread: what of the source is not in the folder.
        pictures: folder for the decoded images, which is made; None writes none.
        progress: called with images done, how many there are, and the name of one.

    Raises:
        DataError: nothing of it can be read.
    """
    folder = open_data_folder(root, skip_bad=True)
    splits = {side: list(names) for side, names in folder.splits.items()}
    found = Inspection(kind, list(folder.classes), splits, list(notes or ()))
    try:
        report = data_report(folder)
        found.notes += [*report.sentences, *report.warnings]
    except DataError as error:
        found.notes.append(str(error))
    told = {row.what for row in unread or ()}
    found.left_out = [LeftOut(what, why) for what, why in folder.skipped.items() if what not in told]
    found.left_out += unread or ()
    found.left_out += _strays(root / "images")
    samples = list(folder.samples.values())
    for number, sample in enumerate(samples, 1):
        progress(number, len(samples), sample.name)
        found.images.append(_labelled(sample, folder.classes, number, pictures))
    return found


def _strays(images: Path) -> list[LeftOut]:
    """Files among the images of a data folder that are not taken for one."""
    files = [
        file for file in files_below(images) if file.suffix.lower() not in IMAGE_SUFFIXES and file.parent == images
    ]
    return [
        LeftOut(f"images/{file.relative_to(images)}", f"{NO_ENDING}: {', '.join(IMAGE_SUFFIXES)}") for file in files
    ]


def _labelled(sample: Sample, classes: tuple[str, ...], number: int, pictures: Path | None) -> dict[str, Any]:
    """What is known of an image."""
    if pictures is None:
        shape, picture = image_shape(sample.image, sample.file_page), None
    else:
        image = sample.read_image()
        shape, picture = (image.shape[0], image.shape[1]), _picture(image, pictures, number)
    return {
        "name": sample.name,
        "source": sample.source or sample.name,
        "page": sample.page,
        "width": shape[1],
        "height": shape[0],
        "picture": picture,
        "presence": {label: sample.presence.get(label) for label in classes},
        "masks": {label: _extent(sample.read_mask(label, shape)) for label in classes if label in sample.masks},
        "group": sample.group,
    }


def _extent(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Pixels of a mask, not empty, and the box around them: left, top, and right and bottom beyond the last pixel."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
    return {"pixels": int(mask.sum()), "box": box}


def _picture(image: RgbImage, pictures: Path, number: int) -> str:
    """Write an image as the networks see it; returns the name of its file."""
    name = f"image-{number:06d}.png"
    try:
        pictures.mkdir(parents=True, exist_ok=True)
        write_png(pictures / name, image)
    except OSError as error:
        raise DataError(f"{pictures / name} cannot be written: {error}; check the folder and the disk") from error
    return name


def _inspect_images(source: Source, pictures: Path | None, progress: Progress) -> Inspection:
    """Every page of every image of a source without labels."""
    found = Inspection(source.kind, notes=list(source.notes), left_out=list(source.unread))
    for done, file in enumerate(source.files, 1):
        shown = str(file.relative_to(source.folder)) if file != source.folder else file.name
        progress(done, len(source.files), shown)
        for entry in _pages(file, shown, found, pictures):
            found.images.append(entry)
    if not found.images:
        row = found.left_out[0]
        raise DataError(f"{source.folder} has no image that can be read: {row.what}: {row.why}")
    return found


def _pages(file: Path, shown: str, found: Inspection, pictures: Path | None) -> Iterator[dict[str, Any]]:
    with ExitStack() as opened:
        try:
            pages = opened.enter_context(open_image(file))
        except DataError as error:
            found.left_out.append(LeftOut(shown, str(error)))
            return
        found.notes += [f"{shown}: {note}" for note in pages.notes]
        for page, (height, width) in enumerate(pages.sizes):
            try:
                image = pages.read(page)
            except (ValueError, OSError) as error:
                what = shown if len(pages) == 1 else f"{shown}, page {page + 1}"
                found.left_out.append(LeftOut(what, str(error)))
                continue
            picture = None if pictures is None else _picture(image, pictures, len(found.images) + 1)
            yield {
                "name": file.stem if len(pages) == 1 else page_name(file.stem, page),
                "source": shown,
                "page": page,
                "width": width,
                "height": height,
                "picture": picture,
                "presence": {},
                "masks": {},
                "group": None,
            }
