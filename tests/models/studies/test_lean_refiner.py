"""How a lean refiner learns from an earlier one, in rehearsal: a step or two of everything."""

import pytest
import torch

from models.checkpoint import check_weights
from models.fba_net import CHANNELS
from models.phantom import write_phantoms
from models.studies import lean_refiner
from models.studies.lean_refiner import LeanFBANet, imitation_loss, load_student, main


def test_imitating_costs_nothing_outside_the_band_or_beyond_what_is_sure():
    band = torch.tensor([[[True, True, True, False]]])
    taught = torch.tensor([[[1.3, -0.2, 0.5, 0.0]]])
    assert imitation_loss(torch.tensor([[[1.5, -4.0, 0.5, 9.0]]]), taught, band) == 0
    assert imitation_loss(torch.tensor([[[0.7, 0.3, 0.5, 9.0]]]), taught, band).item() == pytest.approx(0.2)
    assert imitation_loss(taught, taught, torch.zeros_like(band)) == 0


@pytest.mark.parametrize("norms", [False, True])
def test_it_reads_and_writes_what_fbanet_does(norms):
    """Untrained it returns the map, known pixels are written back, the boundary is at a quarter of the resolution."""
    torch.manual_seed(0)
    network = LeanFBANet((8, 8, 8), norms=norms).eval()
    inputs = torch.rand(2, CHANNELS, 64, 64)
    inputs[:, 3:5] = 0
    inputs[:, 3, :8], inputs[:, 4, 8:16] = 1, 1
    with torch.inference_mode():
        output = network(inputs)
    torch.testing.assert_close(output.raw, inputs[:, -1])
    assert (output.alpha[:, :8] == 0).all()
    assert (output.alpha[:, 8:16] == 1).all()
    assert output.boundary.shape == (2, 16, 16)
    assert output.features.shape == (2, 8, 16, 16)


def test_it_sees_and_draws_single_pixels():
    """Each pixel of a block of 2 x 2 is a channel of its own, at the same place when it is written."""
    torch.manual_seed(0)
    network = LeanFBANet((8, 8, 8), norms=False).eval()
    torch.nn.init.normal_(network.out.weight, std=0.1)
    inputs = torch.zeros(1, CHANNELS, 64, 64)
    with torch.inference_mode():
        before = network(inputs).raw
        inputs[0, -1, 33, 30] = 1
        changed = (network(inputs).raw - before)[0].abs()
    assert changed[33, 30] > 0.5
    assert changed[33, 30] > 2 * changed[32, 30]


def test_it_is_taught_by_the_first_refiner_and_by_a_models(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lean_refiner, "MEASURED", 4)
    write_phantoms(tmp_path / "frames", count=4, seed=7, size=96)
    of_light = ["--teacher", "light", "--data", str(tmp_path / "frames")]
    main(["draw", "--images", "2", "--crops", "6", "--out", str(tmp_path / "a")])
    main(["--seed", "1", "draw", *of_light, "--images", "2", "--crops", "4", "--out", str(tmp_path / "b")])
    few = ["--minutes", "0.01", "--batch", "2", "--widths", "8", "8", "8"]
    main(["learn", "--crops", str(tmp_path / "a"), *few, "--without-norms", "--out", str(tmp_path / "student")])
    both = ["--crops", str(tmp_path / "a"), "--crops", str(tmp_path / "b"), "--imitate"]
    main(["learn", *both, *few, "--student", str(tmp_path / "student"), "--out", str(tmp_path / "further")])
    card = check_weights(tmp_path / "further")
    assert card.config == {"widths": [8, 8, 8], "norms": False}, "it goes on as another network"
    assert card.training["steps"] >= 1
    before, after = (load_student(tmp_path / name).out.weight for name in ("student", "further"))
    assert not torch.equal(before, after)

    capsys.readouterr()
    main(["compare", "--student", str(tmp_path / "further"), *of_light])
    lines = [line.rsplit(" ", 2) for line in capsys.readouterr().out.splitlines()]
    assert {"oct", "leaf", "surface", "ultrasound", "vessel", "Lumen"} <= {name for name, *_ in lines}
    assert all(float(value) >= 0 for _, *pair in lines for value in pair if value != "None")
