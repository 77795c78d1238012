"""The arithmetic of calibrated scores: order is never changed, scales are, and labels refine them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bowerbird.search.evidence import (
    Group,
    Pair,
    evidence_of,
    fitted,
    groups_of,
    kinship,
    likeness,
    match_of,
    standardised,
    tempered,
)
from bowerbird.search.labels import platt, pooled

numbers = st.floats(-50, 50, width=32)
scores = hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(-1, 1, width=32))
pairs = st.builds(
    lambda middle, spread, over: Pair(middle=middle, spread=spread, top=middle + (2.2 + over) * spread),
    st.floats(-1, 1),
    st.floats(0.05, 3),
    st.floats(0, 5),
)


@given(pairs, hnp.arrays(np.float64, st.integers(2, 40), elements=numbers))
def test_evidence_never_changes_an_order(pair, values):
    values = np.unique(values.round(3))
    assert (np.diff(pair.evidence(values)) > 0).all()


@given(pairs)
def test_where_kinds_of_pairs_meet(pair):
    at = pair.evidence(np.asarray([pair.middle, pair.middle + pair.spread, pair.top, pair.top + 1]))
    assert at == pytest.approx([0, 1, 3.5, 4.5], abs=1e-6)


@given(scores, scores, st.floats(0.1, 5), st.floats(-0.5, 0.5))
def test_a_scale_of_scores_does_not_matter_where_there_is_a_sample(values, background, factor, shift):
    """What a model multiplies its scores by, or adds to them, is taken out again."""
    background = np.concatenate([background, [-0.5, 0.5]])
    plain = Pair(neutral=float(background.mean()), deviation=float(background.std()))
    moved = Pair(neutral=plain.neutral * factor + shift, deviation=plain.deviation * factor)
    ours = standardised(values, background, plain)
    theirs = standardised(values * factor + shift, background * factor + shift, moved)
    assert theirs == pytest.approx(ours, abs=1e-5, rel=1e-5)


def test_without_a_sample_neutral_questions_say_what_is_ordinary():
    pair = Pair(neutral=0.2, deviation=0.1)
    assert standardised(np.asarray([0.2, 0.3]), np.zeros(0), pair) == pytest.approx([0, 1])
    one = standardised(np.asarray([0.9]), np.asarray([0.9]), pair)
    assert one[0] > 4, "a sample of one hardly counts"


@given(hnp.arrays(np.float64, st.integers(1, 30), elements=numbers))
def test_likeness_and_its_inverse(values):
    values = np.clip(values, -3, 8)
    match = likeness(values)
    assert ((match > 0) & (match < 1)).all()
    assert evidence_of(match) == pytest.approx(values, abs=1e-4)
    assert likeness(np.asarray([2.5])) == pytest.approx([0.5])


@given(st.integers(0, 2**32 - 1), st.floats(0.02, 0.1))
def test_what_unrelated_pairs_do_is_found_among_related_ones(seed, share):
    """Related pairs lie above; the fit of the lower part hardly sees them."""
    random = np.random.default_rng(seed)
    related = random.random(20_000) < share
    values = np.where(related, random.normal(4, 0.5, 20_000), random.normal(0, 1, 20_000))
    middle, spread, top = fitted(values)
    assert abs(middle) < 0.35
    assert 0.85 < spread < 1.5
    assert top >= middle + 2.2 * spread - 1e-9


def test_a_group_that_stands_out_says_that_something_is_there():
    pair = Pair(groups=(Group(10, 1.0, 2.0), Group(3, 1.5, 3.5), Group(1, 2.0, 6.0)))
    nothing = np.linspace(1.2, 0.8, 10)
    assert pair.presence(nothing)[0] < 0.2
    one = np.asarray([9.0, *nothing[1:]])
    assert pair.presence(one) == (pytest.approx(0.83, abs=0.02), 1)
    ten = np.full(10, 3.0)
    assert pair.presence(ten) == (pytest.approx(0.89, abs=0.02), 10)
    assert Group(1, 2.0, 6.0).steps(np.asarray([6.0])) == 0
    assert Pair().presence(nothing) == (1, 1), "nothing was measured, so nothing is held against it"


def test_small_columns_have_small_groups():
    assert [tuple(count for count, _ in groups_of(rows)) for rows in (1, 6, 9, 30)] == [
        (1,),
        (1,),
        (3, 1),
        (10, 3, 1),
    ]
    assert [sigmas for _, sigmas in groups_of(30)] == [3, 4, 5]


@given(hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(-9, 20)), st.floats(-2, 15))
def test_kinship_rises_with_the_evidence(values, level):
    near = kinship(np.sort(values), level)
    assert (np.diff(near) >= 0).all()
    assert ((near >= 0) & (near <= 1)).all()
    level = max(level, 1)
    assert kinship(np.asarray([level, 2 * level]), level) == pytest.approx([1, 1])
    assert kinship(np.asarray([level / 3]), level)[0] < 0.1


@given(hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(-3, 9)), st.floats(0.01, 1))
def test_tempered_evidence_is_the_product_of_likeness_and_share(values, share):
    assert likeness(tempered(values, share)) == pytest.approx(likeness(values) * share, abs=1e-9)
    kept = tempered(np.sort(values), share)
    assert (np.diff(kept) >= 0).all()


@given(hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(-5, 5)))
def test_pooling_gives_the_nearest_rising_sequence(values):
    rising = pooled(values)
    assert (np.diff(rising) >= -1e-12).all()
    assert rising.mean() == pytest.approx(values.mean(), abs=1e-9)
    error = ((rising - values) ** 2).sum()
    for other in (np.sort(values), np.full(len(values), values.mean())):
        assert error <= ((other - values) ** 2).sum() + 1e-9


def test_platt_finds_the_probabilities_that_made_the_labels():
    random = np.random.default_rng(0)
    x = random.normal(0, 2, 20_000)
    yes = (random.random(20_000) < 1 / (1 + np.exp(-(1.5 * x - 0.7)))).astype(float)
    slope, bias = platt(x, yes)
    assert (slope, bias) == (pytest.approx(1.5, abs=0.08), pytest.approx(-0.7, abs=0.08))


def test_labels_that_contradict_the_scores_never_turn_the_order_round():
    x = np.linspace(-3, 3, 100)
    slope, _ = platt(x, (x < 0).astype(float))
    assert slope == 0


@given(st.floats(0.1, 4), st.floats(-3, 3), hnp.arrays(np.float64, 10, elements=st.floats(-4, 8)))
def test_labels_keep_the_order(slope, bias, evidence):
    told = {"method": "platt", "slope": slope, "bias": bias}
    match = match_of(told, np.sort(evidence), 0.9)
    assert (np.diff(match) >= 0).all()
    isotonic = {"method": "isotonic", "x": [-2.0, 0.0, 2.0], "y": [0.1, 0.4, 0.9]}
    assert (np.diff(match_of(isotonic, np.sort(evidence), 0.9)) >= 0).all()
