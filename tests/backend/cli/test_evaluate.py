"""`premask evaluate --tables --report` and `premask curve` as a user types them."""

import json

import pytest
from click.testing import CliRunner

from backend.cli import cli
from models.config import METHODS
from models.phantom import CLASSES
from models.pipeline import load_pipeline
from models.starter import STARTERS
from models.studies import curve as curve_module

LIGHT = STARTERS["light"]


def invoke(*arguments):
    return CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture
def data(tmp_path):
    assert invoke("phantom", "--out", tmp_path / "data", "--count", 8, "--seed", 7, "--size", 128).exit_code == 0
    return tmp_path / "data"


@pytest.mark.slow
def test_tables_compare_models_and_are_printed_written_and_drawn(data, tiny_model, tmp_path):
    """Two checkpoints and two groups, too few for intervals; the report holds the pictures."""
    groups = {f"phantom-{number:05d}": f"patient {number}" for number in range(1, 9)}
    (data / "groups.json").write_text(json.dumps(groups))
    files = ("--json", tmp_path / "r.json", "--report", tmp_path / "r.html")
    arguments = ("--data", data, "--split", "val", "--model", tiny_model, "--model", tiny_model, "--tables")
    done = invoke("evaluate", *arguments, "--clicks", 1, "--robustness", *files)
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["groups"] == 2
    assert result["classes"]["Lumen"]["iou_ci"] is None
    assert result["clicks"]["count"] == 1
    assert 0 <= result["clicks"]["classes"]["Lumen"]["nothing"][1] <= 1
    assert result["robustness"]["as it is"]["Lumen"]["iou"] == result["classes"]["Lumen"]["iou"]
    tables = result["tables"]
    assert [row["model"] for row in tables["classifiers"]] == [tiny_model.name] * 2
    assert [way["way"] for way in tables["effort"]["ways"]] == ["manual", "automatic", "automatic, then corrected"]
    assert set(tables["methods"]) == set(METHODS)
    for text in (
        "No interval of the IoU of Lumen: drawn on images of 2 groups, an interval needs 5.",
        "IoU after that many clicks",
        "tf_efficientnet_lite0",
        "written on",
        "strokes an image",
        "LayerCAM",
        "report in",
    ):
        assert text in done.output
    assert "95 % intervals" not in done.output
    assert max(map(len, done.stdout.splitlines())) <= 80 + len(str(tmp_path))
    assert (tmp_path / "r.html").stat().st_size > 50_000


def test_intervals_are_printed_over_five_groups(data, tmp_path):
    """Eight images of as many patients; a class that is on fewer has none."""
    (data / "groups.json").write_text(json.dumps({f"phantom-{number:05d}": str(number) for number in range(1, 9)}))
    done = invoke("evaluate", "--data", data, "--model", LIGHT, "--json", tmp_path / "r.json")
    assert done.exit_code == 0, done.output
    assert "95 % intervals over 8 groups of images" in done.output
    lumen = json.loads((tmp_path / "r.json").read_text())["classes"]["Lumen"]
    low, high = lumen["iou_ci"]
    assert low <= lumen["iou"] <= high
    assert lumen["no_interval"] is None


def test_several_models_are_for_tables(data):
    done = invoke("evaluate", "--data", data, "--model", LIGHT, "--model", LIGHT)
    assert done.exit_code == 2
    assert "--tables" in done.output


@pytest.mark.slow
def test_a_curve_has_a_row_a_size_and_way_and_a_chart(data, tmp_path, monkeypatch):
    """With the starter in place of a training and of the plain network's."""
    from models.checkpoint import Card
    from models.pipeline import save_pipeline

    def train(spec, report):
        card = Card(spec.name, [], "", "2026", training={"seconds": 12.0})
        pipeline = load_pipeline(LIGHT)
        pipeline.name = spec.name
        save_pipeline(pipeline, spec.out, card)

    monkeypatch.setattr(curve_module, "train", train)
    monkeypatch.setattr(curve_module, "train_plain", lambda *arguments, seconds: load_pipeline(LIGHT))
    out = tmp_path / "curve"
    done = invoke("curve", "--data", data, "--out", out, "--sizes", "2,all", "--plain", "--json", tmp_path / "c.json")
    assert done.exit_code == 0, done.output
    result = json.loads((out / "curve.json").read_text())
    assert result == json.loads((tmp_path / "c.json").read_text())
    assert list(result["sizes"]) == ["2", "6"]
    for point in result["sizes"].values():
        assert set(point["results"]) == {"map", "closed-form", "chain", "plain"}
        assert set(point["results"]["chain"]) == set(CLASSES)
        assert point["seconds"] == 12
    assert (out / "curve.png").read_bytes()[:4] == b"\x89PNG"
    for way in ("map", "closed-form", "FBANet", "plain"):
        assert way in done.stdout


def test_sizes_are_numbers_or_all(data, tmp_path):
    done = invoke("curve", "--data", data, "--out", tmp_path / "curve", "--sizes", "5,many")
    assert done.exit_code == 2
    assert "5,many" in done.output


def test_the_order_of_scores_and_planted_errors_are_measured(data, tmp_path):
    file = tmp_path / "r.json"
    done = invoke("evaluate", "--data", data, "--model", LIGHT, "--ordering", "--planted", "--json", file)
    assert done.exit_code == 0, done.output
    result = json.loads(file.read_text())
    assert result["ordering"]["images"] == 8
    assert list(result["ordering"]["orders"]) == ["random", "least certain class", "score", "calibrated", "perfect"]
    assert result["planted"]["planted"] == 3
    for text in ("strokes found by order", "area under the curve", "Of 3 planted errors in 8 images the first 1"):
        assert text in done.output


def test_what_is_measured_of_a_model_needs_one(data):
    done = CliRunner().invoke(cli, ["evaluate", "--data", str(data), "--model", "none", "--clicks", "1", "--ordering"])
    assert done.exit_code == 2
    assert "leave out --ordering" in done.output
