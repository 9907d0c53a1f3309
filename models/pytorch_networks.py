"""PyTorch's networks behind the seam of `models.runtime`, and how the other runtimes compare with them."""

import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import TypeVar

import torch
from torch import Tensor, nn

from models.classifier import Classifier
from models.compiled import part_names
from models.conversion import convert
from models.devices import as_array, autocast
from models.fba_net import AlphaOnly, FBANet
from models.probes import agreement, probes_of
from models.runtime import PRECISIONS, PYTORCH, SERVED, Floats, Graphs, Lines, Measured, Networks, chosen_runtimes
from models.seen import Output

ROUNDS = 5

Network = TypeVar("Network", bound=nn.Module)


def pytorch_networks(classifier: Classifier, refiner: FBANet, device: str, *, exact: bool = False) -> Networks:
    """The networks themselves, in evaluation mode on `device`, in bfloat16 where that is native.

    Args:
        classifier, refiner: in evaluation mode.
        device: where they are.
        exact: in float32 also there.
    """

    def classify(network: Classifier, images: Floats, *, features: bool = False) -> Output:
        with torch.inference_mode(), autocast(device, enabled=not exact):
            found = network(_batch(images, device))
            kept = as_array(found.features) if features else None
            return Output(as_array(found.logits), as_array(found.score_maps), kept)

    see = read = partial(classify, classifier)
    if classifier.wall_reader is not None:
        read = partial(classify, classifier.wall_reader)
    runtimes = dict.fromkeys(part_names(classifier.config), PYTORCH)
    return Networks(runtimes, see, read, pytorch_refiner(refiner, device, exact=exact))


def pytorch_refiner(refiner: FBANet, device: str, *, exact: bool = False) -> Callable[[Floats], Floats]:
    """The refiner alone, as in `Networks`; arguments as for `pytorch_networks`."""
    matting = AlphaOnly(refiner)

    def refine(crops: Floats) -> Floats:
        with torch.inference_mode(), autocast(device, enabled=not exact):
            return as_array(matting(_batch(crops, device)))

    return refine


def placed(network: Network, device: str) -> Network:
    """A network where and how it is computed."""
    return network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload,no-any-return]


def graphs_of(classifier: Classifier, refiner: FBANet) -> Graphs:
    """Their networks, converted; both in evaluation mode, on the CPU."""
    ours = partial(pytorch_networks, classifier, refiner, "cpu")
    return Graphs(convert(classifier, refiner), lines_of(classifier), ours)


def all_networks(classifier: Classifier, refiner: FBANet) -> dict[str, Networks]:
    """The networks in every runtime that this CPU and this installation have, by name, and those that would be served.

    Args:
        classifier, refiner: in evaluation mode, on the CPU.
    """
    offered = {PYTORCH: pytorch_networks(classifier, refiner, "cpu")}
    if find_spec("openvino") is not None:
        graphs = graphs_of(classifier, refiner)
        names = {name for part in graphs.parts for name in graphs.precisions(part)}
        offered |= {name: graphs.uniform(name) for name in PRECISIONS if name in names}
        offered[SERVED] = graphs.networks(chosen_runtimes(measure(graphs, classifier, refiner), graphs, "auto"))
    return offered


def measure(graphs: Graphs, classifier: Classifier, refiner: FBANet) -> Measured:
    """Run every runtime in turn on synthetic frames, strips and crops, part by part; time them and compare their masks
    with PyTorch's.

    Args:
        graphs: of these networks.
        classifier, refiner: in evaluation mode, on the CPU.
    """
    probes = probes_of(classifier.config.input_size, refiner.config.crop_size)
    exact = pytorch_networks(classifier, refiner, "cpu", exact=True)
    seconds, agreements = dict[str, dict[str, float]](), dict[str, dict[str, float]]()
    for part in graphs.parts:
        runs = {name: getattr(graphs.networks({part: name}), part) for name in (PYTORCH, *graphs.precisions(part))}
        expected = getattr(exact, part)(probes[part])
        agreements[part] = {name: agreement(expected, run(probes[part])) for name, run in runs.items()}
        seconds[part] = dict.fromkeys(runs, float("inf"))
        for _ in range(ROUNDS):  # A B C A B C: other work on the machine slows all alike
            for name, run in runs.items():
                # On the clock: what waits in turns for its threads counts as computing time of all of them.
                began = time.perf_counter()
                run(probes[part][:1])
                seconds[part][name] = min(seconds[part][name], time.perf_counter() - began)
    return Measured(seconds, agreements)


def lines_of(classifier: Classifier) -> Lines:
    """Gain and bias of the classifier and of its reader of the wall."""
    readers = zip(("classifier", "wall_reader"), classifier.readers, strict=False)
    return {part: (as_array(one.gain), as_array(one.bias)) for part, one in readers}


def _batch(array: Floats, device: str) -> Tensor:
    return torch.from_numpy(array).to(device).contiguous(memory_format=torch.channels_last)
