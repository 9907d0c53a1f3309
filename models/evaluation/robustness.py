"""Quality of the masks when images look as another scanner, another export or another operator would make them.

After Hendrycks and Dietterich 2019, "Benchmarking neural network robustness to common corruptions and perturbations",
with changes that medical images meet. It is no measurement on other patients: anatomy stays as it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.data.decoding import RgbImage
from models.data.sample import Sample
from models.evaluation.evaluate import measure, summarise
from models.families import Model


@dataclass(frozen=True)
class Change:
    """One way in which an image can look different.

    Attributes:
        paint: changes the pixels of an image of shape (H, W, 3), uint8 RGB, and leaves things where they are.
        scale: factor on the size of what is shown, about the centre; around a smaller one it is black.
        turns: by 90 degrees, counter-clockwise.
    """

    paint: Callable[[RgbImage], RgbImage] = field(default=lambda image: image)
    scale: float = 1.0
    turns: int = 0

    def move(self, picture: NDArray[Any], flags: int) -> NDArray[Any]:
        """Scale and turn an image or mask of shape (H, W) or (H, W, 3)."""
        height, width = picture.shape[:2]
        if self.scale != 1:
            matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), 0, self.scale)
            picture = cv2.warpAffine(picture, matrix, (width, height), flags=flags)
        return np.ascontiguousarray(np.rot90(picture, self.turns))


@dataclass(frozen=True)
class ChangedSample(Sample):
    """A sample whose image, and masks with it, are changed as they are read."""

    change: Change = field(default_factory=Change)

    def read_image(self) -> RgbImage:
        """As `Sample.read_image`, changed."""
        return np.asarray(self.change.move(self.change.paint(super().read_image()), cv2.INTER_AREA), dtype=np.uint8)

    def read_mask(self, label: str, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """As `Sample.read_mask`, changed."""
        original = shape[::-1] if self.change.turns % 2 else shape
        mask = super().read_mask(label, original).astype(np.uint8)
        return np.asarray(self.change.move(mask, cv2.INTER_NEAREST), dtype=bool)


def _grey(image: RgbImage) -> RgbImage:
    return np.asarray(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), dtype=np.uint8)


def _hot(image: RgbImage) -> RgbImage:
    coloured = cv2.applyColorMap(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLORMAP_HOT)
    return np.asarray(cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _gamma(power: float) -> Callable[[RgbImage], RgbImage]:
    levels = ((np.arange(256) / 255) ** power * 255).round().astype(np.uint8)
    return lambda image: np.asarray(cv2.LUT(image, levels), dtype=np.uint8)


def _flat(image: RgbImage) -> RgbImage:
    return np.asarray(64 + image * 0.5, dtype=np.uint8)


def _speckled(image: RgbImage) -> RgbImage:
    noise = np.random.default_rng(0).normal(1, 0.25, image.shape[:2])
    return np.clip(image * noise[..., None], 0, 255).astype(np.uint8)


def _blurred(image: RgbImage) -> RgbImage:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 0.003 * max(image.shape)), dtype=np.uint8)


def _packed(image: RgbImage) -> RgbImage:
    _, packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 15])
    return np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), dtype=np.uint8)


def _written_on(image: RgbImage) -> RgbImage:
    image = image.copy()
    height, width = image.shape[:2]
    thin, size = max(1, height // 400), height / 700
    cv2.line(image, (0, height // 2), (width, height // 2), (255, 255, 255), thin)
    cv2.line(image, (width // 2, 0), (width // 2, height), (255, 255, 255), thin)
    cv2.putText(image, "4.32 mm2", (width // 2, height * 2 // 5), cv2.FONT_HERSHEY_SIMPLEX, size, (0, 255, 0), thin)
    cv2.putText(image, "2031-07-04 11:09", (2, height // 12), cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 0), thin)
    cv2.line(image, (width * 3 // 4, height * 19 // 20), (width * 19 // 20, height * 19 // 20), (255, 255, 0), 3 * thin)
    return image


CHANGES = {
    "as it is": Change(),
    "grey": Change(_grey),
    "hot colour map": Change(_hot),
    "gamma 0.6": Change(_gamma(0.6)),
    "gamma 1.6": Change(_gamma(1.6)),
    "half the contrast": Change(_flat),
    "speckle (25 %)": Change(_speckled),
    "blurred": Change(_blurred),
    "JPEG at quality 15": Change(_packed),
    "written on": Change(_written_on),
    "turned by 90°": Change(turns=1),
    "smaller (0.75)": Change(scale=0.75),
    "larger (1.33)": Change(scale=1.33),
}


def measure_robustness(
    model: Model, samples: Sequence[Sample], *, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Figures of a pipeline on images that were changed in each of `CHANGES`.

    Returns:
        change -> class -> `iou` over the frames that show the class, `recall` and `precision` of the presence decision.
    """
    table = {}
    for number, (name, change) in enumerate(CHANGES.items()):
        changed = [ChangedSample(**vars(sample), change=change) for sample in samples]
        frames = measure(model, changed)
        classes = summarise(frames, model)["classes"]
        table[name] = {
            label: {key: figures[key] for key in ("iou", "recall", "precision")} for label, figures in classes.items()
        }
        progress(number + 1, len(CHANGES))
    return table
