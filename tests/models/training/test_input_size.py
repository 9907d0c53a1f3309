"""Images are fitted into a square that suits the thinnest class drawn on them."""

import cv2
import numpy as np
import pytest

from models.data.reader import open_data_folder
from models.training.input_size import input_size


@pytest.fixture
def folder(tmp_path):
    """Writes a data folder of three images of 600 x 400 pixels and gives its samples."""

    def write(**masks):
        (tmp_path / "classes.txt").write_text("".join(f"{label}\n" for label in masks or ("a",)))
        if not masks:
            (tmp_path / "labels.csv").write_text("name,a\n0,1\n1,0\n2,1\n")
        for directory in ("images", *(f"masks/{label}" for label in masks)):
            (tmp_path / directory).mkdir(parents=True)
        for index in range(3):
            cv2.imwrite(str(tmp_path / "images" / f"{index}.png"), np.zeros((400, 600, 3), np.uint8))
            for label, mask in masks.items():
                cv2.imwrite(str(tmp_path / "masks" / label / f"{index}.png"), mask)
        return open_data_folder(tmp_path).split(None)

    return write


def bars(thickness, dots=0):
    """A mask of shape (400, 600) with two bars of a thickness, and single pixels."""
    mask = np.zeros((400, 600), np.uint8)
    mask[50 : 50 + thickness, 20:500] = mask[200 : 200 + thickness, 20:500] = 255
    mask[390, 10 : 10 + 4 * dots : 4] = 255
    return mask


@pytest.mark.parametrize(
    ("masks", "size"),
    [
        ({"a": bars(100)}, 448),
        ({"a": bars(12)}, 448),
        ({"a": bars(10)}, 512),
        ({"a": bars(100), "b": bars(10)}, 512),
        ({"a": bars(10, dots=50)}, 512),
        ({"a": bars(2)}, 640),
    ],
)
def test_the_thinnest_class_decides(folder, masks, size):
    assert input_size(folder(**masks)) == size


def test_images_without_masks_get_the_smallest_size(folder):
    assert input_size(folder()) == 448
