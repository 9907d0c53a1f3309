"""How a pipeline's networks are computed: by PyTorch, or by OpenVINO where that is faster. One seam for all.

    images -> networks.classifier -> Output        crops -> networks.refiner -> alpha
    strips -> networks.wall_reader -> Output

OpenVINO computes on CPUs and without gradients; maps that need a backward pass stay with PyTorch. Each network gets the
runtime and the precision that is fastest for it and keeps its masks. Converted networks (`models.compiled`) and what
was measured lie beside the weights and are made again when weights, OpenVINO or the machine change:

    CHECKPOINT/runtime/KEY/ classifier.xml ... measured-MACHINE.json

A process in which OpenVINO computes all networks never loads torch, which takes half a gigabyte and seconds.

Of the weights that come with the package, which many may use and few may write to, they lie where the caller says.
"""

import hashlib
import json
import logging
import os
import platform
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from models.checkpoint import read_card, read_tensors
from models.compiled import INT8, PARTS, Compiled, computes_bfloat16, key_of, part_names, stored
from models.config import ClassifierConfig, FBANetConfig
from models.errors import CheckpointError
from models.families import Runtime
from models.seen import Forward, Output, pooled
from models.threads import thread_count

if TYPE_CHECKING:
    from models.classifier import Classifier
    from models.fba_net import FBANet

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
WORTH = 0.75  # of the time of another runtime, which PyTorch may take at most
SERVED = "as served"  # of several runtimes that are compared: each network by the fastest that keeps its masks

Floats = NDArray[np.float32]
Lines = Mapping[str, tuple[Floats, Floats]]  # part -> gain and bias, by which its pooled maps become logits; (C,) each


@dataclass(frozen=True)
class Networks:
    """The networks of a pipeline, ready to be computed without gradients.

    Attributes:
        runtimes: part ("classifier", "refiner" and, where there is another one, "wall_reader") -> what computes it:
            "PyTorch" or a name in `PRECISIONS`.
        classifier: computes the classifier.
        wall_reader: the same for strips of the unrolled wall; the classifier itself where it has no reader for them.
        refiner: crops of shape (B, 12, S, S) to their alpha, shape (B, S, S), in [0, 1].
        release: gives back the memory of the last results; the next ones take some milliseconds longer.
    """

    runtimes: Mapping[str, str]
    classifier: Forward
    wall_reader: Forward
    refiner: Callable[[Floats], Floats]
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
        """The fastest of these runtimes whose masks are within `MIN_AGREEMENT`; None if none of them is.

        PyTorch only where it saves a quarter of the time: it takes half a gigabyte.
        """
        seconds, agreements = self.seconds.get(part, {}), self.agreement.get(part, {})
        fit = [name for name in among if name in seconds]
        fit = [name for name in fit if agreements.get(name, 0.0) >= MIN_AGREEMENT.get(name, 0.0)]
        return min(fit, key=lambda name: seconds[name] / (WORTH if name == PYTORCH else 1), default=None)


_MEASURED = TypeAdapter(Measured)


@dataclass(frozen=True, eq=False)
class RuntimeChoice:
    """What the networks of a checkpoint are computed by on this machine.

    Attributes:
        directory: checkpoint folder.
        classifier, refiner: what its card says of them.
        load: loads both for PyTorch, in evaluation mode, on `device`; asked only where PyTorch is needed.
        device: only "cpu" has a choice.
        wanted: "auto" for the fastest, "pytorch" or "openvino" for that one; where OpenVINO cannot compute a network
            or its masks differ, PyTorch does, and a sentence in the log says so.
        kept: folder for what is made of this checkpoint, `runtime` in it if None; made if this user may write there.
    """

    directory: Path
    classifier: ClassifierConfig
    refiner: FBANetConfig
    load: "Callable[[], tuple[Classifier, FBANet]]"
    device: str = "cpu"
    wanted: Runtime = "auto"
    kept: Path | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is anything but PyTorch to choose."""
        return self.wanted != "pytorch" and self.device == "cpu"

    @property
    def folder(self) -> Path:
        """Where the converted networks of these weights lie."""
        weights = read_card(self.directory).weights
        return (self.kept or self.directory / FOLDER) / key_of(weights, self.classifier, self.refiner)

    def is_made(self) -> bool:
        """Whether `networks` has nothing to convert and nothing to measure."""
        return not self.is_open or find_spec("openvino") is None or (self.folder / _measurement()).is_file()

    def networks(self) -> Networks:
        """The networks in the runtime that suits this machine, ready for the first image.

        The first time (see `is_made`), they are converted and the runtimes measured, which takes seconds.

        Raises:
            CheckpointError: PyTorch is needed, and the weights cannot be loaded.
        """
        if not self.is_open:
            return self._pytorch()
        try:
            folder = self.folder
            parts = part_names(self.classifier)
            graphs = Graphs(stored(folder, parts, self._convert), _stored_lines(self.directory, parts), self._pytorch)
            measured = _measured(folder, parts, partial(self._measure, graphs))
            chosen = chosen_runtimes(measured, graphs, self.wanted)
            networks = graphs.networks(chosen, folder / COMPILED)
        except CheckpointError:
            raise
        except Exception as error:  # of a library that sees this network, this CPU or this disk for the first time
            logger.warning("%s is computed by PyTorch, because OpenVINO cannot: %s", self.directory.name, error)
            return self._pytorch()
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

    def _pytorch(self) -> Networks:
        from models.pytorch_networks import pytorch_networks

        return pytorch_networks(*self.load(), self.device)

    def _convert(self) -> dict[str, Any]:
        from models.conversion import convert

        return convert(*self.load())

    def _measure(self, graphs: "Graphs") -> Measured:
        from models.pytorch_networks import measure

        return measure(graphs, *self.load())


def chosen_runtimes(measured: Measured, graphs: "Graphs", wanted: Runtime) -> dict[str, str]:
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
        lines: of the classifier and, where there is one, of the reader of the wall.
        pytorch: gives PyTorch's networks, for the parts that are left to them.
    """

    def __init__(self, converted: Mapping[str, Any], lines: Lines, pytorch: Callable[[], Networks]) -> None:
        self._converted, self._lines, self._pytorch = converted, lines, pytorch
        self.parts = tuple(part for part in PARTS if part in converted)

    def precisions(self, part: str) -> list[str]:
        """The runtimes that a part may be computed by here."""
        lacking = set(INTEGERS) if f"{part}{INT8}" not in self._converted else set()
        if part == "refiner":
            lacking.add(MIXED)
        if not computes_bfloat16():
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
        compiled = {
            part: Compiled(self._converted[part + INT8 * (name in INTEGERS)], PRECISIONS[name], compiled_in)
            for part, name in runtimes.items()
            if name != PYTORCH
        }
        computed: dict[str, Any] = {part: self._computed(part, network) for part, network in compiled.items()}
        computed.setdefault("wall_reader", computed.get("classifier"))
        if len(compiled) < len(self.parts):
            ours = self._pytorch()
            computed |= {part: getattr(ours, part) for part in self.parts if part not in compiled}

        def release() -> None:
            for one in compiled.values():
                one.release()

        return Networks(runtimes, computed["classifier"], computed["wall_reader"], computed["refiner"], release)

    def _computed(self, part: str, network: Compiled) -> Forward | Callable[[Floats], Floats]:
        if part == "refiner":
            return lambda crops: network(crops, 0)[0]
        gain, bias = self._lines[part]

        def forward(images: Floats, *, features: bool = False) -> Output:
            score_maps, *more = network(images, *((1, 0) if features else (1,)))
            # Pooled here, not in the graph: tracing would keep one size's number of cells.
            return Output(pooled(score_maps, gain, bias), score_maps, more[0] if features else None)

        return forward


def _stored_lines(directory: Path, parts: Collection[str]) -> Lines:
    """What the checkpoint's weights say of each classifier's lines."""
    owners = {"classifier": "", "wall_reader": "wall_reader."}
    names = [f"{owner}{name}" for part, owner in owners.items() if part in parts for name in ("gain", "bias")]
    found = read_tensors(directory, read_card(directory), "classifier", names)
    return {part: (found[f"{own}gain"], found[f"{own}bias"]) for part, own in owners.items() if part in parts}


def _measurement() -> str:
    """Name of the file with what was measured on this machine with as many threads."""
    cores = f"{_processor()}, {os.cpu_count()} cores, {thread_count()} threads, torch {version('torch')}"
    return f"measured-{hashlib.sha256(cores.encode()).hexdigest()[:12]}.json"


def _measured(folder: Path, parts: Collection[str], measure: Callable[[], Measured]) -> Measured:
    """What was measured on this machine with as many threads, or a measurement now."""
    file = folder / _measurement()
    try:
        measured = _MEASURED.validate_json(file.read_bytes())
        if set(parts) - measured.seconds.keys() | set(parts) - measured.agreement.keys():
            raise ValueError(f"it has not all of {', '.join(parts)}")
        return measured
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        logger.info("%s does not read as a measurement (%s) and is made again", file, error)
    measured = measure()
    try:
        partial = folder / f".{file.name}.{os.getpid()}"
        partial.write_text(json.dumps(asdict(measured), indent=2) + "\n", encoding="utf-8")
        partial.rename(file)
    except OSError as error:
        logger.info("what was measured cannot be kept in %s (%s): each start measures again", folder, error.strerror)
    return measured


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
