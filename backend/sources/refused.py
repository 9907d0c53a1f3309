"""Kinds of files that are recognised and not read, so that the refusal can say what to export instead."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn
from xml.etree.ElementTree import Element

from backend.sources.finding import ImageFiles
from models.errors import DataError

INSTEAD = 'export COCO instances, "CVAT for images 1.1", "Segmentation mask 1.1" or Label Studio\'s JSON'
TABLE = {"annotation_id", "annotator", "lead_time"}  # columns of Label Studio's CSV
BRUSH = re.compile(r"task-\d+-annotation-\d+-by-.*-\d+\.(png|npy)")


def kind_of(content: Any) -> str | None:
    """The name of a kind that is not read, None for any other content."""
    if isinstance(content, Element):
        return _kind_of_xml(content)
    if isinstance(content, str):
        if {*re.split("[,\t]", content.partition("\n")[0].replace('"', "").strip())} >= TABLE:
            return "Label Studio's CSV or TSV"
        fields = dict(line.replace(" ", "").partition("=")[::2] for line in content.splitlines())
        return "YOLO boxes (obj.data)" if {"classes", "names"} <= {*fields} else None
    if is_create_ml(content):
        return "a file of CreateML"
    if not isinstance(content, dict):
        return None
    if isinstance(content.get("shapes"), list) and "imagePath" in content:
        return "a LabelMe file"
    if "labels" in content and "numTraining" in content:
        return "the dataset.json of nnU-Net"
    if "_via_img_metadata" in content or "_via_settings" in content:
        return "a project of the VGG Image Annotator"
    return None


def is_create_ml(content: Any) -> bool:
    """Whether content lists images with boxes as CreateML does, which Label Studio's list of tasks resembles."""
    return isinstance(content, list) and any(
        isinstance(row, dict)
        and isinstance(row.get("annotations"), list)
        and any(isinstance(one, dict) and "coordinates" in one for one in row["annotations"])
        for row in content
    )


def check_names(path: Path, files: Iterable[Path]) -> None:
    """Raise DataError where files have the names of an export that nothing can be learnt from."""
    if any(BRUSH.fullmatch(file.name) for file in files):
        raise DataError(f"{path} has brush masks of Label Studio without their images; {INSTEAD}")


def _kind_of_xml(root: Element) -> str | None:
    if root.tag != "annotation" or root.find("filename") is None:
        return None
    return "a LabelMe file" if root.find("object/polygon") is not None else "Pascal VOC boxes"


def is_refused(content: Any) -> bool:
    """Whether content is of a kind that is recognised and not read."""
    return kind_of(content) is not None


def refuse(files: Mapping[Path, Any], images: ImageFiles, out: Path) -> NoReturn:
    """Raise DataError naming the kind of the first file, and what to export instead."""
    path, content = next(iter(files.items()))
    raise DataError(f"{path.name} is {kind_of(content)}, which is not read; {INSTEAD}")
