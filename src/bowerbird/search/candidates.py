"""Rows that several rankings found, as one Arrow table: joined, their vectors, their exact copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bowerbird.store.table import SCORE

if TYPE_CHECKING:
    import pyarrow as pa


def together(tables: Sequence[pa.Table]) -> pa.Table:
    """All rows that were found, each once, those of the first table first."""
    import pyarrow as pa

    plain = [table.drop_columns([SCORE]) for table in tables]
    if len(plain) == 1:
        return plain[0]
    joined = pa.concat_tables(plain)
    first: dict[str, int] = {}
    for row, id_ in enumerate(joined["id"].to_pylist()):
        first.setdefault(id_, row)
    return joined.take(np.asarray(list(first.values()), np.int64))


def vectors_of(rows: pa.Table, name: str, width: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The places of rows that have a vector, and the vectors, float32 (n, dim)."""
    column = rows[name]
    there = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    parts = [chunk.drop_null().flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    flat = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    return there, flat.reshape(-1, width).astype(np.float32, copy=False)


def distinct(
    candidates: pa.Table, order: NDArray[np.int64], exclude: str
) -> tuple[list[int], dict[str, int]]:
    """The rows to show, exact copies of one picture shown as one, and how many copies there are of each.

    Args:
        candidates: with `id` and `content`.
        order: of their places, best first.
        exclude: content that is left out.
    """
    rows: list[int] = []
    copies: dict[str, int] = {}
    same, contents = sameness(candidates), candidates["content"].to_pylist()
    for row in order.tolist():
        if exclude and contents[row] == exclude:
            continue  # The record asked about, and its copies, are not its own neighbours.
        if same[row] not in copies:
            rows.append(row)
        copies[same[row]] = copies.get(same[row], 0) + 1
    return rows, copies


def sameness(found: pa.Table) -> list[str]:
    """What exact copies have in common: their content; a record to which the user gave an id is like no other."""
    pairs = zip(found["id"].to_pylist(), found["content"].to_pylist(), strict=True)
    return [content if content and id_.startswith(content) else id_ for id_, content in pairs]
