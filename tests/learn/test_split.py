"""Splits: by picture, the same for any order of rows, and never with copies on both sides."""

from __future__ import annotations

import io
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

import bowerbird as bb
from bowerbird.errors import LearnError
from bowerbird.learn.copies import BLOCK, NEAR, tied
from bowerbird.learn.examples import Examples, Picture, Vectors
from bowerbird.learn.features import embed
from bowerbird.learn.pairs import read_examples
from bowerbird.learn.split import Split, draw, quotas, split


def examples(
    count: int,
    *,
    parts: Sequence[str] = (),
    labels: Sequence[int] | None = None,
    vectors: Vectors | None = None,
) -> Examples:
    """Pictures with a text each, or in classes."""
    pictures = tuple(
        Picture(f"{n}", f"{n}.png", b"", f"{n:032x}", parts[n] if parts else "") for n in range(count)
    )
    images = None if vectors is None else {"features": vectors, "shared": vectors[:, :1]}
    if labels is None:
        links = np.stack([np.arange(count)] * 2, 1)
        return Examples(pictures, tuple(f"text {n}" for n in range(count)), links, images=images)
    classes = tuple(f"class {n}" for n in range(max(labels) + 1))
    links = np.stack([np.arange(count), labels], 1)
    return Examples(pictures, classes, links, np.asarray(labels), classes, images)


def unit(rows: Vectors) -> Vectors:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def contents(of: Examples, found: Split) -> list[set[str]]:
    return [
        {of.pictures[place].content for place in part} for part in (found.train, found.validation, found.test)
    ]


@given(st.integers(3, 400), st.floats(0, 0.45), st.floats(0, 0.45), st.integers(0, 9))
def test_every_picture_is_in_one_part_and_parts_are_as_large_as_asked_for(
    count: int, validation: float, test: float, seed: int
):
    found = split(examples(count), validation=validation, test=test, seed=seed)
    assert sorted(np.concatenate([found.train, found.validation, found.test]).tolist()) == list(range(count))
    assert abs(len(found.validation) - count * validation) <= 1
    assert abs(len(found.test) - count * test) <= 1
    assert len(found.train) >= 1


@given(st.permutations(range(60)), st.integers(0, 3), st.booleans())
def test_the_order_of_rows_does_not_matter(order: list[int], seed: int, with_classes: bool):
    of = examples(60, labels=[n % 3 for n in range(60)] if with_classes else None)
    assert contents(of, split(of, seed=seed)) == contents(of.only(order), split(of.only(order), seed=seed))


def test_names_do_not_matter_and_seeds_do():
    of = examples(200)
    renamed = replace(of, pictures=tuple(replace(p, id=f"x{p.id}", name="same") for p in of.pictures))
    assert contents(of, split(of)) == contents(renamed, split(renamed))
    assert contents(of, split(of)) != contents(of, split(of, seed=1))


@given(st.lists(st.integers(0, 5), min_size=20, max_size=200).filter(lambda labels: len(set(labels)) > 1))
def test_every_class_has_its_share(labels: list[int]):
    labels = [sorted(set(labels)).index(label) for label in labels]
    found = split(examples(len(labels), labels=labels), validation=0.2, test=0.2)
    sizes = Counter(labels)
    for part in (found.validation, found.test):
        assert abs(len(part) - 0.2 * len(labels)) <= len(sizes)
        for label, size in Counter(np.asarray(labels)[part].tolist()).items():
            assert abs(size - 0.2 * sizes[label]) < 1 + 1e-9
    assert set(np.asarray(labels)[found.train].tolist()) == set(labels), "every class is learned from"


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=12), st.floats(0, 1))
@example([(10, 0), (0, 10), (10, 10)], 0.5)  # what two strata lack, the third gives, one more than its share
def test_quotas(strata: list[tuple[int, int]], share: float):
    sizes = [max(pair) for pair in strata]
    left = [min(pair) for pair in strata]
    taken = quotas(sizes, left, share)
    assert all(0 <= one <= max(rest - 1, 0) for one, rest in zip(taken, left, strict=True))
    assert all(one <= size * share + 1 for one, size in zip(taken, sizes, strict=True))
    if all(rest - 1 >= size * share + 1 for size, rest in zip(sizes, left, strict=True)):
        assert sum(taken) == int(sum(size * share for size in sizes) + 0.5)


# Copies.


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 120), st.integers(1, 5), st.sampled_from([0.5, 0.9, 0.99]))
def test_ties_are_those_that_all_pairs_give(seed: int, count: int, dimensions: int, cosine: float):
    rng = np.random.default_rng(seed)
    rows = unit(rng.normal(size=(count, dimensions)).astype(np.float32) + rng.normal(size=dimensions) * 2)
    found = tied(rows, cosine)
    wanted = np.arange(count)
    near = np.einsum("ij,kj->ik", rows, rows) >= cosine
    for _ in range(count):
        wanted = np.where(near, wanted[None], count).min(1).clip(max=wanted)
    # On the bound itself two orders of addition may differ by the last bit.
    if not (np.abs(rows.astype(np.float64) @ rows.T.astype(np.float64) - cosine) < 1e-6).any():
        assert found.tolist() == wanted.tolist()


def test_ties_across_blocks_without_an_array_of_all_pairs():
    count = 12_000
    rng = np.random.default_rng(0)
    rows = unit(rng.normal(size=(count, 32)).astype(np.float32))
    copies = rng.permutation(count)[:600].reshape(300, 2)
    rows[copies[:, 1]] = unit(rows[copies[:, 0]] + 0.005 * rng.normal(size=(300, 32)).astype(np.float32))
    tracemalloc.start()
    found = tied(rows, NEAR)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count > 4 * BLOCK
    assert peak < 150e6, "all pairs would take 576 MB"
    wanted = np.arange(count)
    wanted[copies.max(1)] = copies.min(1)
    assert found.tolist() == wanted.tolist()


def test_a_set_of_copies_alone_is_no_trouble():
    rows = np.repeat(unit(np.ones((1, 8), np.float32)), BLOCK + 500, axis=0)
    assert not tied(rows, NEAR).any()


@given(st.integers(0, 1000), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_copies_are_never_on_both_sides(seed: int, split_seed: int):
    rng = np.random.default_rng(seed)
    count = 120
    rows = unit(rng.normal(size=(count, 24)).astype(np.float32))
    group = rng.integers(0, 90, count)  # pictures of one group are nearly the same
    rows = unit(rows[group] + 0.003 * rng.normal(size=rows.shape).astype(np.float32))
    rows[-1], group[-1] = rows[0], group[0]
    of = examples(count, vectors=rows)
    of = replace(of, pictures=(*of.pictures[:-1], replace(of.pictures[-1], content=of.pictures[0].content)))
    found = split(of, validation=0.2, test=0.2, seed=split_seed)
    where = np.full(count, -1)
    for number, part in enumerate((found.train, found.validation, found.test)):
        where[part] = number
    assert (where >= 0).all()
    assert where[0] == where[-1], "the same bytes"
    for label in np.unique(group):
        assert len(set(where[group == label].tolist())) == 1
    told = [name for copy in found.copies for name in copy.names]
    assert len(told) == len(set(told))
    assert all(0.98 <= copy.cosine <= 1.0001 and not copy.removed for copy in found.copies)
    assert found.problems[0].startswith(f"{len(told)} pictures are copies of another, or nearly")


def saved(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


@pytest.mark.parametrize("output", ["features", "image_embeds"])
def test_photographs_saved_again_are_found_by_their_vectors(
    photographs: dict[str, Path], model: bb.Encoder, output: str
):
    """Smaller, more compressed, cropped: no fixed cosine finds these under both outputs, and nothing else."""
    cat, rocket = (Image.open(photographs[name]).convert("RGB") for name in ("chelsea", "rocket"))
    again = {
        "chelsea, smaller": saved(cat.resize((cat.width * 4 // 5, cat.height * 4 // 5)), 90),
        "rocket, cropped": saved(rocket.crop((4, 4, rocket.width - 4, rocket.height - 4)), 85),
    }
    records = [bb.Record(name, source, (name,)) for name, source in {**photographs, **again}.items()]
    read = read_examples(bb.Collection.from_items(records)).examples
    of = embed(read, model, model, (output,)).examples
    of = of.only(
        [place for place in range(len(of)) if of.pictures[place].name.split(".")[0] != "hubble_deep_field"]
    )
    found = split(of, validation=0.3, test=0.3)
    groups = {tuple(sorted(Path(name).stem for name in copy.names)) for copy in found.copies}
    assert groups == {("chelsea", "chelsea, smaller"), ("rocket", "rocket, cropped")}
    assert len(found.test) == len(found.validation) == 2


def test_where_a_model_tells_nothing_apart_chains_do_not_swallow_the_set():
    angles = np.arange(300) * 0.1  # each is near the next (cosine .995), and so all are tied
    chain = unit(
        np.stack([np.cos(angles / 4), np.sin(angles / 4), np.ones(300), np.ones(300)], 1).astype(np.float32)
    )
    found = split(examples(300, vectors=chain))
    assert len(found.test) == 30
    assert found.problems[0].startswith(
        "The model hardly tells these pictures apart: only from a cosine of 0.999"
    )
    same = split(examples(300, vectors=np.repeat(chain[:1], 300, 0)))
    assert same.problems == (
        "The model does not tell these pictures apart, so copies are known by their bytes alone.",
    )
    assert len(same.test) == 30


def test_the_split_is_that_of_one_tensor_whatever_else_was_embedded():
    rng = np.random.default_rng(3)
    rows = unit(rng.normal(size=(120, 24)).astype(np.float32))
    rows[1:40:2] = unit(rows[0:40:2] + 0.003)
    wider = unit(rng.normal(size=(120, 64)).astype(np.float32))  # by these, no two are alike
    alone = examples(120, vectors=rows)
    more = replace(alone, images={**(alone.images or {}), "wider": wider})
    found = split(alone, by="features")
    assert len(found.copies) == 20
    assert contents(alone, found) == contents(more, split(more, by="features"))
    assert contents(alone, found) == contents(alone, split(alone))
    assert split(more).copies == (), "the longest, where none is named"
    assert contents(more, split(more)) != contents(alone, found)
    with pytest.raises(LearnError, match=r"cannot be found by 'logits': .* vectors of features, shared"):
        split(alone, by="logits")
    assert split(examples(20), by="features").copies == (), "without vectors, by bytes"


# Parts that are given.


def test_given_parts_hold_and_what_is_not_given_is_drawn_from_training():
    parts = ["test"] * 30 + ["train"] * 60 + [""] * 10
    found = split(examples(100, parts=parts), validation=0.2, test=0.5)
    assert found.test.tolist() == list(range(30))
    assert len(found.validation) == 14, "a fifth of what is for training"
    full = split(examples(100, parts=["train", "test", "validation", "train"] * 25))
    assert [len(full.train), len(full.validation), len(full.test)] == [50, 25, 25]
    assert found.problems == (
        "The data say what 90 pictures are for (60 for train, 30 for test); shares count for parts that they do not "
        "name.",
    )
    assert full.problems == (
        "The data say what 100 pictures are for (50 for train, 25 for validation, 25 for test); shares count for parts "
        "that they do not name.",
    )
    assert full.copies == ()
    assert split(examples(100)).problems == ()


def test_a_copy_of_what_is_given_for_test_leaves_training():
    rows = unit(np.random.default_rng(0).normal(size=(40, 32)).astype(np.float32))
    rows[1], rows[2], rows[5] = rows[0], unit(rows[:1] + 0.002)[0], rows[4]
    parts = ["test", "train", "validation", "validation", "train", "train"] + [
        "train",
        "validation",
        "test",
        "",
    ] * 8
    of = examples(40, parts=[*parts, "", ""], vectors=rows)
    found = split(of)
    assert 0 in found.test
    assert not {1, 2} & {*found.train.tolist(), *found.validation.tolist(), *found.test.tolist()}
    removing, together = found.copies
    assert (removing.names, removing.part, removing.removed) == (
        ("0.png", "1.png", "2.png"),
        "test",
        ("1.png", "2.png"),
    )
    assert (together.names, together.part, together.removed) == (("4.png", "5.png"), "train", ())
    assert found.problems[2] == (
        "2 pictures were left out of the given parts, as copies of pictures farther from training, for example 1.png."
    )


def test_texts_said_in_two_parts_are_counted_and_stay():
    of = examples(10, parts=["train"] * 8 + ["test", "validation"])
    links = np.asarray([*of.links.tolist(), [0, 8], [1, 8], [2, 9], [3, 4]])
    found = split(replace(of, links=links))
    assert found.problems[1:] == (
        "2 texts are said of pictures in more than one part: they stay in all of them.",
    )


def test_copies_in_two_classes_are_told():
    rows = unit(np.random.default_rng(0).normal(size=(40, 32)).astype(np.float32))
    rows[1] = rows[0]
    found = split(examples(40, labels=[0, 1] * 20, vectors=rows))
    assert found.problems[1] == (
        "1 group of these is in more than one class, for example 0.png and 1.png: look at its labels."
    )


def test_classes_without_a_picture_for_training_are_told():
    found = split(
        examples(8, labels=[0, 0, 0, 1, 1, 1, 2, 2], parts=["train"] * 6 + ["test"] * 2), validation=0
    )
    assert found.problems[1:] == ("1 class has no picture for training, for example 'class 2'.",)


@pytest.mark.parametrize("shares", [(-0.1, 0.1), (0.5, 0.5), (1.0, 0), (0.1, float("nan"))])
def test_shares_that_cannot_be(shares: tuple[float, float]):
    with pytest.raises(LearnError, match="cannot be shares of the pictures"):
        split(examples(10), validation=shares[0], test=shares[1])


def test_nothing_left_to_train_on():
    with pytest.raises(
        LearnError, match="Nothing is left to train on: all 4 pictures are for validation or test"
    ):
        split(examples(4, parts=["test", "validation", "test", "test"]))


# Captions of an epoch.


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=30), st.integers(0, 40), st.integers(0, 5), st.randoms()
)
def test_one_caption_a_picture_and_each_in_its_turn(counts: list[int], start: int, seed: int, chance: object):
    pairs = [(picture, 7 * picture + text) for picture, many in enumerate(counts) for text in range(many)]
    chance.shuffle(pairs)  # type: ignore[attr-defined]
    pictures = tuple(Picture(f"{n}", f"{n}", b"", f"{n}") for n in range(len(counts) + 1))
    of = Examples(pictures, tuple(map(str, range(7 * len(counts)))), np.asarray(pairs, np.int64))
    epochs = [draw(of, epoch, seed) for epoch in range(60)]
    again = [draw(of, epoch, seed) for epoch in (start, start + 1)]
    assert [links.tolist() for links in epochs[start : start + 2]] == [links.tolist() for links in again]
    for links in epochs:
        assert links[:, 0].tolist() == list(range(len(counts))), "a picture without a text is not drawn"
        assert set(map(tuple, links.tolist())) <= set(pairs)
    for picture, many in enumerate(counts):
        for first in range(0, 60 - many + 1, many):
            turn = {int(links[picture, 1]) for links in epochs[first : first + many]}
            assert len(turn) == many, "each before any comes again"
    everything = draw(of, 0, seed, "all")
    assert sorted(map(tuple, everything.tolist())) == sorted(pairs)


def test_draws_differ_by_seed_and_by_round():
    of = examples(1)
    of = replace(of, texts=tuple("abcdefgh"), links=np.asarray([[0, n] for n in range(8)]))
    orders = {
        tuple(int(draw(of, 8 * turn + n, seed)[0, 1]) for n in range(8))
        for turn in range(4)
        for seed in range(4)
    }
    assert len(orders) > 12
    with pytest.raises(LearnError, match="cannot be drawn 'some'"):
        draw(of, 0, 0, "some")
