"""Cases that need no server: what our way of doing things saves against the usual one."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from backend.bench.measure import Case, alternate, divided
from backend.bench.setting import Setting
from backend.label_studio import rle
from models.activation_maps import activation_maps, explain
from models.classifier import Classifier
from models.closed_form import closed_form, installed
from models.config import DEFAULT_METHOD, ClassifierConfig
from models.phantom import render_phantom
from models.pipeline import load_pipeline
from models.pytorch_networks import all_networks
from models.refiner import Crop, Subject, fba_matting, refine
from models.runtime import SERVED
from models.trimap import SIZE, TrimapConfig, trimap_from_mask


def batch(setting: Setting) -> Case:
    """One image at a time, or several as one batch, by the networks that are served; times are per image."""
    pipeline, images, many = load_pipeline(setting.model, setting.device), setting.frames, len(setting.frames)
    if setting.device == "cpu":
        offered = all_networks(pipeline.classifier, pipeline.refiner)
        pipeline.networks = offered.get(SERVED, pipeline.networks)
    times = alternate(
        {
            "one at a time": lambda: [pipeline.predict([image]) for image in images],
            f"{many} at a time": lambda: pipeline.predict(images),
        },
        setting.rounds,
        setting.tick,
    )
    per_image = {side: divided(measured, many) for side, measured in times.items()}
    return Case("as served, per image: do larger batches pay?", per_image)


class _Explained(nn.Module):
    """A classifier as pytorch-grad-cam wants it: images in, the scores that we explain out, a layer to hook."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier, self.layer = classifier, nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Each class's score map summed over the frame, shape (B, C)."""
        features = self.layer(self.classifier(images).features)
        scores: Tensor = self.classifier.head(features).sum(dim=(2, 3))
        return scores


def maps(setting: Setting) -> Case:
    """Maps of all classes from one forward pass, or from pytorch-grad-cam, which is asked class by class."""
    import pytorch_grad_cam

    classifier = deepcopy(setting.pipeline.classifier).cpu()
    size = classifier.config.input_size
    images = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    network = _Explained(classifier)
    count = len(setting.pipeline.classes)

    def theirs() -> None:
        with getattr(pytorch_grad_cam, DEFAULT_METHOD)(network, [network.layer]) as cam:
            for index in range(count):
                cam(images, [lambda scores, index=index: scores[index]])

    sides = {
        "one pass for all classes": lambda: activation_maps(explain(classifier, images), DEFAULT_METHOD),
        "pytorch-grad-cam per class": theirs,
    }
    return Case(f"{DEFAULT_METHOD} of {count} classes", alternate(sides, setting.rounds, setting.tick))


def backbones(setting: Setting) -> Case:
    """The light backbone against the product's default; weights do not change the time."""
    size = setting.pipeline.classifier.config.input_size
    images = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))

    def side(backbone: str) -> Callable[[], object]:
        network = Classifier(ClassifierConfig(setting.pipeline.classes, backbone, size)).eval()
        network = network.to(memory_format=torch.channels_last)
        return lambda: activation_maps(explain(network, images), DEFAULT_METHOD)

    sides = {name: side(name) for name in ("tf_efficientnet_lite0", "legacy_xception")}
    return Case(f"classifier and maps of one image at {size} x {size}", alternate(sides, setting.rounds, setting.tick))


def matting(setting: Setting) -> Case:
    """FBANet or, where installed, closed-form matting, on the crops of a frame's objects; times are per frame."""
    pipeline, crops = setting.pipeline, crops_of(setting.size, setting.pipeline.refiner.config.crop_size)
    ours = fba_matting(pipeline.networks.refiner)
    sides = {"FBANet": lambda: ours(crops)}
    if installed():
        sides["closed-form matting"] = lambda: closed_form(crops)
    return Case(f"alpha of the {len(crops)} objects of one frame", alternate(sides, setting.rounds, setting.tick))


def crops(setting: Setting) -> Case:
    """FBANet on a crop around each object, or on the whole frame once for each class."""
    pipeline, subjects = setting.pipeline, subjects_of(SIZE)
    ours = fba_matting(pipeline.networks.refiner)

    def whole() -> None:
        for one in subjects:  # one by one: together they would fill the memory
            ours([Crop(one.image, one.trimap, one.cam)])

    sides = {
        "crop around each object": lambda: refine(ours, subjects, pipeline.refiner.config.crop_size),
        "whole frame": whole,
    }
    about = f"FBANet on {len(subjects)} classes of a {SIZE} x {SIZE} frame"
    return Case(about, alternate(sides, setting.rounds, setting.tick))


def rle_codec(setting: Setting) -> Case:
    """Brush masks to and from Label Studio's RLE, and by label-studio-sdk's converter where that is installed."""
    mask = render_phantom(0, SIZE).masks["Lumen"]
    encoded = rle.encode_rle(mask)
    sides: dict[str, Callable[[], object]] = {
        "encode": lambda: rle.encode_rle(mask),
        "decode": lambda: rle.decode_rle(encoded, (SIZE, SIZE)),
    }
    if (brush := _reference_codec()) is not None:
        sides["encode, label-studio-sdk"] = lambda: brush.mask2rle(mask.astype(np.uint8) * 255)
        sides["decode, label-studio-sdk"] = lambda: brush.decode_rle(encoded)
    against = {side: side.partition(",")[0] for side in sides}
    return Case(f"RLE of a {SIZE} x {SIZE} mask", alternate(sides, setting.rounds, setting.tick), against=against)


def _reference_codec() -> ModuleType | None:
    """The one file of label-studio-sdk that has its codec; the whole package needs 42 others."""
    try:
        path = distribution("label-studio-sdk").locate_file("label_studio_sdk/converter/brush.py")
    except PackageNotFoundError:
        return None
    spec = spec_from_file_location("brush", str(path))
    if spec is None or spec.loader is None:
        return None
    brush = module_from_spec(spec)
    spec.loader.exec_module(brush)
    return brush


def crops_of(size: int, side: int) -> list[Crop]:
    """What a matting solves for the objects of a synthetic frame of `size` pixels, in crops of `side` pixels."""
    crops: list[Crop] = []

    def keep(batch: Sequence[Crop]) -> list[NDArray[np.float32]]:
        crops.extend(batch)
        return [crop.cam for crop in batch]

    refine(keep, subjects_of(size), side)
    return crops


def subjects_of(size: int) -> list[Subject]:
    """Classes of a synthetic frame, by its exact masks: input of the refiner, independent of the classifier."""
    frame = render_phantom(0, size)
    subjects = []
    for mask in frame.masks.values():
        grid = np.asarray(cv2.resize(mask.astype(np.uint8), (SIZE, SIZE), interpolation=cv2.INTER_NEAREST), np.uint8)
        cam = cv2.GaussianBlur(grid.astype(np.float32), (0, 0), SIZE / 64)
        subjects.append(Subject(frame.image, trimap_from_mask(grid, TrimapConfig()), np.asarray(cam, dtype=np.float32)))
    return subjects
