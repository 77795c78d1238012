"""Work runs ahead in threads; results come in order."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bowerbird.lookahead import ordered_map


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 6), st.integers(1, 12))
def test_order_is_kept_whatever_finishes_first(delays, threads, ahead):
    def work(pair):
        time.sleep(pair[1] / 2000)
        return pair[0]

    assert list(ordered_map(work, enumerate(delays), threads=threads, ahead=ahead)) == list(
        range(len(delays))
    )


@pytest.mark.parametrize(("threads", "ahead", "bound"), [(1, 1, 1), (2, 5, 5), (4, 2, 2), (3, None, 12)])
def test_look_ahead_is_bounded_and_items_are_consumed_lazily(threads, ahead, bound):
    taken = 0

    def items():
        nonlocal taken
        for number in range(200):
            taken += 1
            yield number

    results = ordered_map(lambda number: number, items(), threads=threads, ahead=ahead)
    assert taken == 0
    for expected in range(200):
        assert next(results) == expected
        assert taken <= expected + bound


def test_an_exception_comes_at_its_items_place():
    def work(number):
        if number == 3:
            raise KeyError(number)
        return number

    results = ordered_map(work, range(100), threads=4, ahead=8)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_closing_early_stops_what_has_not_started():
    started = []
    gate = threading.Event()

    def work(number):
        started.append(number)
        if number:
            gate.wait(5)
        return number

    results = ordered_map(work, iter(range(1000)), threads=2, ahead=50)
    assert next(results) == 0
    gate.set()
    results.close()
    count = len(started)
    time.sleep(0.05)
    assert len(started) == count <= 51
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("bowerbird")]


def test_an_exception_of_the_source_ends_the_threads_too():
    def items():
        yield 1
        raise OSError("the folder is gone")

    with pytest.raises(OSError, match="folder is gone"):
        list(ordered_map(lambda number: number, items(), threads=2))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("bowerbird")]


def test_it_does_run_ahead():
    second = threading.Event()

    def work(number):
        if number == 0:
            assert second.wait(5), "the second item never started while the first was under way"
        elif number == 1:
            second.set()
        return number

    assert list(ordered_map(work, range(3), threads=2)) == [0, 1, 2]


def test_nothing():
    assert list(ordered_map(str, [], threads=1)) == []
