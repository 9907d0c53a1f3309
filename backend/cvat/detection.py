"""A detection function for `cvat-cli task auto-annotate`, `cvat-cli function create-native` and their agents.

cvat-cli task auto-annotate 7 --function-module backend.cvat.detection
cvat-cli task auto-annotate 7 --function-module backend.cvat.detection -p model=str:DIR -p draws=str:tags
"""

from collections.abc import Iterator

from PIL.Image import Image

from backend.cvat.detector import Detector
from backend.cvat.model import Checkpoint
from backend.cvat.sdk import require_detection
from models.data.decoding import rgb_array
from models.masks.outlines import outlines
from models.segment import Segment

require_detection()

import cvat_sdk.auto_annotation as cvataa  # noqa: E402 - the check comes first, so that what it lacks is a sentence
from cvat_sdk.masks import encode_mask  # noqa: E402


class DetectionFunction:
    """Masks or tags for one image at a time.

    Attributes:
        spec: the model's classes as labels, numbered in the model's order.
    """

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._ids = {label["name"]: number for number, label in enumerate(detector.labels)}
        self.spec = cvataa.DetectionFunctionSpec(
            labels=[cvataa.label_spec(id=number, **label) for number, label in enumerate(detector.labels)]
        )

    def detect(self, context: cvataa.DetectionFunctionContext, image: Image) -> list[cvataa.DetectionAnnotation]:
        """Annotations of an image.

        CVAT hands out images already turned as their EXIF orientation says; one that still has it is turned here, as
        CVAT's canvas shows it.
        """
        segments, tags = self._detector.find(rgb_array(image), context.conf_threshold or 0.0)
        shapes = [shape for segment in segments for shape in self._shapes(segment, context.conv_mask_to_poly)]
        return [*(cvataa.tag(self._ids[name]) for name, _ in tags), *shapes]

    def _shapes(self, segment: Segment, as_polygons: bool) -> Iterator[cvataa.DetectionAnnotation]:
        label, score = self._ids[segment.label], segment.score
        if not as_polygons:
            yield cvataa.mask(label, encode_mask(segment.mask), score=score)
            return
        for corners in outlines(segment.mask):
            yield cvataa.polygon(label, corners.ravel().tolist(), score=score)


def create(model: str = "", device: str = "auto", draws: str = "masks") -> DetectionFunction:
    """The function for cvat-cli's `-p` parameters, which `Checkpoint` and `Detector` explain."""
    return DetectionFunction(Detector(Checkpoint(model, device), draws))
