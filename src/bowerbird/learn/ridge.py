"""Ridge regression from pictures to the vectors of their texts, with leave-one-out in closed form.

Hoerl and Kennard 1970; the leave-one-out residual is `(y - y^) / (1 - h)` with h the picture's own leverage (Allen
1974, PRESS). So every setting is judged on predictions for pictures that it has not seen, at the price of one fit.
Nothing is added to an alignment where the gain is not more than its standard error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import LearnError
from bowerbird.learn.examples import Examples, Places, Vectors
from bowerbird.learn.heads import Branch, Head, Heads, Layer, Linear, Scale, Shift, Unit, as_it_is
from bowerbird.learn.recall import Watched, surely, watched

Floats = NDArray[np.float64]

REGULARISATIONS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""In shares of the mean squared length of the centred rows."""

WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Of what is added to the alignment that there is."""

JUDGED = 1000
"""Pictures by which settings are chosen, at most."""


def ridge(
    train: Examples,
    *,
    shared: str,
    layer: str,
    text: str,
    regularisation: float | None = None,
    weight: float | None = None,
    seed: int = 0,
) -> Heads:
    """Fit, and choose what is not given.

    Args:
        train: with the vectors of these tensors.
        shared: tensor of the existing alignment; empty: there is none.
        layer: tensor that is regressed on.
        text: tensor of the texts.
        regularisation: see `REGULARISATIONS`; None: chosen among them.
        weight: see `WEIGHTS`; None: chosen among them.
        seed: of the pictures that are judged.

    Raises:
        LearnError: there are fewer than two pictures, or a number that was given cannot be.
    """
    if len(np.unique(train.links[:, 0])) < 2:
        raise LearnError("A regression needs two pictures at least.", hint="Give more pairs.")
    _check(regularisation, weight)
    rows, words = (train.images or {})[layer], (train.words or {})[text]
    target = _targets(train, words)
    x_mean, t_mean = rows.mean(0, dtype=np.float64), target.mean(0)
    regression = _Regression(rows - x_mean, target - t_mean)
    scales = REGULARISATIONS if regularisation is None else (regularisation,)
    weights = (1.0,) if not shared else WEIGHTS if weight is None else (weight,)
    base = (train.images or {})[shared] if shared else None
    asked = words if shared else _unit(words - t_mean)
    choices = len(scales) * len(weights)
    scale, one = scales[0], weights[0]
    if choices > 1:
        judged = _some(len(train), seed)
        predicted = {scale: _unit(regression.left_out(scale, judged)) for scale in scales}
        scale, one = _chosen(train, judged, predicted, None if base is None else base[judged], asked, weights)
    facts = {
        "regularisation": scale,
        "weight": one if shared else None,
        "chosen by": "leave-one-out" if choices > 1 else "the user",
    }
    if shared and one == 0:
        return Heads(as_it_is(shared), as_it_is(text), facts=facts)
    layers: tuple[Layer, ...] = (
        Shift((-x_mean).astype(np.float32)),
        Linear(regression.weights(scale).astype(np.float32)),
        Unit(),
    )
    if not shared:
        centred = Head((Branch(text, (Shift((-t_mean).astype(np.float32)),)),))
        return Heads(Head((Branch(layer, layers),)), centred, facts=facts)
    return Heads(Head((Branch(shared), Branch(layer, (*layers, Scale(one))))), as_it_is(text), facts=facts)


def _chosen(
    train: Examples,
    judged: Places,
    predicted: Mapping[float, Floats],
    base: Vectors | None,
    asked: NDArray[np.floating],
    weights: Sequence[float],
) -> tuple[float, float]:
    """The regularisation and the weight by which pictures and texts find each other best.

    Args:
        train: all examples.
        judged: places of the pictures by which is chosen.
        predicted: by regularisation, (judged, dim): of a regression without the picture, of length 1.
        base: (judged, dim) of the existing alignment; None: there is none.
        asked: (t, dim) of all texts.
        weights: among which is chosen.
    """
    some = train.only(judged)
    kept = train.links[np.isin(train.links[:, 0], judged), 1]
    texts = (asked if train.classes else asked[np.unique(kept)]).astype(np.float32)

    def values(scale: float, weight: float) -> Watched:
        rows = predicted[scale]
        images = rows if base is None else _unit(base + weight * rows)
        return watched(some, images.astype(np.float32), texts)

    tried = {(weight, scale): values(scale, weight) for weight, scale in product(weights, predicted)}
    figure = {setting: np.mean([one.mean() for one in found]) for setting, found in tried.items()}
    # The first of equals: the least that is added, and of that the weakest regularisation.
    best = max(figure, key=lambda setting: (round(figure[setting], 9), *(-one for one in setting)))
    nothing = (0.0, next(iter(predicted)))
    if base is not None and nothing in tried and not surely(tried[best], tried[nothing]):
        best = nothing
    weight, scale = best
    return scale, weight


def _check(regularisation: float | None, weight: float | None) -> None:
    if regularisation is not None and not (math.isfinite(regularisation) and regularisation > 0):
        raise LearnError(f"Ridge: regularisation is {regularisation!r}.", hint="Give a number above 0.")
    if weight is not None and not (math.isfinite(weight) and weight >= 0):
        raise LearnError(f"Ridge: weight is {weight!r}.", hint="Give a number from 0 on.")


class _Regression:
    """All ridge regressions on some rows: one decomposition serves every regularisation.

    Args:
        x: float (n, d), centred.
        y: float (n, t), centred.
    """

    def __init__(self, x: NDArray[np.floating], y: Floats) -> None:
        self.x, self.y = np.asarray(x, np.float64), y
        self.dual = len(x) <= x.shape[1]
        gram = self.x @ self.x.T if self.dual else self.x.T @ self.x
        self.values, self.vectors = np.linalg.eigh(gram)
        self.values = np.maximum(self.values, 0)
        self.projected = np.zeros(0) if self.dual else self.x.T @ self.y
        self.unit = max(float((self.x**2).sum(1).mean()), 1e-12)

    def weights(self, scale: float) -> Floats:
        """(t, d), as `Linear` has it."""
        shrunk = self.vectors / (self.values + scale * self.unit)
        if self.dual:
            return (self.x.T @ (shrunk @ (self.vectors.T @ self.y))).T
        return (shrunk @ (self.vectors.T @ self.projected)).T

    def left_out(self, scale: float, rows: Places) -> Floats:
        """(m, t): what the head of a regression without each of some rows gives for it.

        A regression without row i centres by its own means, and its head leaves the mean of the targets away, since the
        texts are centred as well. So `y / (n - 1)` is added: what the row's own target has taken from that mean.
        """
        count = len(self.x)
        if self.dual:
            own, shares = self.vectors[rows], self.values / (self.values + scale * self.unit)
            leverage = (own**2 * shares).sum(1)
            fitted = own @ (shares[:, None] * (self.vectors.T @ self.y))
        else:
            own, shares = self.x[rows] @ self.vectors, 1 / (self.values + scale * self.unit)
            leverage = (own**2 * shares).sum(1)
            fitted = own @ (shares[:, None] * (self.vectors.T @ self.projected))
        # The mean was taken from the row, too: that is a leverage of 1 / n of its own.
        leverage = np.minimum(leverage + 1 / count, 1 - 1e-6)[:, None]
        target = self.y[rows]
        predicted: Floats = (fitted - leverage * target) / (1 - leverage) + target / (count - 1)
        return predicted


def _targets(train: Examples, words: Vectors) -> Floats:
    """(n, dim): of each picture the mean of its texts, scaled to length 1."""
    total = np.zeros((len(train), words.shape[1]))
    np.add.at(total, train.links[:, 0], words[train.links[:, 1]].astype(np.float64))
    return _unit(total)


def _some(count: int, seed: int) -> NDArray[np.int64]:
    if count <= JUDGED:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, JUDGED, replace=False))


def _unit(x: NDArray[np.floating]) -> Floats:
    unit: Floats = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    return unit
