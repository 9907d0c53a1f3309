"""A project's labelling config (XML) as controls, labels and the image they belong to."""

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from defusedxml import DefusedXmlException  # type: ignore[import-untyped]
from defusedxml.ElementTree import DefusedXMLParser  # type: ignore[import-untyped]

from backend.errors import ConfigError
from backend.label_studio.controls import CHOICES, CONTROLS, REGION_CONTROLS
from backend.label_studio.controls.control import Control
from backend.label_studio.controls.pairs import TOOLS
from backend.label_studio.status import StatusLabel, is_status_label
from backend.label_studio.task_data import UNDEFINED_KEY
from models.errors import brief

__all__ = ["Control", "LabelConfig", "parse_label_config"]

LABEL_TAGS = ("Label", "Choice")
COLOUR = re.compile(r"#(?:[0-9A-Fa-f]{3}|[0-9A-Fa-f]{6})|[A-Za-z]{3,20}")
PREDICTED = {*TOOLS, *(control.tag for control in CONTROLS)}
# Lower is better; what holds any mask is equally good.
PREFERENCE = {tag: 0 if adapter.exact else place for place, (tag, adapter) in enumerate(REGION_CONTROLS.items())}
# Label Studio's editor takes the names of tags and attributes in any case; these are the ones that are looked for.
TAGS = {*PREDICTED, *LABEL_TAGS, "Image", "Labels", "TextArea", "Repeater", "MagicWand", "KeyPoint", "KeyPointLabels"}
SPELT_TAGS = {tag.lower(): tag for tag in TAGS}
SPELT_ATTRIBUTES = {name.lower(): name for name in ("toName", "valueList", "perRegion", "perItem")}
# Real configs have some hundreds of tags, and some ten thousand characters.
MAX_CHARACTERS, MAX_ELEMENTS, MAX_DEPTH = 1 << 20, 20_000, 100
# Each tool is a control with each <Labels> beside it, so a short config could name millions of them.
MAX_CONTROLS = 1000


@dataclass(frozen=True)
class LabelConfig:
    """The controls and labels that a project's labelling config offers.

    Attributes:
        controls: every supported control that is bound to an image, in the config's order; at least one.
        left_out: a sentence for each tag on an image that nothing is predicted for.
        elsewhere: names of tags that show something else than an image of `columns`; what is said of them is not read.
        colours: class and colour of each label that has one, as CSS writes it.
        status: the text area that tells annotators why a task has no masks; None if there is none.
    """

    controls: tuple[Control, ...]
    left_out: tuple[str, ...] = ()
    elsewhere: frozenset[str] = frozenset()
    colours: tuple[tuple[str, str], ...] = field(default=(), repr=False, compare=False)
    status: StatusLabel | None = None

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Keys of `task["data"]` with the images to segment, each once: those that are drawn on first."""
        return tuple(dict.fromkeys(c.image_key for c in (*self._in_order, *self.controls)))

    @property
    def image_key(self) -> str:
        """Key of `task["data"]` with the image to segment: the first of them."""
        return self.columns[0]

    def on(self, column: str) -> "LabelConfig":
        """The part of the config that is about the image of one column."""
        return self._by_column[column]

    def shows_list(self, column: str) -> bool:
        """Whether the image of a column is a list of images, page by page."""
        return any(control.listed for control in self._by_column[column].controls)

    def column_of(self, region: Mapping[str, Any]) -> str | None:
        """The column of the image that a region is about; None where its names do not tell."""
        for key, attribute in (("to_name", "to_name"), ("from_name", "name")):
            columns = {c.image_key for c in self.controls if getattr(c, attribute) == region.get(key)}
            if len(columns) == 1:
                return columns.pop()
        return None

    def is_elsewhere(self, region: Mapping[str, Any]) -> bool:
        """Whether a region is about something else than an image of `columns`."""
        to_name = region.get("to_name")
        return isinstance(to_name, str) and to_name in self.elsewhere

    @cached_property
    def region_controls(self) -> tuple[Control, ...]:
        """Controls that draw; a smart tool whose labels are painted on the same image only prompts."""
        controls = [control for control in self.controls if control.tag in REGION_CONTROLS]
        painted: dict[str, set[str]] = {}
        for control in controls:
            if REGION_CONTROLS[control.tag].exact:
                painted.setdefault(control.image_key, set()).update(control.labels.values())
        return tuple(
            control
            for control in controls
            if REGION_CONTROLS[control.tag].exact
            or not (control.smart and painted.get(control.image_key, set()).issuperset(control.labels.values()))
        )

    @cached_property
    def choices_controls(self) -> tuple[Control, ...]:
        """Controls that describe an image as a whole."""
        return tuple(control for control in self.controls if control.tag == CHOICES.tag)

    def control_for(self, label: str, *, stored: bool = False) -> Control | None:
        """The control that draws a class, None if none does.

        The most exact kind of those that offer it. Between kinds that are equally exact (BrushLabels, BitmaskLabels)
        and between controls of one kind, the first with `model_regions` is taken, else the first in the config.

        Args:
            label: the class.
            stored: it is a label as Label Studio stores it instead.
        """
        offering = [c for c in self.region_controls if (c.class_of(label) is not None if stored else label in c.labels)]
        return min(offering, key=lambda c: (PREFERENCE[c.tag], c.per_object is None), default=None)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Every class that a prediction may name, each once: those of regions first, then those of choices."""
        return tuple(dict.fromkeys(name for control in self._in_order for name in control.labels))

    @cached_property
    def training_classes(self) -> tuple[str, ...]:
        """One class per stored label, each once, in the order of `classes`: what an annotation can teach.

        A label with `predicted_values="a,b"` teaches a alone: which of the two was meant is not stored.
        """
        names = (control.class_of(label) for control in self._in_order for label in control.labels.values())
        return tuple(dict.fromkeys(name for name in names if name is not None))

    @cached_property
    def _by_column(self) -> dict[str, "LabelConfig"]:
        if len(self.columns) == 1:
            return {self.image_key: self}
        return {
            column: replace(self, controls=tuple(c for c in self.controls if c.image_key == column), left_out=())
            for column in self.columns
        }

    @property
    def _in_order(self) -> tuple[Control, ...]:
        return self.region_controls + self.choices_controls


def parse_label_config(xml: str) -> LabelConfig:
    """Read a labelling config.

    The parser of label-studio-sdk is not used: it leaves out `choice`, `smart` and `perRegion`, turns
    `$undefined$` into `undefined$`, and fails on a config with an encoding declaration.

    Args:
        xml: the config as Label Studio keeps it.

    Raises:
        ConfigError: the text is not XML, or offers no control that this backend can fill.
    """
    if len(xml) > MAX_CHARACTERS:
        raise ConfigError(f"the labelling config has {len(xml)} characters, at most {MAX_CHARACTERS} are read")
    try:
        root: Element = _parsed(xml)
    except ParseError as error:
        raise ConfigError(f"the labelling config is not well-formed XML: {error}; correct it there") from error
    except (DefusedXmlException, ValueError) as error:
        raise ConfigError(f"the labelling config is refused: {error}; take its <!DOCTYPE> and entities out") from error
    images = {name: tag for tag in root.iter("Image") if (name := tag.get("name"))}
    left_out: list[str] = []
    named = {name for tag in root.iter() if (name := tag.get("name"))}
    controls = tuple(islice(_controls(root, images, named, left_out), MAX_CONTROLS + 1))
    if len(controls) > MAX_CONTROLS:
        raise ConfigError(f"the labelling config pairs tools and <Labels> in more than {MAX_CONTROLS} ways; merge some")
    if not controls:
        raise ConfigError("; ".join([_nothing_to_fill(root, images), *left_out]))
    elsewhere = frozenset(named - {control.to_name for control in controls})
    return LabelConfig(controls, tuple(left_out), elsewhere, tuple(_colours(root).items()), _status(root, images))


def _status(root: Element, images: dict[str, Element]) -> StatusLabel | None:
    for tag in filter(is_status_label, root.iter("TextArea")):
        if (to_name := tag.get("toName", "")) in images:
            return StatusLabel(tag.get("name", ""), to_name)
    return None


class _Builder(TreeBuilder):
    """Spells known names in one way, and gives up a tree that is too deep or too large.

    Loops over parts of a deep one take its depth times.
    """

    def __init__(self) -> None:
        super().__init__()
        self._depth = self._elements = 0

    def start(self, tag: str, attributes: dict[str, str], /) -> Element:
        self._depth, self._elements = self._depth + 1, self._elements + 1
        if self._depth > MAX_DEPTH:
            raise ConfigError(f"the labelling config nests tags more than {MAX_DEPTH} deep; make it flatter")
        if self._elements > MAX_ELEMENTS:
            raise ConfigError(f"the labelling config has more than {MAX_ELEMENTS} tags; divide the project")
        spelt = {SPELT_ATTRIBUTES.get(name.lower(), name.lower()): value for name, value in attributes.items()}
        return super().start(SPELT_TAGS.get(tag.lower(), tag), spelt)

    def end(self, tag: str, /) -> Element:
        self._depth -= 1
        return super().end(SPELT_TAGS.get(tag.lower(), tag))


def _parsed(xml: str) -> Element:
    parser = DefusedXMLParser(target=_Builder())
    parser.feed(xml)
    root: Element = parser.close()
    return root


def _image_key(image: Element) -> str:
    # Asked only for images with a control: a picture that merely illustrates the page may have any address.
    attribute = "valueList" if image.get("valueList") else "value"
    value = image.get(attribute, "").strip()
    if value == UNDEFINED_KEY:
        return value
    if not value.startswith("$") or len(value) < 2:
        raise ConfigError(
            f'<Image name="{_short(image.get("name"))}"> has {attribute}={brief(value)}; this backend needs one that '
            f'names a column of the task data, for instance {attribute}="$image"'
        )
    return value[1:]


def _controls(
    root: Element, images: dict[str, Element], named: Container[str], left_out: list[str]
) -> Iterator[Control]:
    """The controls that can be filled; a sentence about each of the others is added to `left_out`.

    Args:
        root: of the config.
        images: its images by name.
        named: the names of all its tags.
        left_out: see above.
    """
    repeated = {tag for repeater in root.iter("Repeater") for tag in repeater.iter()}
    beside: dict[str, list[tuple[str, dict[str, str]]]] = {}  # image -> name and labels of each <Labels>
    for tag in root.iter("Labels"):
        if name := tag.get("name"):
            labels = _labels(tag)
            for image in dict.fromkeys(_names(tag.get("toName", ""))):
                beside.setdefault(image, []).append((name, labels))
    for tag in root.iter():
        name = tag.get("name")
        for to_name in dict.fromkeys(_names(tag.get("toName", ""))):
            if tag.tag in PREDICTED and to_name not in named:
                shown = ", ".join(map(_short, images)) or "none"
                left_out.append(
                    f'<{_short(tag.tag)} name="{_short(name)}"> is left to the annotator: toName="{_short(to_name)}" '
                    f"names nothing in the config; its images are {shown}"
                )
            if not name or to_name not in images or is_status_label(tag):
                continue
            try:
                if tag in repeated and tag.tag in PREDICTED:
                    raise ConfigError("what a <Repeater> repeats is not predicted")
                yield from _filled(tag, name, to_name, images[to_name], beside.get(to_name, []))
            except ConfigError as reason:
                left_out.append(f'<{_short(tag.tag)} name="{_short(name)}"> is left to the annotator: {reason}')


def _filled(
    tag: Element, name: str, to_name: str, image: Element, beside: Sequence[tuple[str, dict[str, str]]]
) -> Iterator[Control]:
    """The controls that a tag is, one for each `<Labels>` of `beside` if it is a tool; ConfigError if it is none."""
    if tag.tag in ("Labels", "MagicWand") or (tag.tag.startswith("KeyPoint") and tag.get("smart") == "true"):
        return  # for regions of other tags
    if tag.tag not in PREDICTED:
        raise ConfigError("what goes into it is not predicted")
    if tag.get("perRegion") == "true":
        raise ConfigError("it describes single regions, not the image")
    if tag.tag.startswith("Vector") and tag.get("closable") != "true":
        raise ConfigError('its paths stay open; write closable="true" if they go around something')
    control = Control(
        tag=TOOLS.get(tag.tag, tag.tag),
        name=name,
        to_name=to_name,
        image_key=_image_key(image),
        labels=_labels(tag),
        smart=tag.get("smart") == "true",
        single=tag.tag == CHOICES.tag and tag.get("choice", "single") != "multiple",
        per_object=_per_object(tag),
        listed=bool(image.get("valueList")),
        per_item=tag.get("perItem") == "true",
    )
    if tag.tag not in TOOLS:
        if _offers_nothing(tag):
            raise ConfigError("it offers no label; write some into the config")
        yield control
        return
    if not beside:
        raise ConfigError(f'there is no <Labels toName="{_short(to_name)}"> beside it')
    for labels_name, labels in beside:
        yield replace(control, labels=labels, labels_name=labels_name)


def _offers_nothing(tag: Element) -> bool:
    """Whether there is no label in a control, nor a column of the task data that brings some."""
    return not tag.get("value", "").startswith("$") and all(label.tag not in LABEL_TAGS for label in tag.iter())


def _per_object(tag: Element) -> bool | None:
    """The attribute model_regions: Label Studio passes on what begins with model_ and ignores it itself."""
    regions = tag.get("model_regions")
    if regions not in (None, "class", "object"):
        raise ConfigError(f'model_regions="{_short(regions)}" should be "class" or "object"')
    return None if regions is None else regions == "object"


def _colours(root: Element) -> dict[str, str]:
    colours: dict[str, str] = {}
    for label in root.iter("Label"):
        colour = label.get("background", "").strip()
        if COLOUR.fullmatch(colour):  # it is written into pages
            for name in _names(label.get("predicted_values", "")) or [label.get("alias") or label.get("value") or ""]:
                colours.setdefault(name, colour)
    return colours


def _labels(control: Element) -> dict[str, str]:
    labels: dict[str, str] = {}
    for label in control.iter():
        stored = label.get("alias") or label.get("value")
        # `value="$names"` stands for labels in the task data, which a prediction cannot know beforehand.
        if label.tag not in LABEL_TAGS or not stored or stored.startswith("$"):
            continue
        for name in _names(label.get("predicted_values", "")) or [stored]:
            # When two labels claim a class the first keeps it, as in label-studio-sdk's label map.
            labels.setdefault(name, stored)
    return labels


def _short(text: str | None) -> str:
    """A name as it stands in the config, but not a megabyte of it."""
    return f"{text[:60]}…" if text and len(text) > 60 else str(text)


def _names(comma_separated: str) -> list[str]:
    return [name.strip() for name in comma_separated.split(",") if name.strip()]


def _nothing_to_fill(root: Element, images: dict[str, Element]) -> str:
    tags = ", ".join(f"<{control.tag}>" for control in CONTROLS)
    found = ", ".join(sorted({f"<{tag.tag}>" for tag in root.iter() if tag.get("toName")})) or "no control at all"
    names = ", ".join(map(brief, images)) or "no <Image> at all"
    return (
        f"the labelling config offers nothing that this backend can fill: it has {found} and images named {names}; "
        f"add one of {tags} whose toName is the name of an <Image>, or <Labels> beside a tool such as <Brush>"
    )
