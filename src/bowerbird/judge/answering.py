"""Systems that are judged, and what they answer: a model or several of an index, under one fusion.

Words are asked of an index as everybody asks it. The other direction, from a picture to texts, is one product of
matrices: the vectors of the pictures that the index holds, against those of its texts or of the captions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import InputError
from bowerbird.judge.pairs import Records
from bowerbird.record import Modality
from bowerbird.search import fuse
from bowerbird.search.evidence import likeness
from bowerbird.search.gap import centred
from bowerbird.search.query import Query
from bowerbird.store.filters import And, Filter, In, IsNull, Not
from bowerbird.store.manifest import ModelEntry

if TYPE_CHECKING:
    from bowerbird.search.index import Index

Floats = NDArray[np.floating[Any]]

CHUNK = 64
"""Queries that are asked, or pictures that are compared, together."""

_IDS = 5000
"""Ids in one filter."""

Told = Callable[[int], None]
"""Is told how many more queries were answered."""


@dataclass(frozen=True)
class System:
    """One way to answer.

    Attributes:
        entries: the models.
        models: what they are called, with ` + ` between them.
        fusion: how what they say becomes one list; empty where one part of the records is asked under one model.
    """

    entries: tuple[ModelEntry, ...]
    models: str
    fusion: str = ""

    def __str__(self) -> str:
        return f"{self.models}, {self.fusion}" if self.fusion else self.models


def systems(
    entries: Sequence[ModelEntry], names: Mapping[str, str], fusions: Sequence[str], *, parts: int
) -> list[System]:
    """Each model alone, then all together, under every fusion where there is anything to fuse.

    Args:
        entries: the models.
        names: what they are called, by space.
        fusions: to try.
        parts: how many parts of each record a query is compared with.
    """
    alone: list[tuple[ModelEntry, ...]] = [(entry,) for entry in entries]
    asked = [(group, fusion) for group in alone for fusion in (fusions if parts > 1 else ("",))]
    asked += [(tuple(entries), fusion) for fusion in fusions if len(entries) > 1]
    return [System(group, " + ".join(names[e.space] for e in group), fusion) for group, fusion in asked]


def answers(
    index: Index,
    system: System,
    queries: Mapping[str, str | Path],
    records: Records,
    *,
    k: int,
    among: str = "",
    where: str = "",
    told: Told | None = None,
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Ask an index.

    Args:
        index: that is asked.
        system: how.
        queries: by id, words or a picture.
        records: gives one id to exact copies.
        k: at most so many results of each.
        among: as of `Query`.
        where: as of `Index.ask`.
        told: is told of progress.

    Returns:
        ids of records by query, best first; and by query why it could not be asked.
    """
    found: dict[str, list[str]] = {}
    faults: dict[str, str] = {}
    request: dict[str, Any] = {
        "k": k,
        "where": where,
        "models": [entry.space for entry in system.entries],
        "fusion": system.fusion or "calibrated",
    }
    listed = list(queries)
    for start in range(0, len(listed), CHUNK):
        part = listed[start : start + CHUNK]
        asked = [_query(queries[query], among) for query in part]
        try:
            results = index.ask_all(asked, **request)
            found.update({query: _ids(hits.ids, records) for query, hits in zip(part, results, strict=True)})
        except InputError:
            for query, one in zip(part, asked, strict=True):  # one of them cannot be read: the others can
                try:
                    found[query] = _ids(index.ask(one, **request).ids, records)
                except InputError as error:
                    found[query], faults[query] = [], str(error)
        if told:
            told(len(part))
    return found, faults


def _query(asked: str | Path, among: str) -> Query:
    if isinstance(asked, Path):
        return Query(image=asked, among=",".join(p for p in among.split(",") if p != "words"))
    return Query(texts=(asked,), among=among)


def _ids(ids: Sequence[str], records: Records) -> list[str]:
    return list(dict.fromkeys(records.same(id_) for id_ in ids))


# From pictures to texts


@dataclass(frozen=True)
class Pool:
    """Texts that pictures are compared with.

    Attributes:
        ids: of the texts.
        vectors: by space of the model, float32 (texts, dim).
        indexed: whether they are the texts of the index, rather than captions from elsewhere.
    """

    ids: tuple[str, ...]
    vectors: Mapping[str, Floats]
    indexed: bool

    def distinct(self, texts: Mapping[str, str]) -> tuple[Pool, dict[str, str]]:
        """The same with each text once, and by id the id of the text that stands for it: the first of those alike.

        Args:
            texts: by id.
        """
        first: dict[str, str] = {}
        stands = {id_: first.setdefault(texts[id_], id_) for id_ in self.ids}
        kept = [place for place, id_ in enumerate(self.ids) if stands[id_] == id_]
        vectors = {space: rows[kept] for space, rows in self.vectors.items()}
        return Pool(tuple(self.ids[place] for place in kept), vectors, self.indexed), stands


def text_pool(index: Index, entries: Sequence[ModelEntry], where: Filter | None) -> Pool | None:
    """The texts of the index that have vectors of all models; None: there are none."""
    columns = {
        entry.space: next((c.name for c in entry.columns if c.modality == Modality.TEXT), "")
        for entry in entries
    }
    if not all(columns.values()):
        return None
    there = tuple(Not(IsNull(f"{name}__norm")) for name in columns.values())
    rows = _rows(index, list(columns.values()), And((*there, where) if where else there))
    if not rows:
        return None
    vectors = {space: np.stack([row[place] for row in rows.values()]) for place, space in enumerate(columns)}
    return Pool(tuple(rows), vectors, indexed=True)


def caption_pool(index: Index, entries: Sequence[ModelEntry], captions: Sequence[str]) -> Pool:
    """Captions, embedded as the texts of records are; their ids are their places.

    Raises:
        InputErrors: one of them cannot be embedded.
        UnsupportedInputError: a model takes no texts.
    """
    vectors = {entry.space: _documents(index, entry, captions) for entry in entries}
    return Pool(tuple(map(str, range(len(captions)))), vectors, indexed=False)


def _documents(index: Index, entry: ModelEntry, texts: Sequence[str]) -> Floats:
    encoder = index.encoder(entry.space)
    encoder.text.tower  # noqa: B018  a model without it says so itself
    return encoder.embed(list(texts), role="document")


def picture_vectors(index: Index, entry: ModelEntry, ids: Sequence[str]) -> dict[str, Floats]:
    """By id, the vectors of pictures in the output that is shared with texts; records without one are left out."""
    column = shared_column(index, entry)
    return {id_: row[0] for id_, row in _rows(index, [column], Not(IsNull(f"{column}__norm")), ids).items()}


def shared_column(index: Index, entry: ModelEntry) -> str:
    """The column of pictures that texts are compared with."""
    return entry.column(index.encoder(entry.space).image.tower.output, Modality.IMAGE).name


def _rows(
    index: Index, columns: Sequence[str], where: Filter | None, ids: Sequence[str] | None = None
) -> dict[str, list[Floats]]:
    """Vectors by id, in the order of the ids or of the table."""
    found: dict[str, list[Floats]] = {}
    parts = [None] if ids is None else [ids[start : start + _IDS] for start in range(0, len(ids), _IDS)]
    for part in parts:
        wanted = where if part is None else And((In("id", tuple(part)), *([where] if where else [])))
        for batch in index.table.scan(["id", *columns], where=wanted):
            arrays = [_matrix(batch.column(place + 1)) for place in range(len(columns))]
            for row, id_ in enumerate(batch.column(0).to_pylist()):
                found[id_] = [array[row] for array in arrays]
    return found if ids is None else {id_: found[id_] for id_ in ids if id_ in found}


def _matrix(column: Any) -> Floats:
    """A column of vectors without nulls as float32 (n, dim)."""
    flat: Floats = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), -1).astype(np.float32, copy=False)


def picture_answers(
    index: Index,
    every: Sequence[System],
    pictures: Sequence[str],
    pool: Pool,
    *,
    k: int,
    told: Told | None = None,
) -> list[dict[str, list[str]]]:
    """For each system, by picture the ids of the texts most like it, best first.

    Pictures without a vector find nothing. Where several models say something of captions from elsewhere, a score is
    calibrated by the other captions' scores for the same picture.
    """
    entries = list({entry.space: entry for system in every for entry in system.entries}.values())
    sides = [_Side(index, entry, pictures, pool) for entry in entries]
    place = {entry.space: number for number, entry in enumerate(entries)}
    found: list[dict[str, list[str]]] = [{picture: [] for picture in pictures} for _ in every]
    have = [picture for picture in pictures if all(picture in side.pictures for side in sides)]
    for start in range(0, len(have), CHUNK):
        part = have[start : start + CHUNK]
        both = [side.compared(part) for side in sides]
        scores = np.stack([raw for raw, _ in both])  # (models, pictures, texts)
        evidence = np.stack([certain for _, certain in both])
        for system, run in zip(every, found, strict=True):
            chosen = [place[entry.space] for entry in system.entries]
            values = _fused(scores[chosen], evidence[chosen], system.fusion)
            for picture, row in zip(part, values, strict=True):
                run[picture] = [pool.ids[text] for text in _best(row, k)]
        if told:
            told(len(part) * len(every))
    return found


class _Side:
    """One model: its pictures and texts, as they are compared."""

    def __init__(self, index: Index, entry: ModelEntry, pictures: Sequence[str], pool: Pool) -> None:
        self.pictures = picture_vectors(index, entry, pictures)
        self.texts = pool.vectors[entry.space]
        self.column = (
            next((c for c in entry.columns if c.modality == Modality.TEXT), None) if pool.indexed else None
        )
        self.background = index.background(entry) if self.column else None
        self.moved: Floats | None = None
        if self.background and self.column:
            centre = self.background.centre(self.column)
            self.moved = self.background.query_centre(Modality.IMAGE, self.column)
            if centre is not None:
                self.texts = centred(self.texts, centre)

    def compared(self, pictures: Sequence[str]) -> tuple[Floats, Floats]:
        """(pictures, texts) scores, and how far they stand out."""
        asked = np.stack([self.pictures[picture] for picture in pictures])
        if self.moved is not None:
            asked = centred(asked, self.moved)
        scores = asked @ self.texts.T
        if self.background and self.column:
            rows = [
                self.background.evidence(Modality.IMAGE, self.column, vector, row)
                for vector, row in zip(asked, scores, strict=True)
            ]
            return scores, np.stack(rows)
        deviation = np.maximum(scores.std(axis=1, keepdims=True), 1e-6)
        return scores, (scores - scores.mean(axis=1, keepdims=True)) / deviation


def _fused(scores: Floats, evidence: Floats, fusion: str) -> Floats:
    """(pictures, texts) numbers to rank by.

    Args:
        scores: (models, pictures, texts).
        evidence: likewise.
        fusion: of several models; with one model its scores are ranked as they are.
    """
    fused: Floats = scores[0]
    if len(scores) > 1 and fusion == "rank":
        ranks = (-scores).argsort(axis=-1, kind="stable").argsort(axis=-1, kind="stable") + 1.0
        fused = np.stack([fuse.by_rank(ranks[:, row])[0] for row in range(ranks.shape[1])])
    elif len(scores) > 1 and fusion == "raw":
        fused = scores.max(axis=0)
    elif len(scores) > 1:
        fused = (likeness(evidence) if fusion == "weighted" else evidence).mean(axis=0)
    return fused


def _best(values: Floats, k: int) -> list[int]:
    """The places of the k largest, the first of equals first."""
    if k < len(values):
        border = np.partition(values, len(values) - k)[len(values) - k]
        places = np.flatnonzero(values >= border)
    else:
        places = np.arange(len(values))
    return [int(place) for place in places[np.argsort(-values[places], kind="stable")][:k]]
