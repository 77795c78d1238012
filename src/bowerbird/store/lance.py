"""`Table` on Lance: one dataset, in a directory or in an object store. The only module that imports lance."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import (
    BowerbirdError,
    IndexDamagedError,
    IndexReadOnlyError,
    QueryError,
    SpaceMismatchError,
    StoreError,
)
from bowerbird.flow.remote import is_remote
from bowerbird.store.location import Location, refusal
from bowerbird.store.table import SCORE, VECTOR_MARK, Table, VectorColumn, among, schema

if TYPE_CHECKING:
    import pyarrow as pa

EXACT_BYTES = 150_000_000
"""Up to this, the vectors of a column are searched exactly in memory: there one matrix product is as fast as an
index (6.7 against 7.7 ms at 100,000 x 384; benchmarks/LOG.md). It is 97,000 rows of 384 dimensions."""

PROBES = 20
REFINE = 5
"""Partitions read, and candidates scored exactly for each result: recall@10 of 1.000 on 100,000 and 1,000,000 rows
(benchmarks/LOG.md)."""

WIDENING = "widening:"
"""Put before the name of a column while it is given another type."""

FRAGMENTS_BEFORE_COMPACTION = 32

KEEP_VERSIONS = timedelta(hours=1)
"""Versions younger than this stay on disk, so that open readers can finish."""


def lance_library() -> Any:
    """The package, loaded when it is first needed."""
    # Its warnings about the training of an index would land between our lines on a user's terminal.
    os.environ.setdefault("LANCE_LOG", "error")
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
        self._exact: dict[str, _Matrix] = {}
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
    def names(self) -> Sequence[str]:
        """See `Table`."""
        return list(self._dataset.schema.names)

    def attributes(self) -> pa.Schema:
        """See `Table`."""
        import pyarrow as pa

        own = {*schema(()).names}
        return pa.schema(
            [
                field
                for field in self._dataset.schema
                if field.name not in own and VECTOR_MARK not in field.name
            ]
        )

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

    def count(self, where: str = "") -> int:
        """See `Table`."""
        with translated(self._path, where):
            return int(self._dataset.count_rows(filter=where or None))

    def upsert(self, rows: pa.Table, *, remove: Sequence[str] = ()) -> None:
        """See `Table`."""
        with translated(self._path):
            merge = self._dataset.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            if remove:
                merge = merge.when_not_matched_by_source_delete(among("id", remove))
            merge.execute(_last_of_each(rows))
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
                self._dataset.delete(among("id", ids))
        return before - self.count()

    def scan(self, columns: Sequence[str], where: str = "") -> Iterator[pa.RecordBatch]:
        """See `Table`."""
        with translated(self._path, where):
            yield from self._dataset.scanner(columns=list(columns), filter=where or None).to_batches()

    def nearest(
        self, column: str, vector: NDArray[np.float32], k: int, *, columns: Sequence[str], where: str = ""
    ) -> pa.Table:
        """See `Table`. Exact up to `EXACT_BYTES` of vectors, through the vector index above."""
        with translated(self._path, where):
            width = self._dataset.schema.field(column).type.list_size
            if len(vector) != width:
                raise SpaceMismatchError(f"The query has {len(vector)} dimensions and {column} has {width}.")
            if self._has_vector_index(column):
                return self._approximate(column, vector, k, columns, where)
            return self._exactly(column, vector, k, columns, where)

    def _exactly(
        self, column: str, vector: NDArray[np.float32], k: int, columns: Sequence[str], where: str
    ) -> pa.Table:
        matrix = self._exact.get(column)
        if matrix is None or matrix.version != self.version:
            matrix = self._exact[column] = _Matrix.read(self._dataset, column)
        scores = matrix.vectors @ vector
        scores[~matrix.present] = -np.inf
        if where:
            passing = self._dataset.scanner(columns=[], filter=where, with_row_id=True).to_table()
            scores[~np.isin(matrix.row_ids, passing["_rowid"].to_numpy())] = -np.inf
        best = top(scores, k)
        rows = self._dataset.take(best.tolist(), columns=list(columns))
        return _with_scores(rows, scores[best])

    def _approximate(
        self, column: str, vector: NDArray[np.float32], k: int, columns: Sequence[str], where: str
    ) -> pa.Table:
        question = {
            "column": column,
            "q": vector,
            "k": k,
            "metric": "dot",
            "minimum_nprobes": PROBES,
            "refine_factor": REFINE,
        }
        found = self._dataset.scanner(
            columns=[*columns, "_distance"], nearest=question, filter=where or None, prefilter=True
        ).to_table()
        scores = 1.0 - found["_distance"].to_numpy()  # Lance's dot distance is 1 - dot.
        return _with_scores(found.drop_columns(["_distance"]), scores)

    def _has_vector_index(self, column: str) -> bool:
        return any(column in index.field_names for index in self._dataset.describe_indices())

    def optimize(self, vectors: Sequence[VectorColumn]) -> None:
        """See `Table`."""
        with translated(self._path):
            if len(self._dataset.get_fragments()) > FRAGMENTS_BEFORE_COMPACTION:
                self._dataset.optimize.compact_files()
            rows = self.count()
            for column in vectors:
                if 4 * column.dimensions * rows > EXACT_BYTES and self._outgrown(column.name, rows):
                    self._build_index(column, rows)
            if any(self._has_vector_index(column.name) for column in vectors):
                self._dataset.optimize.optimize_indices()
            self._dataset.checkout_latest()
            self._dataset.cleanup_old_versions(older_than=KEEP_VERSIONS)

    def _outgrown(self, column: str, rows: int) -> bool:
        """Whether there is no index, or one made for a quarter of the rows or fewer."""
        for index in self._dataset.describe_indices():
            if column in index.field_names:
                partitions = self._dataset.stats.index_stats(index.name)["indices"][0]["num_partitions"]
                return bool(2 * partitions < _partitions(rows))
        return True

    def _build_index(self, column: VectorColumn, rows: int) -> None:
        # RaBitQ, one bit a dimension, is built ten times faster than product quantisation and ranks as well, given
        # enough dimensions; it needs whole bytes.
        kind: dict[str, Any] = {"index_type": "IVF_RQ", "num_bits": 1}
        if column.dimensions < 256 or column.dimensions % 8:
            kind = {"index_type": "IVF_SQ"}
        self._dataset = self._dataset.create_index(
            column.name, metric="dot", num_partitions=_partitions(rows), replace=True, **kind
        )


def _write_piece(place: str, columns: pa.Schema, rows: pa.Table) -> bytes:
    """Runs on a worker, with the credentials that it has there."""
    from bowerbird.store.lance_pieces import write_piece

    return write_piece(place, columns, rows.select(columns.names), storage_options(place))


def _partitions(rows: int) -> int:
    return max(1, min(round(math.sqrt(rows)), rows // 256))  # each is trained on 256 rows


class _Matrix:
    """All vectors of a column of one version, in memory, in the order of `take`."""

    def __init__(
        self, version: int, vectors: NDArray[np.float32], present: NDArray[np.bool_], ids: NDArray[Any]
    ) -> None:
        self.version = version
        self.vectors = vectors  # (rows, dim)
        self.present = present  # (rows,): False where the record has no such vector
        self.row_ids = ids  # (rows,)

    @classmethod
    def read(cls, dataset: Any, column: str) -> _Matrix:
        rows = dataset.count_rows()
        width = dataset.schema.field(column).type.list_size
        vectors = np.zeros((rows, width), np.float32)
        present = np.zeros(rows, bool)
        ids = np.zeros(rows, np.uint64)
        start = 0
        for batch in dataset.scanner(columns=[column], with_row_id=True, scan_in_order=True).to_batches():
            stop = start + batch.num_rows
            lists = batch.column(column)
            present[start:stop] = lists.is_valid().to_numpy(zero_copy_only=False)
            vectors[start:stop][present[start:stop]] = lists.flatten().to_numpy().reshape(-1, width)
            ids[start:stop] = batch.column("_rowid").to_numpy()
            start = stop
        return cls(int(dataset.version), vectors, present, ids)


def top(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Positions of the `k` largest scores, largest first, ties by position; minus infinity never counts."""
    k = min(k, int(np.count_nonzero(scores > -np.inf)))
    if k <= 0:
        return np.empty(0, np.int64)
    # Everything at least as large as the k-th, so that ties at the cut are broken by position too.
    threshold = np.partition(scores, -k)[-k]
    candidates = np.flatnonzero(scores >= threshold)
    order = np.argsort(-scores[candidates], kind="stable")
    return candidates[order[:k]]


def _with_scores(rows: pa.Table, scores: NDArray[Any]) -> pa.Table:
    import pyarrow as pa

    return rows.append_column(SCORE, pa.array(scores.astype(np.float32)))


def _last_of_each(rows: pa.Table) -> pa.Table:
    """Rows with one for each id, the last given: Lance would insert a new id as often as it is given."""
    last = {id_: row for row, id_ in enumerate(rows["id"].to_pylist())}
    return rows if len(last) == rows.num_rows else rows.take(list(last.values()))


@contextmanager
def translated(path: str | Path, where: str = "") -> Iterator[None]:
    """Turn Lance's errors into ours; whatever fails while a filter is given and names it is the filter's."""
    try:
        yield
    except BowerbirdError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise _translate(error, path, where) from error
    except BaseException as error:
        # A panic of the Rust side arrives as pyo3_runtime.PanicException, a BaseException.
        if type(error).__name__ == "PanicException":
            raise _translate(error, path, where) from error
        raise


# Signs in the text: Lance has no types of error to tell these apart by.
_DAMAGE = (
    "LanceError(IO)",
    "Not found:",
    "was not found",
    "does not appear to be a Lance file",
    "metadata region",
    "is not aligned",
    "Protobuf",
)
# A defect of the caller: nobody may be told to delete an index because of it.
_ASKED_WRONGLY = ("Schema error", "FieldNotFound", "does not exist in schema", "already exists")


PLACE_IN_LANCE = re.compile(r",? ?\S+\.rs:\d+:\d+")


_NO_BUCKET = "NoSuchBucket"
_FORBIDDEN = re.compile(
    r"\b403 Forbidden|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|PermissionDenied"
)
_READING = re.compile(r"Error performing (GET|HEAD|list)", re.IGNORECASE)
_UNREACHABLE = re.compile(r"error sending request|HTTP error|retry_timeout|operation timed out|dns error")
_NO_CREDENTIALS = re.compile(r"credentials", re.IGNORECASE)


def _translate(error: BaseException, place: str | Path, where: str) -> StoreError | QueryError:
    # Lance ends its messages with the place in its own source.
    text = PLACE_IN_LANCE.sub("", " ".join(str(error).split()))[:600].rstrip(". ") + "."
    refused = refusal(error, place, text) or (_refusal_of_a_store(place, text) if is_remote(place) else None)
    if refused:
        return refused
    text = text if len(text) <= 300 else f"{text[:299]}…"
    damaged = any(sign in text for sign in _DAMAGE)
    if where and not damaged:
        return QueryError(
            f"The filter {where!r} cannot be used: {text}",
            hint="Write it like \"width > 1000 and format = 'JPEG' and taken_at > date '2020-01-01'\"; "
            "`bowerbird info` lists the columns.",
        )
    index = str(place).rpartition("/")[0]
    if not damaged and any(sign in text for sign in _ASKED_WRONGLY):
        return StoreError(f"The index at {index} cannot do that: {text}")
    return IndexDamagedError(
        f"The index at {index} cannot be read: {text}",
        hint="If it happens again, delete that directory and index the folder anew.",
    )


def _refusal_of_a_store(place: str | Path, text: str) -> StoreError | None:
    """The error for an object store that is not there or says no: nothing of the index is damaged."""
    if _NO_BUCKET in text:
        return StoreError(
            f"{place} lies in a bucket that does not exist.", hint="Check the name of the bucket."
        )
    if _FORBIDDEN.search(text):
        kind = StoreError if _READING.search(text) else IndexReadOnlyError
        return kind(
            f"{place} may not be used: the store refused access.",
            hint="Check the credentials, and what they are allowed to do.",
        )
    if _NO_CREDENTIALS.search(text):
        return StoreError(
            f"{place} cannot be asked for: there are no credentials.",
            hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.",
        )
    if _UNREACHABLE.search(text):
        return StoreError(
            f"{place} cannot be reached.", hint="Check the network and the endpoint (AWS_ENDPOINT_URL)."
        )
    return None
