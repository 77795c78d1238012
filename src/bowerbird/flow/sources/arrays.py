"""Vectors that are there already: `.npy` arrays, and the folders that clip-retrieval writes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import BowerbirdError, InputError, RowError, UnreadableError
from bowerbird.flow.plan import Source
from bowerbird.flow.sources.addresses import base_name, located, shown
from bowerbird.flow.sources.parquet import ParquetSource
from bowerbird.flow.sources.tables import CsvSource, JsonLinesSource
from bowerbird.media.reading import one_line
from bowerbird.record import Failure, Record

PART_ROWS = 4096
"""Rows of an array in a part."""

RECORDS = "records.parquet"
"""The table in a folder of arrays that Bowerbird wrote."""

UNIT = 1e-6
"""A vector whose length is 1 within this is taken as it is, bit for bit; others are scaled to length 1."""


def unit(vector: NDArray[Any], place: str) -> tuple[NDArray[np.float32], float]:
    """A row (dim,) of any floats as float32 of length 1, and the length that it had.

    Raises:
        RowError: it holds NaN or infinities, or only zeros.
    """
    row = np.array(vector, np.float32)
    length = float(np.sqrt(np.square(row.astype(np.float64)).sum()))
    if not np.isfinite(length):
        raise RowError(
            f"{place}: the vector holds NaN or infinite numbers.", hint="Embed it again, or leave it out."
        )
    if length == 0:
        raise RowError(f"{place}: the vector is all zeros.", hint="Embed it again, or leave it out.")
    if abs(length - 1) > UNIT:
        row = (row.astype(np.float64) / length).astype(np.float32)
    return row, length


def open_array(path: str) -> NDArray[Any]:
    """The rows (n, dim) of a local `.npy` file of floats, mapped into memory.

    Raises:
        UnreadableError: it is missing, damaged, or holds something else.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise UnreadableError(f"{shown(path)} does not exist.", hint="Check the spelling.") from None
    except (OSError, ValueError, EOFError) as error:
        raise UnreadableError(
            f"{shown(path)} is not an .npy file, or damaged: {one_line(error, 200)}.", hint="Write it again."
        ) from None
    if array.ndim != 2 or array.dtype.kind != "f" or not array.shape[1]:
        raise UnreadableError(
            f"{shown(path)} holds {array.dtype} {array.shape}, not vectors.",
            hint="Rows of floats are read, (vectors, dimensions).",
        )
    return array


@dataclass(frozen=True)
class NpySource(Source):
    """The rows of an `.npy` file as records with a vector, and with what a table says of each row.

    Vectors become float32 of length 1; `Record.norms` has the lengths that they had. A row with NaN, infinities or
    only zeros is a `Failure` at its place. The file is mapped, not loaded.

    Attributes:
        path: local; floats (n, dim) of any precision. Or a folder that Bowerbird wrote, of which `NAME.npy` is read.
        metadata: a Parquet, CSV, TSV or JSON Lines file of n rows in the same order, or a source of n records. None:
            the `records.parquet` beside the array, if Bowerbird wrote both: it says which rows of the array are whose.
        name: of the vectors in the records; empty: of what Bowerbird wrote, the name that it had there; otherwise
            `image`. Of a folder with several arrays, `image.npy` is read then.

    Raises:
        BowerbirdError: the folder has no such array, or Bowerbird did not write it.
    """

    path: str | Path
    metadata: str | Path | Source | None = None
    name: str = ""

    label = "from_npy"

    def __post_init__(self) -> None:
        path = located(self.path)
        if os.path.isdir(path):
            path = _array_in(Path(path), self.name)
        object.__setattr__(self, "path", path)
        if isinstance(self.metadata, (str, Path)):
            object.__setattr__(self, "metadata", _table(located(self.metadata)))
        ours = os.path.join(os.path.dirname(path), RECORDS)
        if self.metadata is None and os.path.isfile(ours) and _is_told(path, table := ParquetSource(ours)):
            object.__setattr__(self, "metadata", table)
        if not self.name:
            object.__setattr__(self, "name", _name(path) if _is_told(path, self.metadata) else "image")

    def describe(self) -> str:
        """See `Source`."""
        return f"vectors of {shown(str(self.path))}"

    def __iter__(self) -> Iterator[Record | Failure]:
        """See `Source`.

        Raises:
            BowerbirdError: the file cannot be read, or the table has another number of rows.
        """
        yield from self._rows()

    def parts(self) -> Sequence[Source]:
        """Slices of the array; with a table, all is one part."""
        rows = self._rows()
        if self.metadata is not None:
            return (self,)
        return rows.parts()

    def count(self) -> int | None:
        """See `Source`."""
        return self._rows().count()

    def _rows(self) -> Source:
        path, table = str(self.path), self.metadata
        vectors = len(open_array(path))
        if isinstance(table, ParquetSource) and _is_told(path, table):
            return _Addressed(path, table, self.name)
        if isinstance(table, Source):
            rows = _count(table)
            if rows != vectors:
                raise BowerbirdError(
                    f"{shown(path)} has {vectors:,} vectors, and its table {rows:,} rows: {table.describe()}.",
                    hint="They belong together row by row; give the table that was written with the array.",
                )
        return _Rows(((self.name, path),), table, base_name(path), self.label, 0, vectors)


@dataclass(frozen=True)
class _Addressed(Source):
    """Records of a table that says which rows of an array are whose, as `bowerbird.flow.sinks.vectors` writes it."""

    path: str
    table: ParquetSource
    name: str

    def describe(self) -> str:
        return self.table.describe()

    def __iter__(self) -> Iterator[Record | Failure]:
        array, name = open_array(self.path), _name(self.path)
        for record in self.table:
            yield self._record(record, array, name) if isinstance(record, Record) else record

    def _record(self, record: Record, array: NDArray[Any], name: str) -> Record | Failure:
        first, rows = record.attributes[f"row:{name}"], record.attributes.get(f"rows:{name}") or 0
        attributes = {
            key: record.attributes[key] for key in record.attributes if not key.startswith(("row:", "rows:"))
        }
        record = replace(record, attributes=attributes)
        if first is None or not rows:
            return record
        place = f"{base_name(self.path)}:{first + 1}"
        try:
            if not 0 <= first <= first + rows <= len(array):
                raise RowError(
                    f"{record.id} has row {first} of an array of {len(array)}.", hint="Write both again."
                )
            found = [unit(array[row], place) for row in range(first, first + rows)]
        except InputError as error:
            return Failure(record.id, NpySource.label, error)
        vector = found[0][0] if rows == 1 else np.stack([row for row, _ in found])
        norms = {self.name: found[0][1]} if rows == 1 else {}
        return replace(record, vectors={**record.vectors, self.name: vector}, norms={**norms, **record.norms})

    def count(self) -> int | None:
        return self.table.count()


def _name(path: str) -> str:
    """What vectors are called by their file."""
    return unquote(base_name(path).removesuffix(".npy"))


def _is_told(path: str, table: Any) -> bool:
    """Whether a table says which rows of an array are whose."""
    return isinstance(table, ParquetSource) and f"row:{_name(path)}" in table.names()


def _array_in(folder: Path, name: str) -> str:
    """The array of a folder that `bowerbird.flow.sinks.vectors` wrote.

    Raises:
        BowerbirdError: it is not such a folder, or has no array of that name.
    """
    arrays = sorted(folder.glob("*.npy"))
    if not arrays or not (folder / RECORDS).is_file():
        raise UnreadableError(
            f"{shown(str(folder))} is a folder without {RECORDS} and arrays beside it.",
            hint="Give the .npy file, or a folder that write(format='npy') has written.",
        )
    wanted = name or "image"
    found = [path for path in arrays if _name(str(path)) == wanted]
    if not found and not name and len(arrays) == 1:
        found = arrays
    if not found:
        there = ", ".join(_name(str(path)) for path in arrays)
        raise BowerbirdError(
            f"{shown(str(folder))} has no vectors {wanted!r}, but {there}.", hint="Give name=, one of these."
        )
    return str(found[0])


@dataclass(frozen=True)
class ClipRetrievalSource(Source):
    """A folder that clip-retrieval's `clip inference` wrote: vectors of pictures and texts, and what is known of them.

    Read are `img_emb/img_emb_N.npy`, `text_emb/text_emb_N.npy` and `metadata/metadata_N.parquet`, as far as these
    folders are there, in the order of the numbers N, padded with zeros or not. Rows of the same number belong together.
    Records have the vectors `image` and `text`, the column `image_path` as their picture, `caption` as their text, and
    the other columns as attributes. Format: github.com/rom1504/clip-retrieval, clip_inference/writer.py.

    Vectors become float32 of length 1. A row with a vector of NaN, infinities or only zeros is a `Failure`.

    Attributes:
        path: the folder; local.
        root: folder or address that relative picture paths are below; empty: the folder itself.
    """

    path: str | Path
    root: str | Path = ""

    label = "from_clip_retrieval"

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", located(self.path))
        object.__setattr__(self, "root", located(self.root or self.path))

    def describe(self) -> str:
        """See `Source`."""
        return f"clip-retrieval output in {shown(str(self.path))}"

    def __iter__(self) -> Iterator[Record | Failure]:
        """See `Source`.

        Raises:
            BowerbirdError: nothing is there; a part is missing or damaged, or its files have different numbers of rows.
        """
        for part in self._parts():
            yield from part

    def parts(self) -> Sequence[Source]:
        """One for each number, in slices."""
        return [part for rows in self._parts() for part in rows.parts()]

    def count(self) -> int:
        """See `Source`."""
        return sum(rows.stop for rows in self._parts())

    def _parts(self) -> list[_Rows]:
        folder = Path(str(self.path))
        found = {
            kind: _numbered(folder / kind, stem, suffix)
            for kind, stem, suffix in (
                ("img_emb", "img_emb", ".npy"),
                ("text_emb", "text_emb", ".npy"),
                ("metadata", "metadata", ".parquet"),
            )
        }
        numbers = sorted({number for files in found.values() for number in files})
        if not found["img_emb"] and not found["text_emb"]:
            raise UnreadableError(
                f"{shown(str(folder))} holds no output of clip-retrieval.",
                hint="Give the folder that has img_emb/, text_emb/ and metadata/ in it.",
            )
        return [self._part(number, found) for number in numbers]

    def _part(self, number: int, found: Mapping[str, Mapping[int, Path]]) -> _Rows:
        counts: dict[str, int] = {}
        table: ParquetSource | None = None
        arrays: list[tuple[str, str]] = []
        for kind, files in found.items():
            if not files:
                continue
            if number not in files:
                raise UnreadableError(
                    f"Part {number} of {shown(str(self.path))} has no file in {kind}/.",
                    hint="Copy the folder again, or remove the other files of this part.",
                )
            path = str(files[number])
            if kind == "metadata":
                table = self._table(path)
                counts[base_name(path)] = table.count() or 0
            else:
                arrays.append(("image" if kind == "img_emb" else "text", path))
                counts[base_name(path)] = len(open_array(path))
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{name} has {count:,}" for name, count in counts.items())
            raise BowerbirdError(
                f"The rows of part {number} of {shown(str(self.path))} do not belong together: {told}.",
                hint="Copy or write this part again.",
            )
        return _Rows(
            tuple(arrays), table, base_name(arrays[0][1]), self.label, 0, next(iter(counts.values()))
        )

    def _table(self, path: str) -> ParquetSource:
        names = ParquetSource(path).names()
        return ParquetSource(
            path,
            image="image_path" if "image_path" in names else "",
            text="caption" if "caption" in names else "",
            root=str(self.root),
        )


@dataclass(frozen=True)
class _Rows(Source):
    """Rows of arrays that belong together, with the records of a table.

    Attributes:
        arrays: names of vectors, and the files they are in.
        name: of the file that ids of rows without a table name.
        start: the first row.
        stop: the one after the last.
    """

    arrays: tuple[tuple[str, str], ...]
    table: Any
    name: str
    label: str
    start: int
    stop: int

    def describe(self) -> str:
        return f"rows {self.start:,} to {self.stop:,} of {self.name}"

    def __iter__(self) -> Iterator[Record | Failure]:
        arrays = {name: open_array(path) for name, path in self.arrays}
        known = iter(self.table if self.table is not None else ())
        for row in range(self.start, self.stop):
            yield self._record(arrays, row, next(known, None))

    def _record(self, arrays: Mapping[str, NDArray[Any]], row: int, known: Any) -> Record | Failure:
        place = f"{self.name}:{row + 1}"
        if isinstance(known, Failure):
            return known
        vectors, norms = {}, {}
        try:
            for name, array in arrays.items():
                vectors[name], norms[name] = unit(array[row], place)
        except InputError as error:
            return Failure(place, self.label, error)
        record = known if isinstance(known, Record) else Record(place, named=False)
        return replace(record, vectors={**record.vectors, **vectors}, norms={**record.norms, **norms})

    def parts(self) -> Sequence[Source]:
        if self.table is not None:
            return (self,)
        return [
            _Rows(self.arrays, None, self.name, self.label, start, min(start + PART_ROWS, self.stop))
            for start in range(self.start, self.stop, PART_ROWS)
        ]

    def count(self) -> int:
        return self.stop - self.start


def _count(table: Source) -> int:
    count = table.count()
    return sum(1 for _ in table) if count is None else count


def _table(place: str) -> Source:
    name = place.lower().removesuffix(".gz")
    if name.endswith(".parquet"):
        return ParquetSource(place)
    if name.endswith((".jsonl", ".ndjson")):
        return JsonLinesSource(place)
    if name.endswith((".csv", ".tsv", ".tab")):
        return CsvSource(place)
    raise BowerbirdError(
        f"{shown(place)} is no table that is known by its name.", hint="Give .parquet, .csv, .tsv or .jsonl."
    )


def _numbered(folder: Path, stem: str, suffix: str) -> dict[int, Path]:
    """Files `stem_N` by their numbers."""
    pattern = re.compile(rf"{stem}_([0-9]+){re.escape(suffix)}")
    found: dict[int, Path] = {}
    for path in sorted(folder.glob(f"{stem}_*{suffix}")):
        match = pattern.fullmatch(path.name)
        if match:
            number = int(match[1])
            if number in found:
                raise BowerbirdError(
                    f"{shown(str(folder))} has part {number} twice: {found[number].name} and {path.name}.",
                    hint="Remove the one that does not belong.",
                )
            found[number] = path
    return found
