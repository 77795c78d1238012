"""Ranked results as columns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bowerbird.errors import ScaleError
from bowerbird.hits import Hit, Hits

floats = st.floats(-1, 1, width=32)


def make(scores, scale="mini/image_embeds text->image", name="a", notes=()) -> Hits:
    scores = sorted(scores, reverse=True)
    count = len(scores)
    return Hits(
        [f"{name}{i}" for i in range(count)],
        np.asarray(scores, np.float32),
        scale,
        [f"/{name}/{i}.jpg" for i in range(count)],
        {"width": list(range(count)), name: ["x"] * count},
        notes,
    )


def test_one_at_a_time():
    hits = make([0.5, 0.9])
    assert hits[0] == Hit("a0", pytest.approx(0.9), "/a/0.jpg", {"width": 0, "a": "x"})
    assert hits[-1].id == "a1"
    assert [hit.id for hit in hits] == ["a0", "a1"]
    assert isinstance(hits[0].score, float)
    with pytest.raises(IndexError):
        hits[2]


def test_slices_are_hits_of_every_column():
    part = make([0.1, 0.2, 0.3], notes=("n",))[1:]
    assert isinstance(part, Hits)
    assert (list(part.ids), part.attributes["width"], part.notes) == (["a1", "a2"], [1, 2], ("n",))
    assert len(make([])[:5]) == 0


@given(st.lists(floats, max_size=20), floats)
def test_above_is_the_prefix_of_large_scores(scores, threshold):
    hits = make(scores)
    assert [hit.score for hit in hits.above(threshold)] == [
        hit.score for hit in hits if hit.score >= threshold
    ]


@given(st.lists(floats, max_size=12), st.lists(floats, max_size=12))
def test_merge_is_best_first_and_stable(ours, theirs):
    first, second = make(ours), make(theirs, name="b")
    merged = first.merge(second)
    expected = sorted([*first, *second], key=lambda hit: -hit.score)  # sorted is stable
    assert [(hit.id, hit.score, hit.uri) for hit in merged] == [(h.id, h.score, h.uri) for h in expected]
    assert list(merged.attributes) == ["width"]  # only what both know
    assert merged.attributes["width"] == [h.attributes["width"] for h in expected]


def test_notes_are_merged_once():
    assert make([1], notes=("x", "y")).merge(make([1], notes=("y", "z"))).notes == ("x", "y", "z")


def test_scores_of_two_scales_are_never_mixed():
    with pytest.raises(ScaleError, match="image->image"):
        make([0.5]).merge(make([0.5], scale="mini/features image->image"))


def test_plain_data():
    assert make([0.5]).to_dicts() == [{"id": "a0", "score": 0.5, "uri": "/a/0.jpg", "width": 0, "a": "x"}]


def test_repr_is_short():
    text = repr(make(np.linspace(-1, 1, 50)))
    assert text.count("\n") == 11
    assert "50" in text
    assert "40 more" in text
    assert repr(make([])) == "<Hits: 0, mini/image_embeds text->image>"
