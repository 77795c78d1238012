"""Search and join against plain references."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

import bowerbird as bb
from bowerbird import Collection, Failure, Record
from bowerbird.errors import BowerbirdError, RowError
from bowerbird.flow.nearest import METRICS


def records(vectors, name="image", prefix="d"):
    return [Record(f"{prefix}{place}", vectors={name: vector}) for place, vector in enumerate(vectors)]


def reference(questions, data, k, metric):
    """Brute force in float64: (ids, scores) of each question, equal ones in their order."""
    questions, data = questions.astype(np.float64), data.astype(np.float64)
    if metric == "l2":
        scores = np.linalg.norm(questions[:, None] - data[None], axis=2)
    else:
        scores = questions @ data.T
        if metric == "cosine":
            lengths = np.linalg.norm(questions, axis=1)[:, None] * np.linalg.norm(data, axis=1)
            scores = scores / np.maximum(lengths, 1e-12)
    order = np.argsort(scores if metric == "l2" else -scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, axis=1)


@limits(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 12), st.sampled_from(METRICS), st.data())
def test_the_same_as_brute_force(seed, count, k, metric, data):
    random = np.random.default_rng(seed)
    width = data.draw(st.integers(1, 9))
    rows = random.normal(size=(count, width)).astype(np.float32)
    questions = random.normal(size=(7, width)).astype(np.float32)
    found = Collection.from_items(records(questions)).search(
        Collection.from_items(records(rows)), k=k, metric=metric
    )
    order, scores = reference(questions, rows, k, metric)
    for hits, expected, values in zip([r.hits for r in found], order, scores, strict=True):
        assert np.allclose(hits.scores, values, atol=1e-5)
        assert len(hits) == min(k, count)
        # Names may differ only where scores are equal to rounding.
        for id_, place, value in zip(hits.ids, expected, values, strict=True):
            assert id_ == f"d{place}" or np.isclose(values, value, atol=1e-5).sum() > 1


@limits(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 35), st.sampled_from(("dot", "l2")))
def test_equal_scores_come_in_the_order_of_the_collection(seed, count, k, metric):
    # Small whole numbers: every score is exact, and many are equal.
    random = np.random.default_rng(seed)
    rows = random.integers(-2, 3, (count, 3)).astype(np.float32)
    questions = random.integers(-2, 3, (4, 3)).astype(np.float32)
    found = Collection.from_items(records(questions)).search(
        Collection.from_items(records(rows)), k=k, metric=metric
    )
    order, _ = reference(questions, rows, k, metric)
    assert [list(r.hits.ids) for r in found] == [[f"d{place}" for place in row] for row in order]


def test_copies_come_in_the_order_of_the_collection():
    random = np.random.default_rng(3)
    one = random.normal(size=384).astype(np.float32)
    rows = np.stack([one] * 37)
    for metric in METRICS:
        (result,) = Collection.from_items(records([one])).search(
            Collection.from_items(records(rows)), k=20, metric=metric
        )
        assert set(result.hits.ids) <= {f"d{n}" for n in range(37)}
        assert np.ptp(result.hits.scores) < 1e-3
        if metric == "l2":
            assert (result.hits.scores == 0).all()


def test_distances_of_vectors_that_are_nearly_the_same_are_exact():
    base = np.full(64, 100, np.float32)
    near = base + np.float32(1e-3)
    (result,) = Collection.from_items(records([base])).search(
        Collection.from_items(records([near, base])), k=2, metric="l2"
    )
    assert list(result.hits.ids) == ["d1", "d0"]
    assert result.hits.scores[0] == 0
    assert np.isclose(result.hits.scores[1], np.linalg.norm(near - base), rtol=1e-6)


def test_a_vector_of_zeros_is_far_from_everything_and_no_error():
    rows = np.array([[0, 0], [1, 0]], np.float32)
    (result,) = Collection.from_items(records([np.zeros(2, np.float32)])).search(
        Collection.from_items(records(rows)), k=2
    )
    assert list(result.hits.scores) == [0, 0]


def test_hits_say_what_they_are(photographs, model):
    data = Collection.from_glob(photographs["coffee"].parent / "*.jpg").embed(model)
    found = Collection.from_texts(["a cup of coffee"]).embed(model).search(data, k=2)
    (result,) = found
    assert result.hits[0].uri == str(photographs["coffee"])
    assert result.hits.scale == "mini/image text->image, cosine"
    assert result.texts == ("a cup of coffee",)
    # Pictures among pictures: by the vectors that compare those better.
    (alike,) = Collection.from_glob(photographs["rocket"]).embed(model).search(data, k=1)
    assert alike.hits.scale == "mini/image.features image.features->image.features, cosine"
    assert alike.hits[0].id == str(photographs["rocket"])
    assert np.isclose(alike.hits[0].score, 1, atol=1e-5)
    (shared,) = Collection.from_glob(photographs["rocket"]).embed(model).search(data, k=1, by="image")
    assert shared.hits.scale == "mini/image image->image, cosine"


def test_words_ask_words_where_there_are_no_pictures(model):
    data = Collection.from_texts(["a cat", "a fast car", "coffee"]).embed(model)
    found = Collection.from_texts(["kitten", "automobile"]).embed(model).search(data, k=1)
    assert [r.hits[0].id for r in found] == ["text:0", "text:1"]


def test_what_is_compared_can_be_named():
    first, second = np.eye(2, dtype=np.float32)
    data = Collection.from_items([Record("x", vectors={"a": first, "b": second})])
    asked = Collection.from_items([Record("q", vectors={"a": first, "c": second})])
    scores = [
        next(iter(asked.search(data, by=by))).hits[0].score
        for by in ("a", ("c", "b"), ("a", "b"), ("c", "a"))
    ]
    assert scores == [1, 1, 0, 0]


def test_questions_that_cannot_be_compared_are_failures_at_their_places():
    good = np.ones(3, np.float32)
    data = Collection.from_items(records([good, -good]))
    asked = [
        Record("good", vectors={"image": good}),
        Record("none"),
        Record("other", vectors={"x": good}),
        Record("wide", vectors={"image": np.ones(4, np.float32)}),
        Record("several", vectors={"image": np.ones((2, 3), np.float32)}),
        "no record",
        Record("again", vectors={"image": -good}),
    ]
    results = Collection.from_items(asked).search(data, k=1).to_list()
    assert [r.id for r in results] == ["good", "none", "other", "wide", "several", "'no record'", "again"]
    assert [results[0].hits[0].id, results[-1].hits[0].id] == ["d0", "d1"]
    told = [str(r.error) for r in results if isinstance(r, Failure)]
    for said, expected in zip(
        told,
        [
            "none has the vectors none",
            "other has the vectors x",
            "4 dimensions",
            "2 vectors",
            "takes records",
        ],
        strict=True,
    ):
        assert expected in said


def test_failures_of_what_is_searched_are_reported(caplog, picture, model, tmp_path):
    data = Collection.from_items(
        [Record("good", image=picture(5)), Record("gone", image=tmp_path / "gone.jpg")]
    ).embed(model)
    found = Collection.from_items([Record("q", image=picture(5))]).embed(model).search(data)
    (result,) = found
    assert list(result.hits.ids) == ["good"]
    assert found.executor.report.failed == {"UnreadableError": 1}
    assert found.executor.report.done == 1
    assert "gone" in caplog.text


def test_what_cannot_be_searched_at_all_is_an_error():
    asked = Collection.from_items(records(np.eye(2, dtype=np.float32)))
    for data, said in (
        ([], "is empty"),
        ([Record("a"), {"id": 1}], "no vectors"),
        (
            [
                Record("a", vectors={"image": np.ones(2, np.float32)}),
                Record("b", vectors={"image": np.ones(3)}),
            ],
            "of 2 and 3 dimensions",
        ),
    ):
        with pytest.raises(BowerbirdError, match=said) as caught:
            asked.search(Collection.from_items(data)).to_list()
        assert caught.value.hint


def test_the_searched_collection_runs_once_for_each_run_and_not_before():
    runs = []

    def source():
        runs.append(1)
        return records(np.eye(3, dtype=np.float32))

    data = Collection.from_items(source)
    found = Collection.from_items(records(np.eye(3, dtype=np.float32))).search(data, k=1)
    assert runs == []
    assert [r.hits[0].id for r in found] == ["d0", "d1", "d2"]
    assert len(runs) == 1


# join.


def test_join_inner_and_left():
    goods = Collection.from_items([{"id": n, "name": f"good {n}"} for n in range(4)])
    prices = Collection.from_items([{"id": n, "price": 10 * n, "name": "?"} for n in (2, 0, 7)])
    inner = goods.join(prices)
    assert inner.to_list() == [
        {"id": 0, "name": "good 0", "price": 0},
        {"id": 2, "name": "good 2", "price": 20},
    ]
    assert inner.executor.report.counts["join(id): dropped"] == 2
    left = goods.join(prices, how="left").to_list()
    assert [row.get("price") for row in left] == [0, None, 20, None]
    assert [row["id"] for row in left] == [0, 1, 2, 3]


def test_join_of_records_keeps_the_left_one_where_both_say_something():
    vector = np.ones(2, np.float32)
    left = Record("a", texts=("left",), attributes={"price": 1}, content="old")
    right = Record(
        "a", image=b"picture", texts=("right",), attributes={"price": 2, "shop": "x"}, vectors={"v": vector}
    )
    (both,) = Collection.from_items([left]).join(Collection.from_items([right]))
    assert (both.image, both.texts, both.attributes) == (b"picture", ("left",), {"price": 1, "shop": "x"})
    assert both.vectors["v"] is vector
    assert both.content == ""  # it has a picture now


def test_several_on_the_left_may_have_the_same_counterpart():
    captions = Collection.from_items([{"sku": "x", "n": n} for n in range(3)])
    shops = Collection.from_items([{"sku": "x", "shop": "here"}])
    assert [row["shop"] for row in captions.join(shops, on="sku")] == ["here"] * 3


def test_the_same_key_twice_on_the_right_is_an_error():
    left = Collection.from_items([{"id": 1}])
    right = Collection.from_items([{"id": 1, "a": 1}, {"id": 1, "a": 2}])
    with pytest.raises(RowError, match="id 1 twice"):
        left.join(right).to_list()
    assert left.join(right.dedupe(by="id")).to_list() == [{"id": 1, "a": 1}]


def test_nothing_is_no_key():
    left = Collection.from_items([{"sku": None, "n": 1}, {"sku": "x", "n": 2}])
    right = Collection.from_items(
        [{"sku": None, "shop": 1}, {"sku": None, "shop": 2}, {"sku": "x", "shop": 3}]
    )
    assert left.join(right, on="sku").to_list() == [{"sku": "x", "n": 2, "shop": 3}]
    assert [row.get("shop") for row in left.join(right, on="sku", how="left")] == [None, 3]


def test_elements_that_cannot_be_joined_are_failures_at_their_places():
    right = Collection.from_items([{"id": 1, "a": 1}, {"id": 2, "a": 1}])
    left = Collection.from_items(
        [{"id": 1}, {"name": "x"}, 5, Record("1"), {"id": [1]}, {"id": 2}, Record(2)]
    )
    results = left.join(right).to_list()
    kinds = [r.kind if isinstance(r, Failure) else r["id"] for r in results]
    assert kinds == [1, "RowError", "RowError", "RowError", 2, "UnsupportedInputError"]
    assert "has no 'id' to join by" in str(results[1].error)
    assert "Record and dict cannot be joined" in str(results[5].error)
    assert bb.Failure is Failure
