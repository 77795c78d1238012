"""What the rows hold: vectors that are missing or broken, texts that say nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from bowerbird.judge.checks.finding import SHOWN, Case, Example, Finding, Level, are, count, shown
from bowerbird.record import Modality
from bowerbird.search.entries import called
from bowerbird.store.filters import And, Filter, IsNull, Not, Or
from bowerbird.store.table import VectorColumn

UNIT = 1e-3
"""How far the length of a stored vector may be from 1."""

ODD = 100.0
"""A raw length so many times the median, or so many times smaller, is odd: the model gave it, but for what?"""


def missing(case: Case) -> Iterator[Finding]:
    """Records that no search can find under a model, and parts of records that it cannot find."""
    table = case.index.table
    for entry in case.entries:
        if not entry.columns:
            continue
        lack = And(tuple(IsNull(column.norm) for column in entry.columns))
        none = table.count(lack)
        if none:
            yield Finding(
                "vectors missing",
                Level.WARNING,
                f"{count(none, 'record')} of {len(case.index):,} have no vector at all: no search finds them.",
                do=f"Fill them in: {case.update} --model {called(entry)}",
                model=case.label(entry),
                figures={"records": none},
                examples=_listed(case, lack),
            )
        for part in (Modality.IMAGE, Modality.TEXT):
            column = next((column for column in entry.columns if column.modality == part), None)
            has = Not(IsNull("format" if part == Modality.IMAGE else "text"))
            if column is None:
                continue
            some: Filter = Or(tuple(Not(IsNull(other.norm)) for other in entry.columns))
            lack = And((has, IsNull(column.norm), some))
            lacking = table.count(lack)
            if lacking:
                noun = "picture" if part == Modality.IMAGE else "text"
                yield Finding(
                    "vectors missing",
                    Level.WARNING,
                    f"{count(lacking, noun)} of records that have other vectors have none: searches miss them.",
                    do=f"Fill them in: {case.update} --model {called(entry)}",
                    model=case.label(entry),
                    figures={f"{noun}s": lacking},
                    examples=_listed(case, lack),
                )


def _listed(case: Case, where: Filter) -> tuple[Example, ...]:
    rows = case.index.table.sample(["id", "uri"], SHOWN, seed=case.seed, where=where).to_pylist()
    return tuple(Example((row["id"],), (shown(row["uri"], row["id"]),)) for row in rows)


def broken(case: Case) -> Iterator[Finding]:
    """Vectors of the sample that are no unit vectors, and raw lengths, of all rows, that cannot be right."""
    for entry in case.entries:
        found = [*_not_unit(case, entry.columns), *_odd_lengths(case, entry.columns)]
        if found:
            yield Finding(
                "vectors broken",
                Level.PROBLEM,
                f"{count(len(found), 'vector')} cannot be what the model gave.",
                do="Delete these records, or index their files anew at another place; look for what wrote them.",
                model=case.label(entry),
                figures={"vectors": len(found)},
                examples=tuple(found[:SHOWN]),
            )
        elif any(case.drawn.present[column.name].any() for column in entry.columns):
            yield Finding(
                "vectors",
                Level.OK,
                f"The vectors of {case.of} have length 1, and no raw length of the index is odd.",
                model=case.label(entry),
                figures={"vectors": 0},
            )


def _not_unit(case: Case, columns: tuple[VectorColumn, ...]) -> Iterator[Example]:
    for column in columns:
        vectors, there = case.drawn.vectors[column.name], case.drawn.present[column.name]
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
            wrong = there & ~(np.abs(lengths - 1) <= UNIT)
        for row in np.flatnonzero(wrong).tolist():
            length = lengths[row]
            note = f"length {length:.4g}" if np.isfinite(length) else "not finite"
            yield case.example(row, note=f"{column.name}: {note}")


def _odd_lengths(case: Case, columns: tuple[VectorColumn, ...]) -> Iterator[Example]:
    if not columns:
        return
    # The lengths alone are a few bytes a row, so all of them are read.
    lengths: dict[str, list[np.ndarray]] = {column.norm: [] for column in columns}
    for batch in case.index.table.scan(list(lengths)):
        for name, parts in lengths.items():
            parts.append(batch.column(name).to_numpy(zero_copy_only=False).astype(np.float64))
    for name, parts in lengths.items():
        values = np.concatenate(parts) if parts else np.empty(0)
        good = values[np.isfinite(values) & (values > 0)]
        if not len(good):
            continue
        median = float(np.median(good))
        yield from _with_odd(case, name, median)


def _with_odd(case: Case, norm: str, median: float) -> Iterator[Example]:
    """Rows whose raw length is zero, not a number, or far from the others."""
    for batch in case.index.table.scan(["id", "uri", norm]):
        there = batch.column(norm).is_valid().to_numpy(zero_copy_only=False)
        values = batch.column(norm).to_numpy(zero_copy_only=False).astype(np.float64)
        with np.errstate(invalid="ignore"):
            fine = (values <= median * ODD) & (values >= median / ODD)
        for row in np.flatnonzero(there & ~fine).tolist():
            id_, uri = batch.column("id")[row].as_py(), batch.column("uri")[row].as_py()
            yield Example((id_,), (shown(uri, id_),), f"{norm}: {values[row]:.4g}, usually {median:.4g}")


def texts(case: Case) -> Iterator[Finding]:
    """Texts that say nothing, and texts that many records share."""
    told = case.drawn.facts["text"]
    have = [row for row, text in enumerate(told) if text is not None]
    if not have:
        return
    empty = [row for row in have if not told[row].strip()]
    if empty:
        yield Finding(
            "texts empty",
            Level.WARNING,
            f"{count(len(empty), 'text')} of {len(have):,} {are(len(empty))} empty or blank, and found by chance.",
            do="Leave the text out where there is none.",
            figures={"texts": len(have), "empty": len(empty)},
            examples=tuple(case.example(row) for row in empty[:SHOWN]),
        )
    said = Counter(told[row].strip() for row in have if told[row].strip())
    shared = [(text, number) for text, number in said.most_common(SHOWN) if number > 1]
    several = sum(number for number in said.values() if number > 1)
    if several:
        first = {told[row].strip(): row for row in reversed(have)}
        yield Finding(
            "texts shared",
            Level.NOTE,
            f"{count(several, 'record')} of {len(have):,} with texts share theirs with others: a search for it finds "
            "any of them.",
            figures={"texts": len(have), "shared": several},
            examples=tuple(
                case.example(first[text], note=f"{number:,} times: {text[:80]}") for text, number in shared
            ),
        )
    if not (empty or several):
        yield Finding(
            "texts",
            Level.OK,
            f"{count(len(have), 'text')} looked at: none empty, none twice.",
            figures={"texts": len(have), "empty": 0, "shared": 0},
        )
