"""Search for words in a Lance dataset, scored with BM25: through Lance's index, or without one.

BM25 as in Robertson and Zaragoza (2009), `k1` 1.2 and `b` 0.75, with idf = ln(1 + (n - df + 0.5) / (df + 0.5)); these
are Lance's, too. A word is what `filters.words_of` says. Lance cuts at underscores as well, and is asked for more than
is wanted: what does not hold one of the words is left out afterwards.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.store.filters import words_of
from bowerbird.store.lance_search import FEWEST, NOTHING, Found, top

COLUMN = "text"
K1 = 1.2
B = 0.75


def find_words(dataset: Any, text: str, k: int, where: str) -> Found:
    """The rows that hold some of the words of a text, best first, ties in the order of the rows.

    Args:
        dataset: of Lance.
        text: words.
        k: at most so many rows.
        where: a filter as Lance reads it; empty: all rows.
    """
    words = sorted(set(words_of(text)))
    if k < 1 or not words:
        return NOTHING
    if has_words_index(dataset):
        return _through_index(dataset, words, k, where)
    return _compared(dataset, words, k, where)


def has_words_index(dataset: Any) -> bool:
    """Whether the texts are indexed."""
    return any(index.field_names == [COLUMN] for index in dataset.describe_indices())


def index_words(dataset: Any) -> None:
    """Index the texts, if there are any and they are not."""
    if (
        COLUMN in dataset.schema.names
        and not has_words_index(dataset)
        and dataset.count_rows(f"{COLUMN} IS NOT NULL")
    ):
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


def _through_index(dataset: Any, words: list[str], k: int, where: str) -> Found:
    wanted = FEWEST
    while True:
        while wanted < k:
            wanted *= 4
        found = dataset.scanner(
            columns=[COLUMN, "_score"],
            full_text_query={"query": " ".join(words), "columns": [COLUMN]},
            limit=wanted,
            filter=where or None,
            prefilter=True,
            with_row_id=True,
        ).to_table()
        known = set(words)
        held = np.array([not known.isdisjoint(words_of(text)) for text in found[COLUMN].to_pylist()], bool)
        ids: NDArray[np.uint64] = found["_rowid"].to_numpy()[held]
        scores = found["_score"].to_numpy()[held]
        best = np.lexsort((ids, -scores))[:k]
        # Of equal scores at the cut Lance may have left out any.
        cut = found["_score"].to_numpy().min() if found.num_rows else 0
        if found.num_rows < wanted or (len(best) == k and scores[best[-1]] > cut):
            return ids[best], scores[best]
        wanted *= 4


def _compared(dataset: Any, words: list[str], k: int, where: str) -> Found:
    """Without an index: every text is read. What the filter leaves out counts for how rare a word is all the same."""
    passing: set[int] | None = None
    if where:
        passing = set(
            dataset.scanner(columns=[], filter=where, with_row_id=True).to_table()["_rowid"].to_pylist()
        )
    known, held, length, texts = set(words), Counter[str](), 0, 0
    hits: list[tuple[int, int, Counter[str]]] = []
    scanner = dataset.scanner(
        columns=[COLUMN], filter=f"{COLUMN} IS NOT NULL", with_row_id=True, scan_in_order=True
    )
    for batch in scanner.to_batches():
        for id_, text in zip(batch["_rowid"].to_pylist(), batch[COLUMN].to_pylist(), strict=True):
            all_words = words_of(text)
            length += len(all_words)
            texts += 1
            if counts := Counter(word for word in all_words if word in known):
                held.update(counts.keys())
                if passing is None or id_ in passing:
                    hits.append((id_, len(all_words), counts))
    mean = length / max(texts, 1)
    rarity = {word: math.log(1 + (texts - count + 0.5) / (count + 0.5)) for word, count in held.items()}
    scores = np.array(
        [
            sum(
                rarity[word] * n * (K1 + 1) / (n + K1 * (1 - B + B * long / mean))
                for word, n in counts.items()
            )
            for _, long, counts in hits
        ],
        np.float32,
    )
    best = top(scores, k)
    return np.array([hit[0] for hit in hits], np.uint64)[best], scores[best]
