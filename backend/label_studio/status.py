"""What an annotator is told where a task gets no masks: a text in the task, if the project's config has a place for it.

Label Studio shows nothing of a backend's errors. It shows predictions, and a prediction may fill a text area. So a task
that someone opens and that gets no masks has a prediction with a sentence and nothing else, of a version of its own
that no model has: a job that predicts the task later is not held up by it, and the editor prefers the served version's.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element
from xml.sax.saxutils import quoteattr

from backend.errors import ConfigError
from backend.label_studio.controls.region import new_id

NAME = "premask"  # of the text area
TYPE = "textarea"
VERSION = "no masks"  # of a prediction that only says why there are none
LATE = "The masks are still being drawn. Go on with another task; they are here when you open this one again later."
NO_MODEL = "No model knows these classes yet. Draw by hand or with the smart tools; trainings learn from what you draw."
FAILED = "No masks could be drawn"
MAX_REASON = 300  # characters
ROOT = re.compile(
    r"""\s*(?:<\?[^>]*\?>\s*)?(?:<!--(?:(?!-->).)*-->\s*)*<View(?:\s+[\w:.-]+\s*=\s*(?:"[^"]*"|'[^']*'))*\s*>""",
    re.S | re.I,
)
# The text shows, the field to write into does not; the class keeps the style to this text area.
LABEL = """
  <View className="premask-status">
    <Style>.premask-status form, .premask-status textarea, .premask-status input {{ display: none }}</Style>
    <TextArea name="premask" toName={image} editable="false" skipDuplicates="true"/>
  </View>
"""


@dataclass(frozen=True)
class StatusLabel:
    """The text area of a project's config that takes the sentence.

    Attributes:
        name: of the tag.
        to_name: the image that it is for.
    """

    name: str
    to_name: str


def is_status_label(tag: Element) -> bool:
    """Whether a tag of a labelling config is the text area that takes the sentence."""
    return tag.tag == "TextArea" and tag.get("name") == NAME


def with_status_label(xml: str, image: str) -> str:
    """A labelling config with the text area added at its beginning, where it is seen without scrolling.

    Args:
        xml: that has none yet.
        image: name of the <Image> that it is for.

    Raises:
        ConfigError: it does not begin with a <View>, or another tag has the name.
    """
    if re.search(rf"""\bname\s*=\s*["']{NAME}["']""", xml):
        raise ConfigError(f'another tag of the labelling config is named "{NAME}"; give it another name first')
    if (root := ROOT.match(xml)) is None:
        raise ConfigError("the labelling config does not begin with <View>, so nothing can be added to it")
    return xml[: root.end()] + LABEL.format(image=quoteattr(image)).rstrip() + xml[root.end() :]


def status_entry(label: StatusLabel, sentence: str) -> dict[str, Any]:
    """The answer for a task that gets no masks, in the shape of `backend.label_studio.protocol.task_entry`."""
    region = {
        "id": new_id(),
        "type": TYPE,
        "from_name": label.name,
        "to_name": label.to_name,
        "value": {"text": [sentence]},
        "meta": {"text": [sentence]},
    }
    return {"result": [region], "score": 0.0, "model_version": VERSION}


def failed(reason: str) -> str:
    """The sentence for a task that could not be predicted."""
    return f"{FAILED}: {reason or 'the reason is in the log of the server'}"[:MAX_REASON]


def is_status(prediction: Mapping[str, Any]) -> bool:
    """Whether a prediction only says why there are no masks."""
    return prediction.get("model_version") == VERSION
