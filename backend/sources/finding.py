"""The files of an export, and which of them an image's recorded path means.

Exports record paths of the machine, server or storage that the images came from. The images themselves lie in a folder
that somebody filled by hand. So a file is found by the end of its recorded path: the more folders agree, the better.
A path that two files fit equally well is refused, with the candidates; so are two paths that mean one file.
"""

import base64
import binascii
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from models.data.decoding import is_pipe
from models.data.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from models.data.names import composed, is_junk
from models.data.tables import SUBSETS
from models.errors import DataError

MAX_FILES = 500_000
URLS = ("http", "https", "file", "ftp")
ENDINGS = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
MAX_SHOWN = 300  # characters of an address that a message gives
UPLOAD_PREFIX = 8  # hexadecimal digits that Label Studio puts before the name of an upload

Tail = tuple[str, ...]


def readings(recorded: str) -> list[Tail]:
    """The parts of the path that a recorded address may mean, the literal meaning first.

    A storage key (s3://, gs://, azure-blob:// ...) has one meaning: #, ?, + and % belong to its name. A URL is
    percent-encoded and has a query. A plain path is taken as it is, and as a URL's if that leads nowhere.

    >>> readings("s3://bucket/run#3/scan%201.png")
    [('bucket', 'run#3', 'scan%201.png')]
    >>> readings("/data/local-files/?d=sub/a%20b.png")[0]
    ('sub', 'a b.png')
    """
    text = recorded.strip()
    scheme, separator, rest = text.partition("://")
    if separator and scheme.lower() not in URLS:
        return _unique([rest])
    parsed = _split(text)
    texts = [] if separator else [text]
    if parsed is not None:
        query = parse_qs(parsed.query.replace("+", "%2B"), errors="replace")
        if local := query.get("d"):
            raw = parsed.query.partition("d=")[2]
            texts = [local[0], raw, raw.replace("+", " ")]
        elif stored := query.get("fileuri"):
            return readings(_decoded(stored[0])) or _unique([text])
        else:
            path = parsed.path
            whole = path + (f"#{parsed.fragment}" if parsed.fragment else "")
            texts += [unquote(path), path, unquote(whole), whole, unquote(text), unquote(path.replace("+", " "))]
    return _unique([*texts, text])


def _split(text: str) -> SplitResult | None:
    try:
        return urlsplit(text)
    except ValueError:  # a square bracket where a host would be
        return None


def _decoded(text: str) -> str:
    """The storage address in a link that Label Studio made to it (`fileuri`)."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_").decode()
    except (binascii.Error, ValueError):
        return ""


def _unique(texts: Iterable[str]) -> list[Tail]:
    found: dict[Tail, None] = {}
    for text in texts:
        for written in (text, text.replace("\\", "/")):
            parts = tuple(part for part in PurePosixPath(written).parts if part not in ("/", "//", ".", ".."))
            if parts:
                found[parts] = None
    return list(found)


@dataclass(frozen=True, order=True)
class Match:
    """How well a file fits a recorded path.

    Attributes:
        parts: of the path that agree, from the end.
        in_subset: whether the file is in a folder that is named after the subset.
        whole: whether all of the file's own path below its folder agrees.
        complete: whether all of the recorded path does.
        literal: whether the first reading did, letter by letter.
        order: higher for a folder that is looked at earlier.
    """

    parts: int
    in_subset: bool
    whole: bool
    complete: bool
    literal: bool
    order: int


class ImageFiles:
    """The image files of an export.

    Args:
        folders: to look in, with all below them, in order of preference.
        aliases: other names of files: how else the names in an archive may be read.
        own: whether all files in the folders belong to the export, as in a folder of its own.

    Attributes:
        root: the last of the folders, which is the export's own.
        files: all files that belong to the export, of any kind, in order of their paths.

    Raises:
        DataError: there are more files than MAX_FILES.
    """

    def __init__(
        self, folders: Sequence[Path], aliases: Mapping[Path, Sequence[Path]] | None = None, *, own: bool = True
    ) -> None:
        self.folders = list(dict.fromkeys(folders))
        self.root = self.folders[-1]
        self._by_name: dict[str, list[tuple[Tail, Path, int]]] = defaultdict(list)
        self._others: dict[str, Path] = {}  # name -> file of a kind that is not read
        found: dict[Path, None] = {}
        for order, folder in enumerate(self.folders):
            for path in files_below(folder):
                found[path] = None
                if path.suffix.lower() not in ENDINGS:
                    self._others[_folded(path.name)] = path
                    continue
                for name in (path, *(aliases or {}).get(path, ())):
                    parts = name.relative_to(folder).parts
                    self._by_name[_folded(parts[-1])].append((parts, path, order))
        self.files = sorted(found) if own else []

    def name(self, file: Path) -> str:
        """A file's path inside the export or the folder of images, for people."""
        for folder in (self.root, *self.folders):
            if file.is_relative_to(folder):
                return str(file.relative_to(folder))
        return str(file)

    def short_name(self, file: Path) -> str:
        """A file's path below the nearest of the folders, without its ending."""
        below = [file.relative_to(folder) for folder in self.folders if file.is_relative_to(folder)]
        return str(min(below, key=lambda path: len(path.parts), default=file).with_suffix(""))

    def find(self, recorded: str, *, subset: str = "") -> Path:
        """The file that a recorded path means.

        Args:
            recorded: path, URL or storage key, as it stands in the export.
            subset: folder that is preferred where the path does not decide.

        Raises:
            DataError: there is none, or several fit equally well; the text names them.
        """
        return self.match(recorded, subset=subset)[1]

    def match(self, recorded: str, *, subset: str = "") -> tuple[Match, Path]:
        """The file as `find` gives it, and how well it fits."""
        best = self.fitting(recorded, subset=subset)
        if not best:
            for tail in readings(recorded):
                if other := self._others.get(_folded(tail[-1])):
                    raise DataError(f"{self.name(other)} has none of the endings of images that are read; convert it")
            looked = ", ".join(map(str, self.folders))
            raise DataError(
                f"{brief_text((readings(recorded) or [('it',)])[0][-1])} is not in {looked}; "
                "export with images, or name their folder with --images"
            )
        chosen = sorted(best)
        if len(chosen) > 1:
            named = ", ".join(str(path) for path in chosen[:4])
            raise DataError(
                f"{brief_text(recorded)} may be each of {len(chosen)} files ({named}); "
                "put the folders as the export has them"
            )
        return best[chosen[0]], chosen[0]

    def fitting(self, recorded: str, *, subset: str = "") -> dict[Path, Match]:
        """The files that a recorded path may mean, all of those that fit it best."""
        best: dict[Path, Match] = {}
        for number, tail in enumerate(readings(recorded)):
            for path, fit in self._candidates(tail, subset, literal=number == 0):
                best[path] = max(best.get(path, fit), fit)
        top = max(best.values(), default=None)
        return {path: fit for path, fit in best.items() if fit == top}

    def assign(self, recorded: Iterable[str]) -> dict[str, Path | DataError]:
        """The file of each of several paths; of two that mean one file, that which it fits better has it."""
        result: dict[str, Path | DataError] = {}
        claims: dict[Path, dict[str, Match]] = defaultdict(dict)
        for path in dict.fromkeys(recorded):
            try:
                fit, file = self.match(path)
                claims[file][path] = fit
            except DataError as error:
                result[path] = error
        for file, fits in claims.items():
            best = max(fits.values())
            owners = [path for path, fit in fits.items() if fit == best]
            sole = len({readings(path)[0] for path in owners}) == 1
            for path in fits:
                others = [other for other in owners if other != path]
                result[path] = (
                    file
                    if sole and path in owners
                    else DataError(
                        f"{brief_text(path)} is not there, only {self.name(file)}, which may be "
                        f"{', '.join(map(brief_text, others[:4]))}"
                    )
                )
        return result

    def _candidates(self, tail: Tail, subset: str, *, literal: bool) -> Iterable[tuple[Path, Match]]:
        last = tail[-1]
        names = [last, *(last + ending for ending in ENDINGS if not last.lower().endswith(ENDINGS))]
        prefix, dash, original = last.partition("-")
        if dash and len(prefix) == UPLOAD_PREFIX and all(letter in "0123456789abcdef" for letter in prefix):
            names.append(original)
        for name in names:
            wanted = (*tail[:-1], name)
            for parts, path, order in self._by_name.get(_folded(name), ()):
                agreed = agreeing(wanted, parts)
                in_subset = bool(subset) and subset in (subset_of(part) for part in parts[:-1])
                exact = literal and name == last and parts[len(parts) - agreed :] == wanted[len(wanted) - agreed :]
                yield path, Match(agreed, in_subset, agreed == len(parts), agreed == len(wanted), exact, -order)


def brief_text(address: str) -> str:
    """An address for people, but not a megabyte of an image that is written into it."""
    return address if len(address) <= MAX_SHOWN else f"{address[:MAX_SHOWN]}…"


def subset_of(*texts: str) -> str:
    """The part of the data that the first of these names of files or folders has a word for; "" for none.

    >>> [subset_of(text) for text in ("instances_train2017", "valid", "test-dev", "latest", "trained")]
    ['train', 'val', 'test', '', '']
    """
    for text in texts:
        for word in re.findall("[a-z]+", text.lower()):
            if word in SUBSETS:
                return SUBSETS[word]
    return ""


def files_below(folder: Path) -> list[Path]:
    """All files below a folder but those that operating systems leave there, in order; links are followed once.

    Raises:
        DataError: there are more than MAX_FILES, or a folder among them cannot be listed.
    """

    def refuse(error: OSError) -> None:
        # What lies in it would seem not to be there: texts, of which an image without one shows nothing.
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise DataError(f"{error.filename} cannot be listed: {error.strerror}") from error

    found: list[Path] = []
    seen: set[str] = set()
    for where, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_junk(Path(name)))
        found += [file for name in sorted(names) if not is_junk(Path(name)) and not is_pipe(file := Path(where, name))]
        if len(found) > MAX_FILES:
            raise DataError(f"{folder} has more than {MAX_FILES} files; name a folder with the export alone")
    return found


def agreeing(wanted: Tail, parts: Tail) -> int:
    """How many parts agree from the end in any case and Unicode form."""
    count = 0
    for one, other in zip(reversed(wanted), reversed(parts), strict=False):
        if _folded(one) != _folded(other):
            break
        count += 1
    return count


def _folded(name: str) -> str:
    return composed(name).casefold()
