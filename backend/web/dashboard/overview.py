"""Tables, figures and charts of the pages, made from reports on jobs and versions alone."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from backend.jobs.outlook import Outlook
from backend.jobs.training import class_doubts
from backend.web.dashboard.chart import Chart, line_chart

Report = Mapping[str, Any]

HELPFUL = 0.5  # IoU, as in `models.training.promotion`, which loads networks
FEW = 10  # accepted tasks with a class below which it is said to lack examples


@dataclass(frozen=True)
class ClassRow:
    """A class: its data and its figures.

    Attributes:
        name: the class.
        number: of its colour.
        accepted: accepted tasks on which it is, None if no training has counted them.
        held_out: held-out tasks on which it is.
        iou, boundary_f: the shown version's on those, None without any.
        lacks: what it lacks, "" if nothing.
    """

    name: str
    number: int
    accepted: int | None
    held_out: int
    iou: float | None
    boundary_f: float | None
    lacks: str


@dataclass(frozen=True)
class AcceptanceRow:
    """Acceptance statistics of a version: how much of the masks that it drew annotators kept.

    Attributes:
        version: who drew them.
        drawn: masks.
        iou: mean intersection over union with the accepted masks, None if none was drawn.
        unchanged: masks accepted as drawn.
        added: accepted masks on tasks where none was drawn.
        classes: class -> {"drawn", "iou", "unchanged", "added"}.
    """

    version: str
    drawn: int
    iou: float | None
    unchanged: int
    added: int
    classes: Mapping[str, Report]


def accepted_tasks(version: Report) -> int | None:
    """Accepted tasks that a version's training had, those held out among them."""
    data = version.get("data") or {}
    if "train" in data:
        return int(data["train"]) + int(data.get("held_out") or 0)
    return version.get("accepted")


def standing(job: Report, versions: Sequence[Report]) -> tuple[str, str]:
    """A finished training as it stands now: a badge, and a sentence.

    What came of it then may have been undone since, and a version that does not help is no success.
    """
    version = next((one for one in versions if one["version"] == job.get("version")), None)
    if job["state"] != "done" or version is None or version["state"] == "removed":
        said = job.get("reason") if job["state"] == "failed" else job.get("message")
        return str(job["state"]), str(said or "")
    evidence = version.get("evidence") or {}
    doubtful = any(found["state"] != "measured" for found in (evidence.get("classes") or {}).values())
    name, missing = version["version"], evidence.get("missing") or ""
    if version["state"] == "served":
        if missing:
            return "doubtful", f"{name} is served, promoted by hand; {missing}"
        return ("doubtful" if doubtful else "served"), f"{name} is served. {doubts(version)}".strip()
    if version["state"] == "retired":
        return "retired", f"{name} was served before, and is not any more"
    return "candidate", f"{name} is a candidate; {missing or 'promote it to have it served'}"


def doubts(version: Report | None) -> str:
    """The weak and the unmeasured classes of a version, "" without any."""
    return class_doubts((version or {}).get("evidence") or {})


def compared(versions: Sequence[Report]) -> Report | None:
    """The newest version that is there with pictures of it and the one before, side by side."""
    return next(
        (
            version
            for version in reversed(versions)
            if version["state"] in ("candidate", "served", "retired")
            and any(image.get("end") == "differs" for image in version.get("gallery") or ())
        ),
        None,
    )


def colours(names: Sequence[str], outlook: Outlook | None, jobs: Iterable[Report]) -> dict[str, str]:
    """The classes' colours in Label Studio, where it gives them one."""
    told = outlook.colours if outlook and outlook.colours else {}
    found = told or next((c for job in jobs if (c := (job.get("report") or {}).get("colours"))), {})
    return {name: found[name] for name in names if name in found}


def expected_gain(versions: Sequence[Report], new: int) -> float | None:
    """What another training may add to the served version's mean IoU; None where nothing tells.

    Accuracy grows about with the logarithm of the examples. The slope is this project's own: of each version's gain
    over the one before it, on the same tasks.
    """
    pairs = []
    for version in versions:
        now, before = mean_iou(version.get("metrics")), mean_iou(version.get("before"))
        parent = next((one for one in versions if one["version"] == version.get("parent")), None)
        tasks, fewer = accepted_tasks(version), accepted_tasks(parent) if parent else None
        if None not in (now, before, tasks, fewer) and 0 < (fewer or 0) < (tasks or 0):
            pairs.append((math.log((tasks or 1) / (fewer or 1)), (now or 0.0) - (before or 0.0)))
    served = next((version for version in versions if version["state"] == "served"), None)
    learnt = accepted_tasks(served) if served else None
    if not pairs or not learnt or new <= 0:
        return None
    slope = sum(x * y for x, y in pairs) / sum(x * x for x, _ in pairs)
    return max(slope, 0.0) * math.log((learnt + new) / learnt)


def mean_iou(figures: Report | None) -> float | None:
    """A model's mean IoU, None if it is not known."""
    return (figures or {}).get("mean_iou")


def class_names(versions: Iterable[Report], jobs: Iterable[Report]) -> list[str]:
    """Every class that was ever trained, so that each keeps its colour; those of the first version first."""
    named = [version.get("classes") or (version.get("metrics") or {}).get("classes") or () for version in versions]
    counted = [(job.get("report") or {}).get("classes") or () for job in jobs]
    return list(dict.fromkeys(name for names in (*named, *counted) for name in names))


def class_rows(names: Sequence[str], version: Report | None, jobs: Iterable[Report]) -> list[ClassRow]:
    """The classes of a project.

    Args:
        names: in the order of their colours.
        version: whose figures are shown.
        jobs: newest first; the first that counted accepted tasks is believed.
    """
    counts = next((counts for job in jobs if (counts := (job.get("report") or {}).get("classes"))), None)
    known = ((version or {}).get("metrics") or {}).get("classes") or {}
    rows = []
    for number, name in enumerate(names):
        if counts is not None and name not in counts:
            continue  # the labelling config no longer has it
        figures = known.get(name) or {}
        accepted, held_out = None if counts is None else int(counts[name]), int(figures.get("frames") or 0)
        if version is None and counts is None:
            lacks = ""
        elif accepted == 0:
            lacks = "no accepted task shows it"
        elif accepted is not None and accepted < FEW:
            lacks = f"few: {FEW - accepted} more would help"
        elif version is not None and held_out == 0:
            lacks = "not measured: none held out"
        elif (figures.get("iou") or 0.0) < HELPFUL and figures.get("iou") is not None:
            lacks = f"weak: below {HELPFUL:g} a mask takes about as long to correct as to draw"
        else:
            lacks = ""
        rows.append(ClassRow(name, number, accepted, held_out, figures.get("iou"), figures.get("boundary_f"), lacks))
    return rows


def kept_rows(jobs: Iterable[Report]) -> list[AcceptanceRow]:
    """Acceptance statistics of each version, oldest version first.

    Predictions are deleted now and then, and their masks are missing from later counts: of each version the count with
    the most masks is believed.
    """
    best: dict[str, AcceptanceRow] = {}
    for job in jobs:
        report = job.get("report") or {}
        # Records of earlier releases have it under another name.
        for version, classes in (report.get("acceptance") or report.get("kept") or {}).items():
            row = _kept_row(version, classes)
            if version not in best or row.drawn > best[version].drawn:
                best[version] = row
    return sorted((row for row in best.values() if row.drawn or row.added), key=lambda row: _by_number(row.version))


def annotator_rows(jobs: Iterable[Report]) -> list[AcceptanceRow]:
    """Acceptance statistics of each annotator at the last training that counted them, the busiest first."""
    told = (dict[str, Report]((job.get("report") or {}).get("annotators") or {}) for job in jobs)
    counted: dict[str, Report] = next(filter(None, told), {})
    rows = [_kept_row(name, classes) for name, classes in counted.items()]
    return sorted((row for row in rows if row.drawn or row.added), key=lambda row: (-row.drawn, row.version))


def kept_by_class(names: Sequence[str], rows: Iterable[AcceptanceRow]) -> list[AcceptanceRow]:
    """Acceptance statistics of each class over all versions, under the class's name."""
    found = []
    for name in names:
        of = {row.version: row.classes[name] for row in rows if name in row.classes}
        if of:
            found.append(replace(_kept_row(name, of), classes={}))
    return found


def kept_in_all(rows: Sequence[AcceptanceRow]) -> AcceptanceRow:
    """All versions together."""
    drawn = sum(row.drawn for row in rows)
    return AcceptanceRow(
        "all",
        drawn,
        sum((row.iou or 0) * row.drawn for row in rows) / drawn if drawn else None,
        sum(row.unchanged for row in rows),
        sum(row.added for row in rows),
        {},
    )


def minutes_saved(kept: AcceptanceRow, minutes_per_mask: float | None) -> float | None:
    """Minutes that drawing the kept masks by hand would have taken; None where the time of a mask is not set.

    The share of a mask that is kept saves about as large a share of its drawing: in the paper, automatic masks of IoU
    0.713 cut a frame from 176.3 s by hand to 54.5 s, by 0.69.
    """
    if minutes_per_mask is None or kept.iou is None:
        return None
    return minutes_per_mask * kept.iou * kept.drawn


def iou_by_version(names: Sequence[str], versions: Sequence[Report]) -> Chart | None:
    """IoU of each class on held-out tasks, over the versions."""
    measured = [version for version in versions if mean_iou(version.get("metrics")) is not None]
    ticks = [short(version["version"]) for version in measured]
    return line_chart(range(len(measured)), ticks, _iou(names, measured), counted=False)


def iou_by_tasks(names: Sequence[str], versions: Sequence[Report]) -> Chart | None:
    """IoU of each class on held-out tasks, over the number of accepted tasks."""
    measured = [v for v in versions if mean_iou(v.get("metrics")) is not None and accepted_tasks(v) is not None]
    counts = [accepted_tasks(version) or 0 for version in measured]
    ticks = [f"{short(v['version'])}, {n} tasks" for v, n in zip(measured, counts, strict=True)]
    return line_chart(counts, ticks, _iou(names, measured), counted=True)


def kept_by_version(names: Sequence[str], rows: Sequence[AcceptanceRow]) -> Chart | None:
    """IoU of drawn with accepted masks of each class, over the versions that drew them."""
    series = {
        name: [row.classes[name]["iou"] if row.classes.get(name, {}).get("drawn") else None for row in rows]
        for name in names
    }
    return line_chart(range(len(rows)), [short(row.version) for row in rows], series, counted=False)


def short(version: str) -> str:
    """r007 for p3-r007-lite0; other names as they are."""
    parts = version.split("-")
    return parts[1] if len(parts) > 1 and parts[1][1:].isdigit() else version


def _iou(names: Sequence[str], versions: Sequence[Report]) -> dict[str, list[float | None]]:
    figures = [version["metrics"].get("classes") or {} for version in versions]
    series = {name: [(classes.get(name) or {}).get("iou") for classes in figures] for name in names}
    # Old cards have no figures by class.
    return series if any(figures) else {"mean": [mean_iou(version["metrics"]) for version in versions]}


def _kept_row(version: str, classes: Mapping[str, Report]) -> AcceptanceRow:
    drawn = sum(int(kept["drawn"]) for kept in classes.values())
    iou = sum(kept["iou"] * kept["drawn"] for kept in classes.values()) / drawn if drawn else None
    unchanged, added = (sum(int(kept[name]) for kept in classes.values()) for name in ("unchanged", "added"))
    return AcceptanceRow(version, drawn, iou, unchanged, added, classes)


def _by_number(version: str) -> tuple[int, str]:
    """The starter and other strangers come before the project's own versions."""
    name = short(version)
    return (int(name[1:]) if name != version else -1, version)
