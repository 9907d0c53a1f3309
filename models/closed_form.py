"""Closed-form matting (Levin, Lischinski and Weiss 2008), by pymatting: what FBANet is compared with.

It knows colours only, and takes the trimap at its word. The first import of pymatting on a machine compiles all of its
methods, which takes a minute or two; later ones take a second.
"""

import logging
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray

from models.errors import ModelError
from models.refiner import Crop
from models.trimap import BACKGROUND, FOREGROUND, UNKNOWN

MAX_STEPS = 5000  # of conjugate gradients; crops of 256 x 256 need some hundreds, 5000 take about 3 s
KINDS = {"background": BACKGROUND, "unknown zone": UNKNOWN, "foreground": FOREGROUND}

log = logging.getLogger(__name__)


def installed() -> bool:
    """Whether pymatting is there: it is in the extra closed-form alone."""
    return find_spec("pymatting") is not None


def closed_form(crops: Sequence[Crop]) -> list[NDArray[np.float32]]:
    """Alpha of each crop, shape (S, S), floats in [0, 1]; the crop's map where there is none to be had.

    Raises:
        ModelError: pymatting is not installed.
    """
    if not installed():
        raise ModelError("closed-form matting needs pymatting; install it by: pip install 'premask[closed-form]'")
    threads = torch.get_num_threads()
    try:
        return [_alpha(crop) for crop in crops]
    finally:
        torch.set_num_threads(threads)  # numba, under pymatting, sets it to the number of cores


def _alpha(crop: Crop) -> NDArray[np.float32]:
    if missing := [name for name, value in KINDS.items() if not (crop.trimap == value).any()]:
        log.info(
            "no closed-form matting where the trimap has no %s; the activation map stands", " and no ".join(missing)
        )
        return crop.cam
    from pymatting import estimate_alpha_cf, jacobi

    image, trimap = crop.image.astype(np.float64) / 255, crop.trimap.astype(np.float64) / 255
    try:
        # Its default preconditioner, incomplete Cholesky, needs fewer steps but asks for 4 GB and prints.
        alpha = estimate_alpha_cf(image, trimap, preconditioner=jacobi, cg_kwargs={"maxiter": MAX_STEPS})
    except ValueError as error:
        log.warning("closed-form matting gave up: %s; the activation map stands", error)
        return crop.cam
    return np.asarray(alpha, dtype=np.float32)
