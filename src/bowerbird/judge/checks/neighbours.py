"""Who is near whom: copies, near duplicates, records far from all others, records that are everybody's neighbour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bowerbird.judge.checks.finding import (
    NEIGHBOURS,
    SHOWN,
    Array,
    Case,
    Example,
    Finding,
    Level,
    are,
    count,
    shown,
)
from bowerbird.judge.sampled import shared_columns
from bowerbird.record import Modality
from bowerbird.store.filters import IsNull, Not, Or, among
from bowerbird.store.manifest import ModelEntry
from bowerbird.store.table import SCORE, VectorColumn

FEWEST = 30
"""Records without which outliers and hubs mean nothing."""

FAR = 3.5
"""Modified z-score from which on a value is an outlier (Iglewicz and Hoaglin 1993)."""

SKEWED = 3.0
"""Skewness of the number of lists a record is in, from which on hubs are worth a word. In spaces of few dimensions it
is near 0 (Radovanović, Nanopoulos and Ivanović 2010, JMLR 11)."""

CROWDED = 10.0
"""A hub is in so many times as many lists as it would be if all were in equally many."""

ASKED = 500
"""Records whose neighbours are looked for in the whole index, where it is larger than the sample."""

BLOCK = 1024


def copies(case: Case) -> Iterator[Finding]:
    """Exact copies: records whose pictures have the same bytes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    batches = case.index.table.scan(["picture", "content"], where=Not(IsNull("format")))
    keys = [pc.coalesce(batch.column("picture"), batch.column("content")) for batch in batches]
    if not keys:
        return
    counted = pc.value_counts(pa.chunked_array(keys))
    several = counted.filter(pc.greater(counted.field("counts"), 1))
    groups = sorted(
        zip(several.field("values").to_pylist(), several.field("counts").to_pylist(), strict=True),
        key=lambda pair: (-pair[1], pair[0] or ""),
    )
    groups = [group for group in groups if group[0]]
    pictures = sum(map(len, keys))
    if not pictures:
        return
    if not groups:
        yield Finding(
            "copies",
            Level.OK,
            f"No two of {count(pictures, 'picture')} have the same bytes.",
            figures={"groups": 0},
        )
        return
    extra = sum(number - 1 for _, number in groups)
    yield Finding(
        "copies",
        Level.NOTE,
        f"{count(extra, 'picture')} of {pictures:,} {are(extra)} an exact copy of another; searches show "
        "files of the same bytes once, records with ids of your own each.",
        do="Delete the copies, if nobody needs them.",
        figures={"copies": extra, "groups": len(groups)},
        examples=tuple(_copies_of(case, [content for content, _ in groups[:SHOWN]])),
    )


def _copies_of(case: Case, contents: Sequence[str]) -> Iterator[Example]:
    where = Or((among("picture", contents), among("content", contents)))
    found: dict[str, list[tuple[str, str]]] = {}
    for batch in case.index.table.scan(["id", "uri", "picture", "content"], where=where):
        for id_, uri, picture, content in zip(*(c.to_pylist() for c in batch.columns), strict=True):
            found.setdefault(picture or content, []).append((id_, shown(uri, id_)))
    for content in contents:
        group = sorted(found.get(content, []))
        yield Example(
            tuple(id_ for id_, _ in group[:SHOWN]),
            tuple(name for _, name in group[:SHOWN]),
            f"{len(group)} copies",
        )


@dataclass(frozen=True)
class Near:
    """The nearest neighbours among some vectors.

    Attributes:
        neighbours: int (n, k), the nearest first; nobody is its own neighbour.
        cosines: float32 (n, k).
    """

    neighbours: Array
    cosines: Array


def nearest(vectors: Array, k: int) -> Near:
    """The `k` nearest of each row among the others, exactly, in blocks; fewer where there are not so many."""
    k = min(k, len(vectors) - 1)
    neighbours = np.zeros((len(vectors), k), np.int64)
    cosines = np.zeros((len(vectors), k), np.float32)
    for start in range(0, len(vectors), BLOCK):
        scores = vectors[start : start + BLOCK] @ vectors.T
        rows = np.arange(len(scores))
        scores[rows, rows + start] = -np.inf
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k] if k else neighbours[:0]
        order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1, kind="stable")
        neighbours[start : start + BLOCK] = np.take_along_axis(best, order, 1)
        cosines[start : start + BLOCK] = np.take_along_axis(scores, neighbours[start : start + BLOCK], 1)
    return Near(neighbours, cosines)


def neighbourhood(case: Case) -> Iterator[Finding]:
    """Near duplicates, outliers and hubs under each model, among the records of the sample."""
    for entry in case.entries:
        column = case.similar(entry)
        if column is None:
            continue
        rows, vectors = case.drawn.held(column)
        first = _one_of_each(case, rows, column)
        rows, vectors = rows[first], vectors[first]
        if len(rows) < 2:
            continue
        near = nearest(vectors, NEIGHBOURS)
        if case.drawn.whole:
            yield _near_duplicates(case, entry, column, rows, near)
        else:
            yield _near_in_index(case, entry, column, rows, vectors)
        if len(rows) >= FEWEST:
            yield _outliers(case, entry, column, rows, near)
            yield _hubs(case, entry, rows, near.neighbours.ravel(), "lists of neighbours")
            yield from _crowded_by_texts(case, entry)


def _one_of_each(case: Case, rows: Array, column: VectorColumn) -> Array:
    """Positions of one row of each picture, or text: exact copies are no neighbours."""
    keys = [_key(case, row, column) for row in rows.tolist()]
    first: dict[str, int] = {}
    for position, key in enumerate(keys):
        first.setdefault(key or f"no key {position}", position)
    return np.fromiter(first.values(), np.int64)


def _key(case: Case, row: int, column: VectorColumn) -> str | None:
    """What exact copies of the picture, or of the text, of a row share; empty for none."""
    return case.picture(row) if column.modality == Modality.IMAGE else case.drawn.facts["text"][row]


def _near_duplicates(case: Case, entry: ModelEntry, column: VectorColumn, rows: Array, near: Near) -> Finding:
    links = np.argwhere(near.cosines >= case.near)
    pairs = {
        (min(a, b), max(a, b)): float(near.cosines[a, at])
        for a, at in links.tolist()
        for b in (int(near.neighbours[a, at]),)
    }
    ordered = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
    concerned = len({row for pair in pairs for row in pair})
    examples = tuple(
        case.example(int(rows[a]), int(rows[b]), note=f"cosine {cosine:.4f}")
        for (a, b), cosine in ordered[:SHOWN]
    )
    return _duplicates(
        case, entry, column, examples, pairs=len(pairs), records=concerned, looked_at=len(rows)
    )


def _near_in_index(
    case: Case, entry: ModelEntry, column: VectorColumn, rows: Array, vectors: Array
) -> Finding:
    """In an index larger than the sample: some records, against all others."""
    asked = case.chosen(np.arange(len(rows)), ASKED)
    found: list[tuple[float, Example]] = []
    of_texts = column.modality == Modality.TEXT
    for at in asked.tolist():
        row = int(rows[at])
        own = _key(case, row, column)
        id_ = case.drawn.facts["id"][row]
        answer = case.index.table.nearest(
            column.name, vectors[at], NEIGHBOURS + 1, columns=["id", "uri", "picture", "content", "text"]
        )
        for other in answer.to_pylist():
            if other[SCORE] < case.near:
                break
            theirs = other["text"] if of_texts else other["picture"] or other["content"]
            if other["id"] != id_ and theirs != own:
                mine = case.example(row)
                note = f"cosine {other[SCORE]:.4f}"
                pair = Example(
                    (id_, other["id"]), (*mine.names, shown(other["uri"], other["id"], other["text"])), note
                )
                found.append((other[SCORE], pair))
                break
    found.sort(key=lambda pair: (-pair[0], pair[1].ids))
    examples = tuple(example for _, example in found[:SHOWN])
    return _duplicates(
        case, entry, column, examples, pairs=len(found), records=len(found), looked_at=len(asked)
    )


def _duplicates(
    case: Case,
    entry: ModelEntry,
    column: VectorColumn,
    examples: tuple[Example, ...],
    *,
    pairs: int,
    records: int,
    looked_at: int,
) -> Finding:
    noun, how = (
        ("picture", "resized, cropped, or taken a moment later")
        if column.modality == Modality.IMAGE
        else ("text", "worded a little differently")
    )
    figures = {"cosine": case.near, "pairs": pairs, "records": records, "looked_at": looked_at}
    if not pairs:
        return Finding(
            "near duplicates",
            Level.OK,
            f"None of {count(looked_at, noun)} looked at is nearly the same as another (cosine {case.near:g}).",
            model=case.label(entry),
            figures=figures,
        )
    return Finding(
        "near duplicates",
        Level.NOTE,
        f"{count(records, noun)} of {looked_at:,} looked at {are(records)} nearly the same as "
        f"another (cosine {case.near:g} or more): {how}.",
        do="Look at the pairs; delete what nobody needs.",
        model=case.label(entry),
        figures=figures,
        examples=examples,
    )


def _outliers(case: Case, entry: ModelEntry, column: VectorColumn, rows: Array, near: Near) -> Finding:
    """Records with the lowest mean cosine to their neighbours, by the modified z-score of that mean."""
    means = near.cosines.mean(1).astype(np.float64)
    median = float(np.median(means))
    # 0.6745 makes the median absolute deviation comparable with a standard deviation.
    scores = 0.6745 * (means - median) / max(float(np.median(np.abs(means - median))), 1e-9)
    far = [at for at in np.argsort(means).tolist() if scores[at] < -FAR]
    figures = {"outliers": len(far), "records": len(rows), "median": round(median, 6)}
    if not far:
        return Finding(
            "outliers",
            Level.OK,
            f"None of {count(len(rows), 'record')} is far from all others.",
            model=case.label(entry),
            figures=figures,
        )
    return Finding(
        "outliers",
        Level.NOTE,
        f"{count(len(far), 'record')} of {len(rows):,} {are(len(far))} far from all others: rare, "
        "or not what belongs here.",
        do="Look at them: a picture that is all one colour, a broken scan, a file that strayed in."
        if column.modality == Modality.IMAGE
        else "Look at them: a text of another language, a placeholder, one that strayed in.",
        model=case.label(entry),
        figures=figures,
        examples=tuple(
            case.example(
                int(rows[at]),
                note=f"mean cosine to its {near.cosines.shape[1]} nearest {means[at]:.3f}, "
                f"usually {median:.3f}",
            )
            for at in far[:SHOWN]
        ),
    )


def skewness(counts: Array) -> float:
    """The third standardised moment; 0 where all are the same."""
    deviations = counts - counts.mean()
    spread = float(np.sqrt((deviations**2).mean()))
    return float((deviations**3).mean() / spread**3) if spread > 0 else 0.0


def _hubs(case: Case, entry: ModelEntry, rows: Array, listed: Array, what: str) -> Finding:
    """Records that are in far too many lists: the skewness of the k-occurrence."""
    counts = np.bincount(listed, minlength=len(rows)).astype(np.float64)
    skewed, usual = skewness(counts), float(counts.mean())
    hubs = [
        at for at in np.argsort(-counts, kind="stable").tolist() if counts[at] >= CROWDED * max(usual, 1.0)
    ]
    never = float(np.mean(counts == 0))
    figures = {
        "skewness": round(skewed, 3),
        "most": int(counts.max()),
        "mean": round(usual, 3),
        "hubs": len(hubs),
        "never": round(never, 4),
    }
    said = (
        f"Of {count(len(rows), 'record')}, the most frequent is in {int(counts.max()):,} {what}, {usual:.1f} on "
        f"average; {100 * never:.0f} % are in none (skewness {skewed:.1f})."
    )
    if skewed < SKEWED or not hubs:
        return Finding("hubs", Level.OK, said, model=case.label(entry), figures=figures)
    return Finding(
        "hubs",
        Level.NOTE,
        said,
        do="Searches show these again and again: look whether they are blank, blurred or generic.",
        model=case.label(entry),
        figures=figures,
        examples=tuple(
            case.example(int(rows[at]), note=f"in {int(counts[at]):,} {what}") for at in hubs[:SHOWN]
        ),
    )


def _crowded_by_texts(case: Case, entry: ModelEntry) -> Iterator[Finding]:
    """Pictures that are found for far too many of the index's own texts."""
    pictures, texts = shared_columns(entry)
    if pictures is None or texts is None:
        return
    rows, x = case.drawn.held(pictures)
    _, t = case.drawn.held(texts)
    if min(len(x), len(t)) < FEWEST:
        return
    listed = []
    k = min(NEIGHBOURS, len(x))
    for start in range(0, len(t), BLOCK):
        scores = t[start : start + BLOCK] @ x.T
        listed.append(np.argpartition(-scores, k - 1, axis=1)[:, :k].ravel())
    yield _hubs(case, entry, rows, np.concatenate(listed), "lists of pictures found for texts")
