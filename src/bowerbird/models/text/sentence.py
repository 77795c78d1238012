"""What follows the network of a sentence encoder: pooling, dense layers, layer norm, length 1.

The arithmetic is that of sentence-transformers 6.2, in NumPy. Which modules a model has is read by `chain` beside this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import BowerbirdError, ModelFormatError
from bowerbird.models.text.weights import Vectors, read_weights

Mask: TypeAlias = NDArray[np.int64]

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""How token vectors become one vector. In the order in which the library concatenates the old boolean keys."""


def pool(hidden: NDArray[Any], mask: Mask, how: str | Sequence[str], prompt: int = 0) -> Vectors:
    """Token vectors to one vector for each text; padding never counts.

    Args:
        hidden: (n, T, d) token vectors, of any float type; sums are taken in float64.
        mask: (n, T), 1 where there is a token, on either side.
        how: one of `POOLINGS`, or several, which are put side by side in this order. Empty: no pooling.
        prompt: how many tokens at the start of every text are left out, for a prompt that the model does not pool.

    Returns:
        float32 (n, d * len(how)), or `hidden` as it is, (n, T, d), when `how` is empty.

    Raises:
        ModelFormatError: there is no such pooling.
    """
    names = known_poolings([how] if isinstance(how, str) else how, "pooling")
    tokens = np.asarray(hidden, np.float32)
    if not names:
        return tokens
    counted = mask
    if prompt:
        start = mask.argmax(1)[:, None]  # the first token, behind padding on the left
        counted = np.where(np.arange(mask.shape[1]) < start + prompt, 0, mask)
    parts = [_POOL[name](tokens, counted, mask) for name in names]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def _cls(tokens: Vectors, counted: Mask, _: Mask) -> Vectors:
    picked: Vectors = tokens[np.arange(len(tokens)), counted.argmax(1)]
    return picked


def _max(tokens: Vectors, counted: Mask, _: Mask) -> Vectors:
    highest: Vectors = np.where(counted[..., None] > 0, tokens, np.float32(-np.inf)).max(1)
    return highest


def _sum(tokens: Vectors, weight: Vectors) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n, d) weighted sum, and (n, 1) sum of the weights, never 0. What has no weight may even be NaN."""
    weighed = np.where(weight[..., None] > 0, tokens * weight[..., None], np.float32(0))
    summed = weighed.sum(1, dtype=np.float64)
    return summed, np.maximum(weight.sum(1, keepdims=True, dtype=np.float64), 1e-9)


def _mean(tokens: Vectors, counted: Mask, _: Mask) -> Vectors:
    summed, total = _sum(tokens, counted.astype(np.float32))
    return (summed / total).astype(np.float32)


def _mean_sqrt(tokens: Vectors, counted: Mask, _: Mask) -> Vectors:
    summed, total = _sum(tokens, counted.astype(np.float32))
    scaled: Vectors = (summed / np.sqrt(total)).astype(np.float32)
    return scaled


def _weighted_mean(tokens: Vectors, counted: Mask, mask: Mask) -> Vectors:
    # Weights 1, 2, 3 ... from the first token that is not padding. A prompt that is left out still takes its own.
    places = np.arange(1, mask.shape[1] + 1) - mask.argmax(1)[:, None]
    summed, total = _sum(tokens, (counted * places).astype(np.float32))
    return (summed / total).astype(np.float32)


def _last(tokens: Vectors, counted: Mask, _: Mask) -> Vectors:
    some = counted.max(1) > 0
    place = np.where(some, counted.shape[1] - 1 - counted[:, ::-1].argmax(1), 0)
    last: Vectors = np.where(some[:, None], tokens[np.arange(len(tokens)), place], np.float32(0))
    return last


_POOL: dict[str, Callable[[Vectors, Mask, Mask], Vectors]] = {
    "cls": _cls,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}


def known_poolings(names: Any, where: str) -> tuple[str, ...]:
    """The names as a tuple.

    Raises:
        ModelFormatError: one of them is not in `POOLINGS`; `where` says who asked.
    """
    listed = [names] if isinstance(names, str) else names
    if not isinstance(listed, (list, tuple)) or not all(name in POOLINGS for name in listed):
        raise ModelFormatError(
            f"{where}: pooling {names!r} is not known.", hint=f"Known: {', '.join(POOLINGS)}."
        )
    return tuple(listed)


def shorten(vectors: Vectors, dimensions: int) -> Vectors:
    """The first numbers of each vector, scaled to length 1 again: for models trained as Matryoshkas.

    Args:
        vectors: (..., d).
        dimensions: how many to keep, 1 to d.

    Returns:
        float32 (..., dimensions) of length 1; a zero vector stays zero.

    Raises:
        BowerbirdError: `dimensions` is out of range.
    """
    if not 1 <= dimensions <= vectors.shape[-1]:
        raise BowerbirdError(
            f"dimensions={dimensions} does not fit vectors of {vectors.shape[-1]}.",
            hint=f"Give 1 to {vectors.shape[-1]}.",
        )
    return unit(vectors[..., :dimensions])


def unit(vectors: Vectors) -> Vectors:
    """Vectors scaled to length 1 along the last axis; the length is taken as at least 1e-12, so never a NaN."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Vectors = (vectors / np.maximum(length, 1e-12)).astype(np.float32)
    return scaled


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _gelu(x: Vectors) -> Vectors:
    wide = x.astype(np.float64)
    gelu: Vectors = (0.5 * wide * (1 + _erf(wide / math.sqrt(2)))).astype(np.float32)
    return gelu


def _sigmoid(x: Vectors) -> Vectors:
    bounded: Vectors = 0.5 * (1 + np.tanh(0.5 * x))  # the same function, without overflow
    return bounded


def _softplus(x: Vectors) -> Vectors:
    soft: Vectors = np.logaddexp(x, np.float32(0))
    return soft


ACTIVATIONS: dict[str, Callable[[Vectors], Vectors]] = {
    "Identity": lambda x: x,
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, np.float32(0)),
    "LeakyReLU": lambda x: np.where(x > 0, x, np.float32(0.01) * x),
    "ELU": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, np.float32(0)))),
    "GELU": _gelu,
    "SiLU": lambda x: x * _sigmoid(x),
    "Sigmoid": _sigmoid,
    "Softplus": _softplus,
    "Mish": lambda x: x * np.tanh(_softplus(x)),
}
"""By class of `torch.nn`, each with that class's defaults: the configuration has no place for others."""


@dataclass(frozen=True)
class Dense:
    """A linear layer, an activation, and perhaps the input added to the result.

    Attributes:
        weights: `model.safetensors` with `linear.weight` (outputs, inputs), `linear.bias`, `residual.weight`.
        sha256: of that file.
        inputs: length of the vectors it takes.
        outputs: length of the vectors it gives.
        bias: whether there is one.
        activation: class name within `torch.nn`.
        residual: whether the input is added, through a matrix of its own when the lengths differ.
    """

    weights: Path
    sha256: str
    inputs: int
    outputs: int
    bias: bool
    activation: str
    residual: bool

    def meaning(self) -> dict[str, Any]:
        """What decides the vectors."""
        return {
            "dense": self.sha256,
            "bias": self.bias,
            "activation": self.activation,
            "residual": self.residual,
        }

    def load(self) -> Callable[[Vectors], Vectors]:
        """The layer as a function of (..., inputs) to (..., outputs), safe in several threads.

        Raises:
            ModelFormatError: the weights are missing, damaged or of another shape.
        """
        wanted: dict[str, tuple[int, ...]] = {"linear.weight": (self.outputs, self.inputs)}
        if self.bias:
            wanted["linear.bias"] = (self.outputs,)
        projected = self.residual and self.inputs != self.outputs
        if projected:
            wanted["residual.weight"] = (self.outputs, self.inputs)
        arrays = read_weights(self.weights, wanted)
        activate = ACTIVATIONS[self.activation]

        def dense(x: Vectors) -> Vectors:
            y = x @ arrays["linear.weight"].T
            if self.bias:
                y = y + arrays["linear.bias"]
            y = activate(y)
            if self.residual:
                y = y + (x @ arrays["residual.weight"].T if projected else x)
            return y

        return dense


@dataclass(frozen=True)
class LayerNorm:
    """Mean 0 and variance 1 within each vector, then a scale and a shift for each place.

    Attributes:
        weights: `model.safetensors` with `norm.weight` and `norm.bias`, (width,) each.
        sha256: of that file.
        width: length of the vectors.
    """

    weights: Path
    sha256: str
    width: int

    def meaning(self) -> dict[str, Any]:
        """What decides the vectors."""
        return {"layer_norm": self.sha256}

    def load(self) -> Callable[[Vectors], Vectors]:
        """The layer as a function of (..., width) to (..., width), safe in several threads.

        Raises:
            ModelFormatError: the weights are missing, damaged or of another shape.
        """
        arrays = read_weights(self.weights, {"norm.weight": (self.width,), "norm.bias": (self.width,)})

        def layer_norm(x: Vectors) -> Vectors:
            wide = x.astype(np.float64)
            centred = wide - wide.mean(-1, keepdims=True)
            scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
            normed: Vectors = (scaled * arrays["norm.weight"] + arrays["norm.bias"]).astype(np.float32)
            return normed

        return layer_norm


@dataclass(frozen=True)
class Normalize:
    """Scaling to length 1 in the middle of a chain."""

    def meaning(self) -> dict[str, Any]:
        """What decides the vectors."""
        return {"normalize": True}

    def load(self) -> Callable[[Vectors], Vectors]:
        """`unit`."""
        return unit


Module: TypeAlias = Dense | LayerNorm | Normalize


def load_modules(modules: Sequence[Module]) -> Callable[[Vectors], Vectors]:
    """The modules after pooling, as one function of (n, d) to (n, e); without modules it changes nothing.

    Raises:
        ModelFormatError: weights are missing, damaged or of another shape.
    """
    loaded = [module.load() for module in modules]

    def apply(vectors: Vectors) -> Vectors:
        for layer in loaded:
            vectors = layer(vectors)
        return vectors

    return apply
