"""timm, without what it never uses: `from models.lean_timm import timm`.

timm imports torchvision, and one function of torchvision asks torch's compiler, whose import takes 130 MB in every
process and half of the time of a start. That function is for detection networks; it still asks, when it is called.
"""

import importlib
import sys
from types import ModuleType

COMPILER = "torch._dynamo"


def _import_torchvision() -> None:
    """Import torchvision with a stand-in for torch's compiler, which is gone afterwards."""
    if COMPILER in sys.modules or "torchvision" in sys.modules:
        return
    compiler, utils = ModuleType(COMPILER), ModuleType(f"{COMPILER}.utils")

    def is_compile_supported(device_type: str) -> bool:
        return bool(importlib.import_module(f"{COMPILER}.utils").is_compile_supported(device_type))

    utils.is_compile_supported = is_compile_supported  # type: ignore[attr-defined]
    sys.modules |= {COMPILER: compiler, f"{COMPILER}.utils": utils}
    try:
        import torchvision  # noqa: F401
    except (ImportError, AttributeError):
        # Another release wants more of the compiler: it is imported as usual.
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
    finally:
        for name in (COMPILER, f"{COMPILER}.utils"):
            del sys.modules[name]


_import_torchvision()

import timm  # noqa: E402

__all__ = ["timm"]
