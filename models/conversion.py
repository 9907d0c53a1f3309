"""A pipeline's networks as OpenVINO's models: converted, kept beside the weights, compiled for this CPU.

    CHECKPOINT/runtime/KEY/classifier.xml classifier.bin refiner.xml refiner.bin refiner-int8.xml ... compiled/

Where the checkpoint has a classifier for the unrolled wall, wall_reader.xml and wall_reader.bin lie there too.
`compiled` has what OpenVINO makes of them for this processor; it is read in a fraction of the time and memory.
"""

import hashlib
import json
import logging
import shutil
import tempfile
import threading
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.classifier import Classifier, ClassifierOutput
from models.fba_net import CHANNELS, AlphaOnly, FBANet
from models.halves import halves
from models.probes import object_crops
from models.quantisation import installed, quantised
from models.wall import RAYS, ROWS, STRIP_MARGIN

logger = logging.getLogger(__name__)

FORMAT = 6  # of what is kept; counts up when the conversion changes, or what it may be computed by
INT8 = "-int8"  # after the name of a part whose convolutions are in 8-bit integers
# FBANet's first convolution reads planes of very different kinds, what leaves it is the mask.
EXACT_LAYERS = ("stem.0", "gates.0", "gates.1", "gates.2", "out")
CALIBRATION = range(100, 104)  # seeds of the synthetic frames that it is quantised with


def parts_of(classifier: Classifier, refiner: FBANet) -> dict[str, nn.Module]:
    """The networks that are computed, by name."""
    parts: dict[str, nn.Module] = {"classifier": classifier, "refiner": AlphaOnly(refiner)}
    return parts if classifier.wall_reader is None else parts | {"wall_reader": classifier.wall_reader}


def key_of(weights: Mapping[str, str], classifier: Classifier, refiner: FBANet) -> str:
    """Name of the folder with the converted networks of these weights, for this OpenVINO."""
    configs = [asdict(classifier.config), asdict(refiner.config)]
    versions = [version("openvino"), version("timm"), version("nncf") if installed() else None]
    text = json.dumps([FORMAT, *versions, configs, dict(weights)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stored(folder: Path, classifier: Classifier, refiner: FBANet) -> dict[str, Any]:
    """What `convert` makes, from `folder` if it is there and whole, else made and kept there."""
    if not folder.is_dir():
        _keep(folder, convert(classifier, refiner))
    if folder.is_dir():
        try:
            # Read back also by the one who made them, as weights that lie in a file need no memory of their own.
            files = {part: folder / f"{part}.xml" for part in parts_of(classifier, refiner)}
            files |= {file.stem: file for file in folder.glob(f"*{INT8}.xml")}
            return {name: core().read_model(file) for name, file in files.items()}
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

    FBANet comes once more in 8-bit integers, as "refiner-int8", where NNCF is installed; without it a sentence in the
    log says so.

    Raises:
        ImportError: OpenVINO is not installed.
        RuntimeError: it cannot convert the networks.
    """
    import_module("openvino")  # first, so that where it is missing nothing else is said
    size = classifier.config.input_size
    side = refiner.config.crop_size
    matting = AlphaOnly(_with_affine_norms(deepcopy(refiner).cpu()))
    made = {"refiner": _converted(matting, torch.rand(1, CHANNELS, side, side))}
    made["refiner"].reshape([1, CHANNELS, side, side])
    if not installed():
        logger.info("FBANet is not computed in 8-bit integers, because NNCF is not installed")
    else:
        try:
            made[f"refiner{INT8}"] = quantised(made["refiner"], object_crops(side, CALIBRATION), EXACT_LAYERS)
        except Exception as error:  # of a library that sees this network for the first time
            logger.warning("FBANet is not computed in 8-bit integers, because NNCF cannot: %s", error)
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


class Compiled:
    """A network compiled for this CPU. Safe to share between threads, which take turns image by image.

    One image at a time: batches are no faster on a CPU and take more memory, and a prompt need not wait for a batch.

    Args:
        model: OpenVINO's.
        precisions: "f32" or "bf16" of all layers; of two, that of the first layers and that of the others, where the
            model falls into halves (see `models.halves`), else the second.
        cache: folder where OpenVINO keeps what it compiles; None for nowhere.
    """

    def __init__(self, model: Any, precisions: Sequence[str], cache: Path | None = None) -> None:
        self._lock = threading.Lock()
        models = halves(model) if len(precisions) == 2 else None
        parts = zip(models, precisions, strict=True) if models else [(model, precisions[-1])]
        self._networks = [_compiled(part, precision, cache) for part, precision in parts]
        self._requests = [network.create_infer_request() for network in self._networks]

    def __call__(self, inputs: Tensor) -> list[Tensor]:
        """The outputs for inputs of shape (B, ...), each of shape (B, ...), float32."""
        parts = [self._infer(np.ascontiguousarray(one.numpy())) for one in inputs.detach().float().cpu()[:, None]]
        return [torch.from_numpy(one[0] if len(one) == 1 else np.concatenate(one)) for one in zip(*parts, strict=True)]

    def release(self) -> None:
        """Give back the memory of intermediate results."""
        with self._lock:
            for network in self._networks:
                network.release_memory()

    def _infer(self, inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        *before, last = self._requests
        given = [inputs]
        with self._lock:
            for request in before:
                given.append(request.infer([inputs], share_inputs=True, share_outputs=True)[0])
            found = last.infer(given, share_inputs=True)
        return [found[index] for index in range(len(found))]


def _compiled(model: Any, precision: str, cache: Path | None) -> Any:
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # the job beside the server would be pinned to the same cores
    }
    try:
        kept = {} if cache is None else {"CACHE_DIR": str(cache)}
        return core().compile_model(model, "CPU", options | kept)
    except RuntimeError as error:
        if cache is None:
            raise
        logger.info("what OpenVINO compiles cannot be kept in %s: %s", cache, error)
        return core().compile_model(model, "CPU", options)


@cache
def core() -> Any:
    """OpenVINO itself. Raises ImportError where it is not installed."""
    return import_module("openvino").Core()
