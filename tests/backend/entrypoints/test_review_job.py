"""The process of a review job, with networks."""

import json

from backend.entrypoints.review_job import main
from models.checkpoint import Card
from models.data.reader import open_data_folder
from models.pipeline import save_pipeline
from tests.models.conftest import small_pipeline, squares_data  # noqa: F401  (a fixture)


def test_accepted_images_are_judged_by_the_model_that_was_named(tmp_path, squares_data, capsys):  # noqa: F811
    pipeline = small_pipeline(("square", "nothing"))
    save_pipeline(pipeline, tmp_path / "model", Card("v1", [], "", ""))
    names = list(open_data_folder(squares_data).samples)
    part = {"version": "v1", "directory": str(tmp_path / "model"), "learnt": True, "images": names}
    specification = tmp_path / "review.json"
    specification.write_text(json.dumps({"data": str(squares_data), "device": "cpu", "parts": [part]}))
    assert main(specification) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["done"] for line in lines[:-1]] == list(range(1, len(names) + 1))
    assert lines[-1]["stage"] == "done"
    for finding in lines[-1]["findings"]:
        assert finding["image"] in names
        assert (finding["version"], finding["learnt"]) == ("v1", True)
        assert 0 <= finding["suspicion"] <= 1
    suspicions = [finding["suspicion"] for finding in lines[-1]["findings"]]
    assert suspicions == sorted(suspicions, reverse=True)


def test_a_damaged_model_is_named(tmp_path, squares_data, capsys):  # noqa: F811
    part = {"version": "v1", "directory": str(tmp_path / "gone"), "learnt": False, "images": []}
    specification = tmp_path / "review.json"
    specification.write_text(json.dumps({"data": str(squares_data), "device": "cpu", "parts": [part]}))
    assert main(specification) == 1
    assert "gone is no checkpoint" in json.loads(capsys.readouterr().out)["reason"]
