"""Labelling configs of projects, with any labels."""

import re
from collections.abc import Callable

import pytest

from backend.errors import ConfigError
from backend.label_studio.label_config import parse_label_config
from tests.backend.label_studio.configs import BRUSH, CHOICES, PAGES, SHAPES

IMAGE = '<Image name="image" value="$image"/>'


def brush(labels: str) -> str:
    return f'<View>{IMAGE}<BrushLabels name="t" toName="image">{labels}</BrushLabels></View>'


def test_classes_come_in_the_configs_order_with_those_of_regions_first() -> None:
    assert parse_label_config(BRUSH).classes == ("Lumen", "Lipid core", "blurred")


def test_a_class_that_several_controls_offer_is_named_once() -> None:
    assert parse_label_config(SHAPES).classes == ("Lumen", "Plaque", "Stent", "Catheter")


def test_predicted_values_name_the_models_classes_and_the_label_is_what_is_stored() -> None:
    labels = '<Label value="Vessel" predicted_values=" Lumen ,vessel,"/><Label value="Cap" alias="fc"/>'
    config = parse_label_config(brush(labels))
    assert config.controls[0].labels == {"Lumen": "Vessel", "vessel": "Vessel", "fc": "fc"}
    assert config.classes == ("Lumen", "vessel", "fc")


def test_a_label_teaches_the_first_of_its_predicted_values() -> None:
    config = parse_label_config(brush('<Label value="V" predicted_values="a,b"/>'))
    assert config.training_classes == ("a",)
    assert config.controls[0].class_of("V") == "a"
    assert config.controls[0].class_of("gone") is None


@pytest.mark.parametrize("config", [BRUSH, CHOICES, PAGES, SHAPES])
@pytest.mark.parametrize("spell", [str.lower, str.upper, str.title])
def test_tags_and_attributes_may_be_written_in_any_case(config: str, spell: Callable[[str], str]) -> None:
    """As in Label Studio's editor; what stands in quotes is the user's own."""
    parts = re.split('("[^"]*")', config)
    written = "".join(part if part.startswith('"') else spell(part) for part in parts)
    assert written != config
    assert parse_label_config(written) == parse_label_config(config)


def test_labels_may_lie_deeper_inside_their_control() -> None:
    config = parse_label_config(
        f'<View><View>{IMAGE}</View><View><BrushLabels name="t" toName="image" smart="true">'
        '<View><Label value="A"/></View></BrushLabels></View></View>'
    )
    assert config.classes == ("A",)
    assert config.controls[0].smart


@pytest.mark.parametrize(
    ("value", "key"), [("$image", "image"), ("$undefined$", "$undefined$"), ("$scan.frame", "scan.frame")]
)
def test_the_images_value_names_a_key_of_the_task_data(value: str, key: str) -> None:
    xml = brush('<Label value="A"/>').replace("$image", value)
    assert parse_label_config(xml).image_key == key


def test_each_image_has_the_controls_that_are_for_it() -> None:
    """A control may be for several; what is for a text is for none."""
    config = parse_label_config(
        '<View><Image name="overview" value="$overview"/><Image name="frame" value="$frame"/>'
        '<Text name="t" value="$t"/>'
        '<Choices name="c" toName="overview"><Choice value="bad"/></Choices>'
        '<Choices name="d" toName="t"><Choice value="long"/></Choices>'
        '<BrushLabels name="b" toName="t,frame,overview"><Label value="A"/></BrushLabels></View>'
    )
    assert config.columns == ("frame", "overview")
    assert config.classes == ("A", "bad")
    assert config.on("frame").classes == ("A",)
    assert config.on("overview").classes == ("A", "bad")
    assert [(control.name, control.image_key) for control in config.controls] == [
        ("c", "overview"),
        ("b", "frame"),
        ("b", "overview"),
    ]
    assert config.is_elsewhere({"to_name": "t"})


def test_image_tags_that_show_the_same_column_are_one_image() -> None:
    again = (
        '<Image name="again" value="$image"/><Choices name="c" toName="again"><Choice value="bad"/></Choices></View>'
    )
    config = parse_label_config(BRUSH.replace("</View>", again))
    assert config.columns == ("image",)
    assert config.on("image").classes == ("Lumen", "Lipid core", "blurred", "bad")


def test_a_list_of_images_is_one_column() -> None:
    config = parse_label_config(PAGES)
    assert config.columns == ("images",)
    assert config.shows_list("images")
    assert [control.per_item for control in config.choices_controls] == [False, True]
    assert not parse_label_config(BRUSH).shows_list("image")


@pytest.mark.parametrize(
    ("controls", "chosen"),
    [
        ("<BrushLabels/><BitmaskLabels/>", "BrushLabels"),
        ("<BitmaskLabels/><BrushLabels/>", "BitmaskLabels"),
        ('<BrushLabels/><BitmaskLabels model_regions="object"/>', "BitmaskLabels"),
        ("<PolygonLabels/><VectorLabels/><BitmaskLabels/>", "BitmaskLabels"),
        ('<VectorLabels model_regions="object"/><PolygonLabels/>', "PolygonLabels"),
    ],
)
def test_the_most_exact_control_draws_and_of_equals_the_one_with_model_regions(controls: str, chosen: str) -> None:
    drawn = re.sub(
        r"<(\w+)(.*?)/>", r'<\1 name="\1" toName="image" closable="true"\2><Label value="A"/></\1>', controls
    )
    control = parse_label_config(f"<View>{IMAGE}{drawn}</View>").control_for("A")
    assert control is not None
    assert control.tag == chosen


def test_a_vector_that_cannot_be_closed_is_not_predicted() -> None:
    xml = f'<View>{IMAGE}<VectorLabels name="v" toName="image"><Label value="A"/></VectorLabels></View>'
    with pytest.raises(ConfigError, match='closable="true"'):
        parse_label_config(xml)


def test_what_is_not_predicted_is_said_tag_by_tag() -> None:
    """And what is predicted, or goes with it, is not."""
    more = (
        '<Image name="legend" value="legend.png"/>'
        '<Taxonomy name="tax" toName="image"><Choice value="x"/></Taxonomy><TextArea name="note" toName="image"/>'
        '<Choices name="sure" toName="image" perRegion="true"><Choice value="yes"/></Choices>'
        '<RectangleLabels name="boxes" toName="legend"><Label value="A"/></RectangleLabels>'
        '<Magic name="wand" toName="image"/><Style>.x{}</Style><Header value="h"/>'
        '<KeyPointLabels name="kp" toName="image" smart="true"><Label value="Lumen"/></KeyPointLabels></View>'
    )
    config = parse_label_config(BRUSH.replace("</View>", more))
    assert config.classes == parse_label_config(BRUSH).classes
    assert len(config.left_out) == 5
    said = "\n".join(config.left_out)
    for part in ('<Taxonomy name="tax">', "note", "single regions", "legend.png", "wand"):
        assert part in said
    assert "kp" not in said


def test_a_picture_that_merely_illustrates_may_have_any_address() -> None:
    xml = BRUSH.replace("<View>", '<View><Image name="legend" value="https://example.com/legend.png"/>')
    assert parse_label_config(xml).image_key == "image"


def test_choices_about_a_single_region_are_not_about_the_image() -> None:
    config = parse_label_config(BRUSH.replace("<Choices ", '<Choices perRegion="true" '))
    assert config.choices_controls == ()


@pytest.mark.parametrize(("choice", "single"), [("", True), ("single-radio", True), ("multiple", False)])
def test_choices_are_single_unless_they_say_multiple(choice: str, single: bool) -> None:
    attribute = f'choice="{choice}"' if choice else ""
    xml = f'<View>{IMAGE}<Choices name="c" toName="image" {attribute}><Choice value="A"/></Choices></View>'
    assert parse_label_config(xml).choices_controls[0].single is single


def test_labels_from_the_task_data_are_not_known_beforehand() -> None:
    xml = f'<View>{IMAGE}<BrushLabels name="t" toName="image" value="$l"><Label value="$x"/></BrushLabels></View>'
    assert parse_label_config(xml).classes == ()


def test_a_control_without_labels_is_left_out() -> None:
    """Otherwise any model would be said to answer for it."""
    with pytest.raises(ConfigError, match=r'<BrushLabels name="t"> is left to the annotator: it offers no label'):
        parse_label_config(f'<View>{IMAGE}<BrushLabels name="t" toName="image"></BrushLabels></View>')
    config = parse_label_config(BRUSH.replace("</View>", '<PolygonLabels name="p" toName="image"/></View>'))
    assert config.classes == parse_label_config(BRUSH).classes


def test_an_encoding_declaration_and_comments_do_no_harm() -> None:
    assert parse_label_config('<?xml version="1.0" encoding="utf-8"?>' + CHOICES.strip()).classes[0] == "benign"
    assert parse_label_config(CHOICES.replace("<View>", "<View><!-- note -->")).choices_controls


@pytest.mark.parametrize(
    ("xml", "said"),
    [
        ("<View>\n  <Image", "line 2"),
        ("", "not well-formed"),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><View>&x;</View>', "DOCTYPE"),
        ('<!DOCTYPE a [<!ENTITY x "lol"><!ENTITY y "&x;&x;">]><View>&y;</View>', "DOCTYPE"),
        ('<View><Text name="t" value="$t"/><Choices name="c" toName="t"/></View>', "<BrushLabels>, <BitmaskLabels>"),
        (f"<View>{IMAGE}</View>", "no control at all"),
        (f'<View>{IMAGE}<Brush name="b" toName="image"/></View>', 'no <Labels toName="image"> beside it'),
        (brush('<Label value="A"/>').replace('value="$image"', 'valueList="images"'), 'valueList="$image"'),
        (f'<View><Repeater on="$images">{brush("")}</Repeater></View>', "<Repeater>"),
        ('<View><Video name="v" value="$v"/><VideoRectangle name="b" toName="v"/></View>', "no <Image> at all"),
        (brush("").replace("<BrushLabels", '<BrushLabels model_regions="each"'), 'should be "class" or "object"'),
        (f'<View>{IMAGE}<BrushLabels name="b" toName="img"/></View>', "'image'"),
        (f'<View>{IMAGE}<BrushLabels name="b" toName="img"/></View>', 'toName="img" names nothing in the config'),
        ('<View><Image name="i" value="image"/><BrushLabels name="b" toName="i"/></View>', 'value="$image"'),
    ],
)
def test_a_config_that_cannot_be_used_is_refused_with_the_reason(xml: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_label_config(xml)
    assert said in str(caught.value)


def tools_beside_labels(tools: int, labels: int) -> str:
    brushes = "".join(f'<Brush name="b{number}" toName="i"/>' for number in range(tools))
    beside = "".join(
        f'<Labels name="l{number}" toName="i"><Label value="{number}"/></Labels>' for number in range(labels)
    )
    return f'<View><Image name="i" value="$image"/>{brushes}{beside}</View>'


def test_every_tool_is_a_control_with_each_labels_beside_it() -> None:
    config = parse_label_config(tools_beside_labels(25, 40))
    assert len(config.region_controls) == 1000
    assert {(control.name, control.labels_name) for control in config.controls} == {
        (f"b{tool}", f"l{labels}") for tool in range(25) for labels in range(40)
    }


def test_a_short_config_cannot_name_more_controls_than_can_be_read() -> None:
    with pytest.raises(ConfigError, match="more than 1000 ways"):
        parse_label_config(tools_beside_labels(1000, 1000))


def test_labels_keep_the_colours_that_the_config_gives_them():
    """Written into pages, so only what is surely a colour."""
    labels = (
        '<Label value="LM" predicted_values="Lumen" background="#2e86de"/><Label value="cap" background="green"/>'
        '<Label value="plain"/><Label value="evil" background="red\' onload=\'x"/>'
    )
    config = parse_label_config(
        f'<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i">{labels}</BrushLabels></View>'
    )
    assert dict(config.colours) == {"Lumen": "#2e86de", "cap": "green"}
