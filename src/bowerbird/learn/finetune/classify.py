"""Classes: a linear layer on the pictures' embedding tells them apart, and the embedding learns with it.

The layer begins as the best one on the embedding as it is, so that a layer of random numbers does not first pull the
backbone apart (Kumar et al. 2022, arXiv 2202.10054). Afterwards its scores are the output `logits`, and the embedding
below it is the model's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.judge.significance import intervals
from bowerbird.learn.examples import Places, Vectors
from bowerbird.learn.run import HeldOut
from bowerbird.models.jsonfile import read_object
from bowerbird.origin.original import Original, Tower, topped
from bowerbird.origin.packages import TRAIN, need
from bowerbird.origin.stacks.transformers import final_layer

LOGITS = "logits"

_DECAY = 1e-3
"""Weight of the squares of the layer's numbers in its beginning, for inputs of about length 1."""

_ITERATIONS = 200


@dataclass(frozen=True, eq=False)
class Layer:
    """Scores of classes: `x @ weight.T + bias`.

    Attributes:
        weight: float32 (classes, dim).
        bias: float32 (classes,).
    """

    weight: Vectors
    bias: Vectors

    def scores(self, rows: Vectors) -> Vectors:
        """(n, classes) of vectors (n, dim), not scaled."""
        found: Vectors = rows @ self.weight.T + self.bias
        return found


def first_layer(rows: Vectors, labels: Places, classes: int) -> Layer:
    """The best layer for an embedding as it is: multinomial logistic regression.

    Args:
        rows: (n, dim) of the training pictures, as the tower gives them.
        labels: (n,).
        classes: how many there are.
    """
    torch = need("torch", TRAIN)
    length = float(np.linalg.norm(rows, axis=1).mean()) or 1.0
    middle = rows.mean(0)
    x = torch.from_numpy(((rows - middle) / length).astype(np.float64))
    wanted = torch.from_numpy(labels)
    weight = torch.zeros(classes, rows.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, wanted) + _DECAY * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    found = weight.detach().numpy() / length
    shift = bias.detach().numpy() - found @ middle
    return Layer(found.astype(np.float32), shift.astype(np.float32))


def class_loss(layer: Layer, contrast: Any = None) -> Any:
    """A `torch.nn.Module` of `Seen` to the loss: cross entropy, and that of pictures against the names of classes.

    Args:
        layer: where the layer begins; it learns with the network.
        contrast: a loss of pairs for a model that reads texts, so that both towers stay in one space.
    """
    torch = need("torch", TRAIN)

    class ClassLoss(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.utils.skip_init(torch.nn.Linear, layer.weight.shape[1], len(layer.weight))
            with torch.no_grad():
                self.layer.weight.copy_(torch.from_numpy(layer.weight))
                self.layer.bias.copy_(torch.from_numpy(layer.bias))
            self.contrast = contrast

        def forward(self, seen: Any) -> Any:
            loss = torch.nn.functional.cross_entropy(self.layer(seen.raw.float()), seen.labels)
            return loss if self.contrast is None else loss + self.contrast(seen)

        def facts(self) -> dict[str, float]:
            return {} if self.contrast is None else self.contrast.facts()

        def scale_and_bias(self) -> tuple[float, float] | None:
            return None if self.contrast is None else self.contrast.scale_and_bias()

    return ClassLoss()


def layer_of(loss: Any) -> Layer:
    """The layer of a `class_loss` as it is now."""
    weight, bias = (
        value.detach().float().cpu().numpy().copy() for value in (loss.layer.weight, loss.layer.bias)
    )
    return Layer(weight, bias)


def with_layer(original: Original, layer: Layer) -> Original:
    """The same model with the scores as an output of its tower for pictures, in the place of scores that it had."""
    tower = original.image
    assert tower is not None
    torch = need("torch", TRAIN)
    linear = torch.nn.Linear(layer.weight.shape[1], len(layer.weight))
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(layer.weight))
        linear.bias.copy_(torch.from_numpy(layer.bias))
    kept = tuple(name for name in tower.outputs if name != LOGITS)
    place = tower.outputs.index(tower.embedding)
    places = [tower.outputs.index(name) for name in kept]

    def call(layer: Any, *given: Any) -> tuple[Any, ...]:
        return (layer(given[place]), *(given[one] for one in places))

    image = replace(tower, module=topped(tower.module, linear, call), outputs=(LOGITS, *kept))
    # Without a word, a graph with scores is taken for a classifier of which the embedding is to be found.
    notes = {**original.notes, "image": {"output": tower.embedding, **original.notes.get("image", {})}}
    return replace(original, image=image, notes=notes)


def write_names(directory: Path, classes: Sequence[str]) -> None:
    """Name the classes in `config.json`, as transformers does; `bowerbird` and others read them there."""
    path = directory / "config.json"
    config = dict(read_object(path, missing_ok=True))
    config["id2label"] = {str(place): name for place, name in enumerate(classes)}
    config["label2id"] = {name: place for place, name in enumerate(classes)}
    if "num_classes" in config:  # timm
        config["num_classes"] = len(classes)
        config["label_names"] = list(classes)
        for key in ("pretrained_cfg", "model_args"):
            if "num_classes" in (config.get(key) or {}):
                config[key] = {**config[key], "num_classes": len(classes)}
    path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")


@contextmanager
def in_its_place(tower: Tower, scores: int, layer: Layer) -> Iterator[bool]:
    """For a while, the network's own final layer is another, so that its weights are kept with it.

    Args:
        tower: of the model as it was opened.
        scores: how many classes its own final layer tells apart; 0: it has none.
        layer: the other.

    Yields:
        whether it has such a layer.
    """
    torch = need("torch", TRAIN)
    model = getattr(tower.module, "inner", tower.module)
    old = final_layer(model, scores) if scores else None
    if old is None or old.in_features != layer.weight.shape[1]:
        yield False
        return
    name = next(name for name, module in model.named_modules() if module is old)
    parent, _, last = name.rpartition(".")
    new = torch.nn.Linear(old.in_features, len(layer.weight))
    with torch.no_grad():
        new.weight.copy_(torch.from_numpy(layer.weight))
        new.bias.copy_(torch.from_numpy(layer.bias))
    setattr(model.get_submodule(parent), last, new)
    try:
        yield True
    finally:
        setattr(model.get_submodule(parent), last, old)


@dataclass(frozen=True, eq=False)
class HeldOutClasses(HeldOut):
    """Of classes, with how often the layer named the right one.

    Attributes:
        right_before: bool (n,): by the layer on the model as it was.
        right: by that which was learned.
    """

    right_before: NDArray[np.bool_]
    right: NDArray[np.bool_]

    @property
    def before(self) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
        """Figures of the model as it is."""
        return {**super().before, **_accuracy(self.right_before)}

    @property
    def after(self) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
        """Figures as learned."""
        return {**super().after, **_accuracy(self.right)}


def _accuracy(right: NDArray[np.bool_]) -> dict[str, dict[str, dict[str, float]]]:
    values = right.astype(np.float64)
    end = intervals(values[None])[0]
    return {"image->class": {"accuracy": {"mean": float(values.mean()), "low": end.low, "high": end.high}}}
