"""BM25 over texts in memory, against the formula written out."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bowerbird.store.bm25 import Bm25
from bowerbird.store.filters import words_of

WORDS = st.sampled_from(["red", "Red", "hat", "a", "été", "x_1", "--"])
TEXTS = st.lists(st.none() | st.lists(WORDS, max_size=6).map(" ".join), max_size=8)


def by_hand(texts: list[str | None], asked: str) -> list[float]:
    said = [words_of(text) for text in texts if text is not None]
    mean = sum(map(len, said)) / max(len(said), 1)
    scores = []
    for text in texts:
        score, words = 0.0, words_of(text or "")
        for word in set(words_of(asked)):
            count, df = words.count(word), sum(word in other for other in said)
            if count:
                rarity = math.log(1 + (len(said) - df + 0.5) / (df + 0.5))
                score += rarity * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * len(words) / mean))
        scores.append(score)
    return scores


@given(TEXTS, st.lists(WORDS, max_size=4).map(" ".join))
def test_it_is_the_formula(texts, asked):
    found = Bm25(texts).scores(asked)
    assert found.dtype == np.float32
    assert found.shape == (len(texts),)
    assert np.allclose(found, by_hand(texts, asked), rtol=1e-6)


def test_figures():
    """Two texts, one with the word: ln 2 for its rarity, and lengths of 1 and 3 about a mean of 2."""
    scores = Bm25(["hat", "a red dress"]).scores("hat")
    assert scores[0] == np.float32(math.log(2) * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 0.5)))
    assert scores[1] == 0
