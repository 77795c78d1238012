"""Search where the modality gap is corrected: what is asked, what is scored, and when it is left alone."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bowerbird as bb
from bowerbird import Record
from bowerbird.search import answer
from bowerbird.search.gap import ENOUGH, centred, decide, unit
from bowerbird.store.table import VectorColumn

QUERY = "a striped lamp"
COLOURS = ("red", "green", "yellow", "black", "striped", "old", "tiny", "white")
THINGS = ("coat", "scarf", "table", "bicycle", "lamp", "guitar", "boat", "carpet", "bell")


@pytest.fixture(scope="module")
def index(tmp_path_factory, model, picture, photographs) -> bb.Index:
    """A mixed collection: 72 texts, 66 pictures that are not of the same records, and one with both."""
    place = tmp_path_factory.mktemp("gap") / "a.bower"
    items = [Record(f"{c}-{t}", texts=(f"a {c} {t}",)) for c, t in itertools.product(COLOURS, THINGS)]
    items += [Record(f"blocks-{seed}", picture(seed)) for seed in range(60)]
    items += [Record(name, path) for name, path in photographs.items() if name != "coffee"]
    items.append(Record("coffee", photographs["coffee"], ("a cup of coffee",)))
    bb.Collection.from_items(items).embed(model).write(place)
    return bb.Index.open(place, model)


def matrix(index: bb.Index, column: VectorColumn) -> dict[str, np.ndarray]:
    return {
        row["id"]: np.asarray(row[column.name], np.float32)
        for batch in index.table.scan(["id", column.name])
        for row in batch.to_pylist()
        if row[column.name] is not None
    }


@pytest.fixture(scope="module")
def columns(index) -> dict[str, VectorColumn]:
    (entry,) = index.entries()
    card = index.model.card
    return {"image": entry.column(card.image.output, "image"), "text": entry.column(card.text.output, "text")}


@pytest.fixture(scope="module")
def vectors(index, columns) -> dict[str, dict[str, np.ndarray]]:
    return {part: matrix(index, column) for part, column in columns.items()}


@pytest.fixture(scope="module")
def means(index, vectors) -> dict[str, np.ndarray]:
    """Of pictures, texts, and queries: half neutral ones and half texts; the rows are all in the sample."""
    (entry,) = index.entries()
    background = index.background(entry)
    found = {part: np.stack(list(of.values())).mean(0) for part, of in vectors.items()}
    found["query"] = (background.arrays["neutral:text"].mean(0) + found["text"]) / 2
    return found


def corrected(vectors, means, part: str, asked: np.ndarray) -> dict[str, float]:
    """The definition: unit(row - mean of its modality), times the question moved by that of questions."""
    return {id_: float(unit(row - means[part]) @ asked) for id_, row in vectors[part].items()}


def test_a_mixed_collection_is_corrected(index):
    (entry,) = index.entries()
    told = entry.calibration["correction"]
    assert told["on"] is True
    assert told["distance"] > 0.3
    assert "apart, and too few records have both" in told["why"]


@pytest.mark.parametrize("part", ["image", "text"])
def test_each_part_is_ranked_by_corrected_vectors(index, model, vectors, means, part):
    hits = index.search(QUERY, k=1000, among=part)
    raw = model.embed([QUERY], role="query")[0]
    want = corrected(vectors, means, part, unit(raw - means["query"]))
    values = np.asarray([want[id_] for id_ in hits.ids])
    assert len(values) == len(vectors[part])
    assert (np.diff(values) <= 2e-3).all(), "means are kept in 16 bits"
    assert np.corrcoef(values, np.sort(values)[::-1])[0, 1] > 0.9999
    # Scores stay cosines, whatever they were ranked by.
    np.testing.assert_allclose(hits.scores, [vectors[part][id_] @ raw for id_ in hits.ids], atol=1e-6)
    assert (np.diff(hits.match) <= 0).all()


def test_scores_of_both_parts_are_raw_cosines(index, model, vectors):
    hits = index.search(QUERY, k=1000)
    raw = model.embed([QUERY], role="query")[0]
    assert set(hits.parts) == {"image", "text"}
    assert hits.ids.count("coffee") == 1
    want = [vectors[hit.part][hit.id] @ raw for hit in hits]
    np.testing.assert_allclose(hits.scores, want, atol=1e-6)
    assert np.isfinite(hits.match).all()


def test_raw_fusion_knows_of_no_correction(index, model, vectors, monkeypatch):
    monkeypatch.setattr(answer, "DEPTHS", (8,))
    monkeypatch.setattr(answer, "SPARE", 0)
    raw = model.embed([QUERY], role="query")[0]
    scores: dict[str, float] = {}
    for part in ("image", "text"):
        for id_, row in vectors[part].items():
            scores[id_] = max(scores.get(id_, -1), float(row @ raw))
    best = sorted(scores.values(), reverse=True)[:2]
    hits = index.search(QUERY, k=2, fusion="raw")
    np.testing.assert_allclose(hits.scores, best, atol=1e-6)


@pytest.mark.parametrize("fusion", ["calibrated", "rank", "weighted", "raw"])
def test_pages_and_long_lists(index, fusion, monkeypatch):
    whole = index.search(QUERY, k=1_000_000, fusion=fusion)
    assert len(whole) == len(index)
    pages = [index.search(QUERY, k=3, offset=offset, fusion=fusion).ids for offset in (0, 3, 6, 9)]
    assert [id_ for ids in pages for id_ in ids] == whole.ids[:12]
    monkeypatch.setattr(answer, "MOST_VECTORS", 8)
    streamed = index.search(QUERY, k=1_000_000, fusion=fusion)
    assert streamed.ids == whole.ids
    np.testing.assert_allclose(streamed.scores, whole.scores, atol=1e-6)
    np.testing.assert_allclose(streamed.match, whole.match, atol=1e-6)


def test_a_raw_threshold_is_on_raw_scores(index):
    """They are not in the order of the results; pages have no gaps for that."""
    every = index.search(QUERY, among="text", k=1000)
    assert (np.diff(every.scores) > 0).any()
    at = float(np.sort(every.scores)[-9])
    want = [hit.id for hit in every if np.float32(hit.score) >= np.float32(at)]
    pages = [index.search(QUERY, among="text", k=2, offset=n, threshold=at).ids for n in range(0, 12, 2)]
    assert [id_ for ids in pages for id_ in ids] == want
    assert len(want) == 9


def test_blends_and_what_is_taken_away(index, model, photographs, vectors, means):
    hits = index.search(
        "a cup", image=photographs["coffee"], weights=(0.3, 0.7), without="a red scarf", among="text", k=100
    )
    words, away = model.embed(["a cup", "a red scarf"], role="query").astype(np.float64)
    shared = model.card.image.output
    (outcome,) = model.outcomes([photographs["coffee"]], output=shared)
    signed = [(0.3, words, "query"), (0.7, outcome.vector, "image"), (-0.5, away, "query")]
    blend = sum(share * vector for share, vector, _ in signed)
    moved = blend - sum(share * means[kind] for share, _, kind in signed)
    want = corrected(vectors, means, "text", moved / np.linalg.norm(moved))
    values = [want[id_] for id_ in hits.ids]
    assert (np.diff(values) <= 2e-3).all()
    assert hits.ids[0] == "coffee"
    raw = blend / np.linalg.norm(blend)
    np.testing.assert_allclose(hits.scores, [vectors["text"][id_] @ raw for id_ in hits.ids], atol=1e-6)


def test_pictures_among_pictures_are_left_as_they_are(index, photographs, model):
    """They are compared in an output that has no texts, so no gap."""
    hits = index.search(photographs["chelsea"], among="image", k=100)
    assert hits[0].id == "chelsea"
    assert (np.diff(hits.scores) <= 1e-7).all()
    assert hits.scale == f"mini/{model.card.image.similarity_output} image->image"


def test_like_what_has_one_part(index):
    for name in ("striped-lamp", "chelsea", "coffee"):
        hits = index.search(like=name, k=1000)
        assert name not in hits.ids
        assert {"image", "text"} == set(hits.parts)
        assert np.isfinite(hits.scores).all()


# The decision


def cones(seed: int, gap: float, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and texts of the same things, in two cones as far apart as asked."""
    draw = np.random.default_rng(seed)
    things = unit(draw.normal(size=(count, 16)).astype(np.float32))
    noise = draw.normal(size=(2, count, 16)).astype(np.float32) * 0.08
    apart = np.zeros(16, np.float32)
    apart[0] = gap
    return unit(things + noise[0] + apart), unit(things + noise[1] - apart)


@given(st.integers(0, 1000), st.floats(0.5, 2))
def test_it_is_corrected_where_pictures_and_texts_lie_apart(seed, gap):
    pictures, texts = cones(seed, gap)
    found = decide(pictures, texts, (pictures, texts))
    assert found.on
    assert found.after >= found.before - 0.005
    assert found.distance == pytest.approx(np.linalg.norm(pictures.mean(0) - texts.mean(0)), rel=1e-4)
    # What it does is take the distance away.
    moved = [centred(rows, rows.mean(0)) for rows in (pictures, texts)]
    assert np.linalg.norm(moved[0].mean(0) - moved[1].mean(0)) < found.distance / 2


def test_it_is_left_where_it_was_measured_to_rank_worse():
    """The samples say otherwise of the means than the records with both do."""
    pictures, texts = cones(0, 0.0)
    others = cones(1, 3.0)
    found = decide(*others, (pictures, texts))
    assert not found.on
    assert found.after < found.before
    assert f"{found.before:.3f} to {found.after:.3f}" in found.why


def test_it_is_left_where_there_is_too_little():
    pictures, texts = cones(0, 1.0)
    none = np.zeros((0, 16), np.float32)
    assert "only one modality" in decide(pictures, none, (none, none)).why
    few = decide(pictures, texts[: ENOUGH - 1], (none, none))
    assert not few.on
    assert few.distance > 0
    assert decide(pictures, texts, (pictures[: ENOUGH - 1], texts[: ENOUGH - 1])).before is None


def test_folders_of_pictures_have_no_gap(tmp_path, model, photographs):
    index = bb.Index.create(tmp_path / "a.bower", model)
    index.add(Path(photographs["coffee"]).parent)
    (entry,) = bb.Index.open(tmp_path / "a.bower").entries()
    assert entry.calibration["correction"]["on"] is False
