"""`python -m models.studies.lean_refiner`: whether a leaner network than FBANet draws as well when FBANets teach it.

It learns their alpha inside the unknown band (Hinton et al. 2015, arXiv 1503.02531), beside the truth.

    draw --teacher first --out CROPS         crops with the truth and what a teacher makes of them
    learn --crops CROPS ... --out STUDENT    sees them again and again, mirrored and turned
    compare --student STUDENT --teacher first    both on synthetic images; with a model and --data, its masks of these

It reads and writes blocks of 2 x 2 pixels as channels, so that nothing is computed at full resolution, and coarse
features come up with half as many channels as the finer ones they join.
"""

import argparse
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from models.checkpoint import Card, load_weights, read_card, save_weights
from models.data.reader import open_data_folder
from models.evaluation.evaluate import evaluate
from models.fba_net import CHANNELS, FBANet, FBANetConfig, FBANetOutput, unknown_band
from models.first_refiner import first_refiner
from models.masks.metrics import iou
from models.phantom import CLASSES, KINDS
from models.pipeline import Pipeline, load_pipeline
from models.starter import model_folder
from models.studies.first_refiner import SIZE, synthetic_examples
from models.training.frames import Mixture, folder_frames, phantom_frames
from models.training.losses import refiner_loss
from models.training.optimisation import OptimisationLoop
from models.training.refiner_loop import Batch as LabelledCrops
from models.training.refiner_loop import Example, collect_examples, draw_crops
from models.training.schedule import Clock, print_progress

FIRST = "first"  # the teacher that knows no class
PARTS = ("inputs", "truth", "taught")  # files of drawn crops, one crop after the other
MEASURED = 40  # synthetic images of each kind on which a teacher and its student are compared
UNSEEN = 500_000  # the first of their seeds
RUNS = 10  # of which the fastest counts
WIDTHS = (16, 48, 64, 96)  # channels at half, quarter ... of a crop's resolution
FOLD = 2  # side in pixels of the blocks that are read as channels
BOUNDARY_LEVEL = 1  # of WIDTHS: a quarter of the crop's resolution, as FBANet's boundary


class LeanFBANet(nn.Module):
    """FBANet's inputs, outputs and gates on a smaller body.

    Args:
        widths: channels at half, quarter ... of a crop's resolution.
        norms: whether group norms follow the convolutions, as in FBANet.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS, *, norms: bool = True) -> None:
        super().__init__()
        self.config, self.norms = FBANetConfig(tuple(widths)), norms
        pairs = list(pairwise(widths))
        self.stem = _block(CHANNELS * FOLD**2, widths[0], 1, norms)
        self.down = nn.ModuleList(_block(a, b, 2, norms) for a, b in pairs)
        self.narrow = nn.ModuleList(nn.Conv2d(b, a // 2, 1) for a, b in pairs)
        self.up = nn.ModuleList(_block(a + a // 2, a, 1, norms) for a, _ in pairs)
        self.boundary = nn.Conv2d(widths[BOUNDARY_LEVEL], 1, 3, padding=1)
        self.gates = nn.ModuleList(nn.Conv2d(width + 1, width, 1) for width in widths[:-1])
        self.out = nn.Conv2d(widths[0], FOLD**2, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, inputs: Tensor) -> FBANetOutput:
        """As FBANet's."""
        skips = [self.stem(F.pixel_unshuffle(inputs, FOLD))]  # (B, w0, S/2, S/2)
        for down in self.down:
            skips.append(down(skips[-1]))  # (B, wi, S/2^(i+1), S/2^(i+1))
        x = skips.pop()
        boundary = features = torch.zeros(0)
        for level in reversed(range(len(skips))):
            skip = skips[level]
            x = F.interpolate(self.narrow[level](x), size=skip.shape[-2:], mode="bilinear", align_corners=False)
            seen = torch.zeros_like(skip[:, :1])
            if level < BOUNDARY_LEVEL:
                seen = F.interpolate(boundary, size=skip.shape[-2:], mode="bilinear", align_corners=False).sigmoid()
            gate = torch.sigmoid(self.gates[level](torch.cat([skip, seen], dim=1)))
            x = self.up[level](torch.cat([skip * gate, x], dim=1))  # as the skip
            if level == BOUNDARY_LEVEL:
                features, boundary = x, self.boundary(x)
        raw = inputs[:, -1] + F.pixel_shuffle(self.out(x), FOLD)[:, 0]
        alpha = raw.clamp(0, 1) * (1 - inputs[:, 3])
        alpha = torch.where(inputs[:, 4] > 0, torch.ones_like(alpha), alpha)
        return FBANetOutput(raw, alpha, boundary[:, 0], features)


def _block(inputs: int, outputs: int, stride: int, norms: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels, step in ((inputs, stride), (outputs, 1)):
        layer = nn.Conv2d(channels, outputs, 3, stride=step, padding=1, bias=not norms)
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        layers += [layer, *([nn.GroupNorm(8, outputs)] if norms else []), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


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

    learning = commands.add_parser("learn")
    learning.add_argument("--crops", type=Path, action="append", required=True)
    learning.add_argument("--out", type=Path, required=True)
    learning.add_argument("--student", type=Path, help="an earlier one to go on from, of its own shape")
    learning.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    learning.add_argument("--without-norms", action="store_true")
    learning.add_argument("--imitate", action="store_true", help="learn from the teacher alone, not from the truth")
    learning.add_argument("--minutes", type=float, required=True)
    learning.add_argument("--batch", type=int, default=8)
    learning.add_argument("--rate", type=float, default=2e-3)
    learning.set_defaults(run=learn)

    comparing = commands.add_parser("compare", parents=[teacher])
    comparing.add_argument("--student", type=Path, required=True)
    comparing.add_argument("--split", help="of split.json; all images if omitted")
    comparing.set_defaults(run=compare)
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
    new = LeanFBANet(arguments.widths, norms=not arguments.without_norms)
    student = load_student(arguments.student) if arguments.student else new
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
    card.config = {"widths": list(student.config.widths), "norms": student.norms}
    card.training = {key: str(value) for key, value in vars(arguments).items() if key != "run"} | {"steps": clock.step}
    save_weights(arguments.out, card, {"refiner": loop.average})


def load_student(folder: Path) -> LeanFBANet:
    """What `learn` wrote. Raises CheckpointError where that is damaged."""
    card = read_card(folder)
    student = LeanFBANet(card.config["widths"], norms=card.config["norms"])
    load_weights(folder, card, "refiner", student)
    return student.eval()


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
    student = load_student(arguments.student)
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
    lean = Pipeline(pipeline.classifier, cast("FBANet", student), pipeline.config)
    full, leaner = (evaluate(one, samples)["classes"] for one in (pipeline, lean))
    for label, figures in full.items():
        print(label, figures["iou"], leaner[label]["iou"], flush=True)


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
