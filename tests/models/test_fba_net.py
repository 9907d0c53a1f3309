from dataclasses import asdict

import cv2
import numpy as np
import pytest
import torch

from models.config import FBANetConfig
from models.fba_net import FBANet, unknown_band
from models.pytorch_networks import pytorch_refiner
from models.refiner import Box, Subject, centre_map, cut, fba_matting, network_input, object_boxes, refine
from models.trimap import BACKGROUND, FOREGROUND, SIZE, UNKNOWN, TrimapConfig, trimap_from_mask

SMALL = FBANetConfig(widths=(8, 8, 8), crop_size=64)


def disc_subject(height=200, width=300):
    cam = np.zeros((SIZE, SIZE), np.float32)
    cv2.circle(cam, (512, 512), 200, 1.0, -1)
    trimap = trimap_from_mask((cam > 0).astype(np.uint8), TrimapConfig())
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return Subject(image, trimap, cv2.GaussianBlur(cam, (0, 0), 20).astype(np.float32))


def test_untrained_it_returns_the_map_inside_the_band():
    subject = disc_subject()
    alpha = refine(fba_matting(pytorch_refiner(FBANet(SMALL).eval(), "cpu")), [subject], 64)[0]
    trimap = cv2.resize(subject.trimap, (300, 200), interpolation=cv2.INTER_NEAREST)
    cam = cv2.resize(subject.cam, (300, 200))
    assert alpha.shape == (200, 300)
    assert np.abs(alpha - cam)[trimap == UNKNOWN].max() < 0.1  # resampled through the crop


@pytest.mark.parametrize("stride", [1, 2])
def test_the_boundary_lies_at_a_quarter_of_the_resolution_whatever_the_finest_level_is(stride):
    output = FBANet(FBANetConfig((8, 8, 8, 8), crop_size=64, stride=stride))(torch.rand(2, 12, 64, 64))
    assert output.raw.shape == output.alpha.shape == (2, 64, 64)
    assert output.boundary.shape == (2, 16, 16)
    assert output.features.shape == (2, 8, 16, 16)


@pytest.mark.parametrize("stride", [1, 2])
def test_single_pixels_are_seen_and_drawn(stride):
    """Each pixel of a cell is a channel of its own, at the same place when it is written."""
    torch.manual_seed(0)
    network = FBANet(FBANetConfig((8, 8, 8, 8), crop_size=64, stride=stride)).eval()
    torch.nn.init.normal_(network.out.weight, std=0.1)
    inputs = torch.zeros(1, 12, 64, 64)
    with torch.inference_mode():
        before = network(inputs).raw
        inputs[0, -1, 33, 30] = 1
        changed = (network(inputs).raw - before)[0].abs()
    assert changed[33, 30] > 0.5
    assert changed[33, 30] > 2 * changed[32, 30]


def test_a_card_of_before_there_were_strides_has_cells_of_one_pixel():
    stored = {"widths": [16, 32, 64, 96], "crop_size": 256}
    assert FBANetConfig.of(stored) == FBANetConfig((16, 32, 64, 96), 256, stride=1)
    assert FBANetConfig.of(asdict(FBANetConfig())) == FBANetConfig()


def test_known_pixels_are_written_back_against_the_network():
    network = FBANet(SMALL).eval()
    torch.nn.init.normal_(network.out.weight, std=10)
    subject = disc_subject()
    alpha = refine(fba_matting(pytorch_refiner(network, "cpu")), [subject], 64)[0]
    trimap = cv2.resize(subject.trimap, (300, 200), interpolation=cv2.INTER_NEAREST)
    assert (alpha[trimap == FOREGROUND] == 1).all()
    assert (alpha[trimap == BACKGROUND] == 0).all()
    assert alpha.min() >= 0
    assert alpha.max() <= 1


def test_gates_listen_to_the_predicted_boundary():
    """Moving the boundary head's bias changes alpha: the attention is driven by it."""
    torch.manual_seed(0)
    network = FBANet(SMALL).eval()
    torch.nn.init.normal_(network.out.weight, std=0.1)
    inputs = torch.rand(1, 12, 64, 64)
    inputs[:, 3:5] = 0
    with torch.no_grad():
        before = network(inputs).raw
        network.boundary.bias += 5
        after = network(inputs).raw
    assert not torch.allclose(before, after)


def test_the_band_is_what_is_neither_known():
    trimap = np.array([[BACKGROUND, UNKNOWN], [FOREGROUND, UNKNOWN]], np.uint8)
    inputs = network_input(np.zeros((2, 2, 3), np.uint8), trimap, np.zeros((2, 2), np.float32))
    assert unknown_band(torch.from_numpy(inputs[None]))[0].tolist() == [[False, True], [False, True]]


def test_a_trimap_without_a_known_side_is_no_division_by_zero():
    for value in (BACKGROUND, UNKNOWN, FOREGROUND):
        trimap = np.full((16, 16), value, np.uint8)
        inputs = network_input(np.zeros((16, 16, 3), np.uint8), trimap, np.zeros((16, 16), np.float32))
        assert inputs.shape == (12, 16, 16)
        assert np.isfinite(inputs).all()


def test_several_objects_are_several_crops():
    trimap = np.zeros((SIZE, SIZE), np.uint8)
    trimap[100:200, 100:200] = UNKNOWN
    trimap[700:1000, 600:900] = FOREGROUND
    boxes = object_boxes(trimap, 512, 512)
    assert [round(box.side / 1.3) for box in boxes] == [150, 50]


@pytest.mark.parametrize("scale", [1, 8])
def test_the_refiners_cost_is_that_of_the_objects_crops_at_any_size_of_the_frame(scale):
    """Two objects are two crops of 64 x 64 pixels; one without an unknown zone costs nothing."""
    trimap = np.zeros((SIZE, SIZE), np.uint8)
    for left in (50, 700):
        trimap[100:300, left : left + 200] = UNKNOWN
        trimap[150:250, left + 50 : left + 150] = FOREGROUND
    trimap[600:800, 300:500] = FOREGROUND
    image = np.zeros((100 * scale, 150 * scale, 3), np.uint8)
    pixels: list[int] = []

    def matting(crops):
        pixels.extend(crop.image.shape[0] * crop.image.shape[1] for crop in crops)
        return [crop.cam for crop in crops]

    refine(matting, [Subject(image, trimap, np.full((16, 16), 0.6, np.float32))], 64)
    assert pixels == [64 * 64] * 2


def test_a_box_over_the_edge_repeats_it():
    plane = np.arange(16, dtype=np.uint8).reshape(4, 4)
    part = cut(plane, Box(-2, -2, 4), 4, cv2.INTER_NEAREST)
    assert part.tolist() == [[0, 0, 0, 1]] * 3 + [[4, 4, 4, 5]]


def test_centring_moves_the_threshold_to_one_half_and_keeps_the_order():
    cam = np.linspace(0, 1, 101, dtype=np.float32)
    centred = centre_map(cam, 0.2)
    assert abs(centred[20] - 0.5) < 1e-4
    assert (np.diff(centred) >= 0).all()
