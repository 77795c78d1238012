"""How a table in Pinecone gets from one version to the next.

Below the names of `pinecone_place`, the namespace `records` has a record for each version of each row, `v<n>` the
vectors of column `n`, with the same ids and metadata, so that filters are asked where the vectors are, `pieces` what
is too long for one record, and `table` the state. See `pinecone_rows`.

Pinecone cannot change several records at once. So a commit writes the new rows as those of a version to come, which
nobody reads yet, says of the rows they replace that they end with it, waits until reads see all of that, and then
writes the state, one record: this is the commit. What a writer that died has left is of a version that never came; the
next one clears it away, and the rows that ended before the version that it begins with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from bowerbird.errors import IndexDamagedError
from bowerbird.store.pinecone_place import Files, PineconePlace
from bowerbird.store.pinecone_rows import FOREVER, Column, State
from bowerbird.store.pinecone_space import Space

KEYS = 1_000
"""Keys of rows that one filter holds."""

_FILES = "table"
_STATE = "state"


class Commits:
    """The versions of a table.

    Args:
        place: where it lies.
        state: of the version that was read there; version 0 of a table that is being made.

    Attributes:
        state: of the newest version that is known here.
        clean: whether nothing lies about that was not committed; set to False before anything is written.
        records: the namespace of the rows.
        pieces: that of long values.
    """

    def __init__(self, place: PineconePlace, state: State) -> None:
        self.state = state
        self.clean = not state.version
        self.records = place.space("records")
        self.pieces = place.space("pieces")
        self._place = place
        self._files = Files(place, _FILES)
        self._spaces: dict[int, Space] = {}

    def space(self, column: Column) -> Space:
        """The namespace of a column of vectors."""
        if column.number not in self._spaces:
            self._spaces[column.number] = self._place.space(column.space, column.dimensions)
        return self._spaces[column.number]

    def now(self) -> State:
        """What was committed last.

        Raises:
            IndexDamagedError: it is not there any more.
        """
        state = read_state(self._place)
        if state is None:
            raise IndexDamagedError(
                f"The index at {self._place} cannot be read: it is gone.", hint="Index anew."
            )
        # A read may be behind what this very process has written.
        if state.version > self.state.version:
            self.state = state
        return self.state

    def begin(self) -> State:
        """What was committed last, after clearing away what nobody will read."""
        state = self.now()
        if not self.clean:
            # What a writer that died has sent may not be seen yet, and what is not seen is not cleared away.
            _together(Space.barrier, self._all(state))
            for space in self._all(state):
                space.delete(where={"from": {"$gt": state.version}})
                space.delete(where={"to": {"$lte": state.version}})
                unended = {"$and": [{"to": {"$gt": state.version}}, {"to": {"$lt": FOREVER}}]}
                space.mark(unended, {"to": FOREVER})
            _together(Space.barrier, self._all(state))
            self.clean = True
        return state

    def living(self, keys: Sequence[str]) -> int:
        """How many of some rows there are."""
        blocks = (keys[start : start + KEYS] for start in range(0, len(keys), KEYS))
        return sum(self.records.matches(among(block, self.state)) for block in blocks)

    def end(self, keys: Sequence[str]) -> None:
        """Say of rows that they end with the version to come."""
        for space in self._all(self.state):
            for start in range(0, len(keys), KEYS):
                where = among(keys[start : start + KEYS], self.state)
                space.mark(where, {"to": self.state.version + 1})

    def commit(self, state: State) -> None:
        """Make what was written the newest version.

        Args:
            state: of it; its number is still that of the one before.
        """
        self.clean = False
        for dimensions in sorted({column.dimensions for column in state.vectors}):
            self._place.account.make(self._place.index(dimensions), dimensions)
        _together(Space.settle, self._all(state))
        state = replace(state, version=state.version + 1)
        self._files.write(_STATE, state.to_bytes())
        self.state = state
        self.clean = True

    def _all(self, state: State) -> list[Space]:
        return [self.records, self.pieces, *(self.space(column) for column in state.vectors)]


def _together(wait: Callable[[Space], None], spaces: Sequence[Space]) -> None:
    """Wait for several namespaces at once: each takes as long as Pinecone likes."""
    with ThreadPoolExecutor(len(spaces)) as pool:
        list(pool.map(wait, spaces))


def read_state(place: PineconePlace) -> State | None:
    """What a table is now; None where there is none.

    Raises:
        IndexDamagedError: what there is cannot be read.
    """
    written = Files(place, _FILES).read(_STATE)
    return None if written is None else State.from_bytes(written, place)


def remove_all(place: PineconePlace) -> None:
    """Remove a table with all that is in it, whether it is there or not."""
    try:
        state = read_state(place)
    except IndexDamagedError:
        state = None
    if state is None and not place.space("records").there():
        return
    for column in state.vectors if state else ():
        place.space(column.space, column.dimensions).drop()
    for name in ("records", "pieces"):
        place.space(name).drop()
    Files(place, _FILES).remove(_STATE)


def alive(state: State) -> tuple[dict[str, Any], dict[str, Any]]:
    """Conditions for the rows of a version."""
    return {"from": {"$lte": state.version}}, {"to": {"$gt": state.version}}


def among(keys: Sequence[str], state: State) -> dict[str, Any]:
    """The rows of a version that have one of some keys; no more than `KEYS`."""
    return {"$and": [{"key": {"$in": list(keys)}}, *alive(state)]}
