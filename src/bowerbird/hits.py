"""Ranked results as columns, with a view for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
        match: how surely it is what was asked for, 0 to 1; NaN where nobody calibrated the score.
        part: which part of the record matched: `image`, `text` or `words`; empty where nothing is said of it.
        model: under which model; likewise.
    """

    id: str
    score: float
    uri: str
    attributes: Mapping[str, Attribute]
    match: float = math.nan
    part: str = ""
    model: str = ""


@dataclass(frozen=True, eq=False)
class Hits(Sequence[Hit]):
    """Ranked results, best first. Columns inside; `hits[0]` and iteration give one `Hit` at a time.

    Attributes:
        ids: one for each result.
        scores: float32 (n,): what `scale` says; mostly the cosine in the space of a model, -1 to 1.
        scale: which space and pair of modalities the scores belong to, e.g. `mini/image_embeds text->image`; several,
            with ` | ` between them, where parts of the records or models were asked together: then scores of one list
            are of several scales. Scores of two scales cannot be compared or added.
        uris: where the pictures lie.
        attributes: name -> one value for each result.
        notes: what a person should know about how the question was read.
        match: float32 (n,), 0 to 1: how surely each is what was asked for. It means the same between any two
            modalities and under any model. None where nobody calibrated the scores.
        parts: which part of each record matched: `image`, `text` or `words`; none where nothing is said of it.
        models: under which model, likewise.
        below: where a `min_match` was asked for and nothing reached it, the best of what did not; else None.
    """

    ids: Sequence[str]
    scores: NDArray[np.float32]
    scale: str
    uris: Sequence[str]
    attributes: Mapping[str, Sequence[Attribute]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    match: NDArray[np.float32] | None = None
    parts: Sequence[str] = ()
    models: Sequence[str] = ()
    below: Hits | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> Hits: ...
    def __getitem__(self, index: int | slice) -> Hit | Hits:
        if isinstance(index, slice):
            return self._taken(range(len(self))[index])
        attributes = {name: values[index] for name, values in self.attributes.items()}
        return Hit(
            self.ids[index],
            float(self.scores[index]),
            self.uris[index],
            attributes,
            math.nan if self.match is None else float(self.match[index]),
            self.parts[index] if self.parts else "",
            self.models[index] if self.models else "",
        )

    def _taken(self, places: Sequence[int]) -> Hits:
        """Some of the results, in the order of the places."""
        rows = np.asarray(places, np.int64)
        return replace(
            self,
            ids=[self.ids[place] for place in places],
            scores=self.scores[rows],
            uris=[self.uris[place] for place in places],
            attributes={
                name: [values[place] for place in places] for name, values in self.attributes.items()
            },
            match=None if self.match is None else self.match[rows],
            parts=[self.parts[place] for place in places] if self.parts else (),
            models=[self.models[place] for place in places] if self.models else (),
        )

    def __iter__(self) -> Iterator[Hit]:
        return (self[index] for index in range(len(self)))

    def above(self, threshold: float) -> Hits:
        """The results that score at least `threshold`."""
        return self._taken(np.flatnonzero(self.scores >= threshold).tolist())

    def matching(self, least: float) -> Hits:
        """The results whose `match` is at least so much.

        Raises:
            ScaleError: nobody calibrated these scores.
        """
        if self.match is None:
            raise ScaleError(
                f"Scores of {self.scale!r} were not calibrated: there is no match to compare with {least:g}.",
                hint="Ask an index, or use `above` with a raw score.",
            )
        return self._taken(np.flatnonzero(self.match >= np.float32(least)).tolist())

    def merge(self, other: Hits) -> Hits:
        """Both lists in one, best first: by `match` where both have it, else by scores of one scale.

        Raises:
            ScaleError: the two are of different scales, and one of them was not calibrated.
        """
        calibrated = self.match is not None and other.match is not None
        if self.scale != other.scale and not calibrated:
            raise ScaleError(
                f"Scores of {self.scale!r} and {other.scale!r} are of different scales.",
                hint="Compare ranks instead, or ask both with the same kind of query.",
            )
        scores = np.concatenate([self.scores, other.scores])
        match = np.concatenate([self.match, other.match]) if calibrated else None
        names = [name for name in self.attributes if name in other.attributes]
        scales = dict.fromkeys(" | ".join((self.scale, other.scale)).split(" | "))
        both = Hits(
            [*self.ids, *other.ids],
            scores,
            " | ".join(scales),
            [*self.uris, *other.uris],
            {name: [*self.attributes[name], *other.attributes[name]] for name in names},
            tuple(dict.fromkeys((*self.notes, *other.notes))),
            match,
            [*self.parts, *other.parts] if self.parts and other.parts else (),
            [*self.models, *other.models] if self.models and other.models else (),
        )
        return both._taken(np.argsort(-(scores if match is None else match), kind="stable").tolist())

    def to_dicts(self) -> list[dict[str, Any]]:
        """One plain dictionary for each result: id, score, uri, every attribute, and match, part and model if known.

        An attribute that is called like one of these gets an underscore behind its name.
        """
        return [
            {
                "id": hit.id,
                **({} if self.match is None else {"match": hit.match}),
                "score": hit.score,
                "uri": hit.uri,
                **({"part": hit.part} if self.parts else {}),
                **({"model": hit.model} if self.models else {}),
                **{f"{name}_" if name in _OURS else name: value for name, value in hit.attributes.items()},
            }
            for hit in self
        ]

    def __repr__(self) -> str:
        with_match = self.match is not None
        lines = [
            f"  {f'{hit.match:5.3f}' if with_match else ''}  {hit.score:6.3f}  {hit.uri}" for hit in self[:10]
        ]
        more = [f"  ... {len(self) - 10} more"] if len(self) > 10 else []
        return "\n".join([f"<Hits: {len(self)}, {self.scale}>", *lines, *more])


_OURS = frozenset({"id", "match", "score", "uri", "part", "model"})
