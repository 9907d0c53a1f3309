"""Names in a data folder: files of any name that are none of people's, and originals behind running names.

names.json (optional): {"classes": {FOLDER: LABEL}, "images": {NAME: {"name": ..., "source": ..., "page": 0}}}

A folder that premask writes has the files images/image-000001.png and masks/class-1/image-000001.png, and the same
names in its tables, because a label or an image's name may be anything: longer than a file's name, with slashes, or
equal to another but for its Unicode form. Everything that is read from such a folder has the originals.
"""

import json
import unicodedata
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import quote

from models.errors import DataError

NAMES = "names.json"
MAX_BYTES = 180  # of a name that is made here; file systems take 255 with all endings
# Files that operating systems, network drives and notebooks leave in any folder. Names that begin with a dot are hidden
# files, among them ._NAME, in which macOS keeps what a foreign file system cannot.
JUNK = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir"),
    *("$recycle.bin", "system volume information", "lost+found"),
}


@dataclass(frozen=True)
class Original:
    """An image whose files have a running name.

    Attributes:
        name: for people, of any text.
        source: where it comes from: a path in an export, the address in a task.
        page: of that source, from 0.
        file_page: of the file in the folder, which is 0 where the page was written as a file of its own.
    """

    name: str
    source: str = ""
    page: int = 0
    file_page: int = 0


@dataclass(frozen=True)
class Names:
    """The originals of a data folder's names.

    Attributes:
        classes: folder of masks -> label.
        images: name of files, without ending -> original.
    """

    classes: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, Original] = field(default_factory=dict)

    def write(self, root: Path) -> None:
        """Write names.json into a folder."""
        images = {key: asdict(original) for key, original in self.images.items()}
        text = json.dumps({"classes": dict(self.classes), "images": images}, indent=0)
        (root / NAMES).write_text(text, encoding="utf-8")


def read_names(root: Path) -> Names:
    """The originals from names.json of a data folder, none without it.

    Raises:
        DataError: the file is not of that form, or gives two images or two classes one name.
    """
    path = root / NAMES
    if not path.is_file():
        return Names()
    try:
        content = json.loads(path.read_bytes())
        classes = {str(key): str(label) for key, label in content.get("classes", {}).items()}
        images = {
            str(key): Original(
                str(one["name"]), str(one.get("source", "")), int(one.get("page", 0)), int(one.get("file_page", 0))
            )
            for key, one in content.get("images", {}).items()
        }
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f'{path} must hold {{"classes": {{FOLDER: LABEL}}, "images": {{NAME: {{"name": NAME}}}}}}: {error!r}'
        ) from error
    for names in (list(classes.values()), [original.name for original in images.values()]):
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{path} gives the name {twice!r} twice; each needs its own")
    return Names(classes, images)


def is_junk(path: Path) -> bool:
    """Whether a file, by its path inside a folder, was left there by an operating system and is nobody's data.

    >>> [is_junk(Path(path)) for path in ("__MACOSX/a.png", "images/._a.png", "Thumbs.db", "images/a.png")]
    [True, True, True, False]
    """
    return any(part.startswith(".") or part.casefold() in JUNK for part in path.parts)


def composed(text: str) -> str:
    """A name in Unicode's composed form (NFC): macOS decomposes the names of files, other systems do not."""
    return unicodedata.normalize("NFC", text)


def plain_label(text: str) -> str:
    """A label in Unicode's composed form, without spaces around it and with single ones within.

    >>> plain_label("  lipid\\u00a0 core ")
    'lipid core'
    """
    return " ".join(composed(text).split())


class Known:
    """Finds names in tables among those of files, in either Unicode form.

    Args:
        names: of files.
        others: how else people write some of them.

    >>> Known(["cafe"])("cafe"), Known(["caf\\u00e9"])("cafe\\u0301"), Known(["a"])("b")
    ('cafe', 'café', 'b')
    """

    def __init__(self, names: Iterable[str], others: Mapping[str, str] | None = None) -> None:
        self._names = set(names)
        self._composed = {composed(other): name for other, name in (others or {}).items()}
        self._composed |= {composed(name): name for name in sorted(self._names)}

    def __call__(self, name: str) -> str:
        """The name of a file that is meant, or `name` itself where there is none."""
        return name if name in self._names else self._composed.get(composed(name), name)


def page_name(name: str, page: int) -> str:
    """Name of one page of a file of several.

    >>> page_name("stack", 0)
    'stack-page-1'
    """
    return f"{name}-page-{page + 1}"


def file_name(text: str) -> str:
    """A name for a file or folder after any text: itself where file systems take it, else with %XX, and shortened.

    >>> [file_name(text) for text in ("Lumen", "a/b", "..", "x y")]
    ['Lumen', 'a%2Fb', '%2E.', 'x y']
    """
    unsafe = {sign: quote(sign, safe="") for sign in '/\\:*?"<>|' + "".join(map(chr, (*range(32), 127)))}
    name = "".join(unsafe.get(sign, sign) for sign in text)
    name = f"%2E{name[1:]}" if name.startswith(".") else name or "%"
    encoded = name.encode(errors="replace")
    if len(encoded) <= MAX_BYTES:
        return encoded.decode()
    return f"{encoded[:MAX_BYTES].decode(errors='ignore')}-{zlib.crc32(encoded):08x}"
