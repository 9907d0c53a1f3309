"""A data folder that release 0.1.0 wrote in the middle of its work; `release_0_1_0/make.py.txt` made it."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from backend.database.credentials import Credentials
from backend.database.earlier import carry_over
from backend.database.engine import Database
from backend.database.jobs import ACTIVE, JobStore
from backend.database.leases import ALL, UNLABELLED, Leases
from backend.database.notes import Note, Notes
from backend.database.tables import LEASES, REQUESTED
from backend.errors import DatabaseError
from backend.jobs.queue import JobQueue, sqlite_queues
from tests.backend.conftest import BOTH_STORAGES, close_queues

pytestmark = BOTH_STORAGES
WRITTEN = Path(__file__).parent / "release_0_1_0"
NOW = 1_790_000_000.0  # of its leases


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The data folder, as it was left."""
    for name in ("records.sqlite", "queue.sqlite", "credentials.json"):
        shutil.copy(WRITTEN / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def carry(folder: Path, records: Database, credentials: Credentials) -> Any:
    return lambda: carry_over(records, credentials, folder)


def rows(records: Database) -> list[Any]:
    return [tuple(row) for row in records.read(lambda c: c.execute(select(LEASES).order_by(LEASES.c.task)).all())]


def test_jobs_and_their_logs_are_carried_over_half_finished_ones_too(carry, store: JobStore) -> None:
    carry()
    done, half, predicting = reversed(store.find("3"))
    assert (done.state, done.version, done.message) == ("done", "p3-r001", "p3-r001 is served from now on")
    assert done.metrics == {"new": {"mean_iou": 0.91}, "promote": True, "verdict": "better"}
    assert str(done.figures) == "{'step': 10, 'loss': nan}"
    assert [line.split(" ", 1)[1] for line in store.log_tail(done.id)] == ["step 1, loss 0.5", "Größe 640 × 480"]
    assert (half.state, half.worker, half.process, half.progress) == ("training", "old/2:2", "7:7", 0.3)
    assert (predicting.kind, predicting.state, predicting.report) == ("prediction", "predicting", {"predicted": 32})
    assert {job.kind for job in store.find("4", ("queued",))} == {"training", "prediction"}
    assert store.submit("training", "3") == (half, False)
    assert store.release(half, "queued", "its worker died while training; it began again", restarts=1)
    assert store.claim(half.id, "new/1:1")


def test_a_prediction_job_of_the_first_release_is_read_joined_and_finished(carry, store: JobStore) -> None:
    """That release called it an annotation."""
    carry()
    (found,) = store.find("5")
    assert (found.kind, found.state) == ("prediction", "predicting")
    assert store.submit("prediction", "5") == (found, False)
    assert store.advance(found, state="done")


def test_leases_go_on_where_they_were(carry, records: Database, store: JobStore) -> None:
    """Its words were others: "wanted" is requested, "firm" is committed."""
    carry()
    (job,) = store.find("3", kind="prediction")
    leases = Leases(records, lambda: NOW)
    assert leases.acquire_due("3", job.id, 9, 600) == ["1", "10", UNLABELLED]
    # 2 is being stored by the job, 3 by a request, and 20 was delivered.
    assert leases.commit("3", ["2", "3", "20"], job.id, 90, version="p3-r001") == {"2"}
    assert leases.acquire("3", ["3", "20"], "other", 70, version="p3-r001", committed=True) == set()
    assert leases.due() == ["4"]
    numbers = records.read(lambda connection: connection.execute(select(REQUESTED)).all())
    assert {tuple(row) for row in numbers} == {("3", 5), ("4", 1)}
    assert Leases(records, lambda: NOW).acquire_due("4", "job", 9, 600) == [ALL]
    assert Leases(records, lambda: NOW + 100).acquire_due("3", "next", 9, 600) == ["2", "3"]


def test_notes_and_tokens_are_carried_over_and_the_file_with_plain_tokens_is_gone(
    carry, folder: Path, records: Database, credentials: Credentials
) -> None:
    carry()
    assert Notes(records).noted() == {"3": Note(NOW, NOW + 10)}
    assert Notes(records).learned("3") == {"1": "8,9", "2": "10"}
    assert credentials.of("3").api_key.get_secret_value() == "token-of-three"
    assert credentials.of("4").url == "http://label-studio:8080"
    kept = b"".join(path.read_bytes() for path in folder.iterdir())
    assert b"token-of" not in kept


def test_waiting_jobs_are_still_in_the_queue(carry, folder: Path, records: Database, store: JobStore) -> None:
    carry()
    jobs = JobQueue(store, Leases(records), queues := sqlite_queues(folder / "queue.sqlite"))
    pending = [task.args[0] for task in queues["training"].pending()]
    (waiting,) = store.find("4", kind="training")
    assert waiting.id in pending
    before = jobs.waiting()
    jobs.submit("4")
    assert jobs.waiting() == before
    close_queues(queues)


def test_it_is_carried_over_once(carry, folder: Path, records: Database, store: JobStore) -> None:
    carry()
    assert not (folder / "records.sqlite").exists()
    assert (folder / "records.sqlite.carried-over").exists()
    before = store.find(), rows(records), store.log_tail(store.find("3", ("done",))[0].id)
    carry()
    # And after a kill between the database and the files.
    shutil.copy(WRITTEN / "records.sqlite", folder)
    carry()
    assert (store.find(), rows(records), store.log_tail(store.find("3", ("done",))[0].id)) == before


def test_what_a_killed_process_left_in_its_log_is_carried_over_too(carry, folder: Path, records: Database) -> None:
    row = {"wanted": True, "holder": "", "firm": False, "version": "", "until": 0.0}
    with closing(sqlite3.connect(folder / "records.sqlite")) as killed:
        killed.execute("insert into documents values ('tasks:9', '77', ?)", [json.dumps(row)])
        killed.commit()
        assert (folder / "records.sqlite-wal").stat().st_size > 0
        for path in folder.glob("records.sqlite*"):
            shutil.copy(path, folder / path.name.replace("records", "copy"))
    for path in folder.glob("copy.sqlite*"):
        path.replace(folder / path.name.replace("copy", "records"))
    carry()
    assert Leases(records).acquire_due("9", "job", 9, 60) == ["77"]


def test_of_two_active_jobs_of_a_kind_the_older_one_goes_on(carry, folder: Path, store: JobStore) -> None:
    """The first release's annotation job and a prediction job are the same kind."""
    with closing(sqlite3.connect(folder / "records.sqlite")) as connection:
        ((text,),) = connection.execute(
            "select document from documents where name like '%' and document like '%annotating%'"
        )
        second = json.loads(text) | {"id": "second", "kind": "prediction", "state": "predicting", "created": 1.8e9}
        connection.execute("insert into documents values ('jobs', 'second', ?)", [json.dumps(second)])
        connection.commit()
    carry()
    (active,) = store.find("5", ACTIVE)
    assert active.id != "second"


def drop_documents(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("drop table documents")


@pytest.mark.parametrize(
    "spoil",
    [lambda path: path.write_text("no database at all, but long enough to be looked at" * 100), drop_documents],
)
def test_damaged_records_are_said_in_a_sentence_and_stay(carry, folder: Path, store: JobStore, spoil: Any) -> None:
    spoil(folder / "records.sqlite")
    with pytest.raises(DatabaseError, match=r"earlier release in .*records\.sqlite cannot be carried over") as caught:
        carry()
    assert "move it away" in caught.value.remedy
    assert (folder / "records.sqlite").exists()
    assert store.find() == []


def change(path: Path, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement, values)
        connection.commit()


JOB = {"kind": "training", "project": "9", "state": "done", "created": 1.0, "updated": 2.0}


WRONG: list[dict[str, Any]] = [
    {"id": None}, {"kind": "cooking"}, {"state": ["done"]}, {"created": "yesterday"}, {"created": None},
    {"created": float("nan")}, {"progress": float("inf")}, {"restarts": 10**30}, {"figures": [1]}, {"report": "much"},
    {"project": {"id": 3}}, {"version": {}},
]  # fmt: skip


@pytest.mark.parametrize(
    "document",
    ["", "{", "[]", "null", "7", '"text"', "{}", "[" * 100_000, b"\xff"]
    + [json.dumps({"id": "odd", **JOB, **wrong}) for wrong in WRONG],
)
def test_one_job_that_cannot_be_read_is_named_and_does_not_stop_the_others(
    carry, folder: Path, store: JobStore, caplog: Any, document: Any
) -> None:
    change(folder / "records.sqlite", "insert into documents values ('jobs', 'odd-one', ?)", document)
    carry()
    assert {len(store.find(project)) for project in ("3", "5")} == {3, 1}
    assert store.find("9") == []
    assert "job 'odd-one' in" in caplog.text
    assert "1 entries of" in caplog.text
    with closing(sqlite3.connect(folder / "records.sqlite.carried-over")) as kept:
        assert kept.execute("select document from documents where name = 'odd-one'").fetchall() == [(document,)]


def test_a_job_as_they_are_there_is_read(carry, folder: Path, store: JobStore) -> None:
    change(folder / "records.sqlite", "insert into documents values ('jobs', 'new', ?)", json.dumps({"id": "n", **JOB}))
    carry()
    assert [job.id for job in store.find("9")] == ["n"]


@pytest.mark.parametrize(
    ("collection", "document"),
    [("tasks:3", '{"wanted": true}'), ("learned:3", '{"annotations": 3}'), ("noted", '{"since": 1}'), ("noted", "{")],
)
def test_another_document_that_cannot_be_read_is_named_too(
    carry, folder: Path, records: Database, store: JobStore, caplog: Any, collection: str, document: str
) -> None:
    change(folder / "records.sqlite", f"insert into documents values ('{collection}', 'odd-one', ?)", document)
    carry()
    assert len(store.find("3")) == 3
    assert Notes(records).noted() == {"3": Note(NOW, NOW + 10)}
    assert f"'odd-one' of '{collection}' in" in caplog.text


@pytest.mark.parametrize("line", [b"\xff\xfe", 7, "\x00\ud800".encode("utf-8", "surrogatepass")])
def test_a_line_of_the_log_that_is_no_text_does_not_stop_the_others(
    carry, folder: Path, store: JobStore, line: Any
) -> None:
    with closing(sqlite3.connect(folder / "records.sqlite")) as connection:
        (job, there) = connection.execute("select log, count(*) from lines group by log").fetchone()
    change(folder / "records.sqlite", "insert into lines (log, line) values (?, cast(? as text))", job, line)
    carry()
    assert len(store.log_tail(job)) == there + 1


def test_many_that_cannot_be_read_are_counted_and_the_first_are_named(
    carry, folder: Path, store: JobStore, caplog: Any
) -> None:
    with closing(sqlite3.connect(folder / "records.sqlite")) as connection:
        connection.executemany("insert into documents values ('tasks:8', ?, '[]')", [(str(n),) for n in range(100)])
        connection.commit()
    carry()
    assert len(store.find("3")) == 3
    assert caplog.text.count("passed over: ") == 20
    assert "100 entries of" in caplog.text


def test_one_token_that_cannot_be_read_does_not_drop_the_others(
    carry, folder: Path, credentials: Credentials, caplog: Any
) -> None:
    path = folder / "credentials.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"9": {"url": "http://ls"}, "10": "token-of-ten"}))
    carry()
    assert credentials.of("3").api_key.get_secret_value() == "token-of-three"
    assert "the token of project '9' in" in caplog.text
    assert "token-of-ten" not in caplog.text
    assert not path.exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"3": {"url": "http://ls"}}', '{"3": "x"}'])
def test_damaged_tokens_are_passed_over(carry, folder: Path, store: JobStore, caplog: Any, text: str) -> None:
    (folder / "credentials.json").write_text(text)
    carry()
    assert len(store.find("3")) == 3
    if text != "[]":
        assert "Label Studio's next /setup sends its tokens again" in caplog.text
    carry()


def test_a_folder_without_such_files_is_left_alone(tmp_path: Path, records: Database, credentials: Credentials) -> None:
    before = sorted(tmp_path.iterdir())
    carry_over(records, credentials, tmp_path)
    assert sorted(tmp_path.iterdir()) == before
