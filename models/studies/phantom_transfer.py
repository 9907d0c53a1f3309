"""`python -m models.studies.phantom_transfer`: measures how much phantoms alone teach about real frames.

The light network is trained on phantoms of some styles and judged on real frames and on phantoms of the other styles.
Nothing of a real frame is learnt or calibrated.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from models.checkpoint import Card
from models.classifier import Classifier
from models.config import ClassifierConfig, PipelineConfig
from models.data.reader import open_data_folder
from models.data.sample import Sample
from models.evaluation.evaluate import evaluate
from models.first_refiner import first_refiner
from models.phantom import CLASSES, STYLES, style_of, write_phantoms
from models.pipeline import Pipeline, load_pipeline, save_pipeline
from models.training.calibration import calibrate_maps, calibrate_presence
from models.training.classifier_loop import ClassifierHyperparameters, train_classifier
from models.training.frames import phantom_frames
from models.training.pretrained import LIGHT, load_pretrained
from models.training.schedule import print_progress

GATE = 0.2  # presence from which a class is drawn, as in models.studies.starter


def main(argv: Sequence[str] | None = None) -> None:
    """Train unless there is a checkpoint already, then print the figures of every folder as one JSON document."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if not 0 < arguments.styles < STYLES:
        parser.error(f"--styles must leave some of the {STYLES} styles to judge on, and some to learn")
    folders = [open_data_folder(path) for path in arguments.data]
    with tempfile.TemporaryDirectory() as scratch:
        samples = _phantoms(Path(scratch) / "unseen", arguments, range(arguments.styles, STYLES))
        if arguments.out and arguments.out.is_dir():
            pipeline = load_pipeline(arguments.out, "cpu")
        else:
            settings = PipelineConfig(presence_threshold=dict.fromkeys(CLASSES, GATE), presence_scale=0.75)
            pipeline = Pipeline.of(_train(arguments), first_refiner(), settings)
            learnt = _phantoms(Path(scratch) / "learnt", arguments, range(arguments.styles))
            calibrate_presence(pipeline, learnt)
            pipeline.config = calibrate_maps(pipeline, learnt)
            if arguments.out:
                save_pipeline(pipeline, arguments.out, Card("phantoms alone", [], "", ""))
        figures: dict[str, Any] = {"unseen styles": evaluate(pipeline, samples)["classes"]}
    for path, folder in zip(arguments.data, folders, strict=True):
        figures[path.name] = evaluate(pipeline, list(folder.samples.values()))["classes"]
    for name, classes in figures.items():
        for label, row in classes.items():
            print(f"{name:16} {label:14}", *(f"{key} {_shown(row[key])}" for key in ("iou", "coarse_iou", "accuracy")))
    print(json.dumps(figures))


def _phantoms(path: Path, arguments: argparse.Namespace, styles: range) -> list[Sample]:
    write_phantoms(path, arguments.judged, arguments.seed, kind="vessel", styles=styles)
    return list(open_data_folder(path).samples.values())


def _train(arguments: argparse.Namespace) -> Classifier:
    seeds = [seed for seed in range(STYLES * arguments.phantoms) if style_of(seed) < arguments.styles]
    torch.manual_seed(arguments.seed)
    classifier = Classifier(ClassifierConfig(CLASSES, LIGHT, input_size=arguments.size))
    load_pretrained(classifier, None)
    frames = phantom_frames(seeds[: arguments.phantoms], CLASSES, arguments.size, kind="vessel")
    hyperparameters = ClassifierHyperparameters(arguments.steps, view=arguments.view)
    classifier, _ = train_classifier(
        classifier, frames, hyperparameters, score=None, report=print_progress, seed=arguments.seed,
        device=torch.device("cpu"), seconds=arguments.minutes and arguments.minutes * 60,
    )  # fmt: skip
    return classifier


def _shown(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.3f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, action="append", required=True, help="real frames to judge on; repeat it")
    parser.add_argument("--steps", type=int, default=800, help="batches of eight views")
    parser.add_argument("--minutes", type=float, help="limit on the training's wall time")
    parser.add_argument("--size", type=int, default=512, help="side of the frames as the network sees them, pixels")
    parser.add_argument("--view", type=int, default=288, help="side of a training view, pixels")
    parser.add_argument("--phantoms", type=int, default=1100, help="that are learnt from")
    parser.add_argument("--judged", type=int, default=96, help="that are judged on, and as many to calibrate on")
    parser.add_argument("--styles", type=int, default=48, help="styles that are learnt; the others are judged on")
    parser.add_argument("--out", type=Path, help="checkpoint to write, or to judge again if it is there")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main()
