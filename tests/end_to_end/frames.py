"""Phantoms as the image files that a team uploads, the awkward ones among them."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backend.label_studio.rle import encode_rle
from models.phantom import Phantom, render_phantom

ORIENTATION = 0x0112  # EXIF tag
TURN_RIGHT = 6  # its value "turn the stored picture clockwise by a quarter to show it"


@dataclass(frozen=True, eq=False)
class Frame:
    """An image file and what it truly shows.

    Attributes:
        name: of the file.
        content: of the file.
        masks: by class, shape (H, W), bool, as the image is displayed; empty for a file that is no image.
        size: displayed width and height.
    """

    name: str
    content: bytes
    masks: dict[str, NDArray[np.bool_]]
    size: tuple[int, int]


def png(image: NDArray[Any]) -> bytes:
    """An array as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def frame(name: str, seed: int, rows: slice = slice(None), columns: slice = slice(None), turned: bool = False) -> Frame:
    """A cut of a phantom of 512 x 512 pixels; `turned` stores it on its side and says so in EXIF, as phones do."""
    whole: Phantom = render_phantom(seed, 512)
    image = np.ascontiguousarray(whole.image[rows, columns])
    masks = {label: mask[rows, columns] for label, mask in whole.masks.items() if mask[rows, columns].any()}
    file = io.BytesIO()
    if turned:
        exif = Image.Exif()
        exif[ORIENTATION] = TURN_RIGHT
        Image.fromarray(np.rot90(image)).save(file, "JPEG", quality=95, exif=exif)
    content = file.getvalue() or png(image)
    return Frame(name, content, masks, (image.shape[1], image.shape[0]))


FRAMES = (
    *(frame(f"square-{seed}.png", seed) for seed in range(910_000, 910_005)),
    frame("odd.png", 910_005, slice(31, 488), slice(0, 511)),
    frame("turned.jpg", 910_006, slice(50, 470), slice(6, 506), turned=True),
)
BROKEN = Frame("broken.png", b"\x89PNG\r\n\x1a\n" + b"cut off", {}, (0, 0))


def regions(frame: Frame) -> list[dict[str, Any]]:
    """The truth as the editor submits it after the annotator corrected every mask."""
    width, height = frame.size
    return [
        {
            "id": f"corrected-{number}",
            "type": "brushlabels",
            "from_name": "tissue",
            "to_name": "image",
            "origin": "prediction-changed",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {"format": "rle", "rle": encode_rle(mask), "brushlabels": [label]},
        }
        for number, (label, mask) in enumerate(frame.masks.items())
    ]
