"""Smart tools end to end in the backend: /predict with a context -> a region, with a real small pipeline."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.errors import ImageError
from backend.label_studio.controls import REGION_CONTROLS
from backend.label_studio.images import image_address
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.protocol import parse_predict
from backend.label_studio.rle import encode_rle
from backend.prediction.embeddings import Embeddings
from backend.prediction.prompts import Prompts
from backend.versions.inference import Inference
from backend.versions.registry import Registry
from backend.versions.serving import Serving
from models.checkpoint import Card, write_card
from models.pipeline import Pipeline
from models.prompt import Answer
from tests.backend.fakes import CONFIG, OTHER_CONFIG, eventually, predict_body, publish, write_checkpoint
from tests.models.conftest import small_pipeline


class Pictures:
    """A bright disc on black; 'broken' cannot be read. Counts how often each is fetched."""

    def __init__(self) -> None:
        self.loads: list[str] = []

    def load(self, task: Mapping[str, Any], image_key: str) -> Any:
        address = image_address(task, image_key)
        self.loads.append(address)
        if address == "broken":
            raise ImageError(f"task {task['id']}: broken cannot be read")
        rows, columns = np.mgrid[:90, :121]
        return np.repeat(((np.hypot(rows - 40, columns - 60) < 25) * np.uint8(255))[..., None], 3, axis=2)


class Counting(Pipeline):
    """A small pipeline that counts its embeddings."""

    embeddings = 0

    def embed(self, image: Any) -> Any:
        Counting.embeddings += 1
        return super().embed(image)


def load(directory: Path) -> Pipeline:
    made = small_pipeline(("Lumen", "Fibrous cap"))
    return Counting.of(made.classifier, made.refiner)


@pytest.fixture
def pictures() -> Pictures:
    Counting.embeddings = 0
    return Pictures()


@pytest.fixture
def serving(registry: Registry, starter: Path, inference: Inference) -> Serving:
    return Serving(registry, starter, load, inference)


@pytest.fixture
def embeddings() -> Embeddings:
    return Embeddings()


@pytest.fixture
def prompts(serving: Serving, pictures: Pictures, embeddings: Embeddings) -> Prompts:
    return Prompts(serving, lambda project: pictures, embeddings)


def ask(
    *clicks: tuple[float, float], address: str = "1", config: str = CONFIG, label: str = "Lumen", **task: Any
) -> Any:
    body = predict_body([address], config=config)
    body["tasks"][0].update(task)
    body["params"]["context"] = {
        "result": [
            {"id": f"k{i}", "type": "keypointlabels", "is_positive": True, "from_name": "kp", "to_name": "image"}
            | {"value": {"x": x, "y": y, "width": 0.2, "keypointlabels": [label]}}
            for i, (x, y) in enumerate(clicks)
        ]
    }
    return parse_predict(body)


def test_a_click_is_answered_with_one_brush_region_of_its_label(prompts: Prompts) -> None:
    (entry,) = prompts.entries(ask((50, 45)))
    (region,) = entry["result"]
    assert (region["type"], region["from_name"], region["to_name"]) == ("brushlabels", "tag", "image")
    assert region["value"]["brushlabels"] == ["Lumen"]
    assert (region["original_width"], region["original_height"]) == (121, 90)
    assert REGION_CONTROLS["BrushLabels"].to_mask(region)[40, 60]
    assert entry["model_version"] == "oct-lite0"
    assert 0 <= entry["score"] <= 1
    json.dumps(entry, allow_nan=False)


def test_the_second_click_needs_neither_the_image_nor_the_classifier(prompts: Prompts, pictures: Pictures) -> None:
    prompts.entries(ask((50, 45)))
    prompts.entries(ask((50, 45), (60, 45)))
    assert pictures.loads == ["1"]
    assert Counting.embeddings == 1


def test_a_promotion_embeds_the_frame_again_and_forgets_the_old_embedding(
    prompts: Prompts, embeddings: Embeddings, serving: Serving, registry: Registry, tmp_path: Path
) -> None:
    prompts.entries(ask((50, 45)))
    registry.promote("3", publish(registry, tmp_path / "new"))
    while serving.served_version("3", ("Lumen", "Fibrous cap")) == "oct-lite0":
        pass
    (entry,) = prompts.entries(ask((50, 45)))
    assert entry["model_version"] != "oct-lite0"
    assert Counting.embeddings == 2
    assert len(embeddings) == 1


def test_embeddings_kept_are_bounded_in_bytes(serving: Serving, pictures: Pictures) -> None:
    prompts = Prompts(serving, lambda project: pictures, Embeddings(max_bytes=1))
    for _ in range(2):
        (entry,) = prompts.entries(ask((50, 45)))
        assert entry["result"]
    assert Counting.embeddings == 2


def test_the_region_that_was_clicked_on_is_answered_under_its_own_id(prompts: Prompts) -> None:
    """The editor puts the answer in its place; under another id it would lie on top of it."""
    (first,) = prompts.entries(ask((50, 45)))
    draft = {"id": 1, "result": first["result"]}
    (second,) = prompts.entries(ask((51, 46), drafts=[draft]))
    assert [region["id"] for region in second["result"]] == [region["id"] for region in first["result"]]


SHAPES: dict[str, dict[str, Any]] = {
    "rectangle": {"x": 30, "y": 15, "width": 40, "height": 60, "rotation": 0},
    "ellipse": {"x": 50, "y": 45, "radiusX": 20, "radiusY": 27, "rotation": 0},
    "polygon": {"points": [[30, 20], [70, 20], [70, 72], [30, 72]], "closed": True},
    "brush": {"format": "rle", "rle": encode_rle(np.hypot(*np.mgrid[-40:50, -60:61]) < 27)},
}


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("label", ["Lumen", "Fibrous cap"])
def test_a_shape_of_any_tool_and_class_is_answered_where_it_lies(prompts: Prompts, kind: str, label: str) -> None:
    asked = ask(label=label)
    shape: dict[str, Any] = {"id": "s", "type": f"{kind}labels", "from_name": "s", "to_name": "image"}
    shape["value"] = SHAPES[kind] | {f"{kind}labels": [label]}
    asked.context["result"] = [shape]
    (entry,) = prompts.entries(asked)
    (region,) = entry["result"]
    mask = REGION_CONTROLS["BrushLabels"].to_mask(region)
    assert region["value"]["brushlabels"] == [label]
    assert mask.any()
    assert not np.delete(mask, np.s_[10:80], axis=0).any()
    assert not np.delete(mask, np.s_[30:91], axis=1).any()
    assert list(region["meta"]["uncertainty"]) == ["outline"]


BESIDE = (
    '<View><Image name="image" value="$image"/><Labels name="what" toName="image"><Label value="Lumen"/></Labels>'
    '<Brush name="tool" toName="image"/><KeyPoint name="kp" toName="image" smart="true"/></View>'
)


def test_a_tool_beside_labels_is_answered_in_its_two_results_and_improved_under_its_id(prompts: Prompts) -> None:
    (first,) = prompts.entries(ask((50, 45), config=BESIDE))
    drawing, label = first["result"]
    assert (drawing["type"], drawing["from_name"], label["type"]) == ("brush", "tool", "labels")
    assert label["value"]["labels"] == ["Lumen"]
    (second,) = prompts.entries(ask((51, 46), config=BESIDE, drafts=[{"id": 1, "result": first["result"]}]))
    assert {region["id"] for region in second["result"]} == {drawing["id"]} == {label["id"]}


def test_a_class_that_no_model_knows_is_drawn_from_the_prompt_alone(prompts: Prompts) -> None:
    (entry,) = prompts.entries(ask((50, 45), config=OTHER_CONFIG, label="Cat"))
    assert entry["result"][0]["value"]["brushlabels"] == ["Cat"]


def test_without_any_model_the_log_says_what_to_do(
    registry: Registry, inference: Inference, pictures: Pictures, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = Prompts(Serving(registry, None, load, inference), lambda project: pictures, network=None)
    assert prompts.entries(ask((50, 45)))[0]["result"] == []
    assert "there is no model at all" in caplog.text


class Everything:
    """Stands for the prompt network: knows no class, and answers every prompt with the whole image."""

    name, classes = "everything", ()

    def embed(self, image: Any) -> Any:
        return image

    def prompt(self, embedding: Any, prompt: Any, label: str | None = None, existing: Any = ()) -> Answer:
        return Answer(label or "", np.ones(embedding.shape[:2], dtype=bool), 1.0)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    folder = tmp_path / "everything"
    folder.mkdir()
    write_card(folder, Card("everything", [], "", "2026-01-01T00:00:00+00:00", family="prompts"))
    return folder


def load_either(directory: Path) -> Any:
    return Everything() if directory.name == "everything" else load(directory)


def test_a_project_without_a_model_is_answered_by_the_prompt_network(
    registry: Registry, inference: Inference, pictures: Pictures, network: Path
) -> None:
    serving = Serving(registry, None, load_either, inference)
    prompts = Prompts(serving, lambda project: pictures, network=network)
    (entry,) = prompts.entries(ask((50, 45)))
    assert entry["model_version"] == "everything"
    assert REGION_CONTROLS["BrushLabels"].to_mask(entry["result"][0]).all()


def test_each_class_is_answered_by_the_model_that_knows_it_and_the_image_is_embedded_once_by_each(
    registry: Registry, starter: Path, inference: Inference, pictures: Pictures, network: Path
) -> None:
    """A new class beside those that the model knows: its prompts go to the prompt network."""
    config = CONFIG.replace('<Label value="Lumen"', '<Label value="New"/><Label value="Lumen"', 1)
    serving = Serving(registry, starter, load_either, inference)
    prompts = Prompts(serving, lambda project: pictures, network=network)
    versions = [
        prompts.entries(ask((50, 45), config=config, label=label))[0]["model_version"]
        for label in ("Lumen", "New", "Lumen", "New")
    ]
    assert versions == ["oct-lite0", "everything"] * 2
    assert Counting.embeddings == 1
    assert pictures.loads == ["1", "1"]


SMART = CONFIG.replace(
    "</View>", '<BrushLabels name="s" toName="image" smart="true"><Label value="Lumen"/></BrushLabels></View>'
)


@pytest.mark.parametrize(
    ("config", "loads"),
    [(CONFIG, False), (SMART, False), (SMART.replace('"Lumen"/></B', '"New"/></B'), True)],
    ids=["no smart tool", "of a class that the model knows", "of another one"],
)
def test_the_prompt_network_is_loaded_before_the_first_click_where_it_will_be_needed(
    registry: Registry,
    starter: Path,
    inference: Inference,
    pictures: Pictures,
    network: Path,
    config: str,
    loads: bool,
) -> None:
    loaded: list[str] = []

    def noted(directory: Path) -> Any:
        loaded.append(directory.name)
        return load_either(directory)

    prompts = Prompts(Serving(registry, starter, noted, inference), lambda project: pictures, network=network)
    for _ in range(2):
        prompts.expect("3", parse_label_config(config))
    if loads:
        eventually(lambda: loaded)
    assert loaded == [network.name] * loads


def test_a_prompt_network_that_is_damaged_leaves_the_answer_to_another_model(
    serving: Serving, pictures: Pictures, tmp_path: Path
) -> None:
    prompts = Prompts(serving, lambda project: pictures, network=tmp_path / "gone")
    (entry,) = prompts.entries(ask((50, 45), config=OTHER_CONFIG, label="Cat"))
    assert entry["result"][0]["value"]["brushlabels"] == ["Cat"]
    assert entry["model_version"] == "oct-lite0"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (ask((50, 45), address="broken"), "broken cannot be read"),
        (ask((50, 45), label="Gone"), "no control offers 'Gone'"),
        (ask(), ""),
    ],
)
def test_what_cannot_be_answered_is_an_empty_result_and_a_line_in_the_log(
    prompts: Prompts, asked: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        (entry,) = prompts.entries(asked)
    assert entry["result"] == []
    assert isinstance(entry["model_version"], str)
    assert said in caplog.text


def test_a_failure_of_the_model_is_an_empty_result(
    registry: Registry, inference: Inference, tmp_path: Path, pictures: Pictures, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(directory: Path) -> Any:
        return object()

    serving = Serving(registry, write_checkpoint(tmp_path / "other", "other"), broken, inference)
    assert Prompts(serving, lambda project: pictures).entries(ask((50, 45)))[0]["result"] == []
    assert "has no attribute 'embed'" in caplog.text


PAGES = CONFIG.replace('value="$image"', 'valueList="$images"').replace("BrushLabels", "BitmaskLabels")


def test_a_prompt_is_answered_on_the_page_that_it_is_on(prompts: Prompts, pictures: Pictures) -> None:
    """With a bitmask, which a second prompt improves; a region of another page is left alone."""
    request = ask((50, 45), config=PAGES)
    request.tasks[0]["data"] = {"images": ["first", "second"]}
    for prompt in request.context["result"]:
        prompt["item_index"] = 1
    ((region,),) = (entry["result"] for entry in prompts.entries(request))
    assert pictures.loads == ["second"]
    assert (region["type"], region["item_index"]) == ("bitmasklabels", 1)
    assert REGION_CONTROLS["BitmaskLabels"].to_mask(region)[40, 60]
    request.tasks[0]["drafts"] = [{"result": [region]}]
    ((improved,),) = (entry["result"] for entry in prompts.entries(request))
    assert improved["id"] == region["id"]
    request.tasks[0]["drafts"] = [{"result": [region | {"item_index": 0}]}]
    ((another,),) = (entry["result"] for entry in prompts.entries(request))
    assert another["id"] != region["id"]


def test_a_nested_image_that_changed_is_embedded_again(prompts: Prompts, pictures: Pictures) -> None:
    config = CONFIG.replace("$image", "$scan.url")
    for address in ("old", "new", "new"):
        request = ask((50, 45), config=config)
        request.tasks[0]["data"] = {"scan": {"url": address}}
        prompts.entries(request)
    assert pictures.loads == ["old", "new"]
