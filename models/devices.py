"""How networks compute on a device."""

from contextlib import AbstractContextManager

import torch


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the processor computes in bfloat16 natively."""
    native = device.type == "cuda" or (device.type == "cpu" and "AVX512" in torch.backends.cpu.get_cpu_capability())
    return native and (device.type == "cuda" or bool(torch.cpu._is_avx512_bf16_supported()))


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """Compute in bfloat16 where the processor does so natively: more than twice as fast, the masks are the same."""
    return torch.autocast(device.type, torch.bfloat16, enabled=computes_bfloat16(device))
