"""Where frames go: into a Label Studio project, into a folder that a storage of it serves, or both."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from backend.errors import ConfigError, PullbackError
from backend.label_studio.client import LabelStudio
from backend.label_studio.label_config import parse_label_config
from backend.system.files import write_json

IMAGE_KEY = "image"  # where no project says another
TASKS = "tasks.json"
FRAMES_AT_ONCE = 20  # of an upload: Label Studio takes 100 files and 250 MB in a request
BYTES_AT_ONCE = 32 << 20
FILES_AT_ONCE = 200  # of a folder: its tasks.json is written anew after each

Key = tuple[str, int]


@dataclass(frozen=True)
class Frame:
    """A frame that is ready to go.

    Attributes:
        key: series and number.
        name: of its file, without a folder.
        png: the file's content.
        data: of its task, but for the image.
    """

    key: Key
    name: str
    png: bytes
    data: dict[str, Any]


class Destination:
    """Takes frames in batches and knows which it has.

    Args:
        client: of the Label Studio with the project, if the tasks are to be created there.
        project: its id.
        folder: where to write the images; None uploads them.

    Raises:
        LabelStudioError: the project cannot be read.
        PullbackError: the folder's tasks.json is damaged.
    """

    def __init__(self, client: LabelStudio | None, project: int | None, folder: Path | None) -> None:
        self._client, self._project, self._folder = client, project, folder
        self._key, self._listed = IMAGE_KEY, False
        self.notes: list[str] = []
        if client is not None and project is not None:
            try:
                config = parse_label_config(str(client.project(project).get("label_config") or ""))
                self._key = config.image_key
                self._listed = config.shows_list(self._key)
            except ConfigError as error:
                self.notes.append(f"tasks get their image under {self._key!r}, since {error}")
        self._tasks = _read_tasks(folder / TASKS) if folder is not None else {}
        self._waiting: list[Frame] = []

    def present(self) -> set[Key]:
        """Series and number of every frame that is there already.

        Raises:
            LabelStudioError: Label Studio does not answer.
        """
        if self._client is None or self._project is None:
            return set(self._tasks)
        keys = (_key_of(row.data) for row in self._client.task_rows(self._project))
        return {key for key in keys if key is not None}

    def add(self, frame: Frame) -> int:
        """Take a frame; it is sent with others, in the order of the calls.

        Returns:
            How many frames were sent by this call.

        Raises:
            LabelStudioError: Label Studio refuses.
            OSError: the folder cannot be written to.
        """
        self._waiting.append(frame)
        most = FRAMES_AT_ONCE if self._folder is None else FILES_AT_ONCE
        full = len(self._waiting) >= most or sum(len(one.png) for one in self._waiting) >= BYTES_AT_ONCE
        return self.flush() if full else 0

    def flush(self) -> int:
        """Send what waits; returns and raises as `add`."""
        frames, self._waiting = self._waiting, []
        if not frames:
            return 0
        addresses = self._written(frames) if self._folder is not None else self._uploaded(frames)
        values: list[str | list[str]] = [[address] for address in addresses] if self._listed else list(addresses)
        tasks = [{self._key: value, **frame.data} for frame, value in zip(frames, values, strict=True)]
        if self._folder is not None:
            self._tasks.update({frame.key: task for frame, task in zip(frames, tasks, strict=True)})
            self._write_tasks(self._folder / TASKS)
        if self._client is not None and self._project is not None:
            self._client.create_tasks(self._project, tasks)
        return len(frames)

    def _uploaded(self, frames: Sequence[Frame]) -> list[str]:
        if self._client is None or self._project is None:
            raise PullbackError("frames go into a project or a folder; name one of them")
        return self._client.upload(self._project, {frame.name: frame.png for frame in frames})

    def _written(self, frames: Sequence[Frame]) -> list[str]:
        """Write the images; their addresses are for a Local Files storage below the folder's parent."""
        folder = Path(str(self._folder))
        addresses = []
        for frame in frames:
            path = folder / frame.name
            partial = path.with_suffix(".partial")
            partial.write_bytes(frame.png)
            partial.replace(path)
            addresses.append(f"/data/local-files/?d={quote(f'{folder.name}/{frame.name}')}")
        return addresses

    def _write_tasks(self, path: Path) -> None:
        order = {series: number for number, (series, _) in enumerate(reversed(self._tasks))}
        keys = sorted(self._tasks, key=lambda key: (-order[key[0]], key[1]))
        write_json(path, [{"data": self._tasks[key]} for key in keys])


def _read_tasks(path: Path) -> dict[Key, dict[str, Any]]:
    if not path.exists():
        return {}
    try:
        data = [task["data"] for task in json.loads(path.read_text(encoding="utf-8"))]
        return {key: one for one in data if (key := _key_of(one)) is not None}
    except (ValueError, KeyError, TypeError) as error:
        raise PullbackError(f"{path} is no list of tasks: {error}; move it away, or name another folder") from error


def _key_of(data: Any) -> Key | None:
    """Series and number of a task; None for one that was not imported."""
    try:
        return str(data["series"]), int(data["frame"])
    except (KeyError, TypeError, ValueError):
        return None
