"""Label efficiency: how good the masks are after so many accepted images, and how good a plain network's would be."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from models import closed_form
from models.checkpoint import read_card
from models.data.reader import DataFolder, open_data_folder
from models.data.sample import Sample
from models.data.writer import DataFolderWriter
from models.devices import choose_device
from models.errors import DataError
from models.evaluation.evaluate import measure, summarise, with_settings
from models.evaluation.intervals import with_intervals
from models.pipeline import Pipeline, load_pipeline
from models.studies.plain_network import train_plain
from models.training.schedule import Progress, Report
from models.training.spec import TrainingSpec
from models.training.train import train

RESULT = "curve.json"
UNCOMPARED = ("data", "out", "name", "processes")  # of a training: they change nothing that is measured
GOLDEN = (5**0.5 - 1) / 2


def label_efficiency(
    spec: TrainingSpec, sizes: Sequence[int | None], *, plain: bool, report: Callable[[int, Progress], None]
) -> dict[str, Any]:
    """Train on nested subsets of the training images, each as if nothing else had been accepted; measure on held-out.

    A training sees its subset alone and learns from all of it, the plain network's likewise: the images that are
    measured on decide nothing. With `contrast` the chain also sees the other training images, without their labels.

    Args:
        spec: `data` is divided into training and held-out images as `train` does; `out` takes the result and a
            checkpoint a size; the rest is for each training.
        sizes: numbers of images; None for all.
        plain: also train a plain segmentation network on each subset, for as long as the whole chain took, and both by
            one process.
        report: told the size that is worked on and how far it is.

    Returns:
        {"settings", "frames", "sizes": {SIZE: {"names", "present", "seconds", "results": {WAY: {CLASS: {"iou",
        "iou_ci"}}}}}}, the ways being "map" (thresholded), "closed-form" where pymatting is installed, "chain"
        (as trained) and "plain". It is written to out/curve.json after each; what is in there is not done again.

    Raises:
        DataError: there are fewer images than a size asks for, or curve.json is of other data or settings.
        CheckpointError: pretrained weights cannot be had.
    """
    folder = open_data_folder(spec.data, skip_bad=spec.skip_bad)
    pool, held_out = folder.train_and_held_out()
    if wrong := [size for size in sizes if size is not None and not 2 <= size <= len(pool)]:
        raise DataError(f"{spec.data} has {len(pool)} training images; a size is 2 to that, or all, not {wrong[0]}")
    curve = _begin(spec, folder, len(held_out))
    groups = folder.groups()
    spec = replace(spec, processes=1) if plain else spec
    order = spread_order(len(pool), spec.seed)
    ways = ["chain", *(["closed-form"] if closed_form.installed() else []), *(["plain"] if plain else [])]
    for size in sorted({len(pool) if size is None else size for size in sizes}):
        chosen = [pool[index] for index in sorted(order[:size])]
        present = {label: sum(sample.presence.get(label, False) for sample in chosen) for label in folder.classes}
        names = [sample.name for sample in chosen]
        point = curve["sizes"].setdefault(str(size), {"names": names, "present": present, "results": {}})
        results = point["results"]
        if all(way in results for way in ways):
            continue
        tell = partial(report, size)
        others = [replace(pool[index], masks={}, presence={}) for index in order[size:]] if spec.contrast else []
        chain = _trained(spec, f"images-{size:04d}", [*chosen, *others], folder.classes, tell)
        point["seconds"] = read_card(spec.out / chain.name).training["seconds"]
        for way in (way for way in ways if way not in results):
            pipeline = chain
            if way == "closed-form":
                pipeline = with_settings(chain, refiner="closed-form")
            elif way == "plain":
                pipeline = train_plain(chosen, chain.classifier.config, spec, tell, seconds=point["seconds"])
            frames = measure(pipeline, held_out, progress=partial(_evaluating, tell, way))
            figures = with_intervals(summarise(frames, pipeline), frames, groups)["classes"]
            results[way] = _only("iou", figures)
            if way == "chain":
                results["map"] = _only("coarse_iou", figures)
            _write(spec.out, curve)
    return curve


def _trained(
    spec: TrainingSpec, name: str, samples: Sequence[Sample], classes: Sequence[str], tell: Report
) -> Pipeline:
    """The checkpoint out/NAME, trained on these samples alone unless it is there already."""
    checkpoint = spec.out / name
    if not checkpoint.exists():
        data = spec.out / f"{name}-data"  # the same after a kill, so that the training goes on
        link_samples(samples, classes, data)
        train(replace(spec, data=data, out=checkpoint, name=name), tell)
        shutil.rmtree(data)
    return load_pipeline(checkpoint, choose_device(spec.device))


def _only(figure: str, classes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {label: {"iou": known[figure], "iou_ci": known[f"{figure}_ci"]} for label, known in classes.items()}


def spread_order(count: int, seed: int) -> list[int]:
    """An order of 0 ... count - 1 of which every beginning lies evenly in the series, so that subsets are nested.

    Golden ratio steps from a random start: the gaps of every beginning have at most three sizes (Swierczkowski 1958).
    """
    start = np.random.default_rng(seed).random()
    order: dict[int, None] = {}
    for step in range(count):
        index = int((start + step * GOLDEN) % 1 * count)
        while index in order:
            index = (index + 1) % count
        order[index] = None
    return list(order)


def link_samples(samples: Sequence[Sample], classes: Sequence[str], root: Path) -> None:
    """Replace `root` by a data folder of these samples alone, none held out: links, and what is known of presence."""
    shutil.rmtree(root, ignore_errors=True)
    with DataFolderWriter(root, classes) as folder:
        for sample in samples:
            known = sample.masks, sample.presence, sample.group
            folder.add(sample.name, sample.image, *known, source=sample.source, page=sample.file_page)
        folder.write_split({"train": [sample.name for sample in samples], "val": []})


def _begin(spec: TrainingSpec, folder: DataFolder, frames: int) -> dict[str, Any]:
    """The curve so far: what out/curve.json holds, if that is of the same data and settings."""
    settings = {key: str(value) for key, value in asdict(spec).items() if key not in UNCOMPARED}
    settings["data"] = folder.fingerprint()
    path = spec.out / RESULT
    if not path.exists():
        begun: dict[str, Any] = {"settings": settings, "frames": frames, "sizes": {}}
        _write(spec.out, begun)  # before the first checkpoint, which is of these settings too
        return begun
    try:
        curve: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        differ = [key for key, value in settings.items() if curve["settings"].get(key) != value]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} does not read as a curve: {error!r}; choose another folder") from error
    if differ:
        raise DataError(f"{path} was made with other settings ({', '.join(differ)}); choose another folder")
    return curve


def _write(out: Path, curve: Mapping[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    partial_file = out / f".{RESULT}"
    partial_file.write_text(json.dumps(curve, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial_file.replace(out / RESULT)  # a kill leaves the old result or the new one


def _evaluating(tell: Report, way: str, done: int, total: int) -> None:
    tell(Progress("evaluating", done, total, way))
