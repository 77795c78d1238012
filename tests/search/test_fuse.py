"""Fusion: of several rankings one, by match, by rank, by weights and by raw score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bowerbird.search import fuse

NAN = np.nan


@st.composite
def evidences(draw):
    """(rankings, n), every candidate found somewhere."""
    rows, count = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    values = draw(hnp.arrays(np.float64, (rows, count), elements=st.floats(-9, 9)))
    missing = draw(hnp.arrays(bool, (rows, count)))
    missing[0, missing.all(0)] = False
    return np.where(missing, NAN, values)


@given(evidences())
def test_the_best_part_counts_where_there_is_one_model(evidence):
    parts = ["image", "text", "words", "more"][: len(evidence)]
    values, rows = fuse.calibrated(evidence, parts)
    assert values == pytest.approx(np.nanmax(evidence, 0))
    assert np.take_along_axis(evidence, rows[None], 0)[0] == pytest.approx(values)


def test_models_are_averaged_within_a_part_and_parts_compete():
    evidence = np.asarray([[4.0, 1.0, NAN], [2.0, NAN, NAN], [1.0, 2.0, NAN], [2.0, 2.0, 5.0]])
    values, rows = fuse.calibrated(evidence, ["image", "image", "text", "text"])
    assert values.tolist() == [3.0, 2.0, 5.0]
    assert rows.tolist() == [0, 2, 3], "of the part that won, the model that is surest"


@given(evidences(), st.randoms(use_true_random=False))
def test_the_order_of_candidates_does_not_matter(evidence, random):
    order = list(range(evidence.shape[1]))
    random.shuffle(order)
    parts = ["image", "text", "image", "text"][: len(evidence)]
    values, rows = fuse.calibrated(evidence, parts)
    again, rows_again = fuse.calibrated(evidence[:, order], parts)
    assert again == pytest.approx(values[order])
    assert rows_again.tolist() == rows[order].tolist()


def test_reciprocal_ranks_as_they_were_published():
    ranks = np.asarray([[1.0, 2.0, NAN], [3.0, NAN, 1.0]])
    values, rows = fuse.by_rank(ranks)
    assert values == pytest.approx([1 / 61 + 1 / 63, 1 / 62, 1 / 61])
    assert rows.tolist() == [0, 0, 1]


def test_weights_of_any_sum_and_parts_that_are_missing():
    matches = np.asarray([[0.8, NAN], [0.4, 0.9]])
    values, rows = fuse.weighted(matches, np.asarray([3.0, 1.0]))
    assert values == pytest.approx([0.7, 0.225])
    assert rows.tolist() == [0, 1]
    twice, _ = fuse.weighted(matches, np.asarray([6.0, 2.0]))
    assert twice == pytest.approx(values)


def test_raw_scores_as_other_systems_mix_them():
    scores = np.asarray([[0.3, 0.2, 0.1], [0.7, 0.1, NAN]])
    found = np.asarray([[True, True, True], [False, True, False]])
    values, rows = fuse.by_raw_score(scores, found)
    assert values.tolist() == [0.3, 0.2, 0.1], "what a ranking did not find does not count"
    assert rows.tolist() == [0, 0, 0]
