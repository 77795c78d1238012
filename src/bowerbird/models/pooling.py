"""Feature maps and patch tokens of pictures become one vector each."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import UnsupportedInputError

POOLINGS = ("avg", "max", "gem", "cls", "none")
"""`avg` and `max` over all places; `gem`, the generalised mean with p = 3 (Radenovic et al. 2018, arXiv 1711.02512);
`cls`, the first token; `none`, every place by itself."""

GEM_POWER = 3.0
GEM_FLOOR = 1e-6  # As in the authors' code: the mean is of positive values.


def places(array: NDArray[Any]) -> NDArray[np.float32]:
    """A feature map as (n, places, channels) float32: from (n, places, channels), (n, c, h, w) or (n, h, w, c).

    Of four axes, the channels are the second, unless the second and the third are alike and the fourth is not, as in
    networks that keep channels last.

    Raises:
        UnsupportedInputError: the array has neither three nor four axes.
    """
    if array.ndim == 3:
        found: NDArray[np.float32] = array.astype(np.float32, copy=False)
        return found
    if array.ndim != 4:
        raise UnsupportedInputError(
            f"A tensor of shape {array.shape} cannot be pooled.",
            hint="It has one vector for each input already.",
        )
    n, a, b, c = array.shape
    channels_last = a == b != c
    flat = array.reshape(n, a * b, c) if channels_last else array.reshape(n, a, b * c).transpose(0, 2, 1)
    placed: NDArray[np.float32] = np.ascontiguousarray(flat, np.float32)
    return placed


def pool_places(array: NDArray[Any], how: str) -> NDArray[np.float32]:
    """Pool a feature map: (n, channels), or (n, places, channels) with `none`.

    Args:
        array: see `places`.
        how: one of `POOLINGS`.

    Raises:
        UnsupportedInputError: there is nothing to pool, or no such pooling.
    """
    found = places(array)
    pooled: NDArray[np.float32]
    if how == "none":
        pooled = found
    elif how == "avg":
        pooled = found.mean(1, dtype=np.float64).astype(np.float32)
    elif how == "max":
        pooled = found.max(1)
    elif how == "cls":
        pooled = found[:, 0]
    elif how == "gem":
        powered = np.maximum(found, GEM_FLOOR).astype(np.float64) ** GEM_POWER
        pooled = (powered.mean(1) ** (1 / GEM_POWER)).astype(np.float32)
    else:
        raise UnsupportedInputError(
            f"There is no pooling {how!r}.", hint=f"Use one of {', '.join(POOLINGS)}."
        )
    return pooled
