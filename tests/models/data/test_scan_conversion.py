"""A-lines about a catheter become the cross-section that they were taken of."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from models.data.scan_conversion import MAX_SIDE, Scan, scan_convert, side_of

LINES, SAMPLES = 360, 100


def scanned(spot: tuple[float, float], scan: Scan) -> NDArray[np.uint8]:
    """A-lines of a bright spot at an angle (degrees clockwise from the top) and a distance (samples)."""
    angle, distance = spot
    polar = np.zeros((LINES, SAMPLES), np.uint8)
    turn = (angle - scan.angle) / 360 * (1 if scan.clockwise else -1)
    used = LINES - scan.padded
    line = round(scan.line + turn * used) % used
    sample = round(distance - scan.offset)
    rows = [row % used for row in range(line - 3, line + 4)]
    polar[rows, sample - 3 : sample + 3] = 255
    polar[used:] = 255  # padded lines may hold anything
    return polar


@pytest.mark.parametrize(
    "scan",
    [
        Scan(),
        Scan(offset=-20),
        Scan(offset=15),
        Scan(line=90, angle=45),
        Scan(clockwise=False, angle=10),
        Scan(padded=40, line=5, offset=7),
    ],
    ids=str,
)
@pytest.mark.parametrize("spot", [(0, 60), (90, 40), (200, 70), (359, 50)])
def test_a_spot_lies_where_it_was(scan: Scan, spot: tuple[float, float]) -> None:
    radius = SAMPLES + max(0, scan.offset)
    image = scan_convert(scanned(spot, scan), scan, radius)
    assert image.shape == (2 * radius, 2 * radius)
    y, x = np.nonzero(image > 127)
    angle, distance = math.radians(spot[0]), spot[1]
    assert x.mean() + 0.5 - radius == pytest.approx(distance * math.sin(angle), abs=1)
    assert y.mean() + 0.5 - radius == pytest.approx(-distance * math.cos(angle), abs=1)


def test_there_is_no_seam_and_nothing_beyond_the_samples() -> None:
    image = scan_convert(np.full((LINES, SAMPLES), 200, np.uint8), Scan(offset=10), SAMPLES + 10)
    y, x = np.indices(image.shape) + 0.5 - image.shape[0] / 2
    distance = np.hypot(x, y)
    assert (image[(distance > 11) & (distance < SAMPLES + 9)] == 200).all()
    assert (image[(distance < 9) | (distance > SAMPLES + 11)] == 0).all()


def test_long_a_lines_are_averaged_to_the_largest_side() -> None:
    polar = np.zeros((LINES, 4 * MAX_SIDE, 3), np.uint8)
    polar[:, ::2] = 255  # finer than what can be shown
    image = scan_convert(polar, Scan(), 4 * MAX_SIDE)
    assert image.shape == (MAX_SIDE, MAX_SIDE, 3)
    middle = image[MAX_SIDE // 2, MAX_SIDE // 8 : MAX_SIDE // 3]
    assert (abs(middle.astype(int) - 127) < 20).all()
    assert side_of(40) == 80


@pytest.mark.parametrize(("padded", "radius"), [(LINES, 10), (0, 0)])
def test_nothing_to_convert_is_refused(padded: int, radius: int) -> None:
    with pytest.raises(ValueError, match="A-lines"):
        scan_convert(np.zeros((LINES, SAMPLES), np.uint8), Scan(padded=padded), radius)
