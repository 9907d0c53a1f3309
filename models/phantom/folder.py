"""Phantoms as a data folder, as training and evaluation read it."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from models.data.writer import DataFolderWriter
from models.errors import DataError
from models.phantom import leaf, surface, truth, ultrasound
from models.phantom.frame import Phantom, render_phantom
from models.phantom.vessel.frame import render_vessel

RARE = 3  # images of a folder on which a rare class is


@dataclass(frozen=True)
class Kind:
    """A kind of synthetic project.

    Attributes:
        classes: in the order of classes.txt.
        size: longer side of the largest images, in pixels, unless another is asked for.
        render: (seed, size, difficulty) -> image and truth.
        render_rare: the same with the class that is on RARE images only; None where there is none such.
    """

    classes: tuple[str, ...]
    size: int
    render: Callable[[int, int, float], Phantom]
    render_rare: Callable[[int, int, float], Phantom] | None = None


KINDS = {
    "oct": Kind(truth.CLASSES, 512, render_phantom),
    "vessel": Kind(truth.CLASSES, 512, render_vessel),
    "leaf": Kind(leaf.CLASSES, 1100, leaf.render_leaf, partial(leaf.render_leaf, holes=True)),
    "surface": Kind(surface.CLASSES, 1000, surface.render_surface),
    "ultrasound": Kind(ultrasound.CLASSES, 800, ultrasound.render_ultrasound),
}


def write_phantoms(
    out: Path,
    count: int,
    seed: int,
    size: int | None = None,
    difficulty: float = 0.5,
    progress: Callable[[int, int], None] | None = None,
    kind: str = "oct",
    styles: Sequence[int] | None = None,
) -> None:
    """Write `count` phantoms as a data folder: images, masks, classes.txt and split.json.

    The last quarter of the names is the val split. Folders of different seeds share no frame. `out` appears when
    it is complete, or not at all.

    Args:
        out: a folder that does not exist yet or is empty.
        count: number of frames, at least 1.
        seed: not negative.
        size: longer side of the largest images, in pixels; OCT frames are squares of it. None for the kind's own.
        difficulty: see `render_phantom`.
        progress: called with (frames done, count) after each frame.
        kind: one of `KINDS`.
        styles: of frames of the kind "vessel", taken in turn; None for each seed's own.

    Raises:
        DataError: `out` holds something already or cannot be written, `count` is below 1, or styles are asked of
            another kind than "vessel".
        ValueError: see `render_phantom` and `render_vessel`.
    """
    if count < 1:
        raise DataError(f"cannot write {count} phantoms; ask for at least 1")
    if styles is not None and kind != "vessel":
        raise DataError(f"only phantoms of the kind vessel have styles, not {kind}")
    made = KINDS[kind]
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is not an empty folder; choose another one or remove it first")
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        draft.chmod(0o755)  # mkdtemp's own mode would lock out other users
        names = [f"phantom-{number:05d}" for number in range(1, count + 1)]
        rare = {round((i + 0.5) * count / RARE) for i in range(RARE)}  # the last of them is in the val split
        train = max(1, count - round(count / 4))
        with DataFolderWriter(draft, made.classes, plain=True) as folder:
            for done, name in enumerate(names, start=1):
                # Hashed, not seed + done: neighbouring seeds would share all frames but one.
                frame_seed = int(np.random.SeedSequence([seed, done]).generate_state(1, np.uint64)[0])
                render = made.render_rare if made.render_rare and done in rare else made.render
                if styles is not None:
                    render = partial(render_vessel, style=styles[done % len(styles)])
                phantom = render(frame_seed, size or made.size, difficulty)
                folder.add(name, phantom.image, phantom.masks, presence=None)
                if progress is not None:
                    progress(done, count)
            folder.write_split({"train": names[:train], "val": names[train:]})
        draft.replace(out)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise DataError(f"{out} cannot be written: {error}; check the free space and the permissions") from error
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
