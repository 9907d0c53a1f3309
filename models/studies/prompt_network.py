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
from models.phantom.folder import KINDS
from models.prompt_model import save_prompt_model
from models.prompt_network import STRIDE, PromptNetwork, PromptNetworkConfig
from models.studies.prompt_scenes import Sources
from models.training.prompting import Labelled, Rgb, first_prompts, mask_loss, with_next_clicks
from models.training.schedule import AveragedWeights, Clock, Progress, print_progress
from models.training.state import TrainingState, optimizer_tensors, prefixed, restore_optimizer, without_prefix

DESCRIPTION = """\
Draws the object that clicks, a box, a scribble or an earlier mask mean, on images of any project; it knows no class.
Trained on synthetic images, collages and intravascular OCT. Objects whose edge cannot be seen need more clicks.
"""
PHANTOM_SIZE = 512  # longer side of the largest phantoms, in pixels
MAX_OBJECTS = 8  # of a class on an image
ROUNDS = (0.5, 0.25, 0.15, 0.1)  # shares of batches with 0, 1, 2, 3 clicks after the first prompt
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


if __name__ == "__main__":
    main()
