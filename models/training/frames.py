"""Labelled images at training resolution, from a data folder or rendered on the fly."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.data.sample import Sample
from models.phantom import KINDS
from models.pipeline import fit_square
from models.training.augmentation import Frame, WallFrame
from models.wall import WallView, find_wall

CACHE_BYTES = 2 << 30  # memory for the frames that are kept
FINE_SIZE = 768  # longer side, in pixels, of images whose wall is unrolled


class Frames:
    """A sequence of frames that are read when needed and the last ones kept.

    Args:
        count: how many there are.
        read: index -> frame.
        presence: shape (count, C), 1, 0 or NaN, known without reading a frame.
        size: side in pixels of the square that the frames fit into.
        unrolled: whether they have their walls too.
    """

    def __init__(
        self,
        count: int,
        read: Callable[[int], Frame],
        presence: NDArray[np.float32],
        size: int = 512,
        *,
        unrolled: bool = False,
    ) -> None:
        self._count = count
        self._made_of = (count, read, presence, size, unrolled)
        frame_bytes = (size**2 + FINE_SIZE**2 * unrolled) * (3 + presence.shape[1])
        self.read = lru_cache(maxsize=max(CACHE_BYTES // frame_bytes, 1))(read)
        self.presence = presence

    def __len__(self) -> int:
        return self._count

    def __reduce__(self) -> tuple[Any, ...]:  # to another process go no frames that were read
        return _frames, self._made_of

    def draw(self, rng: np.random.Generator) -> tuple[Frame, int | None]:
        """A random frame; classes are drawn evenly, so that the rare ones are seen as often as the common ones.

        Returns:
            The frame and the index of the class it was drawn for, None where it was drawn for none.
        """
        present = np.nonzero((self.presence == 1).any(axis=0))[0]
        # One in (number of classes + 1) draws ignores the classes: frames with nothing on them count too.
        pick = rng.integers(len(present) + 1)
        if pick == len(present):
            return self.read(int(rng.integers(self._count))), None
        focus = int(present[pick])
        return self.read(int(rng.choice(np.nonzero(self.presence[:, focus] == 1)[0]))), focus


def _frames(count: int, read: Callable[[int], Frame], presence: NDArray[np.float32], size: int, walls: bool) -> Frames:
    return Frames(count, read, presence, size, unrolled=walls)


def folder_frames(samples: Sequence[Sample], classes: Sequence[str], size: int, wall: WallView | None = None) -> Frames:
    """The samples of a data folder, fitted to `size` pixels on the longer side; with their walls, as `wall` says."""
    presence = np.array(
        [[float(s.presence[c]) if c in s.presence else np.nan for c in classes] for s in samples], dtype=np.float32
    ).reshape(len(samples), len(classes))
    read = partial(_folder_frame, samples, presence, classes, size, wall)
    return Frames(len(samples), read, presence, size, unrolled=wall is not None)


def _folder_frame(
    samples: Sequence[Sample],
    presence: NDArray[np.float32],
    classes: Sequence[str],
    size: int,
    wall: WallView | None,
    index: int,
) -> Frame:
    sample = samples[index]
    image = sample.read_image()
    shape = (image.shape[0], image.shape[1])
    masks = np.stack([sample.read_mask(label, shape).astype(np.uint8) * 255 for label in classes])
    known = np.array([label in sample.masks or sample.presence.get(label) is False for label in classes])
    small, smaller = fitted(image, masks, size)
    return Frame(small, smaller, presence[index], known, unrolled_frame(image, masks, known, classes, wall))


def fitted(
    image: NDArray[np.uint8], masks: NDArray[np.uint8], size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An image (H, W, 3) and its masks (C, H, W), uint8, scaled so that the longer side is `size` pixels."""
    square, height, width = fit_square(image, size)
    scaled = [cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA) for mask in masks]
    return square[:height, :width], np.stack(scaled).astype(np.uint8)


def unrolled_frame(
    image: NDArray[np.uint8],
    masks: NDArray[np.uint8],
    known: NDArray[np.bool_],
    classes: Sequence[str],
    view: WallView | None,
) -> WallFrame | None:
    """The image for views of its wall, None where no lumen is drawn or no class is read on the wall.

    Args:
        image: shape (H, W, 3), uint8.
        masks: shape (C, H, W), uint8, 0 or 255.
        known: shape (C,), bool: the class's mask is known.
        classes: the C classes.
        view: which of them are read on the wall; None for none.
    """
    if view is None:
        return None
    read = known & np.array([label in view.classes for label in classes])
    fine, finer = fitted(image, masks, min(FINE_SIZE, max(image.shape[:2])))
    wall = find_wall(finer[list(classes).index(view.lumen)] >= 128)
    return WallFrame(fine, finer, wall, read) if wall is not None and read.any() else None


def phantom_frames(
    seeds: Sequence[int], classes: Sequence[str], size: int, kind: str = "oct", wall: WallView | None = None
) -> Frames:
    """Phantoms of a kind (a name in `KINDS`) with these seeds, from easy to harder than real frames.

    With their walls, as `wall` says.
    """
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("fork")) as pool:
        presence = np.stack(list(pool.map(partial(_phantom_presence, kind, classes, size), seeds, chunksize=8)))
    read = partial(_phantom_frame, kind, classes, size, wall=wall)
    return Frames(len(seeds), lambda index: read(seeds[index]), presence, size, unrolled=wall is not None)


def _phantom_frame(kind: str, classes: Sequence[str], size: int, seed: int, wall: WallView | None = None) -> Frame:
    difficulty = np.random.default_rng(seed).uniform(0.3, 1.0)
    phantom = KINDS[kind].render(seed, size if wall is None else max(size, FINE_SIZE), difficulty)
    none = np.zeros(phantom.image.shape[:2], dtype=bool)
    masks = np.stack([phantom.masks.get(label, none) for label in classes]).astype(np.uint8) * 255
    known = np.ones(len(classes), dtype=bool)
    presence = np.asarray(masks.any(axis=(1, 2)), dtype=np.float32)
    small, smaller = fitted(phantom.image, masks, size)
    return Frame(small, smaller, presence, known, unrolled_frame(phantom.image, masks, known, classes, wall))


def _phantom_presence(kind: str, classes: Sequence[str], size: int, seed: int) -> NDArray[np.float32]:
    cv2.setNumThreads(0)  # the process is a fork, which OpenCV's threads do not survive
    return _phantom_frame(kind, classes, size, seed).presence


class Mixture:
    """Frames from several sources, drawn with given shares.

    Args:
        sources: (share, frames) pairs; shares add up to 1.
    """

    def __init__(self, sources: Sequence[tuple[float, Frames]]) -> None:
        self.shares = np.array([share for share, _ in sources])
        self.sources = [frames for _, frames in sources]

    def draw(self, rng: np.random.Generator) -> tuple[Frame, int | None]:
        """A random frame of a random source; see `Frames.draw`."""
        return self.sources[int(rng.choice(len(self.sources), p=self.shares))].draw(rng)

    def __len__(self) -> int:
        return sum(map(len, self.sources))
