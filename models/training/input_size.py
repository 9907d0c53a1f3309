"""How large images are made for the classifier, read off the objects that were drawn on them."""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from models.data.sample import Sample
from models.data.splitter import spread

THICK = 9  # pixels: two cells of the maps and a little, so that a cell can lie within an object
SMALLEST, LARGEST, STEP = 448, 640, 64  # smaller, nothing is gained; larger, an image takes too long
LOOKED_AT = 100  # images


def input_size(samples: Sequence[Sample]) -> int:
    """Side in pixels of the square to fit images into: the class with the thinnest objects is to be seen well.

    What is thin needs cells to lie in; what is large and has no clear outline is found by what surrounds it, of which a
    view of a smaller image shows more.

    Args:
        samples: images to learn from; up to 100 of them are looked at.

    Returns:
        A multiple of 64 from 448 to 640; 448 where nothing is drawn.
    """
    objects: dict[str, list[tuple[float, float]]] = {}
    for sample in spread([sample for sample in samples if sample.masks], LOOKED_AT):
        image = sample.read_image()
        for label in sample.masks:
            mask = sample.read_mask(label, (image.shape[0], image.shape[1])).astype(np.uint8)
            objects.setdefault(label, []).extend(_thickness_and_area(mask))
    if not objects:
        return SMALLEST
    thinnest = min(_weighted_median(np.array(found)) for found in objects.values())
    return int(np.clip(round(THICK / thinnest / STEP) * STEP, SMALLEST, LARGEST))


def _thickness_and_area(mask: NDArray[np.uint8]) -> Iterator[tuple[float, float]]:
    """Of each object: diameter of its inscribed circle, in longer sides of the image, and area; mask (H, W), 0 or 1."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    for index, (x, y, width, height, area) in enumerate(stats[1:count].tolist(), start=1):
        part = (labels[y : y + height, x : x + width] == index).astype(np.uint8)
        inside = cv2.distanceTransform(np.pad(part, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        yield 2 * float(inside.max()) / max(mask.shape), area / mask.size


def _weighted_median(rows: NDArray[np.float64]) -> float:
    """Median of the first column, weighted with the second: crumbs of a brush hardly count."""
    rows = rows[rows[:, 0].argsort()]
    reached = rows[:, 1].cumsum()
    return float(rows[np.searchsorted(reached, reached[-1] / 2), 0])
