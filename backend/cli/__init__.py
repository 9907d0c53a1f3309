"""`premask ...`: the command line.

Exit codes: 0 done, 1 failed (one sentence on stderr says why and what to do), 2 wrong usage.
"""

import importlib
import keyword
import signal
import sys
from io import TextIOWrapper

import click

from backend.errors import BackendError
from models.errors import ModelError

# Command -> the module that defines it and what it does. The modules are imported only when their command is called:
# torch takes seconds to load, and `premask --help` should not.
COMMANDS = {
    "serve": ("backend.cli.server", "Run the backend with its job worker."),
    "worker": ("backend.cli.server", "Run a job worker alone."),
    "connect": ("backend.cli.server", "Register the backend with a Label Studio project."),
    "doctor": ("backend.cli.doctor", "Look at everything the backend needs and say the remedy for what it lacks."),
    "predict-project": ("backend.cli.jobs", "Predict the tasks of a Label Studio project."),
    "import": ("backend.cli.import_", "Pullbacks, films and folders of images as tasks of a Label Studio project."),
    "review": ("backend.cli.review", "List accepted tasks that are worth a second look."),
    "jobs": ("backend.cli.jobs", "List, show or cancel jobs."),
    "versions": ("backend.cli.server", "List, show, promote or roll back model versions."),
    "database": ("backend.cli.database", "Carry the data folder's database into a PostgreSQL."),
    "inspect": ("backend.cli.inspect", "Show what is read in a data folder, an export or a project."),
    "predict": ("backend.cli.models", "Draw a mask per class for image files."),
    "train": ("backend.cli.models", "Train classifier and refiner on a data folder."),
    "evaluate": ("backend.cli.evaluate", "Measure a model on a data folder."),
    "curve": ("backend.cli.evaluate", "Measure how masks improve with the number of accepted images."),
    "bench": ("backend.cli.bench", "Measure how fast it is, side by side with other ways."),
    "export": ("backend.cli.export", "Write labels as COCO, YOLO, nnU-Net, PNG, CVAT or DICOM Segmentation."),
    "export-model": ("backend.cli.export_model", "Write a model's networks as ONNX, for other servers."),
    "phantom": ("backend.cli.models", "Write synthetic images with exact masks, of OCT and other projects."),
    "demo": ("backend.cli.demo", "Start Label Studio and the backend with a sample project."),
}


# Names of earlier releases, which still work and are not listed.
ALIASES = {"annotate": "predict-project"}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None if there is none."""
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        function = name.replace("-", "_") + "_" * keyword.iskeyword(name)
        command: click.Command = getattr(importlib.import_module(COMMANDS[name][0]), function)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in `--help`, from the table above."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup)
@click.version_option(package_name="premask")
def cli() -> None:
    """Masks for every task, drawn by a classifier that learns from what your team accepts."""


def main() -> None:
    """Run the command line; an expected failure is one sentence on stderr and exit code 1."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text; stderr does so by itself
    for number in (signal.SIGTERM, signal.SIGHUP):
        # What is unpacked, or half written, is taken away as by Ctrl-C; of nohup, SIGHUP stays ignored.
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    try:
        cli.main(standalone_mode=True)
    except (BackendError, ModelError) as error:
        click.echo(f"premask: {error}", err=True)
    except OSError as error:  # a disk that is full, a folder that may not be written to
        place = "" if error.filename is None else f"{error.filename} cannot be read or written: "
        click.echo(f"premask: {place}{error.strerror or error}; check the name, the disk and who may write", err=True)
    sys.exit(1)
