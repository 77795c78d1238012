"""What a match has to be on collections where few records, or none, are what was asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import bowerbird as bb

COLOURS = ("red", "blue", "black", "white", "green")
GARMENTS = ("dress", "shirt", "skirt", "hat", "coat", "pair of shorts", "pair of shoes", "t-shirt")
PLACES = ("for the office", "for sale", "in size M", "worn once")
CLOTHES = [f"{colour} {garment} {place}" for colour in COLOURS for garment in GARMENTS for place in PLACES]
ALONE = ("the eiffel tower in paris", "a steam locomotive", "a golden retriever puppy")


@pytest.fixture(scope="module")
def clothes(tmp_path_factory: pytest.TempPathFactory, model: bb.Encoder) -> bb.Index:
    """160 descriptions of clothes, and three texts about other things."""
    path = tmp_path_factory.mktemp("clothes") / "clothes.bower"
    texts = [*CLOTHES, *ALONE]
    records = [bb.Record(f"t{i}", texts=(text,), named=True) for i, text in enumerate(texts)]
    bb.Collection.from_items(records).embed(model).write(str(path))
    return bb.Index.open(path, model)


@pytest.mark.parametrize("text", ALONE)
def test_one_right_record_is_found_and_those_behind_it_are_not(clothes: bb.Index, text: str) -> None:
    hits = clothes.search(text, k=5)
    assert hits[0].attributes["text"] == text
    assert hits[0].match > 0.7
    assert (hits.match[1:] < 0.3).all()
    assert len(clothes.search(text, k=5, min_match=0.5)) == 1


@pytest.mark.parametrize("text", ["a volcano", "stock market crash", "how to bake bread"])
def test_what_is_not_there_matches_nothing(clothes: bb.Index, text: str) -> None:
    hits = clothes.search(text, k=3, min_match=0.5)
    assert len(hits) == 0
    assert hits.below is not None
    assert (hits.below.match < 0.5).all()


def test_what_is_there_often_matches_often(clothes: bb.Index) -> None:
    hits = clothes.search("a red dress", k=4, min_match=0.5)
    assert len(hits) == 4
    assert all("red dress" in str(hit.attributes["text"]) for hit in hits)


def test_a_filter_changes_no_match(clothes: bb.Index) -> None:
    plain = clothes.search("a red dress", k=4)
    for count in (1, 3):
        ids = ", ".join(f"'{id_}'" for id_ in plain.ids[:count])
        alone = clothes.search("a red dress", k=4, where=f"id in ({ids})")
        np.testing.assert_allclose(alone.match, plain.match[:count], atol=1e-5)
    assert clothes.search("a red dress", where=f"id = '{plain.ids[0]}'", min_match=0.5)


def test_a_common_word_lets_nothing_pass(clothes: bb.Index) -> None:
    assert not clothes.search("the volcano in the sea", among="text,words", min_match=0.5)
    word = clothes.search("locomotive", among="words", min_match=0.5)
    assert [hit.attributes["text"] for hit in word] == ["a steam locomotive"]


def test_pages_of_words_follow_one_another(clothes: bb.Index) -> None:
    whole = clothes.search("red dress for sale", among="words", k=60)
    pages = [clothes.search("red dress for sale", among="words", k=7, offset=at) for at in range(0, 60, 7)]
    assert [id_ for page in pages for id_ in page.ids][:60] == list(whole.ids)
    assert (np.diff(whole.match) <= 0).all()


def test_pictures_and_texts_are_let_through_by_one_threshold(
    tmp_path: Path, model: bb.Encoder, photographs: dict[str, Path]
) -> None:
    records = [bb.Record(f"t{i}", texts=(text,), named=True) for i, text in enumerate(CLOTHES[:80])]
    records += [bb.Record(name, path, named=True) for name, path in photographs.items()]
    bb.Collection.from_items(records).embed(model).write(str(tmp_path / "mixed.bower"))
    index = bb.Index.open(tmp_path / "mixed.bower", model)
    assert list(index.search("a cat", min_match=0.5).ids) == ["chelsea"]
    assert index.search("a blue skirt", min_match=0.5, k=4).parts == ["text"] * 4
    assert not index.search("a volcano", min_match=0.5)
