"""Which pullbacks a list of files and folders holds, and in which order their frames come."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from backend.errors import PullbackError
from backend.pullbacks.dicom import MAX_FRAMES, ULTRASOUND, Header, read_header
from models.data.files import VIDEO_SUFFIXES, open_image
from models.errors import DataError

MAX_FILES = 100_000
MAX_FILE_BYTES = 4 << 30  # a DICOM file is read as a whole
JUNK = {"thumbs.db", "desktop.ini", "dicomdir", "__macosx", "lockfile"}
DIGITS = re.compile(r"(\d+)")
CHUNK = 1 << 20


@dataclass(frozen=True)
class Source:
    """Where a frame comes from.

    Attributes:
        path: the file.
        page: within the file, from 0.
        header: the file's tags, if it is DICOM.
        sha256: of a film or stack, "" of anything else.
    """

    path: Path
    page: int
    header: Header | None = None
    sha256: str = ""


@dataclass(frozen=True)
class Pullback:
    """Frames that belong together, in order.

    Attributes:
        identity: the same each time this pullback is found; never shown.
        patient: the patient as the files state it, else "".
        title: file or folder name without suffix, for people.
        frames: at least one.
    """

    identity: str
    patient: str
    title: str
    frames: tuple[Source, ...]

    @property
    def header(self) -> Header | None:
        """Tags of the first file, if it is DICOM."""
        return self.frames[0].header

    @property
    def is_film(self) -> bool:
        """Whether it comes from a film, as consoles export what their screen shows."""
        return self.frames[0].path.suffix.lower() in VIDEO_SUFFIXES

    @property
    def may_show_text(self) -> bool:
        """Whether names may be burnt into the pixels: the file says so, or it is of a kind that often has them."""
        if self.header is None:
            return self.is_film
        stated = self.header.burned_in
        return stated == "YES" or (stated != "NO" and self.header.modality in ULTRASOUND)


@dataclass
class Found:
    """What a list of files and folders holds.

    Attributes:
        pullbacks: in the order in which they were met.
        left_out: file -> why it is left out, a sentence.
    """

    pullbacks: list[Pullback] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def find_pullbacks(paths: Iterable[Path]) -> Found:
    """Look into files and folders, and folders below them.

    DICOM files of one frame belong together by Series Instance UID, in the order of Instance Number. A DICOM file of
    several frames, a film, a stack and an animation are pullbacks of their own; parts of a concatenation are joined.
    Other images belong together by folder, in the natural order of their names.

    Raises:
        PullbackError: there are too many files or frames.
    """
    found = Found()
    series: dict[tuple[str, ...], list[tuple[Path, Header]]] = {}
    folders: dict[Path, list[Path]] = {}
    order: list[tuple[str, ...] | Path | Pullback] = []  # groups, as their first file was met
    instances: set[str] = set()  # UIDs of DICOM files, hashes of others
    for path in _files(paths):
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ValueError(f"it is larger than {MAX_FILE_BYTES >> 30} GiB")
            header = read_header(path)
            if header is None:
                with open_image(path) as pages:
                    count = len(pages)
        except (OSError, ValueError, DataError) as error:
            found.left_out[str(path)] = str(error).removeprefix(f"{path} cannot be read as an image: ")
            continue
        if header is None and count == 1 and path.suffix.lower() not in VIDEO_SUFFIXES:
            if path.parent not in folders:
                order.append(path.parent)
            folders.setdefault(path.parent, []).append(path)
        elif header is None:
            digest = _digest(path)
            if digest in instances:
                found.left_out[str(path)] = "another file has the same content"
                continue
            instances.add(digest)
            sources = tuple(Source(path, page, sha256=digest) for page in range(count))
            order.append(Pullback(f"file {digest}", "", path.stem, sources))
        elif not header.frames:
            found.left_out[str(path)] = "it is a DICOM file without pixels"
        elif header.sop_instance and header.sop_instance in instances:
            found.left_out[str(path)] = "another file holds the same DICOM instance"
        else:
            instances.add(header.sop_instance)
            key = _series_key(path, header)
            if key not in series:
                order.append(key)
            series.setdefault(key, []).append((path, header))
    for group in order:
        if isinstance(group, Pullback):
            found.pullbacks.append(group)
        elif isinstance(group, Path):
            found.pullbacks.append(_of_folder(group, folders[group]))
        else:
            found.pullbacks.append(_of_series(group, series[group]))
    frames = sum(len(pullback.frames) for pullback in found.pullbacks)
    if frames > MAX_FRAMES:
        raise PullbackError(f"they hold {frames} frames, at most {MAX_FRAMES} are taken at once; import them in parts")
    return found


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    """Every file, once, the folders' in natural order."""
    seen: set[Path] = set()
    for given in paths:
        for path in _below(given) if given.is_dir() else (given,):
            whole = path.resolve()
            if whole not in seen:
                seen.add(whole)
                if len(seen) > MAX_FILES:
                    raise PullbackError(f"there are more than {MAX_FILES} files; import them in parts")
                yield whole


def _below(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted((name for name in folders if not _is_junk(name)), key=natural)
        yield from (Path(root, name) for name in sorted(files, key=natural) if not _is_junk(name))


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in JUNK


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key by which frame2 comes before frame10.

    >>> sorted(["frame10", "frame2", "frame2a"], key=natural)
    ['frame2', 'frame2a', 'frame10']
    """
    parts = DIGITS.split(name.casefold())
    return [(int(part), "") if index % 2 else (0, part) for index, part in enumerate(parts)]


def _series_key(path: Path, header: Header) -> tuple[str, ...]:
    series = header.series or f"folder {path.parent}"
    if header.concatenation:
        return (series, header.concatenation)
    return (series, header.sop_instance or str(path)) if header.frames > 1 else (series,)


def _of_series(key: tuple[str, ...], files: list[tuple[Path, Header]]) -> Pullback:
    files.sort(key=lambda one: (one[1].order, natural(one[0].name)))
    sources = tuple(Source(path, page, header) for path, header in files for page in range(header.frames))
    path, header = files[0]
    title = path.stem if len(files) == 1 else path.parent.name
    return Pullback(f"dicom {' '.join(key)}", header.patient, title, sources)


def _of_folder(folder: Path, files: list[Path]) -> Pullback:
    files.sort(key=lambda path: natural(path.name))
    return Pullback(f"folder {folder}", "", folder.name, tuple(Source(path, 0) for path in files))


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
