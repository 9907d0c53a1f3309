"""`--data`, which takes a data folder or another tool's export."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from backend.sources.source import FORMATS, open_source

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
KINDS = ", ".join(kind.name for kind in FORMATS)


def data_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--data`, `--images` and `--skip-bad`; it is called with a data folder and `skip_bad`."""

    @click.option(
        "--data",
        type=click.Path(exists=True, path_type=Path),
        required=True,
        help=f"Data folder (images/, masks/CLASS/, classes.txt ...), or an export: {KINDS}; a file or a zip.",
    )
    @click.option("--images", type=FOLDER, help="Where the images of an export are, if not beside it.")
    @click.option("--skip-bad", is_flag=True, help="Leave out inconsistent files instead of stopping.")
    @wraps(command)
    def with_source(data: Path, images: Path | None, skip_bad: bool, **options: Any) -> None:
        with open_source(data, images=images, skip_bad=skip_bad) as source:
            for note in source.notes:
                click.echo(note)
            command(data=source.folder, skip_bad=skip_bad, **options)

    return with_source
