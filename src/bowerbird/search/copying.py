"""An index copied from one place to another: the same records, vectors and models in another store.

The rows are streamed, so memory stays flat. The manifest is written last: until then nobody finds an index at the
target, and a note there says whose copy it is going to be. A copy that was interrupted goes on from the rows it has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bowerbird.errors import IndexDamagedError, StoreError
from bowerbird.search.background import unused
from bowerbird.settings import settings
from bowerbird.store import manifest as manifests
from bowerbird.store.location import LOCK, Location, Place
from bowerbird.store.manifest import Manifest
from bowerbird.store.opening import TABLE, create_table, leftover, open_table, remove_table
from bowerbird.store.table import Table

if TYPE_CHECKING:
    import pyarrow as pa

    from bowerbird.search.report import Progress

NOTE = "copying.json"
"""Says of an unfinished copy what it is one of."""

BATCH_BYTES = 64 << 20
"""So much is written in one commit."""


def copy_index(source: Place, target: Place, *, progress: Progress | None = None) -> int:
    """Copy an index, between a directory, an object store and a database as you like.

    The model is not loaded. A source that keeps no versions cannot be written to meanwhile.

    Args:
        source: the place of an index.
        target: a place where none is, or the unfinished copy of the same index.
        progress: told of every record.

    Returns:
        how many records the copy has.

    Raises:
        IndexNotFoundError: there is no index at the source.
        IndexBusyError: another process is writing to one of them.
        StoreError: there is something at the target, or one of the stores does not do what it has to.
    """
    given, wanted = Location.of(source), Location.of(target)
    if str(given) == str(wanted):
        raise StoreError(f"{given} cannot be copied to itself.", hint="Give another place.")
    wait = settings().lock_seconds
    manifest, table = _opened(given)
    with ExitStack() as held:
        if not table.snapshots:
            held.enter_context(given.lock(wait))
            manifest, table = _opened(given)
        _free(wanted)
        wanted.prepare()
        lock = held.enter_context(wanted.lock(wait))
        _free(wanted)
        copied = _rows(given, manifest, table, wanted, progress)
        columns = [column for entry in manifest.models for column in entry.columns]
        copied.optimize(columns)
        count = _checked(table, copied, given, wanted)
        _files(given, manifest, wanted)
        lock.check()
        manifests.write(wanted, replace(manifest, table_version=copied.version, records=count))
        wanted.remove(NOTE)
    return count


def _opened(place: Location) -> tuple[Manifest, Table]:
    manifest = manifests.read(place)
    return manifest, open_table(place, manifest.table_version)


def _free(target: Location) -> None:
    """Make sure that there is no index, and nothing that is not ours.

    Raises:
        StoreError: there is.
    """
    if manifests.exists(target):
        raise StoreError(
            f"There is an index at {target} already.", hint="Give another place, or delete it first."
        )
    names = target.names()
    if NOTE not in names and (strangers := [name for name in names if name != LOCK]):
        raise StoreError(
            f"{target} is not empty: it holds {strangers[0]!r}.", hint="Give a place that is empty."
        )


def _rows(
    source: Location, manifest: Manifest, table: Table, target: Location, progress: Progress | None
) -> Table:
    """The table at the target, with all rows of the source."""
    about = {"source": str(source), "created": manifest.created, "version": table.version}
    note = target.read_bytes(NOTE)
    found = about if note is None else _read(note)
    if {**found, "version": table.version} != about:
        raise StoreError(
            f"{target} holds an unfinished copy of something else.",
            hint=f"Finish that one, or delete {target} and start anew.",
        )
    rows = leftover(target)
    if note is None and rows != 0:
        raise StoreError(f"{target} holds records already.", hint="Give a place that is empty.")
    # Of an earlier state of the source, some of the rows may have gone since.
    copied, held = _begun(target, table.fields) if rows and found == about else (None, set[str]())
    if copied is None:
        remove_table(target)
        target.replace(NOTE, json.dumps(about).encode())
        copied = create_table(target, table.fields)
    if progress:
        progress.start(table.count())
        progress.advance(len(held))
    for batch in _batches(table, held):
        copied.upsert(batch)
        if progress:
            progress.advance(batch.num_rows)
    return copied


def _read(note: bytes) -> dict[str, Any]:
    try:
        found = json.loads(note)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _begun(target: Location, fields: pa.Schema) -> tuple[Table | None, set[str]]:
    """What an interrupted copy has left behind, and the ids in it; None where nothing can be made of it."""
    try:
        table = open_table(target)
        if table.fields.names != fields.names:
            return None, set()
        return table, {id_ for batch in table.scan(["id"]) for id_ in batch["id"].to_pylist()}
    except IndexDamagedError:
        return None, set()


def _batches(table: Table, held: set[str]) -> Iterator[pa.Table]:
    """The rows whose ids are not held, in portions of about `BATCH_BYTES`."""
    import pyarrow as pa

    waiting: list[pa.RecordBatch] = []
    size = 0
    for whole in table.scan(table.names):
        batch = whole
        if held:
            batch = whole.filter(pa.array([id_ not in held for id_ in whole["id"].to_pylist()], pa.bool_()))
        waiting.append(batch)
        size += batch.nbytes
        if size >= BATCH_BYTES:
            yield pa.Table.from_batches(waiting)
            waiting, size = [], 0
    if any(batch.num_rows for batch in waiting):
        yield pa.Table.from_batches(waiting)


def _checked(table: Table, copied: Table, source: Location, target: Location) -> int:
    """How many rows both have.

    Raises:
        StoreError: the copy has another number than the source.
    """
    wanted, count = table.count(), copied.count()
    if wanted != count:
        raise StoreError(
            f"{source} has {wanted:,} records, and {count:,} of them arrived at {target}.",
            hint="Delete the copy and start anew; somebody may have written to it.",
        )
    return count


def _files(source: Location, manifest: Manifest, target: Location) -> None:
    """Copy the small files beside the manifest, such as the list of what could not be indexed."""
    names = source.names()
    # Calibrations that earlier manifests named are kept for readers of those, and the copy has none.
    left = {TABLE, manifests.NAME, NOTE, *unused(names, manifest.models)}
    for name in names:
        if name in left or name.startswith("."):
            continue
        data = source.read_bytes(name)
        if data is not None:
            target.replace(name, data)
