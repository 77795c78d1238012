"""Plans on a real Ray cluster of several nodes: the same results as on one machine, also when parts of it die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray", reason="needs ray[data]")

from tests.flow.ray_cluster import Nodes, running

from bowerbird.errors import BowerbirdError, InputError
from bowerbird.flow.cluster import Ray
from bowerbird.flow.embedding import Embed
from bowerbird.flow.functions import Filter, FlatMap, Map, MapBatches
from bowerbird.flow.local import Local
from bowerbird.flow.order import Limit
from bowerbird.flow.plan import Plan, Source, Step
from bowerbird.flow.recipe import ModelRecipe
from bowerbird.flow.run import carried_out
from bowerbird.flow.sources.values import IterableSource, RangeSource
from bowerbird.record import Failure, Record
from bowerbird.settings import settings

pytestmark = [
    pytest.mark.slow,
    # Ray's own: it warns of its settings, and leaves sockets and log files to the garbage collector.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    from ray import cloudpickle

    # Workers cannot import the tests.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with running() as nodes:
        yield nodes


@dataclass(frozen=True)
class Parts(Source):
    """A range in a number of parts."""

    stop: int
    count_of_parts: int
    start: int = 0

    def __iter__(self) -> Iterator[Any]:
        return iter(range(self.start, self.stop))

    def describe(self) -> str:
        return f"{self.stop} numbers"

    def parts(self) -> list[Parts]:
        step = -(-self.stop // self.count_of_parts)
        return [Parts(min(at + step, self.stop), 1, at) for at in range(0, self.stop, step)]


class Where:
    """A model, as it were: it takes time to make, and each answer says who gave it."""

    def __init__(self) -> None:
        import ray

        self.who = (os.getpid(), ray.get_runtime_context().get_node_id())

    def __call__(self, batch: list[Any]) -> list[Any]:
        time.sleep(0.002 * len(batch))
        return [(item, *self.who, np.full(2000, item)) for item in batch]


def everything(plan: Plan, executor: Any) -> list[Any]:
    return [item for chunk in carried_out(plan, executor) for item in chunk]


def shown(items: list[Any]) -> list[Any]:
    return [
        (item.id, item.step, item.kind, str(item.error)) if isinstance(item, Failure) else item
        for item in items
    ]


def picky(number: int) -> int:
    if number % 7 == 3:
        raise ValueError(f"no {number}")
    return number * 10


def started_marks(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir())


def test_the_plan_says_what_runs_where():
    model = MapBatches(Where, "model")
    plan = Plan(RangeSource(9), (Map(picky, "map(picky)"), model, Limit(3, "limit(3)"), Map(str, "map(str)")))
    assert Ray("auto", workers=4, cpus_per_worker=2).explain(plan) == [
        "Ray Data    range(0, 9)",
        "workers     map(picky) > model",
        "here        limit(3)",
        "workers     map(str)",
        "cluster     auto, workers: 4, each with 2 CPU",
    ]
    with_gpus = Ray(gpus_per_worker=1).explain(Plan(RangeSource(9), (Map(picky, "map(picky)"), model)))
    assert with_gpus[1:3] == ["Ray Data    map(picky)", "workers     model"]


@pytest.mark.parametrize("wrong", [{"workers": -1}, {"cpus_per_worker": 0}, {"gpus_per_worker": -1}])
def test_numbers_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(BowerbirdError, match=next(iter(wrong))):
        Ray(**wrong)


def test_a_cluster_is_started_where_there_is_none_and_nothing_is_printed():
    script = """
import bowerbird.flow.cluster as cluster
from bowerbird.flow.functions import Map
from bowerbird.flow.plan import Plan
from bowerbird.flow.run import carried_out
from bowerbird.flow.sources.values import RangeSource

def double(number):
    return 2 * number

ray = cluster.Ray(workers=2)
results = [item for chunk in carried_out(Plan(RangeSource(1000), (Map(double, "double"),)), ray) for item in chunk]
assert results == list(range(0, 2000, 2)), results
ray.close()
import ray
assert not ray.is_initialized()
"""
    # A short path: sockets lie below it. In a folder of its own Ray does not find the cluster of the other tests.
    with tempfile.TemporaryDirectory(prefix="bb") as folder:
        env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        done = subprocess.run(
            [sys.executable, "-c", script],
            check=False,
            env={**env, "RAY_TMPDIR": folder},
            capture_output=True,
            timeout=120,
        )
    # Ray's native part may write a line of its log to stderr, and cannot be told not to without saying so there.
    said = [line for line in done.stderr.splitlines() if not line.startswith(b"[20")]
    assert (done.returncode, done.stdout, said) == (0, b"", [])


def test_no_cluster_at_the_address():
    with pytest.raises(BowerbirdError, match=r"no Ray cluster at '127\.0\.0\.1:9'"):
        everything(Plan(RangeSource(3), (Map(str, "str"),)), Ray("127.0.0.1:9"))


class TestOnACluster:
    @pytest.mark.parametrize("parts", [1, 7])
    def test_as_on_one_machine_failures_at_their_places(self, nodes, parts):
        steps: tuple[Step, ...] = (
            Map(picky, "map(picky)"),
            Filter(lambda number: number % 20 == 0, "filter(lambda)"),
            FlatMap(lambda number: [number, str(number)], "flat_map(lambda)"),
        )
        plan = Plan(Parts(3000, parts), steps)
        here, there = Local(), Ray(nodes.address, workers=3)
        assert shown(everything(plan, there)) == shown(everything(plan, here))
        assert there.report.failed == here.report.failed == {"ValueError": 429}
        assert there.report.done == here.report.done
        assert set(there.report.stages) == set(here.report.stages)
        trace = there.report.failures[0].error.trace
        assert "in picky" in trace
        assert "site-packages/ray" not in trace

    def test_models_stay_with_their_workers_and_use_the_threads_they_have(self, nodes):
        def threads(batch: list[int], seen: list[int] = []) -> list[Any]:  # noqa: B006
            seen.append(1)
            return [(os.getpid(), settings().worker_threads) for _ in batch]

        plan = Plan(Parts(400, 8), (MapBatches(Where, "where"), Map(lambda found: found[1], "pid")))
        assert 1 <= len(set(everything(plan, Ray(nodes.address, workers=2)))) <= 2
        plan = Plan(Parts(40, 1), (MapBatches(threads, "threads"),))
        for cpus, expected in ((1, 1), (2, 2)):
            found = everything(plan, Ray(nodes.address, workers=1, cpus_per_worker=cpus))
            assert {count for _, count in found} == {expected}

    def test_steps_after_one_that_needs_order_go_out_again(self, nodes):
        steps = (
            Map(picky, "map(picky)"),
            Limit(150, "limit(150)"),
            MapBatches(lambda batch: [-number for number in batch], "minus", size=10),
            Limit(100, "limit(100)"),
            Map(str, "str"),
        )
        plan = Plan(Parts(3000, 3), steps)
        assert shown(everything(plan, Ray(nodes.address, workers=2))) == shown(everything(plan, Local()))

    @pytest.mark.parametrize("batch", [1, 3, 0])
    def test_vectors_are_equal_to_the_last_bit(self, nodes, photographs, batch):
        """However many others are in its batch: 35 records, some alone in a parcel, some with a part only."""
        some = sorted(photographs.items())
        records = [
            record
            for turn in range(2)
            for name, path in some
            for record in (
                Record(f"{name} {turn}", path, (f"a photograph of {name}, {turn}",)),
                Record(f"text of {name} {turn}", texts=(f"{name} " * (1 + turn * len(name)),)),
                Record(f"picture of {name} {turn}", path),
            )
        ][:34]
        records.insert(20, Record("gone", Path("no such file.jpg")))
        plan = Plan(IterableSource(records), (Embed(ModelRecipe.of("mini"), "embed(mini)", cached=False),))
        here, there = (
            everything(plan, Local()),
            everything(plan, Ray(nodes.address, workers=2, batch=batch)),
        )
        assert [record.id for record in there] == [record.id for record in here]
        assert shown(there)[20] == shown(here)[20]
        parts = set()
        for one, other in zip(there, here, strict=True):
            if isinstance(one, Failure):
                continue
            assert one.vectors.keys() == other.vectors.keys()
            parts |= one.vectors.keys()
            for name, vector in one.vectors.items():
                np.testing.assert_array_equal(vector, other.vectors[name])
                assert vector.flags.writeable
        assert parts >= {"image", "text"}

    def test_what_cannot_be_sent_is_read_here(self, nodes):
        plan = Plan(IterableSource(iter(range(500))), (Map(picky, "map(picky)"),))
        found = everything(plan, Ray(nodes.address, workers=2))
        assert found[:3] == [0, 10, 20]
        assert len(found) == 500

    def test_a_source_that_breaks_off_gives_what_it_has(self, nodes):
        @dataclass(frozen=True)
        class Broken(Parts):
            def __iter__(self) -> Iterator[int]:
                yield from range(10)
                raise BowerbirdError("the store went away")

            def parts(self) -> list[Parts]:
                return [self]

        for step in (Map(str, "str"), MapBatches(Where, "where")):
            results: list[Any] = []
            with pytest.raises(BowerbirdError, match="the store went away"):
                for chunk in carried_out(Plan(Broken(0, 1), (step,)), Ray(nodes.address, workers=1)):
                    results.extend(chunk)
            assert len(results) == 10

    def test_who_wants_few_lets_little_be_done(self, nodes, tmp_path):
        def mark(batch: list[int]) -> list[int]:
            for number in batch:
                (tmp_path / str(number)).touch()
                time.sleep(0.001)
            return batch

        plan = Plan(Parts(100_000, 10), (MapBatches(mark, "mark"), Limit(5, "limit(5)")))
        assert everything(plan, Ray(nodes.address, workers=2, batch=20)) == list(range(5))
        time.sleep(1)
        before = started_marks(tmp_path)
        time.sleep(1)
        assert before == started_marks(tmp_path) < 20_000

    @pytest.mark.parametrize("kept", [False, True], ids=["tasks", "workers"])
    def test_a_slow_consumer_stops_the_stages_before_it(self, nodes, tmp_path, kept):
        def large(batch: list[int]) -> list[bytes]:
            for number in batch:
                (tmp_path / str(number)).touch()
            return [bytes(1 << 20) for _ in batch]

        class Large:
            def __call__(self, batch: list[int]) -> list[bytes]:
                return large(batch)

        # 3 GiB in all, through object stores of 128 MiB.
        plan = Plan(Parts(3000, 3), (MapBatches(Large if kept else large, "large"),))
        chunks = carried_out(plan, Ray(nodes.address, workers=2, batch=8))
        taken = sum(len(next(chunks)) for _ in range(8))
        time.sleep(3)
        ahead = started_marks(tmp_path) - taken
        chunks.close()
        assert 0 < ahead < 600

    # What cannot be done.

    def test_a_function_that_cannot_be_sent_is_named_with_its_variable(self, nodes):
        guard = threading.Lock()

        def locked(number: int) -> int:
            with guard:
                return number

        with pytest.raises(BowerbirdError, match=r"map\(locked\) cannot be sent.*guard.*pickle") as caught:
            everything(Plan(RangeSource(3), (Map(locked, "map(locked)"),)), Ray(nodes.address))
        assert "Make such things inside the function" in str(caught.value)

    @pytest.mark.parametrize("kept", [False, True], ids=["tasks", "workers"])
    def test_a_result_that_cannot_be_sent_fails_at_its_place(self, nodes, kept):
        def lock(number: int) -> Any:
            return threading.Lock() if number == 5 else number

        steps: tuple[Step, ...] = (Map(lock, "map(lock)"),)
        if kept:
            steps = (MapBatches(Where, "where"), Map(lambda found: found[0], "first"), *steps)
        found = everything(Plan(Parts(10, 1), steps), Ray(nodes.address, workers=1))
        assert found[:5] + found[6:] == [0, 1, 2, 3, 4, 6, 7, 8, 9]
        assert isinstance(found[5], Failure)
        assert "cannot be sent to another machine" in str(found[5].error)

    def test_no_machine_is_large_enough(self, nodes):
        with pytest.raises(BowerbirdError, match="No machine of the cluster has 64 CPU"):
            everything(Plan(RangeSource(3), (Map(str, "str"),)), Ray(nodes.address, cpus_per_worker=64))

    def test_more_workers_than_there_is_room_for(self, nodes):
        ray = Ray(nodes.address, workers=9)
        plan = Plan(Parts(200, 2), (MapBatches(Where, "where"), Map(lambda found: found[0], "first")))
        assert everything(plan, ray) == list(range(200))
        assert ray.report.notes == ["the cluster has room for 4 of 9 workers"]

    def test_a_class_that_cannot_be_made_ends_the_run(self, nodes):
        class Unmakable:
            def __init__(self) -> None:
                raise RuntimeError("no weights")

            def __call__(self, batch: list[int]) -> list[int]:
                return batch

        plan = Plan(RangeSource(3), (MapBatches(Unmakable, "unmakable"),))
        with pytest.raises(BowerbirdError, match=r"Unmakable.*RuntimeError: no weights") as caught:
            everything(plan, Ray(nodes.address, workers=1))
        assert len(str(caught.value).splitlines()) < 5

    # Deaths.

    def test_a_worker_is_killed(self, nodes):
        plan = Plan(Parts(1500, 3), (MapBatches(Where, "where"),))
        ray = Ray(nodes.address, workers=2, batch=20)
        found: list[Any] = []
        killed = 0
        for chunk in carried_out(plan, ray):
            found.extend(chunk)
            if len(found) > 300 and not killed:
                killed = found[-1][1]
                os.kill(killed, signal.SIGKILL)
        assert [item[0] for item in found] == list(range(1500))
        assert killed not in {item[1] for item in found[-500:]}
        assert ray.report.notes == ["a worker was lost; others took over its work"]

    @pytest.mark.parametrize("kept", [False, True], ids=["tasks", "workers"])
    def test_a_node_is_lost_and_the_rest_has_no_room_for_its_workers(self, nodes, kept):
        def where(batch: list[int]) -> list[Any]:
            return Where()(batch)

        plan = Plan(Parts(2400, 12), (MapBatches(Where if kept else where, "where"),))
        found: list[Any] = []
        lost = ""
        try:
            for chunk in carried_out(plan, Ray(nodes.address, workers=4, batch=20)):
                found.extend(chunk)
                if len(found) > 400 and not lost:
                    lost = found[-1][2]
                    nodes.kill(lost)
        finally:
            if lost:
                nodes.add()
        assert [item[0] for item in found] == list(range(2400))
        assert all((item[3] == item[0]).all() for item in found)
        assert {item[2] for item in found[-500:]}.isdisjoint({lost})

    def test_an_element_that_kills_its_worker_fails_at_its_place(self, nodes):
        def deadly(batch: list[Any]) -> list[Any]:
            if any(item[0] == 77 for item in batch):
                os._exit(1)
            return [item[0] for item in batch]

        plan = Plan(Parts(200, 2), (MapBatches(Where, "where"), MapBatches(deadly, "deadly")))
        found = everything(plan, Ray(nodes.address, workers=2, batch=10))
        assert found[:77] + found[78:] == [number for number in range(200) if number != 77]
        assert isinstance(found[77], Failure)
        assert found[77].id == "77"
        assert isinstance(found[77].error, InputError)
        assert "died" in str(found[77].error)

    def test_tasks_that_always_die_end_the_run(self, nodes):
        def deadly(number: int) -> int:
            os._exit(1)

        with pytest.raises(
            BowerbirdError, match=r"map\(deadly\): every worker that got certain elements died"
        ):
            everything(Plan(RangeSource(3), (Map(deadly, "map(deadly)"),)), Ray(nodes.address, workers=1))
