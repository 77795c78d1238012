"""Heads as a PyTorch network, and the batches it learns from.

The network computes what `Head.apply` computes, in fp32 and with gradients. Its weights are those of the `Linear`
layers; what a `Shift` or a `Scale` holds stays as it is.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import LearnError
from bowerbird.learn.examples import Examples, Vectors
from bowerbird.learn.heads import (
    EPSILON,
    Branch,
    Gelu,
    Head,
    Heads,
    Layer,
    Linear,
    Relu,
    Scale,
    Shift,
    Unit,
)
from bowerbird.learn.losses import Embedded
from bowerbird.learn.split import draw
from bowerbird.origin.packages import TRAIN, need

Spot = tuple[Literal["image", "text"], int, int]
"""A layer of `Heads`: its side, the place of its branch, its place among the branch's layers; -1 is the last."""


def linear(inputs: int, outputs: int, rng: np.random.Generator, *, bias: bool = True) -> Linear:
    """A layer to begin with, drawn as `torch.nn.Linear` draws it: uniform within +-1 / sqrt(inputs).

    Args:
        inputs: length of the vectors that come in.
        outputs: of those that come out.
        rng: draws it, so that one seed gives the same layer with every version of PyTorch.
        bias: whether there is one.
    """
    bound = 1 / math.sqrt(inputs)
    weight = rng.uniform(-bound, bound, (outputs, inputs)).astype(np.float32)
    return Linear(weight, rng.uniform(-bound, bound, outputs).astype(np.float32) if bias else None)


@dataclass
class Batch:
    """Pairs, as rows of the towers' tensors.

    Attributes:
        images: by tensor, (b, dim).
        texts: likewise; empty where there is no head for texts.
        pictures: int64 (b,): place of each row's picture in the examples.
        captions: int64 (b,): place of its text.
        labels: int64 (b,): its class; None: there are none.
    """

    images: Mapping[str, Any]
    texts: Mapping[str, Any]
    pictures: Any
    captions: Any
    labels: Any = None

    def __len__(self) -> int:
        return len(self.pictures)

    def to(self, device: Any, non_blocking: bool = False) -> Batch:
        """The same on a device; accelerate asks for it."""

        def moved(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {name: moved(rows) for name, rows in value.items()}
            return None if value is None else value.to(device, non_blocking=non_blocking)

        return Batch(**{name: moved(value) for name, value in vars(self).items()})


class Batches:
    """`batches(epoch)`: the pairs of some examples in an order of that epoch's own.

    The vectors are put into tensors once; a batch is rows of them.

    Args:
        examples: with vectors of every tensor that the heads read.
        heads: that are going to be trained.
        batch_size: pairs in a batch. The last batch of an epoch holds what is left; a single pair that is left is not
            used, since it has no negatives.
        seed: of the order and of the captions drawn.
        captions: "one": of each picture's texts one is drawn for each epoch; "all": each link is a pair; see
            `bowerbird.learn.split.draw`.

    Raises:
        LearnError: there is nothing to learn from.
        MissingExtraError: PyTorch is not installed.
    """

    def __init__(
        self,
        examples: Examples,
        heads: Heads,
        *,
        batch_size: int,
        seed: int = 0,
        captions: Literal["one", "all"] = "one",
    ) -> None:
        torch = need("torch", TRAIN)
        if not len(examples.links):
            raise LearnError(
                "There are no pairs to learn from.", hint="Give pictures together with their texts."
            )
        self._images = _tensors(heads.image, examples.images or {})
        self._texts = _tensors(heads.text, examples.words or {})
        self._labels = None if examples.labels is None else torch.from_numpy(examples.labels)
        self._examples = replace(examples, images=None, words=None)
        self._captions = captions
        self._batch_size = batch_size
        self._seed = seed

    def __call__(self, epoch: int) -> _Epoch:
        """The batches of one epoch; the same ones whenever it is asked for."""
        rng = np.random.default_rng([self._seed, epoch])
        links = draw(self._examples, epoch - 1, self._seed, self._captions)
        links = links[rng.permutation(len(links))]
        return _Epoch(self, links)

    def _rows(self, links: NDArray[np.int64]) -> Batch:
        torch = need("torch", TRAIN)
        pictures, captions = torch.from_numpy(np.ascontiguousarray(links.T))
        return Batch(
            images={name: rows[pictures] for name, rows in self._images.items()},
            texts={name: rows[captions] for name, rows in self._texts.items()},
            pictures=pictures,
            captions=captions,
            labels=None if self._labels is None else self._labels[pictures],
        )


class _Epoch:
    """One epoch's batches, with a length."""

    def __init__(self, batches: Batches, links: NDArray[np.int64]) -> None:
        size, total = batches._batch_size, len(links)
        self._batches = batches
        self._shares = [links[start : start + size] for start in range(0, total, size)]
        if len(self._shares) > 1 and len(self._shares[-1]) == 1:
            self._shares.pop()

    def __len__(self) -> int:
        return len(self._shares)

    def __iter__(self) -> Iterator[Batch]:
        return (self._batches._rows(links) for links in self._shares)


def _tensors(head: Head | None, rows: Mapping[str, NDArray[np.float32]]) -> dict[str, Any]:
    torch = need("torch", TRAIN)
    names = () if head is None else head.tensors
    missing = [name for name in names if name not in rows]
    if missing:
        raise LearnError(
            f"The examples hold no vectors of {missing[0]!r}.",
            hint="Embed them with every tensor of the heads.",
        )
    return {name: torch.from_numpy(np.ascontiguousarray(rows[name], np.float32)) for name in names}


def network_of(heads: Heads, dropout: float = 0.0, tied: Sequence[tuple[Spot, Spot]] = ()) -> Any:
    """The network of some heads: a `torch.nn.Module`, called with a `Batch`, gives `Embedded`.

    `images(rows)` and `texts(rows)` of it are the two sides alone, from tensors by name to unit vectors (n, dim).

    Args:
        heads: where it begins.
        dropout: share of the inputs of each `Linear` that are set to 0 while it learns, from 0 to below 1.
        tied: pairs of `Linear` layers that are one: the second takes the weights of the first and keeps them.

    Raises:
        LearnError: `dropout` is no such share, or what is tied are not two linear layers of one shape.
        MissingExtraError: PyTorch is not installed.
    """
    torch = need("torch", TRAIN)
    if not 0 <= dropout < 1:
        raise LearnError(f"dropout is {dropout!r}.", hint="Give a share from 0 to below 1, such as 0.1.")

    class Network(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.heads = heads
            self.image = _side(heads.image, dropout)
            self.text = _side(heads.text, dropout)
            for kept, replaced in tied:
                branch, place = _place(self, replaced)
                branch[place] = _linear(self, kept, like=_linear(self, replaced))

        def forward(self, batch: Batch) -> Embedded:
            return Embedded(
                images=None if self.image is None else self.images(batch.images),
                texts=None if self.text is None else self.texts(batch.texts),
                pictures=batch.pictures,
                captions=batch.captions,
                labels=batch.labels,
            )

        def images(self, rows: Mapping[str, Any]) -> Any:
            return self._through(self.image, heads.image, rows)

        def texts(self, rows: Mapping[str, Any]) -> Any:
            return self._through(self.text, heads.text, rows)

        def _through(self, side: Any, head: Head | None, rows: Mapping[str, Any]) -> Any:
            branches = zip(side, head.branches if head else (), strict=True)
            total = sum(layers(rows[branch.tensor]) for layers, branch in branches)
            return torch.nn.functional.normalize(total, dim=-1, eps=EPSILON)

    return Network()


def heads_of(network: Any) -> Heads:
    """The heads of a network as it is now; what else its heads said, they still say.

    Args:
        network: of `network_of`.
    """
    heads: Heads = network.heads
    return replace(heads, image=_trained(heads.image, network.image), text=_trained(heads.text, network.text))


def vectors_of(network: Any, examples: Examples) -> tuple[Vectors | None, Vectors | None]:
    """What the network gives for all pictures and texts: float32 (n, dim) and (t, dim), of length 1.

    Args:
        network: of `network_of`, in evaluation mode.
        examples: with vectors of every tensor that its heads read.
    """
    torch = need("torch", TRAIN)
    heads: Heads = network.heads
    with torch.no_grad():
        images = network.images(_tensors(heads.image, examples.images or {})) if heads.image else None
        texts = network.texts(_tensors(heads.text, examples.words or {})) if heads.text else None
    return (None if images is None else images.numpy(), None if texts is None else texts.numpy())


def _side(head: Head | None, dropout: float) -> Any:
    torch = need("torch", TRAIN)
    if head is None:
        return None
    return torch.nn.ModuleList(
        torch.nn.Sequential(*(_module(layer, dropout) for layer in branch.layers)) for branch in head.branches
    )


def _module(layer: Layer, dropout: float) -> Any:
    """The module of a layer. Of several modules in one, the linear one is called `linear`."""
    torch = need("torch", TRAIN)

    class Fixed(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            by = layer.by if isinstance(layer, Shift | Scale) else 0.0
            self.register_buffer("by", torch.as_tensor(np.asarray(by, np.float32)).clone())

        def forward(self, x: Any) -> Any:
            if isinstance(layer, Unit):
                return torch.nn.functional.normalize(x, dim=-1, eps=EPSILON)
            return x + self.by if isinstance(layer, Shift) else x * self.by

    if isinstance(layer, Linear):
        return torch.nn.Sequential(
            OrderedDict(dropout=torch.nn.Dropout(dropout), linear=_linear_module(layer))
        )
    if isinstance(layer, Relu):
        return torch.nn.ReLU()
    if isinstance(layer, Gelu):
        return torch.nn.GELU()
    return Fixed()


def _linear_module(layer: Linear) -> Any:
    torch = need("torch", TRAIN)
    outputs, inputs = layer.weight.shape
    # Without a start of PyTorch's own, which would draw from the caller's generator.
    module = torch.nn.utils.skip_init(torch.nn.Linear, inputs, outputs, bias=layer.bias is not None)
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(np.array(layer.weight, np.float32)))
        if layer.bias is not None:
            module.bias.copy_(torch.from_numpy(np.array(layer.bias, np.float32)))
    return module


def _place(network: Any, spot: Spot) -> tuple[Any, int]:
    side, branch, place = spot
    try:
        layers = getattr(network, side)[branch]
        return layers, range(len(layers))[place]
    except (IndexError, TypeError, AttributeError) as error:
        raise LearnError(f"There is no layer {spot!r} to be tied.") from error


def _linear(network: Any, spot: Spot, like: Any = None) -> Any:
    """The linear layer at a spot, of the same shape as another."""
    layers, place = _place(network, spot)
    found = layers[place]
    shapes = [
        [tuple(weight.shape) for weight in module.parameters()]
        for module in (found, like)
        if module is not None
    ]
    if not shapes[0] or shapes[0] != shapes[-1]:
        raise LearnError(
            f"The layer {spot!r} cannot be tied to another.", hint="Tie two linear layers of one shape."
        )
    return found


def _trained(head: Head | None, side: Any) -> Head | None:
    if head is None:
        return None
    branches = zip(head.branches, side, strict=True)
    return Head(
        tuple(
            Branch(branch.tensor, tuple(map(_read, branch.layers, modules))) for branch, modules in branches
        )
    )


def _read(layer: Layer, module: Any) -> Layer:
    if not isinstance(layer, Linear):
        return layer
    bias = module.linear.bias
    return Linear(_array(module.linear.weight), None if bias is None else _array(bias))


def _array(weight: Any) -> NDArray[np.float32]:
    return np.array(weight.detach().float().cpu().numpy(), np.float32)
