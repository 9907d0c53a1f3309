"""An image is found by the end of the path that an export records, in any form that people and tools write it."""

import os
import tempfile
import unicodedata
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.sources.finding import ImageFiles, files_below, readings
from models.errors import DataError

NAME = st.text(
    st.characters(exclude_categories=("C", "Z"), exclude_characters='/\\:*?"<>|%#+'), min_size=1, max_size=12
)
PART = NAME.filter(lambda name: not name.startswith((".", "$", "@")))  # those are hidden, or an operating system's
FOLDERS = st.lists(PART, max_size=3)


def files(root: Path, *names: str) -> ImageFiles:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return ImageFiles([root])


@pytest.mark.parametrize(
    ("recorded", "name"),
    [
        ("a.png", "images/a.png"),
        ("/home/team/left/a.png", "left/a.png"),
        ("C:\\Data\\left\\a.png", "left/a.png"),
        ("left\\a.png", "left/a.png"),
        ("./left//a.png", "left/a.png"),
        ("../label-studio/data/media/upload/1/8b4ea067-a.png", "images/8b4ea067-a.png"),
        ("/data/upload/1/8b4ea067-a.png", "a.png"),
        ("http://localhost:8080/data/upload/4/cb0618f6-a.png", "images/cb0618f6-a.png"),
        ("https://host/a%20b.png?signature=1%2F2", "a b.png"),
        ("http://host/data/local-files/?d=sub/x%20y%2B%C3%A9.png", "sub/x y+é.png"),
        ("/data/local-files/?d=sub/a+b.png", "sub/a+b.png"),
        ("/data/local-files/?d=sub/a#b.png", "sub/a#b.png"),
        ("/tasks/3/presign/?fileuri=czM6Ly9idWNrZXQvcnVuIzMvYSAxLnBuZw==", "run#3/a 1.png"),
        ("s3://bucket/run#3/scan#1.png", "scan#1.png"),
        ("gs://bucket/a?b.png", "a?b.png"),
        ("azure-blob://box/100%25.png", "100%25.png"),
        ("s3://bucket/a+b.png", "a+b.png"),
        ("file:///C:/Users/me/a.png", "a.png"),
        ("scan#1.png", "scan#1.png"),
        ("100%.png", "100%.png"),
        ("a%20b.png", "a%20b.png"),
        ("a%20b.png", "a b.png"),
        ("frame_000007", "frame_000007.PNG"),
        ("SCAN.PNG", "scan.png"),
        ("[a].png", "[a].png"),
    ],
)
def test_a_file_is_found_by_the_end_of_its_path(tmp_path: Path, recorded: str, name: str) -> None:
    assert files(tmp_path, name, "other.png").find(recorded) == tmp_path / name


@pytest.mark.parametrize(
    ("recorded", "name"),
    [
        ("s3://bucket/a%20b.png", "a b.png"),  # a key is no URL
        ("s3://bucket/scan#1.png", "scan"),
        ("s3://bucket/a.png?x=1", "a.png"),
        ("b.png", "ab.png"),
        ("", "a.png"),
        ("..", "a.png"),
    ],
)
def test_another_file_is_not_taken_for_it(tmp_path: Path, recorded: str, name: str) -> None:
    with pytest.raises(DataError, match="is not in"):
        files(tmp_path, name).find(recorded)


def test_nothing_outside_of_the_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"secret\.png is not in"):
        files(tmp_path / "in", "a.png").find("../secret.png")


def test_more_folders_that_agree_decide(tmp_path: Path) -> None:
    found = files(tmp_path, "left/a.png", "right/a.png", "old/left/a.png")
    assert found.find("/home/me/left/a.png") == tmp_path / "left/a.png"
    assert found.find("/home/me/old/left/a.png") == tmp_path / "old/left/a.png"


def test_an_ambiguous_path_is_refused_with_the_candidates(tmp_path: Path) -> None:
    found = files(tmp_path, "left/a.png", "right/a.png")
    with pytest.raises(DataError, match=r"each of 2 files \(.*left/a\.png, .*right/a\.png\)"):
        found.find("a.png")


@pytest.mark.parametrize("folder", ["val", "valid", "val2017", "images/validation"])
def test_the_subset_decides_between_folders(tmp_path: Path, folder: str) -> None:
    found = files(tmp_path, "train/a.png", f"{folder}/a.png")
    assert found.find("a.png", subset="val") == tmp_path / folder / "a.png"


def test_of_two_paths_for_one_file_the_better_has_it(tmp_path: Path) -> None:
    found = files(tmp_path, "left/a.png").assign(["/x/right/a.png", "/x/left/a.png"])
    assert found["/x/left/a.png"] == tmp_path / "left/a.png"
    assert isinstance(found["/x/right/a.png"], DataError)


def test_a_file_of_a_kind_that_is_not_read_is_not_said_to_be_missing(tmp_path: Path) -> None:
    (tmp_path / "IMG_1.HEIC").touch()
    with pytest.raises(DataError, match=r"^IMG_1\.HEIC has none of the endings of images that are read; convert it"):
        ImageFiles([tmp_path]).find("photos/IMG_1.heic")


def test_two_paths_that_fit_one_file_equally_well_have_none(tmp_path: Path) -> None:
    found = files(tmp_path, "a.png").assign(["/x/right/a.png", "/x/left/a.png"])
    assert all("which may be" in str(one) for one in found.values())


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    """Whoever reads it waits for ever."""
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "link.png").symlink_to("gone.png")
    assert [file.name for file in files_below(tmp_path)] == ["link.png"]


def test_files_of_operating_systems_are_none(tmp_path: Path) -> None:
    found = files(tmp_path, "a.png", "._a.png", "__MACOSX/a.png", "Thumbs.db", ".hidden/a.png")
    assert found.files == [tmp_path / "a.png"]


@settings(max_examples=100, deadline=None)
@given(FOLDERS, PART, st.sampled_from(["NFC", "NFD"]), st.sampled_from(["plain", "windows", "url", "local", "s3"]))
def test_any_way_of_writing_a_path_leads_to_the_file(folders: list[str], stem: str, form: str, way: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        name = "/".join([*folders, f"{stem}.png"])
        path = Path(temporary, unicodedata.normalize("NFC", name))
        found = files(Path(temporary), str(path.relative_to(temporary)), "another file.png")
        written = unicodedata.normalize(form, name)  # type: ignore[arg-type]
        recorded = {
            "plain": f"/mnt/data/{written}",
            "windows": "D:\\data\\" + written.replace("/", "\\"),
            "url": f"https://host/data/upload/3/{quote(written)}?x=1",
            "local": f"/data/local-files/?d=disk/{quote(written)}",
            "s3": f"s3://bucket/run/{written}",
        }[way]
        assert found.find(recorded) == path


@given(st.text(max_size=60))
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert all(part not in ("", ".", "..", "/") for tail in readings(text) for part in tail)


def test_a_folder_that_may_not_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was passed over, and images whose texts lay in it were learnt as images on which nothing is."""
    (tmp_path / "labels").mkdir()
    scan = os.scandir

    def scandir(path: str) -> Any:
        if Path(path).name == "labels":
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match="labels cannot be listed: Permission denied"):
        files_below(tmp_path)
