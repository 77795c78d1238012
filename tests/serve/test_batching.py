"""What the scheduler promises to whoever asks, and whoever else is asking at the time.

Lanes whose runs wait to be let through make the order of things known: nothing here depends on how fast anything is.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import pickle
import random
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bowerbird.errors import EngineError, InputError
from bowerbird.serve.batching import BusyError, Scheduler
from bowerbird.serve.lanes import Batch, Call, Lane, Work

SECONDS = 30.0
"""After which a test has failed that waits for something."""


class Steps:
    """A lane's `run` whose runs begin at once and end when they are let go."""

    def __init__(self) -> None:
        self.runs: list[list[Any]] = []
        self._begun = threading.Semaphore(0)
        self._go = threading.Semaphore(0)
        self._open = threading.Event()

    def __call__(self, payloads: Sequence[Any]) -> list[Any]:
        self.runs.append(list(payloads))
        self._begun.release()
        if not self._open.is_set():
            assert self._go.acquire(timeout=SECONDS)
        return [("done", payload) for payload in payloads]

    def begun(self) -> None:
        """Wait until another run has begun."""
        assert self._begun.acquire(timeout=SECONDS)

    def go(self) -> None:
        """Let one run end."""
        self._go.release()

    def open(self) -> None:
        """Let all runs end from now on."""
        self._open.set()
        self._go.release(1000)


def at_once(payloads: Sequence[Any]) -> list[Any]:
    return [("done", payload) for payload in payloads]


@dataclass
class Waiting:
    """A call, and a way to wait for it."""

    call: Call
    event: threading.Event = field(default_factory=threading.Event)

    def results(self) -> list[Any]:
        assert self.event.wait(SECONDS), "the call was not finished"
        return self.call.results


def submit(
    scheduler: Scheduler,
    lane: Lane,
    payloads: Iterable[Any],
    *,
    cost: int = 1,
    size: int = 0,
    prepare: Callable[[Any], Any] | None = None,
) -> Waiting:
    """Begin a call with a work for each payload."""
    listed = list(payloads)
    event = threading.Event()
    call = Call([None] * len(listed), lambda _: event.set())
    works = [
        Work(call, place, cost, payload, lane, prepare=prepare, size=size)
        for place, payload in enumerate(listed)
    ]
    scheduler.submit(call, works)
    return Waiting(call, event)


def busy(scheduler: Scheduler, steps: Steps) -> Waiting:
    """Give the only worker something that lasts until `steps` is let go."""
    plug = submit(scheduler, Lane("plug", steps, 1, 1, speed=1e6), ["plug"])
    steps.begun()
    return plug


def assert_idle(scheduler: Scheduler) -> None:
    """Nothing is accounted for that is not there."""
    assert scheduler.waiting_inputs() == {}
    assert scheduler.waiting_seconds() == 0
    assert scheduler.held_bytes() == 0


# Every input its own result


@dataclass(frozen=True)
class Asked:
    """One input of a random call."""

    lane: int
    cost: int
    raw: bool
    fate: str


ASKED = st.builds(
    Asked,
    lane=st.integers(0, 2),
    cost=st.integers(1, 40),
    raw=st.booleans(),
    fate=st.sampled_from(["well"] * 12 + ["unreadable", "broken", "poison"]),
)


@settings(max_examples=60, deadline=None)
@given(
    calls=st.lists(st.lists(ASKED, min_size=1, max_size=12), min_size=1, max_size=25),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_every_input_has_its_own_result_whoever_asks_in_whatever_order(calls, threads, seed):
    batches: list[Batch] = []
    over: list[str] = []

    def run(payloads: Sequence[Any]) -> list[Any]:
        costs = [asked.cost for _, asked in payloads]
        if len(costs) > 4 or (len(costs) > 1 and max(costs) * len(costs) > 32):
            over.append(f"a batch of {costs}")
        if any(asked.fate == "poison" for _, asked in payloads):
            raise RuntimeError("the whole batch fails")
        return [("done", payload) for payload in payloads]

    def prepare(payload: Any) -> Any:
        if payload[1].fate == "unreadable":
            raise InputError("unreadable")
        if payload[1].fate == "broken":
            raise ZeroDivisionError
        return payload

    scheduler = Scheduler(threads, queue_seconds=1e9, watch=batches.append)
    lanes = [Lane(f"lane {number}", run, 32, 4, alone=number) for number in range(3)]

    def works_of(number: int) -> Callable[[Call], list[Work]]:
        def works(call: Call) -> list[Work]:
            return [
                Work(
                    call,
                    place,
                    asked.cost,
                    ((number, place), asked),
                    lanes[asked.lane],
                    prepare if asked.raw else None,
                    size=7,
                )
                for place, asked in enumerate(calls[number])
            ]

        return works

    async def from_a_loop(numbers: Sequence[int]) -> list[Call]:
        return await asyncio.gather(*[scheduler.result(works_of(n), len(calls[n])) for n in numbers])

    order = list(range(len(calls)))
    random.Random(seed).shuffle(order)
    with ThreadPoolExecutor(5) as pool:
        shares = [order[start::4] for start in range(4)]
        loops = [pool.submit(lambda share=share: asyncio.run(from_a_loop(share))) for share in shares[:2]]
        plain = pool.map(
            lambda number: (number, scheduler.wait(works_of(number), len(calls[number]))),
            shares[2] + shares[3],
        )
        found = dict(plain)
        for share, loop in zip(shares, loops, strict=False):
            found.update(zip(share, loop.result(SECONDS), strict=True))

    assert not over
    for number, call in found.items():
        for place, asked in enumerate(calls[number]):
            result = call.results[place]
            if asked.raw and asked.fate == "unreadable":
                assert type(result) is InputError
            elif asked.fate == "poison" or (asked.raw and asked.fate == "broken"):
                assert isinstance(result, EngineError)
            else:
                assert result == ("done", ((number, place), asked))
    assert_idle(scheduler)
    assert scheduler.stop(SECONDS)
    run_of = sum(len(call) for call in calls) - sum(
        asked.raw and asked.fate in ("unreadable", "broken") for call in calls for asked in call
    )
    assert sum(batch.inputs for batch in batches) == run_of
    assert all(batch.own <= batch.cost for batch in batches)


# Order


@pytest.fixture
def alone():
    """One worker, so that there is one order."""
    scheduler = Scheduler(1, queue_seconds=1e9)
    yield scheduler
    assert scheduler.stop(SECONDS)


def test_a_short_call_is_not_behind_a_long_one(alone):
    plug, steps = Steps(), Steps()
    steps.open()
    lane = Lane("texts", steps, 1, 1, speed=0.01)  # 100 s for each input
    first = busy(alone, plug)
    long = submit(alone, lane, [f"long {number}" for number in range(50)])
    short = submit(alone, lane, ["short"])
    plug.open()
    assert short.results() == [("done", "short")]
    long.results()
    first.results()
    assert steps.runs.index(["short"]) == 1, "after the one input that was due before it"


def test_a_long_call_is_not_put_off_for_ever(alone):
    plug, steps = Steps(), Steps()
    steps.open()
    lane = Lane("texts", steps, 1, 1, speed=1e5)
    busy(alone, plug)
    long = submit(alone, lane, ["long"])
    later = [submit(alone, lane, [number]) for number in range(20)]
    plug.open()
    long.results()
    assert [waiting.results() for waiting in later]
    assert steps.runs == [["long"], *([number] for number in range(20))], (
        "equals come in the order of arrival"
    )


def test_lanes_take_turns_by_deadline(alone):
    plug, first, second = Steps(), Steps(), Steps()
    order: list[str] = []
    a = Lane("a", lambda inputs: order.extend(inputs) or at_once(inputs), 1, 1, speed=0.01)
    b = Lane("b", lambda inputs: order.extend(inputs) or at_once(inputs), 1, 1, speed=0.01)
    busy(alone, plug)
    calls = [submit(alone, a, ["a0", "a1", "a2"]), submit(alone, b, ["b0", "b1", "b2"])]
    plug.open()
    for call in calls:
        call.results()
    assert order == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert not first.runs
    assert not second.runs


def test_a_batch_is_of_inputs_of_like_cost(alone):
    plug, steps = Steps(), Steps()
    steps.open()
    lane = Lane("texts", steps, 512, 16, alone=12, speed=1.0)
    busy(alone, plug)
    calls = [submit(alone, lane, [(cost, n)], cost=cost) for n in range(4) for cost in (10, 100, 12)]
    plug.open()
    for call in calls:
        call.results()
    assert sorted(sorted(cost for cost, _ in run) for run in steps.runs) == [[10] * 4 + [12] * 4, [100] * 4]


@settings(deadline=None)
@given(
    costs=st.lists(st.integers(1, 12), min_size=1, max_size=7),
    alone=st.integers(0, 10),
    budget=st.integers(1, 60),
    most=st.integers(1, 6),
    others=st.integers(0, 3),
)
def test_no_other_batch_of_the_most_urgent_input_has_less_padding(costs, alone, budget, most, others):
    """Of all that could be run with it, the one taken has the largest share of inputs in what it costs; where other
    workers are free, of those that leave them their share.
    """

    def share(batch: Sequence[int]) -> float:
        return sum(batch) / (max(batch) * len(batch) + alone)

    lane = Lane("texts", at_once, budget, most, alone=alone)
    call = Call([None] * len(costs), print)
    works = [Work(call, place, cost, None, lane, number=place) for place, cost in enumerate(costs)]
    lane.waiting.put(works)
    taken = lane.take(others)
    most = min(most, math.ceil(len(costs) / (1 + others)))
    batch = [work.cost for work in taken]
    assert taken[0] is works[0]
    assert len(batch) == 1 or (max(batch) * len(batch) <= budget and len(batch) <= most)
    possible = [
        [costs[0], *others]
        for count in range(1, most)
        for others in itertools.combinations(costs[1:], count)
        if max(costs[0], *others) * (count + 1) <= budget
    ]
    assert share(batch) == pytest.approx(max([share(costs[:1]), *map(share, possible)]))
    assert len(lane.waiting) == len(costs) - len(batch)
    assert set(lane.waiting.works()).isdisjoint(taken)


def test_workers_that_are_free_share_what_comes():
    scheduler = Scheduler(3, queue_seconds=1e9)
    steps = Steps()
    call = submit(scheduler, Lane("texts", steps, 512, 16), range(6))
    for _ in range(3):
        steps.begun()  # beside each other: none of them is let go before all have begun
    steps.open()
    assert call.results() == [("done", number) for number in range(6)]
    assert scheduler.stop(SECONDS)


def test_decoding_goes_on_beside_the_network():
    scheduler = Scheduler(2, queue_seconds=1e9)
    steps = Steps()
    lane = Lane("pictures", steps, 1, 1)
    decoded = threading.Event()
    running = submit(scheduler, lane, ["first"])
    steps.begun()
    second = submit(scheduler, lane, ["second"], prepare=lambda value: decoded.set() or value)
    assert decoded.wait(SECONDS), "while the first is being run"
    steps.open()
    assert running.results() == [("done", "first")]
    assert second.results() == [("done", "second")]
    assert second.call.prepared > 0
    assert scheduler.stop(SECONDS)


def test_a_decoded_picture_does_not_wait_for_a_slow_one():
    scheduler = Scheduler(2, queue_seconds=1e9)
    run = threading.Event()
    lane = Lane("pictures", lambda inputs: run.set() or at_once(inputs), 8, 8)

    def prepare(value: str) -> str:
        # The slow one is ready when the quick one has been run, and not before.
        assert value == "quick" or run.wait(SECONDS)
        return value

    calls = [submit(scheduler, lane, [value], prepare=prepare) for value in ("slow", "quick")]
    assert [call.results() for call in calls] == [[("done", "slow")], [("done", "quick")]]
    assert scheduler.stop(SECONDS)


def test_pictures_that_are_decoded_meanwhile_share_a_batch(alone):
    plug, steps = Steps(), Steps()
    steps.open()
    lane = Lane("pictures", steps, 8, 8, speed=1.0)
    busy(alone, plug)
    call = submit(alone, lane, range(8), prepare=lambda value: value)
    plug.open()
    call.results()
    assert len(steps.runs) < 8


# Leaving


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    gone=st.sets(st.integers(0, 11)),
    raw=st.booleans(),
)
def test_who_leaves_takes_everything_along(sizes, gone, raw):
    scheduler = Scheduler(1, queue_seconds=1e9)
    plug, steps = Steps(), Steps()
    steps.open()
    busy(scheduler, plug)
    lane = Lane("texts", steps, 64, 8, speed=3.0)
    prepare = (lambda value: value) if raw else None
    calls = [
        submit(scheduler, lane, [(number, place) for place in range(size)], size=100, prepare=prepare)
        for number, size in enumerate(sizes)
    ]
    left = {number for number in gone if number < len(calls)}
    for number in left:
        scheduler.cancel(calls[number].call)
    staying = sum(size for number, size in enumerate(sizes) if number not in left)
    assert scheduler.held_bytes() == 100 * staying
    assert scheduler.waiting_inputs().get("texts", 0) == staying
    assert scheduler.waiting_seconds() == pytest.approx(staying / 3, abs=0.01)
    plug.open()
    for number, call in enumerate(calls):
        if number not in left:
            assert call.results() == [("done", (number, place)) for place in range(sizes[number])]
    assert not {number for run in steps.runs for number, _ in run} & left, "nothing was run for nobody"
    assert scheduler.stop(SECONDS)
    assert_idle(scheduler)
    assert not any(calls[number].event.is_set() for number in left)


def test_a_cancelled_task_leaves_the_queue(alone):
    plug, steps = Steps(), Steps()
    steps.open()
    busy(alone, plug)
    lane = Lane("texts", steps, 1, 1, speed=1.0)

    async def leave() -> None:
        asking = asyncio.ensure_future(alone.result(lambda call: [Work(call, 0, 1, "gone", lane, size=9)], 1))
        while not alone.held_bytes():
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(leave())
    assert alone.held_bytes() == 0
    plug.open()
    assert submit(alone, lane, ["next"]).results() == [("done", "next")]
    assert steps.runs == [["next"]]


def test_who_leaves_while_it_is_run_hurts_nobody(alone):
    steps = Steps()
    lane = Lane("texts", steps, 8, 8, speed=1.0)
    gone = submit(alone, lane, ["gone"], size=5)
    steps.begun()
    alone.cancel(gone.call)
    stays = submit(alone, lane, ["stays"], size=5)
    steps.open()
    assert stays.results() == [("done", "stays")]
    assert not gone.event.is_set()
    assert_idle(alone)


def test_who_leaves_while_a_picture_is_decoded_has_it_run_no_more(alone):
    steps = Steps()
    steps.open()
    lane = Lane("pictures", steps, 8, 8, speed=1.0)
    begun, go = threading.Event(), threading.Event()
    gone = submit(
        alone, lane, ["gone"], size=5, prepare=lambda value: (begun.set(), go.wait(SECONDS), value)[2]
    )
    assert begun.wait(SECONDS)
    alone.cancel(gone.call)
    go.set()
    assert submit(alone, lane, ["next"]).results() == [("done", "next")]
    assert steps.runs == [["next"]]
    assert_idle(alone)


def test_a_loop_that_is_closed_meanwhile_is_no_trouble(alone):
    steps = Steps()
    lane = Lane("texts", steps, 8, 8)
    loop = asyncio.new_event_loop()
    asking = loop.create_task(alone.result(lambda call: [Work(call, 0, 1, "x", lane)], 1))
    loop.call_soon(lambda: loop.call_soon(loop.stop))
    loop.run_forever()
    steps.begun()
    loop.close()
    steps.open()
    assert submit(alone, lane, ["y"]).results() == [("done", "y")]
    assert not asking.done()
    asking._log_destroy_pending = False  # type: ignore[attr-defined]  # it is abandoned on purpose


# Too much


def test_what_cannot_be_done_in_time_is_refused_until_it_can():
    scheduler = Scheduler(1, queue_seconds=5.0)
    plug, steps = Steps(), Steps()
    steps.open()
    first = busy(scheduler, plug)
    lane = Lane("texts", steps, 4, 4, speed=1.0)
    accepted: list[Waiting] = []
    with pytest.raises(BusyError) as refused:
        for number in range(50):
            accepted.append(submit(scheduler, lane, [number], size=10))
    assert 5 <= len(accepted) <= 7, "5 s of work, and the one that makes it more"
    assert 5 < refused.value.seconds < 8
    assert "Try again in" in str(refused.value)
    assert scheduler.held_bytes() == 10 * len(accepted), "what was refused holds nothing"
    plug.open()
    for number, call in enumerate(accepted):
        assert call.results() == [("done", number)]
    first.results()
    scheduler.check()
    assert submit(scheduler, lane, ["again"]).results() == [("done", "again")]
    assert scheduler.stop(SECONDS)
    assert_idle(scheduler)


def test_a_long_call_is_accepted_and_shuts_out_only_other_long_ones():
    scheduler = Scheduler(1, queue_seconds=5.0)
    plug, steps = Steps(), Steps()
    steps.open()
    busy(scheduler, plug)
    lane = Lane("texts", steps, 4, 4, speed=1.0)
    long = submit(scheduler, lane, range(600))  # ten minutes of it
    with pytest.raises(BusyError):
        submit(scheduler, lane, range(600))
    short = submit(scheduler, lane, ["short"])
    plug.open()
    assert short.results() == [("done", "short")]
    assert long.results() == [("done", number) for number in range(600)]
    assert scheduler.stop(SECONDS)


def test_whether_even_a_short_call_is_refused_is_known_beforehand():
    scheduler = Scheduler(1, queue_seconds=5.0)
    plug = Steps()
    busy(scheduler, plug)
    lane = Lane("texts", at_once, 4, 4, speed=100.0)
    scheduler.check()
    calls: list[Waiting] = []
    with pytest.raises(BusyError):
        for number in range(1000):
            calls.append(submit(scheduler, lane, [number]))
    with pytest.raises(BusyError):
        scheduler.check()
    plug.open()
    for call in calls:
        call.results()
    scheduler.check()
    assert scheduler.stop(SECONDS)


def test_bytes_that_wait_are_bounded_and_one_large_call_passes_alone():
    scheduler = Scheduler(1, queue_bytes=100)
    steps = Steps()
    lane = Lane("pictures", steps, 1, 1)
    large = submit(scheduler, lane, ["large"], size=1000)
    steps.begun()
    with pytest.raises(BusyError):
        submit(scheduler, lane, ["one byte"], size=1)
    steps.open()
    large.results()
    assert submit(scheduler, lane, ["a few"], size=90).results() == [("done", "a few")]
    assert scheduler.stop(SECONDS)


def test_what_came_before_the_speed_was_known_counts_as_soon_as_it_is(alone):
    steps = Steps()
    lane = Lane("texts", steps, 1, 1)
    call = submit(alone, lane, range(10))
    steps.begun()
    assert alone.waiting_seconds() == 0
    steps.go()
    steps.begun()
    assert lane.speed > 0
    assert alone.waiting_seconds() > 0
    steps.open()
    call.results()
    assert_idle(alone)


def test_one_hiccup_is_no_news():
    lane = Lane("texts", at_once, 8, 8, speed=100.0)
    lane.learn(100, 1000.0)
    assert lane.speed > 70
    lane.speed = 100.0
    lane.learn(100, 1e-9)
    assert lane.speed < 140
    for _ in range(30):
        lane.learn(100, 10.0)
    assert lane.speed == pytest.approx(10.0, rel=0.2), "what lasts is"


def test_a_busy_error_survives_the_way_between_processes():
    for error in (BusyError(3.0), BusyError(1.0, stopping=True)):
        copy = pickle.loads(pickle.dumps(error))
        assert (copy.seconds, copy.stopping, str(copy)) == (error.seconds, error.stopping, str(error))


# Failing


def raising(error: BaseException) -> Callable[[Sequence[Any]], list[Any]]:
    def run(payloads: Sequence[Any]) -> list[Any]:
        if "bad" in payloads:
            raise error
        return at_once(payloads)

    return run


@pytest.mark.parametrize(
    "run",
    [
        raising(RuntimeError("out of memory")),
        raising(EngineError("the engine says no")),
        raising(SystemExit(3)),
        lambda payloads: [] if "bad" in payloads else at_once(payloads),
    ],
    ids=["unexpected", "engine", "exit", "too few results"],
)
def test_a_run_that_fails_hurts_the_culprit_only(alone, run):
    plug = Steps()
    busy(alone, plug)
    lane = Lane("texts", run, 8, 8, speed=100.0)
    calls = {name: submit(alone, lane, [name]) for name in ("good", "bad", "better")}
    plug.open()
    assert calls["good"].results() == [("done", "good")]
    assert calls["better"].results() == [("done", "better")]
    (error,) = calls["bad"].results()
    assert isinstance(error, EngineError)
    assert lane.speed == 100.0, "how long it takes to fail says nothing of the speed"
    assert submit(alone, lane, ["after"]).results() == [("done", "after")]
    assert_idle(alone)


def test_who_watches_or_waits_badly_stops_nobody():
    def watch(_: Batch) -> None:
        raise RuntimeError("the watcher fails")

    def finished(_: Call) -> None:
        raise RuntimeError("the one who waits fails")

    scheduler = Scheduler(1, watch=watch)
    lane = Lane("texts", at_once, 8, 8)
    call = Call([None], finished)
    scheduler.submit(call, [Work(call, 0, 1, "x", lane)])
    for number in range(3):
        assert submit(scheduler, lane, [number]).results() == [("done", number)]
    assert call.results == [("done", "x")]
    assert scheduler.stop(SECONDS)


# Stopping


def test_stopping_finishes_what_was_accepted_and_takes_no_more():
    scheduler = Scheduler(2, queue_seconds=1e9)
    steps = Steps()
    lane = Lane("texts", steps, 4, 4)
    calls = [submit(scheduler, lane, range(5), prepare=lambda value: value) for _ in range(4)]
    steps.begun()
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(scheduler.stop, SECONDS)
        refused = None
        while refused is None:
            try:
                calls.append(submit(scheduler, lane, ["late"]))
            except BusyError as error:
                refused = error
        assert refused.stopping
        steps.open()
        assert stopping.result(SECONDS)
    for call in calls:
        assert all(result[0] == "done" for result in call.results())
    assert_idle(scheduler)
    assert scheduler.stop(SECONDS), "twice is once"


def test_stopping_waits_no_longer_than_it_is_told_and_lets_nobody_hang():
    scheduler = Scheduler(1, queue_seconds=1e9)
    steps = Steps()
    lane = Lane("texts", steps, 1, 1)
    hangs = submit(scheduler, lane, ["hangs"])
    steps.begun()
    waits = submit(scheduler, lane, ["waits"])
    assert not scheduler.stop(0.0)
    for call in (hangs, waits):
        (error,) = call.results()
        assert isinstance(error, BusyError)
        assert error.stopping
    steps.open()
    assert scheduler.stop(SECONDS)
    assert steps.runs == [["hangs"]]
    assert_idle(scheduler)


def test_stopping_with_everything_cancelled_ends():
    scheduler = Scheduler(2, queue_seconds=1e9)
    steps = Steps()
    lane = Lane("pictures", steps, 1, 1)
    running = [submit(scheduler, lane, [number]) for number in range(2)]
    for _ in running:
        steps.begun()
    waiting = submit(scheduler, lane, range(10), prepare=lambda value: value)
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(scheduler.stop, SECONDS)
        scheduler.cancel(waiting.call)
        steps.open()
        assert stopping.result(SECONDS)


# Models that come and go


def test_a_lane_is_not_held_when_nothing_of_it_is_open(alone):
    steps = Steps()
    lane = Lane("texts", steps, 4, 4)
    call = submit(alone, lane, range(9))
    steps.begun()
    gone = weakref.ref(lane)
    del lane
    gc.collect()
    assert gone() is not None, "there is work of it"
    steps.open()
    assert len(call.results()) == 9
    assert submit(alone, Lane("other", at_once, 1, 1), ["x"]).results() == [("done", "x")]
    gc.collect()
    assert gone() is None


def test_lanes_of_one_name_are_counted_together(alone):
    plug = Steps()
    busy(alone, plug)
    calls = [submit(alone, Lane("mini/text", at_once, 1, 1), range(3)) for _ in range(2)]
    assert alone.waiting_inputs()["mini/text"] == 6
    plug.open()
    for call in calls:
        call.results()
