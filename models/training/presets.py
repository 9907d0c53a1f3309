"""Presets of training, `--preset fast|paper|full`: duration, batches and learning rates."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One way to train.

    Attributes:
        epochs: passes over the training frames.
        min_steps: at least so many batches, however few the frames.
        batch: views a batch.
        view: side of a training view, pixels.
        rate: highest learning rate of the classifier's new layers.
        backbone_rate: factor on it for the pretrained backbone.
        refiner_share: FBANet's steps for each step of the classifier.
        checks: how often the held-out frames are scored.
        input_size: side of the square that a frame is fitted into, pixels; None to read it off the objects.
        frozen: share of the backbone's layers, from the image on, that keep their weights; one for light backbones,
            one for others on a CPU, where a step through all of them costs seconds.
        minutes: limit on the whole run where none is given; None for no limit.
    """

    epochs: int
    min_steps: int
    batch: int
    view: int
    rate: float
    backbone_rate: float
    refiner_share: float
    checks: int
    input_size: int | None = None
    frozen: tuple[float, float] = (0.0, 0.0)
    minutes: float | None = None


PRESETS = {
    # On demand, on two CPU cores: the learning rate falls to 0 within the minutes on machines of any speed.
    # Small batches: more steps.
    "fast": Preset(
        epochs=120, min_steps=2400, batch=4, view=288, rate=1.5e-3, backbone_rate=0.6, refiner_share=0.2, checks=5,
        frozen=(0.19, 0.64), minutes=10.0,
    ),
    # Table 1 of the paper as printed; its learning rate "12^-4" is read as 1e-4.
    "paper": Preset(
        epochs=75, min_steps=60, batch=32, view=512, rate=1e-4, backbone_rate=1.0, refiner_share=0.5, checks=25,
        input_size=512,
    ),
    "full": Preset(
        epochs=150, min_steps=900, batch=16, view=384, rate=1e-3, backbone_rate=0.3, refiner_share=0.5, checks=20,
    ),
}  # fmt: skip
