"""Vectors of frozen towers: those of the model, computed once, with everything that fails named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import bowerbird as bb
from bowerbird.errors import BowerbirdError, LearnError, UnsupportedInputError
from bowerbird.learn.examples import Examples
from bowerbird.learn.features import embed
from bowerbird.learn.pairs import read_examples

COUNT = 9


@pytest.fixture
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache with nothing in it."""
    monkeypatch.setenv("BOWERBIRD_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path, picture: Callable[..., bytes]) -> Path:
    """Pictures, two captions each."""
    (tmp_path / "photos").mkdir()
    rows = ["image,caption"]
    for seed in range(COUNT):
        (tmp_path / "photos" / f"{seed}.png").write_bytes(picture(seed))
        rows += [f"photos/{seed}.png,blocks number {seed}", f"photos/{seed}.png,a pattern of {seed} colours"]
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    return tmp_path


def pairs(folder: Path) -> Examples:
    return read_examples(folder / "pairs.csv").examples


def test_vectors_are_those_of_the_model(folder: Path, model: bb.Encoder):
    of = pairs(folder)
    told: list[tuple[int, int]] = []
    found = embed(
        of,
        model,
        model,
        ("features", "image_embeds", "logits"),
        ("sentence_embedding", "last_hidden_state"),
        progress=lambda done, total: told.append((done, total)),
    )
    assert found.dropped == found.problems == ()
    images, words = found.examples.images, found.examples.words
    assert images is not None and words is not None
    files = [picture.source for picture in of.pictures]
    for name, wanted in (
        ("image_embeds", model.embed(files)),
        ("features", model.embed(files, output="features")),
        ("logits", model.embed(files, output="logits")),
    ):
        np.testing.assert_allclose(images[name], wanted, atol=1e-5)
    np.testing.assert_allclose(words["sentence_embedding"], model.embed(of.texts, role="query"), atol=1e-5)
    np.testing.assert_allclose(
        words["last_hidden_state"], words["sentence_embedding"], atol=1e-5
    )  # mean pooling
    assert {array.shape[1] for array in images.values()} == {384, 1280, 1000}
    for array in (*images.values(), *words.values()):
        np.testing.assert_allclose(np.linalg.norm(array, axis=1), 1, atol=1e-5)
    assert told[-1] == (2 * COUNT + 2 * 2 * COUNT, 2 * COUNT + 2 * 2 * COUNT)
    assert told == sorted(told)
    left = embed(of, model, model).examples
    assert left.images is not None and set(left.images) == set(model.image.outputs)
    assert left.links.tolist() == of.links.tolist()


def test_what_was_computed_once_comes_from_the_cache(folder: Path, cold: None):
    model = bb.load("mini")
    of = pairs(folder)
    first = embed(of, model, model)
    assert (first.computed, first.cached) == (COUNT + 2 * COUNT, 0)
    for picture in of.pictures:
        picture.source.unlink()
    second = embed(of, model, model)
    assert (second.computed, second.cached) == (0, COUNT + 2 * COUNT)
    assert second.dropped == (), "what the cache knows by its content is not read again"
    for before, after in (
        (first.examples.images, second.examples.images),
        (first.examples.words, second.examples.words),
    ):
        assert before is not None and after is not None
        assert all(np.array_equal(before[name], after[name]) for name in before)
    assert first.seconds > second.seconds


def test_what_recomputing_would_take_is_measured_also_where_all_comes_from_the_cache(
    folder: Path, cold: None
):
    model = bb.load("mini")
    first = embed(pairs(folder), model, model)
    second = embed(pairs(folder), model, model)
    for found in (first, second):
        assert found.seconds_a_picture > 0
        assert found.seconds_a_text > 0
        assert found.picture_passes == 1
        everything = found.seconds_a_picture * COUNT + found.seconds_a_text * 2 * COUNT
        assert found.seconds_if_recomputed(5) == pytest.approx(5 * everything)
        # Six pictures to learn from and one to validate with, one text for each.
        some = 7 * found.seconds_a_picture + 7 * found.seconds_a_text
        assert found.seconds_if_recomputed(5, 7, 7) == pytest.approx(5 * some)
        assert found.seconds_if_recomputed(5, texts=0) == pytest.approx(5 * COUNT * found.seconds_a_picture)
    assert second.seconds_if_recomputed(1) > second.seconds, "the network was run for it"


def test_what_another_layer_takes(folder: Path, model: bb.Encoder):
    of = pairs(folder)
    both = embed(of, model, None, ("image_embeds", "features", "logits"))
    assert both.picture_passes == 2, "the two that are published come together"
    assert both.seconds_a_picture_pass == pytest.approx(both.seconds_a_picture / 2)
    assert both.seconds_a_text == 0
    one = embed(of, model, model, ("image_embeds",))
    joined = one.with_pictures_of(embed(of, model, None, ("logits",)))
    assert joined.examples.images is not None and both.examples.images is not None
    assert set(joined.examples.images) == {"image_embeds", "logits"}
    np.testing.assert_array_equal(joined.examples.images["logits"], both.examples.images["logits"])
    assert joined.examples.words is one.examples.words
    assert joined.picture_passes == 2
    assert joined.seconds_a_picture > one.seconds_a_picture
    assert joined.seconds_a_text == one.seconds_a_text
    assert joined.computed + joined.cached == 2 * COUNT + 2 * COUNT


def test_pictures_that_fail_are_dropped_by_name_with_what_was_said_of_them(
    folder: Path, model: bb.Encoder, picture: Callable[..., bytes], cold: None
):
    (folder / "photos" / "3.png").write_bytes(picture(3)[:80])
    of = pairs(folder)
    (folder / "photos" / "5.png").unlink()
    (folder / "photos" / "6.png").write_bytes(picture(666))
    found = embed(of, model, model)
    assert {(one.name, one.kind) for one in found.dropped} == {
        ("3.png", "undecodable"),
        ("5.png", "unreadable"),
        ("6.png", "unreadable"),
    }
    left = found.examples
    assert [one.name for one in left.pictures] == [f"{n}.png" for n in range(COUNT) if n not in (3, 5, 6)]
    assert left.images is not None and left.words is not None
    assert len(left.images["features"]) == COUNT - 3
    assert len(left.words["sentence_embedding"]) == len(left.texts) == len(left.links) == 2 * (COUNT - 3)
    for image, text in left.links.tolist():
        number = left.pictures[image].name[0]
        assert number in left.texts[text]
    np.testing.assert_allclose(
        left.images["features"],
        model.embed([one.source for one in left.pictures], output="features"),
        atol=1e-5,
    )


def test_labels_shrink_with_their_pictures(folder: Path, model: bb.Encoder, picture: Callable[..., bytes]):
    records = [
        bb.Record(f"{n}", picture(n)[: 80 if n == 1 else None], attributes={"kind": "ab"[n % 2]})
        for n in range(6)
    ]
    of = read_examples(bb.Collection.from_items(records), labels="kind").examples
    found = embed(of, model, model).examples
    assert found.labels is not None
    assert found.labels.tolist() == [0, 0, 1, 0, 1]
    assert found.texts == found.classes == ("a", "b")
    only = [record for record in records if record.id in "012"]
    with pytest.raises(
        LearnError, match=r"All 2 pictures .* are of one class, 'a'. 1 left out: 1 undecodable \(1\)"
    ):
        embed(read_examples(bb.Collection.from_items(only), labels="kind").examples, model, model)


def test_texts_that_are_longer_than_the_model_reads_are_counted_every_time(folder: Path, model: bb.Encoder):
    limit = model.text.tower.rules.max_tokens
    of = pairs(folder)
    long = (*of.texts[:-3], "word " * (limit - 2), "word " * (limit - 1), "é" * 3 * limit)
    for _ in range(2):
        found = embed(replace(of, texts=long), model, model)
        assert found.problems == (
            f"1 text is longer than the {limit} tokens that mini reads: its end was not read.",
        )


def test_texts_are_embedded_as_a_search_would_ask_them(folder: Path, model: bb.Encoder):
    source = model.card.directory
    shutil.copytree(source, folder / "prompted", ignore=shutil.ignore_patterns("golden.npz"))
    config = json.loads((source / "config_sentence_transformers.json").read_text())
    config["prompts"] = {"query": "Find the picture of ", "document": ""}
    (folder / "prompted" / "config_sentence_transformers.json").write_text(json.dumps(config))
    prompted = bb.load(str(folder / "prompted"))
    of = pairs(folder)
    asked = embed(of, None, prompted).examples
    assert asked.images is None and asked.words is not None
    np.testing.assert_allclose(
        asked.words["sentence_embedding"], prompted.embed(of.texts, role="query"), atol=1e-5
    )
    stored = embed(of, None, prompted, role="document").examples
    assert stored.words is not None
    cosines = (asked.words["sentence_embedding"] * stored.words["sentence_embedding"]).sum(1)
    assert (cosines < 0.99).all()


def test_tensors_that_are_not_there(folder: Path, model: bb.Encoder):
    of = pairs(folder)
    with pytest.raises(BowerbirdError, match="nonsense"):
        embed(of, model, None, ("nonsense",))
    with pytest.raises(UnsupportedInputError, match="takes no texts"):
        embed(of, None, model, (), ("features",))
    with pytest.raises(LearnError, match="vectors for one input"):
        embed(of, None, model.adapted(layer="last_hidden_state", pooling="none"))
