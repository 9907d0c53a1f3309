"""What cannot be used is one sentence at the start, with what to do, and nothing goes on half."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from backend.entrypoints import worker, wsgi
from backend.entrypoints.supervisor import CONFIG
from backend.errors import BackendError, ServeError
from backend.settings import Settings
from backend.wiring import assemble, assemble_core

ROOT = Path(__file__).parents[3]


def corrupt(path: Path) -> None:
    path.write_bytes(b"no database at all, " * 500)


def folder(path: Path) -> None:
    path.mkdir()


def file(path: Path) -> None:
    path.write_text("notes")


def scrambled(path: Path) -> None:
    """A database that opens, and whose pages are not what they were."""
    content = bytearray(path.read_bytes())
    content[100:] = b"\xa5" * (len(content) - 100)
    path.write_bytes(content)
    for part in ("-wal", "-shm"):
        path.with_name(path.name + part).unlink(missing_ok=True)


FAULTS = [
    ("premask.sqlite", corrupt, "premask.sqlite cannot be used: file is not a database; .*move it away"),
    ("queue.sqlite", corrupt, "the queue .*queue.sqlite is damaged.*move it away"),
    ("records.sqlite", corrupt, "records.sqlite cannot be carried over.*move it away"),
    ("premask.sqlite", folder, "premask.sqlite cannot be used: .*check the disk"),
    ("records.sqlite", folder, "records.sqlite cannot be carried over: .*unable to open"),
    ("queue.sqlite", folder, "the queue .*queue.sqlite cannot be used: unable to open database file; run `chown"),
    ("models", file, "the store of versions .*models: cannot be .*chown"),
    ("secret-key", folder, "the key in .*secret-key cannot be used: Is a directory; check the disk and who may read"),
    ("secret-key", Path.touch, "the key in .*secret-key cannot be used: it has 0 characters.*; restore it"),
    ("credentials.json", folder, "credentials.json cannot be used.*PREMASK_DATA_DIR"),
]


@pytest.mark.parametrize(("name", "break_it", "says"), FAULTS, ids=lambda one: getattr(one, "__name__", one))
def test_a_part_of_the_data_folder_that_cannot_be_used_is_named(tmp_path, name, break_it, says):
    break_it(tmp_path / name)
    with pytest.raises(ServeError, match=says) as error:
        assemble(Settings.from_environ({"PREMASK_DATA_DIR": str(tmp_path)}))
    assert "\n" not in str(error.value)
    assert error.value.remedy


def test_a_machine_without_a_temporary_folder_does_not_start(tmp_path, monkeypatch):
    """All requests above 64 KB would be dropped without an answer, and /ready would say that all is well."""

    def nowhere():
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("tempfile.gettempdir", nowhere)
    with pytest.raises(ServeError, match=r"cannot start: No usable temporary directory .*; let this user .*TMPDIR"):
        assemble(Settings.from_environ({"PREMASK_DATA_DIR": str(tmp_path)}))


@pytest.mark.parametrize("usable", [True, False])
def test_heartbeats_go_where_they_can_be_written(tmp_path, monkeypatch, usable):
    """A container's /dev/shm may be read-only; gunicorn ended with a traceback."""
    monkeypatch.setattr("backend.system.logs.configure_logging", lambda *settings: None)
    monkeypatch.setattr("os.access", lambda path, mode, **options: usable or path != "/dev/shm")
    monkeypatch.setenv("PREMASK_DATA_DIR", str(tmp_path))
    assert runpy.run_path(str(CONFIG))["worker_tmp_dir"] == ("/dev/shm" if usable else None)


def test_what_was_tried_out_at_the_start_can_be_used_afterwards(tmp_path):
    settings = Settings.from_environ({"PREMASK_DATA_DIR": str(tmp_path), "PREMASK_STARTER": "none"})
    core = assemble_core(settings)
    assert core.jobs.waiting() == 0
    assert core.jobs.submit("3")[1] is False


@pytest.mark.parametrize("name", ["premask.sqlite", "queue.sqlite"])
def test_a_database_of_which_pages_are_damaged_is_named(tmp_path, name):
    settings = Settings.from_environ({"PREMASK_DATA_DIR": str(tmp_path)})
    assemble(settings).database.close()
    scrambled(tmp_path / name)
    with pytest.raises(ServeError, match=rf"{name} (cannot be used: .*malformed|is damaged).*move it away"):
        assemble(settings)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(28, "No space left on device", "/data/x"), "/data/x cannot be used: No space left.*; make room"),
        (PermissionError(13, "Permission denied", "/data/x"), "/data/x cannot be used: Permission denied; run `chown"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (RuntimeError("anything"), "cannot start: RuntimeError: anything; PREMASK_LOG_LEVEL=DEBUG"),
    ],
)
@pytest.mark.parametrize("where", ["open_database", "sqlite_queues", "_try_out"])
def test_whatever_fails_is_a_sentence(tmp_path, monkeypatch, capsys, error, says, where):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(f"backend.wiring.{where}", fail)
    with pytest.raises(ServeError, match=says):
        assemble(Settings.from_environ({"PREMASK_DATA_DIR": str(tmp_path)}))
    assert worker.main({"PREMASK_DATA_DIR": str(tmp_path)}) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("premask worker: cannot start: ")
    monkeypatch.setenv("PREMASK_DATA_DIR", str(tmp_path))
    with pytest.raises(Exception, match=says) as told:
        wsgi.build_app()
    assert type(told.value).__name__ == "AppImportError"  # gunicorn prints its text alone


@pytest.mark.parametrize(
    "url", ["u:s3cret@h:port/p", "u:s3cret@127.0.0.1:99999999/p", ":s3cret@[::1/p", "u:s3cret@127.0.0.1:1/p"]
)
def test_an_address_of_a_postgresql_that_is_none_is_told_without_its_password(tmp_path, url):
    environ = {"PREMASK_DATA_DIR": str(tmp_path), "PREMASK_DATABASE_URL": f"postgresql://{url}"}
    with pytest.raises(BackendError, match="PREMASK_DATABASE_URL") as error:
        assemble(Settings.from_environ(environ))
    assert len(str(error.value).splitlines()) <= 2
    assert "s3cret" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["serve", "worker"])
def test_the_command_line_tells_it_in_one_line_and_starts_nothing(tmp_path, command):
    corrupt(tmp_path / "premask.sqlite")
    done = subprocess.run(
        [sys.executable, "-c", "from backend.cli import main; main()", command],
        env={"PATH": "/usr/bin:/bin", "PREMASK_DATA_DIR": str(tmp_path), "PREMASK_PORT": "19321"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "cannot start: the database" in line
