"""What goes with a fitted model beside its vectors: the means of what it learned from, and what its scores mean.

An index that holds little yet has no good means of its own for the modality gap, and too few unrelated pairs to say
what a score means. Until it has, a fitted model's own figures count (`bowerbird.search.background`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bowerbird.learn.heads import Vectors
from bowerbird.models.card import Calibration
from bowerbird.search.gap import ENOUGH, decide
from bowerbird.search.labels import FEWEST, platt

MOST = 20_000
"""Held-out pairs that are looked at; more say nothing new about two numbers."""


def measured(
    images: Vectors,
    texts: Vectors,
    held_images: Vectors,
    held_texts: Vectors,
    links: NDArray[np.int64],
    seed: int = 0,
) -> Calibration:
    """Measure the calibration of a fitted space.

    Args:
        images: float32 (n, dim), unit vectors of the pictures that were learned from, in the fitted space.
        texts: (t, dim), of their texts.
        held_images: of pictures that were held out.
        held_texts: of their texts.
        links: int64 (m, 2): place of a held-out picture, place of one of its texts.
        seed: of the pairs that do not belong together.

    Returns:
        without means where fewer than `ENOUGH` were learned from, without a match where fewer than `FEWEST` pairs were
        held out, or where related pairs score no higher than others.
    """
    first = np.unique(links[:, 0], return_index=True)[1] if len(links) else np.zeros(0, np.int64)
    both = held_images[links[first, 0]], held_texts[links[first, 1]]
    if min(len(images), len(texts)) < ENOUGH:
        return Calibration(match=matches(held_images, held_texts, links, seed), pairs=len(links))
    return Calibration(
        _mean(images),
        _mean(texts),
        decide(images, texts, both).on,
        matches(held_images, held_texts, links, seed),
        len(links),
    )


def _mean(rows: Vectors) -> tuple[float, ...]:
    return tuple(rows.mean(0, dtype=np.float64).astype(np.float32).tolist())


def matches(
    images: Vectors, texts: Vectors, links: NDArray[np.int64], seed: int = 0
) -> tuple[float, float] | None:
    """Slope and bias of the probability that a cosine is of a pair that belongs together (Platt 1999).

    Args:
        images: float32 (n, dim), unit vectors of held-out pictures.
        texts: (t, dim), of their texts.
        links: int64 (m, 2), which belong together.
        seed: of the others: as many are drawn.
    """
    rng = np.random.default_rng(seed)
    together = {(int(picture), int(text)) for picture, text in links}
    if len(together) < FEWEST:
        return None
    if len(links) > MOST:
        links = links[rng.choice(len(links), MOST, replace=False)]
    drawn = np.stack([rng.integers(0, len(rows), 4 * len(links)) for rows in (images, texts)], 1)
    apart = np.array([pair for pair in drawn.tolist() if tuple(pair) not in together][: len(links)], np.int64)
    if len(apart) < FEWEST:
        return None
    pairs = np.concatenate([links, apart])
    cosines = (images[pairs[:, 0]] * texts[pairs[:, 1]]).sum(1).astype(np.float64)
    slope, bias = platt(cosines, np.repeat([1.0, 0.0], [len(links), len(apart)]))
    return (slope, bias) if slope > 0 else None
