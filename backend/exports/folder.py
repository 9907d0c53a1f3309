"""A folder that is complete or absent."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.errors import ExportError
from backend.system.files import sync_folder, sync_tree


def check_free(out: Path) -> None:
    """Raises ExportError unless a folder may be made there: nothing is overwritten."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out} exists and is not an empty folder; name another --out, or remove it")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out`, which takes its place at the end; what a killed export left there is removed.

    Raises:
        ExportError: `out` exists and is not empty, or cannot be written.
    """
    check_free(out)
    partial = out.absolute().parent / f".{out.name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        sync_tree(partial)
        check_free(out)
        partial.replace(out)  # an empty folder gives way
        sync_folder(partial.parent)
    except OSError as error:
        raise ExportError(f"{out} cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
