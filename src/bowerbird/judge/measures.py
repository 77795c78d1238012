"""Measures of rankings, spelled and defined as in ir-measures, which follows trec_eval.

`P@k`, `R@k`, `RR`, `RR@k`, `AP`, `AP@k`, `nDCG`, `nDCG@k`, `Success@k`, `Judged`, `Judged@k`, `Rprec`; those that ask
for relevant records take a grade from which on a record is relevant: `P(rel=2)@10`. Beside them `median rank`.

What the definitions leave open is decided as these tools do it:

- Every query that has judgements counts, with 0 where nothing was found, or nothing is relevant. Queries without
  judgements are left out.
- Records without judgement are not relevant. Grades below 1 gain nothing.
- `P@k` is divided by k and `AP` by the number of relevant records, however few were found.
- The gain of nDCG is the grade, its discount log2(rank + 1) (Järvelin and Kekäläinen 2002, as trec_eval has it).
- Equal scores are ordered by id, the greatest first, and scores are compared in single precision, as in trec_eval.
  `RR@k` and `Judged` come from other code in ir-measures: double precision, the smallest id first.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import QueryError

Qrels: TypeAlias = Mapping[str, Mapping[str, int]]
"""query -> record -> grade."""

Run: TypeAlias = Mapping[str, Mapping[str, float] | Sequence[str]]
"""query -> record -> score, or query -> records, best first."""

Floats: TypeAlias = NDArray[np.float64]

MEDIAN_RANK = "median rank"

_CUTOFF = {
    "P": "needed",
    "R": "needed",
    "Success": "needed",
    "RR": "possible",
    "AP": "possible",
    "nDCG": "possible",
    "Judged": "possible",
    "Rprec": "none",
    MEDIAN_RANK: "none",
}
_BY_GRADE = ("P", "R", "Success", "RR", "AP", "Rprec", MEDIAN_RANK)
_ALIASES = {
    "Precision": "P",
    "Recall": "R",
    "MRR": "RR",
    "MAP": "AP",
    "NDCG": "nDCG",
    "RPrec": "Rprec",
    "MedR": MEDIAN_RANK,
}
_NAME = re.compile(r"\s*([A-Za-z][A-Za-z ]*?)\s*(?:\(\s*rel\s*=\s*(\d+)\s*\))?\s*(?:@\s*(\d+))?\s*")
_EXAMPLES = "P@10, R@10, RR, AP, nDCG@10, Success@1, Judged@10, Rprec, median rank"


@dataclass(frozen=True)
class Measure:
    """One measure; `str` gives its name.

    Attributes:
        kind: such as `nDCG`.
        cutoff: how many results are looked at; 0: all.
        rel: the grade from which on a record is relevant.
    """

    kind: str
    cutoff: int = 0
    rel: int = 1

    def __str__(self) -> str:
        grade = f"(rel={self.rel})" if self.rel != 1 else ""
        return f"{self.kind}{grade}{f'@{self.cutoff}' if self.cutoff else ''}"

    @property
    def less_is_better(self) -> bool:
        """Whether it is one of ranks rather than of gains."""
        return self.kind == MEDIAN_RANK


def measure(name: str) -> Measure:
    """The measure of a name.

    >>> measure("nDCG@10"), str(measure("MRR"))
    (Measure(kind='nDCG', cutoff=10, rel=1), 'RR')

    Raises:
        QueryError: there is none of that name, or it has a cutoff where it takes none, or none where it needs one.
    """
    match = _NAME.fullmatch(name)
    kind = _ALIASES.get(match[1], match[1]) if match else ""
    if match is None or kind not in _CUTOFF:
        raise QueryError(f"There is no measure {name!r}.", hint=_nearest(name, match))
    cutoff, rel = int(match[3] or 0), int(match[2] or 1)
    if _CUTOFF[kind] == "needed" and match[3] is None:
        raise QueryError(f"The measure {name!r} needs a cutoff.", hint=f"Write {kind}@10, for instance.")
    if match[3] is not None and (_CUTOFF[kind] == "none" or cutoff < 1):
        wrong = "takes no cutoff" if _CUTOFF[kind] == "none" else "looks at no result"
        raise QueryError(f"The measure {name!r} {wrong}.", hint=f"Measures are {_EXAMPLES}.")
    if match[2] is not None and (kind not in _BY_GRADE or rel < 1):
        raise QueryError(
            f"The measure {name!r} cannot be told from which grade on a record is relevant.",
            hint=f"{', '.join(_BY_GRADE)} can, from 1 on.",
        )
    return Measure(kind, cutoff, rel)


def _nearest(name: str, match: re.Match[str] | None) -> str:
    """A sentence that names the measure that was probably meant, and all."""
    stem = match[1] if match else re.split(r"[@(]", name)[0].strip()
    known = {kind.lower(): kind for kind in (*_ALIASES, *_CUTOFF)}
    near = difflib.get_close_matches(stem.lower(), known, 1)
    if not near:
        return f"Measures are {_EXAMPLES}."
    meant = name.replace(stem, known[near[0]]).strip() if match else known[near[0]]
    return f"Did you mean {meant}? Measures are {_EXAMPLES}."


@dataclass(frozen=True, eq=False)
class Scores:
    """What measures say of a run.

    Attributes:
        queries: those with judgements, in the order of the qrels.
        values: by measure, float64 (queries,): 0 to 1, or ranks from 1, infinite where nothing relevant was found.
    """

    queries: tuple[str, ...]
    values: Mapping[Measure, Floats]

    def mean(self, of: Measure) -> float:
        """The mean over all queries, of ranks the median; NaN without queries."""
        values = self.values[of]
        if not len(values):
            return float("nan")
        return float(np.median(values)) if of.less_is_better else float(values.mean())


def measured(measures: Sequence[Measure], qrels: Qrels, run: Run) -> Scores:
    """Values of measures for every query that has judgements.

    Raises:
        QueryError: a score is not a number.
    """
    queries = tuple(qrels)
    ideal = _ideal(qrels, queries)
    rankings: dict[bool, _Rankings] = {}
    values: dict[Measure, Floats] = {}
    for one in measures:
        plain = one.kind == "Judged" or (one.kind == "RR" and bool(one.cutoff))
        if plain not in rankings:
            rankings[plain] = _Rankings.of(queries, qrels, run, plain=plain)
        values[one] = _value(one, rankings[plain], ideal)
    return Scores(queries, values)


def ranked(found: Mapping[str, float] | Sequence[str], *, plain: bool = False) -> list[str]:
    """Records in the order in which they are judged.

    Args:
        found: scores by record; or records in order, which are kept as they are.
        plain: as ir-measures' own code orders equal scores, rather than trec_eval.

    Raises:
        QueryError: a score is not a number.
    """
    if not isinstance(found, Mapping):
        return list(found)
    for record, score in found.items():
        if math.isnan(score):
            raise QueryError(f"The score of {record!r} is not a number.", hint="Leave it out of the run.")
    if plain:
        return sorted(found, key=lambda record: (-found[record], record))
    with np.errstate(over="ignore"):
        single = {record: float(np.float32(score)) for record, score in found.items()}
    return sorted(single, key=lambda record: (single[record], record), reverse=True)


@dataclass(frozen=True, eq=False)
class _Rankings:
    """Results by rank.

    Attributes:
        grades: int64 (queries, depth); 0 where nothing was judged or found.
        judged: bool (queries, depth).
        lengths: int64 (queries,), how many results each has.
    """

    grades: NDArray[np.int64]
    judged: NDArray[np.bool_]
    lengths: NDArray[np.int64]

    @classmethod
    def of(cls, queries: Sequence[str], qrels: Qrels, run: Run, *, plain: bool) -> _Rankings:
        lists = [ranked(run.get(query, ()), plain=plain) for query in queries]
        lengths = np.array([len(found) for found in lists], np.int64)
        shape = (len(queries), int(lengths.max(initial=0)))
        grades, judged = np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
        for row, (query, found) in enumerate(zip(queries, lists, strict=True)):
            known = qrels[query]
            for rank, record in enumerate(found):
                if record in known:
                    grades[row, rank] = known[record]
                    judged[row, rank] = True
        return cls(grades, judged, lengths)


def _ideal(qrels: Qrels, queries: Sequence[str]) -> NDArray[np.int64]:
    """(queries, most judged) grades, the best first, filled up with zeros; what is below 1 gains nothing."""
    best = [
        sorted((grade for grade in qrels[query].values() if grade > 0), reverse=True) for query in queries
    ]
    filled = np.zeros((len(queries), max(map(len, best), default=0)), np.int64)
    for row, grades in enumerate(best):
        filled[row, : len(grades)] = grades
    return filled


def _value(one: Measure, rankings: _Rankings, ideal: NDArray[np.int64]) -> Floats:
    """(queries,) values of one measure."""
    depth = one.cutoff or rankings.grades.shape[1]
    grades = rankings.grades[:, :depth]
    if one.kind == "nDCG":
        return _ratio(_gain(grades), _gain(ideal[:, : one.cutoff or ideal.shape[1]]))
    if one.kind == "Judged":
        return _ratio(rankings.judged[:, :depth].sum(1), np.minimum(rankings.lengths, depth))
    return _by_relevance(one, grades >= one.rel, (ideal >= one.rel).sum(1))


def _by_relevance(one: Measure, hit: NDArray[np.bool_], relevant: NDArray[np.int64]) -> Floats:
    """(queries,) values of a measure that asks which results are relevant.

    Args:
        one: the measure.
        hit: (queries, at most its cutoff).
        relevant: (queries,) how many relevant records there are.
    """
    ranks = np.arange(1, hit.shape[1] + 1)
    if one.kind == "P":
        return _ratio(hit.sum(1), np.full(len(hit), one.cutoff))
    if one.kind == "R":
        return _ratio(hit.sum(1), relevant)
    if one.kind == "Rprec":
        return _ratio((hit & (ranks <= relevant[:, None])).sum(1), relevant)
    if one.kind == "AP":
        return _ratio((hit * np.cumsum(hit, axis=1) / ranks).sum(1), relevant)
    if one.kind == "Success":
        return _ratio(hit.sum(1) > 0, np.ones(len(hit)))
    first: Floats = np.min(np.where(hit, ranks, np.inf), axis=1, initial=np.inf)
    return first if one.kind == MEDIAN_RANK else 1 / first


def _gain(grades: NDArray[np.int64]) -> Floats:
    """(queries,) discounted cumulative gain."""
    discounts = np.log2(np.arange(2, grades.shape[1] + 2))
    gains: Floats = (np.maximum(grades, 0) / discounts).sum(axis=1)
    return gains


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """Shares, 0 of nothing."""
    below = whole.astype(np.float64)
    return np.divide(part.astype(np.float64), below, out=np.zeros(len(below)), where=below > 0)
