"""What labelled pairs say of a match: logistic regression (Platt), or isotonic regression where there are many.

Both are monotone in the evidence, so the order of results in one part stays as it is; what changes is what number means
"yes". Each kind of pair (a question's modality and a part) that has labels enough is fitted by itself.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import QueryError, UnreadableError
from bowerbird.flow.files import picture_at, to_uri
from bowerbird.record import Modality
from bowerbird.search.evidence import Floats, log_odds, match_of
from bowerbird.search.gap import centred
from bowerbird.search.query import Query
from bowerbird.store.filters import among

if TYPE_CHECKING:
    from bowerbird.search.background import Background
    from bowerbird.search.index import Index
    from bowerbird.store.manifest import ModelEntry

FEWEST = 50
"""Labelled pairs of a kind without which nothing is learned (Platt needs about so many)."""

MANY = 1000
"""From here on isotonic regression, which needs no shape to be assumed."""

YES = frozenset({"1", "true", "yes", "y", "match", "relevant"})
NO = frozenset({"0", "false", "no", "n", "-1", "other", "irrelevant"})


@dataclass(frozen=True)
class Labelled:
    """A pair that a person has judged.

    Attributes:
        line: of the file, for messages.
        query: words, or the path of a picture.
        record: id or path of a record.
        yes: whether they belong together.
        folder: where paths of records begin before they begin in the working directory: that of the file.
    """

    line: int
    query: str | Path
    record: str
    yes: bool
    folder: str = ""

    @property
    def named(self) -> tuple[str, str]:
        """What the record is found by: its name, and where paths begin."""
        return self.record, self.folder


@dataclass(frozen=True)
class Fit:
    """What was learned for one kind of pair.

    Attributes:
        query: modality of the question.
        column: that it was asked of.
        method: `platt` or `isotonic`.
        pairs: how many there were.
        before: mean log loss of the match without labels.
        after: the same with them, on pairs that were left out of the fit (5 folds).
    """

    query: str
    column: str
    method: str
    pairs: int
    before: float
    after: float


def read_pairs(path: str | Path) -> list[Labelled]:
    """Labelled pairs of a CSV or TSV file with the columns `query`, `record` and `label` (1 or 0).

    A query that ends as names of pictures do, and is the path of a file, is that picture; all others are words. Paths,
    those of records too, are relative to the folder of the file; what is not there, to the working directory.

    Raises:
        UnreadableError: it cannot be read, a column is missing, or a line cannot be understood.
    """
    place = Path(path).expanduser()
    try:
        text = place.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableError(f"{place} cannot be read: {error}.") from error
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        return _rows(place, reader)
    except csv.Error as error:
        raise UnreadableError(f"{place}:{reader.line_num + 1} cannot be read: {error}.") from error


def _rows(place: Path, reader: csv.DictReader[str]) -> list[Labelled]:
    names = [name.strip().lower() for name in reader.fieldnames or ()]
    if missing := [name for name in ("query", "record", "label") if name not in names]:
        raise UnreadableError(
            f"{place} has no column {missing[0]!r}; it has {', '.join(names) or 'none'}.",
            hint="Give query,record,label: words or the path of a picture, id or path of a record, 1 or 0.",
        )
    reader.fieldnames = names
    return [_labelled(place, reader.line_num, row) for row in reader]


def _labelled(place: Path, line: int, row: Mapping[str, Any]) -> Labelled:
    query, record = (str(row.get(name) or "").strip() for name in ("query", "record"))
    label = str(row.get("label") or "").strip().lower()
    if not query or not record or label not in YES | NO:
        what = "no query" if not query else "no record" if not record else f"the label {label!r}"
        raise UnreadableError(f"{place}:{line} has {what}.", hint="A label is 1 or 0.")
    picture = picture_at(query, place.parent) or picture_at(query)
    return Labelled(line, picture or query, record, label in YES, str(place.parent))


def learn(
    index: Index, entry: ModelEntry, pairs: Sequence[Labelled], background: Background | None = None
) -> tuple[Background, list[Fit], list[str]]:
    """Fit the match of a model to labelled pairs.

    Args:
        index: that holds the records.
        entry: of the model.
        pairs: as judged.
        background: what was measured for the model; None: what the index says.

    Returns:
        the background with what was learned, what that was, and what a person should know: pairs of unknown records.

    Raises:
        QueryError: there are too few pairs of every kind, or those of each kind are all alike.
        InputError: a query cannot be embedded.
    """
    background = background or index.background(entry)
    known = _ids(index, {pair.named for pair in pairs})
    problems = [
        f"line {p.line}: no record {p.record!r} is in the index" for p in pairs if p.named not in known
    ]
    plain = replace(background, labels={})
    seen = _seen(index, entry, plain, [pair for pair in pairs if pair.named in known], known)
    labels: dict[str, Any] = {}
    fits: list[Fit] = []
    for (kind, column), (evidence, presence, yes) in seen.items():
        if len(yes) < FEWEST or yes.all() or not yes.any():
            problems.append(
                f"{kind} -> {column}: {len(yes)} judged, {int(yes.sum())} of them matches; "
                f"at least {FEWEST} are needed, matches and others among them"
            )
            continue
        told = _fitted(evidence, presence, yes, many=len(yes) >= MANY)
        labels[f"{kind}->{column}"] = told
        before = _loss(match_of(None, evidence, presence), yes)
        fits.append(Fit(kind, column, told["method"], len(yes), before, _held_out(evidence, presence, yes)))
    if not fits:
        raise QueryError(
            f"Nothing can be learned from {len(pairs)} labelled pairs: {'; '.join(problems[:3]) or 'there are none'}.",
            hint=f"Give at least {FEWEST} pairs of one kind, matches and others among them.",
        )
    return replace(background, labels={**background.labels, **labels}), fits, problems


def _fitted(evidence: Floats, presence: Floats, yes: Floats, *, many: bool) -> dict[str, Any]:
    x = log_odds(match_of(None, evidence, presence))
    if many:
        return _isotonic(x, yes)
    slope, bias = platt(x, yes)
    return {"method": "platt", "slope": slope, "bias": bias, "pairs": len(yes)}


def platt(x: Floats, yes: Floats) -> tuple[float, float]:
    """Slope and bias of `1 / (1 + exp(-(slope x + bias)))`, by Newton's method on Platt's smoothed targets.

    Platt 1999, with the targets `(n+ + 1) / (n+ + 2)` and `1 / (n- + 2)`; the slope is never negative.

    Args:
        x: (n,).
        yes: (n,), 1 or 0.
    """
    many = float(np.count_nonzero(yes))
    few = len(yes) - many
    target = np.where(np.asarray(yes) > 0, (many + 1) / (many + 2), 1 / (few + 2))
    centre, scale = float(x.mean()), max(float(x.std()), 1e-9)
    design = np.stack([(x - centre) / scale, np.ones(len(x))], 1)
    weights = np.asarray([1.0, np.log((many + 1) / (few + 1))])
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))  # (n,)
        gradient = design.T @ (p - target) + 1e-6 * weights
        curvature = (design * (p * (1 - p))[:, None]).T @ design + 1e-6 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step * min(1.0, 5 / max(float(np.abs(step).max()), 1e-9))
        if np.abs(step).max() < 1e-9:
            break
    slope = max(float(weights[0]), 0.0) / scale
    return slope, float(weights[1]) - slope * centre


def _isotonic(x: Floats, yes: Floats) -> dict[str, Any]:
    """Pool adjacent violators (Ayer et al. 1955), as knots to interpolate between."""
    xs, at, counts = np.unique(x, return_inverse=True, return_counts=True)
    # Pairs of one evidence, such as those that two people have judged, are one point: their share of matches.
    ys = pooled(np.bincount(at, np.asarray(yes, np.float64)) / counts, counts)
    changes = np.flatnonzero(np.diff(ys) != 0)
    keep = np.unique(np.concatenate([[0], changes, changes + 1, [len(ys) - 1]]))
    # Never sure of it: the share of 0 or 1 of a few pairs is not one of all.
    edge = 1 / (len(yes) + 2)
    ys = np.clip(ys, edge, 1 - edge)
    return {"method": "isotonic", "x": xs[keep].tolist(), "y": ys[keep].tolist(), "pairs": len(yes)}


def pooled(values: Floats, weights: NDArray[Any] | None = None) -> Floats:
    """The non-decreasing sequence nearest to some values, in least squares.

    Args:
        values: (n,).
        weights: (n,), positive: how much each counts; None: all the same.
    """
    counts = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    blocks: list[tuple[float, float, int]] = []  # mean, weight, how many values
    for value, weight in zip(values.tolist(), counts.tolist(), strict=True):
        block = (value, weight, 1)
        while blocks and blocks[-1][0] >= block[0]:
            mean, more, many = blocks.pop()
            total = more + block[1]
            block = ((mean * more + block[0] * block[1]) / total, total, many + block[2])
        blocks.append(block)
    return np.concatenate([np.full(many, mean) for mean, _, many in blocks]) if blocks else np.zeros(0)


def _loss(match: Floats, yes: Floats) -> float:
    p = np.clip(match, 1e-6, 1 - 1e-6)
    return float(-np.mean(np.where(yes > 0, np.log(p), np.log(1 - p))))


def _held_out(evidence: Floats, presence: Floats, yes: Floats, folds: int = 5) -> float:
    """The mean log loss on pairs that took no part in the fit; a fold with one kind of pair only counts unfitted."""
    order = np.random.default_rng(0).permutation(len(yes))
    losses = []
    for fold in range(folds):
        test = order[fold::folds]
        train = np.setdiff1d(order, test)
        both = yes[train].any() and not yes[train].all()
        many = len(yes) >= MANY  # as all together are fitted
        told = _fitted(evidence[train], presence[train], yes[train], many=many) if both else None
        losses.append(_loss(match_of(told, evidence[test], presence[test]), yes[test]) * len(test))
    return float(sum(losses) / len(yes))


def _ids(index: Index, named: set[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """The ids of records, by id, address, path, or the name of the file where only one is called so.

    Args:
        index: that holds them.
        named: names, and the folder where their paths begin before they begin in the working directory.

    Returns:
        by name and folder, of those that there are.
    """
    ways = {pair: _uris(*pair) for pair in named}
    names = {name for name, _ in named}
    uris = {uri for several in ways.values() for uri in several}
    by_id: set[str] = set()
    by_uri: dict[str, str] = {}
    by_name: dict[str, set[str]] = {}
    for batch in index.table.scan(["id", "uri", "name"]):
        for id_, uri, name in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if id_ in names:
                by_id.add(id_)
            if uri in uris:
                by_uri[uri] = id_
            if name in names:
                by_name.setdefault(name, set()).add(id_)
    found: dict[tuple[str, str], str] = {}
    for pair, several in ways.items():
        called = by_name.get(pair[0], set())
        ids = [by_uri[uri] for uri in several if uri in by_uri] or (list(called) if len(called) == 1 else [])
        if pair[0] in by_id:
            found[pair] = pair[0]
        elif ids:
            found[pair] = ids[0]
    return found


def _uris(name: str, folder: str) -> list[str]:
    """Where a record of this name may lie, the first that is right counts."""
    path = os.path.expanduser(name)
    return [name, to_uri(os.path.abspath(os.path.join(folder, path))), to_uri(os.path.abspath(path))]


Seen = dict[tuple[str, str], tuple[Floats, Floats, Floats]]


def _seen(
    index: Index,
    entry: ModelEntry,
    background: Background,
    pairs: Sequence[Labelled],
    known: Mapping[tuple[str, str], str],
) -> Seen:
    """By kind of question and column: evidence, presence and label of each pair that has such a part."""
    from bowerbird.search.answer import best_rows, found_by
    from bowerbird.search.question import Asker, embed_together

    queries = {pair.query: _query(pair.query) for pair in pairs}
    embedded = embed_together(index, list(queries.values()), [entry])
    asker = Asker(index, entry, background, embedded)
    rows: dict[tuple[str, str], list[tuple[float, float, bool]]] = {}
    vectors = _vectors_of(index, entry, sorted({known[pair.named] for pair in pairs}))
    by_query: dict[str | Path, list[Labelled]] = {}
    for pair in pairs:
        by_query.setdefault(pair.query, []).append(pair)
    for given, of_query in by_query.items():
        questions = asker.questions(queries[given], None)
        presence = max(
            (found_by(background, question, best_rows(index, question)).presence for question in questions),
            default=0.0,
        )
        for question in questions:
            name = question.column.name
            told = [(vectors[key], p.yes) for p in of_query if (key := (known[p.named], name)) in vectors]
            if not told:
                continue
            stacked = np.stack([vector for vector, _ in told])
            moved = stacked if question.centre is None else centred(stacked, question.centre)
            evidence = background.evidence(
                question.kind, question.column, question.vector, moved @ question.vector
            )
            of_kind = rows.setdefault((question.kind, name), [])
            of_kind += [(float(e), presence, yes) for e, (_, yes) in zip(evidence, told, strict=True)]
    return {key: _columns(found) for key, found in rows.items()}


def _columns(rows: Sequence[tuple[float, float, bool]]) -> tuple[Floats, Floats, Floats]:
    evidence, presence, yes = zip(*rows, strict=True)
    return np.asarray(evidence), np.asarray(presence), np.asarray(yes, np.float64)


def _query(given: str | Path) -> Query:
    return Query(image=given) if isinstance(given, Path) else Query(texts=(given,))


def _vectors_of(
    index: Index, entry: ModelEntry, ids: Sequence[str]
) -> dict[tuple[str, str], np.ndarray[Any, np.dtype[np.float32]]]:
    names = [column.name for column in entry.columns if column.modality in (Modality.IMAGE, Modality.TEXT)]
    found = {}
    for start in range(0, len(ids), 500):
        for batch in index.table.scan(["id", *names], where=among("id", ids[start : start + 500])):
            for row in batch.to_pylist():
                for name in names:
                    if row[name] is not None:
                        found[row["id"], name] = np.asarray(row[name], np.float32)
    return found
