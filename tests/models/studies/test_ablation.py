"""The study of a model's parts."""

import numpy as np
import pytest

from models.data.reader import open_data_folder
from models.phantom import write_phantoms
from models.pipeline import load_pipeline
from models.starter import STARTERS
from models.studies.ablation import ablation, averaged_over_neighbours


def test_averages_stay_in_a_series_and_in_reach():
    values = np.array([[0.0], [3.0], [6.0], [100.0]])
    names = ["a_01", "a_02", "a_04", "b_03"]
    assert averaged_over_neighbours(values, names, 1).ravel().tolist() == [1.5, 1.5, 6.0, 100.0]
    assert averaged_over_neighbours(values, names, 2).ravel().tolist() == [1.5, 3.0, 4.5, 100.0]


def test_each_part_has_its_row(tmp_path):
    write_phantoms(tmp_path / "data", count=3, seed=5, size=128, kind="vessel")
    rows = ablation(load_pipeline(STARTERS["light"]), open_data_folder(tmp_path / "data").split("all"))
    assert {"whole", "map", "+-1", "+-2"} <= rows.keys()
    lumen = rows["whole"]["Lumen"]
    assert lumen["iou"] == pytest.approx(rows["map"]["Lumen"]["iou"], abs=0.3)
    assert lumen["iou"] != rows["map"]["Lumen"]["iou"]
