"""Questions: how words, pictures and records become one vector, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import bowerbird as bb
from bowerbird.errors import QueryError, UnreadableError
from bowerbird.search.query import Query
from bowerbird.search.question import UNLIKE_WEIGHT, WITHOUT_WEIGHT, Asker, liked


@pytest.fixture(scope="module")
def index(tmp_path_factory, model, photographs) -> bb.Index:
    index = bb.Index.create(tmp_path_factory.mktemp("query") / "photos.bower", model)
    index.add(list(photographs.values()))
    return index


def shared(index: bb.Index, model: bb.Encoder, vector: np.ndarray) -> dict[str, float]:
    """Scores by file name, computed here: the vectors in the space shared with texts against a blend."""
    files = sorted(Path(hit.uri) for hit in index.search("anything", k=50))
    pictures = model.embed(files)
    scores = pictures @ (vector / np.linalg.norm(vector))
    return dict(zip([path.name for path in files], scores.tolist(), strict=True))


def by_name(hits: bb.Hits) -> dict[str, float]:
    return {str(hit.attributes["name"]): hit.score for hit in hits}


def test_words_find_what_they_say(index):
    for words, name in [("a cat", "chelsea"), ("a cup of coffee", "coffee"), ("a rocket", "rocket")]:
        assert Path(index.search(words, k=1)[0].uri).stem == name


def test_scores_are_cosines_and_best_first(index, model):
    hits = index.search("a cat", k=50)
    assert by_name(hits) == pytest.approx(shared(index, model, model.embed("a cat")[0]), abs=1e-5)
    assert (np.diff(hits.scores) <= 0).all()
    assert hits.scale == "mini/image_embeds text->image"


@pytest.mark.parametrize("weights", [(), (0.6, 0.4), (1, 3)])
def test_a_blend_is_the_weighted_sum(index, model, photographs, weights):
    hits = index.search("a cup", image=photographs["coffee"], weights=weights, k=50)
    text, picture = weights or (1, 1)
    blend = text * model.embed("a cup")[0] + picture * model.embed(photographs["coffee"])[0]
    assert by_name(hits) == pytest.approx(shared(index, model, blend), abs=1e-5)
    assert hits.scale == "mini/image_embeds text+image->image"


def test_without_moves_away(index, model):
    hits = index.search("an animal", without="grass", k=50)
    blend = model.embed("an animal")[0] - WITHOUT_WEIGHT * model.embed("grass")[0]
    assert by_name(hits) == pytest.approx(shared(index, model, blend), abs=1e-5)


def asked(index: bb.Index, query: Query) -> np.ndarray:
    """What the first column is asked."""
    (entry,) = index.manifest.models
    asker = Asker(index, entry, index.background(entry))
    record = liked(index, query.like, [entry]) if query.like else None
    return asker.questions(query, record, [liked(index, one, [entry]) for one in query.unlike])[0].raw


def test_less_like_a_record_subtracts_what_it_has_beside_the_question(index, model, photographs):
    ids = {Path(hit.uri).stem: hit.id for hit in index.search("anything", k=50)}
    hits = index.ask(Query(texts=("an animal",), unlike=(ids["chelsea"],)), k=50)
    words, cat = model.embed("an animal")[0], model.embed(photographs["chelsea"])[0]
    blend = words - UNLIKE_WEIGHT * (cat - (cat @ words) * words)
    assert by_name(hits) == pytest.approx(shared(index, model, blend), abs=1e-5)


@pytest.mark.parametrize("text", ["an animal", "a cup of coffee", "a rocket", "something black"])
def test_less_like_records_keeps_what_is_looked_for(index, text):
    """Whichever they are and however many: and each alone is nearer to the question before than after."""
    ids = [hit.id for hit in index.search("anything", k=50)]
    plain = asked(index, Query(texts=(text,)))
    most = 1 / np.hypot(1, UNLIKE_WEIGHT)
    (entry,) = index.manifest.models
    for id_ in ids:
        away = asked(index, Query(texts=(text,), unlike=(id_,)))
        name = next(column.name for column in entry.columns if column.modality == "image")
        record = liked(index, id_, [entry]).vectors[name]
        assert away @ plain >= most - 1e-6
        assert away @ record < plain @ record
    for count in range(2, len(ids)):
        assert asked(index, Query(texts=(text,), unlike=tuple(ids[:count]))) @ plain >= most - 1e-6
    alike = asked(index, Query(like=ids[0]))
    assert asked(index, Query(like=ids[0], unlike=tuple(ids[1:]))) @ alike >= most - 1e-6


def test_a_picture_alone_is_compared_by_its_features(index, model, photographs):
    hits = index.search(photographs["coffee"], k=50)
    assert hits.scale == "mini/features image->image"
    assert Path(hits[0].uri).stem == "coffee"
    assert hits[0].score == pytest.approx(1.0, abs=1e-4)
    files = [Path(hit.uri) for hit in hits]
    features = model.embed(files, output="features")
    query = model.embed(photographs["coffee"], output="features")[0]
    assert hits.scores == pytest.approx(features @ query, abs=1e-5)


def test_like_is_the_picture_without_itself(index, photographs):
    by_path = index.search(like=str(photographs["coffee"]), k=50)
    by_picture = index.search(photographs["coffee"], k=50)
    assert by_name(by_path) == pytest.approx(
        {name: score for name, score in by_name(by_picture).items() if name != "coffee.jpg"}, abs=1e-4
    )
    by_id = index.search(like=by_picture[0].id, k=50)
    assert list(by_id.ids) == list(by_path.ids)


def test_threshold_and_filter(index):
    everything = index.search("a cat", k=50)
    some = index.search("a cat", k=50, threshold=float(everything.scores[1]))
    assert list(some.ids) == list(everything.ids[:2])
    assert len(index.search("a cat", k=50, threshold=0.99)) == 0
    tall = index.search("a cat", k=50, where="height > 250")
    assert {hit.id for hit in tall} == {h.id for h in everything if h.attributes["height"] > 250}
    assert 0 < len(tall) < len(everything)


def test_a_long_query_is_cut_and_says_so(index):
    hits = index.search("cat " * 10_000, k=1)
    assert "cut to 256 tokens" in hits.notes[0]
    assert Path(hits[0].uri).stem == "chelsea"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": ""}, "empty"),
        ({"text": "  \n"}, "empty"),
        ({}, "empty"),
        ({"text": "a", "without": " "}, "empty"),
        ({"text": "a", "k": 0}, "0 results"),
        ({"text": "a", "threshold": float("nan")}, "threshold nan"),
        ({"text": "a", "weights": (1, 2)}, "2 weights were given for 1 parts"),
        ({"text": "a", "weights": (0,)}, "cannot be used"),
        ({"text": "a", "weights": (float("nan"),)}, "cannot be used"),
        ({"text": "a", "where": "no_such_column = 1"}, "no_such_column"),
        ({"text": "a", "where": "width >"}, "width >"),
        ({"text": "a", "where": "width > 1; drop table"}, "semicolon"),
        ({"like": "no such record"}, "no such record"),
        ({"image": "a.jpg", "like": "b.jpg"}, "both given"),
        ({"text": Path("a.jpg"), "image": "b.jpg"}, "Two query pictures"),
    ],
)
def test_what_cannot_be_asked(index, arguments, message):
    with pytest.raises(QueryError, match=message):
        index.search(**arguments)


def test_a_semicolon_inside_quotes_is_text(index):
    assert len(index.search("a cat", where="name != 'a;b'")) > 0


def test_a_query_picture_that_is_not_there(index, tmp_path):
    with pytest.raises(UnreadableError, match=r"gone\.jpg"):
        index.search(tmp_path / "gone.jpg")


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"where": 3}, "The where 3 is no text"),
        ({"fusion": ["rank"]}, r"The fusion \['rank'\] is no text"),
        ({"models": 5}, "The models 5 are no names"),
        ({"models": ["mini", None]}, "are no names"),
        ({"min_match": "0.5"}, "The min_match '0.5' is no number"),
        ({"threshold": True}, "The threshold True is no number"),
        ({"k": "10"}, "The k '10' is no whole number"),
        ({"part_weights": {"image": "0.5"}, "fusion": "weighted"}, "The part_weights .* cannot be read"),
        ({"rerank": "mmr"}, "The rerank 'mmr' is no reranker"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_arguments_of_another_type(index, request_, said):
    with pytest.raises(QueryError, match=said) as caught:
        index.search("a cat", **request_)
    assert caught.value.hint or "k" in request_


def test_many_questions_are_queries(index):
    for queries in ("a cat", ["a cat"], Query(texts=("a cat",))):
        with pytest.raises(QueryError, match="no list of queries"):
            index.ask_all(queries)
    with pytest.raises(TypeError, match="unexpected keyword argument 'top'"):
        index.ask_all([], top=3)
