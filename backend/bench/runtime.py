"""Cases of what computes the networks: PyTorch, or OpenVINO in the precisions that this processor has."""

from collections.abc import Callable
from functools import partial
from itertools import cycle

import numpy as np

from backend.bench.measure import Case, alternate
from backend.bench.networks import crops_of
from backend.bench.setting import Setting
from models.families import steps_of
from models.pipeline import Pipeline, load_pipeline
from models.pytorch_networks import all_networks
from models.refiner import network_input
from models.runtime import PYTORCH, SERVED, Networks
from models.starter import STARTERS

OBJECTS = 4  # that FBANet is measured on


def runtime(setting: Setting) -> Case:
    """Each starter's bare classifier pass and whole frames, in turn, and FBANet on four objects, in each runtime."""
    sides: dict[str, Callable[[], object]] = {}
    against: dict[str, str] = {}
    for model, (pipeline, offered) in _starters(setting).items():
        for name, networks in offered.items():
            against |= {f"{model} {what}, {name}": f"{model} {what}, {PYTORCH}" for what in ("pass", "frame")}
            if _has(networks, "classifier", name):
                sides[f"{model} pass, {name}"] = _pass(pipeline, networks)
            sides[f"{model} frame, {name}"] = _frame(setting, pipeline, networks)
    objects = (crops_of(setting.size, pipeline.refiner.config.crop_size) * OBJECTS)[:OBJECTS]
    crops = np.stack([network_input(one.image, one.trimap, one.cam) for one in objects])
    for name, networks in offered.items():
        against[f"FBANet, {name}"] = f"FBANet, {PYTORCH}"
        if _has(networks, "refiner", name):
            sides[f"FBANet, {name}"] = partial(networks.refiner, crops)
    about = f"a classifier pass, a frame at {setting.size} x {setting.size}, FBANet on {len(crops)} objects"
    return Case(about, alternate(sides, setting.rounds, setting.tick), against=against)


def overhead(setting: Setting) -> Case:
    """Whole frames, in turn, against one bare classifier pass in the same runtime."""
    sides: dict[str, Callable[[], object]] = {}
    against: dict[str, str] = {}
    for model, (pipeline, offered) in _starters(setting).items():
        for name, networks in offered.items():
            sides[f"{model} pass, {name}"] = _pass(pipeline, networks)
            sides[f"{model} frame, {name}"] = _frame(setting, pipeline, networks)
            against |= {f"{model} {what}, {name}": f"{model} pass, {name}" for what in ("pass", "frame")}
    return Case(
        "a whole frame against a classifier pass", alternate(sides, setting.rounds, setting.tick), against=against
    )


def _starters(setting: Setting) -> dict[str, tuple[Pipeline, dict[str, Networks]]]:
    """Each shipped model and its networks in every runtime that this machine has, by name."""
    loaded = {model: load_pipeline(folder) for model, folder in STARTERS.items()}
    return {model: (one, all_networks(one.classifier, one.refiner)) for model, one in loaded.items()}


def _has(networks: Networks, part: str, name: str) -> bool:
    """Whether a runtime computes this part, too; where it does not, another stands in."""
    return name in (networks.runtimes[part], SERVED)


def _pass(pipeline: Pipeline, networks: Networks) -> Callable[[], object]:
    size = pipeline.classifier_config.input_size
    return partial(networks.classifier, np.random.default_rng(0).random((1, 3, size, size), dtype=np.float32))


def _frame(setting: Setting, pipeline: Pipeline, networks: Networks) -> Callable[[], object]:
    frames = cycle(setting.frames)  # of which some show more than others

    def run() -> None:
        pipeline.networks = networks
        steps_of(pipeline, [next(frames)])

    return run
