import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from models.data.reader import open_data_folder
from models.data.report import data_report
from models.errors import DataError


@pytest.fixture
def folder(tmp_path):
    """Three images of 40 x 30 pixels; class 'scratch' is on the first two, 'dent' on none."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks" / "scratch").mkdir(parents=True)
    (tmp_path / "classes.txt").write_text("scratch\ndent\n")
    for i in range(3):
        cv2.imwrite(str(tmp_path / "images" / f"f{i}.png"), np.full((30, 40, 3), 60 * i, np.uint8))
    for i in range(2):
        mask = np.zeros((30, 40), np.uint8)
        mask[5:10, 5:20] = 255
        cv2.imwrite(str(tmp_path / "masks" / "scratch" / f"f{i}.png"), mask)
    return tmp_path


def test_a_class_without_a_mask_file_is_absent(folder):
    samples = open_data_folder(folder).samples
    assert samples["f0"].presence == {"scratch": True, "dent": False}
    assert samples["f2"].presence == {"scratch": False, "dent": False}
    assert samples["f2"].has_masks
    assert samples["f0"].read_mask("scratch", (30, 40)).sum() == 75
    assert not samples["f0"].read_mask("dent", (30, 40)).any()


def test_an_empty_cell_of_labels_csv_is_unknown(folder):
    (folder / "labels.csv").write_text("name,scratch,dent\nf2,,1\n")
    sample = open_data_folder(folder).samples["f2"]
    assert sample.presence == {"dent": True}
    assert not sample.has_masks


def test_an_image_whose_classes_are_all_known_absent_has_known_masks(folder):
    """A task that was accepted without regions teaches that nothing is anywhere on it."""
    (folder / "labels.csv").write_text("name,scratch,dent\nf0,1,0\nf2,0,0\n")
    samples = open_data_folder(folder).samples
    assert samples["f0"].has_masks
    assert samples["f2"].has_masks


def test_a_class_that_is_present_but_not_drawn_teaches_no_false_negatives(folder):
    (folder / "labels.csv").write_text("name,scratch,dent\nf0,1,1\n")
    sample = open_data_folder(folder).samples["f0"]
    assert sample.presence == {"scratch": True, "dent": True}
    assert not sample.has_masks


def test_labels_alone_are_enough(folder):
    shutil.rmtree(folder / "masks")
    (folder / "labels.csv").write_text("name,scratch,dent\nf0,1,0\nf1,0,1\nf2,0,0\n")
    samples = open_data_folder(folder).samples
    assert samples["f1"].presence == {"scratch": False, "dent": True}


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda d: (d / "classes.txt").unlink(), "classes.txt cannot be read"),
        (lambda d: (d / "classes.txt").write_text("scratch\nscratch\n"), "each class once"),
        (lambda d: (d / "masks" / "rust").mkdir(), "rust is for a class that classes.txt does not name"),
        (lambda d: (d / "images" / "f1.png").write_bytes(b"not a png"), r"f1.png cannot be read as an image"),
        (lambda d: (d / "images" / "f1.png").unlink(), "has no image"),
        (lambda d: (d / "masks" / "scratch" / "f1.png").write_bytes(b""), "cannot be read as a mask"),
        (
            lambda d: cv2.imwrite(str(d / "masks/scratch/f1.png"), np.zeros((40, 30), np.uint8)),
            "is 30x40, but its image",
        ),
        (lambda d: (d / "labels.csv").write_text("name,rust\nf0,1\n"), "must have the columns"),
        (lambda d: (d / "labels.csv").write_text("name,dent\nf0,yes\n"), "line 2: a label is 0, 1 or empty"),
        (lambda d: (d / "labels.csv").write_text("name,dent,dent\nf0,1,1\n"), "once; it has"),
        (lambda d: (d / "labels.csv").write_bytes(b"name,dent\nf\xe9,1\n"), "in UTF-8"),
        (lambda d: (d / "labels.csv").write_text("name,dent\nf0.jpg,1\n"), "f0.jpg: labels.csv names it"),
        (lambda d: (d / "labels.csv").write_text("name,dent\nf0,1\nf0,0\n"), "f0: labels.csv names it twice"),
        (lambda d: (d / "labels.csv").write_text("name,scratch\nf0,0\n"), "f0.png is drawn, but labels.csv"),
        (lambda d: (d / "classes.txt").write_bytes(b"scr\xe4tch\ndent\n"), "in UTF-8"),
        (lambda d: (d / "masks/scratch/f1.png").rename(d / "masks/scratch/f1.bmp"), "masks are PNG files"),
        (lambda d: (d / "split.json").write_text('{"train": ["f0", "f9"]}'), "names f9"),
        (lambda d: (d / "split.json").write_text('{"train": ["f0"], "val": ["f0"]}'), "twice"),
        (lambda d: (d / "split.json").write_text("[1]"), "must hold"),
    ],
)
def test_what_is_inconsistent_is_reported_by_name(folder, damage, complaint):
    damage(folder)
    with pytest.raises(DataError, match=complaint):
        open_data_folder(folder)


def test_tables_in_utf_16_are_read(folder):
    """So some programs on Windows save text."""
    for name in ("classes.txt", "split.json"):
        path = folder / name
        content = path.read_text() if path.exists() else '{"train": ["f0"], "val": ["f1"]}'
        path.write_bytes(content.encode("utf-16"))
    (folder / "labels.csv").write_bytes("name,dent\r\nf1,1\r\n".encode("utf-16"))
    data = open_data_folder(folder)
    assert data.classes == ("scratch", "dent")
    assert data.splits == {"train": ("f0",), "val": ("f1",)}
    assert data.samples["f1"].presence["dent"] is True


@pytest.mark.parametrize("name", ["classes.txt", "labels.csv"])
def test_utf_16_without_a_mark_is_refused(folder, name):
    """Each letter was followed by one that nobody sees, and no class was that of its masks."""
    content = {"classes.txt": "scratch\ndent\n", "labels.csv": "name,scratch,dent\n"}[name]
    (folder / name).write_bytes(content.encode("utf-16-le"))
    with pytest.raises(
        DataError, match=rf"{name} cannot be read.*UTF-16 without its byte-order mark; save it in UTF-8"
    ):
        open_data_folder(folder)


def test_skip_bad_goes_on_and_says_what_it_left_out(folder):
    (folder / "images" / "f1.png").write_bytes(b"not a png")
    (folder / "split.json").write_text(json.dumps({"train": ["f0", "f1"], "val": ["f2"]}))
    data = open_data_folder(folder, skip_bad=True)
    assert list(data.samples) == ["f0", "f2"]
    assert "f1" in data.skipped
    assert [sample.name for sample in data.split("train")] == ["f0"]


def test_skip_bad_passes_over_masks_of_a_class_that_is_not_listed(folder):
    (folder / "masks" / "rust").mkdir()
    data = open_data_folder(folder, skip_bad=True)
    assert len(data.samples) == 3
    assert "rust is for a class" in data.skipped["masks/rust"]


def test_an_unknown_split_is_refused_by_name(folder):
    with pytest.raises(DataError, match="no split 'test'"):
        open_data_folder(folder).split("test")


def test_the_fingerprint_changes_with_a_mask_and_only_then(folder):
    before = open_data_folder(folder).fingerprint()
    assert open_data_folder(folder).fingerprint() == before
    cv2.imwrite(str(folder / "masks" / "scratch" / "f0.png"), np.full((30, 40), 255, np.uint8))
    assert open_data_folder(folder).fingerprint() != before


def test_a_mask_without_a_white_pixel_says_that_the_class_is_absent(folder):
    """Some exports write a black mask for every class that is not on an image."""
    for i in range(3):
        (folder / "masks" / "dent").mkdir(exist_ok=True)
        cv2.imwrite(str(folder / "masks" / "dent" / f"f{i}.png"), np.zeros((30, 40), np.uint8))
    samples = open_data_folder(folder).samples
    assert samples["f0"].presence == {"scratch": True, "dent": False}
    assert samples["f0"].masks.keys() == {"scratch"}
    assert samples["f0"].has_masks


def test_an_empty_mask_answers_what_labels_csv_leaves_open(folder):
    (folder / "labels.csv").write_text("name,scratch,dent\nf1,,0\nf2,,0\n")
    cv2.imwrite(str(folder / "masks" / "scratch" / "f2.png"), np.zeros((30, 40), np.uint8))
    sample = open_data_folder(folder).samples["f2"]
    assert sample.presence == {"scratch": False, "dent": False}
    (folder / "labels.csv").write_text("name,scratch\nf2,1\n")
    with pytest.raises(DataError, match=r"f2\.png is empty, but labels\.csv says that scratch is present"):
        open_data_folder(folder)


def test_the_covered_fraction_is_known(folder):
    assert open_data_folder(folder).samples["f0"].coverage == {"scratch": pytest.approx(75 / 1200)}


def test_spreadsheets_may_begin_with_a_byte_order_mark(folder):
    (folder / "classes.txt").write_text("scratch\ndent\n", encoding="utf-8-sig")
    (folder / "labels.csv").write_text("name,scratch,dent\nf2,,1\n", encoding="utf-8-sig")
    assert open_data_folder(folder).samples["f2"].presence == {"dent": True}


def test_every_picture_format_and_shape_is_read(folder):
    """A turned photograph, sixteen bits, transparency, printers' colours, one row of pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30), "red").save(folder / "images" / "turned.jpg", exif=exif)
    Image.fromarray(np.full((30, 40), 65535, np.uint16)).save(folder / "images" / "deep.png")
    Image.new("RGBA", (40, 30), (9, 9, 9, 0)).save(folder / "images" / "clear.png")
    Image.new("CMYK", (40, 30), (0, 0, 0, 0)).save(folder / "images" / "print.jpg")
    Image.new("L", (40, 1), 255).save(folder / "images" / "line.tif")
    mask = np.zeros((40, 30), np.uint8)
    mask[:20] = 255
    cv2.imwrite(str(folder / "masks" / "scratch" / "turned.png"), mask)
    samples = open_data_folder(folder).samples
    assert samples["turned"].read_image().shape == (40, 30, 3)
    assert samples["turned"].coverage == {"scratch": 0.5}
    assert samples["line"].read_image().shape == (1, 40, 3)
    for name in ("deep", "clear", "print", "line"):
        assert samples[name].read_image().min() >= 254, name


def test_neighbours_by_number_are_neighbours(folder):
    """Blocks of neighbours are held out, so frame 10 must not come between 1 and 2."""
    for i in (10, 9, 100):
        cv2.imwrite(str(folder / "images" / f"f{i}.png"), np.zeros((30, 40, 3), np.uint8))
    assert list(open_data_folder(folder).samples) == ["f0", "f1", "f2", "f9", "f10", "f100"]


def group(folder, groups, split=None):
    (folder / "groups.json").write_text(json.dumps(groups))
    if split is not None:
        (folder / "split.json").write_text(json.dumps(split))


def test_groups_are_read(folder):
    assert open_data_folder(folder).groups() == {f"f{i}": "block 1" for i in range(3)}
    group(folder, {"f0": "a", "f1": "b", "f2": "a", "other": "c"})
    data = open_data_folder(folder)
    assert [sample.group for sample in data.samples.values()] == ["a", "b", "a"]
    assert data.groups() == {"f0": "a", "f1": "b", "f2": "a"}


def test_other_groups_give_another_fingerprint(folder):
    before = open_data_folder(folder).fingerprint()
    group(folder, {"f0": "a", "f1": "b", "f2": "a"})
    assert open_data_folder(folder).fingerprint() != before


@pytest.mark.parametrize(("groups", "complaint"), [([1], "must hold"), ({"f0": "a"}, "no group for f1.*1 more")])
def test_groups_that_do_not_fit_are_reported(folder, groups, complaint):
    group(folder, groups)
    with pytest.raises(DataError, match=complaint):
        open_data_folder(folder)


def test_images_without_a_group_can_be_left_out(folder):
    group(folder, {"f0": "a", "f2": "b"})
    data = open_data_folder(folder, skip_bad=True)
    assert list(data.samples) == ["f0", "f2"]
    assert "no group for f1" in data.skipped["f1"]


@pytest.mark.parametrize("split", [{"train": ["f0", "f1"], "val": ["f2"]}, {"val": ["f2"], "train": ["f0", "f1"]}])
def test_a_split_through_a_group_is_refused_or_the_held_out_side_gives_way(folder, split):
    group(folder, {"f0": "patient 1", "f1": "patient 2", "f2": "patient 1"}, split)
    with pytest.raises(DataError, match=r"f0 in train and f2 in val.*of group 'patient 1'.*--skip-bad"):
        open_data_folder(folder)
    data = open_data_folder(folder, skip_bad=True)
    assert data.splits == {"train": ("f0", "f1"), "val": ()}
    assert "patient 1" in data.skipped["f2"]


def test_frames_of_an_animation_are_images_whatever_its_ending(folder):
    """All but the first of a .png were dropped without a word."""
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "images" / "moving.png", save_all=True, append_images=frames[1:])
    assert {"moving-page-1", "moving-page-2"} <= open_data_folder(folder).samples.keys()


@pytest.mark.parametrize("place", ["masks/f0.png", "masks/scratch/more/f0.png", "images/more/f9.png"])
def test_what_lies_a_folder_too_high_or_too_low_is_named(folder, place):
    """A mask beside the folders of classes was passed over, and its class was absent."""
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "images" / "f0.png", folder / place)
    with pytest.raises(DataError, match=rf"{place} is not read: it does not lie in"):
        open_data_folder(folder)
    assert place in open_data_folder(folder, skip_bad=True).skipped


def test_tables_may_name_files_with_their_endings_and_parts_by_other_words(folder):
    """As spreadsheets on Windows write them, with semicolons and a byte-order mark."""
    (folder / "split.json").write_text('\ufeff{"training": ["images/f0.png"], "Validation": ["f1.png"]}')
    (folder / "groups.json").write_text('\ufeff{"f0.png": "a", "f1": "b", "f2": "c"}')
    (folder / "labels.csv").write_text("\ufeffname; scratch\nf2.png; 0\n")
    data = open_data_folder(folder, skip_bad=True)
    assert data.splits == {"train": ("f0",), "val": ("f1",)}
    assert data.groups() == {"f0": "a", "f1": "b", "f2": "c"}


def test_a_folder_of_masks_that_may_not_be_listed_is_refused(folder, monkeypatch):
    listed = Path.iterdir

    def iterdir(path):
        if path.name == "scratch":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(DataError, match=r"masks/scratch cannot be listed: Permission denied"):
        open_data_folder(folder)


def test_rows_without_a_cell_are_passed_over_and_cells_without_a_column_refused(folder):
    """Spreadsheets write the one; the other has slipped, and says something of another class."""
    (folder / "labels.csv").write_text("name,scratch,dent\nf0,1,1,\n,,\n , ,\n")
    assert open_data_folder(folder).samples["f0"].presence["dent"] is True
    (folder / "labels.csv").write_text("name,scratch,dent\nf0,0,1,1\n")
    with pytest.raises(DataError, match=r"labels\.csv line 2 has 4 cells, its header 3"):
        open_data_folder(folder)


@pytest.mark.parametrize(
    ("split", "used"),
    [
        ({"train": ["f0", "f1"], "dev": ["f2"]}, {"f0", "f1"}),
        ({"train": ["f0"], "test": ["f2"]}, {"f0", "f1"}),
        ({"fold1": ["f0"], "fold2": ["f1", "f2"]}, {"f0", "f1", "f2"}),
    ],
)
def test_parts_beside_train_are_not_learnt_from_whatever_they_are_called(folder, split, used):
    """What people had held out as dev was learnt from."""
    (folder / "split.json").write_text(json.dumps(split))
    data = open_data_folder(folder)
    assert {sample.name for side in data.train_and_held_out() for sample in side} == used
    assert sum("neither learnt from nor held out" in text for text in data_report(data).sentences) == (len(used) < 3)


def test_a_split_that_names_one_part_twice_is_refused(folder):
    (folder / "split.json").write_text('{"val": ["f0"], "valid": ["f1"]}')
    with pytest.raises(DataError, match="val, valid mean the same part"):
        open_data_folder(folder)


def test_a_group_of_null_is_none(folder):
    (folder / "groups.json").write_text('{"f0": null, "f1": null, "f2": null}')
    assert {sample.group for sample in open_data_folder(folder).samples.values()} == {None}


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("f1.npy", "masks are PNG files"),
        ("f1.nii.gz", "masks are PNG files"),
        ("F1.png", "written in other letters; call it f1.png"),
        ("f1_mask.png", "seems to be of f1.png; call it f1.png"),
        ("mask-f1.png", "seems to be of f1.png; call it f1.png"),
    ],
)
def test_an_image_whose_mask_is_not_read_is_left_out(folder, name, complaint):
    """Otherwise it would teach that the class is absent."""
    (folder / "masks/scratch/f1.png").rename(folder / "masks/scratch" / name)
    data = open_data_folder(folder, skip_bad=True)
    assert complaint in data.skipped["f1"]
    assert data.samples.keys() == {"f0", "f2"}


@pytest.mark.parametrize("name", ["f10.png", "f9_mask.png", "f0_old.png"])
def test_a_mask_of_no_image_leaves_the_images_alone(folder, name):
    """Of another image, or of one that has its mask."""
    shutil.copy(folder / "masks/scratch/f0.png", folder / "masks/scratch" / name)
    data = open_data_folder(folder, skip_bad=True)
    assert "has no image" in data.skipped[name.removesuffix(".png")]
    assert data.samples.keys() == {"f0", "f1", "f2"}


def test_other_files_beside_masks_are_passed_over(folder):
    (folder / "masks/scratch/readme.txt").write_text("how they were drawn")
    assert open_data_folder(folder).samples.keys() == {"f0", "f1", "f2"}


def test_a_folder_of_masks_may_have_its_classs_name_in_other_letters(folder):
    (folder / "masks/scratch").rename(folder / "masks/Scratch")
    assert open_data_folder(folder).samples["f0"].presence == {"scratch": True, "dent": False}
    (folder / "masks/scratch").mkdir()
    data = open_data_folder(folder, skip_bad=True)
    assert "does not name" in data.skipped["masks/Scratch"]


@pytest.mark.parametrize("name", ["Scratch", "scratch ", "SCRATCH"])
def test_a_folder_of_masks_that_is_written_in_another_way_is_its_classes(folder, name):
    (folder / "masks" / "scratch").rename(folder / "masks" / name)
    assert "scratch" in open_data_folder(folder).samples["f0"].masks


def test_masks_in_a_second_folder_of_a_class_leave_their_images_out(folder):
    """Without them the class would count as absent."""
    second = folder / "masks" / "scratch "
    second.mkdir()
    (folder / "masks" / "scratch" / "f1.png").rename(second / "f1.png")
    data = open_data_folder(folder, skip_bad=True)
    assert "f1" not in data.samples
    assert "may be of scratch; put the masks of a class into one folder" in data.skipped["f1"]


def test_classes_that_differ_in_unicode_form_alone_are_refused(folder):
    (folder / "classes.txt").write_text("caf\u00e9\ncafe\u0301\n", encoding="utf-8")
    with pytest.raises(DataError, match="each class once"):
        open_data_folder(folder)


@pytest.mark.parametrize("place", ["masks", "masks/scratch/more"])
def test_a_mask_outside_of_the_folders_of_classes_leaves_its_image_out(folder, place):
    """Without it the class would count as absent."""
    (folder / place).mkdir(exist_ok=True)
    (folder / "masks" / "scratch" / "f1.png").rename(folder / place / "f1.png")
    data = open_data_folder(folder, skip_bad=True)
    assert "f1" not in data.samples
    assert "does not lie in masks/CLASS/; move it there" in data.skipped["f1"]
