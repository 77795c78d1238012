"""Elements as Arrow tables: one mapping for Parquet, Lance, `to_arrow`, pandas and Polars.

A record becomes these columns:

====================  ===================================================================================
`id`                  string
`image`               string: absolute path (as a `file://` URI where it is not valid Unicode) or address; null
                      when there is no picture, or one that lies nowhere
`image_bytes`         binary: a picture that was given as the bytes of its file. Decoded pictures are not kept
`texts`               list<string>
`content`             string: content id
attributes            by their names; `attribute:NAME` where the name is one of the others
`width`, `height`     int64: of the picture in pixels, once it has been decoded
`format`, `taken_at`  string, timestamp: likewise. An attribute of one of these four names stands in its stead
`vector:NAME`         fixed_size_list<float32>; where some record has several: list of those
`norm:NAME`           float32, or list<float32> likewise
`ids`, `scores`       list<string>, list<float>: what a search found
====================  ===================================================================================

A dictionary becomes columns by its keys; any other element is in the column `value`. Failures become no rows.

Types are found from the values; see `bowerbird.flow.sinks.widening`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.flow.files import to_uri
from bowerbird.flow.sinks.widening import NORM, VECTOR, column, text_of
from bowerbird.media.reading import Readable
from bowerbird.record import Failure, Record

if TYPE_CHECKING:
    import pyarrow as pa

ATTRIBUTE = "attribute:"
_TAKEN = frozenset(("id", "image", "image_bytes", "texts", "content", "ids", "scores"))
_PREFIXES = (VECTOR, NORM, ATTRIBUTE)
_FACTS = ("width", "height", "format", "taken_at")


def to_arrow(items: Iterable[Any]) -> pa.Table:
    """One row for each element that is not a `Failure`, in order; see the module's docstring for the columns."""
    import pyarrow as pa

    columns, count = _columns(items)
    if not columns and count:
        # Rows need a column: these elements are empty dictionaries.
        return pa.table({"value": pa.nulls(count)})
    return pa.table({name: column(name, values, _empty(name)) for name, values in columns.items()})


def cells(item: Any) -> dict[str, Any]:
    """The values of one element by column."""
    if isinstance(item, Record):
        return _cells_of_record(item)
    if isinstance(item, Mapping):
        return {str(name): value for name, value in item.items()}
    return {"value": item}


def address(image: Any) -> str | None:
    """Where a picture lies, as it is stored; None for bytes and decoded pictures."""
    if isinstance(image, Path):
        # Absolute: readers take relative paths as below the folder of the table.
        return to_uri(os.path.abspath(image))
    if isinstance(image, (Readable, str)):
        return text_of(str(image))
    return None


def facts(record: Record) -> dict[str, Any]:
    """What decoding has told of the picture of a record, by column; not what an attribute of the name says."""
    return {
        name: record.facts[name] for name in _FACTS if name in record.facts and name not in record.attributes
    }


def _cells_of_record(record: Record) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": record.id,
        "image": address(record.image),
        "texts": list(record.texts),
        "content": record.content or None,
    }
    if isinstance(record.image, (bytes, bytearray, memoryview)):
        row["image_bytes"] = bytes(record.image)
    for name, value in record.attributes.items():
        taken = name in _TAKEN or name.startswith(_PREFIXES)
        row[ATTRIBUTE + name if taken else name] = value
    row.update(facts(record))
    for name, vector in record.vectors.items():
        row[VECTOR + name] = np.asarray(vector, np.float32)
    for name, norm in record.norms.items():
        row[NORM + name] = np.asarray(norm, np.float32) if np.ndim(norm) else np.float32(norm)
    if record.hits is not None:
        row["ids"] = list(record.hits.ids)
        row["scores"] = np.asarray(record.hits.scores)
    return row


def _columns(items: Iterable[Any]) -> tuple[dict[str, list[Any]], int]:
    columns: dict[str, list[Any]] = {}
    count = 0
    for item in items:
        if isinstance(item, Failure):
            continue
        for name, value in cells(item).items():
            if name not in columns:
                columns[name] = [None] * count
            columns[name].append(value)
        count += 1
        for values in columns.values():
            if len(values) < count:
                values.append(None)
    return columns, count


def _empty(name: str) -> pa.DataType | None:
    """The type of a column of records of which the values say nothing."""
    import pyarrow as pa

    if name in ("id", "image", "content"):
        return pa.string()
    if name == "taken_at":
        return pa.timestamp("us")
    return pa.list_(pa.string()) if name == "texts" else None
