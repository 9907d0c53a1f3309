import cv2
import numpy as np
import pytest

from models.training.calibration import bias_shift, calibrate_presence
from models.training.data_folder import Sample


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_the_mean_probability_becomes_the_share(share):
    logits = np.random.default_rng(0).normal(2, 3, 200)
    shifted = logits + bias_shift(logits, share)
    assert np.mean(1 / (1 + np.exp(-shifted))) == pytest.approx(share, abs=1e-6)


def test_presence_is_calibrated_on_whole_frames(make_pipeline, tmp_path):
    """Class a is on one frame of four; class b on all, which leaves its bias alone; unknown labels do not count."""
    pipeline = make_pipeline()
    samples = []
    for i in range(8):
        path = tmp_path / f"{i}.png"
        cv2.imwrite(str(path), np.random.default_rng(i).integers(0, 256, (64, 64, 3)).astype(np.uint8))
        presence = {"a": i < 1, "b": True} if i < 4 else {"b": True}
        samples.append(Sample(str(i), path, {}, presence, False))
    before = pipeline.classifier.bias.detach().clone()
    calibrate_presence(pipeline, samples)
    known = [pipeline.predict([sample.read_image()])[0].presence["a"] for sample in samples[:4]]
    assert np.mean(known) == pytest.approx(0.25, abs=0.02)
    assert pipeline.classifier.bias[1] == before[1]
