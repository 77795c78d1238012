"""The modality gap: what is known of it by construction is found, and nothing is found where there is none."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bowerbird as bb
from bowerbird import Collection, Record
from bowerbird.errors import QueryError
from bowerbird.judge.gap import FOLDS, Gap, Parts, auc, gap_of, in_words, measure, overlap, separable
from bowerbird.judge.gap_page import figures, gap_page
from bowerbird.judge.projection import pca
from bowerbird.search.gap import centred


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def cones(n: int, apart: float, *, seed: int = 0, d: int = 32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures and texts that mean the same, pushed apart along one axis."""
    rng = np.random.default_rng(seed)
    meaning = rng.normal(size=(n, d))
    push = np.zeros(d)
    push[0] = apart
    pictures = unit(meaning + 0.4 * rng.normal(size=(n, d)) + push)
    texts = unit(meaning + 0.4 * rng.normal(size=(n, d)) - push)
    return pictures, texts, np.stack([np.arange(n)] * 2, 1)


def test_a_gap_made_on_purpose_is_found_and_centring_takes_it_away() -> None:
    pictures, texts, pairs = cones(400, 8.0)
    before, after = measure(pictures, texts, pairs), measure(pictures, texts, pairs, centre=True)
    # Both cones have the half angle atan(|noise| / 8), so their means are two cosines of it apart.
    length = math.sqrt(32 * (1 + 0.16))
    assert before.distance == pytest.approx(2 * 8 / math.hypot(8, length), abs=0.05)
    assert before.separability == before.separability_auc == 1.0
    assert before.overlap_across < 0.01
    assert before.pairs_over_texts < 0.01
    assert after.distance < 0.05
    assert after.overlap_across > 0.9
    assert after.pairs_over_texts > 0.99
    assert after.separability == pytest.approx(0.5, abs=0.08)
    assert after.overlap_pairs < 0.1


def test_two_halves_of_the_same_have_no_gap() -> None:
    rows = unit(np.random.default_rng(1).normal(size=(1000, 24)) + 0.5)
    found = measure(rows[:500], rows[500:])
    assert found.distance < 0.1
    assert found.separability == pytest.approx(0.5, abs=0.06)
    assert found.separability_auc == pytest.approx(0.5, abs=0.06)
    assert found.overlap_across > 0.95
    assert found.overlap_pairs is found.pairs_over_texts is None


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 6))
def test_a_rotation_of_the_space_changes_nothing(seed: int, apart: float) -> None:
    pictures, texts, pairs = cones(60, apart, seed=seed % 1000, d=16)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(16, 16)))[0].astype(np.float32)
    for centre in (False, True):
        one = measure(pictures, texts, pairs, centre=centre)
        other = measure(pictures @ turn, texts @ turn, pairs, centre=centre)
        assert other.distance == pytest.approx(one.distance, abs=1e-4)
        for name, spread in one.scores.items():
            assert other.scores[name].mean == pytest.approx(spread.mean, abs=1e-4)
        assert other.separability == pytest.approx(one.separability, abs=0.03)
        assert other.separability_auc == pytest.approx(one.separability_auc, abs=0.03)
        # A score beside the edge of a bin may fall to its other side.
        assert other.overlap_across == pytest.approx(one.overlap_across, abs=0.02)


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 4), st.integers(0, 1000))
def test_the_overlap_of_two_normal_distributions(apart: float, seed: int) -> None:
    """Known in closed form: 2 Phi(-|a - b| / 2) (Inman and Bradley 1989)."""
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=20_000), rng.normal(apart, size=20_000)
    assert overlap(first, second) == pytest.approx(math.erfc(apart / (2 * math.sqrt(2))), abs=0.04)
    assert overlap(first, second) == overlap(second, first)


@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=20),
    st.lists(st.integers(-5, 5), min_size=1, max_size=20),
)
def test_the_area_under_the_curve_counts_pairs_and_ties_half(above: list[int], below: list[int]) -> None:
    wins = np.mean([(a > b) + (a == b) / 2 for a in above for b in below])
    assert auc(np.array(above), np.array(below)) == pytest.approx(wins)


def test_too_little_to_measure_is_said_so() -> None:
    pictures, texts, pairs = cones(FOLDS - 1, 1.0)
    found = measure(pictures, texts, pairs)
    assert found.separability is found.separability_auc is found.overlap_pairs is None
    assert separable(pictures, texts[:0]) == (None, None)
    assert auc(np.array([1.0]), np.array([])) is None
    assert measure(pictures[:0], texts[:0]).scores["texts"] is None


def test_principal_components_are_the_directions_of_most_variance() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 3)) * [5, 1, 0.1] @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    found = pca(rows, 2)
    assert found.std(0) == pytest.approx([5, 1], rel=0.15)
    assert found.mean(0) == pytest.approx([0, 0], abs=1e-9)
    assert np.abs(np.corrcoef(found.T)[0, 1]) < 1e-9
    assert pca(rows[:, :1], 2)[:, 1] == pytest.approx(np.zeros(300))
    np.testing.assert_array_equal(pca(rows, 2), found)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, model: bb.Encoder, picture) -> bb.Index:
    """Forty pictures with texts, one picture alone, one text alone."""
    folder = tmp_path_factory.mktemp("gap")
    records = [Record(f"both-{n}", picture(n), (f"blocks of colour, number {n}",)) for n in range(40)]
    records += [Record("picture", picture(99)), Record("text", texts=("nothing but words",))]
    Collection.from_items(records).embed(model).write(folder / "shop.bower")
    return bb.Index.open(folder / "shop.bower", model)


def test_the_gap_of_an_index(shop: bb.Index) -> None:
    found, parts = gap_of(shop)
    assert (found.pictures, found.texts, found.pairs, found.source) == (41, 41, 40, "index")
    assert found.model == "mini"
    assert found.rough
    rows = dict(figures_by_name(found))
    assert set(rows) >= {"distance of the centroids", "linear separability"}
    assert found.correction.startswith("off (fewer than")
    # True pairs are those of one record, whatever the order of the rows.
    stored = [(parts.pictures[a] @ parts.texts[b]).item() for a, b in parts.pairs]
    assert found.before.scores["pairs"].mean == pytest.approx(np.mean(stored), abs=1e-5)
    moved = (centred(parts.pictures, parts.pictures.mean(0)), centred(parts.texts, parts.texts.mean(0)))
    assert found.after.distance == pytest.approx(
        float(np.linalg.norm(moved[0].mean(0) - moved[1].mean(0))), abs=1e-5
    )
    said = in_words(found)
    assert any("a picture and its text are" in sentence for sentence in said)
    again, _ = gap_of(shop)
    assert again == found
    fewer, _ = gap_of(shop, sample=10)
    assert fewer.pictures <= 10


def figures_by_name(found: Gap) -> list[tuple[str, float | None]]:
    return [(name, before) for name, before, _, _ in figures(found)]


def test_without_texts_query_sentences_stand_for_them(tmp_path: Path, model: bb.Encoder) -> None:
    index = bb.Index.create(tmp_path / "photos.bower", model)
    index.add(bb.samples())
    found, parts = gap_of(index)
    assert found.source == "bank"
    assert found.pairs == 0
    assert len(parts.texts) >= 50
    assert found.before.scores["pairs"] is None
    assert "hold no texts" not in gap_page(found, parts, place="photos.bower")
    assert "The index holds no texts" in gap_page(found, parts, place="photos.bower")


def test_an_index_without_pictures_has_no_gap(tmp_path: Path, model: bb.Encoder) -> None:
    Collection.from_texts(["one", "two"]).embed(model).write(tmp_path / "texts.bower")
    with pytest.raises(QueryError, match="no vectors of pictures"):
        gap_of(bb.Index.open(tmp_path / "texts.bower", model))


def test_the_state_of_the_correction_is_told(shop: bb.Index) -> None:
    from dataclasses import replace

    from bowerbird.judge.gap import correction_of

    (entry,) = shop.entries()
    told = {"records": 42, "correction": {"on": True, "why": "the means lie 0.80 apart"}}
    assert correction_of(replace(entry, calibration=told)) == "on (the means lie 0.80 apart)"
    assert correction_of(replace(entry, calibration={})).startswith("not calibrated")
    assert correction_of(replace(entry, calibration={"records": 1})).startswith("none was measured")


def test_the_page_escapes_names_and_asks_for_nothing() -> None:
    pictures, texts, pairs = cones(80, 3.0)
    found = Gap(
        "<b>model", "out", 80, 80, 80, "index", measure(pictures, texts, pairs),
        measure(pictures, texts, pairs, centre=True), "on, <i>why",
    )  # fmt: skip
    page = gap_page(found, Parts("out", pictures, texts, pairs, "index"), place="<script>.bower")
    assert "<b>model" not in page
    assert "<script>" not in page.replace("<script>.bower", "?") or "&lt;script&gt;.bower" in page
    assert "&lt;i&gt;why" in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert page.count('<svg class="plot"') == 4
    assert "script-src 'none'" in page
