"""`premask export-model`: a model's networks for servers of other kinds."""

from pathlib import Path

import click

from backend.cli.models import model_option, new_folder
from backend.cli.output import json_option, write_json
from models.onnx_export import export_onnx
from models.pipeline import load_pipeline
from models.starter import STARTER


@click.command()
@model_option
@click.option("--out", type=new_folder, required=True, help="Folder to write; must not exist.")
@json_option
def export_model(model: Path | None, out: Path, json_file: Path | None) -> None:
    """Write a model's two networks as ONNX, with a description of their inputs and outputs."""
    pipeline = load_pipeline(model or STARTER)
    files = export_onnx(pipeline, out)
    click.echo(f"{pipeline.name}: {', '.join(file.name for file in files)} in {out}")
    write_json(json_file, {"model": pipeline.name, "out": str(out), "files": {f.name: f.stat().st_size for f in files}})
