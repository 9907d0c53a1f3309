"""nnU-Net v2: imagesTr/CASE_0000.png, labelsTr/CASE.png, dataset.json, splits_final.json.

A label map has one number a pixel. Where masks of two classes overlap, their combination gets a number of its own, and
dataset.json lists the numbers of each class: nnU-Net's region-based labels, which lose nothing.
"""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.errors import ExportError
from backend.exports.export import Export, ExportImage, Mask, Result, Tick, each, write_table
from models.data.png import write_png

MAX_NUMBER = 255
RESERVED = ("background", "ignore")  # labels that nnU-Net gives a meaning


class Numbers:
    """Numbers of classes, and of the combinations in which they overlap.

    Args:
        classes: get the numbers 1, 2 ... in their order.
    """

    def __init__(self, classes: tuple[str, ...]) -> None:
        self._classes = classes
        self._numbers: dict[frozenset[int], int] = {frozenset([i]): i + 1 for i in range(len(classes))}

    @property
    def overlaps(self) -> int:
        """How many combinations of classes have a number."""
        return len(self._numbers) - len(self._classes)

    def label_map(self, masks: dict[int, Mask], shape: tuple[int, int]) -> NDArray[np.uint8]:
        """Shape (H, W), uint8: the number of each pixel, 0 outside all masks; `masks` by the class's place.

        Raises:
            ExportError: there are more combinations than numbers.
        """
        labels = np.zeros(shape, dtype=np.uint8)
        count = np.zeros(shape, dtype=np.uint16)
        for place, mask in masks.items():
            labels[mask] = min(place + 1, MAX_NUMBER)
            count += mask
        shared = count > 1
        if shared.any():
            places = list(masks)
            columns = np.stack([mask[shared] for mask in masks.values()])  # (classes, pixels)
            combinations, which = np.unique(columns, axis=1, return_inverse=True)
            numbers = [self._number(frozenset(np.array(places)[c].tolist())) for c in combinations.T]
            labels[shared] = np.array(numbers, dtype=np.uint8)[which.reshape(-1)]
        return labels

    def _number(self, combination: frozenset[int]) -> int:
        number = self._numbers.setdefault(combination, len(self._numbers) + 1)
        if number > MAX_NUMBER:
            raise ExportError(
                f"the masks overlap in more than {MAX_NUMBER - len(self._classes)} combinations of classes, "
                "more than a label map of 8 bits can tell; export to coco or png"
            )
        return number

    def labels(self, names: list[str]) -> dict[str, int | list[int]]:
        """dataset.json's `labels`: a number a class, or all numbers of its combinations where classes overlap."""
        labels: dict[str, int | list[int]] = {"background": 0}
        for place, name in enumerate(names):
            numbers = sorted(number for combination, number in self._numbers.items() if place in combination)
            labels[name] = numbers if self.overlaps else numbers[0]
        return labels


def write_nnunet(export: Export, out: Path, tick: Tick) -> Result:
    """Write an export. Predictions are written as cases to test on, which nnU-Net does not train on.

    Raises:
        ExportError: more classes or combinations of classes than 255.
    """
    if len(export.drawn) > MAX_NUMBER:
        raise ExportError(f"{len(export.drawn)} classes are more than a label map of 8 bits can tell; export to coco")
    result, files, numbers = Result(), {}, Numbers(export.drawn)
    part = "Tr" if export.version is None else "Ts"
    for folder in ("images", "labels"):
        (out / f"{folder}{part}").mkdir(parents=True)
    cases: dict[str, list[str]] = {}
    for number, (image, shape) in enumerate(each(export, tick), start=1):
        case = f"case_{number:05d}"
        write_png(out / f"images{part}" / f"{case}_0000.png", image.sample.read_image())
        masks = _masks(image, export, shape)
        write_png(out / f"labels{part}" / f"{case}.png", numbers.label_map(masks, shape))
        for place in masks:
            result.count(export.drawn[place])
        cases.setdefault(image.subset, []).append(case)
        files[image.stem] = f"images{part}/{case}_0000.png"
        result.images += 1
    names = _names(export.drawn)
    dataset: dict[str, object] = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": numbers.labels(names),
        "numTraining": result.images if part == "Tr" else 0,
        "file_ending": ".png",
        "overwrite_image_reader_writer": "NaturalImage2DIO",
        "description": "accepted annotations" if part == "Tr" else f"predictions of {export.version}, not accepted",
    }
    if numbers.overlaps:
        dataset["regions_class_order"] = list(range(1, len(names) + 1))
        result.notes.append(
            f"masks overlap in {numbers.overlaps} combinations of classes: the labels are regions, which nnU-Net "
            "trains on as they are; where its predictions overlap, it writes the later class"
        )
    _write(out / "dataset.json", dataset)
    if cases.get("train") and cases.get("val"):
        _write(out / "splits_final.json", [{"train": cases["train"], "val": cases["val"]}])
    write_table(export, out, files)
    return result


def _masks(image: ExportImage, export: Export, shape: tuple[int, int]) -> dict[int, Mask]:
    return {
        place: image.sample.read_mask(label, shape)
        for place, label in enumerate(export.drawn)
        if label in image.sample.masks
    }


def _names(classes: tuple[str, ...]) -> list[str]:
    """Names in dataset.json: the classes' own, but for those that nnU-Net keeps for itself."""
    taken, names = {*classes, *RESERVED}, []
    for label in classes:
        name = label
        while label in RESERVED and name in taken:
            name += " (class)"
        taken.add(name)
        names.append(name)
    return names


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
