"""Where imported frames come from: a file for each series in the data folder, never in Label Studio.

An export as DICOM needs it, and it tells a pullback from another one that was given the same name.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backend.errors import PullbackError
from backend.pullbacks.find import Source
from backend.system.files import write_json


@dataclass(frozen=True)
class Origin:
    """Where the frame of a task comes from.

    Attributes:
        file: absolute path of the file at the time of the import.
        page: within the file, from 1: the frame number of DICOM.
        sha256: of a film or stack, "" of anything else.
        sop_class_uid: "" where the file is not DICOM.
        sop_instance_uid: "" where the file is not DICOM.
        scan_converted: the task shows a cross-section, the file A-lines: their pixels do not correspond.
    """

    file: str
    page: int
    sha256: str = ""
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    scan_converted: bool = False

    @classmethod
    def of(cls, source: Source) -> "Origin":
        """The origin of a frame that is being imported."""
        if source.header is None:
            return cls(str(source.path), source.page + 1, source.sha256)
        return cls(
            str(source.path),
            source.page + 1,
            sop_class_uid=source.header.sop_class,
            sop_instance_uid=source.header.sop_instance,
            scan_converted=bool(source.header.scans),
        )

    @property
    def content(self) -> tuple[str, int]:
        """What stays the same when files are moved: DICOM's UID, the hash, else the file's name; and the page."""
        return self.sop_instance_uid or self.sha256 or Path(self.file).name, self.page


def read_origins(folder: Path, series: str) -> dict[int, Origin]:
    """Origins of the frames of a series by their number, `frame` of the task's data; none if it was not imported here.

    Args:
        folder: `pullbacks` of the data folder.
        series: `series` of the task's data.

    Raises:
        PullbackError: the file is damaged.
    """
    path = _path(folder, series)
    if not path.is_file():
        return {}
    try:
        recorded: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["frames"]
        return {int(number): Origin(**fields) for number, fields in recorded.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise PullbackError(f"{path} is damaged: {error}; delete it, and import that pullback again") from error


def record_origins(folder: Path, series: str, sources: Sequence[Source]) -> None:
    """Keep the origins of a series.

    Args:
        folder: `pullbacks` of the data folder.
        series: its name in the tasks' data.
        sources: of all its frames, in order.

    Raises:
        PullbackError: the name is another pullback's, or frames have come between those that were imported.
    """
    origins = {number: Origin.of(source) for number, source in enumerate(sources, 1)}
    before = read_origins(folder, series)
    for number, origin in before.items():
        if number not in origins or origins[number].content != origin.content:
            now = origins[number].file if number in origins else "missing"
            raise PullbackError(
                f"frame {number} of series {series!r} was {origin.file} and is {now}: it is another pullback, or its "
                "files have changed; give it a new name by --series"
            )
    if before != origins:
        frames = {str(number): asdict(origin) for number, origin in origins.items()}
        write_json(_path(folder, series), {"series": series, "frames": frames}, mode=0o600)


def same_pullback(folder: Path, series: str, sources: Sequence[Source]) -> bool:
    """Whether a series was imported before, and from these frames; takes what `record_origins` does."""
    before = read_origins(folder, series)
    return 1 in before and before[1].content == Origin.of(sources[0]).content


def _path(folder: Path, series: str) -> Path:
    return folder / f"{hashlib.sha256(series.encode()).hexdigest()[:20]}.json"
