"""Held-out images: whole groups where groups are known, else blocks of neighbours; most classes on both sides."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.sample import Sample
from models.data.splitter import of_one_group, split_in_blocks, split_samples
from models.errors import DataError


def series(*shown: int, count: int = 60) -> list[Sample]:
    """`count` images in a row; class a is on those with these numbers."""
    return [Sample(str(i), Path(f"{i}.png"), {}, {"a": i in shown}, True) for i in range(count)]


@pytest.mark.parametrize("count", [2, 3, 6, 20, 101])
def test_held_out_samples_are_blocks_of_neighbours(count):
    samples = series(count=count)
    train, held_out = split_in_blocks(samples)
    assert sorted([*train, *held_out], key=lambda sample: int(sample.name)) == samples
    assert 1 <= len(held_out) <= max(1, round(0.2 * count))
    assert train
    numbers = [int(sample.name) for sample in held_out]
    assert sum(1 for a in numbers if a - 1 not in numbers) <= 4


@pytest.mark.parametrize("shown", [(0, 1, 2), (5, 31, 44), (20, 59), (7, 22, 37), (0, 30)])
def test_a_rare_class_is_both_learnt_and_held_out(shown):
    train, held_out = split_in_blocks(series(*shown))
    assert any(sample.presence["a"] for sample in train)
    assert any(sample.presence["a"] for sample in held_out)
    assert len(held_out) == 12


@pytest.mark.parametrize("shown", [0, 7, 30])
def test_a_class_on_one_image_is_learnt(shown):
    assert not any(sample.presence["a"] for sample in split_in_blocks(series(shown))[1])


def test_a_class_on_both_sides_moves_nothing():
    middle = [sample.name for sample in split_in_blocks(series(*range(60)))[1]]
    assert middle == ["7", "8", "9", "21", "22", "23", "37", "38", "39", "51", "52", "53"]


def test_a_single_image_cannot_be_split():
    with pytest.raises(DataError, match="at least 2 images"):
        split_in_blocks(series(count=1))


def grouped(groups, shown=None) -> list[Sample]:
    """A sample for each of the groups named; `shown` has the groups on whose images class a is."""
    return [
        Sample(str(i), Path(f"{i}.png"), {}, {"a": shown is None or group in shown}, True, group=group)
        for i, group in enumerate(groups)
    ]


def sides(samples):
    train, held_out = split_samples(samples)
    assert sorted([*train, *held_out], key=samples.index) == samples
    return [sample.group for sample in train], [sample.group for sample in held_out]


@settings(deadline=None)
@given(st.lists(st.sampled_from("ABCDEFGH"), min_size=2))
def test_no_group_is_on_both_sides(groups):
    train, held_out = sides(grouped(groups))
    assert train
    assert held_out
    if len(set(groups)) > 1:
        assert not set(train) & set(held_out)


def test_four_patients_whose_images_interleave():
    """Twenty images in turn of four patients: one patient is held out."""
    train, held_out = sides(grouped("ABCD" * 5))
    assert len(held_out) == 5
    assert len(set(held_out)) == 1
    assert len(set(train)) == 3


def test_of_two_groups_one_is_held_out():
    train, held_out = sides(grouped("AAAAAAABBB"))
    assert set(train) == {"A"}
    assert set(held_out) == {"B"}


@pytest.mark.parametrize("groups", [10, 40, 300])
def test_about_a_fifth_of_the_images_is_held_out(groups):
    sizes = [1 + 7 * i % 5 for i in range(groups)]
    samples = grouped([f"p{i}" for i, size in enumerate(sizes) for _ in range(size)])
    share = len(split_samples(samples)[1]) / len(samples)
    assert 0.15 <= share <= 0.25


def test_a_class_of_two_groups_is_on_both_sides():
    for pair in (("p1", "p2"), ("p0", "p19"), ("p7", "p11")):
        samples = grouped([f"p{i % 20}" for i in range(100)], shown=pair)
        train, held_out = split_samples(samples)
        assert any(sample.presence["a"] for sample in train)
        assert any(sample.presence["a"] for sample in held_out)
        assert len(held_out) <= 34


def test_a_class_of_one_group_is_learnt():
    for group in range(10):
        samples = grouped([f"p{i % 10}" for i in range(50)], shown=[f"p{group}"])
        assert not any(sample.presence["a"] for sample in split_samples(samples)[1])


def test_the_order_of_the_images_does_not_matter():
    samples = grouped([f"p{i % 7}" for i in range(30)])
    first, again = (split_samples(order)[1] for order in (samples, samples[::-1]))
    assert {sample.name for sample in first} == {sample.name for sample in again}


def test_more_images_of_the_same_groups_leave_them_where_they_are():
    """What a model learnt from is not held out when the next one is trained."""
    held_out = set(sides(grouped([f"p{i % 12}" for i in range(48)]))[1])
    assert set(sides(grouped([f"p{i % 12}" for i in range(96)]))[1]) == held_out


def test_one_group_falls_into_blocks_and_is_told():
    samples = grouped("A" * 60)
    assert [sample.name for sample in split_samples(samples)[1]] == [
        sample.name for sample in split_in_blocks(series(*range(60)))[1]
    ]
    assert of_one_group(samples)
    assert not of_one_group(series())
    assert not of_one_group(grouped("AB"))


@pytest.mark.parametrize("grouped", [False, True])
def test_an_image_that_two_tasks_show_is_not_on_both_sides(grouped):
    """Held out, it would tell how well the other one was learnt by heart."""

    def sample(index, source):
        return Sample(f"{index:03d}", Path(), {}, {}, True, group=str(index % 7) if grouped else None, source=source)

    samples = [sample(index, f"address of {index % 31}") for index in range(40)]
    train, held_out = split_samples(samples)
    assert held_out
    assert not {one.source for one in train} & {one.source for one in held_out}
    same = [sample(index, "one address") for index in range(40)]
    assert [len(side) for side in split_samples(same)] == [len(side) for side in split_samples(samples_of(40, grouped))]


def samples_of(count, grouped):
    return [Sample(f"{i:03d}", Path(), {}, {}, True, group=str(i % 7) if grouped else None) for i in range(count)]
