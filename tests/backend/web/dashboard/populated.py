"""A data folder as it is after some months of use: versions, jobs in every state, pictures.

Project 3 is the busy one; 4 has a training in the queue, 5 has only introduced itself, 6 failed.
"""

import shutil
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast
from unittest.mock import patch

import cv2
import numpy as np

from backend.database.credentials import Credentials
from backend.database.jobs import JobStore
from backend.database.reviews import Doubt, Reviews
from backend.versions.registry import Registry
from models.checkpoint import Card, read_card, write_card
from models.data.sample import Sample
from models.evaluation.comparison import add_comparison
from models.evaluation.evaluate import Agreement, Decision, FrameFigures
from models.evaluation.gallery import GALLERY, add_gallery
from models.masks.metrics import iou
from models.phantom import CLASSES, render_phantom
from models.pipeline import Steps
from models.trimap import TrimapConfig, trimap_from_mask
from tests.backend.jobs.edit import edit_job

START = 1_791_000_000.0  # the first job, Unix time
DAY = 86_400.0
# Per training: accepted tasks, IoU per class, the version before on the same tasks, whether it was promoted.
TRAININGS = (
    (24, (0.931, 0.302, 0.384, 0.121), 0.291, True),
    (52, (0.948, 0.455, 0.523, 0.305), 0.447, True),
    (71, (0.944, 0.418, 0.547, 0.288), 0.562, False),
    (96, (0.957, 0.540, 0.611, 0.468), 0.566, True),
    (148, (0.966, 0.601, 0.655, 0.571), 0.652, True),
    (173, (0.964, 0.588, 0.671, 0.566), 0.701, False),
)
KEPT = {  # version -> per class: drawn, IoU, unchanged, added
    "oct-lite0": ((40, 0.874, 6, 0), (11, 0.288, 0, 9), (15, 0.302, 0, 8), (4, 0.150, 0, 14)),
    "p3-r001-lite0": ((28, 0.902, 7, 0), (16, 0.361, 1, 4), (18, 0.415, 1, 3), (9, 0.244, 0, 8)),
    "p3-r002-lite0": ((44, 0.941, 19, 0), (25, 0.520, 3, 2), (27, 0.598, 4, 3), (17, 0.433, 2, 5)),
    "p3-r004-lite0": ((52, 0.962, 31, 0), (30, 0.633, 6, 2), (33, 0.689, 8, 1), (25, 0.587, 6, 4)),
}


@contextmanager
def at(moment: float):
    """Jobs submitted and updated within happen then."""
    clock = SimpleNamespace(time=lambda: moment, strftime=time.strftime, gmtime=lambda then=moment: time.gmtime(then))
    with patch("backend.database.jobs.time", clock):
        yield


def figures(ious: Sequence[float], tasks: int) -> dict:
    """Figures of a version, as `evaluate` writes them."""
    frames = (tasks, max(tasks // 3, 1), max(tasks // 4, 1), max(tasks // 5, 1))
    classes = {
        label: {"frames": n, "iou": value, "boundary_f": round(value**1.3, 3), "coarse_iou": round(value * 0.9, 3)}
        for label, n, value in zip(CLASSES, frames, ious, strict=True)
    }
    return {"classes": classes, "mean_iou": round(float(np.mean(ious)), 3), "frames": tasks}


def evidence(ious: Sequence[float], promoted: bool) -> dict:
    """What a training says for its promotion."""
    classes = {
        label: {"state": "weak" if value < 0.5 else "measured", "iou": value, "tasks": 9}
        for label, value in zip(CLASSES, ious, strict=True)
    }
    missing = "" if promoted else "about 10 more corrected tasks would tell: 2 held-out groups have corrected masks"
    return {"missing": missing, "classes": classes, "groups": 5 if promoted else 2, "needed": 4}


class BlurredTruth:
    """Stands in for a pipeline: its masks are the truth, shifted and blurred the more the higher the seed."""

    classes = CLASSES
    description: ClassVar = {"refiner": "none", "cam": "none"}

    def __init__(self, images: dict[bytes, tuple[int, dict]], shift: int = 1) -> None:
        self._images, self._shift = images, shift

    def steps(self, images: Sequence[np.ndarray]) -> list[list[Steps]]:
        return [self._one(image) for image in images]

    def _one(self, image: np.ndarray) -> list[Steps]:
        index, masks = self._images[image.tobytes()]
        found = []
        for label in self.classes:
            truth = masks.get(label, np.zeros(image.shape[:2], bool)).astype(np.float32)
            shift = np.array([[1, 0, 4 * index], [0, 1, 2 * index]], np.float32)
            shift[:, 2] *= self._shift
            cam = cv2.GaussianBlur(cv2.warpAffine(truth, shift, truth.shape[::-1]), (0, 0), 6)
            cam = cam / max(cam.max(), 1e-6)
            mask = (cam > 0.5).astype(np.uint8)
            trimap = trimap_from_mask(cv2.resize(mask, (1024, 1024), interpolation=cv2.INTER_NEAREST), TrimapConfig())
            found.append(Steps(label, 0.9, True, cam, mask.astype(bool), trimap, cam, mask.astype(bool)))
        return found


def draw_gallery(folder: Path) -> Path:
    """A checkpoint with the pictures of six held-out phantoms and a card that lists them, and nothing else."""
    samples, images = [], {}
    for index in range(6):
        phantom = render_phantom(910_000 + index, 256)
        path = folder / f"task-{index * 17 + 4}.png"
        cv2.imwrite(str(path), cv2.cvtColor(phantom.image, cv2.COLOR_RGB2BGR))
        masks = {}
        for label, mask in phantom.masks.items():
            masks[label] = folder / f"{path.stem}-{label}.png"
            cv2.imwrite(str(masks[label]), mask.astype(np.uint8) * 255)
        samples.append(Sample(path.stem, path, masks, {}, True))
        images[phantom.image.tobytes()] = index, phantom.masks
    pipeline, frames = BlurredTruth(images), []
    for sample in samples:
        image = sample.read_image()
        (steps,) = pipeline.steps([image])
        agreements = {
            step.label: Agreement(*[iou(step.mask, sample.read_mask(step.label, image.shape[:2]))] * 4)
            for step in steps
            if step.label in sample.masks
        }
        frames.append(FrameFigures(sample.name, 0.1, agreements, {label: Decision(True, True) for label in agreements}))
    checkpoint, card = folder / "drawn", Card("drawn", list(CLASSES), "", "")
    checkpoint.mkdir()
    add_gallery(checkpoint, card, cast(Any, pipeline), samples, frames)
    # The version before was worse everywhere, a little differently.
    before = [
        replace(frame, agreements={c: Agreement(*[a.iou * (0.9 - 0.1 * n)] * 4) for c, a in frame.agreements.items()})
        for n, frame in enumerate(frames)
    ]
    add_comparison(
        checkpoint, card, (cast(Any, BlurredTruth(images, 3)), cast(Any, pipeline)), samples, (before, frames)
    )
    return checkpoint


def populate(
    folder: Path, registry: Registry, store: JobStore, credentials: Credentials, drawn: Path
) -> dict[str, str]:
    """Fill the data folder; returns the ids of the jobs that tests ask for, by what they do.

    Args:
        folder: for files on the way.
        registry, store, credentials: of the data folder.
        drawn: what `draw_gallery` made.
    """
    for project in ("3", "4", "5", "6"):
        credentials.remember(project, "http://label-studio.example:8080", "t0ken")
    busy(folder, registry, store, drawn)
    named = {}
    with at(START + 41 * DAY):
        named["training"] = store.submit("training", "3")[0].id
        store.claim(named["training"], "worker/1:1")
        named["annotation"] = store.submit("prediction", "3")[0].id
        store.claim(named["annotation"], "worker/1:1")
    with at(START + 41 * DAY + 190):
        edit_job(
            store,
            named["training"],
            state="training",
            progress=0.62,
            message="FBANet learns the boundaries",
            version="p3-r008-lite0",
            figures={"step": 412, "loss": 0.2137},
            eta=171.0,
        )
        edit_job(
            store,
            named["annotation"],
            state="predicting",
            progress=0.34,
            message="340 of 1000 tasks: predicting with p3-r005-lite0",
            figures={"done": 340, "total": 1000},
            eta=1240.0,
            report={
                "predicted": 338,
                "unanswered": 2,
                "problems": [
                    {"task": 12, "reason": "image s3://bucket/12.png: the host does not answer; check the address"},
                    {"task": 31, "reason": "the model failed on its 9x9x3 image; the log says more"},
                ],
            },
        )
        named["queued"] = store.submit("training", "4")[0].id
        failed = store.submit("training", "6")[0].id
        store.claim(failed, "worker/1:1")
        edit_job(
            store,
            failed,
            state="failed",
            reason="project 6 has 2 accepted tasks to learn from and needs 4; annotate and submit 2 more, then press "
            "Start Training again",
            report={"used": 2, "classes": {"Vessel": 2, "Haemorrhage": 0}, "title": "Fundus"},
        )

    lines = [
        "classifier 1000/1000: about 0 s left",
        "refiner 0/1000: activation maps of view 200 of 200",
        *(f"refiner {340 + 24 * step}/1000: about {190 - 4 * step} s left" for step in range(6)),
    ]
    for number, line in enumerate(lines):
        with at(START + 41 * DAY + 162 + 4 * number):
            store.log(named["training"], line)
    return named


def doubt(reviews: Reviews) -> None:
    """Queue two tasks of project 3 for a second look."""
    label = "the mask of Lipid core lies where the model sees Fibrous cap (IoU 0.81)"
    missed = "Vasa vasorum is not drawn, and the model sees it (87%)"
    reviews.replace(
        "3",
        [
            Doubt("41", "7", "", "Lipid core", "label", 0.81, label, "p3-r005-lite0", False),
            Doubt("12", "3", "", "Vasa vasorum", "missed", 0.55, missed, "p3-r004-lite0", True),
        ],
    )


def busy(folder: Path, registry: Registry, store: JobStore, drawn: Path) -> None:
    """Project 3: what its trainings left."""
    parent = "oct-lite0"
    for number, (accepted, ious, before, promoted) in enumerate(TRAININGS, 1):
        moment = START + 6 * DAY * number
        if number == 4:
            training_that(store, moment - 3 * DAY, "failed", reason="training was killed by SIGKILL; lack of memory?")
        version = registry.reserve("3", "tf_efficientnet_lite0")
        held_out = round(accepted / 5)
        card = Card(
            version,
            list(CLASSES),
            "tf_efficientnet_lite0",
            time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(moment + 560)),
            parent=parent,
            data={"train": accepted - held_out, "held_out": held_out},
            metrics=figures(ious, held_out),
            training={"evidence": evidence(ious, promoted)},
        )
        checkpoint = folder / version
        checkpoint.mkdir(parents=True)
        if number in (5, 6):
            card.gallery = read_card(drawn).gallery
            shutil.copytree(drawn / GALLERY, checkpoint / GALLERY)
        write_card(checkpoint, card)
        registry.publish("3", checkpoint)
        training_that(
            store,
            moment,
            "done",
            version=version,
            message=f"{version} {'is served from now on' if promoted else 'stays a candidate'}: mean IoU on "
            f"{held_out} held-out images {card.metrics['mean_iou']:.3f}, before {before:.3f}",
            metrics={"new": card.metrics, "parent": {"mean_iou": before}},
            report={
                "title": "Coronary OCT, pullback 7",
                "used": accepted,
                "classes": dict(zip(CLASSES, (accepted, accepted // 3, accepted // 4, accepted // 20), strict=True)),
                "colours": dict(zip(CLASSES, ("#2e86de", "#f6b93b", "#e55039", "#78e08f"), strict=True)),
                "annotators": {
                    who: {
                        label: dict(zip(("drawn", "iou", "unchanged", "added"), row, strict=True))
                        for label, row in zip(CLASSES, rows, strict=True)
                    }
                    for who, rows in (("ada@example.org", KEPT["p3-r004-lite0"]), ("user 7", KEPT["p3-r001-lite0"]))
                },
                "kept": {
                    who: {
                        label: dict(zip(("drawn", "iou", "unchanged", "added"), row, strict=True))
                        for label, row in zip(CLASSES, rows, strict=True)
                    }
                    for who, rows in list(KEPT.items())[:number]
                },
            },
        )
        if promoted:
            registry.promote("3", version)
            parent = version
    training_that(store, START + 39 * DAY, "cancelled", reason="cancelled")


def training_that(store: JobStore, moment: float, state: str, **outcome: object) -> None:
    """A training of project 3 that began then and ended nine minutes later."""
    with at(moment):
        job, _ = store.submit("training", "3")
        store.claim(job.id, "worker/1:1")
    with at(moment + 570):
        edit_job(store, job.id, state=state, progress=1.0 if state == "done" else 0.4, **outcome)
