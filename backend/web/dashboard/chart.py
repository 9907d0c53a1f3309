"""Line charts of figures from 0 to 1, laid out for an SVG that a template draws."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 420.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 34.0, 12.0, 10.0, 40.0  # room around the plot for ticks
MAX_TICKS = 7
# One shape per line, about a point at (0, 0): lines are told apart without their colours.
MARKERS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z",
    "M-3.6 -3.6H3.6V3.6H-3.6Z",
    "M0 -5L5 0L0 5L-5 0Z",
    "M0 -4.8L4.6 3.6H-4.6Z",
    "M0 4.8L4.6 -3.6H-4.6Z",
    "M-5 -1.6H-1.6V-5H1.6V-1.6H5V1.6H1.6V5H-1.6V1.6H-5Z",
    "M-4.6 -4.6L0 -1.6L4.6 -4.6L1.6 0L4.6 4.6L0 1.6L-4.6 4.6L-1.6 0Z",
)


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: how far along it, in the chart's units, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Point:
    """A figure in the plot."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Line:
    """A series: its points from left to right, the SVG path through them, and its colour and marker by number."""

    name: str
    number: int
    points: tuple[Point, ...]
    path: str

    @property
    def marker(self) -> str:
        """SVG path of one point's shape, about (0, 0)."""
        return MARKERS[self.number % len(MARKERS)]


@dataclass(frozen=True)
class Chart:
    """A plot from (LEFT, TOP) to (WIDTH - RIGHT, HEIGHT - BOTTOM) in a picture of WIDTH x HEIGHT."""

    lines: tuple[Line, ...]
    columns: tuple[Tick, ...]
    rows: tuple[Tick, ...]
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    bottom: float = HEIGHT - BOTTOM

    @property
    def summary(self) -> str:
        """The chart in words: where each line begins and ends."""
        spans = (
            f"{line.name} from {line.points[0].text} to {line.points[-1].text}"
            if len(line.points) > 1
            else f"{line.name} {line.points[0].text}"
            for line in self.lines
        )
        return "; ".join(spans)


def line_chart(
    places: Sequence[float], names: Sequence[str], series: Mapping[str, Sequence[float | None]], *, counted: bool
) -> Chart | None:
    """Lay out a chart.

    Args:
        places: where on the x axis each column of figures stands, in any order.
        names: what each column is called.
        series: name of a line -> its figures in [0, 1], as many as places; None leaves a gap in the points.
        counted: the x axis is a scale of whole numbers from 0 on; otherwise it is ticked with the names.

    Returns:
        The chart, None if there is no figure to draw.

    Raises:
        ValueError: the lengths differ.
    """
    if any(len(figures) != len(places) for figures in (names, *series.values())):
        raise ValueError(f"every line needs {len(places)} figures, one per place")
    order = sorted(range(len(places)), key=places.__getitem__)
    low = 0.0 if counted else min(places, default=0.0)
    high = max([*places, low + 1])
    # A single column stands in the middle.
    inset = 0.0 if counted else 14.0

    def across(place: float) -> float:
        if len(places) == 1 and not counted:
            return round((LEFT + WIDTH - RIGHT) / 2, 1)
        return round(LEFT + inset + (place - low) / (high - low) * (WIDTH - RIGHT - LEFT - 2 * inset), 1)

    def up(figure: float) -> float:
        return round(HEIGHT - BOTTOM - figure * (HEIGHT - BOTTOM - TOP), 1)

    lines = []
    for number, (name, figures) in enumerate(series.items()):
        points = tuple(
            Point(across(places[i]), up(figure), f"{figure:.3f} ({names[i]})")
            for i in order
            if (figure := figures[i]) is not None
        )
        if points:
            path = "M" + "L".join(f"{point.x:g} {point.y:g}" for point in points)
            lines.append(Line(name, number, points, path))
    if not lines:
        return None
    if counted:
        columns = [Tick(across(value), str(value)) for value in whole_ticks(math.ceil(high))]
    else:
        every = math.ceil(len(places) / MAX_TICKS)
        # Counted from the newest, which must have its name.
        columns = [Tick(across(places[i]), names[i]) for i in order[::-1][::every]]
    rows = [Tick(up(tenths / 10), f"{tenths / 10:.1f}") for tenths in range(0, 11, 2)]
    return Chart(tuple(lines), tuple(columns), tuple(rows))


def whole_ticks(high: int) -> list[int]:
    """Round whole numbers from 0 up to `high`, evenly spaced, at most MAX_TICKS of them."""
    steps = (digit * 10**power for power in range(19) for digit in (1, 2, 5))
    step = next(step for step in steps if high // step < MAX_TICKS)
    return list(range(0, high + 1, step))
