"""A model that finds what a test wants, and cvat-cli in a process of its own."""

import io
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models import families
from models.segment import Prediction, Segment
from tests.backend.cvat.fake_cvat import TOKEN, FakeCVAT
from tests.backend.fakes import write_checkpoint

ROOT = Path(__file__).parents[3]
CLASSES = ("Lumen", "Fibrous cap", "Lipid core")


@dataclass
class FakeModel:
    """Finds what `scene` says about each image."""

    scene: Callable[[np.ndarray], Prediction]

    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        return [self.scene(image) for image in images]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model", "oct-9", CLASSES)


@pytest.fixture
def finds(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes every checkpoint a model that finds a scene."""

    def find(scene: Callable[[np.ndarray], Prediction]) -> None:
        monkeypatch.setitem(families.FAMILIES, "cam", lambda directory, device: FakeModel(scene))

    return find


def bright(image: np.ndarray) -> Prediction:
    """Lumen where an image is bright."""
    mask = image[..., 0] > 127
    return Prediction({"Lumen": 0.9}, [Segment("Lumen", 0.9, mask)] if mask.any() else [], frozenset({"Lumen"}))


def picture(mask: np.ndarray, orientation: int = 1) -> bytes:
    """A PNG file that is white where `mask` is set, with an EXIF orientation."""
    image, out = Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB"), io.BytesIO()
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(out, format="PNG", exif=exif)
    return out.getvalue()


@pytest.fixture
def cvat_cli(tmp_path: Path) -> Callable[..., str]:
    """Runs cvat-cli against a server and returns what it printed."""

    def run(server: FakeCVAT, *arguments: str) -> str:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        homes = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        done = subprocess.run(
            [sys.executable, "-m", "cvat_cli", "--server-host", server.url, *arguments],
            env=os.environ | homes | {"PYTHONPATH": path, "CVAT_ACCESS_TOKEN": TOKEN},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run
