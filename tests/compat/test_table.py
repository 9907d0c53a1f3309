"""The table of releases, without starting any."""

import json
from pathlib import Path

import pytest

from tests.compat import __main__ as compat
from tests.compat.environments import VERSIONS
from tests.compat.steps import STEPS


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(compat, "CACHE", tmp_path)
    for version, found in (("1.1", "yes"), ("1.2", "yes, one by one")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "result.json").write_text(json.dumps(dict.fromkeys(STEPS, found) | {"click": "HTTP 500"}))
    return tmp_path


def test_a_failure_is_told_below_by_its_number_and_a_release_that_was_not_run_is_no_success(results: Path) -> None:
    lines = compat.table(["1.1", "1.2", "1.3"]).splitlines()
    assert lines[0] == "| Label Studio | 1.1 | 1.2 | 1.3 |"
    assert "| click | **no** (1) | **no** (2) | not run |" in lines
    assert "| doctor | yes | yes, one by one | not run |" in lines
    assert lines[-2:] == ["1. 1.1, click: HTTP 500", "2. 1.2, click: HTTP 500"]


def test_a_failed_step_is_exit_code_1_and_the_page_is_left_alone_by_other_releases(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = results / "page.md"
    page.write_text(f"before\n{compat.BEGIN}old\n{compat.END}after\n")
    monkeypatch.setattr(compat, "PAGE", page)
    found = dict.fromkeys(STEPS, "yes")
    monkeypatch.setattr(compat, "run", lambda version: iter(found.items()))
    for version in VERSIONS:
        (results / version).mkdir()
    assert compat.main(["1.1"]) == 0
    assert "old" in page.read_text()
    assert compat.main([VERSIONS[0]]) == 0
    written = page.read_text()
    assert written.startswith(f"before\n{compat.BEGIN}")
    assert written.endswith(f"{compat.END}after\n")
    assert f"| doctor | yes |{' not run |' * (len(VERSIONS) - 1)}" in written
    found["train"] = "it did not happen"
    assert compat.main([VERSIONS[0]]) == 1
    assert f"1. {VERSIONS[0]}, train: it did not happen" in page.read_text()


def test_the_page_has_the_table_of_every_release_and_step() -> None:
    shown = compat.PAGE.read_text().partition(compat.BEGIN)[2].partition(compat.END)[0].splitlines()
    assert f"| Label Studio | {' | '.join(VERSIONS)} |" in shown
    assert [line.split(" | ")[0][2:] for line in shown if line.startswith("| ")][1:] == list(STEPS)
