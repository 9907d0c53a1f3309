"""What an annotator sees: the labelling editor in a browser, on a task that was predicted."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page

from backend.demo.predictions import iou, masks
from tests.browser import chromium
from tests.end_to_end.frames import FRAMES
from tests.end_to_end.stack import Project, Stack

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

# Natural pixels -> pixels of the page, for the displayed picture.
PLACE = """() => {
    const image = window.Htx.annotationStore.selected.objects[0];
    const box = document.querySelector('.konvajs-content canvas').getBoundingClientRect();
    return {left: box.left, top: box.top, width: image.stageWidth, height: image.stageHeight,
            scale: image.zoomScale ?? 1, x: image.zoomingPositionX ?? 0, y: image.zoomingPositionY ?? 0};
}"""
REGIONS = """() => (window.Htx?.annotationStore?.selected?.regions ?? []).filter(r => r.type === 'brushregion').map(
    r => ({label: r.labelName, hidden: r.hidden}))"""


@pytest.fixture
def page(stack: Stack, tmp_path: Path) -> Iterator[Page]:
    """A page of a headless Chromium that is logged in by the form."""
    with chromium() as browser:
        yield log_in(browser, stack)


def log_in(browser: Browser, stack: Stack) -> Page:
    page = browser.new_page(viewport={"width": 1500, "height": 1000})
    page.set_default_timeout(60_000)
    page.goto(f"{stack.label_studio.url}/user/login/")
    page.fill("input[name=email]", stack.login.email)
    page.fill("input[name=password]", stack.login.password)
    page.click("button[type=submit]")
    page.wait_for_url(lambda url: "/user/login" not in url)
    return page


def test_the_editor_draws_the_masks_over_the_tissue(stack: Stack, project: Project, page: Page, tmp_path: Path) -> None:
    """With the masks shown, pixels inside the true lumen differ in colour from those with the masks hidden."""
    frame = max(FRAMES, key=lambda one: len(one.masks))
    task = next(task for task, one in project.frames.items() if one is frame)
    page.goto(f"{stack.label_studio.url}/projects/{project.id}/data?task={task}")
    page.wait_for_function(f"({REGIONS})().length > 0")
    labels = {region["label"] for region in page.evaluate(REGIONS)}
    assert "Lumen" in labels
    assert labels <= {"Lumen", "Fibrous cap", "Lipid core", "Vasa vasorum"}

    page.wait_for_timeout(2000)  # the canvas is painted after the store is filled
    shown = screenshot(page, tmp_path / "shown.png")
    page.evaluate(
        "() => window.Htx.annotationStore.selected.regions.forEach(r => { if (!r.hidden) r.toggleHidden(); })"
    )
    page.wait_for_timeout(1000)
    hidden = screenshot(page, tmp_path / "hidden.png")

    changed = np.abs(shown.astype(int) - hidden).max(axis=2) > 20  # (H, W): pixels of the page that masks colour
    lumen = on_page(frame.masks["Lumen"], page.evaluate(PLACE), changed.shape)
    assert changed[lumen].mean() > 0.7
    outside = ~on_page(np.logical_or.reduce(list(frame.masks.values())), page.evaluate(PLACE), changed.shape)
    picture = on_page(np.ones_like(frame.masks["Lumen"]), page.evaluate(PLACE), changed.shape)
    assert changed[outside & picture].mean() < 0.3


@pytest.mark.parametrize("tool", ["click", "box"])
def test_a_prompt_draws_a_region_of_the_label_that_was_chosen(
    stack: Stack, project: Project, page: Page, tmp_path: Path, tool: str
) -> None:
    """Auto-Annotation on, a smart tool, one click or one box around the lumen: a brush region of it is suggested."""
    frame = FRAMES[0]
    task = next(task for task, one in project.frames.items() if one is frame)
    page.add_init_script("localStorage.setItem('autoAnnotation', 'true')")
    page.goto(f"{stack.label_studio.url}/projects/{project.id}/data?task={task}")
    page.wait_for_function(f"({REGIONS})().length > 0")
    before = page.evaluate(REGIONS)
    page.wait_for_timeout(2000)
    rounds, row = {"click": (1, 1), "box": (2, 2)}[tool]
    for _ in range(rounds):  # the button changes from one smart tool to the next
        page.locator(".lsf-toolbar__group").last.locator(".lsf-tool_smart").first.click(position={"x": 10, "y": 10})
    page.locator(".lsf-labels").nth(row).get_by_text("Lumen", exact=True).first.click()
    place = page.evaluate(PLACE)
    mask = frame.masks["Lumen"]
    rows, columns = np.nonzero(mask)

    def on_screen(x: float, y: float) -> tuple[float, float]:
        return (
            place["left"] + place["x"] + x / frame.size[0] * place["width"] * place["scale"],
            place["top"] + place["y"] + y / frame.size[1] * place["height"] * place["scale"],
        )

    page.keyboard.down("Control")  # without it a click on a region that is there selects that
    if tool == "click":
        page.mouse.click(*on_screen(float(np.median(columns)), float(np.median(rows))))
    else:
        page.mouse.move(*on_screen(columns.min(), rows.min()))
        page.mouse.down()
        page.mouse.move(*on_screen(columns.max() - 5, rows.max() - 5), steps=5)
        page.mouse.move(*on_screen(columns.max(), rows.max()))
        page.mouse.up()
    page.keyboard.up("Control")
    page.wait_for_function("() => window.Htx.annotationStore.selected.suggestions.size > 0")
    page.wait_for_timeout(1500)
    screenshot(page, tmp_path / f"{tool}.png")
    page.evaluate("() => window.Htx.annotationStore.selected.acceptAllSuggestions()")
    page.wait_for_timeout(1500)
    drawn = masks(page.evaluate("() => window.Htx.annotationStore.selected.serializeAnnotation()"))
    assert iou(drawn["Lumen"], mask) >= 0.8
    # The lumen that was there is improved, not drawn a second time.
    assert sorted(one["label"] for one in page.evaluate(REGIONS)) == sorted(one["label"] for one in before)


def screenshot(page: Page, path: Path) -> NDArray[np.uint8]:
    """The page as an RGB picture, kept at `path`."""
    return np.asarray(Image.open(io.BytesIO(page.screenshot(path=path))).convert("RGB"))


def on_page(mask: NDArray[np.bool_], place: dict[str, Any], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A mask of the picture, shape (H, W), as the pixels of the page that it covers."""
    width, height = round(place["width"] * place["scale"]), round(place["height"] * place["scale"])
    resized = np.asarray(Image.fromarray(mask).resize((width, height)))
    left, top = round(place["left"] + place["x"]), round(place["top"] + place["y"])
    page = np.zeros(shape, bool)
    page[top : top + height, left : left + width] = resized[: shape[0] - top, : shape[1] - left]
    return page
