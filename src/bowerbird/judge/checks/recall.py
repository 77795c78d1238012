"""Does search find what it should: a picture itself, a text its picture, the store's index what exact search finds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bowerbird.errors import InputError, ModelError, StoreError
from bowerbird.judge.checks.finding import NEIGHBOURS, SHOWN, Array, Case, Example, Finding, Level, count
from bowerbird.judge.sampled import shared_columns
from bowerbird.media.image import read_bytes
from bowerbird.models.encoder import Encoder
from bowerbird.record import Modality, content_id
from bowerbird.search.gap import centred
from bowerbird.store.filters import IsNull, Not
from bowerbird.store.manifest import ModelEntry
from bowerbird.store.table import SCORE, VectorColumn

SAME = 0.999
"""Cosine down to which a stored and a fresh vector are the same but for numerics: another processor, bf16."""

OTHER = 0.97
"""Below this, they are of different things, or of different models."""

TIED = 1e-5
"""A record that scores this little more than the picture itself is as like it as itself."""

PAIRS = 20
"""Pairs of picture and text without which their recall means nothing."""

QUERIES = 100
"""Searches that the approximate index is tried with, of each modality."""

SECONDS = 10.0
"""Exact search in a large index may take a second, so that no more queries are tried after this; at least `FEWEST`."""

FEWEST = 10

FOUND = 0.95
"""Recall of the approximate index below which results are lost that somebody may miss."""


@dataclass
class _Again:
    """What became of the pictures that were embedded again."""

    cosines: list[float] = field(default_factory=list)
    first: int = 0
    changed: list[Example] = field(default_factory=list)
    unlike: list[tuple[float, Example]] = field(default_factory=list)
    lost: list[Example] = field(default_factory=list)
    skipped: int = 0
    spoilt: int = 0


def itself(case: Case) -> Iterator[Finding]:
    """Pictures embedded again from their files, and texts again: each should find itself first, with a cosine of 1."""
    if case.fresh < 1:
        return
    for entry in case.entries:
        try:
            case.index.encoder(entry.space)
        except (ModelError, StoreError) as error:
            yield Finding("model", Level.PROBLEM, error.message, error.hint, case.label(entry))
            continue
        column = case.similar(entry)
        if column is not None and column.modality == Modality.IMAGE:
            again = _pictures_again(case, entry, column)
            yield from _changed(case, entry, again)
            if again.cosines:
                yield _selves(case.label(entry), again, "picture", "file")
        _, texts = shared_columns(entry)
        if texts is not None:
            again = _texts_again(case, entry, texts)
            if again.cosines:
                yield _selves(case.label(entry), again, "text", "text")


def _pictures_again(case: Case, entry: ModelEntry, column: VectorColumn) -> _Again:
    encoder = case.index.encoder(entry.space)
    tower = encoder.card.image
    assert tower is not None  # the index has pictures under it
    again = _Again()
    rows = np.flatnonzero(case.drawn.present[column.name])
    on_disk = np.array([row for row in rows.tolist() if case.path(row)], np.int64)
    kept: list[tuple[int, bytes]] = []
    for row in case.chosen(on_disk, case.fresh).tolist():
        try:
            data = read_bytes(Path(case.path(row)), tower.decode)
        except InputError:
            again.skipped += 1  # what the check of files is about
            continue
        if case.picture(row) and content_id(data) != case.picture(row):
            again.changed.append(case.example(row))
            continue
        kept.append((row, data))
        if len(kept) == 32:
            _embed_again(case, encoder, column, kept, again)
            kept = []
    _embed_again(case, encoder, column, kept, again)
    return again


def _embed_again(
    case: Case, encoder: Encoder, column: VectorColumn, kept: list[tuple[int, bytes]], again: _Again
) -> None:
    outcomes = encoder.outcomes([data for _, data in kept], output=column.output) if kept else []
    for (row, _), outcome in zip(kept, outcomes, strict=True):
        if outcome.vector is None:
            again.skipped += 1
            continue
        _compare(case, column, row, outcome.vector, again, same=case.picture(row))


def _texts_again(case: Case, entry: ModelEntry, column: VectorColumn) -> _Again:
    again = _Again()
    told = case.drawn.facts["text"]
    rows = np.flatnonzero(case.drawn.present[column.name])
    # Of several texts of one record the mean is stored, each embedded by itself.
    single = np.array(
        [row for row in rows.tolist() if (told[row] or "").strip() and "\n" not in told[row]], np.int64
    )
    some = case.chosen(single, case.fresh).tolist()
    if not some:
        return again
    encoder = case.index.encoder(entry.space)
    outcomes = encoder.outcomes([told[row] for row in some], role="document")
    for row, outcome in zip(some, outcomes, strict=True):
        if outcome.vector is not None:
            _compare(case, column, row, outcome.vector, again, same=told[row])
    return again


def _compare(case: Case, column: VectorColumn, row: int, fresh: Array, again: _Again, *, same: str) -> None:
    """Hold a fresh vector against the stored one, and search with it."""
    stored = case.drawn.vectors[column.name][row]
    cosine = float(np.nan_to_num(stored.astype(np.float64)) @ fresh)
    again.cosines.append(cosine)
    if cosine < SAME:
        again.unlike.append((cosine, case.example(row, note=f"cosine {cosine:.4f} to what is stored")))
    key = "text" if column.modality == Modality.TEXT else "picture"
    found = case.index.table.nearest(column.name, fresh, 1, columns=["id", "content", key])
    best = found.to_pylist()[0] if found.num_rows else None
    if best and (
        best["id"] == case.drawn.facts["id"][row]
        or (same and same in (best[key], best["content"]))
        or best[SCORE] - cosine <= TIED
    ):
        again.first += 1
    else:
        broken = best is not None and not np.isfinite(best[SCORE])
        again.spoilt += broken
        note = "a broken vector comes first" if broken else "another record comes first"
        again.lost.append(case.example(row, note=note))


def _changed(case: Case, entry: ModelEntry, again: _Again) -> Iterator[Finding]:
    if again.changed:
        looked = len(again.changed) + len(again.cosines)
        yield Finding(
            "contents changed",
            Level.WARNING,
            f"{count(len(again.changed), 'file')} of {looked:,} read again changed after being indexed: other bytes "
            "are there now.",
            do=f"Bring the index up to date: {case.update}",
            model=case.label(entry),
            figures={"looked_at": looked, "changed": len(again.changed)},
            examples=tuple(again.changed[:SHOWN]),
        )


def _selves(model: str, again: _Again, noun: str, source: str) -> Finding:
    cosines = np.array(again.cosines)
    rate, least, mean = again.first / len(cosines), float(cosines.min()), float(cosines.mean())
    figures = {
        "looked_at": len(cosines),
        "first": round(rate, 6),
        "mean_cosine": round(mean, 6),
        "least_cosine": round(least, 6),
        "unreadable": again.skipped,
    }
    said = (
        f"{count(len(cosines), noun)} embedded again from {'their files' if source == 'file' else 'the stored texts'}: "
        f"{100 * rate:.1f} % find themselves first; cosine to what is stored {mean:.4f} on average, "
        f"{least:.4f} at least."
    )
    examples = [example for _, example in sorted(again.unlike, key=lambda pair: pair[0])]
    examples += [example for example in again.lost if example.ids not in {e.ids for e in examples}]
    if again.spoilt:
        level, do = Level.PROBLEM, "Vectors that are not finite spoil searches: see `vectors broken`."
    elif least < OTHER:
        level, do = Level.PROBLEM, f"Some stored vectors are not of their {noun}s: index these records anew."
    elif least < SAME or rate < 1:
        level, do = (
            Level.WARNING,
            "Compare `bowerbird info`: vectors were written in other numerics than those used here.",
        )
    else:
        level, do = Level.OK, ""
    return Finding(f"self-retrieval, {noun}s", level, said, do, model, figures, tuple(examples[:SHOWN]))


def captions(case: Case) -> Iterator[Finding]:
    """Whether a record's text finds its picture among those of the sample, and the picture its text."""
    for entry in case.entries:
        pictures, texts = shared_columns(entry)
        if pictures is None or texts is None:
            continue
        of_pictures, x = case.drawn.held(pictures)
        of_texts, t = case.drawn.held(texts)
        both, left, right = np.intersect1d(of_pictures, of_texts, return_indices=True)
        if not len(both):
            continue
        if len(both) < PAIRS:
            yield Finding(
                "caption recall",
                Level.OK,
                f"Only {count(len(both), 'record')} looked at {'has' if len(both) == 1 else 'have'} a picture and a "
                f"text: too few to say whether they find each other.",
                model=case.label(entry),
                figures={"pairs": len(both)},
            )
            continue
        same = _alike(case, both)
        raw = _recalls(x[left], t[right], same)
        moved = _recalls(centred(x[left], x.mean(0)), centred(t[right], t.mean(0)), same)
        yield _of_captions(case.label(entry), len(both), raw, moved)


def _alike(case: Case, rows: Array) -> Array:
    """Numbers that rows with the same picture, or the same text, share; to find one of them is to find the other."""
    facts = case.drawn.facts
    groups: dict[str, int] = {}
    parents = list(range(len(rows)))

    def root(at: int) -> int:
        while parents[at] != at:
            at = parents[at]
        return at

    for at, row in enumerate(rows.tolist()):
        for key in (f"picture {case.picture(row)}", f"text {facts['text'][row]}"):
            other = groups.setdefault(key, at)
            parents[root(at)] = root(other)
    return np.array([root(at) for at in range(len(rows))])


def _recalls(x: Array, t: Array, same: Array) -> dict[str, float]:
    """R@1 and R@10 in both directions; what comes before the best right answer counts against it."""
    found = {}
    for name, queries, gallery in (("text->image", t, x), ("image->text", x, t)):
        ranks = np.empty(len(queries), np.int64)
        for start in range(0, len(queries), 512):
            scores = queries[start : start + 512] @ gallery.T
            right = same[start : start + 512, None] == same[None, :]
            best = np.where(right, scores, -np.inf).max(1, keepdims=True)
            ranks[start : start + 512] = ((scores > best) & ~right).sum(1)
        for k in (1, 10):
            found[f"R@{k} {name}"] = round(float(np.mean(ranks < k)), 6)
    return found


def _of_captions(model: str, pairs: int, raw: dict[str, float], moved: dict[str, float]) -> Finding:
    chance = min(1.0, 10 / pairs)
    best = max(raw["R@10 text->image"], moved["R@10 text->image"])
    said = (
        f"Among {pairs:,} records, a text finds its picture first in {100 * raw['R@1 text->image']:.1f} % and among "
        f"ten in {100 * raw['R@10 text->image']:.1f} %, a picture its text in {100 * raw['R@1 image->text']:.1f} % and "
        f"{100 * raw['R@10 image->text']:.1f} %; centred by modality, {100 * moved['R@1 text->image']:.1f}, "
        f"{100 * moved['R@10 text->image']:.1f}, {100 * moved['R@1 image->text']:.1f} and "
        f"{100 * moved['R@10 image->text']:.1f} %."
    )
    level, do = Level.OK, ""
    if best < min(2 * chance, (1 + chance) / 2):
        level = Level.WARNING
        do = (
            f"That is hardly more than chance ({100 * chance:.1f} % among ten): do the texts say what the pictures "
            "show? Otherwise try another model."
        )
    figures = {"pairs": pairs, "chance": round(chance, 6), "stored": raw, "centred": moved}
    return Finding("caption recall", level, said, do, model, figures)


def approximate(case: Case) -> Iterator[Finding]:
    """What the store's own search finds of what exact search finds, with vectors of the index as queries."""
    for entry in case.entries:
        for column in entry.columns:
            if not case.index.table.count(Not(IsNull(column.norm))):
                continue  # of nothing, all is found
            for modality, queries in _queries(case, entry, column).items():
                if len(queries):
                    yield _held_against_exact(case, entry, column, modality, queries)


def _queries(case: Case, entry: ModelEntry, column: VectorColumn) -> dict[str, Array]:
    """By modality, vectors of the same space to search a column with."""
    shared = shared_columns(entry)
    found = {}
    # A query of the other modality lies elsewhere than what is searched, which is harder for an index.
    for other in shared if column in shared else (column,):
        if other is not None and other.dimensions == column.dimensions:
            _, vectors = case.drawn.held(other)
            found[other.modality] = vectors[case.chosen(np.arange(len(vectors)), QUERIES)]
    return found


def _held_against_exact(
    case: Case, entry: ModelEntry, column: VectorColumn, modality: str, queries: Array
) -> Finding:
    table = case.index.table
    shares: list[float] = []
    taken: dict[bool, list[float]] = {False: [], True: []}
    for exact in (False, True):
        table.nearest(column.name, queries[0], NEIGHBOURS, columns=["id"], exact=exact)  # reads what it keeps
    began = time.perf_counter()
    for vector in queries:
        if len(shares) >= FEWEST and time.perf_counter() - began > SECONDS:
            break
        scores = {}
        for exact in (True, False):
            started = time.perf_counter()
            rows = table.nearest(column.name, vector, NEIGHBOURS, columns=["id"], exact=exact)
            taken[exact].append(1000 * (time.perf_counter() - started))
            scores[exact] = rows[SCORE].to_numpy()
        wanted = len(scores[True])
        # By score rather than by id, so that of exact copies any will do.
        right = np.count_nonzero(scores[False] >= scores[True][-1] - TIED) if wanted else 0
        shares.append(min(right, wanted) / wanted if wanted else 1.0)
    recall = float(np.mean(shares))
    quick, slow = float(np.median(taken[False])), float(np.median(taken[True]))
    low = recall < FOUND
    return Finding(
        "recall of the index",
        Level.WARNING if low else Level.OK,
        f"{modality}->{column.modality} in {column.name}: search finds {100 * recall:.1f} % of the ten that exact "
        f"search finds, in {quick:.1f} ms against {slow:.1f} ms (median of {len(shares)}).",
        "Index again, so that the store's index is brought up to date." if low else "",
        case.label(entry),
        {
            "column": column.name,
            "queries": len(shares),
            "from": modality,
            "recall@10": round(recall, 6),
            "p50_ms": round(quick, 3),
            "exact_p50_ms": round(slow, 3),
        },
    )
