"""The networks of a pipeline as ONNX, for servers of other kinds."""

import json
import os
import shutil
import tempfile
import warnings
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from models.classifier import Classifier
from models.errors import DataError, ModelError
from models.fba_net import AlphaOnly
from models.pipeline import Pipeline
from models.refiner import CHANNELS
from models.wall import RAYS, ROWS, STRIP_MARGIN

OPSET = 18
DESCRIPTION = "model.json"


def export_onnx(pipeline: Pipeline, out: Path) -> list[Path]:
    """Write `classifier.onnx`, `refiner.onnx` and `model.json`, all of them or none.

    A classifier of the unrolled wall, where there is one, is `wall_reader.onnx`.

    Args:
        pipeline: loaded on the CPU.
        out: folder to write; must not exist.

    Returns:
        The files.

    Raises:
        ModelError: the package onnx is not installed.
        DataError: `out` exists, or cannot be written to.
    """
    if find_spec("onnx") is None:
        raise ModelError("an ONNX export needs the package onnx; install it by: pip install 'premask[onnx]'")
    if out.exists():
        raise DataError(f"{out} exists; an export is never overwritten, choose another folder")
    size, side = pipeline.classifier.config.input_size, pipeline.refiner.config.crop_size
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.partial-"))
        try:
            images, crops = torch.rand(1, 3, size, size), torch.rand(1, CHANNELS, side, side)
            outputs = ["logits", "maps", "features"]
            _write(_Seen(pipeline.classifier), images, partial / "classifier.onnx", "images", outputs)
            if (reader := pipeline.classifier.wall_reader) is not None:
                strips = torch.rand(1, 3, ROWS, RAYS + 2 * STRIP_MARGIN)
                _write(_Seen(reader), strips, partial / "wall_reader.onnx", "images", outputs)
            _write(AlphaOnly(pipeline.refiner), crops, partial / "refiner.onnx", "crops", ["alpha"])
            text = json.dumps(description(pipeline), indent=2, ensure_ascii=False)
            (partial / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
            for path in (partial, *partial.iterdir()):
                path.chmod(0o755 if path.is_dir() else 0o644)
            os.rename(partial, out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror}", "make room, or choose another folder") from error
    return sorted(out.iterdir())


def description(pipeline: Pipeline) -> dict[str, object]:
    """What a server has to know about the networks: their inputs and outputs, the classes and the thresholds."""
    classifier, refiner, config = pipeline.classifier.config, pipeline.refiner.config, pipeline.config
    size, side = classifier.input_size, refiner.crop_size
    return {
        "model": pipeline.name,
        "classes": list(pipeline.classes),
        "classifier": {
            "images": f"float32 (N, 3, {size}, {size}): RGB in [0, 1], longer side {size}, black beyond it",
            "logits": "float32 (N, C): sigmoid is the probability that the class is on the image",
            "maps": "float32 (N, C, h, w): sigmoid is the class's activation map over the square",
            "features": "float32 (N, K, h, w): what the maps are weighted sums of",
        },
        "refiner": {
            "crops": f"float32 (N, {CHANNELS}, {side}, {side}): planes as models/fba_net.py: network_input makes them",
            "alpha": f"float32 (N, {side}, {side}): the object's share of the pixel; the mask is alpha >= 0.5",
        },
        "map_threshold": {label: config.map_threshold_of(label) for label in pipeline.classes},
        "presence_threshold": {label: config.presence_threshold_of(label) for label in pipeline.classes},
        "config": {"classifier": asdict(classifier), "refiner": asdict(refiner), "pipeline": asdict(config)},
    }


def _write(network: nn.Module, example: Tensor, file: Path, name: str, outputs: list[str]) -> None:
    axes = {axis: {0: "N"} for axis in (name, *outputs)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sizes, which are fixed here
        # By tracing: the other way needs onnxscript, and stores the weights in a second file.
        torch.onnx.export(
            network.eval(),
            (example,),
            file,
            input_names=[name],
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )


class _Seen(nn.Module):
    """The classifier's logits, score maps and features."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.network = classifier

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output = self.network(images)
        return output.logits, output.score_maps, output.features
