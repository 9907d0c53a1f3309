"""The images of a task, and which of them a region is about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.label_studio.label_config import LabelConfig
from backend.label_studio.task_data import field_of


@dataclass(frozen=True)
class TaskImage:
    """One image of a task.

    Attributes:
        column: key of `task["data"]` that its `<Image>` tags show, as in `Control.image_key`.
        path: where in `task["data"]` its address is, for `ImageLoader.load`.
        item_index: which page of a list it is, from 0; None if its tags show one image.
        label: tells it from the task's other images, for people; "" where there can be no other.
    """

    column: str
    path: str
    item_index: int | None = None
    label: str = ""


def task_images(task: Mapping[str, Any], config: LabelConfig) -> list[TaskImage]:
    """The images of a task in the order of `LabelConfig.columns`; an empty column or page is none.

    Always at least one, whose loading tells what is wrong if no column has an address.
    """
    data = task.get("data")
    several = len(config.columns) > 1
    found = [
        image
        for column in config.columns
        for image in _pages(column, field_of(data, column), config.shows_list(column), column if several else "")
    ]
    return found or [TaskImage(config.columns[0], config.columns[0])]


def _pages(column: str, value: Any, listed: bool, label: str) -> list[TaskImage]:
    if not isinstance(value, list):
        return [TaskImage(column, column, 0 if listed else None, label)] if value not in (None, "") else []
    if not listed:
        return [TaskImage(column, f"{column}[0]", None, label)] if value else []  # the editor shows the first alone
    return [
        TaskImage(column, f"{column}[{index}]", index, f"{label} page {index + 1}".strip())
        for index, address in enumerate(value)
        if address not in (None, "")
    ]


def images_of_region(
    region: Mapping[str, Any], config: LabelConfig, images: Sequence[TaskImage]
) -> Sequence[TaskImage]:
    """The images of a task that a region may be about.

    Args:
        region: of an annotation, a prediction or a prompt.
        config: the project's labelling config.
        images: of the task.

    Returns:
        One image where the region says which; none if it is about something else that the task shows, or a page that
        the task does not have; several where it cannot be told.
    """
    if config.is_elsewhere(region):
        return ()
    column = config.column_of(region)
    of_column = [image for image in images if column in (None, image.column)]
    index = region.get("item_index")
    if column is None or not config.shows_list(column):
        return of_column
    if index is None:
        index = 0  # as the editor takes it
    if not isinstance(index, int):
        return of_column
    return [image for image in of_column if image.item_index == index]
