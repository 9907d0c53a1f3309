"""`premask evaluate --model none --clicks N`: smart tools in a project without a model, object by object."""

import json
import shutil

import pytest

from models.data.reader import open_data_folder
from models.starter import STARTER
from models.training import adaptation
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
        (("--model", STARTER, "--clicks", 1, "--adapt", 1), "add --model none"),
        (("--model", "none", "--prompts", "grabcut", "--clicks", 1, "--adapt", 1), "leave out --prompts"),
    ],
)
def test_what_cannot_be_measured_is_said_before_the_work(data, arguments, said):
    done = invoke("evaluate", "--data", data, *arguments)
    assert done.exit_code == 2
    assert said in done.output


def test_the_network_is_measured_before_and_after_the_first_images_of_a_class(data, tmp_path, monkeypatch):
    """On the same objects, of groups that none of these images is of."""
    monkeypatch.setattr(adaptation, "STEPS", 1)
    names = [sample.name for sample in open_data_folder(data).samples.values()]
    grouped = tmp_path / "data"
    shutil.copytree(data, grouped)
    (grouped / "groups.json").write_text(json.dumps({name: name for name in names}))
    arguments = ("--data", grouped, "--split", "train", "--model", "none", "--clicks", 2, "--json", tmp_path / "r.json")
    done = invoke("evaluate", *arguments, "--adapt", 1)
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "r.json").read_text())
    before, after = result["before"], result["after"]
    assert {label: known["objects"] for label, known in before["classes"].items()} == {
        label: known["objects"] for label, known in after["classes"].items()
    }
    assert "Leaf" in before["classes"]
    assert before["clicks"] != after["clicks"]
    assert 0 < after["box"] <= 1
    assert "after an image of each class" in done.output


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
