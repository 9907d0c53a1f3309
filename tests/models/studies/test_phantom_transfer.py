"""The study of phantoms as the only teacher, in rehearsal."""

import json

import pytest

from models.phantom import CLASSES, write_phantoms
from models.studies import phantom_transfer

TINY = ("--steps", "1", "--phantoms", "4", "--size", "128", "--view", "64", "--judged", "4")


@pytest.fixture
def arguments(tmp_path):
    write_phantoms(tmp_path / "real", count=3, seed=7, size=96)
    return ["--data", str(tmp_path / "real"), "--out", str(tmp_path / "out"), *TINY]


def test_figures_of_unseen_styles_and_of_every_folder_come_as_json(arguments, capsys, monkeypatch):
    phantom_transfer.main(arguments)
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(first) == {"unseen styles", "real"}
    assert all(set(classes) == set(CLASSES) for classes in first.values())

    monkeypatch.setattr(phantom_transfer, "train_classifier", None)  # a checkpoint is judged as it is
    phantom_transfer.main(arguments)
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    for name, classes in first.items():  # the weights were rounded when they were saved
        assert again[name]["Lumen"]["iou"] == pytest.approx(classes["Lumen"]["iou"], abs=0.02)


def test_some_styles_must_be_left_to_judge_on(arguments, capsys):
    with pytest.raises(SystemExit):
        phantom_transfer.main([*arguments, "--styles", "64"])
    assert "--styles must leave some" in capsys.readouterr().err
