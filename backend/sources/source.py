"""Data folders and exports of annotation tools, each opened as a data folder."""

import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from backend.sources.archive import Unpacked, is_archive, looks_like_archive, unpack, without_outer_folders
from backend.sources.coco import convert_coco, is_coco
from backend.sources.conversion import Conversion, LeftOut
from backend.sources.cvat import convert_cvat, is_cvat
from backend.sources.datumaro import convert_datumaro, is_datumaro
from backend.sources.documents import read_document
from backend.sources.finding import ENDINGS, ImageFiles, files_below
from backend.sources.label_studio import convert_label_studio, is_label_studio
from backend.sources.refused import check_names, is_refused, refuse
from backend.sources.segmentation_mask import convert_masks, is_label_map
from backend.sources.yolo import LABELS, convert_yolo, has_texts, is_label_list, is_yolo, read_label_list
from models.data.decoding import is_pipe
from models.data.files import has_dicom_preamble
from models.errors import DataError

UNPACKED = "export"  # folder of an archive's files
DATA_FOLDER, IMAGES = "data-folder", "images"  # kinds besides those of FORMATS


@dataclass(frozen=True)
class Format:
    """A kind of export.

    Attributes:
        kind: for machines.
        name: for people.
        matches: whether a document, as `read_document` gives it, is of this kind.
        convert: writes such files (path -> content), with the images among these, as a data folder.
    """

    kind: str
    name: str
    matches: Callable[[Any], bool]
    convert: Callable[[Mapping[Path, Any], ImageFiles, Path], Conversion]


FORMATS = (
    Format("cvat", '"CVAT for images 1.1"', is_cvat, convert_cvat),
    Format("coco", "COCO instances", is_coco, convert_coco),
    Format("datumaro", '"Datumaro 1.0"', is_datumaro, convert_datumaro),
    Format("masks", '"Segmentation mask 1.1"', is_label_map, convert_masks),
    Format("yolo", "YOLO segmentation", is_yolo, convert_yolo),
    Format("label-studio", "Label Studio's JSON", is_label_studio, convert_label_studio),
)
KNOWN = ", ".join(kind.name for kind in FORMATS)
# Recognised after all others, in order to say what to export instead.
REFUSED = Format("refused", "a format that is not read", is_refused, refuse)
DOCUMENTS = (".json", ".xml", "labelmap.txt", ".yaml", ".yml", "obj.data", ".csv", ".tsv")  # how their names end
# Folders of masks in the layouts of several tools: of what lies in them nothing can be learnt without its export.
MASK_FOLDERS = {"masks", "labels", "labelstr", "labelsts", "segmentationclass", "segmentationobject"}
# Words in the names of other folders of masks, and of masks themselves.
MASK_WORD = r"masks?|labels?|gt|ground[_ -]?truths?|annotations?|segmentations?"
MASK_FOLDER = re.compile(rf"(?:.*[\W_])?(?:{MASK_WORD})(?:[\W_].*)?", re.IGNORECASE)
MASK_NAME = re.compile(rf"(?P<image>.+)[\W_](?:{MASK_WORD})", re.IGNORECASE)
NO_ENDING = "its name has no ending of an image"
UNNAMED = "it seems to be of YOLO, and no file names the labels; add a data.yaml with names, or a classes.txt"
INNER_ARCHIVE = "it is an archive within the source, which is not unpacked; unpack it, or give it alone"
NAMED = 3  # files of an ending that are named


@dataclass(frozen=True)
class Source:
    """Something to train on, opened.

    Attributes:
        folder: the data folder; of images without labels, the folder that they are in.
        kind: of a format, DATA_FOLDER or IMAGES.
        notes: sentences about what was converted, and how.
        unread: rows, files and regions that are not used.
        files: the images of a source without labels.
    """

    folder: Path
    kind: str
    notes: list[str]
    unread: list[LeftOut] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


@contextmanager
def open_source(
    path: Path, *, images: Path | None = None, skip_bad: bool = False, unlabelled: bool = False
) -> Iterator[Source]:
    """Open a data folder, or an export as one that is deleted afterwards.

    Args:
        path: a data folder; or an export in one of `FORMATS`: a file or a folder; or an archive of one of these.
        images: where an export's images are, if not beside it.
        skip_bad: leave out images of the export that are missing or inconsistent; `skipped.json` in the folder names
            them.
        unlabelled: take a folder, an archive or a file of images without labels too.

    Raises:
        DataError: it is nothing of the kind, or inconsistent; the text names the file.
    """
    with tempfile.TemporaryDirectory(prefix="premask-") as temporary:
        scratch = Path(temporary)
        try:
            source = _opened(path, scratch, images, skip_bad, unlabelled)
        except DataError as error:
            raise DataError(_told(str(error), scratch, path)) from error
        source = replace(
            source,
            notes=[_told(note, scratch, path) for note in source.notes],
            unread=[LeftOut(row.what, _told(row.why, scratch, path)) for row in source.unread],
        )
        try:
            yield source
        except DataError as error:  # of whoever reads the folder
            raise DataError(_told(str(error), scratch, path)) from error


def _told(text: str, scratch: Path, path: Path) -> str:
    """A sentence with the archive's own name in the place of the folder that it was unpacked to."""
    return text.replace(str(scratch / UNPACKED), str(path))


def _opened(path: Path, scratch: Path, images: Path | None, skip_bad: bool, unlabelled: bool) -> Source:
    """See `open_source`; `scratch` is a folder for what is unpacked and converted."""
    root, unpacked = path, Unpacked()
    if is_pipe(path):
        raise DataError(f"{path} is a pipe or a device; write what it gives to a file, and give that")
    if is_archive(path):
        root = scratch / UNPACKED
        root.mkdir()
        unpacked = unpack(path, root)
        inside = files_below(root)
        if len(inside) == 1 and is_archive(inside[0]):  # packed twice
            folder = inside[0].with_name(f"{inside[0].name} unpacked")
            folder.mkdir()
            unpacked = unpack(inside[0], folder)
            inside[0].unlink()
    elif path.is_file() and looks_like_archive(path):
        raise DataError(f"{path} is no zip or tar file, or a damaged one; unpack it, or export it again")
    if root.is_dir():
        root = _data_folder(root)
    if _is_data_folder(root):
        if images is not None:
            raise DataError(f"{path} is a data folder and has its own images; leave --images out")
        return Source(root, DATA_FOLDER, _not_read(unpacked.left_out), unpacked.left_out)
    unread = list(unpacked.left_out)
    files = files_below(root) if root.is_dir() else [root]
    contents = _contents(files, root, unread)
    if (matched := _format(contents)) is None:
        check_names(path, files)
        pictures = _without_masks([file for file in files if _is_picture(file, root)], root)
        if not pictures or not unlabelled:
            unread += [LeftOut(_shown(file, root), UNNAMED) for file in files if _is_unnamed(file, root)][:1]
            unread += [LeftOut(_shown(file, root), INNER_ARCHIVE) for file in files if looks_like_archive(file)][:1]
            raise DataError(_unknown(path, pictures, unread))
        unread += _others(files, pictures, root, {row.what for row in unread})
        return Source(root, IMAGES, [f"{path} has images and no labels"], unread, pictures)
    kind, found = matched
    unread += [LeftOut(_shown(file, root), INNER_ARCHIVE) for file in files if looks_like_archive(file)]
    hint = "".join(f" ({row.what}: {row.why})" for row in unread[:1])
    beside = {
        file: LeftOut(_shown(file, root), f"it is not read: the source is read as {kind.name}")
        for file in contents
        if file not in found
    }
    lost = unread + [row for file, row in beside.items() if _format({file: contents[file]})]
    unread += beside.values()
    result = _convert(path, root, kind, found, images, unpacked, scratch / "data")
    if result.left_out and not skip_bad:
        first, more = result.left_out[0], len(result.left_out) - 1
        others = f" (and {more} more)" if more else ""
        named = first.why if first.what in first.why else f"{first.what}: {first.why}"
        raise DataError(f"{path}: {named}{others}{hint}; correct it, or go on without it with --skip-bad")
    if not result.used:
        why = f": {result.left_out[0].what}: {result.left_out[0].why}" if result.left_out else ""
        raise DataError(f"{path} holds no image that can be used{why}{hint}")
    notes = [f"{path} is read as {kind.name}: {result.used} images", *_not_read(lost), *result.notes]
    return Source(scratch / "data", kind.kind, notes, unread + result.left_out + result.unread)


def _not_read(rows: list[LeftOut]) -> list[str]:
    """A sentence on files of a source that are not read; none without any."""
    named = "; ".join(f"{row.what}: {row.why}" for row in rows[:NAMED]) + (" ..." if len(rows) > NAMED else "")
    return [f"files that are not read: {len(rows)} ({named})"] if rows else []


def _data_folder(root: Path) -> Path:
    """The folder in which the data lies: `root`, the one folder in it, or the only data folder a few folders below."""
    root = root if _is_data_folder(root) else without_outer_folders(root)
    for pattern in ("*", "*/*"):
        inside = [folder for folder in root.glob(pattern) if _is_data_folder(folder) and (folder / "images").is_dir()]
        if not _is_data_folder(root) and len(inside) == 1:
            return inside[0]
    return root


def _is_data_folder(root: Path) -> bool:
    # YOLO data may have a classes.txt too, and their labels in another folder.
    return (root / "classes.txt").is_file() and ((root / "masks").is_dir() or not has_texts(root))


def _convert(
    path: Path,
    root: Path,
    kind: Format,
    found: Mapping[Path, Any],
    images: Path | None,
    unpacked: Unpacked,
    out: Path,
) -> Conversion:
    beside = root if root.is_dir() else root.parent
    folders = [images] if images else [folder for folder in (beside / "images", beside) if folder.is_dir()]
    try:
        files = ImageFiles(folders, unpacked.aliases, own=images is not None or root.is_dir())
        return kind.convert(found, files, out)
    except DataError as error:
        raise DataError(f"{path}, taken for {kind.name}: {error}") from error


def _format(contents: Mapping[Path, Any]) -> tuple[Format, dict[Path, Any]] | None:
    """The first format that a file is of, and all files of that format."""
    for kind in (*FORMATS, REFUSED):
        if found := {file: content for file, content in contents.items() if kind.matches(content)}:
            return kind, found
    return None


def _contents(files: list[Path], root: Path, unread: list[LeftOut]) -> dict[Path, Any]:
    """Document -> content; adds those that cannot be read to `unread`."""
    contents = {}
    told = {row.what for row in unread}
    for file in files:
        if _shown(file, root) in told:  # it was not unpacked
            continue
        listed = is_label_list(file)
        if listed or file.name.lower().endswith(DOCUMENTS):
            try:
                contents[file] = read_label_list(file) if listed else read_document(file)
            except DataError as error:
                unread.append(LeftOut(_shown(file, root), str(error)))
    return contents


def _is_picture(file: Path, root: Path) -> bool:
    """Whether a file is an image without labels, by its ending; DICOM files often have none."""
    inside = file.relative_to(root).parts[:-1] if file != root else ()
    named = file.suffix.lower() in ENDINGS or (file.suffix.lower() not in DOCUMENTS and has_dicom_preamble(file))
    return named and MASK_FOLDERS.isdisjoint(part.lower() for part in inside)


def _without_masks(pictures: list[Path], root: Path) -> list[Path]:
    """Pictures without those that are called after another one, and by their name or folder are its mask."""
    likely = {
        file: mask["image"] if (mask := MASK_NAME.fullmatch(file.stem)) else file.stem
        for file in pictures
        if MASK_NAME.fullmatch(file.stem)
        or (file != root and any(MASK_FOLDER.fullmatch(part) for part in file.relative_to(root).parts[:-1]))
    }
    others = {file.stem for file in pictures if file not in likely}
    return [file for file in pictures if file not in likely or {likely[file], file.stem}.isdisjoint(others)]


def _others(files: list[Path], pictures: list[Path], root: Path, told: set[str]) -> list[LeftOut]:
    """The files that are no images to learn from, a row an ending."""
    kinds: dict[tuple[str, str], list[str]] = defaultdict(list)
    taken = {*pictures}
    for file in files:
        if file in taken or _shown(file, root) in told:
            continue
        if file.name.lower().endswith(DOCUMENTS):
            why = f"it is of none of the kinds that are read: {KNOWN}"
        elif file.suffix.lower() in ENDINGS:
            why = "it seems to be a mask, and no export says of what; see docs/models.md for a data folder"
        elif _is_unnamed(file, root):
            why = UNNAMED
        elif looks_like_archive(file):
            why = INNER_ARCHIVE
        else:
            why = f"{NO_ENDING}: {', '.join(ENDINGS)}"
        kinds[file.suffix.lower(), why].append(_shown(file, root))
    return [
        LeftOut(", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else ""), why)
        for (_, why), names in kinds.items()
    ]


def _is_unnamed(file: Path, root: Path) -> bool:
    """Whether a file is a text such as YOLO's, of which nothing says what its numbers stand for."""
    return file.suffix.lower() == ".txt" and LABELS in (part.lower() for part in file.relative_to(root).parts[:-1])


def _shown(file: Path, root: Path) -> str:
    return str(file.relative_to(root)) if file != root else file.name


def _unknown(path: Path, pictures: list[Path], unread: list[LeftOut]) -> str:
    said = f"{path} is neither a data folder (with classes.txt) nor an export of a known kind: {KNOWN}"
    if unread:
        told = unread[0].why if unread[0].what in unread[0].why else f"{unread[0].what}: {unread[0].why}"
        return f"{told}; {said}"
    return f"{said}; it has images and no labels" if pictures else said
