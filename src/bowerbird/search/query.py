"""What is asked for, and how it becomes one vector and a ranking.

Pictures alone are compared in the model's picture-to-picture output, everything else in the output that
pictures share with texts. Several parts are blended by weighted addition of unit vectors, and words to move
away from are subtracted; the sum is scaled to length 1.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import QueryError
from bowerbird.flow.files import printable, to_uri
from bowerbird.hits import Hits
from bowerbird.record import Modality
from bowerbird.store.filters import Compare, IsNull, Not, Or, among
from bowerbird.store.table import ATTRIBUTES, SCORE, VectorColumn

if TYPE_CHECKING:
    import pyarrow as pa

    from bowerbird.models.encoder import Outcome
    from bowerbird.search.index import Index

WITHOUT_WEIGHT = 0.5
"""How strongly each text to move away from is subtracted, beside a total of 1 for what is looked for."""

SPARE = 16
"""Extra rows fetched, so that exact copies of one picture can be shown as one result."""


SAME = 1e-6
"""Scores of exact copies differ by less: a dot product depends in its last bits on where the row lies."""


_QUOTED = re.compile(r"'(?:[^']|'')*'")


@dataclass(frozen=True)
class Query:
    """A question.

    Attributes:
        texts: words to look for.
        image: a picture to look for.
        like: id or path of an indexed record.
        weights: one for each text, then one for the picture or the record; empty for equal ones.
        without: words to move away from.
        among: what is searched: `image` or `text`; empty: the pictures, and the texts of an index without pictures.

    Raises:
        QueryError: nothing is asked, or the parts contradict each other.
    """

    texts: tuple[str, ...] = ()
    image: Path | None = None
    like: str = ""
    weights: tuple[float, ...] = ()
    without: tuple[str, ...] = ()
    among: str = ""

    def __post_init__(self) -> None:
        for text in (*self.texts, *self.without):
            if not text.strip():
                raise QueryError("The query is empty.", hint='Say what to look for, such as "a red dress".')
        if self.among not in ("", Modality.IMAGE, Modality.TEXT):
            raise QueryError(f"There is no part {self.among!r} to search.", hint="Use 'image' or 'text'.")
        if self.image is not None and self.like:
            raise QueryError(
                "A query picture and a record to be like were both given.", hint="Give one of the two."
            )
        if not self.parts:
            raise QueryError("The query is empty.", hint="Give words, a picture, or a record to be like.")
        if self.weights and len(self.weights) != self.parts:
            raise QueryError(
                f"{len(self.weights)} weights were given for {self.parts} parts of the query.",
                hint="Give one for each text, then one for the picture.",
            )
        if any(not math.isfinite(weight) for weight in self.weights) or (
            self.weights and not any(self.weights)
        ):
            raise QueryError(
                f"The weights {self.weights} cannot be used.", hint="Give numbers that are not all zero."
            )

    @property
    def parts(self) -> int:
        """How many things are looked for."""
        return len(self.texts) + (self.image is not None) + bool(self.like)

    @property
    def modality(self) -> str:
        """`text`, `image`, or `text+image` for a blend."""
        words = bool(self.texts or self.without)
        pictures = self.image is not None or bool(self.like)
        return "+".join(str(m) for m, asked in ((Modality.TEXT, words), (Modality.IMAGE, pictures)) if asked)

    def __str__(self) -> str:
        parts = [*self.texts]
        if self.image is not None:
            parts.append(self.image.name)
        if self.like:
            parts.append(f"like {os.path.basename(self.like)}")
        return " + ".join(parts) + "".join(f" − {text}" for text in self.without)


@dataclass(frozen=True)
class _Question:
    """A query as a vector."""

    column: VectorColumn
    vector: NDArray[np.float32]
    notes: tuple[str, ...]
    exclude: str = ""  # content of the record that was asked about


def answer(index: Index, query: Query, *, k: int, where: str, threshold: float | None) -> Hits:
    """The `k` records most like the query; see `Index.search`."""
    if k < 1:
        raise QueryError(f"{k} results were asked for.", hint="Ask for at least 1.")
    if threshold is not None and not math.isfinite(threshold):
        raise QueryError(f"The threshold {threshold} cannot be used.", hint="Give a number such as 0.3.")
    if ";" in _QUOTED.sub("", where):
        # The store would read up to the semicolon and leave the rest out in silence.
        raise QueryError(f"The filter {where!r} holds a semicolon.", hint="Join conditions with AND or OR.")
    passing = None
    if where:
        from bowerbird.store.where import parse

        passing = parse(where, index.table.fields)
    question = _compose(index, query)
    told = [
        name for name in (*ATTRIBUTES, "text", *index.table.attributes().names) if name in index.table.names
    ]
    columns = ["id", "uri", "content", *told]
    wanted = k + SPARE + bool(question.exclude)
    while True:
        found = index.table.nearest(
            question.column.name, question.vector, wanted, columns=columns, where=passing
        )
        rows, copies = _distinct(found, question.exclude)
        if found.num_rows < wanted or (len(rows) >= k and _is_past(found, rows[k - 1])):
            break
        wanted *= 4  # Many exact copies of few pictures.
    hits = _hits(index, query, question, found, rows[:k], copies, told)
    return hits if threshold is None else hits.above(threshold)


def _compose(index: Index, query: Query) -> _Question:
    column = _asked(index, query)
    tower = index.model.card.image
    texts_asked = column.modality == Modality.TEXT
    shared = tower.output if tower and texts_asked else column.output
    vectors: list[NDArray[np.float32]] = []
    notes: list[str] = []
    exclude = ""
    for text in query.texts:
        vectors.append(_embedded(index, text, "", notes))
    if query.image is not None:
        vectors.append(_embedded(index, query.image, shared, notes))
    if query.like:
        exclude, vector = _indexed(index, query.like, column)
        vectors.append(vector)
    weights = np.asarray(query.weights or [1.0] * len(vectors), np.float64)
    weights = weights / np.abs(weights).max()  # first, so that tiny weights do not vanish in the sum
    blend = (np.stack(vectors) * (weights / np.abs(weights).sum())[:, None]).sum(0)
    for text in query.without:
        blend = blend - WITHOUT_WEIGHT * _embedded(index, text, "", notes)
    length = float(np.linalg.norm(blend))
    if length < 1e-6:
        raise QueryError("The parts of the query cancel each other out.", hint="Give other words or weights.")
    return _Question(column, (blend / length).astype(np.float32), tuple(notes), exclude)


def _asked(index: Index, query: Query) -> VectorColumn:
    """The column of vectors that a query is asked of.

    Raises:
        QueryError: there is none for the part that was named.
    """
    image, text = index.model.card.image, index.model.card.text
    have = {column.modality for column in index.columns}
    part = query.among or (Modality.IMAGE if _has_pictures(index) else Modality.TEXT)
    if part not in have:
        raise QueryError(
            f"The index at {index.path} has no {'texts' if part == Modality.TEXT else 'pictures'}.",
            hint=f"It has {' and '.join(sorted(have))}: leave out the part to search.",
        )
    if part == Modality.TEXT:
        assert text is not None  # its column is made from it
        return index.column(text.output, Modality.TEXT)
    assert image is not None
    return index.column(image.similarity_output if query.modality == Modality.IMAGE else image.output)


def _has_pictures(index: Index) -> bool:
    """Whether pictures are searched where nobody names a part: not in an index that holds texts alone."""
    columns = {column.modality: column for column in index.columns}
    if Modality.TEXT not in columns or Modality.IMAGE not in columns:
        return Modality.IMAGE in columns
    return index.table.count(Not(IsNull(columns["image"].norm))) > 0


def _embedded(index: Index, part: str | Path, output: str, notes: list[str]) -> NDArray[np.float32]:
    outcome: Outcome = index.model.outcomes([part], output=output, role="query")[0]
    if outcome.error:
        raise outcome.error
    assert outcome.vector is not None
    if outcome.note:
        notes.append(f"The query was {outcome.note}.")
    return outcome.vector


def _indexed(index: Index, like: str, column: VectorColumn) -> tuple[str, NDArray[np.float32]]:
    """Content and vector of an indexed record, named by its id or its path."""
    wanted = [printable(like), to_uri(os.path.abspath(os.path.expanduser(like)))]
    where = Or((Compare("id", "=", wanted[0]), among("uri", wanted)))
    for batch in index.table.scan(["content", column.name], where=where):
        if batch.num_rows:
            if not batch.column(1)[0].is_valid:
                other = Modality.IMAGE if column.modality == Modality.TEXT else Modality.TEXT
                raise QueryError(
                    f"The record {printable(like)!r} has no {'text' if other == Modality.IMAGE else 'picture'}.",
                    hint=f"Ask among {'pictures' if other == Modality.IMAGE else 'texts'} instead: {other}.",
                )
            vector = batch.column(1).flatten().to_numpy()[: column.dimensions]
            return str(batch.column(0)[0].as_py()), vector
    raise QueryError(
        f"No record {printable(like)!r} is in the index.",
        hint="Give the id or the path of an indexed picture; for another picture, give it as the query.",
    )


def _distinct(found: pa.Table, exclude: str) -> tuple[list[int], dict[str, int]]:
    """The rows to show, exact copies of one picture shown as one, and how many copies there are of each."""
    rows: list[int] = []
    copies: dict[str, int] = {}
    for row, (same, content) in enumerate(zip(_sameness(found), found["content"].to_pylist(), strict=True)):
        if content == exclude:
            continue  # The record asked about, and its copies, are not its own neighbours.
        if same not in copies:
            rows.append(row)
        copies[same] = copies.get(same, 0) + 1
    return rows, copies


def _sameness(found: pa.Table) -> list[str]:
    """What exact copies have in common: their content; a record to which the user gave an id is like no other."""
    pairs = zip(found["id"].to_pylist(), found["content"].to_pylist(), strict=True)
    return [content if id_.startswith(content) else id_ for id_, content in pairs]


def _is_past(found: pa.Table, row: int) -> bool:
    """Whether the last row found scores less than this one, so that all its exact copies were found."""
    return bool(found[SCORE][row].as_py() - found[SCORE][-1].as_py() > SAME)


def _hits(
    index: Index,
    query: Query,
    question: _Question,
    found: pa.Table,
    rows: list[int],
    copies: dict[str, int],
    told: Sequence[str],
) -> Hits:
    shown = found.take(np.asarray(rows, np.int64))
    attributes: dict[str, Any] = {name: shown[name].to_pylist() for name in told}
    attributes["copies"] = [copies[same] for same in _sameness(shown)]
    name = index.manifest.models[0].name
    return Hits(
        ids=shown["id"].to_pylist(),
        scores=shown[SCORE].to_numpy(),
        scale=f"{name}/{question.column.output} {query.modality}->{question.column.modality}",
        uris=[uri or id_ for uri, id_ in zip(shown["uri"].to_pylist(), shown["id"].to_pylist(), strict=True)],
        attributes=attributes,
        notes=question.notes,
    )
