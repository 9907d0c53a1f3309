"""What CVAT's functions need of cvat-sdk, looked for before it is used: releases are asked what they can."""

import importlib
from importlib.metadata import PackageNotFoundError, version

from backend.errors import CvatError

MODULE = "cvat_sdk.auto_annotation"
# The first releases that have them: a missing name would fail in the middle of a task with its name alone.
OLDEST_DETECTION, OLDEST_INTERACTION = "2.44", "2.71"
DETECTION = (
    "DetectionAnnotation",
    "DetectionFunctionContext",
    "DetectionFunctionSpec",
    "label_spec",
    "mask",
    "polygon",
    "tag",
)
INTERACTION = ("InteractionFunctionContext", "InteractionFunctionSpec", "InteractionPrompts", "InteractionResultShape")


def require_detection() -> None:
    """Check that whole images can be annotated.

    Raises:
        CvatError: cvat-sdk is missing or too old; the text says which release is needed.
    """
    _require("masks and tags", DETECTION, OLDEST_DETECTION)


def require_interaction() -> None:
    """Check that clicks and boxes can be answered.

    Raises:
        CvatError: as for `require_detection`.
    """
    _require("clicks and boxes", INTERACTION, OLDEST_INTERACTION)


def _require(what: str, names: tuple[str, ...], oldest: str) -> None:
    try:
        module = importlib.import_module(MODULE)
        installed = version("cvat-sdk")
    except (ImportError, PackageNotFoundError) as error:
        raise CvatError(
            f"premask's {what} in CVAT need cvat-sdk {oldest} or newer, which is not installed ({error})",
            'run `pip install "./premask[cvat]"`',
        ) from error
    if missing := [name for name in names if not hasattr(module, name)]:
        raise CvatError(
            f"premask's {what} in CVAT need cvat-sdk {oldest} or newer; {installed} is installed, whose {MODULE} lacks "
            f"{', '.join(missing)}",
            "install cvat-sdk and cvat-cli of your server's minor version, and a newer server if that is older",
        )
