"""Steps that call a function: results, failures, tracebacks, batches, models."""

from __future__ import annotations

import functools
import os
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from bowerbird import Collection, Failure, Local, Record
from bowerbird.errors import BowerbirdError, FunctionError, UnsupportedInputError
from bowerbird.flow.functions import FRAMES


def parse_price(row):
    return inner_parse(row)


def inner_parse(row):
    return int(row["price"])


def only_failure(collection: Collection) -> Failure:
    (failure,) = [item for item in collection if isinstance(item, Failure)]
    return failure


# Tracebacks.


@pytest.mark.parametrize(
    "chain",
    [
        lambda rows: rows.map(parse_price),
        lambda rows: rows.filter(parse_price),
        lambda rows: rows.flat_map(parse_price),
        lambda rows: rows.tee(parse_price),
        lambda rows: rows.map_batches(lambda batch: [parse_price(row) for row in batch]),
        lambda rows: rows.sort(parse_price),
        lambda rows: rows.dedupe(by=parse_price),
        lambda rows: rows.map(parse_price, threads=2),
    ],
    ids=["map", "filter", "flat_map", "tee", "map_batches", "sort", "dedupe", "threads"],
)
def test_the_traceback_has_the_frames_of_the_user_and_not_ours(chain):
    error = only_failure(chain(Collection.from_items([{"price": "many"}]))).error
    assert isinstance(error, FunctionError)
    assert error.kind == "ValueError"
    assert "in parse_price" in error.trace
    assert "in inner_parse" in error.trace
    assert 'return int(row["price"])' in error.trace
    assert error.trace.rstrip().endswith("ValueError: invalid literal for int() with base 10: 'many'")
    assert f"bowerbird{os.sep}flow" not in error.trace
    assert "test_functions.py" in str(error)


def test_the_innermost_frames_of_a_deep_recursion_are_kept():
    def down(n):
        if n == 0:
            raise ValueError("bottom")
        return down(n - 1)

    error = only_failure(Collection.from_items([100]).map(down)).error
    assert error.trace.count("File ") + int(error.trace.split("repeated ")[1].split()[0]) == FRAMES
    assert 'raise ValueError("bottom")' in error.trace


def test_an_exception_without_words_or_with_very_many():
    class Silent(Exception):
        pass

    def fail(n):
        raise Silent("" if n == 0 else "word " * 1000)

    silent, wordy = Collection.range(2).map(fail)
    assert str(silent.error).startswith("map(fail) raised Silent (line ")
    assert silent.kind == wordy.kind == "Silent"
    assert len(str(wordy.error)) < 600


def test_an_error_of_ours_raised_by_a_function_keeps_its_type():
    def refuse(n):
        raise UnsupportedInputError(f"not {n}")

    assert only_failure(Collection.from_items([1]).map(refuse)).kind == "UnsupportedInputError"


def test_functions_of_all_sorts_name_their_step():
    class Tagger:
        def __call__(self, value):
            return value

    chain = (
        Collection.range(1)
        .map(Tagger())
        .map(functools.partial(int, base=10))
        .map(len)
        .map(lambda n: n)
        .map("x".join)
    )
    assert [step.label for step in chain.plan.steps] == [
        "map(Tagger)",
        "map(partial)",
        "map(len)",
        "map(lambda)",
        "map(join)",
    ]


# Results.


def test_flat_map_gives_any_number_and_keeps_what_came_before_it_raised():
    def letters(word):
        for letter in word:
            if letter == "!":
                raise ValueError("!")
            yield letter

    results = Collection.from_items(["ab", "", "c!d", "e"]).flat_map(letters).to_list()
    assert [item if isinstance(item, str) else item.value for item in results] == ["a", "b", "c", "c!d", "e"]
    assert only_failure(Collection.from_items([5]).flat_map(lambda n: None)).kind == "TypeError"


def test_a_truth_that_cannot_be_told_is_that_elements_failure():
    results = Collection.from_items([np.array([1, 2]), np.array([1])]).filter(lambda a: a > 0).to_list()
    assert results[0].kind == "ValueError"
    assert (results[1] == [1]).all()


@limits(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(-5, 60)),
    st.integers(0, 9),
    st.sampled_from([{}, {"threads": 3}, {"threads": 0}]),
)
def test_the_same_as_a_loop_whatever_the_chunks_and_threads(numbers, size, lanes):
    def root(n):
        if n < 0:
            raise ValueError(n)
        return n**0.5

    def expected(n):
        return n**0.5 if n >= 0 else "failed"

    def shown(items):
        return ["failed" if isinstance(item, Failure) else item for item in items]

    source = Collection.from_items(numbers)
    assert shown(source.map(root, **lanes)) == [expected(n) for n in numbers]
    assert shown(source.map_batches(lambda batch: [root(n) for n in batch], size=size, **lanes)) == [
        expected(n) for n in numbers
    ]
    assert shown(source.filter(lambda n: root(n) > 2, **lanes)) == [
        n if n >= 0 else "failed" for n in numbers if n < 0 or n > 4
    ]
    assert shown(source.flat_map(lambda n: [root(n)] * (n % 3), **lanes)) == [
        expected(n) for n in numbers for _ in range(n % 3 if n >= 0 else 1)
    ]


# map_batches.


def test_batches_are_of_the_size_asked_for():
    sizes = []

    def note(batch):
        sizes.append(len(batch))
        return batch

    assert Collection.range(50).map_batches(note, size=8).to_list() == list(range(50))
    assert sizes == [8] * 6 + [2]
    sizes.clear()
    # Also behind steps that give other chunks.
    Collection.range(30).filter(lambda n: n % 3).map_batches(note, size=7).count()
    assert sizes == [7, 7, 6]
    sizes.clear()
    Collection.range(5000).map_batches(note).count()
    assert sum(sizes) == 5000
    assert len(sizes) < 200


def test_a_failure_costs_a_batch_one_place():
    calls = []

    def halves(batch):
        calls.append(len(batch))
        return [10 // n for n in batch]

    results = Collection.from_items([1, 2, 0, 5]).map_batches(halves, size=4).to_list()
    assert [r if isinstance(r, int) else r.kind for r in results] == [10, 5, "ZeroDivisionError", 2]
    assert calls == [4, 1, 1, 1, 1]


def test_failures_before_it_are_not_in_the_batches():
    numbers = Collection.from_items(["1", "x", "3"]).map(int)
    results = numbers.map_batches(lambda batch: [len(batch)] * len(batch), size=3).to_list()
    assert (results[0], results[2]) == (2, 2)
    assert results[1].step == "map(int)"


def test_a_batch_with_other_than_one_result_each_is_said():
    failure, *_ = Collection.range(3).map_batches(lambda batch: [1, 2, 3, 4]).to_list()
    assert "returned 4 results for 1 elements" in str(failure.error)
    assert "flat_map" in failure.error.hint
    (nothing,) = Collection.range(1).map_batches(lambda batch: None).to_list()
    assert nothing.kind == "TypeError"


def test_a_class_is_made_once_and_again_for_another_run():
    made = []

    class Counter:
        def __init__(self):
            made.append(self)

        def __call__(self, batch):
            return [id(self)] * len(batch)

    chain = Collection.range(5000).map_batches(Counter, size=10, threads=4)
    assert made == []
    assert len(set(chain)) == 1
    assert len(made) == 1


def test_a_class_that_cannot_be_made_stops_the_run():
    class Broken:
        def __init__(self):
            raise RuntimeError("no licence")

        def __call__(self, items):
            return items

    with pytest.raises(BowerbirdError, match="a Broken could not be made: RuntimeError: no licence"):
        Collection.range(3).map_batches(Broken).to_list()


def test_a_model_is_given_beside_the_batch(model, photographs):
    records = [Record("a", image=photographs["coffee"]), Record("b", image=photographs["rocket"])]

    def embed(batch, encoder):
        return list(encoder.embed([record.image for record in batch]))

    for given_as in (model, model.card, "mini"):
        vectors = Collection.from_items(records).map_batches(embed, size=2, model=given_as).to_list()
        assert np.allclose(np.stack(vectors), model.embed([r.image for r in records]), atol=1e-6)


# Threads.


def test_threads_work_at_the_same_time_and_keep_the_order():
    meet = threading.Barrier(3, timeout=20)

    def wait(n):
        if n in (0, 1, 2):
            meet.wait()
        time.sleep((7 - n % 7) / 2000)
        return n

    assert Collection.range(60).map(wait, threads=3).to_list() == list(range(60))


def test_zero_threads_are_as_many_as_the_executor_has():
    names = set()
    meet = threading.Barrier(2, timeout=20)

    def note(n):
        if n < 2:
            meet.wait()
        names.add(threading.current_thread().name)

    Collection.range(10).map(note, threads=0).on(Local(threads=2)).count()
    assert len(names) == 2
