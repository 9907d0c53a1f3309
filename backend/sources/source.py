"""Data folders and exports of annotation tools, each opened as a data folder."""

import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException  # type: ignore[import-untyped]
from defusedxml.ElementTree import parse  # type: ignore[import-untyped]

from backend.sources.archive import unpack
from backend.sources.coco import convert_coco, is_coco
from backend.sources.conversion import Conversion, ImageFiles
from backend.sources.cvat import convert_cvat, is_cvat
from backend.sources.label_studio import convert_label_studio, is_label_studio
from models.errors import DataError


@dataclass(frozen=True)
class Format:
    """A kind of export.

    Attributes:
        name: for people.
        matches: whether the content of a JSON or XML file is of this kind.
        convert: writes such files (path -> content), with the images among these, as a data folder.
    """

    name: str
    matches: Callable[[Any], bool]
    convert: Callable[[Mapping[Path, Any], ImageFiles, Path], Conversion]


FORMATS = (
    Format('"CVAT for images 1.1"', is_cvat, convert_cvat),
    Format("COCO instances", is_coco, convert_coco),
    Format("Label Studio's JSON", is_label_studio, convert_label_studio),
)


@dataclass(frozen=True)
class Source:
    """Something to train on, opened.

    Attributes:
        folder: the data folder.
        notes: sentences about what was converted, and how.
    """

    folder: Path
    notes: list[str]


@contextmanager
def open_source(path: Path, *, images: Path | None = None, skip_bad: bool = False) -> Iterator[Source]:
    """Open a data folder, or an export as one that is deleted afterwards.

    Args:
        path: a data folder; or an export in one of `FORMATS`: a file, a zip of its files, or such a zip's folder.
        images: where an export's images are, if not beside it.
        skip_bad: leave out images of the export that are missing or inconsistent; `skipped.json` in the folder names
            them.

    Raises:
        DataError: it is nothing of the kind, or inconsistent; the text names the file.
    """
    if (path / "classes.txt").exists():
        if images is not None:
            raise DataError(f"{path} is a data folder and has its own images; leave --images out")
        yield Source(path, [])
        return
    with tempfile.TemporaryDirectory(prefix="premask-") as temporary:
        root = path
        if zipfile.is_zipfile(path):
            root = Path(temporary) / "export"
            root.mkdir()
            unpack(path, root)
        elif path.suffix.lower() == ".zip":
            raise DataError(f"{path} is no zip file, or a damaged one; export it again")
        files = [file for depth in ("*", "*/*") for file in sorted(root.glob(depth))] if root.is_dir() else [path]
        contents = {file: _content(file) for file in files if file.suffix.lower() in (".json", ".xml")}
        kind, found = _format(path, contents)
        beside = root if root.is_dir() else path.parent
        folders = [images] if images else [beside / "images", beside]
        folder = Path(temporary) / "data"
        try:
            result = kind.convert(found, ImageFiles(folders), folder)
        except DataError as error:
            raise DataError(f"{path}, taken for {kind.name}: {error}") from error
        if result.skipped and not skip_bad:
            first, more = next(iter(result.skipped.values())), len(result.skipped) - 1
            others = f" (and {more} more)" if more else ""
            raise DataError(f"{path}: {first}{others}; correct it, or go on without it with --skip-bad")
        if not result.used:
            raise DataError(f"{path} holds no image that can be used")
        if result.skipped:
            (folder / "skipped.json").write_text(json.dumps(result.skipped), encoding="utf-8")
        yield Source(folder, [f"{path} is read as {kind.name}: {result.used} images", *result.notes])


def _format(path: Path, contents: Mapping[Path, Any]) -> tuple[Format, dict[Path, Any]]:
    for kind in FORMATS:
        if found := {file: content for file, content in contents.items() if kind.matches(content)}:
            return kind, found
    known = ", ".join(kind.name for kind in FORMATS)
    raise DataError(f"{path} is neither a data folder (with classes.txt) nor an export of a known kind: {known}")


def _content(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes()) if path.suffix.lower() == ".json" else parse(path).getroot()
    except DefusedXmlException as error:
        raise DataError(f"{path} is refused: {error}") from error
    except (ValueError, ParseError, RecursionError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}; export it again") from error
