"""The loop of a prediction job against a small Label Studio that fails in every way it knows."""

from typing import Any

import pytest
from sqlalchemy import insert, select

from backend.database.leases import ALL, UNLABELLED
from backend.database.shares import WORKING, Shares
from backend.database.tables import SHARES
from backend.errors import ConfigError, ImageError, JobError, LabelStudioError
from backend.jobs.prediction_run import CHUNK, GaveWay, PredictionRun, Tally
from backend.label_studio.client import LabelStudio
from tests.backend.fakes import CONFIG, OTHER_CONFIG

JOB = "job"


@pytest.fixture
def project(label_studio):
    return str(label_studio.add_project(CONFIG))


@pytest.fixture
def tasks(label_studio, project):
    return [label_studio.add_task(int(project), {"image": str(30 + number)}) for number in range(5)]


@pytest.fixture
def client(label_studio):
    return LabelStudio(label_studio.url, label_studio.legacy_token)


@pytest.fixture
def said():
    return []


@pytest.fixture
def shares(records, leases):
    """With a share of the job for the one worker."""
    records.change(lambda connection: connection.execute(insert(SHARES).values(job=JOB, worker="", state=WORKING)))
    return Shares(records, leases)


@pytest.fixture
def tally(records):
    """What the share counts."""
    return lambda: records.read(lambda connection: connection.execute(select(SHARES.c.tally)).scalar_one())


@pytest.fixture
def run(project, client, predictor, serving, shares, said):
    """A run for which Label Studio's quickest answer to an interrupted import is known after a blink."""
    made = PredictionRun(
        project,
        JOB,
        client,
        predictor,
        lambda classes: serving.served_version(project, classes),
        shares,
        lambda message: said.append((made.tally.done, message)),
        pause=lambda seconds: said.append(seconds),
        patience=0.2,
        import_seconds=0.05,
    )
    return made


def versions(label_studio):
    """By task, the versions of its predictions."""
    found: dict[Any, Any] = {}
    for prediction in label_studio.predictions.values():
        found.setdefault(prediction["task"], []).append(prediction["model_version"])
    return found


def once(tasks):
    return {task: ["oct-lite0"] for task in tasks}


def imports(label_studio):
    return [path for _, path, _ in label_studio.requests if path.endswith("import/predictions")]


def test_all_tasks_are_predicted_once_and_a_second_run_has_nothing_to_do(run, label_studio, leases, project, tasks):
    leases.request(project, [ALL])
    tally = run.run()
    assert versions(label_studio) == once(tasks)
    assert (tally.predicted, tally.done) == (5, 5)
    assert leases.remaining(project, JOB) == (0, None)
    leases.request(project, [ALL])
    assert run.run().present == 5
    assert versions(label_studio) == once(tasks)


def test_predictions_are_imported_in_chunks_and_told_of(run, label_studio, leases, project, said):
    for number in range(CHUNK * 2 + 1):
        label_studio.add_task(int(project), {"image": str(100 + number)})
    leases.request(project, [ALL])
    run.run()
    assert len(imports(label_studio)) == 3
    assert (CHUNK, "predicting with oct-lite0") in said


def test_only_unlabelled_tasks_are_predicted_where_only_they_are_requested(run, label_studio, leases, project, tasks):
    label_studio.add_annotation(tasks[0], [])
    label_studio.add_annotation(tasks[1], [], was_cancelled=True)
    leases.request(project, [UNLABELLED])
    run.run()
    assert versions(label_studio) == once(tasks[1:])


def test_a_prediction_of_another_version_is_none(run, label_studio, leases, project, tasks):
    label_studio.add_prediction({"task": tasks[0], "result": [], "model_version": "p1-r001-lite0"})
    leases.request(project, [ALL])
    run.run()
    assert versions(label_studio)[tasks[0]] == ["p1-r001-lite0", "oct-lite0"]


def test_what_cannot_be_predicted_or_is_gone_is_counted_and_holds_up_nobody(
    run, tally, label_studio, leases, project, tasks
):
    broken = label_studio.add_task(int(project), {"image": "broken.png"})
    leases.request(project, [str(task) for task in (*tasks, broken, 999)])
    assert run.run() == Tally(predicted=5, unanswered=1, gone=1)
    counted = tally()
    assert [one["task"] for one in counted.pop("problems")] == [broken]
    assert Tally(**counted) == run.tally
    assert versions(label_studio) == once(tasks)


def test_what_is_stored_while_a_chunk_is_predicted_is_not_stored_again(
    run, label_studio, leases, project, tasks, images
):
    """An annotator opened the first task, and Label Studio stored our answer to that."""
    load = images.load

    def meanwhile(task, key):
        if not label_studio.predictions:
            label_studio.add_prediction({"task": tasks[0], "result": [], "model_version": "oct-lite0"})
            leases.acquire(project, [str(tasks[1])], "annotator", 600, version="oct-lite0", committed=True)
        return load(task, key)

    images.load = meanwhile
    leases.request(project, [ALL])
    tally = run.run()
    assert (tally.predicted, tally.present) == (3, 1)
    assert versions(label_studio) == once([tasks[0], *tasks[2:]])  # the second is the annotator's


def test_images_that_were_away_for_a_moment_are_fetched_again(run, label_studio, leases, project, tasks, images):
    load = images.load
    failed: list[Any] = []

    def at_first_not(task, key):
        if len(failed) < len(tasks):
            failed.append(task)
            raise ImageError("Label Studio cannot be reached")
        return load(task, key)

    images.load = at_first_not
    leases.request(project, [ALL])
    assert run.run().predicted == 5


@pytest.mark.parametrize("when", ["refused", "done"])
@pytest.mark.parametrize("status", [502, 504, 429])
def test_an_import_without_an_answer_is_looked_up_before_it_is_repeated(
    run, label_studio, leases, project, tasks, when, status
):
    label_studio.faults = [("import/predictions", status, when)]
    leases.request(project, [ALL])
    tally = run.run()
    assert versions(label_studio) == once(tasks)
    assert (tally.predicted, tally.present) == ((5, 0) if when == "refused" else (0, 5))


def test_imports_that_never_get_an_answer_are_given_up_after_some(run, label_studio, leases, project, tasks):
    label_studio.faults = [("import/predictions", 502, "refused")] * 9
    leases.request(project, [ALL])
    with pytest.raises(LabelStudioError, match="HTTP 502"):
        run.run()
    assert len(imports(label_studio)) == 5


def at_the_end(records, leases, project):
    """What the job's last worker does."""
    records.change(lambda connection: leases.make_due(connection, project, JOB))


def test_of_refused_predictions_only_those_at_fault_are_left_out(
    run, tally, label_studio, leases, project, tasks, caplog, records
):
    """Together, then one by one, of which the first is refused again: that task is laid aside until the job's end."""
    label_studio.faults = [("import/predictions", 400, "refused"), ("/api/predictions/", 500, "refused")]
    leases.request(project, [ALL])
    run.run()
    assert (run.tally.predicted, run.tally.refused) == (4, 1)
    assert versions(label_studio) == once(tasks[1:])
    assert f"task {tasks[0]}: its prediction was not stored" in caplog.text
    assert "HTTP 500" in tally()["problems"][0]["reason"]
    assert leases.acquire_due(project, "next", 9, 60) == []
    at_the_end(records, leases, project)
    assert leases.acquire_due(project, "next", 9, 60) == [str(tasks[0])]


def test_what_an_import_does_not_store_is_sent_one_by_one(run, label_studio, leases, project, tasks, caplog):
    """Release 1.22 answers 201 and "created": 0. Later chunks are not even tried together."""
    for number in range(CHUNK):
        label_studio.add_task(int(project), {"image": str(100 + number)})
    label_studio.drops = "imported"
    leases.request(project, [ALL])
    tally = run.run()
    assert (tally.predicted, tally.refused) == (CHUNK + 5, 0)
    assert versions(label_studio) == once(label_studio.tasks)
    assert len(imports(label_studio)) == 1
    assert f"was sent {CHUNK} predictions, says that it stored 0 and lacks {CHUNK}" in caplog.text
    assert leases.remaining(project, JOB) == (0, None)


def test_what_is_not_stored_at_all_is_told_and_stays_requested(
    run, tally, label_studio, leases, project, tasks, records
):
    """However many it says it stored. Once it stores again, the next run does the rest."""
    label_studio.drops = "all"
    leases.request(project, [ALL])
    run.run()
    assert all("does not list it" in problem["reason"] for problem in tally()["problems"])
    at_the_end(records, leases, project)
    assert (run.tally.predicted, run.tally.refused) == (0, 5)
    assert leases.remaining(project, "next") == (5, 0.0)
    label_studio.drops = ""
    assert run.run().predicted == 5
    assert versions(label_studio) == once(tasks)


@pytest.mark.parametrize(("when", "present"), [("refused", 0), ("done", 1)])
def test_a_prediction_sent_by_itself_without_an_answer_is_looked_up_before_it_is_repeated(
    run, label_studio, leases, project, tasks, when, present
):
    label_studio.drops = "imported"
    label_studio.faults = [("/api/predictions/", 504, when)]
    leases.request(project, [ALL])
    tally = run.run()
    assert versions(label_studio) == once(tasks)
    assert (tally.predicted, tally.present, tally.refused) == (5 - present, present, 0)


def test_label_studio_is_asked_again_while_it_restarts(run, label_studio, leases, project, tasks, said):
    run._patience = 600.0
    label_studio.faults = [("/api/tasks", 503, "refused")] * 3
    leases.request(project, [ALL])
    run.run()
    assert versions(label_studio) == once(tasks)
    assert [entry for entry in said if isinstance(entry, float)] == [1.0, 2.0, 4.0]
    assert any("asked again in 2 s" in entry[1] for entry in said if isinstance(entry, tuple))


def test_label_studio_whose_database_restarts_is_asked_again(run, label_studio, leases, project, tasks):
    """It answers 500 then, which at its first look would end the job of a night."""
    run._patience = 600.0
    label_studio.faults = [("/api/tasks", 500, "refused"), (f"/api/projects/{project}/", 520, "refused")]
    leases.request(project, [ALL])
    assert run.run().predicted == 5
    assert versions(label_studio) == once(tasks)


def test_a_label_studio_that_stays_away_is_given_up_with_a_reason_and_the_next_run_goes_on(
    run, label_studio, leases, project, tasks
):
    leases.request(project, [ALL])
    label_studio.faults = [("/api/tasks", 503, "refused")] * 1000
    run._pause = lambda seconds: None
    with pytest.raises(LabelStudioError, match=r"has not answered for 0 minutes: .*What is done stays"):
        run.run()
    label_studio.faults.clear()
    run.run()
    assert versions(label_studio) == once(tasks)


def test_a_run_whose_label_studio_is_away_gives_way_to_a_job_that_waits_and_goes_on_later(
    run, label_studio, leases, project, tasks
):
    """It may be another Label Studio's job, which one that is gone would hold up for ten minutes."""
    leases.request(project, [ALL])
    label_studio.faults = [("/api/tasks", 503, "refused")] * 3
    run._patience, run._leave = 600.0, lambda: len(label_studio.faults) == 1
    with pytest.raises(GaveWay, match=r"another job goes first: .*503"):
        run.run()
    label_studio.faults.clear()
    run.run()
    assert versions(label_studio) == once(tasks)


def test_the_patience_of_runs_that_gave_way_is_one(run, label_studio, leases, project, tasks):
    leases.request(project, [ALL])
    label_studio.faults = [("/api/tasks", 503, "refused")] * 2
    run._patience, run._spent = 600.0, 601.0
    with pytest.raises(LabelStudioError, match="has not answered for 10 minutes"):
        run.run()
    run._patience, run._spent = 600.0, 0.0  # an answer begins it anew
    run.run()
    assert versions(label_studio) == once(tasks)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_ends_it_at_once(run, label_studio, leases, project, tasks, said, status):
    """The token was revoked, or the project deleted, in the middle."""
    label_studio.faults = [("import/predictions", status, "refused")]
    leases.request(project, [ALL])
    with pytest.raises(LabelStudioError) as caught:
        run.run()
    assert caught.value.status == status
    assert not [entry for entry in said if isinstance(entry, float)]


def test_a_config_that_changes_in_the_middle_is_read_again(run, label_studio, leases, project, tasks):
    leases.request(project, [ALL])
    run.run()
    label_studio.projects[int(project)]["label_config"] = CONFIG.replace('name="tag"', 'name="renamed"')
    task = label_studio.add_task(int(project), {"image": "40"})
    leases.request(project, [str(task)])
    run.run()
    (prediction,) = [one for one in label_studio.predictions.values() if one["task"] == task]
    assert prediction["result"][0]["from_name"] == "renamed"
    label_studio.projects[int(project)]["label_config"] = "<View/>"
    leases.request(project, [ALL])
    with pytest.raises(ConfigError):
        run.run()


def test_a_project_that_no_model_covers_says_what_to_do(run, label_studio, leases, project, tasks):
    label_studio.projects[int(project)]["label_config"] = OTHER_CONFIG
    leases.request(project, [ALL])
    with pytest.raises(JobError, match=r"no model knows any of the project's classes \(Cat, Dog\)"):
        run.run()


@pytest.mark.parametrize("moment", range(1, 9))
def test_a_run_that_is_killed_at_any_request_is_finished_by_the_next(
    run, label_studio, leases, project, tasks, client, moment
):
    """Every request is where it may end; the import's may have been done or not."""

    class Killed(BaseException):
        pass

    call, calls = client.call, []

    def deadly(method, path, **options):
        calls.append(path)
        if len(calls) == moment:
            if moment % 2:
                call(method, path, **options)
            raise Killed
        return call(method, path, **options)

    client.call = deadly
    leases.request(project, [ALL])
    try:
        run.run()
    except Killed:
        run.run()
    assert versions(label_studio) == once(tasks)
    assert leases.remaining(project, JOB) == (0, None)


def test_a_request_for_what_is_neither_a_task_nor_a_scope_predicts_nothing(run, label_studio, leases, project, tasks):
    leases.request(project, ["-5", "every", "1.5"])
    run.run()
    assert label_studio.predictions == {}
    assert leases.due() == []


def test_every_task_moves_the_progress_and_the_pace_is_told(
    project, client, predictor, serving, leases, shares, label_studio, tasks
):
    """Not a chunk of 32 at once; tasks that are predicted count before their chunk is stored."""
    told = []
    whole = PredictionRun(
        project, JOB, client, predictor, lambda classes: serving.served_version(project, classes), shares,
        lambda message: told.append((whole.tally.done + whole.drawn, whole.pace)), every=0.0,
    )  # fmt: skip
    leases.request(project, [ALL])
    whole.run()
    assert list(dict.fromkeys(done for done, _ in told)) == [0, 1, 2, 3, 4, 5]
    assert all(pace is not None and pace >= 0 for done, pace in told if done)


def test_a_run_whose_worker_is_needed_elsewhere_leaves_the_rest_after_a_chunk(
    project, client, predictor, serving, leases, shares, label_studio, tasks
):
    for number in range(CHUNK * 2):
        label_studio.add_task(int(project), {"image": str(100 + number)})
    mine = PredictionRun(
        project, JOB, client, predictor, lambda classes: serving.served_version(project, classes), shares,
        lambda _: None, leave=lambda: mine.tally.done > 0,
    )  # fmt: skip
    leases.request(project, [ALL])
    assert mine.run().predicted == CHUNK
    assert leases.remaining(project, "other") == (CHUNK + 5, 0.0)


def test_each_task_without_a_prediction_is_listed_with_its_reason(run, tally, label_studio, leases, project, tasks):
    broken = label_studio.add_task(int(project), {"image": "broken.png"})
    leases.request(project, [ALL])
    run.run()
    (problem,) = tally()["problems"]
    assert problem["task"] == broken
    assert problem["reason"].endswith("broken.png cannot be read")


def test_of_many_tasks_without_a_prediction_the_first_are_listed_and_the_others_counted(
    run, tally, label_studio, leases, project, monkeypatch
):
    monkeypatch.setattr("backend.database.shares.MAX_PROBLEMS", 3)
    for number in range(5):
        label_studio.add_task(int(project), {"image": f"broken-{number}.png"})
    leases.request(project, [ALL])
    run.run()
    assert (len(tally()["problems"]), tally()["untold"]) == (3, 2)
