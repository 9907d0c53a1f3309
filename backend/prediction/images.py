"""Where the images of tasks come from."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # (H, W, 3) RGB


class ImageSource(Protocol):
    """The part of `backend.label_studio.images.ImageLoader` that is used."""

    def load(self, task: Mapping[str, Any], image_key: str) -> Image:
        """The image at a path in the task's data, RGB of shape (H, W, 3), uint8; raises ImageError."""
