"""The documentation site: built strictly, complete, and asking nothing of other hosts."""

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from markdown.extensions.toc import slugify
from playwright.sync_api import Browser, ViewportSize

from backend.cli import COMMANDS
from backend.settings import PREFIX, Settings
from tests.browser import chromium
from tests.docs.shown import ROOT

pytestmark = pytest.mark.timeout(900)

PHONE, DESK = ViewportSize(width=390, height=844), ViewportSize(width=1280, height=900)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it; a broken link or anchor on any page is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environ = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the site is served."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


class Loaded(HTMLParser):
    """What a page loads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        loads = {"link": "href", "a": None, "use": "href"}.get(tag, "src")
        if loads and known.get(loads) and known.get("rel") not in ("canonical", "next", "prev"):
            self.addresses.append(str(known[loads]))


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    foreign, pages = {}, list(site.glob("*.html"))
    for page in pages:
        loaded = Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        foreign[page.name] = [one for one in loaded.addresses if urlsplit(one).netloc]
    assert {page: found for page, found in foreign.items() if found} == {}
    assert len(pages) > 15
    styles = "".join(style.read_text(encoding="utf-8") for style in site.rglob("*.css"))
    assert not re.search(r"(url\(|@import)\s*[\"']?https?:", styles)


def test_every_page_is_read_without_asking_other_hosts_and_fits_a_phone(
    site: Path, address: str, browser: Browser
) -> None:
    asked: list[str] = []
    wide = {}
    page = browser.new_page(viewport=PHONE)
    page.on("request", lambda request: asked.append(request.url))
    for file in sorted(site.glob("*.html")):
        page.goto(f"{address}/{file.name}", wait_until="load")
        wide[file.name] = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    page.close()
    assert {name: over for name, over in wide.items() if over > 0} == {}
    assert {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))} == {
        urlsplit(address).netloc
    }


def test_the_search_finds_a_setting(address: str, browser: Browser) -> None:
    page = browser.new_page(viewport=DESK)
    page.goto(f"{address}/index.html")
    page.locator(".md-search__input").click()
    page.locator(".md-search__input").press_sequentially("PREMASK_DEADLINE")
    page.locator(".md-search-result__link").first.wait_for(timeout=60_000)
    found = page.locator(".md-search-result__link").evaluate_all("links => links.map(link => link.href)")
    page.close()
    assert any("settings.html" in link for link in found)


def test_the_references_name_everything_that_there_is(site: Path) -> None:
    settings, commands = ((site / f"{name}.html").read_text(encoding="utf-8") for name in ("settings", "cli"))
    fields = {
        name.upper() if name.startswith("label_studio") else PREFIX + name.upper() for name in Settings.model_fields
    }
    assert {name for name in fields if f"<code>{name}</code>" not in settings} == set()
    assert {name for name in COMMANDS if f'id="premask-{name}"' not in commands} == set()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"])
def test_links_of_the_files_beside_the_docs_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not urlsplit(link).scheme]
    missing = []
    for link in links:
        target, _, anchor = link.partition("#")
        path = ROOT / target if target else ROOT / name
        if not path.exists() or (anchor and anchor not in anchors(path)):
            missing.append(link)
    assert missing == []


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+?)(?: \{#([\w-]+)\})?$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {anchor or slugify(title.replace("`", ""), "-") for title, anchor in headings}
