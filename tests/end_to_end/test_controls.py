"""Every kind of region through a real Label Studio: predicted, drawn by the editor, submitted, exported, read again."""

import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page

from backend.label_studio.annotations import read_annotation, read_regions, sort_regions
from backend.label_studio.controls.region import Mask
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.protocol import prediction_entry, task_entry
from backend.label_studio.task_images import task_images
from models.data.decoding import decode_image
from models.segment import Prediction, Segment
from tests.browser import chromium
from tests.end_to_end.frames import FRAMES, ORIENTATION, png
from tests.end_to_end.stack import Stack, premask
from tests.end_to_end.test_editor import PLACE, log_in
from tests.end_to_end.test_label_studio import wait_for

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

SHAPE = (301, 457)  # odd, not square
LABELS = '<Label value="Ring"/><Label value="Blob" background="blue"/>'
OWN = """<View><Image name="image" value="$image"/>
  <{tag}Labels name="tag" toName="image" model_regions="object" closable="true">{labels}</{tag}Labels></View>"""
BESIDE = """<View><Image name="image" value="$image"/>
  <Labels name="what" toName="image">{labels}</Labels>
  <{tag} name="tool" toName="image" model_regions="object" closable="true"/></View>"""
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


# What a kind can hold of it: brush and bitmask all, polygons all but half a pixel, boxes and ellipses what they are.
KEPT = {
    "Brush": {"Ring": 1.0, "Blob": 1.0},
    "Bitmask": {"Ring": 1.0, "Blob": 1.0},
    "Polygon": {"Ring": 0.97, "Blob": 0.97},
    "Vector": {"Ring": 0.97, "Blob": 0.97},
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


def oriented(orientation: int) -> bytes:
    """A photograph that the browser shows turned or mirrored."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(np.full((*SHAPE, 3), 200, np.uint8)).save(file, "JPEG", exif=exif)
    return file.getvalue()


# Name -> the file.
PICTURES = {
    "grey.png": png(np.full(SHAPE, 90, np.uint8)),
    "deep.png": png(np.full(SHAPE, 30000, np.uint16)),
    "alpha.png": png(np.full((*SHAPE, 4), 120, np.uint8)),
    "column.png": png(np.full((64, 1, 3), 90, np.uint8)),
    "row.png": png(np.full((1, 300, 3), 90, np.uint8)),
    "large.png": png(np.full((2161, 3841), 90, np.uint8)),
    **{f"turned-{orientation}.jpg": oriented(orientation) for orientation in (2, 3, 5, 6, 8)},
}


@pytest.mark.parametrize("name", PICTURES)
def test_the_mask_of_any_picture_is_read_back_pixel_for_pixel(stack: Stack, page: Page, name: str) -> None:
    """The size that is predicted on is the one that the editor sees and the training reads."""
    xml = (
        '<View><Image name="i" value="$image"/><BrushLabels name="t" toName="i"><Label value="A"/></BrushLabels></View>'
    )
    config, image = parse_label_config(xml), decode_image(PICTURES[name], 100_000_000)
    height, width = image.shape[:2]
    mask = np.zeros((height, width), bool)
    mask[: -(-height // 3), : -(-width // 2)] = True  # a corner, so that a turn or mirroring would show
    client = stack.client
    project = int(client.create_project(name, xml)["id"])
    client.import_files(project, {name: PICTURES[name]})
    (task,) = client.export(project, all_tasks=True)
    entry = prediction_entry(Prediction({"A": 0.9}, [Segment("A", 0.9, mask)]), config, "v1")
    client.import_predictions(project, [{"task": task["id"], **entry}])

    page.goto(f"{stack.label_studio.url}/projects/{project}/data?task={task['id']}")
    page.wait_for_function(f"({REGIONS})().length === 1")
    page.wait_for_timeout(2500)
    page.get_by_role("button", name="Submit").first.click()
    page.wait_for_function("() => Htx.annotationStore.selected.pk")
    ((annotation,),) = (exported["annotations"] for exported in client.export(project))
    counts: Counter[str] = Counter()
    truth = read_annotation(annotation, config, image.shape[:2], counts)
    assert not +counts
    np.testing.assert_array_equal(truth.masks["A"], mask)


SELECT_BITMASK = """() => {
    const manager = window.Htx.annotationStore.selected.objects[0].getToolsManager();
    manager.selectTool(manager.allTools().find(tool => tool.toolName === 'BitmaskTool'), true);
}"""
PAGED = """<View><Image name="image" valueList="$images" smoothing="false"/>
  <BitmaskLabels name="tag" toName="image">{labels}</BitmaskLabels></View>"""


def test_a_bitmask_is_drawn_on_its_page_and_one_that_the_annotator_adds_is_read(
    stack: Stack, page: Page, tmp_path: Path
) -> None:
    """Two pages with a predicted mask each; a dot is painted on the first by hand, and all is submitted."""
    xml = PAGED.format(labels=LABELS)
    config, client = parse_label_config(xml), stack.client
    uploads = int(client.create_project("pages' files", OWN.format(tag="Brush", labels=LABELS))["id"])
    client.import_files(uploads, {f"{n}.png": png(np.full((*SHAPE, 3), 90 * n, np.uint8)) for n in (1, 2)})
    pages = [task["data"]["image"] for task in client.export(uploads, all_tasks=True)]
    project = int(client.create_project("pages", xml)["id"])
    client.call("POST", f"/api/projects/{project}/import", json=[{"images": pages}])
    (task,) = client.export(project, all_tasks=True)
    images = task_images(task, config)
    seen = [Prediction({name: 0.9}, [Segment(name, 0.8, mask)]) for name, mask in masks().items()]
    entry = task_entry(list(zip(images, seen, strict=True)), config, "v1")
    client.import_predictions(project, [{"task": task["id"], **entry}])

    page.goto(f"{stack.label_studio.url}/projects/{project}/data?task={task['id']}")
    page.wait_for_function(f"({REGIONS})().length === 2")
    assert {region["label"] for region in page.evaluate(REGIONS)} == set(masks())
    page.wait_for_timeout(2500)
    page.evaluate(SELECT_BITMASK)
    page.locator(".lsf-labels").get_by_text("Blob", exact=True).first.click()
    place = page.evaluate(PLACE)
    x = place["left"] + place["x"] + 0.8 * place["width"] * place["scale"]
    y = place["top"] + place["y"] + 0.2 * place["height"] * place["scale"]
    page.mouse.move(x - 9, y)
    page.mouse.down()
    page.mouse.move(x, y, steps=3)
    page.mouse.up()
    page.wait_for_timeout(1500)
    page.screenshot(path=tmp_path / "painted.png")
    page.wait_for_function(f"({REGIONS})().length === 3")
    page.screenshot(path=tmp_path / "pages.png")
    page.get_by_role("button", name="Submit").first.click()
    page.wait_for_function("() => Htx.annotationStore.selected.pk")

    (exported,) = client.export(project)
    (annotation,) = exported["annotations"]
    counts: Counter[str] = Counter()
    drawn = sort_regions(annotation, config, images, counts)
    truths = [read_regions(drawn[image], config.on(image.column), SHAPE, counts) for image in images]
    assert not +counts
    np.testing.assert_array_equal(truths[0].masks["Ring"], masks()["Ring"])
    np.testing.assert_array_equal(truths[1].masks["Blob"], masks()["Blob"])
    assert truths[0].masks["Blob"][round(0.2 * SHAPE[0]), round(0.8 * SHAPE[1])]
    assert truths[0].masks["Blob"].mean() < 0.1
    assert set(truths[1].masks) == {"Blob"}


def overlap(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / (one | other).sum())


# The smart brush comes first among the smart tools and sends nothing.
SMART = """<View><Image name="image" value="$image"/>
  <Labels name="what" toName="image"><Label value="Lumen"/><Label value="Lipid core"/></Labels>
  <Brush name="tool" toName="image" smart="false"/>
  <KeyPoint name="click" toName="image" smart="true" smartOnly="true"/></View>"""


def test_a_click_beside_labels_improves_the_region_that_is_there(stack: Stack, page: Page, tmp_path: Path) -> None:
    """A task is opened and predicted, and a point tool without labels of its own is used on the lumen."""
    frame, client = FRAMES[0], stack.client
    project = int(client.create_project("smart beside labels", SMART)["id"])
    client.import_files(project, {frame.name: frame.content})
    (task,) = client.export(project, all_tasks=True)
    url, key = stack.label_studio.url, stack.login.token
    premask("connect", "--url", url, "--api-key", key, "--project", project, "--backend-url", stack.backend.url)
    client.retrieve_predictions(project)
    wait_for(lambda: bool(client.predictions(project)), 300)
    page.add_init_script("localStorage.setItem('autoAnnotation', 'true')")
    page.goto(f"{url}/projects/{project}/data?task={task['id']}")
    page.wait_for_function(f"({REGIONS})().length > 0")
    before = sorted(region["label"] for region in page.evaluate(REGIONS))
    assert "Lumen" in before
    page.wait_for_timeout(2000)
    page.locator(".lsf-toolbar__group").last.locator(".lsf-tool_smart").first.click(position={"x": 10, "y": 10})
    page.locator(".lsf-labels").get_by_text("Lumen", exact=True).first.click()
    place = page.evaluate(PLACE)
    rows, columns = np.nonzero(frame.masks["Lumen"])
    x, y = np.median(columns) / frame.size[0], np.median(rows) / frame.size[1]
    page.keyboard.down("Control")  # without it a click on a region that is there selects that
    page.mouse.click(
        place["left"] + place["x"] + x * place["width"] * place["scale"],
        place["top"] + place["y"] + y * place["height"] * place["scale"],
    )
    page.keyboard.up("Control")
    page.wait_for_function("() => window.Htx.annotationStore.selected.suggestions.size > 0")
    page.screenshot(path=tmp_path / "smart.png")
    page.evaluate("() => window.Htx.annotationStore.selected.acceptAllSuggestions()")
    page.wait_for_timeout(1500)
    page.screenshot(path=tmp_path / "accepted.png")
    result = page.evaluate("() => window.Htx.annotationStore.selected.serializeAnnotation()")
    counts: Counter[str] = Counter()
    truth = read_annotation({"result": result}, parse_label_config(SMART), frame.masks["Lumen"].shape, counts)
    assert not +counts
    assert overlap(truth.masks["Lumen"], frame.masks["Lumen"]) >= 0.8
    assert sorted(region["label"] for region in page.evaluate(REGIONS)) == before


def test_the_first_accepted_task_of_a_class_teaches_the_clicks_on_it(stack: Stack) -> None:
    """No model knows the class: the shipped network draws it, until a copy of it has learnt what it looks like."""
    client = stack.client
    project = int(client.create_project("taught", OWN.format(tag="Brush", labels=LABELS))["id"])
    picture = np.where(masks()["Blob"][..., None], (180, 60, 60), (90, 90, 90)).astype(np.uint8)
    client.import_files(project, {"one.png": png(picture), "two.png": png(picture[::-1, ::-1].copy())})
    url, key = stack.label_studio.url, stack.login.token
    premask("connect", "--url", url, "--api-key", key, "--project", project, "--backend-url", stack.backend.url)
    (backend,) = client.ml_backends(project)
    first, second = (int(task["id"]) for task in client.export(project, all_tasks=True))

    def version() -> str:
        click = {"id": "c", "type": "keypointlabels", "from_name": "tag", "to_name": "image", "is_positive": True}
        click["value"] = {"x": 30, "y": 45, "width": 0.2, "keypointlabels": ["Blob"]}
        click |= {"original_width": SHAPE[1], "original_height": SHAPE[0]}
        asked = {"task": second, "context": {"result": [click]}}
        found = client.call("POST", f"/api/ml/{backend['id']}/interactive-annotating", json=asked)
        assert found["data"]["result"], found
        return str(found["data"]["model_version"])

    assert version() == "prompts"
    config = parse_label_config(OWN.format(tag="Brush", labels=LABELS))
    drawn = prediction_entry(Prediction({"Blob": 0.8}, [Segment("Blob", 0.8, masks()["Blob"], 0.25)]), config, "v1")
    client.call("POST", f"/api/tasks/{first}/annotations/", json={"result": drawn["result"]})
    wait_for(lambda: version().startswith("prompts-"), 600)
