"""Labelling configs that several tests share."""

from collections.abc import Mapping

from backend.label_studio.controls.control import Control

BRUSH = """
<View>
  <Image name="image" value="$image" zoom="true"/>
  <BrushLabels name="tag" toName="image"><Label value="Lumen"/><Label value="Lipid core"/></BrushLabels>
  <Choices name="quality" toName="image" choice="multiple"><Choice value="blurred"/><Choice value="Lumen"/></Choices>
</View>
"""

SHAPES = """
<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="brush" toName="image"><Label value="Lumen"/></BrushLabels>
  <PolygonLabels name="polygon" toName="image"><Label value="Lumen"/><Label value="Plaque"/></PolygonLabels>
  <RectangleLabels name="box" toName="image"><Label value="Stent"/></RectangleLabels>
  <EllipseLabels name="oval" toName="image"><Label value="Catheter"/></EllipseLabels>
</View>
"""

CHOICES = """
<View>
  <Image name="image" value="$image"/>
  <Choices name="kind" toName="image"><Choice value="benign"/><Choice value="malignant"/></Choices>
  <Choices name="artefacts" toName="image" choice="multiple"><Choice value="blood"/><Choice value="gas"/></Choices>
</View>
"""

# Two images side by side, each with its own tools, and one shared.
PAIR = """
<View>
  <Image name="imgL" value="$left"/><Image name="imgR" value="$right"/>
  <BitmaskLabels name="tagL" toName="imgL"><Label value="Lumen"/></BitmaskLabels>
  <BrushLabels name="tagR" toName="imgR"><Label value="Lumen"/><Label value="Plaque"/></BrushLabels>
  <Choices name="quality" toName="imgL,imgR" choice="multiple"><Choice value="blurred"/></Choices>
</View>
"""

# A list of images, page by page; `kind` is chosen once for all, `quality` for each page.
PAGES = """
<View>
  <Image name="image" valueList="$images"/>
  <BitmaskLabels name="tag" toName="image"><Label value="Lumen"/></BitmaskLabels>
  <Choices name="kind" toName="image" choice="multiple"><Choice value="stable"/></Choices>
  <Choices name="quality" toName="image" choice="multiple" perItem="true"><Choice value="blurred"/></Choices>
</View>
"""


def control(tag: str, labels: Mapping[str, str] | None = None, single: bool = False) -> Control:
    return Control(tag, "tag", "image", "image", labels or {"Lumen": "Lumen"}, single=single)
