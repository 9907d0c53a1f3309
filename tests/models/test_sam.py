"""SAM and SAM 2 as a model family, on tiny random checkpoints: what must hold for any weights."""

import json
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from models.errors import CheckpointError
from models.families import card_of, load_model
from models.prompt import Click, Prompt
from models.sam import Sam, load_sam
from tests.models.sam_checkpoints import SIDE, tiny_sam, write_tiny_sam


@pytest.fixture(scope="module", params=["sam", "sam2"])
def folder(request, tmp_path_factory):
    return write_tiny_sam(tmp_path_factory.mktemp("checkpoints") / f"my-{request.param}", request.param)


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


def picture(height=90, width=140):
    rows, columns = np.mgrid[:height, :width]
    image = np.full((height, width, 3), 60, np.uint8)
    image[np.hypot(rows - 40, columns - 60) < 25] = (200, 150, 40)
    return image


def box(shape=(90, 140)):
    mask = np.zeros(shape, bool)
    mask[15:66, 35:86] = True
    return mask


def test_a_checkpoint_of_transformers_is_a_model_like_any_other(folder, model):
    assert card_of(folder).family == "sam"
    assert (model.name, model.classes) == (folder.name, ())
    assert model.predict([picture()])[0].segments == []
    embedding = model.embed(picture())
    assert embedding.shape == (90, 140)
    assert embedding.nbytes > picture().nbytes
    answer = model.prompt(embedding, Prompt((Click(60, 40),)), "a")
    assert (answer.mask.shape, answer.mask.dtype, answer.label) == ((90, 140), bool, "a")
    assert 0 <= answer.score <= 1


def test_boxes_outlines_and_scribbles_are_answered(model):
    embedding = model.embed(picture())
    inside = box()
    boxed = model.prompt(embedding, Prompt(boxes=(inside,)), "a")
    assert not (boxed.mask & ~inside).any()
    stroke = np.zeros_like(inside)
    stroke[38:42, 40:80] = True
    for outline in (inside, stroke):
        assert model.prompt(embedding, Prompt(outlines=(outline,)), "a").mask.shape == inside.shape


def test_the_second_click_is_answered_alike_whether_the_first_was_asked_or_not(model):
    clicks = (Click(60, 40), Click(100, 80, positive=False))
    embedding = model.embed(picture())
    first = model.prompt(embedding, Prompt(clicks[:1]), "a")
    one_by_one = model.prompt(embedding, Prompt(clicks), "a")
    at_once = model.prompt(model.embed(picture()), Prompt(clicks), "a")
    assert (one_by_one.mask == at_once.mask).all()
    assert first.mask.shape == at_once.mask.shape


class Recorder:
    """A network that notes what it was asked and what it answered."""

    def __init__(self, network, monkeypatch):
        self.pixels, self.answer = None, None
        self.asked: dict[str, Any] = {}
        embed, forward = network.get_image_embeddings, network.forward

        def embedding(pixels):
            self.pixels = pixels
            return embed(pixels)

        def answering(**asked):
            self.asked, self.answer = asked, forward(**asked)
            return self.answer

        monkeypatch.setattr(network, "get_image_embeddings", embedding)
        monkeypatch.setattr(network, "forward", answering)


def processor_of(kind):
    """Transformers' own code between an image and a network, for tiny networks."""
    if kind == "sam":
        from transformers import SamImageProcessor, SamProcessor

        return SamProcessor(SamImageProcessor(size={"longest_edge": SIDE}, pad_size={"height": SIDE, "width": SIDE}))
    from transformers import Sam2ImageProcessor, Sam2Processor

    return Sam2Processor(Sam2ImageProcessor(size={"height": SIDE, "width": SIDE}))


@pytest.mark.parametrize("kind", ["sam", "sam2"])
@pytest.mark.parametrize("shape", [(90, 140), (140, 90)])
def test_images_and_prompts_arrive_as_transformers_own_processor_sends_them(kind, shape, monkeypatch):
    network = tiny_sam(kind)
    seen = Recorder(network, monkeypatch)
    image = cv2.GaussianBlur(picture(*shape), (0, 0), 3)
    corners = (20, 10, shape[1] - 30, shape[0] - 20)
    box = np.zeros(shape, bool)
    box[corners[1] : corners[3], corners[0] : corners[2]] = True
    ours, theirs = Sam(network), processor_of(kind)
    asked = theirs(images=image, input_points=[[[[40, 30]]]], input_boxes=[[list(corners)]], return_tensors="pt")
    answer = ours.prompt(ours.embed(image), Prompt((Click(40.5, 30.5),), (box,)), "a")
    assert (seen.pixels - asked["pixel_values"]).abs().mean() < 0.05  # of a deviation; ways of scaling differ
    for name in ("input_points", "input_boxes"):
        assert torch.allclose(seen.asked[name], asked[name].float(), atol=0.51), (
            name
        )  # they count from corners or centres
    assert seen.asked["input_labels"].tolist() == [[[1]]]
    assert not answer.mask[~box].any()


@pytest.mark.parametrize("kind", ["sam", "sam2"])
def test_what_it_drew_comes_back_to_it_where_it_was(kind, monkeypatch):
    """The mask that goes in with the second click is the one that came out with the first."""
    network = tiny_sam(kind)
    seen = Recorder(network, monkeypatch)
    model = Sam(network)
    embedding = model.embed(picture())
    model.prompt(embedding, Prompt((Click(60, 40),)), "a")
    assert seen.asked["multimask_output"]
    best = int(seen.answer.iou_scores.reshape(-1).argmax())
    first = seen.answer.pred_masks.reshape(-1, *seen.answer.pred_masks.shape[-2:])[best].detach().numpy()
    model.prompt(embedding, Prompt((Click(60, 40), Click(100, 80, positive=False))), "a")
    assert not seen.asked["multimask_output"]
    again = seen.asked["input_masks"][0, 0].numpy()
    assert again.shape == first.shape
    rows, columns = (round(inside / SIDE * len(first)) for inside in embedding.size)
    same = np.corrcoef(first[1 : rows - 1, 1 : columns - 1].ravel(), again[1 : rows - 1, 1 : columns - 1].ravel())
    assert same[0, 1] > 0.8  # scaled to the image and back


def test_an_incomplete_checkpoint_is_refused_and_never_filled_with_noise(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = write_tiny_sam(tmp_path / "sam")
    weights = load_file(folder / "model.safetensors")
    taken = next(key for key in weights if key.startswith("mask_decoder"))
    del weights[taken]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"1 tensors are missing, such as {taken}"):
        load_sam(folder)
    (folder / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint of SAM"):
        load_sam(folder)


def test_nothing_is_unpickled_and_no_code_of_the_folder_is_run(tmp_path):
    folder = write_tiny_sam(tmp_path / "sam")
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="safetensors"):
        load_sam(folder)
    again = write_tiny_sam(tmp_path / "again")
    config = json.loads((again / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}
    (again / "config.json").write_text(json.dumps(config))
    (again / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    load_sam(again)
    assert not (tmp_path / "ran").exists()


def test_a_folder_of_another_model_is_named_with_what_is_expected(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match=r"neither card\.json nor a config\.json of SAM or SAM 2"):
        load_model(tmp_path)


def test_without_transformers_the_remedy_is_said(tmp_path, monkeypatch):
    folder = write_tiny_sam(tmp_path / "sam")
    monkeypatch.setattr("models.sam.transformers_missing", lambda: True)
    with pytest.raises(CheckpointError) as error:
        load_sam(folder)
    assert "pip install 'premask[sam]'" in str(error.value)
