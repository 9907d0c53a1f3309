"""What tests of every package share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def oct_data() -> Path:
    """The folder of real intravascular OCT frames with masks; tests that need it are skipped without it."""
    folder = Path(os.environ.get("PREMASK_OCT_DATA") or ROOT.parent / "shared" / "data" / "oct")
    if not (folder / "classes.txt").exists():
        pytest.skip(f"needs the data folder {folder}; set PREMASK_OCT_DATA to where it is")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with real servers come last: the quick ones fail first, and no server idles beside them."""
    items.sort(key=lambda item: item.get_closest_marker("end_to_end") is not None)
