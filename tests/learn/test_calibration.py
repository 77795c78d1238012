"""What a fitted model says of its scores goes with it, and counts in an index until that has figures of its own."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bowerbird as bb
from bowerbird import Record
from bowerbird.errors import ModelFormatError
from bowerbird.learn.calibration import matches, measured
from bowerbird.learn.export import save
from bowerbird.learn.heads import Heads, as_it_is
from bowerbird.models.card import Calibration
from bowerbird.search.gap import ENOUGH


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def space(seed: int, count: int, noise: float, gap: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures, a text of each, and links; the two modalities lie apart."""
    rng = np.random.default_rng(seed)
    pictures = rng.normal(size=(count, 24))
    texts = pictures + noise * rng.normal(size=pictures.shape)
    pictures[:, 0] += gap * 5
    texts[:, 0] -= gap * 5
    return unit(pictures), unit(texts), np.stack([np.arange(count)] * 2, 1)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), noise=st.floats(0.2, 1.5))
def test_the_match_is_a_probability_at_even_odds(seed, noise):
    """On pairs that took no part in it: of those it calls 80 % likely, about so many belong together."""
    slope, bias = matches(*space(seed, 400, noise))
    pictures, texts, links = space(seed + 1000, 2000, noise)
    both = (pictures * texts).sum(1)
    apart = (pictures * np.roll(texts, 7, axis=0)).sum(1)
    p = 1 / (1 + np.exp(-(slope * np.concatenate([both, apart]) + bias)))
    yes = np.repeat([1.0, 0.0], len(links))
    assert slope > 0
    assert abs(p.mean() - 0.5) < 0.06
    loss = -np.mean(yes * np.log(p + 1e-12) + (1 - yes) * np.log(1 - p + 1e-12))
    assert loss < math.log(2), "better than a coin"


def test_too_few_pairs_say_nothing():
    pictures, texts, links = space(0, 40, 0.5)
    assert matches(pictures, texts, links) is None
    found = measured(pictures, texts, pictures, texts, links)
    assert found == Calibration(pairs=40)
    assert measured(pictures, texts, pictures[:0], texts[:0], links[:0]) == Calibration()


def test_scores_that_say_nothing_are_no_match():
    """Where what belongs together scores lower than the rest, a score is no sign of it."""
    pictures, _, links = space(0, 200, 0.5, gap=0)
    assert matches(pictures, -pictures, links) is None


def test_means_and_whether_they_help():
    learned, held = space(1, 300, 1.0), space(2, 120, 1.0)
    found = measured(learned[0], learned[1], *held)
    np.testing.assert_allclose(found.image_mean, learned[0].mean(0), atol=1e-6)
    np.testing.assert_allclose(found.text_mean, learned[1].mean(0), atol=1e-6)
    assert found.corrects
    assert found.pairs == 120


@pytest.fixture(scope="module")
def calibration(model) -> Calibration:
    rng = np.random.default_rng(3)
    image, text = (tuple((rng.normal(size=384) / 100).astype(np.float32).tolist()) for _ in range(2))
    return Calibration(image, text, True, (21.5, -3.25), 77)


@pytest.fixture(scope="module")
def fitted(calibration, model, tmp_path_factory) -> bb.Encoder:
    directory = tmp_path_factory.mktemp("calibrated") / "mine"
    heads = Heads(as_it_is("image_embeds"), as_it_is("sentence_embedding"))
    save(directory, heads, image=model, text=model, calibration=calibration)
    return bb.load(str(directory))


def test_it_comes_back_and_is_no_part_of_the_space(fitted, calibration):
    assert fitted.card.calibration == calibration
    assert fitted.adapted(dimensions=100).card.calibration is None, "of other vectors it says nothing"
    path = fitted.card.directory / "bowerbird.json"
    notes = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({key: value for key, value in notes.items() if key != "calibration"}))
    try:
        bare = bb.load(str(fitted.card.directory))
        assert bare.card.calibration is None
        assert bare.card.space == fitted.card.space
    finally:
        path.write_text(json.dumps(notes))


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_mean": [1.0]},
        {"image_mean": ["a"], "text_mean": [0.0]},
        {"match": [1.0]},
        {"match": [-2.0, 0.0]},
        {"match": [True, 0.0]},
        {"corrects": 1},
        {"pairs": 1.5},
        {"other": 1},
        {"text_mean": [float("nan")], "image_mean": [0.0]},
    ],
    ids=str,
)
def test_what_is_not_understood_is_an_error(wrong, fitted):
    path = fitted.card.directory / "bowerbird.json"
    kept = path.read_text("utf-8")
    path.write_text(json.dumps({**json.loads(kept), "calibration": wrong}))
    try:
        with pytest.raises(ModelFormatError, match="calibration"):
            bb.load(str(fitted.card.directory))
    finally:
        path.write_text(kept)


def filled(place, encoder: bb.Encoder, picture, pictures: int, texts: int) -> bb.Index:
    items = [Record(f"p{seed}", picture(seed)) for seed in range(pictures)]
    items += [Record(f"t{number}", texts=(f"thing number {number}",)) for number in range(texts)]
    bb.Collection.from_items(items).embed(encoder).write(place)
    return bb.Index.open(place, encoder)


@pytest.mark.slow
def test_a_young_index_begins_with_it(fitted, calibration, picture, tmp_path):
    index = filled(tmp_path / "young.bower", fitted, picture, 5, 6)
    (entry,) = index.entries()
    background = index.background(entry)
    assert background.correction.on
    assert "fitted on" in background.correction.why
    image = entry.column(fitted.card.image.output, "image")
    text = entry.column(fitted.card.text.output, "text")
    np.testing.assert_allclose(background.centre(image), calibration.image_mean, atol=1e-4)
    np.testing.assert_allclose(background.centre(text), calibration.text_mean, atol=1e-4)
    neutral = background.arrays["neutral:text"].mean(0)
    expected = (neutral + np.asarray(calibration.text_mean)) / 2
    np.testing.assert_allclose(background.query_centre("text", image), expected, atol=1e-3)
    assert background.sigmoid == pytest.approx((21.5, -3.25 - math.log(5)))
    assert index.search("a lamp", k=3).match is not None


@pytest.mark.slow
def test_an_index_with_figures_of_its_own_takes_these(fitted, calibration, picture, tmp_path):
    index = filled(tmp_path / "grown.bower", fitted, picture, ENOUGH, ENOUGH)
    (entry,) = index.entries()
    background = index.background(entry)
    image = entry.column(fitted.card.image.output, "image")
    assert "fitted on" not in background.correction.why
    assert background.sigmoid is None
    own = background.arrays[image.name].mean(0)
    np.testing.assert_allclose(background.arrays[f"mean:{image.name}"], own, atol=1e-3)
    assert np.abs(own - np.asarray(calibration.image_mean)).max() > 0.01


@pytest.mark.slow
def test_it_moves_nothing_where_it_did_not_help(fitted, picture, tmp_path):
    path = fitted.card.directory / "bowerbird.json"
    kept = path.read_text("utf-8")
    notes = json.loads(kept)
    notes["calibration"] = {key: notes["calibration"][key] for key in ("image_mean", "text_mean")}
    path.write_text(json.dumps(notes))
    try:
        index = filled(tmp_path / "left.bower", bb.load(str(fitted.card.directory)), picture, 3, 3)
        (entry,) = index.entries()
        background = index.background(entry)
        assert not background.correction.on
        assert "ranked worse" in background.correction.why
        assert background.sigmoid is None
    finally:
        path.write_text(kept)
