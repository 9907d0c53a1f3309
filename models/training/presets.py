"""How long and how hard to train: `--preset paper|fast|full`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """One way to train.

    Attributes:
        epochs: passes over the training frames.
        least_steps: at least so many batches, however few the frames.
        batch: views a batch.
        input_size: side of the square that a frame is fitted into, pixels.
        view: side of a training view, pixels.
        rate: highest learning rate of the classifier's new layers.
        backbone_rate: factor on it for the pretrained backbone.
        refiner_share: FBANet's steps for each step of the classifier.
    """

    epochs: int
    least_steps: int
    batch: int
    input_size: int
    view: int
    rate: float
    backbone_rate: float
    refiner_share: float


PRESETS = {
    # On demand, on two CPU cores; `--minutes` cuts it short in good order.
    "fast": Preset(40, 60, 8, 512, 288, 1e-3, 0.3, 0.5),
    # Table 1 of the paper as printed; its learning rate "12^-4" is read as 1e-4.
    "paper": Preset(75, 60, 32, 512, 512, 1e-4, 1.0, 0.5),
    "full": Preset(120, 600, 16, 512, 384, 1e-3, 0.3, 0.5),
}
