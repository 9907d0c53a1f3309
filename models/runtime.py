"""How a pipeline's networks are computed: by PyTorch, or by OpenVINO where that is faster. One seam for all.

    images -> networks.classifier -> ClassifierOutput        crops -> networks.refiner -> alpha
    strips -> networks.wall_reader -> ClassifierOutput

OpenVINO computes on CPUs and without gradients; maps that need a backward pass stay with PyTorch. Each network gets the
runtime and the precision that is fastest for it and keeps its masks. Converted networks (`models.conversion`) and what
was measured lie beside the weights and are made again when weights, OpenVINO or the machine change:

    CHECKPOINT/runtime/KEY/ classifier.xml ... measured-MACHINE.json

Of the weights that come with the package, which many may use and few may write to, they lie where the caller says.
"""

import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from models.classifier import STRIDE, Classifier, ClassifierOutput, pooled
from models.conversion import INT8, Compiled, convert, key_of, parts_of, stored
from models.devices import autocast, computes_bfloat16
from models.families import Runtime
from models.fba_net import AlphaOnly, FBANet
from models.probes import agreement, probes_of

logger = logging.getLogger(__name__)

FOLDER = "runtime"  # in a checkpoint
COMPILED = "compiled"  # beside the converted networks
PYTORCH = "PyTorch"
FLOAT32 = "OpenVINO float32"
BFLOAT16 = "OpenVINO bfloat16"
MIXED = "OpenVINO float32 and bfloat16"  # the first layers of a classifier, and the others
# In what is not quantised of it, float32 or bfloat16.
QUANTISED, QUANTISED_BFLOAT16 = "OpenVINO int8", "OpenVINO int8 and bfloat16"
PRECISIONS = {
    FLOAT32: ("f32",),
    BFLOAT16: ("bf16",),
    MIXED: ("f32", "bf16"),
    QUANTISED: ("f32",),
    QUANTISED_BFLOAT16: ("bf16",),
}
INTEGERS = (QUANTISED, QUANTISED_BFLOAT16)
MIN_AGREEMENT = dict.fromkeys(PRECISIONS, 0.99) | {FLOAT32: 0.995}  # IoU with PyTorch in float32
SERVED = "as served"  # of several runtimes that are compared: each network by the fastest that keeps its masks
ROUNDS = 5

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Networks:
    """The networks of a pipeline, ready to be computed without gradients.

    Attributes:
        runtimes: part ("classifier", "refiner" and, where there is another one, "wall_reader") -> what computes it:
            "PyTorch" or a name in `PRECISIONS`.
        classifier: images of shape (B, 3, H, W), floats in [0, 1], to the classifier's output; of its layers, OpenVINO
            gives the features alone.
        wall_reader: the same for strips of the unrolled wall; the classifier itself where it has no reader for them.
        refiner: crops of shape (B, 12, S, S) to their alpha, shape (B, S, S), in [0, 1].
        release: gives back the memory of the last results; the next ones take some milliseconds longer.
    """

    runtimes: Mapping[str, str]
    classifier: Callable[[Tensor], ClassifierOutput]
    wall_reader: Callable[[Tensor], ClassifierOutput]
    refiner: Callable[[Tensor], Tensor]
    release: Callable[[], None] = lambda: None

    @property
    def name(self) -> str:
        """What computes them, in words: one runtime, or that of each part."""
        if len(set(self.runtimes.values())) == 1:
            return next(iter(self.runtimes.values()))
        return ", ".join(f"{part.replace('_', ' ')} {runtime}" for part, runtime in self.runtimes.items())


@dataclass(frozen=True)
class Measured:
    """Runtimes side by side, on one machine.

    Attributes:
        seconds: part -> runtime -> the least time of a frame, strip or crop.
        agreement: part -> runtime -> least IoU, over classes, of its masks with those of PyTorch in float32.
    """

    seconds: dict[str, dict[str, float]]
    agreement: dict[str, dict[str, float]]

    def fastest(self, part: str, among: Collection[str]) -> str | None:
        """The fastest of these runtimes whose masks are within `MIN_AGREEMENT`; None if none of them is."""
        seconds, agreements = self.seconds.get(part, {}), self.agreement.get(part, {})
        fit = [name for name in among if name in seconds]
        fit = [name for name in fit if agreements.get(name, 0.0) >= MIN_AGREEMENT.get(name, 0.0)]
        return min(fit, key=seconds.__getitem__, default=None)


def pytorch_networks(classifier: Classifier, refiner: FBANet, device: torch.device) -> Networks:
    """The networks themselves, in evaluation mode on `device`, in bfloat16 where that is native."""

    def classify(network: Classifier, images: Tensor) -> ClassifierOutput:
        with torch.inference_mode(), autocast(device):
            output: ClassifierOutput = network(images.contiguous(memory_format=torch.channels_last))
        return output

    def refine(crops: Tensor) -> Tensor:
        with torch.inference_mode(), autocast(device):
            alpha: Tensor = matting(crops.contiguous(memory_format=torch.channels_last))
        return alpha.float()

    matting = AlphaOnly(refiner)
    see = read = partial(classify, classifier)
    if classifier.wall_reader is not None:
        read = partial(classify, classifier.wall_reader)
    return Networks(dict.fromkeys(parts_of(classifier, refiner), PYTORCH), see, read, refine)


@dataclass(frozen=True, eq=False)
class RuntimeChoice:
    """What the networks of a checkpoint are computed by on this machine.

    Attributes:
        directory: checkpoint folder.
        weights: file name -> SHA-256, as the card has it.
        classifier, refiner: loaded, in evaluation mode, on `device`.
        device: only "cpu" has a choice.
        wanted: "auto" for the fastest, "pytorch" or "openvino" for that one; where OpenVINO cannot compute a network
            or its masks differ, PyTorch does, and a sentence in the log says so.
        kept: folder for what is made of this checkpoint, `runtime` in it if None; made if this user may write there.
    """

    directory: Path
    weights: Mapping[str, str]
    classifier: Classifier
    refiner: FBANet
    device: torch.device
    wanted: Runtime = "auto"
    kept: Path | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is anything but PyTorch to choose."""
        return self.wanted != "pytorch" and self.device.type == "cpu"

    @property
    def folder(self) -> Path:
        """Where the converted networks of these weights lie."""
        return (self.kept or self.directory / FOLDER) / key_of(self.weights, self.classifier, self.refiner)

    def is_made(self) -> bool:
        """Whether `networks` has nothing to convert and nothing to measure."""
        return not self.is_open or find_spec("openvino") is None or (self.folder / _measurement()).is_file()

    def networks(self) -> Networks:
        """The networks in the runtime that suits this machine, ready for the first image.

        The first time (see `is_made`), they are converted and the runtimes measured, which takes seconds.
        """
        ours = pytorch_networks(self.classifier, self.refiner, self.device)
        if not self.is_open:
            return ours
        try:
            folder = self.folder
            graphs = Graphs(stored(folder, self.classifier, self.refiner), self.classifier, self.refiner)
            measured = _measured(folder, graphs)
            chosen = _chosen(measured, graphs, self.wanted)
            networks = ours if set(chosen.values()) == {PYTORCH} else graphs.networks(chosen, folder / COMPILED)
        except Exception as error:  # of a library that sees this network, this CPU or this disk for the first time
            logger.warning("%s is computed by PyTorch, because OpenVINO cannot: %s", self.directory.name, error)
            return ours
        for part, runtime in chosen.items():
            agreements = measured.agreement.get(part, {})
            if any(agreements.get(name, 1.0) < MIN_AGREEMENT[name] for name in INTEGERS):
                logger.info(
                    "the %s of %s is not computed in 8-bit integers, because its masks differ: IoU %.4f",
                    part.replace("_", " "),
                    self.directory.name,
                    min(agreements.get(name, 1.0) for name in INTEGERS),
                )
            if runtime != PYTORCH:
                continue
            if self.wanted == "openvino" or measured.fastest(part, PRECISIONS) is None:
                logger.warning(
                    "the %s of %s is computed by PyTorch, because masks by OpenVINO differ: IoU %s",
                    part.replace("_", " "),
                    self.directory.name,
                    ", ".join(f"{agreements.get(name, 0.0):.4f}" for name in PRECISIONS),
                )
        logger.info("%s is computed by %s", self.directory.name, networks.name)
        return networks


def all_networks(classifier: Classifier, refiner: FBANet) -> dict[str, Networks]:
    """The networks in every runtime that this CPU and this installation have, by name, and those that would be served.

    Args:
        classifier, refiner: in evaluation mode, on the CPU.
    """
    offered = {PYTORCH: pytorch_networks(classifier, refiner, torch.device("cpu"))}
    if find_spec("openvino") is not None:
        graphs = Graphs(convert(classifier, refiner), classifier, refiner)
        names = {name for part in graphs.parts for name in graphs.precisions(part)}
        offered |= {name: graphs.uniform(name) for name in PRECISIONS if name in names}
        offered[SERVED] = graphs.networks(_chosen(measure(graphs), graphs, "auto"))
    return offered


def without_weights(network: Module, keep: Collection[str] = ()) -> Module:
    """A copy of a network that something else computes: its parameters take no memory, and it cannot be run.

    Args:
        network: is not changed.
        keep: names of parameters and buffers that the copy shares with it.
    """
    memo: dict[int, Any] = {}
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if name in keep:
            memo[id(tensor)] = tensor
        elif isinstance(tensor, nn.Parameter):
            memo[id(tensor)] = nn.Parameter(torch.empty_like(tensor, device="meta"), requires_grad=False)
        else:
            memo[id(tensor)] = torch.empty_like(tensor, device="meta")
    return deepcopy(network, memo)


def _chosen(measured: Measured, graphs: "Graphs", wanted: Runtime) -> dict[str, str]:
    """The runtime of each part."""

    def offered(part: str) -> list[str]:
        # What lies on the wall is thin: PyTorch's bfloat16, where it has that, moves its masks.
        own = [] if wanted == "openvino" or part == "wall_reader" else [PYTORCH]
        return [*own, *graphs.precisions(part)]

    return {part: measured.fastest(part, offered(part)) or PYTORCH for part in graphs.parts}


class Graphs:
    """The converted networks of a checkpoint, compiled when they are asked for.

    Args:
        converted: part, or part-int8 -> OpenVINO's model.
        classifier, refiner: what they were converted from.
    """

    def __init__(self, converted: Mapping[str, Any], classifier: Classifier, refiner: FBANet) -> None:
        self._converted = converted
        self.classifier, self.refiner = classifier, refiner
        self.parts = parts_of(classifier, refiner)

    def precisions(self, part: str) -> list[str]:
        """The runtimes that a part may be computed by here."""
        lacking = set(INTEGERS) if f"{part}{INT8}" not in self._converted else set()
        if part == "refiner":
            lacking.add(MIXED)
        if not computes_bfloat16(torch.device("cpu")):
            lacking |= {BFLOAT16, MIXED, QUANTISED_BFLOAT16}
        return [name for name in PRECISIONS if name not in lacking]

    def uniform(self, name: str) -> Networks:
        """The networks in the precision of a runtime's name; in float32 where a part has no such one."""
        return self.networks({part: name if name in self.precisions(part) else FLOAT32 for part in self.parts})

    def networks(self, runtimes: Mapping[str, str], compiled_in: Path | None = None) -> Networks:
        """The networks, compiled.

        Args:
            runtimes: part -> the runtime's name; PyTorch computes the others.
            compiled_in: folder where OpenVINO keeps what it compiles; None for nowhere.
        """
        runtimes = {part: runtimes.get(part, PYTORCH) for part in self.parts}
        ours = pytorch_networks(self.classifier, self.refiner, torch.device("cpu"))
        compiled = {
            part: Compiled(self._converted[part + INT8 * (name in INTEGERS)], PRECISIONS[name], compiled_in)
            for part, name in runtimes.items()
            if name != PYTORCH
        }

        def classify(gain: Tensor, bias: Tensor, see: Compiled, images: Tensor) -> ClassifierOutput:
            features, score_maps = see(images)
            # Pooled here, not in the graph: tracing would keep one size's number of cells.
            return ClassifierOutput(pooled(score_maps, gain, bias), features, score_maps, {STRIDE: features})

        see, read, refine = ours.classifier, ours.wall_reader, ours.refiner
        if "classifier" in compiled:
            see = partial(classify, *_line(self.classifier), compiled["classifier"])
        if self.classifier.wall_reader is None:
            read = see
        elif "wall_reader" in compiled:
            read = partial(classify, *_line(self.classifier.wall_reader), compiled["wall_reader"])
        if "refiner" in compiled:
            network = compiled["refiner"]
            refine = lambda crops: network(crops)[0]  # noqa: E731

        def release() -> None:
            for one in compiled.values():
                one.release()

        return Networks(runtimes, see, read, refine, release)


def _line(classifier: Classifier) -> tuple[Tensor, Tensor]:
    return classifier.gain.detach(), classifier.bias.detach()


def _measurement() -> str:
    """Name of the file with what was measured on this machine with as many threads."""
    cores = f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"
    return f"measured-{hashlib.sha256(cores.encode()).hexdigest()[:12]}.json"


def _measured(folder: Path, graphs: Graphs) -> Measured:
    """What was measured on this machine with as many threads, or a measurement now."""
    file = folder / _measurement()
    try:
        return Measured(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError) as error:
        logger.info("%s does not read as a measurement (%s) and is made again", file, error)
    measured = measure(graphs)
    try:
        partial = folder / f".{file.name}.{os.getpid()}"
        partial.write_text(json.dumps(asdict(measured), indent=2) + "\n", encoding="utf-8")
        partial.rename(file)
    except OSError as error:
        logger.info("what was measured cannot be kept in %s (%s): each start measures again", folder, error.strerror)
    return measured


def measure(graphs: Graphs) -> Measured:
    """Run every runtime in turn on synthetic frames, strips and crops, part by part; time them and compare their masks
    with PyTorch's."""
    probes = probes_of(graphs.classifier.config.input_size, graphs.refiner.config.crop_size)
    with torch.inference_mode():
        expected = {part: network(probes[part]) for part, network in graphs.parts.items()}
    seconds, agreements = dict[str, dict[str, float]](), dict[str, dict[str, float]]()
    for part in graphs.parts:
        runs = {name: getattr(graphs.networks({part: name}), part) for name in (PYTORCH, *graphs.precisions(part))}
        agreements[part] = {name: agreement(expected[part], run(probes[part])) for name, run in runs.items()}
        seconds[part] = dict.fromkeys(runs, float("inf"))
        for _ in range(ROUNDS):  # A B C A B C: other work on the machine slows all alike
            for name, run in runs.items():
                # On the clock: what waits in turns for its threads counts as computing time of all of them.
                began = time.perf_counter()
                run(probes[part][:1])
                seconds[part][name] = min(seconds[part][name], time.perf_counter() - began)
    return Measured(seconds, agreements)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
