"""Probabilities that nothing needs a correction, fitted to few accepted images."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.confidence import ABSENT_SIGNS, DRAWN_SIGNS, PRIOR, SCALES, Judged, Lines, absent_signs, fit, read_lines

MARGIN = DRAWN_SIGNS.index("margin")


def at(units):
    """Signs of a mask, given how far each is from its usual value."""
    return tuple(centre + spread * unit for (centre, spread), unit in zip(SCALES, units, strict=True))


def drawn(label, margin, good):
    units = [0.0] * len(DRAWN_SIGNS)
    units[MARGIN] = margin
    return Judged(label, at(units), good)


def test_without_anything_judged_the_prior_holds():
    assert fit([]) == Lines(PRIOR.drawn, PRIOR.absent, {})


def test_what_was_judged_moves_the_confidence_as_far_as_there_is_evidence():
    one = drawn("a", 1.0, False)
    few, many = fit([one] * 2), fit([one] * 50)
    before = PRIOR.confidence("a", one.signs)
    assert before > few.confidence("a", one.signs) > many.confidence("a", one.signs)
    assert many.confidence("a", one.signs) < 0.1


def test_a_class_that_fails_lowers_its_own_confidence_most():
    lines = fit([drawn("easy", 1.0, True) for _ in range(20)] + [drawn("hard", 1.0, False) for _ in range(20)])
    signs = drawn("easy", 1.0, True).signs
    assert lines.confidence("easy", signs) > 0.8 > 0.2 > lines.confidence("hard", signs)
    assert lines.confidence("hard", signs) < lines.confidence("never seen", signs) < lines.confidence("easy", signs)


def test_probabilities_are_as_often_right_as_they_say():
    rng = np.random.default_rng(0)
    margins = rng.uniform(-2, 3, 400)
    judged = [drawn("a", m, bool(rng.random() < 1 / (1 + np.exp(1 - 1.5 * m)))) for m in margins]
    lines = fit(judged)
    said = np.array([lines.confidence("a", one.signs) for one in judged])
    right = np.array([one.good for one in judged])
    assert said.mean() == pytest.approx(right.mean(), abs=0.02)
    for low, high in ((0, 0.3), (0.3, 0.7), (0.7, 1)):
        part = (said >= low) & (said < high)
        assert said[part].mean() == pytest.approx(right[part].mean(), abs=0.12)


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.tuples(*[st.floats(-3, 3)] * len(DRAWN_SIGNS)), st.booleans()), max_size=12
    ),
    st.tuples(*[st.floats(-3, 3)] * len(DRAWN_SIGNS)),
    st.integers(0, len(DRAWN_SIGNS) - 1),
)
def test_a_better_sign_never_lowers_a_confidence(rows, signs, which):
    lines = fit([Judged(label, at(units), good) for label, units, good in rows])
    better = [sign + (place == which) for place, sign in enumerate(signs)]
    assert lines.confidence("a", at(better)) >= lines.confidence("a", at(signs))
    assert 0 <= lines.confidence("a", at(signs)) <= 1


def test_a_class_that_is_nearly_drawn_is_less_surely_absent():
    sure = [PRIOR.confidence("a", absent_signs(p, 0.3)) for p in (0.01, 0.1, 0.25, 0.29)]
    assert sure == sorted(sure, reverse=True)
    assert sure[0] > 0.95 > 0.85 > sure[-1]


def test_a_card_keeps_the_lines():
    lines = fit([drawn("a", 1.0, True), Judged("b", (2.0,) * len(ABSENT_SIGNS), False)])
    assert read_lines(json.loads(json.dumps(asdict(lines)))) == lines
    assert read_lines(None) == PRIOR
    with pytest.raises(KeyError):
        read_lines({"drawn": [1.0]})
