import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.web.dashboard.chart import HEIGHT, MAX_TICKS, TOP, WIDTH, line_chart, whole_ticks

figures = st.none() | st.floats(0, 1)
columns = st.lists(st.tuples(st.integers(0, 10_000), figures, figures), min_size=1, max_size=40)


@given(columns, st.booleans())
def test_every_figure_is_a_point_inside_the_plot_from_left_to_right(rows, counted):
    places = [place if counted else index for index, (place, _, _) in enumerate(rows)]
    series = {"a": [a for _, a, _ in rows], "b": [b for _, _, b in rows]}
    chart = line_chart(places, [f"v{i}" for i in range(len(rows))], series, counted=counted)
    drawn = {name: figures for name, figures in series.items() if any(f is not None for f in figures)}
    if not drawn:
        assert chart is None
        return
    assert [line.name for line in chart.lines] == list(drawn)
    for line in chart.lines:
        assert len(line.points) == sum(figure is not None for figure in drawn[line.name])
        assert [point.x for point in line.points] == sorted(point.x for point in line.points)
        for point in line.points:
            assert chart.left <= point.x <= chart.right
            assert TOP <= point.y <= chart.bottom
        assert line.path.count("L") == len(line.points) - 1
    ticks = [tick.at for tick in chart.columns]
    assert len(set(ticks)) == len(ticks) <= MAX_TICKS + 1
    assert all(chart.left <= at <= chart.right for at in ticks)


def test_figures_lie_as_high_as_they_are():
    chart = line_chart([0, 1, 2], ["r1", "r2", "r3"], {"Lumen": [0.0, 0.5, 1.0]}, counted=False)
    low, middle, high = (point.y for point in chart.lines[0].points)
    assert (low, high) == (chart.bottom, TOP)
    assert middle == pytest.approx((low + high) / 2, abs=0.1)
    assert next((tick.text, tick.at) for tick in chart.rows) == ("0.0", chart.bottom)
    assert (chart.width, chart.height) == (WIDTH, HEIGHT)


def test_a_scale_of_numbers_keeps_distances_and_begins_at_nought():
    chart = line_chart([100, 50, 200], ["b", "a", "c"], {"Lumen": [0.2, 0.1, 0.4]}, counted=True)
    a, b, c = chart.lines[0].points
    assert [point.text for point in (a, b, c)] == ["0.100 (a)", "0.200 (b)", "0.400 (c)"]
    assert b.x - a.x == pytest.approx((c.x - b.x) / 2, abs=0.2)
    assert chart.columns[0].at == chart.left
    assert [tick.text for tick in chart.columns] == ["0", "50", "100", "150", "200"]


def test_a_line_keeps_its_number_when_another_has_no_figures():
    """Colours and markers stay with their class."""
    chart = line_chart([0], ["r1"], {"Lumen": [None], "Cap": [0.5]}, counted=False)
    assert [(line.name, line.number) for line in chart.lines] == [("Cap", 1)]
    assert chart.summary == "Cap 0.500 (r1)"


def test_the_newest_version_is_named_however_many_there_are():
    names = [f"r{i:03d}" for i in range(31)]
    chart = line_chart(range(31), names, {"Lumen": [0.5] * 31}, counted=False)
    assert "r030" in [tick.text for tick in chart.columns]
    assert chart.summary == "Lumen from 0.500 (r000) to 0.500 (r030)"


def test_columns_without_a_figure_for_each_place_are_refused():
    with pytest.raises(ValueError, match="every line needs 2 figures"):
        line_chart([0, 1], ["a", "b"], {"Lumen": [0.5]}, counted=False)


@given(st.integers(1, 10**9))
def test_ticks_are_few_even_and_within_the_scale(high):
    ticks = whole_ticks(high)
    assert ticks[0] == 0
    assert 1 <= len(ticks) <= MAX_TICKS
    assert ticks[-1] <= high < ticks[-1] + (ticks[1] if len(ticks) > 1 else high + 1)
    assert len({b - a for a, b in itertools.pairwise(ticks)}) <= 1
