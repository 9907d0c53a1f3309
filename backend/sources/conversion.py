"""The parts that all exports share: images that must be found, shapes to draw, a data folder to write."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.sources.finding import ENDINGS, ImageFiles, Match, readings
from models.data.decoding import Pages, RgbImage
from models.data.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, open_image
from models.data.names import page_name, plain_label
from models.data.writer import DataFolderWriter
from models.errors import DataError

Mask = NDArray[np.bool_]
# Drawing reads what others have written; anything of these means that a shape is not as its format says.
UNREADABLE = (DataError, ArithmeticError, LookupError, TypeError, ValueError)
NAMED = 3  # examples that a note gives
MAX_DRAWING = 2e11  # pixels of all regions of an image, which draws for minutes


@dataclass(frozen=True)
class Region:
    """Something drawn on an image, or said of it.

    Attributes:
        label: its class; None for what belongs to none and cuts the regions below it.
        draw: draws its mask of shape (H, W), bool, given that shape; raises DataError if it cannot be read. None says
            that the class is there, but not where.
    """

    label: str | None
    draw: Callable[[tuple[int, int]], Mask] | None = None


@dataclass(frozen=True)
class Exported:
    """One image of an export.

    Attributes:
        path: of its file, as the export records it.
        regions: from the lowest to the topmost.
        shape: (H, W) that the regions are drawn on; None where the export does not say.
        page: of the file, from 0.
        subset: part of the data that it belongs to: "train", "val", "test", or "" for none.
        group: its patient, study or series; None if the export does not say.
        presence: class -> whether it is on the image, as the export itself says; None for unknown.
        offered: the classes that were looked for on it; of the others, unless drawn, nothing is known. None for all.
        name: for people; "" for that of its file.
        file: the file itself, where it need not be looked for.
    """

    path: str
    regions: Sequence[Region]
    shape: tuple[int, int] | None = None
    page: int = 0
    subset: str = ""
    group: str | None = None
    presence: Mapping[str, bool | None] = field(default_factory=dict)
    offered: Collection[str] | None = None
    name: str = ""
    file: Path | None = None


@dataclass(frozen=True)
class LeftOut:
    """A row, image or region that is not used.

    Attributes:
        what: it, for people.
        why: a sentence.
    """

    what: str
    why: str


@dataclass
class Conversion:
    """How much of an export was written, and how it was read.

    Attributes:
        used: images written.
        notes: sentences about parts that were read in another way than they were meant.
        left_out: rows and images that do not fit.
        unread: regions that cannot be read, whose class is unknown on their image, and files that the export does not
            mention.
    """

    used: int = 0
    notes: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    unread: list[LeftOut] = field(default_factory=list)


class _LastOpened(ExitStack):
    """Keeps the file that was opened last open: the frames of a film follow each other, and opening it takes long."""

    def __init__(self) -> None:
        super().__init__()
        self._path: Path | None = None

    def pages(self, path: Path) -> Pages:
        """The pages of an image file. Raises DataError naming it."""
        if path != self._path:
            self.close()
            self._path = None
            self._pages = self.enter_context(open_image(path))
            self._path = path
        return self._pages

    def read(self, path: Path, page: int) -> RgbImage:
        """One page of an image file. Raises DataError naming it."""
        pages = self.pages(path)
        try:
            return pages.read(page)
        except (ValueError, IndexError) as error:
            raise DataError(f"{path} cannot be read as an image: {error}") from error


@dataclass(frozen=True)
class _Found:
    """An exported image and its file; `again` are its further entries in the export."""

    image: Exported
    file: Path
    source: str
    again: Sequence[Exported] = ()


def convert(
    exported: Iterable[Exported | LeftOut],
    classes: Sequence[str],
    images: ImageFiles,
    out: Path,
    other_files: Collection[Path] = (),
) -> Conversion:
    """Write the images of an export as a data folder.

    Shapes of one class are united. A class of which an image has no shape is absent from it; one that is only said to
    be there is present with an unknown mask; one with a shape that cannot be read, or that has no area, is unknown. So
    is one on which two entries of an image differ.
    Images of one group stay on one side of a split: the export's own split is left out if it does otherwise.

    Args:
        exported: images, and rows that are none.
        classes: labels, in order; see `Spelling`.
        images: where the images are.
        out: the data folder.
        other_files: image files of the export that are no images to learn from, such as its masks.

    Raises:
        DataError: the export names no class.
    """
    spelling = Spelling(classes)
    classes = spelling.classes
    if not classes:
        raise DataError("the export names no label to learn; export it again with its labels")
    rows = [spelling.of(row) if isinstance(row, Exported) else row for row in exported]
    result = Conversion(left_out=[row for row in rows if isinstance(row, LeftOut)], notes=spelling.notes)
    found = _find([row for row in rows if isinstance(row, Exported)], images, result)
    without_area: Counter[str] = Counter()
    sides: dict[str, list[str]] = {}
    groups: dict[str, str] = {}
    pages: dict[Path, tuple[int, set[int]]] = {}  # file -> how many it has, and which the export mentions
    with DataFolderWriter(out, classes) as folder, _LastOpened() as opened:
        for name, one in zip(_names(found, images), found, strict=True):
            image = one.image
            try:
                shape, count = _shape(one, opened)
                masks, presence = _truth(one, classes, shape, without_area, result)
                for again in one.again:
                    other = replace(one, image=again)
                    _shape(other, opened)
                    truth = _truth(other, classes, shape, without_area, result)
                    differing = _unite(masks, presence, image.offered, *truth, again.offered)
                    how = f"differently; unknown there: {', '.join(differing)}" if differing else "alike"
                    if differing or again.offered == image.offered:
                        result.left_out.append(LeftOut(again.path, f"{one.source} is annotated twice, {how}"))
                # A film's frame is written as a picture of its own: finding it again in the film takes long.
                film = one.file.suffix.lower() in VIDEO_SUFFIXES
                content = opened.read(one.file, image.page) if film else one.file
            except DataError as error:
                result.left_out.append(LeftOut(one.source, str(error)))
                continue
            folder.add(name, content, masks, presence, image.group, source=one.source, page=image.page)
            pages.setdefault(one.file, (count, set()))[1].add(image.page)
            groups |= {} if image.group is None else {name: image.group}
            if image.subset:
                sides.setdefault(image.subset, []).append(name)
            result.used += 1
        shared = _shared([{groups.get(name) for name in names} - {None} for names in sides.values()])
        if len(sides) > 1 and not shared:
            folder.write_split(sides)
            if "train" in sides and "val" in sides and (rest := result.used - sum(map(len, sides.values()))):
                result.notes.append(f"{rest} images are in no part of the export's split and are not used")
        for left_out in result.left_out:
            folder.leave_out(left_out.what, left_out.why)
    if groups:
        result.notes.append(f"Groups that are kept together: {len({*groups.values()})}")
    if shared:
        named = ", ".join(sorted(map(repr, shared))[:NAMED])
        result.notes.append(f"the export's split is not used: {len(shared)} groups are on both sides ({named} ...)")
    result.notes += [
        f"{label}: {count} without an area (tags, points, lines ...), which say that it is there, but not where"
        for label, count in without_area.items()
    ]
    if result.unread:
        named = "; ".join(f"{row.what}: {row.why}" for row in result.unread[:NAMED])
        result.notes.append(
            f"{_count(len(result.unread), 'region')} that cannot be read: the class is unknown ({named})"
        )
    for file, (count, seen) in pages.items():
        if missing := sorted({*range(count)} - seen):
            listed = ", ".join(str(page + 1) for page in missing[:10]) + (" ..." if len(missing) > 10 else "")
            result.unread.append(LeftOut(f"{images.name(file)}, page {listed}", "the export does not mention it"))
    name_unlisted(images, {one.file for one in found} | {*other_files}, result)
    return result


class Spelling:
    """Which labels are one class: those that differ in spaces or Unicode form alone. The first is its name.

    Args:
        labels: of an export, in order.

    Attributes:
        classes: names, in order.
        notes: sentences on the labels that are one class, and on classes that differ in case alone.

    >>> spelling = Spelling(["lipid core", "lipid  core ", "Lumen"])
    >>> spelling.classes, spelling("lipid  core "), spelling("other")
    (['lipid core', 'Lumen'], 'lipid core', 'other')
    """

    def __init__(self, labels: Iterable[str]) -> None:
        alike: dict[str, list[str]] = defaultdict(list)
        for label in dict.fromkeys(labels):
            if label.strip():
                alike[plain_label(label)].append(label)
        self._names = {plain: written[0] for plain, written in alike.items()}
        self.classes = list(self._names.values())
        self.notes = [
            f"{_listed(written)}: one class, written in several ways" for written in alike.values() if len(written) > 1
        ]
        cases: dict[str, list[str]] = defaultdict(list)
        for plain, name in self._names.items():
            cases[plain.casefold()].append(name)
        self.notes += [
            f"{_listed(names)}: {len(names)} classes that differ in case alone; if they are one, rename it"
            for names in cases.values()
            if len(names) > 1
        ]

    def __call__(self, label: str) -> str:
        """The name of a label's class; of one that is not among the labels, the label itself."""
        return self._names.get(plain_label(label), label)

    def of(self, image: Exported) -> Exported:
        """An image with the names of its labels' classes."""
        return replace(
            image,
            regions=[replace(one, label=None if one.label is None else self(one.label)) for one in image.regions],
            presence={self(label): said for label, said in image.presence.items()},
            offered=None if image.offered is None else [*map(self, image.offered)],
        )


def _listed(labels: Iterable[str]) -> str:
    return ", ".join(map(repr, labels))


def name_unlisted(images: ImageFiles, listed: Container[Path], result: Conversion) -> None:
    """Add to a conversion the image files of an export that it does not list, and does not tell of otherwise."""
    told = {file for row in result.left_out for file in images.fitting(row.what)}
    unlisted = [
        LeftOut(images.name(file), "the export does not list it")
        for file in images.files
        if file not in listed and file not in told and file.suffix.lower() in ENDINGS
    ]
    if unlisted:
        named = ", ".join(row.what for row in unlisted[:NAMED])
        result.notes.append(f"{_count(len(unlisted), 'image file')} that the export does not list: {named}")
    result.unread += unlisted


def _find(exported: Sequence[Exported], images: ImageFiles, result: Conversion) -> list[_Found]:
    """The files of exported images. A file is that of the image whose path it fits best, and of no other."""
    claims: dict[tuple[Path, int], list[tuple[Match | None, Exported]]] = defaultdict(list)
    for image in exported:
        try:
            fit, file = (None, image.file) if image.file else images.match(image.path, subset=image.subset)
            claims[file, image.page].append((fit, image))
        except DataError as error:
            result.left_out.append(LeftOut(image.path, str(error)))
    found = []
    for (file, _), claimed in claims.items():
        source = images.name(file)
        # Who owns the file: the best fit; a path that is equal to it is the same image a second time.
        best = max(fit or CERTAIN for fit, _ in claimed)
        owners = [image for fit, image in claimed if (fit or CERTAIN) == best]
        if len({readings(image.path)[:1][0] for image in owners if readings(image.path)}) > 1:
            paths = ", ".join(image.path for image in owners[:NAMED])
            why = f"{source} may be each of {len(owners)} images of the export ({paths}); put it into its folder"
            result.left_out += [LeftOut(image.path, why) for image in owners]
            owners = []
        for _, image in claimed:
            if owners and image is owners[0]:
                found.append(_Found(image, file, source, owners[1:]))
            elif owners and image not in owners:
                why = f"there is no such file, only {source}, which is {owners[0].path}"
                result.left_out.append(LeftOut(image.path, why))
    return found


CERTAIN = Match(1 << 30, True, True, True, True, 0)  # the reader of the export knows the file


def _names(found: Sequence[_Found], images: ImageFiles) -> list[str]:
    """A name for people of each image, all different: as short as that allows."""
    pages = Counter(one.file for one in found)
    short = [one.image.name or _paged(one.file.stem, one, pages) for one in found]
    long = [_paged(images.short_name(one.file), one, pages) for one in found]
    longest = [_paged(one.source, one, pages) for one in found]
    names: list[str] = []
    taken: set[str] = set()
    counts = [Counter(names) for names in (short, long, longest)]
    for options in zip(short, long, longest, strict=True):
        fitting = [name for name, count in zip(options, counts, strict=True) if count[name] == 1 and name not in taken]
        number = len(names) + 1
        names.append(fitting[0] if fitting else f"{options[-1]} ({number})")
        taken.add(names[-1])
    return names


def _paged(name: str, one: _Found, pages: Mapping[Path, int]) -> str:
    return page_name(name, one.image.page) if pages[one.file] > 1 or one.image.page else name


def _shape(one: _Found, opened: _LastOpened) -> tuple[tuple[int, int], int]:
    """Height and width of an image as it is shown, and how many pages its file has.

    Raises:
        DataError: the file cannot be read, has no such page, or is of another size than what was annotated.
    """
    path, image = one.file, one.image
    if path.suffix.lower() not in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES):
        raise DataError(f"{path} is not one of {', '.join(IMAGE_SUFFIXES)}; convert it")
    pages = opened.pages(path)
    if not 0 <= image.page < len(pages):
        raise DataError(f"{path} has {_count(len(pages), 'page')}, page {image.page + 1} is annotated")
    shape, count = pages.sizes[image.page], len(pages)
    if image.shape not in (None, shape):
        height, width = image.shape
        raise DataError(
            f"{path} is {shape[1]}x{shape[0]} as it is shown, but was annotated at {width}x{height}; "
            "put the annotated image there"
        )
    return shape, count


def _shared(groups: Sequence[set[str | None]]) -> set[str | None]:
    """Groups that are in more than one of these sets."""
    counts = Counter(group for side in groups for group in side)
    return {group for group, count in counts.items() if count > 1}


def offering(rows: Iterable[Exported | LeftOut], labels: Collection[str]) -> Iterator[Exported | LeftOut]:
    """Rows of a document whose annotators could choose these labels; another document may have other ones."""
    for row in rows:
        yield replace(row, offered=labels) if isinstance(row, Exported) else row


def _truth(
    one: _Found, classes: Sequence[str], shape: tuple[int, int], without_area: Counter[str], result: Conversion
) -> tuple[dict[str, Mask], dict[str, bool | None]]:
    """Masks and presence of classes on an image, of this shape; adds to `without_area` and to what is unread.

    Raises:
        DataError: a region is of no class of the export.
    """
    masks: dict[str, Mask] = {}
    vague: set[str] = set()
    unknown: set[str] = set()
    for label in {region.label for region in one.image.regions} - {None, *classes}:
        raise DataError(f"{one.source}: its label {label!r} is not among the export's ({', '.join(classes)})")
    if len(one.image.regions) * shape[0] * shape[1] > MAX_DRAWING:
        raise DataError(
            f"{one.source} has {len(one.image.regions)} regions of its {shape[1]}x{shape[0]} pixels; unite them"
        )
    for region in one.image.regions:
        label = region.label
        if region.draw is None:
            if label is not None:
                vague.add(label)
                without_area[label] += 1
            continue
        try:
            mask = region.draw(shape)
            if not mask.any():
                raise DataError("it has no area within the image")
        except UNREADABLE as error:
            unknown |= {*masks} if label is None else {label}
            result.unread.append(LeftOut(f"{label or 'a cut'} on {one.source}", str(error) or type(error).__name__))
            continue
        if label is None:
            masks = {name: below & ~mask for name, below in masks.items()}
        else:
            masks[label] = masks[label] | mask if label in masks else mask
    presence: dict[str, bool | None] = {
        label: label in vague or (label in masks and bool(masks[label].any())) for label in classes
    }
    presence |= {label: said for label, said in one.image.presence.items() if label in presence and not presence[label]}
    offered = classes if one.image.offered is None else one.image.offered
    presence |= dict.fromkeys({label for label in classes if label not in offered and not presence[label]} | unknown)
    certain = {label: mask for label, mask in masks.items() if label not in vague | unknown and mask.any()}
    return certain, presence


def _unite(
    masks: dict[str, Mask],
    presence: dict[str, bool | None],
    offered: Collection[str] | None,
    masks_again: Mapping[str, Mask],
    presence_again: Mapping[str, bool | None],
    offered_again: Collection[str] | None,
) -> list[str]:
    """Add to the truth about an image what a second entry of it says; returns the classes on which they differ.

    Those become unknown. Of a class that only one of the two looked for, that one tells.
    """
    differing = []
    for label, said in presence_again.items():
        mask, again = masks.pop(label, None), masks_again.get(label)
        if presence[label] is None and offered is not None and label not in offered:
            presence[label], mask = said, again
        elif said is None and offered_again is not None and label not in offered_again:
            pass
        elif said != presence[label] or not np.array_equal(
            () if mask is None else mask, () if again is None else again
        ):
            differing.append(label)
            presence[label] = mask = None
        if mask is not None:
            masks[label] = mask
    return differing


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def number(fields: Mapping[str, Any], *names: str) -> list[float]:
    """Fields of a shape as finite numbers. Raises DataError naming the one that is none."""
    values = []
    for name in names:
        try:
            values.append(float(fields[name]))
        except (KeyError, TypeError, ValueError):
            values.append(np.nan)
        if not np.isfinite(values[-1]):
            raise DataError(f"{name} must be a number, it is {fields.get(name)!r}")
    return values


def runs(lengths: Sequence[int], shape: tuple[int, int]) -> Mask:
    """Alternating runs, the first one outside of the object, as a mask of shape (H, W), row after row.

    Raises:
        DataError: the runs do not fill the mask.
    """
    if any(length < 0 for length in lengths) or sum(lengths) != shape[0] * shape[1]:
        raise DataError(f"its run lengths must add up to {shape[1]}x{shape[0]}, they add up to {sum(lengths)}")
    values = np.arange(len(lengths)) % 2 == 1
    return np.asarray(np.repeat(values, lengths).reshape(shape))
