"""The arithmetic of questions, as people may rely on it: weights, words to move away from, and what cancels out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import bowerbird as bb
from bowerbird.errors import QueryError

TEXTS = (
    "a cat",
    "a cup of coffee",
    "a rocket",
    "a camera",
    "an astronaut",
    "stars and galaxies",
    "a red dress",
)
ABOUT = {
    "chelsea": "a cat",
    "coffee": "a cup of coffee",
    "rocket": "a rocket",
    "hubble_deep_field": "stars and galaxies",
}
"""Photographs, and words that find them first."""

quick = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
some_texts = st.lists(st.sampled_from(TEXTS), min_size=1, max_size=4, unique=True)
factors = st.floats(1e-3, 1e3)


@pytest.fixture(scope="module")
def index(tmp_path_factory, model, photographs) -> bb.Index:
    index = bb.Index.create(tmp_path_factory.mktemp("arithmetic") / "photos.bower", model)
    index.add(list(photographs.values()))
    return index


def asked(index: bb.Index, **parts) -> dict[str, float]:
    """Name of each photograph -> its score."""
    hits = index.ask(bb.Query(**parts), k=50)
    names = [str(name).rpartition(".")[0] for name in hits.attributes["name"]]
    return dict(zip(names, hits.scores.tolist(), strict=True))


def weighted(texts, draw) -> tuple[float, ...]:
    return tuple(draw(st.floats(-2, 2)) for _ in texts)


@quick
@given(st.data(), some_texts, factors)
def test_only_the_proportions_of_weights_count(index, data, texts, factor):
    weights = weighted(texts, data.draw)
    assume(np.abs(weights).max() > 0.1 and np.linalg.norm(index.model.embed(texts).T @ weights) > 1e-2)
    plain = asked(index, texts=tuple(texts), weights=weights)
    scaled = asked(index, texts=tuple(texts), weights=tuple(factor * weight for weight in weights))
    assert scaled == pytest.approx(plain, abs=1e-4)


@quick
@given(st.data(), some_texts)
def test_the_order_of_texts_does_not_count(index, data, texts):
    weights = tuple(data.draw(st.floats(0.1, 2)) for _ in texts)
    away = tuple(data.draw(st.lists(st.sampled_from(TEXTS[-2:]), max_size=2)))
    turned = data.draw(st.permutations(range(len(texts))))
    assume(not set(away) & set(texts))
    one = asked(index, texts=tuple(texts), weights=weights, without=away)
    other = asked(
        index,
        texts=tuple(texts[at] for at in turned),
        weights=tuple(weights[at] for at in turned),
        without=away[::-1],
    )
    assert other == pytest.approx(one, abs=1e-5)


@quick
@given(st.sampled_from(TEXTS), st.integers(2, 4), factors)
def test_a_text_said_twice_is_the_same_text(index, text, times, factor):
    once = asked(index, texts=(text,))
    assert asked(index, texts=(text,) * times) == pytest.approx(once, abs=1e-5)
    assert asked(index, texts=(text,), weights=(factor,)) == pytest.approx(once, abs=1e-5)


@quick
@given(st.sampled_from(TEXTS), st.sampled_from(TEXTS))
def test_a_weight_of_nothing_leaves_a_text_out(index, text, other):
    found = asked(index, texts=(text, other), weights=(1, 0))
    assert found == pytest.approx(asked(index, texts=(text,)), abs=1e-5)


@quick
@given(st.sampled_from(sorted(ABOUT)), st.lists(st.sampled_from(TEXTS), min_size=1, max_size=2, unique=True))
def test_without_moves_away(index, name, texts):
    """What is there of a thing scores less, and is no further up, when the question moves away from it."""
    concept = ABOUT[name]
    assume(concept not in texts)
    assert next(iter(asked(index, texts=(concept,)))) == name, "the words find their photograph"
    before = asked(index, texts=tuple(texts))
    after = asked(index, texts=tuple(texts), without=(concept,))
    assert after[name] < before[name]
    assert list(after).index(name) >= list(before).index(name)


@quick
@given(st.sampled_from(sorted(ABOUT)), st.lists(st.sampled_from(TEXTS), min_size=1, max_size=2, unique=True))
def test_a_negative_weight_moves_away_too(index, name, texts):
    concept = ABOUT[name]
    assume(concept not in texts)
    weights = (*(1.0 for _ in texts), -0.5 * len(texts))
    away = asked(index, texts=(*texts, concept), weights=weights)
    assert away[name] < asked(index, texts=tuple(texts))[name]


@quick
@given(st.sampled_from(TEXTS), factors)
def test_what_cancels_out_cannot_be_asked(index, text, factor):
    for parts in (
        {"texts": (text, text), "weights": (factor, -factor)},
        {"texts": (text,), "without": (text, text)},
    ):
        with pytest.raises(QueryError, match="cancel"):
            asked(index, **parts)


def test_texts_that_cancel_out_leave_what_a_picture_weighs(index, photographs):
    texts, picture = ("a cup", "a cup"), photographs["coffee"]
    with pytest.raises(QueryError, match="cancel"):
        asked(index, texts=texts, image=picture, weights=(1, -1, 0))
    found = asked(index, texts=texts, image=picture, weights=(1, -1, 0.01))
    assert found["coffee"] == pytest.approx(1, abs=1e-4)


@quick
@given(st.sampled_from(sorted(ABOUT)), st.sampled_from(TEXTS), st.floats(0.05, 0.95))
def test_a_blend_lies_between_what_it_is_made_of(index, photographs, name, text, share):
    """The more of a picture is in the question, the more alike that picture is to it."""
    shares = sorted((share, min(1.0, share + 0.3)))
    scores = [
        asked(index, texts=(text,), image=photographs[name], weights=(1 - part, part))[name]
        for part in shares
    ]
    assert scores[0] <= scores[1] + 1e-5
