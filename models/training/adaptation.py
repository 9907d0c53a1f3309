"""Few-shot adaptation: a class's first accepted masks teach the prompt network what its objects look like.

A copy of the network's second part takes a few steps on views of the accepted objects, at which the robot of
`models.training.prompting` points, and is averaged with what it was: two images must not make it forget all others.
Learning from corrections while a network is used: Kontogianni et al. 2020, arXiv 1911.12709; averaging: Wortsman et al.
2022, arXiv 2109.01903. The pyramid of an image stays as it is.

`python -m models.training.adaptation PARENT EXAMPLES OUT` does it in a process of its own, for a server.
"""

import argparse
import copy
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from models.checkpoint import Card
from models.errors import DataError
from models.prompt_model import load_prompt_model, save_prompt_model
from models.prompt_network import STRIDE, PromptNetwork
from models.prompt_views import SIDE
from models.training.augmentation import random_colours
from models.training.prompting import Labelled, Rng, first_prompts, mask_loss, view, with_next_clicks

STEPS = 30
BATCH = 8
RATE = 5e-4
WARM_UP = 5  # steps
ROUNDS = (0.6, 0.25, 0.15)  # shares of steps with 0, 1, 2 clicks after the first prompt
OTHER_COLOURS = 0.7  # share of views
SMALLEST = 12  # pixels of an object in a view
SHARE = 0.5  # of the adapted weights in the average
MAX_SIDE = 1024  # of an example, in pixels; objects of 0.1 % of it are still 32 pixels wide
FIXED = ("backbone.", "lateral.", "smooth.", "likeness.")  # what makes the pyramid


def adapted(network: PromptNetwork, examples: Sequence[Labelled], seed: int = 0) -> PromptNetwork:
    """A copy of a network that knows what the objects of a class look like. The same examples give the same copy.

    Args:
        network: the one to begin from; it is not changed.
        examples: images with accepted objects of one class, at least one of each.
        seed: of views and prompts.

    Raises:
        DataError: there is no object, or none that a view shows.
    """
    examples = [one for one in examples if one.objects]
    if not examples:
        raise DataError("there is no object to learn from")
    rng = np.random.default_rng(seed)
    learner = copy.deepcopy(network).cpu().eval()
    learner.requires_grad_(False)
    learnt = [value for name, value in learner.named_parameters() if not name.startswith(FIXED)]
    before = [value.clone() for value in learnt]
    for value in learnt:
        value.requires_grad_(True)
    optimizer = torch.optim.AdamW(learnt, lr=RATE, weight_decay=0.0)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARM_UP) * (1 - step / STEPS)
        loss = _loss(learner, *_views(examples, rng), rng)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
    with torch.no_grad():
        for value, was in zip(learnt, before, strict=True):
            value.lerp_(was, 1 - SHARE)
    learner.requires_grad_(False)
    return learner


def _views(examples: Sequence[Labelled], rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Views of objects, shape (B, S, S, 3), uint8 RGB, and the objects, shape (B, S, S), bool."""
    images, truths = list[np.ndarray](), list[np.ndarray]()
    for _ in range(BATCH * 20):
        example = examples[int(rng.integers(len(examples)))]
        seen, found = view(example.image, example.objects[int(rng.integers(len(example.objects)))], SIDE, rng)
        if found.sum() >= SMALLEST:
            images.append(random_colours(seen, rng) if rng.random() < OTHER_COLOURS else seen)
            truths.append(found)
        if len(images) == BATCH:
            return np.stack(images), np.stack(truths)
    raise DataError("the objects to learn from are too small to be seen")


def _loss(network: PromptNetwork, images: np.ndarray, truths: np.ndarray, rng: Rng) -> torch.Tensor:
    """The loss after a prompt, and perhaps some clicks, on each view."""
    batch = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    coarse = F.avg_pool2d(torch.from_numpy(truths)[:, None].float(), STRIDE)
    prompts, _ = first_prompts(truths, rng)
    with torch.no_grad():
        pyramid = network.pyramid(batch)
        for _ in range(int(rng.choice(len(ROUNDS), p=ROUNDS))):
            prompts = with_next_clicks(prompts, network(pyramid, prompts).sigmoid(), truths, rng)
    return mask_loss(network(pyramid, prompts), coarse)


def fitted(image: np.ndarray, objects: Sequence[np.ndarray]) -> Labelled:
    """An image and objects on it as an example, no larger than `MAX_SIDE`.

    Args:
        image: shape (H, W, 3), uint8 RGB.
        objects: masks of the same height and width, bool; those that vanish in a smaller image are left out.
    """
    scale = min(MAX_SIDE / max(image.shape[:2]), 1.0)
    if scale == 1:
        return Labelled(image, tuple(one for one in objects if one.any()))
    size = max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1)
    smaller = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    shrunk = [cv2.resize(one.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0 for one in objects]
    return Labelled(smaller, tuple(one for one in shrunk if one.any()))


def write_examples(path: Path, examples: Sequence[Labelled]) -> None:
    """Write examples for the command."""
    arrays = {f"image{number}": one.image for number, one in enumerate(examples)}
    arrays |= {f"objects{number}": np.stack(one.objects) for number, one in enumerate(examples)}
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def read_examples(path: Path) -> list[Labelled]:
    """What `write_examples` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        count = sum(name.startswith("image") for name in arrays)
        return [Labelled(arrays[f"image{number}"], tuple(arrays[f"objects{number}"])) for number in range(count)]


def main(argv: Sequence[str]) -> int:
    """Adapt a checkpoint to examples and write it; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parent", type=Path, help="checkpoint of the family prompts")
    parser.add_argument("examples", type=Path, help="file of `write_examples`")
    parser.add_argument("out", type=Path, help="checkpoint to write, with the name of the folder")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    parent = load_prompt_model(arguments.parent)
    network = adapted(parent.network, read_examples(arguments.examples))
    created = datetime.now(UTC).isoformat(timespec="seconds")
    training = {"command": "python -m models.training.adaptation"}
    save_prompt_model(network, arguments.out, Card(arguments.out.name, [], "", created, parent.name, training=training))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
