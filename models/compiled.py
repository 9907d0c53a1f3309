"""Networks that were converted for OpenVINO: where they are kept, and how they are computed. Nothing here needs torch.

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
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.config import ClassifierConfig, FBANetConfig
from models.halves import halves
from models.quantisation import installed
from models.threads import thread_count

logger = logging.getLogger(__name__)

FORMAT = 6  # of what is kept; counts up when the conversion changes, or what it may be computed by
PARTS = ("classifier", "refiner", "wall_reader")  # the last where the unrolled wall has a reader of its own
PARTIAL, STALE_SECONDS = ".partial-", 3600.0  # of what is being written, and after which nobody writes it any more
INT8 = "-int8"  # after the name of a part whose convolutions are in 8-bit integers


def part_names(classifier: ClassifierConfig) -> tuple[str, ...]:
    """The networks of a checkpoint."""
    return PARTS if classifier.wall_backbone else PARTS[:2]


def key_of(weights: Mapping[str, str], classifier: ClassifierConfig, refiner: FBANetConfig) -> str:
    """Name of the folder with the converted networks of these weights, for this OpenVINO."""
    configs = [asdict(classifier), asdict(refiner)]
    versions = [version("openvino"), version("timm"), version("nncf") if installed() else None]
    text = json.dumps([FORMAT, *versions, configs, dict(weights)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stored(folder: Path, parts: Collection[str], convert: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Converted networks, OpenVINO's models by part: from `folder` if they are there and whole, else made and kept."""
    if not folder.is_dir():
        _keep(folder, convert())
    if folder.is_dir():
        try:
            # Read back also by the one who made them, as weights that lie in a file need no memory of their own.
            files = {part: folder / f"{part}.xml" for part in parts}
            files |= {file.stem: file for file in folder.glob(f"*{INT8}.xml")}
            return {name: core().read_model(file) for name, file in files.items()}
        except RuntimeError as error:
            logger.info("%s does not read as converted networks and is made again: %s", folder, error)
            shutil.rmtree(folder, ignore_errors=True)
    made = dict(convert())
    _keep(folder, made)
    return made


def _keep(folder: Path, made: Mapping[str, Any]) -> None:
    """Write converted networks, all of them or none; a sentence in the log if the place cannot be written to."""
    openvino = import_module("openvino")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=PARTIAL) as partial:
            whole = Path(partial) / folder.name
            for name, model in made.items():
                openvino.save_model(model, whole / f"{name}.xml", compress_to_fp16=False)
            if not folder.exists():  # else another process was first
                whole.rename(folder)
        for (
            other
        ) in folder.parent.iterdir():  # of earlier weights or an earlier OpenVINO, or of a process that was killed
            left = other.name.startswith(PARTIAL) and time.time() - other.stat().st_mtime > STALE_SECONDS
            if other != folder and (left or not other.name.startswith(".")):
                shutil.rmtree(other, ignore_errors=True)
    except (OSError, RuntimeError) as error:
        logger.info("converted networks cannot be kept in %s (%s): each start converts them again", folder, error)


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

    def __call__(self, inputs: NDArray[np.float32], *wanted: int) -> list[NDArray[np.float32]]:
        """The outputs of the numbers `wanted` for inputs of shape (B, ...), each of shape (B, ...), float32."""
        found = zip(*(self._infer(one, wanted) for one in np.ascontiguousarray(inputs)[:, None]), strict=True)
        return [one[0] if len(one) == 1 else np.concatenate(one) for one in found]

    def release(self) -> None:
        """Give back the memory of intermediate results."""
        with self._lock:
            for network in self._networks:
                network.release_memory()

    def _infer(self, inputs: NDArray[np.float32], wanted: Sequence[int]) -> list[NDArray[np.float32]]:
        *before, last = self._requests
        given = [inputs]
        with self._lock:
            for request in before:
                given.append(request.infer([inputs], share_inputs=True, share_outputs=True)[0])
            found = last.infer(given, share_inputs=True, share_outputs=True)
            return [np.array(found[index]) for index in wanted]  # the next image is written over what is shared


def _compiled(model: Any, precision: str, cache: Path | None) -> Any:
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": thread_count(),
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


def computes_bfloat16() -> bool:
    """Whether OpenVINO computes in bfloat16 natively on this processor."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
