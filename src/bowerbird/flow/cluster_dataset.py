"""What Ray Data does of a plan: it reads the parts of a source, and maps over parcels in tasks."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from bowerbird.errors import BowerbirdError
from bowerbird.flow.cluster_workers import Parcel, Worker
from bowerbird.flow.memory import weigh

if TYPE_CHECKING:
    import pyarrow as pa

PARCEL_BYTES = 16 << 20
"""Bytes that elements which travel together hold at the most, about; a single one may hold more."""

READERS = 4
"""Workers for each task that reads at the same time. Reading takes no processor for itself: where the workers have
all of them it would never begin."""

RETRIES = 3
"""Times a task of which the worker died is tried again; Ray Data's own choice is to try for ever."""


def parcels(items: Iterable[Any], length: int, workers: int, *, first: bool = True) -> Iterator[Parcel]:
    """Elements as parcels. Where they are cut depends on the elements alone, so that a reader whose worker died gives
    the same parcels again.

    The first are shorter, so that all workers have something to do soon, and who wants a few elements gets them soon.
    """
    number = 0
    items = iter(items)
    while True:
        wanted = min(length, max(1, length >> 6) << min(number // workers, 40)) if first else length
        parcel = Parcel()
        held = 0
        try:
            for item in islice(items, wanted):
                parcel.items.append(item)
                held += weigh(item)
                if held > PARCEL_BYTES:
                    break
        except BowerbirdError as error:
            parcel.error = error
        if not parcel.items and not parcel.error:
            return
        yield parcel
        if parcel.error:
            return
        number += 1


def _one_by_one() -> dict[str, Any]:
    """How Ray Data shall hand over blocks: as they are, as Arrow tables."""
    return {"batch_size": None, "batch_format": "pyarrow"}


def dataset(
    parts: list[bytes], length: int, workers: int, runtime_env: Mapping[str, Any] | None = None
) -> Any:
    """Parcels of what is in the parts, one in each block."""
    import ray
    from ray.data import DataContext, TaskPoolStrategy

    # Said in a thread of Ray's when there is little to do, which is nothing to worry about.
    warnings.filterwarnings("ignore", "The maximum number of concurrent tasks for", UserWarning)
    with warnings.catch_warnings():
        # Ray warns of settings of its own when it makes its defaults.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="ray.data.context|<string>")
        context = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Every row is larger than this, so each becomes a block of its own: the same blocks however often a task is
    # repeated, which is what keeps a repeated task from giving elements twice.
    context.target_max_block_size = 1
    with DataContext.current(context):
        rows = [{"number": number, "parts": part} for number, part in enumerate(parts)]
        return ray.data.from_items(rows, override_num_blocks=max(1, len(rows))).map_batches(
            partial(_read, length, workers),
            **_one_by_one(),
            num_cpus=0,
            runtime_env=runtime_env,
            compute=TaskPoolStrategy(size=max(1, min(len(rows), -(-workers // READERS)))),
        )


def mapped(given: Any, function: Any, **options: Any) -> Any:
    """The dataset with a stage of tasks more."""
    limited = "ray_remote_args" in inspect.signature(given.map_batches).parameters
    with warnings.catch_warnings():
        # Only so can it be said how often a task is tried, and from Ray 2.64 on not at all.
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
        return given.map_batches(
            function, **_one_by_one(), **options, **({"max_retries": RETRIES} if limited else {})
        )


def _read(length: int, workers: int, table: pa.Table) -> Iterator[pa.Table]:
    """What a task of Ray Data does: read the parts in a row."""
    from ray import cloudpickle

    for row in table.to_pylist():
        items = chain.from_iterable(cloudpickle.loads(row["parts"]))
        for parcel in parcels(items, length, workers, first=row["number"] == 0):
            yield _table(parcel.packed("read"))


def _table(data: bytes) -> pa.Table:
    import pyarrow as pa

    return pa.table({"parcel": pa.array([data], pa.large_binary())})


def worked(steps: Any, threads: int, table: pa.Table) -> pa.Table:
    """What a task of Ray Data does: run steps on a parcel."""
    return _table(_kept(steps, threads).work(0, table))


def _kept(steps: Any, threads: int) -> Worker:
    """The steps in this process, made once for many tasks."""
    import ray

    name = steps.hex()
    if name not in _WORKERS:
        while len(_WORKERS) > 1:
            _WORKERS.pop(next(iter(_WORKERS)))
        _WORKERS[name] = Worker(ray.get(steps), threads)
    return _WORKERS[name]


_WORKERS: dict[str, Worker] = {}
