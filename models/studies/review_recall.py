"""`python -m models.studies.review_recall`: how many planted annotation errors does a review find, by trained models?

A synthetic project gets errors (`models.evaluation.planted`), a model is trained on it, errors and all, and judges its
images. `--way served` is what the review job does in a project with one version: it is trained as the training job
trains it, a fifth is held out, and it judges what it has learnt too. `--way folds` judges each image by a model of the
other folds, `--way parent` by `--parent` as it is, as the job has the starter judge. `--cleanlab` ranks the same images
by cleanlab's quality of segmentation labels, from the same predictions (Lad and Mueller 2023, arXiv 2307.05080); it has
to be installed beside premask.

    python -m models.studies.review_recall --kind leaf --out OUT --minutes 3 --seeds 0,1,2 --cleanlab
"""

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.data.reader import open_data_folder
from models.data.sample import Sample
from models.data.writer import DataFolderWriter
from models.evaluation.planted import plant, recall_of
from models.evaluation.review import findings, opinions
from models.phantom.folder import KINDS, write_phantoms
from models.pipeline import Pipeline, Steps, load_pipeline, prediction
from models.refiner import centre_map
from models.segment import Prediction
from models.starter import model_folder
from models.studies.cross_validation import divide
from models.studies.curve import link_samples
from models.training.schedule import print_progress
from models.training.spec import TrainingSpec
from models.training.train import train

WAYS = ("served", "folds", "parent")
GRID = 128  # side of the label maps that cleanlab ranks


def main(argv: Sequence[str] | None = None) -> None:
    """Train and review seed after seed, print a line each and the means, and write them to OUT/KIND-WAY.json."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.way == "parent" and not arguments.parent:
        parser.error("--way parent needs --parent")
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = [row for seed in map(int, arguments.seeds.split(",")) for row in _of_seed(arguments, seed)]
    for ranking in dict.fromkeys(row["ranking"] for row in rows):
        of = [row for row in rows if row["ranking"] == ranking]
        planted = sum(row["planted"] for row in of)
        found = sum(row["recall"] * row["planted"] for row in of)
        print(f"{arguments.kind} {arguments.way} {ranking}: {found:.0f} of {planted}, recall {found / planted:.2f}")
    result = arguments.out / f"{arguments.kind}-{arguments.way}.json"
    result.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def _of_seed(arguments: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """A project with errors, reviewed by premask and, where asked for, by cleanlab."""
    root = arguments.out / f"{arguments.kind}-{seed}"
    if not (root / "clean").exists():
        write_phantoms(root / "clean", arguments.count, 1000 + seed, arguments.size, kind=arguments.kind)
    clean = open_data_folder(root / "clean")
    good = list(clean.samples.values())
    samples, _ = _planted(good, root, seed)
    judged = [(_Remembering(model), names) for model, names in _models(arguments, root, samples, clean.classes)]
    rows = []
    for planting in range(arguments.plantings):
        changed, planted = _planted(good, root, seed + 100 * planting)
        parts = [(model, [sample for sample in changed if sample.name in names]) for model, names in judged]
        given = [one for model, part in parts for one in opinions(model, part)]
        rankings: dict[str, list[str]] = {"premask": [finding.image for finding in findings(given)]}
        if arguments.cleanlab:
            rankings |= _by_cleanlab(parts, clean.classes)
        for ranking, order in rankings.items():
            found = recall_of(order, planted, len(samples))
            rows.append({"seed": seed, "planting": planting, "way": arguments.way, "ranking": ranking, **found})
            kinds = ", ".join(f"{kind} {seen} of {of}" for kind, (seen, of) in found["kinds"].items())
            print(f"{root.name} {arguments.way} {ranking}: recall {found['recall']:.2f} ({kinds})", flush=True)
    return rows


def _planted(samples: Sequence[Sample], root: Path, seed: int) -> tuple[list[Sample], dict[str, str]]:
    (root / f"errors-{seed}").mkdir(exist_ok=True)
    return plant(samples, root / f"errors-{seed}", seed=seed)


class _Remembering:
    """A pipeline that looks at each image once, however often it is asked."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline, self.name, self.classes = pipeline, pipeline.name, pipeline.classes
        self._found = dict[bytes, tuple[Prediction, NDArray[np.float64]]]()

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """As the pipeline's."""
        return [self._look(image)[0] for image in images]

    def probabilities(self, image: NDArray[np.uint8]) -> NDArray[np.float64]:
        """See `probability_maps`."""
        return self._look(image)[1]

    def _look(self, image: NDArray[np.uint8]) -> tuple[Prediction, NDArray[np.float64]]:
        key = hashlib.sha256(image.tobytes()).digest()
        if key not in self._found:
            (steps,) = self.pipeline.steps([image])
            maps = probability_maps(self.pipeline, steps)
            self._found[key] = prediction(steps, self.pipeline.config.confidence), maps
        return self._found[key]


def _models(
    arguments: argparse.Namespace, root: Path, samples: Sequence[Sample], classes: Sequence[str]
) -> list[tuple[Pipeline, set[str]]]:
    """Models, and the names of the images that each judges."""
    if arguments.way == "served":
        model = _trained(arguments, root, "served", samples, classes, hold_out=True)
        return [(model, {sample.name for sample in samples})]
    if arguments.way == "parent":
        return [(load_pipeline(model_folder(arguments.parent), arguments.device), {one.name for one in samples})]
    data = root / "planted"
    _link(samples, classes, data)
    parts = []
    for number, fold in enumerate(divide(open_data_folder(data), str(arguments.folds))):
        names = {sample.name for sample in fold}
        others = [sample for sample in samples if sample.name not in names]
        model = _trained(arguments, root, f"fold-{number}-of-{arguments.folds}", others, classes, hold_out=False)
        parts.append((model, names))
    return parts


def _trained(
    arguments: argparse.Namespace,
    root: Path,
    name: str,
    samples: Sequence[Sample],
    classes: Sequence[str],
    *,
    hold_out: bool,
) -> Pipeline:
    """A checkpoint trained on these samples; all of them teach unless a fifth is held out."""
    out = root / name
    if not out.exists():
        data = root / f"{name}-data"
        if hold_out:
            _link(samples, classes, data)
        else:
            link_samples(samples, classes, data)
        parent = model_folder(arguments.parent) if arguments.parent else None
        spec = TrainingSpec(
            data, out, name, parent, minutes=arguments.minutes, seed=arguments.seed, device=arguments.device
        )
        train(spec, print_progress)
    return load_pipeline(out, arguments.device)


def _link(samples: Sequence[Sample], classes: Sequence[str], root: Path) -> None:
    """A data folder of these samples without a split, as a training job writes it; made once."""
    if not root.exists():
        with DataFolderWriter(root, classes) as folder:
            for sample in samples:
                folder.add(sample.name, sample.image, sample.masks, sample.presence)


def _by_cleanlab(judged: Sequence[tuple[_Remembering, list[Sample]]], classes: Sequence[str]) -> dict[str, list[str]]:
    """The names of the images by cleanlab's score of label quality, and by the pixels that its filter finds."""
    try:
        from cleanlab.segmentation.filter import find_label_issues
        from cleanlab.segmentation.rank import get_label_quality_scores
    except ImportError as error:
        raise SystemExit(f"--cleanlab needs the package cleanlab: {error}") from None
    names, labels, probabilities = [], [], []
    for model, samples in judged:
        for sample in samples:
            names.append(sample.name)
            labels.append(label_map(sample, classes))
            probabilities.append(model.probabilities(sample.read_image()))
    given = np.stack(labels), np.stack(probabilities)  # (N, S, S), (N, 1 + C, S, S)
    scores, _ = get_label_quality_scores(*given, verbose=False)
    issues = find_label_issues(*given, n_jobs=1, verbose=False).sum(axis=(1, 2))
    return {
        "cleanlab, softmin": [names[index] for index in np.argsort(scores, kind="stable")],
        "cleanlab, filter": [names[index] for index in np.argsort(-issues, kind="stable")],
    }


def label_map(sample: Sample, classes: Sequence[str]) -> NDArray[np.int64]:
    """One label a pixel, shape (GRID, GRID): 0 where there is none, else 1 + the index of the last class there."""
    image = sample.read_image()
    found = np.zeros((GRID, GRID), dtype=np.int64)
    for number, label in enumerate(classes, 1):
        if label in sample.masks:
            mask = sample.read_mask(label, (image.shape[0], image.shape[1])).astype(np.float32)
            found[cv2.resize(mask, (GRID, GRID), interpolation=cv2.INTER_AREA) >= 0.5] = number
    return found


def probability_maps(model: Pipeline, steps: Sequence[Steps]) -> NDArray[np.float64]:
    """Of each pixel the probability of no class and of each, shape (1 + C, GRID, GRID), of sum 1.

    A class has presence times its map or, where it is drawn, times what FBANet made of it.
    """
    odds = [np.ones((GRID, GRID))]
    for step in steps:
        soft = step.alpha if step.mask.any() else centre_map(step.cam, model.config.map_threshold_of(step.label))
        there = step.presence * cv2.resize(soft.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA)
        there = np.clip(there, 1e-3, 1 - 1e-3)
        odds.append(there / (1 - there))
    stacked = np.stack(odds)
    return np.asarray(stacked / stacked.sum(axis=0))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for data and checkpoints; those there are used")
    parser.add_argument("--kind", choices=list(KINDS), default="leaf")
    parser.add_argument("--count", type=int, default=120, help="images of the project")
    parser.add_argument("--size", type=int, help="longer side of the largest images, in pixels")
    parser.add_argument("--seeds", default="0", help="of projects, errors; with commas")
    parser.add_argument("--way", choices=WAYS, default="served")
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument(
        "--plantings",
        type=int,
        default=1,
        help="of errors, judged by models that learnt the first; not for --way served",
    )
    parser.add_argument("--parent", help="a checkpoint to begin from: a folder, xception or light; else none")
    parser.add_argument("--minutes", type=float, help="limit on each training")
    parser.add_argument("--cleanlab", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0, help="of the trainings")
    return parser


if __name__ == "__main__":
    main()
