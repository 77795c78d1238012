"""`Table` on Lance: one dataset, in a directory or in an object store. The only module that imports lance."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import IndexDamagedError, SpaceMismatchError
from bowerbird.flow.remote import is_remote
from bowerbird.store.filters import Filter, IsNull, Not, among
from bowerbird.store.lance_errors import translated
from bowerbird.store.lance_filters import to_sql
from bowerbird.store.lance_indexes import build_index, extend_indexes, outgrown
from bowerbird.store.lance_memory import Question
from bowerbird.store.lance_rows import KeptRows
from bowerbird.store.lance_search import VectorSearch
from bowerbird.store.lance_words import WordSearch, index_words
from bowerbird.store.location import Location
from bowerbird.store.table import SCORE, Table, VectorColumn, schema

if TYPE_CHECKING:
    import pyarrow as pa

WIDENING = "widening:"
"""Put before the name of a column while it is given another type."""

FRAGMENTS_BEFORE_COMPACTION = 32

KEEP_VERSIONS = timedelta(hours=1)
"""Versions that were the newest less than this ago stay on disk, so that open readers can finish."""


def lance_library() -> Any:
    """The package, loaded when it is first needed."""
    # Its warnings about the training of an index would land between our lines on a user's terminal.
    os.environ.setdefault("LANCE_LOG", "error")
    # What an index is asked about itself is how many partitions it has, not where each lies.
    os.environ.setdefault("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")
    import lance

    return lance


def storage_options(place: str | Path) -> dict[str, str] | None:
    """What Lance is told about a place; endpoint, region and credentials it takes from `AWS_*` itself."""
    # The user's own endpoint may be an http one; a request to Amazon's is never.
    return {"allow_http": "true"} if is_remote(place) else None


class LanceTable(Table):
    """A Lance dataset at a path, or at an address in an object store."""

    def __init__(self, dataset: Any, place: str | Path) -> None:
        self._dataset = dataset
        self._path = place
        self._vectors = VectorSearch()
        self._texts = WordSearch()
        self._rows_kept = KeptRows()
        self._pieces_since = 0  # the version that the workers of this run began with

    @classmethod
    def create(cls, place: str | Path, columns: pa.Schema) -> LanceTable:
        """Make an empty table.

        Raises:
            StoreError: the place cannot be written to, or is full.
        """
        lance = lance_library()
        with translated(place):
            dataset = lance.write_dataset(
                columns.empty_table(),
                str(place),
                schema=columns,
                mode="create",
                storage_options=storage_options(place),
            )
            return cls(dataset, place)

    @classmethod
    def open(cls, place: str | Path, version: int | None = None) -> LanceTable:
        """Open a table at a version; None opens the newest.

        Raises:
            IndexDamagedError: it is not there, or cannot be read.
            StoreError: the store cannot be reached, or refuses.
        """
        lance = lance_library()
        with translated(place):
            return cls(
                lance.dataset(str(place), version=version, storage_options=storage_options(place)), place
            )

    @classmethod
    def leftover(cls, place: str | Path) -> int | None:
        """How many records lie at a place where no manifest says so; None: some, but they cannot be read.

        Raises:
            StoreError: the place may not be looked into, or cannot be reached.
        """
        location = Location.of(place)
        if not location.names():
            return 0
        try:
            return cls.open(place).count()
        except IndexDamagedError:
            return None if Location.of(location.child("data")).names() else 0

    @property
    def version(self) -> int:
        """See `Table`."""
        return int(self._dataset.version)

    @property
    def fields(self) -> pa.Schema:
        """See `Table`."""
        return self._dataset.schema

    def extend(self, fields: Sequence[pa.Field], wider: Sequence[pa.Field] = ()) -> None:
        """See `Table`."""
        import pyarrow as pa

        with translated(self._path):
            self._finish_widening()
            have = set(self.names)
            lacking = [field for field in schema(()) if field.name not in have]
            if new := [*lacking, *fields]:
                self._dataset.add_columns(pa.schema(new))
            for field in wider:
                # Lance does not change the type of a column in its place, nor all of this in one commit.
                self._dataset.add_columns({WIDENING + field.name: f"CAST(`{field.name}` AS DOUBLE)"})
                self._dataset.drop_columns([field.name])
                self._finish_widening()
            self._dataset.checkout_latest()

    def _finish_widening(self) -> None:
        """Give a widened column its name; one that a killed writer left half made is made again when it is needed."""
        for name in self.names:
            if name.startswith(WIDENING):
                wanted = name.removeprefix(WIDENING)
                if wanted in self.names:
                    self._dataset.drop_columns([name])
                else:
                    self._dataset.alter_columns({"path": name, "name": wanted})

    def refresh(self) -> None:
        """See `Table`."""
        with translated(self._path):
            self._dataset.checkout_latest()

    def take_over(self, before: Table) -> None:
        """See `Table`."""
        if isinstance(before, LanceTable) and str(before._path) == str(self._path):
            self._vectors.take_over(before._vectors)
            self._rows_kept.take_over(before._rows_kept)

    def drop(self, names: Sequence[str]) -> None:
        """See `Table`."""
        if there := [name for name in names if name in self.names]:
            with translated(self._path):
                self._dataset.drop_columns(there)
                self._dataset.checkout_latest()

    def count(self, where: Filter | None = None) -> int:
        """See `Table`."""
        with self._filtered(where) as sql:
            return int(self._dataset.count_rows(filter=sql or None))

    @contextmanager
    def _filtered(self, where: Filter | None) -> Iterator[str]:
        """The filter as Lance reads it, empty for none; what goes wrong becomes ours."""
        sql = "" if where is None else to_sql(where, self.fields)
        with translated(self._path, sql):
            yield sql

    def upsert(self, rows: pa.Table, *, remove: Sequence[str] = ()) -> None:
        """See `Table`."""
        with translated(self._path):
            merge = self._dataset.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            if remove:
                merge = merge.when_not_matched_by_source_delete(to_sql(among("id", remove), self.fields))
            merge.execute(_last_of_each(rows))
            self._dataset.checkout_latest()

    def insert(self, rows: pa.Table) -> None:
        """See `Table`: nothing of what is there is read for it."""
        with translated(self._path):
            self._dataset.insert(rows.select([name for name in self.names if name in rows.column_names]))
            self._dataset.checkout_latest()

    def update(self, rows: pa.Table) -> None:
        """See `Table`."""
        if rows.num_columns < 2 or not rows.num_rows:
            return
        with translated(self._path):
            self._dataset.merge_insert("id").when_matched_update_all().execute(_last_of_each(rows))
            self._dataset.checkout_latest()

    def piece_writer(self) -> Callable[[pa.Table], bytes]:
        """See `Table`."""
        self._pieces_since = self.version
        return partial(_write_piece, str(self._path), self._dataset.schema)

    def append(self, pieces: Sequence[bytes]) -> None:
        """See `Table`."""
        from bowerbird.store.lance_pieces import commit_pieces

        with translated(self._path):
            commit_pieces(str(self._path), pieces, self._pieces_since, storage_options(self._path))
            self._dataset.checkout_latest()

    def delete(self, ids: Sequence[str]) -> int:
        """See `Table`."""
        before = self.count()
        with translated(self._path):
            if ids:
                self._dataset.delete(to_sql(among("id", ids), self.fields))
        return before - self.count()

    def scan(self, columns: Sequence[str], where: Filter | None = None) -> Iterator[pa.RecordBatch]:
        """See `Table`."""
        with self._filtered(where) as sql:
            yield from self._dataset.scanner(
                columns=list(columns), filter=sql or None, scan_in_order=True
            ).to_batches()

    def sample(
        self, columns: Sequence[str], k: int, *, seed: int = 0, where: Filter | None = None
    ) -> pa.Table:
        """See `Table`. With a filter, the ids of all rows that pass are read first."""
        drawn = np.random.default_rng(seed)
        with self._filtered(where) as sql:
            if not sql:
                rows = self.count()
                places = np.sort(drawn.choice(rows, min(k, rows), replace=False))
                return self._dataset.take(places.tolist(), columns=list(columns))
            ids = self._dataset.scanner(
                columns=[], filter=sql, with_row_id=True, scan_in_order=True
            ).to_table()
            chosen = np.sort(drawn.choice(ids.num_rows, min(k, ids.num_rows), replace=False))
            return self._rows(ids["_rowid"].to_numpy()[chosen], columns)

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
        """See `Table`. Exact up to `EXACT_BYTES` of vectors, through the vector index above."""
        with self._filtered(where) as sql:
            width = self._dataset.schema.field(column).type.list_size
            for given in (vector,) if centre is None else (vector, centre):
                if len(given) != width:
                    raise SpaceMismatchError(
                        f"The query has {len(given)} dimensions and {column} has {width}."
                    )
            question = Question(column, vector, k, sql, centre)
            ids, scores = self._vectors.nearest(self._dataset, question, exact=exact)
            return _with_scores(self._rows(ids, columns), scores)

    def words(self, text: str, k: int, *, columns: Sequence[str], where: Filter | None = None) -> pa.Table:
        """See `Table`."""
        with self._filtered(where) as sql:
            some = self._vectors.passing(self._dataset, sql) if sql else None
            ids, scores = self._texts.find(self._dataset, text, k, some)
            return _with_scores(self._rows(ids, columns), scores)

    def _rows(self, ids: NDArray[np.uint64], columns: Sequence[str]) -> pa.Table:
        return self._rows_kept.take(self._dataset, ids, columns)

    @property
    def scattered(self) -> bool:
        """See `Table`."""
        return len(self._dataset.get_fragments()) > FRAGMENTS_BEFORE_COMPACTION

    def optimize(self, vectors: Sequence[VectorColumn]) -> None:
        """See `Table`."""
        with translated(self._path):
            if self.scattered:
                self._dataset.optimize.compact_files()
            for column in vectors:
                # Of records that have such a vector: an index of texts has none of pictures.
                rows = self.count(Not(IsNull(column.norm)))
                if outgrown(self._dataset, column, rows):
                    self._dataset = build_index(self._dataset, column, rows)
            index_words(self._dataset)
            extend_indexes(self._dataset)
            self._dataset.checkout_latest()
            self._forget_old_versions()

    def _forget_old_versions(self) -> None:
        """What nobody reads any more: versions that have had a successor for long enough, however old they are."""
        before = datetime.now() - KEEP_VERSIONS
        versions = [one["version"] for one in self._dataset.versions() if one["timestamp"] < before]
        if versions[:-1]:  # The last of them was the newest at that time.
            self._dataset.cleanup_old_versions(versions=versions[:-1])


def _write_piece(place: str, columns: pa.Schema, rows: pa.Table) -> bytes:
    """Runs on a worker, with the credentials that it has there."""
    from bowerbird.store.lance_pieces import write_piece

    return write_piece(place, columns, rows.select(columns.names), storage_options(place))


def _with_scores(rows: pa.Table, scores: NDArray[Any]) -> pa.Table:
    import pyarrow as pa

    return rows.append_column(SCORE, pa.array(scores.astype(np.float32)))


def _last_of_each(rows: pa.Table) -> pa.Table:
    """Rows with one for each id, the last given: Lance would insert a new id as often as it is given."""
    last = {id_: row for row, id_ in enumerate(rows["id"].to_pylist())}
    return rows if len(last) == rows.num_rows else rows.take(list(last.values()))
