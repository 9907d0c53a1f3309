"""`premask inspect --project`: the accepted annotations of a project, read as its next training will read them."""

import json
from pathlib import Path

from click.testing import CliRunner

from backend.cli import cli
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.fakes import CONFIG
from tests.backend.jobs.conftest import png


def region(kind: str, **value: object) -> dict[str, object]:
    return {
        "id": "r", "type": kind, "from_name": "tag", "to_name": "image", "original_width": 8, "original_height": 6,
        "image_rotation": 0, "value": {kind: ["Lumen"], **value},
    }  # fmt: skip


def test_a_project_is_shown_as_a_training_reads_it(tmp_path: Path) -> None:
    with FakeLabelStudio() as label_studio:
        project = label_studio.add_project(CONFIG)
        tasks = [label_studio.add_upload(project, f"{number}.png", png()) for number in range(3)]
        label_studio.add_annotation(tasks[0], [])
        label_studio.add_annotation(tasks[1], [region("brushlabels", format="rle", rle=["no", "numbers"])])
        label_studio.add_annotation(tasks[2], [], was_cancelled=True)
        environ = {
            "PREMASK_DATA_DIR": str(tmp_path / "data"),
            "LABEL_STUDIO_URL": label_studio.url,
            "LABEL_STUDIO_API_KEY": label_studio.legacy_token,
        }
        out = tmp_path / "r.json"
        arguments = ["inspect", "--project", str(project), "--json", str(out)]
        done = CliRunner().invoke(cli, arguments, env=environ, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text())
    assert (report["kind"], [image["name"] for image in report["images"]]) == (
        "project",
        [f"task-{tasks[0]}", f"task-{tasks[1]}"],
    )
    assert [image["presence"]["Lumen"] for image in report["images"]] == [False, None]
    assert [row["what"] for row in report["left_out"]] == [f"task {tasks[2]}"]
    assert "cannot be read" in done.output


def test_an_odd_project_is_wrong_usage() -> None:
    assert CliRunner().invoke(cli, ["inspect", "--project", "three"]).exit_code == 2
