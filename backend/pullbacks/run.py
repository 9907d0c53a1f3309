"""An import: pullbacks are found, their frames decoded and sent, those that are there already passed over."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from backend.errors import PullbackError
from backend.pullbacks.destination import Destination, Frame
from backend.pullbacks.find import Found, Pullback, Source
from backend.pullbacks.names import Pseudonyms, read_pseudonyms
from backend.pullbacks.origins import record_origins, same_pullback
from models.data.dicom import series_scale
from models.data.files import MAX_PIXELS, open_image
from models.data.pages import Pages
from models.data.png import encode_png
from models.data.scan_conversion import scan_convert, side_of
from models.errors import DataError

SQUARE = 1e-3  # relative difference up to which pixels count as square
FIGURES = 6  # significant ones of mm per pixel

Box = tuple[int, int, int, int]
Move = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Plan:
    """How frames become tasks.

    Attributes:
        every: one frame of so many is taken, beginning with the first.
        series: name for the series, "" for a pseudonym; several pullbacks get it with a few digits more.
        patient: the patient of all pullbacks, "" for whom the files state.
        mm_per_pixel: of all pullbacks, None for what the files state.
        keep_names: patients and file names as they are, no pseudonyms.
        black_out: boxes x0, y0, x1, y1 that become black, in pixels; the right and lower edge are not part of it.
    """

    every: int = 1
    series: str = ""
    patient: str = ""
    mm_per_pixel: float | None = None
    keep_names: bool = False
    black_out: tuple[Box, ...] = ()


@dataclass
class Imported:
    """What became of one pullback.

    Attributes:
        series: its name in the tasks' data.
        patient: as in the tasks' data.
        source: file or folder.
        frames: how many it has.
        chosen: how many of them are to be tasks.
        present: how many of these were there before.
        created: how many tasks were created.
        mm_per_pixel: one figure, or those along x and y where they differ; None if the files do not say.
        scan_converted: whether A-lines were made into cross-sections.
    """

    series: str
    patient: str
    source: str
    frames: int
    chosen: int
    present: int = 0
    created: int = 0
    mm_per_pixel: float | list[float] | None = None
    scan_converted: bool = False


@dataclass
class Report:
    """What became of an import.

    Attributes:
        pullbacks: one entry each.
        left_out: file or frame -> why, a sentence.
        notes: sentences for people.
    """

    pullbacks: list[Imported] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def created(self) -> int:
        """Tasks that were created."""
        return sum(one.created for one in self.pullbacks)

    @property
    def present(self) -> int:
        """Chosen frames that were there before."""
        return sum(one.present for one in self.pullbacks)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "created": self.created,
            "present": self.present,
            "pullbacks": [asdict(one) for one in self.pullbacks],
            "left_out": [{"what": what, "why": why} for what, why in self.left_out.items()],
            "notes": self.notes,
        }


def import_pullbacks(found: Found, destination: Destination, folder: Path, plan: Plan, move: Move) -> Report:
    """Send the frames of pullbacks that are not there yet, in order.

    Args:
        found: the pullbacks.
        destination: where they go.
        folder: `pullbacks` of the data folder, for the salt and the origins; it is created.
        plan: how frames become tasks.
        move: called with frames done, frames in all and the series at hand.

    Raises:
        PullbackError: nothing can be read, a name is another pullback's, a box to black out lies outside a frame, or
            another import runs in the same data folder.
        LabelStudioError: Label Studio refuses; a second run goes on where this one ended.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            return _import(found, destination, folder, plan, move)
    except Timeout:
        raise PullbackError(f"another import with the data folder {folder.parent} is running; wait for it") from None


def _import(found: Found, destination: Destination, folder: Path, plan: Plan, move: Move) -> Report:
    pseudonyms = read_pseudonyms(folder)
    report = Report(left_out=dict(found.left_out), notes=list(destination.notes))
    present = destination.present()
    work: list[tuple[Imported, Pullback, list[int]]] = []
    for pullback in found.pullbacks:
        alone = len(found.pullbacks) == 1 or (plan.series and same_pullback(folder, plan.series, pullback.frames))
        entry = _entry(pullback, pseudonyms, plan, alone=bool(alone))
        record_origins(folder, entry.series, pullback.frames)
        chosen = range(0, len(pullback.frames), plan.every)
        missing = [index for index in chosen if (entry.series, index + 1) not in present]
        entry.chosen, entry.present = len(chosen), len(chosen) - len(missing)
        report.pullbacks.append(entry)
        work.append((entry, pullback, missing))
    report.notes += _warnings(work, plan)
    total = sum(len(missing) for _, _, missing in work)
    done = 0
    for entry, pullback, missing in work:
        prefix = pseudonyms.of("pullback", entry.series)
        digits = len(str(len(pullback.frames)))
        for index, image in _decoded(pullback.frames, missing, report.left_out):
            number = index + 1
            data = {"series": entry.series, "frame": number, "patient": entry.patient}
            if entry.mm_per_pixel is not None:
                data["mm_per_pixel"] = entry.mm_per_pixel
            png = encode_png(_blacked_out(image, plan.black_out, pullback.title))
            name = f"{prefix}-{number:0{digits}d}.png"
            destination.add(Frame((entry.series, number), name, png, data))
            entry.created += 1
            done += 1
            move(done, total, entry.series)
    destination.flush()
    if not report.created and not report.present:
        what, why = next(iter(report.left_out.items()), ("the folders", "they hold no images"))
        raise PullbackError(f"nothing was imported: {what}: {why}")
    return report


def _entry(pullback: Pullback, pseudonyms: Pseudonyms, plan: Plan, *, alone: bool) -> Imported:
    own = pseudonyms.of("pullback", pullback.identity)
    some = own.rpartition("-")[2][:6]
    if plan.series:
        series = plan.series if alone else f"{plan.series}-{some}"
    else:
        series = f"{pullback.title}-{some}" if plan.keep_names else own
    patient = plan.patient or pullback.patient
    if not plan.keep_names or not patient:
        patient = pseudonyms.of("patient", patient.casefold() or pullback.identity)
    first = pullback.frames[0]
    source = first.path if all(one.path == first.path for one in pullback.frames) else first.path.parent
    return Imported(
        series=series,
        patient=patient,
        source=str(source),
        frames=len(pullback.frames),
        chosen=0,
        mm_per_pixel=_mm_per_pixel(pullback, plan),
        scan_converted=pullback.header is not None and bool(pullback.header.scans),
    )


def _mm_per_pixel(pullback: Pullback, plan: Plan) -> float | list[float] | None:
    header = pullback.header
    spacing = header.spacing if header is not None else None
    if spacing is not None and header is not None and header.scans:
        coarser = 2 * header.radius / side_of(header.radius)
        spacing = (spacing[0] * coarser, spacing[1] * coarser)
    if plan.mm_per_pixel is not None:
        spacing = (plan.mm_per_pixel, plan.mm_per_pixel)
    if spacing is None:
        return None
    x, y = (float(f"{value:.{FIGURES}g}") for value in spacing)
    return x if abs(x - y) <= SQUARE * max(x, y) else [x, y]


def _warnings(work: Sequence[tuple[Imported, Pullback, list[int]]], plan: Plan) -> list[str]:
    notes = []
    for entry, pullback, missing in work:
        if missing and pullback.may_show_text and not plan.black_out:
            header = pullback.header
            why = (
                "a film shows what the console's screen showed"
                if header is None
                else f"Burned In Annotation is {header.burned_in or 'not stated'}"
            )
            notes.append(
                f"{entry.source}: names may be burnt into the pixels, and are sent with them: {why}; look at a frame, "
                "and black them out by --black-out X0,Y0,X1,Y1"
            )
    silent = [entry.source for entry, _, missing in work if missing and entry.mm_per_pixel is None]
    if silent:
        more = f" and {len(silent) - 1} more" if len(silent) > 1 else ""
        notes.append(f"how many mm a pixel has is not said by {silent[0]}{more}; --mm-per-pixel can")
    return notes


def _decoded(
    sources: Sequence[Source], indices: Sequence[int], left_out: dict[str, str]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Frames as RGB (H, W, 3), or grey (H, W) where all channels are equal; those that cannot be read are noted."""
    files = list(dict.fromkeys(source.path for source in sources))
    several = sources[0].header is not None and len(files) > 1
    scale = series_scale(files, MAX_PIXELS) if several and indices else None
    with ExitStack() as stack:
        path: Path | None = None
        pages: Pages | None = None
        for index in indices:
            source = sources[index]
            try:
                if source.path != path or pages is None:
                    stack.close()
                    path, pages = source.path, stack.enter_context(open_image(source.path, scale))
                image = pages.read(source.page)
                if source.header is not None and source.header.scans:
                    image = scan_convert(image, source.header.scans[source.page], source.header.radius)
            except (ValueError, IndexError, DataError) as error:
                why = str(error).removeprefix(f"{source.path} cannot be read as an image: ")
                left_out[f"{source.path} frame {source.page + 1}"] = why
                continue
            grey = (image == image[:, :, :1]).all()
            yield index, np.ascontiguousarray(image[:, :, 0]) if grey else image


def _blacked_out(image: NDArray[np.uint8], boxes: Sequence[Box], title: str) -> NDArray[np.uint8]:
    if not boxes:
        return image
    image = image.copy()
    for box in boxes:
        x0, y0, x1, y1 = box
        if x0 >= image.shape[1] or y0 >= image.shape[0]:
            size = f"{image.shape[1]} x {image.shape[0]}"
            raise PullbackError(
                f"--black-out {','.join(map(str, box))} lies outside a frame of {size} pixels of {title}"
            )
        image[y0:y1, x0:x1] = 0
    return image


def parse_box(text: str) -> Box:
    """A box such as "0,0,300,40".

    Raises:
        ValueError: it is no such text, or holds no pixel.
    """
    match = re.fullmatch(r"\s*(\d{1,6})\s*,\s*(\d{1,6})\s*,\s*(\d{1,6})\s*,\s*(\d{1,6})\s*", text)
    if match is None:
        raise ValueError(f"{text!r} should be four whole numbers X0,Y0,X1,Y1")
    x0, y0, x1, y1 = (int(one) for one in match.groups())
    if x0 >= x1 or y0 >= y1:
        raise ValueError(f"{text!r} holds no pixel: X1 must be above X0, and Y1 above Y0")
    return x0, y0, x1, y1
