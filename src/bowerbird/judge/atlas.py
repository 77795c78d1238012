"""A map of an index: every picture and every text a point, near to what is like it."""

from __future__ import annotations

import difflib
import io
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import QueryError
from bowerbird.judge.projection import flat
from bowerbird.judge.sampled import Sampled, label, sampled, shared_columns, similar_columns, single
from bowerbird.record import Modality
from bowerbird.search.gap import centred
from bowerbird.store.table import ATTRIBUTES

if TYPE_CHECKING:
    from bowerbird.search.index import Index
    from bowerbird.store.manifest import ModelEntry
    from bowerbird.store.table import VectorColumn

Array: TypeAlias = NDArray[Any]

POINTS = 50_000
"""Points that a browser draws while somebody drags the map."""

THUMBNAILS = 2000
"""Pictures that can be seen on the map; each takes about 3 kB of the page."""

SIDE = 112
"""Long side of a thumbnail, in pixels."""

CATEGORIES = 10
"""Values of an attribute that have a colour of their own: as many as can be told apart."""

TEXT = 280
"""Characters of a text that are kept."""


@dataclass(frozen=True)
class Colours:
    """An attribute that points are coloured by.

    Attributes:
        name: of the attribute.
        labels: of categories, the most frequent first; of a scale, its least, median and largest value.
        scale: whether values lie on a scale.
        values: for each record: the number of its category; on a scale its rank, 0 to 1; -1 for none.
    """

    name: str
    labels: tuple[str, ...]
    scale: bool
    values: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Atlas:
    """Points and what is known of them.

    Attributes:
        model: name of the model.
        records: how many the index has.
        places: float32 (points, 2), 0 to 1.
        texts: bool (points,): whether a point is a text rather than a picture.
        owners: int (points,): number of the record that a point is a part of.
        ids: of the records on the map.
        uris: where they lie; empty for nowhere.
        names: as people call them.
        captions: their texts, cut short; empty for none.
        thumbnails: by number of the record.
        colours: the attribute that points are coloured by; None for pictures and texts.
        method: how places were found.
        corrected: whether each modality was centred first.
        notes: what a person should know.
    """

    model: str
    records: int
    places: Array
    texts: Array
    owners: Array
    ids: tuple[str, ...]
    uris: tuple[str, ...]
    names: tuple[str, ...]
    captions: tuple[str, ...]
    thumbnails: Mapping[int, bytes]
    colours: Colours | None
    method: str
    corrected: bool
    notes: tuple[str, ...]


def atlas(
    index: Index,
    *,
    model: str = "",
    colour: str = "",
    raw: bool = False,
    points: int = POINTS,
    thumbnails: int = THUMBNAILS,
    method: str = "auto",
    seed: int = 0,
) -> Atlas:
    """Place the records of an index on a map. The same index and seed give the same map.

    Args:
        index: it is only read.
        model: which of its models; empty: the first.
        colour: an attribute to colour points by.
        raw: leave the modality gap as it is: pictures and texts then make two islands.
        points: at most so many; of a larger index, records drawn at random.
        thumbnails: pictures that can be seen, at most.
        method: see `projection.flat`.
        seed: of every choice.

    Raises:
        QueryError: there is no such model or attribute, several models are named, or there is no vector under it.
        MissingExtraError: `umap` was asked for, and is not installed.
    """
    entry = single(index, model)
    if colour:
        _check_colour(index, colour)
    drawn, vectors, texts, owners = _vectors(index, entry, colour, points, seed)
    corrected = not raw and bool(texts.any()) and not texts.all()
    if corrected:
        for part in (texts, ~texts):
            vectors[part] = centred(vectors[part], vectors[part].mean(0))
    places, how = flat(vectors, seed=seed, method=method)
    chosen, renumbered = np.unique(owners, return_inverse=True)
    facts = {name: [values[row] for row in chosen.tolist()] for name, values in drawn.facts.items()}
    pictures = np.unique(renumbered[~texts])
    seen = np.random.default_rng(seed).permutation(pictures)[: max(thumbnails, 0)]
    return Atlas(
        model=label(index, entry),
        records=len(index),
        places=places,
        texts=texts,
        owners=renumbered,
        ids=tuple(facts["id"]),
        uris=tuple(uri or "" for uri in facts["uri"]),
        names=tuple(name or id_ for name, id_ in zip(facts["name"], facts["id"], strict=True)),
        captions=tuple(_short(text) for text in facts["text"]),
        thumbnails=_thumbnails(index, {facts["id"][at]: at for at in np.sort(seen).tolist()}),
        colours=colours_of(colour, facts[colour]) if colour else None,
        method=how,
        corrected=corrected,
        notes=tuple(_notes(index, len(chosen), len(pictures), len(seen))),
    )


def _vectors(
    index: Index, entry: ModelEntry, colour: str, points: int, seed: int
) -> tuple[Sampled, Array, Array, Array]:
    """Records drawn at random, and what `_points` makes of them.

    Raises:
        QueryError: none of them has a vector.
    """
    columns = [column for column in _columns(index, entry) if column is not None]
    known = ("uri", "name", "text", "format", *([colour] if colour not in ("", "name", "format") else []))
    drawn = sampled(index, columns, known, points, seed=seed)
    vectors, texts, owners = _points(drawn, columns, points)
    if not len(vectors):
        raise QueryError(
            f"No record of {index.path} has a vector under {label(index, entry)}.",
            hint="Index pictures or texts first.",
        )
    return drawn, vectors, texts, owners


def _columns(index: Index, entry: ModelEntry) -> tuple[VectorColumn | None, VectorColumn | None]:
    """Columns of pictures and of texts; where there are no texts, pictures in the output that compares them best."""
    pictures, texts = shared_columns(entry)
    if texts is None or not index.table.count(_has(texts)):
        return next(iter(similar_columns(entry)), None), None
    if pictures is not None and not index.table.count(_has(pictures)):
        return None, texts
    return pictures, texts


def _has(column: VectorColumn) -> Any:
    from bowerbird.store.filters import IsNull, Not

    return Not(IsNull(column.norm))


def _points(drawn: Sampled, columns: Sequence[VectorColumn], most: int) -> tuple[Array, Array, Array]:
    """(vectors, whether each is a text, row of the sample it is of), records in their order, at most so many points."""
    held = [(drawn.held(column), column.modality == Modality.TEXT) for column in columns]
    vectors = np.concatenate([found for (_, found), _ in held]) if held else np.zeros((0, 1), np.float32)
    owners = np.concatenate([rows for (rows, _), _ in held]) if held else np.zeros(0, np.int64)
    texts = np.concatenate([np.full(len(rows), text) for (rows, _), text in held]) if held else owners > 0
    if len(vectors) > most:
        # Whole records, so that a picture and its text are on the map together or not at all.
        last = np.sort(owners, kind="stable")[most]
        kept = owners < last
        vectors, owners, texts = vectors[kept], owners[kept], texts[kept]
    return vectors.copy(), texts, owners


def _short(text: str | None) -> str:
    if not text:
        return ""
    return text if len(text) <= TEXT else text[: TEXT - 1].rstrip() + "…"


def _check_colour(index: Index, name: str) -> None:
    have = [name for name in (*ATTRIBUTES, *index.table.attributes().names) if name in index.table.names]
    if name not in have:
        near = difflib.get_close_matches(name, have, 1, 0.5)
        meant = f"Did you mean {near[0]}?" if near else f"There are {', '.join(have)}."
        raise QueryError(f"The index at {index.path} has no attribute {name!r}.", hint=meant)


def colours_of(name: str, values: Sequence[Any]) -> Colours:
    """What colour each record has by its value of an attribute.

    Numbers and times of more than `CATEGORIES` different values lie on a scale, by rank, so that a few large ones do
    not make all others look alike. Anything else is a category; those beyond the most frequent share one. NaN is none.
    """
    values = [None if isinstance(value, float) and math.isnan(value) else value for value in values]
    told = [value for value in values if value is not None]
    places = {value: at for at, value in enumerate(sorted(set(told)))}
    numbers = all(isinstance(value, (int, float, datetime)) and not isinstance(value, bool) for value in told)
    if numbers and len(places) > CATEGORIES:
        most = len(places) - 1
        ordered = sorted(told)
        ends = (ordered[0], ordered[len(ordered) // 2], ordered[-1])
        ranks = tuple(-1.0 if value is None else round(places[value] / most, 4) for value in values)
        return Colours(name, tuple(map(_shown, ends)), True, ranks)
    counted = Counter(map(_shown, told))
    frequent = [label for label, _ in sorted(counted.items(), key=lambda pair: (-pair[1], pair[0]))]
    numbered = {label: float(min(at, CATEGORIES)) for at, label in enumerate(frequent)}
    found = tuple(-1.0 if value is None else numbered[_shown(value)] for value in values)
    others = ["others"] if len(frequent) > CATEGORIES else []
    return Colours(name, (*frequent[:CATEGORIES], *others), False, found)


def _shown(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _thumbnails(index: Index, wanted: Mapping[str, int]) -> dict[int, bytes]:
    """By number of the record, a small JPEG of what the index keeps; none for a record without a picture."""
    found: dict[int, bytes] = {}
    ids = list(wanted)
    for start in range(0, len(ids), 500):
        kept = index.thumbnails(ids[start : start + 500])
        found.update((wanted[id_], _smaller(data)) for id_, data in kept.items() if data)
    return found


def _smaller(data: bytes) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        image.thumbnail((SIDE, SIDE))
        stream = io.BytesIO()
        image.convert("RGB").save(stream, "JPEG", quality=72, optimize=True)
        return stream.getvalue()


def _notes(index: Index, shown: int, pictures: int, seen: int) -> Iterator[str]:
    if shown < len(index):
        yield f"{shown:,} of {len(index):,} records are on the map: drawn at random, or those with vectors."
    if seen < pictures:
        yield f"{seen:,} of {pictures:,} pictures can be seen here; --thumbnails N keeps more, about 4 kB each."
