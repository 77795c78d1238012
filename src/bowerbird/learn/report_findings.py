"""What a report finds in the vectors of the held-out set: ranks, examples, classes, the gap, what is alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bowerbird.judge.gap import Measures, measure
from bowerbird.judge.similarity import DRAWN, Similarity
from bowerbird.learn.choose import ENOUGH
from bowerbird.learn.examples import Vectors
from bowerbird.learn.recall import CUTOFFS
from bowerbird.learn.report_held import Held

if TYPE_CHECKING:
    from bowerbird.learn.report import Report

TOP = 5
"""Captions shown beside a picture."""

SHOWN = 6
"""Pictures of each kind: best, typical, worst; or half of that, so that rows of three are full."""

AT = 10
"""Of `P@10`."""


@dataclass(frozen=True)
class Said:
    """A caption as an answer.

    Attributes:
        text: the caption.
        right: whether it belongs to the picture.
        score: cosine.
    """

    text: str
    right: bool
    score: float


@dataclass(frozen=True)
class Shown:
    """A picture and the captions nearest to it.

    Attributes:
        picture: its place.
        kind: `best`, `typical` or `worst`.
        before: rank of its first own caption under the model as it was, from 1; 0: not known.
        after: the same under the fitted model.
        nearest: the `TOP` captions under the fitted model.
        own: its own captions that are not among them, the nearest first.
    """

    picture: int
    kind: str
    before: int
    after: int
    nearest: tuple[Said, ...]
    own: tuple[str, ...]


@dataclass(frozen=True)
class OfClass:
    """One class.

    Attributes:
        name: of the class.
        pictures: how many are held out.
        before: share of its pictures among the first ten that its text finds; None: not known.
        after: the same under the fitted model.
    """

    name: str
    pictures: int
    before: float | None
    after: float | None


def measured_on(report: Report) -> str:
    """What the figures are of, and whether the run has seen it: a sentence."""
    pictures = report.held_out_of.get("pictures")
    count = "the pictures" if pictures is None else "1 picture" if pictures == 1 else f"{pictures:,} pictures"
    part = report.held_out
    meaning = {
        "test": "which took no part: nothing was learned from them, or chosen by them",
        "validation": "by which the run was stopped or chosen: the figures are optimistic",
        "train": "from which the run has learned: the figures say nothing of other pictures",
    }
    known = f", {meaning[part]}" if part in meaning else ""
    return f"Measured on {count} of the {part} set{known}."


def reservations(report: Report) -> tuple[str, ...]:
    """What a reader of the figures should know: sentences."""
    count = report.held_out_of.get("pictures")
    found = []
    if count is not None and count < ENOUGH:
        found.append(
            f"These are few pictures ({count}; fewer than {ENOUGH}): the figures are rough, and other pictures would "
            "give others."
        )
    for way, what, told in (
        ("text->image", "pictures", "from texts to pictures"),
        ("image->text", "texts", "from pictures to texts"),
    ):
        there = report.held_out_of.get(what, math.inf)
        sure = [f"R@{k}" for k in CUTOFFS if k >= there and f"R@{k}" in report.after.get(way, {})]
        if sure:
            thing = what.removesuffix("s") if there == 1 else what
            found.append(
                f"Among {there} {thing}, {' and '.join(sure)} {told} cannot be below 1, whatever the model does."
            )
    if any(name.startswith("R@") for name in report.after.get("image->text", {})):
        found.extend(_own_share(report.held))
    if sampled(report):
        found.append(
            f"Figures are of all of them; examples, maps, matrices and the gap are of {sampled(report)}, drawn at "
            "random."
        )
    return tuple(found)


def _own_share(held: Held | None) -> list[str]:
    """How recall of several texts is to be read; nothing where every picture has one."""
    meaning = (
        "R@k from pictures to texts is the share of a picture's own texts among the first k, as ir-measures defines "
        "recall: "
    )
    if held is None or not len(held.links):
        return [f"{meaning}with 5 texts of its own, R@1 is at most .2."]
    texts = np.bincount(held.links[:, 0])
    texts = texts[texts > 0]
    if texts.max() == 1:
        return []
    many = f"{texts.min()}" if texts.min() == texts.max() else f"{texts.min()} to {texts.max()}"
    return [f"{meaning}with the {many} texts of each picture here, R@1 is at most {(1 / texts).mean():.2f}."]


def sampled(report: Report) -> str:
    """`2,000 of 3,000 pictures` where not all held-out pictures were kept; else nothing."""
    every = report.held_out_of.get("pictures", 0)
    if report.held is None or len(report.held.pictures) >= every:
        return ""
    return f"{len(report.held.pictures):,} of {every:,} pictures"


def truth(held: Held) -> NDArray[np.bool_]:
    """Which belong together: bool (pictures, texts)."""
    found = np.zeros((len(held.pictures), len(held.texts)), np.bool_)
    found[held.links[:, 0], held.links[:, 1]] = True
    return found


def own_ranks(
    pair: tuple[Vectors, Vectors | None] | None, right: NDArray[np.bool_]
) -> NDArray[np.int64] | None:
    """Rank of each picture's first own caption, from 1; 0 without one. None where there is no common space.

    Of equal scores the wrong one counts as first.
    """
    if pair is None or pair[1] is None:
        return None
    scores = pair[0] @ pair[1].T
    best = np.where(right, scores, -np.inf).max(1, initial=-np.inf)
    above = ((scores >= best[:, None]) & ~right).sum(1) + 1
    return np.where(right.any(1), above, 0).astype(np.int64)


def examples(held: Held | None) -> list[Shown]:
    """Pictures that went best, as most do, and worst, each once: by the rank of their own caption, then by how far its
    score lies above that of the best wrong one.
    """
    if held is None or held.after is None or held.after[1] is None or not len(held.links):
        return []
    right = truth(held)
    ranks, earlier = own_ranks(held.after, right), own_ranks(held.before, right)
    if ranks is None:
        return []
    scores = held.after[0] @ held.after[1].T
    margin = np.where(right, scores, -2).max(1) - np.where(right, -2, scores).max(1)
    order = [int(row) for row in np.lexsort((-margin, ranks)) if ranks[row]]
    each = SHOWN if len(order) >= 3 * SHOWN else min(SHOWN // 2, -(-len(order) // 3))
    middle = max(each, (len(order) - each) // 2)
    kinds = {"best": order[:each], "typical": order[middle : middle + each], "worst": order[::-1][:each]}
    found, seen = [], set[int]()
    for kind, rows in kinds.items():
        for row in rows:
            if row in seen:
                continue
            seen.add(row)
            found.append(_shown(held, row, kind, int(ranks[row]), earlier, scores[row], right[row]))
    return found


def _shown(
    held: Held,
    row: int,
    kind: str,
    rank: int,
    earlier: NDArray[np.int64] | None,
    scores: Vectors,
    right: NDArray[np.bool_],
) -> Shown:
    order = np.argsort(-scores, kind="stable")
    top = order[:TOP]
    rest = [held.texts[text] for text in order[TOP:] if right[text]]
    nearest = tuple(Said(held.texts[text], bool(right[text]), float(scores[text])) for text in top)
    return Shown(row, kind, 0 if earlier is None else int(earlier[row]), rank, nearest, tuple(rest[:TOP]))


def similarity(held: Held, pair: tuple[Vectors, Vectors | None] | None) -> Similarity | None:
    """The first `DRAWN` pictures and their texts, in an order that puts what belongs together on a diagonal."""
    if pair is None or pair[1] is None or not len(held.links):
        return None
    columns = np.unique(held.links[:, 0])
    if held.labels is not None:
        columns = columns[np.argsort(held.labels[columns], kind="stable")]
    # Of many pictures every so many-th, so that all classes are there.
    columns = columns[np.linspace(0, len(columns) - 1, min(DRAWN, len(columns))).round().astype(int)]
    place = {int(picture): number for number, picture in enumerate(columns)}
    linked = sorted((place[a], b) for a, b in held.links.tolist() if a in place)
    rows = list(dict.fromkeys(text for _, text in linked))[:DRAWN]
    return Similarity(
        (pair[1][rows] @ pair[0][columns].T).astype(np.float32),
        truth(held)[np.ix_(columns, rows)].T,
        [held.texts[row] for row in rows],
        [held.pictures[column].name for column in columns],
    )


def gap_before_and_after(held: Held | None) -> tuple[Measures | None, Measures | None]:
    """The modality gap of the held-out set; None where pictures and texts share no space."""

    def of(pair: tuple[Vectors, Vectors | None] | None) -> Measures | None:
        if held is None or pair is None or pair[1] is None or not (len(pair[0]) and len(pair[1])):
            return None
        return measure(pair[0], pair[1], held.links)

    return (None, None) if held is None else (of(held.before), of(held.after))


def text_of_class(held: Held) -> NDArray[np.int64]:
    """Place of each class's text, by what its pictures are linked to; -1 where nothing tells."""
    found = np.full(len(held.classes), -1, np.int64)
    if held.labels is not None:
        if len(held.texts) == len(held.classes):
            found[:] = np.arange(len(found))
        found[held.labels[held.links[:, 0]]] = held.links[:, 1]
    return found


def by_class(held: Held | None) -> list[OfClass]:
    """Precision at ten of each class that has pictures and a text, in the order of the classes."""
    if held is None or held.labels is None:
        return []
    texts = text_of_class(held)

    def precision(pair: tuple[Vectors, Vectors | None] | None, of: int) -> float | None:
        if pair is None or pair[1] is None or texts[of] < 0 or held.labels is None:
            return None
        best = np.argsort(-(pair[0] @ pair[1][texts[of]]), kind="stable")[:AT]
        return float((held.labels[best] == of).sum() / AT)

    counts = np.bincount(held.labels, minlength=len(held.classes))
    return [
        OfClass(name, int(counts[of]), precision(held.before, of), precision(held.after, of))
        for of, name in enumerate(held.classes)
        if counts[of]
    ]


def confusion(held: Held, pair: tuple[Vectors, Vectors | None] | None) -> NDArray[np.int64] | None:
    """int64 (classes, classes): how many pictures of a class (row) lie nearest to the text of each (column).

    None without classes, or where pictures and texts share no space.
    """
    texts = text_of_class(held)
    if held.labels is None or pair is None or pair[1] is None or (texts < 0).any():
        return None
    named = (pair[0] @ pair[1][texts].T).argmax(1)
    found = np.zeros((len(texts), len(texts)), np.int64)
    np.add.at(found, (held.labels, named), 1)
    return found
