"""A query becomes vectors: one for each column that it is asked of.

Pictures alone are compared with pictures in the model's picture-to-picture output, everything else in the output
that pictures share with texts. Several parts are blended by weighted addition of unit vectors, and words to move
away from are subtracted; the sum is scaled to length 1. Where the modality gap is corrected, the same blend of the
means is taken from it first (GR-CLIP, arXiv 2507.19054). Of records to move away from only that is subtracted which
stands beside what is looked for (Rocchio's feedback, at a right angle): who likes one pair of shoes less still looks
for shoes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import QueryError
from bowerbird.flow.files import printable, to_uri
from bowerbird.record import Modality
from bowerbird.search.gap import Vectors
from bowerbird.search.query import WORDS, Query
from bowerbird.store.filters import In, Or
from bowerbird.store.manifest import ModelEntry
from bowerbird.store.table import VectorColumn

if TYPE_CHECKING:
    from bowerbird.models.encoder import Outcome
    from bowerbird.search.background import Background
    from bowerbird.search.index import Index

WITHOUT_WEIGHT = 0.5
"""How strongly each text to move away from is subtracted, beside a total of 1 for what is looked for."""

UNLIKE_WEIGHT = 0.25
"""Length of what each record to move away from subtracts, and all of them together, at the most: of alike ones each
says again what the others said. Of 1,192 photographs of clothes in ten classes, 79 % of the first ten are of the kind
that was asked for; after less of one of them 75 %, where half of its whole vector left 42 %.
"""

Embedded = Mapping[tuple[str, str], "Outcome"]
"""By space of the model and text: what became of texts that were embedded together."""


@dataclass(frozen=True)
class Question:
    """What a column is asked.

    Attributes:
        entry: of the model.
        column: that is asked.
        kind: of the question, `text` or `image`; blends count as texts.
        raw: float32 (dim,), of length 1.
        vector: the same as it is asked: moved by its means where the gap is corrected.
        centre: what the rows are moved by; None: they are not.
    """

    entry: ModelEntry
    column: VectorColumn
    kind: str
    raw: Vectors
    vector: Vectors
    centre: Vectors | None

    @property
    def part(self) -> str:
        """Of the record: `image` or `text`."""
        return self.column.modality


@dataclass(frozen=True)
class Liked:
    """An indexed record that is asked about.

    Attributes:
        content: of its bytes: it and its copies are not their own neighbours.
        vectors: by name of the column, those that it has.
    """

    content: str
    vectors: Mapping[str, Vectors]


def liked(index: Index, name: str, entries: Iterable[ModelEntry]) -> Liked:
    """The record of an id or a path.

    Raises:
        QueryError: there is none.
    """
    columns = [column.name for entry in entries for column in entry.columns]
    path = to_uri(os.path.abspath(os.path.expanduser(name)))
    where = Or((In("id", (printable(name),)), In("uri", (printable(name), path))))
    for batch in index.table.scan(["content", *columns], where=where):
        if batch.num_rows:
            (row,) = batch.slice(0, 1).to_pylist()
            content = row.pop("content") or ""
            return Liked(content, {c: np.asarray(v, np.float32) for c, v in row.items() if v is not None})
    raise QueryError(
        f"No record {printable(name)!r} is in the index.",
        hint="Give the id or the path of an indexed picture; for another picture, give it as the query.",
        param="like",
    )


class Asker:
    """Turns a query into questions for one model.

    Args:
        index: that is asked.
        entry: of the model.
        background: what is known of its unrelated pairs.
        embedded: texts that were embedded before.
    """

    def __init__(
        self, index: Index, entry: ModelEntry, background: Background, embedded: Embedded | None = None
    ) -> None:
        self.index = index
        self.entry = entry
        self.background = background
        self.embedded = embedded or {}
        self.notes: dict[str, None] = {}
        self._vectors: dict[tuple[str | Path | bytes, str], Vectors] = {}

    def questions(self, query: Query, record: Liked | None, unliked: Sequence[Liked] = ()) -> list[Question]:
        """What each column is asked.

        Args:
            query: what is asked.
            record: that of `query.like`.
            unliked: those of `query.unlike`.

        Raises:
            QueryError: the parts of the query cancel each other out.
            InputError: a text or the picture cannot be embedded, or the model takes none of its kind.
        """
        found = (self._question(query, record, unliked, part) for part in self._parts(query))
        return [question for question in found if question]

    def _parts(self, query: Query) -> list[str]:
        have = {column.modality for column in self.entry.columns}
        asked = [part for part in query.asked if part != WORDS]
        for part in asked:
            if part not in have:
                what = "texts" if part == Modality.TEXT else "pictures"
                self.notes[f"The model {self.entry.name} has no vectors of {what} here."] = None
        if query.asked:
            return [part for part in asked if part in have]
        return [part for part in (Modality.IMAGE, Modality.TEXT) if part in have]

    def _question(
        self, query: Query, record: Liked | None, unliked: Sequence[Liked], part: str
    ) -> Question | None:
        card = self.index.encoder(self.entry.space).card
        tower = card.image if part == Modality.IMAGE else card.text
        assert tower is not None  # its column is made from it
        alone = query.modality == Modality.IMAGE
        output = tower.output
        if alone and part == Modality.IMAGE and card.image:
            output = card.image.similarity_output
            # A record without a picture is compared with pictures by what texts and pictures share.
            if record and self.entry.column(output, part).name not in record.vectors:
                output = tower.output
        column = self.entry.column(output, part)
        shared = card.image.output if card.image else ""
        pieces: list[tuple[Vectors, Modality]] = [(self._text(text), Modality.TEXT) for text in query.texts]
        if query.image is not None:
            source = output if part == Modality.IMAGE else shared
            pieces.append((self._embed(query.image, source), Modality.IMAGE))
        if query.like:
            assert record is not None
            piece = self._of_record(record, column, shared)
            if piece is None:
                return None
            pieces.append(piece)
        away = [(WITHOUT_WEIGHT, self._text(text), Modality.TEXT) for text in query.without]
        less = [piece for one in unliked if (piece := self._of_record(one, column, shared))]
        raw, moved = self._blend(pieces, away, less, query.weights, column)
        kind = Modality.IMAGE if all(modality == Modality.IMAGE for _, modality in pieces) else Modality.TEXT
        kind = Modality.TEXT if query.without else kind
        return Question(self.entry, column, str(kind), raw, moved, self.background.centre(column))

    def _blend(
        self,
        pieces: Sequence[tuple[Vectors, Modality]],
        away: Sequence[tuple[float, Vectors, Modality]],
        less: Sequence[tuple[Vectors, Modality]],
        weights: Sequence[float],
        column: VectorColumn,
    ) -> tuple[Vectors, Vectors]:
        """The blend as it is, and moved by the same blend of the means."""
        shares = np.asarray(weights or [1.0] * len(pieces), np.float64)
        shares = shares / np.abs(shares).max()  # first, so that tiny weights do not vanish in the sum
        shares = shares / np.abs(shares).sum()
        signed = [(share, vector, modality) for share, (vector, modality) in zip(shares, pieces, strict=True)]
        signed += [(-share, vector, modality) for share, vector, modality in away]
        blend = sum((share * vector.astype(np.float64) for share, vector, _ in signed), np.zeros(1))
        length = float(np.linalg.norm(blend))
        if length < 1e-6:
            raise QueryError(
                "The parts of the query cancel each other out.", hint="Give other words or weights."
            )
        raw = _beside(blend, [vector for vector, _ in less])
        means: dict[Modality, Vectors] = {}
        for modality in {*(modality for _, _, modality in signed), *(modality for _, modality in less)}:
            mean = self.background.query_centre(str(modality), column)
            if mean is None:
                return raw, raw
            means[modality] = mean
        moved = blend - sum((share * means[modality] for share, _, modality in signed), np.zeros(1))
        if float(np.linalg.norm(moved)) < 1e-6:
            return raw, raw
        return raw, _beside(moved, [vector - means[modality] for vector, modality in less])

    def _of_record(self, record: Liked, column: VectorColumn, shared: str) -> tuple[Vectors, Modality] | None:
        """A record's own vector of the part that is searched; if it has none, of its other part."""
        if column.name in record.vectors:
            return record.vectors[column.name], Modality(column.modality)
        for other in self.entry.columns:
            comparable = other.modality == Modality.TEXT or other.output == shared
            # What pictures are compared with among themselves says nothing of texts.
            beside = column.modality == Modality.IMAGE and column.output != shared
            if comparable and not beside and other.name in record.vectors:
                return record.vectors[other.name], Modality(other.modality)
        return None

    def _text(self, text: str) -> Vectors:
        before = self.embedded.get((self.entry.space, text))
        return self._taken(before) if before else self._embed(text, "")

    def _embed(self, part: str | Path | bytes, output: str) -> Vectors:
        if (part, output) not in self._vectors:
            encoder = self.index.encoder(self.entry.space)
            (outcome,) = encoder.outcomes([part], output=output, role="query")
            self._vectors[part, output] = self._taken(outcome)
        return self._vectors[part, output]

    def _taken(self, outcome: Any) -> Vectors:
        if outcome.error:
            raise outcome.error
        if outcome.note:
            self.notes[f"The query was {outcome.note}."] = None
        vector: Vectors = outcome.vector
        return vector


def _beside(toward: NDArray[np.floating[Any]], less: Sequence[Vectors]) -> Vectors:
    """What is looked for, moved away from records by what they have beside it; float32, of length 1."""
    toward = toward / np.linalg.norm(toward)
    moved = np.zeros_like(toward)
    for vector in less:
        length = float(np.linalg.norm(vector))
        if length >= 1e-6:
            one = vector.astype(np.float64) / length
            moved += one - (one @ toward) * toward
    moved = toward - UNLIKE_WEIGHT / max(1.0, float(np.linalg.norm(moved))) * moved
    found: Vectors = (moved / np.linalg.norm(moved)).astype(np.float32)
    return found


def embed_together(index: Index, queries: Sequence[Query], entries: Iterable[ModelEntry]) -> Embedded:
    """The texts of several queries, embedded in one go for each model that takes texts."""
    texts = list(dict.fromkeys(text for query in queries for text in (*query.texts, *query.without)))
    found: dict[tuple[str, str], Outcome] = {}
    for entry in entries:
        encoder = index.encoder(entry.space)
        if texts and encoder.card.text:
            outcomes = encoder.outcomes(texts, role="query")
            found.update({(entry.space, text): one for text, one in zip(texts, outcomes, strict=True)})
    return found
