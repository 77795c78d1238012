"""Feature maps and patch tokens of pictures become one vector each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import UnsupportedInputError

POOLINGS = ("avg", "max", "gem", "cls", "none")
"""`avg` and `max` over all places; `gem`, the generalised mean with p = 3 (Radenovic et al. 2018, arXiv 1711.02512);
`cls`, the first token; `none`, every place by itself."""

GEM_POWER = 3.0
GEM_FLOOR = 1e-6  # As in the authors' code: the mean is of positive values.


def places(array: NDArray[Any], features: int | None = None) -> NDArray[np.float32]:
    """A feature map as (n, places, channels) float32: from (n, places, channels), (n, c, h, w) or (n, h, w, c).

    Args:
        array: of three or four axes.
        features: the axis that holds the channels. Where it is not known: of three axes the last; of four the second,
            unless the second and the third are alike and the fourth is not, as in networks that keep channels last.

    Raises:
        UnsupportedInputError: the array has neither three nor four axes.
    """
    if array.ndim not in (3, 4):
        raise UnsupportedInputError(
            f"A tensor of shape {array.shape} cannot be pooled.",
            hint="It has one vector for each input already.",
        )
    axis = feature_axis(array.shape) if features is None else features
    last = np.moveaxis(array, axis, -1)
    placed: NDArray[np.float32] = np.ascontiguousarray(
        last.reshape(len(last), -1, last.shape[-1]), np.float32
    )
    return placed


def feature_axis(shape: Sequence[int | None]) -> int:
    """The axis that holds the channels, by the shape alone; see `places`."""
    if len(shape) != 4 or (shape[1] == shape[2] != shape[3] and None not in shape[1:]):
        return len(shape) - 1
    return 1


def pool_places(array: NDArray[Any], how: str, features: int | None = None) -> NDArray[np.float32]:
    """Pool a feature map: (n, channels), or (n, places, channels) with `none`.

    Args:
        array: see `places`.
        how: one of `POOLINGS`.
        features: see `places`.

    Raises:
        UnsupportedInputError: there is nothing to pool, or no such pooling.
    """
    found = places(array, features)
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
