"""Which of the results show nearly the same picture: one shot in several files, turned by its viewer, saved again."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["among", "near_copies"]

SIDE = 12
"""Pixels a side of what is compared: what is left of a picture is its colours and their places."""

NEAR = 3.0
"""Root mean square of the differences, in steps of 255, up to which two pictures are the same. One photograph that was
saved or turned again is at about 1; different ones on one table, in the same light, are at 10 and more."""


def near_copies(pictures: Mapping[str, bytes], groups: Sequence[tuple[str, object]]) -> dict[str, str]:
    """By id of a result that is nearly the same as one before it, the id of the first of these.

    Args:
        pictures: small JPEGs, by id; who has none is like none.
        groups: ids, best first, each with what must be equal, too, such as its text.
    """
    firsts: list[tuple[str, object, NDArray[np.float32]]] = []
    found: dict[str, str] = {}
    for id_, same in groups:
        if (data := pictures.get(id_)) is None:
            continue
        tiny = _tiny(data)
        near = next((one for one, other, seen in firsts if other == same and _apart(seen, tiny) <= NEAR), "")
        if near:
            found[id_] = near
        else:
            firsts.append((id_, same, tiny))
    return found


def among(copies: Mapping[str, str], ids: Sequence[str]) -> dict[str, str]:
    """Those of `near_copies` that are among some results together with the first of them."""
    there = set(ids)
    return {id_: first for id_, first in copies.items() if id_ in there and first in there}


def _tiny(data: bytes) -> NDArray[np.float32]:
    from PIL import Image

    image = Image.open(io.BytesIO(data), formats=("JPEG",))
    image.draft("RGB", (2 * SIDE, 2 * SIDE))
    small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.float32)


def _apart(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean((one - other) ** 2)))
