"""From a data folder to a checkpoint: classifier, then refiner, then the figures on held-out frames."""

import hashlib
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.checkpoint import Card, read_card
from models.classifier import Classifier
from models.confidence import fit as fit_confidence
from models.data.groups import completed
from models.data.reader import DataFolder, open_data_folder
from models.data.sample import Sample
from models.data.splitter import ONE_GROUP, of_one_group, spread
from models.devices import training_devices
from models.errors import CheckpointError, DataError
from models.evaluation.comparison import add_comparison
from models.evaluation.evaluate import FrameFigures, measure, summarise
from models.evaluation.gallery import add_gallery
from models.fba_net import FBANet
from models.pipeline import Pipeline, load_pipeline, save_pipeline
from models.training.begin import begin
from models.training.calibration import (
    MAX_FRAMES,
    MAX_PRESENCE_FRAMES,
    calibrate_band,
    calibrate_maps,
    calibrate_presence,
    made_worse,
)
from models.training.classifier_loop import ClassifierHyperparameters, train_classifier
from models.training.frames import Frames, folder_frames
from models.training.input_size import input_size
from models.training.optimisation import mean_of
from models.training.presets import PRESETS, Preset
from models.training.pretrained import LIGHT
from models.training.promotion import Verdict, verdict
from models.training.refiner_loop import RefinerHyperparameters, train_refiner
from models.training.schedule import Budget, Progress, Report
from models.training.spec import TrainingSpec
from models.training.state import TrainingState
from models.training.team import ALONE, Team, together

STATE_FORMAT = 4  # of training states; those of another format are not taken up
# Of the minutes, where they are short: to measure held-out images, to look at views for FBANet, to score on the way.
JUDGED_TIME, VIEWS_TIME, CHECKS_TIME, PRESENCE_TIME = 0.08, 0.08, 0.2, 0.15
PICTURES = 14  # images that are predicted again to be drawn
# Of the learning rate, and of the backbone's share in it, for networks that know their task and learn on.
FINE, FINE_BACKBONE = 0.2, 0.5


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training run.

    Attributes:
        card: of the new checkpoint.
        metrics: `evaluate`'s figures of the new model on the held-out frames.
        parent_metrics: the parent's on the same frames, where its classes are the same.
        verdict: whether the evidence is enough to promote it, and what is missing.
    """

    card: Card
    metrics: dict[str, Any]
    parent_metrics: dict[str, Any] | None
    verdict: Verdict


def train(spec: TrainingSpec, report: Report) -> TrainingResult:
    """Train classifier and refiner on a data folder and write the checkpoint.

    A run that was killed goes on where it was when it is started again as before: `.NAME.training` beside `out` keeps
    its state until the checkpoint is written.

    Raises:
        DataError: the data cannot be trained on.
        CheckpointError: the parent or pretrained weights cannot be loaded, or `out` exists.
        ModelError: a device is not there, or one of several processes was killed.
    """
    start = time.monotonic()
    if spec.out.exists():  # better said now than when the training is done
        raise CheckpointError(f"{spec.out} exists; a checkpoint is never overwritten, choose another name")
    devices = training_devices(spec.device, spec.processes, PRESETS[spec.preset].batch)
    work = partial(_train, replace(spec, device=devices[0], processes=len(devices)), start)
    return together(work, devices, report) if len(devices) > 1 else work(report, ALONE)


def _train(spec: TrainingSpec, start: float, report: Report, team: Team) -> TrainingResult:
    """Train as one process, or as the first of a team, which began at `start` of the monotonic clock."""
    run = _prepare(spec, start, team)
    budget, report = run.budget, run.budget.telling(report)
    run, frames_before = _measured(run, report)
    classifier, history = _train_classifier(run, report)
    pipeline = Pipeline.of(classifier, run.pipeline.refiner, run.pipeline.config, name=spec.name, device=spec.device)
    report(Progress("classifier", 1000, 1000, "calibrating it"))
    _look_at_speed(run, pipeline)
    with budget.step("presence"):
        few = budget.room(PRESENCE_TIME) or len(run.folder.samples)
        calibrate_presence(pipeline, spread(run.train_samples, few), spread(run.judged, few))
    if budget.allows("maps"):
        with budget.step("maps"):
            pipeline.config = calibrate_maps(pipeline, run.judged)
    pipeline, frames = _train_refiner(run, pipeline, report)
    judged = [one for frame in frames for one in frame.judged]
    pipeline.config = replace(pipeline.config, confidence=fit_confidence(judged))
    metrics = summarise(frames, pipeline)
    parent_metrics = summarise(frames_before, run.rival) if run.rival and frames_before is not None else None
    found = verdict(
        frames, frames_before, spec.tolerance, classes=pipeline.classes,
        groups=completed({name: sample.group for name, sample in run.folder.samples.items()}),
        named=any(sample.group is not None for sample in run.held_out), as_drawn=spec.as_drawn,
        held_out=[sample.name for sample in run.held_out],
    )  # fmt: skip
    report(Progress("saving", 0, 1, "drawing and saving the new model"))
    card = _card(run, pipeline, history)
    card.metrics = metrics
    card.training |= {"steps": run.steps, "seconds": round(budget.spent, 1), "evidence": found.report()}
    save_pipeline(pipeline, spec.out, card)
    add_gallery(spec.out, card, pipeline, run.judged, frames)
    if run.rival and frames_before is not None:
        add_comparison(spec.out, card, (run.rival, pipeline), run.judged, (frames_before, frames))
    shutil.rmtree(run.state.folder, ignore_errors=True)
    report(Progress("saving", 1, 1, "the new model is saved"))
    return TrainingResult(card, metrics, parent_metrics, found)


@dataclass(frozen=True, eq=False)
class _Run:
    """One training run, ready to begin.

    Attributes:
        spec, preset: as asked for.
        folder: the data.
        train_samples, held_out: its two sides.
        parent: the model to begin from.
        rival: the parent, if its classes are the same: the new model is compared with it.
        teacher: the rival, if its classifier has the same layers too: half of what it knows is kept.
        pipeline: before the first step.
        frames: the images to learn from, at training resolution.
        steps: batches for the classifier.
        budget: the time of the run.
        state: by which the run goes on after it was killed.
        judged: the held-out images that there is time to measure: all of them, unless the minutes are short.
        checks: how often the classifier is scored.
        team: who shares each batch.
    """

    spec: TrainingSpec
    preset: Preset
    folder: DataFolder
    train_samples: list[Sample]
    held_out: list[Sample]
    parent: Pipeline | None
    rival: Pipeline | None
    teacher: Pipeline | None
    pipeline: Pipeline
    frames: Frames
    steps: int
    budget: Budget
    state: TrainingState
    judged: list[Sample]
    checks: int
    team: Team


def _prepare(spec: TrainingSpec, start: float, team: Team) -> _Run:
    """Read the data and the parent, and decide how long to train. Raises DataError and CheckpointError."""
    preset = PRESETS[spec.preset]
    folder = open_data_folder(spec.data, skip_bad=spec.skip_bad)
    train_samples, held_out = folder.train_and_held_out()
    _check_trainable(folder, train_samples)
    if spec.wall not in ("auto", "none", *folder.classes):
        raise DataError(f"no class {spec.wall!r} whose wall could be unrolled; there are {', '.join(folder.classes)}")
    parent = load_pipeline(spec.parent, spec.device) if spec.parent else None
    pipeline = begin(spec, lambda: preset.input_size or input_size(train_samples), folder.classes, parent)
    steps = max((spec.epochs or preset.epochs) * math.ceil(len(train_samples) / preset.batch), 1)
    rival = parent if parent and parent.classes == folder.classes else None
    state = TrainingState(spec.out.with_name(f".{spec.out.name}.training"), _run_fingerprint(spec, folder))
    return _Run(
        spec=spec,
        preset=preset,
        folder=folder,
        train_samples=train_samples,
        held_out=held_out,
        parent=parent,
        rival=rival,
        teacher=rival if rival and rival.classifier.config == pipeline.classifier.config else None,
        pipeline=pipeline,
        frames=folder_frames(
            train_samples, folder.classes, pipeline.classifier.config.input_size, pipeline.config.wall
        ),
        steps=max(steps, preset.min_steps) if spec.epochs is None else steps,
        budget=Budget(_seconds(spec, preset), time.monotonic() - start + state.spent()),
        state=state,
        judged=held_out,
        checks=preset.checks,
        team=team,
    )


def _measured(run: _Run, report: Report) -> tuple[_Run, list[FrameFigures] | None]:
    """The run with as many held-out images and checks as its minutes have room for, and the rival's figures on them."""
    budget = run.budget
    report(Progress("classifier", 0, 1000, "looking at how fast this machine is"))
    _look_at_speed(run, run.rival or run.pipeline)
    found = run.state.load("plan")
    known = found[1] if found else None  # a run that goes on is measured on what it began with
    count = known["judged"] if known else min(len(run.held_out), budget.room(JUDGED_TIME) or len(run.held_out))
    judged = spread(run.held_out, count)
    masked = min(len(judged), MAX_FRAMES)
    readers = len(run.pipeline.classifier.readers)  # the presence of each is calibrated
    budget.plan("presence", readers * (min(len(run.train_samples), MAX_PRESENCE_FRAMES) + len(judged)))
    budget.plan("maps", 3 * masked)  # one forward pass and many maps
    budget.plan("refiners", 3 * len(judged))
    budget.plan("figures", len(judged), must=True)
    budget.plan("band", 4 * masked + len(judged))
    budget.plan("worse", MAX_FRAMES + len(judged))
    budget.plan("pictures", min(PICTURES, 3 * len(judged)), must=True)
    frames_before = None
    if run.rival:
        budget.plan("before", len(judged), must=True)
        with budget.step("before") as looked:

            def tell(done: int, total: int) -> None:
                looked()
                report(
                    Progress("classifier", 0, 1000, f"measuring {run.parent and run.parent.name}, {done} of {total}")
                )

            frames_before = measure(run.rival, judged, progress=tell)
    budget.share_out(run.preset.refiner_share)
    seconds, each = budget.loop("classifier"), len(judged) * budget.image_seconds
    checks = run.checks
    if seconds is not None and each:
        checks = min(max(int(CHECKS_TIME * seconds / each), 1), checks)
    checks = known["checks"] if known else checks
    run.state.save("plan", {}, {"judged": len(judged), "checks": checks})
    return replace(run, judged=judged, checks=checks), frames_before


def _look_at_speed(run: _Run, model: Pipeline) -> None:
    """Tell the budget how long an image takes now: other programs come and go."""
    times = [time.monotonic()]
    probe = (run.held_out or run.train_samples)[:2]
    measure(model, probe, progress=lambda done, total: times.append(time.monotonic()))
    run.budget.looked_at(1, times[-1] - times[-2])  # the first one warms up


def _train_classifier(run: _Run, report: Report) -> tuple[Classifier, list[dict[str, float]]]:
    """The trained classifier, midway to the teacher's where there is one, and the history of its held-out scores."""
    spec, preset = run.spec, run.preset
    before = run.pipeline

    def score(classifier: Classifier) -> NDArray[np.float64]:
        coarse = Pipeline.of(classifier, before.refiner, replace(before.config, refiner="none"), device=spec.device)
        return np.array([frame.quality for frame in measure(coarse, run.judged)])

    hyperparameters = ClassifierHyperparameters(
        run.steps,
        batch=preset.batch,
        view=preset.view,
        rate=preset.rate * (FINE if run.teacher else 1.0),
        backbone_rate=preset.backbone_rate * (FINE_BACKBONE if run.teacher else 1.0),
        checks=run.checks,
        frozen=_frozen(spec, preset, before),
        wall_frozen=preset.frozen[0],
        wall_share=0.7 if before.classifier.wall_reader is None else 0.5,
    )
    classifier, history = train_classifier(
        before.classifier, run.frames, hyperparameters, score=score if run.judged else None, report=report,
        seed=spec.seed, device=torch.device(spec.device), seconds=run.budget.loop("classifier"), state=run.state,
        team=run.team,
    )  # fmt: skip
    run.budget.over("classifier")
    return (mean_of(classifier, run.teacher.classifier) if run.teacher else classifier), history


def _train_refiner(run: _Run, pipeline: Pipeline, report: Report) -> tuple[Pipeline, list[FrameFigures]]:
    """The pipeline with the refiner and the unknown band that do best on the held-out images, and its figures there.

    Where no image is held out a teacher's refiner stays: nothing tells whether a new one is better.
    """
    spec, budget, judged, trained = run.spec, run.budget, run.judged, pipeline.refiner
    teach = bool(judged) or not run.teacher
    if teach:
        pipeline.config = replace(pipeline.config, unrefined=())
        hyperparameters = RefinerHyperparameters(
            max(round(run.steps * run.preset.refiner_share), 1),
            rate=FINE * run.preset.rate,
            views=min(200, 2 * len(run.train_samples) + 20, budget.room(VIEWS_TIME) or 200),
            contrast=spec.contrast,
        )
        trained = train_refiner(
            pipeline, run.frames, hyperparameters, report=report, seed=spec.seed,
            seconds=budget.loop("refiner"), state=run.state, team=run.team,
        )  # fmt: skip
    budget.over("refiner")
    if budget.allows("refiners"):
        with budget.step("refiners") as looked:
            pipeline, frames = _best_refiner(pipeline, trained, judged, report, looked)
    else:
        with budget.step("figures") as looked:
            refiner = mean_of(trained, pipeline.refiner)
            pipeline = Pipeline.of(
                pipeline.classifier, refiner, pipeline.config, name=pipeline.name, device=pipeline.device
            )
            frames = measure(pipeline, judged, progress=_evaluating(report, "the new model", looked))
    if budget.allows("band"):
        with budget.step("band") as looked:
            band = calibrate_band(pipeline, judged)
            if band != pipeline.config:
                pipeline.config = band
                frames = measure(pipeline, judged, progress=_evaluating(report, "the calibrated band"))
    if teach and budget.allows("worse"):
        with budget.step("worse"):
            if worse := made_worse(pipeline, frames, run.train_samples):
                pipeline.config = replace(pipeline.config, unrefined=worse)
                frames = measure(pipeline, judged, progress=_evaluating(report, f"{', '.join(worse)} as mapped"))
    budget.drop("figures", "band", "worse")
    return pipeline, frames


def _card(run: _Run, pipeline: Pipeline, history: list[dict[str, float]]) -> Card:
    """The card of a new model before it is measured."""
    spec, folder = run.spec, run.folder
    sides = {"train": run.train_samples, "held_out": run.held_out}
    return Card(
        name=spec.name,
        classes=list(folder.classes),
        backbone=pipeline.classifier.config.backbone,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        parent=run.parent.name if run.parent else None,
        data={
            "fingerprint": folder.fingerprint(),
            "train": len(run.train_samples),
            "held_out": len(run.held_out),
            "groups": {side: len({s.group for s in samples if s.group is not None}) for side, samples in sides.items()},
            "notes": [ONE_GROUP] if of_one_group([*run.train_samples, *run.held_out]) else [],
            "present": {c: sum(s.presence.get(c, False) for s in run.train_samples) for c in folder.classes},
            "skipped": dict(folder.skipped),
        },
        training={
            "preset": spec.preset, "seed": spec.seed, "minutes": spec.minutes, "device": spec.device,
            "processes": spec.processes, "history": history, "held_out": [sample.name for sample in run.held_out],
        },
    )  # fmt: skip


def _is_light(pipeline: Pipeline) -> bool:
    return bool(pipeline.classifier.config.backbone == LIGHT)


def _seconds(spec: TrainingSpec, preset: Preset) -> float | None:
    """The limit on the run; epochs that were asked for are not cut short."""
    if spec.minutes is not None:
        return spec.minutes * 60
    if preset.minutes is None or spec.epochs is not None:
        return None
    return preset.minutes * 60


def _frozen(spec: TrainingSpec, preset: Preset, pipeline: Pipeline) -> float:
    """Share of the backbone's layers that keep their weights; none that were never trained do."""
    if spec.from_scratch and spec.parent is None:
        return 0.0
    return preset.frozen[0 if _is_light(pipeline) or spec.device != "cpu" else 1]


def _run_fingerprint(spec: TrainingSpec, folder: DataFolder) -> str:
    """Hash of all that must be the same for a killed run to be taken up, the form of its state among it."""
    parent = read_card(spec.parent).weights if spec.parent else None
    spec = replace(spec, device=torch.device(spec.device).type, processes=None)  # any of them goes on
    return hashlib.sha256(repr((STATE_FORMAT, astuple(spec), parent, folder.fingerprint())).encode()).hexdigest()


def _best_refiner(
    pipeline: Pipeline, trained: FBANet, held_out: Sequence[Sample], report: Report, looked: Callable[[], None]
) -> tuple[Pipeline, list[FrameFigures]]:
    """The new refiner, the one it began from, or their mean: what does best on the held-out frames.

    Without any it is the mean: what a few frames teach of a lumen's edge they may spoil of a lipid core's.
    """
    mean = mean_of(trained, pipeline.refiner)
    choices = {"the new refiner": trained, "the refiner it began from": pipeline.refiner, "the mean of the two": mean}
    candidates = []
    for which, refiner in choices.items():
        candidate = Pipeline.of(
            pipeline.classifier, refiner, pipeline.config, name=pipeline.name, device=str(pipeline.device)
        )
        candidates.append((candidate, measure(candidate, held_out, progress=_evaluating(report, which, looked))))
    if not held_out:
        return candidates[-1]
    return max(candidates, key=lambda pair: summarise(pair[1], pair[0])["mean_iou"] or 0.0)


def _evaluating(report: Report, which: str, looked: Callable[[], None] = lambda: None) -> Callable[[int, int], None]:
    def tell(done: int, total: int) -> None:
        looked()
        report(Progress("evaluating", done, total, f"measuring {which}"))

    return tell


def _check_trainable(folder: DataFolder, train_samples: Sequence[Sample]) -> None:
    if not train_samples:
        raise DataError(f"{folder.root} has no training images")
    if not any(sample.presence.get(label) for sample in train_samples for label in folder.classes):
        seen, named = len(train_samples), ", ".join(folder.classes)
        raise DataError(f"none of the {seen} images to train on shows any of {named}; draw some, then train again")
