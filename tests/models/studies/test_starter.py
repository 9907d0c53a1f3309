"""The script that makes the shipped weights, in rehearsal: a step or two of everything."""

import json

import pytest
import torch

from models.checkpoint import check_weights, read_card
from models.phantom import write_phantoms
from models.pipeline import load_pipeline
from models.studies import starter
from models.training.refiner_loop import train_refiner

FEW = ("--steps", "2", "--batch", "2", "--view", "64", "--phantoms", "4", "--refiner-steps", "1", "--refiner-views")


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    out = tmp_path_factory.mktemp("starter") / "frames"
    write_phantoms(out, count=4, seed=7, size=96)
    return out


def test_xception_is_trained_from_random_weights_and_saved_in_parts(frames, tmp_path):
    out = tmp_path / "oct-xception"
    starter.main(
        ["--data", str(frames), "--out", str(out), "--backbone", "legacy_xception", "--from-scratch", *FEW, "3"]
    )
    card = check_weights(out)
    assert [name for name in card.weights if name.startswith("classifier")] == [
        f"classifier-{number}-of-3.safetensors" for number in (1, 2, 3)
    ]
    assert all(path.stat().st_size <= 15e6 for path in out.iterdir())
    assert "legacy_xception" in card.description
    assert "random weights" in card.description
    assert card.training["command"] == " ".join(
        ["python -m models.studies.starter --data DATA --out OUT --backbone legacy_xception --from-scratch", *FEW, "3"]
    )
    assert set(card.metrics["classes"]) == set(card.classes)
    assert load_pipeline(out).name == "oct-xception"
    assert [path.name for path in tmp_path.iterdir()] == ["oct-xception"]


def test_a_run_killed_half_way_goes_on_after_the_classifier(frames, tmp_path, monkeypatch, capsys):
    def killed(*_, **__):
        raise KeyboardInterrupt

    arguments = ["--data", str(frames), "--out", str(tmp_path / "oct"), *FEW, "3"]
    monkeypatch.setattr(starter, "train_refiner", killed)
    with pytest.raises(KeyboardInterrupt):
        starter.main(arguments)
    assert not (tmp_path / "oct").exists()
    for other in (["--seed", "1"], ["--phantom-kind", "vessel"]):  # a run that asks for something else
        with pytest.raises(SystemExit):
            starter.main([*arguments, *other])
        assert "other arguments" in capsys.readouterr().err

    def fail(*_, **__):
        raise AssertionError("the classifier is trained already")

    monkeypatch.setattr(starter, "train_refiner", train_refiner)
    monkeypatch.setattr(starter, "train_classifier", fail)
    starter.main(arguments)
    card = read_card(tmp_path / "oct")
    assert card.training["steps"] == "2"
    assert card.data["phantoms"]["kind"] == "oct"


def test_an_earlier_starter_is_only_calibrated(frames, tmp_path):
    starter.main(["--data", str(frames), "--out", str(tmp_path / "old"), *FEW, "3"])
    path = tmp_path / "old" / "card.json"
    values = json.loads(path.read_text())
    values["config"]["pipeline"]["presence_scale"] = 1.0
    path.write_text(json.dumps(values))
    starter.main(["--data", str(frames), "--out", str(tmp_path / "new"), "--calibrate", str(tmp_path / "old")])
    old, new = load_pipeline(tmp_path / "old"), load_pipeline(tmp_path / "new")
    assert (old.config.presence_scale, new.config.presence_scale) == (1.0, 0.75)
    before, after = old.classifier.state_dict(), new.classifier.state_dict()
    assert {key for key in before if not torch.equal(before[key], after[key])} == {"gain", "bias"}
    assert read_card(tmp_path / "new").training == read_card(tmp_path / "old").training


def test_frames_of_other_classes_are_refused(tmp_path, capsys):
    write_phantoms(tmp_path / "leaves", count=4, seed=7, size=96, kind="leaf")
    with pytest.raises(SystemExit):
        starter.main(["--data", str(tmp_path / "leaves"), "--out", str(tmp_path / "oct")])
    assert "Leaf" in capsys.readouterr().err
