"""What an evaluation found: systems, their figures by measure and query, and how it was done."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bowerbird.judge.measures import Measure, Scores

if TYPE_CHECKING:
    from bowerbird.judge.examples import Example
    from bowerbird.judge.similarity import Similarity


@dataclass(frozen=True)
class Figure:
    """One measure of one system.

    Attributes:
        mean: over all queries; of ranks the median, infinite where half of the queries found nothing.
        low: end of the interval at `LEVEL`.
        high: the other end.
        p: two-sided p-value of the difference to the first system of the same direction, corrected for the number of
            systems (Holm); None for that system itself, and for ranks.
    """

    mean: float
    low: float
    high: float
    p: float | None


@dataclass(frozen=True, eq=False)
class Row:
    """One system in one direction.

    Attributes:
        models: their names, with ` + ` between them.
        fusion: empty where there was nothing to fuse.
        direction: `text to picture`, `picture to text` or `queries`.
        figures: by measure.
        scores: values by query.
        run: what was found, by query, best first.
    """

    models: str
    fusion: str
    direction: str
    figures: Mapping[Measure, Figure]
    scores: Scores
    run: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Task:
    """What was asked in one direction.

    Attributes:
        direction: as of `Row`.
        queries: what each is called: words, or the name of a picture.
        pictures: by query, the record or the file of its picture, where it is one.
        answers: what answers are called, where they are not records.
        qrels: what is right.
        pool: how many answers there are to choose from.
    """

    direction: str
    queries: Mapping[str, str]
    pictures: Mapping[str, str]
    answers: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]
    pool: int


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What came out.

    Attributes:
        index: where it lies.
        source: of what is right.
        measures: in the order they were asked for.
        rows: one for each system and direction.
        tasks: one for each direction.
        examples: queries of the first system that went well or badly.
        similarity: of the pairs, under the first model; None for queries of TREC.
        protocol: counts, seeds and versions, for people.
        problems: what could not be used.
    """

    index: str
    source: str
    measures: tuple[Measure, ...]
    rows: tuple[Row, ...]
    tasks: tuple[Task, ...]
    examples: tuple[Example, ...]
    similarity: Similarity | None
    protocol: Mapping[str, str]
    problems: tuple[str, ...] = ()

    def row(self, direction: str, models: str = "", fusion: str = "") -> Row:
        """The first row of a direction, or that of a system.

        Raises:
            KeyError: there is none.
        """
        for row in self.rows:
            if row.direction == direction and models in ("", row.models) and fusion in ("", row.fusion):
                return row
        raise KeyError(f"{direction} {models} {fusion}".strip())

    def to_dict(self, *, per_query: bool = True) -> dict[str, Any]:
        """Plain data; what is infinite or no number is None."""
        return {
            "index": self.index,
            "source": self.source,
            "rows": [
                {
                    "direction": row.direction,
                    "models": row.models,
                    "fusion": row.fusion,
                    "queries": len(row.scores.queries),
                    "measures": {
                        str(one): {key: _finite(value) for key, value in asdict(figure).items()}
                        for one, figure in row.figures.items()
                    },
                    **({"per_query": _by_query(row.scores)} if per_query else {}),
                }
                for row in self.rows
            ],
            "protocol": dict(self.protocol),
            "problems": list(self.problems),
        }

    def page(self) -> str:
        """The report, as one HTML page that needs nothing else."""
        from bowerbird.judge.evaluation_page import evaluation_page

        return evaluation_page(self)


def _by_query(scores: Scores) -> dict[str, dict[str, float | None]]:
    return {
        query: {str(one): _finite(float(values[place])) for one, values in scores.values.items()}
        for place, query in enumerate(scores.queries)
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
