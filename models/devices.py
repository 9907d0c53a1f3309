"""Where networks compute, and how."""

import subprocess
import sys
from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.errors import ModelError
from models.threads import limit_threads, thread_limit

# In a process of its own: to ask a GPU makes CUDA keep some hundred megabytes of it until the process ends.
FREE = "import torch; print(*(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())))"
ASK_SECONDS = 120.0


def choose_device(wanted: str) -> str:
    """The device that is meant by cpu, cuda, cuda:N or auto, which is the GPU with most free memory, or else the CPU.

    Raises:
        ModelError: it is not there.
    """
    if wanted != "auto":
        check_device(wanted)
        return wanted
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count < 2:
        return "cuda" if count else "cpu"
    free = free_memory()
    return f"cuda:{free.index(max(free))}" if len(free) == count else "cuda"


def training_devices(wanted: str, processes: int | None, batch: int) -> list[str]:
    """The device of each process that takes part in a training.

    Args:
        wanted: cpu, cuda, cuda:N or auto.
        processes: how many; None for one on each GPU of the machine with cuda and auto, and for one otherwise.
        batch: images of a batch, which they share: a process without any would have nothing to do.

    Raises:
        ModelError: a device is not there, or there are too few GPUs or images for so many.
    """
    there = torch.cuda.device_count() if wanted in ("cuda", "auto") and torch.cuda.is_available() else 0
    processes = processes or min(max(there, 1), batch)
    if processes > batch:
        raise ModelError(f"{processes} processes cannot share batches of {batch} images; ask for at most {batch}")
    if processes == 1:
        return [choose_device(wanted)]
    if wanted == "cpu" or (wanted == "auto" and not there):
        return ["cpu"] * processes
    if wanted != "auto":
        check_device(wanted)
    if wanted not in ("cuda", "auto"):
        raise ModelError(f"{wanted} is one GPU, for one process; for {processes} choose the device cuda")
    if processes > there:
        raise ModelError(f"{processes} processes need a GPU each, and this machine has {there}; ask for fewer")
    order = list(range(there))
    if wanted == "auto" and processes < there and len(free := free_memory()) == there:
        order.sort(key=lambda index: -free[index])
    return [f"cuda:{index}" for index in order[:processes]]


def check_device(device: str) -> None:
    """Raises ModelError unless torch can compute on `device`: cpu, cuda or cuda:N."""
    wanted = torch.device(device)
    if wanted.type != "cuda":
        return
    if not torch.cuda.is_available():
        raise ModelError(f"there is no usable GPU for device {device!r} (torch {torch.__version__}); use cpu")
    count = torch.cuda.device_count()
    if wanted.index is not None and wanted.index >= count:
        there = "cuda:0 alone" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise ModelError(f"there is no device {device!r}: this machine has {there}; choose one of these, or auto")


def free_memory() -> list[int]:
    """Free bytes of each GPU; empty if that cannot be found out."""
    try:
        said = subprocess.run([sys.executable, "-c", FREE], capture_output=True, timeout=ASK_SECONDS, check=True)
        return [int(number) for number in said.stdout.split()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


def computes_bfloat16(device: torch.device) -> bool:
    """Whether torch computes in bfloat16 natively there."""
    native = device.type == "cuda" or (device.type == "cpu" and "AVX512" in torch.backends.cpu.get_cpu_capability())
    return native and (device.type == "cuda" or bool(torch.cpu._is_avx512_bf16_supported()))


def as_array(tensor: Tensor) -> NDArray[np.float32]:
    """A tensor's values as an array of the same shape, wherever it is."""
    return np.asarray(tensor.detach().float().cpu().numpy(), dtype=np.float32)


def autocast(device: torch.device | str, *, enabled: bool = True) -> AbstractContextManager[None]:
    """Compute in bfloat16 where the processor does so natively: more than twice as fast, the masks are the same.

    The calling thread's limit of cores (`models.threads`), which may be older than torch, holds for torch from here on.

    Args:
        device: where.
        enabled: False computes in float32 there, too.
    """
    limit_threads(thread_limit())
    device = torch.device(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled and computes_bfloat16(device))
