"""A data folder is itself; whatever is no known export is refused with what would have been one."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from backend.cli import cli
from backend.sources.source import open_source
from models.errors import DataError
from models.phantom import write_phantoms
from tests.backend.sources.exports import cvat_export, packed


def test_a_data_folder_is_opened_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("scratch\n")
    with open_source(tmp_path) as source:
        assert (source.folder, source.notes) == (tmp_path, [])
    with pytest.raises(DataError, match="leave --images out"), open_source(tmp_path, images=tmp_path):
        pass


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", '{"shapes": []}', 'export of a known kind: "CVAT for images 1.1", COCO instances, Label Studio'),
        ("a.json", "[]", "export of a known kind"),
        ("a.json", "{", r"a\.json cannot be read"),
        ("a.json", "[" * 100_000, r"a\.json cannot be read"),
        ("a.xml", "<annotation><object/></annotation>", "export of a known kind"),
        ("a.xml", "<annotations>", r"a\.xml cannot be read"),
        ("a.zip", "no zip", r"a\.zip is no zip file"),
        ("a.csv", "name,scratch", "export of a known kind"),
    ],
)
def test_anything_else_is_refused_by_name(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said), open_source(tmp_path / name):
        pass


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither a data folder"), open_source(tmp_path):
        pass


def test_evaluate_takes_an_export(tmp_path: Path) -> None:
    """Frames of the starter's own kind, annotated in CVAT with a box."""
    write_phantoms(tmp_path / "frames", 2, seed=3, size=64)
    box = '<box label="Lumen" source="manual" occluded="0" xtl="16" ytl="16" xbr="48" ybr="48" z_order="0"></box>'
    images = {f"phantom-0000{i}.png": box for i in (1, 2)}
    export = cvat_export(tmp_path / "export", images, labels={"Lumen": "any"}, width="64", height="64")
    for name in images:
        (export / "images" / name).write_bytes((tmp_path / "frames" / "images" / name).read_bytes())
    arguments = ["evaluate", "--data", str(packed(tmp_path / "export.zip", export)), "--json", str(tmp_path / "r.json")]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert '"CVAT for images 1.1": 2 images' in done.stdout
    assert '"frames": 2' in (tmp_path / "r.json").read_text()
