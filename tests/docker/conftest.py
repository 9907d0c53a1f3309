"""The image that the tests of this folder look at, built once."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.image import Image, built, missing

OWNER = 1001


@pytest.fixture(scope="session")
def image() -> Iterator[Image]:
    """The target `cpu`."""
    if packages := missing():
        pytest.fail(f"install first: apt-get install --no-install-recommends {' '.join(packages)}", pytrace=False)
    with built("cpu") as image:
        yield image


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder for /data, owned as Docker fills a new volume from the image."""
    return owned(tmp_path / "data")


def owned(folder: Path) -> Path:
    """Make a folder that the image's user may write to."""
    folder.mkdir(parents=True)
    os.chown(folder, OWNER, OWNER)
    return folder
