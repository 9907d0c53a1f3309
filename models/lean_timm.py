"""timm, without what it never uses: `from models.lean_timm import timm`.

timm and torchvision ask torch's compiler two things while they are imported: whether it is there, and to leave some
functions alone. Its import takes 130 MB in every process and half of the time of a start, and nothing here is compiled.
So a stand-in answers meanwhile; whatever else is asked for, and all later imports, get the compiler itself.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

import torch

COMPILER = "torch._dynamo"
PARTS = (COMPILER, f"{COMPILER}.utils")


class _StandIn(ModuleType):
    """Hands everything that it does not know to the module that it stands in for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _leave()
        return getattr(importlib.import_module(self.__name__), name)


def _leave() -> None:
    """Take the stand-ins away, if they are there."""
    for name in PARTS:
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]
    if isinstance(torch.__dict__.get("_dynamo"), _StandIn):
        del torch._dynamo


def _disable(function: Any = None, recursive: bool = True, **_: Any) -> Any:
    """What is never compiled needs no telling so."""
    return _disable if function is None else function


def _is_compile_supported(device_type: str) -> bool:
    return bool(importlib.import_module(f"{COMPILER}.utils").is_compile_supported(device_type))


if not any(name in sys.modules for name in (COMPILER, "timm")):
    _compiler, _utils = (_StandIn(name) for name in PARTS)
    _compiler.disable = _disable  # type: ignore[attr-defined]
    _utils.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    sys.modules |= {COMPILER: _compiler, f"{COMPILER}.utils": _utils}
    torch._dynamo = _compiler
try:
    import timm
    from timm.models._features import FeatureHooks
finally:
    _leave()

__all__ = ["FeatureHooks", "timm"]
