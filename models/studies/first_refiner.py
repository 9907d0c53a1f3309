"""`python -m models.studies.first_refiner`: FBANet before it has seen any project; `premask train` begins from it.

It learns to follow edges: on synthetic images of several kinds, and on collages, in which a shape that is filled from
one image lies on another. No classifier is needed: the maps are the truth, displaced and blurred.
"""

import argparse
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.checkpoint import Card, read_card, save_weights
from models.config import FBANetConfig
from models.fba_net import FBANet
from models.first_refiner import read_refiner
from models.phantom.canvas import blob
from models.phantom.folder import KINDS
from models.training.augmentation import random_colours
from models.training.refiner_loop import Example, RefinerHyperparameters, fit_refiner
from models.training.schedule import Clock, print_progress

DESCRIPTION = """\
FBANet trained on synthetic images alone (models/phantom, and collages of them): it knows edges and no class.
Trainings that begin from no earlier model begin from it.
"""
LEARNT = ("oct", "leaf", "surface", "ultrasound")  # kinds that the shipped one has learnt from
SIZE = 640  # longer side of the largest images; crops are scaled to FBANet's own size


def main() -> None:
    """Train and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--parent", type=Path, help="folder of an earlier one to go on from")
    parser.add_argument("--images", type=int, default=300, help="of each kind, and as many collages as of all kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    start = time.monotonic()
    examples = synthetic_examples(arguments.images, arguments.seed)
    print(f"{len(examples)} objects after {time.monotonic() - start:.0f} s", flush=True)
    torch.manual_seed(arguments.seed)
    earlier = read_card(arguments.parent) if arguments.parent else None
    refiner = read_refiner(arguments.parent) if arguments.parent else FBANet(FBANetConfig())
    hyperparameters = RefinerHyperparameters(arguments.steps, rate=arguments.rate)
    refiner = fit_refiner(
        refiner, examples, hyperparameters, clock=Clock(arguments.steps, None), report=print_progress,
        seed=arguments.seed, device=torch.device(arguments.device),
    )  # fmt: skip
    run = f"--steps {arguments.steps} --rate {arguments.rate} --images {arguments.images} --seed {arguments.seed}"
    runs = [*(earlier.training["runs"] if earlier else []), run]  # each from what the one before wrote
    training = (earlier.training if earlier else {}) | {
        "command": "python -m models.studies.first_refiner",
        "runs": runs,
    }
    created = datetime.now(UTC).isoformat(timespec="seconds")
    card = Card(arguments.out.name, [], "", created, description=DESCRIPTION, training=training)
    card.config = {"refiner": asdict(refiner.config)}
    save_weights(arguments.out, card, {"refiner": refiner})


def synthetic_examples(images: int, seed: int) -> list[Example]:
    """The objects on `images` synthetic images of each kind, and on as many collages as these are together."""
    rng = np.random.default_rng(seed)
    examples, pictures = [], []
    for name in LEARNT:
        kind = KINDS[name]
        for index in range(images):
            render = kind.render_rare if kind.render_rare and index % 3 == 0 else kind.render
            phantom = render(int(rng.integers(2**31)), SIZE, rng.uniform(0.2, 1))
            pictures.append(phantom.image)
            examples += [Example(phantom.image, mask.astype(np.uint8) * 255) for mask in phantom.masks.values()]
        print(f"{images} images of kind {name}", flush=True)
    for _ in range(len(pictures)):
        ground, figure = (pictures[index] for index in rng.integers(len(pictures), size=2))
        examples.append(collage(ground, figure, rng))
    return examples


def collage(ground: NDArray[np.uint8], figure: NDArray[np.uint8], rng: np.random.Generator) -> Example:
    """A random shape filled from `figure`, shape (h, w, 3), laid on `ground`, shape (H, W, 3), with a soft edge."""
    height, width = ground.shape[:2]
    turned = np.rot90(figure, int(rng.integers(4)))
    filling = random_colours(np.asarray(cv2.resize(turned, (width, height)), dtype=np.uint8), rng)
    long = max(height, width)
    centre = rng.uniform(0.1, 0.9, 2) * (width, height)
    radius = long * np.exp(rng.uniform(np.log(0.02), np.log(0.35)))
    outline = blob(rng, centre / long, radius / long, ratio=rng.uniform(1, 3), rough=rng.uniform(0, 0.4)) * long
    mask: NDArray[np.uint8] = np.zeros((height, width), dtype=np.uint8)
    cv2.fillPoly(mask, [np.rint(outline).astype(np.int32)], 255)
    if rng.random() < 0.5:
        mask = _frayed(mask, rng)
    soft = cv2.GaussianBlur(mask, (0, 0), np.exp(rng.uniform(np.log(0.4), np.log(4))))
    share = soft[..., None].astype(np.float32) / 255 * np.float32(rng.uniform(0.5, 1))
    image = ground * (1 - share) + filling * share
    return Example(np.rint(image).astype(np.uint8), mask)


def _frayed(mask: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A mask of shape (H, W) whose outline has teeth, of a few pixels each."""
    noise = rng.standard_normal((*mask.shape, 2), dtype=np.float32)
    sway = cv2.GaussianBlur(noise, (0, 0), rng.uniform(1.5, 6))
    columns, rows = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in mask.shape[::-1]))
    grid = np.dstack([columns, rows]) + sway / sway.std() * np.float32(rng.uniform(1, 6))
    moved = cv2.remap(mask, grid[..., 0], grid[..., 1], cv2.INTER_LINEAR)
    return np.where(moved >= 128, 255, 0).astype(np.uint8)


if __name__ == "__main__":
    main()
