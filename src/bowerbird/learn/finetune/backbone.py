"""The towers of a model as one network that learns: pictures and texts in, vectors of their space out, with gradients.

The networks are those of `bowerbird.origin`, so what is tuned is what is exported, and pictures and texts are prepared
by the stack's own processor and tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bowerbird.errors import LearnError
from bowerbird.learn.finetune.feeding import Batch, collated
from bowerbird.learn.finetune.lora import LoRA, inject
from bowerbird.learn.losses import LARGEST_SCALE, Embedded, InfoNCE, Loss, Sigmoid
from bowerbird.origin.original import Original, Tower
from bowerbird.origin.packages import TRAIN, need

SIDES = ("image", "text")


@dataclass
class Seen(Embedded):
    """`Embedded`, with the vectors of the pictures before they were scaled to length 1.

    Attributes:
        raw: tensor (b, dim).
    """

    raw: Any = None


@dataclass(frozen=True)
class Tuning:
    """A model on its way.

    Attributes:
        original: the model in its stack.
        network: a `torch.nn.Module`: called with a `Batch`, gives `Seen`.
        merge: makes LoRA part of the weights; does nothing where there is none. To be called once.
        learning: how many numbers learn.
        numbers: how many there are.
    """

    original: Original
    network: Any
    merge: Callable[[], None]
    learning: int
    numbers: int


def tuning(original: Original, *, lora: LoRA | None = None, freeze: str = "", seed: int = 0) -> Tuning:
    """Make a model ready to learn.

    Args:
        original: with a tower for pictures.
        lora: what learns beside the layers; None: the weights themselves do.
        freeze: `image` or `text`: a tower that stays as it is; empty: both learn.
        seed: of LoRA's beginning.

    Raises:
        LearnError: there is nothing that could learn, or no such tower.
        MissingExtraError: a package is not installed.
    """
    if freeze not in ("", *SIDES):
        raise LearnError(f"There is no tower {freeze!r} to freeze.", hint="Give image or text.")
    if freeze and getattr(original, freeze) is None:
        raise LearnError(f"{original.name} has no tower for {freeze}s that could be frozen.")
    towers = {side: tower for side in SIDES if (tower := getattr(original, side))}
    reached = {side: _reached(tower) for side, tower in towers.items()}
    learn = set().union(*(ids for side, ids in reached.items() if side != freeze)) - reached.get(
        freeze, set()
    )
    network = _network(original)
    for weight in network.parameters():
        weight.requires_grad_(id(weight) in learn)
    merge = inject(network, lora, learn, seed) if lora else _nothing
    learning = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    if not learning:
        raise LearnError(f"{original.name} has no weights that could learn.", hint="Freeze less of it.")
    return Tuning(original, network.eval(), merge, learning, sum(w.numel() for w in network.parameters()))


def _nothing() -> None:
    """There is no LoRA."""


def _network(original: Original) -> Any:
    torch = need("torch", TRAIN)
    towers = original.towers

    class Backbone(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            inner = [getattr(tower.module, "inner", tower.module) for tower in towers]
            # Both towers may hold the same network: its weights are to be listed once.
            self.networks = torch.nn.ModuleList({id(one): one for one in inner}.values())

        @property
        def device(self) -> Any:
            return next(self.parameters()).device

        def train(self, mode: bool = True) -> Any:
            super().train(mode)
            if mode:
                _still(self)
            return self

        def pictures(self, feeds: Any) -> Any:
            return _vectors(original.image, feeds)

        def texts(self, feeds: Any) -> Any:
            return _vectors(original.text, feeds)

        def forward(self, batch: Batch) -> Seen:
            raw = self.pictures(batch.image)
            texts = self.texts(batch.text) if batch.text and original.text else None
            return Seen(
                images=_unit(raw),
                texts=None if texts is None else _unit(texts),
                pictures=batch.pictures,
                captions=batch.captions,
                labels=batch.labels,
                raw=raw,
            )

    return Backbone()


def _unit(rows: Any) -> Any:
    return need("torch", TRAIN).nn.functional.normalize(rows.float(), dim=-1, eps=1e-12)


def _vectors(tower: Tower | None, feeds: Any) -> Any:
    """What a tower makes of prepared pictures or texts, pooled: (n, dim)."""
    assert tower is not None
    given = tower.module(*(feeds[name] for name in tower.inputs))
    given = given if isinstance(given, tuple) else (given,)
    rows = given[tower.outputs.index(tower.embedding)]
    if tower.pool:
        rows = tower.pool(rows, feeds)
    if rows.ndim != 2:
        raise LearnError(
            f"{tower.graph} gives {tuple(rows.shape)} for a batch, not one vector for each.",
            hint="Models that come with a pooling can be tuned.",
        )
    return rows


def _still(module: Any) -> None:
    """What does not learn stays in evaluation mode: it has no use for dropout, nor for statistics of batches."""
    own = list(module.parameters())
    if own and not any(weight.requires_grad for weight in own):
        module.eval()
        return
    for child in module.children():
        _still(child)


def _reached(tower: Tower) -> set[int]:
    """`id` of each parameter that the tower's embedding depends on, found by a gradient."""
    torch = need("torch", TRAIN)
    weights = list(tower.module.parameters())
    for weight in weights:
        weight.requires_grad_(True)
    feeds = {
        name: torch.from_numpy(array)
        for name, array in collated([tower.prepare(_probe(tower), "")], tower).items()
    }
    with torch.enable_grad():
        rows = _vectors(tower, feeds)
        found = torch.autograd.grad(rows.sum(), weights, allow_unused=True) if weights else ()
    return {id(weight) for weight, gradient in zip(weights, found, strict=True) if gradient is not None}


def _probe(tower: Tower) -> Any:
    if "pixel_values" not in tower.inputs:
        return "a photograph"
    from PIL import Image

    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8))


def own_loss(original: Original) -> Loss:
    """The loss that the model was trained with, beginning where it ended, as its own scale and bias tell."""
    found = {name: float(value.detach()) for name, value in _own_numbers(original)}
    if "logit_scale" in found and "logit_bias" in found:
        return Sigmoid(math.exp(found["logit_scale"]), found["logit_bias"])
    if "logit_scale" in found:
        scale = min(math.exp(found["logit_scale"]), LARGEST_SCALE)
        return InfoNCE(temperature=1 / scale, learned=True)
    return InfoNCE(learned=True)


def keep_numbers(original: Original, loss: Any) -> None:
    """Write what the loss has learned back to where the model keeps it."""
    torch = need("torch", TRAIN)
    facts = loss.facts() if hasattr(loss, "facts") else {}
    scale = facts.get("scale") or (1 / facts["temperature"] if facts.get("temperature") else None)
    for name, value in _own_numbers(original):
        with torch.no_grad():
            if name == "logit_scale" and scale:
                value.fill_(math.log(scale))
            elif name == "logit_bias" and "bias" in facts:
                value.fill_(facts["bias"])


def _own_numbers(original: Original) -> Iterator[tuple[str, Any]]:
    for tower in original.towers:
        for name, value in tower.module.named_parameters():
            last = name.rpartition(".")[2]
            if last in ("logit_scale", "logit_bias") and value.numel() == 1:
                yield last, value
