"""The checks before anything starts."""

import socket
from pathlib import Path

import pytest

from backend.demo import checks
from backend.errors import DemoError


def test_a_port_somebody_listens_on_is_reported_with_a_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        port = somebody.getsockname()[1]
        with pytest.raises(DemoError, match=rf"port {port}, which Label Studio needs, is in use.*make run PORT=\d+"):
            checks.check_port(port, "Label Studio", "PORT")
    checks.check_port(port, "Label Studio", "PORT")


def test_a_full_disk_is_reported_with_what_is_needed(tmp_path: Path) -> None:
    checks.check_disk(tmp_path)
    with pytest.raises(DemoError, match="GB are needed: make room"):
        checks.check_disk(tmp_path, needed=10**18)
