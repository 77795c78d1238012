"""Steps of order: batches, limits, sorting, doubles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from bowerbird import Collection, Failure, Record
from bowerbird.errors import InputError


def failing(numbers):
    """Every third number fails."""

    def check(n):
        if n % 3 == 2:
            raise ValueError(n)
        return n

    return Collection.from_items(numbers).map(check)


@limits(max_examples=30, deadline=None)
@given(st.lists(st.integers(), max_size=50), st.integers(1, 9))
def test_batches_hold_everything_in_order(numbers, size):
    batches = Collection.from_items(numbers).batch(size).to_list()
    assert [number for batch in batches for number in batch] == numbers
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(batches)


def test_failures_pass_between_batches():
    results = failing(range(7)).batch(2).to_list()
    assert [item.value if isinstance(item, Failure) else item for item in results] == [
        [0, 1],
        2,
        [3, 4],
        5,
        [6],
    ]


def test_limit_does_not_count_failures():
    results = failing(range(9)).limit(3).to_list()
    assert [item.value if isinstance(item, Failure) else item for item in results] == [0, 1, 2, 3]
    assert failing([2, 5]).limit(3).count() == 0


def test_a_sample_keeps_the_failures():
    results = failing(range(30)).sample(4).to_list()
    assert sum(isinstance(item, Failure) for item in results) == 10
    assert sum(not isinstance(item, Failure) for item in results) == 4


# Sorting.


@limits(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.one_of(st.none(), st.integers(0, 3)), st.integers())), st.booleans())
def test_sorting_is_stable_and_those_without_a_key_come_last(pairs, reverse):
    ordered = Collection.from_items(pairs).sort(lambda pair: pair[0], reverse=reverse).to_list()
    with_key = [pair for pair in pairs if pair[0] is not None]
    without = [pair for pair in pairs if pair[0] is None]
    assert ordered == sorted(with_key, key=lambda pair: pair[0], reverse=reverse) + without


def test_not_a_number_is_no_key():
    values = [2.0, float("nan"), 1.0, float("nan"), 3.0]
    assert Collection.from_items(values).sort().limit(3).to_list() == [1.0, 2.0, 3.0]
    assert Collection.from_items(values).sort(reverse=True).limit(3).to_list() == [3.0, 2.0, 1.0]


def test_sorting_by_a_name_or_a_function():
    records = [Record(id_, attributes={"price": price}) for id_, price in (("a", 3), ("b", None), ("c", 1))]
    rows = Collection.from_items([*records, Record("d")])
    *ordered, last = rows.sort("price").to_list()
    assert [r.id for r in ordered] == ["c", "a", "b"]
    assert isinstance(last, Failure)
    assert last.id == "d"
    assert "d has no 'price'; it has id" in str(last.error)
    assert [r.id for r in rows.sort("id", reverse=True)] == ["d", "c", "b", "a"]
    assert [r.id for r in rows.sort(lambda r: -ord(r.id))] == ["d", "c", "b", "a"]


def test_a_key_that_raises_is_a_failure_at_the_end():
    results = Collection.from_items([2, "x", 1]).sort(lambda value: value + 0).to_list()
    assert results[:2] == [1, 2]
    assert (results[2].id, results[2].step, results[2].kind) == ("'x'", "sort(lambda)", "TypeError")


def test_keys_that_cannot_be_compared_are_said():
    with pytest.raises(InputError, match=r"sort\(\) cannot order its keys") as caught:
        Collection.from_items([1, "x"]).sort().to_list()
    assert caught.value.hint


# Doubles.


@limits(max_examples=30, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 5), st.text("ab", max_size=2), st.none())))
def test_the_first_of_equal_elements_stays(items):
    deduped = Collection.from_items(items).dedupe()
    assert deduped.to_list() == list(dict.fromkeys(items))
    assert deduped.executor.report.counts["dedupe(): dropped"] == len(items) - len(set(items))


def test_records_of_the_same_bytes_are_doubles_whatever_they_are_called(tmp_path, picture):
    for name, seed in (("a", 1), ("b", 2), ("copy", 1)):
        (tmp_path / f"{name}.png").write_bytes(picture(seed))
    records = [
        Record("a", image=tmp_path / "a.png"),
        Record("b", image=tmp_path / "b.png"),
        Record("copy", image=tmp_path / "copy.png"),
        Record("bytes", image=picture(1)),
        Record("captioned", image=picture(1), texts=("words",)),
        Record("words", texts=("words",)),
        Record("words again", texts=("words",), attributes={"price": 1}),
        Record("gone", image=tmp_path / "gone.png"),
    ]
    *kept, failure = Collection.from_items(records).dedupe().to_list()
    assert [r.id for r in kept] == ["a", "b", "captioned", "words"]
    assert (failure.id, failure.kind) == ("gone", "UnreadableError")
    # The same whether they are decoded, or embedded, before.
    decoded = Collection.from_items(records).decode().dedupe()
    assert [r.id for r in decoded if isinstance(r, Record)] == ["a", "b", "captioned", "words"]


def test_embedding_and_leaving_out_doubles_go_together(tmp_path, picture, model):
    records = [Record(str(n), image=picture(n % 2)) for n in range(4)]
    assert [r.id for r in Collection.from_items(records).embed(model).dedupe()] == ["0", "1"]
    assert [r.id for r in Collection.from_items(records).decode().dedupe().embed(model)] == ["0", "1"]


def test_doubles_by_a_name_or_a_function():
    rows = [{"id": 1, "tags": ["a", "b"]}, {"id": 2, "tags": ["a", "b"]}, {"id": 3, "tags": ["c"]}]
    collection = Collection.from_items(rows)
    assert [row["id"] for row in collection.dedupe(by="tags")] == [1, 3]
    assert [row["id"] for row in collection.dedupe(by=lambda row: row["id"] % 2)] == [1, 2]


def test_what_cannot_be_compared_is_a_failure():
    first, second = Collection.from_items([{"a": 1}, 5]).dedupe().to_list()
    assert first.kind == "TypeError"
    assert second == 5
    (lacking,) = Collection.from_items([{"a": 1}]).dedupe(by="b").to_list()
    assert "has no 'b'" in str(lacking.error)


def unit(*values):
    vector = np.array(values, np.float32)
    return vector / np.linalg.norm(vector)


@limits(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 600), st.floats(0.2, 0.999))
def test_near_identical_vectors_are_compared_with_all_kept_before(seed, count, threshold):
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(count, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    expected: list[int] = []
    for place, vector in enumerate(vectors):
        cosines = vectors[expected] @ vector
        if cosines.size and abs(cosines.max() - threshold) < 1e-6:
            return  # a draw that rounding decides
        if not cosines.size or cosines.max() < threshold:
            expected.append(place)
    records = [Record(str(place), vectors={"image": vector}) for place, vector in enumerate(vectors)]
    kept = Collection.from_items(records).dedupe(threshold=threshold)
    assert [int(r.id) for r in kept] == expected


def test_near_identical_pictures(photographs, model, tmp_path):
    from PIL import Image

    smaller = tmp_path / "smaller.jpg"
    Image.open(photographs["coffee"]).resize((300, 200)).save(smaller, quality=80)
    records = [Record(p.stem, image=p) for p in (photographs["coffee"], smaller, photographs["rocket"])]
    chain = Collection.from_items(records).embed(model).dedupe(threshold=0.9)
    assert [r.id for r in chain] == ["coffee", "rocket"]
    assert chain.executor.report.counts["dedupe(vector, 0.9): dropped"] == 1
    assert Collection.from_items(records).dedupe().count() == 3


def test_vectors_that_cannot_be_compared_are_failures():
    records = [
        Record("a", vectors={"image": unit(1, 0)}),
        Record("none"),
        Record("several", vectors={"text": np.stack([unit(1, 0), unit(0, 1)])}),
        Record("wider", vectors={"image": unit(1, 0, 0)}),
        5,
        Record("b", vectors={"image": unit(0, 1)}),
    ]
    results = Collection.from_items(records).dedupe(threshold=0.9).to_list()
    assert [r.id for r in results] == ["a", "none", "several", "wider", "5", "b"]
    told = [str(r.error) for r in results if isinstance(r, Failure)]
    for said, expected in zip(
        told, ["none has no vector.", "2 vectors", "3 dimensions", "5 has no vector."], strict=True
    ):
        assert expected in said


def test_the_vector_that_is_compared_can_be_named():
    records = [
        Record("a", vectors={"image": unit(1, 0), "text": unit(1, 0)}),
        Record("b", vectors={"image": unit(1, 0), "text": unit(0, 1)}),
    ]
    collection = Collection.from_items(records)
    assert collection.dedupe(threshold=0.5).count() == 1
    assert collection.dedupe(by="text", threshold=0.5).count() == 2
    assert [
        r.id for r in Collection.from_items([replace(records[1], id="c"), *records]).dedupe(threshold=1)
    ] == ["c"]


def test_what_has_no_lasting_name_cannot_be_shared_out():
    class Thing:
        pass

    train, test = Collection.from_items([Thing(), Thing()]).split(0.5, 0.5)
    assert {failure.kind for failure in train.to_list() + test.to_list()} == {"UnsupportedInputError"}


def test_arrays_sets_and_mappings_are_shared_out_by_their_values():
    arrays = [np.full(5000, number) for number in range(40)]
    one, other = Collection.from_items(arrays).split(0.5, 0.5)
    first = {int(array[0]) for array in one.to_list()}
    second = {int(array[0]) for array in other.to_list()}
    assert first | second == set(range(40))
    assert first and second and not first & second
    sets = Collection.from_items([{"a", "b", str(n)} for n in range(40)])
    assert sets.split(0.5, 0.5)[0].count() + sets.split(0.5, 0.5)[1].count() == 40


def test_dedupe_looks_at_what_records_have_now(photographs):
    from dataclasses import replace

    def halves(record):
        width, height = record.image.size
        for left in (0, width // 2):
            yield replace(record, image=record.image.crop((left, 0, left + width // 2, height)))

    tiles = Collection.from_glob(photographs["coffee"]).decode().flat_map(halves)
    assert tiles.dedupe().count() == 2
    renamed = Collection.from_texts(["a", "b"]).map(lambda record: replace(record, texts=("same",)))
    assert renamed.dedupe().count() == 1
