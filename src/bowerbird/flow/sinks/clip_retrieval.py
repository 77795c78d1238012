"""The folder that clip-retrieval's `inference` writes and its `index` reads.

::

    img_emb/img_emb_0.npy         float32 (n, dim)
    text_emb/text_emb_0.npy       float32 (n, dim)
    metadata/metadata_0.parquet   image_path, caption, and what else is known

Row i of all three belongs together. Numbers have as many digits as the number of parts has: 0 to 9, or 00 to 11.
Source: clip_retrieval/clip_inference/writer.py of github.com/rom1504/clip-retrieval; that writes float16 arrays,
and everything that reads them takes float32 too, so nothing is rounded here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import BowerbirdError, UnsupportedInputError
from bowerbird.flow.plan import Chunk, Plan
from bowerbird.flow.report import RunReport
from bowerbird.flow.sinks import errors as errors_file
from bowerbird.flow.sinks.arrow import ATTRIBUTE, address, facts, to_arrow
from bowerbird.flow.sinks.errors import ErrorsFile
from bowerbird.flow.sinks.parquet import ParquetFormat
from bowerbird.flow.sinks.parts import TableParts
from bowerbird.flow.sinks.sink import Sink
from bowerbird.flow.sinks.unfinished import Unfinished, writing
from bowerbird.flow.sinks.vectors import NpyFile, nothing_embedded
from bowerbird.record import Record, name_of

ROWS = 100_000

_FOLDERS = {"image": "img_emb", "text": "text_emb"}
_PARTS = {"image": "picture", "text": "text"}
_METADATA = "metadata"


class ClipRetrievalSink(Sink):
    """Writes records with vectors `image`, `text` or both as clip-retrieval does.

    Which of the two the folder has is asked for, or is what the records of the first chunk have altogether. A
    record that lacks one of them is a failure, counted and listed in the errors file, since rows have to
    correspond (clip-retrieval leaves such records out). So is one that has more than the folder, unless that was
    asked for. A record with several captions becomes a row for each, with its picture's vector repeated.

    The metadata have `image_path` (the address; the id where the picture lies nowhere), `caption`, `id`, the
    attributes (`attribute:NAME` where the name is one of these), and what decoding has told of the picture.

    Args:
        directory: for the output; it must not exist, or be empty.
        rows: about how many a part holds.
        vectors: `image`, `text` or both; empty: see above.
        errors: the errors file; None: `errors.jsonl` in the folder, and until that is complete in
            `.NAME.partial` beside it.
        overwrite: whether output that is there already may be replaced.

    Raises:
        BowerbirdError: something is there already, there are no vectors of that name, or, at the end, no record has
            had any.
    """

    def __init__(
        self,
        directory: Path,
        rows: int = ROWS,
        *,
        vectors: tuple[str, ...] = (),
        errors: Path | None = None,
        overwrite: bool = False,
    ) -> None:
        unknown = [name for name in vectors if name not in _FOLDERS]
        if unknown:
            raise BowerbirdError(
                f"A clip-retrieval folder has no vectors {unknown[0]!r}.", hint="Give image, text or both."
            )
        if rows < 1:
            raise BowerbirdError(f"rows={rows}: a part needs one row at least.")
        self._place = Unfinished(
            Path(directory), overwrite=overwrite, holds=(*_FOLDERS.values(), _METADATA, errors_file.NAME)
        )
        self._errors = ErrorsFile(errors or self._place.output / errors_file.NAME)
        self._rows = rows
        self._names = tuple(vectors)
        self._given = bool(vectors)
        self._met = False
        self._dims: dict[str, int] = {}
        self._arrays: dict[str, NpyFile] = {}
        self._arrays_done = 0
        self._parts: TableParts | None = None

    def adapt(self, plan: Plan) -> Plan:
        """See `Sink`."""
        self._errors.follow(plan)
        return plan

    def write(self, chunk: Chunk) -> None:
        """See `Sink`."""
        parts = self._begun()
        items = self._errors.take_from(chunk)
        self._met = self._met or bool(items)
        if not self._names:
            found = {name for item in items if isinstance(item, Record) for name in item.vectors}
            self._names = tuple(name for name in _FOLDERS if name in found)
        with writing(self._place.target):
            rows: list[dict[str, Any]] = []
            for item in items:
                rows += self._written(item)
            parts.add(to_arrow(rows))
            if self._arrays and next(iter(self._arrays.values())).rows >= self._rows:
                parts.roll()
                self._close_arrays()

    def finish(self, report: RunReport) -> None:
        """See `Sink`."""
        parts = self._begun()
        if self._met and not self._dims:
            raise nothing_embedded()
        output = self._place.output
        with writing(self._place.target):
            self._close_arrays()
            (output / _METADATA).mkdir()
            parts.finish(
                lambda number, count: output / _METADATA / f"metadata_{_padded(number, count)}.parquet"
            )
            for name in self._names:
                folder = _FOLDERS[name]
                (output / folder).mkdir()
                for number in range(self._arrays_done):
                    padded = _padded(number, self._arrays_done)
                    self._under_way(name, number).replace(output / folder / f"{folder}_{padded}.npy")
        self._errors.finish(report)
        self._place.complete()

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

    def _under_way(self, name: str, number: int) -> Path:
        return self._place.folder / f"{_FOLDERS[name]}-{number}.npy"

    def _close_arrays(self) -> None:
        if self._arrays:
            for array in self._arrays.values():
                array.close()
            self._arrays = {}
            self._arrays_done += 1

    def _written(self, item: Any) -> list[dict[str, Any]]:
        """Write the vectors of an element; returns its rows of metadata, none when it is refused."""
        reason = self._reason_against(item)
        if reason:
            error = UnsupportedInputError(
                f"{name_of(item)} {reason}.",
                hint="Rows of a clip-retrieval folder correspond; write Parquet to keep records that lack a part, "
                "or name the vectors to write.",
            )
            self._errors.refuse(name_of(item), error)
            return []
        vectors = {name: np.atleast_2d(item.vectors[name]) for name in self._names}
        count = max(map(len, vectors.values()))
        for name, vector in vectors.items():
            self._dims.setdefault(name, vector.shape[1])
            if name not in self._arrays:
                path = self._under_way(name, self._arrays_done)
                self._arrays[name] = NpyFile(path, vector.shape[1])
            self._arrays[name].append(_repeated(vector, count))
        return [_metadata(item, row) for row in range(count)]

    def _reason_against(self, item: Any) -> str:
        if not isinstance(item, Record):
            return "is not a record"
        missing = [name for name in self._names if name not in item.vectors]
        if missing or not self._names:
            parts = " and a ".join(_PARTS[name] for name in missing)
            needed = f", and this layout needs a {parts} in every row" if parts else ""
            return f"has no vector of a {parts or 'picture or a text'}{needed}"
        more = [name for name in _FOLDERS if name in item.vectors and name not in self._names]
        if more and not self._given:
            return f"has a vector {more[0]}, which none of the first records had"
        for name in self._names:
            dim = item.vectors[name].shape[-1]
            if dim != self._dims.get(name, dim):
                return f"has a vector {name} of {dim} numbers, where others have {self._dims[name]}"
        several = {len(np.atleast_2d(item.vectors[name])) for name in self._names} - {1}
        if len(several) > 1:
            return "has several pictures and another number of texts"
        return ""


def _repeated(vector: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    return vector if len(vector) == count else np.repeat(vector, count, axis=0)


def _metadata(record: Record, row: int) -> dict[str, Any]:
    caption = record.texts[row] if row < len(record.texts) else record.text
    metadata = {"image_path": address(record.image) or record.id, "caption": caption, "id": record.id}
    for name, value in record.attributes.items():
        taken = name in metadata or name.startswith(ATTRIBUTE)
        metadata[ATTRIBUTE + name if taken else name] = value
    return {**metadata, **facts(record)}


def _padded(number: int, count: int) -> str:
    return str(number).zfill(len(str(count)))
