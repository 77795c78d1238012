"""Lance's own indexes of vectors: when one is built, how it grows, and what it is asked about itself."""

from __future__ import annotations

import math
from typing import Any

from bowerbird.store.lance_memory import fits
from bowerbird.store.table import VectorColumn

UNINDEXED = 256
MOST_BESIDE = 8
"""So many rows are compared one by one until an index is extended; and so many small indexes lie beside the first
until they are merged."""


def has_index(dataset: Any, column: str) -> bool:
    """Whether there is a vector index on a column."""
    return any(column in index.field_names for index in dataset.describe_indices())


def built(dataset: Any, column: str) -> str:
    """Which index a column has: another name where it was built anew, the same where it has only grown; empty: none."""
    found = (index.segments for index in dataset.describe_indices() if column in index.field_names)
    return next((str(segments[0].uuid) for segments in found if segments), "")


def outgrown(dataset: Any, column: VectorColumn, rows: int) -> bool:
    """Whether a column is too large for search in memory, and its index missing or made for a quarter of the rows."""
    if fits(rows, column.dimensions):
        return False
    return not has_index(dataset, column.name) or 2 * partitions_of(dataset, column.name) < _partitions(rows)


def build_index(dataset: Any, column: VectorColumn, rows: int) -> Any:
    """Give a column a new index; returns the dataset that has it."""
    # RaBitQ is built ten times faster than product quantisation and ranks as well, given enough dimensions; it needs
    # whole bytes. With one bit a dimension recall depended on the build (.970 to .999), with three it does not.
    kind: dict[str, Any] = {"index_type": "IVF_RQ", "num_bits": 3}
    if column.dimensions < 256 or column.dimensions % 8:
        kind = {"index_type": "IVF_SQ"}
    return dataset.create_index(
        column.name, metric="dot", num_partitions=_partitions(rows), replace=True, **kind
    )


def extend_indexes(dataset: Any) -> None:
    """Add the rows that came since to all indexes of a dataset, of vectors and of words.

    They become small indexes beside the first. Lance would rather merge all into one, and joins partitions until few
    are left (316 became 7): slower, and worse.
    """
    for index in dataset.describe_indices():
        stats = dataset.stats.index_stats(index.name)
        if stats["num_unindexed_rows"] > UNINDEXED:
            beside = stats["num_indices"] - 1
            merged = beside if beside >= MOST_BESIDE else 0
            dataset.optimize.optimize_indices(num_indices_to_merge=merged, index_names=[index.name])


def partitions_of(dataset: Any, column: str) -> int:
    """Of the index on a column, those of its first part, which holds most rows; 1 where there is none."""
    for index in dataset.describe_indices():
        if column in index.field_names:
            return int(dataset.stats.index_stats(index.name)["indices"][0]["num_partitions"])
    return 1


def _partitions(rows: int) -> int:
    return max(1, min(round(math.sqrt(rows)), rows // 256))  # each is trained on 256 rows
