"""The class that a prompt is about, where it is not given."""

import cv2
import numpy as np

from models.phantom import render_phantom
from models.pipeline import load_pipeline
from models.prompt import Click, Prompt
from models.prompted_class import likeliest_class
from models.starter import STARTER


def test_a_click_and_a_box_are_about_the_class_that_is_there():
    """The deepest point of the largest part of every class, and the box around it; the starter has seen none."""
    pipeline = load_pipeline(STARTER)
    asked, clicked, boxed = [], [], []
    for seed in range(40, 43):
        frame = render_phantom(seed=seed, size=512, difficulty=0.5)
        embedding = pipeline.embed(frame.image)
        for label, mask in frame.masks.items():
            count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
            if count == 1:
                continue
            part = parts == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
            depth = cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            y, x = np.unravel_index(depth.argmax(), depth.shape)
            left, top, width, height = cv2.boundingRect(part.astype(np.uint8))
            box = np.zeros_like(part)
            box[top : top + height, left : left + width] = True
            asked.append(label)
            clicked.append(likeliest_class(pipeline, embedding, Prompt((Click(x + 0.5, y + 0.5),))))
            boxed.append(likeliest_class(pipeline, embedding, Prompt(boxes=(box,))))
    assert len(set(asked)) == len(pipeline.classes)
    assert clicked == boxed == asked


def test_a_click_on_what_does_not_belong_speaks_against_its_class():
    pipeline = load_pipeline(STARTER)
    frame = render_phantom(seed=3, size=256, difficulty=0.2)
    embedding = pipeline.embed(frame.image)
    y, x = (float(np.mean(places)) for places in np.nonzero(frame.masks["Lumen"]))
    assert likeliest_class(pipeline, embedding, Prompt((Click(x, y),))) == "Lumen"
    assert likeliest_class(pipeline, embedding, Prompt((Click(x, y, positive=False),))) != "Lumen"


def test_a_box_of_the_whole_frame_or_of_one_pixel_is_about_something():
    pipeline = load_pipeline(STARTER)
    embedding = pipeline.embed(render_phantom(seed=3, size=256, difficulty=0.2).image)
    for box in (np.ones((256, 256), bool), np.eye(256, dtype=bool) & (np.arange(256) == 128)):
        assert likeliest_class(pipeline, embedding, Prompt(boxes=(box,))) in pipeline.classes
