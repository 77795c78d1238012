"""Figures while learning are those that `bowerbird.judge` gives for the same rankings."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bowerbird.judge.measures import measure, measured
from bowerbird.judge.significance import intervals
from bowerbird.learn import recall
from bowerbird.learn.examples import Examples, Picture
from bowerbird.learn.recall import CLASSES, PAIRS, aim, figures, per_query, ranks, with_intervals


def rows(rng: np.random.Generator, count: int) -> np.ndarray:
    """Vectors whose products are exact, so that many scores are equal."""
    return rng.integers(-1, 2, (count, 3)).astype(np.float32)


def pictures(count: int) -> tuple[Picture, ...]:
    return tuple(Picture(f"p{row}", f"p{row}", b"", f"c{row}") for row in range(count))


def judged(
    names: list[str], queries: np.ndarray, found: np.ndarray, right: dict[int, set[int]], alone: bool = False
):
    """Values by measure of the judge: the same rankings, written down. Equal scores stand in the order of records."""
    scores = queries @ found.T
    run = {
        str(query): [
            str(place)
            for place in sorted(
                range(len(found)), key=lambda place, query=query: (-scores[query, place], place)
            )
            if not (alone and place == query)
        ]
        for query in right
    }
    qrels = {str(query): {str(place): 1 for place in places} for query, places in right.items()}
    measures = [measure(name) for name in names]
    values = measured(measures, qrels, run).values
    return {name: values[one] for name, one in zip(names, measures, strict=True)}


def compared(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, atol=1e-12, err_msg=name)


@st.composite
def paired(draw: st.DrawFn) -> tuple[Examples, np.ndarray, np.ndarray]:
    """Pictures with several captions, captions of several pictures."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, texts = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    together = [(picture, text) for picture in range(count) for text in range(texts) if rng.random() < 0.25]
    links = rng.permutation(np.asarray(together or [(0, 0)], np.int64))
    return Examples(pictures(count), tuple(map(str, range(texts))), links), rows(rng, count), rows(rng, texts)


@settings(deadline=None)
@given(paired())
def test_recall_is_that_of_the_judge(made: tuple[Examples, np.ndarray, np.ndarray]):
    of, images, texts = made
    found = per_query(of, images, texts)
    names = ["R@1", "R@5", "R@10"]
    by_text = {
        text: {p for p, t in of.links.tolist() if t == text} for text in sorted(set(of.links[:, 1].tolist()))
    }
    by_picture = {
        p: {t for q, t in of.links.tolist() if q == p} for p in sorted(set(of.links[:, 0].tolist()))
    }
    compared(found["text->image"], judged(names, texts, images, by_text))
    compared(found["image->text"], judged(names, images, texts, by_picture))
    told = figures(of, images, texts)
    values = [one for direction in found.values() for one in direction.values()]
    assert told[PAIRS] == pytest.approx(np.mean([one.mean() for one in values]))
    assert told["text->image R@5"] == pytest.approx(found["text->image"]["R@5"].mean())
    assert aim(of) == PAIRS


@st.composite
def classed(draw: st.DrawFn) -> tuple[Examples, np.ndarray, np.ndarray]:
    """Pictures in classes, of which some may be empty and some hold one."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, classes = draw(st.integers(1, 25)), draw(st.integers(2, 5))
    labels = rng.integers(0, classes, count)
    names = tuple(f"class {row}" for row in range(classes))
    of = Examples(pictures(count), names, np.stack([np.arange(count), labels], 1), labels, names)
    return of, rows(rng, count), rows(rng, classes)


@settings(deadline=None)
@given(classed())
def test_precision_of_class_names_is_that_of_the_judge(made: tuple[Examples, np.ndarray, np.ndarray]):
    of, images, texts = made
    assert of.labels is not None
    right = {row: set(np.flatnonzero(of.labels == row).tolist()) for row in sorted(set(of.labels.tolist()))}
    found = per_query(of, images, texts)
    assert set(found) == {"class->image"}
    compared(found["class->image"], judged(["P@10", "Rprec", "AP"], texts, images, right))
    assert figures(of, images, texts)[CLASSES] == pytest.approx(found["class->image"]["AP"].mean())
    assert aim(of) == CLASSES


@settings(deadline=None)
@given(classed())
def test_without_texts_pictures_look_for_their_like(made: tuple[Examples, np.ndarray, np.ndarray]):
    """And never find themselves, whatever else has the same vector."""
    of, images, _ = made
    assert of.labels is not None
    right = {
        row: set(np.flatnonzero(of.labels == of.labels[row]).tolist()) - {row}
        for row in range(len(of))
        if (of.labels == of.labels[row]).sum() > 1
    }
    found = per_query(of, images, None)
    assert set(found) == {"image->image"}
    if right:
        compared(found["image->image"], judged(["P@10", "Rprec", "AP"], images, images, right, alone=True))
    else:
        assert len(found["image->image"]["AP"]) == 0
        assert math.isnan(figures(of, images, None)[CLASSES])
        assert math.isnan(with_intervals(of, images, None)["image->image"]["AP"]["mean"])


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    links = np.stack([np.repeat(np.arange(30), 3), rng.integers(0, 40, 90)], 1)
    links = np.unique(links, axis=0)
    of = Examples(pictures(30), tuple(map(str, range(40))), links)
    images, texts = rows(rng, 30), rows(rng, 40)
    labels = rng.integers(0, 3, 30)
    by_class = Examples(
        pictures(30), ("a", "b", "c"), np.stack([np.arange(30), labels], 1), labels, ("a", "b", "c")
    )
    whole = per_query(of, images, texts), per_query(by_class, images, None)
    monkeypatch.setattr(recall, "_BLOCK", 100)
    for one, other in zip(
        whole, (per_query(of, images, texts), per_query(by_class, images, None)), strict=True
    ):
        for direction, values in one.items():
            for name, array in values.items():
                np.testing.assert_array_equal(other[direction][name], array)


def test_ranks_of_equal_scores_are_in_order():
    queries, found = np.ones((1, 2), np.float32), np.ones((4, 2), np.float32)
    asked = np.zeros(4, np.int64)
    assert ranks(queries, found, asked, np.arange(4)).tolist() == [1, 2, 3, 4]


def test_every_figure_has_an_interval():
    rng = np.random.default_rng(1)
    of = Examples(pictures(60), tuple(map(str, range(60))), np.stack([np.arange(60)] * 2, 1))
    images = rng.normal(size=(60, 8)).astype(np.float32)
    texts = (images + 0.8 * rng.normal(size=(60, 8))).astype(np.float32)
    told, values = with_intervals(of, images, texts), per_query(of, images, texts)
    assert set(told) == {"text->image", "image->text"}
    for direction, measures in told.items():
        assert set(measures) == {"R@1", "R@5", "R@10"}
        for name, one in measures.items():
            (wanted,) = intervals(values[direction][name][None, :])
            assert (one["low"], one["high"]) == (wanted.low, wanted.high)
            assert 0 <= one["low"] <= one["mean"] <= one["high"] <= 1
            assert one["high"] > one["low"]


def test_without_queries_there_are_no_figures():
    none = Examples((), (), np.zeros((0, 2), np.int64))
    empty = np.zeros((0, 3), np.float32)
    assert per_query(none, empty, empty) == {}
    assert math.isnan(figures(none, empty, empty)[PAIRS])
    one = Examples(pictures(1), ("x",), np.asarray([[0, 0]]))
    assert per_query(one, None, empty) == {}
    assert figures(one, rows(np.random.default_rng(0), 1), np.ones((1, 3), np.float32))[PAIRS] == 1.0
