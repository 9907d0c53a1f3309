"""How a pipeline's networks are computed: by PyTorch, or by OpenVINO where that is faster. One seam for all.

    images -> networks.classifier -> ClassifierOutput        crops -> networks.refiner -> FBANetOutput
    strips -> networks.wall_reader -> ClassifierOutput

OpenVINO computes on CPUs and without gradients; maps that need a backward pass stay with PyTorch. Each network gets the
runtime and the precision that is fastest for it and keeps its masks. Converted networks and what was measured lie
beside the weights and are made again when weights, OpenVINO or the machine change:

    CHECKPOINT/runtime/KEY/classifier.xml classifier.bin refiner.xml refiner.bin measured-MACHINE.json compiled/

Where the checkpoint has a classifier for the unrolled wall, wall_reader.xml and wall_reader.bin lie there too.
`compiled` has what OpenVINO makes of them for this processor; it is read in a fraction of the time and memory.

Of the weights that come with the package, which many may use and few may write to, they lie where the caller says.
"""

import hashlib
import json
import logging
import os
import platform
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.classifier import STRIDE, Classifier, ClassifierOutput, pooled
from models.devices import autocast, computes_bfloat16
from models.families import Runtime
from models.fba_net import CHANNELS, FBANet, FBANetOutput, network_input
from models.trimap import BACKGROUND, FOREGROUND, UNKNOWN
from models.wall import RAYS, ROWS, STRIP_MARGIN, Wall, unroll

logger = logging.getLogger(__name__)

FOLDER = "runtime"  # in a checkpoint
COMPILED = "compiled"  # beside the converted networks
FORMAT = 3  # of what lies there; counts up when the conversion changes
PYTORCH = "PyTorch"
PRECISIONS = {"OpenVINO float32": "f32", "OpenVINO bfloat16": "bf16"}
MIN_AGREEMENT = {"OpenVINO float32": 0.995, "OpenVINO bfloat16": 0.99}  # IoU with PyTorch in float32
# What lies on the wall is thin: bfloat16 moves its masks.
EXACT = {"wall_reader": "OpenVINO float32"}
SERVED = "as served"  # of several runtimes that are compared: each network by the fastest that keeps its masks
SMALL = 0.01  # of a probe: smaller masks are compared as if they were that large, or a single cell would decide
PROBES = 2  # frames, strips and crops on which runtimes are compared
ROUNDS = 3

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Networks:
    """The networks of a pipeline, ready to be computed without gradients.

    Attributes:
        runtimes: part ("classifier", "refiner" and, where there is another one, "wall_reader") -> what computes it:
            "PyTorch", "OpenVINO float32" or "OpenVINO bfloat16".
        classifier: images of shape (B, 3, H, W), floats in [0, 1], to the classifier's output; of its layers, OpenVINO
            gives the features alone.
        wall_reader: the same for strips of the unrolled wall; the classifier itself where it has no reader for them.
        refiner: crops of shape (B, 12, S, S) to FBANet's output.
        release: gives back the memory of the last results; the next ones take some milliseconds longer.
    """

    runtimes: Mapping[str, str]
    classifier: Callable[[Tensor], ClassifierOutput]
    wall_reader: Callable[[Tensor], ClassifierOutput]
    refiner: Callable[[Tensor], FBANetOutput]
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
        seconds: part -> runtime -> computing time of a frame, strip or crop, of all cores together.
        agreement: part -> runtime -> least IoU, over classes, of its masks with those of PyTorch in float32.
    """

    seconds: dict[str, dict[str, float]]
    agreement: dict[str, dict[str, float]]

    def fastest(self, part: str, among: Collection[str]) -> str | None:
        """The fastest of these runtimes whose masks are within `MIN_AGREEMENT`; None if none of them is."""
        seconds, agreement = self.seconds.get(part, {}), self.agreement.get(part, {})
        fit = [name for name in among if name in seconds]
        fit = [name for name in fit if agreement.get(name, 0.0) >= MIN_AGREEMENT.get(name, 0.0)]
        return min(fit, key=seconds.__getitem__, default=None)


def parts_of(classifier: Classifier, refiner: FBANet) -> dict[str, nn.Module]:
    """The networks that are computed, by name."""
    parts: dict[str, nn.Module] = {"classifier": classifier, "refiner": refiner}
    return parts if classifier.wall_reader is None else parts | {"wall_reader": classifier.wall_reader}


def pytorch_networks(classifier: Classifier, refiner: FBANet, device: torch.device) -> Networks:
    """The networks themselves, in evaluation mode on `device`, in bfloat16 where that is native."""

    def classify(network: Classifier, images: Tensor) -> ClassifierOutput:
        with torch.inference_mode(), autocast(device):
            output: ClassifierOutput = network(images.contiguous(memory_format=torch.channels_last))
        return output

    def refine(crops: Tensor) -> FBANetOutput:
        with torch.inference_mode(), autocast(device):
            output: FBANetOutput = refiner(crops.contiguous(memory_format=torch.channels_last))
        return output

    see = read = partial(classify, classifier)
    if classifier.wall_reader is not None:
        read = partial(classify, classifier.wall_reader)
    return Networks(dict.fromkeys(parts_of(classifier, refiner), PYTORCH), see, read, refine)


def networks_of(
    directory: Path,
    weights: Mapping[str, str],
    classifier: Classifier,
    refiner: FBANet,
    device: torch.device,
    wanted: Runtime = "auto",
    kept: Path | None = None,
) -> Networks:
    """The networks of a checkpoint in the runtime that suits this machine, ready for the first image.

    The first time (see `is_made`), the networks are converted and the runtimes measured, which takes seconds.

    Args:
        directory: checkpoint folder.
        weights: file name -> SHA-256, as the card has it.
        classifier, refiner: loaded, in evaluation mode, on `device`.
        device: only "cpu" has a choice.
        wanted: "auto" for the fastest, "pytorch" or "openvino" for that one; where OpenVINO cannot compute a network
            or its masks differ, PyTorch does, and a sentence in the log says so.
        kept: folder for what is made of this checkpoint, `runtime` in it if None; made if this user may write there.
    """
    ours = pytorch_networks(classifier, refiner, device)
    if wanted == "pytorch" or device.type != "cpu":
        return ours
    try:
        folder = _folder(directory, weights, classifier, refiner, kept)
        graphs = _Graphs(_stored(folder, classifier, refiner), classifier, refiner)
        measured = _measured(folder, graphs)
        chosen = _chosen(measured, graphs, wanted)
        networks = ours if set(chosen.values()) == {PYTORCH} else graphs.networks(chosen, folder / COMPILED)
    except Exception as error:  # of a library that sees this network, this CPU or this disk for the first time
        logger.warning("%s is computed by PyTorch, because OpenVINO cannot: %s", directory.name, error)
        return ours
    for part in (part for part, runtime in chosen.items() if runtime == PYTORCH):
        agreement = measured.agreement.get(part, {})
        if wanted == "openvino" or measured.fastest(part, PRECISIONS) is None:
            logger.warning(
                "the %s of %s is computed by PyTorch, because masks by OpenVINO differ: IoU %s",
                part.replace("_", " "),
                directory.name,
                ", ".join(f"{agreement.get(name, 0.0):.4f}" for name in PRECISIONS),
            )
    logger.info("%s is computed by %s", directory.name, networks.name)
    return networks


def is_made(
    directory: Path,
    weights: Mapping[str, str],
    classifier: Classifier,
    refiner: FBANet,
    device: torch.device,
    wanted: Runtime = "auto",
    kept: Path | None = None,
) -> bool:
    """Whether `networks_of`, of the same arguments, has nothing to convert and nothing to measure."""
    if wanted == "pytorch" or device.type != "cpu" or find_spec("openvino") is None:
        return True
    return (_folder(directory, weights, classifier, refiner, kept) / _measurement()).is_file()


def all_networks(classifier: Classifier, refiner: FBANet) -> dict[str, Networks]:
    """The networks in every runtime that this CPU and this installation have, by name, and those that would be served.

    Args:
        classifier, refiner: in evaluation mode, on the CPU.
    """
    offered = {PYTORCH: pytorch_networks(classifier, refiner, torch.device("cpu"))}
    if find_spec("openvino") is not None:
        graphs = _Graphs(convert(classifier, refiner), classifier, refiner)
        offered |= {name: graphs.uniform(name) for name in graphs.precisions("classifier")}
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


def _chosen(measured: Measured, graphs: "_Graphs", wanted: Runtime) -> dict[str, str]:
    """The runtime of each part."""

    def offered(part: str) -> list[str]:
        # PyTorch computes in bfloat16 where it can, which is what some parts are to be spared.
        own = [] if wanted == "openvino" or part in EXACT else [PYTORCH]
        return [*own, *graphs.precisions(part)]

    return {part: measured.fastest(part, offered(part)) or PYTORCH for part in graphs.parts}


class _Graphs:
    """The converted networks of a checkpoint, compiled when they are asked for.

    Args:
        converted: part -> OpenVINO's model.
        classifier, refiner: what they were converted from.
    """

    def __init__(self, converted: Mapping[str, Any], classifier: Classifier, refiner: FBANet) -> None:
        self._converted = converted
        self.classifier, self.refiner = classifier, refiner
        self.parts = parts_of(classifier, refiner)

    def precisions(self, part: str) -> list[str]:
        """The runtimes that a part may be computed by here."""
        native = computes_bfloat16(torch.device("cpu"))
        offered = [name for name, bits in PRECISIONS.items() if native or bits != "bf16"]
        return [EXACT[part]] if part in EXACT else offered

    def uniform(self, name: str) -> Networks:
        """The networks in the precision of a runtime's name, but for those whose precision is fixed."""
        return self.networks({part: EXACT.get(part, name) for part in self.parts})

    def networks(self, runtimes: Mapping[str, str], compiled_in: Path | None = None) -> Networks:
        """The networks, compiled.

        Args:
            runtimes: part -> the runtime's name; PyTorch computes the others.
            compiled_in: folder where OpenVINO keeps what it compiles; None for nowhere.
        """
        runtimes = {part: runtimes.get(part, PYTORCH) for part in self.parts}
        ours = pytorch_networks(self.classifier, self.refiner, torch.device("cpu"))
        compiled = {
            part: _Compiled(self._converted[part], PRECISIONS[name], compiled_in)
            for part, name in runtimes.items()
            if name != PYTORCH
        }

        def classify(gain: Tensor, bias: Tensor, see: _Compiled, images: Tensor) -> ClassifierOutput:
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
            refine = lambda crops: FBANetOutput(*network(crops))  # noqa: E731

        def release() -> None:
            for one in compiled.values():
                one.release()

        return Networks(runtimes, see, read, refine, release)


def _line(classifier: Classifier) -> tuple[Tensor, Tensor]:
    return classifier.gain.detach(), classifier.bias.detach()


class _Compiled:
    """A network compiled for this CPU. Safe to share between threads, which take turns image by image.

    One image at a time: batches are no faster on a CPU and take more memory, and a prompt need not wait for a batch.
    """

    def __init__(self, model: Any, precision: str, cache: Path | None = None) -> None:
        self._lock = threading.Lock()
        options = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # the job beside the server would be pinned to the same cores
        }
        try:
            kept = {} if cache is None else {"CACHE_DIR": str(cache)}
            self._network = _core().compile_model(model, "CPU", options | kept)
        except RuntimeError as error:
            if cache is None:
                raise
            logger.info("what OpenVINO compiles cannot be kept in %s: %s", cache, error)
            self._network = _core().compile_model(model, "CPU", options)
        self._request = self._network.create_infer_request()

    def __call__(self, inputs: Tensor) -> list[Tensor]:
        """The outputs for inputs of shape (B, ...), each of shape (B, ...), float32."""
        parts = [self._infer(np.ascontiguousarray(one.numpy())) for one in inputs.detach().float().cpu()[:, None]]
        return [torch.from_numpy(one[0] if len(one) == 1 else np.concatenate(one)) for one in zip(*parts, strict=True)]

    def release(self) -> None:
        """Give back the memory of intermediate results."""
        with self._lock:
            self._network.release_memory()

    def _infer(self, inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        with self._lock:
            found = self._request.infer([inputs])
        return [found[index] for index in range(len(found))]


@cache
def _core() -> Any:
    return import_module("openvino").Core()


def _folder(
    directory: Path, weights: Mapping[str, str], classifier: Classifier, refiner: FBANet, kept: Path | None
) -> Path:
    """Where the converted networks of these weights lie."""
    return (kept or directory / FOLDER) / _key(weights, classifier, refiner)


def _key(weights: Mapping[str, str], classifier: Classifier, refiner: FBANet) -> str:
    """Name of the folder with the converted networks of these weights, for this OpenVINO."""
    configs = [asdict(classifier.config), asdict(refiner.config)]
    text = json.dumps([FORMAT, version("openvino"), version("timm"), configs, dict(weights)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _stored(folder: Path, classifier: Classifier, refiner: FBANet) -> dict[str, Any]:
    """What `convert` makes, from `folder` if it is there and whole, else made and kept there."""
    core = _core()
    if not folder.is_dir():
        _keep(folder, convert(classifier, refiner))
    if folder.is_dir():
        try:
            # Read back also by the one who made them, as weights that lie in a file need no memory of their own.
            return {part: core.read_model(folder / f"{part}.xml") for part in parts_of(classifier, refiner)}
        except RuntimeError as error:
            logger.info("%s does not read as converted networks and is made again: %s", folder, error)
            shutil.rmtree(folder, ignore_errors=True)
    made = convert(classifier, refiner)
    _keep(folder, made)
    return made


def _keep(folder: Path, made: Mapping[str, Any]) -> None:
    """Write converted networks, all of them or none; a sentence in the log if the place cannot be written to."""
    openvino = import_module("openvino")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as partial:
            whole = Path(partial) / folder.name
            for name, model in made.items():
                openvino.save_model(model, whole / f"{name}.xml", compress_to_fp16=False)
            if not folder.exists():  # else another process was first
                whole.rename(folder)
        for other in folder.parent.iterdir():  # of earlier weights or an earlier OpenVINO
            if other != folder and not other.name.startswith("."):
                shutil.rmtree(other, ignore_errors=True)
    except (OSError, RuntimeError) as error:
        logger.info("converted networks cannot be kept in %s (%s): each start converts them again", folder, error)


def convert(classifier: Classifier, refiner: FBANet) -> dict[str, Any]:
    """The networks as OpenVINO's models, by part: of images of any size, one at a time, and of crops.

    Raises:
        ImportError: OpenVINO is not installed.
        RuntimeError: it cannot convert the networks.
    """
    size = classifier.config.input_size
    side = refiner.config.crop_size
    made = {"refiner": _converted(_Matting(refiner), torch.rand(1, CHANNELS, side, side))}
    made["refiner"].reshape([1, CHANNELS, side, side])
    for part, network in (("classifier", classifier), ("wall_reader", classifier.wall_reader)):
        if network is not None:
            made[part] = _converted(_Features(network), torch.rand(1, 3, size, size))
            # Frames come in several sizes. Of one size, memory is planned ahead and takes half as much.
            sides = [ROWS, RAYS + 2 * STRIP_MARGIN] if part == "wall_reader" else [-1, -1]
            made[part].reshape([1, 3, *sides])
    return made


def _converted(network: nn.Module, example: Tensor) -> Any:
    # Not openvino.convert_model, which reports its use to its maker over the network.
    manager = import_module("openvino.frontend").FrontEndManager()
    decoding = import_module("openvino.frontend.pytorch.ts_decoder")
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about branches on sizes, which all sizes take alike
        traced = torch.jit.trace(network.eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
    frontend = manager.load_by_framework("pytorch")
    decoder = decoding.TorchScriptPythonDecoder(traced)  # named: the frontend does not keep it alive
    return frontend.convert(frontend.load(decoder))


class _Features(nn.Module):
    """The classifier without its pooling."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.network = _with_affine_norms(deepcopy(classifier).cpu())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        output: ClassifierOutput = self.network(images)
        return output.features, output.score_maps


class _Matting(nn.Module):
    """FBANet with a plain tuple as its result."""

    def __init__(self, refiner: FBANet) -> None:
        super().__init__()
        self.network = _with_affine_norms(deepcopy(refiner).cpu())

    def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network(crops))


class _AffineNorm(nn.Module):
    """Group norm as one multiplication and one addition per channel: (x - mean) / std * w + b = a x + c.

    OpenVINO's own moves the whole tensor into another order of memory and back; this takes a third of its time.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        self.weight = nn.Parameter(norm.weight.detach().view(1, norm.num_groups, -1))
        self.bias = nn.Parameter(norm.bias.detach().view(1, norm.num_groups, -1))

    def forward(self, x: Tensor) -> Tensor:
        channels, groups = x.shape[1], self.weight.shape[1]
        mean = x.mean(dim=(2, 3)).view(-1, groups, channels // groups).mean(dim=2, keepdim=True)  # (B, G, 1)
        norm = torch.linalg.vector_norm(x, dim=(2, 3))  # a pass without a tensor of squares
        square = (norm * norm / (x.shape[2] * x.shape[3])).view(-1, groups, channels // groups)
        deviation = torch.rsqrt(square.mean(dim=2, keepdim=True) - mean * mean + self.eps)
        a = self.weight * deviation  # (B, G, C / G)
        c = self.bias - mean * a
        return x * a.reshape(-1, channels, 1, 1) + c.reshape(-1, channels, 1, 1)


def _with_affine_norms(network: nn.Module) -> nn.Module:
    for name, child in network.named_children():
        if isinstance(child, nn.GroupNorm):
            setattr(network, name, _AffineNorm(child))
        else:
            _with_affine_norms(child)
    return network


def _measurement() -> str:
    """Name of the file with what was measured on this machine with as many threads."""
    cores = f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"
    return f"measured-{hashlib.sha256(cores.encode()).hexdigest()[:12]}.json"


def _measured(folder: Path, graphs: _Graphs) -> Measured:
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


def measure(graphs: _Graphs) -> Measured:
    """Run every runtime in turn on synthetic frames, strips and crops, part by part; time them and compare their masks
    with PyTorch's."""
    probes = _probes(graphs.classifier.config.input_size, graphs.refiner.config.crop_size)
    with torch.inference_mode():
        expected = {part: _masks(network(probes[part])) for part, network in graphs.parts.items()}
    seconds, agreement = dict[str, dict[str, float]](), dict[str, dict[str, float]]()
    for part in graphs.parts:
        runs = {name: getattr(graphs.networks({part: name}), part) for name in (PYTORCH, *graphs.precisions(part))}
        agreement[part] = {name: _agreement(expected[part], _masks(run(probes[part]))) for name, run in runs.items()}
        seconds[part] = dict.fromkeys(runs, float("inf"))
        for _ in range(ROUNDS):  # A B C A B C: other work on the machine slows all alike
            for name, run in runs.items():
                # Computing time, which other work on the machine hardly changes.
                began = time.process_time()
                run(probes[part][:1])
                seconds[part][name] = min(seconds[part][name], time.process_time() - began)
    return Measured(seconds, agreement)


def _probes(size: int, side: int) -> dict[str, Tensor]:
    """Part -> its input: synthetic frames of shape (PROBES, 3, size, size), strips of them, and crops of `side`."""
    from models.phantom import render_phantom

    frames, strips, crops = [], [], []
    for seed in range(PROBES):
        frame = render_phantom(seed, max(size, 64))
        frames.append(cv2.resize(frame.image, (size, size), interpolation=cv2.INTER_AREA))
        drawn = frame.image.shape[0]
        wall = Wall(drawn / 2, drawn / 2, np.full(RAYS, drawn / 6, dtype=np.float32), drawn)
        strips.append(unroll(frame.image, wall, STRIP_MARGIN))
        mask = max(frame.masks.values(), key=np.count_nonzero).astype(np.float32)
        cam = cv2.GaussianBlur(cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA), (0, 0), side / 32)
        trimap = np.where(cam < 0.1, BACKGROUND, np.where(cam > 0.9, FOREGROUND, UNKNOWN)).astype(np.uint8)
        image = cv2.resize(frame.image, (side, side), interpolation=cv2.INTER_AREA)
        crops.append(network_input(np.asarray(image, np.uint8), trimap, np.asarray(cam, np.float32)))
    return {
        "classifier": _as_batch(frames),
        "wall_reader": _as_batch(strips),
        "refiner": torch.from_numpy(np.stack(crops)),
    }


def _as_batch(images: Sequence[Any]) -> Tensor:
    """Images of shape (H, W, 3), uint8, as floats in [0, 1] of shape (B, 3, H, W)."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def _masks(output: ClassifierOutput | FBANetOutput) -> list[NDArray[np.bool_]]:
    """A mask per class of a classifier's output and who is present, or the refiner's mask, over all probes."""
    if isinstance(output, FBANetOutput):
        masks = [output.alpha.float() >= 0.5]
    else:
        masks = [*(output.score_maps.float() >= 0).unbind(dim=1), output.logits.float() >= 0]
    return [mask.cpu().numpy() for mask in masks]


def _agreement(expected: Sequence[NDArray[np.bool_]], found: Sequence[NDArray[np.bool_]]) -> float:
    """The least IoU of masks; small ones count as if they were SMALL of the probe."""
    ious = []
    for one, other in zip(expected, found, strict=True):
        differing, union = int((one != other).sum()), int((one | other).sum())
        ious.append(1 - differing / max(union, SMALL * one.size))
    return min(ious)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
