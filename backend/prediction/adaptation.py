"""Prompts get better from a project's first accepted task on, before any training; see `models.training.adaptation`.

Where the prompt network answers for a class, because no model of the project knows it, the accepted tasks that show the
class are looked up, and a copy of the network learns from their objects in a process of low priority. The prompts after
that are answered by the copy. No annotator waits for any of it; without it, the network answers as it was shipped.
"""

import atexit
import hashlib
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

from cachetools import LRUCache

from backend.errors import BackendError, ImageError
from backend.label_studio.annotations import newest_accepted, read_alone
from backend.label_studio.client import TaskRow
from backend.label_studio.label_config import LabelConfig
from backend.label_studio.task_images import task_images
from backend.prediction.images import ImageSource
from backend.system.processes import describe_exit, lower_priority
from backend.versions.serving import Served
from models.errors import CheckpointError
from models.families import Model, card_of

if TYPE_CHECKING:  # the networks are loaded after the server has begun to answer
    from torch import nn

    from models.training.prompting import Labelled

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "models.training.adaptation")
FAMILY = "prompts"  # that of `models.prompt_model`
MAX_EXAMPLES = 8  # images that a copy learns from
MAX_READ = 25  # annotations that are read at one look
MAX_CLASSES = 32  # known at a time, with their copies of some megabytes each
LOOK_SECONDS = 30.0  # between two looks at what is accepted, at least
REST = 20  # times as long as Label Studio took to answer
REST_SECONDS = 300.0  # after a failure
LEARN_SECONDS = 600.0


class Project(Protocol):
    """The part of `backend.label_studio.client.LabelStudio` that is used here."""

    def task_rows(self, project_id: str, *, annotated: bool) -> list[TaskRow]:
        """Tasks in short."""

    def annotations(self, task_id: int) -> list[dict[str, Any]]:
        """The annotations of a task."""


@dataclass(eq=False)
class _Class:
    """What is known of a class of a project.

    Attributes:
        again: when to look again, on the clock of `time.monotonic`.
        looking: whether somebody looks.
        shown: (task, its annotations' ids) -> whether the accepted one shows the class.
        learnt: of those, that the copy learnt from.
        copy: answers prompts for the class; None where nothing could be learnt yet.
    """

    again: float = 0.0
    looking: bool = False
    shown: dict[tuple[int, str], bool] = field(default_factory=dict)
    learnt: frozenset[tuple[int, str]] = frozenset()
    copy: Served | None = None


class Adaptations:
    """Copies of the prompt network, one for each class of a project. Safe to share between threads.

    Args:
        client: the Label Studio of a project; raises LabelStudioError.
        images: the image source of a project.
        network: checkpoint of the prompt network; nothing is learnt if it is of another family.
        load: makes a model of a checkpoint folder; raises CheckpointError.
        learn: makes a copy: the checkpoint, a file of examples, the folder to write. Raises OSError or
            subprocess.SubprocessError.
        now: a clock, in seconds.
    """

    def __init__(
        self,
        client: Callable[[str], Project],
        images: Callable[[str], ImageSource],
        network: Path,
        load: Callable[[Path], Model],
        learn: Callable[[Path, Path, Path], None] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._images, self._network, self._load = client, images, network, load
        self._learn, self._now = learn or learn_apart, now
        self._lock = threading.Lock()
        self._classes: LRUCache[tuple[str, str], _Class] = LRUCache(MAX_CLASSES)
        self._looks: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._backbone: nn.Module | None = None  # the same of all copies
        self._able: bool | None = None

    def served(self, project: str, label: str, config: LabelConfig, shipped: Served) -> Served:
        """What answers prompts for a class that no model of the project knows: its copy, if there is one.

        Args:
            project: Label Studio's project id.
            label: the class.
            config: the project's.
            shipped: the network as it was shipped.
        """
        with self._lock:
            if self._able is None:
                self._able = self._is_able()
            if not self._able:
                return shipped
            known = self._classes.setdefault((project, label), _Class())
            if not known.looking and self._now() >= known.again:
                known.looking = True
                self._looks.put(partial(self._look, project, label, config, shipped, known))
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="adaptation", daemon=True)
                    self._thread.start()
            return known.copy or shipped

    def versions(self, project: str) -> set[str]:
        """The versions of a project's copies."""
        with self._lock:
            copies = [known.copy for (of, _), known in self._classes.items() if of == project]
        return {copy.version for copy in copies if copy is not None}

    def _run(self) -> None:
        while True:
            self._looks.get()()

    def _is_able(self) -> bool:
        try:
            return card_of(self._network).family == FAMILY
        except CheckpointError:  # told when it is to be served
            return False

    def _look(self, project: str, label: str, config: LabelConfig, shipped: Served, known: _Class) -> None:
        """Look for accepted tasks, and learn if they have doubled or are others."""
        began, rest = self._now(), LOOK_SECONDS
        try:
            client = self._client(project)
            rows = {(row.id, row.annotations): row for row in client.task_rows(project, annotated=True)}
            self._read_new(client, rows, label, config, known)
            rest = max(rest, REST * (self._now() - began))
            found = {key for key, shown in known.shown.items() if shown}
            lost = not known.learnt <= found
            if found and (lost or min(len(found), MAX_EXAMPLES) >= 2 * len(known.learnt)):
                chosen = sorted(found)[-MAX_EXAMPLES:]
                known.copy = self._adapted(project, label, config, shipped, client, [rows[key] for key in chosen])
                known.learnt = frozenset(chosen)
            elif lost:
                known.learnt, known.copy = frozenset(), None
        except (BackendError, OSError, subprocess.SubprocessError) as error:
            rest = REST_SECONDS
            logger.warning("project %s: prompts for %r stay as they are: %s", project, label, error)
        except Exception:
            rest = REST_SECONDS
            logger.exception("project %s: learning from what is accepted for %r failed", project, label)
        finally:
            with self._lock:
                known.looking = False
                known.again = self._now() + rest

    def _read_new(
        self,
        client: Project,
        rows: Mapping[tuple[int, str], TaskRow],
        label: str,
        config: LabelConfig,
        known: _Class,
    ) -> None:
        """Find out which tasks show the class: the newest of those that nobody has looked into."""
        known.shown = {key: shown for key, shown in known.shown.items() if key in rows}
        unread = sorted(rows.keys() - known.shown.keys())
        for key in unread[-MAX_READ:]:
            annotation = newest_accepted(client.annotations(rows[key].id))
            truth = None if annotation is None else read_alone(annotation, config)
            known.shown[key] = truth is not None and label in truth.masks

    def _adapted(
        self,
        project: str,
        label: str,
        config: LabelConfig,
        shipped: Served,
        client: Project,
        rows: Sequence[TaskRow],
    ) -> Served | None:
        """A copy that has learnt from tasks; None if none of them can be learnt from."""
        from models.prompt_model import PromptModel
        from models.training.adaptation import write_examples

        examples = [one for row in rows if (one := self._example(project, label, config, client, row)) is not None]
        if not examples:
            return None
        learnt = repr((project, label, [(row.id, row.annotations) for row in rows]))
        name = f"{shipped.version}-{hashlib.sha256(learnt.encode()).hexdigest()[:8]}"
        with TemporaryDirectory(prefix="premask-adaptation-") as folder:
            file, out = Path(folder) / "examples.npz", Path(folder) / name
            write_examples(file, examples)
            self._learn(self._network, file, out)
            model = self._load(out)
        assert isinstance(model, PromptModel)
        self._backbone = model.network.backbone = self._backbone or model.network.backbone
        logger.info(
            "project %s: prompts for %r are answered by %s, which %d accepted %s taught",
            project,
            label,
            name,
            len(examples),
            "task" if len(examples) == 1 else "tasks",
        )
        return shipped.replaced(model, name)

    def _example(
        self, project: str, label: str, config: LabelConfig, client: Project, row: TaskRow
    ) -> "Labelled | None":
        """The objects of the class on a task with one image; None if they cannot be told, or it cannot be read."""
        from models.evaluation.clicks import objects_of
        from models.training.adaptation import fitted

        task = {"id": row.id, "data": row.data}
        annotation, pages = newest_accepted(client.annotations(row.id)), task_images(task, config)
        truth = None if annotation is None else read_alone(annotation, config)
        if truth is None or label not in truth.masks or len(pages) > 1 or pages[0].item_index is not None:
            return None
        try:
            image = self._images(project).load(task, pages[0].path)
        except ImageError as error:
            logger.debug("task %s: nothing is learnt for prompts: %s", row.id, error)
            return None
        mask = truth.masks[label]
        if mask.shape != image.shape[:2]:
            return None
        example = fitted(image, objects_of(mask))
        return example if example.objects else None


def learn_apart(network: Path, examples: Path, out: Path) -> None:
    """Make a copy of the network in a process of low priority.

    Raises:
        OSError: the process cannot be started.
        subprocess.SubprocessError: it failed, or took too long.
    """
    command = [*COMMAND, str(network), str(examples), str(out)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        lower_priority(process.pid)
        atexit.register(process.kill)  # a server that stops waits for nothing that is learnt
        try:
            _, said = process.communicate(timeout=LEARN_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        finally:
            atexit.unregister(process.kill)
    if process.returncode:
        last = said.decode(errors="replace").strip().splitlines()[-1:]
        raise subprocess.SubprocessError(
            f"the process that learns: {describe_exit(process.returncode)}: {''.join(last)}"
        )
