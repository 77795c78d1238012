"""Labelled pairs: read from files, learned from, kept."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bowerbird as bb
from bowerbird import Record
from bowerbird.errors import QueryError, UnreadableError
from bowerbird.search.calibrate import calibrate, calibrate_with
from bowerbird.search.labels import FEWEST, MANY, Labelled, _ids, read_pairs
from bowerbird.store import manifest as manifests

COLOURS = ("red", "green", "yellow", "black", "striped")
THINGS = ("coat", "scarf", "table", "bicycle", "lamp", "guitar", "boat", "carpet")
TEXTS = {f"{c}-{t}": f"a {c} {t}" for c, t in itertools.product(COLOURS, THINGS)}


def judged(queries: int, noise: float = 0.1, seed: int = 0) -> list[Labelled]:
    """Every record with each query: a match where it is the thing that was asked for; some people err."""
    draw = np.random.default_rng(seed)
    asked = [f"picture of a {c} {t}" for t, c in itertools.product(THINGS, COLOURS)][:queries]
    pairs = []
    for line, (query, (id_, text)) in enumerate(itertools.product(asked, TEXTS.items()), 2):
        right = query.split()[-1] == text.split()[-1]
        pairs.append(Labelled(line, query, id_, right != (draw.random() < noise)))
    return pairs


@pytest.fixture(scope="module")
def original(tmp_path_factory, model, photographs) -> Path:
    """Forty texts, and the photographs of the package."""
    place = tmp_path_factory.mktemp("labels") / "a.bower"
    items = [Record(id_, texts=(text,)) for id_, text in TEXTS.items()]
    items += [Record(str(path), path, named=False) for path in photographs.values()]
    bb.Collection.from_items(items).embed(model).write(place)
    return place


@pytest.fixture
def index(tmp_path: Path, original: Path, model: bb.Encoder) -> bb.Index:
    shutil.copytree(original, tmp_path / "a.bower")
    return bb.Index.open(tmp_path / "a.bower", model)


def labels(index: bb.Index) -> dict[str, Any]:
    return json.loads((Path(index.path) / manifests.NAME).read_text())["models"][0]["calibration"]["labels"]


# Files


def test_a_file_of_pairs(tmp_path, photographs):
    shutil.copy(photographs["coffee"], tmp_path / "cup.jpg")
    path = tmp_path / "pairs.csv"
    path.write_text(
        'Query, record ,LABEL,who\n"a cup, or\ntwo",s1,1,me\n\ncup.jpg,s2,no\na cat,s3,Yes,you\n', "utf-8-sig"
    )
    first, second, third = read_pairs(path)
    assert (first.query, first.record, first.yes) == ("a cup, or\ntwo", "s1", True)
    assert (second.query, second.yes) == (tmp_path / "cup.jpg", False)
    assert (third.line, third.record, third.yes) == (6, "s3", True)
    (tmp_path / "pairs.tsv").write_text("query\trecord\tlabel\na cat, asleep\ts1\t0\n")
    assert read_pairs(tmp_path / "pairs.tsv")[0].query == "a cat, asleep"


def test_what_is_no_picture_is_words(tmp_path, monkeypatch, photographs):
    (tmp_path / "a cat").write_text("notes")
    (tmp_path / "gone.jpg").mkdir()
    (tmp_path / "here").mkdir()
    shutil.copy(photographs["coffee"], tmp_path / "here" / "CUP.JPG")
    path = tmp_path / "pairs.csv"
    path.write_text("query,record,label\na cat,s,1\ngone.jpg,s,1\nCUP.JPG,s,1\n")
    monkeypatch.chdir(tmp_path / "here")
    assert [pair.query for pair in read_pairs(path)] == ["a cat", "gone.jpg", Path("CUP.JPG")]


def test_paths_of_records_begin_in_the_folder_of_the_file(tmp_path, monkeypatch, model, picture):
    for seed, folder in enumerate(("judged", "here", "here/judged")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(picture(seed))
    (tmp_path / "here" / "b.png").write_bytes(picture(9))
    index = bb.Index.create(tmp_path / "a.bower", model)
    index.add(tmp_path)
    rows = "".join(f"words {n},{name},{int(n % 2)}\n" for n in range(30) for name in ("a.png", "b.png"))
    (tmp_path / "judged" / "pairs.csv").write_text(f"query,record,label\n{rows}words,c.png,1\n")
    monkeypatch.chdir(tmp_path / "here")
    pairs = read_pairs(tmp_path / "judged" / "pairs.csv")
    ids = {hit.uri: hit.id for hit in index.search("anything")}
    found = _ids(index, {pair.named for pair in pairs})
    assert {name: id_ for (name, _), id_ in found.items()} == {
        "a.png": ids[str(tmp_path / "judged" / "a.png")],
        "b.png": ids[str(tmp_path / "here" / "b.png")],
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"query,record\na,b\n", r"pairs\.csv has no column 'label'; it has query, record"),
        (b"", r"pairs\.csv has no column 'query'; it has none"),
        (b"query,record,label\na,b,1\na,b,maybe\n", r"pairs\.csv:3 has the label 'maybe'"),
        (b"query,record,label\n,b,1\n", r"pairs\.csv:2 has no query"),
        (b"query,record,label\na,,1\n", r"pairs\.csv:2 has no record"),
        (b"query,record,label\na,b\n", r"pairs\.csv:2 has the label ''"),
        (b"query,record,label\na\xff,b,1\n", r"pairs\.csv cannot be read"),
        (b'query,record,label\n"' + b"a" * 200_000 + b'",b,1\n', r"pairs\.csv:2 cannot be read"),
    ],
)
def test_files_that_cannot_be_understood(tmp_path, content, message):
    before = csv.field_size_limit(131_072)  # reading of tables raises it for the whole process
    try:
        (tmp_path / "pairs.csv").write_bytes(content)
        with pytest.raises(UnreadableError, match=message):
            read_pairs(tmp_path / "pairs.csv")
    finally:
        csv.field_size_limit(before)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UnreadableError, match="none\\.csv cannot be read"):
        read_pairs(tmp_path / "none.csv")


# Learning


def test_few_pairs_are_fitted_by_platt_and_keep_the_order(index):
    before = index.search("a striped lamp", k=100, among="text")
    pairs = judged(6)
    assert FEWEST < len(pairs) < MANY
    ((fits, problems),) = calibrate_with(index, pairs).values()
    (fit,) = fits
    assert (fit.query, fit.column, fit.method, fit.pairs) == (
        "text",
        "mini__sentence_embedding",
        "platt",
        240,
    )
    assert fit.after < fit.before
    assert problems == []
    after = index.search("a striped lamp", k=100, among="text")
    assert after.ids == before.ids
    assert (np.diff(after.match) <= 0).all()
    np.testing.assert_array_equal(after.scores, before.scores)
    told = labels(index)["text->mini__sentence_embedding"]
    # The match is the logistic function of the log odds of likeness and presence, stretched and moved; kinship, which
    # pairs say better, took from them before: nothing from the best, something from the others.
    odds = (np.log(after.match / (1 - after.match)) - told["bias"]) / told["slope"]
    without = 1 / (1 + np.exp(-odds))
    np.testing.assert_allclose(without[0], before.match[0], atol=1e-3)
    assert (without >= before.match - 1e-3).all()
    assert without[-1] > before.match[-1] or before.match[-1] < 1e-5


def test_many_pairs_are_fitted_by_isotonic_regression(index):
    before = index.search("a striped lamp", k=100, among="text")
    mixed = index.search("a striped lamp", k=100)
    pairs = judged(26)
    assert len(pairs) >= MANY
    ((fits, _),) = calibrate_with(index, pairs).values()
    (fit,) = fits
    assert fit.method == "isotonic"
    assert fit.after < fit.before
    told = labels(index)["text->mini__sentence_embedding"]
    assert told["x"] == sorted(told["x"])
    assert told["y"] == sorted(told["y"])
    assert 0 < told["y"][0] < told["y"][-1] < 1
    after = index.search("a striped lamp", k=100, among="text")
    assert after.ids == before.ids, "what it makes equal stays in the order of the evidence"
    assert len(set(after.match.tolist())) < len(after)
    assert (np.diff(after.match) <= 0).all()
    # Pictures have no labels: among themselves they stay as they were, and so do texts.
    now = index.search("a striped lamp", k=100)
    for part in ("image", "text"):
        assert [h.id for h in now if h.part == part] == [h.id for h in mixed if h.part == part]
    pages = [index.search("a striped lamp", k=5, offset=offset).ids for offset in range(0, 50, 5)]
    assert [id_ for ids in pages for id_ in ids] == now.ids


def test_pairs_judged_by_several_people_are_one_point(index):
    """Seven of 26 say yes of each pair: that share is the match, whatever the order of the lines."""
    query = judged(1)[0].query
    every = [Labelled(line, query, id_, line % 4 == 0) for line in range(26) for id_ in TEXTS]
    calibrate_with(index, every)
    told = labels(index)["text->mini__sentence_embedding"]
    assert told["method"] == "isotonic"
    np.testing.assert_allclose(told["y"], 7 / 26, atol=1e-9)


def test_pictures_ask_too(index, photographs):
    names = [str(path) for path in photographs.values()]
    pairs = [Labelled(0, Path(one), other, one == other) for one in names for other in names] * 2
    ((fits, problems),) = calibrate_with(index, pairs).values()
    assert [(fit.query, fit.column) for fit in fits] == [("image", "mini__features")]
    assert problems == []
    hits = index.search(photographs["coffee"])
    assert hits[0].uri.endswith("coffee.jpg")


def test_records_that_are_not_there(index, photographs):
    pairs = [*judged(2), Labelled(900, "a cat", "no-such", True), Labelled(901, "a cat", "chelsea.jpg", True)]
    ((_, problems),) = calibrate_with(index, pairs).values()
    assert problems[0] == "line 900: no record 'no-such' is in the index"
    # Found by the name of its file; there are too few for pictures.
    assert problems[1:] == [
        "text -> mini__image_embeds: 1 judged, 1 of them matches; "
        "at least 50 are needed, matches and others among them"
    ]


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        judged(1)[: FEWEST - 1],
        [Labelled(1, "a cat", id_, True) for id_ in TEXTS] * 3,
        [Labelled(2, "a", "b", True)],
    ],
    ids=["none", "few", "all alike", "unknown"],
)
def test_pairs_that_teach_nothing(index, pairs):
    calibrate_with(index, judged(2))
    assert labels(index)
    before = {path: path.read_bytes() for path in Path(index.path).rglob("*") if path.is_file()}
    with pytest.raises(QueryError, match="Nothing can be learned from"):
        calibrate_with(index, pairs, seed=1, forget_labels=True)
    assert {path: path.read_bytes() for path in Path(index.path).rglob("*") if path.is_file()} == before
    assert len(index.search("a cat")) == 10


def test_labels_stay_when_the_index_grows_and_is_measured_again(index, model):
    calibrate_with(index, judged(6))
    before = labels(index)
    assert before
    items = [Record(f"more-{n}", texts=(f"a song of {n} verses",)) for n in range(12)]
    bb.Collection.from_items(items).embed(model).write(index.path)
    index.refresh()
    assert index.manifest.models[0].calibration["records"] == len(TEXTS) + 6 + 12
    assert labels(index) == before
    calibrate(index, seed=1)
    assert labels(index) == before
    calibrate(index, forget_labels=True)
    assert labels(index) == {}


def test_a_model_that_takes_no_texts_learns_nothing(index, model):
    pictures = bb.load("mini", layer="penultimate")
    index.add_model(pictures)
    found = calibrate_with(index, judged(3))
    assert [fit.method for fit in found[model.card.space][0]] == ["platt"]
    fits, problems = found[pictures.card.space]
    assert fits == []
    assert len(problems) == 1
    assert set(labels(index)) == {"text->mini__sentence_embedding"}
    # Two models of one name are told apart where they are named.
    assert repr(index).endswith("records, models mini, mini, layer penultimate>")
    with pytest.raises(QueryError, match=r"'minni', only of \w+ \(mini\), \w+ \(mini, layer penultimate\)"):
        index.search("a cat", models="minni")
