"""From clicks, boxes and outlines to an answer, for every network that draws the one object that it is pointed at.

A click is answered from what was drawn after the clicks before it, so that each one corrects and none begins again.
"""

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.fba_net import FBANet
from models.masks.components import connected_components
from models.prompt import Answer, Click, Mask, Prompt
from models.prompt_views import SIDE, Drawn, Edges, Probabilities, around, cut, edges_of, fits, moved, paste
from models.pytorch_networks import pytorch_refiner
from models.refiner import Crop, fba_matting
from models.segment import Prediction, entropy
from models.trimap import UNKNOWN, TrimapConfig, trimap_from_mask

Image = NDArray[np.uint8]  # (H, W, 3) RGB

BAND = TrimapConfig(band=0.2, band_min=2.0, band_max=8.0, core=0.5)  # that the refiner decides, in a view's pixels
AROUND = 1.8  # side of a view, relative to the longer side of what was found
MAX_CLICKS = 12  # answered one by one; of more, the oldest are seen at once
MIN_SHARE = 0.01  # components smaller than this share of the largest are dropped, unless they were clicked on
TOUCHING = 0.01  # distance from a click to an existing mask that it is meant for, of the image's longer side
SCRIBBLE = 24  # points that a thin stroke is read as
THIN = 0.12  # of a stroke: twice its area over its length squared


@dataclass(frozen=True, eq=False)
class ObjectEmbedding:
    """An image, and what was drawn on it so far.

    Attributes:
        image: shape (H, W, 3), uint8 RGB.
        drawn: answers to the prompts so far, the one used longest ago first.
    """

    image: Image
    drawn: OrderedDict[Any, Drawn] = field(default_factory=OrderedDict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.image.shape[0], self.image.shape[1]


E = TypeVar("E", bound=ObjectEmbedding)


class ObjectModel(ABC, Generic[E]):
    """A network that draws one object by prompts and knows no class. Embeddings may be shared between threads.

    Args:
        refiner: decides the pixels beside the network's outline; None leaves them. Moved to `device`.
        name: the model version.
        device: "cpu" or "cuda".
    """

    classes: tuple[str, ...] = ()

    def __init__(self, refiner: FBANet | None, *, name: str, device: str) -> None:
        self.device = torch.device(device)
        self.refiner = None if refiner is None else refiner.to(self.device).eval()
        self.name = name

    def predict(self, images: Sequence[Image]) -> list[Prediction]:
        """Nothing: it draws only what it is asked for."""
        return [Prediction({}) for _ in images]

    @abstractmethod
    def embed(self, image: Image) -> E:
        """Look at the image. Raises ValueError if it is none."""

    @abstractmethod
    def _next(self, embedding: E, clicks: Sequence[Click], edges: Edges | None, before: Drawn | None) -> Drawn:
        """What a box and the clicks so far mean, given what was drawn before the last of them; never called with none
        of the three."""

    def prompt(self, embedding: E, prompt: Prompt, label: str | None = None, existing: Sequence[Mask] = ()) -> Answer:
        """Draw the object that a prompt means.

        Args:
            embedding: of the image.
            prompt: clicks, boxes and outlines.
            label: returned with the mask; the network does not know what it means.
            existing: masks of this class that are there already; the one that the prompt touches is improved.
        """
        with embedding.lock:
            meant = touched(prompt.clicks, existing)
            parts = [self._draw(embedding, prompt.clicks, box=box) for box in prompt.boxes if box.any()]
            for outline in prompt.outlines:
                if (stroke := stroke_points(outline)) is not None:
                    clicks = (*(Click(x, y) for x, y in stroke), *prompt.clicks)
                    parts.append(self._draw(embedding, clicks, together=len(stroke)))
                elif outline.any():
                    parts.append(self._draw(embedding, prompt.clicks, earlier=outline))
            alone = not parts
            if alone and prompt.clicks:
                earlier = None if meant is None else existing[meant]
                parts.append(self._draw(embedding, prompt.clicks, earlier=earlier, together=1))
        mask = np.logical_or.reduce([np.zeros(embedding.shape, dtype=bool), *(part for part, _ in parts)])
        if meant is None:
            meant = most_shared(mask, existing)
        if meant is not None and alone:
            mask = changed_at(existing[meant], mask, prompt.clicks)
        elif meant is not None:
            mask = mask | (existing[meant] & ~np.logical_or.reduce([*prompt.boxes, *prompt.outlines]))
        score = float(np.mean([sureness(drawn.probabilities) for _, drawn in parts])) if parts else 0.0
        doubt = float(np.mean([outline_doubt(drawn.probabilities) for _, drawn in parts])) if parts else 0.0
        return Answer(label or "", mask, score, meant, doubt)

    def _draw(
        self,
        embedding: E,
        clicks: Sequence[Click],
        *,
        box: Mask | None = None,
        earlier: Mask | None = None,
        together: int = 0,
    ) -> tuple[Mask, Drawn]:
        """One object, drawn by the first `together` clicks at once, then again by each further one."""
        edges = None if box is None else edges_of(box)
        drawn = None
        if earlier is not None:
            view = around(edges_of(earlier), embedding.shape, AROUND)
            drawn = Drawn(view, cut(earlier.astype(np.float32), view))
        first = max(together, len(clicks) - MAX_CLICKS)
        key = edges, None if earlier is None else earlier.tobytes()
        for count in range(len(clicks), first - 1, -1):  # the longest beginning that was answered already
            if (known := embedding.drawn.get((key, tuple(clicks[:count])))) is not None:
                drawn, first = known, count + 1
                break
        for count in range(first, len(clicks) + 1):
            before, drawn = drawn, self._next(embedding, clicks[:count], edges, drawn)
            if earlier is None:
                drawn = replace(drawn, line=self._line(embedding, drawn, before, clicks[:count], box))
            embedding.drawn[key, tuple(clicks[:count])] = drawn
            while len(embedding.drawn) > MAX_CLICKS:
                embedding.drawn.popitem(last=False)
        assert drawn is not None
        line = None if drawn.line is None else self._followed(embedding, drawn.line, box)
        return (self._mask(embedding, drawn, clicks, box) if line is None else line), drawn

    def _mask(self, embedding: E, drawn: Drawn, clicks: Sequence[Click], box: Mask | None) -> Mask:
        """The object as the network draws it."""
        refined = self._refined(embedding, drawn)
        mask = paste(refined.probabilities, refined.view, embedding.shape)
        return kept(mask if box is None else mask & box, clicks)

    def _line(
        self, embedding: E, drawn: Drawn, before: Drawn | None, clicks: Sequence[Click], box: Mask | None
    ) -> tuple[Click, ...] | None:
        """By which clicks the object is a line of the image, for which the network's output is too coarse.

        Args:
            embedding: of the image.
            drawn: what the network has drawn by the box and the clicks.
            before: the same before the last click.
            clicks, box: as given.

        Returns:
            None where it is no line.
        """
        return None

    def _followed(self, embedding: E, clicks: Sequence[Click], box: Mask | None) -> Mask | None:
        """The line of `_line`."""
        return None

    def _refined(self, embedding: E, drawn: Drawn) -> Drawn:
        """What was drawn, enlarged, and its edge decided by FBANet."""
        if self.refiner is None:
            return Drawn(drawn.view, _enlarged(drawn.probabilities))
        found = paste(drawn.probabilities, drawn.view, embedding.shape)
        if not found.any():
            return drawn
        close = around(edges_of(found), embedding.shape, AROUND)
        view = drawn.view if fits(drawn.view, close) else close
        map_ = _enlarged(drawn.probabilities if view == drawn.view else moved(drawn, view, SIDE))
        trimap = trimap_from_mask((map_ >= 0.5).astype(np.uint8), BAND)
        if not (trimap == UNKNOWN).any():
            return Drawn(view, map_)
        crop = Crop(np.asarray(cut(embedding.image, view, SIDE), dtype=np.uint8), trimap, map_)
        (alpha,) = fba_matting(pytorch_refiner(self.refiner, str(self.device)))([crop])
        return Drawn(view, alpha)


def _enlarged(probabilities: Probabilities) -> Probabilities:
    side = max(SIDE, len(probabilities))
    return np.asarray(cv2.resize(probabilities, (side, side), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def kept(mask: Mask, clicks: Sequence[Click]) -> Mask:
    """The components of a mask that were clicked on; those that are not small where none was, or nothing was."""
    labels, found = connected_components(mask)
    if len(found) < 2:
        return mask
    height, width = mask.shape
    wanted = {
        int(labels[min(max(int(c.y), 0), height - 1), min(max(int(c.x), 0), width - 1)]) for c in clicks if c.positive
    } - {0}
    if not wanted:
        least = MIN_SHARE * max(one.area for one in found)
        wanted = {one.number for one in found if one.area >= least}
    return np.isin(labels, list(wanted))


def touched(clicks: Sequence[Click], existing: Sequence[Mask]) -> int | None:
    """The index of the existing mask that a click lies on or beside."""
    for index, mask in enumerate(existing):
        height, width = mask.shape
        reach = max(round(TOUCHING * max(mask.shape)), 2)
        for click in clicks:
            row, column = (min(max(int(v), 0), n - 1) for v, n in ((click.y, height), (click.x, width)))
            if mask[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1].any():
                return index
    return None


def changed_at(existing: Mask, mask: Mask, clicks: Sequence[Click]) -> Mask:
    """An existing mask with those of the changes to it that a click lies on or beside."""
    labels, _ = connected_components(mask ^ existing)
    height, width = mask.shape
    reach = max(round(TOUCHING * max(mask.shape)), 2)
    wanted = set[int]()
    for click in clicks:
        row, column = min(max(int(click.y), 0), height - 1), min(max(int(click.x), 0), width - 1)
        near = labels[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]
        wanted |= set(np.unique(near).tolist())
    return existing ^ np.isin(labels, list(wanted - {0}))


def most_shared(mask: Mask, existing: Sequence[Mask]) -> int | None:
    """The index of the existing mask that shares most pixels with a new one; None if none does."""
    shared = [int((mask & other).sum()) for other in existing]
    return int(np.argmax(shared)) if shared and max(shared) > 0 else None


def stroke_points(outline: Mask) -> list[tuple[float, float]] | None:
    """Points along a thin stroke, x and y; None for an area."""
    area = int(outline.sum())
    if not area:
        return None
    inner = cv2.distanceTransform(np.pad(outline, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)[1:-1, 1:-1]
    width = 2 * float(inner.max())
    _, _, w, h = cv2.boundingRect(outline.astype(np.uint8))
    length = area / max(width, 1)
    if width > THIN * length and width > THIN * max(w, h):
        return None
    rows, columns = np.nonzero((inner >= 0.5 * inner.max()) & outline)
    order = np.linspace(0, len(rows) - 1, min(SCRIBBLE, len(rows))).astype(int)
    return [(float(columns[i]) + 0.5, float(rows[i]) + 0.5) for i in order]


def sureness(probabilities: Probabilities) -> float:
    """How decided the network is inside of what it draws, in [0, 1]."""
    inside = probabilities >= 0.5
    return float((2 * probabilities[inside] - 1).mean()) if inside.any() else 0.0


def outline_doubt(probabilities: Probabilities) -> float:
    """Mean entropy in bits of the pixels beside the outline."""
    inside = (probabilities >= 0.5).astype(np.uint8)
    if not inside.any():
        return 0.0
    kernel = np.ones((5, 5), np.uint8)
    band = cv2.dilate(inside, kernel) != cv2.erode(inside, kernel)
    return float(entropy(probabilities[band]).mean()) if band.any() else 0.0
