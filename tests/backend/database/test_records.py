from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.database.records import RedisRecords, SqliteRecords
from backend.errors import JobError
from tests.backend.conftest import BOTH_STORAGES


@BOTH_STORAGES
def test_changes_at_the_same_moment_are_not_lost(records):
    def count(_):
        records.change("t", lambda rows: rows.setdefault("a", {"n": 0}).update(n=rows["a"]["n"] + 1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(40)))
    assert records.read("t") == {"a": {"n": 40}}


@BOTH_STORAGES
def test_a_change_that_fails_changes_nothing(records):
    records.change("t", lambda rows: rows.update(a={"n": 1}))

    def fails(rows):
        rows["a"]["n"] = 2
        rows["b"] = {}
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        records.change("t", fails)
    assert records.read("t") == {"a": {"n": 1}}


@BOTH_STORAGES
def test_rows_are_written_removed_and_chosen_by_name(records):
    records.change("t", lambda rows: rows.update({name: {"name": name} for name in "abc"}))

    def work(rows):
        assert sorted(rows) == ["a", "b"]
        del rows["a"]
        rows["d"] = {}
        return "said"

    assert records.change("t", work, ["a", "b", "x"]) == "said"
    assert sorted(records.read("t")) == ["b", "c", "d"]
    assert records.read("t", ["c", "x"]) == {"c": {"name": "c"}}
    assert records.read("t", []) == records.read("other") == {}


@BOTH_STORAGES
def test_tables_with_rows_are_named(records):
    for table in ("tasks:2", "tasks:1", "jobs"):
        records.change(table, lambda rows: rows.update(a={}))
    records.change("tasks:2", lambda rows: rows.clear())
    assert records.tables("tasks:") == ["tasks:1"]


@BOTH_STORAGES
def test_logs_are_apart_from_each_other(records):
    for log in ("a", "b"):
        records.append(log, f"one of {log}", keep=10)
        records.append(log, f"two of {log}", keep=10)
    assert records.tail("a", 5) == ["one of a", "two of a"]
    assert records.tail("b", 1) == ["two of b"]
    assert records.tail("b", 0) == []
    records.discard(["a"])
    assert records.tail("a", 5) == []


def test_server_and_worker_may_make_the_file_at_the_same_moment(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(lambda _: SqliteRecords(tmp_path / "new.sqlite"), range(8)))) == 8


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(JobError, match="check the disk"):
        SqliteRecords(tmp_path / "folder")
    (tmp_path / "text").write_text("no database at all, but long enough to be looked at")
    with pytest.raises(JobError, match="text cannot be used"):
        SqliteRecords(tmp_path / "text")


def test_a_redis_that_is_away_is_an_error_without_its_password():
    with pytest.raises(JobError, match="PREMASK_QUEUE_URL") as caught:
        RedisRecords("redis://:s3cret@127.0.0.1:1/0").read("t")
    assert "s3cret" not in str(caught.value)
