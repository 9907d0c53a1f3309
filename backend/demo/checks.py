"""Conditions that are checked before anything starts: one sentence instead of a stack of errors later."""

import shutil
from pathlib import Path

from backend.errors import DemoError
from backend.system.ports import obstacle

HOST = "127.0.0.1"
FREE_BYTES = 1_000_000_000  # Label Studio's database, the sample images and a few trained versions


def check_port(port: int, owner: str, setting: str) -> None:
    """Raise unless `port` is free for `owner`.

    Label Studio would silently take the next port, and everything after would talk to somebody else's server.

    Raises:
        DemoError: the port is in use; the text offers a free one.
    """
    if obstacle(HOST, port) is None:
        return
    other = next((p for p in range(port + 1, min(port + 100, 65536)) if obstacle(HOST, p) is None), None)
    choice = f"{setting}={other}" if other else f"another {setting}"
    raise DemoError(f"port {port}, which {owner} needs, is in use: stop what uses it, or run `make run {choice}`")


def check_disk(folder: Path, needed: int = FREE_BYTES) -> None:
    """Raise unless the disk under `folder` has `needed` bytes free for the demo's data.

    Raises:
        DemoError: too little space; the text says how much is needed.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DemoError(
            f"only {free / 1e9:.1f} GB are free for {folder.resolve()}, {needed / 1e9:.0f} GB are needed: "
            "make room, or choose a folder on another disk by `premask demo --data FOLDER`"
        )
