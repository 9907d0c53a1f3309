"""The JSON that Label Studio sends to a backend, as objects; and predictions as the JSON that it stores."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from backend.errors import BadRequest
from backend.label_studio.controls import CHOICES, REGION_CONTROLS
from backend.label_studio.controls.control import Control
from backend.label_studio.controls.pairs import split_results
from backend.label_studio.label_config import LabelConfig, parse_label_config
from backend.label_studio.task_images import TaskImage
from backend.system.metrics import STAGE_SECONDS
from models.segment import Prediction, Segment, entropy

START_TRAINING = "START_TRAINING"
MAX_ACTION = 100  # characters of an event that are told back
# The version of a project that no model covers yet: a name, since after a null Label Studio asks again and again.
UNTRAINED = "untrained"
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
PROJECT_ID = re.compile(r"([0-9]{1,18})(\.[0-9]{1,18})?")


@dataclass(frozen=True)
class PredictRequest:
    """POST /predict.

    Attributes:
        project_id: the project's id, without the creation time that Label Studio appends.
        tasks: the tasks as sent, each with a "data" object and an "id", which is None where none was sent.
        config: the project's labelling config at this moment.
        context: prompts of a smart tool and the like; None for a plain request.
    """

    project_id: str
    tasks: list[dict[str, Any]]
    config: LabelConfig
    context: dict[str, Any] | None = None


@dataclass(frozen=True)
class SetupRequest:
    """POST /setup.

    Attributes:
        project_id: the project's id.
        label_config: the labelling config as XML, unparsed: setting up must not fail on one that cannot be used yet.
        hostname: the address Label Studio believes to have; often useless from another machine.
        access_token: legacy token of the project's creator, often switched off; "" if none came.
    """

    project_id: str
    label_config: str
    hostname: str
    access_token: str = field(repr=False)


@dataclass(frozen=True)
class WebhookEvent:
    """POST /webhook.

    Attributes:
        action: for instance "ANNOTATION_CREATED".
        project_id: the project's id.
        label_config: the project's labelling config as XML, "" if it did not come.
    """

    action: str
    project_id: str
    label_config: str = ""

    @property
    def starts_training(self) -> bool:
        """Somebody pressed Start Training, or the project trains on every submission."""
        return self.action == START_TRAINING

    @property
    def changes_annotations(self) -> bool:
        """Annotations were submitted, changed or deleted, one or many."""
        return self.action.startswith("ANNOTATION")


def parse_predict(body: Any) -> PredictRequest:
    """Read the body of /predict.

    Raises:
        BadRequest: it does not have the shape that Label Studio sends.
        ConfigError: the labelling config in it cannot be used.
    """
    request = _object(body, "the body of /predict")
    tasks = request.get("tasks")
    if not isinstance(tasks, list):
        raise BadRequest(f"/predict: 'tasks' should be a list of tasks, got {_seen(tasks)}")
    for position, task in enumerate(tasks):
        if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
            raise BadRequest(f"/predict: tasks[{position}] should be an object with 'data', got {_seen(task)}")
    params = request.get("params")
    context = None if params is None else _object(params, "/predict: 'params'").get("context")
    if context is not None:
        context = _object(context, "/predict: 'params.context'")
    project = project_id(request.get("project"), "/predict")
    config = _text(request.get("label_config"), "/predict: 'label_config'")
    # Last: a config that cannot be used is answered, a request that makes no sense is refused.
    return PredictRequest(project, [{"id": None} | task for task in tasks], parse_label_config(config), context)


def parse_setup(body: Any) -> SetupRequest:
    """Read the body of /setup.

    Raises:
        BadRequest: it does not have the shape that Label Studio sends.
    """
    request = _object(body, "the body of /setup")
    return SetupRequest(
        project_id=project_id(request.get("project"), "/setup"),
        label_config=_text(request.get("schema"), "/setup: 'schema'"),
        hostname=_text_or_nothing(request.get("hostname"), "/setup: 'hostname'"),
        access_token=_text_or_nothing(request.get("access_token"), "/setup: 'access_token'"),
    )


def parse_webhook(body: Any) -> WebhookEvent:
    """Read the body of /webhook, of any action.

    Raises:
        BadRequest: it does not have the shape that Label Studio sends.
    """
    event = _object(body, "the body of /webhook")
    project = _object(event.get("project"), "/webhook: 'project'")
    return WebhookEvent(
        action=_text(event.get("action"), "/webhook: 'action'")[:MAX_ACTION],
        project_id=project_id(project.get("id"), "/webhook"),
        label_config=project["label_config"] if isinstance(project.get("label_config"), str) else "",
    )


def prediction_entry(
    prediction: Prediction, config: LabelConfig, model_version: str, *, per_object: bool = False
) -> dict[str, Any]:
    """The prediction of a task with one image, as `task_entry`; of a config with several, the first column's image."""
    image = TaskImage(config.image_key, config.image_key)
    return task_entry([(image, prediction)], config, model_version, per_object=per_object)


@STAGE_SECONDS.labels("encode").time()
def task_entry(
    predictions: Sequence[tuple[TaskImage, Prediction]],
    config: LabelConfig,
    model_version: str,
    *,
    per_object: bool = False,
) -> dict[str, Any]:
    """The prediction of a task as Label Studio stores it.

    Each segment whose label the config offers on its image becomes regions of the best control that offers it (see
    `LabelConfig.control_for`); each Choices control gets the classes that the model judged present, on any page of a
    list where it is about all of them.

    Args:
        predictions: the pipeline's answer to each image of the task; at least one.
        config: the project's labelling config.
        model_version: the version that made it, the same string as in the answer to /setup.
        per_object: whether each object gets a region of its own where the control leaves it open.

    Returns:
        Object with "result", "score" and "model_version".
    """
    result: list[dict[str, Any]] = []
    scores: list[float] = []
    for image, prediction in predictions:
        part = config.on(image.column)
        made = _drawn(prediction, part, per_object)
        for control in part.choices_controls:
            if control.per_item or not control.listed:
                made += CHOICES.to_regions(prediction, control)
        result += made if image.item_index is None else [{**region, "item_index": image.item_index} for region in made]
        drawn = {label for control in part.region_controls for label in control.labels}
        scores.append(prediction.confidence(drawn, named=part.classes))
    for control in config.choices_controls:
        pages = [prediction for image, prediction in predictions if image.column == control.image_key]
        if control.listed and not control.per_item and pages:
            result += CHOICES.to_regions(_on_any(pages), control)
    return _entry(result, math.prod(scores), model_version)


def _drawn(prediction: Prediction, config: LabelConfig, per_object: bool) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = []
    for segment in prediction.segments:
        control = config.control_for(segment.label)
        if control is not None and segment.mask.any():
            single = per_object if control.per_object is None else control.per_object
            result += _regions(segment, control, presence=prediction.presence.get(segment.label), per_object=single)
    return result


def _on_any(pages: Sequence[Prediction]) -> Prediction:
    """What is said of a list of images as a whole: a class is on it if it is on a page."""
    presence: dict[str, float] = {}
    for page in pages:
        for label, p in page.presence.items():
            presence[label] = max(p, presence.get(label, 0.0))
    return Prediction(presence, present=frozenset().union(*(page.present for page in pages)))


def prompt_entry(
    segment: Segment,
    control: Control,
    model_version: str,
    *,
    improved: str | None = None,
    item_index: int | None = None,
) -> dict[str, Any]:
    """The answer to a smart tool's prompt, in the shape of `task_entry`.

    Args:
        segment: its label must be one of `control.labels`; without a pixel in its mask nothing was found.
        control: whose regions are made.
        model_version: the version that made it.
        improved: id of the region that the segment is to replace, None for a new region.
        item_index: the page of a list of images, None if there is no list.
    """
    if not segment.mask.any():
        return nothing_found(model_version)
    result = _regions(segment, control)
    if item_index is not None:
        result = [{**region, "item_index": item_index} for region in result]
    # Two results of one region share its id. The editor replaces the region with the same id on acceptance.
    first = result[0]["id"] if result else None
    for region in result:
        if improved is not None and region["id"] == first:
            region["id"] = improved
    return _entry(result, segment.score, model_version)


def nothing_found(model_version: str = "none") -> dict[str, Any]:
    """The answer to a prompt for which nothing is drawn; the editor takes anything else for a hidden failure."""
    return _entry([], 0.0, model_version)


def _entry(result: list[dict[str, Any]], score: float, model_version: str) -> dict[str, Any]:
    for region in result:
        region["score"] = _score(region["score"])
    return {"result": result, "score": _score(score), "model_version": str(model_version)}


def _regions(
    segment: Segment, control: Control, *, presence: float | None = None, per_object: bool = False
) -> list[dict[str, Any]]:
    """A segment as Label Studio keeps it, how uncertain it is in `meta`: as numbers, and as the text that it shows.

    Args:
        segment: as for `RegionAdapter.to_regions`.
        control: whose regions are made.
        presence: probability that the class is on the image; None where the annotator has said so.
        per_object: as for `RegionAdapter.to_regions`.
    """
    bits = {} if presence is None else {"presence": round(float(entropy(presence)), 3)}
    bits["outline"] = round(segment.uncertainty, 3)
    text = "uncertainty in bits: " + ", ".join(f"{name} {value:.2f}" for name, value in bits.items())
    regions = REGION_CONTROLS[control.tag].to_regions(segment, control, per_object=per_object)
    return [
        {**part, "meta": {"text": [text], "uncertainty": dict(bits)}}
        for region in regions
        for part in split_results(region, control)
    ]


def _score(score: float) -> float:
    # Label Studio would accept NaN and then write JSON that no browser reads.
    return min(max(float(score), 0.0), 1.0) if math.isfinite(score) else 0.0


def project_id(project: Any, where: str) -> str:
    """The id from "45.1795393773" (id and time of creation) or 45.

    Args:
        project: as it came.
        where: what it came in, for the error.

    Raises:
        BadRequest: it is neither.
    """
    if isinstance(project, float) and project.is_integer():  # to JSON, 45.0 is the number 45
        project = int(project)
    text = str(project) if isinstance(project, str | int) and not isinstance(project, bool) else ""
    # The id becomes part of file names, so nothing but digits is taken, and no more than a database counts to.
    if not (match := PROJECT_ID.fullmatch(text)):
        raise BadRequest(f"{where}: the project should be an id such as 45 or '45.1795393773', got {_seen(project)}")
    return str(int(match[1]))  # "03" is no other project than "3"


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(f"{what} should be a JSON object, got {_seen(value)}")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise BadRequest(f"{what} should be a string, got {_seen(value)}")
    if LONE_SURROGATE.search(value):  # JSON can write one, but no file, database or address holds it
        raise BadRequest(f"{what} should be text, got one half of a pair that makes a character (a lone surrogate)")
    return value


def _text_or_nothing(value: Any, what: str) -> str:
    return "" if value is None else _text(value, what)


def _seen(value: Any) -> str:
    """The type and the keys of a value, never its contents, which may hold tokens or a megabyte."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return f"an object with keys {', '.join(map(repr, list(value)[:8])) or 'none'}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"{type(value).__name__} {str(value)[:40]!r}"
