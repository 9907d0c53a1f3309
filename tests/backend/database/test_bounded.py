"""A job's report stays small, whatever strangers named, and says what it lacks."""

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.database.bounded import CUT_OFF, MAX_CHARACTERS, MAX_TEXT, bounded
from backend.label_studio.acceptance import AcceptanceStatistics

JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=20),
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(st.text(max_size=5), parts, max_size=4),
    max_leaves=20,
)
MASKS = asdict(AcceptanceStatistics(3, 0.5, 1, 0))


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=6))
def test_a_report_of_usual_length_stays_as_it_is(report: dict[str, Any]) -> None:
    report.pop(CUT_OFF, None)
    assert bounded(report) == report


@pytest.mark.parametrize(
    ("name", "value", "entries"),
    [
        ("problems", ["a sentence about it"] * 50_000, 50_000),
        ("classes", {f"class {n}": n for n in range(50_000)}, 50_000),
        ("acceptance", {f"v{n}": {"Lumen": MASKS} for n in range(20_000)}, 20_000),
        ("acceptance", {"v1": {f"class {n}": MASKS for n in range(20_000)}}, 20_000),
        ("dropped", {"A" * 300_000: 3, "skipped by the annotator": 2}, 2),
    ],
)
def test_of_a_long_field_the_first_entries_are_kept_and_the_others_counted(name: str, value: Any, entries: int) -> None:
    report = bounded({"used": 7, name: value, "title": "after it"})
    assert (report["used"], report["title"]) == (7, "after it")
    assert len(json.dumps(report)) < MAX_CHARACTERS + 1000
    there = len(report[name]) if "v1" not in report[name] or len(report[name]) > 1 else len(report[name]["v1"])
    assert 0 < there < entries
    assert report[CUT_OFF] == {name: entries - there}


def test_what_is_kept_of_acceptance_is_kept_whole() -> None:
    """A page that found half of a class's figures could show none of the others."""
    report = bounded({"annotators": {f"user {n}": {f"class {m}": MASKS for m in range(200)} for n in range(200)}})
    kept = [figures for classes in report["annotators"].values() for figures in classes.values()]
    assert all(figures == MASKS for figures in kept)
    assert len(kept) + report[CUT_OFF]["annotators"] >= 200


def test_a_long_text_ends_with_its_length_and_many_fields_are_counted() -> None:
    report = bounded({"title": "A" * 10**6} | {f"field {n}": n for n in range(100)})
    assert report["title"].endswith("… (1000000 characters)")
    assert len(report["title"]) < MAX_TEXT + 100
    assert len(report) == 50 + 1
    assert report[CUT_OFF] == {CUT_OFF: 51}


def test_what_the_report_itself_left_out_is_added() -> None:
    report = bounded({"problems": ["a" * 100] * 5000, CUT_OFF: {"problems": 40, "classes": 2}})
    assert report[CUT_OFF] == {"problems": 5040 - len(report["problems"]), "classes": 2}
    assert bounded(report) == report
