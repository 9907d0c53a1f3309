"""The main path: images -> classifier and activation maps -> trimaps -> refiner -> masks."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from models.checkpoint import Card, check_weights, load_weights, read_card, save_weights
from models.confidence import DRAWN_SIGNS, PRIOR, Lines, absent_signs, drawn_signs, read_lines
from models.config import STRIDE, ClassifierConfig, FBANetConfig, PipelineConfig, in_logits
from models.documents import first_problem
from models.errors import CheckpointError
from models.families import Runtime
from models.interactive import answer
from models.masks.components import without_small_components
from models.prepare import prepare_apart
from models.prompt import Answer, Mask, Prompt
from models.prompted_class import likeliest_class
from models.refiner import Matting, Subject, centre_map, fba_matting, refine
from models.runtime import PYTORCH, Networks, RuntimeChoice
from models.seen import STEP, Seen, judge, presence_side, see
from models.segment import Prediction, Segment
from models.stages import stage
from models.threads import limit_threads, spread, thread_count, together
from models.trimap import coarse_mask, grid_of, trimap_config, trimap_from_mask
from models.wall import STRIP_MARGIN, WallView, both_maps, both_present, find_wall, roll_up, unroll

if TYPE_CHECKING:
    from models.classifier import Classifier
    from models.fba_net import FBANet

logger = logging.getLogger(__name__)

Image = NDArray[np.uint8]  # (H, W, 3) RGB
SURE = 0.9  # presence by the whole frame from which on a smaller one is not asked

_CLASSIFIER, _REFINER = TypeAdapter(ClassifierConfig), TypeAdapter(FBANetConfig)


@dataclass(frozen=True, eq=False)
class Steps:
    """One class on one frame, step by step, to be shown to people.

    Attributes:
        label: the class.
        presence: its probability in [0, 1].
        present: whether that reaches the class's threshold.
        cam: activation map, shape (h, w), floats in [0, 1], over the frame.
        coarse: the map thresholded, opened and closed, shape (H, W), bool, in the image's size.
        trimap: shape (g, g), uint8, on the image's grid (see `models.trimap.grid_of`).
        alpha: the refiner's output, shape (H, W), floats in [0, 1].
        mask: shape (H, W), bool: alpha at or above 0.5, without small components.
        signs: that the mask, or its absence, needs no correction (see `models.confidence`); () if none were looked for.
    """

    label: str
    presence: float
    present: bool
    cam: NDArray[np.float32]
    coarse: NDArray[np.bool_]
    trimap: NDArray[np.uint8]
    alpha: NDArray[np.float32]
    mask: NDArray[np.bool_]
    signs: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Embedding:
    """The classifier's maps and features of one frame, kept to answer an annotator's prompts.

    Attributes:
        image: shape (H, W, 3), uint8 RGB.
        size: side of the square that the image was fitted into, in pixels.
        covered: height and width that the image covers in it.
        maps: activation map per class over the square, shape (C, s, s), float16 in [0, 1].
        features: of the last convolution over the square, shape (K, s, s), float16.
    """

    image: Image
    size: int
    covered: tuple[int, int]
    maps: NDArray[np.float16]
    features: NDArray[np.float16]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes."""
        return self.image.nbytes + self.maps.nbytes + self.features.nbytes


class Pipeline:
    """The model family "cam": a classifier and a refiner that together draw masks.

    Networks are only read, so a prompt may be answered on one thread while images are predicted on another; two
    callers should not predict at once.

    Args:
        classifier_config, refiner_config: of its networks.
        load: loads them for PyTorch, into memory; asked where PyTorch is needed (see `models.runtime`).
        config: how maps become masks.
        name: the model version.
        device: cpu, cuda or cuda:N, where networks are computed.
    """

    def __init__(
        self,
        classifier_config: ClassifierConfig,
        refiner_config: FBANetConfig,
        load: "Callable[[], tuple[Classifier, FBANet]]",
        config: PipelineConfig | None = None,
        *,
        name: str = "untrained",
        device: str = "cpu",
    ) -> None:
        self.classifier_config, self.refiner_config = classifier_config, refiner_config
        self.config = config or PipelineConfig()
        self.name, self.device = name, device
        self._load, self._lock = load, Lock()
        self._loaded: tuple[Classifier, FBANet] | None = None
        self._networks: Networks | None = None

    @classmethod
    def of(
        cls,
        classifier: "Classifier",
        refiner: "FBANet",
        config: PipelineConfig | None = None,
        *,
        name: str = "untrained",
        device: str = "cpu",
    ) -> Self:
        """A pipeline of networks that are in memory; they are moved to `device`, into evaluation mode."""
        both = classifier, refiner
        pipeline = cls(classifier.config, refiner.config, lambda: both, config, name=name, device=device)
        pipeline._pytorch()
        return pipeline

    @property
    def classifier(self) -> "Classifier":
        """For PyTorch. Raises CheckpointError if it has to be loaded and cannot be."""
        return self._pytorch()[0]

    @property
    def refiner(self) -> "FBANet":
        """For PyTorch. Raises CheckpointError if it has to be loaded and cannot be."""
        return self._pytorch()[1]

    def _pytorch(self) -> "tuple[Classifier, FBANet]":
        with self._lock:
            if self._loaded is None:
                from models.pytorch_networks import placed

                classifier, refiner = self._load()
                self._loaded = placed(classifier, self.device), placed(refiner, self.device)
            return self._loaded

    @property
    def networks(self) -> Networks:
        """What computes classifier and refiner: PyTorch, unless another runtime was asked for."""
        if self._networks is None:
            from models.pytorch_networks import pytorch_networks

            self._networks = pytorch_networks(*self._pytorch(), self.device)
        return self._networks

    @networks.setter
    def networks(self, networks: Networks) -> None:
        self._networks = networks

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the network's class axis."""
        return self.classifier_config.classes

    @property
    def description(self) -> dict[str, str]:
        """The refiner and the kind of maps, for reports."""
        return {"refiner": self.config.refiner, "cam": self.config.maps}

    def use_runtime(
        self,
        directory: Path,
        runtime: Runtime,
        kept: Path | None = None,
        *,
        afterwards: Callable[[], None] | None = None,
    ) -> None:
        """Have the networks computed by another runtime where that is faster; see `models.runtime`.

        What only PyTorch would need is not loaded then, or given up.

        Args:
            directory: the checkpoint that the pipeline was loaded from, unchanged since.
            runtime: "auto" for the faster one, or its name.
            kept: folder for what is made of this checkpoint; one in it if None.
            afterwards: None waits for what takes seconds, because it was not made before. Else it is made while
                PyTorch computes, and this is called when no process will need PyTorch any more.

        Raises:
            CheckpointError: PyTorch is needed, and the weights cannot be loaded.
        """
        threads = thread_count()
        choice = RuntimeChoice(
            directory, self.classifier_config, self.refiner_config, self._pytorch, self.device, runtime, kept
        )

        def adopt() -> None:
            limit_threads(threads)  # that a network is compiled for; of a new thread, all cores
            networks = choice.networks()
            # In this order: whoever predicts meanwhile has networks that compute.
            self.networks = networks
            if not self._needs_pytorch:
                with self._lock:
                    self._loaded = None

        def make(afterwards: Callable[[], None]) -> None:
            prepare_apart(choice, threads)
            try:
                adopt()
            except CheckpointError as error:
                logger.warning("%s stays with PyTorch: %s", self.name, error)
                return
            # What a full disk did not keep would be made again by the next process, and by the one after it.
            if not self._needs_pytorch and choice.is_made():
                afterwards()

        if choice.is_made() or afterwards is None:
            adopt()
        else:
            self._pytorch()
            Thread(target=make, args=(afterwards,), name=f"runtime-{self.name}", daemon=True).start()

    @property
    def _needs_pytorch(self) -> bool:
        """Whether a network, or the kind of maps, is computed by it."""
        return not self.config.is_absolute or PYTORCH in self.networks.runtimes.values()

    @property
    def runtime(self) -> str:
        """What computes the networks, in words."""
        return PYTORCH if self._networks is None else self._networks.name

    def release_memory(self) -> None:
        """Give back what the last images took, until the next one."""
        if self._networks is not None:
            self._networks.release()

    def predict(self, images: Sequence[Image]) -> list[Prediction]:
        """Find every class on every image.

        Args:
            images: arrays of shape (H, W, 3), uint8 RGB, of any and differing sizes.

        Returns:
            One prediction per image, in order.

        Raises:
            ValueError: an array is not such an image.
        """
        found = self.steps(images)
        return [prediction(steps, self.config.confidence) for steps in found]

    def steps(self, images: Sequence[Image]) -> list[list[Steps]]:
        """Everything `predict` does, kept: for each image the steps of each class, absent ones with empty masks."""
        for image in images:
            check_image(image)
        # On a GPU one half is worked on while the networks compute the other; a CPU gains little by it.
        half = len(images) if self.device == "cpu" else (len(images) + 1) // 2
        parts = [part for part in (images[:half], images[half:]) if len(part)]
        return [steps for part in together(self._steps, parts) for steps in part]

    def _steps(self, images: Sequence[Image]) -> list[list[Steps]]:
        presence, cams = self.maps(images)
        parts = [
            (image, label, probability, cam)
            for image, probabilities, maps in zip(images, presence.tolist(), cams, strict=True)
            for label, probability, cam in zip(self.classes, probabilities, maps, strict=True)
        ]
        with stage("trimaps"):
            steps = spread(lambda part: self._trimap_step(*part), parts)
            refined = [i for i, step in enumerate(steps) if step.coarse.any() and self.config.refiner != "none"]
            subjects = spread(lambda i: self._subject(parts[i][0], steps[i]), refined)
        alphas = refine(self._matting(), subjects, self.refiner_config.crop_size)
        with stage("components"):
            least = self.config.trimap.min_component
            masks = spread(lambda alpha: without_small_components(alpha >= 0.5, least), alphas)
            for i, alpha, mask in zip(refined, alphas, masks, strict=True):
                steps[i] = replace(steps[i], alpha=alpha, mask=mask)
            steps = spread(lambda step: replace(step, signs=self._signs(step)), steps)
        count = len(self.classes)
        return [steps[start : start + count] for start in range(0, len(steps), count)]

    def _subject(self, image: Image, step: Steps) -> Subject:
        centred = centre_map(step.cam, self.config.map_threshold_of(step.label))
        return Subject(image, step.trimap, centred, self.config.refines(step.label))

    def _signs(self, step: Steps) -> tuple[float, ...]:
        threshold = self.config.presence_threshold_of(step.label)
        if not step.mask.any():
            return absent_signs(step.presence, threshold)
        cut = self.config.map_threshold_of(step.label)
        return drawn_signs(step.presence, threshold, step.alpha, step.mask, step.coarse, step.trimap, step.cam, cut)

    def _matting(self) -> Matting:
        if self.config.refiner == "closed-form":
            from models.closed_form import closed_form

            return closed_form
        return fba_matting(self.networks.refiner)

    def _see(
        self,
        frames: NDArray[np.uint8],
        methods: Sequence[str],
        presence_scale: float = 1.0,
        *,
        on_wall: bool = False,
        features: bool = False,
    ) -> Seen:
        """What the classifier says of frames of shape (B, H, W, 3), or its reader of the wall, of strips.

        Presence is judged at `presence_scale` only for maps that have no unit, as it scales them.
        """
        networks, layers = self.networks, self.config.layers
        part = "wall_reader" if on_wall and "wall_reader" in networks.runtimes else "classifier"
        is_converted = networks.runtimes[part] != PYTORCH
        if self._in_logits(methods):
            presence_scale = 1.0
            if is_converted:
                return see(getattr(networks, part), frames, methods, features=features)
        from models.activation_maps import explained

        classifier = self.classifier
        if part == "wall_reader":
            assert classifier.wall_reader is not None
            classifier = classifier.wall_reader
        return explained(
            classifier,
            frames,
            methods,
            layers,
            presence_scale,
            device=self.device,
            forward=getattr(networks, part) if is_converted else None,
            features=features,
        )

    def _in_logits(self, methods: Sequence[str]) -> bool:
        return all(in_logits(method, layer) for method in methods for layer in self.config.layers)

    def maps(self, images: Sequence[Image]) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Presence and activation maps of every class.

        Where `presence_scale` is not 1, a second pass judges presence on a smaller frame: of all classes or, as
        `second_look` has it, of those that could be drawn and of which the first pass is not sure (`SURE`).

        Returns:
            Presence probabilities of shape (B, C), and for each image its maps of shape (C, h, w), floats in [0, 1],
            stretching over exactly the image (the square's padding is cut off).
        """
        presence, maps = self.maps_by(images, [self.config.cam])
        return presence, maps[self.config.cam]

    def maps_by(
        self, images: Sequence[Image], methods: Sequence[str]
    ) -> tuple[NDArray[np.float32], dict[str, list[NDArray[np.float32]]]]:
        """As `maps`, but the maps of each of several methods, from the same forward pass."""
        size = self.classifier_config.input_size
        squares = [fit_square(image, size) for image in images]
        seen = self._see(np.stack([square for square, _, _ in squares]), methods, self.config.presence_scale)
        cut: dict[str, list[NDArray[np.float32]]] = {}
        with stage("maps"):
            for method, batched in seen.maps.items():
                # To the square's pixels first: the image's edge seldom falls on the edge of a cell.
                cut[method] = [
                    np.stack([cv2.resize(m, (size, size), interpolation=cv2.INTER_LINEAR)[:h, :w] for m in maps])
                    for maps, (_, h, w) in zip(batched, squares, strict=True)
                ]
        on_frame, on_wall = seen.presence, np.full_like(seen.presence, np.nan)
        if self.config.wall is not None:
            self._read_walls(images, on_wall, cut, self.config.wall)
        presence = self._by_both(on_frame, on_wall)
        side = presence_side(size, self.config.presence_scale)
        if side is None or not self._in_logits(methods):
            return presence, cut
        asked = self._is_open(presence, next(iter(cut.values()))) | (self.config.second_look == "all")
        if rows := [row for row in range(len(images)) if asked[row].any()]:
            judged = judge(self.networks.classifier, [squares[row][0] for row in rows], side)
            on_frame[rows] = np.where(asked[rows], judged, on_frame[rows])
            presence = self._by_both(on_frame, on_wall)
        return presence, cut

    def _is_open(self, presence: NDArray[np.float32], maps: Sequence[NDArray[np.float32]]) -> NDArray[np.bool_]:
        """Whether a class could be drawn and may not be there, shape (B, C); maps (C, h, w) of each image."""
        cuts = [self.config.map_threshold_of(label) for label in self.classes]
        reached = [[cam.max() >= cut for cam, cut in zip(cams, cuts, strict=True)] for cams in maps]
        return np.asarray(reached) & (presence < SURE)

    def _by_both(self, on_frame: NDArray[np.float32], on_wall: NDArray[np.float32]) -> NDArray[np.float32]:
        """Presence, shape (B, C), by the frame's pass and, where it is not NaN, the wall's."""
        if self.config.wall is None:
            return on_frame
        both = on_wall if self.config.wall.alone else both_present(on_frame, on_wall)
        return np.where(np.isnan(on_wall), on_frame, both)

    def _read_walls(
        self,
        images: Sequence[Image],
        presence: NDArray[np.float32],
        maps: dict[str, list[NDArray[np.float32]]],
        view: WallView,
    ) -> None:
        """Have a second pass, over the unrolled walls, say whether and where the wall's classes are.

        Of images without a lumen it says nothing.

        Args:
            images: B images.
            presence: shape (B, C), filled in where the pass says something.
            maps: method -> a map of each image, shape (C, h, w), changed in place.
            view: which classes.
        """
        lumen, replaced = self.classes.index(view.lumen), [self.classes.index(label) for label in view.classes]
        of_frames = maps[self.config.cam] if self.config.cam in maps else next(iter(maps.values()))
        threshold = self.config.map_threshold_of(view.lumen)
        walls = [find_wall(cams[lumen] >= threshold) for cams in of_frames]
        found = [index for index, wall in enumerate(walls) if wall is not None]
        if not found:
            return
        fine = {i: walls[i].scaled(max(images[i].shape[:2])) for i in found}  # type: ignore[union-attr]
        strips = np.stack([unroll(images[i], fine[i], STRIP_MARGIN) for i in found])  # (B', ROWS, RAYS + 2 margin, 3)
        seen = self._see(strips, list(maps), on_wall=True)
        for place, index in enumerate(found):
            presence[index, replaced] = seen.presence[place, replaced]
            for method, cams in maps.items():
                margin = STRIP_MARGIN * seen.maps[method].shape[3] // strips.shape[2]
                parts = [seen.maps[method][place, label][:, margin:-margin] for label in replaced]
                rolled = roll_up(parts, fine[index], cams[index].shape[1:])
                for label, values in zip(replaced, rolled, strict=True):
                    cams[index][label] = values if view.alone else both_maps(cams[index][label], values)

    def embed(self, image: Image) -> Embedding:
        """Maps and features of one frame. Raises ValueError if it is no image."""
        check_image(image)
        size = self.classifier_config.input_size
        square, height, width = fit_square(image, size)
        seen = self._see(square[None], [self.config.cam], self.config.presence_scale, features=True)
        assert seen.features is not None
        cells = seen.maps[self.config.cam][0]  # (C, s, s)
        if self.config.wall is not None:
            cells = self._with_walls(image, cells, (height, width), self.config.wall)
        return Embedding(image, size, (height, width), cells.astype(np.float16), seen.features[0].astype(np.float16))

    def _with_walls(
        self, image: Image, cells: NDArray[np.float32], covered: tuple[int, int], view: WallView
    ) -> NDArray[np.float32]:
        """Maps over the square, shape (C, s, s), with the wall's classes read on the wall."""
        size, side = self.classifier_config.input_size, cells.shape[1]
        square = np.stack([cv2.resize(m, (size, size), interpolation=cv2.INTER_LINEAR) for m in cells])
        cams = {self.config.cam: [square[:, : covered[0], : covered[1]].astype(np.float32)]}
        self._read_walls([image], np.full((1, len(self.classes)), np.nan, np.float32), cams, view)
        for label in view.classes:
            index = self.classes.index(label)
            square[index, : covered[0], : covered[1]] = cams[self.config.cam][0][index]
            cells[index] = cv2.resize(square[index], (side, side), interpolation=cv2.INTER_AREA)
        return cells

    def prompt(
        self, embedding: Embedding, prompt: Prompt, label: str | None = None, existing: Sequence[Mask] = ()
    ) -> Answer:
        """Draw the object that a prompt means; see `models.interactive.answer`.

        Args:
            embedding: the frame, made by this pipeline.
            prompt: at least one click or box if `label` is None.
            label: the class; None for the likeliest one of `models.prompted_class`.
            existing: masks of the class that are there already, shape (H, W), bool.
        """
        label = likeliest_class(self, embedding, prompt) if label is None else label
        return answer(self, embedding, label, prompt, existing)

    def _trimap_step(self, image: Image, label: str, presence: float, cam: NDArray[np.float32]) -> Steps:
        height, width = image.shape[:2]
        grid = grid_of(height, width)
        widths = self.config.trimap_of(label).on_grid(grid)
        present = presence >= self.config.presence_threshold_of(label)
        trimap, coarse = np.zeros((grid, grid), dtype=np.uint8), np.zeros((height, width), dtype=bool)
        if present:
            mask = coarse_mask(cam, self.config.map_threshold_of(label), widths, grid)
            trimap = trimap_from_mask(mask, widths)
            coarse = cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR).view(bool)
        return Steps(label, presence, present, cam, coarse, trimap, alpha=coarse.astype(np.float32), mask=coarse)


def prediction(steps: Sequence[Steps], confidence: Lines = PRIOR) -> Prediction:
    """The prediction that the steps of one image's classes lead to.

    Args:
        steps: with their signs.
        confidence: what the signs are worth.
    """
    segments = []
    for step in steps:
        if not step.mask.any():
            continue
        signs = dict(zip(DRAWN_SIGNS, step.signs, strict=True))
        score = min(max(step.presence * signs["sharpness"], 0.0), 1.0)  # surely there, sharply drawn
        segments.append(Segment(step.label, score, step.mask, 1 - signs["outline"]))
    present = frozenset(step.label for step in steps if step.present)
    sure = {step.label: confidence.confidence(step.label, step.signs) for step in steps}
    return Prediction({step.label: step.presence for step in steps}, segments, present, sure)


def check_image(image: Image) -> None:
    """Raises ValueError unless `image` has shape (H, W, 3), uint8, with H, W >= 1."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"image must have shape (H, W, 3) and dtype uint8, got {image.shape} {image.dtype}")


def fit_square(image: Image, size: int) -> tuple[Image, int, int]:
    """Scale an image so that its longer side is `size`, and pad it on the right and below with black.

    Returns:
        The square of shape (size, size, 3), uint8, and the height and width that the image covers in it.
    """
    height, width = image.shape[:2]
    scale = size / max(height, width)
    inner_h, inner_w = max(round(height * scale), 1), max(round(width * scale), 1)
    shrink = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    square = np.zeros((size, size, 3), dtype=np.uint8)
    square[:inner_h, :inner_w] = cv2.resize(image, (inner_w, inner_h), interpolation=shrink)
    return square, inner_h, inner_w


def save_pipeline(pipeline: Pipeline, directory: Path, card: Card) -> None:
    """Write a checkpoint folder, complete or not at all. Raises CheckpointError if it exists."""
    card.classes = list(pipeline.classes)
    card.backbone = pipeline.classifier_config.backbone
    card.config = {
        "classifier": asdict(pipeline.classifier_config),
        "refiner": asdict(pipeline.refiner_config),
        "pipeline": asdict(pipeline.config),
    }
    save_weights(directory, card, {"classifier": pipeline.classifier, "refiner": pipeline.refiner})


def load_pipeline(directory: Path, device: str = "cpu") -> Pipeline:
    """Read a checkpoint folder, its networks for PyTorch.

    Raises:
        CheckpointError: as `read_pipeline`; or the weights do not fit the networks that the card describes.
        ModelError: the device is not there.
    """
    pipeline = read_pipeline(directory, device)
    pipeline.use_runtime(directory, "pytorch")
    return pipeline


def read_pipeline(directory: Path, device: str = "cpu") -> Pipeline:
    """Read a checkpoint folder, whose networks are loaded when it is known what computes them.

    Raises:
        CheckpointError: the folder is incomplete, damaged, or its card describes something else, such as a model of
            another family.
        ModelError: the device is not there.
    """
    if device != "cpu":
        from models.devices import check_device

        check_device(device)
    card = read_card(directory)
    if card.family != Card.family:
        raise CheckpointError(f"{directory} is of the family {card.family!r}; only {Card.family!r} can be used here")
    try:
        classifier_config = dict(card.config["classifier"])
        pipeline_config = dict(card.config["pipeline"])
        classifier = ClassifierConfig(**classifier_config | {"classes": tuple(classifier_config["classes"])})
        classifier = _CLASSIFIER.validate_python(asdict(classifier))
        refiner = _REFINER.validate_python(asdict(FBANetConfig.of(dict(card.config["refiner"]))))
        _check_networks(card, classifier, refiner)
        layers = tuple(pipeline_config.get("layers", (STRIDE,)))
        trimap = trimap_config(pipeline_config["trimap"])
        unrefined = tuple(pipeline_config.get("unrefined", ()))
        wall = pipeline_config.get("wall")
        view = None if wall is None else WallView(**wall | {"classes": tuple(wall["classes"])})
        if view is not None and not {view.lumen, *view.classes} <= set(classifier.classes):
            raise ValueError(f"the wall's classes, {view.lumen}, {', '.join(view.classes)}, are not among the others")
        lines = read_lines(pipeline_config.get("confidence"))
        config = PipelineConfig(
            **pipeline_config
            | {"layers": layers, "trimap": trimap, "unrefined": unrefined, "wall": view, "confidence": lines}
        )
    except ValidationError as error:  # of pydantic, a ValueError
        raise _no_pipeline(directory, first_problem(error)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise _no_pipeline(directory, repr(error)) from error
    check_weights(directory)

    def load() -> "tuple[Classifier, FBANet]":
        return load_networks(directory, card, classifier, refiner)

    return Pipeline(classifier, refiner, load, config, name=card.name, device=device)


def _check_networks(card: Card, classifier: ClassifierConfig, refiner: FBANetConfig) -> None:
    """Raises ValueError unless networks of these sizes can be made and compute."""
    if card.classes != list(classifier.classes):
        raise ValueError(f"its classes, {card.classes}, are not those of its classifier, {list(classifier.classes)}")
    if len(set(card.classes)) < len(card.classes):
        raise ValueError(f"two of its classes have the same name: {card.classes}")
    for name, side, step in (("input_size", classifier.input_size, STEP), ("crop_size", refiner.crop_size, 8)):
        if side < step or side % step:
            raise ValueError(f"{name} must be a multiple of {step}, got {side}")


def _no_pipeline(directory: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"the card of {directory} describes no pipeline of this version: {why}",
        "restore that file, or choose another model",
    )


def load_networks(
    directory: Path, card: Card, classifier_config: ClassifierConfig, refiner_config: FBANetConfig
) -> "tuple[Classifier, FBANet]":
    """The networks of a checkpoint, for PyTorch.

    Raises:
        CheckpointError: the weights are not there, or damaged, or do not fit the networks that the card describes.
    """
    from models.classifier import Classifier
    from models.fba_net import FBANet

    try:
        classifier, refiner = Classifier(classifier_config), FBANet(refiner_config)
    except (KeyError, TypeError, ValueError) as error:
        raise _no_pipeline(directory, repr(error)) from error
    load_weights(directory, card, "classifier", classifier)
    load_weights(directory, card, "refiner", refiner)
    return classifier, refiner
