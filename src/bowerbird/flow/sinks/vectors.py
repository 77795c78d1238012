"""NumPy files: one array for each kind of vector, and a table that says which row is whose."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import BowerbirdError, UnsupportedInputError
from bowerbird.flow.plan import Chunk, Plan
from bowerbird.flow.report import RunReport
from bowerbird.flow.sinks import errors as errors_file
from bowerbird.flow.sinks.arrow import cells, to_arrow
from bowerbird.flow.sinks.errors import ErrorsFile
from bowerbird.flow.sinks.parquet import ParquetFormat, is_decoded, note_decoded
from bowerbird.flow.sinks.parts import TableParts
from bowerbird.flow.sinks.sink import Sink
from bowerbird.flow.sinks.unfinished import Unfinished, writing
from bowerbird.flow.sinks.widening import VECTOR
from bowerbird.record import name_of

RECORDS = "records.parquet"


class NpyFile:
    """A float32 array in a `.npy` file that grows row by row. It can be read once it is closed.

    Args:
        path: of the file.
        dim: length of each row.
    """

    def __init__(self, path: Path, dim: int) -> None:
        self.dim = dim
        self.rows = 0
        self._file: BinaryIO = path.open("wb")
        self._write_header()

    def append(self, rows: NDArray[np.float32]) -> None:
        """Add rows, (n, dim)."""
        self._file.write(np.ascontiguousarray(rows, "<f4").data)
        self.rows += len(rows)

    def close(self) -> None:
        """Complete the file: the header says how many rows there are."""
        if not self._file.closed:
            with self._file:
                # NumPy leaves room in its headers for the first dimension to grow.
                self._file.seek(0)
                self._write_header()

    def discard(self) -> None:
        """Close the file as it is; it will not be read."""
        # Closing writes what is buffered, for which there may be no room.
        with suppress(OSError):
            self._file.close()

    def _write_header(self) -> None:
        shape = (self.rows, self.dim)
        np.lib.format.write_array_header_1_0(
            self._file, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )


class NpySink(Sink):
    """Writes `image.npy`, `text.npy`, ... and `records.parquet` into a folder.

    Each array is float32 (n, dim), one row for each vector, in the order of the records. `records.parquet` has
    one row for each record: the columns of `bowerbird.flow.sinks.arrow` without the vectors, and for each name
    `row:NAME`, the first of its rows in `NAME.npy`, and `rows:NAME`, how many there are; both null where the
    record has no such vector. Where all records have all vectors, rows and records simply correspond.

    Dictionaries and arrays may be written too: what is a float array in them counts as a vector; the array of an
    element that is nothing else is called `vector`.

    Args:
        directory: for the output; it must not exist, or be empty.
        errors: the errors file; None: `errors.jsonl` in the folder, and until that is complete in
            `.NAME.partial` beside it.
        overwrite: whether output that is there already may be replaced.

    Raises:
        BowerbirdError: something is there already, or, at the end, nothing of what was written has had a vector.
    """

    def __init__(self, directory: Path, *, errors: Path | None = None, overwrite: bool = False) -> None:
        holds = ("*.npy", RECORDS, errors_file.NAME)
        self._place = Unfinished(Path(directory), overwrite=overwrite, holds=holds)
        self._errors = ErrorsFile(errors or self._place.output / errors_file.NAME)
        self._arrays: dict[str, NpyFile] = {}
        self._parts: TableParts | None = None
        self._pictures = 0
        self._met = False

    def adapt(self, plan: Plan) -> Plan:
        """See `Sink`."""
        self._errors.follow(plan)
        return plan

    def write(self, chunk: Chunk) -> None:
        """See `Sink`."""
        parts = self._begun()
        rows = []
        items = self._errors.take_from(chunk)
        self._pictures += sum(map(is_decoded, items))
        self._met = self._met or bool(items)
        with writing(self._place.target):
            for item in items:
                row = self._written(item)
                if row is not None:
                    rows.append(row)
            parts.add(to_arrow(rows))

    def finish(self, report: RunReport) -> None:
        """See `Sink`."""
        parts = self._begun()
        if self._met and not self._arrays:
            raise nothing_embedded()
        with writing(self._place.target):
            for array in self._arrays.values():
                array.close()
            parts.finish(lambda *_: self._place.output / RECORDS)
        self._errors.finish(report)
        self._place.complete()
        note_decoded(report, self._pictures)

    def abort(self) -> None:
        """See `Sink`."""
        for array in self._arrays.values():
            array.discard()
        if self._parts is not None:
            self._parts.abort()
        self._errors.close()
        self._place.discard()

    def _begun(self) -> TableParts:
        if self._parts is None:
            self._place.begin()
            self._parts = TableParts(self._place.folder, ParquetFormat())
        return self._parts

    def _written(self, item: Any) -> dict[str, Any] | None:
        """Write the vectors of an element; returns the rest of it, with the numbers of their rows."""
        row = cells(item)
        vectors = _vectors(row, alone=not isinstance(item, Mapping))
        for name, vector in vectors.items():
            known = self._arrays.get(name)
            if known is not None and known.dim != vector.shape[-1]:
                # Before any of its vectors is written: nothing of a refused record may be in the arrays.
                shown, dim = name_of(item), vector.shape[-1]
                error = UnsupportedInputError(
                    f"{shown} has a vector {name!r} of {dim} numbers, where others have {known.dim}.",
                    hint="Give vectors of another model another name: embed(..., name=...).",
                )
                self._errors.refuse(shown, error)
                return None
        for name, vector in vectors.items():
            array = self._arrays.get(name)
            if array is None:
                path = self._place.output / f"{quote(name, safe=' ')}.npy"
                array = self._arrays[name] = NpyFile(path, vector.shape[-1])
            row[f"row:{name}"] = array.rows
            row[f"rows:{name}"] = len(vector)
            array.append(vector)
        return row


def nothing_embedded() -> BowerbirdError:
    """Make the error of a run into a format of vectors that has not met any."""
    return BowerbirdError(
        "Nothing was embedded, so there are no vectors to write.",
        hint="Embed first: .embed(MODEL); or write Parquet, which needs none.",
    )


def _vectors(row: dict[str, Any], *, alone: bool) -> dict[str, NDArray[np.float32]]:
    """Take the vectors out of a row of cells: name -> (n, dim)."""
    found: dict[str, NDArray[np.float32]] = {}
    names = [name for name in row if name.startswith(VECTOR)]
    if not names:
        names = [name for name, value in row.items() if _is_vector(value)]
    for name in names:
        vector = np.atleast_2d(row.pop(name)).astype(np.float32, copy=False)
        called = "vector" if alone and name == "value" else name.removeprefix(VECTOR)
        found[called] = vector
    return found


def _is_vector(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim in (1, 2)
