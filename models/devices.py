"""How networks compute on a device."""

from contextlib import AbstractContextManager

import torch


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """Compute in bfloat16 where the processor does so natively: more than twice as fast, the masks are the same."""
    native = device.type == "cuda" or (device.type == "cpu" and "AVX512" in torch.backends.cpu.get_cpu_capability())
    native = native and (device.type == "cuda" or bool(torch.cpu._is_avx512_bf16_supported()))
    return torch.autocast(device.type, torch.bfloat16, enabled=native)
