"""Where the time of a frame goes, stage by stage, and how it grows with the number of classes."""

import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import cycle

import cv2
import numpy as np
from numpy.typing import NDArray

from backend.bench.measure import Case, Times, alternate
from backend.bench.setting import Setting
from backend.label_studio.rle import encode_rle
from models.classifier import Classifier
from models.config import ClassifierConfig
from models.data.decoding import decode_image
from models.data.png import encode_png
from models.phantom import render_phantom
from models.pipeline import Image, Pipeline
from models.stages import stage, timed

WHOLE = "whole frame"
STAGES = ("decode", "classifier", "maps", "trimaps", "refiner", "components", "encode")
CLASSES = (1, 2, 4, 8, 16)


def stages(setting: Setting) -> Case:
    """Frames, in turn, from the file to the encoded masks: each stage, and its share as its ratio to the whole."""
    files = cycle([encode_png(frame) for frame in setting.frames])
    times: defaultdict[str, Times] = defaultdict(Times)
    for number in range(setting.rounds + 1):
        began = time.perf_counter()
        with timed() as seconds:
            with stage("decode"):
                image = decode_image(next(files), max_pixels=setting.size * setting.size)
            (found,) = setting.pipeline.predict([image])
            with stage("encode"):
                for segment in found.segments:
                    encode_rle(segment.mask)
        if number:  # the first does not count
            times[WHOLE].wall.append(time.perf_counter() - began)
            for name in (name for name in STAGES if name in seconds):  # nothing found is not refined
                times[name].wall.append(seconds[name])
        setting.tick()
    return Case(f"a frame of {setting.size} x {setting.size}", dict(times))


class _Seen(Pipeline):
    """A pipeline whose maps show what is known to be there: weights do not change the time, found objects do."""

    seen: NDArray[np.float32]  # (C, size, size)

    def maps(self, images: Sequence[Image]) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """As `Pipeline.maps`, at the same cost."""
        presence, _ = super().maps(images)
        return np.ones_like(presence), [self.seen] * len(images)


def classes(setting: Setting) -> Case:
    """Frames on which 1 to 16 classes are found, an object or more of each."""
    model = setting.pipeline
    frame = render_phantom(0, setting.size)
    masks = [mask.astype(np.float32) for mask in frame.masks.values() if mask.any()]
    shown = [cv2.GaussianBlur(mask, (0, 0), setting.size / 64) for mask in masks]
    sides = {}
    for count in CLASSES:
        names = tuple(f"class {number}" for number in range(count))
        size, backbone = model.classifier.config.input_size, model.classifier.config.backbone
        pipeline = _Seen.of(Classifier(ClassifierConfig(names, backbone, size)), model.refiner, model.config)
        pipeline.seen = np.stack([shown[number % len(shown)] for number in range(count)])
        sides[f"{count} classes"] = lambda pipeline=pipeline: pipeline.predict([frame.image])
    return Case("a frame, by classes on it", alternate(sides, setting.rounds, setting.tick))
