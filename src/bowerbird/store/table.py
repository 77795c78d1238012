"""The contract every store passes: rows keyed by id, attributes that filters may ask for, vector columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bowerbird.store.filters import Filter

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
        return norm_of(self.name)


def norm_of(column: str) -> str:
    """Name of the column of lengths beside a column of vectors."""
    return f"{column}{VECTOR_MARK}norm"


# What is known of every record that came from a file. All of these may be used in filters.
ATTRIBUTES = ("name", "folder", "format", "width", "height", "taken_at", "size")


def schema(vectors: Sequence[VectorColumn]) -> pa.Schema:
    """The Arrow schema of a table: one row for each record.

    `uri` is where the picture lies: a path, or a `file://` URI when the path is not valid Unicode. `content` is
    the content id of its bytes, picture and texts together; exact copies share it. `picture` is that of the picture
    alone, null where there is none, or where it was not kept yet. `mtime_ns` is the file's modification time, 0 where
    nobody looked, -1 for a file that came with texts; it and `size` are null for rows of tables. `text` is what is
    said of the picture, one text on a line.
    What users know of their records has columns of its own beside these; see `Table.attributes`.
    """
    import pyarrow as pa

    fields = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("uri", pa.string()),
        pa.field("content", pa.string()),
        pa.field("picture", pa.string()),
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


class Table(ABC):
    """Rows keyed by `id`. Every change is one atomic commit.

    Stores that keep versions show readers the version that they opened; the others show what was committed last.
    """

    snapshots: bool = True
    """Whether readers go on seeing the version that they opened."""

    pieces: bool = True
    """Whether workers elsewhere can write rows by themselves; see `piece_writer`."""

    @property
    @abstractmethod
    def version(self) -> int:
        """Number of the version this table reads; greater after every commit."""

    @abstractmethod
    def refresh(self) -> None:
        """Read the newest version from now on."""

    def take_over(self, before: Table) -> None:  # noqa: B027  a store that reads nothing ahead has nothing to keep
        """Keep what another object has read of an earlier version of the same table, as far as it still holds."""

    @property
    @abstractmethod
    def fields(self) -> pa.Schema:
        """All columns, in the order in which they came."""

    @property
    def names(self) -> Sequence[str]:
        """The names of all columns."""
        return list(self.fields.names)

    def attributes(self) -> pa.Schema:
        """The columns beside those of `schema`: what users know of their records."""
        import pyarrow as pa

        own = {*schema(()).names}
        return pa.schema(
            [field for field in self.fields if field.name not in own and VECTOR_MARK not in field.name]
        )

    @abstractmethod
    def extend(self, fields: Sequence[pa.Field], wider: Sequence[pa.Field] = ()) -> None:
        """Add columns, null in all rows so far, and give others the types of the fields in `wider`.

        A table of an earlier version of the format is given the columns of `schema` that it lacks by the way.
        """

    @abstractmethod
    def drop(self, names: Sequence[str]) -> None:
        """Remove columns, with what they hold; names that there are none of are left out."""

    @abstractmethod
    def count(self, where: Filter | None = None) -> int:
        """How many rows there are, or pass the filter.

        Raises:
            QueryError: this store cannot ask for that.
        """

    @abstractmethod
    def upsert(self, rows: pa.Table, *, remove: Sequence[str] = ()) -> None:
        """Insert rows, replacing those of the same id, and delete the rows with the ids in `remove`; atomic.

        Of several rows of one id the last counts.

        Raises:
            StorageFullError: no space is left; nothing has changed.
            IndexReadOnlyError: the place cannot be written to.
        """

    def insert(self, rows: pa.Table) -> None:
        """Insert rows whose ids the table does not have, as the caller has made sure; atomic.

        Args:
            rows: one for each id.
        """
        self.upsert(rows)

    @abstractmethod
    def update(self, rows: pa.Table) -> None:
        """Replace some columns of rows that there are; atomic.

        Args:
            rows: `id` and the columns to replace. Ids that the table does not have are left out.
        """

    @abstractmethod
    def piece_writer(self) -> Callable[[pa.Table], bytes]:
        """What workers elsewhere write rows with: picklable; it gives what `append` is told of them.

        Nobody sees such rows before they are appended, and rows that never are take nothing but space for a while.
        Asked for only where `pieces` is true.

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
    def scan(self, columns: Sequence[str], where: Filter | None = None) -> Iterator[pa.RecordBatch]:
        """Stream columns of all rows, or those that pass the filter, in a stable order."""

    @abstractmethod
    def sample(
        self, columns: Sequence[str], k: int, *, seed: int = 0, where: Filter | None = None
    ) -> pa.Table:
        """At most `k` rows drawn at random without replacement; the same ones for the same version and seed.

        It costs about as much as reading `k` rows, however many there are.
        """

    @abstractmethod
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
        """The `k` rows whose unit vectors have the largest dot product with `vector`, best first.

        Equal scores are in a stable order, and what is found for a smaller `k` is the beginning of what is found for
        a larger one, so that results can be shown page by page.

        Args:
            column: a vector column; rows without such a vector are never found.
            vector: float32 (dim,).
            k: at most this many rows.
            columns: what to return beside `SCORE`, float32.
            where: applied before the cut to `k`.
            centre: float32 (dim,); where given, rows are scored by the unit vector of `row - centre` instead.
            exact: compare with every row, rather than with those that an approximate index proposes.

        Raises:
            QueryError: this store cannot ask for that filter.
            SpaceMismatchError: the vector has another number of dimensions than the column.
        """

    @abstractmethod
    def words(self, text: str, k: int, *, columns: Sequence[str], where: Filter | None = None) -> pa.Table:
        """The `k` rows whose `text` has the words of `text`, some or all, scored with BM25, best first.

        Args:
            text: words in any order; see `filters.words_of`. One without any finds nothing.
            k: at most this many rows.
            columns: what to return beside `SCORE`, float32: more is better, no bound.
            where: applied before the cut to `k`.
        """

    @property
    def scattered(self) -> bool:
        """Whether many small commits lie apart that `optimize` would put together."""
        return False

    @abstractmethod
    def optimize(self, vectors: Sequence[VectorColumn]) -> None:
        """Tidy up after many small commits and build or extend indexes where the table is large."""
