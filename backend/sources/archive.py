"""Unpacking archives that others have sent, and packed again by hand."""

import lzma
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from backend.sources.conversion import LeftOut
from models.data.names import is_junk
from models.errors import DataError

MAX_FILES = 200_000
# Pictures do not shrink; annotations shrink tenfold or so. An archive that grows more than this, past a size that
# every machine can hold, was made to fill the disk.
MAX_GROWTH, HARMLESS = 100, 1 << 30
MAX_NAME = 200  # bytes that file systems take, with room for an ending
CYRILLIC = re.compile("(?<![a-z])[а-яё]{2,}(?![a-z])")  # a word of such letters alone
UTF8_FLAG = 1 << 11
MAX_OUTER = 10  # folders around the data
OWN_FOLDERS = ("images", "masks", "annotations")  # which belong to the data
# Stands in a file that could not be unpacked. Every reader refuses it: without the file, a mask or a text would seem
# never to have been there, which says that nothing is on its image.
UNREADABLE = b"\xff"
# Of a member, or of the whole archive: it is damaged, or of a kind that is not read.
# What the readers of archives raise on damaged ones; ValueError: a name that is no text.
DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError,
    OSError, RuntimeError, ValueError,
)  # fmt: skip


@dataclass
class Unpacked:
    """What came out of an archive.

    Attributes:
        left_out: members that were not unpacked, but for those of operating systems.
        aliases: file -> how else its name may be read, where the archive does not say how it was written.
    """

    left_out: list[LeftOut] = field(default_factory=list)
    aliases: dict[Path, list[Path]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Member:
    """A file in an archive: its name and other readings of it, its size, and what opens it."""

    name: str
    others: tuple[str, ...]
    size: int
    link: bool
    open: Callable[[], IO[bytes] | None]


def is_archive(path: Path) -> bool:
    """Whether a file is a zip, or a tar file, packed or not."""
    return path.is_file() and (zipfile.is_zipfile(path) or (_is_tar_name(path) and tarfile.is_tarfile(path)))


def looks_like_archive(path: Path) -> bool:
    """Whether a file has the name of an archive, also of a kind that is not unpacked; a volume is none."""
    name = path.name.lower()
    return name.endswith((".zip", ".7z", ".rar", ".gz", ".bz2", ".xz", ".zst", ".tgz", ".tbz2", ".txz", ".tar")) and (
        not name.endswith(".nii.gz")
    )


def _is_tar_name(path: Path) -> bool:
    return bool(re.search(r"\.(tar(\.(gz|bz2|xz))?|tgz|tbz2|txz)$", path.name.lower()))


def unpack(path: Path, out: Path) -> Unpacked:
    """Unpack a zip or tar file into a folder. A member that cannot be read ends nothing; links are not unpacked.

    A file with an ending that is not unpacked holds UNREADABLE.

    Raises:
        DataError: it is damaged as a whole, encrypted, would fill the disk, or has a file that would land outside of
            `out`.
    """
    try:
        if _is_tar_name(path) and not zipfile.is_zipfile(path):
            with tarfile.open(path) as tar:
                return _write(path, _of_tar(path, tar), out)
        with zipfile.ZipFile(path) as archive:
            return _write(path, _of_zip(path, archive), out)
    except DAMAGED as error:
        raise DataError(f"{path} cannot be unpacked: {error}; export it again") from error


def _of_zip(path: Path, archive: zipfile.ZipFile) -> list[_Member]:
    members = []
    for info in archive.infolist():
        if info.filename.endswith("/"):  # `is_dir` fails on a name without a letter
            continue
        if info.flag_bits & 1:
            raise DataError(f"{path} is encrypted; unpack it and pack it again without a password")
        name, *others = _names(info)
        link = info.create_system == 3 and stat.S_ISLNK(info.external_attr >> 16)
        members.append(_Member(name, tuple(others), info.file_size, link, partial(archive.open, info)))
    return members


def _of_tar(path: Path, tar: tarfile.TarFile) -> list[_Member]:
    """The members of a tar file, listed up to the budgets: a packed one has to be unpacked for that."""
    members: list[_Member] = []
    size = 0
    sizes: dict[str, int] = {}
    for info in tar:
        # tar packs the second of two names of one file as a link to the first, which it has packed before.
        again = info.islnk() and info.linkname in sizes
        sizes[info.name] = length = sizes[info.linkname] if again else info.size
        size += length
        if not info.isdir():
            link = not info.isreg() and not again
            members.append(_Member(info.name, (), length, link, partial(tar.extractfile, info)))
        _check_growth(path, len(members), size)
    return members


def _names(info: zipfile.ZipInfo) -> list[str]:
    """How a member's name may be read, the likeliest first.

    Packers that do not say that a name is UTF-8 write it in the code page of their system, or in UTF-8 all the same.
    """
    if info.flag_bits & UTF8_FLAG:
        return [info.filename]
    try:
        raw = info.orig_filename.encode("cp437")
    except UnicodeEncodeError:
        return [info.filename]  # from the extra field that holds it in UTF-8
    if raw.isascii():
        return [info.filename]
    readings = []
    for encoding in ("utf-8", "cp866", "cp437", "cp1251", "cp1252", "cp932", "gbk"):
        try:
            readings.append(raw.decode(encoding))
        except UnicodeDecodeError:
            continue
        if encoding == "utf-8":
            return readings
    # Russian words are Cyrillic throughout; an accented letter stands among plain ones.
    cyrillic = readings[0] if CYRILLIC.search(raw.decode("cp866").lower()) else info.filename
    return list(dict.fromkeys([cyrillic, *readings]))


def _write(path: Path, members: list[_Member], out: Path) -> Unpacked:
    for member in members:
        for name in (member.name, *member.others):
            _check_name(path, name)
    _check_growth(path, len(members), size := sum(member.size for member in members))
    if size > (free := shutil.disk_usage(out).free):
        raise DataError(
            f"{path} unpacks to {size / 1e9:.3g} GB, but {out} has room for {free / 1e9:.3g} GB; "
            "point TMPDIR to a larger disk"
        )
    unpacked = Unpacked()
    unreadable: list[Path] = []
    for member in members:
        parts = _parts(member.name)
        if parts and is_junk(Path(*parts)):
            continue
        file = out.joinpath(*(_short(part) for part in parts))
        if why := "it is a link, which is not followed" if member.link else "" if parts else "it has no name":
            unpacked.left_out.append(LeftOut(member.name or "a file", why))
            unreadable += [file] if parts else []
            continue
        try:
            _copy(member, file)
        except FileExistsError:
            alike = _holds(file, member)
            how = "the first is read" if alike else "they differ, and neither is read"
            unpacked.left_out.append(LeftOut(member.name, f"the archive has two files of this name; {how}"))
            unreadable += [] if alike else [file]
            continue
        except DAMAGED as error:
            file.unlink(missing_ok=True)
            unpacked.left_out.append(LeftOut(member.name, f"it cannot be unpacked: {error}"))
            unreadable.append(file)
            continue
        names = [out.joinpath(*_parts(name)) for name in (member.name, *member.others)]
        if others := [name for name in names if name != file]:
            unpacked.aliases[file] = others
    for file in unreadable:
        with suppress(OSError):  # where a folder has its name
            if file.suffix:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(UNREADABLE)
    return unpacked


def _copy(member: _Member, file: Path) -> None:
    """Write a member to a file. Raises OSError where that is there already, or the member has another size."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("xb") as written:
        source = member.open()
        if source is None:
            raise OSError("it is no file")
        with source:
            left = member.size
            for block in iter(lambda: source.read(1 << 20), b""):
                left -= len(block)
                if left < 0:
                    raise OSError("it is longer than the archive says")
                written.write(block)


def _holds(file: Path, member: _Member) -> bool:
    """Whether a file is what a member holds."""
    try:
        source = member.open()
        if source is None or file.stat().st_size != member.size:
            return False
        with source, file.open("rb") as written:
            return all(block == written.read(len(block)) for block in iter(lambda: source.read(1 << 20), b""))
    except DAMAGED:
        return False


def _parts(name: str) -> list[str]:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return [part for part in parts if part not in ("/", "//", ".", "..")]


def _short(part: str) -> str:
    """A part of a path that file systems take; a longer one is shortened and found by its alias."""
    stem, ending = Path(part).stem, Path(part).suffix[-20:]
    encoded = stem.replace("\0", "").encode(errors="replace")
    if len(encoded) <= MAX_NAME:
        return part.replace("\0", "") or "_"
    return f"{encoded[: MAX_NAME - 10].decode(errors='ignore')}-{zlib.crc32(encoded):08x}{ending}"


def _check_name(path: Path, name: str) -> None:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if parts and (parts[0] in ("/", "//") or ".." in parts or re.match("[A-Za-z]:", parts[0])):
        raise DataError(f"{path} is refused: its file {name!r} would land outside of its folder")


def _check_growth(path: Path, count: int, size: int) -> None:
    if count > MAX_FILES or size > max(HARMLESS, MAX_GROWTH * path.stat().st_size):
        raise DataError(f"{path} is refused: it would unpack to {count} files of {size / 1e9:.3g} GB")


def without_outer_folders(root: Path) -> Path:
    """The folder in which the data lies: a packer may have put one folder, or several, around it."""
    for _ in range(MAX_OUTER):
        inside = [path for path in sorted(root.iterdir()) if not is_junk(Path(path.name))]
        if len(inside) != 1 or not inside[0].is_dir() or inside[0].name.lower() in OWN_FOLDERS:
            break
        root = inside[0]
    return root
