"""Steps that look records up in another collection: search by vectors, join by id."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import BowerbirdError, InputError, RowError, UnsupportedInputError
from bowerbird.flow.functions import failed
from bowerbird.flow.pictures import address
from bowerbird.flow.plan import Chunk, Clock, Plan, Stateless
from bowerbird.hits import Hits
from bowerbird.record import FACTS, Failure, Record

METRICS = ("cosine", "dot", "l2")

Run = Callable[[Plan], Iterator[Chunk]]


@dataclass(frozen=True)
class Gallery:
    """What is searched: vectors of one name as rows, and what the rows are.

    Attributes:
        vectors: float32 (n, dim).
        ids: of the records.
        uris: where their pictures lie; their ids where they lie nowhere.
        attributes: what else is known of them, each by its name.
    """

    vectors: NDArray[np.float32]
    ids: tuple[str, ...]
    uris: tuple[str, ...]
    attributes: tuple[Mapping[str, Any], ...]

    def hits(self, rows: NDArray[np.int64], scores: NDArray[np.float32], scale: str) -> Hits:
        """Some of the rows as results."""
        found = [int(row) for row in rows]
        names = dict.fromkeys(name for row in found for name in self.attributes[row])
        told = {name: [self.attributes[row].get(name) for row in found] for name in names}
        return Hits([self.ids[row] for row in found], scores, scale, [self.uris[row] for row in found], told)


def galleries(chunks: Iterator[Chunk]) -> dict[str, Gallery]:
    """What a plan gives as galleries, by the name of the vectors; failures are left out: they are reported anyway.

    Raises:
        BowerbirdError: there are no vectors at all, or vectors of one name have several widths.
    """
    rows: dict[str, list[NDArray[np.float32]]] = {}
    whose: dict[str, list[Record]] = {}
    seen = False
    for chunk in chunks:
        for item in chunk:
            seen = True
            for name, vector in getattr(item, "vectors", {}).items():
                if vector.ndim == 1:
                    rows.setdefault(name, []).append(vector)
                    # Without what takes memory: the gallery is held as long as it is searched.
                    light = replace(item, image=item.source, origin=None, vectors={}, norms={})
                    whose.setdefault(name, []).append(light)
    if not rows:
        raise BowerbirdError(
            f"The collection to be searched {'has no vectors' if seen else 'is empty'}.",
            hint="Embed it first: .embed(MODEL)." if seen else "Look at what it gives: .to_list().",
        )
    for name, vectors in rows.items():
        if len(widths := sorted({len(vector) for vector in vectors})) > 1:
            raise BowerbirdError(
                f"The collection to be searched has vectors {name!r} of {' and '.join(map(str, widths))} dimensions.",
                hint="Embed all of it with the same model.",
            )
    return {name: _gallery(rows[name], whose[name]) for name in rows}


def _gallery(rows: list[NDArray[np.float32]], whose: list[Record]) -> Gallery:
    uris = tuple(address(record.image) or record.id for record in whose)
    told = tuple(
        {**record.facts, **record.attributes, **({"text": record.text} if record.texts else {})}
        for record in whose
    )
    return Gallery(np.stack(rows), tuple(record.id for record in whose), uris, told)


@dataclass(frozen=True)
class Search(Stateless):
    """Each record gets `hits`: the nearest records of another collection, compared exactly.

    Attributes:
        data: the plan of what is searched.
        k: results for each record.
        metric: `cosine` and `dot`: higher is nearer; `l2`: Euclidean distance, lower is nearer.
        by: names of the vector that is looked for and of those it is looked for among; None: see `pair`.
        better: names of vectors that compare pictures better than the shared ones; they are tried first.
        model: what the scale of the scores is called by.
        against: the vectors, once `prepared`.
    """

    data: Plan
    k: int
    metric: str
    label: str
    by: tuple[str, str] | None = None
    better: tuple[str, ...] = ()
    model: str = ""
    against: Mapping[str, Gallery] | None = None

    looks = False

    def prepared(self, run: Run) -> Search:
        """See `Step`: the collection that is searched is run, once."""
        return replace(self, against=galleries(run(self.data)))

    def run(self, items: Chunk, clock: Clock) -> Chunk:
        """See `Stateless`."""
        results = list(items)
        asked: dict[tuple[str, str], list[int]] = {}
        for place, item in enumerate(items):
            if item.__class__ is Failure:
                continue
            try:
                asked.setdefault(self._pair(item), []).append(place)
            except InputError as error:
                results[place] = failed(item, self.label, error)
        for (name, among), places in asked.items():
            gallery = self._galleries[among]
            questions = np.stack([items[place].vectors[name] for place in places])
            with clock.stage(self.label):
                found = nearest(questions, gallery.vectors, self.k, self.metric)
            scale = f"{self.model}/{among} {name}->{among}, {self.metric}"
            for place, (rows, scores) in zip(places, found, strict=True):
                results[place] = replace(items[place], hits=gallery.hits(rows, scores, scale))
        return results

    @property
    def _galleries(self) -> Mapping[str, Gallery]:
        assert self.against is not None  # an executor prepares a plan before it runs it
        return self.against

    def _pair(self, item: Any) -> tuple[str, str]:
        """Which vector of a record is looked for among which."""
        if not isinstance(item, Record):
            raise UnsupportedInputError(
                f"search takes records, not {type(item).__name__}.", hint="Embed records first."
            )
        chosen = self.by or pair(list(item.vectors), list(self._galleries), self.better)
        name, among = chosen if chosen else ("", "")
        if name not in item.vectors or among not in self._galleries:
            raise RowError(
                f"{item.id} has the vectors {', '.join(item.vectors) or 'none'}, and the collection that is searched "
                f"{', '.join(self._galleries)}: there is nothing to compare.",
                hint=f"There is no {name if name not in item.vectors else among!r}: see `by`."
                if self.by
                else "Embed both with the same model, or name the two with `by`.",
            )
        vector, width = item.vectors[name], self._galleries[among].vectors.shape[1]
        if vector.ndim != 1:
            raise UnsupportedInputError(
                f"{item.id} has {len(vector)} vectors in {name!r}, one for each text.",
                hint="Make one record for each text with flat_map, or search by another part.",
            )
        if len(vector) != width:
            raise UnsupportedInputError(
                f"{item.id} has {len(vector)} dimensions in {name!r}, and what is searched {width} in {among!r}.",
                hint="Compare two outputs of one space, or embed both with the same model.",
            )
        return name, among


def pair(names: list[str], among: list[str], better: tuple[str, ...]) -> tuple[str, str] | None:
    """What is compared where nobody says it: pictures with pictures, words with pictures, words with words.

    A record with a picture asks by its picture; one without asks by its text, of the pictures if there are any.
    """
    for name in (*better, "image"):
        if name in names and name in among:
            return name, name
    for query, against in (("image", "text"), ("text", "image"), ("text", "text")):
        if query in names and against in among:
            return query, against
    common = [name for name in names if name in among]
    return (common[0], common[0]) if common else None


def nearest(
    questions: NDArray[np.float32], rows: NDArray[np.float32], k: int, metric: str
) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """The `k` nearest rows of each question, nearest first, equal ones in the order of the rows.

    Args:
        questions: float32 (n, dim).
        rows: float32 (m, dim).
        k: at most this many each.
        metric: one of `METRICS`.

    Returns:
        for each question, row numbers and scores: float32, descending, or distances, ascending, for `l2`.
    """
    likeness = questions @ rows.T  # (n, m)
    if metric == "cosine":
        lengths = np.linalg.norm(questions, axis=1)[:, None] * np.linalg.norm(rows, axis=1)[None]
        likeness /= np.maximum(lengths, np.float32(1e-12))
    elif metric == "l2":
        likeness -= (rows**2).sum(1)[None] / 2  # |q - r|^2 = |q|^2 - 2 (q.r - |r|^2 / 2)
    found = []
    for question, scores in zip(questions, likeness, strict=True):
        best = _top(scores, k)
        if metric == "l2":
            # Once more from the difference: the formula above cancels where two vectors are nearly the same.
            best = np.sort(best)
            distances = np.linalg.norm(rows[best] - question, axis=1)
            order = np.argsort(distances, kind="stable")
            found.append((best[order], distances[order]))
        else:
            found.append((best, scores[best]))
    return found


def _top(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    if k < len(scores):
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        # Every row at the border, so that of equal ones the first are taken.
        candidates = np.flatnonzero(scores >= least)
    else:
        candidates = np.arange(len(scores))
    return candidates[np.argsort(-scores[candidates], kind="stable")][:k]


@dataclass(frozen=True)
class Join(Stateless):
    """Each record is completed by the record of the same id of another collection.

    Attributes:
        other: the plan of that collection.
        on: the name that both have, usually `id`.
        keep: whether records without a counterpart stay; otherwise they are left out, and counted.
        rows: the other collection by its key, once `prepared`.
    """

    other: Plan
    on: str
    keep: bool
    label: str
    rows: Mapping[Any, Any] | None = None

    @property
    def uses_picture(self) -> bool:
        """See `Step`."""
        return self.on in FACTS

    def prepared(self, run: Run) -> Join:
        """See `Step`: the other collection is run, once, and held in memory."""
        rows: dict[Any, Any] = {}
        for chunk in run(self.other):
            for item in chunk:
                if item.__class__ is not Failure:
                    key = self._key(item)
                    if key is None:
                        continue
                    if key in rows:
                        raise RowError(
                            f"{self.label}: the collection that is joined has {self.on} {key!r} twice.",
                            hint="Remove the doubles first, for example with .dedupe(by=...).",
                        )
                    rows[key] = item
        return replace(self, rows=rows)

    def run(self, items: Chunk, clock: Clock) -> Chunk:
        """See `Stateless`."""
        assert self.rows is not None  # an executor prepares a plan before it runs it
        results: Chunk = []
        dropped = 0
        for item in items:
            if item.__class__ is Failure:
                results.append(item)
                continue
            try:
                other = self.rows.get(self._key(item))
                if other is not None:
                    results.append(joined(item, other))
                elif self.keep:
                    results.append(item)
                else:
                    dropped += 1
            except InputError as error:
                results.append(failed(item, self.label, error))
        if dropped:
            clock.count(f"{self.label}: dropped", dropped)
        return results

    def _key(self, item: Any) -> Any:
        try:
            key = item[self.on]
            hash(key)
        except (KeyError, TypeError, IndexError) as error:
            raise RowError(f"{self.label}: an element has no {self.on!r} to join by: {error}.") from error
        return key


def joined(left: Any, right: Any) -> Any:
    """Two records, or two mappings, in one; where both say something, the left one counts.

    Raises:
        UnsupportedInputError: they are not of the same kind.
    """
    if isinstance(left, Record) and isinstance(right, Record):
        return replace(
            left,
            image=left.image if left.image is not None else right.image,
            texts=left.texts or right.texts,
            attributes={**right.attributes, **left.attributes},
            vectors={**right.vectors, **left.vectors},
            norms={**right.norms, **left.norms},
            facts={**right.facts, **left.facts},
            content="",  # of other parts than before, perhaps
        )
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return {**right, **left}
    raise UnsupportedInputError(
        f"{type(left).__name__} and {type(right).__name__} cannot be joined.",
        hint="Join records with records, or mappings with mappings.",
    )
