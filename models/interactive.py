"""From an annotator's prompt to a mask: the class's map, corrected by the prompt -> trimap -> FBANet.

A click is an observation of the map's logit at one place: it must be high there, or low. The correction between
observations is Gaussian-process regression (Rasmussen and Williams 2006, eq. 2.25), whose kernel falls with the
distance in the image and in the classifier's features. So a click corrects what lies near it and looks like it, also
where the classifier sees nothing of the class, and for classes that it has never been taught. GrabCut on the image's
colours, the usual way to do without a model, finds little of a cap or a core in a box around it: speckle has no colour.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from models.masks.components import without_small_components
from models.prompt import Answer, Click, Mask, Prompt
from models.refiner import Subject, centre_map, fba_matting, refine
from models.segment import outline_uncertainty, sharpness
from models.trimap import BACKGROUND, FOREGROUND, SIZE, TrimapConfig, coarse_mask, trimap_from_mask

if TYPE_CHECKING:
    from models.pipeline import Embedding, Pipeline

Logits = NDArray[np.float32]

TARGET = 3.0  # logit that a click asks for
REACH = 0.06  # of a click, standard deviation, as a fraction of the frame's longer side
LIKENESS = 0.2  # cosine distance of features at which a click's influence has fallen to 1/e
NOISE = 0.01  # of an observation: two clicks at one place must not make the system singular
UNSEEN = -1.0  # logit everywhere of a class that the classifier does not know
SURE = 0.5  # least logit by which an existing mask is believed
CHANGED = 0.3  # least correction, in logits, that may change an existing mask
DISC = 0.3  # radius of what a click makes sure, as a fraction of the distance to the object's edge ...
DISC_MIN, DISC_MAX = 3.0, 25.0  # ... kept within these, in pixels of the 1024 x 1024 grid
RING = 16  # places just outside of a box that are taken for background
SPAN = 0.85  # of a box's width and height that its object covers at least
TOUCHING = 0.01  # distance from a click to an existing mask that it is meant for, of the frame's longer side


def answer(
    pipeline: "Pipeline", embedding: "Embedding", label: str, prompt: Prompt, existing: Sequence[Mask] = ()
) -> Answer:
    """The object of a class that a prompt means.

    Args:
        pipeline: whose refiner draws; `embedding` must be its own.
        embedding: the frame.
        label: the class; one that the pipeline does not know is drawn from the prompt and the features alone.
        prompt: clicks in pixels of the frame, masks of its size.
        existing: masks of this class that are there already, shape (H, W), bool. The one that the prompt touches is
            improved: it stays as it is away from the prompt.

    Returns:
        An empty mask if nothing is left, or nothing was meant.
    """
    logits = class_logits(pipeline, embedding, label)
    config = pipeline.config.trimap_of(label)
    height, width = embedding.image.shape[:2]
    fresh = np.zeros((SIZE, SIZE), dtype=np.uint8)
    for outline in prompt.outlines:
        fresh |= _resized(outline, (SIZE, SIZE))
        logits = _outlined(logits, outline, config)
    for box in prompt.boxes:
        logits = _boxed(embedding, logits, box)
        fresh |= _coarse(logits, config) & _resized(box, (SIZE, SIZE))
        # A box is tight, so its object needs no wide unknown zone.
        config = replace(config, band=config.band / 2, band_min=config.band_min / 3)
    if prompt.clicks:
        corrected = logits + _correction(embedding, logits, prompt.clicks)
        fresh |= _clicked(_coarse(corrected, config), prompt.clicks, height, width)
    meant = _meant(prompt, fresh, existing)
    if meant is not None and not prompt.boxes and not prompt.outlines:
        return _improved(pipeline, embedding, label, logits, prompt.clicks, existing[meant], config, meant)
    if prompt.clicks:
        logits = corrected
    mask, score, uncertainty = _drawn(pipeline, embedding.image, logits, fresh, prompt, config)
    if meant is not None:
        mask |= existing[meant] & ~np.logical_or.reduce([*prompt.boxes, *prompt.outlines])
    return Answer(label, mask, score, meant, uncertainty)


def class_logits(pipeline: "Pipeline", embedding: "Embedding", label: str) -> Logits:
    """The class's map over the frame in logits, 0 at the edge of its objects; shape (h, w)."""
    height, width = embedding.covered
    if label not in pipeline.classes:
        return np.full((height, width), UNSEEN, dtype=np.float32)
    cam = embedding.maps[pipeline.classes.index(label)].astype(np.float32)
    centred = np.clip(centre_map(cam, pipeline.config.map_threshold_of(label)), 1e-4, 1 - 1e-4)
    return np.asarray(_to_pixels(embedding, np.log(centred / (1 - centred))), dtype=np.float32)


def _to_pixels(embedding: "Embedding", cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """From cells to pixels of the network's input, cut to the frame."""
    height, width = embedding.covered
    pixels = cv2.resize(cells.astype(np.float32), (embedding.size, embedding.size), interpolation=cv2.INTER_LINEAR)
    return np.asarray(pixels[:height, :width])


def _correction(embedding: "Embedding", logits: Logits, clicks: Sequence[Click], reach: float = REACH) -> Logits:
    """The correction that makes the logits agree with every click; shape (h, w)."""
    features = embedding.features.astype(np.float32)  # (K, s, s)
    features /= np.maximum(np.linalg.norm(features, axis=0), 1e-6)
    cells = features.shape[1]
    scale = (
        cells / embedding.size * max(embedding.covered) / max(embedding.image.shape[:2])
    )  # pixels of the frame -> cells
    places = np.array([(click.x, click.y) for click in clicks]) * scale - 0.5  # (n, 2) x, y
    nearest = np.clip(np.round(places).astype(int), 0, cells - 1)
    seen = features[:, nearest[:, 1], nearest[:, 0]]  # (K, n)

    def kernel(dx: NDArray[np.float64], dy: NDArray[np.float64], likeness: NDArray[np.float32]) -> Logits:
        near = np.exp(-(dx**2 + dy**2) / (2 * (reach * cells) ** 2))
        return np.asarray(near * np.exp(-np.maximum(1 - likeness, 0) / LIKENESS), dtype=np.float32)

    between = kernel(places[:, None, 0] - places[:, 0], places[:, None, 1] - places[:, 1], seen.T @ seen)  # (n, n)
    rows, columns = np.mgrid[:cells, :cells]
    to_cells = kernel(
        places[:, 0, None, None] - columns, places[:, 1, None, None] - rows, np.tensordot(seen.T, features, 1)
    )  # (n, s, s)
    height, width = logits.shape
    pixels = np.minimum(((places + 0.5) * embedding.size / cells).astype(int), (width - 1, height - 1)).clip(0)
    here = logits[pixels[:, 1], pixels[:, 0]]
    positive = np.array([click.positive for click in clicks])
    # What agrees already is an observation of no error: it holds its surroundings against other clicks.
    missing = np.where(positive, np.maximum(TARGET - here, 0), np.minimum(-TARGET - here, 0))
    weights = np.linalg.solve(between + NOISE * np.eye(len(clicks)), missing)
    return _to_pixels(embedding, np.tensordot(weights, to_cells, 1))


def _boxed(embedding: "Embedding", logits: Logits, box: Mask) -> Logits:
    """Logits that keep an object inside a box and let it span the box (Lempitsky et al. 2009, the tightness prior)."""
    height, width = logits.shape
    inside = _resized(box, (height, width)) > 0
    if not inside.any():
        return logits
    image_height, image_width = box.shape
    x, y, w, h = cv2.boundingRect(box.astype(np.uint8))
    margin_x, margin_y = max(w * 0.08, image_width / 128), max(h * 0.08, image_height / 128)
    left, top, right, bottom = x - margin_x, y - margin_y, x + w + margin_x, y + h + margin_y
    share = np.linspace(0, 1, RING // 4, endpoint=False)
    across, down = left + share * (right - left), top + share * (bottom - top)
    ring = [(a, top) for a in across] + [(right, d) for d in down]
    ring += [(left + right - a, bottom) for a in across] + [(left, top + bottom - d) for d in down]
    # The likeliest place for the object: where its class is seen best, or else in the middle.
    rows, columns = np.mgrid[:height, :width]
    middle_x, middle_y = (x + w / 2) * width / image_width, (y + h / 2) * height / image_height
    radius_x, radius_y = max(w * width / image_width / 2, 1), max(h * height / image_height / 2, 1)
    central = -(((columns - middle_x) / radius_x) ** 2) - ((rows - middle_y) / radius_y) ** 2
    best_y, best_x = np.unravel_index(np.where(inside, logits + central, -np.inf).argmax(), logits.shape)
    clicks = [Click(a, d, positive=False) for a, d in ring if 0 <= a < image_width and 0 <= d < image_height]
    clicks.append(Click((best_x + 0.5) * image_width / width, (best_y + 0.5) * image_height / height))
    reach = max(0.5 * float(w * h) ** 0.5 / max(box.shape), 0.02)
    logits = logits + _correction(embedding, logits, clicks, reach)
    lift = next((step for step in np.linspace(0, 4, 17) if _spans(inside & (logits >= -step), inside)), 4.0)
    return np.where(inside, logits + lift, np.minimum(logits, -2)).astype(np.float32)


def _spans(mask: Mask, box: Mask) -> bool:
    """Whether a mask inside a box covers SPAN of its width and height."""
    inner, outer = (cv2.boundingRect(one.astype(np.uint8)) for one in (mask, box))
    return bool(inner[2] >= SPAN * outer[2] and inner[3] >= SPAN * outer[3])


def _outlined(logits: Logits, outline: Mask, config: TrimapConfig) -> Logits:
    """Logits whose edge is the outline's, moved by the class's map no further than the unknown zone is wide."""
    drawn = _resized(outline, logits.shape)
    if not drawn.any():
        return logits
    inside = cv2.distanceTransform(np.pad(drawn, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    outside = cv2.distanceTransform(1 - drawn, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    band = max(config.band * float(inside.max()), 1.0)
    # A map that is the same everywhere says nothing about the edge.
    seen = np.clip(logits, -1.5, 1.5) if logits.min() < logits.max() else 0.0
    return np.asarray(3 * np.clip((inside - outside) / band, -1, 1) + seen, dtype=np.float32)


def _coarse(logits: Logits, config: TrimapConfig) -> NDArray[np.uint8]:
    """Shape (1024, 1024), uint8, 0 or 1; where smoothing would leave nothing, the raw mask."""
    probability = np.asarray(1 / (1 + np.exp(-logits)), dtype=np.float32)
    mask = coarse_mask(probability, 0.5, config)
    return mask if mask.any() else _resized(probability >= 0.5, (SIZE, SIZE))


def _clicked(mask: NDArray[np.uint8], clicks: Sequence[Click], height: int, width: int) -> NDArray[np.uint8]:
    """The objects of a mask that were clicked on."""
    _, labels = cv2.connectedComponents(mask)
    wanted = {int(labels[_cell(click, height, width)]) for click in clicks if click.positive} - {0}
    return np.isin(labels, list(wanted)).astype(np.uint8)


def _cell(click: Click, height: int, width: int) -> tuple[int, int]:
    """Row and column of a click in the 1024 x 1024 grid."""
    row, column = int(click.y * SIZE / height), int(click.x * SIZE / width)
    return min(max(row, 0), SIZE - 1), min(max(column, 0), SIZE - 1)


def _meant(prompt: Prompt, fresh: NDArray[np.uint8], existing: Sequence[Mask]) -> int | None:
    """The existing mask that a prompt is about: clicked on, else the one that shares most with the new object."""
    for index, mask in enumerate(existing):
        height, width = mask.shape
        reach = max(round(TOUCHING * max(mask.shape)), 2)
        for click in prompt.clicks:
            row, column = (min(max(int(v), 0), n - 1) for v, n in ((click.y, height), (click.x, width)))
            if mask[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1].any():
                return index
    near = cv2.dilate(fresh, np.ones((7, 7), np.uint8)) > 0
    shared = [int((_resized(mask, fresh.shape) > 0)[near].sum()) for mask in existing]
    return int(np.argmax(shared)) if shared and max(shared) > 0 else None


def _improved(
    pipeline: "Pipeline",
    embedding: "Embedding",
    label: str,
    logits: Logits,
    clicks: Sequence[Click],
    existing: Mask,
    config: TrimapConfig,
    index: int,
) -> Answer:
    """An existing mask with what the clicks add and take away; elsewhere it stays as it is."""
    height, width = existing.shape
    there = _resized(existing, logits.shape) > 0
    logits = np.where(there, np.maximum(logits, SURE), np.minimum(logits, -SURE))
    correction = _correction(embedding, logits, clicks)
    logits = logits + correction
    coarse = _coarse(logits, config)
    _, labels = cv2.connectedComponents(coarse)
    changed = np.abs(correction) >= CHANGED
    near = cv2.dilate(_resized(changed, (SIZE, SIZE)), np.ones((21, 21), np.uint8)) > 0
    clicked = _clicked(coarse, clicks, height, width) > 0
    # New objects need a click; of the old ones only those within reach are drawn again.
    old = np.unique(labels[near & (_resized(existing, (SIZE, SIZE)) > 0)])
    fresh = (clicked | np.isin(labels, old[old > 0])).astype(np.uint8)
    mask, score, uncertainty = _drawn(pipeline, embedding.image, logits, fresh, Prompt(tuple(clicks)), config)
    place = _resized(near, (height, width)) > 0
    return Answer(label, np.where(place, mask, existing), score, index, uncertainty)


def _drawn(
    pipeline: "Pipeline",
    image: NDArray[np.uint8],
    logits: Logits,
    coarse: NDArray[np.uint8],
    prompt: Prompt,
    config: TrimapConfig,
) -> tuple[Mask, float, float]:
    """Trimap and refiner; the mask, how sharply it is drawn, and how uncertain its outline is, in bits."""
    height, width = image.shape[:2]
    trimap = trimap_from_mask(coarse, config)
    if prompt.boxes:
        trimap[np.logical_or.reduce([_resized(box, (SIZE, SIZE)) > 0 for box in prompt.boxes]) == 0] = BACKGROUND
    inside = cv2.distanceTransform(coarse, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    outside = cv2.distanceTransform(1 - coarse, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    for click in prompt.clicks:
        row, column = _cell(click, height, width)
        room = (inside if click.positive else outside)[row, column]
        radius = round(min(max(DISC * float(room), DISC_MIN), DISC_MAX))
        cv2.circle(trimap, (column, row), radius, FOREGROUND if click.positive else BACKGROUND, cv2.FILLED)
    cam = np.asarray(1 / (1 + np.exp(-logits)), dtype=np.float32)
    matting = fba_matting(pipeline.networks.refiner)
    (alpha,) = refine(matting, [Subject(image, trimap, cam)], pipeline.refiner_config.crop_size)
    mask = without_small_components(alpha >= 0.5, config.min_component)
    return mask, sharpness(alpha, mask), outline_uncertainty(alpha, trimap)


def _resized(mask: NDArray[np.generic], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A mask at another size, 0 or 1."""
    height, width = shape
    return np.asarray(cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST))
