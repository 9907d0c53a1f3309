"""The secret of an installation: it encrypts the tokens that the database holds, and gives keys for other purposes."""

import base64
import hashlib
import hmac
import os
import secrets
import tempfile
from functools import cached_property
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken
from pydantic import SecretStr

from backend.errors import DatabaseError

KEY_FILE = "secret-key"
LEAST = 16  # characters of a key, as of PREMASK_SECRET_KEY


class Vault:
    """Encrypts and decrypts texts, and derives keys.

    Args:
        folder: keeps a key of its own, in a file that its user alone may read, where none is configured.
        key: the configured one, PREMASK_SECRET_KEY: machines that share a database need the same.
    """

    def __init__(self, folder: Path, key: SecretStr | None = None) -> None:
        self._path, self._configured = folder / KEY_FILE, key

    def check(self) -> None:
        """Make the key if there is none.

        Raises:
            DatabaseError: it can neither be read nor made, or is none.
        """
        _ = self._secret

    def encrypted(self, text: str) -> str:
        """The text, for the holder of the key alone.

        Raises:
            DatabaseError: a key can neither be read nor made.
        """
        return self._fernet.encrypt(text.encode()).decode()

    def decrypted(self, token: str) -> str | None:
        """The text; None if it was encrypted with another key.

        Raises:
            DatabaseError: a key can neither be read nor made.
        """
        try:
            return self._fernet.decrypt(token.encode()).decode()
        except InvalidToken:
            return None

    def key_for(self, purpose: str) -> bytes:
        """A key of 32 bytes for another purpose, the same wherever the secret is; it tells nothing of any other.

        Raises:
            DatabaseError: a key can neither be read nor made.
        """
        return hmac.digest(self._secret, purpose.encode(), "sha256")

    @cached_property
    def _secret(self) -> bytes:
        return (self._kept() if self._configured is None else self._configured.get_secret_value()).encode()

    @cached_property
    def _fernet(self) -> Fernet:
        return Fernet(base64.urlsafe_b64encode(hashlib.sha256(self._secret).digest()))

    def _kept(self) -> str:
        try:
            if not self._path.exists():
                self._make()
            kept = self._path.read_text(encoding="ascii")
            if len(kept) < LEAST:  # what everybody knows would open the tokens and sign the forms
                raise ValueError(f"it has {len(kept)} characters, and {LEAST} is the least")
        except OSError as error:
            raise DatabaseError(
                f"the key in {self._path} cannot be used: {error.strerror or error}",
                "check the disk and who may read it",
            ) from error
        except ValueError as error:
            raise DatabaseError(
                f"the key in {self._path} cannot be used: {error}",
                "restore it from a copy; or remove it, and open each project's Model settings once: a new key opens no "
                "token that is there",
            ) from error
        return kept

    def _make(self) -> None:
        """Make the file whole or not at all, and never in place of one that another process has made meanwhile."""
        descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{KEY_FILE}.")  # mode 0600
        partial = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(secrets.token_urlsafe(32))
                file.flush()
                os.fsync(file.fileno())
            self._path.hardlink_to(partial)
        except FileExistsError:
            pass
        finally:
            partial.unlink()
