"""CVAT's video tasks: tracks through numbered frames, which are pictures of their own or pages of the film."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from backend.sources.conversion import Exported, LeftOut, Mask, Region
from backend.sources.cvat_shapes import is_background, regions, size_of
from backend.sources.finding import ImageFiles, subset_of
from models.data.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from models.errors import DataError

FRAME = re.compile(r"frame_(\d{6,})")
MAX_FRAMES = 200_000


class Film:
    """The frames of a task: pictures frame_000000.png ..., or without them the pages of a film.

    Attributes:
        title: of the task.
        file: the film; None where there are pictures of its frames, or no such film.
        frames: whether there are pictures or a film.
    """

    def __init__(self, root: Element, images: ImageFiles) -> None:
        meta = root.find("meta")
        self._meta = Element("meta") if meta is None else meta
        self.title = self._text("name") or "video"
        self.source = PurePosixPath(self._text("source").replace("\\", "/")).name
        first = f"frame_{self.numbers().start:06d}"
        pictures = any(FRAME.fullmatch(path.stem) for path in images.files if path.suffix.lower() in IMAGE_SUFFIXES)
        pictures = pictures or _find(images, first) is not None
        films = [path for path in images.files if _is_film(path)]
        named = _find(images, self.source)
        self.file = None if pictures else named or (films[0] if len(films) == 1 else None)
        self.frames = pictures or self.file is not None

    def page(self, name: str) -> int | None:
        """The page of the film that a frame is, after its name; None where it is a picture of its own."""
        match = FRAME.fullmatch(PurePosixPath(name.replace("\\", "/")).stem)
        return int(match[1]) if match and self.file is not None else None

    def numbers(self) -> range:
        """The numbers of the frames that were annotated, as far as the file says it."""
        start, stop = self._integer("start_frame", 0), self._integer("stop_frame", -1)
        step = re.search(r"step\s*=\s*(\d+)", self._text("frame_filter"))
        return range(start, stop + 1, max(int(step[1]) if step else 1, 1))

    def size(self) -> tuple[int, int] | None:
        """(H, W) of the frames, None where the file does not say it."""
        size = next(self._meta.iter("original_size"), Element("original_size"))
        return size_of({"height": size.findtext("height"), "width": size.findtext("width")})

    def _text(self, tag: str) -> str:
        found = next(self._meta.iter(tag), None)
        return "" if found is None else (found.text or "").strip()

    def _integer(self, tag: str, default: int) -> int:
        text = self._text(tag)
        return int(text) if re.fullmatch(r"\d{1,12}", text) else default


def _find(images: ImageFiles, name: str) -> Path | None:
    try:
        return images.find(name) if name else None
    except DataError:
        return None


def _is_film(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def tracked_frames(
    document: str, root: Element, film: Film, ignored: set[str], group: str | None
) -> Iterator[Exported | LeftOut]:
    """The frames of "CVAT for video 1.1", with what its tracks draw on each.

    A track draws nothing where it is outside. CVAT writes a shape for each frame of a track; on a frame without one,
    between two or after the last, the class is unknown.

    Args:
        document: name of the file, for people.
        root: of the file.
        film: where its frames are.
        ignored: labels that are not learnt.
        group: of all frames, None for unknown.

    Raises:
        DataError: there are no frames, or those of several tasks.
    """
    tracks = [track for track in root.iterfind("track") if track.get("label", "") not in ignored]
    if len({track.get("task_id") for track in root.iterfind("track")}) > 1:
        raise DataError(
            f"{document} has the videos of several tasks, whose frames have equal numbers; export each task"
        )
    if not film.frames:
        raise DataError(
            f"{document} numbers the frames of {film.source or 'a video'}, and neither pictures frame_000000.png ... "
            'nor the video are there; put the video beside it, or export "CVAT for images 1.1" with images'
        )
    shapes = _shapes_of_frames(tracks)
    if len(film.numbers()) > MAX_FRAMES or len(shapes) > MAX_FRAMES:
        raise DataError(f"{document} has more than {MAX_FRAMES} frames; divide the task")
    numbers = sorted({*film.numbers(), *shapes})
    gaps = _gaps(tracks, numbers)
    subset = subset_of(*{track.get("subset", "") for track in tracks})
    for index, frame in enumerate(numbers):
        unknown = [label for label, open_tracks in gaps.items() if open_tracks[index]]
        drawn = regions(shapes.get(frame, []))
        drawn += [Region(None if is_background(label) else label, _no_shape) for label in unknown]
        yield Exported(
            name := f"frame_{frame:06d}",
            drawn,
            film.size(),
            page=film.page(name) or 0,
            subset=subset,
            group=group,
            name=name,
            file=film.file,
        )


def _is_outside(shape: Element) -> bool:
    """Whether a track is not on the image: 1 of CVAT, true of other programs."""
    return shape.get("outside", "").strip().lower() in ("1", "true")


def _frame(shape: Element) -> int | None:
    text = shape.get("frame", "")
    return int(text) if re.fullmatch(r"\d{1,9}", text) else None


def _shapes_of_frames(tracks: list[Element]) -> dict[int, list[tuple[str, Element]]]:
    """Frame -> the shapes that are visible on it, with their labels."""
    shapes: dict[int, list[tuple[str, Element]]] = defaultdict(list)
    for track in tracks:
        for shape in track:
            frame = _frame(shape)
            if frame is not None and not _is_outside(shape):
                shapes[frame].append((track.get("label", ""), shape))
    return shapes


def _gaps(tracks: list[Element], numbers: list[int]) -> dict[str, NDArray[np.int64]]:
    """Label -> on each frame, how many tracks go on there without a shape; shape (frames,)."""
    steps: dict[str, NDArray[np.int64]] = defaultdict(lambda: np.zeros(len(numbers) + 1, dtype=np.int64))
    for track in tracks:
        label = track.get("label", "")
        rows = sorted((frame, _is_outside(shape)) for shape in track if (frame := _frame(shape)) is not None)
        if len(rows) < len(track):  # some shape does not say its frame, which may be any
            rows = [(-1, False)]
        ends = [frame for frame, _ in rows[1:]] + [numbers[-1] + 1]
        for (frame, outside), end in zip(rows, ends, strict=True):
            first, last = np.searchsorted(numbers, [frame + 1, end])
            if not outside and first < last:
                steps[label][first] += 1
                steps[label][last] -= 1
    return {label: np.cumsum(found[:-1]) for label, found in steps.items()}


def _no_shape(shape: tuple[int, int]) -> Mask:
    raise DataError("its track has no shape on this frame")
