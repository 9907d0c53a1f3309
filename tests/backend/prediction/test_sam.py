"""PREMASK_PROMPT_MODEL names a checkpoint of SAM: /predict answers smart tools by it, in a project without a model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.cvat.interactor import Interactor
from backend.cvat.model import Checkpoint
from backend.entrypoints.wsgi import app_of
from backend.errors import SettingsError
from backend.label_studio.connections import Connections
from backend.label_studio.controls import REGION_CONTROLS
from backend.settings import Settings
from backend.wiring import assemble_core
from tests.backend.fakes import predict_body
from tests.models.sam_checkpoints import write_tiny_sam


class OnePicture:
    def load(self, task: Any, image_key: str) -> np.ndarray:
        rows, columns = np.mgrid[:90, :120]
        return np.repeat(((np.hypot(rows - 40, columns - 60) < 25) * np.uint8(255))[..., None], 3, axis=2)


def test_a_click_and_a_second_one_are_answered_by_sam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tiny_sam(tmp_path / "my-sam")
    environ = {"PREMASK_DATA_DIR": str(tmp_path), "PREMASK_STARTER": "none", "PREMASK_PROMPT_MODEL": str(folder)}
    settings = Settings.from_environ(environ)
    monkeypatch.setattr(Connections, "images", lambda self, project: OnePicture())
    client = app_of(settings, assemble_core(settings), None).test_client()
    body = predict_body(["1"])
    clicks = []
    for x, positive in ((50.0, True), (90.0, False)):
        value = {"x": x, "y": 45.0, "width": 0.2, "keypointlabels": ["Lumen"]}
        known = {"type": "keypointlabels", "from_name": "kp", "to_name": "image", "value": value}
        clicks.append(known | {"id": f"k{x}", "is_positive": positive})
        body["params"]["context"] = {"result": clicks}
        (entry,) = client.post("/predict", json=body).json["results"]
        assert entry["model_version"] == "my-sam"
        for region in entry["result"]:
            assert region["value"]["brushlabels"] == ["Lumen"]
            assert REGION_CONTROLS["BrushLabels"].to_mask(region).shape == (90, 120)


def test_sam_is_tried_again_when_its_damaged_folder_was_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tiny_sam(tmp_path / "my-sam")
    weights = next(folder.glob("*.safetensors"))
    whole = weights.read_bytes()
    environ = {"PREMASK_DATA_DIR": str(tmp_path), "PREMASK_STARTER": "none", "PREMASK_PROMPT_MODEL": str(folder)}
    settings = Settings.from_environ(environ)
    weights.write_bytes(whole[:50])
    monkeypatch.setattr(Connections, "images", lambda self, project: OnePicture())
    client = app_of(settings, assemble_core(settings), None).test_client()
    body = predict_body(["1"])
    value = {"x": 50.0, "y": 45.0, "width": 0.2, "keypointlabels": ["Lumen"]}
    known = {"type": "keypointlabels", "from_name": "kp", "to_name": "image", "value": value, "id": "k"}
    body["params"]["context"] = {"result": [known | {"is_positive": True}]}
    for _ in range(2):
        assert client.post("/predict", json=body).json["results"][0]["model_version"] == "none"
    weights.write_bytes(whole)
    assert client.post("/predict", json=body).json["results"][0]["model_version"] == "my-sam"


def test_a_folder_that_holds_no_model_stops_the_start(tmp_path: Path) -> None:
    environ = {"PREMASK_DATA_DIR": str(tmp_path), "PREMASK_PROMPT_MODEL": str(tmp_path)}
    with pytest.raises(SettingsError, match=r"neither a card\.json nor a config\.json of SAM or SAM 2"):
        Settings.from_environ(environ)
    write_tiny_sam(tmp_path / "sam")
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patch:
        patch.setattr("backend.settings.transformers_missing", lambda: True)
        with pytest.raises(SettingsError, match=r"pip install 'premask\[sam\]'"):
            Settings.from_environ(environ | {"PREMASK_PROMPT_MODEL": str(tmp_path / "sam")})


def test_none_serves_no_prompt_model(tmp_path: Path) -> None:
    assert Settings.from_environ({"PREMASK_DATA_DIR": str(tmp_path)}).prompt_model is not None
    environ = {"PREMASK_DATA_DIR": str(tmp_path), "PREMASK_PROMPT_MODEL": "none"}
    assert Settings.from_environ(environ).prompt_model is None


def test_cvats_interactor_takes_it_too(tmp_path: Path) -> None:
    interactor = Interactor(Checkpoint(write_tiny_sam(tmp_path / "sam"), "cpu"))
    image = OnePicture().load({}, "")
    assert interactor.draw(interactor.embed(image), [(60, 40)], [], None).shape == (90, 120)
