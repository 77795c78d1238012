"""Many dimensions become two: principal components, and UMAP where it is installed."""

from __future__ import annotations

import warnings
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

BEFORE_UMAP = 50
"""Principal components that UMAP is given: it is several times as fast, and draws the same islands."""

NEIGHBOURS = 15
"""Of each point, that UMAP keeps together."""

INSTALL = "pip install 'bowerbird[plot]'"

SPREAD = 1e-6
"""Unit vectors that lie no further than this from their mean differ by rounding alone."""

ROWS_FOR_AXES = 20_000
"""Rows that the principal components are found from; of more, some are drawn at random."""


def pca(vectors: Array, dimensions: int, *, seed: int = 0) -> Array:
    """The first principal components, float64 (n, dimensions), the largest first; zeros where there are no more.

    The sign of a component is free (Jolliffe 2002): here its largest weight is positive, so that a map stays as it is.
    """
    values = np.asarray(vectors, np.float64)
    if not len(values):
        return np.zeros((0, dimensions))
    some = values
    if len(values) > ROWS_FOR_AXES:
        some = values[np.random.default_rng(seed).choice(len(values), ROWS_FOR_AXES, replace=False)]
    middle = some.mean(0)
    deviations = some - middle
    _, axes = np.linalg.eigh(deviations.T @ deviations)
    axes = axes[:, ::-1][:, :dimensions]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    found = np.zeros((len(values), dimensions))
    found[:, : axes.shape[1]] = (values - middle) @ axes
    return found


def flat(vectors: Array, *, seed: int = 0, method: str = "auto") -> tuple[Array, str]:
    """A map: (float32 (n, 2) with both axes from 0 to 1, how it was made).

    Vectors that are all the same are one point in the middle. Where UMAP places a point nowhere, as it may where most
    vectors are the same, the map is that of the principal components.

    Args:
        vectors: (n, d) unit rows, finite.
        seed: of UMAP, which is slower by it but gives the same map again.
        method: `umap`, `pca`, or `auto` for UMAP where it is installed.

    Raises:
        MissingExtraError: UMAP was asked for, and is not installed.
    """
    if len(vectors) and np.abs(vectors - np.mean(vectors, axis=0)).max() <= SPREAD:
        return np.full((len(vectors), 2), 0.5, np.float32), "no spread: all vectors are the same"
    few = len(vectors) < NEIGHBOURS
    if method == "pca" or (method == "auto" and (few or not _has_umap())):
        note = "PCA"
        if method == "auto" and not few:
            note = f"PCA, since umap-learn is not installed; for a clearer map: {INSTALL}"
        return _framed(pca(vectors, 2, seed=seed)), note
    placed = _umap(vectors, seed)
    if not np.isfinite(placed).all():
        return _framed(pca(vectors, 2, seed=seed)), "PCA, since UMAP finds no place for some of these vectors"
    return _framed(placed), "PCA, then UMAP"


def _has_umap() -> bool:
    from importlib.util import find_spec

    return find_spec("umap") is not None


def _umap(vectors: Array, seed: int) -> Array:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numba and of TensorFlow, about themselves
            from umap import UMAP
    except ImportError:
        from bowerbird.errors import MissingExtraError

        raise MissingExtraError("umap-learn", "plot") from None
    reduced = pca(vectors, min(BEFORE_UMAP, vectors.shape[1]), seed=seed).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about what `random_state` costs, and about few points
        mapper = UMAP(
            n_neighbors=min(NEIGHBOURS, len(reduced) - 1),
            min_dist=0.1,
            init="pca",
            random_state=seed,
            n_jobs=1,
        )
        placed: Array = mapper.fit_transform(reduced)
    return placed


def _framed(points: Array) -> Array:
    """Points scaled into the unit square, both axes alike; the middle 99.8 % fill it."""
    if not len(points):
        return np.zeros((0, 2), np.float32)
    low, high = np.quantile(points, 0.001, axis=0), np.quantile(points, 0.999, axis=0)
    side = max(float((high - low).max()), 1e-9)
    framed: Array = np.clip((points - (low + high) / 2) / side + 0.5, 0, 1).astype(np.float32)
    return framed
