"""What a training is asked for."""

from dataclasses import dataclass
from pathlib import Path

from models.training.presets import PRESETS


@dataclass(frozen=True)
class TrainingSpec:
    """Data, beginning and limits of a training.

    Attributes:
        data: data folder.
        out: checkpoint folder to write; must not exist.
        name: model version for the card.
        parent: checkpoint to begin from, or None.
        preset: a name in `PRESETS`.
        backbone: timm name, or "auto": the parent's, else the best whose pretrained weights are at hand.
        weights: file of backbone weights (safetensors, timm's keys), or None.
        from_scratch: go on without pretrained weights where there are none.
        epochs: instead of the preset's.
        minutes: limit on the whole run, or None for the preset's.
        seed: of all randomness.
        device: cpu, cuda, cuda:N, or auto for the GPUs, if there are any.
        processes: how many share each batch; None for one on each GPU with cuda and auto, and for one otherwise.
        tolerance: by how much a promoted model's mean IoU may fall against the parent's; see `promotion.verdict`.
        skip_bad: leave out inconsistent files instead of failing.
        wall: the class on whose wall the others lie; "auto" for the parent's, where the data has it; or "none".
        contrast: weight of FBANet's contrastive term, by which frames without masks help; 0 for none.
        as_drawn: names of images that were accepted as some model had drawn them: they are no evidence for another.
    """

    data: Path
    out: Path
    name: str
    parent: Path | None = None
    preset: str = "fast"
    backbone: str = "auto"
    weights: Path | None = None
    from_scratch: bool = False
    epochs: int | None = None
    minutes: float | None = None
    seed: int = 0
    device: str = "cpu"
    processes: int | None = None
    tolerance: float = 0.01
    skip_bad: bool = False
    wall: str = "auto"
    contrast: float = 0.0
    as_drawn: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for values that no training could use."""
        if self.preset not in PRESETS:
            raise ValueError(f"no preset {self.preset!r}; there are {', '.join(PRESETS)}")
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {self.epochs}")
        if self.processes is not None and self.processes < 1:
            raise ValueError(f"processes must be at least 1, got {self.processes}")
        if self.minutes is not None and self.minutes <= 0:
            raise ValueError(f"minutes must be above 0, got {self.minutes}")
        if self.contrast < 0:
            raise ValueError(f"contrast must be 0 or more, got {self.contrast}")
