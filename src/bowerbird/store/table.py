"""The contract every store passes: rows keyed by id, attributes that filters may ask for, vector columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

SCORE = "_score"
"""Name of the column of scores in what `Table.nearest` returns."""


VECTOR_MARK = "__"
"""Names of columns with vectors, and of their norms, hold this; no other name does."""


@dataclass(frozen=True)
class VectorColumn:
    """A column of unit vectors. Beside it, `<name>__norm` keeps the length before scaling: raw = unit * norm.

    Attributes:
        name: of the column.
        output: the model's output it holds.
        modality: of what was embedded.
        dimensions: length of each vector.
    """

    name: str
    output: str
    modality: str
    dimensions: int

    @property
    def norm(self) -> str:
        """Name of the column of lengths."""
        return f"{self.name}__norm"


# What is known of every record that came from a file. All of these may be used in filters.
ATTRIBUTES = ("name", "folder", "format", "width", "height", "taken_at", "size")


def schema(vectors: Sequence[VectorColumn]) -> pa.Schema:
    """The Arrow schema of a table: one row for each record.

    `uri` is where the picture lies: a path, or a `file://` URI when the path is not valid Unicode. `content` is
    the content id of its bytes; exact copies share it. `mtime_ns` is the file's modification time, 0 where nobody
    looked, -1 for a file that came with texts; it and `size` are null for rows
    of tables. `text` is what is said of the picture, one text on a line.
    What users know of their records has columns of its own beside these; see `Table.attributes`.
    """
    import pyarrow as pa

    fields = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("uri", pa.string()),
        pa.field("content", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("mtime_ns", pa.int64()),
        pa.field("name", pa.string()),
        pa.field("folder", pa.string()),
        pa.field("format", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("taken_at", pa.timestamp("s")),
        pa.field("indexed_at", pa.timestamp("s")),
        pa.field("thumbnail", pa.binary()),
        pa.field("text", pa.string()),
    ]
    for column in vectors:
        fields.append(pa.field(column.name, pa.list_(pa.float32(), column.dimensions)))
        fields.append(pa.field(column.norm, pa.float32()))
    return pa.schema(fields)


def among(column: str, values: Iterable[str]) -> str:
    """A filter: the column holds one of some texts, whatever signs are in them."""
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    return f"{column} IN ({quoted})"


class Table(ABC):
    """Rows keyed by `id`. Every change is one atomic commit; readers see the version they opened."""

    @property
    @abstractmethod
    def version(self) -> int:
        """Number of the version this table reads."""

    @abstractmethod
    def refresh(self) -> None:
        """Read the newest version from now on."""

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """The names of all columns."""

    @abstractmethod
    def attributes(self) -> pa.Schema:
        """The columns beside those of `schema`: what users know of their records."""

    @abstractmethod
    def extend(self, fields: Sequence[pa.Field], wider: Sequence[pa.Field] = ()) -> None:
        """Add columns, null in all rows so far, and give others the types of the fields in `wider`.

        A table of an earlier version of the format is given the columns of `schema` that it lacks by the way.
        """

    @abstractmethod
    def count(self, where: str = "") -> int:
        """How many rows there are, or pass the filter.

        Raises:
            QueryError: the filter cannot be understood.
        """

    @abstractmethod
    def upsert(self, rows: pa.Table, *, remove: Sequence[str] = ()) -> None:
        """Insert rows, replacing those of the same id, and delete the rows with the ids in `remove`; atomic.

        Raises:
            StorageFullError: no space is left; nothing has changed.
            IndexReadOnlyError: the place cannot be written to.
        """

    @abstractmethod
    def piece_writer(self) -> Callable[[pa.Table], bytes]:
        """What workers elsewhere write rows with: picklable; it gives what `append` is told of them.

        Nobody sees such rows before they are appended, and rows that never are take nothing but space for a while.

        Raises:
            MissingExtraError: a package that this needs is not installed.
        """

    @abstractmethod
    def append(self, pieces: Sequence[bytes]) -> None:
        """Make rows written elsewhere part of the table, in one commit. Their ids have to be new.

        Args:
            pieces: what the `piece_writer` gave.
        """

    @abstractmethod
    def delete(self, ids: Sequence[str]) -> int:
        """Delete rows; returns how many there were."""

    @abstractmethod
    def scan(self, columns: Sequence[str], where: str = "") -> Iterator[pa.RecordBatch]:
        """Stream columns of all rows, or those that pass the filter, in a stable order."""

    @abstractmethod
    def nearest(
        self, column: str, vector: NDArray[np.float32], k: int, *, columns: Sequence[str], where: str = ""
    ) -> pa.Table:
        """The `k` rows whose unit vectors have the largest dot product with `vector`, best first.

        Args:
            column: a vector column.
            vector: float32 (dim,).
            k: at most this many rows.
            columns: what to return beside `SCORE`.
            where: an SQL filter, applied before the cut to `k`.

        Raises:
            QueryError: the filter cannot be understood.
        """

    @abstractmethod
    def optimize(self, vectors: Sequence[VectorColumn]) -> None:
        """Tidy up after many small commits and build or extend vector indexes where the table is large."""
