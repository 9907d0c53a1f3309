"""A pullback in a real Label Studio: from a DICOM file to masks on each frame."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from backend.demo.predictions import iou, masks
from backend.demo.sample_project import CONFIG
from models.data.decoding import decode_image
from models.phantom import Phantom, render_phantom
from tests.backend.pullbacks.files import NAME, PATIENT, write_dicom
from tests.end_to_end.stack import Stack, premask

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]
SEEDS, SIZE = range(920_000, 920_020), 256


def listed(stack: Stack, project: int, *ordering: str) -> list[dict[str, Any]]:
    """Tasks as the Data Manager lists them."""
    query = quote(json.dumps({"ordering": list(ordering)}))
    path = f"/api/tasks?project={project}&page_size=100&resolve_uri=false&query={query}"
    tasks: list[dict[str, Any]] = stack.client.call("GET", path)["tasks"]
    return tasks


def test_twenty_frames_go_in_twice_and_get_their_masks(stack: Stack, tmp_path: Path) -> None:
    phantoms = [render_phantom(seed, SIZE) for seed in SEEDS]
    path = write_dicom(tmp_path / f"{NAME}.dcm", [one.image for one in phantoms], PixelSpacing=[0.02, 0.02])
    project = int(stack.client.create_project("import", CONFIG)["id"])
    target = ("--url", stack.label_studio.url, "--api-key", stack.login.token, "--project", project)
    data = {"PREMASK_DATA_DIR": str(stack.folder)}
    premask("import", path, *target, "--every", 3, "--series", "first", **data)
    premask("import", path, *target, "--series", "first", **data)
    premask("import", path, *target, "--every", 10, "--series", "second", **data | {"PREMASK_DATA_DIR": str(tmp_path)})
    again = premask("import", path, *target, "--series", "first", **data)
    assert "0 tasks created, 20 were there" in again.stdout

    by_import = [(task["data"]["series"], task["data"]["frame"]) for task in listed(stack, project)]
    assert by_import[:7] == [("first", frame) for frame in range(1, 21, 3)]
    assert by_import[20:] == [("second", 1), ("second", 11)]
    frames = [task["data"]["frame"] for task in listed(stack, project, "tasks:data.frame")]
    assert frames == sorted(frames)
    series = [task["data"]["series"] for task in listed(stack, project, "-tasks:data.series")]
    assert series == ["second"] * 2 + ["first"] * 20

    tasks = [task for task in listed(stack, project, "tasks:data.frame") if task["data"]["series"] == "first"]
    sent = json.dumps(stack.client.export(project, all_tasks=True))
    assert not any(secret in sent for secret in (NAME, "Doe", PATIENT, "Somewhere"))
    assert {task["data"]["mm_per_pixel"] for task in tasks} == {0.02}
    assert len({task["data"]["patient"] for task in tasks}) == 1
    for task, phantom in zip(tasks, phantoms, strict=True):
        response = stack.client.get_file(str(stack.client.own_path(task["data"]["image"])))
        assert (decode_image(response.content, SIZE * SIZE) == phantom.image).all()

    premask("predict-project", *target, **data)
    assert lumen_iou(stack, project, tasks, phantoms) >= 0.8


def lumen_iou(stack: Stack, project: int, tasks: list[dict[str, Any]], phantoms: list[Phantom]) -> float:
    """Mean over the frames; each must have one prediction."""
    results = {int(one["task"]): one["result"] for one in stack.client.predictions(project)}
    drawn = [masks(results[int(task["id"])]).get("Lumen") for task in tasks]
    truths = [phantom.masks["Lumen"] for phantom in phantoms]
    return float(np.mean([iou(mask, truth) for mask, truth in zip(drawn, truths, strict=True)]))
