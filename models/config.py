"""What a checkpoint's card says of its networks and of the way from maps to masks; nothing here needs torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from models.confidence import PRIOR, Lines
from models.trimap import TrimapConfig
from models.wall import WallView

STRIDE = 4  # of the features and the class score maps, in input pixels

# The paper's four and the light one; any other timm network with feature maps works as well.
BACKBONES = ("legacy_xception", "resnet50", "efficientnet_b5", "convnext_base", "tf_efficientnet_lite0")

# Ways to make activation maps, as their papers write them; see `models.activation_maps`.
METHODS = (
    "HiResCAM",
    "LayerCAM",
    "GradCAM",
    "GradCAMElementWise",
    "GradCAMPlusPlus",
    "XGradCAM",
    "EigenCAM",
    "EigenGradCAM",
    "ScoreCAM",
)
SCORE_MAPS = ("HiResCAM", "GradCAM", "XGradCAM")  # whose maps of the last convolution are its output, logits
DEFAULT_METHOD = "HiResCAM"
GAMMA = 2.0  # of LayerCAM's scaling

REFINERS = ("fba", "closed-form", "none")
SECOND_LOOKS = ("all", "open")
DEFAULT_PRESENCE_THRESHOLD = 0.3  # probability: removing a wrong mask is one key, a missing one has to be painted


@dataclass(frozen=True)
class ClassifierConfig:
    """Layers of a classifier; stored in its checkpoint.

    Attributes:
        classes: the class names, in the order of every per-class axis.
        backbone: a timm network name.
        input_size: side in pixels of the square that a frame is fitted into.
        width: channels of the top-down path and of the features.
        wall_backbone: of a second classifier that reads the unrolled wall, see `models.wall`; None where this one
            reads it, or where there is none to read.
    """

    classes: tuple[str, ...]
    backbone: str = "legacy_xception"
    input_size: int = 512
    width: int = 64
    wall_backbone: str | None = None


@dataclass(frozen=True)
class FBANetConfig:
    """Layers of an FBANet; stored in its checkpoint.

    Attributes:
        widths: channels at the finest level, at half its resolution, at a quarter ...
        crop_size: side in pixels of the square that the region around an object is scaled to; a multiple of 32.
        stride: side in pixels of a cell of the finest level, 1 or 2.
    """

    widths: tuple[int, ...] = (32, 48, 96)
    crop_size: int = 256
    stride: int = 2

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Self:
        """The config that a card has; those of before there were strides have none."""
        return cls(**{"stride": 1} | dict(stored) | {"widths": tuple(stored["widths"])})


@dataclass(frozen=True)
class PipelineConfig:
    """How maps become masks; stored in the checkpoint.

    Attributes:
        cam: activation-map method.
        layers: strides of the layers whose maps are fused; 4 is the last convolution.
        refiner: "fba", "closed-form", or "none" for the thresholded map.
        map_threshold: per kind of maps (see `maps`) and class, the activation at a coarse mask's edge, in (0, 1);
            what suits one method says nothing about another. `default_threshold` where not named.
        presence_threshold: per class, the least probability at which it is drawn;
            `DEFAULT_PRESENCE_THRESHOLD` where not named.
        presence_scale: fraction of the input size at which presence is judged, in (0, 1]. Of a smaller frame the
            network sees more at once; that tells better what is there after a long training, after a short one it
            misses more.
        second_look: of which classes presence is judged so: "all", or "open" for those whose map reaches its threshold
            and of which the whole frame is not sure. Saves most of these passes; "all" is a second opinion also of
            what is not drawn.
        trimap: kernel widths.
        band: per class, instead of the `band` of `trimap`.
        unrefined: classes whose map FBANet leaves as it is, because it made it worse where the truth was known.
        wall: the classes that are read on the unrolled wall around the lumen; None to read all of them on the frame.
        confidence: from signs of a prediction to the probability that it needs no correction.
    """

    cam: str = DEFAULT_METHOD
    layers: tuple[int, ...] = (STRIDE,)
    refiner: str = "fba"
    map_threshold: dict[str, dict[str, float]] = field(default_factory=dict)
    presence_threshold: dict[str, float] = field(default_factory=dict)
    presence_scale: float = 1.0
    second_look: str = "all"
    trimap: TrimapConfig = field(default_factory=TrimapConfig)
    band: dict[str, float] = field(default_factory=dict)
    unrefined: tuple[str, ...] = ()
    wall: WallView | None = None
    confidence: Lines = PRIOR

    def __post_init__(self) -> None:
        """Raises ValueError for a method or refiner that does not exist, no layer, or a scale out of range."""
        if self.cam not in METHODS:
            raise ValueError(f"no activation-map method {self.cam!r}; there are {', '.join(METHODS)}")
        if self.refiner not in REFINERS:
            raise ValueError(f"no refiner {self.refiner!r}; there are {', '.join(REFINERS)}")
        if not self.layers:
            raise ValueError(f"maps need at least one layer; {STRIDE} is the last convolution")
        if not 0 < self.presence_scale <= 1:
            raise ValueError(f"presence_scale must be above 0 and at most 1, got {self.presence_scale}")
        if self.second_look not in SECOND_LOOKS:
            raise ValueError(f"no second look {self.second_look!r}; there are {', '.join(SECOND_LOOKS)}")

    @property
    def maps(self) -> str:
        """The kind of maps that these settings make: the method and, unless it is the last, the layers."""
        layers = "+".join(map(str, sorted(self.layers)))
        return self.cam if self.layers == (STRIDE,) else f"{self.cam}@{layers}"

    @property
    def is_absolute(self) -> bool:
        """Whether these maps are class score maps, whose scale is absolute; they need no gradients."""
        return all(in_logits(self.cam, stride) for stride in self.layers)

    def map_threshold_of(self, label: str) -> float:
        """The activation at the edge of a class's coarse mask, for this kind of maps."""
        return self.map_threshold.get(self.maps, {}).get(label, default_threshold(self.cam, self.layers))

    def presence_threshold_of(self, label: str) -> float:
        """The least probability at which a class is drawn."""
        return self.presence_threshold.get(label, DEFAULT_PRESENCE_THRESHOLD)

    def refines(self, label: str) -> bool:
        """Whether the refiner decides the unknown zone of a class."""
        return self.refiner == "closed-form" or (self.refiner == "fba" and label not in self.unrefined)

    def trimap_of(self, label: str) -> TrimapConfig:
        """Kernel widths for a class."""
        return replace(self.trimap, band=self.band.get(label, self.trimap.band))


def in_logits(method: str, stride: int) -> bool:
    """Whether a method's map of a layer is the class score map, whose scale is absolute."""
    return method in SCORE_MAPS and stride == STRIDE


def default_threshold(method: str, strides: Sequence[int]) -> float:
    """Where to cut maps that nothing has been measured for.

    Even odds where they are in logits, else two fifths of the maximum, scaled as the maps are: the one fifth that is
    customary since CAM (Zhou et al. 2016) is for maps of stride 32, and those of stride 4 are sharper.
    """
    return 0.5 if all(in_logits(method, stride) for stride in strides) else math.tanh(GAMMA * 0.4)
