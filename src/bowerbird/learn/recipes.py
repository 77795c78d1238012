"""Recipes: ways from frozen vectors to heads, each a small class with its settings.

A recipe says which tensors of the towers it reads, and fits heads to examples. `Ridge` is arithmetic; all others are
trained by the one loop in `loop`. `bowerbird.learn.choose` tries them and takes the best.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from bowerbird.errors import LearnError
from bowerbird.learn.examples import Examples
from bowerbird.learn.heads import Branch, Gelu, Head, Heads, Relu, Scale, Shift, as_it_is
from bowerbird.learn.heads import Linear as LinearLayer
from bowerbird.learn.losses import InfoNCE, Loss, SupervisedContrastive
from bowerbird.learn.network import linear
from bowerbird.learn.recall import Figures, aim, figures
from bowerbird.learn.ridge import ridge
from bowerbird.learn.towers import Towers
from bowerbird.origin.packages import need

__all__ = ["ALL", "Adapter", "Linear", "Mlp", "Recipe", "Ridge", "SharedProjection", "Trained"]

if TYPE_CHECKING:
    from bowerbird.learn.loop import History, Progress


@dataclass(frozen=True)
class Training:
    """How a recipe is carried out, whatever it is.

    Attributes:
        folder: where checkpoints and metrics go; None: nowhere.
        resume: go on from the last checkpoint there.
        seed: of everything that is drawn.
        tensorboard: write events for it, too.
        progress: told after every step.
        models: fingerprints of the spaces that the vectors are of: a run is gone on with in the same ones only.
    """

    folder: Path | None = None
    resume: bool = False
    seed: int = 0
    tensorboard: bool = False
    progress: Callable[[Progress], None] | None = None
    models: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a recipe gave.

    Attributes:
        heads: to be put on the towers.
        history: of the training; None: there was none.
        figures: of the heads on the validation set; empty: there was none.
    """

    heads: Heads
    history: History | None
    figures: Figures


@dataclass(frozen=True, repr=False)
class Recipe(ABC):
    """A way from vectors to heads."""

    def __repr__(self) -> str:
        """As it is written in Python, without what is left as it is."""
        given = [
            f"{one.name}={getattr(self, one.name)!r}"
            for one in fields(self)
            if getattr(self, one.name) != one.default
        ]
        return f"{type(self).__name__}({', '.join(given)})"

    @property
    def name(self) -> str:
        """For people, and for the folder of its checkpoints: in lower case."""
        return "".join(
            "-" * (i > 0) + c.lower() if c.isupper() else c for i, c in enumerate(type(self).__name__)
        )

    @abstractmethod
    def tensors(self, towers: Towers) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Those that it reads: of pictures, of texts.

        Raises:
            LearnError: the towers do not have what it needs.
        """

    @abstractmethod
    def fit(self, towers: Towers, train: Examples, validation: Examples | None, training: Training) -> Fitted:
        """Fit heads.

        Args:
            towers: whose vectors they are.
            train: what is learned from, with vectors of `tensors`.
            validation: by what is stopped and chosen; None: nothing is, the settings stand.
            training: where and how.

        Raises:
            LearnError: it cannot learn from these.
            MissingExtraError: it needs PyTorch, which is not installed.
        """


@dataclass(frozen=True, repr=False)
class Ridge(Recipe):
    """Ridge regression from pictures to the vectors of their texts, in closed form: for a handful of pairs.

    Pictures become `unit(shared + weight * unit((x - mean) M))`, with the existing alignment, if there is one, and
    `M = (X'X + regularisation I)^-1 X'T`. What is not given is chosen by leave-one-out: each picture is judged by a
    regression that has not seen it. A weight of 0 is among the choices, so that it is never worse there than nothing.

    Attributes:
        regularisation: in shares of the mean squared length of the centred rows of X; None: chosen.
        weight: of what is added; None: chosen. Of no meaning where there is no alignment yet.
        layer: of pictures, that is read; empty: the best.
    """

    regularisation: float | None = None
    weight: float | None = None
    layer: str = ""

    def tensors(self, towers: Towers) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """See `Recipe`."""
        if not towers.text:
            raise LearnError(
                "Ridge learns the vectors of texts, and there is no tower for texts.",
                hint="Name a text model, or take Linear().",
            )
        shared = (towers.shared,) if towers.aligned else ()
        return tuple(dict.fromkeys((*shared, self.layer or towers.best))), (towers.text,)

    def fit(self, towers: Towers, train: Examples, validation: Examples | None, training: Training) -> Fitted:
        """See `Recipe`."""
        heads = ridge(
            train,
            shared=towers.shared if towers.aligned else "",
            layer=self.layer or towers.best,
            text=towers.text,
            regularisation=self.regularisation,
            weight=self.weight,
            seed=training.seed,
        )
        return Fitted(heads, None, judged(heads, validation))


LONGEST, BLIND = 60, 8
"""Epochs at most: with something to stop by, and without."""

_SCHEDULE = ("epochs", "batch_size", "lr", "weight_decay", "patience")


@dataclass(frozen=True, repr=False)
class Trained(Recipe):
    """What the recipes that are trained have in common.

    Attributes:
        loss: None: InfoNCE with a learned temperature; of classes SupervisedContrastive.
        epochs: at most; 0: 60, or 8 where there is nothing to stop by.
        batch_size: pairs in a batch.
        lr: of the optimiser.
        weight_decay: likewise (AdamW).
        dropout: share of the inputs of each linear layer that is left out while it learns.
        patience: epochs without a better figure on the validation set after which it stops, and the best epoch is
            what is taken; 0: it never stops, and the last one is.
        captions: of a picture with several texts "one" is drawn for each epoch, or "all" are pairs.
        layers: of pictures, that are read, each with a linear layer of its own, added up; none: the best.
    """

    loss: Loss | None = None
    epochs: int = 0
    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 0.1
    dropout: float = 0.3
    patience: int = 8
    captions: Literal["one", "all"] = "one"
    layers: tuple[str, ...] = ()

    keeps_all: ClassVar[bool] = False
    """Whether the checkpoint of every epoch stays."""

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            LearnError: a number is out of its range.
        """
        least = {"epochs": 0, "batch_size": 2, "patience": 0, "dim": 0, "hidden": 1}
        for name, bound in least.items():
            value = getattr(self, name, bound)
            if not isinstance(value, int) or isinstance(value, bool) or value < bound:
                raise LearnError(
                    f"{type(self).__name__}: {name} is {value!r}.",
                    hint=f"Give a whole number from {bound} on.",
                )

    def tensors(self, towers: Towers) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """See `Recipe`."""
        return self.read(towers), (towers.text,) if towers.text else ()

    def read(self, towers: Towers) -> tuple[str, ...]:
        """The tensors of pictures that are projected."""
        return self.layers or (towers.best,)

    @abstractmethod
    def begin(self, towers: Towers, train: Examples, rng: np.random.Generator) -> Heads:
        """The heads before the first step."""

    def fit(self, towers: Towers, train: Examples, validation: Examples | None, training: Training) -> Fitted:
        """See `Recipe`."""
        from bowerbird.learn.loop import Schedule
        from bowerbird.learn.loop import train as run
        from bowerbird.learn.network import Batches, heads_of, network_of, vectors_of

        begun = self.begin(towers, train, np.random.default_rng(training.seed))
        network = network_of(begun, self.dropout, self.tied())
        batches = Batches(
            train, begun, batch_size=self.batch_size, seed=training.seed, captions=self.captions
        )
        loss = self.loss_for(towers, train).module()
        stops = validation is not None and len(validation) > 0 and self.patience > 0
        schedule = Schedule(
            epochs=self.epochs or (LONGEST if stops else BLIND),
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            optimizer="adamw" if self.weight_decay else "adam",
            patience=self.patience if stops else 0,
            seed=training.seed,
        )

        def validate() -> Figures:
            assert validation is not None  # else it is not asked
            return figures(validation, *vectors_of(network, validation))

        with _one_thread():
            history = run(
                network,
                batches,
                loss,
                schedule,
                validate=validate if validation else None,
                watch=aim(train) if stops else "",
                folder=training.folder,
                resume=training.resume,
                progress=training.progress,
                keep=None if self.keeps_all else 3,
                tensorboard=training.tensorboard,
                settings=self._identity(train, validation, training),
            )
        facts = {"loss": repr(self.loss_for(towers, train)), **loss.facts()}
        heads = replace(heads_of(network), sigmoid=loss.scale_and_bias(), facts=facts)
        return Fitted(heads, history, judged(heads, validation))

    def _identity(self, train: Examples, validation: Examples | None, training: Training) -> dict[str, Any]:
        """What must be the same for a run to be gone on with, besides the schedule, which the loop looks at itself."""
        plain: dict[str, Any] = {one.name: one.default for one in fields(self) if one.name in _SCHEDULE}
        return {
            "recipe": repr(replace(self, **plain)),
            "pairs": train.digest,
            "validation": validation.digest if validation else "",
            **training.models,
        }

    def loss_for(self, towers: Towers, train: Examples) -> Loss:
        """The loss that was given, or the one that suits the examples."""
        if self.loss is not None:
            return self.loss
        if train.labels is None:
            return InfoNCE(learned=True)
        return SupervisedContrastive(texts=bool(towers.text))

    def tied(self) -> Sequence[Any]:
        """Layers of both sides that are one; see `network.network_of`."""
        return ()


@dataclass(frozen=True, repr=False)
class SharedProjection(Trained):
    """The published head demo, as it is: a baseline.

    Each side goes through a linear layer and a ReLU to `dim`, then both through one linear layer. Pictures are the
    classifier's logits, scaled to length 1. InfoNCE in one direction, Adam, a checkpoint each epoch, and the last epoch
    is what is taken. Of `layers` it reads one.

    Attributes:
        dim: of the shared space, and of the layer before.
        temperature: of InfoNCE.
    """

    epochs: int = 5
    batch_size: int = 64
    lr: float = 3e-4
    weight_decay: float = 0.0
    dropout: float = 0.0
    patience: int = 0
    dim: int = 64
    temperature: float = 0.07

    keeps_all: ClassVar[bool] = True

    def tensors(self, towers: Towers) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """See `Recipe`."""
        _need_text(self, towers)
        if len(self.layers) > 1:
            raise LearnError("SharedProjection reads one layer.", hint="Name one, or take Linear() or Mlp().")
        return self.read(towers), (towers.text,)

    def read(self, towers: Towers) -> tuple[str, ...]:
        """See `Trained`."""
        return self.layers or (towers.logits or towers.best,)

    def begin(self, towers: Towers, train: Examples, rng: np.random.Generator) -> Heads:
        """See `Trained`."""
        last = linear(self.dim, self.dim, rng)

        def branch(rows: Any, name: str) -> Branch:
            return Branch(name, (linear(_width(rows, name), self.dim, rng), Relu(), last))

        tensor = self.read(towers)[0]
        return Heads(Head((branch(train.images, tensor),)), Head((branch(train.words, towers.text),)))

    def loss_for(self, towers: Towers, train: Examples) -> Loss:
        """See `Trained`."""
        return self.loss or InfoNCE(temperature=self.temperature, both=False)

    def tied(self) -> Sequence[Any]:
        """See `Trained`."""
        return ((("image", 0, 2), ("text", 0, 2)),)


@dataclass(frozen=True, repr=False)
class Linear(Trained):
    """A linear layer on each side.

    Of classes, and where there is no tower for texts, pictures alone are projected: ten class names say nothing of
    what to do with other words.

    Attributes:
        dim: of the shared space; 0: that of the texts, 256 at most. Of classes it is always that of the texts, where
            there are any, since these stay as they are.
    """

    dim: int = 0

    def begin(self, towers: Towers, train: Examples, rng: np.random.Generator) -> Heads:
        """See `Trained`."""
        dim, words = _dimensions(self.dim, towers, train)

        def branch(rows: Any, tensor: str) -> Branch:
            mean, scale = _centre(rows, tensor)
            return Branch(tensor, (mean, scale, linear(len(mean.by), dim, rng)))

        image = Head(tuple(branch(train.images, tensor) for tensor in self.read(towers)))
        if words:
            return Heads(image, Head((branch(train.words, towers.text),)))
        return Heads(image, as_it_is(towers.text) if towers.text else None)


@dataclass(frozen=True, repr=False)
class Mlp(Trained):
    """Two linear layers with a GELU between them on each side; of classes on that of pictures alone.

    Attributes:
        dim: of the shared space, as of `Linear`.
        hidden: between the two layers.
    """

    dim: int = 0
    hidden: int = 512

    def begin(self, towers: Towers, train: Examples, rng: np.random.Generator) -> Heads:
        """See `Trained`."""
        dim, words = _dimensions(self.dim, towers, train)

        def branch(rows: Any, tensor: str) -> Branch:
            mean, scale = _centre(rows, tensor)
            first, last = linear(len(mean.by), self.hidden, rng), linear(self.hidden, dim, rng)
            return Branch(tensor, (mean, scale, first, Gelu(), last))

        image = Head(tuple(branch(train.images, tensor) for tensor in self.read(towers)))
        if words:
            return Heads(image, Head((branch(train.words, towers.text),)))
        return Heads(image, as_it_is(towers.text) if towers.text else None)


@dataclass(frozen=True, repr=False)
class Adapter(Trained):
    """What is added to an existing alignment, from nothing on: for CLIP and its like, and for mini.

    `unit(shared + W (x - mean))` of pictures, `unit(t + U t)` of texts; W and U begin as zeros. Of classes only W is
    learned.
    """

    dropout: float = 0.5

    def tensors(self, towers: Towers) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """See `Recipe`."""
        if not towers.aligned:
            raise LearnError(
                "Adapter adds to an alignment of pictures and texts, and these two towers have none.",
                hint="Take one model that embeds both, or Linear() or Ridge().",
            )
        return tuple(dict.fromkeys((towers.shared, *self.read(towers)))), (towers.text,)

    def begin(self, towers: Towers, train: Examples, rng: np.random.Generator) -> Heads:
        """See `Trained`."""
        dim = _width(train.words, towers.text)

        def added(tensor: str) -> Branch:
            mean, scale = _centre(train.images, tensor)
            return Branch(tensor, (mean, scale, _nothing(len(mean.by), dim)))

        image = Head((Branch(towers.shared), *map(added, self.read(towers))))
        if train.classes:
            return Heads(image, as_it_is(towers.text))
        return Heads(image, Head((Branch(towers.text), Branch(towers.text, (_nothing(dim, dim),)))))


ALL: tuple[type[Recipe], ...] = (SharedProjection, Ridge, Linear, Mlp, Adapter)
"""Those that are known by a name."""


@contextmanager
def _one_thread() -> Iterator[None]:
    """PyTorch on one thread: steps of a head are so short that threads wait for each other more than they work.

    On two cores they gain nothing, and where another program runs beside it takes several times as long. And sums are
    made in one order, however many cores there are.
    """
    torch = need("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def judged(heads: Heads, examples: Examples | None) -> Figures:
    """The figures of heads on some examples; none without examples."""
    if examples is None:
        return {}
    images = heads.image.apply(examples.images or {}) if heads.image else None
    words = heads.text.apply(examples.words or {}) if heads.text else None
    return figures(examples, images, words)


def _nothing(inputs: int, outputs: int) -> LinearLayer:
    return LinearLayer(np.zeros((outputs, inputs), np.float32))


def _dimensions(dim: int, towers: Towers, train: Examples) -> tuple[int, bool]:
    """Of the shared space, and whether texts are projected, too."""
    if towers.text and not train.classes:
        return dim or min(256, _width(train.words, towers.text)), True
    if towers.text:
        return _width(train.words, towers.text), False
    return dim or 256, False


def _centre(rows: Any, tensor: str) -> tuple[Shift, Scale]:
    """What takes the mean of the training data away, and brings what is left to a mean length of 1."""
    mean = rows[tensor].mean(0, dtype=np.float64)
    length = float(np.linalg.norm(rows[tensor] - mean, axis=1).mean())
    return Shift((-mean).astype(np.float32)), Scale(1 / max(length, 1e-6))


def _width(rows: Any, tensor: str) -> int:
    return int(rows[tensor].shape[1])


def _need_text(recipe: Recipe, towers: Towers) -> None:
    if not towers.text:
        raise LearnError(
            f"{type(recipe).__name__} learns from pictures and texts, and there is no tower for texts.",
            hint="Name a text model.",
        )
