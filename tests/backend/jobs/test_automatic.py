import threading

import pytest

from backend.database.notes import Notes
from backend.errors import LabelStudioError
from backend.jobs.automatic import AutomaticTraining
from backend.label_studio.client import LabelStudio
from tests.backend.fakes import CONFIG, eventually
from tests.backend.jobs.edit import edit_job


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def automatic(records, clock):
    return AutomaticTraining(records, after=2, clock=clock)


@pytest.fixture
def project(label_studio):
    project = label_studio.add_project(CONFIG)
    for number in range(6):
        label_studio.add_task(project, {"image": f"/{number}"})
    return str(project)


@pytest.fixture
def accept(label_studio, automatic, project):
    """Submits an annotation for each task and sends the webhook as often as told."""

    def make(*numbers, times=1):
        tasks = list(label_studio.tasks)
        for number in numbers:
            label_studio.add_annotation(tasks[number], [])
            for _ in range(times):
                automatic.note(project)

    return make


@pytest.fixture
def look(automatic, jobs, label_studio, clock):
    """Looks, after so many seconds, and says how many trainings there have been."""
    client = LabelStudio(label_studio.url, label_studio.legacy_token)

    def after(seconds):
        clock.now += seconds
        automatic.look(jobs, lambda project: client)
        return len(jobs.store.find(kind="training"))

    return after


def finish(jobs, label_studio, automatic, project):
    """Do as the training job does: fetch, note the annotations it learns from, and end."""
    (job,) = jobs.store.find(project, states=("queued",))
    automatic.learned(project, label_studio.export(int(project)))
    edit_job(jobs.store, job.id, state="done")


def test_a_project_trains_after_so_many_accepted_tasks_and_not_before(accept, look):
    accept(0)
    assert look(11) == 0
    accept(1)
    assert look(11) == 1


def test_a_burst_of_events_is_looked_at_once_when_it_is_over(accept, look, label_studio):
    accept(0, 1, 2, times=20)
    assert look(9) == 0
    assert look(2) == 1
    before = len(label_studio.requests)
    assert look(100) == 1
    assert len(label_studio.requests) == before


def test_events_that_never_cease_do_not_put_it_off_for_ever(accept, look, automatic, project):
    accept(0, 1)
    for _ in range(7):
        assert look(9) in (0, 1)
        automatic.note(project)
    assert look(1) == 1


def test_the_same_data_never_trains_twice(accept, look, jobs, label_studio, automatic, project):
    """Each event comes twice, from a webhook that outlived its backend's registration, and again much later."""
    accept(0, 1, times=2)
    assert look(11) == 1
    finish(jobs, label_studio, automatic, project)
    automatic.note(project)
    assert look(11) == 1
    accept(2)
    assert look(11) == 1
    accept(3)
    assert look(11) == 2


def test_what_is_accepted_while_a_training_runs_is_looked_at_when_it_is_over(
    accept, look, jobs, label_studio, automatic, project
):
    accept(0, 1)
    assert look(11) == 1
    automatic.learned(project, label_studio.export(int(project)))
    accept(2, 3)
    assert look(11) == 1
    edit_job(jobs.store, jobs.store.find(project)[0].id, state="done")
    assert look(11) == 2


def test_an_annotation_made_again_is_newly_accepted_and_a_deleted_one_is_not(
    accept, look, jobs, label_studio, automatic, project
):
    accept(0, 1, 2)
    assert look(11) == 1
    finish(jobs, label_studio, automatic, project)
    label_studio.annotations.clear()
    automatic.note(project)
    assert look(11) == 1
    accept(0, 1)  # again
    assert look(11) == 2


def test_label_studio_that_is_away_is_asked_again_later(accept, look, label_studio, clock):
    accept(0, 1)
    label_studio.faults = [("/api/tasks", 503, "refused")]
    assert look(11) == 0
    assert look(30) == 0
    assert look(31) == 1


def test_a_thread_of_the_worker_looks_by_itself(accept, automatic, jobs, label_studio, clock):
    accept(0, 1)
    clock.now += 11
    stopped = threading.Event()
    client = LabelStudio(label_studio.url, label_studio.legacy_token)
    automatic.watch(jobs, lambda project: client, stopped, every=0.02)
    assert eventually(lambda: jobs.store.find(kind="training"))
    stopped.set()
    eventually(lambda: not any(thread.name == "automatic-training" for thread in threading.enumerate()))


def test_without_the_setting_nothing_is_noted(records):
    AutomaticTraining(records, after=0).note("3")
    assert Notes(records).noted() == {}


class Malformed:
    """Label Studio, or something in its place, whose answer is of another shape."""

    def task_rows(self, project_id, *, annotated):
        return {"detail": "Not found."}["tasks"]


@pytest.mark.parametrize("broken", ["http://[", "detail", "away"])
def test_one_project_that_fails_keeps_no_other_from_training(
    automatic, jobs, label_studio, clock, project, accept, broken
):
    """Whatever is wrong with it, and for as long as it is."""
    accept(0, 1)
    automatic.note("98")

    def client(wanted):
        if wanted == project:
            return LabelStudio(label_studio.url, label_studio.legacy_token)
        if broken == "away":
            raise LabelStudioError(f"no credentials for project {wanted}")
        return Malformed() if broken == "detail" else LabelStudio("http://[", "key")

    for _ in range(3):
        clock.now += 11
        automatic.look(jobs, client)
    assert jobs.store.find(project, kind="training")
    assert not jobs.store.find("98", kind="training")
