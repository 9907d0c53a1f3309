"""Synthetic images whose masks are exact: intravascular OCT frames (start reading at frame.py) and other projects."""

from models.phantom.folder import KINDS, write_phantoms
from models.phantom.frame import Phantom, render_phantom
from models.phantom.truth import CLASSES
from models.phantom.vessel.frame import render_vessel
from models.phantom.vessel.style import STYLES, style_of

__all__ = ["CLASSES", "KINDS", "STYLES", "Phantom", "render_phantom", "render_vessel", "style_of", "write_phantoms"]
