"""Unpacking archives that others have sent."""

import shutil
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from models.errors import DataError

MAX_FILES = 200_000
# Pictures do not shrink; annotations shrink tenfold or so. An archive that grows more than this, past a size that
# every machine can hold, was made to fill the disk.
MAX_GROWTH, HARMLESS = 100, 1 << 30


def unpack(path: Path, out: Path) -> None:
    """Unpack a zip file into a folder.

    Raises:
        DataError: it is damaged, encrypted, would fill the disk, or has a file that would land outside of `out`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            _check(path, members, out)
            for member in members:
                archive.extract(member, out)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
        raise DataError(f"{path} cannot be unpacked: {error}; export it again") from error


def _check(path: Path, members: list[zipfile.ZipInfo], out: Path) -> None:
    for member in members:
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
            raise DataError(f"{path} is refused: its file {member.filename!r} would land outside of its folder")
        if member.flag_bits & 1:
            raise DataError(f"{path} is encrypted; unpack it and pack it again without a password")
    size = sum(member.file_size for member in members)
    if len(members) > MAX_FILES or size > max(HARMLESS, MAX_GROWTH * path.stat().st_size):
        raise DataError(f"{path} is refused: it would unpack to {len(members)} files of {size / 1e9:.3g} GB")
    if size > (free := shutil.disk_usage(out).free):
        raise DataError(
            f"{path} unpacks to {size / 1e9:.3g} GB, but {out} has room for {free / 1e9:.3g} GB; "
            "point TMPDIR to a larger disk"
        )
