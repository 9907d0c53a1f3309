"""Data folders: images with masks per class, or with image-level labels, as training and evaluation read them.

images/NAME.{jpg,png}   masks/CLASS/NAME.png (0/255; no file = absent)   classes.txt
split.json (optional)   labels.csv (optional; name,CLASS,... 0, 1 or empty for unknown)
"""

import csv
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Sample:
    """One image and what is known of it.

    Attributes:
        name: the image's file name without ending.
        image: its file.
        masks: class -> mask file, for the classes drawn on it.
        presence: class -> whether it is on the image; a class that is not named is unknown.
        has_masks: masks tell all of the image: a class without one is nowhere on it.
    """

    name: str
    image: Path
    masks: Mapping[str, Path]
    presence: Mapping[str, bool]
    has_masks: bool

    def read_image(self) -> NDArray[np.uint8]:
        """Shape (H, W, 3), uint8 RGB. Raises DataError naming the file if it cannot be read."""
        pixels = cv2.imread(str(self.image), cv2.IMREAD_COLOR)
        if pixels is None:
            raise DataError(f"{self.image} cannot be read as an image; replace it or go on without it with --skip-bad")
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    def read_mask(self, label: str, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """The mask of a class, of the image's shape (H, W), bool; all False where the class has no file.

        Raises:
            DataError: the file cannot be read or its size is not the image's.
        """
        if label not in self.masks:
            return np.zeros(shape, dtype=bool)
        path = self.masks[label]
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if mask is None:
            raise DataError(f"{path} cannot be read as a mask; replace it or go on without it with --skip-bad")
        if mask.shape != shape:
            raise DataError(
                f"{path} is {mask.shape[1]}x{mask.shape[0]}, but its image is {shape[1]}x{shape[0]}; "
                f"export it at the image's size or go on without it with --skip-bad"
            )
        return np.asarray(mask >= 128)


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

    Raises:
        DataError: fewer than two samples.
    """
    if len(samples) < 2:
        raise DataError(f"training needs at least 2 images, one of them to hold out, got {len(samples)}")
    wanted = max(1, round(share * len(samples)))
    blocks = min(blocks, wanted)
    held_out: set[int] = set()
    for block in range(blocks):
        size = wanted // blocks + (block < wanted % blocks)
        centre = round((block + 0.5) * len(samples) / blocks)
        start = min(max(centre - size // 2, 0), len(samples) - size)
        held_out.update(range(start, start + size))
    train = [sample for i, sample in enumerate(samples) if i not in held_out]
    return train, [samples[i] for i in sorted(held_out)]


def open_data_folder(root: Path, *, skip_bad: bool = False) -> DataFolder:
    """List a data folder and check that its parts fit together.

    Args:
        root: the folder.
        skip_bad: leave out what is inconsistent, noting it in `skipped`, instead of raising.

    Raises:
        DataError: with the name of the file that is missing, unreadable or of the wrong size.
    """
    classes = _read_classes(root)
    images = _list_images(root)
    masks: dict[str, dict[str, Path]] = {name: {} for name in images}
    problems: dict[str, str] = {}
    mask_root = root / "masks"
    has_masks = mask_root.is_dir()
    for folder in sorted(mask_root.iterdir()) if has_masks else ():
        if not folder.is_dir():
            continue
        if folder.name not in classes:
            raise DataError(f"{folder} is for a class that classes.txt does not name ({', '.join(classes)})")
        for path in sorted(folder.glob("*.png")):
            if path.stem in masks:
                masks[path.stem][folder.name] = path
            else:
                problems[path.stem] = f"{path} has no image in {root / 'images'}"
    labels = dict(_read_labels(root, classes))
    problems |= {name: f"labels.csv names {name}, which has no image" for name in labels if name not in images}
    if not has_masks and not labels:
        raise DataError(f"{root} has neither masks/ nor labels.csv; training needs one of them")
    samples = {}
    for name, image in images.items():
        drawn = masks[name]
        if name in labels:
            presence = labels[name] | dict.fromkeys(drawn, True)
            # A class that is known to be absent has a known mask: an empty one.
            masked = all(label in drawn or presence.get(label) is False for label in classes)
        else:
            presence, masked = {label: label in drawn for label in classes if has_masks}, has_masks
        samples[name] = Sample(name, image, drawn, presence, masked)
    problems |= {name: reason for name, reason in _unreadable(samples)}
    if problems and not skip_bad:
        first = next(iter(problems.values()))
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataError(first + more)
    kept = {name: sample for name, sample in samples.items() if name not in problems}
    splits = {split: tuple(n for n in names if n in kept) for split, names in _read_splits(root, images).items()}
    return DataFolder(root, classes, kept, splits, problems)


def _read_classes(root: Path) -> tuple[str, ...]:
    path = root / "classes.txt"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); a data folder names its classes there, one a line"
        ) from None
    classes = tuple(line.strip() for line in lines if line.strip())
    if not classes or len(set(classes)) < len(classes):
        raise DataError(f"{path} must name each class once, one a line; it has {list(classes)}")
    return classes


def _list_images(root: Path) -> dict[str, Path]:
    images: dict[str, Path] = {}
    for path in sorted((root / "images").glob("*"), key=_natural):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if path.stem in images:
            raise DataError(f"{path} and {images[path.stem]} have the same name; rename one")
        images[path.stem] = path
    if not images:
        raise DataError(f"{root / 'images'} holds no {', '.join(IMAGE_SUFFIXES)} files")
    return images


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key by which frame-9 comes before frame-10: neighbours by name are neighbours in the series."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _read_labels(root: Path, classes: tuple[str, ...]) -> Iterator[tuple[str, dict[str, bool]]]:
    path = root / "labels.csv"
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        unknown = set(reader.fieldnames or ()) - {"name", *classes}
        if unknown or "name" not in (reader.fieldnames or ()):
            raise DataError(f"{path} must have the columns name and classes of classes.txt, has {reader.fieldnames}")
        for row in reader:
            values = {label: (row.get(label) or "").strip() for label in classes}
            wrong = {label: value for label, value in values.items() if value not in ("", "0", "1")}
            if wrong:
                raise DataError(f"{path} line {reader.line_num}: a label is 0, 1 or empty, got {wrong}")
            yield row["name"], {label: value == "1" for label, value in values.items() if value}


def _read_splits(root: Path, images: Mapping[str, Path]) -> dict[str, list[str]]:
    path = root / "split.json"
    if not path.is_file():
        return {}
    try:
        splits: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
        names = [name for split in splits.values() for name in split]
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(f'{path} must hold {{"train": [names], "val": [names]}}: {error}') from error
    missing = [name for name in names if name not in images]
    if missing:
        raise DataError(f"{path} names {missing[0]} (and {len(missing) - 1} more) without an image")
    if len(set(names)) < len(names):
        raise DataError(f"{path} names an image twice; a frame must not be trained on and held out")
    return splits


def _unreadable(samples: Mapping[str, Sample]) -> Iterator[tuple[str, str]]:
    """Decode everything once: a damaged file is better found now than after an hour of training."""
    for name, sample in samples.items():
        try:
            shape = sample.read_image().shape[:2]
            for label in sample.masks:
                sample.read_mask(label, (shape[0], shape[1]))
        except DataError as error:
            yield name, str(error)
