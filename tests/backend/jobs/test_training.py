import json
import os
import signal
import sys
import threading

import psutil
import pytest

from backend.jobs.training import PREPARE_GUESS, PREPARING, Plan, preparing
from backend.settings import Settings
from backend.system.processes import is_alive
from tests.backend.fakes import eventually
from tests.backend.jobs.conftest import POLYGONS, TRIANGLE, png

WORKER = "host/1:1"


def run(store, runner, project):
    job, _ = store.submit("training", project)
    runner.run(job.id, WORKER)
    return store.get(job.id)


def test_a_training_is_fetched_trained_published_and_served(store, registry, runner_that, project, tmp_path):
    job = run(store, runner_that("promote"), project)
    assert (job.state, job.progress, job.reason) == ("done", 1.0, "")
    assert job.version == f"p{project}-r001-lite0"
    assert registry.current(project).version == job.version
    assert registry.current(project).card.parent == "oct-lite0"
    assert job.report["used"] == 5
    assert sum(job.report["dropped"].values()) == 2
    assert job.metrics["new"]["mean_iou"] == 0.8
    assert job.metrics["parent"]["mean_iou"] == 0.9
    log = "\n".join(store.log_tail(job.id, 100))
    assert "5 accepted tasks" in log
    assert "classifier 1/2: 5 images" in log
    assert "a line that is no JSON" in log
    assert list((tmp_path / "work").iterdir()) == []


def test_a_version_is_prepared_before_it_is_served(store, registry, runner_that, project, monkeypatch):
    """What the server would have to make at the first request lies beside the weights when they are promoted."""
    made = "import sys, json, pathlib; folder = pathlib.Path(sys.argv[1], 'runtime'); folder.mkdir(); "
    made += "(folder / 'made').touch(); print(json.dumps({'stage': 'done', 'message': 'computed by OpenVINO'}))"
    seen, promote = [], registry.promote

    def noting(project, version, fence):
        seen.append((registry.version(project, version).directory / "runtime" / "made").is_file())
        return promote(project, version, fence)

    monkeypatch.setattr(registry, "promote", noting)
    runner = runner_that("promote", prepare=lambda folder: [sys.executable, "-c", made, str(folder)])
    job = run(store, runner, project)
    assert (job.state, job.metrics["new"]["mean_iou"], seen) == ("done", 0.8, [True])
    assert "computed by OpenVINO" in "\n".join(store.log_tail(job.id, 100))


def test_a_candidate_is_not_prepared_and_what_follows_a_training_is_in_the_time_left(
    store, registry, runner_that, project, monkeypatch
):
    """Preparing takes a minute or more, which only a version that is served is worth."""
    left, advance = [], store.advance

    def noting(job, **changes):
        left.append((changes.get("state"), changes.get("eta"), changes.get("message")))
        return advance(job, **changes)

    monkeypatch.setattr(store, "advance", noting)
    made = "import sys, json; print(json.dumps({'stage': 'done', 'message': 'computed by OpenVINO'}))"
    prepare = lambda folder: [sys.executable, "-c", made, str(folder)]  # noqa: E731
    job = run(store, runner_that("worse", prepare=prepare), project)
    assert (job.state, registry.current(project)) == ("done", None)
    assert "computed by OpenVINO" not in "\n".join(store.log_tail(job.id, 100))
    left.clear()
    job = run(store, runner_that("timed", prepare=prepare), project)
    seconds = [eta for _, eta, _ in left if eta]
    assert {90.0 + PREPARE_GUESS, 30.0 + PREPARE_GUESS} <= set(seconds)
    assert (None, PREPARE_GUESS, f"converting the networks of {job.version} for this machine") in left


def test_a_version_that_cannot_be_prepared_is_served_all_the_same(store, registry, runner_that, project):
    failing = "import json; print(json.dumps({'stage': 'failed', 'reason': 'no such instruction'}))"
    job = run(store, runner_that("promote", prepare=lambda folder: [sys.executable, "-c", failing]), project)
    assert (job.state, registry.current(project).version) == ("done", job.version)
    assert "is not prepared for serving (training failed: no such instruction)" in "\n".join(
        store.log_tail(job.id, 100)
    )


@pytest.mark.parametrize(
    ("device", "values", "options"),
    [
        ("cpu", {}, ["--runtime", "auto"]),
        (
            "cpu",
            {"PREMASK_RUNTIME": "openvino", "PREMASK_TORCH_THREADS": "3"},
            ["--runtime", "openvino", "--threads", "3"],
        ),
        ("cpu", {"PREMASK_RUNTIME": "pytorch"}, None),
        ("cuda:0", {}, None),
    ],
)
def test_a_version_is_prepared_for_the_server_of_the_same_settings(tmp_path, device, values, options):
    settings = Settings.from_environ({"PREMASK_DATA_DIR": str(tmp_path), **values})
    command = preparing(settings, device)
    assert (None if command is None else list(command(tmp_path))) == (options and [*PREPARING, str(tmp_path), *options])


def test_a_training_tells_how_much_of_earlier_masks_was_kept(store, runner_that, label_studio):
    """What a prediction drew is compared with what was submitted in its place, also when it was deleted since."""
    project = label_studio.add_project(POLYGONS, "Vessels")
    half = {**TRIANGLE, "value": {**TRIANGLE["value"], "points": [[0, 0], [50, 0], [50, 100], [0, 100]]}}
    whole = {**TRIANGLE, "value": {**TRIANGLE["value"], "points": [[0, 0], [100, 0], [100, 100], [0, 100]]}}
    for number, accepted in enumerate(([half], [whole], [], [half])):
        task = label_studio.add_upload(project, f"{number}.png", png())
        row = {"task": task, "result": [half], "model_version": "oct-lite0", "score": 0.9}
        prediction = label_studio.add_prediction(row)
        label_studio.add_annotation(task, accepted, parent_prediction=prediction)
    del label_studio.predictions[prediction]
    report = run(store, runner_that("promote"), str(project)).report
    assert report["title"] == "Vessels"
    assert report["acceptance"] == {"oct-lite0": {"Lumen": {"drawn": 3, "iou": 0.5, "unchanged": 1, "added": 0}}}


def test_training_yields_to_annotators(store, runner_that, project):
    assert run(store, runner_that("promote"), project).metrics["new"]["nice"] >= 10


def test_the_next_version_continues_from_the_current_one(store, registry, runner_that, project):
    first = run(store, runner_that("promote"), project)
    second = run(store, runner_that("promote"), project)
    assert registry.version(project, second.version).card.parent == first.version


def test_a_starter_that_knows_none_of_the_classes_is_no_beginning(store, registry, runner_that, label_studio):
    """ImageNet's weights know more of leaves than a model of vessels does; its backbone is kept."""
    number = label_studio.add_project(POLYGONS.replace("Lumen", "Rust").replace("Fibrous cap", "Blight"))
    rust = {**TRIANGLE, "value": {**TRIANGLE["value"], "polygonlabels": ["Rust"]}}
    for name in ("a.png", "b.png", "c.png", "d.png"):
        label_studio.add_annotation(label_studio.add_upload(number, name, png()), [rust])
    project = str(number)
    first = run(store, runner_that("promote"), project)
    assert (first.state, first.version) == ("done", f"p{project}-r001-lite0")
    assert registry.current(project).card.parent is None
    second = run(store, runner_that("promote"), project)
    assert registry.version(project, second.version).card.parent == first.version


def test_a_version_that_is_worse_stays_a_candidate(store, registry, runner_that, project):
    job = run(store, runner_that("worse"), project)
    assert job.state == "done"
    assert job.message.endswith("stays a candidate: 0.80 against 0.90")
    assert registry.current(project) is None
    assert [info.state for info in registry.versions(project)] == ["candidate"]


def test_too_few_accepted_tasks_are_counted_and_asked_for(store, runner_that, project):
    job = run(store, runner_that("promote", Plan(min_accepted=6)), project)
    assert job.state == "failed"
    assert "has 5 accepted tasks to learn from and needs 6; annotate and submit 1 more" in job.reason
    assert "1 skipped by the annotator" in job.reason


def test_a_config_without_a_class_is_told_without_a_training(store, runner_that, project, label_studio):
    xml = '<View><BrushLabels name="t" toName="i" value="$l"/><Image name="i" value="$image"/></View>'
    label_studio.projects[int(project)]["label_config"] = xml
    job = run(store, runner_that("promote"), project)
    assert (job.state, job.reason[:37]) == ("failed", "the labelling config names no class t")


def test_too_few_are_told_before_any_image_is_fetched(store, runner_that, project, label_studio):
    """Thousands of images take minutes."""
    job = run(store, runner_that("promote", Plan(min_accepted=9)), project)
    assert "has 6 accepted tasks to learn from and needs 9; annotate and submit 3 more" in job.reason
    assert not any(path.endswith(".png") for _, path, _ in label_studio.requests)


def test_what_a_promotion_lacks_is_told_with_the_weak_classes(store, registry, runner_that, project):
    job = run(store, runner_that("weak"), project)
    assert job.message.endswith(
        "stays a candidate: 0.24; about 20 more corrected tasks would tell. Weak: Lumen (IoU 0.24). "
        "Not measured: Fibrous cap"
    )
    assert job.metrics["evidence"]["needed"] == 4
    assert registry.current(project) is None


def test_images_accepted_as_they_were_drawn_are_named_to_the_training(store, runner_that, label_studio):
    """They are no evidence for any version, also where the prediction was deleted since."""
    project = label_studio.add_project(POLYGONS)
    moved = {**TRIANGLE, "value": {**TRIANGLE["value"], "points": [[0, 0], [50, 0], [50, 100], [0, 100]]}}
    for number, accepted in enumerate(([TRIANGLE], [moved], [], [TRIANGLE], [{**TRIANGLE, "origin": "prediction"}])):
        task = label_studio.add_upload(project, f"{number}.png", png())
        row = {"task": task, "result": [] if number == 2 else [TRIANGLE], "model_version": "v", "score": 0.9}
        prediction = label_studio.add_prediction(row) if number != 3 else None
        label_studio.add_annotation(task, accepted, parent_prediction=prediction, completed_by={"email": "a@x.org"})
    del label_studio.predictions[prediction]
    job = run(store, runner_that("tell"), str(project))
    tasks = sorted(label_studio.tasks)
    assert job.metrics["new"]["as_drawn"] == [f"task-{tasks[0]}", f"task-{tasks[2]}", f"task-{tasks[4]}"]
    assert job.report["as_drawn"] == 3
    assert job.report["annotators"]["a@x.org"]["Lumen"]["drawn"] == 2


def test_a_version_keeps_what_it_learnt_from(store, registry, runner_that, project):
    version = registry.version(project, run(store, runner_that("promote"), project).version)
    assert len(json.loads((version.directory / "accepted.json").read_text())) == 7


def test_failed_trainings_leave_no_gap_in_the_numbers(store, registry, runner_that, project):
    """The first version of a project is r001."""
    for how in ("refuse", "crash", "silent"):
        assert run(store, runner_that(how), project).state == "failed"
    assert run(store, runner_that("promote"), project).version == f"p{project}-r001-lite0"
    assert run(store, runner_that("refuse"), project).version == f"p{project}-r002-lite0"
    assert run(store, runner_that("promote"), project).version == f"p{project}-r002-lite0"


def test_the_time_left_is_what_the_training_says(store, runner_that, project, monkeypatch):
    """One estimate over all stages, and the bar follows it; while images are fetched it covers what comes after."""
    seen = []
    advance = store.advance

    def noted(job, **changes):
        seen.append(changes)
        return advance(job, **changes)

    monkeypatch.setattr(store, "advance", noted)
    run(store, runner_that("timed"), project)
    told = [(one["eta"], one["progress"]) for one in seen if one.get("eta") is not None and "figures" in one]
    assert told[:2] == [(90.0, 0.187), (30.0, 0.7525)]
    begun = next(number for number, one in enumerate(seen) if "figures" in one)
    fetching = [one["eta"] for one in seen[:begun] if one.get("eta") is not None]
    assert fetching
    assert min(fetching) >= 600.0


def test_step_loss_and_seconds_left_are_known_while_it_trains(store, runner_that, project, monkeypatch):
    seen = []
    advance = store.advance

    def seeing(job, **changes):
        seen.append(changes)
        return advance(job, **changes)

    monkeypatch.setattr(store, "advance", seeing)
    job = run(store, runner_that("slow"), project)
    assert job.figures == {}  # the last stages have none
    assert {"step": 19, "loss": 0.5} in [changes.get("figures") for changes in seen]
    assert any(0 < changes["eta"] < 600 for changes in seen if changes.get("eta") is not None)
    assert (job.eta, job.started >= job.created) == (None, True)


@pytest.mark.parametrize("moment", ["published", "promoted"])
def test_a_training_that_was_killed_while_it_published_is_published_once(
    store, registry, runner_that, project, monkeypatch, moment
):
    """It took minutes, and is not done again."""

    class PowerCut(BaseException):
        pass

    def cut(*_):
        raise PowerCut

    monkeypatch.setattr(registry, {"published": "publish", "promoted": "promote"}[moment], cut)
    job, _ = store.submit("training", project)
    with pytest.raises(PowerCut):
        runner_that("promote").run(job.id, WORKER)
    monkeypatch.undo()
    assert store.get(job.id).state == "publishing"
    runner = runner_that("crash")  # training again would fail
    runner.restart(store.get(job.id), "its worker died while publishing")
    runner.run(job.id, WORKER)
    after = store.get(job.id)
    assert (after.state, after.reason) == ("done", "")  # the interruption is over, and stays in the log
    assert any("its worker died while publishing" in line for line in store.log_tail(job.id))
    assert [info.version for info in registry.versions(project)] == [after.version]
    assert registry.current(project).version == after.version


def test_what_a_training_learns_from_is_kept_for_the_next_by_itself(store, runner_that, project):
    learned = []
    run(store, runner_that("refuse", learned=lambda *what: learned.append(what)), project)
    assert [(of, len(tasks)) for of, tasks in learned] == [(project, 7)]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("killed", "training was killed by signal 9 (SIGKILL; out of memory?)"),
        ("crash", "training ended with exit code 1; its last words: "),
        ("refuse", "training failed: every mask is empty; draw some"),
        ("silent", "training ended without a result"),
    ],
)
def test_a_training_that_fails_says_how_and_publishes_nothing(store, registry, runner_that, project, how, says):
    job = run(store, runner_that(how), project)
    assert job.state == "failed"
    assert says in job.reason
    assert registry.versions(project) == []


def test_the_last_words_of_a_crash_are_the_errors(store, runner_that, project):
    assert "MemoryError: no room left" in run(store, runner_that("crash"), project).reason


def test_kill_9_of_the_training_process_gives_a_failed_job_with_the_signal_named(store, runner_that, project):
    """Progress and log can be seen while it runs; nothing that it started is left behind."""
    runner = runner_that("hang")
    job, _ = store.submit("training", project)
    thread = threading.Thread(target=runner.run, args=(job.id, WORKER))
    thread.start()
    running = eventually(lambda: (j := store.get(job.id)).progress >= 0.3 and j)
    assert running.state == "training"
    assert any("classifier 1/2" in line for line in store.log_tail(job.id))
    pid = int(running.process.partition(":")[0])
    (child,) = eventually(lambda: psutil.Process(pid).children())
    child.terminate()  # so that the pipe closes; group members that live are killed with the leader
    os.kill(pid, signal.SIGKILL)
    thread.join(20)
    assert "killed by signal 9 (SIGKILL" in store.get(job.id).reason
    assert not is_alive(running.process)


def test_stopping_the_worker_ends_the_training_and_queues_the_job_again(store, runner_that, project):
    runner = runner_that("hang")
    job, _ = store.submit("training", project)
    thread = threading.Thread(target=runner.run, args=(job.id, WORKER))
    thread.start()
    running = eventually(lambda: (j := store.get(job.id)).progress >= 0.3 and j)
    (child,) = eventually(lambda: psutil.Process(int(running.process.partition(":")[0])).children())
    runner.stop()
    thread.join(20)
    after = store.get(job.id)
    assert (after.state, after.restarts) == ("queued", 0)
    assert "begins again" in after.reason
    assert not is_alive(running.process)
    child.wait(20)


def test_a_training_that_hangs_is_ended(store, runner_that, project):
    plan = Plan(minutes=0.001, spare_seconds=1.0)
    assert "killed because it took longer than" in run(store, runner_that("hang", plan), project).reason


def test_label_studio_that_refuses_the_key_is_quoted(store, label_studio, runner_that, project):
    label_studio.legacy_enabled = False
    assert "legacy" in run(store, runner_that("promote"), project).reason


def test_the_files_of_the_last_three_failures_are_kept(store, runner_that, project, tmp_path):
    jobs = [run(store, runner_that("refuse"), project).id for _ in range(5)]
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == sorted(jobs[-3:])


def test_a_job_that_another_worker_has_is_left_alone(store, runner_that, project):
    job, _ = store.submit("training", project)
    store.claim(job.id, "host/2:2")
    runner_that("promote").run(job.id, WORKER)
    assert store.get(job.id).state == "fetching"
