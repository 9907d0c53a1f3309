"""`python -m models.studies.ablation`: what each part of a model is worth on labelled images that it did not learn.

    frame        every class read on the frame, none on the unrolled wall (the same networks)
    wall         those on the wall by the wall's pass alone, where both passes say together what is there
    map          the thresholded maps, without FBANet
    +-1, +-2     presence averaged over so many neighbours on either side, as far as they are of the same series

What other levels of the input do is a row of `premask evaluate --robustness` (half the contrast).
"""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.data.reader import open_data_folder
from models.data.sample import Sample
from models.evaluation.evaluate import evaluate, with_settings
from models.pipeline import Image, Pipeline, load_pipeline
from models.starter import STARTER, model_folder

REACHES = (1, 2)  # neighbours on either side
NUMBERED = re.compile(r"^(.*?)(\d{1,12})(\D*)$", re.DOTALL)  # "pullback_1_034.png": series "pullback_1_", number 34


def main(argv: Sequence[str] | None = None) -> None:
    """Print a row for each part and class, then all as one JSON document."""
    arguments = _parser().parse_args(argv)
    pipeline = load_pipeline(model_folder(arguments.model))
    samples = open_data_folder(arguments.data).split(arguments.split)
    rows = ablation(pipeline, samples)
    for part, classes in rows.items():
        for label, row in classes.items():
            print(f"{part:8} {label:14}", *(f"{key} {_shown(value)}" for key, value in row.items()))
    print(json.dumps(rows))


def ablation(pipeline: Pipeline, samples: Sequence[Sample]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Part -> class -> figures: `iou` over the images that show it, `accuracy` and `precision` of presence over all.

    Raises:
        DataError: there are no samples.
    """
    parts: dict[str, Pipeline] = {"whole": pipeline, "map": with_settings(pipeline, refiner="none")}
    if pipeline.config.wall is not None:
        parts["frame"] = with_settings(pipeline, wall=None)
        if not pipeline.config.wall.alone:
            parts["wall"] = with_settings(pipeline, wall=replace(pipeline.config.wall, alone=True))
    figures = {name: _figures(model, samples) for name, model in parts.items()}
    logits = np.array([_logits(pipeline, sample.read_image()) for sample in samples])  # (N, C)
    for reach in REACHES:
        averaged = 1 / (1 + np.exp(-averaged_over_neighbours(logits, [s.name for s in samples], reach)))
        figures[f"+-{reach}"] = {
            label: _presence(averaged[:, index] >= pipeline.config.presence_threshold_of(label), samples, label)
            for index, label in enumerate(pipeline.classes)
        }
    return figures


def averaged_over_neighbours(values: NDArray[np.float64], names: Sequence[str], reach: int) -> NDArray[np.float64]:
    """Rows of values, shape (N, C), each the mean over the images of its series at most `reach` places away."""
    places = series_places(names)
    near = [
        [j for j, (series, number) in enumerate(places) if series == own and abs(number - place) <= reach]
        for own, place in places
    ]
    return np.array([values[indices].mean(axis=0) for indices in near])


def series_places(names: Sequence[str]) -> list[tuple[str, int]]:
    """The series of each image, and its number in it, as far as names tell; one without a number is alone.

    >>> series_places(["001_1_034", "001_1_036.png", "left"])
    [('001_1_', 34), ('001_1_.png', 36), ('left', 0)]
    """
    found = [(name, NUMBERED.match(name)) for name in names]
    return [(match[1] + match[3], int(match[2])) if match else (name, 0) for name, match in found]


def _figures(pipeline: Pipeline, samples: Sequence[Sample]) -> dict[str, dict[str, float | None]]:
    classes: dict[str, dict[str, Any]] = evaluate(pipeline, samples)["classes"]
    return {label: {key: row[key] for key in ("iou", "accuracy", "precision")} for label, row in classes.items()}


def _logits(pipeline: Pipeline, image: Image) -> NDArray[np.float64]:
    probability = np.clip(pipeline.maps([image])[0][0].astype(np.float64), 1e-6, 1 - 1e-6)
    return np.asarray(np.log(probability / (1 - probability)))


def _presence(drawn: NDArray[np.bool_], samples: Sequence[Sample], label: str) -> dict[str, float | None]:
    known = np.array([label in sample.presence for sample in samples])
    present = np.array([sample.presence.get(label, False) for sample in samples])
    right, found = drawn[known] == present[known], drawn & known
    return {
        "accuracy": float(right.mean()) if known.any() else None,
        "precision": float(present[found].mean()) if found.any() else None,
    }


def _shown(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.3f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", help="of split.json; all images if omitted")
    parser.add_argument("--model", default=str(STARTER), help="checkpoint folder, xception or light")
    return parser


if __name__ == "__main__":
    main()
