"""LoRA: a small matrix product beside each linear layer learns, and becomes part of the layer afterwards.

Hu et al. 2021, arXiv 2106.09685. The layers are found by what they are and whether the embedding depends on them, so no
list of names is needed for any architecture.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bowerbird.errors import LearnError
from bowerbird.origin.packages import TRAIN, need, quiet

_SHOWN = 6
"""Names that a message gives."""


@dataclass(frozen=True)
class LoRA:
    """What is put beside the layers.

    Attributes:
        rank: of the product; a layer of (outputs, inputs) learns rank * (outputs + inputs) numbers.
        alpha: the product is scaled by alpha / rank.
        dropout: share of its inputs that are set to 0 while it learns, from 0 to below 1.
        targets: names of layers, such as `q_proj` or `layers.11.mlp.fc1`: those whose name is one of them or ends with
            a dot and it. Convolutions take part where they are named. Empty: every linear layer that the embedding
            depends on.

    Raises:
        LearnError: a value is out of its range.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise LearnError(f"The rank of LoRA is {self.rank!r}.", hint="Give 1 or more, such as 8.")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise LearnError(
                f"The alpha of LoRA is {self.alpha!r}.", hint="Give a number above 0, such as 16."
            )
        if not 0 <= self.dropout < 1:
            raise LearnError(f"The dropout of LoRA is {self.dropout!r}.", hint="Give 0 to below 1.")


def inject(model: Any, lora: LoRA, reached: set[int], seed: int) -> Callable[[], None]:
    """Put LoRA into a network, in place; all else in it no longer learns.

    Args:
        model: a `torch.nn.Module`.
        lora: how much.
        reached: `id` of each parameter that what is tuned depends on.
        seed: of the matrices that begin at random; the others begin at 0, so the network computes what it did.

    Returns:
        A function that makes the products part of the layers and the network plain again.

    Raises:
        LearnError: there is no such layer.
        MissingExtraError: peft is not installed.
    """
    names = _targets(model, lora, reached)
    torch = need("torch", TRAIN)
    peft = need("peft", TRAIN)
    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=_exactly(names)
    )
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        # Of a plain network: the mapping that peft's own models expect is only for their configuration.
        tuner = peft.LoraModel(model, {"default": config}, "default")

    def merge() -> None:
        with quiet():
            tuner.merge_and_unload()

    return merge


def _targets(model: Any, lora: LoRA, reached: set[int]) -> list[str]:
    known = [name for name, module in _layers(model, reached) if lora.targets or _is_linear(module)]
    chosen = [name for name in known if not lora.targets or _named(name, lora.targets)]
    if not chosen:
        ends = list(dict.fromkeys(name.rpartition(".")[2] for name in known))
        asked = f" called {' or '.join(lora.targets)}" if lora.targets else ""
        raise LearnError(
            f"{type(model).__name__} has no linear layer{asked} that LoRA could be put beside.",
            hint=f"Name some of: {', '.join(ends[:_SHOWN])}."
            if ends
            else "Tune it whole, without LoRA, or name convolutions as targets.",
        )
    missing = [target for target in lora.targets if not any(_named(name, (target,)) for name in known)]
    if missing:
        raise LearnError(
            f"There is no layer called {missing[0]!r} for LoRA.",
            hint=f"There are: {', '.join(list(dict.fromkeys(name.rpartition('.')[2] for name in known))[:12])}.",
        )
    return chosen


def _named(name: str, targets: tuple[str, ...]) -> bool:
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _layers(model: Any, reached: set[int]) -> Iterator[tuple[str, Any]]:
    """Linear layers, convolutions and attention blocks that hold linear layers inside, with their names."""
    torch = need("torch", TRAIN)
    inside = None
    for name, module in model.named_modules():
        if inside is not None and name.startswith(inside):
            continue  # PyTorch's attention calls the weights of its layers, never the layers.
        if isinstance(module, torch.nn.MultiheadAttention):
            inside = f"{name}."
        elif not isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            continue
        if any(id(weight) in reached for weight in module.parameters()):
            yield name, module


def _is_linear(module: Any) -> bool:
    return not isinstance(module, need("torch", TRAIN).nn.Conv2d)


def _exactly(names: list[str]) -> str:
    """A pattern of just these names; a list would also take names that end in them."""
    return f"(?:{'|'.join(map(re.escape, names))})"
