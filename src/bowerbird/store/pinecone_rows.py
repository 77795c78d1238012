"""Rows as Pinecone keeps them: what a filter may ask for as metadata, the row itself as JSON, long values in pieces.

A row has an id made of a hash of its own and a stamp: `<32 hex digits>-<version>`. In its metadata are

- `key`, the hash, and `place`, the same as a number below 2^52: rows lie in its order;
- `from` and `to`: the row belongs to the versions `from <= version < to`;
- `c<n>` what filters ask of column `n`, `d<n>` what a whole number beyond 2^53 loses as a float, `w<n>` its words;
- `row`, the row as JSON by number of column, exact; where it is too long, `pieces` of it as base64 lie elsewhere.

Columns have numbers, so that one that was dropped and is made again has nothing of what it held.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.errors import IndexDamagedError, StoreError
from bowerbird.store.filters import words_of
from bowerbird.store.pinecone_space import MOST_METADATA, Item, size_of
from bowerbird.store.table import VECTOR_MARK

if TYPE_CHECKING:
    import pyarrow as pa

FOREVER = float(2**53 - 1)
"""`to` of a row that is in the newest version."""

EXACT = 1 << 53
"""Whole numbers below this are the same as floats, which is all that Pinecone keeps."""

PLACES = 1 << 52
"""How many values `place` has."""

_LONGEST = 500
"""Bytes of a text that metadata holds. Of a longer one it holds a hash: that can still be compared for equality."""

_WORDS = 10_000
"""Bytes that the words of one text may take."""

_PIECE = 36_000
"""Characters of a long value in one record."""

_WORDLESS = frozenset({"id", "uri", "content", "picture", "folder", "format"})


@dataclass(frozen=True)
class Column:
    """A column, and the number that its values are kept under."""

    field: pa.Field
    number: int

    @property
    def name(self) -> str:
        """As users know it."""
        return str(self.field.name)

    @cached_property
    def dimensions(self) -> int:
        """Length of the vectors in it; 0 when it holds none."""
        import pyarrow as pa

        type_ = self.field.type
        return int(type_.list_size) if pa.types.is_fixed_size_list(type_) else 0

    @cached_property
    def kind(self) -> str:
        """What it holds: id, vector, bytes, text, whole, number, flag or time; plain: only asked for null."""
        from pyarrow import types

        type_ = self.field.type
        if self.name == "id":
            return "id"
        if self.dimensions:
            return "vector"
        if types.is_binary(type_) or types.is_large_binary(type_):
            return "bytes"
        if VECTOR_MARK in self.name:
            return "plain"
        asked = {
            "text": types.is_string(type_) or types.is_large_string(type_),
            "whole": types.is_integer(type_),
            "number": types.is_floating(type_),
            "flag": types.is_boolean(type_),
            "time": types.is_timestamp(type_) or types.is_date(type_),
        }
        return next((kind for kind, yes in asked.items() if yes), "plain")

    @cached_property
    def has_words(self) -> bool:
        """Whether its words are kept, so that a filter can ask for them."""
        return self.kind == "text" and self.name not in _WORDLESS

    @property
    def space(self) -> str:
        """Name of the namespace of its vectors."""
        return f"v{self.number}"


@dataclass(frozen=True)
class State:
    """What a version of a table is: this, written, is the commit.

    Attributes:
        version: its number.
        rows: how many there are.
        columns: in their order.
        numbers: how many columns there ever were.
        unlisted: numbers of columns with texts whose words did not all fit into the metadata.
    """

    version: int = 0
    rows: int = 0
    columns: tuple[Column, ...] = ()
    numbers: int = 0
    unlisted: frozenset[int] = field(default=frozenset())

    def with_fields(self, fields: Iterable[pa.Field]) -> State:
        """The same with more columns."""
        new = tuple(Column(entry, self.numbers + at) for at, entry in enumerate(fields))
        return replace(self, columns=(*self.columns, *new), numbers=self.numbers + len(new))

    @property
    def fields(self) -> pa.Schema:
        """All columns as Arrow has them."""
        import pyarrow as pa

        return pa.schema([column.field for column in self.columns])

    @property
    def vectors(self) -> list[Column]:
        """The columns of vectors."""
        return [column for column in self.columns if column.dimensions]

    def chosen(self, names: Iterable[str], where: object) -> list[Column]:
        """Columns by name.

        Raises:
            StoreError: there is none of that name.
        """
        known = {column.name: column for column in self.columns}
        for name in names:
            if name not in known:
                raise StoreError(f"The index at {where} has no column {name!r}.")
        return [known[name] for name in names]

    def to_bytes(self) -> bytes:
        """As it is written: JSON, the types as Arrow writes a schema."""
        return json.dumps(
            {
                "format": 1,
                "version": self.version,
                "rows": self.rows,
                "numbers": self.numbers,
                "unlisted": sorted(self.unlisted),
                "columns": [[column.name, column.number] for column in self.columns],
                "schema": base64.b64encode(self.fields.serialize().to_pybytes()).decode(),
            }
        ).encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: object) -> State:
        """Read what `to_bytes` gave.

        Raises:
            IndexDamagedError: it is something else.
        """
        import pyarrow as pa

        try:
            said = json.loads(data)
            fields = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(said["schema"])))
            numbers = [number for _, number in said["columns"]]
            columns = tuple(Column(*pair) for pair in zip(fields, numbers, strict=True))
            return cls(said["version"], said["rows"], columns, said["numbers"], frozenset(said["unlisted"]))
        except (ValueError, KeyError, TypeError, pa.ArrowInvalid) as error:
            raise IndexDamagedError(
                f"The index at {where} cannot be read: its state is damaged.",
                hint="If it happens again, remove it and index anew.",
            ) from error


@dataclass
class Stored:
    """Rows as records: of the rows themselves, of the pieces of long values, and of vectors by number of column."""

    rows: list[Item] = field(default_factory=list)
    pieces: list[Item] = field(default_factory=list)
    vectors: dict[int, list[Item]] = field(default_factory=dict)
    unlisted: set[int] = field(default_factory=set)


def key_of(id_: str) -> str:
    """The hash that stands for a row's id: 32 hexadecimal digits."""
    return hashlib.sha256(id_.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def stand_in(text: str) -> str:
    """What metadata holds of a text: the text, or a hash of a long one."""
    written = text.encode("utf-8", "surrogatepass")
    return text if len(written) <= _LONGEST else "sha256:" + hashlib.sha256(written).hexdigest()


def clamped(value: float) -> float:
    """A number as JSON can hold it."""
    return math.copysign(1.7976931348623157e308, value) if math.isinf(value) else value


def stored(rows: pa.Table, state: State, version: int, where: object) -> Stored:
    """Turn rows into records of a version.

    Args:
        rows: columns that they lack are null.
        state: says which columns there are.
        version: that the rows come with.
        where: named by errors.

    Raises:
        StoreError: a row does not fit into Pinecone, or has a column that the table does not.
    """
    ids = rows["id"].to_pylist()
    found = Stored(vectors={column.number: [] for column in state.vectors})
    columns = state.chosen(rows.column_names, where)
    plain = {
        column: _as_json(rows[column.name], column)
        for column in columns
        if column.kind not in ("vector", "bytes")
    }
    long = {column: rows[column.name].to_pylist() for column in columns if column.kind == "bytes"}
    vectors = {column: _matrix(rows[column.name], column) for column in columns if column.dimensions}
    for at, id_ in enumerate(ids):
        row = _Row(id_, version)
        for column, values in plain.items():
            row.add(column, values[at])
        for column, values in long.items():
            if values[at] is not None:
                row.cut(column, base64.b64encode(values[at]).decode())
        for column, (valid, matrix) in vectors.items():
            if valid[at]:
                row.values[column.number] = matrix[at] if matrix[at].any() else np.empty(0, np.float32)
                row.facts[f"c{column.number}"] = True
        row.into(found, where)
    return found


class _Row:
    def __init__(self, id_: str, version: int) -> None:
        self.name = id_
        key = key_of(id_)
        self.id = f"{key}-{version}"
        self.life = {"key": key, "from": version, "to": FOREVER}
        self.facts: dict[str, Any] = {"place": int(key[:13], 16)}
        self.words: dict[int, list[str]] = {}
        self.row: dict[int, Any] = {}
        self.values: dict[int, Any] = {}
        self.pieces: list[Item] = []
        self.unlisted: set[int] = set()

    def add(self, column: Column, value: Any) -> None:
        if value is None:
            return
        self.row[column.number] = value
        kind, key = column.kind, f"c{column.number}"
        if kind == "text":
            self.facts[key] = stand_in(value)
            if column.has_words:
                self.words[column.number] = sorted(set(words_of(value)))
        elif kind in ("whole", "time"):
            self.facts[key] = float(value) if abs(value) >= EXACT else value
            if abs(value) >= EXACT:
                self.facts[f"d{column.number}"] = value - int(float(value))
        elif kind == "number":
            if not math.isnan(value):
                self.facts[key] = clamped(value)
        elif kind == "flag":
            self.facts[key] = value
        elif kind != "id":
            self.facts[key] = True

    def cut(self, column: Column | None, text: str) -> None:
        """Keep a long value in pieces; None: the row itself."""
        name = "row" if column is None else str(column.number)
        parts = [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)] or [""]
        self.pieces += [
            Item(f"{self.id}-{name}-{at}", {**self.life, "data": part}) for at, part in enumerate(parts)
        ]
        if column is not None:
            self.row[column.number] = len(parts)
            self.facts[f"c{column.number}"] = True

    def into(self, found: Stored, where: object) -> None:
        """Put the records of this row to those of others."""
        facts = {**self.life, **self.facts}
        for number, words in sorted(self.words.items(), key=lambda pair: size_of({"": pair[1]})):
            size = size_of({"": words})
            if size > _WORDS or size_of(facts) + size > MOST_METADATA - 100:
                self.unlisted.add(number)
            elif words:
                facts[f"w{number}"] = words
        if size_of(facts) > MOST_METADATA:
            raise StoreError(
                f"{self.name} does not fit into {where}: Pinecone takes 40 KB of attributes for a record.",
                hint="Leave some of its attributes out, or keep the index in Lance or PostgreSQL.",
            )
        zeros = [number for number, values in self.values.items() if not len(values)]
        written = json.dumps({**self.row, **({"zero": zeros} if zeros else {})}, ensure_ascii=False)
        whole = {**facts, "row": written}
        if size_of(whole) > MOST_METADATA:
            self.cut(None, base64.b64encode(written.encode("utf-8", "surrogatepass")).decode())
            whole = {**facts, "pieces": sum(item.id.startswith(f"{self.id}-row-") for item in self.pieces)}
        found.rows.append(Item(self.id, whole))
        found.pieces += self.pieces
        found.unlisted |= self.unlisted
        for number, values in self.values.items():
            if len(values):
                # The shortest digits that are the same float32: half as long as those of the same float64.
                found.vectors[number].append(
                    Item(self.id, facts, values.astype(str).astype(np.float64).tolist())
                )


def _as_json(values: pa.ChunkedArray, column: Column) -> list[Any]:
    """A column as JSON can hold it: times as whole numbers of their unit."""
    from pyarrow import types

    type_ = column.field.type
    values = values.cast(type_)
    if types.is_timestamp(type_) or types.is_date64(type_):
        return list(values.cast("int64").to_pylist())
    if types.is_date32(type_):
        return list(values.cast("int32").to_pylist())
    inner = type_.value_type if types.is_list(type_) or types.is_large_list(type_) else type_
    known = (types.is_string, types.is_large_string, types.is_integer, types.is_floating, types.is_boolean)
    if not any(is_(inner) for is_ in known) and not types.is_null(inner):
        raise StoreError(
            f"The column {column.name!r} holds {type_}, which cannot be kept in Pinecone.",
            hint="Turn it into text or numbers, or keep the index in Lance.",
        )
    return list(values.to_pylist())


def from_json(values: Sequence[Any], column: Column) -> pa.Array:
    """The column that `_as_json` was given."""
    import pyarrow as pa

    type_ = column.field.type
    if pa.types.is_timestamp(type_) or pa.types.is_date64(type_):
        return pa.array(values, pa.int64()).cast(type_)
    if pa.types.is_date32(type_):
        return pa.array(values, pa.int32()).cast(type_)
    if pa.types.is_floating(type_):  # whole numbers, where the column was widened
        values = [None if value is None else float(value) for value in values]
    return pa.array(values, type_)


def _matrix(values: pa.ChunkedArray, column: Column) -> tuple[Any, Any]:
    """Which rows have a vector, bool (rows,), and the vectors, float32 (rows, dim)."""
    lists = values.cast(column.field.type).combine_chunks()
    valid = lists.is_valid().to_numpy(zero_copy_only=False)
    matrix = np.zeros((len(lists), column.dimensions), np.float32)
    matrix[valid] = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.dimensions)
    return valid, matrix


def row_of(id_: str, metadata: Mapping[str, Any], pieces: Mapping[str, str]) -> dict[str, Any]:
    """The row that a record stands for, by number of column as text.

    Args:
        id_: of the record.
        metadata: of the record.
        pieces: data of pieces, by their ids; see `pieces_of`.
    """
    parts = [pieces[name] for name in pieces_of(id_, "row", int(metadata.get("pieces", 0)))]
    found: dict[str, Any] = json.loads(base64.b64decode("".join(parts)) if parts else metadata["row"])
    return found


def pieces_of(id_: str, name: str, count: int) -> Iterator[str]:
    """Ids of the pieces of a long value of a row."""
    return (f"{id_}-{name}-{at}" for at in range(count))
