"""The field of a project's tasks that says which of them belong together."""

import doctest
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.label_studio import task_data
from backend.label_studio.task_data import GROUP_FIELDS, group_field, group_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(GROUP_FIELDS), inner, max_size=2),
    max_leaves=4,
)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ([{"patient": "P1", "study": "S1"}, {"patient": "P2", "study": "S1"}], "patient"),
        ([{"patient": "P1", "study": "S1"}, {"study": "S1"}], "study"),
        ([{"patient": None, "series": 3}, {"patient": "P1", "series": 4}], "series"),
        ([{"patient": " ", "group": 0}, {"patient": "P1", "group": False}], "group"),
        ([{"patient": "P1"}, {"study": "S1"}], None),
        ([{"patient": {"name": "P1"}}], None),
        ([{"image": "a.png"}], None),
        ([None, {"patient": "P1"}], None),
        ([], None),
    ],
)
def test_the_first_field_that_every_task_has_names_the_groups(data: list[Any], field: str | None) -> None:
    assert group_field(data) == field


def test_a_field_that_the_operator_names_counts_where_tasks_lack_it() -> None:
    assert group_field([{"patient": "P1"}, {"ward": "W1"}], "ward") == "ward"


@given(JSON, st.sampled_from([*GROUP_FIELDS, "patient.study", "", None]))
def test_a_group_is_text_or_none_for_any_data(data: Any, key: str | None) -> None:
    group = group_of(data, key)
    assert group is None or group.strip()


@given(st.lists(JSON, max_size=3))
def test_every_task_has_a_group_in_the_field_that_is_found(data: list[Any]) -> None:
    field = group_field(data)
    assert field is None or all(group_of(one, field) is not None for one in data)


def test_the_examples_in_the_documentation_hold() -> None:
    assert doctest.testmod(task_data) == (0, 4)
