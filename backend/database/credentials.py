"""Which Label Studio a project belongs to and which token opens it.

The configured address and key are used for every project once they are set. Without a key the backend falls back to
the address and token in Label Studio's `/setup` calls. Anyone who can reach `/setup` could name a host of theirs there,
so a project's address and token are only kept and used as the pair that came together: the configured key never goes to
an address from a request, and neither does another request's token.
"""

import time
from dataclasses import dataclass

from pydantic import SecretStr
from sqlalchemy import Connection, delete, select

from backend.database.engine import Database, insert_into
from backend.database.tables import CONNECTIONS
from backend.database.vault import Vault
from backend.errors import LabelStudioError

# Anyone who reaches /setup can write here.
MAX_PROJECTS = 1000
MAX_LENGTH = 4096  # characters of an address or a token


@dataclass(frozen=True)
class Credential:
    """An address and the token it came with."""

    url: str
    api_key: SecretStr


class Credentials:
    """Credentials by project, shared by the servers and the workers.

    Args:
        database: where they are kept.
        vault: encrypts the tokens.
        url: the configured address, which always wins over the one in `/setup`: that may be localhost.
        api_key: the configured token.
    """

    def __init__(
        self, database: Database, vault: Vault, url: str | None = None, api_key: SecretStr | None = None
    ) -> None:
        self._database, self._vault = database, vault
        self._url = url
        self._api_key = api_key

    def remember(self, project: str, hostname: str, token: str) -> None:
        """Keep the address and token that `/setup` gave for a project; an incomplete pair is ignored."""
        if not 0 < len(hostname) <= MAX_LENGTH or not 0 < len(token) <= MAX_LENGTH:
            return
        url, before = hostname.rstrip("/"), self._kept(project)
        if before is not None and before[0] == url and self._vault.decrypted(before[1]) == token:
            return  # /setup comes with every page that is opened
        entry = {"url": url, "token": self._vault.encrypted(token), "updated": time.time()}

        def work(connection: Connection) -> None:
            rows = insert_into(connection, CONNECTIONS).values(project=project, **entry)
            connection.execute(rows.on_conflict_do_update(index_elements=[CONNECTIONS.c.project], set_=entry))
            newest = select(CONNECTIONS.c.project).order_by(CONNECTIONS.c.updated.desc(), CONNECTIONS.c.project)
            oldest = connection.execute(newest.offset(MAX_PROJECTS).limit(MAX_PROJECTS)).scalars().all()
            if oldest:
                connection.execute(delete(CONNECTIONS).where(CONNECTIONS.c.project.in_(oldest)))

        self._database.change(work)

    def forget(self, project: str) -> None:
        """Remove the address and token of a project."""
        if self._kept(project) is not None:
            gone = delete(CONNECTIONS).where(CONNECTIONS.c.project == project)
            self._database.change(lambda connection: connection.execute(gone))

    def addresses(self) -> dict[str, str]:
        """Addresses by project, as `/setup` gave them: those of Label Studio's pages.

        The configured address may belong to a network that browsers do not reach.
        """
        query = select(CONNECTIONS.c.project, CONNECTIONS.c.url)
        entries = self._database.read(lambda connection: connection.execute(query).all())
        return {entry.project: entry.url for entry in entries if entry.url.startswith(("http://", "https://"))}

    def of(self, project: str) -> Credential:
        """The credential to use for a project.

        Raises:
            LabelStudioError: none is configured and Label Studio has not called `/setup` for this project, or what it
                said was encrypted with another key.
        """
        if self._url is not None and self._api_key is not None:
            return Credential(self._url, self._api_key)
        entry = self._kept(project)
        if entry is None:
            raise LabelStudioError(
                f"no credentials for project {project}",
                remedy="set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY, or open the project's Model settings in Label "
                "Studio once so that it introduces itself",
            )
        url, token = entry[0], self._vault.decrypted(entry[1])
        if token is None:
            raise LabelStudioError(
                f"the token of project {project} was encrypted with another key than this machine's",
                remedy="set PREMASK_SECRET_KEY to the same text on every machine, then open the project's Model "
                "settings in Label Studio once; or set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY",
            )
        return Credential(self._url or url, SecretStr(token))

    def _kept(self, project: str) -> tuple[str, str] | None:
        """Address and encrypted token."""
        query = select(CONNECTIONS.c.url, CONNECTIONS.c.token).where(CONNECTIONS.c.project == project)
        row = self._database.read(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else (row.url, row.token)
