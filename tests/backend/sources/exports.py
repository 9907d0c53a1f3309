"""Small exports as the tools write them, and what a test reads out of the data folder that comes of one."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.data.reader import DataFolder, open_data_folder

HEIGHT, WIDTH = 30, 40


def picture(path: Path, width: int = WIDTH, height: int = HEIGHT, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (90, 120, 60)).save(path, **options)
    return path


def packed(path: Path, folder: Path) -> Path:
    """A zip of a folder's files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


def read(folder: Path) -> tuple[DataFolder, dict[str, dict[str, NDArray[np.bool_]]]]:
    """The data folder, and image -> class -> mask."""
    data = open_data_folder(folder)
    masks = {
        name: {label: sample.read_mask(label, (HEIGHT, WIDTH)) for label in sample.masks}
        for name, sample in data.samples.items()
    }
    return data, masks


def block(top: int, left: int, bottom: int, right: int) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


# As CVAT 2.80's cvat/apps/dataset_manager/formats/cvat.py writes a task.
CVAT_HEAD = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <id>4</id>
      <name>plates</name>
      <size>{count}</size>
      <mode>annotation</mode>
      <overlap>0</overlap>
      <bugtracker></bugtracker>
      <created>2026-11-20 10:00:00.000000+00:00</created>
      <updated>2026-11-20 11:00:00.000000+00:00</updated>
      <subset>default</subset>
      <start_frame>0</start_frame>
      <stop_frame>{count}</stop_frame>
      <frame_filter></frame_filter>
      <segments>
        <segment>
          <id>4</id>
          <start>0</start>
          <stop>{count}</stop>
          <url>http://localhost:8080/api/jobs/4</url>
        </segment>
      </segments>
      <owner>
        <username>admin</username>
        <email></email>
      </owner>
      <assignee></assignee>
      <labels>
        {labels}
      </labels>
    </task>
    <dumped>2026-11-20 11:00:05.000000+00:00</dumped>
  </meta>
"""
CVAT_LABEL = """<label>
          <name>{name}</name>
          <color>#ff00cc</color>
          <type>{kind}</type>
          <attributes>
          </attributes>{parent}
        </label>
"""


def cvat_xml(
    images: Mapping[str, str],
    labels: Mapping[str, str] | None = None,
    extra: str = "",
    more: str = "",
    **attributes: str,
) -> str:
    """annotations.xml of images (name -> the shapes' XML), of these labels (name -> type)."""
    names = labels or {"scratch": "any", "dent": "any"}
    head = CVAT_HEAD.format(
        count=len(images),
        labels="".join(CVAT_LABEL.format(name=name, kind=kind, parent="") for name, kind in names.items()) + extra,
    )
    values = {"width": str(WIDTH), "height": str(HEIGHT)} | attributes
    fields = " ".join(f'{key}="{value}"' for key, value in values.items())
    body = "".join(
        f'  <image id="{i}" name="{name}" {fields}>\n{shapes}\n  </image>\n'
        for i, (name, shapes) in enumerate(images.items())
    )
    return f"{head}{body}{more}</annotations>\n"


def cvat_export(folder: Path, images: Mapping[str, str], **options: Any) -> Path:
    """A folder as "CVAT for images 1.1" with images unpacks to."""
    for name in images:
        picture(folder / "images" / name)
    (folder / "annotations.xml").write_text(cvat_xml(images, **options), encoding="utf-8")
    return folder


def coco(
    images: list[str], annotations: list[dict[str, Any]], categories: tuple[str, ...] = ("scratch", "dent")
) -> dict[str, Any]:
    """A COCO file as CVAT writes it; annotations need image (from 1), category (from 1) and a shape."""
    return {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "date_created": "", "description": "", "url": "", "version": "", "year": ""},
        "categories": [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(categories, start=1)],
        "images": [
            {
                "id": i, "width": WIDTH, "height": HEIGHT, "file_name": name, "license": 0, "flickr_url": "",
                "coco_url": "", "date_captured": 0,
            }
            for i, name in enumerate(images, start=1)
        ],
        "annotations": [
            {"id": i, "area": 1.0, "iscrowd": 0, "segmentation": [], "bbox": [0, 0, 1, 1], **annotation}
            for i, annotation in enumerate(annotations, start=1)
        ],
    }  # fmt: skip


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
