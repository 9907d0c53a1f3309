"""An old cvat-sdk, or none, is told in a sentence before anything of it is used."""

import sys

import cvat_sdk.auto_annotation as cvataa
import pytest

from backend.cvat import sdk
from backend.errors import CvatError


def reload(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.delitem(sys.modules, module, raising=False)
    __import__(module)


@pytest.mark.parametrize(
    ("release", "lacks", "module", "says"),
    [
        (
            "2.40.0",
            ("DetectionAnnotation", "tag"),
            "backend.cvat.detection",
            r"masks and tags in CVAT need cvat-sdk 2\.44 or newer; 2\.40\.0 .* lacks DetectionAnnotation, tag",
        ),
        (
            "2.60.0",
            ("InteractionFunctionSpec", "InteractionPrompts"),
            "backend.cvat.interaction",
            r"clicks and boxes in CVAT need cvat-sdk 2\.71 or newer; 2\.60\.0 .* lacks InteractionFunctionSpec",
        ),
    ],
)
def test_an_old_release_is_named_with_the_oldest_that_works(
    monkeypatch: pytest.MonkeyPatch, release: str, lacks: tuple[str, ...], module: str, says: str
) -> None:
    monkeypatch.setattr(sdk, "version", lambda _: release)
    for name in lacks:
        monkeypatch.delattr(cvataa, name)
    with pytest.raises(CvatError, match=says) as error:
        reload(monkeypatch, module)
    assert "your server's minor version" in str(error.value)


def test_a_release_that_is_not_installed_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cvat_sdk.auto_annotation", None)
    with pytest.raises(CvatError, match=r"which is not installed .*pip install"):
        reload(monkeypatch, "backend.cvat.detection")


def test_the_locked_release_has_everything() -> None:
    sdk.require_detection()
    sdk.require_interaction()
