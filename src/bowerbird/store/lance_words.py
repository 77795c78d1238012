"""Search for words in a Lance dataset, scored with BM25: through Lance's index, or in memory where there is none.

Lance's BM25 is that of `store.bm25`. A word is what `filters.words_of` says. Lance cuts at underscores as well; what it
finds that does not hold one of the words is left out afterwards.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.store.bm25 import Bm25
from bowerbird.store.filters import words_of
from bowerbird.store.lance_search import NOTHING, Found, Passing, top

COLUMN = "text"

FEWEST = 64
"""The index is asked for so many, or sixteen times as many and so on."""


class WordSearch:
    """Search in whichever version of a dataset it is given."""

    def __init__(self) -> None:
        self._held: tuple[int, NDArray[np.uint64], Bm25] | None = None

    def find(self, dataset: Any, text: str, k: int, some: Passing | None) -> Found:
        """The rows that hold some of the words of a text, best first, ties in the order of the rows.

        Args:
            dataset: of Lance.
            text: words.
            k: at most so many rows.
            some: the rows to search; None: all.
        """
        words = sorted(set(words_of(text)))
        if k < 1 or not words or (some is not None and not len(some.ids)):
            return NOTHING
        if has_words_index(dataset):
            return _through_index(dataset, words, k, some)
        return self._in_memory(dataset, text, k, some)

    def _in_memory(self, dataset: Any, text: str, k: int, some: Passing | None) -> Found:
        if self._held is None or self._held[0] != dataset.version:
            table = dataset.scanner(columns=[COLUMN], with_row_id=True, scan_in_order=True).to_table()
            held = Bm25(table[COLUMN].to_pylist())
            self._held = int(dataset.version), table["_rowid"].to_numpy(), held
        _, ids, held = self._held
        scores = held.scores(text)
        if some is not None:
            passing = np.zeros(len(scores), bool)
            passing[np.searchsorted(ids, some.ids)] = True
            scores[~passing] = 0
        best = top(np.where(scores > 0, scores, -np.inf).astype(np.float32), k)
        return ids[best], scores[best]


def _through_index(dataset: Any, words: list[str], k: int, some: Passing | None) -> Found:
    wanted = FEWEST
    while True:
        while wanted <= k:
            wanted *= 16
        table = dataset.scanner(
            columns=["_score"],
            full_text_query={"query": " ".join(words), "columns": [COLUMN]},
            limit=wanted,
            prefilter=True,
            with_row_id=True,
            row_addr_allowlist=None if some is None else some.for_lance,
        ).to_table()
        ids, scores = table["_rowid"].to_numpy(), table["_score"].to_numpy()
        order = np.lexsort((ids, -scores))
        ids, scores = ids[order], scores[order]
        complete = len(ids) < wanted
        if not complete:
            # Of those that score as the last one, Lance may have left out any.
            sure = int(np.searchsorted(-scores, -scores[-1]))
            ids, scores = ids[:sure], scores[:sure]
        found = _holding(dataset, words, (ids, scores), k)
        if complete or len(found[0]) == k:
            return found
        wanted *= 16


def _holding(dataset: Any, words: list[str], found: Found, k: int) -> Found:
    """The first `k` that hold one of the words; most do."""
    ids, scores = found
    known, kept = set(words), np.empty(0, np.int64)
    for start in range(0, len(ids), max(k, FEWEST)):
        here = ids[start : start + max(k, FEWEST)]
        texts = dataset._take_rows(here.tolist(), columns=[COLUMN])[COLUMN].to_pylist()
        held = [not known.isdisjoint(words_of(text or "")) for text in texts]
        kept = np.concatenate([kept, start + np.flatnonzero(held)])[:k]
        if len(kept) == k:
            break
    return ids[kept], scores[kept]


def has_words_index(dataset: Any) -> bool:
    """Whether the texts are indexed."""
    return any(index.field_names == [COLUMN] for index in dataset.describe_indices())


def index_words(dataset: Any) -> None:
    """Index the texts, if there are any and they are not."""
    if COLUMN not in dataset.schema.names or has_words_index(dataset):
        return
    if dataset.count_rows(f"{COLUMN} IS NOT NULL"):
        dataset.create_scalar_index(
            COLUMN,
            "INVERTED",
            base_tokenizer="simple",
            lower_case=True,
            stem=False,
            remove_stop_words=False,
            ascii_folding=False,
            max_token_length=None,
            with_position=False,
        )
