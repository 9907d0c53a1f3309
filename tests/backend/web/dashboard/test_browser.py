"""The dashboard in a real browser: what fits, what can be pressed, and what those can use who see or move otherwise."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from flask.testing import FlaskClient
from playwright.sync_api import Browser, Page, ViewportSize, expect

from backend.database.reviews import Doubt, Reviews
from tests.backend.fake_label_studio import serving as served_at
from tests.backend.jobs.edit import edit_job
from tests.browser import chromium

DESKTOP, PHONE = (1280, 900), (390, 844)
PAGES = ("", "/projects/3", "/projects/3/review", "/projects/4", "/projects/5", "/projects/6", "/projects/99")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def address(client: FlaskClient, populated: dict[str, str]) -> Iterator[str]:
    """The populated dashboard's address; each answer is read and its file closed before it is sent, because the test
    server forgets the file of a browser that leaves while a picture loads.
    """
    application: Any = client.application
    answer = application.wsgi_app

    def answer_whole(environ: Any, start_response: Any) -> list[bytes]:
        with closing(answer(environ, start_response)) as body:
            return [b"".join(body)]

    application.wsgi_app = answer_whole
    with served_at(application) as url:
        yield f"{url}/dashboard"


@pytest.fixture
def visit(browser: Browser) -> Iterator[Any]:
    """Opens pages of a size and colour scheme; an error in the browser's console, such as a breach of the page's
    content security policy, fails the test.
    """
    pages, complaints = [], []

    def listen(message: Any) -> None:
        # Connections are cut when a page is left; that everything loads is tested elsewhere.
        if message.type == "error" and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    def open_page(size: tuple[int, int] = DESKTOP, scheme: Any = "light", **options: Any) -> Page:
        viewport = ViewportSize(width=size[0], height=size[1])
        page = browser.new_context(viewport=viewport, color_scheme=scheme, **options).new_page()
        page.set_default_timeout(60_000)
        page.on("console", listen)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.context.close()
    assert complaints == []


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_pages_fit_their_width_and_the_browser_has_no_complaint(visit, address, size):
    page = visit(size)
    for path in PAGES:
        page.goto(address + path)
        assert page.evaluate("document.documentElement.scrollWidth") == size[0], path


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_names_of_a_hundred_letters_widen_no_page_and_break_no_button(visit, address, store, records, size):
    """Titles, classes, annotators and files are named elsewhere."""
    name = "x" * 100
    kept = {name: {"drawn": 3, "iou": 0.5, "unchanged": 1, "added": 1}}
    job = next(one for one in store.find("3", kind="training") if one.state == "done")
    classes = {**job.report["classes"], name: 2}
    report = {**job.report, "title": name, "classes": classes, "annotators": {name: kept}, "acceptance": {name: kept}}
    edit_job(store, job.id, report=report, message=name)
    doubt = Doubt("41", "7", name, name, "label", 0.81, f"the mask of {name} lies elsewhere", "p3-r005-lite0", False)
    Reviews(records).replace("3", [doubt])
    page = visit(size)
    for path in ("", "/projects/3", "/projects/3/review"):
        page.goto(address + path)
        assert page.evaluate("document.documentElement.scrollWidth") == size[0], path
    assert page.get_by_role("button", name="Fine", exact=True).bounding_box()["height"] < 60


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_no_barrier(visit, address, size, scheme):
    """Labels, contrast, order of headings, regions that can be reached by keyboard, and the rest of axe's rules."""
    page = visit(size, scheme)
    for path in PAGES:
        page.goto(address + path)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
    page.goto(f"{address}/projects/3")
    page.get_by_role("button", name="Roll back…").click()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_figures_of_a_row_stand_in_one_line(visit, address):
    """In every table; and a figure in a sentence does not break it."""
    page = visit()
    page.goto(f"{address}/projects/3")
    rows = page.locator("tbody tr")
    assert rows.count() > 10
    tops = rows.evaluate_all("rows => rows.map(row => [...row.children].map(cell => cell.getBoundingClientRect().top))")
    assert all(max(row) - min(row) < 2 for row in tops)
    shown = page.locator("p .number").evaluate_all("all => all.map(one => getComputedStyle(one).display)")
    assert set(shown) == {"inline"}


def test_a_version_is_promoted_after_a_question_and_rolled_back(visit, address, registry):
    page = visit()
    page.goto(f"{address}/projects/3")
    row = page.get_by_role("row", name="p3-r006-lite0")
    question = page.get_by_role("dialog", name="Serve p3-r006-lite0?")
    row.get_by_role("button", name="Promote…").click()
    expect(question).to_contain_text("p3-r005-lite0 stays, and rolling back returns to it")
    expect(question.get_by_role("button", name="Leave it")).to_be_focused()
    page.keyboard.press("Escape")
    expect(question).to_be_hidden()
    assert registry.current("3").version == "p3-r005-lite0"

    row.get_by_role("button", name="Promote…").click()
    question.get_by_role("button", name="Serve p3-r006-lite0").click()
    expect(page.get_by_role("status")).to_contain_text("p3-r006-lite0 is served from now on")
    assert registry.current("3").version == "p3-r006-lite0"

    page.get_by_role("button", name="Roll back…").click()
    page.get_by_role("button", name="Roll back to p3-r005-lite0").click()
    expect(page.get_by_role("status")).to_contain_text("p3-r005-lite0 is served again")
    assert registry.current("3").version == "p3-r005-lite0"
    page.reload()
    expect(page.get_by_role("status")).to_have_count(0)


def test_train_cancel_and_draw_without_scripts_on_a_phone(visit, address, store):
    page = visit(PHONE, java_script_enabled=False)
    page.goto(f"{address}/projects/5")
    page.get_by_role("button", name="Train").click()
    expect(page.get_by_role("status")).to_contain_text("is queued")
    (job,) = store.find("5")
    page.get_by_role("button", name="Cancel…").click()
    page.get_by_role("button", name="Cancel it").click()
    expect(page.get_by_role("status")).to_contain_text("The training is cancelled")
    assert store.get(job.id).state == "cancelled"
    page.get_by_role("button", name="Pre-annotate…").click()
    page.get_by_role("button", name="Pre-annotate the unlabelled tasks").click()
    expect(page.get_by_role("status")).to_contain_text("Pre-annotation is queued")
    assert [found.kind for found in store.find("5", ("queued",))] == ["prediction"]


def test_progress_moves_by_itself_and_the_page_follows_when_a_job_ends(visit, address, store, populated):
    page = visit()
    page.goto(f"{address}/projects/3")
    bar = page.get_by_role("progressbar", name="Progress of the training")
    expect(bar).to_have_attribute("value", "0.62")
    edit_job(store, populated["training"], progress=0.8, message="almost there")
    store.log(populated["training"], "refiner 800/1000")
    expect(bar).to_have_attribute("value", "0.8", timeout=30_000)
    expect(page.get_by_text("almost there").first).to_be_visible()
    expect(page.get_by_text("refiner 800/1000")).to_be_visible()
    edit_job(store, populated["training"], state="failed", reason="out of memory")
    expect(bar).to_have_count(0, timeout=30_000)
    expect(page.get_by_text("out of memory").first).to_be_visible()


def test_a_page_does_not_change_under_a_question(visit, address, store, populated):
    page = visit()
    page.goto(f"{address}/projects/3")
    page.get_by_role("button", name="Roll back…").click()
    edit_job(store, populated["training"], state="failed", reason="out of memory")
    page.wait_for_timeout(6000)
    expect(page.get_by_role("dialog", name="Roll back to p3-r004-lite0?")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_text("out of memory").first).to_be_visible(timeout=30_000)


def test_everything_that_can_be_pressed_is_reached_by_keyboard_and_seen_to_be(visit, address):
    page = visit()
    page.goto(f"{address}/projects/5")
    seen = []
    for _ in range(20):
        page.keyboard.press("Tab")
        name, width = page.evaluate(
            "() => [document.activeElement.textContent.trim(), getComputedStyle(document.activeElement).outlineWidth]"
        )
        if page.evaluate("document.activeElement === document.body"):
            break
        assert width == "3px", name
        seen.append(name)
    assert seen[:2] == ["Skip to the content", "premask"]
    assert {"Open in Label Studio", "Train", "Pre-annotate…"} <= set(seen)


def test_all_pictures_of_the_gallery_are_shown(visit, address):
    page = visit()
    page.goto(f"{address}/projects/3")
    pictures = page.locator(".steps img")
    for index in range(pictures.count()):
        pictures.nth(index).scroll_into_view_if_needed()
    page.wait_for_function("() => [...document.querySelectorAll('.steps img')].every(i => i.naturalWidth > 0)")
    gallery = page.locator("section[aria-labelledby=gallery] .steps img")
    assert gallery.count() % 6 == 0
    assert gallery.count() >= 36
