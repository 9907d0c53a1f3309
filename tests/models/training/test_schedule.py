"""The time left, told over all stages, on a clock that the tests move."""

import pytest

from models.training.schedule import Budget, Progress


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def simulate(seconds, *, image=0.2, load=1.0, probe=0.2, steps=100_000, images=30):
    """A run in the order of `models.training.train`, whose machine slows down by `load` after the first look.

    Returns:
        (seconds spent, seconds told to be left) of each report, and the time in all.
    """
    clock, told = Clock(), []
    budget = Budget(seconds, now=clock)
    tell = budget.telling(lambda progress: told.append((progress.spent, progress.left)))
    image *= load

    def look(step, count):
        with budget.step(step) as looked:
            for done in range(count):
                clock.now += image
                looked()
                tell(Progress("evaluating", done + 1, count))

    budget.looked_at(1, probe)
    count = min(images, budget.room(0.08) or images)
    budget.plan("presence", 100 + count)
    budget.plan("refiners", 3 * count)
    budget.plan("figures", count, must=True)
    budget.plan("band", 5 * count)
    budget.plan("pictures", 14, must=True)
    budget.share_out(0.2)
    for stage, most in (("classifier", steps), ("refiner", steps // 5)):
        limit, begun = budget.loop(stage), clock.now
        for step in range(most):
            if limit is not None and clock.now - begun >= limit:
                break
            clock.now += 0.5 * load
            spent = clock.now - begun
            share = max((step + 1) / most, spent / limit if limit else 0.0)
            tell(Progress(stage, 0, 1, left=spent * (1 - share) / share))
        budget.over(stage)
        if stage == "classifier":
            clock.now += 2 * image
            budget.looked_at(1, image)
            few = budget.room(0.15) or 1000
            look("presence", min(100, few) + min(count, few))
    look("refiners", 3 * count) if budget.allows("refiners") else look("figures", count)
    if budget.allows("band"):
        look("band", 5 * count)
    budget.drop("figures", "band")
    look("pictures", 14)
    return told, clock.now - 1000.0


@pytest.mark.parametrize("load", [1.0, 3.0])
@pytest.mark.parametrize("seconds", [60.0, 600.0])
def test_the_limit_holds_under_load_too(seconds, load):
    _, took = simulate(seconds, load=load)
    assert took <= 1.05 * seconds


def test_a_small_limit_holds_however_many_images_are_held_out():
    _, took = simulate(18.0, images=500)
    assert took <= 1.2 * 18.0


@pytest.mark.parametrize("seconds", [60.0, 600.0, None])
def test_the_time_left_is_never_shorter_than_what_follows(seconds):
    """22 s were told of a training with nine minutes to go: of its stage alone."""
    told, took = simulate(seconds, steps=100_000 if seconds else 2_000)
    for spent, left in told:
        assert left >= 0.9 * (took - spent) - 1.0, (spent, left, took)
    assert told[-1][1] <= 1.0


def test_past_its_limit_a_run_tells_what_must_follow_and_not_what_is_left_out():
    """On a starved machine 0 s were told while the earlier version was measured, and then 81 min."""
    clock = Clock()
    budget = Budget(60.0, now=clock)
    budget.looked_at(1, 10.0)
    budget.plan("presence", 400)
    budget.plan("figures", 5, must=True)
    clock.now += 90
    assert budget.left() == 50.0
    budget.share_out(0.2)
    assert 50.0 <= budget.left() < 52.0


def test_a_limit_is_the_first_estimate():
    told, _ = simulate(600.0)
    assert told[0][1] == pytest.approx(600.0, rel=0.1)
    assert all(spent + left <= 1.05 * 600.0 for spent, left in told)


def test_what_a_killed_process_took_counts():
    clock = Clock()
    assert Budget(60.0, 50.0, clock).spent == 50.0


def test_without_a_limit_nothing_is_left_out():
    budget = Budget(None, now=Clock())
    budget.looked_at(1, 9.0)
    budget.plan("band", 1_000_000)
    assert (budget.allows("band"), budget.room(), budget.loop("refiner")) == (True, None, None)


def test_a_step_that_would_take_too_long_is_left_out_for_what_must_follow():
    budget = Budget(10.0, now=Clock())
    budget.looked_at(1, 1.0)
    budget.plan("band", 6)
    budget.plan("figures", 5, must=True)
    assert not budget.allows("band")
    budget.share_out(0.2)
    assert budget.allows("figures")


def test_where_reading_took_all_of_the_time_a_loop_still_has_an_end():
    """No seconds at all would mean no limit."""
    budget = Budget(18.0, 60.0, Clock())
    budget.looked_at(1, 0.5)
    budget.plan("figures", 3, must=True)
    budget.share_out(0.2)
    assert 0 < budget.loop("classifier") < 1
    assert 0 < budget.loop("refiner") < 1
    assert budget.room() == 1
