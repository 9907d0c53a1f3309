"""How a pipeline's networks are computed: by PyTorch, or by OpenVINO where that is faster. One seam for all.

    images -> networks.classifier -> ClassifierOutput        crops -> networks.refiner -> FBANetOutput
    strips -> networks.wall_reader -> ClassifierOutput

OpenVINO computes on CPUs and without gradients; maps that need a backward pass stay with PyTorch. Converted networks
and what was measured lie beside the weights and are made again when weights, OpenVINO or the machine change:

    CHECKPOINT/runtime/KEY/classifier.xml classifier.bin refiner.xml refiner.bin measured-MACHINE.json

Where the checkpoint has a classifier for the unrolled wall, wall_reader.xml and wall_reader.bin lie there too.

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
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.classifier import STRIDE, Classifier, ClassifierOutput
from models.devices import autocast, computes_bfloat16
from models.families import Runtime
from models.fba_net import CHANNELS, FBANet, FBANetOutput, network_input
from models.trimap import BACKGROUND, FOREGROUND, UNKNOWN

logger = logging.getLogger(__name__)

FOLDER = "runtime"  # in a checkpoint
FORMAT = 2  # of what lies there; counts up when the conversion changes
PYTORCH = "PyTorch"
PRECISIONS = {"OpenVINO float32": "f32", "OpenVINO bfloat16": "bf16"}
MIN_AGREEMENT = {"OpenVINO float32": 0.995, "OpenVINO bfloat16": 0.99}  # IoU with PyTorch in float32
SMALL = 0.01  # of a probe: smaller masks are compared as if they were that large, or a single cell would decide
PROBES = 2  # frames and crops on which runtimes are compared
ROUNDS = 3


@dataclass(frozen=True)
class Networks:
    """The networks of a pipeline, ready to be computed without gradients.

    Attributes:
        name: how: "PyTorch", "OpenVINO float32" or "OpenVINO bfloat16".
        classifier: images of shape (B, 3, H, W), floats in [0, 1], to the classifier's output; of its layers, OpenVINO
            gives the features alone.
        wall_reader: the same for strips of the unrolled wall; the classifier itself where it has no reader for them.
        refiner: crops of shape (B, 12, S, S) to FBANet's output.
    """

    name: str
    classifier: Callable[[Tensor], ClassifierOutput]
    wall_reader: Callable[[Tensor], ClassifierOutput]
    refiner: Callable[[Tensor], FBANetOutput]

    @property
    def readers(self) -> list[Callable[[Tensor], ClassifierOutput]]:
        """The classifiers that are two different ones, or the one."""
        return [self.classifier] if self.wall_reader is self.classifier else [self.classifier, self.wall_reader]


@dataclass(frozen=True)
class Measured:
    """Runtimes side by side, on one machine.

    Attributes:
        seconds: runtime -> time of a frame and a crop.
        agreement: runtime -> least IoU, over classes and the refiner, of its masks with those of PyTorch in float32.
    """

    seconds: dict[str, float]
    agreement: dict[str, float]

    def fastest(self, among: Sequence[str]) -> str | None:
        """The fastest of these runtimes whose masks are within `MIN_AGREEMENT`; None if none of them is."""
        fit = [name for name in among if name in self.seconds]
        fit = [name for name in fit if self.agreement.get(name, 0.0) >= MIN_AGREEMENT.get(name, 0.0)]
        return min(fit, key=self.seconds.__getitem__, default=None)


def pytorch_networks(classifier: Classifier, refiner: FBANet, device: torch.device) -> Networks:
    """The networks themselves, in evaluation mode on `device`, in bfloat16 where that is native."""

    def classify(network: Classifier, images: Tensor) -> ClassifierOutput:
        with torch.inference_mode(), autocast(device):
            output: ClassifierOutput = network(images)
        return output

    def refine(crops: Tensor) -> FBANetOutput:
        with torch.inference_mode(), autocast(device):
            output: FBANetOutput = refiner(crops.contiguous(memory_format=torch.channels_last))
        return output

    see = read = partial(classify, classifier)
    if classifier.wall_reader is not None:
        read = partial(classify, classifier.wall_reader)
    return Networks(PYTORCH, see, read, refine)


def networks_of(
    directory: Path,
    weights: Mapping[str, str],
    classifier: Classifier,
    refiner: FBANet,
    device: torch.device,
    wanted: Runtime = "auto",
    kept: Path | None = None,
) -> Networks:
    """The networks of a checkpoint in the runtime that suits this machine.

    The first time, the networks are converted and the runtimes measured, which takes seconds.

    Args:
        directory: checkpoint folder.
        weights: file name -> SHA-256, as the card has it.
        classifier, refiner: loaded, in evaluation mode, on `device`.
        device: only "cpu" has a choice.
        wanted: "auto" for the fastest, "pytorch" or "openvino" for that one; where OpenVINO cannot compute the networks
            or its masks differ, PyTorch does, and a sentence in the log says so.
        kept: folder for what is made of this checkpoint, `runtime` in it if None; made if this user may write there.
    """
    ours = pytorch_networks(classifier, refiner, device)
    if wanted == "pytorch" or device.type != "cpu":
        return ours
    try:
        folder = (kept or directory / FOLDER) / _key(weights, classifier, refiner)
        graphs = _Graphs(_stored(folder, classifier, refiner))
        measured = _measured(folder, graphs, classifier, refiner)
    except Exception as error:  # of a library that sees this network, this CPU or this disk for the first time
        logger.warning("%s is computed by PyTorch, because OpenVINO cannot: %s", directory.name, error)
        return ours
    chosen = measured.fastest([*PRECISIONS] if wanted == "openvino" else [PYTORCH, *PRECISIONS])
    if chosen is None:
        logger.warning(
            "%s is computed by PyTorch, because masks by OpenVINO differ: IoU %s",
            directory.name,
            ", ".join(f"{measured.agreement.get(name, 0.0):.4f}" for name in PRECISIONS),
        )
    if chosen is None or chosen == PYTORCH:
        return ours
    logger.info("%s is computed by %s", directory.name, chosen)
    return graphs.networks(chosen, classifier)


def all_networks(classifier: Classifier, refiner: FBANet) -> dict[str, Networks]:
    """The networks in every runtime that this CPU and this installation have, by name, whatever their masks are like.

    Args:
        classifier, refiner: in evaluation mode, on the CPU.
    """
    device = torch.device("cpu")
    offered = {PYTORCH: pytorch_networks(classifier, refiner, device)}
    if find_spec("openvino") is not None:
        offered |= _Graphs(convert(classifier, refiner)).offered(classifier)
    return offered


class _Graphs:
    """The converted networks of a checkpoint, not yet compiled."""

    def __init__(self, converted: Mapping[str, Any]) -> None:
        self._converted = converted

    def offered(self, classifier: Classifier) -> dict[str, Networks]:
        """The networks in each precision that this CPU has, by the runtime's name."""
        native = computes_bfloat16(torch.device("cpu"))
        return {n: self.networks(n, classifier) for n, bits in PRECISIONS.items() if native or bits != "bf16"}

    def networks(self, name: str, classifier: Classifier) -> Networks:
        """The networks in the precision of a runtime's name; compiled on first use."""
        # The wall's reader is small, and what lies on the wall thin: bfloat16 gains little and moves its masks.
        precisions = {"wall_reader": "f32"}
        compiled = {
            part: _Compiled(model, precisions.get(part, PRECISIONS[name])) for part, model in self._converted.items()
        }

        def classify(network: Classifier, see: _Compiled, images: Tensor) -> ClassifierOutput:
            features, score_maps = see(images)
            with torch.inference_mode():
                # Here, not in the graph: tracing would keep one size's number of cells.
                logits = network.logits(score_maps)
            return ClassifierOutput(logits, features, score_maps, {STRIDE: features})

        see = read = partial(classify, classifier, compiled["classifier"])
        if classifier.wall_reader is not None:
            read = partial(classify, classifier.wall_reader, compiled["wall_reader"])
        return Networks(name, see, read, lambda crops: FBANetOutput(*compiled["refiner"](crops)))


class _Compiled:
    """A network compiled for this CPU. Safe to share between threads, which take turns image by image.

    One image at a time: batches are no faster on a CPU and take more memory, and a prompt need not wait for a batch.
    """

    def __init__(self, model: Any, precision: str) -> None:
        self._model, self._precision = model, precision
        self._lock = threading.Lock()
        self._request: Any = None

    def __call__(self, inputs: Tensor) -> list[Tensor]:
        """The outputs for inputs of shape (B, ...), each of shape (B, ...), float32."""
        parts = [self._infer(np.ascontiguousarray(one.numpy())) for one in inputs.detach().float().cpu()[:, None]]
        return [torch.from_numpy(one[0] if len(one) == 1 else np.concatenate(one)) for one in zip(*parts, strict=True)]

    def _infer(self, inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        with self._lock:
            if self._request is None:
                self._request = self._compile()
            found = self._request.infer([inputs])
        return [found[index] for index in range(len(found))]

    def _compile(self) -> Any:
        options = {
            "INFERENCE_PRECISION_HINT": self._precision,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # the job beside the server would be pinned to the same cores
        }
        return _core().compile_model(self._model, "CPU", options).create_infer_request()


@cache
def _core() -> Any:
    return import_module("openvino").Core()


def _key(weights: Mapping[str, str], classifier: Classifier, refiner: FBANet) -> str:
    """Name of the folder with the converted networks of these weights, for this OpenVINO."""
    configs = [asdict(classifier.config), asdict(refiner.config)]
    text = json.dumps([FORMAT, version("openvino"), version("timm"), configs, dict(weights)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _stored(folder: Path, classifier: Classifier, refiner: FBANet) -> dict[str, Any]:
    """What `convert` makes, from `folder` if it is there and whole, else made and kept there."""
    core = _core()
    if folder.is_dir():
        try:
            parts = ["classifier", "refiner", *(["wall_reader"] if classifier.wall_reader else [])]
            return {part: core.read_model(folder / f"{part}.xml") for part in parts}
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
            made[part].reshape([1, 3, -1, -1])
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


def _measured(folder: Path, graphs: _Graphs, classifier: Classifier, refiner: FBANet) -> Measured:
    """What was measured on this machine with as many threads, or a measurement now."""
    cores = f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"
    file = folder / f"measured-{hashlib.sha256(cores.encode()).hexdigest()[:12]}.json"
    try:
        return Measured(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError) as error:
        logger.info("%s does not read as a measurement (%s) and is made again", file, error)
    measured = measure(graphs, classifier, refiner)
    try:
        partial = folder / f".{file.name}.{os.getpid()}"
        partial.write_text(json.dumps(asdict(measured), indent=2) + "\n", encoding="utf-8")
        partial.rename(file)
    except OSError as error:
        logger.info("what was measured cannot be kept in %s (%s): each start measures again", folder, error.strerror)
    return measured


def measure(graphs: _Graphs, classifier: Classifier, refiner: FBANet) -> Measured:
    """Run every runtime in turn on synthetic frames and crops; time them and compare their masks with PyTorch's."""
    device = torch.device("cpu")
    frames, crops = _probes(classifier.config.input_size, refiner.config.crop_size)
    readers = classifier.readers
    with torch.inference_mode():
        expected = _masks([network(frames) for network in readers], refiner(crops))
    sides = {PYTORCH: pytorch_networks(classifier, refiner, device)}
    sides |= graphs.offered(classifier)
    agreement = {
        name: _agreement(expected, _masks([see(frames) for see in networks.readers], networks.refiner(crops)))
        for name, networks in sides.items()
    }
    seconds = dict.fromkeys(sides, float("inf"))
    for _ in range(ROUNDS):  # A B C A B C: other work on the machine slows all alike
        for name, networks in sides.items():
            began = time.perf_counter()
            for see in networks.readers:
                see(frames[:1])
            networks.refiner(crops[:1])
            seconds[name] = min(seconds[name], time.perf_counter() - began)
    return Measured(seconds, agreement)


def _probes(size: int, side: int) -> tuple[Tensor, Tensor]:
    """Synthetic frames, shape (PROBES, 3, size, size), and FBANet's input for their largest object."""
    from models.phantom import render_phantom

    frames, crops = [], []
    for seed in range(PROBES):
        frame = render_phantom(seed, max(size, 64))
        frames.append(cv2.resize(frame.image, (size, size), interpolation=cv2.INTER_AREA))
        mask = max(frame.masks.values(), key=np.count_nonzero).astype(np.float32)
        cam = cv2.GaussianBlur(cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA), (0, 0), side / 32)
        trimap = np.where(cam < 0.1, BACKGROUND, np.where(cam > 0.9, FOREGROUND, UNKNOWN)).astype(np.uint8)
        image = cv2.resize(frame.image, (side, side), interpolation=cv2.INTER_AREA)
        crops.append(network_input(np.asarray(image, np.uint8), trimap, np.asarray(cam, np.float32)))
    images = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255
    return images, torch.from_numpy(np.stack(crops))


def _masks(seen: Sequence[ClassifierOutput], matted: FBANetOutput) -> list[NDArray[np.bool_]]:
    """A mask per class by each classifier, and the refiner's, over all probes."""
    masks = [matted.alpha.float() >= 0.5]
    for output in seen:
        masks += [*(output.score_maps.float() >= 0).unbind(dim=1), output.logits.float() >= 0]
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
