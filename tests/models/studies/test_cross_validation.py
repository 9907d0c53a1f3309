"""The study over groups, in rehearsal."""

import json

import pytest

from models.data.reader import open_data_folder
from models.phantom import write_phantoms
from models.studies import cross_validation
from models.studies.cross_validation import divide


@pytest.fixture
def data(tmp_path):
    write_phantoms(tmp_path / "real", count=3, seed=7, size=96, kind="vessel")
    return tmp_path / "real"


@pytest.mark.timeout(600)
def test_each_image_is_judged_by_a_model_that_did_not_learn_it(data, tmp_path, capsys):
    short = ("--parent", "light", "--minutes", "0.05")
    cross_validation.main(["--data", str(data), "--out", str(tmp_path / "out"), "--folds", "images", *short])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["folds"] == 3
    assert result["before"]["Lumen"]["frames"] == result["after"]["Lumen"]["frames"] == 3
    for fold in range(3):
        card = json.loads((tmp_path / "out" / f"fold-{fold}" / "card.json").read_text())
        assert card["data"]["train"] == 2


def test_folds_are_of_whole_groups(tmp_path):
    write_phantoms(tmp_path / "data", count=22, seed=1, size=64, kind="vessel")
    folder = open_data_folder(tmp_path / "data")
    folds = divide(folder, "3")
    groups = folder.groups()
    held = [{groups[sample.name] for sample in fold} for fold in folds]
    assert sum(map(len, folds)) == 22
    assert not held[0] & held[1] | held[0] & held[2] | held[1] & held[2]
