"""The review queue, on both databases."""

import pytest

from backend.database.engine import Database
from backend.database.reviews import Doubt, Reviews
from backend.errors import UnknownTask
from tests.backend.conftest import BOTH_STORAGES


def doubt(task: int, suspicion: float, annotations: str = "1") -> Doubt:
    return Doubt(str(task), annotations, "", "Lumen", "missed", suspicion, "Lumen is not drawn", "p3-r001", False)


@BOTH_STORAGES
def test_the_likeliest_errors_come_first_and_each_project_has_its_own(records: Database) -> None:
    reviews = Reviews(records)
    assert reviews.replace("3", [doubt(1, 0.2), doubt(2, 0.9), doubt(3, 0.5)]) == 3
    reviews.replace("4", [doubt(1, 0.7)])
    assert [one.task for one in reviews.waiting("3")] == ["2", "3", "1"]
    assert reviews.waiting("4") == [doubt(1, 0.7)]
    assert reviews.waiting("5") == []


@BOTH_STORAGES
def test_what_is_fine_stays_away_until_its_annotations_change(records: Database) -> None:
    reviews = Reviews(records)
    reviews.replace("3", [doubt(1, 0.9), doubt(2, 0.5)])
    reviews.fine("3", "1")
    assert [one.task for one in reviews.waiting("3")] == ["2"]
    assert reviews.replace("3", [doubt(1, 0.9), doubt(2, 0.5)]) == 1
    assert [one.task for one in reviews.waiting("3")] == ["2"]
    assert reviews.replace("3", [doubt(1, 0.9, "1,7"), doubt(2, 0.5)]) == 2
    assert [one.task for one in reviews.waiting("3")] == ["1", "2"]


@BOTH_STORAGES
def test_a_new_look_forgets_what_was_corrected_since(records: Database) -> None:
    reviews = Reviews(records)
    reviews.replace("3", [doubt(task, 0.9) for task in range(1200)])
    assert len(reviews.waiting("3")) == 1200
    reviews.replace("3", [doubt(5, 0.3)])
    assert reviews.waiting("3") == [doubt(5, 0.3)]


@BOTH_STORAGES
def test_a_task_that_is_not_queued_is_named(records: Database) -> None:
    reviews = Reviews(records)
    reviews.replace("3", [doubt(1, 0.9)])
    reviews.fine("3", "1")
    for project, task in (("3", "1"), ("3", "2"), ("4", "1")):
        with pytest.raises(UnknownTask, match=f"task {task} is not in the review queue of project {project}"):
            reviews.fine(project, task)
