"""Synthetic images whose masks are exact: intravascular OCT frames (start reading at frame.py) and other projects."""

from models.phantom.folder import KINDS, write_phantoms
from models.phantom.frame import Phantom, render_phantom
from models.phantom.truth import CLASSES

__all__ = ["CLASSES", "KINDS", "Phantom", "render_phantom", "write_phantoms"]
