"""Rows of an index drawn at random, with their vectors: what is judged of an index is judged of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import QueryError
from bowerbird.record import Modality
from bowerbird.search.entries import called, labels
from bowerbird.store.table import VectorColumn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bowerbird.search.index import Index
    from bowerbird.store.filters import Filter
    from bowerbird.store.manifest import ModelEntry


@dataclass(frozen=True, eq=False)
class Sampled:
    """Some rows of an index.

    Attributes:
        facts: by column, a value for each row.
        vectors: by vector column, float32 (rows, dim): unit vectors as stored, zeros where there is none.
        present: by vector column, bool (rows,): whether there is one.
        whole: whether these are all rows that there are.
    """

    facts: Mapping[str, list[Any]]
    vectors: Mapping[str, NDArray[np.float32]]
    present: Mapping[str, NDArray[np.bool_]]
    whole: bool

    def __len__(self) -> int:
        return len(self.facts["id"])

    def held(self, column: VectorColumn) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Numbers of the rows that have such a vector, none of them broken, and the vectors (n, dim)."""
        vectors = self.vectors[column.name]
        usable = self.present[column.name] & np.isfinite(vectors).all(1) & vectors.any(1)
        rows = np.flatnonzero(usable)
        return rows, vectors[rows]


def sampled(
    index: Index,
    vectors: Sequence[VectorColumn],
    facts: Sequence[str],
    k: int,
    *,
    seed: int = 0,
    where: Filter | None = None,
) -> Sampled:
    """Draw at most `k` rows; the same ones for the same version of the table and seed.

    Args:
        index: it is only read.
        vectors: columns whose vectors are wanted.
        facts: other columns; `id` is always among them.
        k: at most this many rows.
        seed: of the choice.
        where: only rows that pass this filter.
    """
    names = ["id", *(name for name in facts if name != "id")]
    drawn = index.table.sample(
        [*names, *(column.name for column in vectors)], k, seed=seed, where=where
    ).combine_chunks()
    matrices, present = {}, {}
    for column in vectors:
        lists = drawn[column.name].combine_chunks()
        there = lists.is_valid().to_numpy(zero_copy_only=False)
        matrix = np.zeros((len(lists), column.dimensions), np.float32)
        if there.any():
            matrix[there] = lists.flatten().to_numpy().reshape(-1, column.dimensions)
        matrices[column.name], present[column.name] = matrix, there
    known = {name: drawn[name].to_pylist() for name in names}
    return Sampled(known, matrices, present, drawn.num_rows < k or drawn.num_rows == index.table.count(where))


def label(index: Index, entry: ModelEntry) -> str:
    """What a model is called among all of its index; see `labels`."""
    return labels(index.manifest.models)[entry.space]


def single(index: Index, model: str) -> ModelEntry:
    """The one model that a name means; empty: the first.

    Raises:
        QueryError: there is no such model, or the name means several.
    """
    entry, *more = index.entries(model)
    if more:
        raise QueryError(
            f"{model!r} means {len(more) + 1} models, and one is looked at.",
            hint=f"Name one of them, such as {called(entry)}.",
        )
    return entry


def shared_columns(entry: ModelEntry) -> tuple[VectorColumn | None, VectorColumn | None]:
    """The columns of pictures and of texts in the output that both share; None for what there is none of."""
    # The first of pictures is the shared one.
    return _first(entry.columns, Modality.IMAGE), _first(entry.columns, Modality.TEXT)


def similar_columns(entry: ModelEntry) -> list[VectorColumn]:
    """The columns that compare like with like best: of pictures, then of texts, so far as the model takes both."""
    last = entry.columns[::-1]
    found = (_first(last, modality) for modality in (Modality.IMAGE, Modality.TEXT))
    return [column for column in found if column is not None]


def _first(columns: Sequence[VectorColumn], modality: Modality) -> VectorColumn | None:
    return next((column for column in columns if column.modality == modality), None)
