"""Kinds of export that are not read are refused by their name, with what to export instead."""

from pathlib import Path

import pytest

from backend.sources.source import open_source
from models.errors import DataError

VOC = "<annotation><filename>a.png</filename><object><name>dent</name>{}</object></annotation>"


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.xml", VOC.format("<bndbox><xmin>1</xmin></bndbox>"), "Pascal VOC boxes"),
        ("a.xml", VOC.format("<polygon><pt/></polygon>"), "a LabelMe file"),
        ("a.json", '{"version": "5.0", "shapes": [], "imagePath": "a.png"}', "a LabelMe file"),
        ("a.json", '{"_via_img_metadata": {}}', "a project of the VGG Image Annotator"),
        ("obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n", "YOLO boxes"),
    ],
)
def test_what_is_not_read_is_named_with_what_to_export(tmp_path: Path, name: str, content: str, kind: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=rf"{name} is {kind}.* not read; export COCO instances"), open_source(tmp_path):
        pass
