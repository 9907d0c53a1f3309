"""What premask exports, it reads again as the same masks: random masks, names and sizes."""

import csv
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from backend.exports.xml_text import is_xml_text
from backend.sources.source import open_source
from models.data.reader import DataFolder, open_data_folder
from models.data.writer import DataFolderWriter
from tests.backend.exports.made import data_folder, masks_of, written

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
READ_BACK = ("coco", "cvat", "png")
# Labels and names of images may be anything that UTF-8, and for CVAT XML, can hold.
LABELS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=300).map(str.strip)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=300)


@st.composite
def labelled(draw):
    """Size, classes, and name -> class -> mask; each class is drawn at least once."""
    size = draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
    classes = draw(st.lists(LABELS, min_size=1, max_size=3, unique=True).filter(_usable))
    names = draw(st.lists(NAMES.map(str.strip), min_size=2, max_size=4, unique=True).filter(all))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    share = draw(st.sampled_from([0.05, 0.5, 0.95]))
    images = {name: {label: random.random(size) < share for label in classes} for name in names}
    first = images[names[0]]
    for mask in first.values():
        mask[0, 0] = True
    return size, classes, images


def _usable(labels):
    return all(label and label != "background" for label in labels)  # CVAT's word for what cuts holes


@pytest.mark.parametrize("format_name", READ_BACK)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(made=labelled())
def test_export_import_export_gives_the_same_masks(format_name, made):
    size, classes, images = made
    assume(format_name != "cvat" or all(map(is_xml_text, classes)))
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        folder = data_folder(root / "data", classes, images, size=size)
        first = read_back(folder, format_name, root / "first", root / "first-again")
        assert by_original(first, root / "first") == masks_of(folder)
        second = read_back(first, format_name, root / "second", root / "second-again")
        assert sorted(map(repr, masks_of(second).values())) == sorted(map(repr, masks_of(folder).values()))


@pytest.mark.parametrize("format_name", READ_BACK)
def test_pictures_come_back_as_they_are(format_name, tmp_path):
    mask = np.eye(9, dtype=bool)
    folder = data_folder(tmp_path / "data", ("A",), {"a": {"A": mask}, "b": {"A": ~mask}}, size=(9, 9))
    read = read_back(folder, format_name, tmp_path / "out", tmp_path / "again")
    for name, sample in folder.samples.items():
        assert (read.samples[name].read_image() == sample.read_image()).all()


def read_back(folder: DataFolder, format_name: str, out: Path, copy: Path) -> DataFolder:
    """The data folder that an export is read as; a copy, since that of a source is deleted."""
    written(folder, format_name, out)
    with open_source(out) as source:
        read = open_data_folder(source.folder)
        images = dict(read.samples)
        shape = {name: sample.read_image().shape[:2] for name, sample in images.items()}
        with DataFolderWriter(copy, read.classes) as again:
            for name, sample in images.items():
                masks = {label: sample.read_mask(label, shape[name]) for label in sample.masks}
                again.add(name, sample.read_image(), masks, dict(sample.presence))
    return open_data_folder(copy)


def by_original(read: DataFolder, out: Path) -> dict[str, dict[str, bytes]]:
    """Masks by the original name of their image."""
    with (out / "images.csv").open(newline="", encoding="utf-8") as file:
        originals = {Path(row["file"]).stem: row["name"] for row in csv.DictReader(file)}
    return {originals.get(name, name): masks for name, masks in masks_of(read).items()}
