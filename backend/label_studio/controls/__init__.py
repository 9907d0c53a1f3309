"""One adapter per control tag: what the model says -> regions, and regions -> masks or classes.

A new tag is a new file and an entry in `CONTROLS`.
"""

from backend.label_studio.controls.bitmask import BitmaskLabels
from backend.label_studio.controls.brush import BrushLabels
from backend.label_studio.controls.choices import Choices
from backend.label_studio.controls.ellipse import EllipseLabels
from backend.label_studio.controls.polygon import PolygonLabels
from backend.label_studio.controls.rectangle import RectangleLabels
from backend.label_studio.controls.region import RegionAdapter
from backend.label_studio.controls.vector import VectorLabels

CHOICES = Choices()

# In order of preference: a class that several of them offer is predicted with the first, the most exact one. Of two
# exact ones the config decides, see `LabelConfig.control_for`.
CONTROLS: list[RegionAdapter | Choices] = [
    BrushLabels(),
    BitmaskLabels(),
    PolygonLabels(),
    VectorLabels(),
    RectangleLabels(),
    EllipseLabels(),
    CHOICES,
]

REGION_CONTROLS: dict[str, RegionAdapter] = {c.tag: c for c in CONTROLS if isinstance(c, RegionAdapter)}
