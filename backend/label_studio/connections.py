"""The Label Studio client and the image loader of each project, made once per address and token."""

import threading
from collections.abc import Collection

from backend.database.credentials import Credential, Credentials
from backend.errors import LabelStudioError
from backend.label_studio.client import LabelStudio
from backend.label_studio.images import ImageLoader

MAX_CLIENTS = 256


class Connections:
    """Clients by project.

    Args:
        credentials: which address and token a project has.
        allowed_hosts: hosts besides Label Studio's from which images may be fetched.
    """

    def __init__(self, credentials: Credentials, allowed_hosts: Collection[str] = ()) -> None:
        self._credentials = credentials
        self._allowed_hosts = allowed_hosts
        self._clients: dict[Credential, LabelStudio] = {}
        self._lock = threading.Lock()

    def client(self, project: str) -> LabelStudio:
        """The client of a project; a new one when its token has changed.

        Raises:
            LabelStudioError: there are no credentials for the project.
        """
        credential = self._credentials.of(project)
        with self._lock:
            if len(self._clients) > MAX_CLIENTS:
                self._clients.clear()  # tokens that were replaced
            if credential not in self._clients:
                self._clients[credential] = LabelStudio(credential.url, credential.api_key.get_secret_value())
            return self._clients[credential]

    def images(self, project: str) -> ImageLoader:
        """The loader of a project's images; without credentials it reads the allowed hosts alone."""
        try:
            client = self.client(project)
        except LabelStudioError:
            client = None
        return ImageLoader(client, allowed_hosts=self._allowed_hosts)
