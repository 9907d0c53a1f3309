"""Every kind of region through a real Label Studio: predicted, drawn by the editor, submitted, exported, read again."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page

from backend.label_studio.annotations import read_annotation
from backend.label_studio.controls.region import Mask
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.protocol import prediction_entry
from models.segment import Prediction, Segment
from tests.browser import chromium
from tests.end_to_end.frames import png
from tests.end_to_end.stack import Stack
from tests.end_to_end.test_editor import log_in

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

SHAPE = (301, 457)  # odd, not square
LABELS = '<Label value="Ring"/><Label value="Blob" background="blue"/>'
OWN = """<View><Image name="image" value="$image"/>
  <{tag}Labels name="tag" toName="image" model_regions="object">{labels}</{tag}Labels></View>"""
BESIDE = """<View><Image name="image" value="$image"/>
  <Labels name="what" toName="image">{labels}</Labels>
  <{tag} name="tool" toName="image" model_regions="object"/></View>"""
REGIONS = """() => (window.Htx?.annotationStore?.selected?.regions ?? []).map(
    r => ({label: r.labelName, meta: r.meta, score: r.score, type: r.type}))"""


@pytest.fixture(scope="module")
def page(stack: Stack) -> Iterator[Page]:
    with chromium() as browser:
        yield log_in(browser, stack)


def masks() -> dict[str, Mask]:
    """A ring, and a slanted ellipse with a disc in a corner."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    ring = np.hypot(rows - 150, columns - 120)
    slanted = ((columns - 330) + (rows - 160)) ** 2 / 2 / 90**2 + ((columns - 330) - (rows - 160)) ** 2 / 2 / 25**2
    return {
        "Ring": (ring < 90) & (ring > 50),
        "Blob": (slanted < 1) | (np.hypot(rows - 275, columns - 425) < 20),
    }


# What a kind can hold of it: brush all, polygons all but half a pixel, boxes and ellipses what they are.
KEPT = {
    "Brush": {"Ring": 1.0, "Blob": 1.0},
    "Polygon": {"Ring": 0.97, "Blob": 0.97},
    "Rectangle": {"Ring": 0.5, "Blob": 0.4},
    "Ellipse": {"Ring": 0.65, "Blob": 0.98},
}


@pytest.mark.parametrize("form", [OWN, BESIDE], ids=["labels-inside", "labels-beside"])
@pytest.mark.parametrize("tag", KEPT)
def test_a_region_comes_back_from_the_editor_as_it_was_predicted(
    stack: Stack, page: Page, tmp_path: Path, tag: str, form: str
) -> None:
    xml = form.format(tag=tag, labels=LABELS)
    config = parse_label_config(xml)
    segments = [Segment(name, 0.8, mask, 0.25) for name, mask in masks().items()]
    entry = prediction_entry(Prediction({"Ring": 0.9, "Blob": 0.8}, segments), config, "v1")
    client = stack.client
    project = int(client.create_project(f"{tag} {form is OWN}", xml)["id"])
    client.import_files(project, {"odd.png": png(np.full((*SHAPE, 3), 200, np.uint8))})
    (task,) = client.export(project, all_tasks=True)
    client.import_predictions(project, [{"task": task["id"], **entry}])

    page.goto(f"{stack.label_studio.url}/projects/{project}/data?task={task['id']}")
    page.wait_for_function(f"({REGIONS})().length === 3")
    drawn = page.evaluate(REGIONS)
    assert Counter(region["label"] for region in drawn) == {"Ring": 1, "Blob": 2}
    assert all(
        region["meta"]["uncertainty"] == {"presence": 0.469, "outline": 0.25}
        for region in drawn
        if region["label"] == "Ring"
    )
    page.wait_for_timeout(1500)
    page.evaluate("() => { const s = Htx.annotationStore.selected; s.selectArea(s.regions[0]); }")
    page.get_by_text("uncertainty in bits").first.wait_for()
    page.screenshot(path=tmp_path / f"{tag}.png")
    page.get_by_role("button", name="Submit").first.click()
    page.wait_for_function("() => Htx.annotationStore.selected.pk")

    (exported,) = client.export(project)
    (annotation,) = exported["annotations"]
    assert {region["meta"]["text"][0][:11] for region in annotation["result"]} == {"uncertainty"}
    counts: Counter[str] = Counter()
    truth = read_annotation(annotation, config, SHAPE, counts)
    assert not +counts
    for name, least in KEPT[tag].items():
        assert overlap(truth.masks[name], masks()[name]) >= least, name
    predicted = read_annotation(entry, config, SHAPE, Counter())
    for name, mask in predicted.masks.items():
        assert overlap(truth.masks[name], mask) >= 0.995, name


def overlap(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / (one | other).sum())
