"""`premask bench`: times side by side. How long anything takes is nothing to test; that it is measured is."""

import json
import time

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from backend.bench import runtime
from backend.bench.cases import CASES
from backend.bench.measure import Case, Times, alternate, divided, figures, percentile
from backend.bench.setting import Setting
from backend.cli import cli
from models.data.reader import open_data_folder
from models.phantom import write_phantoms


@pytest.fixture
def data(tmp_path):
    """A data folder of six images of 120 x 120 pixels, the last three in `val`."""
    write_phantoms(tmp_path / "data", count=6, seed=1, size=120)
    names = sorted(open_data_folder(tmp_path / "data").samples)
    (tmp_path / "data" / "split.json").write_text(json.dumps({"train": names[:3], "val": names[3:]}))
    return tmp_path / "data"


def test_sides_take_turns_and_the_first_turn_of_each_does_not_count():
    turns, ticks = [], []
    times = alternate({"a": lambda: turns.append("a"), "b": lambda: time.sleep(0.01)}, 3, lambda: ticks.append(1))
    assert (len(turns), len(ticks)) == (4, 8)
    assert [len(times[side].wall) for side in "ab"] == [3, 3]
    assert min(times["b"].wall) >= 0.01 > max(times["b"].cpu)


def test_ratios_are_taken_round_by_round_so_that_a_slow_moment_cancels_out():
    """Both sides are ten times slower in the second round."""
    case = Case("", {"a": Times([1.0, 10.0, 1.0]), "b": Times([2.0, 20.0, 2.0])}, {"a": 5.0, "b": 30.0})
    sides = figures(case)["sides"]
    assert (sides["a"]["ratio"], sides["b"]["ratio"], sides["b"]["ratio_quartiles"]) == (1, 2, [2, 2])
    assert (sides["b"]["median_ms"], sides["b"]["target_ms"]) == (2000, 30_000)
    assert (sides["a"]["met"], sides["b"]["met"]) == (False, True)
    assert sides["a"]["cpu_ratio"] is None


def test_a_side_may_be_compared_with_another_than_the_first():
    sides = {"a": Times([1.0]), "b": Times([2.0]), "c": Times([6.0])}
    assert figures(Case("", sides, against={"c": "b"}))["sides"]["c"]["ratio"] == 3


def test_memory_is_in_megabytes():
    case = Case("", {"a": Times([2e9])}, {"a": 1e9}, unit="MB")
    known = figures(case)["sides"]["a"]
    assert (known["median_MB"], known["p95_MB"], known["target_MB"], known["met"]) == (2000, 2000, 1000, False)


def test_times_of_a_batch_are_per_image():
    assert divided(Times([4.0], [8.0]), 4) == Times([1.0], [2.0])


def test_percentiles_lie_between_the_nearest_values():
    assert [percentile([4.0, 1.0, 2.0, 3.0], percent) for percent in (0, 50, 100)] == [1, 2.5, 4]


@pytest.mark.timeout(1200)
def test_every_case_is_measured_printed_and_written(tiny_model, migrated_url, tmp_path, monkeypatch):
    """With a real server and real networks, as small as they come."""
    monkeypatch.setattr(runtime, "STARTERS", {"tiny": tiny_model})
    small = ("--rounds", "1", "--size", "96", "--images", "2", "--clients", "1", "--rows", "2000", "--tasks", "40")
    arguments = ["bench", "--model", str(tiny_model), *small, "--json", str(tmp_path / "bench.json")]
    arguments += ["--database", migrated_url]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "bench.json").read_text())
    assert list(result["cases"]) == list(CASES)
    for name, case in result["cases"].items():
        assert f"{name}: {case['about']}" in done.output
        assert len(case["sides"]) >= 2
        for side, known in case["sides"].items():
            assert side in done.output
            assert known["rounds"] >= 1
            assert known["median_" + case["unit"]] <= known["p95_" + case["unit"]]
            assert known["ratio"] > 0 or side == "each version, in no file"  # of a model as small as that
            assert known["ratio"] == 1 or known["against"] != side
    promised = {
        side
        for case in result["cases"].values()
        for side, known in case["sides"].items()
        if known["target_" + case["unit"]]
    }
    leases = {f"{engine}{side}" for engine in ("SQLite", "PostgreSQL") for side in ("", " of 2,000", " of 2,000, busy")}
    assert (
        promised
        == {
            "through the server",
            "the first task then",
            "second click",
            "first click, no model",
            "second click, no model",
            "/health, busy",
            "/setup, busy",
            "the next task",
            "versions: 0",
            "each version, in no file",
        }
        | leases
    )
    machine = result["machine"]
    assert machine["cores"] >= 1
    for known in ("cpu", "torch", "numpy"):
        assert str(machine[known]) in done.output.replace("\n", " ")


def test_own_images_take_the_place_of_synthetic_frames(tiny_model, data, tmp_path):
    """As many as asked for, evenly, their longer side scaled."""
    small = ("--rounds", "1", "--size", "96", "--images", "2", "--json", str(tmp_path / "bench.json"))
    arguments = ["bench", "stages", "--model", str(tiny_model), "--data", str(data), "--split", "val", *small]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "bench.json").read_text())["frames"] == f"{data.name}, val"
    samples = open_data_folder(data).split("val")
    setting = Setting(tiny_model, 96, 1, 2, 1, 2000, 40, None, {}, lambda: None, samples=samples)
    expected = [cv2.resize(samples[i].read_image(), (96, 96), interpolation=cv2.INTER_AREA) for i in (0, -1)]
    assert np.array_equal(setting.frames, expected)


def test_a_split_that_is_not_there_or_has_no_image_is_named(data):
    (data / "split.json").write_text('{"train": [], "val": []}')
    for split, why in (("test", "has no split 'test'"), ("train", "has no image")):
        done = CliRunner().invoke(cli, ["bench", "stages", "--data", str(data), "--split", split])
        assert done.exit_code != 0
        assert why in done.output + str(done.exception)


def test_a_case_that_does_not_exist_is_wrong_usage_and_names_those_that_do():
    done = CliRunner().invoke(cli, ["bench", "speed"])
    assert done.exit_code == 2
    assert "'maps'" in done.output
