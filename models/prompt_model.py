"""The model family "prompts": draws what an annotator points at, in a project for which no model was trained.

    prompt -> a view of the image, as large as the object needs -> prompt network -> mask

The whole image is looked at first. Where the object is small on it, the network looks again at a part of the image: at
a box's surroundings, or at those of what it has found by the clicks. A click is answered from the mask of the clicks
before it, so that each one corrects and none begins again.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.checkpoint import Card, load_weights, read_card, save_weights
from models.devices import autocast, check_device
from models.errors import CheckpointError
from models.fba_net import FBANet
from models.masks.components import connected_components
from models.pipeline import check_image
from models.prompt import Answer, Click, Mask, Prompt
from models.prompt_network import PADDING, STRIDE, PromptNetwork, PromptNetworkConfig, Prompts, Pyramid
from models.refiner import Crop, fba_matting
from models.segment import Prediction, entropy
from models.trimap import UNKNOWN, TrimapConfig, trimap_from_mask

Image = NDArray[np.uint8]  # (H, W, 3) RGB
Edges = tuple[float, float, float, float]  # left, top, right, bottom in pixels
Probabilities = NDArray[np.float32]  # (S, S), in [0, 1]

FAMILY = "prompts"
SIDE = 192  # of a view as the network sees it, in pixels
BAND = TrimapConfig(band=0.2, band_min=2.0, band_max=8.0, core=0.5)  # that the refiner decides, in a view's pixels
VIEWS = 5  # kept of an image: the whole, and parts
PARTS = (0.45, 0.2)  # sides of the first parts that are looked at, relative to the whole
SMALL = 0.12  # an object that takes less of a view's side is seen badly
AROUND = 1.8  # side of a view, relative to the longer side of what was found or of a box ...
AROUND_BOX = 1.5
CLOSER = 0.7  # ... taken where it is below this share of the whole
MIN_VIEW = 32  # pixels of the image
MAX_CLICKS = 12  # answered one by one; of more, the oldest are seen at once
MIN_SHARE = 0.01  # components smaller than this share of the largest are dropped, unless they were clicked on
TOUCHING = 0.01  # distance from a click to an existing mask that it is meant for, of the image's longer side
SCRIBBLE = 24  # points that a thin stroke is read as
THIN = 0.12  # of a stroke: twice its area over its length squared


@dataclass(frozen=True)
class View:
    """A square of the image, in its pixels; may reach beyond the edge."""

    x: float
    y: float
    side: float


@dataclass(frozen=True, eq=False)
class Drawn:
    """Answer to a prompt, kept for the next one."""

    view: View
    probabilities: Probabilities


@dataclass(frozen=True, eq=False)
class PromptEmbedding:
    """An image, and what the network has seen of it so far.

    Attributes:
        image: shape (H, W, 3), uint8 RGB.
        views: pyramids, the one used longest ago first.
        drawn: answers to the prompts so far, likewise.
    """

    image: Image
    views: OrderedDict[View, Pyramid] = field(default_factory=OrderedDict)
    drawn: OrderedDict[Any, Drawn] = field(default_factory=OrderedDict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes at most."""
        seen = next(iter(self.views.values()))
        pyramid = sum(tensor.nbytes for tensor in (seen.colours, *seen.levels, seen.likeness))
        return self.image.nbytes + VIEWS * pyramid + MAX_CLICKS * SIDE * SIDE * 4


class PromptModel:
    """See the module's text. Embeddings may be shared between threads.

    Args:
        network: moved to `device` and put into evaluation mode, as is the refiner.
        refiner: decides the pixels beside the network's outline; None leaves them.
        name: the model version.
        device: "cpu" or "cuda".
    """

    classes: tuple[str, ...] = ()

    def __init__(
        self,
        network: PromptNetwork,
        refiner: FBANet | None = None,
        *,
        name: str = "untrained",
        device: str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()
        self.refiner = None if refiner is None else refiner.to(self.device).eval()
        self.name = name

    def predict(self, images: Sequence[Image]) -> list[Prediction]:
        """Nothing: it draws only what it is asked for."""
        return [Prediction({}) for _ in images]

    def embed(self, image: Image) -> PromptEmbedding:
        """Look at the whole image. Raises ValueError if it is none."""
        check_image(image)
        embedding = PromptEmbedding(image)
        self._pyramid(embedding, whole(embedding.shape))
        return embedding

    def prompt(
        self, embedding: PromptEmbedding, prompt: Prompt, label: str | None = None, existing: Sequence[Mask] = ()
    ) -> Answer:
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
        embedding: PromptEmbedding,
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
            drawn = self._next(embedding, clicks[:count], edges, drawn)
            embedding.drawn[key, tuple(clicks[:count])] = drawn
            while len(embedding.drawn) > MAX_CLICKS:
                embedding.drawn.popitem(last=False)
        assert drawn is not None
        mask = paste(self._refined(embedding, drawn), drawn.view, embedding.shape)
        return kept(mask if box is None else mask & box, clicks), drawn

    def _refined(self, embedding: PromptEmbedding, drawn: Drawn) -> Probabilities:
        """What was drawn, its edge decided by FBANet; shape (SIDE, SIDE)."""
        enlarged = cv2.resize(drawn.probabilities, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
        map_ = np.asarray(enlarged, dtype=np.float32)
        if self.refiner is None:
            return map_
        trimap = trimap_from_mask((map_ >= 0.5).astype(np.uint8), BAND)
        if not (trimap == UNKNOWN).any():
            return map_
        crop = Crop(np.asarray(cut(embedding.image, drawn.view, SIDE), dtype=np.uint8), trimap, map_)
        with autocast(self.device):
            (alpha,) = fba_matting(self.refiner, self.device)([crop])
        return alpha

    def _next(
        self,
        embedding: PromptEmbedding,
        clicks: Sequence[Click],
        edges: Edges | None,
        before: Drawn | None,
    ) -> Drawn:
        """What a box and the clicks so far mean, seen close enough."""
        if edges is not None:
            return self._look(embedding, around(edges, embedding.shape, AROUND_BOX), clicks, edges, before)
        if before is None:
            starts = [self._look(embedding, view, clicks, None, None) for view in first_views(clicks, embedding.shape)]
            before = max(starts, key=lambda drawn: plausibility(drawn, clicks, embedding.shape))
            closer = self._closer(embedding, clicks, before)
            return before if closer == before.view else self._look(embedding, closer, clicks, None, before)
        return self._look(embedding, self._closer(embedding, clicks, before), clicks, None, before)

    def _closer(self, embedding: PromptEmbedding, clicks: Sequence[Click], before: Drawn) -> View:
        """The view that suits what was drawn and the clicks; the same as before if that shows as much."""
        found = kept(paste(before.probabilities, before.view, embedding.shape), clicks)
        wanted = around(edges_of(found, clicks), embedding.shape, AROUND)
        return before.view if fits(before.view, wanted) else wanted

    def _look(
        self,
        embedding: PromptEmbedding,
        view: View,
        clicks: Sequence[Click],
        edges: Edges | None,
        before: Drawn | None,
    ) -> Drawn:
        """One pass of the network's second part."""
        pyramid = self._pyramid(embedding, view)
        scale = SIDE / view.side
        points = [((c.x - view.x) * scale, (c.y - view.y) * scale, float(c.positive)) for c in clicks]
        boxes = [np.nan] * 4
        if edges is not None:
            boxes = [(edge - start) * scale for edge, start in zip(edges, (view.x, view.y) * 2, strict=True)]
        cells = SIDE // STRIDE
        earlier = np.zeros((cells, cells), dtype=np.float32)
        if before is not None:
            earlier = moved(before, view, cells)
        prompts = Prompts(
            torch.tensor(points, dtype=torch.float32).reshape(1, -1, 3) if points else torch.full((1, 1, 3), np.nan),
            torch.tensor([boxes], dtype=torch.float32),
            torch.from_numpy(earlier)[None, None],
            torch.tensor([float(before is not None)]),
        )
        with torch.inference_mode(), autocast(self.device):
            logits = self.network(pyramid, Prompts(*(tensor.to(self.device) for tensor in prompts)))
        return Drawn(view, logits.float().sigmoid().cpu().numpy()[0, 0])

    def _pyramid(self, embedding: PromptEmbedding, view: View) -> Pyramid:
        if (known := embedding.views.get(view)) is not None:
            embedding.views.move_to_end(view)
            return known
        seen = cut(embedding.image, view, SIDE)
        batch = torch.from_numpy(seen).to(self.device).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode(), autocast(self.device):
            pyramid = self.network.pyramid(batch)
        embedding.views[view] = pyramid
        while len(embedding.views) > VIEWS:
            embedding.views.popitem(last=False)
        return pyramid


def whole(shape: tuple[int, int]) -> View:
    """The view of all of an image of this height and width."""
    height, width = shape
    side = max(height, width)
    return View((width - side) / 2, (height - side) / 2, side)


def around(edges: Edges, shape: tuple[int, int], share: float) -> View:
    """A view around left, top, right and bottom, kept inside the image where it fits; else the whole."""
    height, width = shape
    left, top, right, bottom = edges
    side = max(share * max(right - left, bottom - top), MIN_VIEW)
    if side >= CLOSER * max(shape):
        return whole(shape)
    x, y = (left + right - side) / 2, (top + bottom - side) / 2
    x = min(max(x, 0), width - side) if side <= width else (width - side) / 2
    y = min(max(y, 0), height - side) if side <= height else (height - side) / 2
    return View(round(x), round(y), round(side))


def first_views(clicks: Sequence[Click], shape: tuple[int, int]) -> list[View]:
    """Views in which an object of unknown size may be seen well: the whole, and parts around the clicks on it."""
    places = [(click.x, click.y) for click in clicks if click.positive]
    views = [whole(shape)]
    if places:
        (x, y), long = np.mean(places, axis=0), max(shape)
        for share in PARTS:
            reach = share * long / 2
            view = around((x - reach, y - reach, x + reach, y + reach), shape, 1.0)
            if view not in views:
                views.append(view)
    return views


def plausibility(drawn: Drawn, clicks: Sequence[Click], shape: tuple[int, int]) -> float:
    """How likely an object was seen well: drawn surely, neither tiny in its view nor cut off by the view's edge."""
    found = kept(paste(drawn.probabilities, drawn.view, shape), clicks)
    if not found.any():
        return 0.0
    left, top, right, bottom = edges_of(found)
    view = drawn.view
    size = max(right - left, bottom - top) / view.side
    slack = view.side / 64
    cut_off = (left <= view.x + slack and view.x > 0) or (top <= view.y + slack and view.y > 0)
    cut_off |= right >= view.x + view.side - slack and view.x + view.side < shape[1]
    cut_off |= bottom >= view.y + view.side - slack and view.y + view.side < shape[0]
    return sureness(drawn.probabilities) * (0.5 if cut_off else 1.0) * (1.0 if size >= SMALL else 0.7)


def fits(view: View, wanted: View) -> bool:
    """Whether a view shows what another would show, about as large."""
    inside = view.x <= wanted.x + 0.12 * wanted.side and view.y <= wanted.y + 0.12 * wanted.side
    inside &= view.x + view.side >= wanted.x + 0.88 * wanted.side
    inside &= view.y + view.side >= wanted.y + 0.88 * wanted.side
    return inside and view.side <= 1.6 * wanted.side


def cut(plane: NDArray[Any], view: View, size: int = SIDE // STRIDE) -> NDArray[Any]:
    """The part of an image or mask inside a view, scaled to size x size; grey, or 0 for a mask, beyond the edge."""
    zoom = size / view.side
    padding = (PADDING,) * 3 if plane.ndim == 3 else 0
    if zoom < 0.6:  # else small things alias
        height, width = plane.shape[:2]
        small = max(round(width * zoom), 1), max(round(height * zoom), 1)
        plane = cv2.resize(plane, small, interpolation=cv2.INTER_AREA)
        ratio = small[0] / width, small[1] / height
    else:
        ratio = 1.0, 1.0
    fx, fy = zoom / ratio[0], zoom / ratio[1]
    # Pixel centres: (x + 0.5 - view.x) * zoom - 0.5.
    affine = np.array(
        [[fx, 0, 0.5 * fx - view.x * zoom - 0.5], [0, fy, 0.5 * fy - view.y * zoom - 0.5]], dtype=np.float64
    )
    return np.asarray(cv2.warpAffine(plane, affine, (size, size), flags=cv2.INTER_LINEAR, borderValue=padding))


def paste(probabilities: Probabilities, view: View, shape: tuple[int, int]) -> Mask:
    """The mask of an image, shape (H, W), of the probabilities inside a view."""
    mask = np.zeros(shape, dtype=bool)
    left, top = max(int(np.floor(view.x)), 0), max(int(np.floor(view.y)), 0)
    right, bottom = (
        min(int(np.ceil(start + view.side)), end) for start, end in ((view.x, shape[1]), (view.y, shape[0]))
    )
    zoom = probabilities.shape[0] / view.side
    affine = np.array(
        [[zoom, 0, (left + 0.5 - view.x) * zoom - 0.5], [0, zoom, (top + 0.5 - view.y) * zoom - 0.5]], dtype=np.float64
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    part = cv2.warpAffine(
        probabilities, affine, (right - left, bottom - top), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    mask[top:bottom, left:right] = part >= 0.5
    return mask


def moved(drawn: Drawn, view: View, size: int) -> Probabilities:
    """Probabilities inside one view as another view shows them, shape (size, size)."""
    if drawn.view == view:
        return drawn.probabilities
    old = drawn.probabilities.shape[0] / drawn.view.side
    step = view.side / size  # image pixels per pixel
    affine = np.array(
        [
            [step * old, 0, ((view.x - drawn.view.x) + 0.5 * step) * old - 0.5],
            [0, step * old, ((view.y - drawn.view.y) + 0.5 * step) * old - 0.5],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(drawn.probabilities, affine, (size, size), flags=flags))


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


def edges_of(mask: Mask | None, clicks: Sequence[Click] = ()) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a mask and the clicks."""
    places = [(click.x, click.y) for click in clicks]
    if mask is not None and mask.any():
        x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
        places += [(x, y), (x + w, y + h)]
    if not places:
        return 0.0, 0.0, 0.0, 0.0
    xs, ys = zip(*places, strict=True)
    return float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys))


def save_prompt_model(network: PromptNetwork, directory: Path, card: Card) -> None:
    """Write a checkpoint folder, complete or not at all. Raises CheckpointError if it exists."""
    card.family, card.backbone = FAMILY, network.config.backbone
    card.config = {"network": asdict(network.config)}
    save_weights(directory, card, {"network": network})


def load_prompt_model(directory: Path, device: str = "cpu") -> PromptModel:
    """Read a checkpoint folder.

    Raises:
        CheckpointError: the folder is incomplete, damaged, or its card describes something else.
        ModelError: the device is not there.
    """
    check_device(device)
    card = read_card(directory)
    if card.family != FAMILY:
        raise CheckpointError(f"{directory} is of the family {card.family!r}; only {FAMILY!r} can be used here")
    try:
        described = dict(card.config["network"])
        network = PromptNetwork(PromptNetworkConfig(**described | {"widths": tuple(described["widths"])}))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the card of {directory} describes no prompt network: {error!r}") from error
    load_weights(directory, card, "network", network)
    return PromptModel(network, name=card.name, device=device)
