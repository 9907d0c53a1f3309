"""Kinds of export that are not read are refused by their name, with what to export instead."""

from pathlib import Path

import pytest

from backend.sources.inspection import inspect_source
from backend.sources.source import open_source
from models.errors import DataError
from tests.backend.sources.exports import picture

VOC = "<annotation><filename>a.png</filename><object><name>dent</name>{}</object></annotation>"


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.xml", VOC.format("<bndbox><xmin>1</xmin></bndbox>"), "Pascal VOC boxes"),
        ("a.xml", VOC.format("<polygon><pt/></polygon>"), "a LabelMe file"),
        ("a.json", '{"version": "5.0", "shapes": [], "imagePath": "a.png"}', "a LabelMe file"),
        ("a.json", '{"_via_img_metadata": {}}', "a project of the VGG Image Annotator"),
        (
            "a.json",
            '{"channel_names": {"0": "a"}, "labels": {"background": 0}, "numTraining": 1}',
            "the dataset.json of",
        ),
        ("a.json", '[{"image": "a.png", "annotations": [{"label": "b", "coordinates": {}}]}]', "a file of CreateML"),
        ("a.csv", 'annotation_id,annotator,created_at,id,image,lead_time,tag\n1,1,"', "Label Studio's CSV"),
        ("a.tsv", "annotation_id\tannotator\tid\tlead_time\n" + "1\t" * 2_000_000, "Label Studio's CSV"),
        ("obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n", "YOLO boxes"),
    ],
)
def test_what_is_not_read_is_named_with_what_to_export(tmp_path: Path, name: str, content: str, kind: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=rf"{name} is {kind}.* not read; export COCO instances"), open_source(tmp_path):
        pass


def test_masks_without_their_images_are_no_images(tmp_path: Path) -> None:
    picture(tmp_path / "task-1-annotation-2-by-1-tag-dent-0.png")
    with pytest.raises(DataError, match=r"brush masks of Label Studio.*Label Studio's JSON"):
        inspect_source(tmp_path)
