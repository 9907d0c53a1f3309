"""Files that the demo keeps between runs."""

import stat
from pathlib import Path

from rich.console import Console

from backend.demo import servers
from backend.demo.predictions import Scores
from backend.demo.summary import Summary
from backend.settings import Settings


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
    environ |= {"PREMASK_VIEWER_USER": "guest", "PREMASK_ROLE_HEADER": "X-Role"}
    assert "s3cret" not in server.env.values()
    assert not {"PREMASK_VIEWER_USER", "PREMASK_ROLE_HEADER"} & servers.backend(tmp_path, 1, "", environ).env.keys()
    assert server.env["PREMASK_DEVICE"] == "cpu"


def test_commands_find_the_demos_data_where_they_look_for_them(tmp_path: Path) -> None:
    server = servers.backend(tmp_path / "premask-data", 9090, "http://127.0.0.1:8080", {})
    assert server.env["PREMASK_DATA_DIR"] == str(tmp_path / "premask-data")
    assert Settings.model_fields["data_dir"].default == Path("premask-data")


def test_data_of_earlier_releases_are_moved_there_once(tmp_path: Path) -> None:
    (tmp_path / "backend" / "models").mkdir(parents=True)
    (tmp_path / "backend" / "records.sqlite").write_text("old")
    for _ in range(2):
        servers.bring_up_to_date(tmp_path)
        assert (tmp_path / "models").is_dir()
        assert (tmp_path / "records.sqlite").read_text() == "old"
        assert not (tmp_path / "backend").exists()
    (tmp_path / "backend").mkdir()
    (tmp_path / "backend" / "records.sqlite").write_text("older")
    servers.bring_up_to_date(tmp_path)  # nothing is overwritten
    assert (tmp_path / "records.sqlite").read_text() == "old"


def test_the_summary_names_the_dashboard_and_a_command_that_works(tmp_path: Path) -> None:
    scores = Scores(1, 1, 1, ("v",), {})
    login = servers.login_of(tmp_path)
    summary = Summary("http://ls", "http://premask:9090", 3, login, scores, {}, tmp_path)
    console = Console(record=True, width=160)
    summary.show(console)
    shown = console.export_text()
    assert "http://premask:9090/dashboard/projects/3" in shown
    assert f"PREMASK_DATA_DIR={tmp_path} .venv/bin/premask versions list --project 3" in shown
