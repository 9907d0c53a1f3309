"""What tests of every package share."""

import os
from pathlib import Path

import pytest

os.environ.setdefault(
    "HF_HUB_OFFLINE", "1"
)  # before anything reads it: no test asks for weights, tests' programs neither
# What OpenVINO computes by is made once for each checkpoint, which takes a minute: tests/models/test_runtime.py does.
os.environ.setdefault("PREMASK_RUNTIME", "pytorch")

TESTS = Path(__file__).parent
ROOT = TESTS.parent
# Tests here start servers, browsers and programs, or train networks.
SLOW_FOLDERS = ("backend/faults", "backend/fuzz", "docs", "end_to_end", "models/studies")


@pytest.fixture(scope="session")
def oct_data() -> Path:
    """The folder of real intravascular OCT frames with masks; tests that need it are skipped without it."""
    folder = Path(os.environ.get("PREMASK_OCT_DATA") or ROOT.parent / "shared" / "data" / "oct")
    if not (folder / "classes.txt").exists():
        pytest.skip(f"needs the data folder {folder}; set PREMASK_OCT_DATA to where it is")
    return folder


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is slow by where it lies or because it asks for a longer timeout, and what shares servers.

    The real servers come last, so that the quick tests fail first. Where two processes share the tests, the servers
    belong to one of them and come first, while the other one does the rest.
    """
    for item in items:
        folder = item.path.parent.relative_to(TESTS).as_posix()
        if folder in SLOW_FOLDERS or item.get_closest_marker("timeout"):
            item.add_marker("slow")
        real = item.get_closest_marker("end_to_end") is not None
        item.add_marker(pytest.mark.xdist_group("real servers" if real else str(item.path.relative_to(TESTS))))
    shared = hasattr(config, "workerinput")  # of pytest-xdist
    items.sort(key=lambda item: (item.get_closest_marker("end_to_end") is None) == shared)
