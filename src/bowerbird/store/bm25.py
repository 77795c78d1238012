"""Search for words, for stores that have none of their own: the texts in memory, scored with BM25.

BM25 as in Robertson and Zaragoza (2009), `k1` 1.2 and `b` 0.75, with Lucene's idf = ln(1 + (n - df + 0.5) / (df +
0.5)), where `n` is the number of texts and `df` that of the texts with the word. A word is what `filters.words_of`
says.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from bowerbird.store.filters import words_of

K1 = 1.2
B = 0.75


class Bm25:
    """The words of some texts, each text at its own place.

    Args:
        texts: None where there is no text; it counts for nothing and is never found.
    """

    def __init__(self, texts: Iterable[str | None]) -> None:
        self._held: dict[str, list[tuple[int, int]]] = {}  # word -> (place, how often)
        lengths = []
        self._texts = 0
        for place, text in enumerate(texts):
            found = words_of(text or "")
            self._texts += text is not None
            lengths.append(len(found))
            for word, count in Counter(found).items():
                self._held.setdefault(word, []).append((place, count))
        self._lengths = np.array(lengths, np.float64)  # (places,), in words

    def scores(self, text: str) -> NDArray[np.float32]:
        """How well each text answers to some words: float32 (places,), 0 for one that has none of them."""
        total = np.zeros(len(self._lengths))
        mean = self._lengths.sum() / max(self._texts, 1)
        for word in sorted(set(words_of(text))):
            held = self._held.get(word)
            if not held:
                continue
            places, counts = np.array(held, np.int64).T
            rarity = math.log(1 + (self._texts - len(held) + 0.5) / (len(held) + 0.5))
            length = 1 - B + B * self._lengths[places] / mean
            total[places] += rarity * counts * (K1 + 1) / (counts + K1 * length)
        return total.astype(np.float32)
