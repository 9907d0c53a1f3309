"""What cannot be used is one sentence at the start, with what to do, and nothing goes on half."""

import subprocess
import sys
from pathlib import Path

import pytest

from backend.entrypoints import worker, wsgi
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
    ("records.sqlite", corrupt, "is damaged.*move it away"),
    ("queue.sqlite", corrupt, "is damaged.*move it away"),
    ("records.sqlite", folder, "cannot.*check the disk|cannot be used"),
    ("queue.sqlite", folder, "cannot"),
    ("models", file, "models cannot be used.*PREMASK_DATA_DIR"),
    ("credentials.json", folder, "credentials.json cannot be used.*PREMASK_DATA_DIR"),
]


@pytest.mark.parametrize(("name", "break_it", "says"), FAULTS, ids=lambda one: getattr(one, "__name__", one))
def test_a_part_of_the_data_folder_that_cannot_be_used_is_named(tmp_path, name, break_it, says):
    break_it(tmp_path / name)
    with pytest.raises(ServeError, match=says) as error:
        assemble(Settings.from_environ({"PREMASK_DATA_DIR": str(tmp_path)}))
    assert "\n" not in str(error.value)
    assert error.value.remedy


def test_what_was_tried_out_at_the_start_can_be_used_afterwards(tmp_path):
    settings = Settings.from_environ({"PREMASK_DATA_DIR": str(tmp_path), "PREMASK_STARTER": "none"})
    core = assemble_core(settings)
    assert core.jobs.waiting() == 0
    assert core.jobs.submit("3")[1] is False


@pytest.mark.parametrize("name", ["records.sqlite", "queue.sqlite"])
def test_a_database_of_which_pages_are_damaged_is_named(tmp_path, name):
    settings = Settings.from_environ({"PREMASK_DATA_DIR": str(tmp_path)})
    assemble(settings)
    scrambled(tmp_path / name)
    with pytest.raises(ServeError, match=r"is damaged.*move it away"):
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
@pytest.mark.parametrize("where", ["SqliteRecords", "sqlite_queues", "_try_out"])
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


@pytest.mark.parametrize("url", ["redis://h:port/0", "redis://h:99999999/0", "redis://:s3cret@[::1/0", "redis://h/x"])
def test_an_address_of_a_redis_that_is_none_is_told_without_its_password(tmp_path, url):
    with pytest.raises(BackendError, match="PREMASK_QUEUE_URL") as error:
        assemble(Settings.from_environ({"PREMASK_DATA_DIR": str(tmp_path), "PREMASK_QUEUE_URL": url}))
    assert "s3cret" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["serve", "worker"])
def test_the_command_line_tells_it_in_one_line_and_starts_nothing(tmp_path, command):
    corrupt(tmp_path / "records.sqlite")
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
    assert "cannot start: a file of" in line
