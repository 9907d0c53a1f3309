"""Networks as ONNX: another runtime reads them and computes what PyTorch does."""

import json

import numpy as np
import pytest
import torch

import models.onnx_export as onnx_export
from models.errors import DataError, ModelError

openvino = pytest.importorskip("openvino")


def test_a_classifier_of_the_wall_is_written_too(make_pipeline, tmp_path):
    pipeline = make_pipeline(classes=("a", "b"), wall_backbone="tf_efficientnet_lite0")
    files = onnx_export.export_onnx(pipeline, tmp_path / "out")
    assert [file.name for file in files] == ["classifier.onnx", "model.json", "refiner.onnx", "wall_reader.onnx"]
    strips = torch.rand(1, 3, 256, 896)
    compiled = openvino.Core().compile_model(
        tmp_path / "out" / "wall_reader.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    with torch.inference_mode():
        expected = pipeline.classifier.wall_reader(strips).score_maps
    np.testing.assert_allclose(compiled(strips.numpy())["maps"], expected.numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("count", [1, 3])
def test_another_runtime_computes_the_same(make_pipeline, tmp_path, count):
    pipeline = make_pipeline(classes=("a", "b"))
    torch.nn.init.normal_(pipeline.refiner.out.weight)  # untrained, it returns the map
    files = onnx_export.export_onnx(pipeline, tmp_path / "out")
    assert [file.name for file in files] == ["classifier.onnx", "model.json", "refiner.onnx"]
    images, crops = torch.rand(count, 3, 128, 128), torch.rand(count, 12, 64, 64)
    read = openvino.Core()
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    found = read.compile_model(tmp_path / "out" / "classifier.onnx", "CPU", exact)(images.numpy())
    with torch.inference_mode():
        expected, alpha = pipeline.classifier(images), pipeline.refiner(crops).alpha
    for name, tensor in (("logits", expected.logits), ("maps", expected.score_maps), ("features", expected.features)):
        np.testing.assert_allclose(found[name], tensor.numpy(), rtol=1e-3, atol=1e-3)
    found = read.compile_model(tmp_path / "out" / "refiner.onnx", "CPU", exact)(crops.numpy())
    np.testing.assert_allclose(found["alpha"], alpha.numpy(), rtol=1e-3, atol=1e-3)


def test_the_description_names_classes_and_thresholds(make_pipeline, tmp_path):
    onnx_export.export_onnx(make_pipeline(classes=("a", "b")), tmp_path / "out")
    known = json.loads((tmp_path / "out" / "model.json").read_text())
    assert known["classes"] == ["a", "b"]
    assert known["map_threshold"] == {"a": 0.5, "b": 0.5}
    assert known["presence_threshold"] == {"a": 0.3, "b": 0.3}
    assert known["config"]["classifier"]["input_size"] == 128


def test_nothing_is_overwritten(make_pipeline, tmp_path):
    with pytest.raises(DataError, match="exists"):
        onnx_export.export_onnx(make_pipeline(), tmp_path)


def test_what_fails_leaves_nothing_behind(make_pipeline, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx_export, "_write", fail)
    with pytest.raises(DataError, match="No space left"):
        onnx_export.export_onnx(make_pipeline(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_it_is_named(make_pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"pip install 'premask\[onnx\]'"):
        onnx_export.export_onnx(make_pipeline(), tmp_path / "out")
