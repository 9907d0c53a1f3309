"""Files that the demo keeps between runs."""

import stat
from pathlib import Path

from backend.demo import servers


def test_the_account_is_made_up_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    login = servers.login_of(tmp_path)
    assert servers.login_of(tmp_path) == login
    assert stat.S_IMODE((tmp_path / "login.json").stat().st_mode) == 0o600
    assert login.token not in repr(login)
    assert login.password not in repr(login)


def test_a_database_whose_first_start_was_interrupted_is_made_again(tmp_path: Path) -> None:
    database = tmp_path / "label-studio" / "label_studio.sqlite3"
    database.parent.mkdir()
    database.touch()
    servers.discard_unfinished(tmp_path)
    assert not database.exists()


def test_a_database_that_answered_once_is_kept(tmp_path: Path) -> None:
    database = tmp_path / "label-studio" / "label_studio.sqlite3"
    database.parent.mkdir()
    database.touch()
    servers.keep(tmp_path)
    servers.discard_unfinished(tmp_path)
    assert database.exists()


def test_label_studio_gets_nothing_of_the_callers_settings(tmp_path: Path) -> None:
    """It reads HOST, DEBUG and others without its prefix, too."""
    program = tmp_path / "label-studio"
    environ = {"PATH": "/bin", "HOST": "elsewhere", "DEBUG": "1", "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true"}
    server = servers.label_studio(tmp_path, 8080, program, environ)
    assert server.env["PATH"] == "/bin"
    assert {"HOST", "DEBUG", "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK"}.isdisjoint(server.env)
    assert server.env["LABEL_STUDIO_HOST"] == "http://127.0.0.1:8080"
    login = servers.login_of(tmp_path)
    assert not {login.password, login.token} & {str(part) for part in server.command}


def test_the_demos_backend_asks_for_no_password(tmp_path: Path) -> None:
    environ = {"PREMASK_BASIC_AUTH_USER": "lead", "PREMASK_BASIC_AUTH_PASSWORD": "s3cret", "PREMASK_DEVICE": "cpu"}
    server = servers.backend(tmp_path, 9090, "http://127.0.0.1:8080", environ)
    assert "s3cret" not in server.env.values()
    assert server.env["PREMASK_DEVICE"] == "cpu"
