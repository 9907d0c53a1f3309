"""premask's own data folder: images/, masks/CLASS/, classes.txt, labels.csv, split.json, groups.json."""

from pathlib import Path

from backend.exports.export import Export, Result, Tick, each, write_table
from backend.exports.names import file_names
from models.data.writer import DataFolderWriter


def write_png_folder(export: Export, out: Path, tick: Tick) -> Result:
    """Write an export; masks exact, and a class whose presence is unknown stays unknown (an empty cell).

    Files and folders have the names of images and classes, if every system can hold these; else running names, with the
    originals in names.json.
    """
    result, files = Result(), {}
    plain = _are_files(export)
    splits: dict[str, list[str]] = {subset: [] for subset in export.subsets}
    with DataFolderWriter(out, export.classes, plain=plain) as folder:
        for image, shape in each(export, tick):
            sample = image.sample
            masks = {label: sample.read_mask(label, shape) for label in sample.masks}
            presence = {label: sample.presence.get(label) for label in export.classes}
            folder.add(image.name, sample.read_image(), masks, presence, sample.group, source=sample.source)
            result.images += 1
            files[image.stem] = f"images/{image.stem if plain else f'image-{result.images:06d}'}.png"
            splits[image.subset].append(image.name)
            for label in masks:
                result.count(label)
        if len(splits) > 1:
            folder.write_split(splits)
    write_table(export, out, files)
    return result


def _are_files(export: Export) -> bool:
    """Whether files and columns of labels.csv can have the names of all images and classes."""
    classes = file_names(export.classes) == list(export.classes) and "name" not in export.classes
    return classes and all(image.name == image.stem for image in export.images)
