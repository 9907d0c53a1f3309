"""The name that Label Studio shows of this backend: always the version that is served.

Label Studio fills its column "Prediction score" and picks what annotators start from by that name
(`backend.label_studio.connect.rename`), and a version may be promoted by a training, a page or a command.
"""

import time
from collections.abc import Callable, Set
from functools import partial
from pathlib import Path

from backend.errors import LabelStudioError
from backend.label_studio import connect
from backend.label_studio.client import LabelStudio
from backend.system.login import Login
from backend.system.loops import Loop
from backend.versions.registry import version_number

SETTLED_SECONDS = 2.0  # Label Studio writes down what /setup answered, and with it the name as it was before
TOLD_SECONDS = 600.0  # after which the description is looked at again
AGAIN_SECONDS = 60.0  # between the first tries with a Label Studio that does not answer
# How long Label Studio may go on showing the version before: its question for our version waits three seconds for an
# answer, and on a busy machine gets none.
BEHIND_SECONDS = 600.0


class Naming:
    """Renames this backend in every project whose served version has changed.

    Args:
        served: project and version of everything that answers now.
        client: the Label Studio of a project; raises LabelStudioError.
        login: what Label Studio has to send this backend; None for nothing.
        starter: the name of the version that serves projects without one of their own, if there is one.
        reports: folder where its thread reports; None for nowhere.
        said: the state of a project in a sentence, None while it is not known.
        dashboard: where people open this backend; None for where Label Studio reaches it.
    """

    def __init__(
        self,
        served: Callable[[], Set[tuple[str, str]]],
        client: Callable[[str], LabelStudio],
        login: Login | None = None,
        starter: str | None = None,
        reports: Path | None = None,
        said: Callable[[str], str | None] = lambda project: None,
        dashboard: str | None = None,
    ) -> None:
        self._said, self._dashboard = said, dashboard
        self._told: dict[str, float] = {}
        self._served, self._client, self._login = served, client, login
        self._starter = starter
        self._named: dict[str, str] = {}
        self._due: dict[tuple[str, str], float] = {}
        self._since: dict[tuple[str, str], float] = {}
        self._loop = Loop("naming", AGAIN_SECONDS, reports)

    def watch(self, every: float = 1.0) -> Callable[[], None]:
        """Look for changes from now on, every so many seconds, until the returned function is called."""
        return self._loop.start(lambda: self.look(time.monotonic()), every).set

    def look(self, now: float) -> None:
        """Rename what is due.

        Args:
            now: seconds on a clock that only goes forward.
        """
        versions: dict[str, set[str]] = {}
        for project, version in self._served():
            versions.setdefault(project, set()).add(version)
        # While a config changes, one project has two.
        sole = {project: next(iter(found)) for project, found in versions.items() if len(found) == 1}
        changed = [(project, version) for project, version in sole.items() if self._named.get(project) != version]
        self._due = {key: self._due.get(key, now + SETTLED_SECONDS) for key in changed}
        self._since = {key: self._since.get(key, now) for key in changed}
        self._loop.keep({*sole, *self._named})
        for (project, version), when in list(self._due.items()):
            if when <= now:
                self._loop.attempt(project, partial(self._name, project, version, now), now)
        self._describe(set(sole) & set(self._named), now)
        for project in set(self._named) - set(versions):
            self._loop.attempt(project, partial(self._unname, project), now)

    def _describe(self, projects: Set[str], now: float) -> None:
        """Tell Label Studio's users how a project stands and where its dashboard is."""
        for project in projects:
            if now - self._told.get(project, -TOLD_SECONDS) < TOLD_SECONDS or (said := self._said(project)) is None:
                continue
            self._told[project] = now
            self._loop.attempt(project, partial(self._say, project, said), now)

    def _say(self, project: str, said: str) -> None:
        client = self._client(project)
        for backend in client.ml_backends(project):
            if self._is_ours(project, str(backend.get("title"))):
                text = connect.description(said, self._dashboard or str(backend["url"]), project)
                connect.describe(client, project, backend, self._login, text)

    def _name(self, project: str, version: str, now: float) -> None:
        behind = False
        try:
            client = self._client(project)
            # Label Studio asks every backend for its version first: ours are those that answer with it.
            for backend in client.ml_backends(project):
                if self._is_ours(project, str(backend.get("title"))):
                    if backend.get("model_version") == version:
                        connect.rename(client, project, backend, self._login)
                    else:
                        behind = True
        except LabelStudioError as error:
            raise LabelStudioError(
                f"Label Studio cannot show scores of {version} yet: {error}", error.status, error.detail
            ) from error
        waited = now - self._since[project, version]
        if behind and waited < BEHIND_SECONDS:  # later it is another server's, or does not answer at all
            self._due[project, version] = now + waited
        else:
            self._named[project] = version

    def _unname(self, project: str) -> None:
        """Give the backend the name that it had before its first version: all of them are rolled back."""
        client = self._client(project)
        for backend in client.ml_backends(project):
            if self._is_ours(project, str(backend.get("title"))):
                connect.unname(client, project, backend, self._login, self._dashboard or str(backend["url"]))
        del self._named[project]
        self._told.pop(project, None)

    def _is_ours(self, project: str, title: str) -> bool:
        """Whether a name was given here, or is the one that the documentation tells people to type."""
        known = title == self._starter or title.casefold() == connect.TITLE
        return known or version_number(project, title) is not None
