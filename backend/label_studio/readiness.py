"""Whether a project can be trained for: the accepted tasks it has and needs, said in the same words everywhere."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from backend.label_studio.annotations import is_accepted
from backend.label_studio.client import TaskRow


class Tasks(Protocol):
    """The part of `backend.label_studio.client.LabelStudio` that is used here."""

    def task_rows(self, project_id: str, *, annotated: bool) -> list[TaskRow]:
        """Tasks in short."""


def count_accepted(client: Tasks, project: str) -> int:
    """Number of a project's tasks with an annotation that was not cancelled."""
    return len(client.task_rows(project, annotated=True))


def accepted_in(tasks: Sequence[Mapping[str, Any]]) -> int:
    """The same of exported tasks, those left out that a reviewer turned down."""
    return sum(any(is_accepted(one) for one in task.get("annotations") or []) for task in tasks)


def no_model(accepted: int, needed: int, waiting: str = "") -> str:
    """Of a project for which no model answers.

    Args:
        accepted: tasks it has.
        needed: tasks that a training needs.
        waiting: the version that could be promoted, "" if there is none.

    >>> no_model(3, 4)
    'No model knows these classes yet: 3 of 4 needed tasks accepted'
    >>> no_model(7, 4)
    'No model knows these classes yet: 7 tasks accepted, enough to press Start Training'
    >>> no_model(7, 4, "p3-r001-lite0")
    'No version is served: p3-r001-lite0 waits to be promoted; 7 tasks accepted'
    """
    tasks = f"{accepted} {'task' if accepted == 1 else 'tasks'} accepted"
    if waiting:
        return f"No version is served: {waiting} waits to be promoted; {tasks}"
    known = f"{tasks}, enough to press Start Training"
    if accepted < needed:
        known = f"{accepted} of {needed} needed tasks accepted"
    return f"No model knows these classes yet: {known}"


def too_few(project: str, accepted: int, needed: int, left_out: str = "") -> str:
    """Why a project cannot be trained for yet, and the remedy.

    Args:
        project: its id.
        accepted: tasks it has to learn from.
        needed: tasks that a training needs.
        left_out: accepted tasks that nothing can be learnt from, by reason; "" if there are none.

    >>> too_few("3", 1, 4, "5 with a broken image").partition("; ")[2]
    'annotate and submit 3 more or see to those left out (5 with a broken image), then press Start Training'
    """
    others = f" or see to those left out ({left_out})" if left_out else ""
    return (
        f"project {project} has {accepted} accepted {'task' if accepted == 1 else 'tasks'} to learn from and needs "
        f"{needed}; annotate and submit {needed - accepted} more{others}, then press Start Training"
    )
