"""Names that say nothing: salted pseudonyms of patients and pullbacks."""

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from backend.errors import PullbackError

SALT_BYTES = 32
DIGITS = 10  # hexadecimal digits of a pseudonym: a million patients give two the same one with a chance of 1/2


@dataclass(frozen=True)
class Pseudonyms:
    """The same name for the same person or pullback each time, which cannot be led back without the salt."""

    salt: bytes

    def of(self, kind: str, identity: str) -> str:
        """A pseudonym such as "patient-3f2a9c1d4e".

        Args:
            kind: a word that it begins with; two kinds never share a pseudonym's digits.
            identity: whom it stands for.
        """
        digest = hmac.new(self.salt, f"{kind}\0{identity}".encode(), hashlib.sha256).hexdigest()
        return f"{kind}-{digest[:DIGITS]}"


def read_pseudonyms(folder: Path) -> Pseudonyms:
    """The pseudonyms of a folder, whose salt is made at the first call.

    Raises:
        PullbackError: the file with the salt is damaged.
    """
    path = folder / "salt"
    if not path.exists():
        partial = folder / f".salt.{os.getpid()}"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(SALT_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was first
            os.link(partial, path)
        partial.unlink()
    try:
        salt = bytes.fromhex(path.read_text(encoding="ascii"))
    except ValueError:
        salt = b""
    if len(salt) != SALT_BYTES:
        raise PullbackError(
            f"{path} is damaged, and without it patients get other pseudonyms; restore it from a backup"
        )
    return Pseudonyms(salt)
