"""The text that tells annotators why a task has no masks: in configs, in predictions, in what is learnt from them."""

import pytest
from defusedxml.ElementTree import fromstring  # type: ignore[import-untyped]

from backend.errors import ConfigError
from backend.label_studio.acceptance import is_as_drawn, parent_prediction
from backend.label_studio.client import LabelStudio
from backend.label_studio.connect import connect
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.status import MAX_REASON, VERSION, StatusLabel, failed, status_entry, with_status_label
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.label_studio.configs import BRUSH, SHAPES

STATUS = StatusLabel("premask", "image")


@pytest.mark.parametrize("config", [BRUSH, SHAPES])
def test_a_config_takes_the_text_and_stays_what_it_was(config: str) -> None:
    before, after = parse_label_config(config), parse_label_config(with_status_label(config, "image"))
    assert (before.status, after.status) == (None, STATUS)
    assert (after.controls, after.left_out, after.classes) == (before.controls, before.left_out, before.classes)
    declared = f"<?xml version='1.0'?>\n<!-- <Vi> -->{config}".replace("<View>", '<View style="a>b">')
    assert parse_label_config(with_status_label(declared, "image")).status == STATUS
    assert fromstring(with_status_label(config, 'a"<b')).find(".//TextArea").get("toName") == 'a"<b'


def test_a_config_that_cannot_take_it_says_why() -> None:
    with pytest.raises(ConfigError, match='another tag of the labelling config is named "premask"'):
        with_status_label(BRUSH.replace('name="tag"', 'name="premask"'), "image")
    with pytest.raises(ConfigError, match="does not begin with <View>"):
        with_status_label("<Image/>", "image")


def test_a_text_area_of_another_image_or_name_is_not_taken_for_it() -> None:
    elsewhere = with_status_label(BRUSH, "nothing")
    assert parse_label_config(elsewhere).status is None
    own = BRUSH.replace("</View>", '<TextArea name="notes" toName="image"/></View>')
    assert parse_label_config(own).status is None
    assert any("notes" in sentence for sentence in parse_label_config(own).left_out)


def test_a_reason_is_short_and_there_always_is_one() -> None:
    assert failed("") == "No masks could be drawn: the reason is in the log of the server"
    assert len(failed("x" * 1000)) == MAX_REASON


def test_a_text_is_no_prediction_that_somebody_accepted() -> None:
    entry = status_entry(STATUS, "later")
    assert entry["model_version"] == VERSION
    (region,) = entry["result"]
    assert (region["from_name"], region["to_name"], region["value"]) == ("premask", "image", {"text": ["later"]})
    submitted = {"parent_prediction": 5, "result": [region | {"origin": "prediction"}]}
    assert not is_as_drawn(submitted)
    assert parent_prediction(submitted, lambda number: entry) is None
    real = {"model_version": "p3-r001", "result": []}
    assert parent_prediction(submitted, lambda number: real) == real


def test_connect_adds_the_text_once(server: FakeLabelStudio, client: LabelStudio, backend_url: str) -> None:
    project = server.add_project(BRUSH)
    connect(client, project, backend_url)
    assert server.projects[project]["label_config"] == BRUSH
    for expected in ("are told why", "are told already why"):
        lines: list[str] = []
        connect(client, project, backend_url, lines.append, status_label=True)
        assert any(expected in line for line in lines)
    assert server.projects[project]["label_config"].count("<TextArea") == 1
    assert parse_label_config(server.projects[project]["label_config"]).status == STATUS
