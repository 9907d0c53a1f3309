"""The two kinds of key that Label Studio gives out, and the header each one makes."""

import threading
from collections.abc import Callable


class Token:
    """A legacy token, or a personal access token with the short-lived access token made from it.

    Args:
        key: what the user copied from Account & Settings.
        refresh: swaps a personal access token for an access token.
    """

    def __init__(self, key: str, refresh: Callable[[str], str]) -> None:
        self.key = key.strip()
        self._refresh = refresh
        self._access: str | None = None
        self._lock = threading.Lock()

    @property
    def personal(self) -> bool:
        """Personal access tokens are JWTs: three parts of base64, the first of which is a JSON object."""
        return self.key.startswith("eyJ") and self.key.count(".") == 2

    @property
    def kind(self) -> str:
        """The name that Label Studio's settings page uses."""
        return "personal access token" if self.personal else "legacy token"

    def header(self) -> str:
        """Value of the Authorization header."""
        if not self.personal:
            return f"Token {self.key}"
        with self._lock:
            if self._access is None:
                self._access = self._refresh(self.key)
            return f"Bearer {self._access}"

    def renew(self, refused: str) -> bool:
        """After a 401: forget the access token in the header `refused`; True if another try makes sense."""
        if not self.personal:
            return False
        with self._lock:
            # Another thread may have renewed it meanwhile; its fresh one is kept.
            if self._access is not None and refused == f"Bearer {self._access}":
                self._access = None
        return True
