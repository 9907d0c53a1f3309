"""`python -m models.studies.prompt_network`: train the network that answers prompts in every project.

It learns from objects of all kinds: phantoms, collages of them and of photographs, and labelled images. Training is
iterative, as in RITM (Sofiiuk et al. 2021): the network draws, a robot clicks on an error, and the loss is that of what
it draws then. A run that was killed goes on where it was when the same command is given again, with other --minutes if
it shall end earlier or later.

    python -m models.studies.prompt_network --out OUT --data data/oct --photos FOLDER --minutes 90
"""

import argparse
import hashlib
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from models.checkpoint import Card, load_weights, packaged_backbone, read_card
from models.data.files import read_image
from models.data.reader import open_data_folder
from models.errors import CheckpointError
from models.evaluation.clicks import objects_of
from models.masks.components import largest_component
from models.phantom.canvas import wander
from models.phantom.folder import KINDS
from models.prompt_model import save_prompt_model
from models.prompt_network import STRIDE, PromptNetwork, PromptNetworkConfig, Prompts
from models.studies.prompt_scenes import Labelled, Rgb, Sources
from models.training.schedule import AveragedWeights, Clock, Progress, print_progress
from models.training.state import TrainingState, optimizer_tensors, prefixed, restore_optimizer, without_prefix

DESCRIPTION = """\
Draws the object that clicks, a box, a scribble or an earlier mask mean, on images of any project; it knows no class.
Trained on synthetic images, collages and intravascular OCT. Objects whose edge cannot be seen need more clicks.
"""
PHANTOM_SIZE = 512  # longer side of the largest phantoms, in pixels
MAX_OBJECTS = 8  # of a class on an image
ROUNDS = (0.5, 0.25, 0.15, 0.1)  # shares of batches with 0, 1, 2, 3 clicks after the first prompt
ROOM = 40  # points of an input
SAVE_SECONDS = 180


def main() -> None:
    """Train and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--data", type=Path, action="append", default=[], help="data folder; its train split is used")
    parser.add_argument("--photos", type=Path, action="append", default=[], help="folder of photographs, for textures")
    parser.add_argument("--leave-out", default="", help="kinds of phantoms to learn nothing from, with commas")
    parser.add_argument("--images", type=int, default=60, help="phantoms of each kind")
    parser.add_argument("--parent", type=Path, help="checkpoint of an earlier run to begin from")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--size", type=int, default=128, help="side of a view in pixels, a multiple of 32")
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3, help="steps, each with other prompts, on the same views")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument(
        "--backbone-rate", type=float, default=0.0, help="of the backbone, relative; 0 keeps ImageNet's"
    )
    parser.add_argument("--collages", type=float, default=0.5, help="share of views that are of collages")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.out.exists():
        parser.error(f"{arguments.out} exists; a checkpoint is never overwritten, choose another name")
    left_out = set(filter(None, arguments.leave_out.split(",")))
    if unknown := left_out - set(KINDS):
        parser.error(f"--leave-out: {', '.join(sorted(unknown))}: there are {', '.join(KINDS)}")
    start = time.monotonic()
    sources = gather(arguments, left_out)
    print(
        f"{sum(len(one.objects) for one in sources.labelled)} objects on {len(sources.labelled)} images, "
        f"{len(sources.pictures)} pictures after {time.monotonic() - start:.0f} s",
        flush=True,
    )
    network, steps = fit(arguments, sources)
    run = {key: _plain(value) for key, value in vars(arguments).items() if key != "out" and value not in (None, [], "")}
    earlier = read_card(arguments.parent).training["runs"] if arguments.parent else []
    training = {
        "command": "python -m models.studies.prompt_network",
        "runs": [*earlier, run | {"steps": steps}],  # each from what the one before wrote
    }
    created = datetime.now(UTC).isoformat(timespec="seconds")
    card = Card(arguments.out.name, [], "", created, description=DESCRIPTION, training=training)
    save_prompt_model(network, arguments.out, card)


def _plain(value: object) -> object:
    """An argument as the card shows it: of a folder its name."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value.name if isinstance(value, Path) else value


def gather(arguments: argparse.Namespace, left_out: set[str]) -> Sources:
    """Render the phantoms, read the labelled images and the photographs."""
    rng = np.random.default_rng(arguments.seed)
    labelled: list[Labelled] = []
    for name, kind in KINDS.items():
        if name in left_out:
            continue
        for index in range(arguments.images):
            render = kind.render_rare if kind.render_rare and index % 3 == 0 else kind.render
            phantom = render(int(rng.integers(2**31)), min(kind.size, PHANTOM_SIZE), rng.uniform(0.1, 1))
            objects = [found for mask in phantom.masks.values() for found in objects_of(mask)[:MAX_OBJECTS]]
            labelled.append(Labelled(phantom.image, tuple(objects)))
    pictures = [one.image for one in labelled]
    real: list[Labelled] = []
    for root in arguments.data:
        folder = open_data_folder(root)
        for sample in folder.split("train"):
            image = sample.read_image()
            found = [sample.read_mask(label, (image.shape[0], image.shape[1])) for label in sample.masks]
            smaller, masks = _fitted(image, found)
            real.append(Labelled(smaller, tuple(one for mask in masks for one in objects_of(mask)[:MAX_OBJECTS])))
    labelled += real
    photos = [
        image
        for root in arguments.photos
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in (".png", ".jpg", ".jpeg")
        if min((image := read_image(path)).shape[:2]) >= 128
    ]
    # Photographs are few and phantoms many: half of the textures come from each.
    pictures += photos * max(len(pictures) // max(len(photos), 1), 1)
    return Sources(labelled, pictures, arguments.collages)


def _fitted(image: Rgb, masks: Sequence[NDArray[np.bool_]]) -> tuple[Rgb, list[NDArray[np.bool_]]]:
    """An image and its masks, no larger than a phantom."""
    scale = min(PHANTOM_SIZE / max(image.shape[:2]), 1.0)
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    smaller = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    shrunk = [cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0 for mask in masks]
    return np.asarray(smaller, dtype=np.uint8), shrunk


def fit(arguments: argparse.Namespace, sources: Sources) -> tuple[PromptNetwork, int]:
    """Train; returns the averaged network and the number of steps."""
    settings = {key: str(value) for key, value in vars(arguments).items() if key != "minutes"}
    fingerprint = hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()
    state = TrainingState(arguments.out.with_name(f".{arguments.out.name}.state"), fingerprint)
    torch.manual_seed(arguments.seed)
    network = PromptNetwork(PromptNetworkConfig())
    weights = packaged_backbone(network.config.backbone)
    if weights is None:
        raise CheckpointError(f"no installed package carries ImageNet weights of {network.config.backbone}")
    wanted = network.backbone.state_dict()
    network.backbone.load_state_dict({key: weights.get(key, wanted[key]) for key in wanted})
    if arguments.parent:
        load_weights(arguments.parent, read_card(arguments.parent), "network", network)
    tuned = arguments.backbone_rate > 0
    network.backbone.requires_grad_(tuned)
    head = [value for name, value in network.named_parameters() if not name.startswith("backbone.")]
    groups = [{"params": head, "scale": 1.0}]
    if tuned:
        groups.append({"params": list(network.backbone.parameters()), "scale": arguments.backbone_rate})
    optimizer = torch.optim.AdamW(groups, lr=arguments.rate, weight_decay=1e-4)
    average = AveragedWeights(network, 0.995)
    clock = Clock(10**9, arguments.minutes * 60)
    if (saved := state.load("network")) is not None:
        tensors, numbers = saved
        network.load_state_dict(without_prefix("network", tensors))
        average.network.load_state_dict(without_prefix("average", tensors))
        average.updates = numbers["step"]
        restore_optimizer(optimizer, without_prefix("optimizer", tensors))
        clock.go_on(numbers["step"], numbers["elapsed"])
        print(f"going on from step {clock.step} after {clock.elapsed / 60:.1f} min", flush=True)
    rng = np.random.default_rng([arguments.seed, clock.step])
    network.train()
    network.backbone.eval()  # ImageNet's batch statistics hold for more than ours
    views = _views(network, sources, arguments, rng)
    seen: list[tuple[str, float, float]] = []
    last = time.monotonic()

    def save() -> None:
        tensors = prefixed("network", network.state_dict()) | prefixed("average", average.network.state_dict())
        tensors |= prefixed("optimizer", optimizer_tensors(optimizer))
        state.save("network", tensors, {"step": clock.step, "elapsed": clock.elapsed})

    while clock.progress < 1:
        for group in optimizer.param_groups:
            group["lr"] = arguments.rate * group["scale"] * clock.rate(0.03)
        if clock.step % arguments.repeats == 0:
            views = _views(network, sources, arguments, rng)
        kinds, loss, ious = _step(network, views, rng)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        average.update(network)
        clock.step += 1
        seen = [*seen, *((kind, float(loss.detach()), iou) for kind, iou in zip(kinds, ious, strict=True))][-1200:]
        metrics = {"step": clock.step, "loss": round(float(np.mean([one[1] for one in seen])), 4)}
        for kind in sorted({one[0] for one in seen}):
            metrics[kind] = round(float(np.mean([one[2] for one in seen if one[0] == kind])), 3)
        print_progress(Progress("prompts", 0, 0, f"{clock.elapsed / 60:.1f} min", metrics))
        if time.monotonic() - last > SAVE_SECONDS:
            save()
            last = time.monotonic()
    save()
    return average.network, clock.step


class Views(NamedTuple):
    """What a step learns from.

    Attributes:
        images: shape (B, 3, S, S), floats in [0, 1].
        truths: shape (B, S, S), bool.
        stages: the backbone's feature maps; None if the backbone learns as well.
    """

    images: Tensor
    truths: NDArray[np.bool_]
    stages: list[Tensor] | None


def _views(network: PromptNetwork, sources: Sources, arguments: argparse.Namespace, rng: np.random.Generator) -> Views:
    drawn = [sources.scene(arguments.size, rng) for _ in range(arguments.batch)]
    images = torch.from_numpy(np.stack([image for image, _ in drawn]).transpose(0, 3, 1, 2).astype(np.float32) / 255)
    stages = None
    if not arguments.backbone_rate:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            stages = network.stages(images)
    return Views(images, np.stack([truth for _, truth in drawn]), stages)


def _step(network: PromptNetwork, views: Views, rng: np.random.Generator) -> tuple[list[str], Tensor, list[float]]:
    """Prompts on views, rounds of clicks and the loss of the last; kinds of prompts and IoU for the log."""
    images, truths, stages = views
    coarse = F.avg_pool2d(torch.from_numpy(truths)[:, None].float(), STRIDE)
    prompts, kinds = first_prompts(truths, rng)
    rounds = int(rng.choice(len(ROUNDS), p=ROUNDS))
    with torch.autocast("cpu", torch.bfloat16):
        pyramid = network.pyramid(images) if stages is None else network.top_down(images, stages)
        for _ in range(rounds):
            with torch.no_grad():
                found = network(pyramid, prompts).float().sigmoid()
            prompts = with_next_clicks(prompts, found, truths, rng)
        logits = network(pyramid, prompts).float()
    with torch.no_grad():
        drawn, wanted = logits[:, 0] > 0, coarse[:, 0] >= 0.5
        union = (drawn | wanted).sum((1, 2)).clamp(min=1)
        ious = ((drawn & wanted).sum((1, 2)) / union).tolist()
    return [f"{kind}+{rounds}" for kind in kinds], mask_loss(logits, coarse), ious


def mask_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross entropy and Dice loss of logits of shape (B, 1, h, w) against masks in [0, 1]."""
    entropy = F.binary_cross_entropy_with_logits(logits, truth)
    probability = logits.sigmoid()
    both = (probability * truth).sum((1, 2, 3))
    dice = (2 * both + 1) / (probability.sum((1, 2, 3)) + truth.sum((1, 2, 3)) + 1)
    return 2 * entropy + (1 - dice).mean()


def first_prompts(truths: NDArray[np.bool_], rng: np.random.Generator) -> tuple[Prompts, list[str]]:
    """How annotators may begin on objects of shape (B, S, S): a click, a box, a scribble, or an outline."""
    batch, side = len(truths), truths.shape[1]
    points = np.full((batch, ROOM, 3), np.nan, dtype=np.float32)
    boxes = np.full((batch, 4), np.nan, dtype=np.float32)
    earlier = np.zeros((batch, 1, side // STRIDE, side // STRIDE), dtype=np.float32)
    known = np.zeros(batch, dtype=np.float32)
    kinds = []
    for index, truth in enumerate(truths):
        kind = str(rng.choice(["click", "box", "scribble", "outline"], p=[0.6, 0.27, 0.06, 0.07]))
        kinds.append(kind)
        if kind == "click":
            points[index, 0] = (*place_inside(truth, rng), 1)
        elif kind == "box":
            x, y, w, h = cv2.boundingRect(truth.astype(np.uint8))
            loose = rng.uniform(0, 0.08) if rng.random() < 0.6 else 0.0
            slack = rng.normal(0, loose, 4) * (w, h, w, h)
            boxes[index] = np.array([x, y, x + w, y + h]) + slack
            if rng.random() < 0.15:
                points[index, 0] = (*place_inside(truth, rng), 1)
        elif kind == "scribble":
            line = scribble(truth, rng)
            points[index, : len(line), :2], points[index, : len(line), 2] = line, 1
        else:
            earlier[index, 0], known[index] = rough_outline(truth, rng), 1
    tensors = (torch.from_numpy(array) for array in (points, boxes, earlier, known))
    return Prompts(*tensors), kinds


def with_next_clicks(prompts: Prompts, found: Tensor, truths: NDArray[np.bool_], rng: np.random.Generator) -> Prompts:
    """Prompts with what was found as earlier mask, and mostly a click on its largest error."""
    points = prompts.points.numpy().copy()
    side = truths.shape[1]
    for index, truth in enumerate(truths):
        if rng.random() < 0.15:  # a closer look without another click
            continue
        drawn = cv2.resize(found[index, 0].numpy(), (side, side), interpolation=cv2.INTER_LINEAR) >= 0.5
        errors = [largest_component(error) for error in (truth & ~drawn, drawn & ~truth)]
        sizes = [int(error.sum()) for error in errors]
        free = int(np.isnan(points[index, :, 0]).argmax())
        if max(sizes) < 4 or not np.isnan(points[index, free, 0]):
            continue
        worst = int(np.argmax(sizes))
        points[index, free] = (*place_inside(errors[worst], rng), 1 - worst)
    known = torch.ones_like(prompts.has_earlier)
    return prompts._replace(points=torch.from_numpy(points), earlier=found, has_earlier=known)


def place_inside(mask: NDArray[np.bool_], rng: np.random.Generator) -> tuple[float, float]:
    """Where a person may click on a region: its middle, somewhere well inside, or anywhere."""
    inner = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    chance = rng.random()
    share = 1.0 if chance < 0.5 else 0.35 if chance < 0.85 else 0.0
    rows, columns = np.nonzero(mask & (inner >= share * inner.max()))
    pick = rng.integers(len(rows))
    return columns[pick] + 0.5, rows[pick] + 0.5


def scribble(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float64]:
    """Points along a stroke inside a mask, shape (n, 2), at most `ROOM` - 8 of them."""
    height, width = mask.shape
    _, _, w, h = cv2.boundingRect(mask.astype(np.uint8))
    start = np.array(place_inside(mask, rng))
    path = wander(rng, start, rng.uniform(0, 2 * np.pi), max(w, h) * rng.uniform(0.2, 0.8), 0.2, ROOM - 9)
    columns, rows = np.clip(path.astype(int), 0, (width - 1, height - 1)).T
    return np.asarray(path[mask[rows, columns]] if mask[rows, columns].any() else start[None])


def rough_outline(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float32]:
    """A mask that was drawn in haste: moved, too wide or too narrow, or with a part missing; shape (S/4, S/4)."""
    side = mask.shape[0]
    area = float(mask.sum()) ** 0.5
    reach = max(int(area * rng.uniform(0, 0.12)), 1)
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    rough = (cv2.dilate if rng.random() < 0.6 else cv2.erode)(mask.astype(np.uint8), element)
    shift = rng.normal(0, 0.05 * area, 2)
    rough = cv2.warpAffine(rough, np.array([[1, 0, shift[0]], [0, 1, shift[1]]]), (side, side))
    if rng.random() < 0.3:
        x, y = place_inside(mask, rng)
        cv2.circle(rough, (int(x), int(y)), int(area * rng.uniform(0.1, 0.35)), int(rng.integers(2)), cv2.FILLED)
    if not rough.any():
        rough = mask.astype(np.uint8)
    cells = side // STRIDE
    return np.asarray(cv2.resize(rough.astype(np.float32), (cells, cells), interpolation=cv2.INTER_AREA))


if __name__ == "__main__":
    main()
