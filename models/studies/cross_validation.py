"""`python -m models.studies.cross_validation`: what a training is worth on groups of images that it has not seen.

For each fold a model is trained on the images of all other folds, none held out, and judged on the fold's own beside
the model that it began from. With `--folds images` each image is a fold: of three frames of one patient two teach and
the third is judged, as when a team has corrected the first ones of a new patient.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.data.reader import DataFolder, open_data_folder
from models.data.sample import Sample
from models.evaluation.evaluate import FrameFigures, measure, summarise
from models.pipeline import load_pipeline
from models.starter import model_folder
from models.studies.curve import link_samples
from models.training.schedule import print_progress
from models.training.spec import TrainingSpec
from models.training.train import train

FIGURES = ("iou", "boundary_f", "accuracy", "precision")


def main(argv: Sequence[str] | None = None) -> None:
    """Train and judge fold after fold, then print the figures as rows and as one JSON document."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    folder = open_data_folder(arguments.data)
    folds = divide(folder, arguments.folds)
    if len(folds) < 2:
        parser.error(f"{arguments.data} has one group of images; there is nothing to hold out")
    parent = model_folder(arguments.parent) if arguments.parent else None
    before: list[FrameFigures] = []
    after: list[FrameFigures] = []
    seconds = []
    for number, fold in enumerate(folds):
        out = arguments.out / f"fold-{number}"
        if not out.exists():
            names = {sample.name for sample in fold}
            with tempfile.TemporaryDirectory() as scratch:
                data = Path(scratch) / "data"
                learnt = [sample for sample in folder.samples.values() if sample.name not in names]
                link_samples(learnt, folder.classes, data)
                spec = TrainingSpec(
                    data, out, out.name, parent, minutes=arguments.minutes, wall=arguments.wall, seed=arguments.seed,
                    backbone=arguments.backbone, device=arguments.device,
                )  # fmt: skip
                train(spec, print_progress)
        model = load_pipeline(out, arguments.device)
        seconds.append(json.loads((out / "card.json").read_text(encoding="utf-8"))["training"]["seconds"])
        after += measure(model, fold)
        if parent:
            before += measure(load_pipeline(parent, arguments.device), fold)
    result: dict[str, Any] = {"folds": len(folds), "seconds": seconds, "after": summarise(after, model)["classes"]}
    if parent:
        result["before"] = summarise(before, model)["classes"]
    for when in ("before", "after"):
        for label, row in result.get(when, {}).items():
            print(f"{when:7} {label:14}", *(f"{key} {_shown(row[key])}" for key in FIGURES))
    print(f"longest training {max(seconds):.0f} s")
    print(json.dumps(result))


def divide(folder: DataFolder, folds: str) -> list[list[Sample]]:
    """The samples in folds: each its own ("images"), or whole groups, as even as may be, in so many.

    Groups of neighbours by name lie in runs, so that a fold's images are no near-copies of the others.
    """
    samples = list(folder.samples.values())
    if folds == "images":
        return [[sample] for sample in samples]
    groups = folder.groups()
    names = sorted(set(groups.values()), key=list(groups.values()).index)
    fold_of = {name: index for index, part in enumerate(np.array_split(names, int(folds))) for name in part.tolist()}
    divided: dict[int, list[Sample]] = {}
    for sample in samples:
        divided.setdefault(fold_of[groups[sample.name]], []).append(sample)
    return list(divided.values())


def _shown(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.3f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoints; those there are judged")
    parser.add_argument("--folds", type=_folds, default="5", help="how many, of whole groups each; or images")
    parser.add_argument("--parent", help="a checkpoint to begin from: a folder, xception or light; else none")
    parser.add_argument("--backbone", default="auto")
    parser.add_argument("--wall", default="auto", help="as of `premask train`")
    parser.add_argument("--minutes", type=float, help="limit on each training")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def _folds(value: str) -> str:
    if value != "images" and not (value.isdigit() and int(value) > 1):
        raise argparse.ArgumentTypeError(f"a number from 2 on, or images, not {value!r}")
    return value


if __name__ == "__main__":
    main()
