"""Questions to records of several parts under several models: what is found, by what, in which order, on which page."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bowerbird as bb
from bowerbird import Record
from bowerbird.errors import InputError, QueryError, UnsupportedInputError
from bowerbird.search import answer
from bowerbird.search.evidence import BEST, kinship, likeness, tempered
from bowerbird.search.rerank import MMR
from bowerbird.store.filters import among, words_of
from bowerbird.store.manifest import ModelEntry
from bowerbird.store.table import SCORE, VectorColumn

TEXTS = {
    "text-cat": "a sleeping cat",
    "text-dress": "a red dress for a summer evening",
    "text-shoes": "black leather shoes",
    "text-coffee": "espresso in a small cup",
    **{
        f"{colour}-{thing}": f"a {colour} {thing}"
        for colour, thing in itertools.product(
            ("green", "white", "striped"), ("coat", "scarf", "table", "bicycle", "lamp", "guitar")
        )
    },
}
CAPTIONS = {
    "chelsea": "a ginger cat looking to the left",
    "coffee": "a cup of coffee with a spoon",
    "astronaut": "portrait of a woman in a space suit",
}
FUSIONS = ("calibrated", "rank", "weighted", "raw")
quick = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def records(photographs: dict[str, Path], copies: Path) -> list[Record]:
    """Some with a picture, some with a text, some with both, and three exact copies of one text and of one picture."""
    found = [Record(f"both-{name}", photographs[name], (text,)) for name, text in CAPTIONS.items()]
    found += [Record(f"picture-{name}", photographs[name]) for name in ("camera", "hubble_deep_field")]
    found += [
        Record(id_, texts=(text,), attributes={"price": n}) for n, (id_, text) in enumerate(TEXTS.items())
    ]
    for number in range(3):
        place = copies / f"{number}.jpg"
        shutil.copy(photographs["rocket"], place)
        found.append(Record(str(place), place, named=False))
        found.append(Record(f"copied.txt:{number}", texts=("a wooden chair",), named=False))
    return found


@pytest.fixture(scope="module")
def small(private_places: Path) -> bb.Encoder:
    """The same weights in another space."""
    return bb.load("mini", dimensions=64)


@pytest.fixture(scope="module")
def index(tmp_path_factory, model: bb.Encoder, small: bb.Encoder, photographs) -> bb.Index:
    """Under two models."""
    folder = tmp_path_factory.mktemp("answer")
    items = records(photographs, folder)
    bb.Collection.from_items(items).embed(model).write(folder / "a.bower")
    opened = bb.Index.open(folder / "a.bower", model)
    opened.add_model(small)
    return bb.Index.open(folder / "a.bower", [model, small])


@pytest.fixture
def written(tmp_path: Path, model: bb.Encoder) -> Callable[..., bb.Index]:
    def write(*items: Record) -> bb.Index:
        bb.Collection.from_items(list(items)).embed(model).write(tmp_path / "w.bower")
        return bb.Index.open(tmp_path / "w.bower", model)

    return write


def rows(index: bb.Index, column: VectorColumn) -> dict[str, np.ndarray]:
    """By id, the vectors of a column."""
    return {
        row["id"]: np.asarray(row[column.name], np.float32)
        for batch in index.table.scan(["id", column.name])
        for row in batch.to_pylist()
        if row[column.name] is not None
    }


def column_of(index: bb.Index, part: str, model: str = "") -> VectorColumn:
    """What words are compared with."""
    (entry,) = index.entries(model)
    card = index.encoder(entry.space).card
    tower = card.image if part == "image" else card.text
    return entry.column(tower.output, part)


def assert_sound(hits: bb.Hits, fusion: str = "calibrated") -> None:
    assert len(set(hits.ids)) == len(hits)
    assert np.isfinite(hits.scores).all()
    assert np.isfinite(hits.match).all()
    assert ((hits.match >= 0) & (hits.match <= 1)).all()
    if fusion == "calibrated":
        assert (np.diff(hits.match) <= 0).all()
    assert len(hits.parts) == len(hits.models) == len(hits)
    assert set(hits.parts) <= {"image", "text", "words"}


# What is found, and by what


def test_a_record_is_found_by_its_text_and_by_its_picture(index, photographs):
    by_words = index.search("a cup of coffee with a spoon", k=5)
    assert (by_words[0].id, by_words[0].part) == ("both-coffee", "text")
    by_picture = index.search(photographs["coffee"], k=5)
    assert (by_picture[0].id, by_picture[0].part) == ("both-coffee", "image")
    camera = index.search("a photographer behind a camera", k=5, among="image")
    assert camera[0].id == "picture-camera"
    for hits in (by_words, by_picture, camera):
        assert_sound(hits)
        assert hits.ids.count("both-coffee") <= 1
        assert set(hits.models) == {"mini"}


def test_every_record_is_there_once(index):
    hits = index.search("a cat", k=1000)
    assert_sound(hits)
    # Three copies of a picture, and three of a text, are one each.
    assert len(hits) == len(index) - 4
    copied = [hit for hit in hits if hit.attributes["copies"] != 1]
    assert sorted(hit.attributes["copies"] for hit in copied) == [3, 3]


@pytest.mark.parametrize("asked", ["image", "text", "words", "image,text", "text,words", "image,words,text"])
def test_only_the_parts_that_are_asked_are_searched(index, asked):
    hits = index.search("a ginger cat", k=1000, among=asked)
    assert_sound(hits)
    assert set(hits.parts) <= set(asked.split(","))
    pictures, texts = rows(index, column_of(index, "image")), rows(index, column_of(index, "text"))
    want = {id_ for part, ids in (("image", pictures), ("text", texts)) if part in asked for id_ in ids}
    if "words" not in asked:
        assert set(hits.ids) <= want
        assert len(hits) >= len(want) - 4
    else:
        assert "both-chelsea" in hits.ids
    if asked == "words":
        assert all(set(words_of("a ginger cat")) & set(words_of(hit.attributes["text"])) for hit in hits)
        assert set(hits.models) == {""}


def test_scores_are_the_cosines_of_the_part_that_matched(index, model):
    query = "a ginger cat"
    hits = index.search(query, k=1000)
    asked = model.embed([query], role="query")[0]
    vectors = {part: rows(index, column_of(index, part)) for part in ("image", "text")}
    want = [float(vectors[hit.part][hit.id] @ asked) for hit in hits]
    np.testing.assert_allclose(hits.scores, want, atol=1e-6)
    assert hits.scale == "mini/image_embeds text->image | mini/sentence_embedding text->text"


def test_words_that_no_text_has_find_nothing(index):
    hits = index.search("xylophone", among="words", min_match=0.5)
    assert not hits
    assert hits.below is None, "nothing came near"
    assert len(hits.match) == len(hits.parts) == 0


# Several models


def test_several_models(index):
    hits = index.search("a ginger cat", k=1000, models="both")
    assert_sound(hits)
    assert hits[0].id == "both-chelsea"
    assert len(hits) == len(index) - 4
    (first, second) = index.manifest.models
    spaces = index.search("a ginger cat", k=1000, models=[first.space, second.space])
    assert (spaces.ids, spaces.parts) == (hits.ids, hits.parts)
    alone = index.search("a ginger cat", models=second.space)
    assert_sound(alone)
    assert alone.ids != index.search("a ginger cat", models=first.space, k=30).ids


def test_a_model_that_cannot_take_the_query_is_left_out(tmp_path, model, photographs):
    pictures = bb.load("mini", layer="penultimate")
    assert pictures.card.text is None
    items = [Record("cat", photographs["chelsea"], ("a cat",)), Record("cup", texts=("a cup of tea",))]
    bb.Collection.from_items(items).embed(model).write(tmp_path / "a.bower")
    opened = bb.Index.open(tmp_path / "a.bower", model)
    opened.add_model(pictures)
    index = bb.Index.open(tmp_path / "a.bower", [model, pictures])
    (_, second) = index.manifest.models
    hits = index.search("a cat", models="both")
    assert hits.ids[0] == "cat"
    assert any("takes" in note or "text" in note for note in hits.notes), hits.notes
    with pytest.raises(UnsupportedInputError):
        index.search("a cat", models=second.space)
    by_picture = index.search(photographs["chelsea"], models="both")
    assert by_picture.notes == ()
    assert by_picture[0].id == "cat"
    # It has no vectors of texts: the other has.
    texts = index.search("a cat", models="both", among="text")
    assert texts.ids == ["cat", "cup"]
    with pytest.raises(QueryError, match="has no texts"):
        index.search(photographs["chelsea"], models=second.space, among="text")
    beside = index.search(photographs["chelsea"], models="both", among="text")
    assert any("no vectors of texts" in note for note in beside.notes)


# Fusions, computed anew from what the store says


Told = dict[tuple[str, str], dict[str, tuple[int, float, float, float]]]


def told(index: bb.Index, query: str, models: tuple[ModelEntry, ...]) -> Told:
    """By part and model, for each id: rank, raw score, evidence with the presence, and match."""
    raw: dict[tuple[str, str], tuple[list[str], np.ndarray, np.ndarray]] = {}
    presences = []
    for entry, part in itertools.product(models, ("image", "text")):
        encoder, background = index.encoder(entry.space), index.background(entry)
        assert not background.correction.on, "the raw scores are those that are asked for"
        column = column_of(index, part, entry.space)
        vector = encoder.embed([query], role="query")[0]
        nearest = index.table.nearest(column.name, vector, 1000, columns=["id", "content", column.name])
        scores = nearest[SCORE].to_numpy().astype(np.float64)
        contents = nearest["content"].to_pylist()
        first = [row for row, content in enumerate(contents) if content not in contents[:row]][:BEST]
        vectors = np.stack([np.asarray(nearest[column.name][row].as_py(), np.float32) for row in first])
        best = background.presence("text", column, scores[first], vectors, scores[0])
        level = float(background.evidence("text", column, vector, np.asarray([best.level]))[0])
        presences.append((best.presence, level))
        raw[part, entry.space] = (
            nearest["id"].to_pylist(),
            scores,
            background.evidence("text", column, vector, scores),
        )
    found: Told = {}
    for key, (ids, scores, evidence) in raw.items():
        presence, level = max(presences, key=lambda found: found[0])
        judged = tempered(evidence, presence * kinship(evidence, level))
        rows = zip(range(1, len(ids) + 1), scores, judged, likeness(judged), strict=True)
        found[key] = dict(zip(ids, rows, strict=True))
    return found


def expected(
    index: bb.Index, query: str, fusion: str, weights: dict[str, float], models: tuple[ModelEntry, ...]
) -> dict[str, tuple[float, float]]:
    """By id: what it is ranked by, and its match."""
    by = told(index, query, models)
    ids = {id_ for column in by.values() for id_ in column}
    found = {}
    for id_ in ids:
        mean = {}
        for part in ("image", "text"):
            said = [column[id_][2] for (of, _), column in by.items() if of == part and id_ in column]
            mean.update({part: np.mean(said)} if said else {})
        certain = max(mean.values())
        value = {
            "calibrated": certain,
            "rank": sum(1 / (60 + column[id_][0]) for column in by.values() if id_ in column),
            "raw": max(column[id_][1] for column in by.values() if id_ in column),
            "weighted": sum(
                weights.get(part, 0) * column[id_][3] for (part, _), column in by.items() if id_ in column
            )
            / sum(weights.get(part, 0) for part, _ in by),
        }[fusion]
        found[id_] = (float(value), float(likeness(np.asarray(certain))))
    return found


@pytest.mark.parametrize("names", [(), "both"], ids=["one", "both"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_each_fusion_is_what_it_says(index, fusion, names):
    weights = {"image": 0.3, "text": 0.7}
    more = {"part_weights": weights} if fusion == "weighted" else {}
    query = "a ginger cat in the evening"
    hits = index.search(query, k=1000, fusion=fusion, models=names, **more)
    assert_sound(hits, fusion)
    want = expected(index, query, fusion, weights, index.entries(names))
    values = np.asarray([want[id_][0] for id_ in hits.ids])
    assert (np.diff(values) <= (1e-5 if fusion != "rank" else 5e-4)).all()
    np.testing.assert_allclose(hits.match, [want[id_][1] for id_ in hits.ids], atol=1e-5)
    if fusion in ("rank", "weighted"):
        # Which of the copies comes first is decided by the last bit of their scores.
        alone = np.flatnonzero([hit.attributes["copies"] == 1 for hit in hits])
        assert len(alone) == len(hits) - 2
        np.testing.assert_allclose(hits.scores[alone], values[alone], atol=1e-6)
        assert hits.scale.startswith(f"{fusion} fusion of mini/image_embeds text->image | ")
    if fusion == "raw":
        np.testing.assert_allclose(hits.scores, values, atol=1e-6)


def test_equal_weights_are_the_default_and_only_proportions_count(index):
    plain = index.search("a cat", k=50, fusion="weighted")
    for weights in ({"image": 1, "text": 1}, {"image": 0.2, "text": 0.2, "words": 5}):
        same = index.search("a cat", k=50, fusion="weighted", part_weights=weights)
        assert same.ids == plain.ids
        np.testing.assert_allclose(same.scores, plain.scores, atol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "0 results were asked for"),
        ({"k": -3}, "-3 results"),
        ({"k": 2.5}, "k 2.5 is no whole number"),
        ({"k": True}, "no whole number"),
        ({"offset": -1}, "offset -1 is negative"),
        ({"min_match": 1.01}, "not between 0 and 1"),
        ({"min_match": -0.1}, "not between 0 and 1"),
        ({"min_match": float("nan")}, "min_match nan cannot be used"),
        ({"among": "image", "threshold": float("inf")}, "threshold inf cannot be used"),
        ({"threshold": 0.2}, "A threshold compares raw scores"),
        ({"threshold": 0.2, "among": "text", "models": "both"}, "A threshold compares raw scores"),
        ({"threshold": 0.2, "among": "text,words"}, "A threshold compares raw scores"),
        ({"fusion": "best"}, "no fusion 'best'"),
        ({"fusion": "weighted", "part_weights": {"picture": 1}}, "no part 'picture' to weigh"),
        ({"fusion": "weighted", "part_weights": {"image": -1}}, "cannot be used"),
        ({"fusion": "weighted", "part_weights": {"image": 0}}, "cannot be used"),
        ({"fusion": "weighted", "part_weights": {"words": 1}}, "None of the parts"),
        ({"part_weights": {"image": 1}}, "'weighted' only"),
        ({"among": "images"}, "Did you mean image"),
        ({"models": "minni"}, "Did you mean mini"),
        ({"where": "prize < 3"}, "prize"),
    ],
)
def test_what_cannot_be_asked(index, arguments, message):
    with pytest.raises(QueryError, match=message):
        index.search("a cat", **arguments)


# Pages


@pytest.mark.parametrize("models", [(), "both"], ids=["one", "both"])
@pytest.mark.parametrize("among_", ["", "text", "image,words,text"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_pages_follow_one_another(index, fusion, among_, models):
    asked = {"fusion": fusion, "among": among_, "models": models}
    whole = index.search("a striped cat", k=12, **asked)
    pages = [index.search("a striped cat", k=3, offset=offset, **asked) for offset in (0, 3, 6, 9)]
    assert [id_ for page in pages for id_ in page.ids] == whole.ids
    np.testing.assert_array_equal(np.concatenate([page.match for page in pages]), whole.match)


@quick
@given(st.integers(0, 40), st.integers(1, 40), st.sampled_from(FUSIONS), st.sampled_from((None, 0.05, 0.5)))
def test_any_page_is_a_part_of_the_whole(index, offset, k, fusion, least):
    asked = {"fusion": fusion, "min_match": least}
    whole = index.search("a green lamp", k=1000, **asked)
    page = index.search("a green lamp", k=k, offset=offset, **asked)
    assert page.ids == whole.ids[offset : offset + k]
    assert page.parts == whole.parts[offset : offset + k]
    np.testing.assert_array_equal(page.scores, whole.scores[offset : offset + k])
    assert page.below is None


@pytest.mark.parametrize("fusion", FUSIONS)
def test_long_lists_are_the_same_without_their_vectors(index, fusion, monkeypatch):
    """Of longer lists than this index could give, vectors are read later."""
    whole = index.search("a ginger cat", k=1_000_000, fusion=fusion, models="both")
    assert len(whole) == len(index) - 4
    monkeypatch.setattr(answer, "MOST_VECTORS", 8)
    streamed = index.search("a ginger cat", k=1_000_000, fusion=fusion, models="both")
    assert (streamed.ids, streamed.parts) == (whole.ids, whole.parts)
    np.testing.assert_allclose(streamed.scores, whole.scores, atol=1e-6)
    np.testing.assert_allclose(streamed.match, whole.match, atol=1e-6)


@pytest.mark.parametrize("fusion", ["calibrated", "raw"])
def test_a_search_that_has_to_look_deeper_finds_the_same(index, fusion, monkeypatch):
    whole = index.search("a ginger cat", k=10, fusion=fusion)
    monkeypatch.setattr(answer, "DEPTHS", (2, 8, 32))
    monkeypatch.setattr(answer, "SPARE", 0)
    for among_ in ("", "text", "image"):
        asked = {"fusion": fusion, "among": among_}
        deep = [index.search("a ginger cat", k=1, offset=n, **asked).ids for n in range(6)]
        assert [id_ for ids in deep for id_ in ids] == index.search("a ginger cat", k=6, **asked).ids
    assert index.search("a ginger cat", k=10, fusion=fusion).ids == whole.ids


def test_beyond_the_end(index):
    hits = index.search("a cat", offset=10_000)
    assert len(hits) == 0
    assert hits.below is None
    assert index.search("a cat", k=1_000_000, offset=3).ids == index.search("a cat", k=1000).ids[3:]


# Limits


def test_nothing_matches(index):
    hits = index.search("the parliament of Norway", min_match=0.99, k=4)
    assert len(hits) == 0
    assert len(hits.below) == 4
    assert hits.below.ids == index.search("the parliament of Norway", k=4).ids
    second = index.search("the parliament of Norway", min_match=0.99, k=4, offset=4)
    assert second.below.ids == index.search("the parliament of Norway", k=4, offset=4).ids
    for reranked in (index.search("the parliament of Norway", min_match=0.99, k=4, rerank=MMR()),):
        assert reranked.below.ids == hits.below.ids


@quick
@given(st.lists(st.floats(0, 1), min_size=2, max_size=4), st.sampled_from(FUSIONS))
def test_a_higher_limit_leaves_less(index, limits, fusion):
    every = index.search("a white coat", k=1000, fusion=fusion)
    for least in sorted(limits):
        hits = index.search("a white coat", k=1000, min_match=least, fusion=fusion)
        want = np.flatnonzero(every.match >= np.float32(least))
        assert hits.ids == [every.ids[row] for row in want]
        assert (hits.below is None) == bool(len(hits))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_pages_of_what_passes_have_no_gaps(index, fusion):
    """Where the order is not that of the match, what fails lies between what passes."""
    every = index.search("a white coat", k=1000, fusion=fusion)
    least = float(np.sort(every.match)[-8])
    asked = {"fusion": fusion, "min_match": least}
    pages = [index.search("a white coat", k=2, offset=offset, **asked) for offset in range(0, 10, 2)]
    found = [id_ for page in pages for id_ in page.ids]
    assert len(found) == 8
    assert found == [hit.id for hit in every if np.float32(hit.match) >= np.float32(least)]


def test_a_raw_threshold(index):
    every = index.search("a green lamp", among="text", k=1000)
    at = float(every.scores[5])
    hits = index.search("a green lamp", among="text", k=1000, threshold=at)
    assert hits.ids == every.ids[:6]
    pages = [
        index.search("a green lamp", among="text", k=2, offset=n, threshold=at).ids for n in (0, 2, 4, 6)
    ]
    assert [id_ for ids in pages for id_ in ids] == hits.ids
    assert index.search("a green lamp", among="text", threshold=0.999).below is None


# Filters


def test_filters_hold_for_every_part(index):
    for among_ in ("", "text", "text,words"):
        hits = index.search("a striped guitar", k=1000, where="price >= 10 and price < 20", among=among_)
        assert hits
        assert all(10 <= hit.attributes["price"] < 20 for hit in hits)
        assert set(hits.parts) <= {"text", "words"}, "pictures have no price"
    every = index.search("a striped guitar", k=1000)
    some = index.search("a striped guitar", k=1000, where="price is null")
    # A filter takes results away and leaves the others in their order.
    assert some.ids == [hit.id for hit in every if hit.attributes["price"] is None]
    assert set(some.parts) == {"image", "text"}
    nothing = index.search("a striped guitar", where="price > 1000", min_match=0.1)
    assert (len(nothing), nothing.below) == (0, None)


# Like, blends, without


def test_like_a_record_with_a_text(index):
    hits = index.search(like="text-cat", k=1000)
    assert_sound(hits)
    assert "text-cat" not in hits.ids
    assert {"both-chelsea", "both-coffee"} <= set(hits.ids)
    assert "picture-camera" in hits.ids, "texts are compared with pictures too"
    assert hits[0].id == "both-chelsea"


def test_like_a_record_with_a_picture(index, photographs):
    hits = index.search(like="picture-camera", k=1000)
    assert_sound(hits)
    assert "picture-camera" not in hits.ids
    assert {"image", "text"} == set(hits.parts)
    among_pictures = index.search(like="picture-camera", among="image")
    column = index.manifest.models[0].column(index.model.card.image.similarity_output, "image")
    vectors = rows(index, column)
    want = [float(vectors[id_] @ vectors["picture-camera"]) for id_ in among_pictures.ids]
    np.testing.assert_allclose(among_pictures.scores, want, atol=1e-6)


def test_like_a_record_with_both(index, photographs):
    hits = index.search(like="both-chelsea", k=1000, models="both")
    assert_sound(hits)
    assert "both-chelsea" not in hits.ids
    assert hits[0].id == "text-cat"
    assert index.search(like=str(photographs["chelsea"])).ids == index.search(like="both-chelsea").ids


def test_like_an_exact_copy(index):
    found = index.search("a wooden chair", among="text", k=1)
    assert found[0].attributes["copies"] == 3
    like = index.search(like=found.ids[0], k=1000)
    assert all(hit.attributes["text"] != "a wooden chair" for hit in like)


def test_like_what_is_not_there(index):
    with pytest.raises(QueryError, match="No record 'no-such' is in the index"):
        index.search(like="no-such")


def test_blends_of_words_and_a_picture(index, model, photographs):
    hits = index.search("a cup", image=photographs["coffee"], weights=(0.3, 0.7), without="espresso", k=1000)
    assert_sound(hits)
    assert hits[0].id == "both-coffee"
    words, away = model.embed(["a cup", "espresso"], role="query").astype(np.float64)
    picture = model.embed([photographs["coffee"]])[0]
    blend = 0.3 * words + 0.7 * picture - 0.5 * away
    blend /= np.linalg.norm(blend)
    vectors = {part: rows(index, column_of(index, part)) for part in ("image", "text")}
    want = [float(vectors[hit.part][hit.id] @ blend) for hit in hits]
    np.testing.assert_allclose(hits.scores, want, atol=2e-6)
    assert "text+image->image" in hits.scale


# Several questions at once


def test_all_at_once_are_the_same_as_one_by_one(index, photographs):
    queries = [
        bb.Query(texts=("a ginger cat",)),
        bb.Query(texts=("a cup", "a spoon"), weights=(2, 1), without=("tea",)),
        bb.Query(image=photographs["rocket"]),
        bb.Query(texts=("black shoes",), among="text,words"),
        bb.Query(like="text-cat"),
    ]
    for asked in ({}, {"models": "both", "k": 5, "offset": 1}, {"fusion": "rank", "min_match": 0.2}):
        together = index.ask_all(queries, **asked)
        for query, hits in zip(queries, together, strict=True):
            alone = index.ask(query, **asked)
            assert (alone.ids, alone.parts, alone.models) == (hits.ids, hits.parts, hits.models)
            np.testing.assert_allclose(alone.scores, hits.scores, atol=1e-5)
            np.testing.assert_allclose(alone.match, hits.match, atol=1e-4)
    assert index.ask_all([]) == []


def test_a_picture_that_cannot_be_read(index, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError):
        index.search(tmp_path / "broken.jpg")
    with pytest.raises(InputError):
        index.search("a cat", image=tmp_path / "missing.jpg", models="both")


# Small indexes, and those of one modality


@pytest.mark.parametrize("count", [1, 2, 5])
def test_very_small_indexes(written, photographs, count):
    items = [
        Record("cat", photographs["chelsea"], ("a ginger cat",)),
        Record("cup", photographs["coffee"]),
        Record("dress", texts=("a red dress",)),
        Record("rocket", photographs["rocket"]),
        Record("shoes", texts=("black shoes",)),
    ]
    index = written(*items[:count])
    for query in ("a ginger cat", "a volcano", photographs["chelsea"]):
        for fusion in FUSIONS:
            hits = index.search(query, fusion=fusion)
            assert_sound(hits, fusion)
            assert len(hits) == count
    assert index.search("a ginger cat")[0].id == "cat"
    assert index.search(photographs["chelsea"])[0].id == "cat"
    if count > 1:
        assert_sound(index.search(like="cat"))


def test_an_empty_index(tmp_path, model):
    index = bb.Index.create(tmp_path / "empty.bower", model)
    hits = index.search("a cat", min_match=0.5)
    assert (len(hits), hits.below) == (0, None)


def test_an_index_of_texts(written, photographs):
    index = written(*(Record(id_, texts=(text,)) for id_, text in TEXTS.items()))
    hits = index.search("a cat that sleeps", k=1000)
    assert_sound(hits)
    assert set(hits.parts) == {"text"}
    assert hits[0].id == "text-cat"
    assert_sound(index.search(photographs["chelsea"]))
    assert set(index.search(like="text-cat").parts) == {"text"}


def test_an_index_of_pictures(written, photographs):
    index = written(*(Record(name, path) for name, path in photographs.items()))
    hits = index.search("a cat", k=1000)
    assert_sound(hits)
    assert set(hits.parts) == {"image"}
    assert hits[0].id == "chelsea"
    assert index.search(photographs["coffee"])[0].id == "coffee"
    with pytest.raises(QueryError, match="has no texts"):
        index.search("a cat", among="text")


def test_a_model_for_pictures_alone(tmp_path, photographs):
    model = bb.load("mini", layer="penultimate")
    index = bb.Index.create(tmp_path / "a.bower", model)
    index.add(Path(photographs["chelsea"]).parent)
    hits = index.search(photographs["chelsea"])
    assert_sound(hits)
    assert os.path.basename(hits[0].uri) == "chelsea.jpg"
    with pytest.raises(UnsupportedInputError):
        index.search("a cat")


def test_a_threshold_and_its_rows_are_in_the_table(index):
    """`copies` and the attributes belong to the row that is shown."""
    hits = index.search("a green lamp", k=5)
    (batch,) = [b for b in index.table.scan(["id", "price"], where=among("id", hits.ids[:1])) if b.num_rows]
    assert batch.to_pylist() == [{"id": hits.ids[0], "price": hits[0].attributes["price"]}]


def test_moving_away_from_a_record(index: bb.Index) -> None:
    """It leads to less of what it shows, whatever else is asked for, and several are moved away from together."""
    plain = index.search("a picture", k=1000)
    away = index.ask(bb.Query(texts=("a picture",), unlike=("picture-camera",)), k=1000)
    assert_sound(away)
    assert away.ids.index("picture-camera") > plain.ids.index("picture-camera")
    alike = index.ask(bb.Query(like="both-chelsea", unlike=("picture-camera", "both-coffee")), k=1000)
    assert_sound(alike)
    with pytest.raises(bb.BowerbirdError, match="No record"):
        index.ask(bb.Query(texts=("a picture",), unlike=("nothing",)))
