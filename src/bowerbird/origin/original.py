"""A model as its original PyTorch stack holds it: what to trace, what to feed it, and which vector is the embedding."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.origin.packages import need
from bowerbird.origin.pooling import Pool

Array = NDArray[Any]
Feeds = dict[str, Array]


@dataclass(frozen=True)
class Tower:
    """One network of a model, in PyTorch.

    Attributes:
        graph: where its ONNX file goes, relative to the model directory.
        inputs: names of the network's inputs, in the order that `module` takes them.
        outputs: names of its outputs, in the order that `module` gives them.
        embedding: the output that is the embedding, or from which `embed` makes it.
        module: a `torch.nn.Module` (or TorchScript module) in evaluation mode, fp32, on the CPU.
        prepare: a picture (`PIL.Image`, mode RGB, upright) or a text, and its role, to the feeds of a batch of one: the
            stack's own processor or tokenizer.
        embed: the rows of `embedding` and the feeds to the pooled embeddings (n, d); None where they are it.
        pool: `embed` in PyTorch, for training: the rows of `embedding` and the inputs by name, tensors both, to (n, d);
            None where the rows are it.
        encode: a text and its role to the pooled vector and the unit vector, each (d,), where the stack has a call of
            its own for that.
        raw: the output that is the network's output before pooling; empty where there is none.
        roles: names of the prompts for queries, documents and the like, besides the default.
        fixed: every axis but the batch has one length; False where the second, the tokens of a text, is free.
    """

    graph: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    embedding: str
    module: Any
    prepare: Callable[[Any, str], Feeds]
    embed: Callable[[Array, Feeds], Array] | None = None
    pool: Pool | None = None
    encode: Callable[[str, str], tuple[Array, Array]] | None = None
    raw: str = ""
    roles: tuple[str, ...] = ()
    fixed: bool = True

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Every output of the PyTorch module for a batch, as NumPy arrays."""
        torch = need("torch")
        with torch.inference_mode():
            given = self.module(
                *(torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in self.inputs)
            )
        given = given if isinstance(given, tuple) else (given,)
        return {name: value.numpy() for name, value in zip(self.outputs, given, strict=True)}


@dataclass(frozen=True)
class Original:
    """A model opened in its original stack.

    Attributes:
        name: what the user called it.
        stack: `transformers`, `sentence-transformers`, `timm`, `open_clip`, `torchvision` or `torchscript`.
        profile: which arithmetic its picture processor has: `hf4-pil`, `hf5-tv`, `timm` or `openclip`.
        made_with: package -> version.
        write: writes the files beside the graphs, as the stack publishes them, into a directory.
        image: the network for pictures, if there is one.
        text: the network for texts, if there is one.
        notes: for `bowerbird.json`: what no published format says.
        no_golden: why references cannot be computed; empty where they can.
        save_weights: writes the PyTorch weights as the stack publishes them, into a directory that `write` has filled;
            None where the stack has no way to.
    """

    name: str
    stack: str
    profile: str
    made_with: Mapping[str, str]
    write: Callable[[Path], None]
    image: Tower | None = None
    text: Tower | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    no_golden: str = ""
    save_weights: Callable[[Path], None] | None = None

    @property
    def towers(self) -> tuple[Tower, ...]:
        """The networks that are there."""
        return tuple(tower for tower in (self.text, self.image) if tower)


def traced(inner: Any, call: Callable[..., Any]) -> Any:
    """A module that holds the weights of `inner` and computes `call(*inputs)`, a tuple of tensors."""
    torch = need("torch")

    class Traced(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *inputs: Any) -> Any:
            return call(*inputs)

    return Traced().eval()


def topped(base: Any, layer: Any, call: Callable[..., tuple[Any, ...]]) -> Any:
    """A module that computes `call(layer, *given)` with what `base` gives: a layer put on a tower.

    Both are its own children, so that it can be traced when `base` is TorchScript, which a closure cannot.
    """
    torch = need("torch")

    class Topped(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.base = base
            self.layer = layer

        def forward(self, *inputs: Any) -> Any:
            given = self.base(*inputs)
            return call(self.layer, *(given if isinstance(given, tuple) else (given,)))

    return Topped().eval()


def sigmoid(model: Any) -> list[float]:
    """Scale and bias of a model with `logit_scale` and `logit_bias`, as SigLIP has them; empty for others.

    See `bowerbird.models.sigmoid`.
    """
    scale, bias = (getattr(model, name, None) for name in ("logit_scale", "logit_bias"))
    return [] if scale is None or bias is None else [math.exp(float(scale.detach())), float(bias.detach())]


def floats(values: Any) -> NDArray[np.float32]:
    """A tensor, array or list as float32 in NumPy."""
    return np.asarray(values.numpy() if hasattr(values, "numpy") else values, np.float32)
