"""Convolutions in 8-bit integers: post-training quantisation of a converted network, by NNCF.

Only what goes into convolutions is rounded, to 256 steps between bounds that are read off example inputs, as are their
weights, channel by channel (Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference"). Sums, norms and gates stay in float32: rounding these too moves FBANet's masks by
several percent and saves nothing more.
"""

import logging
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONVOLUTION = "Convolution"  # OpenVINO's name for it


def installed() -> bool:
    """Whether NNCF is there, without which nothing is quantised."""
    return find_spec("nncf") is not None


def quantised(model: Any, inputs: NDArray[np.float32], exact: Sequence[str]) -> Any:
    """A copy of one of OpenVINO's models with its convolutions in 8-bit integers.

    Args:
        model: as `models.conversion` makes it, of one input.
        inputs: shape (N, ...), what its bounds are read off, one at a time.
        exact: modules of the network that was converted whose convolutions stay in float32.

    Raises:
        RuntimeError: NNCF cannot quantise it.
    """
    nncf = import_module("nncf")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    nodes = [(node.get_type_name(), str(node.get_friendly_name())) for node in model.get_ops()]
    spared = [name for kind, name in nodes if kind == CONVOLUTION and name.split("/")[0].endswith(tuple(exact))]
    others = sorted({kind for kind, _ in nodes} - {CONVOLUTION})
    scope = nncf.IgnoredScope(names=spared, types=others, validate=False)
    examples = nncf.Dataset(list(inputs[:, None]))
    with redirect_stdout(sys.stderr):  # its progress bar; on stdout our processes answer
        return nncf.quantize(model.clone(), examples, subset_size=len(inputs), ignored_scope=scope)
