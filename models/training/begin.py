"""The pipeline that a training begins with, before its first step."""

from collections.abc import Callable
from dataclasses import replace

import torch

from models.classifier import Classifier
from models.config import ClassifierConfig, PipelineConfig
from models.first_refiner import first_refiner
from models.pipeline import Pipeline
from models.training.pretrained import load_pretrained, resolve_backbone
from models.training.spec import TrainingSpec
from models.wall import WallView


def begin(spec: TrainingSpec, size: Callable[[], int], classes: tuple[str, ...], parent: Pipeline | None) -> Pipeline:
    """The pipeline before its first step: the parent's weights where they fit, pretrained ones elsewhere.

    A parent that knows none of the classes gives its backbone and top-down path; its FBANet, its settings and the size
    of its input suit other objects, and `size` is asked for one.
    """
    torch.manual_seed(spec.seed)
    kin = parent if parent and not set(classes).isdisjoint(parent.classes) else None
    refiner, settings = kin.refiner if kin else first_refiner(), PipelineConfig()
    wall = _wall_view(spec, classes, kin)
    if parent and spec.backbone in ("auto", parent.classifier.config.backbone):
        wall_backbone = parent.classifier.config.wall_backbone if wall else None
        config = replace(parent.classifier.config, classes=classes, wall_backbone=wall_backbone)
        classifier = Classifier(config if kin else replace(config, input_size=size()))
        _inherit(classifier, parent.classifier)
        if kin:  # presence is calibrated again
            settings = replace(kin.config, presence_threshold={})
    else:
        backbone = resolve_backbone(spec.backbone, spec.weights, from_scratch=spec.from_scratch)
        classifier = Classifier(ClassifierConfig(classes, backbone, size()))
        if not spec.from_scratch:
            load_pretrained(classifier, spec.weights)
    settings = replace(settings, wall=wall)
    return Pipeline.of(classifier, refiner, settings, name=spec.name, device=spec.device)


def _wall_view(spec: TrainingSpec, classes: tuple[str, ...], kin: Pipeline | None) -> WallView | None:
    """The classes to read on the unrolled wall: as asked for, else as the parent does where its lumen is a class."""
    known = kin.config.wall if kin else None
    if spec.wall == "auto" and known is not None and known.lumen in classes:
        shared = tuple(label for label in known.classes if label in classes)
        return replace(known, classes=shared) if shared else None
    if spec.wall in ("auto", "none"):
        return None
    return WallView(spec.wall, tuple(label for label in classes if label != spec.wall))


def _inherit(classifier: Classifier, parent: Classifier) -> None:
    """Copy a parent's weights; a class it does not know keeps its fresh head."""
    state, theirs = classifier.state_dict(), parent.state_dict()
    rows = {
        i: parent.config.classes.index(label)
        for i, label in enumerate(classifier.config.classes)
        if label in parent.config.classes
    }
    for key in state:
        if key.removeprefix("wall_reader.") not in ("head.weight", "gain", "bias"):
            state[key] = theirs[key]
        else:
            for i, j in rows.items():
                state[key][i] = theirs[key][j]
    classifier.load_state_dict(state)
