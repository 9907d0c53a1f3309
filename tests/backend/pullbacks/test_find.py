"""Files and folders become pullbacks: what belongs together, in which order, and what is left out by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import uid
from pydicom.data import get_testdata_file

from backend.errors import PullbackError
from backend.pullbacks import find
from backend.pullbacks.find import find_pullbacks
from models.data.png import write_png
from tests.backend.pullbacks.files import frames, write_dicom, write_film, write_series, write_stack


def test_single_files_are_one_pullback_by_series_in_the_order_of_instance_numbers(tmp_path: Path) -> None:
    first, second = write_series(tmp_path / "a", frames(11)), write_series(tmp_path / "b", frames(2))
    for path in second.iterdir():  # two series in one folder, as a disc has them
        path.rename(first / f"B{path.name}")
    found = find_pullbacks([first])
    assert sorted(len(pullback.frames) for pullback in found.pullbacks) == [2, 11]
    for pullback in found.pullbacks:
        names = [source.path.name.removeprefix("B") for source in pullback.frames]
        assert names == [f"IM{999 - number}" for number in range(1, len(names) + 1)]


def test_a_file_of_several_frames_is_a_pullback_and_parts_of_a_concatenation_are_joined(tmp_path: Path) -> None:
    series = uid.generate_uid()
    for number in (1, 2):
        write_dicom(tmp_path / f"whole{number}.dcm", frames(3), SeriesInstanceUID=series, InstanceNumber=number)
    for part in (2, 1):
        tags: dict[str, Any] = {"ConcatenationUID": "1.2.9", "InConcatenationNumber": part, "SeriesInstanceUID": series}
        write_dicom(tmp_path / f"a{3 - part}.dcm", frames(part + 1), **tags)
    found = find_pullbacks([tmp_path])
    assert sorted(len(pullback.frames) for pullback in found.pullbacks) == [3, 3, 5]
    joined = max(found.pullbacks, key=lambda one: len(one.frames))
    assert [(source.path.name, source.page) for source in joined.frames[:3]] == [
        ("a2.dcm", 0),
        ("a2.dcm", 1),
        ("a1.dcm", 0),
    ]


def test_films_and_stacks_are_pullbacks_and_other_images_belong_together_by_folder(tmp_path: Path) -> None:
    write_film(tmp_path / "run.avi", frames(3))
    write_stack(tmp_path / "stack.tif", frames(4))
    for folder, count in (("one", 12), ("two", 2)):
        (tmp_path / folder).mkdir()
        for number in range(1, count + 1):
            write_png(tmp_path / folder / f"frame{number}.png", frames(1)[0])
    found = find_pullbacks([tmp_path])
    assert {one.title: len(one.frames) for one in found.pullbacks} == {"run": 3, "stack": 4, "one": 12, "two": 2}
    one = next(pullback for pullback in found.pullbacks if pullback.title == "one")
    assert [source.path.name for source in one.frames][8:] == [f"frame{n}.png" for n in (9, 10, 11, 12)]
    assert found.left_out == {}


def test_what_is_no_image_is_left_out_by_name_and_junk_is_not_mentioned(tmp_path: Path) -> None:
    write_series(tmp_path / "run", frames(2))
    for name in ("Thumbs.db", "._IM1", "DICOMDIR", ".DS_Store"):
        (tmp_path / "run" / name).write_bytes(b"junk")
    (tmp_path / "run" / "notes.txt").write_text("of the operator")
    (tmp_path / "run" / "cut.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 9)
    plan = Path(str(get_testdata_file("rtplan.dcm")))
    found = find_pullbacks([tmp_path, plan])
    assert [len(pullback.frames) for pullback in found.pullbacks] == [2]
    assert {Path(what).name for what in found.left_out} == {"notes.txt", "cut.dcm", "rtplan.dcm"}
    assert found.left_out[str(plan)] == "it is a DICOM file without pixels"


def test_a_file_that_is_met_twice_counts_once(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", frames(2))
    copy = tmp_path / "copy.dcm"
    copy.write_bytes(path.read_bytes())
    film = write_film(tmp_path / "a.avi", frames(2))
    (tmp_path / "b.avi").write_bytes(film.read_bytes())
    found = find_pullbacks([path, tmp_path])
    assert len(found.pullbacks) == 2
    assert sorted(Path(what).name for what in found.left_out) == ["b.avi", "copy.dcm"]


def test_there_are_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dicom(tmp_path / "a.dcm", frames(3))
    monkeypatch.setattr(find, "MAX_FRAMES", 2)
    with pytest.raises(PullbackError, match="3 frames, at most 2"):
        find_pullbacks([tmp_path])
    write_dicom(tmp_path / "b.dcm", frames(1))
    monkeypatch.setattr(find, "MAX_FILES", 1)
    with pytest.raises(PullbackError, match="more than 1 files"):
        find_pullbacks([tmp_path])


def test_text_may_be_burnt_into_ultrasound_films_and_what_says_so(tmp_path: Path) -> None:
    cases = [
        ("IVOCT", None, False),
        ("IVOCT", "YES", True),
        ("US", None, True),
        ("IVUS", "NO", False),
    ]
    for number, (modality, burned_in, expected) in enumerate(cases):
        tags = {"BurnedInAnnotation": burned_in} if burned_in else {}
        path = write_dicom(tmp_path / f"{number}.dcm", frames(1), Modality=modality, **tags)
        assert [one.may_show_text for one in find_pullbacks([path]).pullbacks] == [expected]
    film = write_film(tmp_path / "run.mp4", [np.zeros((32, 32), np.uint8)] * 2)
    assert find_pullbacks([film]).pullbacks[0].may_show_text
