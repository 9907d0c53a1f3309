"""`premask review`: the queue in a shell."""

import json

import pytest
from click.testing import CliRunner

from backend.cli.review import review, run_review
from backend.database.opening import open_database
from backend.database.reviews import Doubt, Reviews
from backend.errors import JobError, UnknownTask
from backend.jobs.running import Runner
from backend.settings import Settings


@pytest.fixture
def environ(tmp_path, starter):
    return {"PREMASK_DATA_DIR": str(tmp_path / "data"), "PREMASK_STARTER": str(starter)}


@pytest.fixture
def run(environ, monkeypatch):
    monkeypatch.setattr("backend.system.logs.configure_logging", lambda *_: None)  # pytest's own stays

    def invoke(*arguments):
        return CliRunner().invoke(review, ["--project", "3", *arguments], env=environ, catch_exceptions=False)

    return invoke


def test_the_queue_is_listed_and_what_is_fine_leaves_it(run, environ, tmp_path):
    assert "no task of project 3 is queued" in run().output
    database, _ = open_database(Settings.from_environ(environ))
    doubts = [Doubt(str(n), "1", "left" * (n == 7), "Lumen", "missed", n / 10, "why", "v1", n == 8) for n in (7, 8)]
    Reviews(database).replace("3", doubts)
    shown = run().output
    assert shown.index("0.80") < shown.index("0.70")
    for text in ("left: why", "v1, which has learnt it"):
        assert text in " ".join(shown.split())
    done = run("--fine", "8", "--json", str(tmp_path / "r.json"))
    assert "task 8 is fine" in done.output
    assert [one["task"] for one in json.loads((tmp_path / "r.json").read_text())["tasks"]] == ["7"]
    with pytest.raises(UnknownTask, match="task 8 is not in the review queue"):
        run("--fine", "8")
    database.close()


class Looks:
    """Stands in for the work of a review."""

    def do(self, attempt):
        attempt.say(state="evaluating", figures={"done": 1, "total": 2}, message="1 of 2 accepted images looked at")
        return "2 accepted images were looked at"


class Fails:
    def do(self, attempt):
        raise JobError("no model knows the classes")


@pytest.mark.parametrize(("work", "state"), [(Looks(), "done"), (Fails(), "failed")])
def test_a_look_runs_here_and_is_followed_to_its_end(store, leases, tmp_path, work, state):
    job = run_review(store, Runner(store, leases, {"review": work}, tmp_path / "work"), "3")
    assert job.state == state
    assert job.kind == "review"
