"""COCO instances: annotations/instances_SUBSET.json with run-length encoded masks, images/SUBSET/."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.mask import encode

from backend.exports.export import PREDICTED, Export, Mask, Result, Tick, each, save_picture, write_table
from models.masks.components import connected_components


def write_coco(export: Export, out: Path, tick: Tick) -> Result:
    """Write an export; one annotation for each connected part of a mask, exact to the pixel."""
    result, files = Result(), {}
    images: dict[str, list[dict[str, Any]]] = defaultdict(list)
    annotations: dict[str, list[dict[str, Any]]] = defaultdict(list)
    objects = 0
    for number, (image, shape) in enumerate(each(export, tick), start=1):
        file = save_picture(image.sample, out / "images" / image.subset, image.stem)
        files[image.stem] = f"images/{image.subset}/{file}"
        fields: dict[str, Any] = {"id": number, "file_name": file, "width": shape[1], "height": shape[0]}
        fields |= {"name": image.name} | ({} if image.sample.group is None else {"group": image.sample.group})
        fields |= {"annotator": image.annotator} if image.annotator else {}
        images[image.subset].append(fields | ({} if export.version is None else {PREDICTED: export.version}))
        for category, label in enumerate(export.drawn, start=1):
            if label not in image.sample.masks:
                continue
            for part in _parts(image.sample.read_mask(label, shape)):
                objects += 1
                result.count(label)
                row = {"id": objects, "image_id": number, "category_id": category, "iscrowd": 0, **part}
                annotations[image.subset].append(row | ({} if export.version is None else {PREDICTED: True}))
        result.images += 1
    (out / "annotations").mkdir(parents=True, exist_ok=True)
    for subset in export.subsets:
        content = {
            "info": {"description": _description(export), "version": "1.0"},
            "licenses": [],
            "categories": [
                {"id": number, "name": label, "supercategory": ""} for number, label in enumerate(export.drawn, start=1)
            ],
            "images": images[subset],
            "annotations": annotations[subset],
        }
        path = out / "annotations" / f"instances_{subset}.json"
        path.write_text(json.dumps(content), encoding="utf-8")
    write_table(export, out, files)
    return result


def _parts(mask: Mask) -> list[dict[str, Any]]:
    """Fields of an annotation for each connected part of a mask of shape (H, W)."""
    labels, components = connected_components(mask)
    whole = np.zeros(mask.shape, dtype=np.uint8, order="F")
    found = []
    for part in components:
        whole[part.box] = labels[part.box] == part.number
        encoded = encode(whole)
        whole[part.box] = 0
        rle = {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}
        found.append({"segmentation": rle, "area": part.area, "bbox": [part.x, part.y, part.width, part.height]})
    return found


def _description(export: Export) -> str:
    if export.version is None:
        return "accepted annotations, exported by premask"
    return f"predictions of {export.version}, which nobody has accepted, exported by premask"
