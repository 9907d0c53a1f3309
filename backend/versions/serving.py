"""The model that answers for each project, swapped when the registry's current version changes.

A change takes effect in one moment for everybody: the new weights are loaded beside the old ones in the background, and
only when they are ready does `resolve` decide on the new version. Requests in flight keep the object
they hold, so they finish on the version they began with. A version that cannot be loaded is passed over for the one
served before it.
"""

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from backend.errors import BackendError, StoreError
from backend.system.loops import Loop
from backend.system.memory import HEAVY, trim
from backend.versions.inference import Image, Inference
from backend.versions.registry import Registry, VersionInfo
from backend.versions.store import Fetched
from models.checkpoint import CARD
from models.errors import CheckpointError
from models.families import Embedding, Model, Runtime, card_of, load_model, release_memory
from models.prompt import Answer, Mask, Prompt
from models.segment import Prediction
from models.starter import STARTERS
from models.threads import limit_threads

AGAIN_SECONDS = 5.0  # between the first tries with a project whose version cannot be found out
# Between two tries with a version whose files cannot be fetched, at first and at last.
FETCH_AGAIN_SECONDS, FETCH_AGAIN_MAX_SECONDS = 5.0, 300.0

logger = logging.getLogger(__name__)

QUIET_SECONDS = 5.0  # after the last prediction, until the memory that it took is given back
MAX_REMEMBERED = 1024  # projects (with their classes) whose served version is kept in mind


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that could answer for a project.

    Attributes:
        version: its name.
        directory: where it is on this machine, once it is fetched.
        classes: those that it knows.
        fetch: brings it there, for as long as what it returns is held.
    """

    version: str
    directory: Path
    classes: frozenset[str]
    fetch: Callable[[], Fetched] = field(compare=False, repr=False)


class Served:
    """A loaded model, its version, the classes that its card names, and the service that runs it."""

    def __init__(
        self,
        model: Model,
        version: str,
        classes: frozenset[str],
        inference: Inference,
    ) -> None:
        self.version = version
        self.classes = classes
        self._model = model
        self._inference = inference
        self._used_at: float | None = None  # on the clock of `time.monotonic`; None once memory was given back

    def replaced(self, model: Model, version: str) -> "Served":
        """Another model run by the same service."""
        return Served(model, version, self.classes, self._inference)

    def give_memory_back(self) -> bool:
        """Give back what predictions took if they are over; whether there were any since the last time."""
        if self._used_at is None or time.monotonic() - self._used_at < QUIET_SECONDS:
            return False
        self._used_at = None
        release_memory(self._model)
        return True

    def predict(self, images: Sequence[Image]) -> list[Future[Prediction]]:
        """The future prediction of each image; see `Inference.predict`."""
        self._used_at = time.monotonic()
        return self._inference.predict(self._model, images)

    def embed(self, image: Image) -> Future[Embedding]:
        """The future embedding of an image that an annotator waits for."""
        self._used_at = time.monotonic()
        return self._inference.embed(self._model, image)

    def prompt(
        self, embedding: Embedding, prompt: Prompt, label: str | None = None, existing: Sequence[Mask] = ()
    ) -> Future[Answer]:
        """The future answer to an annotator's prompt; arguments as in `Model.prompt`."""
        return self._inference.prompt(self._model, embedding, prompt, label, existing)


@dataclass(frozen=True)
class _Broken:
    """A version that could not be loaded; `again` is when it is tried again, on the clock of `time.monotonic`."""

    version: str
    pause: float
    again: float


@dataclass(frozen=True)
class Resolved:
    """The version that answers a request, decided once.

    Attributes:
        version: its name.
        classes: those that it knows.
        model: waits for its weights and returns the loaded model. A version whose weights turn out to be damaged gives
            way to the one served before it, and to None if no other covers the project.
    """

    version: str
    classes: frozenset[str]
    model: Callable[[], Served | None]


class Serving:
    """Which version answers for which project, and its loaded model.

    Args:
        registry: says which version is current.
        starter: checkpoint for projects without a version whose classes it knows; None for no starter.
        load: makes a model of a checkpoint folder; raises CheckpointError.
        inference: runs the models.
        max_resident: models kept in memory; the one that was used longest ago makes room for another.
    """

    def __init__(
        self,
        registry: Registry,
        starter: Path | None,
        load: Callable[[Path], Model],
        inference: Inference,
        *,
        max_resident: int = 4,
    ) -> None:
        self._registry = registry
        self._starter = starter
        self._load = load
        self._max_resident = max_resident
        self._inference = inference
        self._lock = threading.Lock()  # guards what follows; never held while weights are loaded
        self._active: OrderedDict[tuple[str, frozenset[str]], Candidate] = OrderedDict()
        self._resident: OrderedDict[Path, Served] = OrderedDict()
        self._loading: dict[Path, threading.Lock] = {}
        # What cannot be loaded, by folder and its time stamp.
        self._broken: dict[tuple[Path, int], _Broken] = {}
        self._candidates: dict[str, Candidate] = {}  # by the place of their files
        self._reported: set[str] = set()
        self._seen: dict[tuple[str, frozenset[str]], str | None] = {}  # at the last look at the registry
        self._unsettled: set[tuple[str, frozenset[str]]] = set()  # not yet served what they should be
        self._warming = threading.Event()

    def warm_up(self, images: Sequence[Image]) -> None:
        """Load the models that will be asked first, in the background, and have each predict some images.

        Otherwise whoever opens the first task waits for imports, for the weights, and for the first passes, which are
        the slowest. These models are the projects' current versions, as many as are kept in memory, and the starter.

        Args:
            images: as for `Served.predict`, like those that will come.
        """
        self._warming.set()
        threading.Thread(target=self._warm_up, args=(images,), name="warm-up", daemon=True).start()

    @property
    def warming(self) -> bool:
        """Whether models are being loaded before anybody has asked for them."""
        return self._warming.is_set()

    def resolve(self, project: str, classes: Collection[str] = ()) -> Resolved | None:
        """Decide which version answers a request, None if no model covers the project; loads no weights.

        Args:
            project: Label Studio's project id.
            classes: the project's classes; a model must know one of them to be served. Empty accepts any model.
        """
        wanted = frozenset(classes)
        active = self._resolve(project, wanted)
        if active is None:
            return None
        return Resolved(active.version, active.classes, partial(self._serve, project, wanted, active))

    def shipped(self, directory: Path) -> Served | None:
        """The model of a checkpoint that belongs to no project, loaded once; None if it cannot be loaded."""
        candidate = self._shipped(directory)
        return None if candidate is None else self._loaded(candidate)

    def expect(self, directory: Path) -> None:
        """Begin to load the model of a checkpoint that belongs to no project, in the background."""
        candidate = self._shipped(directory)
        if candidate is not None:
            self._load_in_background(candidate)

    def served_version(self, project: str, classes: Collection[str] = ()) -> str | None:
        """The name of the version that `resolve` decides on."""
        active = self._resolve(project, frozenset(classes))
        return None if active is None else active.version

    def watch(self, every: float = 1.0, reports: Path | None = None) -> Callable[[], None]:
        """Take up changes by itself from now on, until the returned function is called.

        Otherwise the first request after a promotion would only begin to load the new version, and the annotator who
        pressed Retrieve Predictions would have to press it again.

        Args:
            every: seconds between two readings of the registry.
            reports: folder where its thread reports; None for nowhere.
        """
        loop = Loop("watching-versions", AGAIN_SECONDS, reports, max_pause=60.0)

        def follow() -> None:
            self._give_memory_back()
            with self._lock:
                loop.keep({project for project, _ in self._active})
            for project, classes in self._changed():
                if not loop.attempt(project, partial(self._follow, project, classes), time.monotonic()):
                    self._unsettled.add((project, classes))  # until it works

        return loop.start(follow, every).set

    def _follow(self, project: str, classes: frozenset[str]) -> None:
        self._registry.current(project)  # raises what `_resolve` only passes over
        self._resolve(project, classes)

    def _changed(self) -> list[tuple[str, frozenset[str]]]:
        """Projects, with their classes, whose version may be another one than at the last call.

        Of the others nothing is read: a thousand idle projects cost one query.
        """
        with self._lock:
            asked = list(self._active)
        if not asked:
            return []
        served = self._registry.served()
        now = {key: served.get(key[0]) for key in asked}
        changed = [
            key for key in asked if key in self._unsettled or key not in self._seen or self._seen[key] != now[key]
        ]
        self._seen = now
        return changed

    def active(self, project: str) -> list[str]:
        """The versions that answer for a project now: several if its config changed, none before it asked."""
        with self._lock:
            return sorted({candidate.version for (asked, _), candidate in self._active.items() if asked == project})

    def served(self) -> set[tuple[str, str]]:
        """Project and version of everything that answers now."""
        with self._lock:
            return {(project, candidate.version) for (project, _), candidate in self._active.items()}

    def loaded(self) -> list[str]:
        """The versions in memory."""
        with self._lock:
            return sorted({served.version for served in self._resident.values()})

    def failed(self) -> list[str]:
        """The versions that could not be loaded and have not been restored since."""
        broken = list(self._broken.items())
        return sorted({one.version for (folder, modified), one in broken if _modified(folder) == modified})

    def _warm_up(self, images: Sequence[Image]) -> None:
        try:
            for candidate in self._first_asked():
                served = None if candidate is None else self._loaded(candidate)
                for prediction in () if served is None else served.predict(images):
                    prediction.result()
        except Exception:
            logger.exception("warming up ended early; what is not loaded yet is loaded when it is asked for")
        finally:
            self._warming.clear()

    def _first_asked(self) -> list[Candidate | None]:
        """The starter, and the served versions that were published last, no more than are kept in memory."""
        starter = [] if self._starter is None else [self._shipped(self._starter)]
        current = self._registry.newest_served(max(self._max_resident - len(starter), 0))
        return [*starter, *map(self._published, current)]

    def _serve(self, project: str, classes: frozenset[str], candidate: Candidate | None) -> Served | None:
        while candidate is not None:
            if (served := self._loaded(candidate)) is not None:
                return served
            candidate = self._resolve(project, classes)
        return None

    def _resolve(self, project: str, classes: frozenset[str]) -> Candidate | None:
        """The version served now; begins to load in the background the one to be served next."""
        target, wanted_fails = self._target(project, classes)
        key = (project, classes)
        with self._lock:
            active = self._active.get(key)
            loaded = active is not None and active.directory in self._resident
            self._unsettled.add(key)  # until it is served what it should be
            if loaded and wanted_fails:
                return active
            # Nothing to wait for: no weights are in memory yet, or the target's are.
            if target is None or not loaded or target.directory in self._resident:
                self._activate(key, target)
                if target is None or not wanted_fails:
                    self._unsettled.discard(key)
                return target
        self._load_in_background(target)
        return active

    def _activate(self, key: tuple[str, frozenset[str]], target: Candidate | None) -> None:
        before = self._active.pop(key, None)
        if target is not None:
            self._active[key] = target
        if len(self._active) > MAX_REMEMBERED:
            self._unsettled.discard(self._active.popitem(last=False)[0])
        in_use = {candidate.directory for candidate in self._active.values()}
        if before is not None and before.directory not in in_use:
            self._resident.pop(before.directory, None)  # requests in flight still hold it; then its memory is free

    def _target(self, project: str, classes: frozenset[str]) -> tuple[Candidate | None, bool]:
        """The version that should be served: the current one, or the starter.

        Returns:
            The first that is whole and fits of the current version, those served before it and the starter; and
            whether that is a makeshift, because something before it should be served but cannot be.
        """
        wanted_fails = False
        wanted: list[Candidate | None] = []
        try:
            # After rolling back to the starter, the versions before it are not what is wanted.
            wanted += map(self._published, self._registry.wanted(project))
        except BackendError as error:
            self._report(str(error))
            wanted_fails = True
        if self._starter is not None:
            wanted.append(self._shipped(self._starter))
        for candidate in wanted:
            if candidate is None or self._is_broken(candidate):
                wanted_fails = True
            elif not classes or classes & candidate.classes:
                return candidate, wanted_fails
        return None, wanted_fails

    def _published(self, info: VersionInfo) -> Candidate | None:
        """A version of the registry; None if its card cannot be used, which is logged."""
        if (known := self._candidates.get(info.place)) is not None:
            return known
        try:
            candidate = Candidate(info.version, info.local, frozenset(info.card.classes), info.fetch)
        except CheckpointError as error:
            self._report(f"cannot serve {info.version}: {error.cause}; promote another version")
            return None
        if len(self._candidates) > MAX_REMEMBERED:
            self._candidates.clear()
        self._candidates[info.place] = candidate
        return candidate

    def _shipped(self, directory: Path) -> Candidate | None:
        """A checkpoint of no project; None if its card cannot be used, which is logged."""
        try:
            card = card_of(directory)
        except CheckpointError as error:
            self._report(f"cannot serve {directory}: {error.cause}; restore that folder")
            return None
        return Candidate(card.name, directory, frozenset(card.classes), lambda: Fetched(directory))

    def _is_broken(self, candidate: Candidate) -> bool:
        """Whether it could not be loaded, and there is no reason yet to try again."""
        broken = self._broken.get((candidate.directory, _modified(candidate.directory)))
        return broken is not None and time.monotonic() < broken.again

    def _load_in_background(self, candidate: Candidate) -> None:
        with self._lock:
            if candidate.directory in self._loading:
                return
        name = f"load-{candidate.version}"
        threading.Thread(target=self._loaded, args=(candidate,), name=name, daemon=True).start()

    def _loaded(self, candidate: Candidate) -> Served | None:
        """The candidate's model, loaded once however many ask; None if it cannot be loaded, which is logged."""
        with self._lock:
            loading = self._loading.setdefault(candidate.directory, threading.Lock())
        with loading:
            try:
                with self._lock:
                    if (served := self._resident.get(candidate.directory)) is not None:
                        self._resident.move_to_end(candidate.directory)
                        return served
                if self._is_broken(candidate):
                    return None
                return self._make_resident(candidate)
            finally:
                with self._lock:
                    self._loading.pop(candidate.directory, None)

    def _make_resident(self, candidate: Candidate) -> Served | None:
        try:
            fetched = candidate.fetch()
            model = self._load(fetched.path)
        except StoreError as error:
            self._break(candidate)
            self._report(f"cannot serve version {candidate.version}: {error}; the version served before it goes on")
            return None
        except Exception as error:  # the version before it goes on answering, for every kind of damage
            self._break(candidate, for_good=True)
            logger.error(
                "cannot serve version %s from %s: %s; the version served before it goes on; "
                "restore that folder, or promote another version",
                candidate.version,
                candidate.directory,
                error.cause if isinstance(error, CheckpointError) else error,
                exc_info=not isinstance(error, CheckpointError),
            )
            return None
        served = Served(model, candidate.version, candidate.classes, self._inference)
        with self._lock:
            for key in [key for key in self._broken if key[0] == candidate.directory]:
                del self._broken[key]
            self._resident[candidate.directory] = served
            while len(self._resident) > self._max_resident:
                self._resident.popitem(last=False)
        logger.info("version %s is loaded and served", candidate.version)
        return served

    def _break(self, candidate: Candidate, for_good: bool = False) -> None:
        """Note a failure, which is tried again after longer and longer pauses, or once the folder has changed."""
        key = candidate.directory, _modified(candidate.directory)
        before = self._broken.get(key)
        pause = FETCH_AGAIN_SECONDS if before is None else min(before.pause * 2, FETCH_AGAIN_MAX_SECONDS)
        pause = math.inf if for_good else pause
        self._broken[key] = _Broken(candidate.version, pause, time.monotonic() + pause)

    def _give_memory_back(self) -> None:
        """Once after every burst of a model's predictions, when it is over."""
        with self._lock:
            resident = list(self._resident.values())
        if any([served.give_memory_back() for served in resident]):
            trim()

    def _report(self, problem: str) -> None:
        """Log a problem that every request meets once, not once per request."""
        if len(self._reported) > MAX_REMEMBERED:
            self._reported.clear()
        if problem not in self._reported:
            self._reported.add(problem)
            logger.error("%s", problem)


def _modified(directory: Path) -> int:
    """Time stamp of the checkpoint: one that was restored after it failed is tried again; -1 if there is none.

    That of its card; of a folder without one, such as SAM's, the newest of its files.
    """
    try:
        card = directory / CARD
        files = [card] if card.exists() else [directory, *directory.iterdir()]
        return max(file.stat().st_mtime_ns for file in files)
    except OSError:
        return -1


def load_on(
    device: str, runtime: Runtime = "pytorch", threads: int | None = None, kept: Path | None = None
) -> Callable[[Path], Model]:
    """A loader of models on a device: cpu, cuda, or auto for a GPU if there is one.

    Args:
        device: where the networks run.
        runtime: what computes them; see `load_model`.
        threads: cores that one forward pass may use; None leaves the choice to torch.
        kept: folder for what a runtime makes of shipped checkpoints; of others it is kept in the checkpoint. What was
            not made when a version was published is made in the background, so that no request waits for it.
    """

    def load(directory: Path) -> Model:
        limit_threads(threads)  # what is compiled or measured here keeps this thread's number of cores
        beside = kept / directory.name if kept is not None and directory in STARTERS.values() else None
        return load_model(directory, device, runtime, beside, afterwards=HEAVY.set)

    return load
