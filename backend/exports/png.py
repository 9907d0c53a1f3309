"""premask's own data folder: images/, masks/CLASS/, labels.csv, split.json, groups.json."""

from pathlib import Path

from backend.exports.export import Export, Result, Tick, each, write_table
from models.data.writer import DataFolderWriter


def write_png_folder(export: Export, out: Path, tick: Tick) -> Result:
    """Write an export; masks exact, and a class whose presence is unknown stays unknown (an empty cell)."""
    result, files = Result(), {}
    splits: dict[str, list[str]] = {subset: [] for subset in export.subsets}
    with DataFolderWriter(out, export.classes) as folder:
        for image, shape in each(export, tick):
            sample = image.sample
            masks = {label: sample.read_mask(label, shape) for label in sample.masks}
            presence = {label: sample.presence.get(label) for label in export.classes}
            folder.add(image.stem, sample.read_image(), masks, presence, sample.group)
            files[image.stem] = f"images/{image.stem}.png"
            splits[image.subset].append(image.stem)
            for label in masks:
                result.count(label)
            result.images += 1
        if len(splits) > 1:
            folder.write_split(splits)
    write_table(export, out, files)
    return result
