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
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import chain
from threading import Thread
from typing import Any

from bowerbird.errors import BowerbirdError, MissingExtraError
from bowerbird.flow.cluster_dataset import RETRIES, dataset, mapped, parcels, worked
from bowerbird.flow.cluster_workers import Crew, Parcel, data_of, defect
from bowerbird.flow.plan import Chunk, Plan, Sequential, Source, Stateless, Step
from bowerbird.flow.report import RunReport
from bowerbird.flow.run import in_order
from bowerbird.settings import settings

MODEL_LENGTH = 64
LENGTH = 4096
"""Elements that travel together at the most: for each thread of a worker that holds a model, and otherwise. A parcel
costs up to 20 ms of its own with Ray Data, so it has to be worth some hundred."""

READS = 200
"""Tasks that read, at the most; parts of a source are joined to make so many."""

STORE_BYTES = 512 << 20
"""Memory for objects of a cluster that is started here."""

LOCAL = "local"
"""Ray's name for a cluster of this machine alone, started for the purpose."""

KNOCK_SECONDS = 10.0
"""How long an address may take to answer."""


class Ray:
    """Runs collections on a Ray cluster. Cheap to make: it connects when something is run.

    Args:
        address: `auto`: the cluster this machine belongs to; `HOST:PORT` or `ray://HOST:PORT`: that one; `local`: one
            that is started on this machine, and ends with the process, or with `close()`; empty: the one that the
            variable RAY_ADDRESS names, else as `auto`, and where there is none as `local`.
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

    def connect(self) -> None:
        """Connect to the cluster, as running something does by itself.

        Raises:
            MissingExtraError: Ray is not installed.
            BowerbirdError: there is no such cluster.
        """
        self._connect()

    def close(self) -> None:
        """End the cluster if it was started by `Ray()` in this process; others are left alone."""
        global _started  # noqa: PLW0603  Ray has one connection for a process
        if _started:
            import ray

            ray.shutdown()
            _started = False

    @property
    def distributed(self) -> bool:
        """See `bowerbird.flow.run.Executor`."""
        return True

    def shared(self, value: Any, *methods: str) -> tuple[Callable[..., Any], ...]:
        """See `bowerbird.flow.run.Executor`: the object goes to an actor."""
        self._connect()
        from bowerbird.flow.cluster_shared import kept

        return kept(value, methods)

    def stream(self, plan: Plan, report: RunReport) -> Iterator[Chunk]:
        """See `bowerbird.flow.run.Executor`.

        Raises:
            MissingExtraError: Ray is not installed.
            BowerbirdError: there is no such cluster, it has no room for a worker, a step cannot be sent to one, or
                the cluster failed.
        """
        self._connect()
        stages = _stages(plan.steps)
        parts = self._parts(plan.source) if stages and isinstance(stages[0], tuple) else None
        kept = self._kept(stages, tasks=parts is not None)
        workers = self._workers(report)
        crew = None
        try:
            if any(kept):
                crew = Crew(
                    _shared(kept),
                    [_label(steps) for steps in kept],
                    workers,
                    self.threads,
                    self._options(),
                    report,
                )
            yield from self._flow(plan.source, parts, stages, kept, crew, workers, report)
        except _ray_error() as error:
            raise _failed(_label(plan.steps), error) from None
        finally:
            if crew:
                crew.dismiss()

    def _flow(
        self,
        source: Source,
        parts: list[bytes] | None,
        stages: list[tuple[Stateless, ...] | Sequential],
        kept: list[tuple[Stateless, ...]],
        crew: Crew | None,
        workers: int,
        report: RunReport,
    ) -> Iterator[Chunk]:
        """The chunks that come out; `kept` has for each stage what the crew does of it."""
        flow = _in_lists(source)
        for number, stage in enumerate(stages):
            if isinstance(stage, Sequential):
                flow = in_order(stage, flow, report)
                continue
            length = self._length(any(step.actor for step in stage))
            if parts is None or number:
                given: Iterator[Any] = (
                    parcel.packed(stage[0].label)
                    for parcel in parcels(chain.from_iterable(flow), length, workers)
                )
            else:
                given = self._read(parts, stage[: len(stage) - len(kept[number])], length, workers)
            if crew and kept[number]:
                flow = _opened(crew.results(number, given), report)
            else:
                flow = _opened(map(_fetched, given), report)
        return flow

    def explain(self, plan: Plan) -> list[str]:
        """See `bowerbird.flow.run.Executor`. Connects to nothing."""
        stages = _stages(plan.steps)
        there = bool(stages) and isinstance(stages[0], tuple)
        lines = [f"{'Ray Data' if there else 'here':<12}{plan.source.describe()}"]
        for stage, kept in zip(stages, self._kept(stages), strict=True):
            if isinstance(stage, Sequential):
                lines.append(f"{'here':<12}{stage.describe()}")
                continue
            for name, steps in (("Ray Data", stage[: len(stage) - len(kept)]), ("workers", kept)):
                if steps:
                    lines.append(f"{name:<12}{' > '.join(step.describe() for step in steps)}")
        each = f"{self.cpus_per_worker:g} CPU"
        each += f" and {self.gpus_per_worker:g} GPU" if self.gpus_per_worker else ""
        count = self.workers or "as many as fit"
        return [*lines, f"{'cluster':<12}{self.address or 'auto'}, workers: {count}, each with {each}"]

    def _kept(
        self, stages: list[tuple[Stateless, ...] | Sequential], *, tasks: bool = True
    ) -> list[tuple[Stateless, ...]]:
        """For each stage the steps that are done by workers who are kept; what stands before them Ray Data does.

        A plan of one stage without a model is all tasks of Ray Data. Otherwise the workers do everything: they have
        all processors, for which tasks would wait in vain, and pictures need not travel as pixels from one process to
        another. With graphics processors it is worth it: there tasks do what stands before the first model.
        """
        kept = [() if isinstance(stage, Sequential) else stage for stage in stages]
        if not tasks or not kept or not kept[0]:
            return kept
        first = next((place for place, step in enumerate(kept[0]) if step.actor), len(kept[0]))
        if self.gpus_per_worker or (first == len(kept[0]) and not any(kept[1:])):
            kept[0] = kept[0][first:]
        return kept

    def _parts(self, source: Source) -> list[bytes] | None:
        """The parts of a source as the tasks will get them; None: it can be read only here."""
        from ray import cloudpickle

        parts = list(source.parts())
        together = -(-len(parts) // READS) or 1
        try:
            return [
                cloudpickle.dumps(parts[start : start + together]) for start in range(0, len(parts), together)
            ]
        except Exception:  # noqa: BLE001  a generator, an open connection: anything
            return None

    def _read(
        self, parts: list[bytes], tasks: tuple[Stateless, ...], length: int, workers: int
    ) -> Iterator[Any]:
        """References of the parcels that Ray Data reads, and carries some steps out on."""
        try:
            # Only now: it takes a second, in which workers start.
            import ray.data
        except ImportError as error:
            raise MissingExtraError("ray[data]", "ray") from error
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        runtime_env = self._options().get("runtime_env")
        pipeline = dataset(parts, length, workers, runtime_env)
        if tasks:
            pipeline = mapped(
                pipeline,
                partial(worked, _shared([tasks]), self.threads),
                num_cpus=1 if self.gpus_per_worker else self.cpus_per_worker,
                compute=ray.data.TaskPoolStrategy(size=None if self.gpus_per_worker else workers),
                runtime_env=runtime_env,
            )
        bundles = pipeline.iter_internal_ref_bundles()
        return _begun(entry.ref for bundle in bundles for entry in bundle.blocks)

    def _length(self, model: bool) -> int:
        return self.batch or (MODEL_LENGTH * self.threads if model else LENGTH)

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"num_cpus": self.cpus_per_worker}
        if self.gpus_per_worker:
            options["num_gpus"] = self.gpus_per_worker
        if self.runtime_env and self.runtime_env != _prepared:
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
        global _started, _prepared  # noqa: PLW0603
        # Read when Ray is imported.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise MissingExtraError("ray[data]", "ray") from error
        logging.getLogger("ray").setLevel(logging.ERROR)
        if ray.is_initialized():
            return
        quiet: dict[str, Any] = {
            "log_to_driver": False,
            "configure_logging": False,
            "logging_level": "error",
            "runtime_env": self.runtime_env or None,
        }
        with warnings.catch_warnings():
            # Ray forks to start programs, which is safe.
            warnings.filterwarnings("ignore", "lance is not fork-safe")
            try:
                found = answering(self.address)
                if found != LOCAL:
                    ray.init(found, **quiet)
            except OSError as error:  # ConnectionError among them
                if self.address:
                    raise BowerbirdError(
                        f"There is no Ray cluster at {self.address!r}.",
                        hint="Start one with `ray start --head`, or leave out the address to have one on this machine.",
                    ) from error
                found = LOCAL
            if found == LOCAL:
                ray.init(
                    LOCAL,
                    num_cpus=settings().worker_threads,
                    include_dashboard=False,
                    object_store_memory=STORE_BYTES,
                    **quiet,
                )
                _started = True
        _prepared = self.runtime_env


def answering(address: str) -> str:
    """The address of a cluster that is there, or `LOCAL`.

    Raises:
        OSError: there is none, or nobody listens: Ray itself would go on trying for many minutes. It also remembers the
            last cluster of this machine when that has been killed.
    """
    from ray._private.services import get_ray_address_from_environment

    # None, other than `auto`, does not take a cluster that merely runs on this machine, such as another program's own.
    # Ray lets the variable win over an address that is asked for.
    found: str | None = (
        get_ray_address_from_environment(address or None, None) if address in ("", "auto") else address
    )
    if found is None:
        raise ConnectionError("no cluster")
    host, _, port = found.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()
    return found


_started = False
"""Whether the cluster was started here."""
_prepared: dict[str, Any] = {}
"""The runtime_env that everything gets, since the connection was made with it."""


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


def _begun(given: Iterator[Any]) -> Iterator[Any]:
    """The same, of which the first is fetched from now on, while the caller does something else."""
    first: Future[Any] = Future()

    def fetch() -> None:
        try:
            first.set_result(next(given, None))
        except BaseException as error:  # noqa: BLE001  raised where it is waited for
            first.set_exception(error)

    def fetched() -> Iterator[Any]:
        if (found := first.result()) is not None:
            yield found
            yield from given

    Thread(target=fetch, name="bowerbird", daemon=True).start()
    return fetched()


def _shared(stages: Sequence[tuple[Stateless, ...]]) -> Any:
    """A reference of the pickled steps of some stages, as a `Worker` takes them."""
    import ray

    return ray.put([_pickled(steps) for steps in stages])


def _fetched(reference: Any) -> Parcel:
    import ray

    return Parcel.unpacked(data_of(ray.get(reference)))


def _ray_error() -> type[Exception]:
    from ray.exceptions import RayError

    error: type[Exception] = RayError
    return error


def _label(steps: Sequence[Step]) -> str:
    return " > ".join(step.label for step in steps)


def _in_lists(source: Iterable[Any]) -> Iterator[Chunk]:
    # One by one: a step that wants only the first few lets nothing more be read.
    for item in source:
        yield [item]


def _opened(parcels: Iterator[Parcel], report: RunReport) -> Iterator[Chunk]:
    for parcel in parcels:
        report.time(parcel.clock)
        report.notes.extend(note for note in parcel.notes if note not in report.notes)
        yield parcel.items
        if parcel.error:
            raise parcel.error


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
    names = sorted({str(one.path[-1]) for one in found if one.path and one.obj is not function})
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
