"""Servers and pictures that several tests share."""

from collections.abc import Callable, Iterator
from io import BytesIO

import numpy as np
import pytest
from flask import Flask
from hypothesis import settings
from PIL import Image

from backend.label_studio.client import LabelStudio
from tests.backend.fake_label_studio import FakeLabelStudio, serving
from tests.backend.label_studio.file_server import FileServer, file_server

# An example may take long on a machine that trains a network meanwhile; that says nothing about the law.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture
def server() -> Iterator[FakeLabelStudio]:
    with FakeLabelStudio() as running:
        yield running


@pytest.fixture
def client(server: FakeLabelStudio) -> LabelStudio:
    return LabelStudio(server.url, server.legacy_token)


@pytest.fixture
def backend_url() -> Iterator[str]:
    """A backend that serves the version lite0."""
    app = Flask("backend")
    app.add_url_rule("/health", view_func=lambda: {"status": "UP"})
    app.add_url_rule("/setup", endpoint="setup", view_func=lambda: {"model_version": "lite0"}, methods=["POST"])
    with serving(app) as url:
        yield url


@pytest.fixture
def elsewhere() -> Iterator[FileServer]:
    with file_server() as running:
        yield running


@pytest.fixture(scope="session")
def picture() -> Callable[[int, int], bytes]:
    """PNG of the given width and height, noise that is the same each time."""

    def draw(width: int, height: int) -> bytes:
        file = BytesIO()
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(file, "PNG")
        return file.getvalue()

    return draw
