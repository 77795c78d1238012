"""An empty index is made: the table first, then the manifest, which says that it is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bowerbird.errors import IndexDamagedError, StoreError
from bowerbird.search.entries import entry_of
from bowerbird.settings import settings
from bowerbird.store import manifest as manifests
from bowerbird.store.location import LOCK, Location
from bowerbird.store.manifest import Manifest, ModelEntry
from bowerbird.store.opening import TABLE, create_table, leftover, remove_table
from bowerbird.store.table import schema

if TYPE_CHECKING:
    from bowerbird.models.encoder import Encoder

ERRORS = "errors.jsonl"
"""What the last run could not index, beside the manifest."""


def make(location: Location, encoders: Sequence[Encoder]) -> None:
    """Make an empty index for some models. One that another process makes at the same time is left as it is.

    Raises:
        StoreError: something is there already, or the place cannot be written to.
    """
    if manifests.exists(location):
        raise StoreError(
            f"There is an index at {location} already.",
            hint="Open it with Index.open, or delete the directory.",
        )
    location.prepare()
    strangers = [name for name in location.names() if not _is_ours(name)]
    if strangers:
        raise StoreError(f"{location} is not empty: it holds {strangers[0]!r}.", hint="Give a new directory.")
    with location.lock(settings().lock_seconds):
        if not manifests.exists(location):
            _clear_unfinished(location)
            _initialise(location, encoders)


def _is_ours(name: str) -> bool:
    """Whether a name is one of an index: that may be all a killed `create`, or one still running, has made."""
    begun = name.startswith((f".{manifests.NAME}.", manifests.CALIBRATIONS))
    return begun or name in (LOCK, TABLE, ERRORS, manifests.NAME)


def _clear_unfinished(location: Location) -> None:
    """Remove the empty table that a killed `create` leaves behind; one that holds records is never removed."""
    rows = leftover(location)
    if rows != 0:
        raise IndexDamagedError(
            f"{location} holds {'records' if rows is None else f'{rows:,} records'}, but no {manifests.NAME}.",
            hint=f"Put {manifests.NAME} back, or delete the directory to start anew.",
        )
    remove_table(location)


def _initialise(location: Location, encoders: Sequence[Encoder]) -> None:
    entries: list[ModelEntry] = []
    for encoder in encoders:
        taken = [column for entry in entries for column in entry.columns]
        entries.append(entry_of(encoder, taken))
    columns = [column for entry in entries for column in entry.columns]
    table = create_table(location, schema(columns))
    now = manifests.now()
    manifests.write(
        location,
        Manifest(now, now, version(), table.version, records=0, failed=0, roots=(), models=tuple(entries)),
    )


def version() -> str:
    """Of bowerbird, as manifests name it."""
    from bowerbird import __version__

    return __version__
