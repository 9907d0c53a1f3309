"""A worker that was paused, with its machine, does nothing with a job that another has taken meanwhile."""

import shutil
import threading

import pytest
from sqlalchemy import text

from backend.database.reviews import Doubt, Reviews
from backend.errors import JobInterrupted, RegistryError
from backend.jobs.running import Attempt
from backend.versions.registry import Registry
from backend.versions.store import Store
from tests.backend.conftest import BOTH_STORAGES
from tests.backend.fakes import eventually, publish, write_checkpoint

ONE, OTHER = "machine/1:1", "another/2:2"
DOUBT = Doubt("1", "11", "", "Lumen", "differs", 0.5, "they disagree", "oct-lite0", False)


def taken_over(store, runner_that, job_id):
    """The job is taken from its worker, and done by another from beginning to end."""
    assert store.release(store.get(job_id), "queued", "its worker was silent", restarts=1)
    runner_that("crash").run(job_id, OTHER)  # training again would fail


@pytest.mark.parametrize("moment", ["publish", "promote"])
@pytest.mark.parametrize("within", [False, True])
def test_a_worker_that_wakes_up_after_its_job_was_taken_publishes_nothing(
    store, registry, runner_that, project, monkeypatch, moment, within
):
    """Paused before it asks for the registry, or while it waits for the transaction."""
    job, _ = store.submit("training", project)
    real = getattr(Registry, moment)
    paused: list[str] = []

    def pausing(self, *arguments, **options):
        if not paused:
            paused.append(moment)
            if within:
                monkeypatch.setattr(registry, "_database", Waiting(registry._database))
            else:
                taken_over(store, runner_that, job.id)
        return real(self, *arguments, **options)

    class Waiting:
        """The database; its next transaction begins when the job was taken meanwhile."""

        def __init__(self, database):
            self.read, self._change = database.read, database.change

        def change(self, work):
            if store.get(job.id).worker == ONE:
                assert store.release(store.get(job.id), "queued", "its worker was silent", restarts=1)
                assert store.claim(job.id, OTHER)
            return self._change(work)

    monkeypatch.setattr(Registry, moment, pausing)
    runner_that("promote").run(job.id, ONE)
    after = store.get(job.id)
    assert paused == [moment]
    assert after.worker == OTHER
    names = registry.names(project)
    if within:
        assert (len(names), registry.current(project)) == (moment == "promote", None)
    else:
        assert (after.state, names) == ("done", [after.version])


def test_the_same_worker_that_has_claimed_it_again_is_another_attempt(store, records, project, tmp_path):
    job, _ = store.submit("training", project)
    store.claim(job.id, ONE)
    first = Attempt(store, store.get(job.id), tmp_path, threading.Event())
    records.change(first.fence)
    store.release(store.get(job.id), "queued", "it broke off", restarts=1)
    store.claim(job.id, ONE)
    with pytest.raises(JobInterrupted):
        records.change(first.fence)
    records.change(Attempt(store, store.get(job.id), tmp_path, threading.Event()).fence)


@BOTH_STORAGES
@pytest.mark.parametrize("what", ["publish", "promote", "review"])
def test_nobody_takes_a_job_between_its_fence_and_the_end_of_the_transaction(store, registry, records, tmp_path, what):
    """Whoever takes it finds what was published, or its worker publishes nothing."""
    reviews, version = Reviews(records), publish(registry, tmp_path)
    made = registry.reserve("3")
    work = {
        "publish": lambda fence: registry.publish("3", write_checkpoint(tmp_path / made, made), fence),
        "promote": lambda fence: registry.promote("3", version, fence),
        "review": lambda fence: reviews.replace("3", [DOUBT], fence),
    }
    there = {
        "publish": lambda: made in registry.names("3"),
        "promote": lambda: registry.current("3") is not None,
        "review": lambda: reviews.waiting("3") == [DOUBT],
    }
    job, _ = store.submit("training", "3")
    store.claim(job.id, ONE)
    attempt, found = Attempt(store, store.get(job.id), tmp_path, threading.Event()), []

    def take():
        assert store.release(store.get(job.id), "queued", "its worker was silent", restarts=1)
        assert store.claim(job.id, OTHER)
        found.append(there[what]())

    taking = threading.Thread(target=take)

    def fence(connection):
        attempt.fence(connection)
        taking.start()
        if records.dsn is not None:  # SQLite lets no other change begin
            waiting = text("select count(*) from pg_locks where not granted")
            eventually(lambda: found or records.read(lambda other: other.execute(waiting).scalar_one()))

    work[what](fence)
    taking.join()
    assert found == [True]


def test_what_the_other_published_while_this_one_waited_for_the_lock_is_taken_as_its_own(
    store, registry, runner_that, project, monkeypatch
):
    real = Registry.publish

    def published_meanwhile(self, owner, checkpoint, fence):
        real(self, owner, checkpoint)
        return real(self, owner, checkpoint, fence)

    monkeypatch.setattr(Registry, "publish", published_meanwhile)
    job, _ = store.submit("training", project)
    runner_that("promote").run(job.id, ONE)
    assert store.get(job.id).state == "done"
    assert registry.current(project).version == store.get(job.id).version


def test_a_version_that_is_pruned_while_a_promotion_waits_is_not_served(records, tmp_path, monkeypatch):
    registry = Registry(records, Store(tmp_path / "models"), keep=1)
    old = publish(registry, tmp_path)
    change = records.change
    begun: list[bool] = []

    def after_another_publication(work):
        if not begun:
            begun.append(True)
            publish(registry, tmp_path)
        return change(work)

    monkeypatch.setattr(records, "change", after_another_publication)
    with pytest.raises(RegistryError, match=f"no version '{old}'"):
        registry.promote("3", old)
    assert registry.current("3") is None


def test_a_version_that_vanishes_while_it_is_copied_is_a_sentence(registry, tmp_path, monkeypatch):
    registry.promote("3", publish(registry, tmp_path))

    def gone(source, target, ignore):
        raise shutil.Error([(str(source), str(target), "No such file or directory")])

    monkeypatch.setattr(shutil, "copytree", gone)
    with pytest.raises(RegistryError, match="cannot be copied to project 4"):
        registry.duplicate("3", "4")
