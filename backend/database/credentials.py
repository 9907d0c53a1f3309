"""Which Label Studio a project belongs to and which token opens it.

The configured address and key are used for every project once they are set. Without a key the backend falls back to
the address and token in Label Studio's `/setup` calls. Anyone who can reach `/setup` could name a host of theirs there,
so a project's address and token are only kept and used as the pair that came together: the configured key never goes to
an address from a request, and neither does another request's token.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from pydantic import SecretStr, TypeAdapter
from typing_extensions import TypedDict

from backend.errors import LabelStudioError
from backend.system.files import write_json
from models.documents import read_json

logger = logging.getLogger(__name__)

# Anyone who reaches /setup can write here.
MAX_PROJECTS = 1000
MAX_LENGTH = 4096  # characters of an address or a token


class _Entry(TypedDict):
    url: str
    api_key: str


ENTRIES = TypeAdapter(dict[str, _Entry])


@dataclass(frozen=True)
class Credential:
    """An address and the token it came with."""

    url: str
    api_key: SecretStr


class Credentials:
    """Credentials by project, shared by the server and the worker through a file that only their user may read.

    Args:
        path: the file; created with mode 0600 when the first `/setup` arrives.
        url: the configured address, which always wins over the one in `/setup`: that may be localhost.
        api_key: the configured token.
    """

    def __init__(self, path: Path, url: str | None = None, api_key: SecretStr | None = None) -> None:
        self._path = path
        self._url = url
        self._api_key = api_key

    def remember(self, project: str, hostname: str, token: str) -> None:
        """Keep the address and token that `/setup` gave for a project; an incomplete pair is ignored."""
        if not 0 < len(hostname) <= MAX_LENGTH or not 0 < len(token) <= MAX_LENGTH:
            return
        entry: _Entry = {"url": hostname.rstrip("/"), "api_key": token}
        if self._read().get(project) == entry:
            return  # /setup comes with every page that is opened
        with FileLock(f"{self._path}.lock"):
            entries = self._read()
            entries.pop(project, None)
            newest = dict([*entries.items(), (project, entry)][-MAX_PROJECTS:])
            write_json(self._path, newest, mode=0o600)

    def forget(self, project: str) -> None:
        """Remove the address and token of a project."""
        if project not in self._read():
            return
        with FileLock(f"{self._path}.lock"):
            entries = self._read()
            entries.pop(project, None)
            write_json(self._path, entries, mode=0o600)

    def addresses(self) -> dict[str, str]:
        """Addresses by project, as `/setup` gave them: those of Label Studio's pages.

        The configured address may belong to a network that browsers do not reach.
        """
        entries = self._read().items()
        return {project: entry["url"] for project, entry in entries if entry["url"].startswith(("http://", "https://"))}

    def of(self, project: str) -> Credential:
        """The credential to use for a project.

        Raises:
            LabelStudioError: none is configured and Label Studio has not called `/setup` for this project.
        """
        if self._url is not None and self._api_key is not None:
            return Credential(self._url, self._api_key)
        entry = self._read().get(project)
        if entry is None:
            raise LabelStudioError(
                f"no credentials for project {project}",
                remedy="set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY, or open the project's Model settings in Label "
                "Studio once so that it introduces itself",
            )
        return Credential(self._url or entry["url"], SecretStr(entry["api_key"]))

    def _read(self) -> dict[str, _Entry]:
        try:
            return read_json(self._path, ENTRIES)
        except FileNotFoundError:
            return {}
        except ValueError as error:
            logger.error("%s is damaged and ignored: %s; Label Studio's next /setup writes it again", self._path, error)
            return {}
