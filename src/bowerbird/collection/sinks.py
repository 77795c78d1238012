"""The ends of collections: tables, files and indexes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.errors import BowerbirdError, MissingExtraError
from bowerbird.flow.plan import Plan
from bowerbird.flow.remote import scheme
from bowerbird.flow.run import Executor, carried_out, closed
from bowerbird.flow.sinks.sink import Sink
from bowerbird.flow.sources.addresses import is_remote
from bowerbird.record import Failure
from bowerbird.store.location import DATABASES

if TYPE_CHECKING:
    import pyarrow as pa

    from bowerbird.collection.opening import Place
    from bowerbird.flow.report import RunReport

LOG = logging.getLogger("bowerbird")

FORMATS = {
    "index": ".bower",
    "npy": "",
    "parquet": ".parquet",
    "lance": ".lance",
    "clip-retrieval": "",
}
"""What `write` can write, and the suffix that asks for it."""


@contextmanager
def logged(executor: Executor) -> Iterator[None]:
    """Log what failed, when the run has ended; once for a run, however many records failed."""
    yield
    report = executor.report
    if report.failed:
        first = report.failures[0]
        LOG.warning("%s; the first, %s at %s: %s", report.summary(), first.step, first.id, first.error)


def to_arrow(plan: Plan, executor: Executor) -> pa.Table:
    """An Arrow table of what comes through; see `bowerbird.flow.sinks.arrow` for its columns."""
    from bowerbird.flow.sinks.arrow import to_arrow as table

    with logged(executor), closed(carried_out(plan, executor, pictures=False)) as chunks:
        return table([item for chunk in chunks for item in chunk if item.__class__ is not Failure])


def to_pandas(plan: Plan, executor: Executor) -> Any:
    """A pandas data frame.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    try:
        import pandas  # noqa: F401
    except ImportError:
        raise MissingExtraError("pandas") from None
    return to_arrow(plan, executor).to_pandas()


def to_polars(plan: Plan, executor: Executor) -> Any:
    """A polars data frame.

    Raises:
        MissingExtraError: polars is not installed.
    """
    try:
        import polars
    except ImportError:
        raise MissingExtraError("polars") from None
    return polars.from_arrow(to_arrow(plan, executor))


def write(
    plan: Plan, executor: Executor, target: Place, format: str, *, overwrite: bool = False
) -> RunReport:
    """Run a plan into files or an index; see `Collection.write`."""
    kind = format or ("index" if scheme(target) in DATABASES else _by_suffix(str(target)))
    if kind not in FORMATS:
        raise BowerbirdError(f"There is no format {format!r}.", hint=f"There are {', '.join(FORMATS)}.")
    if kind == "index":
        from bowerbird.search.records import write_index

        return write_index(plan, executor, str(target))
    if str(target).rstrip("/").lower().endswith(".npy"):
        raise BowerbirdError(
            f"{target}: npy writes a folder with an array for each kind of vector.", hint="Name a folder."
        )
    if is_remote(str(target)):
        raise BowerbirdError(
            f"{kind} is written to this machine only, not to {target}.",
            hint="Write it here and copy it, or write an index: it may lie in an object store.",
        )
    into(_sink(kind, target, overwrite=overwrite), plan, executor)
    return executor.report


def into(sink: Sink, plan: Plan, executor: Executor) -> None:
    """Run a plan into a sink. A run that ends in the middle leaves nothing that looks complete."""
    try:
        with closed(carried_out(sink.adapt(plan), executor, pictures=False, keep_failures=True)) as chunks:
            for chunk in chunks:
                sink.write(chunk)
        sink.finish(executor.report)
    except BaseException:
        sink.abort()
        raise


def _by_suffix(target: str) -> str:
    suffix = Path(target.rstrip("/")).suffix.lower()
    if suffix in ("", ".npy"):
        return "npy"
    for kind, known in FORMATS.items():
        if known and suffix == known:
            return kind
    raise BowerbirdError(
        f"What to write cannot be told from {target}.",
        hint=f"Give format=, one of {', '.join(FORMATS)}, or a suffix: .bower, .parquet, .lance.",
    )


def _sink(kind: str, target: Place, *, overwrite: bool) -> Sink:
    if kind == "lance":
        from bowerbird.store.lance_files import LanceSink

        return LanceSink(Path(target), overwrite=overwrite)
    if kind == "npy":
        from bowerbird.flow.sinks.vectors import NpySink

        return NpySink(Path(target), overwrite=overwrite)
    if kind == "parquet":
        from bowerbird.flow.sinks.parquet import ParquetSink

        return ParquetSink(Path(target), overwrite=overwrite)
    from bowerbird.flow.sinks.clip_retrieval import ClipRetrievalSink

    return ClipRetrievalSink(Path(target), overwrite=overwrite)
