"""Rerankers: the same results in a better order, and a plain word where that cannot be had."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.models.overlap import write_overlap_model

import bowerbird as bb
from bowerbird.errors import ModelNotFoundError, QueryError
from bowerbird.search.rerank import MMR, CrossEncode, Exact, reranker, spread

CAPTIONS = {
    "chelsea.jpg": "a ginger cat\nportrait of a cat looking left",
    "coffee.jpg": "a cup of coffee with a spoon",
    "rocket.jpg": "a rocket at night",
    "astronaut.jpg": "a smiling astronaut in front of a flag and a rocket model",
    "camera.jpg": "",
    "hubble_deep_field.jpg": "",
}


@pytest.fixture(scope="module")
def index(tmp_path_factory, model, photographs) -> bb.Index:
    """Photographs, two of them without a text, and near duplicates of the cat: crops of a pixel or two."""
    folder = tmp_path_factory.mktemp("rerank")
    lines = ["image,caption"]
    for name, text in CAPTIONS.items():
        lines.append(f'{photographs[Path(name).stem]},"{text}"')
    cat = Image.open(photographs["chelsea"])
    for crop in range(1, 4):
        path = folder / f"cat{crop}.png"
        cat.crop((crop, crop, cat.width - crop, cat.height - crop)).save(path)
        lines.append(f"{path},a cat again {crop}")
    (folder / "photos.csv").write_text("\n".join(lines) + "\n")
    records = bb.Collection.from_csv(folder / "photos.csv", image="image", text="caption")
    records.embed(model).write(folder / "photos.bower")
    return bb.Index.open(folder / "photos.bower", model)


@pytest.fixture(scope="module")
def judge(tmp_path_factory) -> bb.CrossEncoder:
    """It counts the words that question and text have in common."""
    words = " ".join([*CAPTIONS.values(), "a cat again 1 2 3"]).split()
    return bb.CrossEncoder.load(
        str(write_overlap_model(tmp_path_factory.mktemp("judge") / "overlap", words, max_tokens=64))
    )


def names(hits: bb.Hits) -> list[str]:
    return [Path(hit.uri).stem for hit in hits]


def is_permutation(hits: bb.Hits, before: bb.Hits) -> bool:
    """The same results, each with all that is known of it, and scores that fall."""
    known = {hit.id: (hit.uri, dict(hit.attributes)) for hit in before}
    same = {hit.id: (hit.uri, dict(hit.attributes)) for hit in hits} == known and len(hits) == len(before)
    scores = hits.scores[~np.isnan(hits.scores)]
    return same and (np.diff(scores) <= 0).all() and not np.isnan(hits.scores[: len(scores)]).any()


# Maximal marginal relevance.


def test_near_duplicates_make_room(index):
    query = bb.Query(texts=("a cat",), among="image")
    before = index.ask(query, k=9)
    assert {"chelsea", "cat1", "cat2", "cat3"} == set(names(before)[:4])
    after = MMR(diversity=0.7).rerank(index, query, before)
    assert is_permutation(after, before)
    assert after[0].id == before[0].id
    assert len(set(names(after)[:4]) & {"chelsea", "cat1", "cat2", "cat3"}) == 1
    assert after.scale == f"mmr 0.7 of {before.scale}"


def test_without_diversity_nothing_moves(index):
    query = bb.Query(texts=("a cat",))
    before = index.ask(query, k=9)
    assert list(MMR(diversity=0).rerank(index, query, before).ids) == list(before.ids)


def test_pages_are_pages_of_one_order(index):
    """What is shown first does not depend on how much is shown."""
    query = bb.Query(texts=("a cat",))
    mmr = MMR(diversity=0.7, depth=6)
    long = mmr.rerank(index, query, index.ask(query, k=9))
    short = mmr.rerank(index, query, index.ask(query, k=6))
    assert list(long.ids[:6]) == list(short.ids)
    assert list(long.ids[6:]) == list(index.ask(query, k=9).ids[6:])
    assert np.isnan(long.scores[6:]).all()
    assert not np.isnan(long.scores[:6]).any()


def test_pictures_and_texts_are_spread_together(index):
    """Where both were asked, records are alike when their pictures are, whichever part has matched."""
    query = bb.Query(texts=("a cat",))
    before = index.ask(query, k=9)
    assert set(before.parts) == {"image", "text"}
    after = index.ask(query, k=9, rerank=MMR(diversity=0.5))
    assert is_permutation(after, before)
    assert len(set(names(after)[:4]) & {"chelsea", "cat1", "cat2", "cat3"}) < 4


def test_pictures_are_spread_by_what_compares_pictures(index, photographs):
    query = bb.Query(image=photographs["chelsea"])
    before = index.ask(query, k=9)
    after = MMR(diversity=0.6).rerank(index, query, before)
    assert is_permutation(after, before)
    assert len(set(names(after)[:3]) & {"chelsea", "cat1", "cat2", "cat3"}) == 1


def test_texts_are_spread_too(index):
    """Only seven records have a text; the captions of the near duplicates are alike."""
    query = bb.Query(texts=("a cat",), among="text")
    before = index.ask(query, k=9)
    after = MMR(diversity=0.7).rerank(index, query, before)
    assert is_permutation(after, before)
    assert list(after.ids) != list(before.ids)


def test_no_hits(index, judge):
    query = bb.Query(texts=("a cat",))
    none = index.ask(query, where="width < 0")
    for one in (MMR(), CrossEncode(judge), Exact()):
        assert len(one.rerank(index, query, none)) == 0


def likeness(n: int, seed: int) -> np.ndarray:
    """Of unit vectors, some of them equal."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, 3))[rng.integers(0, n, n)]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.maximum(rows @ rows.T, 0)


CASES = st.tuples(
    st.lists(st.integers(0, 6), min_size=1, max_size=12).map(lambda rel: np.sort(rel)[::-1] / 6),
    st.integers(0, 2**16),
)


@given(CASES, st.floats(0, 1))
def test_spread_is_a_permutation_with_falling_values_of_which_every_beginning_is_greedy(case, diversity):
    """Against the formula as it is written, without any of the bookkeeping."""
    relevance, seed = case
    alike = likeness(len(relevance), seed)
    order, values = spread(relevance, alike, diversity)
    assert sorted(order) == list(range(len(relevance)))
    assert (np.diff(values) <= 0).all()
    for place, taken in enumerate(order):
        left = sorted(order[place:])
        worth = [
            (1 - diversity) * relevance[d]
            - diversity * max([alike[s, d] for s in order[:place]], default=0.0)
            for d in left
        ]
        assert values[place] == max(worth)
        assert taken == left[int(np.argmax(worth))]


@given(CASES)
def test_spread_at_its_ends(case):
    relevance, seed = case
    alike = likeness(len(relevance), seed)
    assert spread(relevance, alike, 0.0)[0] == list(range(len(relevance)))
    order, _ = spread(relevance, alike, 1.0)
    assert order[0] == 0
    if len(order) > 1:
        assert alike[0, order[1]] == alike[0, 1:].min()


def test_relevance_is_the_order_where_scores_do_not_tell(index):
    """After another reranker some have no score: their places still count."""
    query = bb.Query(texts=("a cat",))
    before = index.ask(query, k=9)
    before = replace(before, scores=np.where(np.arange(9) < 4, before.scores, np.float32("nan")))
    assert list(MMR(diversity=0).rerank(index, query, before).ids) == list(before.ids)


# Cross-encoders.


def test_the_best_line_of_each_text_counts(index, judge):
    query = bb.Query(texts=("portrait of a cat",))
    before = index.ask(query, k=9)
    after = CrossEncode(judge).rerank(index, query, before)
    assert is_permutation(after, before)
    # Four words in common; in the other captions, and in the other line of this one, two at most.
    assert names(after)[0] == "chelsea"
    assert after.scores[0] == pytest.approx(1 / (1 + np.exp(-3)))
    assert after.scale == f"cross:{judge.name} ({judge.space}) probability text->text"


def test_records_without_text_come_last_and_are_counted(index, judge):
    query = bb.Query(texts=("stars in the deep field",), among="image")
    before = index.ask(query, k=9)
    assert names(before)[0] == "hubble_deep_field"
    after = CrossEncode(judge).rerank(index, query, before)
    assert is_permutation(after, before)
    without = [name for name in names(before) if name in ("camera", "hubble_deep_field")]
    assert names(after)[-2:] == without
    assert np.isnan(after.scores[-2:]).all()
    assert len(after.above(0.0)) == 7
    assert "2 of 9 candidates have no text" in after.notes[-1]


def test_no_more_than_depth_is_read(index, judge):
    query = bb.Query(texts=("a rocket at night",))
    before = index.ask(query, k=9)
    after = CrossEncode(judge, depth=3).rerank(index, query, before)
    assert sorted(after.ids[:3]) == sorted(before.ids[:3])
    assert list(after.ids[3:]) == list(before.ids[3:])


def test_of_several_texts_scores_are_blended(index, judge):
    query = bb.Query(texts=("cat", "coffee"), weights=(1, 3), without=("spoon",))
    after = CrossEncode(judge).rerank(index, query, index.ask(query, k=9))
    found = dict(zip(names(after), after.scores.tolist(), strict=True))
    yes, no = 0.5, 1 / (1 + np.e)  # one word in common, none
    assert found["chelsea"] == pytest.approx(yes / 4 + no * 3 / 4 - no / 2, abs=1e-6)
    assert found["coffee"] == pytest.approx(no / 4 + yes * 3 / 4 - yes / 2, abs=1e-6)


def test_texts_that_do_not_fit_are_said_to_be_cut(index, tmp_path):
    words = " ".join(CAPTIONS.values()).split()
    small = bb.CrossEncoder.load(str(write_overlap_model(tmp_path / "small", words, max_tokens=9)))
    query = bb.Query(texts=("a cat",))
    after = CrossEncode(small).rerank(index, query, index.ask(query, k=9))
    assert after.notes[-1] == "small reads 9 tokens, so 3 texts only in part."


def test_pictures_cannot_be_read(index, judge, photographs):
    query = bb.Query(texts=("a cat",), image=photographs["chelsea"])
    with pytest.raises(QueryError, match=r"words only.*exact or mmr"):
        CrossEncode(judge).rerank(index, query, index.ask(query))


def test_texts_that_hits_do_not_carry_are_read_from_the_index(index, judge):
    query = bb.Query(texts=("a rocket",))
    before = index.ask(query, k=9)
    bare = replace(before, attributes={})
    with_text, without = (CrossEncode(judge).rerank(index, query, hits) for hits in (before, bare))
    assert list(with_text.ids) == list(without.ids)


# In a search.


@pytest.mark.parametrize("make", [MMR, lambda: MMR(0.8, depth=4), "judge", Exact])
def test_pages_follow_one_another(index, judge, make):
    one = CrossEncode(judge, depth=5) if make == "judge" else make()
    query = bb.Query(texts=("a rocket at night",))
    whole = index.ask(query, k=9, rerank=one)
    assert len(whole) == 9
    pages = [index.ask(query, k=2, offset=offset, rerank=one) for offset in range(0, 10, 2)]
    assert [id_ for page in pages for id_ in page.ids] == list(whole.ids)


def test_limits_are_on_what_was_found_before(index, judge):
    """A least match and a threshold mean the same with and without a reranker."""
    query = bb.Query(texts=("a cat",), among="image")
    plain = index.ask(query, k=9)
    some = index.ask(query, k=9, threshold=float(plain.scores[3]), rerank=CrossEncode(judge))
    assert sorted(some.ids) == sorted(plain.ids[:4])
    least = float(np.sort(plain.match)[-3])
    some = index.ask(query, k=9, min_match=least, rerank=MMR(1.0))
    assert sorted(some.ids) == sorted(plain.matching(least).ids)
    none = index.ask(bb.Query(texts=("qwertz",), among="image"), min_match=1.0, rerank=MMR())
    assert len(none) == 0
    assert none.below


@pytest.mark.slow
def test_exact_search_is_not_approximate(tmp_path, model, monkeypatch):
    """Above a size that is made small here Lance's own index proposes candidates, and here it overlooks some."""
    from bowerbird.store import lance_memory, lance_search

    kinds = (
        ("red", "green", "blue", "black"),
        ("big", "small", "old", "new"),
        ("silk", "wooden", "glass", "iron", "paper"),
        ("dress", "shoe", "hat", "bag", "car", "house", "tree", "dog", "cat", "cup", "lamp", "chair", "ship"),
    )
    words = [" ".join(parts) for parts in itertools.product(*kinds)]
    monkeypatch.setattr(lance_memory, "EXACT_BYTES", 0)
    for name, value in {"PROBES": 0.01, "SEEN": 0, "OVER": 1}.items():
        monkeypatch.setattr(lance_search, name, value)
    bb.Collection.from_texts(words).embed(model).write(tmp_path / "words.bower")
    index = bb.Index.open(tmp_path / "words.bower", model)
    query = bb.Query(texts=("a new red hat",), among="text")
    scores = model.embed(words) @ model.embed("a new red hat", role="query")[0]
    best = np.sort(scores)[::-1][:45]
    assert index.ask(query, k=45, rerank=Exact()).scores == pytest.approx(best, abs=1e-4)
    assert index.ask(query, k=45).scores.sum() < best.sum() - 1e-2


# Names.


def test_names(tmp_path):
    assert reranker("exact") == Exact()
    assert reranker(" mmr ") == MMR()
    assert reranker("mmr:0.5") == MMR(0.5)
    directory = write_overlap_model(tmp_path / "overlap", ["a"])
    assert reranker(f"cross:{directory}").model.name == "overlap"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "no reranker ''"),
        ("mmrr", "Did you mean mmr"),
        ("mmr:", "no number"),
        ("mmr:much", "'much' is no number"),
        ("mmr:1.5", "diversity 1.5"),
        ("mmr:nan", "diversity nan"),
        ("exact:3", "no reranker"),
        ("cross", "names no cross-encoder"),
        ("cross: ", "names no cross-encoder"),
        ("crossing:x", "Did you mean cross"),
    ],
)
def test_names_that_are_none(name, message):
    with pytest.raises(QueryError, match=message):
        reranker(name)


def test_a_model_that_is_not_there():
    with pytest.raises(ModelNotFoundError):
        reranker("cross:no such model")


def test_a_depth_of_nothing(judge):
    for made in (lambda: MMR(depth=0), lambda: CrossEncode(judge, depth=0)):
        with pytest.raises(QueryError, match="at least 1"):
            made()
