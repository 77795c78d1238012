"""The executor on this machine: bounded memory, halves, times."""

from __future__ import annotations

import gc
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pytest

from bowerbird import Collection, Failure, Local, Record
from bowerbird.errors import BowerbirdError
from bowerbird.flow.plan import Chunk, Clock, Plan, Stateless
from bowerbird.flow.sources.values import RangeSource

MB = 1 << 20


def test_numbers_that_cannot_be():
    with pytest.raises(BowerbirdError):
        Local(threads=-1)
    with pytest.raises(BowerbirdError):
        Local(memory=-1)
    assert repr(Local(threads=2, memory=5)) == "Local(threads=2, memory=5)"


# Memory.


@dataclass
class Ahead:
    """How many elements a source has given that the consumer has not had."""

    given: int = 0
    had: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def give(self, count):
        for number in range(count):
            with self.lock:
                self.given += 1
                self.most = max(self.most, self.given - self.had)
            yield number

    def take(self, seconds):
        with self.lock:
            self.had += 1
        time.sleep(seconds)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_results_that_wait_are_bounded_by_bytes(threads):
    ahead = Ahead()
    results = (
        Collection.from_items(lambda: ahead.give(120))
        .map(lambda n: np.zeros(MB, np.uint8), threads=threads)
        .on(Local(memory=8 * MB))
    )
    for _ in results:
        ahead.take(0.002)
    assert ahead.had == 120
    # 8 MB may wait, and what is being consumed is a chunk of 2 MB at the most.
    assert ahead.most <= 12


def test_small_results_run_further_ahead_than_large_ones():
    def most(size):
        ahead = Ahead()
        chain = Collection.from_items(lambda: ahead.give(400)).map(
            lambda n: np.zeros(size, np.uint8), threads=2
        )
        for _ in chain.on(Local(memory=8 * MB)):
            ahead.take(0.0002)
        return ahead.most

    assert most(1000) > 2 * most(2 * MB)


def test_a_source_of_large_elements_is_taken_in_short_chunks():
    lengths = []

    def note(batch):
        lengths.append(len(batch))
        return [len(batch)] * len(batch)

    def arrays():
        for _ in range(200):
            yield np.zeros(MB, np.uint8)

    Collection.from_items(arrays).map_batches(note).on(Local(memory=64 * MB)).count()
    assert sum(lengths) == 200
    assert max(lengths) <= 16


def test_one_element_larger_than_the_memory_still_passes():
    chain = Collection.range(5).map(lambda n: np.full(4 * MB, n, np.uint8), threads=2).on(Local(memory=MB))
    assert [array[0] for array in chain] == [0, 1, 2, 3, 4]


def test_chunks_grow_where_work_is_quick_and_shrink_where_it_is_slow():
    lengths = []

    def note(batch):
        lengths.append(len(batch))
        if sum(lengths) > 5000:
            time.sleep(0.06)
        return batch

    for _ in Collection.range(10**6).map_batches(note):
        if len(lengths) > 8 and lengths[-1] <= 8:
            break
    assert lengths[:4] == [1, 2, 4, 8]
    assert max(lengths) == 1024


@pytest.mark.parametrize("lanes", [{"threads": 4}, {"threads": 1}])
def test_slow_functions_are_not_given_long_chunks(lanes):
    def slow(n):
        time.sleep(0.02)
        return n

    started = time.perf_counter()
    assert Collection.range(60).map(slow, **lanes).to_list() == list(range(60))
    assert time.perf_counter() - started < 1.2 * (1 if lanes["threads"] == 4 else 3)


@dataclass(frozen=True)
class Greedy(Stateless):
    """Has memory for so many elements at once."""

    most: int
    label: str = "greedy"
    threads: int = 1
    seen: list[int] = field(default_factory=list)

    def run(self, items: Chunk, clock: Clock) -> Chunk:
        self.seen.append(len(items))
        if len(items) > self.most or 13 in items:
            raise MemoryError
        return [item * 2 for item in items]


@pytest.mark.parametrize("threads", [1, 2])
def test_where_memory_does_not_suffice_chunks_are_halved(threads):
    step = Greedy(3, threads=threads)
    results = Collection(Plan(RangeSource(0, 50, 1), (step,))).map(str).to_list()
    assert [r if isinstance(r, str) else r.value for r in results] == [
        13 if n == 13 else str(2 * n) for n in range(50)
    ]
    (failure,) = [r for r in results if isinstance(r, Failure)]
    assert failure.step == "greedy"
    assert "not enough memory for this one element" in str(failure.error)
    assert max(step.seen) > 3


def test_a_step_before_the_one_without_memory_is_not_run_again():
    calls = []
    chain = Collection.range(30).map(lambda n: calls.append(n) or n)
    assert Collection(chain.plan.then(Greedy(1))).map(str).count() == 29
    assert calls == list(range(30))


def test_a_function_that_lacks_memory_fails_on_its_element():
    def large(n):
        if n == 2:
            raise MemoryError
        return n

    results = Collection.range(4).map(large).to_list()
    assert [isinstance(r, Failure) for r in results] == [False, False, True, False]
    assert "not enough memory" in results[2].error.message


def test_when_memory_is_short_no_more_is_begun_and_the_report_says_so(monkeypatch):
    monkeypatch.setattr("bowerbird.flow.local.available", lambda: 1000)
    working, most, lock = 0, 0, threading.Lock()

    def work(n):
        nonlocal working, most
        with lock:
            working += 1
            most = max(most, working)
        time.sleep(0.002)
        with lock:
            working -= 1
        return n

    here = Local(threads=4)
    assert Collection.range(20).map(work, threads=4).on(here).to_list() == list(range(20))
    assert most == 1
    assert here.report.notes == ["memory ran short: fewer chunks were worked on at once"]


def test_failures_do_not_keep_what_they_failed_on():
    alive = set()

    class Large:
        def __init__(self, n):
            self.n = n
            alive.add(n)

        def __del__(self):
            alive.discard(self.n)

    def fail(large):
        raise ValueError(large.n)

    most = 0
    here = Local()
    for _ in Collection.range(3000).map(Large).map(fail).on(here):
        most = max(most, len(alive))
    assert here.report.failed == {"ValueError": 3000}
    del _
    assert len(here.report.failures) == 3000
    assert len(alive) == 0


def test_broken_pictures_are_not_kept_by_their_errors(model):
    import tracemalloc

    def pictures():
        for n in range(20):
            yield Record(str(n), image=b"\xff\xd8\xff" + bytes([n]) * MB)

    here = Local(threads=2)
    chain = Collection.from_items(pictures).decode().on(here)
    tracemalloc.start()
    assert chain.count() == 0
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(here.report.failures) == 20
    assert held < 5 * MB


# Times.


def test_times_by_stage_and_a_verdict():
    here = Local()

    def slow(n):
        time.sleep(0.003)
        return n

    Collection.range(40).map(slow).map(str).sort().on(here).count()
    stages = here.report.stages
    assert stages["map(slow)"] >= 0.12
    assert stages["map(str)"] < stages["map(slow)"] / 5
    assert here.report.seconds >= stages["map(slow)"]
    assert here.report.verdict.startswith("map(slow)-bound: ")
    share = int(here.report.verdict.split()[1].rstrip("%"))
    assert 80 <= share <= 100


def test_stages_of_embedding(photographs, model):
    here = Local(threads=2)
    chain = Collection.from_glob(photographs["coffee"].parent).embed(model, cache=False).on(here)
    assert chain.count() == 6
    assert {"read", "decode", "prepare", "network"} <= set(here.report.stages)
    assert "embed(mini)" not in here.report.stages
    assert "-bound: " in here.report.verdict


def test_the_report_is_of_the_last_run_and_filled_in_while_it_runs():
    here = Local()
    running = iter(Collection.range(2000).on(here))
    next(running)
    assert 1 <= here.report.done < 2000
    first = here.report
    list(running)
    assert first.done == 2000
    Collection.range(3).on(here).count()
    assert here.report is not first
    assert here.report.done == 3


def test_a_run_that_is_left_early_has_its_times_all_the_same():
    here = Local()
    assert Collection.range(100).map(str).limit(3).on(here).count() == 3
    assert here.report.stages["map(str)"] > 0
    assert here.report.seconds > 0
