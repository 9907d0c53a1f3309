"""Data folders: images with masks per class, or with image-level labels, as training and evaluation read them.

images/NAME.{jpg,png,...}   masks/CLASS/NAME.png (0/255; no file = absent)   classes.txt
split.json (optional)       labels.csv (optional; name,CLASS,... 0, 1 or empty for unknown)
groups.json (optional; name -> patient, study or series)
skipped.json (optional; name -> why the writer of the folder left an image out)
names.json (optional; the names of images and classes where those of the files are running names; see `names`)

Each page of an image file of several is an image of its own, NAME-page-1 ...

Of an image that has a row in labels.csv only what is drawn or written there is known; of any other, an undrawn class is
absent, provided that there is a folder of masks at all.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from models.data.files import IMAGE_SUFFIXES, read_image, read_mask
from models.data.groups import blocks, read_groups
from models.data.names import Known, Names, composed, is_junk, page_name, read_names
from models.data.sample import Sample
from models.data.splitter import check_splits, split_samples
from models.data.tables import (
    Picture,
    known_images,
    list_images,
    natural,
    read_classes,
    read_labels,
    read_skipped,
    read_splits,
    strays,
)
from models.errors import DataError

T = TypeVar("T")

DECODERS = 4  # images decoded at the same time: few, since each may be large


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
        """Training and held-out samples: split.json's train and val, else about a fifth is held out.

        Without a val in split.json the fifth is of all images but those of its test, and beside a train of any part
        that is called otherwise.
        Never is a group of groups.json on both sides; without that file contiguous blocks are held out, since
        neighbouring frames of a series are near-copies.

        Raises:
            DataError: there is no such split.json, and fewer than two samples.
        """
        if "train" in self.splits and "val" in self.splits:
            return self.split("train"), self.split("val")
        apart = {*self.splits} - {"train", "val"} if "train" in self.splits else {"test"}
        unused = {name for side in apart for name in self.splits.get(side, ())}
        return split_samples([sample for name, sample in self.samples.items() if name not in unused])

    def groups(self) -> dict[str, str]:
        """Name -> group of every image: from groups.json, else blocks of neighbours by name."""
        known = {name: sample.group for name, sample in self.samples.items() if sample.group is not None}
        return known or blocks(self.samples)

    def fingerprint(self) -> str:
        """SHA-256 over the names and contents of all images and masks: the same data gives the same string."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for sample in self.samples.values():
            digest.update(str(sample.file_page).encode() if sample.file_page else b"")
            first_page = [] if sample.file_page else [sample.image]  # a stack is read once, not once a page
            for path in (*first_page, *(sample.masks[label] for label in sorted(sample.masks))):
                digest.update(str(path.relative_to(self.root)).encode())
                digest.update(path.read_bytes())
            digest.update(json.dumps(dict(sample.presence), sort_keys=True).encode())
            digest.update(f"{sample.group}".encode() if sample.group is not None else b"")
        return digest.hexdigest()


def open_data_folder(root: Path, *, skip_bad: bool = False) -> DataFolder:
    """List a data folder, decode everything in it once, and check that its parts fit together.

    A damaged file is better found now than after an hour of training.

    Args:
        root: the folder.
        skip_bad: leave out what is inconsistent, noting it in `skipped`, instead of raising. Of a group that split.json
            puts on two sides, the images of the later side are left out: val yields to train.

    Raises:
        DataError: with the name of the file that is missing, unreadable or of the wrong size, or of the group and two
            images of it that split.json puts on different sides.
    """
    originals = read_names(root)
    classes = read_classes(root)
    images = list_images(root, originals)
    try:
        masks, problems = _list_masks(root, classes, images)
    except OSError as error:
        raise DataError(f"{error.filename} cannot be listed: {error.strerror}") from error
    labels = _labels(root, classes, images, problems)
    has_masks = (root / "masks").is_dir()
    if not has_masks and not labels:
        raise DataError(f"{root} has neither masks/ nor labels.csv; one of them says what the images show")
    known = known_images(images)
    for place, why in strays(root).items():
        problems[place] = why
        if place.startswith("masks/") and (name := known(Path(place).stem)) in images:
            problems[name] = why  # without that mask it would count as one that lacks the class
    groups = {known(name): group for name, group in read_groups(root).items()}
    splits = read_splits(root, images)
    if groups:
        problems |= {name: f"{root / 'groups.json'} names no group for {name}" for name in images if name not in groups}
    problems |= check_splits(splits, groups)

    def inspect(name: str) -> Sample | str:
        try:
            row = labels.get(name, {} if not has_masks else None)
            return _inspect(name, images[name], masks[name], classes, row, groups.get(name))
        except DataError as error:
            return str(error)

    samples: dict[str, Sample] = {}
    with ThreadPoolExecutor(DECODERS) as pool:
        for name, found in zip(images, pool.map(inspect, images), strict=True):
            if isinstance(found, str):
                problems.setdefault(name, found)
            elif name not in problems:
                samples[name] = found
    kept = {split: tuple(name for name in names if name in samples) for split, names in splits.items()}
    folder = _with_originals(DataFolder(root, classes, samples, kept, problems), originals)
    if problems and not skip_bad:
        first = next(iter(folder.skipped.values()))
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataError(f"{first}{more}; correct it, or go on without it with --skip-bad")
    return replace(folder, skipped={**read_skipped(root), **folder.skipped})


def _with_originals(folder: DataFolder, originals: Names) -> DataFolder:
    """A folder with the names and labels of names.json in the place of those of its files; samples in natural order."""
    labels = {name: originals.classes.get(name, name) for name in folder.classes}
    names = {name: original.name for name, original in originals.images.items()}

    def of_classes(values: Mapping[str, T]) -> dict[str, T]:
        return {labels[name]: value for name, value in values.items()}

    samples = [
        replace(
            sample,
            name=names.get(sample.name, sample.name),
            masks=of_classes(sample.masks),
            presence=of_classes(sample.presence),
            coverage=of_classes(sample.coverage),
            source=originals.images[sample.name].source if sample.name in names else sample.source,
            page=originals.images[sample.name].page if sample.name in names else sample.page,
        )
        for sample in folder.samples.values()
    ]
    samples.sort(key=lambda sample: natural(sample.name))
    sources = {name: one.source or one.name for name, one in originals.images.items()}
    skipped = {
        names.get(name, name): _named(reason, folder.root, name, sources) for name, reason in folder.skipped.items()
    }
    return DataFolder(
        folder.root,
        tuple(labels.values()),
        {sample.name: sample for sample in samples},
        {side: tuple(names.get(name, name) for name in side_names) for side, side_names in folder.splits.items()},
        skipped,
    )


def _named(reason: str, root: Path, name: str, sources: Mapping[str, str]) -> str:
    """A sentence about an image that says where the image comes from instead of where its running name is."""
    source = sources.get(name)
    if source is None:
        return reason
    files = re.escape(str(root)) + r"/(?:images|masks/[^/]+)/" + re.escape(name) + r"\.\w+"
    reason = re.sub(files, lambda found: source, reason)
    return reason if source in reason else f"{source}: {reason}"


def _list_masks(
    root: Path, classes: tuple[str, ...], images: Mapping[str, Picture]
) -> tuple[dict[str, dict[str, Path]], dict[str, str]]:
    """Name -> class -> mask file; and name -> problem, for what lies in masks/ and cannot be a mask of these images."""
    masks: dict[str, dict[str, Path]] = {name: {} for name in images}
    problems: dict[str, str] = {}
    mask_root = root / "masks"
    known_class, known = Known(classes), known_images(images)
    in_any_case = {name.casefold(): name for name in images}
    for folder in sorted(mask_root.iterdir()) if mask_root.is_dir() else ():
        if not folder.is_dir() or is_junk(Path(folder.name)):
            continue
        label = known_class(folder.name)
        if label not in classes:
            alike = [one for one in classes if _letters(one) == _letters(label)]
            own = [one for one in alike if (mask_root / one).exists()]
            label = alike[0] if len(alike) == 1 and not own else label
            if own or len(alike) > 1:
                # What is drawn in it may be of that class: without it, the class would count as absent.
                meant = " or ".join(own or alike)
                for path in sorted(path for path in folder.iterdir() if known(path.stem) in masks):
                    problems[known(path.stem)] = f"{path} may be of {meant}; put the masks of a class into one folder"
        if label not in classes:
            problems[f"masks/{folder.name}"] = (
                f"{folder} is for a class that classes.txt does not name ({', '.join(classes)})"
            )
            continue
        for path in sorted(folder.iterdir()):
            if is_junk(Path(path.name)):
                continue
            name = known(path.stem)
            if path.suffix.lower() not in IMAGE_SUFFIXES:
                # An array or a volume that is called as an image is its mask; a text beside the masks is none.
                name = next((known(stem) for stem in (path.stem, Path(path.stem).stem) if known(stem) in masks), "")
                if not name:
                    continue
            name = name if name in masks else in_any_case.get(name.casefold(), name)
            if path.suffix != ".png":
                problems[name] = f"{path} is not read: masks are PNG files, named .png"
            elif name in masks and name != known(path.stem):
                problems[name] = f"{path} is of {images[name].path.name}, written in other letters; call it {name}.png"
            elif name in masks:
                masks[name][label] = path
            elif page_name(name, 0) in images:
                problems[name] = (
                    f"{path} is for an image of several pages; name a mask after each, {page_name(name, 0)}"
                )
            elif (meant := _image_meant(name, masks)) and label not in masks[meant]:
                problems[meant] = f"{path} seems to be of {images[meant].path.name}; call it {meant}.png"
            else:
                problems[name] = f"{path} has no image in {root / 'images'}"
    return masks, problems


def _letters(label: str) -> str:
    """What a label and the folder of its masks have in common, where one of them is written in another way."""
    return re.sub(r"[\s_-]+", " ", composed(label)).strip().casefold()


def _image_meant(name: str, images: Collection[str]) -> str:
    """The image whose mask a file is called after with a word more, as a_mask or mask-a; "" for none."""
    words = re.split(r"([_. -])", name)
    parts = {"".join(words[:end]) for end in range(len(words))} | {
        "".join(words[start:]) for start in range(len(words))
    }
    return max((part for part in parts if part in images), key=len, default="")


def _labels(
    root: Path, classes: tuple[str, ...], images: Mapping[str, Picture], problems: dict[str, str]
) -> dict[str, dict[str, bool]]:
    """Name -> row of labels.csv; adds to `problems` the names that it has twice or that have no image."""
    labels: dict[str, dict[str, bool]] = {}
    known = known_images(images)
    for written, row in read_labels(root, classes):
        name = known(written)
        if name not in images or name in labels:
            wrong = "names it twice" if name in labels else "names it (without an ending), but it has no image"
            problems[name] = f"{name}: labels.csv {wrong}"
        labels[name] = row
    return labels


def _inspect(
    name: str,
    image: Picture,
    drawn: Mapping[str, Path],
    classes: tuple[str, ...],
    row: Mapping[str, bool] | None,
    group: str | None,
) -> Sample:
    """Decode an image and its masks; `row` is what labels.csv says of it, None where its masks tell all.

    Raises:
        DataError: a file cannot be read, or labels.csv says something else than a mask.
    """
    shape = read_image(image.path, image.page).shape[:2]
    coverage = {label: float(read_mask(path, (shape[0], shape[1])).mean()) for label, path in drawn.items()}
    masks = {label: path for label, path in drawn.items() if coverage[label]}
    for label, path in drawn.items():
        if row is not None and row.get(label, label in masks) != (label in masks):
            said, seen = ("absent", "drawn") if label in masks else ("present", "empty")
            raise DataError(f"{path} is {seen}, but labels.csv says that {label} is {said} on {name}")
    # Where labels.csv leaves a class open, only a mask file can tell; one that is empty says that the class is absent.
    presence = {label: label in masks for label in (classes if row is None else drawn)} | dict(row or {})
    known = all(label in masks or presence.get(label) is False for label in classes)
    covered = {label: coverage[label] for label in masks}
    source = f"images/{image.path.name}"
    return Sample(
        name, image.path, masks, presence, known, covered, group, source, page=image.page, file_page=image.page
    )
