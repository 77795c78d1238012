"""A query becomes ranked records: every part is asked, the best part of each record counts.

question -> the nearest rows of each column -> how far each of them stands out (`background`) -> one list (`fuse`)
-> exact copies shown as one -> the cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import InputError, QueryError, UnsupportedInputError
from bowerbird.hits import Hits
from bowerbird.record import Modality
from bowerbird.search import fuse
from bowerbird.search.background import Background, Found
from bowerbird.search.candidates import distinct, sameness, together, vectors_of
from bowerbird.search.entries import labels
from bowerbird.search.evidence import BEST, Floats, evidence_of, kinship, likeness, match_of, tempered
from bowerbird.search.gap import centred
from bowerbird.search.query import WORDS, Query
from bowerbird.search.question import Asker, Embedded, Question, liked
from bowerbird.search.request import Request
from bowerbird.store.filters import Filter, words_of
from bowerbird.store.table import ATTRIBUTES, SCORE
from bowerbird.store.where import parse

if TYPE_CHECKING:
    import pyarrow as pa

    from bowerbird.search.index import Index
    from bowerbird.store.manifest import ModelEntry

SPARE = 16
"""Extra rows fetched, so that exact copies of one picture can be shown as one result."""

DEPTHS = (64, 256, 1024, 4096)
"""Rows that are fetched of each part where several are asked: steps, so that pages agree with each other."""

RANKED = 1024
"""Rows of each part that reciprocal rank fusion knows of."""

MOST_VECTORS = 4096
"""Of longer lists the vectors are not fetched."""

SAME = 1e-6
"""Scores of exact copies differ by less: a dot product depends in its last bits on where the row lies."""


@dataclass
class _Ranking:
    """What was found in one part under one model.

    Attributes:
        scale: of its raw scores.
        part: of the records.
        model: under which.
        found: the rows, best first.
        presence: whether anything of the kind is there, 0 to 1.
        level: the evidence of those that say so.
        raw: (candidates,), NaN where there is none.
        asked: likewise, the scores that it is ranked by: those of corrected vectors where the gap is corrected.
        evidence: likewise.
        rank: from 1, NaN for candidates that were not found here.
    """

    scale: str
    part: str
    model: str
    found: pa.Table
    presence: float = 0.0
    level: float = 0.0
    raw: Floats = field(default_factory=lambda: np.zeros(0))
    asked: Floats = field(default_factory=lambda: np.zeros(0))
    evidence: Floats = field(default_factory=lambda: np.zeros(0))
    rank: Floats = field(default_factory=lambda: np.zeros(0))

    def place(self, candidates: int, places: Mapping[str, int]) -> list[int]:
        """Make room for what is said of so many candidates; where those lie that were found here."""
        self.rank, self.raw, self.asked, self.evidence = (np.full(candidates, np.nan) for _ in range(4))
        own = [places[id_] for id_ in self.found["id"].to_pylist()]
        self.rank[own] = np.arange(1, len(own) + 1)
        return own

    def deep(self, values: Floats) -> Floats:
        """Values of the later half of what was found: of deeper rows there are hardly any larger."""
        later: Floats = values[self.rank > self.found.num_rows / 2]
        return later


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
        self.names = labels(index.manifest.models)
        self.record = liked(index, query.like, entries) if query.like else None
        self.unliked = [liked(index, one, entries) for one in query.unlike]
        self.questions = self._questions(entries, embedded)
        self.words = " ".join(query.texts) if WORDS in query.asked else ""
        if request.threshold is not None and len(self.questions) + bool(self.words) > 1:
            raise QueryError(
                "A threshold compares raw scores, and here those of several scales would be compared.",
                hint="Give a least match (min_match) instead, or search one part under one model.",
                param="threshold",
            )
        names = index.table.names
        told = (*ATTRIBUTES, "text", *index.table.attributes().names)
        self.told = [name for name in told if name in names]

    def hits(self) -> Hits:
        """All of it."""
        request, reranker = self.request, self.request.rerank
        last = request.offset + request.k
        page = slice(request.offset, last)
        found = self._fused(last if reranker is None else max(last, reranker.depth))
        if found.below is not None:
            return replace(found, below=found.below[page])
        # Last: what does not pass shall not stand in the way of what does, and both limits are on what was found.
        return (found if reranker is None else reranker.rerank(self.index, self.query, found))[page]

    def _questions(self, entries: Sequence[ModelEntry], embedded: Embedded | None) -> list[Question]:
        found: list[Question] = []
        refused: list[InputError] = []
        self.backgrounds: dict[str, Background] = {}
        self._check_parts(entries)
        for entry in entries:
            background = self.backgrounds[entry.space] = self.index.background(entry)
            asker = Asker(self.index, entry, background, embedded)
            try:
                found += asker.questions(self.query, self.record, self.unliked)
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
                param="among",
            )
        return found

    def _check_parts(self, entries: Sequence[ModelEntry]) -> None:
        have = {column.modality for entry in entries for column in entry.columns}
        for part in self.query.asked:
            if part != WORDS and part not in have:
                raise QueryError(
                    f"The index at {self.index.path} has no {'texts' if part == Modality.TEXT else 'pictures'}.",
                    hint=f"It has {' and '.join(sorted(have))}: leave out the part to search.",
                    param="among",
                )

    def _fused(self, wanted: int) -> Hits:
        """The first `wanted` results of all rankings together that pass the limits, exact copies as one."""
        exclude = self.record.content if self.record else ""
        several = len(self.questions) + bool(self.words) > 1
        depth = wanted + SPARE + bool(exclude)
        if several:
            depth = next((step for step in DEPTHS if step >= 4 * depth), 4 * depth)
        if self.request.fusion == "rank" and several:
            depth = max(depth, RANKED)  # whatever page is asked for: ranks beyond say nothing
        while True:
            rankings = [*(self._ask(question, depth) for question in self.questions), *self._by_words(depth)]
            candidates = together([ranking.found for ranking in rankings])
            order = self._order(rankings, candidates)
            rows, copies = distinct(candidates, order, exclude)
            near = [row for row in rows if self._reaches(rankings[0], row)]
            passing = [row for row in near if self._matches(row)]
            if not self._may_find_more(rankings, depth):
                break
            if len(passing) >= wanted and (several or _is_past(rankings[0], order, passing[wanted - 1])):
                break
            depth *= 4  # Many exact copies of few pictures, or much that does not pass.
        hits = self._told(rankings, candidates, passing[:wanted], copies)
        if passing or not near:
            return hits
        return replace(hits, below=self._told(rankings, candidates, near[:wanted], copies))

    def _reaches(self, ranking: _Ranking, row: int) -> bool:
        threshold = self.request.threshold
        return threshold is None or bool(np.float32(ranking.raw[row]) >= threshold)

    def _matches(self, row: int) -> bool:
        least = self.request.min_match
        return least is None or bool(self.match[row] >= np.float32(least))

    def _may_find_more(self, rankings: Sequence[_Ranking], depth: int) -> bool:
        """Whether there are deeper rows, and some of them may pass the limits."""
        least, threshold = self.request.min_match, self.request.threshold
        for ranking, evidence in zip(rankings, self.judged, strict=True):
            if ranking.found.num_rows < depth:
                continue
            matches = likeness(ranking.deep(evidence))
            if (least is None or (matches >= least).any()) and (
                threshold is None or (ranking.deep(ranking.raw) >= threshold).any()
            ):
                return True
        return False

    def _ask(self, question: Question, depth: int) -> _Ranking:
        # Others that mix raw scores know of no correction.
        corrected = question.centre is not None and self.request.fusion != "raw"
        found = self.index.table.nearest(
            question.column.name,
            question.vector if corrected else question.raw,
            depth,
            columns=self._columns(depth),
            where=self.where,
            centre=question.centre if corrected else None,
            exact=self.request.rerank is not None and self.request.rerank.exact,
        )
        name = self.names[question.entry.space]
        return _Ranking(f"{name}/{question.column.output}", question.part, name, found)

    def _columns(self, depth: int) -> list[str]:
        columns = ["id", "uri", "content", *self.told]
        if min(depth, len(self.index)) <= MOST_VECTORS:
            columns += [question.column.name for question in self.questions]
        return list(dict.fromkeys(columns))

    def _by_words(self, depth: int) -> list[_Ranking]:
        if not self.words:
            return []
        columns = self._columns(depth)
        found = self.index.table.words(self.words, depth, columns=columns, where=self.where)
        return [_Ranking("words (BM25)", WORDS, "", found)]

    def _order(self, rankings: Sequence[_Ranking], candidates: pa.Table) -> NDArray[np.int64]:
        """The places of candidates, best first."""
        places = {id_: place for place, id_ in enumerate(candidates["id"].to_pylist())}
        asked = list(zip(rankings, self.questions, strict=False))
        own = [ranking.place(candidates.num_rows, places) for ranking in rankings]
        self._score(asked, candidates, places)
        for (ranking, question), found in zip(asked, own, strict=False):
            self._weigh(ranking, question, found)
        for ranking, found in zip(rankings[len(asked) :], own[len(asked) :], strict=True):
            self._weigh_words(ranking, found)
        parts = [ranking.part for ranking in rankings]
        plain, _ = fuse.calibrated(np.stack([ranking.evidence for ranking in rankings]), parts)
        self.judged = evidence = np.stack(self._judged(rankings))  # (rankings, candidates)
        certain, self.surest = fuse.calibrated(evidence, parts)
        self.match = likeness(certain).astype(np.float32)
        ranks = np.stack([ranking.rank for ranking in rankings])
        values = certain
        if self.request.fusion == "rank":
            values, self.surest = fuse.by_rank(ranks)
        elif self.request.fusion == "weighted":
            given = self.request.part_weights
            weights = np.asarray([given.get(part, 0.0) if given else 1.0 for part in parts])
            if not weights.any():
                raise QueryError(
                    "None of the parts that are searched has a weight.",
                    hint="Weigh one of them.",
                    param="part_weights",
                )
            values, self.surest = fuse.weighted(likeness(evidence), weights)
        elif self.request.fusion == "raw":
            raw = np.stack([ranking.raw for ranking in rankings])
            values, self.surest = fuse.by_raw_score(raw, ~np.isnan(ranks))
        self.values = values
        # Labels make much equal, and so do ranks: then the evidence decides. Where several are asked, what is equal
        # there too is in the order of the ids: which of them came first depends on the depth.
        ids = np.asarray(candidates["id"].to_pylist()) if len(rankings) > 1 else np.arange(len(values))
        falling = [-np.where(np.isnan(key), -np.inf, key) for key in (plain, values)]
        order: NDArray[np.int64] = np.lexsort((ids, *falling))
        return order

    def _judged(self, rankings: Sequence[_Ranking]) -> list[Floats]:
        """The evidence of each ranking with the presence; where pairs were labelled, with what that has taught."""
        # Evidence is one scale for all parts: so is what is near to those that were found present.
        surest = max(rankings[: len(self.questions)], key=lambda ranking: ranking.presence, default=None)
        presence, level = (surest.presence, surest.level) if surest else (0.0, 0.0)
        found = []
        for ranking, question in zip(rankings, self.questions, strict=False):
            judged = self.backgrounds[question.entry.space].labels
            told = judged.get(f"{question.kind}->{question.column.name}")
            plain = tempered(ranking.evidence, presence * kinship(ranking.evidence, level))
            found.append(evidence_of(match_of(told, ranking.evidence, presence)) if told else plain)
        # That words are in a text says nothing of what vectors found.
        return found + [ranking.evidence for ranking in rankings[len(found) :]]

    def _score(
        self, asked: Sequence[tuple[_Ranking, Question]], candidates: pa.Table, places: Mapping[str, int]
    ) -> None:
        """What every question says of every candidate, also of those that another one found."""
        for rows, batch in self._batches(candidates, places):
            for ranking, question in asked:
                there, vectors = vectors_of(batch, question.column.name, question.column.dimensions)
                here = rows[there]
                ranking.raw[here] = vectors @ question.raw
                moved = vectors if question.centre is None else centred(vectors, question.centre)
                ranking.asked[here] = moved @ question.vector

    def _batches(
        self, candidates: pa.Table, places: Mapping[str, int]
    ) -> Iterator[tuple[NDArray[np.int64], pa.Table]]:
        """Candidates with their vectors, and their places; of a long list read now, and never all at once."""
        import pyarrow as pa

        names = list(dict.fromkeys(question.column.name for question in self.questions))
        if set(names) <= set(candidates.column_names):
            yield np.arange(candidates.num_rows), candidates
            return
        if len(names) == 1 and not self.words and self.questions[0].centre is None:
            return  # The store's own scores say it all.
        for batch in self.index.table.scan(["id", *names], where=self.where):
            at = np.asarray([places.get(id_, -1) for id_ in batch.column("id").to_pylist()], np.int64)
            found = np.flatnonzero(at >= 0)
            yield at[found], pa.Table.from_batches([batch]).take(found)

    def _weigh(self, ranking: _Ranking, question: Question, own: Sequence[int]) -> None:
        """How far its scores stand out."""
        background, column = self.backgrounds[question.entry.space], question.column
        # What the store says counts: so ranks and evidence never disagree.
        said = ranking.found[SCORE].to_numpy()
        if question.centre is None:
            ranking.raw[own] = ranking.asked[own] = said
        elif self.request.fusion == "raw":
            ranking.raw[own] = said
        else:
            ranking.asked[own] = said
        # Of the whole column: what a record matches does not depend on a filter.
        plain = self.where is None and self.request.fusion != "raw"
        best = best_rows(
            self.index,
            question,
            ranking.found if plain and column.name in ranking.found.column_names else None,
            self.record.content if self.record else "",
        )
        found = found_by(background, question, best)
        known = ~np.isnan(ranking.asked)
        scores = np.append(ranking.asked[known], found.level)
        *evidence, ranking.level = background.evidence(question.kind, column, question.vector, scores)
        ranking.evidence[known] = evidence
        ranking.presence = found.presence

    def _weigh_words(self, ranking: _Ranking, own: Sequence[int]) -> None:
        """The share of the query's words that the first text has, and how near the others come to it, squared."""
        if not own:
            return
        scores = ranking.found[SCORE].to_numpy().astype(np.float64)
        wanted = set(words_of(self.words))
        first = ranking.found["text"][0].as_py() or ""
        share = len(wanted.intersection(words_of(first))) / len(wanted)
        match = 0.99 * (share * scores / max(float(scores[0]), 1e-9)) ** 2
        ranking.raw[own] = scores
        ranking.evidence[own] = ranking.asked[own] = evidence_of(match)

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
        attributes["copies"] = [copies[same] for same in sameness(shown)]
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
            match=self.match[chosen],
            parts=[ranking.part for ranking in by],
            models=[ranking.model for ranking in by],
        )


def best_rows(
    index: Index,
    question: Question,
    found: pa.Table | None = None,
    exclude: str = "",
) -> NDArray[np.float32]:
    """The raw vectors of the first results of a question, each content once, float32 (n, dim).

    Args:
        index: that is asked.
        question: one.
        found: its results with their vectors, where there are some already.
        exclude: content of the record that it is about.
    """
    name = question.column.name
    if found is None:
        found = index.table.nearest(
            name, question.vector, 2 * BEST, columns=["content", name], centre=question.centre
        )
    found = found.slice(0, 2 * BEST)
    # Many copies of one thing are no more of the kind than one.
    first: dict[object, int] = {}
    for row, content in enumerate(found["content"].to_pylist()):
        if not exclude or content != exclude:
            first.setdefault(content or row, row)
    found = found.take(np.asarray(list(first.values()), np.int64))
    return vectors_of(found.slice(0, BEST), name, question.column.dimensions)[1]


def found_by(background: Background, question: Question, best: NDArray[np.float32]) -> Found:
    """What the best results of a question say; see `Background.presence`."""
    moved = best if question.centre is None else centred(best, question.centre)
    raw = float(best[0] @ question.raw) if len(best) else 0.0
    return background.presence(question.kind, question.column, moved @ question.vector, moved, raw)


def _is_past(ranking: _Ranking, order: NDArray[np.int64], row: int) -> bool:
    """Whether the last row found scores lower than this one, so that all its exact copies were found."""
    return bool(ranking.asked[row] - ranking.asked[order[-1]] > SAME)
