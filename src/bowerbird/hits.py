"""Ranked results as columns, with a view for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import ScaleError
from bowerbird.record import Attribute


@dataclass(frozen=True)
class Hit:
    """One result.

    Attributes:
        id: of the record.
        score: higher is more alike; see `Hits.scale`.
        uri: where the record's picture lies.
        attributes: what the index knows about it.
    """

    id: str
    score: float
    uri: str
    attributes: Mapping[str, Attribute]


@dataclass(frozen=True, eq=False)
class Hits(Sequence[Hit]):
    """Ranked results, best first. Columns inside; `hits[0]` and iteration give one `Hit` at a time.

    Attributes:
        ids: one for each result.
        scores: float32 (n,), descending: cosine in the space named by `scale`, -1 to 1.
        scale: which space and pair of modalities the scores belong to, e.g. `mini/image_embeds text->image`.
            Scores of two scales cannot be compared or added.
        uris: where the pictures lie.
        attributes: name -> one value for each result.
        notes: what a person should know about how the question was read.
    """

    ids: Sequence[str]
    scores: NDArray[np.float32]
    scale: str
    uris: Sequence[str]
    attributes: Mapping[str, Sequence[Attribute]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> Hits: ...
    def __getitem__(self, index: int | slice) -> Hit | Hits:
        if isinstance(index, slice):
            columns = {name: values[index] for name, values in self.attributes.items()}
            return Hits(
                self.ids[index], self.scores[index], self.scale, self.uris[index], columns, self.notes
            )
        attributes = {name: values[index] for name, values in self.attributes.items()}
        return Hit(self.ids[index], float(self.scores[index]), self.uris[index], attributes)

    def __iter__(self) -> Iterator[Hit]:
        return (self[index] for index in range(len(self)))

    def above(self, threshold: float) -> Hits:
        """The results that score at least `threshold`."""
        return self[: int(np.count_nonzero(self.scores >= threshold))]

    def merge(self, other: Hits) -> Hits:
        """Both lists in one, best first.

        Raises:
            ScaleError: the two are of different scales.
        """
        if self.scale != other.scale:
            raise ScaleError(
                f"Scores of {self.scale!r} and {other.scale!r} are of different scales.",
                hint="Compare ranks instead, or ask both with the same kind of query.",
            )
        scores = np.concatenate([self.scores, other.scores])
        order = np.argsort(-scores, kind="stable").tolist()
        names = [name for name in self.attributes if name in other.attributes]
        return Hits(
            [(*self.ids, *other.ids)[i] for i in order],
            scores[order],
            self.scale,
            [(*self.uris, *other.uris)[i] for i in order],
            {n: [(*self.attributes[n], *other.attributes[n])[i] for i in order] for n in names},
            tuple(dict.fromkeys((*self.notes, *other.notes))),
        )

    def to_dicts(self) -> list[dict[str, Any]]:
        """One plain dictionary for each result: id, score, uri and every attribute."""
        return [{"id": hit.id, "score": hit.score, "uri": hit.uri, **hit.attributes} for hit in self]

    def __repr__(self) -> str:
        lines = [f"  {hit.score:6.3f}  {hit.uri}" for hit in self[:10]]
        more = [f"  ... {len(self) - 10} more"] if len(self) > 10 else []
        return "\n".join([f"<Hits: {len(self)}, {self.scale}>", *lines, *more])
