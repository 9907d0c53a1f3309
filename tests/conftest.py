"""What tests of every package share."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault(
    "HF_HUB_OFFLINE", "1"
)  # before anything reads it: no test asks for weights, tests' programs neither
# What OpenVINO computes by is made once for each checkpoint, which takes a minute: tests/models/test_runtime.py does.
os.environ.setdefault("PREMASK_RUNTIME", "pytorch")

# No test depends on the machine's speed.
settings.register_profile("any machine", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

TESTS = Path(__file__).parent
ROOT = TESTS.parent
REAL_SERVERS = "tests/end_to_end/"
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
    """Mark what is slow by where it lies or because it asks for a longer timeout; put real servers last.

    So the quick tests fail first, and no server idles beside them. Where two processes share the tests, the servers are
    first: one process has them all, while the other does the rest.
    """
    for item in items:
        folder = item.path.parent.relative_to(TESTS).as_posix()
        if folder in SLOW_FOLDERS or item.get_closest_marker("timeout"):
            item.add_marker("slow")
    shared = hasattr(config, "workerinput")  # of pytest-xdist
    items.sort(key=lambda item: (item.get_closest_marker("end_to_end") is None) == shared)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Processes take tests file by file (`--dist loadfile`), those of the real servers as if they were one file."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

    class Files(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return REAL_SERVERS if nodeid.startswith(REAL_SERVERS) else super()._split_scope(nodeid)

    return Files(config, log)
