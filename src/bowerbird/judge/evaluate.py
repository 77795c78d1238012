"""An index against what is known to be right: pairs of pictures and captions, or queries with judgements."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.errors import QueryError, UnsupportedInputError
from bowerbird.judge import similarity as matrices
from bowerbird.judge.answering import (
    Pool,
    System,
    answers,
    caption_pool,
    picture_answers,
    systems,
    text_pool,
)
from bowerbird.judge.evaluation import Evaluation, Figure, Row, Task
from bowerbird.judge.examples import examples
from bowerbird.judge.measures import Measure, Scores, measure, measured
from bowerbird.judge.pairs import Pairs, Records, read_pairs
from bowerbird.judge.significance import LEVEL, RESAMPLES, SEED, SHUFFLES, holm, intervals, paired_p
from bowerbird.judge.similarity import Similarity
from bowerbird.judge.trec import known_only, read_qrels, read_queries
from bowerbird.record import Modality
from bowerbird.search.entries import labels
from bowerbird.search.fuse import FUSIONS
from bowerbird.store.filters import Filter
from bowerbird.store.where import parse

if TYPE_CHECKING:
    from bowerbird.search.index import Index
    from bowerbird.store.manifest import ModelEntry

MEASURES = ("R@1", "R@5", "R@10", "P@10", "RR", "AP", "nDCG@10", "median rank")

TEXT_TO_IMAGE = "text to picture"
IMAGE_TO_TEXT = "picture to text"
QUERIES = "queries"

Progress = Callable[[int, int], None]
"""Is told how many answers were given, of how many."""


def evaluate_index(  # noqa: PLR0913  what an evaluation may have
    index: Index,
    *,
    pairs: str | Path | None = None,
    queries: str | Path | None = None,
    qrels: str | Path | None = None,
    image: str = "",
    text: str = "",
    models: str | Sequence[str] = "all",
    fusions: Sequence[str] = FUSIONS,
    measures: Sequence[str] = MEASURES,
    k: int = 100,
    where: str = "",
    by_words: bool = False,
    whole_matrix: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Judge every model of an index and every fusion of them.

    Args:
        index: that is judged.
        pairs: table of pictures and captions, asked in both directions; see `bowerbird.judge.pairs`.
        queries: in its stead, queries of TREC, with `qrels`; see `bowerbird.judge.trec`.
        qrels: judgements of these.
        image: of `pairs`, the column of the pictures.
        text: of `pairs`, the column of the texts.
        models: which are judged.
        fusions: which are tried where several parts or models are asked together.
        measures: names, as in ir-measures.
        k: how many results of each query are judged.
        where: a filter: only records that pass it are there to be found.
        by_words: of TREC queries, also search texts for the words (BM25).
        whole_matrix: keep the similarity of all pairs rather than of the first thousand.
        progress: is told how far it is.

    Raises:
        QueryError: what is asked for is not there, or nothing of what is known to be right is in the index.
        InputError: one of the files cannot be read.
    """
    chosen = tuple(dict.fromkeys(measure(name) for name in measures))
    if (pairs is None) == (queries is None) or (queries is None) != (qrels is None):
        raise QueryError(
            "What is right is not said, or said twice.",
            hint="Give a table of pairs (--pairs), or queries and qrels together (--queries, --qrels).",
        )
    if k < 1 or not chosen:
        raise QueryError("There is nothing to judge.", hint="Ask for one measure and one result at least.")
    if pairs is not None and by_words:
        raise QueryError(
            "Captions would find themselves by their words.", hint="Search by words with queries and qrels."
        )
    judge = _Judge(index, index.entries(models), tuple(fusions), chosen, k, where, progress)
    if pairs is not None:
        return judge.pairs(pairs, image, text, whole=whole_matrix)
    assert queries is not None and qrels is not None  # one of the two was given, with the other
    return judge.trec(queries, qrels, by_words=by_words)


@dataclass
class _Judge:
    """One evaluation on its way."""

    index: Index
    entries: tuple[ModelEntry, ...]
    fusions: tuple[str, ...]
    measures: tuple[Measure, ...]
    k: int
    where: str
    progress: Progress | None
    problems: list[str] = field(default_factory=list)
    answered: int = 0
    wanted: int = 0

    def __post_init__(self) -> None:
        for fusion in self.fusions:
            if fusion not in FUSIONS:
                raise QueryError(f"There is no fusion {fusion!r}.", hint=f"Use some of {', '.join(FUSIONS)}.")
        if not self.fusions:
            raise QueryError("No fusion was named.", hint=f"Use some of {', '.join(FUSIONS)}.")
        self.filter: Filter | None = parse(self.where, self.index.table.fields)
        self.records = Records.of(self.index, self.filter)
        self.names = labels(self.index.manifest.models)

    def pairs(self, path: str | Path, image: str, text: str, *, whole: bool) -> Evaluation:
        """Both directions of a table of pairs."""
        pairs = read_pairs(path, self.records, image=image, text=text)
        self.problems += pairs.problems
        able = [entry for entry in self.entries if entry.takes(Modality.TEXT) and entry.takes(Modality.IMAGE)]
        for entry in self.entries:
            if entry not in able:
                self.problems.append(
                    f"{self.names[entry.space]} does not embed both pictures and texts, and was left out."
                )
        if not able:
            raise UnsupportedInputError(
                "None of the models embeds both pictures and texts.", hint="Add one that does to the index."
            )
        every = systems(able, self.names, self.fusions, parts=1)
        self.wanted = len(every) * (len(pairs.texts) + len(pairs.pictures))
        forth, there = self._from_texts(pairs, every)
        back = self._from_pictures(pairs, every, able)
        names = [self.records.names[id_] for id_ in pairs.pictures]
        found = matrices.of_pairs(self.index, able[0], pairs, names, most=0 if whole else matrices.DRAWN)
        counts = {
            "pairs": f"{len(pairs.links):,} pairs of {len(pairs.texts):,} texts and {len(pairs.pictures):,} pictures, "
            f"from {pairs.rows:,} rows of the table; texts that are the same count as one",
            "text to picture": f"each text asks among the pictures of the index, {forth.pool:,}",
        }
        tasks: tuple[Task, ...] = (forth,)
        rows = tuple(there)
        if back is not None:
            task, more, source = back
            tasks, rows = (forth, task), (*there, *more)
            counts["picture to text"] = f"each picture asks among {task.pool:,} {source}"
        return self._evaluation(str(path), tasks, rows, found, counts)

    def _from_texts(self, pairs: Pairs, every: Sequence[System]) -> tuple[Task, list[Row]]:
        queries = {str(place): text for place, text in enumerate(pairs.texts)}
        pictures = len({self.records.same(id_) for id_ in self.records.ids})
        task = Task(TEXT_TO_IMAGE, queries, {}, {}, pairs.qrels(from_text=True), pictures)
        return task, self._rows(
            task, every, [self._asked(system, queries, str(Modality.IMAGE)) for system in every]
        )

    def _from_pictures(
        self, pairs: Pairs, every: Sequence[System], able: Sequence[ModelEntry]
    ) -> tuple[Task, list[Row], str] | None:
        """The task, its figures and where its answers are from; None where no picture can be asked."""
        pool, texts, qrels = self._answers(pairs, able)
        asked = {picture: self.records.names[picture] for picture in pairs.pictures if picture in qrels}
        runs = picture_answers(self.index, every, list(asked), pool, k=self.k, told=self._told)
        missing = sum(not found for found in runs[0].values())
        if missing == len(asked):
            self.problems.append(
                f"{IMAGE_TO_TEXT} was left out: none of the {missing:,} pictures has a vector to ask with."
            )
            return None
        if missing:
            self.problems.append(f"{missing:,} of {len(asked):,} pictures have no vector, and found nothing.")
        task = Task(IMAGE_TO_TEXT, asked, {p: p for p in asked}, texts, qrels, len(pool.ids))
        source = "texts of the index" if pool.indexed else "captions of the table"
        return task, self._rows(task, every, runs), source

    def _answers(
        self, pairs: Pairs, able: Sequence[ModelEntry]
    ) -> tuple[Pool, dict[str, str], dict[str, dict[str, int]]]:
        """What pictures ask among, what these texts are, and which are right of a picture.

        The texts of the index, where most of the pictures have one of their own; then that is right, and stands for all
        that are the same. Else the captions of the table.
        """
        pool, of = text_pool(self.index, able, self.filter), len(pairs.pictures)
        if pool is not None:
            told = self._texts(pool.ids)
            own = [picture for picture in pairs.pictures if picture in told]
            if 2 * len(own) > of:
                if lost := of - len(own):
                    self.problems.append(f"{lost:,} of {of:,} pictures have no text in the index.")
                pool, stands = pool.distinct(told)
                return pool, told, {picture: {stands[picture]: 1} for picture in own}
            self.problems.append(
                f"Only {len(own):,} of {of:,} pictures {'has' if len(own) == 1 else 'have'} a text of their own in the "
                "index: the captions of the table are the answers."
            )
        pool = caption_pool(self.index, able, pairs.texts)
        return pool, dict(zip(pool.ids, pairs.texts, strict=True)), pairs.qrels(from_text=False)

    def trec(self, queries: str | Path, qrels: str | Path, *, by_words: bool) -> Evaluation:
        """Queries against all parts of the records."""
        asked = read_queries(queries)
        judged, told = known_only(read_qrels(qrels), self.records.find, list(self.records.ids))
        if told:
            self.problems.append(told)
        unasked, unjudged = [q for q in judged if q not in asked], [q for q in asked if q not in judged]
        if len(unasked) == len(judged):
            raise QueryError(
                f"None of the {len(asked):,} queries has a judgement, for example {unjudged[0]!r}.",
                hint=f"The qrels name queries like {unasked[0]!r}: ids have to be the same in both files.",
            )
        if unasked:
            self.problems.append(_of_queries(unasked, "judged, but not asked, and counted as 0"))
        if unjudged:
            self.problems.append(_of_queries(unjudged, "without judgement and left out"))
        wanted = {query: text for query, text in asked.items() if query in judged}
        parts = [
            str(part) for part in Modality if any(c.modality == part for e in self.entries for c in e.columns)
        ]
        among = ",".join((*parts, "words")) if by_words else ""
        every = systems(self.entries, self.names, self.fusions, parts=len(parts) + by_words)
        self.wanted = len(every) * len(wanted)
        rows = {query: text.name if isinstance(text, Path) else text for query, text in wanted.items()}
        shown = {query: str(text) for query, text in wanted.items() if isinstance(text, Path)}
        task = Task(QUERIES, rows, shown, {}, judged, len(self.records.ids))
        done = self._rows(task, every, [self._asked(system, wanted, among) for system in every])
        counts = {
            "queries": f"{len(wanted):,} queries among {task.pool:,} records{', BM25 too' if by_words else ''}",
            "judgements": f"{sum(map(len, judged.values())):,}, of {len(judged):,} queries",
        }
        return self._evaluation(f"{queries}, {qrels}", (task,), done, None, counts)

    def _asked(
        self, system: System, queries: Mapping[str, str | Path], among: str
    ) -> dict[str, list[str]] | str:
        """What a system finds, or why it cannot be asked at all."""
        try:
            found, faults = answers(
                self.index,
                system,
                queries,
                self.records,
                k=self.k,
                among=among,
                where=self.where,
                told=self._told,
            )
        except QueryError as error:
            return str(error)
        if faults and len(faults) == len(queries):
            return next(iter(faults.values()))
        self.problems += [f"Query {query!r}: {fault}" for query, fault in faults.items()]
        return found

    def _rows(
        self, task: Task, every: Sequence[System], runs: Sequence[Mapping[str, Sequence[str]] | str]
    ) -> list[Row]:
        """Figures of all systems of one direction.

        Raises:
            QueryError: none of them could be asked.
        """
        done: list[tuple[System, Mapping[str, Sequence[str]], Scores]] = []
        for system, run in zip(every, runs, strict=True):
            if isinstance(run, str):
                self.problems.append(f"{system} was left out: {run}")
            else:
                done.append((system, run, measured(self.measures, task.qrels, run)))
        if not done:
            raise QueryError(f"No model of the index could be asked: {self.problems[-1]}")
        figures: list[dict[Measure, Figure]] = [{} for _ in done]
        for one in self.measures:
            for into, figure in zip(figures, _figures(one, [scores for _, _, scores in done]), strict=True):
                into[one] = figure
        return [
            Row(system.models, system.fusion, task.direction, into, scores, run)
            for (system, run, scores), into in zip(done, figures, strict=True)
        ]

    def _texts(self, ids: Sequence[str]) -> dict[str, str]:
        wanted = set(ids)
        batches = self.index.table.scan(["id", "text"], where=self.filter)
        rows = (row for batch in batches for row in zip(*(c.to_pylist() for c in batch.columns), strict=True))
        return {id_: text or "" for id_, text in rows if id_ in wanted}

    def _told(self, more: int) -> None:
        self.answered += more
        if self.progress:
            self.progress(self.answered, self.wanted)

    def _evaluation(
        self,
        source: str,
        tasks: tuple[Task, ...],
        rows: Sequence[Row],
        found: Similarity | None,
        counts: Mapping[str, str],
    ) -> Evaluation:
        shown = [
            e for task in tasks for e in examples(self.index, task, _first(rows, task), self.records.names)
        ]
        return Evaluation(
            index=str(self.index.path),
            source=source,
            measures=self.measures,
            rows=tuple(rows),
            tasks=tasks,
            examples=tuple(shown),
            similarity=found,
            protocol={**counts, **dict(self._protocol())},
            problems=tuple(dict.fromkeys(self.problems)),
        )

    def _protocol(self) -> Iterator[tuple[str, str]]:
        from bowerbird import __version__

        yield (
            "depth",
            f"the best {self.k:,} of each query are judged" + (f", where {self.where}" if self.where else ""),
        )
        for entry in self.entries:
            yield f"model {self.names[entry.space]}", f"{entry.source}, space {entry.space}"
        yield (
            "intervals",
            f"{LEVEL:.0%}, percentile bootstrap over queries, {RESAMPLES:,} samples shared by all systems, seed {SEED}",
        )
        yield (
            "p-values",
            f"two-sided paired randomisation test against the first system, {SHUFFLES:,} patterns, seed {SEED}; "
            "Holm's correction over the systems of a direction",
        )
        yield "definitions", "as in ir-measures and trec_eval; see docs/evaluation.md"
        yield (
            "versions",
            f"bowerbird {__version__}, numpy {np.__version__}, Python {platform.python_version()}, "
            f"{platform.system()} {platform.machine()}",
        )


def _first(rows: Sequence[Row], task: Task) -> Row:
    return next(row for row in rows if row.direction == task.direction)


def _figures(one: Measure, scores: Sequence[Scores]) -> list[Figure]:
    """One measure of several systems, compared with the first."""
    values = np.stack([found.values[one] for found in scores])
    ends = intervals(values, median=one.less_is_better)
    p_values: list[float | None] = [None] * len(scores)
    if not one.less_is_better and values.shape[1]:
        p_values[1:] = holm([paired_p(values[0], other) for other in values[1:]])
    return [
        Figure(found.mean(one), end.low, end.high, p)
        for found, end, p in zip(scores, ends, p_values, strict=True)
    ]


def _of_queries(some: Sequence[str], what: str) -> str:
    """`2 queries were ..., such as '7'.`"""
    those = "1 query was" if len(some) == 1 else f"{len(some):,} queries were"
    return f"{those} {what}, such as {some[0]!r}."
