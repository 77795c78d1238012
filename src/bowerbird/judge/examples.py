"""Queries that went well and queries that went badly, with what they found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.errors import InputError
from bowerbird.judge.measures import measure, measured

if TYPE_CHECKING:
    from bowerbird.judge.evaluation import Row, Task
    from bowerbird.search.index import Index

SHOWN = 4
"""Examples that went well, and as many that went badly."""

ANSWERS = 6
"""Answers of each."""

SEED = 0


@dataclass(frozen=True)
class Answer:
    """One answer, or what would have been right.

    Attributes:
        label: what it is called.
        picture: bytes of a thumbnail; empty for texts.
        right: whether it is right.
        rank: from 1; 0 where it was not found.
    """

    label: str
    picture: bytes
    right: bool
    rank: int


@dataclass(frozen=True)
class Example:
    """One query of the first system.

    Attributes:
        direction: as of `Row`.
        good: whether it is shown as one that went well.
        label: the query: words, or the name of a picture.
        picture: bytes of its thumbnail; empty for words.
        truth: what is right, some of it.
        found: the best answers.
        rank: of the first right one; 0: none was found.
    """

    direction: str
    good: bool
    label: str
    picture: bytes
    truth: tuple[Answer, ...]
    found: tuple[Answer, ...]
    rank: int


def examples(index: Index, task: Task, row: Row, names: Mapping[str, str]) -> list[Example]:
    """The worst queries of a system, and some at random of those whose first answer is right.

    Args:
        index: that has the thumbnails.
        task: what was asked.
        row: what was found.
        names: of records.
    """
    one = measure("median rank")
    ranks = dict(zip(task.qrels, measured([one], task.qrels, row.run).values[one].tolist(), strict=True))
    asked = [query for query in task.queries if query in ranks]
    well = [query for query in asked if ranks[query] == 1]
    drawn = np.random.default_rng(SEED).permutation(len(well))[:SHOWN].tolist()
    badly = sorted((query for query in asked if ranks[query] > 1), key=lambda query: -ranks[query])[:SHOWN]
    chosen = [(well[place], True) for place in sorted(drawn)] + [(query, False) for query in badly]
    wanted = [task.pictures[query] for query, _ in chosen if query in task.pictures]
    if not task.answers:
        wanted += [id_ for query, _ in chosen for id_ in (*row.run[query][:ANSWERS], *_right(task, query))]
    thumbnails = index.thumbnails(list(dict.fromkeys(id_ for id_ in wanted if id_ in names)))

    def answer(query: str, id_: str) -> Answer:
        found = row.run[query]
        return Answer(
            task.answers.get(id_) or names.get(id_, id_),
            b"" if task.answers else thumbnails.get(id_) or b"",
            task.qrels[query].get(id_, 0) > 0,
            list(found).index(id_) + 1 if id_ in found else 0,
        )

    return [
        Example(
            task.direction,
            good,
            task.queries[query],
            _picture(index, task.pictures.get(query, ""), thumbnails),
            tuple(answer(query, id_) for id_ in _right(task, query)),
            tuple(answer(query, id_) for id_ in row.run[query][:ANSWERS]),
            0 if ranks[query] == float("inf") else int(ranks[query]),
        )
        for query, good in chosen
    ]


def _right(task: Task, query: str) -> Sequence[str]:
    """Some of what is right, the best grades first."""
    grades = {id_: grade for id_, grade in task.qrels[query].items() if grade > 0}
    return sorted(grades, key=lambda id_: -grades[id_])[:3]


def _picture(index: Index, name: str, thumbnails: Mapping[str, bytes]) -> bytes:
    """The thumbnail of a record, or of a file that was asked with."""
    if not name or name in thumbnails:
        return thumbnails.get(name) or b""
    try:
        return index.model.image.open(Path(name)).thumbnail()
    except InputError:
        return b""
