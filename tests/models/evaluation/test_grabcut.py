"""OpenCV's GrabCut as the reference of prompts."""

import cv2
import numpy as np

from models.evaluation.clicks import objects_of, tight_box
from models.evaluation.grabcut import ROUNDS, GrabCut
from models.masks.metrics import iou
from models.phantom.ultrasound import render_ultrasound
from models.prompt import Click, Prompt


def scene(noise):
    rows, columns = np.mgrid[:128, :128]
    truth = np.hypot(rows - 64, columns - 64) < 25
    image = np.where(truth[..., None], (90, 80, 70), (160, 150, 140)) + np.random.default_rng(0).normal(
        0, noise, (128, 128, 3)
    )
    return np.clip(image, 0, 255).astype(np.uint8), truth


def test_a_box_and_a_click_find_an_object_of_another_colour():
    image, truth = scene(10)
    model = GrabCut()
    embedding = model.embed(image)
    assert iou(model.prompt(embedding, Prompt(boxes=(tight_box(truth),))).mask, truth) > 0.95
    assert iou(model.prompt(embedding, Prompt((Click(64, 64),))).mask, truth) > 0.95


def test_of_a_box_it_draws_what_opencv_draws_of_a_rectangle():
    """Also where that is nothing: a dark nodule among dark speckle and a black border is background to it."""
    phantoms = [render_ultrasound(seed, 160) for seed in range(4)]
    objects = [(one, truth) for one in phantoms for mask in one.masks.values() for truth in objects_of(mask)]
    assert len(objects) > 2
    model = GrabCut()
    for phantom, truth in objects:
        marks = np.zeros(truth.shape, np.uint8)
        rectangle = cv2.boundingRect(truth.astype(np.uint8))
        cv2.setRNGSeed(0)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(phantom.image, marks, rectangle, *models, ROUNDS, cv2.GC_INIT_WITH_RECT)
        ours = model.prompt(model.embed(phantom.image), Prompt(boxes=(tight_box(truth),))).mask
        assert (ours == np.isin(marks, (cv2.GC_FGD, cv2.GC_PR_FGD))).all()
