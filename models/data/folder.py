"""Data folders: images with masks per class, or with image-level labels, as training and evaluation read them.

images/NAME.{jpg,png,...}   masks/CLASS/NAME.png (0/255; no file = absent)   classes.txt
split.json (optional)       labels.csv (optional; name,CLASS,... 0, 1 or empty for unknown)
skipped.json (optional; name -> why whatever wrote the folder left an image out)

Of an image that has a row in labels.csv only what is drawn or written there is known; of any other, an undrawn class is
absent, provided that there is a folder of masks at all.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.data.decoding import RgbImage
from models.data.files import IMAGE_SUFFIXES, read_image, read_mask
from models.data.folder_files import list_images, read_classes, read_labels, read_skipped, read_splits
from models.errors import DataError

DECODERS = 4  # images decoded at the same time: few, since each may be large


@dataclass(frozen=True)
class Sample:
    """One image and what is known of it.

    Attributes:
        name: the image's file name without ending.
        image: its file.
        masks: class -> mask file, for the classes drawn on it; a file without a white pixel is left out.
        presence: class -> whether it is on the image; a class that is not named is unknown.
        has_masks: the masks tell all of the image: each class is drawn or known to be absent.
        coverage: class -> fraction of the image that its mask covers, for the classes drawn on it.
    """

    name: str
    image: Path
    masks: Mapping[str, Path]
    presence: Mapping[str, bool]
    has_masks: bool
    coverage: Mapping[str, float] = field(default_factory=dict)

    def read_image(self) -> RgbImage:
        """Shape (H, W, 3), uint8 RGB, as a browser shows it. Raises DataError naming the file if it cannot be read."""
        return read_image(self.image)

    def read_mask(self, label: str, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """The mask of a class, of the image's shape (H, W), bool; all False where the class has no file.

        Raises:
            DataError: the file cannot be read as a mask or its size is not the image's.
        """
        return read_mask(self.masks[label], shape) if label in self.masks else np.zeros(shape, dtype=bool)


@dataclass(frozen=True)
class DataFolder:
    """A data folder whose files have been listed and found consistent.

    Attributes:
        root: the folder.
        classes: in the order of classes.txt.
        samples: name -> sample, in natural order of the names.
        splits: split -> names, from split.json; empty without one.
        skipped: name -> why it is left out.
    """

    root: Path
    classes: tuple[str, ...]
    samples: Mapping[str, Sample]
    splits: Mapping[str, tuple[str, ...]]
    skipped: Mapping[str, str] = field(default_factory=dict)

    def split(self, name: str | None) -> list[Sample]:
        """The samples of a split, all of them for None.

        Raises:
            DataError: there is no such split.
        """
        if name is None or name == "all":
            return list(self.samples.values())
        if name not in self.splits:
            known = ", ".join(self.splits) or "no split.json"
            raise DataError(f"{self.root} has no split {name!r} ({known}); write split.json or use --split all")
        return [self.samples[sample] for sample in self.splits[name]]

    def train_and_held_out(self) -> tuple[list[Sample], list[Sample]]:
        """Training and held-out samples: split.json's train and val, else about every fifth, in contiguous blocks.

        Neighbouring frames of a series are near-copies, so they are held out in blocks, never at random.
        """
        if "train" in self.splits and "val" in self.splits:
            return self.split("train"), self.split("val")
        return split_in_blocks(list(self.samples.values()))

    def fingerprint(self) -> str:
        """SHA-256 over the names and contents of all images and masks: the same data gives the same string."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for sample in self.samples.values():
            for path in (sample.image, *(sample.masks[label] for label in sorted(sample.masks))):
                digest.update(str(path.relative_to(self.root)).encode())
                digest.update(path.read_bytes())
            digest.update(json.dumps(dict(sample.presence), sort_keys=True).encode())
        return digest.hexdigest()


def split_in_blocks(samples: list[Sample], blocks: int = 4, share: float = 0.2) -> tuple[list[Sample], list[Sample]]:
    """Hold out `share` of the samples, at least one, as up to `blocks` runs of neighbours by name.

    The runs lie in the middle of equal parts of the series, or as near to it as leaves most classes on both sides: of a
    class on three images some are to be held out and some to be learnt from, one on a single image is to be learnt.

    Raises:
        DataError: fewer than two samples.
    """
    if len(samples) < 2:
        raise DataError(f"training needs at least 2 images, one of them to hold out, got {len(samples)}")
    wanted = max(1, round(share * len(samples)))
    blocks = min(blocks, wanted)
    sizes = [wanted // blocks + (block < wanted % blocks) for block in range(blocks)]
    centres = [round((block + 0.5) * len(samples) / blocks) - size // 2 for block, size in enumerate(sizes)]
    reach = len(samples) // (2 * blocks)
    shown = [{label for label, present in sample.presence.items() if present} for sample in samples]

    def held_out(shift: int) -> set[int]:
        starts = [min(max(centre + shift, 0), len(samples) - size) for centre, size in zip(centres, sizes, strict=True)]
        return {index for start, size in zip(starts, sizes, strict=True) for index in range(start, start + size)}

    def lacking(chosen: set[int]) -> int:
        learnt = set().union(*(labels for index, labels in enumerate(shown) if index not in chosen))
        tested = set().union(*(shown[index] for index in chosen))
        return 2 * len(tested - learnt) + len(learnt - tested)

    shifts = sorted(range(-reach, reach + 1), key=abs)
    chosen = min((held_out(shift) for shift in shifts), key=lambda chosen: (len(chosen) < wanted, lacking(chosen)))
    train = [sample for index, sample in enumerate(samples) if index not in chosen]
    return train, [samples[index] for index in sorted(chosen)]


def spread(samples: Sequence[Sample], most: int) -> list[Sample]:
    """At most so many samples, evenly from the first to the last."""
    if len(samples) <= most:
        return list(samples)
    return [samples[i] for i in np.linspace(0, len(samples) - 1, most).astype(int)]


def open_data_folder(root: Path, *, skip_bad: bool = False) -> DataFolder:
    """List a data folder, decode everything in it once, and check that its parts fit together.

    A damaged file is better found now than after an hour of training.

    Args:
        root: the folder.
        skip_bad: leave out what is inconsistent, noting it in `skipped`, instead of raising.

    Raises:
        DataError: with the name of the file that is missing, unreadable or of the wrong size.
    """
    classes = read_classes(root)
    images = list_images(root)
    masks: dict[str, dict[str, Path]] = {name: {} for name in images}
    problems: dict[str, str] = {}
    mask_root = root / "masks"
    has_masks = mask_root.is_dir()
    for folder in sorted(mask_root.iterdir()) if has_masks else ():
        if not folder.is_dir():
            continue
        if folder.name not in classes:
            problems[f"masks/{folder.name}"] = (
                f"{folder} is for a class that classes.txt does not name ({', '.join(classes)})"
            )
            continue
        for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES):
            if path.suffix != ".png":
                problems[path.stem] = f"{path} is not read: masks are PNG files, named .png"
            elif path.stem in masks:
                masks[path.stem][folder.name] = path
            else:
                problems[path.stem] = f"{path} has no image in {root / 'images'}"
    labels: dict[str, dict[str, bool]] = {}
    for name, row in read_labels(root, classes):
        if name not in images or name in labels:
            wrong = "names it twice" if name in labels else "names it (without an ending), but it has no image"
            problems[name] = f"{name}: labels.csv {wrong}"
        labels[name] = row
    if not has_masks and not labels:
        raise DataError(f"{root} has neither masks/ nor labels.csv; training needs one of them")

    def inspect(name: str) -> Sample | str:
        try:
            row = labels.get(name, {} if not has_masks else None)
            return _inspect(name, images[name], masks[name], classes, row)
        except DataError as error:
            return str(error)

    samples: dict[str, Sample] = {}
    with ThreadPoolExecutor(DECODERS) as pool:
        for name, found in zip(images, pool.map(inspect, images), strict=True):
            if isinstance(found, str):
                problems.setdefault(name, found)
            elif name not in problems:
                samples[name] = found
    if problems and not skip_bad:
        first = next(iter(problems.values()))
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataError(f"{first}{more}; correct it, or go on without it with --skip-bad")
    splits = {split: tuple(n for n in names if n in samples) for split, names in read_splits(root, images).items()}
    return DataFolder(root, classes, samples, splits, read_skipped(root) | problems)


def _inspect(
    name: str, image: Path, drawn: Mapping[str, Path], classes: tuple[str, ...], row: Mapping[str, bool] | None
) -> Sample:
    """Decode an image and its masks; `row` is what labels.csv says of it, None where its masks tell all.

    Raises:
        DataError: a file cannot be read, or labels.csv says something else than a mask.
    """
    shape = read_image(image).shape[:2]
    coverage = {label: float(read_mask(path, (shape[0], shape[1])).mean()) for label, path in drawn.items()}
    masks = {label: path for label, path in drawn.items() if coverage[label]}
    for label, path in drawn.items():
        if row is not None and row.get(label, label in masks) != (label in masks):
            said, seen = ("absent", "drawn") if label in masks else ("present", "empty")
            raise DataError(f"{path} is {seen}, but labels.csv says that {label} is {said} on {name}")
    # Where labels.csv leaves a class open, only a mask file can tell; one that is empty says that the class is absent.
    presence = {label: label in masks for label in (classes if row is None else drawn)} | dict(row or {})
    known = all(label in masks or presence.get(label) is False for label in classes)
    return Sample(name, image, masks, presence, known, {label: coverage[label] for label in masks})
