"""One control tag of a labelling config, as the rest of the backend sees it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True)
class Control:
    """A tag such as `<BrushLabels name="tag" toName="image">` with the labels inside it.

    Attributes:
        tag: the tag's type, for instance "BrushLabels"; also that of a `<Brush>` beside a `<Labels>`.
        name: its name; goes into `from_name` of a region.
        to_name: name of the `<Image>` it draws on or describes.
        image_key: key of `task["data"]` that holds that image's address, or the addresses of a list of images.
        labels: class -> label as Label Studio stores it. A label with `predicted_values="a,b"` stands for the
            classes a and b, any other for the class of its own stored name (`alias` if set, else `value`).
        smart: the control sends prompts for interactive segmentation.
        single: of several choices at most one may be taken (Choices only).
        labels_name: name of the `<Labels>` tag that a tool without labels of its own takes them from.
        per_object: whether each object gets a region of its own; None leaves it to the backend's setting.
        listed: the `<Image>` shows a list of images, page by page (valueList).
        per_item: the choices are made for each page of such a list, not once for all (Choices only).
    """

    tag: str
    name: str
    to_name: str
    image_key: str
    labels: Mapping[str, str] = field(default_factory=dict)
    smart: bool = False
    single: bool = False
    labels_name: str | None = None
    per_object: bool | None = None
    listed: bool = False
    per_item: bool = False

    def class_of(self, label: str) -> str | None:
        """The class that a stored label stands for (the first of its `predicted_values`), None if not offered."""
        return self._classes.get(label)

    @cached_property
    def _classes(self) -> dict[str, str]:
        classes: dict[str, str] = {}
        for name, stored in self.labels.items():
            classes.setdefault(stored, name)
        return classes
