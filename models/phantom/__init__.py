"""Synthetic intravascular OCT frames whose masks are exact. Start reading at frame.py."""

from models.phantom.folder import write_phantoms
from models.phantom.frame import Phantom, render_phantom
from models.phantom.truth import CLASSES

__all__ = ["CLASSES", "Phantom", "render_phantom", "write_phantoms"]
