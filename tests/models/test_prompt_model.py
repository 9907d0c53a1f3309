"""The prompt network's planes and views, and the model around it: what must hold for any weights."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from models.checkpoint import Card, packaged_backbone, read_card, write_card
from models.errors import CheckpointError
from models.families import load_model
from models.object_model import changed_at, kept, stroke_points, touched
from models.prompt import Click, Prompt
from models.prompt_model import PromptModel, best_start, load_prompt_model, save_prompt_model
from models.prompt_network import (
    LIKENESS_PLANES,
    PLANES,
    PromptNetwork,
    PromptNetworkConfig,
    geodesic_distance,
    likeness_planes,
    no_prompts,
    prompt_planes,
)
from models.prompt_views import SIDE, Drawn, View, around, cut, moved, paste, whole


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    return PromptNetwork(PromptNetworkConfig()).eval()


@pytest.fixture(scope="module")
def model(network):
    return PromptModel(network, name="drawn")


def picture(height=120, width=180):
    rows, columns = np.mgrid[:height, :width]
    disc = np.hypot(rows - 50, columns - 70) < 30
    image = np.full((height, width, 3), 60, np.uint8)
    image[disc] = (200, 150, 40)
    return image, disc


def disc(height=120, width=180, y=50, x=70, radius=30):
    rows, columns = np.mgrid[:height, :width]
    return np.hypot(rows - y, columns - x) < radius


def test_a_point_shows_on_the_plane_of_its_kind_alone():
    prompts = no_prompts(2, 64, 3)
    prompts.points[0, 0] = torch.tensor([20.0, 40.0, 1.0])
    prompts.points[1, 2] = torch.tensor([20.0, 40.0, 0.0])
    planes = prompt_planes(prompts)
    assert planes.shape == (2, PLANES, 16, 16)
    assert not planes.isnan().any()
    on, off = planes[0, 0], planes[1, 3]
    assert torch.equal(on, off)
    assert divmod(int(on.argmax()), 16) == (9, 4) or on[10, 5] == on.max()
    assert planes[0, 3:6].max() < 1e-3
    assert planes[1, 0:3].max() < 1e-3


def test_a_box_shows_inside_itself_and_as_known():
    prompts = no_prompts(2, 64, 1)
    prompts.boxes[0] = torch.tensor([8.0, 16.0, 40.0, 48.0])
    planes = prompt_planes(prompts)
    assert planes[0, 6].sum() == 8 * 8
    assert planes[0, 6, 4:12, 2:10].all()
    assert planes[0, 7].all()
    assert not planes[1, 6:8].any()


def test_the_geodesic_distance_goes_round_what_has_another_colour():
    """A wall of another colour with a gap: behind it the way is long, and the wall itself is far."""
    colours = torch.zeros(1, 3, 12, 12)
    colours[:, :, :10, 6] = 1
    way = geodesic_distance(colours, torch.tensor([[[2.5, 2.5], [torch.nan, torch.nan]]]))[0]
    assert way[2, 2] == 0
    assert way[2, 9] < 1.2  # round the wall, where no colour changes
    assert way[2, 6] > 1.7
    assert way[2, 4] < way[2, 9]
    nowhere = geodesic_distance(colours, torch.full((1, 1, 2), torch.nan))
    assert nowhere.isinf().all()


def test_places_outside_of_the_view_are_compared_with_nothing(network):
    images = torch.rand(1, 3, 64, 64)
    pyramid = network.pyramid(images)
    prompts = no_prompts(1, 64, 1)
    nothing = likeness_planes(pyramid, prompts)
    assert nothing.shape == (1, LIKENESS_PLANES, 16, 16)
    assert not nothing.isnan().any()
    prompts.points[0, 0] = torch.tensor([-5.0, 20.0, 1.0])
    assert torch.equal(likeness_planes(pyramid, prompts), nothing)


@settings(deadline=None, max_examples=30)
@given(st.integers(40, 400), st.integers(40, 400), st.data())
def test_a_mask_that_is_cut_out_and_pasted_back_is_the_same(height, width, data):
    """Any view, also one that reaches beyond the edge; objects are larger than a pixel of the view."""
    x = data.draw(st.integers(0, width - 30))
    y = data.draw(st.integers(0, height - 30))
    mask = np.zeros((height, width), bool)
    mask[y + 8 : y + 22, x + 8 : x + 22] = True
    view = around((x + 8, y + 8, x + 22, y + 22), mask.shape, data.draw(st.floats(1.5, 4)))
    back = paste(cut(mask.astype(np.float32), view, SIDE), view, mask.shape)
    assert (back & mask).sum() / (back | mask).sum() > 0.9


def test_a_view_of_part_of_an_image_stays_inside_it():
    view = around((0, 90, 20, 110), (120, 400), 1.8)
    assert (view.x, view.y) == (0, 82)
    assert view.side == 36
    assert around((0, 0, 300, 20), (120, 400), 1.8) == whole((120, 400)) == View(0, -140, 400)


def test_a_part_of_the_image_must_be_clearly_more_plausible_than_the_whole():
    shape = (120, 120)
    clicks = [Click(50, 50)]

    def drawn(view, sure):
        inside = cut(disc(120, 120, 50, 50, 20).astype(np.float32), view)
        return Drawn(view, np.where(inside >= 0.5, 0.5 + sure / 2, 0.0).astype(np.float32))

    part = View(20, 20, 60)
    for sure, better in ((0.8, whole(shape)), (0.84, whole(shape)), (0.95, part)):
        found = best_start([drawn(whole(shape), 0.8), drawn(part, sure)], clicks, shape)
        assert found.view == better


@pytest.mark.parametrize(("sure", "looks"), [(0.95, 2), (0.5, 4)])
def test_parts_are_looked_at_only_where_they_could_be_better(model, monkeypatch, sure, looks):
    """Each look costs a quarter of the first click."""
    image, _ = picture(400, 400)
    embedding = model.embed(image)
    seen = []

    def look(embedding, view, clicks, edges, before):
        seen.append(view)
        found = cut(disc(400, 400, 200, 200, 60).astype(np.float32), view)
        return Drawn(view, np.where(found >= 0.5, 0.5 + sure / 2, 0.0).astype(np.float32))

    monkeypatch.setattr(model, "_look", look)
    model.prompt(embedding, Prompt((Click(200, 200),)), "a")
    assert len(seen) == looks
    assert seen[0] == whole((400, 400))


def test_what_was_drawn_in_one_view_is_found_again_in_another():
    mask = disc()
    first, second = View(20, 0, 100), View(30, 10, 90)
    drawn = Drawn(first, cut(mask.astype(np.float32), first))
    again = paste(moved(drawn, second, 64), second, mask.shape)
    inside = np.zeros_like(mask)
    inside[10:100, 30:120] = True
    assert (again & mask & inside).sum() / ((again | mask) & inside).sum() > 0.95


def test_of_several_components_those_that_were_clicked_stay():
    mask = disc(radius=10) | disc(x=140, radius=20) | disc(y=100, x=20, radius=1)
    assert (kept(mask, [Click(70, 50)]) == disc(radius=10)).all()
    assert not kept(mask, [])[100, 20]
    assert kept(mask, [Click(1, 1)])[50, 140]


def test_a_change_that_no_click_is_near_is_not_made():
    existing = disc(radius=20) | disc(x=140, radius=20)
    fresh = disc(radius=30)
    changed = changed_at(existing, fresh, [Click(95, 50)])
    assert changed[50, 95]
    assert changed[50, 140]


def test_a_click_beside_a_mask_is_meant_for_it():
    masks = [disc(radius=5), disc(x=140, radius=20)]
    assert touched([Click(161, 50)], masks) == 1
    assert touched([Click(110, 50)], masks) is None


def test_a_thin_stroke_is_points_and_an_area_is_none():
    stroke = np.zeros((120, 180), bool)
    stroke[40:44, 20:150] = True
    points = stroke_points(stroke)
    assert len(points) > 5
    assert all(stroke[int(y), int(x)] for x, y in points)
    assert stroke_points(disc()) is None
    assert stroke_points(np.zeros((5, 5), bool)) is None


@pytest.mark.parametrize("label", ["anything", None])
def test_an_answer_has_the_size_of_the_image_and_the_label_that_was_asked_for(model, label):
    image, _ = picture()
    answer = model.prompt(model.embed(image), Prompt((Click(70, 50),)), label)
    assert answer.mask.shape == image.shape[:2]
    assert answer.mask.dtype == bool
    assert answer.label == (label or "")
    assert answer.improves is None
    assert 0 <= answer.score <= 1


def test_no_prompt_is_no_mask(model):
    embedding = model.embed(picture()[0])
    assert not model.prompt(embedding, Prompt(), "a").mask.any()
    nothing = np.zeros((120, 180), bool)
    assert not model.prompt(embedding, Prompt(boxes=(nothing,), outlines=(nothing,)), "a").mask.any()


def test_a_mask_stays_in_its_box(model):
    image, truth = picture()
    box = np.zeros_like(truth)
    box[20:81, 40:101] = True
    assert not (model.prompt(model.embed(image), Prompt(boxes=(box,)), "a").mask & ~box).any()


def test_the_third_click_is_answered_alike_whether_the_first_two_were_asked_or_not(model):
    """Another process may have answered them."""
    image, _ = picture()
    clicks = (Click(70, 50), Click(90, 50), Click(150, 100, positive=False))
    embedding = model.embed(image)
    for count in (1, 2, 3):
        one_by_one = model.prompt(embedding, Prompt(clicks[:count]), "a")
    at_once = model.prompt(model.embed(image), Prompt(clicks), "a")
    assert (one_by_one.mask == at_once.mask).all()


def test_an_embedding_does_not_grow_with_the_number_of_prompts(model):
    image, _ = picture(300, 400)
    embedding = model.embed(image)
    size = embedding.nbytes
    for x in range(20, 380, 12):
        box = np.zeros((300, 400), bool)
        box[40:60, x - 10 : x + 10] = True
        model.prompt(embedding, Prompt((Click(x, 50),), (box,)), "a")
    kept_now = sum(plane.nbytes for view in embedding.views.values() for plane in (view.colours, *view.levels))
    assert kept_now + sum(one.probabilities.nbytes for one in embedding.drawn.values()) < size == embedding.nbytes


def test_an_existing_mask_is_improved_in_its_place(model):
    image, truth = picture()
    other = disc(y=100, x=160, radius=8)
    answer = model.prompt(model.embed(image), Prompt((Click(70, 50),)), "a", [other, truth])
    assert answer.improves == 1


def test_an_image_that_is_none_is_refused(model):
    with pytest.raises(ValueError, match="shape"):
        model.embed(np.zeros((4, 4), np.uint8))


@pytest.mark.parametrize("unchanged", [True, False])
def test_a_backbone_is_stored_unless_it_is_the_packaged_one(network, tmp_path, unchanged):
    network = deepcopy(network)
    wanted = network.backbone.state_dict()
    known = packaged_backbone(network.config.backbone)
    network.backbone.load_state_dict({key: known.get(key, tensor) for key, tensor in wanted.items()})
    if not unchanged:
        with torch.no_grad():
            next(network.backbone.parameters()).add_(1.0)
    save_prompt_model(network, tmp_path / "c", Card("prompts-1", [], "", "2026-01-01T00:00:00+00:00"))
    with safe_open(tmp_path / "c" / "network.safetensors", "np") as file:
        assert any(key.startswith("backbone.") for key in file.keys()) is not unchanged  # noqa: SIM118
    again = load_prompt_model(tmp_path / "c").network.state_dict()
    for key, tensor in network.state_dict().items():
        assert torch.allclose(again[key].float(), tensor.float(), rtol=1e-3, atol=1e-3), key


def test_a_checkpoint_is_read_as_it_was_written(network, model, tmp_path):
    card = Card("prompts-1", [], "", "2026-01-01T00:00:00+00:00")
    save_prompt_model(network, tmp_path / "c", card)
    again = load_model(tmp_path / "c")
    assert (again.name, again.classes) == ("prompts-1", ())
    assert again.predict([picture()[0]])[0].segments == []
    image, _ = picture()
    ours, theirs = (one.prompt(one.embed(image), Prompt((Click(70, 50),)), "a").mask for one in (model, again))
    assert (ours == theirs).mean() > 0.95  # floats are stored as halves, and untrained logits are all near 0
    broken = read_card(tmp_path / "c")
    broken.config = {}
    write_card(tmp_path / "c", broken)
    with pytest.raises(CheckpointError, match="describes no prompt network"):
        load_prompt_model(tmp_path / "c")
