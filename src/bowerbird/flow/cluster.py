"""The executor on a Ray cluster: Ray Data reads and maps, workers that are kept hold the models.

A plan becomes a pipeline that streams, in order:

::

    parts of the source  --Ray Data: read tasks-->  parcels  --Ray Data: map tasks, or workers-->  parcels  --> here

Steps that see elements one after the other (`limit`, `sort`, `dedupe`, ...) run here, on what arrives; stateless steps
after them are sent out again. Nothing is kept for longer than until the next stage has it, and a consumer that is slow
stops the stages before it.

Files are read where the work is done: every machine has to see them under the same path or address.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from bowerbird.errors import BowerbirdError, MissingExtraError
from bowerbird.flow.cluster_workers import Crew, Parcel, Worker, data_of, defect
from bowerbird.flow.memory import weigh
from bowerbird.flow.plan import Chunk, Clock, Plan, Sequential, Source, Stateless, Step
from bowerbird.flow.report import RunReport
from bowerbird.settings import settings

if TYPE_CHECKING:
    import pyarrow as pa

MODEL_LENGTH = 64
LENGTH = 4096
"""Elements that travel together at the most: for each thread of a worker that holds a model, and otherwise. A parcel
costs up to 20 ms of its own with Ray Data, so it has to be worth some hundred."""

PARCEL_BYTES = 16 << 20
"""Bytes that elements which travel together hold at the most, about; a single one may hold more."""

READS = 200
"""Tasks that read, at the most; parts of a source are joined to make so many."""

READERS = 4
"""Workers for each task that reads at the same time. Reading takes no processor for itself: where the workers have
all of them it would never begin."""

STORE_BYTES = 512 << 20
"""Memory for objects of a cluster that is started here."""

RETRIES = 3
"""Times a task of which the worker died is tried again; Ray Data's own choice is to try for ever."""


class Ray:
    """Runs collections on a Ray cluster. Cheap to make: it connects when something is run.

    Args:
        address: `auto`: the cluster this machine belongs to; `HOST:PORT` or `ray://HOST:PORT`: that one; empty: as
            `auto`, and where there is none one is started on this machine, which ends with the process, or with
            `close()`.
        workers: processes that work at the same time; 0: as many as the cluster has room for.
        cpus_per_worker: processors that each has, and so the threads it uses; a part of one is allowed.
        gpus_per_worker: likewise of graphics processors.
        batch: elements that travel together; 0 has it chosen. More cost less by the element; fewer keep many workers
            busy on few elements.
        runtime_env: what Ray should set up on every machine first, in Ray's own terms: packages, modules, variables.

    Attributes:
        report: what the last run did, filled in while it runs.

    ```python
    photos.embed("mini").on(bb.Ray(workers=4, cpus_per_worker=2)).write("photos.bower")
    ```
    """

    def __init__(
        self,
        address: str = "",
        *,
        workers: int = 0,
        cpus_per_worker: float = 1,
        gpus_per_worker: float = 0,
        batch: int = 0,
        runtime_env: Mapping[str, Any] | None = None,
    ) -> None:
        if workers < 0 or gpus_per_worker < 0 or batch < 0:
            raise BowerbirdError(
                "workers, gpus_per_worker and batch cannot be negative.", hint="Give 0 to have them chosen."
            )
        if not cpus_per_worker > 0:
            raise BowerbirdError("cpus_per_worker has to be more than 0.", hint="Give 1, or a part of one.")
        self.address = address
        self.workers = workers
        self.cpus_per_worker = cpus_per_worker
        self.gpus_per_worker = gpus_per_worker
        self.batch = batch
        self.runtime_env = dict(runtime_env or {})
        self.report = RunReport()

    def __repr__(self) -> str:
        return (
            f"Ray({self.address!r}, workers={self.workers}, cpus_per_worker={self.cpus_per_worker}, "
            f"gpus_per_worker={self.gpus_per_worker})"
        )

    @property
    def threads(self) -> int:
        """Threads that a worker uses."""
        return max(1, int(self.cpus_per_worker))

    def close(self) -> None:
        """End the cluster if it was started by `Ray()` in this process; others are left alone."""
        global _started  # noqa: PLW0603  Ray has one connection for a process
        if _started:
            import ray

            ray.shutdown()
            _started = False

    def stream(self, plan: Plan, report: RunReport) -> Iterator[Chunk]:
        """See `bowerbird.flow.run.Executor`.

        Raises:
            MissingExtraError: Ray is not installed.
            BowerbirdError: there is no such cluster, it has no room for a worker, a step cannot be sent to one, or
                the cluster failed.
        """
        stages = _stages(plan.steps)
        parts = self._parts(plan.source) if stages and isinstance(stages[0], tuple) else None
        flow: Iterator[Chunk] = _in_lists(plan.source)
        for stage in stages:
            if isinstance(stage, Sequential):
                flow = _sequential(stage, flow, report)
            elif parts is not None:
                flow = self._from_parts(parts, stage, report)
            else:
                flow = self._from_here(flow, stage, report)
            parts = None
        return flow

    def explain(self, plan: Plan) -> list[str]:
        """See `bowerbird.flow.run.Executor`. Connects to nothing."""
        stages = _stages(plan.steps)
        there = bool(stages) and isinstance(stages[0], tuple)
        lines = [f"{'Ray Data' if there else 'here':<12}{plan.source.describe()}"]
        for number, stage in enumerate(stages):
            if isinstance(stage, Sequential):
                lines.append(f"{'here':<12}{stage.describe()}")
                continue
            tasks, kept = self._divided(stage) if not number else ((), stage)
            for name, steps in (("Ray Data", tasks), ("workers", kept)):
                if steps:
                    lines.append(f"{name:<12}{' > '.join(step.describe() for step in steps)}")
        each = f"{self.cpus_per_worker:g} CPU"
        each += f" and {self.gpus_per_worker:g} GPU" if self.gpus_per_worker else ""
        count = self.workers or "as many as fit"
        return [*lines, f"{'cluster':<12}{self.address or 'auto'}, workers: {count}, each with {each}"]

    def _divided(self, steps: tuple[Stateless, ...]) -> tuple[tuple[Stateless, ...], tuple[Stateless, ...]]:
        """The first steps that Ray Data carries out as tasks, and those that workers do who are kept.

        Without a model everything is tasks. With one, what stands before it is done by the same worker, since pictures
        would travel as pixels otherwise; unless that worker has a graphics processor, which should wait for nothing.
        """
        first = next((place for place, step in enumerate(steps) if step.actor), len(steps))
        if first == len(steps) or self.gpus_per_worker:
            return steps[:first], steps[first:]
        return (), steps

    def _parts(self, source: Source) -> list[bytes] | None:
        """The parts of a source as the tasks will get them; None: it can be read only here."""
        self._connect()
        from ray import cloudpickle

        parts = list(source.parts())
        together = -(-len(parts) // READS) or 1
        try:
            return [
                cloudpickle.dumps(parts[start : start + together]) for start in range(0, len(parts), together)
            ]
        except Exception:  # noqa: BLE001  a generator, an open connection: anything
            return None

    def _from_parts(
        self, parts: list[bytes], steps: tuple[Stateless, ...], report: RunReport
    ) -> Iterator[Chunk]:
        """Read parts on the cluster and run steps on what is in them."""
        import ray
        from ray.exceptions import RayError

        tasks, kept = self._divided(steps)
        label = _label(steps)
        options = self._options()
        workers = self._workers(report)
        given = crew = None
        try:
            if kept:
                crew = Crew(ray.put(_pickled(kept)), _label(kept), workers, self.threads, options, report)
            dataset = _dataset(parts, self._length(bool(kept)), workers)
            if tasks:
                dataset = _mapped(
                    dataset,
                    partial(_worked, ray.put(_pickled(tasks)), self.threads),
                    num_cpus=1 if kept else self.cpus_per_worker,
                    compute=ray.data.TaskPoolStrategy(size=None if kept else workers),
                    runtime_env=options.get("runtime_env"),
                )
            given = dataset.iter_internal_ref_bundles()
            references = (entry.ref for bundle in given for entry in bundle.blocks)
            if crew:
                yield from _opened(crew.results(references), report)
            else:
                yield from _opened((Parcel.unpacked(data_of(ray.get(one))) for one in references), report)
        except RayError as error:
            raise _failed(label, error) from None
        finally:
            if crew:
                crew.dismiss()
            if given is not None and hasattr(given, "close"):
                given.close()

    def _from_here(
        self, flow: Iterator[Chunk], steps: tuple[Stateless, ...], report: RunReport
    ) -> Iterator[Chunk]:
        """Run steps on the cluster on what arrives here."""
        self._connect()
        import ray
        from ray.exceptions import RayError

        workers = self._workers(report)
        label = _label(steps)
        length = self._length(any(step.actor for step in steps))
        try:
            crew = Crew(ray.put(_pickled(steps)), label, workers, self.threads, self._options(), report)
            given = _parcels(chain.from_iterable(flow), length, workers)
            yield from _opened(crew.results(parcel.packed(steps[0].label) for parcel in given), report)
        except RayError as error:
            raise _failed(label, error) from None

    def _length(self, model: bool) -> int:
        return self.batch or (MODEL_LENGTH * self.threads if model else LENGTH)

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"num_cpus": self.cpus_per_worker}
        if self.gpus_per_worker:
            options["num_gpus"] = self.gpus_per_worker
        if self.runtime_env and not _ours:
            options["runtime_env"] = self.runtime_env
        return options

    def _workers(self, report: RunReport) -> int:
        """How many workers to start."""
        import ray

        room = 0
        for node in ray.nodes():
            if node["Alive"]:
                has = node["Resources"]
                fits = has.get("CPU", 0) / self.cpus_per_worker
                if self.gpus_per_worker:
                    fits = min(fits, has.get("GPU", 0) / self.gpus_per_worker)
                room += int(fits)
        if not self.workers and not room:
            need = f"{self.cpus_per_worker:g} CPU and {self.gpus_per_worker:g} GPU"
            raise BowerbirdError(
                f"No machine of the cluster has {need} for a worker.",
                hint="Lower cpus_per_worker and gpus_per_worker, or say how many workers a growing cluster shall get.",
            )
        if self.workers > room:
            report.notes.append(f"the cluster has room for {room} of {self.workers} workers")
        return self.workers or room

    def _connect(self) -> None:
        global _started, _ours  # noqa: PLW0603
        # Read when Ray is imported.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise MissingExtraError("ray[data]", "ray") from error
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
        if ray.is_initialized():
            return
        quiet: dict[str, Any] = {
            "log_to_driver": False,
            "configure_logging": False,
            "logging_level": "error",
            "runtime_env": self.runtime_env or None,
        }
        try:
            ray.init(self.address or "auto", **quiet)
        except ConnectionError as error:
            if self.address:
                raise BowerbirdError(
                    f"There is no Ray cluster at {self.address!r}.",
                    hint="Start one with `ray start --head`, or leave out the address to have one on this machine.",
                ) from error
            ray.init(
                "local",
                num_cpus=settings().worker_threads,
                include_dashboard=False,
                object_store_memory=STORE_BYTES,
                **quiet,
            )
            _started = True
        _ours = True


_started = False
"""Whether the cluster was started here."""
_ours = False
"""Whether the connection was made here, and so with our runtime_env."""


def _stages(steps: tuple[Step, ...]) -> list[tuple[Stateless, ...] | Sequential]:
    stages: list[tuple[Stateless, ...] | Sequential] = []
    for step in steps:
        last = stages[-1] if stages else None
        if isinstance(step, Sequential):
            stages.append(step)
        elif isinstance(step, Stateless):
            if isinstance(last, tuple):
                stages[-1] = (*last, step)
            else:
                stages.append((step,))
    return stages


def _label(steps: Sequence[Step]) -> str:
    return " > ".join(step.label for step in steps)


def _in_lists(source: Iterable[Any]) -> Iterator[Chunk]:
    # One by one: a step that wants only the first few lets nothing more be read.
    for item in source:
        yield [item]


def _sequential(step: Sequential, flow: Iterator[Chunk], report: RunReport) -> Iterator[Chunk]:
    clock = Clock()
    try:
        yield from step.stream(flow, clock)
    finally:
        report.time(clock)


def _parcels(items: Iterable[Any], length: int, workers: int, *, first: bool = True) -> Iterator[Parcel]:
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


def _opened(parcels: Iterator[Parcel], report: RunReport) -> Iterator[Chunk]:
    for parcel in parcels:
        report.time(parcel.clock)
        report.notes.extend(note for note in parcel.notes if note not in report.notes)
        yield parcel.items
        if parcel.error:
            raise parcel.error


def _one_by_one() -> dict[str, Any]:
    """How Ray Data shall hand over blocks: as they are, as Arrow tables."""
    return {"batch_size": None, "batch_format": "pyarrow"}


def _dataset(parts: list[bytes], length: int, workers: int) -> Any:
    """Parcels of what is in the parts, one in each block."""
    import ray
    from ray.data import DataContext, TaskPoolStrategy

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
            compute=TaskPoolStrategy(size=max(1, -(-workers // READERS))),
        )


def _mapped(dataset: Any, function: Any, **options: Any) -> Any:
    """The dataset with a stage of tasks more."""
    import inspect

    limited = "ray_remote_args" in inspect.signature(dataset.map_batches).parameters
    with warnings.catch_warnings():
        # Only so can it be said how often a task is tried, and from Ray 2.64 on not at all.
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
        return dataset.map_batches(
            function, **_one_by_one(), **options, **({"max_retries": RETRIES} if limited else {})
        )


def _read(length: int, workers: int, table: pa.Table) -> Iterator[pa.Table]:
    """What a task of Ray Data does: read the parts in a row."""
    from ray import cloudpickle

    for row in table.to_pylist():
        items = chain.from_iterable(cloudpickle.loads(row["parts"]))
        for parcel in _parcels(items, length, workers, first=row["number"] == 0):
            yield _table(parcel.packed("read"))


def _table(data: bytes) -> pa.Table:
    import pyarrow as pa

    return pa.table({"parcel": pa.array([data], pa.large_binary())})


def _worked(steps: Any, threads: int, table: pa.Table) -> pa.Table:
    """What a task of Ray Data does: run steps on a parcel."""
    return _table(_kept(steps, threads).work(table))


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


def _pickled(steps: tuple[Stateless, ...]) -> bytes:
    """The steps as bytes.

    Raises:
        BowerbirdError: one cannot be sent; says which, and what in it.
    """
    from ray import cloudpickle

    try:
        return bytes(cloudpickle.dumps(steps))
    except Exception as failure:  # pickling runs code of the objects
        for step in steps:
            try:
                cloudpickle.dumps(step)
            except Exception as error:  # noqa: BLE001
                raise BowerbirdError(
                    f"{step.label} cannot be sent to the cluster: {_culprit(step)}"
                    f"{type(error).__name__}: {' '.join(str(error).split())[:300].rstrip('.')}.",
                    hint="Make such things inside the function, or in a class given to map_batches: each worker "
                    "makes its own.",
                ) from None
        raise BowerbirdError(f"{_label(steps)} cannot be sent to the cluster: {failure}.") from failure


def _culprit(step: Stateless) -> str:
    """Names the variable that cannot be pickled, where Ray can tell; otherwise empty."""
    import io

    from ray.util import inspect_serializability

    function = getattr(step, "function", step)
    _, found = inspect_serializability(function, name=step.label, print_file=io.StringIO())
    names = sorted({str(one.name) for one in found if one.obj is not function})
    return f"it refers to {', '.join(names)}. " if names else ""


def _failed(label: str, error: Any) -> BowerbirdError:
    """What is raised when the cluster itself failed, or a task of Ray Data."""
    from ray.exceptions import RayTaskError, WorkerCrashedError

    cause = error
    while isinstance(cause, RayTaskError) and isinstance(cause.cause, Exception):
        cause = cause.cause
    if isinstance(cause, BowerbirdError):
        return cause
    if isinstance(cause, WorkerCrashedError):
        return BowerbirdError(
            f"{label}: every worker that got certain elements died, {1 + RETRIES} times.",
            hint="Look for a crash in a native library, or for too little memory.",
        )
    return defect(label, cause)
