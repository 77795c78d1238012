"""`Table` on Pinecone, through its official client: searching, reading, and what is written.

See `pinecone_rows` for how rows are kept, and `pinecone_commits` for how several records change at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import IndexDamagedError, IndexReadOnlyError, SpaceMismatchError, StoreError
from bowerbird.store.bm25 import Bm25
from bowerbird.store.filters import Filter, In
from bowerbird.store.pinecone_commits import KEYS, Commits, alive, among, read_state, remove_all
from bowerbird.store.pinecone_filters import Condition, compiled, every
from bowerbird.store.pinecone_place import PineconePlace
from bowerbird.store.pinecone_reading import Reading
from bowerbird.store.pinecone_rows import PLACES, Column, State, key_of, stored
from bowerbird.store.pinecone_space import MOST_RESULTS
from bowerbird.store.table import Table, VectorColumn, schema

if TYPE_CHECKING:
    import pyarrow as pa

CANDIDATES = 1_000
"""Rows that are asked for at least: what is found for fewer is the beginning of what is found for more."""

_BLOCK = 1_000
"""Rows that a scan reads at once, about."""

_COUNTED = 50_000
"""Rows that are counted at once, about: half of what Pinecone counts."""


class PineconeTable(Table):
    """A table at a place in Pinecone. Readers see what was committed last.

    Args:
        place: where.
        state: that was read there.
    """

    snapshots = False
    pieces = False

    def __init__(self, place: PineconePlace, state: State) -> None:
        self._place = place
        self._commits = Commits(place, state)
        self._reading = Reading(place, self._commits)
        self._texts: tuple[int, list[str], Bm25] | None = None

    @classmethod
    def create(cls, place: PineconePlace, columns: pa.Schema) -> PineconeTable:
        """Make an empty table.

        Raises:
            StoreError: there is one, or the place cannot be written to.
        """
        place.prepare()
        if read_state(place) is not None:
            raise StoreError(f"There is a table at {place} already.", hint="Give another name.")
        table = cls(place, State())
        table._commits.commit(State().with_fields(columns))
        return table

    @classmethod
    def open(cls, place: PineconePlace, version: int | None = None) -> PineconeTable:
        """Open a table. It keeps no versions: whichever is asked for, the newest is read.

        Raises:
            IndexDamagedError: it is not there, or cannot be read.
            StoreError: Pinecone cannot be reached, or refuses.
        """
        state = read_state(place)
        if state is None:
            raise IndexDamagedError(
                f"The index at {place} cannot be read: its table is missing.",
                hint="Remove it and index anew.",
            )
        return cls(place, state)

    @classmethod
    def leftover(cls, place: PineconePlace) -> int | None:
        """How many records lie at a place where no manifest says so; None: some, but they cannot be read."""
        try:
            state = read_state(place)
        except IndexDamagedError:
            return None
        return state.rows if state else 0

    @classmethod
    def remove(cls, place: PineconePlace) -> None:
        """Remove a table with all that is in it, whether it is there or not; the Pinecone indexes stay, empty."""
        remove_all(place)

    @property
    def version(self) -> int:
        """See `Table`."""
        return self._commits.state.version

    @property
    def fields(self) -> pa.Schema:
        """See `Table`."""
        return self._commits.state.fields

    def refresh(self) -> None:
        """See `Table`."""
        self._commits.now()

    # Writing.

    def extend(self, fields: Sequence[pa.Field], wider: Sequence[pa.Field] = ()) -> None:
        """See `Table`."""
        state = self._commits.now()
        have = {column.name for column in state.columns}
        taken = [field.name for field in fields if field.name in have]
        if taken:
            raise StoreError(f"The index at {self._place} has a column {taken[0]!r} already.")
        new = [*(field for field in schema(()) if field.name not in have), *fields]
        types = {field.name: field.type for field in wider}
        columns = tuple(
            replace(column, field=column.field.with_type(types.get(column.name, column.field.type)))
            for column in state.columns
        )
        if not new and columns == state.columns:
            return
        self._commits.begin()
        found = replace(state, columns=columns).with_fields(new)
        self._commits.commit(found)

    def drop(self, names: Sequence[str]) -> None:
        """See `Table`. What rows hold of a column without vectors goes when they are written again."""
        state = self._commits.now()
        kept = tuple(column for column in state.columns if column.name not in set(names))
        gone = [column for column in state.columns if column not in kept]
        if gone:
            self._commits.begin()
            self._commits.commit(replace(state, columns=kept))
        for column in gone:
            if column.dimensions:
                self._commits.space(column).drop()

    def upsert(self, rows: pa.Table, *, remove: Sequence[str] = ()) -> None:
        """See `Table`."""
        commits = self._commits
        state = commits.begin()
        ids = rows["id"].to_pylist()
        last = {id_: at for at, id_ in enumerate(ids)}
        if len(last) != len(ids):
            rows = rows.take(list(last.values()))
        found = stored(rows, state, state.version + 1, self._place)
        keys = sorted({key_of(id_) for id_ in (*last, *remove)})
        ended = commits.living(keys)
        if not last and not ended:
            return
        commits.clean = False
        for column in state.vectors:
            commits.space(column).upsert(found.vectors[column.number])
        commits.pieces.upsert(found.pieces)
        commits.records.upsert(found.rows)
        if ended:
            commits.end(keys)
        self._commits.commit(
            replace(
                state,
                rows=state.rows + len(last) - ended,
                unlisted=state.unlisted | found.unlisted,
            )
        )

    def update(self, rows: pa.Table) -> None:
        """See `Table`. Rows are read whole and written again."""
        import pyarrow as pa

        ids = {id_: at for at, id_ in enumerate(rows["id"].to_pylist())}
        state = self._commits.now()
        given = [name for name in rows.column_names if name != "id"]
        state.chosen(given, self._place)
        whole = []
        for batch in self.scan(state.fields.names, In("id", tuple(ids))):
            have = pa.Table.from_batches([batch])
            new = rows.take([ids[id_] for id_ in have["id"].to_pylist()])
            for name in given:
                place = have.schema.get_field_index(name)
                field = have.schema.field(place)
                have = have.set_column(place, field, new[name].cast(field.type))
            whole.append(have)
        if whole:
            self.upsert(pa.concat_tables(whole))

    def delete(self, ids: Sequence[str]) -> int:
        """See `Table`."""
        before = self._commits.now().rows
        if ids:
            self.upsert(self.fields.empty_table(), remove=ids)
        return before - self._commits.state.rows

    def piece_writer(self) -> Callable[[pa.Table], bytes]:
        """Never asked for: `pieces` is false."""
        raise StoreError(f"Workers cannot write to {self._place} by themselves.")

    def append(self, pieces: Sequence[bytes]) -> None:
        """Never asked for: `pieces` is false."""
        raise StoreError(f"Workers cannot write to {self._place} by themselves.")

    def optimize(self, vectors: Sequence[VectorColumn]) -> None:
        """See `Table`. The service tends its indexes itself; rows that ended are cleared away."""
        self._commits.clean = False
        self._commits.begin()

    # Reading.

    def count(self, where: Filter | None = None) -> int:
        """See `Table`. With a filter, by asking what an update would reach, without making it."""
        state = self._commits.now()
        if where is None:
            return state.rows
        parts = 1 + state.rows // _COUNTED
        several = [_part(compiled(where, state), state, part, parts) for part in range(parts)]
        try:
            return sum(self._commits.records.matches(part) for part in several if part)
        except IndexReadOnlyError:  # a key that may only read has to read
            return sum(len(block) for block in self._blocks(state, where))

    def scan(self, columns: Sequence[str], where: Filter | None = None) -> Iterator[pa.RecordBatch]:
        """See `Table`."""
        state = self._commits.now()
        wanted = state.chosen(columns, self._place)
        for block in self._blocks(state, where):
            yield from self._reading.table(block, wanted).to_batches()

    def _blocks(self, state: State, where: Filter | None) -> Iterator[dict[str, Mapping[str, Any]]]:
        """Metadata of the rows that pass, by their ids, some at a time, in the order of the ids."""
        if isinstance(where, In) and where.column == "id":
            # Many ids in one filter would read all rows for each of them.
            keys = sorted({key_of(str(value)) for value in where.values})
            for start in range(0, len(keys), KEYS):
                some = self._commits.records.matching(among(keys[start : start + KEYS], state))
                if some:
                    yield dict(some)
            return
        condition = compiled(where, state)
        parts = max(1, -(-state.rows // _BLOCK))
        for part in range(parts):
            asked = _part(condition, state, part, parts)
            found = dict(self._commits.records.matching(asked)) if asked else {}
            if found:
                yield found

    def sample(
        self, columns: Sequence[str], k: int, *, seed: int = 0, where: Filter | None = None
    ) -> pa.Table:
        """See `Table`. Places are hashes, so neighbours have nothing in common: it takes those after a random one."""
        state = self._commits.now()
        wanted = state.chosen(columns, self._place)
        condition = compiled(where, state)
        at = int(np.random.default_rng([seed, state.version]).integers(PLACES))
        end, width = at + PLACES, max(1, PLACES * max(k, 1) * 5 // (4 * max(state.rows, 1)))
        found: dict[str, Mapping[str, Any]] = {}
        while at < end and len(found) < k:
            stop = min(at + width, end)
            if at < PLACES < stop:
                stop = PLACES
            lap = PLACES if at >= PLACES else 0
            asked = _between(condition, state, at - lap, stop - lap)
            found |= dict(self._commits.records.matching(asked)) if asked else {}
            at, width = stop, 2 * width
        first = dict(list(found.items())[: max(k, 0)])
        return self._reading.table(first, wanted)

    def nearest(
        self,
        column: str,
        vector: NDArray[np.float32],
        k: int,
        *,
        columns: Sequence[str],
        where: Filter | None = None,
        centre: NDArray[np.float32] | None = None,
        exact: bool = False,
    ) -> pa.Table:
        """See `Table`. The service is approximate, and gives at most 10,000 rows.

        With `centre` or `exact` the 1,000 rows or more that it proposes are compared again, those and no others.
        """
        state = self._commits.now()
        (asked,) = state.chosen([column], self._place)
        wanted = state.chosen(columns, self._place)
        if not asked.dimensions:
            raise StoreError(f"The column {column!r} of the index at {self._place} holds no vectors.")
        for what, given in (("query", vector), ("centre", centre)):
            if given is not None and len(given) != asked.dimensions:
                raise SpaceMismatchError(
                    f"The {what} has {len(given)} dimensions and {column} has {asked.dimensions}."
                )
        condition = every(compiled(where, state), *alive(state))
        if k < 1 or not isinstance(condition, dict):
            return self._reading.scored([], wanted)
        if not np.any(vector):  # Pinecone takes no such vector: all rows are as near
            found = [(id_, 0.0) for id_, _ in self._commits.space(asked).matching(condition)]
            return self._reading.scored(found[:k], wanted)
        found = self._proposed(asked, vector, k, condition, more=exact or centre is not None)
        if exact or centre is not None:
            found = self._reading.compared(asked, [id_ for id_, _ in found], vector, centre)
        return self._reading.scored(sorted(found, key=lambda pair: (-pair[1], pair[0]))[:k], wanted)

    def _proposed(
        self, column: Column, vector: NDArray[np.float32], k: int, condition: Mapping[str, Any], *, more: bool
    ) -> list[tuple[str, float]]:
        """Ids and scores of more rows than are asked for: the same ones for every small `k`."""
        space = self._commits.space(column)
        values = vector.astype(np.float32).astype(np.float64).tolist()
        if k * (4 if more else 2) <= CANDIDATES:
            found = space.nearest(values, CANDIDATES, condition)
            # Of equal scores at the cut the service may have left out any.
            if len(found) < CANDIDATES or found[k - 1][1] > found[-1][1]:
                return found
        return space.nearest(values, MOST_RESULTS, condition)

    def words(self, text: str, k: int, *, columns: Sequence[str], where: Filter | None = None) -> pa.Table:
        """See `Table`. The texts of all rows are read once for each version."""
        state = self._commits.now()
        wanted = state.chosen(columns, self._place)
        if self._texts is None or self._texts[0] != state.version:
            ids: list[str] = []
            texts: list[str | None] = []
            for block in self._blocks(state, None):
                ids += block
                texts += self._reading.table(block, state.chosen(["text"], self._place))["text"].to_pylist()
            self._texts = (state.version, ids, Bm25(texts))
        _, ids, known = self._texts
        scores = known.scores(text)
        passing = None
        if where is not None:
            passing = {id_ for block in self._blocks(state, where) for id_ in block}
        places = np.flatnonzero(scores)
        best = places[np.argsort(-scores[places], kind="stable")]
        found = [(ids[at], float(scores[at])) for at in best if passing is None or ids[at] in passing]
        return self._reading.scored(found[: max(k, 0)], wanted)


def _between(condition: Condition, state: State, start: int, stop: int) -> dict[str, Any]:
    """The rows of a version at some places that pass; empty: none do."""
    found = every(condition, *alive(state), {"place": {"$gte": start}}, {"place": {"$lt": stop}})
    return found if isinstance(found, dict) else {}


def _part(condition: Condition, state: State, part: int, parts: int) -> dict[str, Any]:
    """The rows that pass, of the part of that number of all; empty: none do."""
    return _between(condition, state, part * PLACES // parts, (part + 1) * PLACES // parts)
