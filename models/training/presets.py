"""How long and how hard to train: `--preset paper|fast|full`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """One way to train.

    Attributes:
        epochs: passes over the training frames.
        least_steps: at least so many batches, however few the frames.
        batch: views a batch.
        input_size: side of the square that a frame is fitted into, pixels; None to read it off the objects.
        view: side of a training view, pixels.
        rate: highest learning rate of the classifier's new layers.
        backbone_rate: factor on it for the pretrained backbone.
        frozen: share of the backbone's layers, from the image on, that keep their weights; one for light backbones,
            one for others on a CPU, where a step through all of them costs seconds.
        refiner_share: FBANet's steps for each step of the classifier.
        checks: how often the held-out frames are scored.
        minutes: limit on the whole run where none is given: for light backbones, and for others; None for no limit.
    """

    epochs: int
    least_steps: int
    batch: int
    input_size: int | None
    view: int
    rate: float
    backbone_rate: float
    refiner_share: float
    checks: int
    frozen: tuple[float, float] = (0.0, 0.0)
    minutes: tuple[float, float] | None = None


PRESETS = {
    # On demand, on two CPU cores: the learning rate falls to 0 within the minutes, whatever the machine's speed.
    # Small batches: more steps.
    "fast": Preset(120, 2400, 4, None, 288, 1.5e-3, 0.6, 0.2, 5, (0.19, 0.64), (10.0, 20.0)),
    # Table 1 of the paper as printed; its learning rate "12^-4" is read as 1e-4.
    "paper": Preset(75, 60, 32, 512, 512, 1e-4, 1.0, 0.5, 25),
    "full": Preset(150, 900, 16, None, 384, 1e-3, 0.3, 0.5, 20),
}
