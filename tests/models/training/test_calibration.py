import cv2
import numpy as np
import pytest

from models.training.calibration import calibrate_presence, platt_line
from models.training.data_folder import Sample


def test_the_line_is_the_one_that_made_the_labels():
    """Labels drawn with probability sigmoid(2 x - 1): slope and offset come back, whatever the scores' unit."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 2, 20_000)
    present = rng.random(len(x)) < 1 / (1 + np.exp(-(2 * x - 1)))
    slope, offset = platt_line(x * 10 + 7, present)
    assert slope * 10 == pytest.approx(2, abs=0.1)
    assert offset + slope * 7 == pytest.approx(-1, abs=0.1)


def test_scores_that_tell_all_apart_get_a_finite_line_between_them():
    scores = np.array([-1.0, -0.9, -0.8, 0.1, 0.2])
    present = np.array([False, False, False, True, True])
    slope, offset = platt_line(scores, present)
    assert 0 < slope < 1000
    assert ((slope * scores + offset > 0) == present).all()


def test_presence_is_calibrated_on_whole_frames(make_pipeline, tmp_path):
    """Class a is on one frame of four; class b on all, which leaves its line alone; unknown labels do not count."""
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
    # Platt's targets: 2/3 for the one positive, 1/5 for the three negatives.
    assert np.mean(known) == pytest.approx((2 / 3 + 3 / 5) / 4, abs=0.05)
    assert pipeline.classifier.bias[1] == before[1]
