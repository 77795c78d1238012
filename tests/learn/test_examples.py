"""Some of the pictures, with everything that belongs to them."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bowerbird.learn.examples import Examples, Picture


@st.composite
def examples(draw: st.DrawFn) -> tuple[Examples, list[int]]:
    """Pictures that share texts, each vector telling whose it is; and some of the pictures, in any order."""
    count, texts = draw(st.integers(1, 12)), draw(st.integers(1, 8))
    links = [
        (picture, text)
        for picture in range(count)
        for text in draw(st.lists(st.integers(0, texts - 1), min_size=1, max_size=3, unique=True))
    ]
    links = draw(st.permutations(links))
    by_class = draw(st.booleans())
    if by_class:
        labels = draw(st.lists(st.integers(0, texts - 1), min_size=count, max_size=count))
        links = list(enumerate(labels))
    made = Examples(
        tuple(Picture(f"id{row}", f"name{row}", b"", f"content{row}") for row in range(count)),
        tuple(f"text {row}" for row in range(texts)),
        np.asarray(links, np.int64).reshape(-1, 2),
        np.asarray(labels, np.int64) if by_class else None,
        tuple(f"class {row}" for row in range(texts)) if by_class else (),
        images={
            name: (np.arange(count)[:, None] + [[0, shift]]).astype(np.float32)
            for name, shift in (("a", 1), ("b", 2))
        }
        if draw(st.booleans())
        else None,
        words={"t": np.arange(texts, dtype=np.float32)[:, None]} if draw(st.booleans()) else None,
    )
    return made, draw(st.lists(st.integers(0, count - 1), unique=True))


def pairs(of: Examples) -> set[tuple[str, str]]:
    return {(of.pictures[picture].id, of.texts[text]) for picture, text in of.links.tolist()}


@settings(deadline=None)
@given(examples())
def test_links_labels_and_vectors_stay_together(made: tuple[Examples, list[int]]):
    of, rows = made
    some = of.only(rows)
    ids = [f"id{row}" for row in rows]
    assert [picture.id for picture in some.pictures] == ids
    assert len(some) == len(rows)
    assert pairs(some) == {(picture, text) for picture, text in pairs(of) if picture in ids}
    assert len(some.links) == sum(of.pictures[picture].id in ids for picture in of.links[:, 0])
    if of.classes:
        assert some.texts == of.texts
        assert some.classes == of.classes
        assert some.labels is not None and of.labels is not None
        assert some.labels.tolist() == [of.labels[row] for row in rows]
    else:
        assert set(some.texts) == {text for _, text in pairs(some)}
        assert len(set(some.texts)) == len(some.texts)
        assert some.labels is None
    if of.images is not None:
        assert some.images is not None
        for name, array in of.images.items():
            np.testing.assert_array_equal(some.images[name], array[rows])
    else:
        assert some.images is None
    if of.words is not None:
        assert some.words is not None
        assert [f"text {int(number)}" for number in some.words["t"][:, 0]] == list(some.texts)


@settings(deadline=None)
@given(examples(), st.randoms(use_true_random=False))
def test_some_of_some_are_some(made: tuple[Examples, list[int]], random):
    of, rows = made
    inner = random.sample(range(len(rows)), random.randint(0, len(rows)))
    twice, once = of.only(rows).only(inner), of.only([rows[place] for place in inner])
    assert twice.pictures == once.pictures
    assert twice.texts == once.texts
    assert pairs(twice) == pairs(once)


def test_all_of_them_are_the_same():
    of = Examples(
        tuple(Picture(str(row), str(row), b"", str(row)) for row in range(3)),
        ("x", "y"),
        np.asarray([[0, 1], [1, 0], [2, 1]]),
    )
    same = of.only(np.arange(3))
    assert same.pictures == of.pictures
    assert same.texts == of.texts
    np.testing.assert_array_equal(same.links, of.links)
