"""What an annotator is told, in a real editor, where a task has no masks."""

from pathlib import Path

import pytest

from backend.label_studio.label_config import parse_label_config
from backend.label_studio.status import NO_MODEL, VERSION
from tests.browser import chromium
from tests.end_to_end.frames import FRAMES
from tests.end_to_end.stack import Stack, premask
from tests.end_to_end.test_editor import log_in, screenshot

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

CONFIG = """<View>
  <Image name="picture" value="$image"/>
  <BrushLabels name="tag" toName="picture"><Label value="Rust"/></BrushLabels>
</View>"""


def test_an_annotator_reads_in_the_task_that_no_model_knows_its_classes(stack: Stack, tmp_path: Path) -> None:
    client = stack.client
    project = int(client.create_project("told", CONFIG)["id"])
    client.import_files(project, {frame.name: frame.content for frame in FRAMES[:2]})
    url, key = stack.label_studio.url, stack.login.token
    asked = ("--url", url, "--api-key", key, "--project", project, "--backend-url", stack.backend.url)
    assert "Annotators are told why" in premask("connect", *asked, "--status-label").stdout
    assert parse_label_config(client.project(project)["label_config"]).status is not None
    first, second = sorted(int(task["id"]) for task in client.export(project, all_tasks=True))
    with chromium() as browser:
        page = log_in(browser, stack)
        page.goto(f"{url}/projects/{project}/data?task={first}")
        page.get_by_text(NO_MODEL).first.wait_for()
        page.wait_for_timeout(1500)
        screenshot(page, tmp_path / "told.png")
        assert page.locator(".premask-status textarea:visible, .premask-status input:visible").count() == 0
        page.get_by_text("Submit", exact=True).first.click()
        page.get_by_text("Update", exact=True).first.wait_for()
    assert [one["model_version"] for one in client.predictions(project)] == [VERSION]
    # What is submitted says nothing about a class: the text is passed over.
    (annotation,) = client.annotations(first)
    assert {region["type"] for region in annotation["result"]} == {"textarea"}
    # Many tasks at once are not told: nobody looks.
    client.retrieve_predictions(project, [second])
    page_of = {one["task"] for one in client.predictions(project)}
    assert first in page_of
