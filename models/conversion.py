"""A pipeline's networks converted to OpenVINO's models; `models.compiled` keeps and computes them."""

import logging
import warnings
from copy import deepcopy
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from models.classifier import Classifier, ClassifierOutput
from models.compiled import INT8
from models.fba_net import AlphaOnly, FBANet
from models.probes import object_crops
from models.quantisation import installed, quantised
from models.refiner import CHANNELS
from models.wall import RAYS, ROWS, STRIP_MARGIN

logger = logging.getLogger(__name__)

# FBANet's first convolution reads planes of very different kinds, what leaves it is the mask.
EXACT_LAYERS = ("stem.0", "gates.0", "gates.1", "gates.2", "out")
CALIBRATION = range(100, 104)  # seeds of the synthetic frames that it is quantised with


def parts_of(classifier: Classifier, refiner: FBANet) -> dict[str, nn.Module]:
    """The networks that are computed, by name; see `models.compiled.part_names`."""
    parts: dict[str, nn.Module] = {"classifier": classifier, "refiner": AlphaOnly(refiner)}
    return parts if classifier.wall_reader is None else parts | {"wall_reader": classifier.wall_reader}


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
