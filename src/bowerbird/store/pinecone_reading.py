"""Rows of a table in Pinecone put together again: from their own records, pieces of long values, and vectors."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import IndexDamagedError
from bowerbird.store.pinecone_commits import Commits
from bowerbird.store.pinecone_rows import Column, from_json, pieces_of, row_of
from bowerbird.store.table import SCORE

if TYPE_CHECKING:
    import pyarrow as pa


class Reading:
    """Puts rows together.

    Args:
        where: named by errors.
        commits: knows the namespaces.
    """

    def __init__(self, where: object, commits: Commits) -> None:
        self._where = where
        self._commits = commits

    def table(self, found: Mapping[str, Mapping[str, Any]], columns: Sequence[Column]) -> pa.Table:
        """Columns of rows, in the order in which these are given.

        Args:
            found: metadata of the rows, by the ids of their records.
            columns: what to return.

        Raises:
            IndexDamagedError: a part of a row is missing.
        """
        import pyarrow as pa

        rows = self._rows(found)
        arrays = []
        for column in columns:
            if column.kind == "vector":
                arrays.append(self._vectors_of(list(rows), rows, column))
            elif column.kind == "bytes":
                arrays.append(pa.array(self._bytes_of(rows, column), column.field.type))
            else:
                values = [row.get(str(column.number)) for row in rows.values()]
                arrays.append(from_json(values, column))
        return pa.Table.from_arrays(arrays, schema=pa.schema([column.field for column in columns]))

    def _rows(self, found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        names = [
            name
            for id_, metadata in found.items()
            for name in pieces_of(id_, "row", int(metadata.get("pieces", 0)))
        ]
        data = self._data(names)
        return {id_: row_of(id_, metadata, data) for id_, metadata in found.items()}

    def _bytes_of(self, rows: Mapping[str, Mapping[str, Any]], column: Column) -> list[bytes | None]:
        counts = {id_: row.get(str(column.number), 0) for id_, row in rows.items()}
        names = {id_: list(pieces_of(id_, str(column.number), count)) for id_, count in counts.items()}
        data = self._data([name for several in names.values() for name in several])
        return [
            base64.b64decode("".join(data[name] for name in several)) if several else None
            for several in names.values()
        ]

    def _data(self, names: Sequence[str]) -> dict[str, str]:
        found = self._commits.pieces.fetch(names)
        if len(found) != len(set(names)):
            raise self._damaged()
        return {name: record.metadata["data"] for name, record in found.items()}

    def _vectors_of(
        self, ids: Sequence[str], rows: Mapping[str, Mapping[str, Any]], column: Column
    ) -> pa.Array:
        import pyarrow as pa

        matrix, there = self._matrix(column, ids)
        zeros = [column.number in rows[id_].get("zero", ()) for id_ in ids]
        mask = ~(there | np.array(zeros, bool))
        flat = pa.array(matrix.reshape(-1), pa.float32())
        return pa.FixedSizeListArray.from_arrays(
            flat, type=column.field.type, mask=pa.array(mask) if mask.any() else None
        )

    def _matrix(self, column: Column, ids: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Vectors, float32 (rows, dim), and which rows have one, bool (rows,)."""
        matrix = np.zeros((len(ids), column.dimensions), np.float32)
        there = np.zeros(len(ids), bool)
        found = self._commits.space(column).fetch(ids)
        for at, id_ in enumerate(ids):
            if id_ in found:
                matrix[at] = found[id_].values
                there[at] = True
        return matrix, there

    def compared(
        self,
        column: Column,
        ids: Sequence[str],
        vector: NDArray[np.float32],
        centre: NDArray[np.float32] | None,
    ) -> list[tuple[str, float]]:
        """Ids and exact scores of rows; see `Table.nearest`."""
        matrix, there = self._matrix(column, ids)
        if centre is not None:
            matrix -= centre
            matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
        scores = matrix @ vector.astype(np.float32)
        return [(id_, float(scores[at])) for at, id_ in enumerate(ids) if there[at]]

    def scored(self, found: Sequence[tuple[str, float]], columns: Sequence[Column]) -> pa.Table:
        """Rows by their ids, in the order given, with their scores."""
        import pyarrow as pa

        records = self._commits.records.fetch([id_ for id_, _ in found])
        # Another writer may have cleared some away meanwhile.
        kept = [(id_, score) for id_, score in found if id_ in records]
        rows = self.table({id_: records[id_].metadata for id_, _ in kept}, columns)
        return rows.append_column(SCORE, pa.array([score for _, score in kept], pa.float32()))

    def _damaged(self) -> IndexDamagedError:
        return IndexDamagedError(
            f"The index at {self._where} cannot be read: a part of a row is missing.",
            hint="If it happens again, remove it and index anew.",
        )
