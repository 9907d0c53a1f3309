"""How sure a prediction is, as one number to sort by."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.segment import Prediction, Segment, entropy, outline_uncertainty
from models.trimap import UNKNOWN

P = st.floats(0, 1)


def segment(label, score):
    return Segment(label, score, np.ones((2, 2), bool))


@given(P, P)
def test_entropy_is_a_bit_at_a_half_and_falls_to_nothing_where_the_answer_is_sure(p, q):
    assert entropy(0.5) == pytest.approx(1)
    assert entropy([0, 1]) == pytest.approx([0, 0], abs=1e-9)
    assert entropy(p) == pytest.approx(entropy(1 - p), abs=1e-9)
    assert 0 <= entropy(p) <= 1
    if abs(p - 0.5) < abs(q - 0.5):
        assert entropy(p) >= entropy(q) - 1e-9


def test_what_is_no_number_is_as_uncertain_as_can_be():
    assert entropy(np.nan) == pytest.approx(1)


@given(st.dictionaries(st.sampled_from("abcd"), P), st.dictionaries(st.sampled_from("abcd"), P))
def test_confidence_is_the_product_over_the_classes_that_are_asked_for(presence, scores):
    found = Prediction(presence, [segment(label, score) for label, score in scores.items()], frozenset("ab"))
    each = {label: found.confidence([label]) for label in {*presence, *scores}}
    for label, one in each.items():
        assert one == pytest.approx(scores[label] if label in scores else 1 - presence[label])
    assert found.score == pytest.approx(math.prod(each.values()) if each else 0.0)
    assert found.confidence(each) == pytest.approx(found.score)
    told = [p if label in "ab" else 1 - p for label, p in presence.items()]
    assert found.confidence((), named=presence) == pytest.approx(math.prod(told) if told else 0.0)


def test_what_was_calibrated_goes_before_scores_and_presence():
    found = Prediction({"a": 0.9, "b": 0.2}, [segment("a", 0.3)], frozenset("a"), {"a": 0.7, "b": 0.5})
    assert found.confidence(["a"]) == 0.7
    assert found.score == pytest.approx(0.35)


def test_an_outlines_uncertainty_is_that_of_the_unknown_zone_alone():
    trimap = np.zeros((4, 4), np.uint8)
    trimap[:, 2:] = UNKNOWN
    alpha = np.full((7, 8), 0.5, np.float32)
    alpha[:, 4:] = 0.11
    assert outline_uncertainty(alpha, trimap) == pytest.approx(float(entropy(0.11)), abs=1e-6)
    assert outline_uncertainty(alpha, np.zeros_like(trimap)) == 0.0
