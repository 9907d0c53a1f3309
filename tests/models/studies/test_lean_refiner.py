"""How a lean refiner learns from an earlier one, in rehearsal: a step or two of everything."""

import pytest
import torch
from torch import nn

from models.checkpoint import check_weights, read_card
from models.config import FBANetConfig
from models.fba_net import FBANet
from models.first_refiner import read_refiner
from models.phantom import write_phantoms
from models.pipeline import load_pipeline
from models.studies import lean_refiner
from models.studies.lean_refiner import imitation_loss, main, thinned
from models.training.optimisation import mean_of


def test_imitating_costs_nothing_outside_the_band_or_beyond_what_is_sure():
    band = torch.tensor([[[True, True, True, False]]])
    taught = torch.tensor([[[1.3, -0.2, 0.5, 0.0]]])
    assert imitation_loss(torch.tensor([[[1.5, -4.0, 0.5, 9.0]]]), taught, band) == 0
    assert imitation_loss(torch.tensor([[[0.7, 0.3, 0.5, 9.0]]]), taught, band).item() == pytest.approx(0.2)
    assert imitation_loss(taught, taught, torch.zeros_like(band)) == 0


def test_a_thinned_student_keeps_the_levels_that_it_shares_with_its_teacher():
    """As wide as the teacher it computes the same from the same skip; narrower, a part of each group's channels."""
    torch.manual_seed(0)
    teacher = FBANet(FBANetConfig((8, 16, 24, 32), crop_size=64, stride=1))
    for norm in (module for module in teacher.modules() if isinstance(module, nn.GroupNorm)):
        nn.init.normal_(norm.weight)
    student = thinned(teacher, FBANetConfig((16, 24, 32), crop_size=64))
    skip, coarse = torch.rand(1, 16, 32, 32), torch.rand(1, 24 + 32, 16, 16)
    torch.testing.assert_close(student.down[0](skip), teacher.down[1](skip))
    torch.testing.assert_close(student.up[1](coarse), teacher.up[2](coarse))
    seen = torch.cat([skip, skip[:, :1]], dim=1)
    torch.testing.assert_close(student.gates[0](seen), teacher.gates[1](seen))
    torch.testing.assert_close(student.boundary.weight, teacher.boundary.weight)

    narrow = thinned(teacher, FBANetConfig((16, 16, 32), crop_size=64))
    wide, own = teacher.state_dict()["down.1.4.weight"], narrow.state_dict()["down.0.4.weight"]
    assert torch.equal(own.view(8, 2), wide.view(8, 3).gather(1, wide.abs().view(8, 3).topk(2).indices.sort().values))


def test_it_is_taught_by_the_first_refiner_and_by_a_models(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lean_refiner, "MEASURED", 4)
    write_phantoms(tmp_path / "frames", count=4, seed=7, size=96)
    of_light = ["--teacher", "light", "--data", str(tmp_path / "frames")]
    main(["draw", "--images", "2", "--crops", "6", "--out", str(tmp_path / "a")])
    main(["--seed", "1", "draw", *of_light, "--images", "2", "--crops", "4", "--out", str(tmp_path / "b")])
    few = ["--minutes", "0.01", "--batch", "2", "--widths", "8", "16", "8"]
    main(["learn", "--crops", str(tmp_path / "a"), *few, "--out", str(tmp_path / "student")])
    both = ["--crops", str(tmp_path / "a"), "--crops", str(tmp_path / "b"), "--imitate"]
    main(["learn", *both, *few, "--student", str(tmp_path / "student"), "--out", str(tmp_path / "further")])
    card = check_weights(tmp_path / "further")
    assert card.config == {"refiner": {"widths": [8, 16, 8], "crop_size": 256, "stride": 2}}
    assert card.training["steps"] >= 1
    before, after = (read_refiner(tmp_path / name).out.weight for name in ("student", "further"))
    assert not torch.equal(before, after)

    main(["write", "--student", str(tmp_path / "further"), *of_light, "--out", str(tmp_path / "lean")])
    main(["write", "--student", str(tmp_path / "further"), "--out", str(tmp_path / "first")])
    mean = mean_of(*(read_refiner(tmp_path / name) for name in ("student", "further"))).out.weight
    torch.testing.assert_close(mean, (before + after) / 2)
    model, first = load_pipeline(tmp_path / "lean"), check_weights(tmp_path / "first")
    for refiner in (model.refiner, read_refiner(tmp_path / "first")):
        assert torch.equal(refiner.out.weight, after)
    assert first.training["students"][0]["crops"] == ["a", "b"]
    assert read_card(tmp_path / "lean").metrics["frames"] > 0

    capsys.readouterr()
    main(["compare", "--student", str(tmp_path / "further"), *of_light])
    lines = [line.rsplit(" ", 2) for line in capsys.readouterr().out.splitlines()]
    assert {"oct", "leaf", "surface", "ultrasound", "vessel", "Lumen"} <= {name for name, *_ in lines}
    assert all(float(value) >= 0 for _, *pair in lines for value in pair if value != "None")
