"""Functions in processes: results, order, and what a process that dies costs."""

from __future__ import annotations

import os
import threading
import time

import pytest

from bowerbird import Collection, Failure, Local, Record
from bowerbird.errors import BowerbirdError, FunctionError, InputError


# Functions of a test module cannot be imported elsewhere; a closure is sent whole.
def closure(deadly, how):
    if how == "exit":

        def step(number):
            import os

            if number in deadly:
                os._exit(3)
            return number * 10

    else:

        def step(number):
            import os
            import signal

            if number in deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            return number * 10

    return step


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "deadly", "said"), [("exit", {5, 6}, "EXIT(3)"), ("kill", {19}, "SIGKILL(-9)")]
)
def test_a_process_that_dies_costs_the_element_it_dies_of(how, deadly, said):
    chain = Collection.range(20).map(closure(deadly, how), processes=2)
    results = chain.to_list()
    assert [r.value if isinstance(r, Failure) else r // 10 for r in results] == list(range(20))
    failures = [r for r in results if isinstance(r, Failure)]
    assert {failure.value for failure in failures} == deadly
    for failure in failures:
        assert (failure.id, failure.step, failure.kind) == (str(failure.value), "map(step)", "InputError")
        assert said in str(failure.error)
    assert chain.executor.report.notes == [f"a process died at {n}" for n in sorted(deadly)]
    assert chain.executor.report.done == 20 - len(deadly)
    # The next run has processes again.
    assert Collection.range(3).map(lambda n: n + 1, processes=2).to_list() == [1, 2, 3]


def test_only_what_was_lost_is_worked_on_again(tmp_path):
    def note(number):
        import os
        import time

        with open(tmp_path / f"{number}", "a") as file:
            file.write("x")
        if number == 0:
            time.sleep(1)
            os._exit(1)
        return number

    results = Collection.range(2).map(note, processes=2).to_list()
    assert [isinstance(r, Failure) for r in results] == [True, False]
    assert len((tmp_path / "0").read_text()) == 2  # to find out that it was this one
    assert len((tmp_path / "1").read_text()) == 1


@pytest.mark.slow
def test_a_death_in_one_run_is_not_blamed_on_another():
    def slow(number):
        import time

        time.sleep(0.02)
        return number

    results: dict[str, list] = {}

    def other():
        results["quiet"] = Collection.range(40).map(slow, processes=2).to_list()

    thread = threading.Thread(target=other)
    thread.start()
    dying = Collection.range(10).map(closure({4}, "exit"), processes=2).to_list()
    thread.join()
    assert results["quiet"] == list(range(40))
    assert sum(isinstance(r, Failure) for r in dying) == 1


def test_order_and_several_lanes():
    chain = Collection.range(300).map(lambda n: n + 1, processes=2).filter(lambda n: n % 2, processes=1)
    assert chain.map(str, threads=2).to_list() == [str(n) for n in range(1, 301, 2)]


def test_flat_map_batches_and_filter_in_processes():
    chain = Collection.range(20)
    assert chain.flat_map(lambda n: [n] * (n % 3), processes=1).to_list() == [
        n for n in range(20) for _ in range(n % 3)
    ]
    assert (
        chain.map_batches(lambda batch: [len(batch)] * len(batch), size=6, processes=1).to_list()
        == [6] * 18 + [2] * 2
    )


def test_they_run_elsewhere_and_at_the_same_time():
    def where(_):
        import os
        import time

        time.sleep(0.02)
        return os.getpid()

    pids = set(Collection.range(40).map(where, processes=2))
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_what_a_process_makes_it_keeps():
    class Slow:
        def __init__(self):
            import uuid

            self.id = uuid.uuid4().hex

        def __call__(self, batch):
            return [self.id] * len(batch)

    made = Collection.range(400).map_batches(Slow, size=10, processes=2).to_list()
    assert len(set(made)) <= 2


def test_a_model_is_built_once_in_a_process():
    def tag(batch, model):
        return [(id(model), model.card.name)] * len(batch)

    tags = set(Collection.range(40).map_batches(tag, size=5, model="mini", processes=1))
    assert len(tags) == 1
    assert next(iter(tags))[1] == "mini"


def test_failures_of_functions_are_readable_from_there():
    def parse(row):
        return int(row)

    good, bad = Collection.from_items(["1", "x"]).map(parse, processes=1).to_list()
    assert good == 1
    assert isinstance(bad.error, FunctionError)
    assert bad.kind == "ValueError"
    assert "in parse" in bad.error.trace
    assert "bowerbird/flow" not in bad.error.trace
    assert "return int(row)" in bad.error.trace


@pytest.mark.parametrize("method", ["map", "filter", "flat_map"])
def test_a_function_that_cannot_be_sent_is_said(method):
    lock = threading.Lock()
    chain = getattr(Collection.range(3), method)(lambda n: lock and [n], processes=1)
    with pytest.raises(
        BowerbirdError, match=rf"{method}\(lambda\) cannot be sent to another process: .*lock"
    ) as caught:
        chain.to_list()
    assert not isinstance(caught.value, InputError)
    assert "processes=" in caught.value.hint


def test_an_element_or_a_result_that_cannot_be_sent_costs_itself_alone():
    lock = threading.Lock()
    results = Collection.from_items([1, lock, 3]).map(lambda n: n, processes=1).to_list()
    assert (results[0], results[2]) == (1, 3)
    assert "An element cannot be sent between processes" in str(results[1].error)

    def give(n):
        import threading

        return threading.Lock() if n % 2 else n

    results = Collection.range(6).map(give, processes=1).to_list()
    assert [isinstance(r, Failure) for r in results] == [False, True] * 3
    assert "A result cannot be sent between processes" in str(results[1].error)
    assert results[1].value == 1


def test_a_class_that_cannot_be_made_there_stops_the_run_with_its_own_error():
    class Broken:
        def __init__(self):
            raise TypeError("no licence")

        def __call__(self, items):
            return items

    with pytest.raises(BowerbirdError, match="a Broken could not be made: TypeError: no licence"):
        Collection.range(3).map_batches(Broken, processes=1).to_list()


def test_what_runs_in_it_is_not_waited_for_when_nobody_wants_the_rest():
    def sleep(n):
        import time

        if n:
            time.sleep(60)
        return n

    started = time.monotonic()
    assert Collection.range(10).map(sleep, processes=2).limit(1).to_list() == [0]
    assert time.monotonic() - started < 30


def test_pictures_go_there_and_back(photographs, model):
    records = [Record(path.stem, image=path) for path in sorted(photographs.values())]
    here = Collection.from_items(records).decode().embed(model, cache=False)
    there = (
        Collection.from_items(records)
        .decode()
        .map(lambda record: record, processes=2)
        .embed(model, cache=False)
    )
    for one, other in zip(here.on(Local(threads=1)), there.on(Local(threads=1)), strict=True):
        assert one.image.tobytes() == other.image.tobytes()
        assert (one.vector == other.vector).all()
        assert one.content == other.content
