"""`python -m models.studies.lean_refiner`: whether a leaner network than FBANet draws as well when FBANets teach it.

It learns their alpha inside the unknown band (Hinton et al. 2015, arXiv 1503.02531), beside the truth.

    draw --teacher first --out CROPS         crops with the truth and what a teacher makes of them
    learn --crops CROPS ... --teacher first --out STUDENT    sees them again and again, mirrored and turned
    compare --student STUDENT --teacher first    both on synthetic images; with a model and --data, its masks of these
    write --student STUDENT --teacher first --out CHECKPOINT    the teacher's checkpoint with the student in its place

The student begins with the strongest of the teacher's channels, where it has levels of the same resolution.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.checkpoint import Card, read_card, save_weights
from models.config import FBANetConfig
from models.data.reader import open_data_folder
from models.evaluation.evaluate import evaluate
from models.fba_net import FBANet, unknown_band
from models.first_refiner import first_refiner, read_refiner
from models.masks.metrics import iou
from models.phantom import CLASSES, KINDS
from models.pipeline import Pipeline, load_pipeline, save_pipeline
from models.refiner import CHANNELS
from models.starter import FIRST_REFINER, model_folder
from models.studies.first_refiner import SIZE, synthetic_examples
from models.training.frames import Mixture, folder_frames, phantom_frames
from models.training.losses import refiner_loss
from models.training.optimisation import OptimisationLoop, mean_of
from models.training.refiner_loop import Batch as LabelledCrops
from models.training.refiner_loop import Example, collect_examples, draw_crops
from models.training.schedule import Clock, print_progress

FIRST = "first"  # the teacher that knows no class
PARTS = ("inputs", "truth", "taught")  # files of drawn crops, one crop after the other
MEASURED = 40  # synthetic images of each kind on which a teacher and its student are compared
MEAN = "a folder that was learnt; of several, the mean of their weights"
UNSEEN = 500_000  # the first of their seeds
RUNS = 10  # of which the fastest counts


def thinned(teacher: FBANet, config: FBANetConfig) -> FBANet:
    """A leaner FBANet that begins with what a teacher knows: the levels that both have, by their strongest channels.

    Its finest level reads the image and writes alpha itself, which it has to learn anew.

    Args:
        teacher: of the smaller stride.
        config: of the student; no level is wider than the teacher's of the same resolution.
    """
    student = FBANet(config)
    lacking = (config.stride // teacher.config.stride).bit_length() - 1  # levels that only the teacher has
    blocks, sources = [student.stem, *student.down], [teacher.stem, *teacher.down][lacking:]
    kept: list[Tensor] = []  # channels of each level's skip
    for block, source in zip(blocks, sources, strict=True):
        kept.append(_copy_block(block, source, kept[-1] if kept else None))
    x = kept[-1]
    for level in reversed(range(len(student.up))):
        skip, wide = kept[level], teacher.config.widths[level + lacking]
        seen = torch.cat([skip, torch.tensor([wide])])  # the skip and the boundary
        _copy(student.gates[level], teacher.gates[level + lacking], skip, seen)
        x = _copy_block(student.up[level], teacher.up[level + lacking], torch.cat([skip, wide + x]))
        if level == student.boundary_level:
            _copy(student.boundary, teacher.boundary, torch.tensor([0]), x)
    return student


def _copy_block(block: nn.Module, source: nn.Module, inputs: Tensor | None) -> Tensor:
    """Copy a block's strongest channels, which are returned; its first convolution only if its `inputs` are known."""
    own, theirs = list(block.children()), list(source.children())
    for index in (0, 3):  # a convolution, a norm and an activation each
        norm, wide = cast("nn.GroupNorm", own[index + 1]), cast("nn.GroupNorm", theirs[index + 1])
        strength = (wide.weight.abs() + wide.bias.abs()).view(norm.num_groups, -1)
        strongest = strength.topk(norm.num_channels // norm.num_groups).indices.sort().values  # (groups, kept of each)
        outputs = (strongest + strength.shape[1] * torch.arange(norm.num_groups)[:, None]).flatten()
        if inputs is not None:
            _copy(own[index], theirs[index], outputs, inputs)
            _copy(norm, wide, outputs)
        inputs = outputs
    assert inputs is not None
    return inputs


def _copy(layer: nn.Module, source: nn.Module, outputs: Tensor, inputs: Tensor | None = None) -> None:
    """Copy some output channels of a layer and, of a convolution, some of its inputs."""
    weights = source.state_dict()
    parts = {name: weight[outputs] for name, weight in weights.items()}
    if inputs is not None:
        parts["weight"] = parts["weight"][:, inputs]
    layer.load_state_dict(parts)


class Batch(NamedTuple):
    """Crops: `inputs` (B, 12, S, S), true alpha `truth` and the teacher's `taught`, before clamping, (B, S, S)."""

    inputs: NDArray[np.float32]
    truth: NDArray[np.float32]
    taught: NDArray[np.float32]


def main(argv: Sequence[str] | None = None) -> None:
    """Draw crops, learn from them, or compare."""
    arguments = _parser().parse_args(argv)
    torch.manual_seed(arguments.seed)
    arguments.run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    commands = parser.add_subparsers(required=True)
    teacher = argparse.ArgumentParser(add_help=False)
    teacher.add_argument("--teacher", default=FIRST, help=f"{FIRST}, light, xception or a checkpoint folder")
    teacher.add_argument("--data", type=Path, help="data folder of real frames with split.json")

    drawing = commands.add_parser("draw", parents=[teacher])
    drawing.add_argument("--out", type=Path, required=True)
    drawing.add_argument("--images", type=int, default=200, help="synthetic ones of each kind; or views of a project")
    drawing.add_argument("--crops", type=int, default=2500)
    drawing.set_defaults(run=draw)

    learning = commands.add_parser("learn", parents=[teacher])
    learning.add_argument("--crops", type=Path, action="append", required=True)
    learning.add_argument("--out", type=Path, required=True)
    learning.add_argument("--student", type=Path, help="an earlier one to go on from, of its own shape")
    learning.add_argument("--widths", type=int, nargs="+", default=FBANetConfig().widths)
    learning.add_argument("--imitate", action="store_true", help="learn from the teacher alone, not from the truth")
    learning.add_argument("--minutes", type=float, required=True)
    learning.add_argument("--batch", type=int, default=8)
    learning.add_argument("--rate", type=float, default=2e-3)
    learning.set_defaults(run=learn)

    comparing = commands.add_parser("compare", parents=[teacher])
    comparing.add_argument("--student", type=Path, action="append", required=True, help=MEAN)
    comparing.add_argument("--split", help="of split.json; all images if omitted")
    comparing.set_defaults(run=compare)

    writing = commands.add_parser("write", parents=[teacher])
    writing.add_argument("--student", type=Path, action="append", required=True, help=MEAN)
    writing.add_argument("--out", type=Path, required=True)
    writing.set_defaults(run=write)
    return parser


def draw(arguments: argparse.Namespace) -> None:
    """Draw crops and keep them, in half precision, with the truth and what the teacher makes of them."""
    pipeline, teacher = _teacher(arguments.teacher)
    examples = [example for example in _examples(arguments, pipeline) if example.truth is not None]
    print(f"{len(examples)} objects", flush=True)
    side, count = teacher.config.crop_size, arguments.crops
    arguments.out.mkdir(parents=True)
    shapes = (count, CHANNELS, side, side), (count, side, side), (count, side, side)
    kept = [
        np.lib.format.open_memmap(arguments.out / f"{part}.npy", "w+", np.dtype(np.float16), shape)
        for part, shape in zip(PARTS, shapes, strict=True)
    ]
    started, generator = time.monotonic(), np.random.default_rng((arguments.seed, 3))
    for index in range(count):
        batch = draw_crops(examples, side, generator.spawn(1))
        while not len(batch.inputs):
            batch = draw_crops(examples, side, generator.spawn(1))
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            raw = teacher(torch.from_numpy(batch.inputs)).raw.float().numpy()
        for part, values in zip(kept, (batch.inputs, batch.targets, raw), strict=True):
            part[index] = values[0]
        if (index + 1) % 100 == 0:
            print(f"{index + 1} crops after {time.monotonic() - started:.0f} s", flush=True)


def _teacher(name: str) -> tuple[Pipeline | None, FBANet]:
    """The model of a teacher, None for the one that knows no class, and its refiner."""
    if name == FIRST:
        return None, first_refiner()
    pipeline = load_pipeline(model_folder(name))
    return pipeline, pipeline.refiner


def _examples(arguments: argparse.Namespace, pipeline: Pipeline | None) -> list[Example]:
    """What the teacher learnt from, or, of a model whose data are not given, synthetic images of all kinds."""
    if pipeline is None or not arguments.data:
        return synthetic_examples(arguments.images, arguments.seed)
    size, phantoms = pipeline.classifier.config.input_size, read_card(model_folder(arguments.teacher)).data["phantoms"]
    real = folder_frames(open_data_folder(arguments.data).split("train"), CLASSES, size)
    synthetic = phantom_frames(range(*phantoms["seeds"]), CLASSES, size)
    frames = Mixture([(1 - phantoms["share"], real), (phantoms["share"], synthetic)])
    return collect_examples(pipeline, frames, arguments.images, report=print_progress, seed=arguments.seed)


def learn(arguments: argparse.Namespace) -> None:
    """Train a student for so many minutes; its weights are averaged over the steps."""
    drawn = [[np.load(folder / f"{part}.npy", mmap_mode="r") for part in PARTS] for folder in arguments.crops]
    config = FBANetConfig(tuple(arguments.widths))
    student = read_refiner(arguments.student) if arguments.student else thinned(_teacher(arguments.teacher)[1], config)
    student = student.to(memory_format=torch.channels_last).train()
    clock = Clock(1_000_000, arguments.minutes * 60)
    groups = [{"params": student.parameters(), "lr": arguments.rate}]
    loop = OptimisationLoop(student, groups, stage="refiner", clip=1.0, clock=clock, report=print_progress)
    for batch in loop.batches(partial(draw_batch, drawn, arguments.batch, arguments.seed)):
        inputs, truth, taught = (torch.from_numpy(part) for part in batch)
        band = unknown_band(inputs)
        with torch.autocast("cpu", torch.bfloat16):
            output = student(inputs.contiguous(memory_format=torch.channels_last))
        raw, boundary = output.raw.float(), output.boundary.float()
        loss = imitation_loss(raw, taught, band)
        loop.step(loss if arguments.imitate else loss + refiner_loss(raw, boundary, truth, band))
    card = Card(arguments.out.name, [], "", datetime.now(UTC).isoformat(timespec="seconds"))
    card.config = {"refiner": asdict(student.config)}
    arguments.widths = student.config.widths
    card.training = {key: _named(value) for key, value in vars(arguments).items() if key not in ("run", "out")}
    card.training |= {
        "steps": clock.step,
        "earlier": read_card(arguments.student).training if arguments.student else None,
    }
    save_weights(arguments.out, card, {"refiner": loop.average})


def _named(value: object) -> object:
    """An argument as a card has it: of a folder its name, which is as far as it goes on other machines."""
    if isinstance(value, Path):
        return value.name
    return [_named(one) for one in value] if isinstance(value, list | tuple) else value


def draw_batch(drawn: Sequence[Sequence[NDArray[np.float16]]], size: int, seed: int, step: int) -> Batch:
    """The crops of a step, from each folder of drawn ones as likely, mirrored and turned at random."""
    rng, parts = np.random.default_rng((seed, 4, step)), [list[NDArray[np.float32]](), [], []]
    for _ in range(size):
        source = drawn[int(rng.integers(len(drawn)))]
        index, turns, flip = int(rng.integers(len(source[0]))), int(rng.integers(4)), int(rng.choice([-1, 1]))
        for part, kept in zip(parts, source, strict=True):
            part.append(np.rot90(kept[index], turns, axes=(-2, -1))[..., ::flip].astype(np.float32))
    return Batch(*(np.stack(part) for part in parts))


def imitation_loss(raw: Tensor, taught: Tensor, band: Tensor) -> Tensor:
    """Absolute error inside the band against the teacher's alpha; overshooting where that is 0 or 1 costs nothing.

    Args:
        raw: the student's alpha before clamping, shape (B, S, S).
        taught: the teacher's, alike.
        band: the unknown pixels, shape (B, S, S), bool.

    Returns:
        Scalar: mean over the crops.
    """
    target = taught.clamp(0, 1)
    error = (raw - target).abs()
    free = ((target == 1) & (raw > 1)) | ((target == 0) & (raw < 0))
    weighted = error * (band & ~free)
    return (weighted.sum(dim=(1, 2)) / band.sum(dim=(1, 2)).clamp(min=1)).mean()


def compare(arguments: argparse.Namespace) -> None:
    """Print IoU of the teacher's masks and the student's, and their times.

    On crops of synthetic images by kind, some of them learnt by neither; of a model also on real images, by class.
    """
    student = mean_of(*map(read_refiner, arguments.student))
    pipeline, teacher = _teacher(arguments.teacher)
    for name, kind in KINDS.items():
        phantoms = [kind.render(UNSEEN + index, SIZE, 0.5) for index in range(MEASURED)]
        objects = [(phantom.image, mask) for phantom in phantoms for mask in phantom.masks.values() if mask.any()]
        examples = [Example(image, mask.astype(np.uint8) * 255) for image, mask in objects]
        batch = draw_crops(examples, teacher.config.crop_size, np.random.default_rng(UNSEEN).spawn(3 * MEASURED))
        print(name, *(f"{_mean_iou(network.eval(), batch):.4f}" for network in (teacher, student)), flush=True)
    seconds = [_seconds(network, torch.from_numpy(batch.inputs[:1])) for network in (teacher, student)]
    print("milliseconds of computing a crop", *(f"{1000 * value:.1f}" for value in seconds), flush=True)
    if pipeline is None or not arguments.data:
        return
    samples = open_data_folder(arguments.data).split(arguments.split)
    lean = Pipeline.of(pipeline.classifier, student, pipeline.config)
    full, leaner = (evaluate(one, samples)["classes"] for one in (pipeline, lean))
    for label, figures in full.items():
        print(label, figures["iou"], leaner[label]["iou"], flush=True)


def write(arguments: argparse.Namespace) -> None:
    """Write the teacher's checkpoint anew, with the student as its refiner; a model's is measured on the val split."""
    student = mean_of(*map(read_refiner, arguments.student))
    training = [read_card(one).training for one in arguments.student]
    pipeline, _ = _teacher(arguments.teacher)
    card = read_card(FIRST_REFINER if pipeline is None else model_folder(arguments.teacher))
    card.weights, card.training = {}, card.training | {"students": training}
    if pipeline is None:
        card.config = {"refiner": asdict(student.config)}
        save_weights(arguments.out, card, {"refiner": student})
        return
    lean = Pipeline.of(pipeline.classifier, student, pipeline.config, name=pipeline.name)
    card.metrics = evaluate(lean, open_data_folder(arguments.data).split("val"))
    save_pipeline(lean, arguments.out, card)


def _mean_iou(network: nn.Module, batch: LabelledCrops) -> float:
    with torch.inference_mode():
        alphas = [network(torch.from_numpy(one)).alpha[0].numpy() for one in batch.inputs[:, None]]
    pairs = zip(alphas, batch.targets, strict=True)
    return float(np.mean([iou(alpha >= 0.5, truth >= 0.5) for alpha, truth in pairs]))


def _seconds(network: nn.Module, crop: Tensor) -> float:
    """The least computing time of some runs in PyTorch, in float32."""
    found = []
    with torch.inference_mode():
        for _ in range(RUNS):
            began = time.process_time()
            network(crop)
            found.append(time.process_time() - began)
    return min(found)


if __name__ == "__main__":
    main()
