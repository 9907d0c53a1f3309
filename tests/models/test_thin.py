"""Lines in images: found through the place that was clicked, and left alone where there is none."""

import cv2
import numpy as np
import pytest

from models.evaluation.clicks import clicked, objects_of
from models.masks.metrics import iou
from models.phantom import KINDS, render_phantom
from models.prompt import Click, Prompt
from models.prompt_model import load_prompt_model
from models.prompt_views import paste
from models.starter import PROMPTS
from models.thin import clicks_on, covers, fits_box, is_thick, line_across, line_through

SIZE = 240


def scene(colour=(60, 90, 70), noise=6, width=3):
    """A bent line on a noisy surface beside a disc of its colour, and the line's mask."""
    rng = np.random.default_rng(0)
    image = np.clip(rng.normal(150, noise, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    points = np.array([[30, 40], [90, 120], [150, 130], [210, 200]])
    cv2.polylines(mask, [points.reshape(-1, 1, 2)], False, 1, width)
    image[mask > 0] = colour
    cv2.circle(image, (190, 50), 25, colour, -1)
    return image, mask > 0


@pytest.mark.parametrize("colour", [(60, 90, 70), (250, 250, 240), (150, 150, 90)])
@pytest.mark.parametrize("width", [2, 5])
def test_a_line_of_any_colour_is_followed_from_a_click_to_its_ends(colour, width):
    image, truth = scene(colour, width=width)
    assert iou(line_through(image, [Click(90.5, 120.5)]), truth) > 0.7


def test_a_click_on_a_disc_or_on_nothing_finds_no_line():
    image, _ = scene()
    assert line_through(image, [Click(190, 50)]) is None
    assert line_through(image, [Click(40, 200)]) is None
    assert line_through(np.full((50, 60, 3), 9, np.uint8), [Click(3, 3)]) is None
    assert line_through(np.zeros((1, 1, 3), np.uint8), [Click(0, 0)]) is None


def test_a_click_off_the_object_cuts_the_line():
    image, truth = scene()
    cut = line_through(image, [Click(60, 80), Click(120, 125, positive=False)])
    assert cut[:, :100].sum() > 50
    assert not cut[:, 130:].any()
    assert (cut & truth).sum() > 0.7 * cut.sum()


def test_a_large_image_is_looked_at_smaller():
    image, truth = scene()
    large = cv2.resize(image, (1680, 1680), interpolation=cv2.INTER_NEAREST)
    found = line_through(large, [Click(90.5 * 7, 120.5 * 7)])
    assert found.shape == (1680, 1680)
    assert iou(found, cv2.resize(truth.astype(np.uint8), (1680, 1680)) > 0) > 0.6


def test_a_box_around_a_line_holds_a_line_that_spans_it():
    image, truth = scene()
    box = np.zeros_like(truth)
    box[40:202, 30:212] = True
    assert iou(line_across(image, box), truth) > 0.7
    around, disc = np.zeros_like(truth), np.zeros(truth.shape, np.uint8)
    around[25:76, 165:216] = True
    cv2.circle(disc, (190, 50), 25, 1, -1)
    rim = line_across(image, around)
    assert rim is None or not fits_box(rim, disc > 0, around)


def test_a_line_takes_the_place_of_a_blob_and_not_of_a_compact_thing():
    line, drawn, box = (np.zeros((40, 40), bool) for _ in range(3))
    line[10, 5:35], box[8:13, 5:35] = True, True
    piece = np.zeros_like(line)
    piece[10, 18:24] = True
    assert covers(line, piece)
    drawn[5:35, 5:35] = True
    assert not covers(line, drawn)
    assert is_thick(np.pad(drawn, 40, mode="edge").repeat(8, 0).repeat(8, 1))
    assert not is_thick(line)
    assert not is_thick(np.zeros_like(line))
    box[5:35, 5:35] = True
    assert not fits_box(line, drawn, box)
    drawn[12:] = False
    assert fits_box(line, drawn, box)


def test_the_shipped_network_draws_lines_as_lines_and_lumens_as_before():
    model = load_prompt_model(PROMPTS)
    image, truth = scene(width=2)
    embedding, click = model.embed(image), Prompt((Click(90.5, 120.5),))
    assert iou(model.prompt(embedding, click).mask, truth) > 0.6
    ((_, blob),) = embedding.drawn.items()
    assert iou(paste(blob.probabilities, blob.view, truth.shape), truth) < 0.5  # what it draws by itself
    box = np.zeros_like(truth)
    box[40:202, 30:212] = True
    assert iou(model.prompt(embedding, Prompt(boxes=(box,))).mask, truth) > 0.6
    frame = render_phantom(3, 256)
    lumen = frame.masks["Lumen"]
    box = np.zeros_like(lumen)
    x, y, width, height = cv2.boundingRect(lumen.astype(np.uint8))
    box[y : y + height, x : x + width] = True
    assert iou(model.prompt(model.embed(frame.image), Prompt(boxes=(box,))).mask, lumen) > 0.8


@pytest.mark.parametrize(
    ("number", "label", "largest"), [(40, "Scratch", 805), (54, "Scratch", 1504), (30, "Crack", 2726)]
)
def test_further_clicks_on_a_line_make_it_no_worse(number, label, largest):
    """Its ends and edges are clicked on; the network then drew a blob, which took the line's place: 0.90 -> 0.07."""
    seed = int(np.random.SeedSequence([9301, number]).generate_state(1, np.uint64)[0])
    phantom = KINDS["surface"].render(seed, 1000, 0.5)
    truth = objects_of(phantom.masks[label])[0]
    assert truth.sum() == largest
    model = load_prompt_model(PROMPTS)
    ious = clicked(model, model.embed(phantom.image), label, np.zeros_like(truth), truth, 5)[1:]
    assert ious[-1] > 0.7
    assert min(ious[1:]) > ious[0] - 0.25
    assert ious[-1] > ious[0] - 0.05


def test_a_change_of_mind_needs_the_clicks_on_the_line():
    line = np.zeros((50, 60), bool)
    line[20, 5:55] = True
    clicks = [Click(10.5, 20.5), Click(30.5, 22.5), Click(5, 40), Click(9, 9, positive=False)]
    assert clicks_on(line, clicks[:2]) == 1
    assert clicks_on(line, clicks[:2], beside=False) == 0.5
    assert clicks_on(line, clicks) == pytest.approx(2 / 3)
    assert clicks_on(line, clicks[3:]) == 0


@pytest.mark.parametrize("shape", [(5000, 1), (1, 5000), (1, 1)])
def test_images_that_are_a_line_themselves_are_looked_at(shape):
    """Scaled to what is looked at, nothing would be left of their width."""
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    found = line_through(image, [Click(shape[1] - 1, shape[0] - 1, True)])
    assert found is None or found.shape == shape
