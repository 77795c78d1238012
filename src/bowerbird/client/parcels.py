"""Long lists as several requests, each of which a service takes at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bowerbird.client.calls import written

__all__ = ["Parcel", "parcels"]

WEIGHT = 256
"""Of the items of one request; a text weighs 1."""

PICTURE_WEIGHT = 8
"""A picture takes about so many times as long as a text."""

CHARACTERS = 200_000
"""In one request. They are at most about as many tokens, of which services take 300,000."""

BYTES = 16 << 20
"""Of one request's JSON; services take 64 MiB."""


@dataclass(frozen=True)
class Parcel:
    """Items of one request.

    Attributes:
        indices: their places in the list that was given.
        items: as JSON.
    """

    indices: Sequence[int]
    items: Sequence[bytes]

    def body(self, name: str, rest: dict[str, Any]) -> bytes:
        """The JSON object that has the items under a name, and the rest."""
        head = written(rest)[:-1]
        return b"".join((head, b", " if rest else b"", written(name), b": [", b", ".join(self.items), b"]}"))

    def halves(self) -> tuple[Parcel, Parcel] | None:
        """Itself in two; None where it has one item."""
        half = len(self.items) // 2
        if not half:
            return None
        return Parcel(self.indices[:half], self.items[:half]), Parcel(self.indices[half:], self.items[half:])


def parcels(items: Iterable[tuple[int, Any, bool]]) -> Iterator[Parcel]:
    """Items put together, in order, within the caps above; one that is beyond them travels alone.

    Args:
        items: (index, what becomes JSON, whether it is a picture); consumed as parcels are.
    """
    indices: list[int] = []
    jsons: list[bytes] = []
    weight = characters = size = 0
    for index, value, is_picture in items:
        data = written(value)
        heavy = PICTURE_WEIGHT if is_picture else 1
        long = 0 if is_picture else len(data)
        full = weight + heavy > WEIGHT or characters + long > CHARACTERS or size + len(data) > BYTES
        if indices and full:
            yield Parcel(indices, jsons)
            indices, jsons, weight, characters, size = [], [], 0, 0, 0
        indices.append(index)
        jsons.append(data)
        weight, characters, size = weight + heavy, characters + long, size + len(data)
    if indices:
        yield Parcel(indices, jsons)
