"""CVAT's video tasks: tracks through frames, which are pages of a film or pictures; outside, they draw nothing."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from backend.sources.source import open_source
from models.data.reader import DataFolder
from models.errors import DataError
from tests.backend.sources.exports import CVAT_HEAD, CVAT_LABEL, HEIGHT, WIDTH, block, cvat_xml, picture, read

COUNT = 6
SIZE = f"<original_size><width>{WIDTH}</width><height>{HEIGHT}</height></original_size>"


def box(frame: int | str, left: int = 10, outside: int | str = 0, z: int = 0) -> str:
    return (
        f'<box frame="{frame}" keyframe="1" outside="{outside}" occluded="0" xtl="{left}.00" ytl="5.00" '
        f'xbr="{left + 8}.00" ybr="13.00" z_order="{z}"></box>'
    )


def track(label: str, *shapes: str, task: str = "") -> str:
    return f'<track id="0" label="{label}" source="manual"{task}>{"".join(shapes)}</track>'


def video_xml(*tracks: str, labels: tuple[str, ...] = ("scratch", "dent"), **fields: str) -> str:
    """annotations.xml as "CVAT for video 1.1"; fields of the task by name."""
    listed = "".join(CVAT_LABEL.format(name=name, kind="any", parent="") for name in labels)
    values = {"start_frame": "0", "stop_frame": str(COUNT - 1), "frame_filter": ""} | fields
    head = CVAT_HEAD.format(count=COUNT, labels=listed)
    for name, value in values.items():
        start = head.index(f"<{name}>") + len(name) + 2
        head = head[:start] + value + head[head.index(f"</{name}>") :]
    return head.replace("</task>", f"<source>study.avi</source>{SIZE}</task>") + "".join(tracks) + "</annotations>\n"


def film(path: Path, count: int = COUNT) -> None:
    """Frame number n is of grey 20 n."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w", format="avi") as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "bgr0"
        for number in range(count):
            pixels = np.full((HEIGHT, WIDTH, 3), 20 * number, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def export(folder: Path, xml: str, kind: str = "pictures", numbers: range = range(COUNT)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "annotations.xml").write_text(xml, encoding="utf-8")
    if kind == "film":
        film(folder / "study.avi")
    else:
        for number in numbers:
            picture(folder / "images" / f"frame_{number:06d}.PNG")
    return folder


def presences(data: DataFolder, label: str) -> list[bool | None]:
    return [data.samples[f"frame_{number:06d}"].presence.get(label) for number in range(COUNT)]


@pytest.mark.parametrize("kind", ["pictures", "film"])
def test_a_track_draws_on_its_frames_and_is_absent_where_it_is_outside(tmp_path: Path, kind: str) -> None:
    shapes = [box(1), box(2, 11), box(3, 12), box(4, 12, outside=1)]
    xml = video_xml(track("scratch", *shapes), track("dent", box(3, 20), box(4, 20), box(5, 20)))
    with open_source(export(tmp_path / "export", xml, kind)) as source:
        data, masks = read(source.folder)
        frames = [data.samples[f"frame_{number:06d}"].read_image() for number in range(COUNT)]
    assert data.classes == ("scratch", "dent")
    assert presences(data, "scratch") == [False, True, True, True, False, False]
    assert presences(data, "dent") == [False, False, False, True, True, True]
    assert np.array_equal(masks["frame_000002"]["scratch"], block(5, 11, 13, 19))
    assert np.array_equal(masks["frame_000005"]["dent"], block(5, 20, 13, 28))
    if kind == "film":
        assert [int(frame.mean()) for frame in frames] == [20 * number for number in range(COUNT)]


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([box(0), box(3), box(4, outside=1)], [True, None, None, True, False, False]),
        ([box(1), box(2)], [False, True, True, None, None, None]),
        ([box(1), box(2, outside=1), box(4), box(5)], [False, True, False, False, True, True]),
        ([box(0), box("x"), box(5, outside=1)], [None] * 6),
        ([box(1), box(2, outside="True"), box(4, outside="false"), box(5)], [False, True, False, False, True, True]),
        ([box(5), box(4)], [False, False, False, False, True, True]),
    ],
)
def test_a_frame_on_which_a_track_goes_on_without_a_shape_is_not_known(
    tmp_path: Path, shapes: list[str], expected: list[bool | None]
) -> None:
    with open_source(export(tmp_path / "export", video_xml(track("scratch", *shapes)))) as source:
        assert presences(read(source.folder)[0], "scratch") == expected


def test_a_track_of_background_cuts_what_lies_below_it(tmp_path: Path) -> None:
    tracks = [track("background", box(0, 14, z=1), box(3, 14, z=1), box(4, 14, outside=1))]
    tracks.append(track("scratch", *(box(number) for number in range(COUNT))))
    xml = video_xml(*tracks, labels=("scratch", "background"))
    with open_source(export(tmp_path / "export", xml)) as source:
        data, masks = read(source.folder)
    assert data.classes == ("scratch",)
    assert np.array_equal(masks["frame_000000"]["scratch"], block(5, 10, 13, 14))
    assert presences(data, "scratch") == [True, None, None, True, True, True]
    assert np.array_equal(masks["frame_000005"]["scratch"], block(5, 10, 13, 18))


def test_frames_are_those_of_the_filter(tmp_path: Path) -> None:
    xml = video_xml(track("scratch", box(4), box(6, outside=1)), start_frame="2", stop_frame="9", frame_filter="step=2")
    with open_source(export(tmp_path / "export", xml, numbers=range(2, 10, 2))) as source:
        data = read(source.folder)[0]
    assert [*data.samples] == ["frame_000002", "frame_000004", "frame_000006", "frame_000008"]
    assert [sample.presence["scratch"] for sample in data.samples.values()] == [False, True, False, False]


@pytest.mark.parametrize("alone", [False, True])
def test_images_of_a_video_task_are_read_from_the_film(tmp_path: Path, alone: bool) -> None:
    """ "CVAT for images" of a video task names frames; without their pictures they are pages of the film."""
    shape = '<box label="dent" source="manual" occluded="0" xtl="10" ytl="5" xbr="22" ybr="13" z_order="0"></box>'
    film(tmp_path / "study.avi")
    xml = cvat_xml({"frame_000000": "", "frame_000004": shape})
    if alone:  # which of the files beside it is the video, only its name says
        film(tmp_path / "other.avi")
        xml = xml.replace("</task>", "<source>study.avi</source></task>")
    (tmp_path / "annotations.xml").write_text(xml)
    with open_source(tmp_path / "annotations.xml" if alone else tmp_path) as source:
        data, masks = read(source.folder)
        assert data.samples["frame_000004"].read_image().mean() == 80
    assert np.array_equal(masks["frame_000004"]["dent"], block(5, 10, 13, 22))


@pytest.mark.parametrize(
    ("xml", "files", "said"),
    [
        (video_xml(track("scratch", box(0))), [], r"numbers the frames of study\.avi, and neither pictures"),
        (video_xml(track("scratch", box(0))), ["one.png"], r"export \"CVAT for images 1\.1\" with images"),
        (
            video_xml(track("scratch", box(0), task=' task_id="1"'), track("dent", box(0), task=' task_id="2"')),
            ["frame_000000.PNG"],
            "the videos of several tasks",
        ),
        (video_xml(track("scratch", box(999_999)), stop_frame="999999999"), ["frame_000000.PNG"], "divide the task"),
        (video_xml(track("rust", box(0)), stop_frame="0"), ["frame_000000.PNG"], "'rust'"),
        (video_xml(track("scratch", box(0))), ["frame_000000.PNG"], "frame_000001"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, xml: str, files: list[str], said: str) -> None:
    for name in files:
        picture(tmp_path / "export" / "images" / name)
    with pytest.raises(DataError, match=said), open_source(export(tmp_path / "export", xml, numbers=range(0))):
        pass
