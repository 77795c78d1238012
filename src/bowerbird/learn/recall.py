"""What is looked at while something is learned: how well pictures and texts find each other.

The measures are those of `bowerbird.judge.measures`, which tests hold these to: R@k is the share of what is right that
is among the first k, P@10 that of the first ten that are right, Rprec that of as many as
there are, AP the mean precision at each that is right. They are
written for matrices here, since they are asked for after every epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bowerbird.judge.significance import intervals
from bowerbird.learn.examples import Examples, Places, Vectors

Figures: TypeAlias = "dict[str, float]"
"""By direction and measure, such as `text->image R@10`, 0 to 1."""

Values: TypeAlias = "dict[str, dict[str, NDArray[np.float64]]]"
"""By direction and measure, a value for each query."""

Watched: TypeAlias = "list[NDArray[np.float64]]"
"""By direction, a value for each query."""

SURELY = 1.0
"""Standard errors by which something must gain to be better."""

PAIRS, CLASSES = "mean recall", "mean AP"
"""What is watched: the mean of R@1, R@5 and R@10 in both directions; of classes the mean average precision."""

CUTOFFS = (1, 5, 10)

_BLOCK = 20_000_000
"""Scores that are held at once."""


def aim(examples: Examples) -> str:
    """The figure by which heads for some examples are chosen."""
    return CLASSES if examples.classes else PAIRS


def figures(examples: Examples, images: Vectors | None, texts: Vectors | None) -> Figures:
    """The mean of each measure in each direction, and what is watched.

    Args:
        examples: what belongs together.
        images: (n, dim), of length 1; None: there are none.
        texts: (t, dim), likewise.
    """
    values = per_query(examples, images, texts)
    found = {
        f"{direction} {name}": _mean(one)
        for direction, measures in values.items()
        for name, one in measures.items()
    }
    if examples.classes:
        watched = [found[f"{direction} AP"] for direction in values][:1]
    else:
        watched = [found[f"{direction} R@{k}"] for direction in values for k in CUTOFFS]
    return {aim(examples): float(np.mean(watched)) if watched else float("nan"), **found}


def with_intervals(
    examples: Examples, images: Vectors | None, texts: Vectors | None
) -> dict[str, dict[str, dict[str, float]]]:
    """By direction and measure: `mean`, and `low` and `high`, the bootstrap interval of 95 %.

    It is over pictures, also where texts ask: the captions of one picture go well or badly together. Of classes it is
    over the classes that ask.

    Args: as of `figures`.
    """
    told: dict[str, dict[str, dict[str, float]]] = {}
    for direction, measures in per_query(examples, images, texts).items():
        names = list(measures)
        values = np.stack([measures[name] for name in names])
        if direction == "text->image":
            values = _by_picture(examples, values)
        told[direction] = {
            name: {"mean": _mean(measures[name]), "low": float(end.low), "high": float(end.high)}
            for name, end in zip(names, intervals(values), strict=True)
        }
    return told


def watched(examples: Examples, images: Vectors | None, texts: Vectors | None) -> Watched:
    """By direction, for each query what `aim` is the mean of.

    Args: as of `figures`.
    """
    directions = list(per_query(examples, images, texts).values())
    if examples.classes:
        return [measures["AP"] for measures in directions[:1]]
    return [np.mean([measures[f"R@{k}"] for k in CUTOFFS], 0) for measures in directions]


def surely(better: Watched, other: Watched) -> bool:
    """Whether what one gains on the other is more than `SURELY` standard errors of the gain, query by query.

    The best of many is often the luckiest.
    """
    gains = [one - two for one, two in zip(better, other, strict=True)]
    variance = sum(float(gain.var()) / max(len(gain), 1) for gain in gains)
    gain = float(np.mean([one.mean() for one in gains]))
    return gain > SURELY * float(np.sqrt(variance)) / len(gains) and gain > 0


def _by_picture(examples: Examples, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(measures, pictures): the mean over the texts of each picture, each text counted with its first picture."""
    asked, first = np.unique(examples.links[:, 1], return_index=True)
    _, place, counts = np.unique(examples.links[first, 0], return_inverse=True, return_counts=True)
    assert len(asked) == values.shape[1]  # the texts that have a picture
    return np.stack([np.bincount(place, row) / counts for row in values])


def per_query(examples: Examples, images: Vectors | None, texts: Vectors | None) -> Values:
    """Every measure for every query.

    Of pairs the directions are `text->image` and `image->text`, with R@1, R@5 and R@10. Of classes `class->image`,
    each class's name being a query, or, where there are no texts, `image->image`, with P@10, Rprec and AP.
    """
    if images is None or not len(examples):
        return {}
    if examples.classes:
        assert examples.labels is not None  # classes have them
        if texts is not None:
            right = examples.labels[None, :] == np.arange(len(examples.classes))[:, None]
            return {"class->image": _by_relevance(texts, images, right, alone=False)}
        right = examples.labels[None, :] == examples.labels[:, None]
        return {"image->image": _by_relevance(images, images, right, alone=True)}
    if texts is None or not len(examples.links):
        return {}
    pictures, words = examples.links[:, 0], examples.links[:, 1]
    return {
        "text->image": _recalls(texts, images, words, pictures),
        "image->text": _recalls(images, texts, pictures, words),
    }


def _blocks(queries: Vectors, found: Vectors) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    step = max(1, _BLOCK // max(1, len(found)))
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        yield rows, queries[rows] @ found.T


def ranks(queries: Vectors, found: Vectors, asking: Places, wanted: Places) -> NDArray[np.int64]:
    """The rank, from 1, of one thing for one query each; what is equal ranks in the order of `found`.

    Args:
        queries: (q, dim).
        found: (n, dim).
        asking: (m,): places in `queries`.
        wanted: (m,): places in `found`.
    """
    out = np.zeros(len(asking), np.int64)
    for rows, scores in _blocks(queries, found):
        here = np.flatnonzero((asking >= rows.start) & (asking < rows.start + len(scores)))
        for chunk in np.array_split(here, -(-max(1, len(here)) * len(found) // _BLOCK)):
            of = scores[asking[chunk] - rows.start]
            own = of[np.arange(len(chunk)), wanted[chunk]][:, None]
            before = np.arange(of.shape[1])[None, :] < wanted[chunk][:, None]
            rank = 1 + (of > own).sum(1) + ((of == own) & before).sum(1)
            # What is no number is behind all others.
            out[chunk] = np.where(np.isnan(own[:, 0]), of.shape[1], rank)
    return out


def _recalls(
    queries: Vectors, found: Vectors, asking: Places, wanted: Places
) -> dict[str, NDArray[np.float64]]:
    rank = ranks(queries, found, asking, wanted)
    asked, place, counts = np.unique(asking, return_inverse=True, return_counts=True)
    return {
        f"R@{k}": np.bincount(place, (rank <= k).astype(np.float64), len(asked)) / counts for k in CUTOFFS
    }


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _by_relevance(
    queries: Vectors, found: Vectors, right: NDArray[np.bool_], *, alone: bool
) -> dict[str, NDArray[np.float64]]:
    """P@10, Rprec and AP of the queries for which something is right; with `alone`, a query does not find itself."""
    precision, r_precision, average = [], [], []
    for rows, scores in _blocks(queries, found):
        relevant = right[rows]
        order = np.argsort(-scores, axis=1, kind="stable")
        if alone:
            own = np.arange(rows.start, rows.start + len(scores))[:, None]
            order = order[order != own].reshape(len(scores), -1)
        hits = np.take_along_axis(relevant, order, 1)
        total = hits.sum(1)
        at = hits.cumsum(1) / np.arange(1, hits.shape[1] + 1)
        some = total > 0
        precision.append((hits[:, :10].sum(1) / 10)[some])
        among = np.arange(hits.shape[1])[None, :] < total[:, None]
        r_precision.append(((hits & among).sum(1) / np.maximum(total, 1))[some])
        average.append(((at * hits).sum(1) / np.maximum(total, 1))[some])
    return {
        "P@10": np.concatenate(precision),
        "Rprec": np.concatenate(r_precision),
        "AP": np.concatenate(average),
    }
