"""Choosing a device, on machines with any number of GPUs."""

import pytest
import torch

from models import devices
from models.devices import check_device, choose_device
from models.errors import ModelError


@pytest.fixture
def gpus(monkeypatch):
    """Makes torch see GPUs with so much free memory each."""

    def see(*free):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(free))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
        monkeypatch.setattr(devices, "free_memory", lambda: list(free))

    return see


@pytest.mark.parametrize(
    ("free", "wanted", "chosen"),
    [
        ((), "auto", "cpu"),
        ((), "cpu", "cpu"),
        ((5,), "auto", "cuda"),
        ((5, 9, 7), "auto", "cuda:1"),
        ((5, 9, 7), "cuda:2", "cuda:2"),
        ((5, 9, 7), "cuda", "cuda"),
        ((5, 9, 7), "cpu", "cpu"),
    ],
)
def test_auto_is_the_gpu_with_most_free_memory_and_others_are_as_named(gpus, free, wanted, chosen):
    gpus(*free)
    assert choose_device(wanted) == chosen


@pytest.mark.parametrize(
    ("free", "wanted", "says"),
    [
        ((), "cuda:1", "no usable GPU for device 'cuda:1'"),
        ((5,), "cuda:1", "no device 'cuda:1': this machine has cuda:0 alone"),
        ((5, 9), "cuda:7", "no device 'cuda:7': this machine has cuda:0 to cuda:1"),
    ],
)
def test_a_device_that_is_not_there_is_named_with_those_that_are(gpus, free, wanted, says):
    gpus(*free)
    with pytest.raises(ModelError, match=says):
        check_device(wanted)


def test_gpus_whose_memory_cannot_be_asked_are_no_reason_to_fail(gpus, monkeypatch):
    gpus(5, 9)
    monkeypatch.setattr(devices, "free_memory", list)
    assert choose_device("auto") == "cuda"


def test_free_memory_is_asked_in_a_process_of_its_own():
    assert len(devices.free_memory()) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
