"""Size of the classifier's input, read off the objects that were drawn."""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from models.data.sample import Sample
from models.data.splitter import spread
from models.masks.components import connected_components

THICK = 9  # pixels: two cells of the maps and a little, so that a cell can lie within an object
MIN_SIZE, MAX_SIZE, STEP = 448, 640, 64  # smaller, nothing is gained; larger, an image takes too long
MAX_IMAGES = 100  # that are measured


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
    for sample in spread([sample for sample in samples if sample.masks], MAX_IMAGES):
        image = sample.read_image()
        for label in sample.masks:
            mask = sample.read_mask(label, (image.shape[0], image.shape[1])).astype(np.uint8)
            objects.setdefault(label, []).extend(_thickness_and_area(mask))
    if not objects:
        return MIN_SIZE
    thinnest = min(_weighted_median(np.array(found)) for found in objects.values())
    return int(np.clip(round(THICK / thinnest / STEP) * STEP, MIN_SIZE, MAX_SIZE))


def _thickness_and_area(mask: NDArray[np.uint8]) -> Iterator[tuple[float, float]]:
    """Of each object: diameter of its inscribed circle, in longer sides of the image, and area; mask (H, W), 0 or 1."""
    labels, objects = connected_components(mask)
    for found in objects:
        part = (labels[found.box] == found.number).astype(np.uint8)
        inside = cv2.distanceTransform(np.pad(part, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        yield 2 * float(inside.max()) / max(mask.shape), found.area / mask.size


def _weighted_median(rows: NDArray[np.float64]) -> float:
    """Median of the first column, weighted with the second: tiny strokes of a brush hardly count."""
    rows = rows[rows[:, 0].argsort()]
    reached = rows[:, 1].cumsum()
    return float(rows[np.searchsorted(reached, reached[-1] / 2), 0])
