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
    before = set(threading.enumerate())
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
    assert not [one for one in set(threading.enumerate()) - before if one.name.startswith("bowerbird")]


def test_an_exception_of_the_source_ends_the_threads_too():
    before = set(threading.enumerate())

    def items():
        yield 1
        raise OSError("the folder is gone")

    with pytest.raises(OSError, match="folder is gone"):
        list(ordered_map(lambda number: number, items(), threads=2))
    assert not [one for one in set(threading.enumerate()) - before if one.name.startswith("bowerbird")]


def test_it_does_run_ahead():
    second = threading.Event()

    def work(number):
        if number == 0:
            assert second.wait(5), "the second item never started while the first was under way"
        elif number == 1:
            second.set()
        return number

    assert list(ordered_map(work, range(3), threads=2)) == [0, 1, 2]


class Held:
    """Results that know how many of them are alive and have not been consumed."""

    def __init__(self):
        self.made = self.had = self.most = 0
        self.lock = threading.Lock()

    def make(self, number):
        with self.lock:
            self.made += 1
            self.most = max(self.most, self.made - self.had)
        return number

    def take(self):
        with self.lock:
            self.had += 1


@pytest.mark.parametrize(("weight", "bound"), [(10, 10), (50, 2), (100, 1), (1000, 1)])
def test_results_that_wait_are_bounded_by_what_they_weigh(weight, bound):
    held = Held()
    results = ordered_map(held.make, range(200), threads=4, ahead=50, weigh=lambda number: weight, budget=100)
    for place, number in enumerate(results):
        held.take()
        assert number == place
        if place == 60:
            held.most = 0  # from here on the average is known
        time.sleep(0.0005)
    assert 1 <= held.most <= bound + 1  # and the one that is being consumed


def test_equal_results_are_weighed_each_for_itself():
    started = []

    def work(number):
        started.append(number)
        return "the same object"

    results = ordered_map(work, range(100), threads=2, ahead=10, weigh=lambda result: 10, budget=1000)
    most = 0
    for place, _ in enumerate(results):
        time.sleep(0.0005)
        most = max(most, len(started) - place)
        if place == 80:
            assert len(started) - place > 3  # it still runs ahead
    assert most <= 11


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 300), max_size=40), st.integers(1, 4), st.integers(1, 500))
def test_no_budget_changes_the_results(weights, threads, budget):
    results = ordered_map(lambda n: n, weights, threads=threads, weigh=lambda n: n, budget=budget)
    assert list(results) == weights


def test_while_memory_is_short_one_thing_is_done_at_a_time():
    working, most = 0, 0
    lock = threading.Lock()
    short = [True]

    def work(number):
        nonlocal working, most
        with lock:
            working += 1
            most = max(most, working)
        time.sleep(0.002)
        with lock:
            working -= 1
        return number

    results = ordered_map(work, range(60), threads=4, short=lambda: short[0])
    assert [next(results) for _ in range(20)] == list(range(20))
    assert most == 1
    short[0] = False
    assert list(results) == list(range(20, 60))
    assert most > 1


def test_nothing():
    assert list(ordered_map(str, [], threads=1)) == []
