"""JSON and XML files of other people, read within budgets that are checked before anything is built from them."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from defusedxml import DefusedXmlException  # type: ignore[import-untyped]
from defusedxml.ElementTree import DefusedXMLParser  # type: ignore[import-untyped]

from models.data.text import decode_text
from models.errors import DataError

MAX_BYTES = 512 << 20
MAX_TEXT_BYTES = 1 << 20
MAX_LINE = 1 << 16
MAX_CONTAINERS = 20_000_000  # lists and objects of a JSON file; elements of an XML file
MAX_VALUES = 150_000_000
MAX_DEPTH = 100  # of elements within elements
# Half of a pair of code units, escaped, without the other half: no text, and no name that a file could have.
HALF = re.compile(rb"(\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def read_document(path: Path) -> Any:
    """Parsed JSON, the root of XML, the first line of a table, or the text of another file.

    Raises:
        DataError: as `read_json`, `read_xml` and `read_text`.
    """
    match path.suffix.lower():
        case ".json":
            return read_json(path)
        case ".xml":
            return read_xml(path)
        case ".csv" | ".tsv":
            return _first_line(path)
        case _:
            return read_text(path)


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises DataError where it is damaged, or larger than the budgets."""
    data = _read(path, MAX_BYTES)
    if data.count(b"[") + data.count(b"{") > MAX_CONTAINERS or data.count(b",") > MAX_VALUES:
        raise DataError(f"{path} has more than {MAX_CONTAINERS} lists or {MAX_VALUES} values; divide it")
    if b"\\ud" in data or b"\\uD" in data:
        data = HALF.sub(lambda match: match[1] or rb"\ufffd", data)
    try:
        return json.loads(data)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} cannot be read: it is no text in UTF-8, from byte {error.start} on; save it so"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}; export it again") from error


def read_xml(path: Path) -> Element:
    """The root of an XML file.

    Raises:
        DataError: it is damaged, has entities, or is larger than the budgets.
    """
    _check_size(path, MAX_BYTES)
    parser = DefusedXMLParser(target=_Bounded(path))
    try:
        with path.open("rb") as file:
            while data := file.read(1 << 20):
                parser.feed(data)
        root: Element = parser.close()
    except DefusedXmlException as error:
        raise DataError(f"{path} is refused: {error}") from error
    except ParseError as error:
        raise DataError(f"{path} cannot be read: {error}; export it again") from error
    except (ValueError, LookupError) as error:  # of the encoding that it names
        raise DataError(f"{path} cannot be read: {error}; save it in UTF-8, and name that in its first line") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return root


def read_text(path: Path) -> str:
    """The content of a short text file. Raises DataError where it is not short, or of an unknown encoding."""
    try:
        return decode_text(_read(path, MAX_TEXT_BYTES))
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _first_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return decode_text(file.read(MAX_LINE), "replace").partition("\n")[0]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


class _Bounded(TreeBuilder):
    """Builds the tree of an XML file up to the budgets."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path, self._depth, self._count = path, 0, 0

    def start(self, tag: Any, attrs: Any, /) -> Element:
        """Open an element."""
        self._depth += 1
        self._count += 1
        if self._depth > MAX_DEPTH or self._count > MAX_CONTAINERS:
            raise DataError(f"{self._path} has more than {MAX_CONTAINERS} elements, or {MAX_DEPTH} within each other")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> Element:
        """Close an element."""
        self._depth -= 1
        return super().end(tag)


def _read(path: Path, most: int) -> bytes:
    _check_size(path, most)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _check_size(path: Path, most: int) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if size > most:
        raise DataError(f"{path} has {size / 1e6:.0f} MB, at most {most >> 20} MiB are taken; divide it")
