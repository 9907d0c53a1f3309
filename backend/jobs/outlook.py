"""Is it time to train? What was accepted since the served version learnt, class by class, and how much was corrected.

Label Studio is asked on a thread of its own, at most every half minute, and pages never wait for it for long.
"""

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass, field
from typing import Any, Protocol

from backend.errors import BackendError, ConfigError, UnknownVersion
from backend.jobs.automatic import stamp
from backend.jobs.training import ACCEPTED
from backend.label_studio.acceptance import AcceptanceStatistics, parent_prediction
from backend.label_studio.annotations import newest_accepted, read_alone
from backend.label_studio.client import TaskRow
from backend.label_studio.label_config import LabelConfig, parse_label_config
from backend.label_studio.readiness import no_model
from backend.versions.registry import Registry, VersionInfo

logger = logging.getLogger(__name__)

FRESH_SECONDS = 30.0  # for which an answer is shown before Label Studio is asked again
WAIT_SECONDS = 1.5  # that a page waits for the first answer
MAX_LOOKED = 100  # of the new tasks, the newest are looked into
CORRECTED = 0.8  # IoU of the drawn with the accepted mask, below which it was corrected much
MAX_PROJECTS = 256
IN_VAIN = "Label Studio was asked in vain how many tasks are accepted"


class Project(Protocol):
    """The part of `backend.label_studio.client.LabelStudio` that is used here."""

    def project(self, project_id: str) -> Mapping[str, Any]:
        """The project's settings, `label_config` among them."""

    def task_rows(self, project_id: str, *, annotated: bool) -> list[TaskRow]:
        """Tasks in short."""

    def annotations(self, task_id: int) -> list[dict[str, Any]]:
        """The annotations of a task."""

    def prediction(self, prediction_id: int) -> Mapping[str, Any]:
        """A stored prediction."""


@dataclass(frozen=True)
class Outlook:
    """What there is to learn in a project.

    Attributes:
        served: the version that answers, None if no model knows the classes.
        own: it is one of the project's own.
        accepted: accepted tasks.
        needed: of these, that a training needs.
        new: those accepted, or changed, since the served version learnt; all, where none has.
        looked: the new tasks that were looked into.
        corrected: of these, that were corrected much.
        classes: class -> of the tasks looked into, those that show it.
        colours: class -> colour in Label Studio.
        title: of the project.
        waiting: where nothing is served, the newest version that could be promoted; "" if none could.
        problem: why nothing is known, "" if something is.
    """

    served: str | None = None
    own: bool = False
    accepted: int = 0
    needed: int = 0
    new: int = 0
    looked: int = 0
    corrected: int = 0
    classes: Mapping[str, int] = field(default_factory=dict)
    colours: Mapping[str, str] = field(default_factory=dict)
    title: str = ""
    waiting: str = ""
    problem: str = ""

    @property
    def sentence(self) -> str:
        """The state of the project in a sentence, the same wherever it is shown."""
        if self.problem:
            return self.problem
        if self.served is None:
            return no_model(self.accepted, self.needed, self.waiting)
        tasks = f"{self.new} {'task' if self.new == 1 else 'tasks'}"
        if not self.own:
            return f"{self.served} draws the masks until a version of the project's own is promoted; {tasks} accepted"
        return f"{tasks} accepted since {self.served} learnt"


class Outlooks:
    """The outlook of each project, kept for a while. Safe to share between threads.

    Args:
        client: the Label Studio of a project; raises LabelStudioError.
        registry: versions, beside whose cards lies what they learnt from.
        served: gives the version that answers for a project, from its classes; None if there is none.
        needed: accepted tasks that a training needs.
        now: a clock, in seconds.
    """

    def __init__(
        self,
        client: Callable[[str], Project],
        registry: Registry,
        served: Callable[[str, Sequence[str]], str | None],
        needed: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._registry, self._served, self._needed, self._now = client, registry, served, needed, now
        self._pool = ThreadPoolExecutor(2, "outlook")
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Outlook]] = {}
        self._asked: dict[str, Future[Outlook]] = {}

    def of(self, project: str, wait: float = WAIT_SECONDS) -> Outlook | None:
        """What is known of a project; None if Label Studio has not answered yet.

        Args:
            project: Label Studio's project id.
            wait: seconds to wait where nothing is known yet, or what is known is old; then the old is better than
                nothing.
        """
        with self._lock:
            known = self._known.get(project)
            if known is None or self._now() - known[0] > FRESH_SECONDS:
                if project not in self._asked:
                    self._asked[project] = self._pool.submit(self._ask, project)
                asked = self._asked[project]
            else:
                return known[1]
        try:
            return asked.result(wait)
        except Late:
            return None if known is None else known[1]

    def forget(self, project: str) -> None:
        """Ask again the next time: another version is served, say."""
        with self._lock:
            self._known.pop(project, None)

    def _ask(self, project: str) -> Outlook:
        try:
            found = self._look(project)
        except BackendError as error:
            found = Outlook(needed=self._needed, problem=f"{IN_VAIN}: {error}")
        except Exception as error:  # an answer of another form must not leave a page without its other parts
            logger.exception("project %s: looking at what was accepted failed", project)
            found = Outlook(needed=self._needed, problem=f"{IN_VAIN}: {type(error).__name__}")
        with self._lock:
            if len(self._known) >= MAX_PROJECTS:
                self._known.clear()
            self._known[project] = self._now(), found
            self._asked.pop(project, None)
        return found

    def _look(self, project: str) -> Outlook:
        client = self._client(project)
        try:
            about = client.project(project)
            title = str(about.get("title") or "")
            config = parse_label_config(str(about["label_config"]))
        except ConfigError as error:
            return Outlook(needed=self._needed, title=title, problem=f"{str(error)[:1].upper()}{str(error)[1:]}")
        rows = client.task_rows(project, annotated=True)
        current = self._registry.current(project)
        served = self._served(project, config.classes)
        waiting = self._registry.waiting(project, config.classes) if served is None else None
        learnt = _learnt(current)
        new = [row for row in rows if learnt.get(str(row.id)) != stamp(row.annotations.split(","))]
        looked = sorted(new, key=lambda row: row.id)[-MAX_LOOKED:]
        classes: Counter[str] = Counter(dict.fromkeys(config.training_classes, 0))
        corrected = 0
        for row in looked:
            shown, much = _looked_into(row, client, config)
            classes.update(shown)
            corrected += much
        return Outlook(
            served=served,
            own=current is not None and served == current.version,
            accepted=len(rows),
            needed=self._needed,
            new=len(new),
            looked=len(looked),
            corrected=corrected,
            classes=dict(classes),
            colours=dict(config.colours),
            title=title,
            waiting=waiting.version if waiting is not None else "",
        )


def _learnt(current: VersionInfo | None) -> Mapping[str, str]:
    """What the served version learnt from, as `stamps_of` writes it; nothing where no version is served."""
    if current is None:
        return {}
    try:
        found = json.loads(current.read(ACCEPTED))
    except (UnknownVersion, ValueError):
        return {}  # a version of an earlier release
    return found if isinstance(found, dict) else {}


def _looked_into(row: TaskRow, client: Project, config: LabelConfig) -> tuple[set[str], bool]:
    """The classes that a task's accepted annotation shows, and whether what was drawn before was corrected much."""
    annotation = newest_accepted(client.annotations(row.id))
    if annotation is None:
        return set(), False
    accepted = read_alone(annotation, config)
    if accepted is None:
        return set(), False
    shown = {label for label, present in accepted.presence.items() if present}
    prediction = parent_prediction(annotation, client.prediction)
    drawn = None if prediction is None else read_alone(prediction, config)
    if drawn is None:
        return shown, False
    statistics = AcceptanceStatistics()
    for label in drawn.masks.keys() | accepted.masks.keys():
        one, other = drawn.masks.get(label), accepted.masks.get(label)
        if one is not None and other is not None and one.shape != other.shape:
            return shown, True
        statistics.count(one, other)
    return shown, statistics.added > 0 or (statistics.drawn > 0 and statistics.iou < CORRECTED)
