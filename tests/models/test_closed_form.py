import logging
import subprocess
import sys

import cv2
import numpy as np
import pytest

from models.closed_form import closed_form
from models.errors import ModelError
from models.refiner import Crop
from models.trimap import BACKGROUND, FOREGROUND, UNKNOWN

SIZE = 64


def disc(radius):
    mask = np.zeros((SIZE, SIZE), np.uint8)
    cv2.circle(mask, (SIZE // 2, SIZE // 2), radius, 1, -1)
    return mask.astype(bool)


def crop():
    """A bright disc of radius 20 whose map thinks it has radius 15, and a trimap that knows 10 and 28."""
    rng = np.random.default_rng(0)
    image = (np.where(disc(20), 180, 60)[..., None] + rng.normal(0, 5, (SIZE, SIZE, 3))).clip(0, 255).astype(np.uint8)
    trimap = np.where(disc(10), FOREGROUND, np.where(disc(28), UNKNOWN, BACKGROUND)).astype(np.uint8)
    return Crop(image, trimap, disc(15).astype(np.float32))


def test_the_edge_is_found_where_the_colour_changes():
    alpha = closed_form([crop()])[0]
    assert ((alpha >= 0.5) == disc(20)).mean() > 0.99
    assert (alpha[disc(10)] == 1).all()
    assert (alpha[~disc(28)] == 0).all()
    assert alpha.dtype == np.float32


@pytest.mark.parametrize("only", [(UNKNOWN,), (FOREGROUND,), (FOREGROUND, UNKNOWN), (BACKGROUND, UNKNOWN)])
def test_a_trimap_that_lacks_a_kind_leaves_the_map(only, caplog):
    """All foreground, nothing sure, no foreground: matting has nothing to solve."""
    whole = crop()
    trimap = np.full((SIZE, SIZE), only[0], np.uint8)
    trimap[: SIZE // 2] = only[-1]
    with caplog.at_level(logging.INFO):
        alpha = closed_form([Crop(whole.image, trimap, whole.cam)])[0]
    assert (alpha == whole.cam).all()
    assert "the activation map stands" in caplog.text


def test_what_does_not_converge_leaves_the_map_and_says_so(monkeypatch, caplog):
    monkeypatch.setattr("models.closed_form.MAX_STEPS", 2)
    whole = crop()
    assert (closed_form([whole])[0] == whole.cam).all()
    assert "did not converge within 2 iterations" in caplog.text


def test_without_pymatting_the_extra_that_brings_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymatting", None)
    with pytest.raises(ModelError, match=r"premask\[closed-form\]"):
        closed_form([crop()])


def test_an_image_of_one_colour_is_no_division_by_zero():
    whole = crop()
    alpha = closed_form([Crop(np.zeros_like(whole.image), whole.trimap, whole.cam)])[0]
    assert np.isfinite(alpha).all()


@pytest.mark.slow
def test_the_number_of_threads_stays_as_it_was_set():
    """The import of pymatting sets OpenMP's to the number of cores; it can be seen once, so in a fresh process."""
    script = (
        "import torch; torch.set_num_threads(1); torch.get_num_threads()\n"
        "from tests.models.test_closed_form import crop\n"
        "from models.closed_form import closed_form\n"
        "closed_form([crop()]); print(torch.get_num_threads())"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.split()[-1] == "1"
