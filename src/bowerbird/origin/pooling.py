"""What follows the network of a text model, in PyTorch and with gradients, so that a model can be trained through it.

The same arithmetic in NumPy is `bowerbird.models.text.sentence`, which tests hold this to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from bowerbird.errors import ModelFormatError
from bowerbird.models.text.chain import read_chain
from bowerbird.models.text.sentence import Dense, LayerNorm, Module
from bowerbird.models.text.weights import read_weights
from bowerbird.origin.packages import need

Pool: TypeAlias = Callable[[Any, Mapping[str, Any]], Any]
"""Token vectors (n, T, d) and the network's inputs by name -> vectors (n, e), all tensors."""


def pooled(how: Sequence[str], after: Sequence[Module] = ()) -> Pool:
    """A function from token vectors to one vector for each text.

    Args:
        how: of `bowerbird.models.text.sentence.POOLINGS`; several are put side by side.
        after: what is applied to the pooled vector, in order. Its weights are constants here.
    """
    torch = need("torch")
    layers = [_layer(module) for module in after]

    def pool(hidden: Any, inputs: Mapping[str, Any]) -> Any:
        mask = inputs["attention_mask"]
        vectors = torch.cat([_POOL[name](hidden, mask) for name in how], -1)
        for layer in layers:
            vectors = layer(vectors)
        return vectors

    return pool


def chained(directory: Path) -> Pool:
    """What `modules.json` of sentence-transformers says; read when it is first used.

    Raises, when it is used:
        ModelFormatError: a file is missing, or names something that is not implemented, or a prompt is not pooled.
    """

    @cache
    def built() -> Pool:
        chain = read_chain(directory)
        if not chain.include_prompt or not chain.pooling:
            raise ModelFormatError(
                f"{directory}: its pooling is not one that a model can be trained through here.",
                hint="Models that pool all their tokens can be trained.",
            )
        return pooled(chain.pooling, chain.after)

    def pool(hidden: Any, inputs: Mapping[str, Any]) -> Any:
        return built()(hidden, inputs)

    return pool


def _places(mask: Any) -> Any:
    return need("torch").arange(mask.shape[1], device=mask.device)


def _rows(hidden: Any, places: Any) -> Any:
    return hidden[need("torch").arange(len(hidden), device=hidden.device), places]


def _weighed(hidden: Any, weight: Any) -> tuple[Any, Any]:
    weight = weight.to(hidden.dtype)
    return (hidden * weight[..., None]).sum(1), weight.sum(1, keepdim=True).clamp(min=1e-9)


def _mean(hidden: Any, mask: Any) -> Any:
    summed, total = _weighed(hidden, mask)
    return summed / total


def _mean_sqrt(hidden: Any, mask: Any) -> Any:
    summed, total = _weighed(hidden, mask)
    return summed / total.sqrt()


def _weighted_mean(hidden: Any, mask: Any) -> Any:
    summed, total = _weighed(hidden, mask * (_places(mask) + 1 - mask.argmax(1, keepdim=True)))
    return summed / total


def _cls(hidden: Any, mask: Any) -> Any:
    return _rows(hidden, mask.argmax(1))


def _last(hidden: Any, mask: Any) -> Any:
    return _rows(hidden, (mask * _places(mask)).argmax(1))


def _max(hidden: Any, mask: Any) -> Any:
    return hidden.masked_fill(mask[..., None] == 0, float("-inf")).amax(1)


_POOL: dict[str, Callable[[Any, Any], Any]] = {
    "cls": _cls,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}


def _layer(module: Module) -> Callable[[Any], Any]:
    torch = need("torch")
    functional = torch.nn.functional
    if isinstance(module, LayerNorm):
        shapes: dict[str, tuple[int, ...]] = {"norm.weight": (module.width,), "norm.bias": (module.width,)}
        norm = _tensors(module.weights, shapes)
        return lambda x: functional.layer_norm(
            x, (module.width,), norm["norm.weight"].to(x), norm["norm.bias"].to(x)
        )
    if not isinstance(module, Dense):
        return lambda x: functional.normalize(x, dim=-1, eps=1e-12)
    shapes = {"linear.weight": (module.outputs, module.inputs)}
    projected = module.residual and module.inputs != module.outputs
    if module.bias:
        shapes["linear.bias"] = (module.outputs,)
    if projected:
        shapes["residual.weight"] = (module.outputs, module.inputs)
    found = _tensors(module.weights, shapes)
    activate = getattr(torch.nn, module.activation)()

    def dense(x: Any) -> Any:
        bias = found["linear.bias"].to(x) if module.bias else None
        y = activate(functional.linear(x, found["linear.weight"].to(x), bias))
        if not module.residual:
            return y
        return y + (functional.linear(x, found["residual.weight"].to(x)) if projected else x)

    return dense


def _tensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    torch = need("torch")
    return {name: torch.from_numpy(array.copy()) for name, array in read_weights(path, shapes).items()}
