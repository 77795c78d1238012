"""A head: what is put on a frozen tower, from its vectors to those of the space that pictures and texts share.

A head is data. It is run in NumPy here, trained as a PyTorch module (`network`), and written into the tower's graph
(`graph`): three readings of the same few layers, held to each other by tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

EPSILON = 1e-12
"""The least length that a vector is divided by."""

BLOCK = 4096
"""Rows that are computed at once, in float64."""


@dataclass(frozen=True, eq=False)
class Unit:
    """Rows scaled to length 1."""


@dataclass(frozen=True, eq=False)
class Shift:
    """`x + by`.

    Attributes:
        by: float32 (dim,).
    """

    by: Vectors


@dataclass(frozen=True, eq=False)
class Linear:
    """`x @ weight.T + bias`.

    Attributes:
        weight: float32 (outputs, inputs), as `torch.nn.Linear` has it.
        bias: float32 (outputs,); None: there is none.
    """

    weight: Vectors
    bias: Vectors | None = None


@dataclass(frozen=True, eq=False)
class Scale:
    """`x * by`.

    Attributes:
        by: one number for all.
    """

    by: float


@dataclass(frozen=True, eq=False)
class Relu:
    """`max(x, 0)`."""


@dataclass(frozen=True, eq=False)
class Gelu:
    """`x Phi(x)`, with the error function and not its approximation (Hendrycks and Gimpel 2016)."""


Layer = Unit | Shift | Linear | Scale | Relu | Gelu


@dataclass(frozen=True, eq=False)
class Branch:
    """Layers upon one tensor of a tower.

    Attributes:
        tensor: its name: an output, or a layer as `Options.layer` takes it. Its rows come pooled as the tower pools it,
            and scaled to length 1.
        layers: in their order; none: the rows as they are.
    """

    tensor: str
    layers: tuple[Layer, ...] = ()


@dataclass(frozen=True, eq=False)
class Head:
    """`unit(sum of the branches)`.

    Attributes:
        branches: one or more, that give vectors of one length.
    """

    branches: tuple[Branch, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        """Of the tower, each once."""
        return tuple(dict.fromkeys(branch.tensor for branch in self.branches))

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        arrays = [
            array
            for branch in self.branches
            for layer in branch.layers
            for array in ([layer.weight, layer.bias] if isinstance(layer, Linear) else [])
            if array is not None
        ]
        return sum(array.size for array in arrays)

    def apply(self, rows: Mapping[str, Vectors]) -> Vectors:
        """The vectors of the shared space.

        Args:
            rows: by tensor, float32 (n, dim), of length 1.

        Returns:
            float32 (n, dimensions), of length 1.
        """
        count = len(rows[self.branches[0].tensor])
        if not count:
            return self._block(rows, slice(None))
        blocks = [self._block(rows, slice(start, start + BLOCK)) for start in range(0, count, BLOCK)]
        return np.concatenate(blocks)

    def _block(self, rows: Mapping[str, Vectors], some: slice) -> Vectors:
        total = sum(
            _through(branch.layers, rows[branch.tensor][some].astype(np.float64)) for branch in self.branches
        )
        return _unit(np.asarray(total)).astype(np.float32)


def as_it_is(tensor: str) -> Head:
    """The head that changes nothing."""
    return Head((Branch(tensor),))


def _through(layers: tuple[Layer, ...], x: NDArray[Any]) -> NDArray[Any]:
    for layer in layers:
        if isinstance(layer, Unit):
            x = _unit(x)
        elif isinstance(layer, Shift):
            x = x + layer.by
        elif isinstance(layer, Linear):
            x = x @ layer.weight.T.astype(x.dtype)
            x = x if layer.bias is None else x + layer.bias
        elif isinstance(layer, Scale):
            x = x * layer.by
        elif isinstance(layer, Relu):
            x = np.maximum(x, 0)
        else:
            x = x * 0.5 * (1 + _erf(x / np.sqrt(2)))
    return x


def _unit(x: NDArray[Any]) -> NDArray[Any]:
    unit: NDArray[Any] = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), EPSILON)
    return unit


def _erf(x: NDArray[Any]) -> NDArray[Any]:
    from math import erf

    found: NDArray[Any] = np.vectorize(erf, otypes=[np.float64])(x)
    return found


@dataclass(frozen=True, eq=False)
class Heads:
    """What was fitted.

    Attributes:
        image: on the tower for pictures; None: there are none.
        text: on that for texts.
        sigmoid: scale and bias, where it was trained with a sigmoid for each pair; see `bowerbird.models.sigmoid`.
        facts: what a person should know of how they came about, such as the regularisation that was chosen.
    """

    image: Head | None
    text: Head | None
    sigmoid: tuple[float, float] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
