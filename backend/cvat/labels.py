"""The labels that a CVAT project needs for a model, as JSON: `python -m backend.cvat.labels [--model DIR]`.

For `cvat-cli project create NAME --labels FILE`, the Raw tab of CVAT's label constructor, and `spec` in function.yaml.
"""

import json

import click

from backend.cvat.detector import LABEL_TYPES, Detector
from backend.cvat.model import Checkpoint
from models.errors import CheckpointError


@click.command()
@click.option("--model", default="", help="Checkpoint folder; the starter weights if omitted.")
@click.option("--draws", type=click.Choice(list(LABEL_TYPES)), default="masks", show_default=True)
def main(model: str, draws: str) -> None:
    """Print the labels that a CVAT project needs for a model."""
    try:
        labels = Detector(Checkpoint(model), draws).labels
    except CheckpointError as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps(labels, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
