"""The one service that runs models: batches across requests, prompts first, failures alone."""

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from backend.versions.inference import Inference
from models.prompt import Answer, Prompt
from models.segment import Prediction
from tests.backend.fakes import eventually

POISON = 13


class Recorder:
    """A model that notes each batch by the grey values of its images; `gate` holds up the first one."""

    classes = ("Lumen",)

    def __init__(self, name: str = "a", runs: list[Any] | None = None) -> None:
        self.name = name
        self.runs: list[Any] = [] if runs is None else runs
        self.began, self.gate = threading.Event(), threading.Event()

    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        values = [int(image.flat[0]) for image in images]
        self.runs.append((self.name, *values))
        self.began.set()
        assert self.gate.wait(20)
        if POISON in values:
            raise RuntimeError("poisoned image")
        return [Prediction({"Lumen": value / 255}) for value in values]

    def embed(self, image: np.ndarray) -> np.ndarray:
        self.runs.append(("embed", threading.current_thread().name))
        return image

    def prompt(
        self, embedding: np.ndarray, prompt: Prompt, label: str | None = None, existing: Sequence[np.ndarray] = ()
    ) -> Answer:
        self.runs.append(("prompt", threading.current_thread().name))
        return Answer(label or "Lumen", np.ones(embedding.shape[:2], bool), 1.0)


def images(*values: int) -> list[np.ndarray]:
    return [np.full((2, 2, 3), value, np.uint8) for value in values]


@pytest.fixture
def inference() -> Iterator[Inference]:
    """Batches of three that wait for no more images: what is together in a batch was put in while another ran."""
    service = Inference(batch_size=3, gather_seconds=0.0)
    yield service
    service.close()


@pytest.fixture
def busy(inference: Inference) -> Iterator[Recorder]:
    """A model in the middle of a batch of one image, 0."""
    model = Recorder()
    inference.predict(model, images(0))
    assert model.began.wait(20)
    yield model
    model.gate.set()


def test_two_requests_of_one_image_each_end_in_one_batch(inference: Inference, busy: Recorder) -> None:
    futures = inference.predict(busy, images(51)) + inference.predict(busy, images(102))
    busy.gate.set()
    assert [future.result(20).presence["Lumen"] for future in futures] == pytest.approx([0.2, 0.4])
    assert busy.runs == [("a", 0), ("a", 51, 102)]


def test_an_image_waits_for_others_to_fill_its_batch() -> None:
    """No batch runs meanwhile, and the time to gather does not end within the test."""
    service, model = Inference(batch_size=2, gather_seconds=60.0), Recorder()
    model.gate.set()
    first = service.predict(model, images(1))
    second = service.predict(model, images(2))
    assert [future.result(20) is not None for future in first + second] == [True, True]
    assert model.runs == [("a", 1, 2)]
    service.close()


def test_a_batch_is_never_larger_than_the_device_runs_well(inference: Inference, busy: Recorder) -> None:
    futures = inference.predict(busy, images(1, 2, 3, 4, 5))
    busy.gate.set()
    for future in futures:
        future.result(20)
    assert busy.runs == [("a", 0), ("a", 1, 2, 3), ("a", 4, 5)]


def test_models_are_not_mixed_and_the_oldest_image_goes_first(inference: Inference, busy: Recorder) -> None:
    other = Recorder("b", busy.runs)
    other.gate.set()
    asked = [(busy, 1), (other, 2), (busy, 3), (other, 4)]
    futures = [inference.predict(model, images(value))[0] for model, value in asked]
    busy.gate.set()
    assert [round(future.result(20).presence["Lumen"] * 255) for future in futures] == [1, 2, 3, 4]
    assert busy.runs == [("a", 0), ("a", 1, 3), ("b", 2, 4)]


def test_a_prompt_put_in_while_tasks_run_and_wait_is_answered_before_them(inference: Inference, busy: Recorder) -> None:
    waiting = inference.predict(busy, images(1, 2))
    embedding = inference.embed(busy, images(7)[0]).result(20)
    answer = inference.prompt(busy, embedding, Prompt(), "Fibrous cap", ()).result(20)
    assert answer.label == "Fibrous cap"
    assert not any(future.done() for future in waiting)
    busy.gate.set()
    waiting[-1].result(20)
    assert [run[0] for run in busy.runs] == ["a", "embed", "prompt", "a"]


def test_one_thread_answers_all_prompts(inference: Inference, busy: Recorder) -> None:
    for _ in range(3):
        inference.embed(busy, images(1)[0]).result(20)
    names = {run[1] for run in busy.runs if run[0] == "embed"}
    assert len(names) == 1
    assert threading.current_thread().name not in names


@pytest.mark.parametrize("values", [(1, POISON, 3), (POISON,)])
def test_an_image_on_which_the_model_fails_hurts_no_other(
    inference: Inference, busy: Recorder, values: tuple[int, ...]
) -> None:
    futures = inference.predict(busy, images(*values))
    busy.gate.set()
    errors = [future.exception(20) for future in futures]
    assert [error is not None for error in errors] == [value == POISON for value in values]
    assert "poisoned image" in str(errors[values.index(POISON)])


def test_a_model_that_makes_too_few_predictions_is_an_error_of_each_image(inference: Inference) -> None:
    class Short(Recorder):
        def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
            return []

    errors = [future.exception(20) for future in inference.predict(Short(), images(1, 2))]
    assert [str(error) for error in errors] == ["the model made 0 predictions of 1 images"] * 2


def test_a_cancelled_image_is_left_out_and_leaves_nothing_in_the_queue(inference: Inference, busy: Recorder) -> None:
    given_up, wanted = inference.predict(busy, images(1, 2))
    assert given_up.cancel()
    busy.gate.set()
    wanted.result(20)
    assert busy.runs == [("a", 0), ("a", 2)]
    assert not inference._waiting


def test_closing_finishes_the_batch_that_runs_cancels_the_rest_and_ends_the_threads() -> None:
    service, model = Inference(batch_size=1), Recorder()
    (running,) = service.predict(model, images(1))
    assert model.began.wait(20)
    (waiting,) = service.predict(model, images(2))
    closing = threading.Thread(target=service.close)
    closing.start()
    eventually(waiting.cancelled)
    model.gate.set()
    closing.join(20)
    assert running.result(20) is not None
    assert model.runs == [("a", 1)]
    with pytest.raises(RuntimeError):
        service.predict(model, images(3))


def test_torch_is_limited_to_the_threads_that_are_set() -> None:
    import torch

    class Counting(Recorder):
        def embed(self, image: np.ndarray) -> np.ndarray:
            return np.array([torch.get_num_threads()])

    service = Inference(torch_threads=1)
    assert service.embed(Counting(), images(1)[0]).result(20).tolist() == [1]
    service.close()
