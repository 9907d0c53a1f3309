"""A backend after some months of use, behind its pages."""

import re
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from backend.database.credentials import Credentials
from backend.database.engine import Database
from backend.database.jobs import JobStore
from backend.database.reviews import Reviews
from backend.versions.registry import Registry
from tests.backend.web.dashboard.populated import doubt, draw_gallery, populate


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_gallery(tmp_path_factory.mktemp("gallery"))


@pytest.fixture
def populated(
    tmp_path: Path, registry: Registry, store: JobStore, credentials: Credentials, records: Database, drawn: Path
) -> dict[str, str]:
    """Fills the data folder; ids of its jobs by what they do."""
    doubt(Reviews(records))
    return populate(tmp_path / "populating", registry, store, credentials, drawn)


class Visitor:
    """Somebody with a browser: reads pages, and presses their buttons with the token that is in them."""

    def __init__(self, client: FlaskClient) -> None:
        self.client = client

    def read(self, path: str = "", status: int = 200) -> str:
        """The page at /dashboard + path."""
        answer = self.client.get(f"/dashboard{path}")
        assert answer.status_code == status, answer.text
        assert answer.mimetype == "text/html"
        return answer.text

    def press(self, project: str, button: str, **fields: str) -> str:
        """Press a button of a project's page; returns the message on the page after it."""
        page = self.read(f"/projects/{project}")
        token = re.search(r'name="csrf_token" value="([^"]+)"', page)[1]
        address = f"/dashboard/projects/{project}/{button}"
        assert f'action="{address}"' in page
        answer = self.client.post(address, data={"csrf_token": token, **fields})
        assert (answer.status_code, answer.location) == (303, f"/dashboard/projects/{project}")
        return re.search(r'<p class="message \w+" role="status">(.*?)</p>', self.read(f"/projects/{project}"))[1]


@pytest.fixture
def visitor(client: FlaskClient) -> Visitor:
    return Visitor(client)
