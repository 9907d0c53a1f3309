"""`premask evaluate --model none --clicks N`: smart tools in a project without a model, object by object."""

import json

import pytest

from models.starter import STARTER
from tests.backend.cli.test_evaluate import invoke
from tests.models.sam_checkpoints import write_tiny_sam


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts") / "data"
    arguments = ("--out", folder, "--kind", "leaf", "--count", 3, "--seed", 7, "--size", 200)
    assert invoke("phantom", *arguments).exit_code == 0
    return folder


@pytest.mark.parametrize(("option", "model"), [((), "prompts"), (("--prompts", "grabcut"), "grabcut")])
def test_each_object_is_clicked_and_boxed(data, tmp_path, option, model):
    """Means over objects, by class and of all; a table and the JSON of the contract."""
    arguments = ("--data", data, "--model", "none", "--clicks", 3, "--json", tmp_path / "r.json")
    done = invoke("evaluate", *arguments, *option)
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["model"] == model
    assert len(result["clicks"]) == 3
    counts = {label: known["objects"] for label, known in result["classes"].items()}
    assert sum(counts.values()) > 2
    for label, known in result["classes"].items():
        assert set(known) == {"objects", "clicks", "box"}
        assert label in done.output
    for number in range(3):
        every = [known["clicks"][number] * counts[label] for label, known in result["classes"].items()]
        assert result["clicks"][number] == pytest.approx(sum(every) / sum(counts.values()))
    assert 0 < result["box"] <= 1
    assert "all objects" in done.output
    assert "3 clicks" in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "none"), "--model none needs --clicks"),
        (("--prompts", "grabcut"), "--prompts grabcut needs --clicks"),
        (("--model", "none", "--clicks", 1, "--tables"), "leave out --tables"),
        (("--model", "none", "--clicks", 1, "--prompts", "model"), "name it with --model"),
        (("--prompts", "model", "--clicks", 1, "--model", STARTER, "--model", STARTER), "name one --model"),
        (("--model", "nowhere", "--clicks", 1), "nowhere"),
    ],
)
def test_what_cannot_be_measured_is_said_before_the_work(data, arguments, said):
    done = invoke("evaluate", "--data", data, *arguments)
    assert done.exit_code == 2
    assert said in done.output


def test_a_model_is_measured_by_its_own_answers(data, tmp_path):
    """Classes that it does not know are asked of it all the same, as in a project whose config has one more."""
    arguments = ("--data", data, "--model", STARTER, "--prompts", "model", "--clicks", 1, "--json", tmp_path / "r.json")
    done = invoke("evaluate", *arguments)
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "r.json").read_text())["model"] == STARTER.name


def test_a_checkpoint_of_sam_is_measured_like_any_model(data, tmp_path):
    folder = write_tiny_sam(tmp_path / "my-sam")
    arguments = ("--data", data, "--model", folder, "--prompts", "model", "--clicks", 1, "--json", tmp_path / "r.json")
    done = invoke("evaluate", *arguments)
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "r.json").read_text())["model"] == "my-sam"
