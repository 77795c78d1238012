"""A query becomes ranked records: every part is asked, the best part of each record counts.

question -> the nearest rows of each column -> how far each of them stands out (`background`) -> one list (`fuse`)
-> exact copies shown as one -> the cut.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import InputError, QueryError, UnsupportedInputError
from bowerbird.hits import Hits
from bowerbird.record import Modality
from bowerbird.search import fuse
from bowerbird.search.background import Background
from bowerbird.search.evidence import BEST, Floats, evidence_of, likeness, match_of
from bowerbird.search.gap import centred
from bowerbird.search.query import WORDS, Query
from bowerbird.search.question import Asker, Embedded, Question, liked
from bowerbird.store.filters import Filter, words_of
from bowerbird.store.table import ATTRIBUTES, SCORE
from bowerbird.store.where import parse

if TYPE_CHECKING:
    import pyarrow as pa

    from bowerbird.search.index import Index
    from bowerbird.search.rerank import Reranker
    from bowerbird.store.manifest import ModelEntry

SPARE = 16
"""Extra rows fetched, so that exact copies of one picture can be shown as one result."""

DEPTHS = (64, 256, 1024, 4096)
"""Rows that are fetched of each part where several are asked: steps, so that pages agree with each other."""

MOST_VECTORS = 4096
"""Of longer lists the vectors are not fetched."""

SAME = 1e-6
"""Scores of exact copies differ by less: a dot product depends in its last bits on where the row lies."""


@dataclass(frozen=True)
class Request:
    """How a query is answered; see `Index.ask`."""

    k: int = 10
    offset: int = 0
    where: str = ""
    models: str | Sequence[str] = ()
    fusion: str = "calibrated"
    part_weights: Mapping[str, float] = field(default_factory=dict)
    min_match: float | None = None
    threshold: float | None = None
    rerank: Reranker | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise QueryError(f"{self.k} results were asked for.", hint="Ask for at least 1.")
        if self.offset < 0:
            raise QueryError(f"The offset {self.offset} is negative.", hint="The first page begins at 0.")
        if self.fusion not in fuse.FUSIONS:
            raise QueryError(
                f"There is no fusion {self.fusion!r}.", hint=f"Use one of {', '.join(fuse.FUSIONS)}."
            )
        for name, value in (("threshold", self.threshold), ("min_match", self.min_match)):
            if value is not None and not math.isfinite(value):
                raise QueryError(f"The {name} {value} cannot be used.", hint="Give a number such as 0.3.")
        if self.min_match is not None and not 0 <= self.min_match <= 1:
            raise QueryError(
                f"The least match {self.min_match:g} is not between 0 and 1.",
                hint="0.5 is a good start; raw scores are compared with `threshold`.",
            )
        self._check_weights()

    def _check_weights(self) -> None:
        known = (str(Modality.IMAGE), str(Modality.TEXT), WORDS)
        if strange := [part for part in self.part_weights if part not in known]:
            raise QueryError(f"There is no part {strange[0]!r} to weigh.", hint=f"Use {', '.join(known)}.")
        weights = list(self.part_weights.values())
        if weights and (any(not math.isfinite(w) or w < 0 for w in weights) or not any(weights)):
            raise QueryError(
                f"The weights of parts {weights} cannot be used.",
                hint="Give numbers of 0 or more, not all of them 0.",
            )
        if weights and self.fusion != "weighted":
            raise QueryError("Parts are weighed in the fusion 'weighted' only.", hint="Ask for that fusion.")


@dataclass
class _Ranking:
    """What was found in one part under one model.

    Attributes:
        scale: of its raw scores.
        part: of the records.
        model: under which.
        found: the rows, best first.
        presence: whether anything of the kind is there, 0 to 1.
        raw: (candidates,), NaN where there is none.
        evidence: likewise.
        rank: from 1, NaN for candidates that were not found here.
    """

    scale: str
    part: str
    model: str
    found: pa.Table
    presence: float = 0.0
    raw: Floats = field(default_factory=lambda: np.zeros(0))
    evidence: Floats = field(default_factory=lambda: np.zeros(0))
    rank: Floats = field(default_factory=lambda: np.zeros(0))


def answer(index: Index, query: Query, request: Request, embedded: Embedded | None = None) -> Hits:
    """The records that a query is about, best first; see `Index.ask`."""
    return _Answer(index, query, request, embedded).hits()


class _Answer:
    """One query on its way to its results."""

    def __init__(self, index: Index, query: Query, request: Request, embedded: Embedded | None) -> None:
        self.index = index
        self.query = query
        self.request = request
        self.where: Filter | None = parse(request.where, index.table.fields)
        self.notes: dict[str, None] = {}
        entries = index.entries(request.models)
        self.record = liked(index, query.like, entries) if query.like else None
        self.questions = self._questions(entries, embedded)
        self.words = " ".join(query.texts) if WORDS in query.asked else ""
        if request.threshold is not None and len(self.questions) + bool(self.words) > 1:
            raise QueryError(
                "A threshold compares raw scores, and here those of several scales would be compared.",
                hint="Give a least match (min_match) instead, or search one part under one model.",
            )
        names = index.table.names
        told = (*ATTRIBUTES, "text", *index.table.attributes().names)
        self.told = [name for name in told if name in names]

    def hits(self) -> Hits:
        """All of it."""
        request, reranker = self.request, self.request.rerank
        last = request.offset + request.k
        found = self._fused(last if reranker is None else max(last, reranker.depth))
        if request.threshold is not None:
            found = found.above(request.threshold)
        page = slice(request.offset, last)
        passing = found if request.min_match is None else found.matching(request.min_match)
        if found and not passing:
            return replace(found[:0], below=found[page])
        # Last: what does not pass shall not stand in the way of what does, and both limits are on what was found.
        return (passing if reranker is None else reranker.rerank(self.index, self.query, passing))[page]

    def _questions(self, entries: Sequence[ModelEntry], embedded: Embedded | None) -> list[Question]:
        found: list[Question] = []
        refused: list[InputError] = []
        self.backgrounds: dict[str, Background] = {}
        for entry in entries:
            background = self.backgrounds[entry.space] = self.index.background(entry)
            asker = Asker(self.index, entry, background, embedded)
            try:
                found += asker.questions(self.query, self.record)
            except UnsupportedInputError as error:
                refused.append(error)
            self.notes.update(asker.notes)
        if refused and not found:
            raise refused[0]
        self.notes.update({one.message: None for one in refused})
        if not found and self.query.asked != (WORDS,):
            has = "texts" if self.query.asked == (Modality.IMAGE,) else "pictures"
            raise QueryError(
                f"The record {self.query.like!r} has nothing to be compared with there.",
                hint=f"Ask among its {has} instead.",
            )
        return found

    def _fused(self, wanted: int) -> Hits:
        """The first `wanted` results of all rankings together, exact copies as one."""
        exclude = self.record.content if self.record else ""
        several = len(self.questions) + bool(self.words) > 1
        depth = wanted + SPARE + bool(exclude)
        if several:
            depth = next((step for step in DEPTHS if step >= 4 * depth), 4 * depth)
        while True:
            rankings = [*(self._ask(question, depth) for question in self.questions), *self._by_words(depth)]
            candidates = _together([ranking.found for ranking in rankings])
            order, values = self._order(rankings, candidates)
            rows, copies = _distinct(candidates, order, exclude)
            full = any(ranking.found.num_rows >= depth for ranking in rankings)
            if not full or (len(rows) >= wanted and (several or _is_past(values, order, rows[wanted - 1]))):
                break
            depth *= 4  # Many exact copies of few pictures.
        return self._told(rankings, candidates, rows[:wanted], copies)

    def _ask(self, question: Question, depth: int) -> _Ranking:
        columns = ["id", "uri", "content", *self.told]
        if depth <= MOST_VECTORS:
            columns += [other.column.name for other in self.questions]
        found = self.index.table.nearest(
            question.column.name,
            question.vector,
            depth,
            columns=list(dict.fromkeys(columns)),
            where=self.where,
            centre=question.centre,
            exact=self.request.rerank is not None and self.request.rerank.exact,
        )
        return _Ranking(question.scale, question.part, question.entry.name, found)

    def _by_words(self, depth: int) -> list[_Ranking]:
        if not self.words:
            return []
        columns = ["id", "uri", "content", *self.told]
        if depth <= MOST_VECTORS:
            columns += [question.column.name for question in self.questions]
        columns = list(dict.fromkeys(columns))
        found = self.index.table.words(self.words, depth, columns=columns, where=self.where)
        return [_Ranking("words (BM25)", WORDS, "", found)]

    def _order(self, rankings: Sequence[_Ranking], candidates: pa.Table) -> tuple[NDArray[np.int64], Floats]:
        """Candidates, best first, and what they are ranked by."""
        places = {id_: place for place, id_ in enumerate(candidates["id"].to_pylist())}
        for ranking, question in zip(rankings, self.questions, strict=False):
            self._weigh(ranking, question, candidates, places)
        for ranking in rankings[len(self.questions) :]:
            self._weigh_words(ranking, places)
        self.presence = max((ranking.presence for ranking in rankings), default=0.0)
        evidence = np.stack(self._judged(rankings))  # (rankings, candidates)
        parts = [ranking.part for ranking in rankings]
        self.certain, self.surest = fuse.calibrated(evidence, parts)
        ranks = np.stack([ranking.rank for ranking in rankings])
        values = self.certain
        if self.request.fusion == "rank":
            values, self.surest = fuse.by_rank(ranks)
        elif self.request.fusion == "weighted":
            given = self.request.part_weights
            weights = np.asarray([given.get(part, 0.0) if given else 1.0 for part in parts])
            if not weights.any():
                raise QueryError(
                    "None of the parts that are searched has a weight.", hint="Weigh one of them."
                )
            values, self.surest = fuse.weighted(likeness(evidence), weights)
        elif self.request.fusion == "raw":
            raw = np.stack([ranking.raw for ranking in rankings])
            values, self.surest = fuse.by_raw_score(raw, ~np.isnan(ranks))
        self.values = values
        values = np.where(np.isnan(values), -np.inf, values)
        # Where several are asked, equals are in the order of their ids: which of them came first depends on the depth.
        ids = np.asarray(candidates["id"].to_pylist()) if len(rankings) > 1 else np.arange(len(values))
        return np.lexsort((ids, -values)), values

    def _judged(self, rankings: Sequence[_Ranking]) -> list[Floats]:
        """The evidence of each ranking; where somebody has labelled pairs, with what was learned from them.

        Then the presence is part of it: it is learned how much that means.
        """
        learned: list[Mapping[str, Any] | None] = [
            self.backgrounds[q.entry.space].labels.get(f"{q.kind}->{q.column.name}") for q in self.questions
        ]
        if not any(learned):
            return [ranking.evidence for ranking in rankings]
        learned += [None] * (len(rankings) - len(learned))
        presence, self.presence = self.presence, 1.0
        return [
            evidence_of(match_of(told, ranking.evidence, presence))
            for told, ranking in zip(learned, rankings, strict=True)
        ]

    def _weigh(
        self, ranking: _Ranking, question: Question, candidates: pa.Table, places: Mapping[str, int]
    ) -> None:
        """What a question says of every candidate, also of those that another one found."""
        background = self.backgrounds[question.entry.space]
        count, column = candidates.num_rows, question.column
        ranking.rank, ranking.raw = np.full(count, np.nan), np.full(count, np.nan)
        own = [places[id_] for id_ in ranking.found["id"].to_pylist()]
        ranking.rank[own] = np.arange(1, len(own) + 1)
        asked = np.full(count, np.nan)
        if column.name in candidates.column_names:
            there, rows = _vectors(candidates, column.name, column.dimensions)
            ranking.raw[there] = rows @ question.raw
            moved = rows if question.centre is None else centred(rows, question.centre)
            asked[there] = moved @ question.vector
        # What the store says counts: so ranks and evidence never disagree.
        asked[own] = ranking.found[SCORE].to_numpy()
        if question.centre is None:
            ranking.raw[own] = asked[own]
        ranking.evidence = np.full(count, np.nan)
        known = ~np.isnan(asked)
        ranking.evidence[known] = background.evidence(question.kind, column, question.vector, asked[known])
        found = ranking.found if column.name in ranking.found.column_names else None
        best = best_rows(self.index, question, found, self.record.content if self.record else "", self.where)
        ranking.presence = presence_of(background, question, best)

    def _weigh_words(self, ranking: _Ranking, places: Mapping[str, int]) -> None:
        """The share of the query's words that a text has, squared; of equal shares BM25 decides."""
        count = len(places)
        ranking.rank, ranking.raw = np.full(count, np.nan), np.full(count, np.nan)
        ranking.evidence = np.full(count, np.nan)
        own = [places[id_] for id_ in ranking.found["id"].to_pylist()]
        if not own:
            return
        scores = ranking.found[SCORE].to_numpy().astype(np.float64)
        wanted = set(words_of(self.words))
        texts = ranking.found["text"].to_pylist()
        share = np.asarray([len(wanted.intersection(words_of(text or ""))) / len(wanted) for text in texts])
        match = share**2 * (0.9 + 0.09 * scores / max(scores.max(), 1e-9))
        ranking.rank[own], ranking.raw[own] = np.arange(1, len(own) + 1), scores
        ranking.evidence[own] = evidence_of(match)
        ranking.presence = 1.0

    def _told(
        self,
        rankings: Sequence[_Ranking],
        candidates: pa.Table,
        rows: Sequence[int],
        copies: Mapping[str, int],
    ) -> Hits:
        chosen = np.asarray(rows, np.int64)
        shown = candidates.take(chosen)
        attributes: dict[str, Any] = {name: shown[name].to_pylist() for name in self.told}
        attributes["copies"] = [copies[same] for same in _sameness(shown)]
        by = [rankings[row] for row in self.surest[chosen]] if len(chosen) else []
        scales = [f"{r.scale} {self.query.modality}->{r.part}" for r in rankings]
        if self.request.fusion in ("calibrated", "raw"):
            scores = np.asarray([r.raw[row] for r, row in zip(by, rows, strict=True)], np.float32)
            scale = " | ".join(dict.fromkeys(scales))
        else:
            scores = self.values[chosen].astype(np.float32)
            scale = f"{self.request.fusion} fusion of {' | '.join(dict.fromkeys(scales))}"
        uris = zip(shown["uri"].to_pylist(), shown["id"].to_pylist(), strict=True)
        return Hits(
            ids=shown["id"].to_pylist(),
            scores=scores,
            scale=scale,
            uris=[uri or id_ for uri, id_ in uris],
            attributes=attributes,
            notes=tuple(self.notes),
            match=(likeness(self.certain[chosen]) * self.presence).astype(np.float32),
            parts=[ranking.part for ranking in by],
            models=[ranking.model for ranking in by],
        )


def best_rows(
    index: Index,
    question: Question,
    found: pa.Table | None = None,
    exclude: str = "",
    where: Filter | None = None,
) -> NDArray[np.float32]:
    """The raw vectors of the first results of a question, float32 (n, dim).

    Args:
        index: that is asked.
        question: one.
        found: its results with their vectors, where there are some already.
        exclude: content of the record that it is about.
        where: a filter.
    """
    name = question.column.name
    if found is None:
        found = index.table.nearest(
            name, question.vector, 2 * BEST, columns=["content", name], where=where, centre=question.centre
        )
    found = found.slice(0, 2 * BEST)
    if exclude and found.num_rows:
        found = found.filter([content != exclude for content in found["content"].to_pylist()])
    return _vectors(found.slice(0, BEST), name, question.column.dimensions)[1]


def presence_of(background: Background, question: Question, best: NDArray[np.float32]) -> float:
    """Whether there is anything of the kind, 0 to 1; see `Background.presence`."""
    return background.presence(question.kind, question.column, best @ question.raw, best)


def _together(tables: Sequence[pa.Table]) -> pa.Table:
    """All rows that were found, each once, those of the first table first."""
    import pyarrow as pa

    plain = [table.drop_columns([SCORE]) for table in tables]
    if len(plain) == 1:
        return plain[0]
    joined = pa.concat_tables(plain)
    first: dict[str, int] = {}
    for row, id_ in enumerate(joined["id"].to_pylist()):
        first.setdefault(id_, row)
    return joined.take(np.asarray(list(first.values()), np.int64))


def _vectors(rows: pa.Table, name: str, width: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The places of rows that have a vector, and the vectors, float32 (n, dim)."""
    column = rows[name]
    there = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    parts = [chunk.drop_null().flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    flat = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    return there, flat.reshape(-1, width).astype(np.float32, copy=False)


def _distinct(
    candidates: pa.Table, order: NDArray[np.int64], exclude: str
) -> tuple[list[int], dict[str, int]]:
    """The rows to show, exact copies of one picture shown as one, and how many copies there are of each."""
    rows: list[int] = []
    copies: dict[str, int] = {}
    same, contents = _sameness(candidates), candidates["content"].to_pylist()
    for row in order.tolist():
        if exclude and contents[row] == exclude:
            continue  # The record asked about, and its copies, are not its own neighbours.
        if same[row] not in copies:
            rows.append(row)
        copies[same[row]] = copies.get(same[row], 0) + 1
    return rows, copies


def _sameness(found: pa.Table) -> list[str]:
    """What exact copies have in common: their content; a record to which the user gave an id is like no other."""
    pairs = zip(found["id"].to_pylist(), found["content"].to_pylist(), strict=True)
    return [content if content and id_.startswith(content) else id_ for id_, content in pairs]


def _is_past(values: Floats, order: NDArray[np.int64], row: int) -> bool:
    """Whether the last row found ranks lower than this one, so that all its exact copies were found."""
    return bool(values[row] - values[order[-1]] > SAME)
