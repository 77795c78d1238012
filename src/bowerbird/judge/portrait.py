"""A model as it is: its conditions, files and figures as plain data; and one picture on its way into the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bowerbird.models.artifact import artifact
from bowerbird.models.encoder import Encoder
from bowerbird.models.network.graph import GraphFacts, TensorSpec, read_graph
from bowerbird.models.vision.steps import CenterCrop, Step
from bowerbird.models.vision.tower import Input

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Stage:
    """A picture after one step.

    Attributes:
        name: the step, as the recipe says it; `decoded` for the first.
        values: uint8 (height, width, 3), float32 (height, width, 3) or (3, height, width), or a matrix of patches.
        kept: (width, height) that a centre crop keeps of it next; None where no crop follows.
    """

    name: str
    values: Array
    kept: tuple[int, int] | None = None

    @property
    def channels(self) -> Array:
        """Channels first; a matrix is one channel."""
        if self.values.ndim == 2:
            return self.values[None]
        return self.values if self.is_input else self.values.transpose(2, 0, 1)

    @property
    def is_input(self) -> bool:
        """Whether this is what the network takes, channels first."""
        return self.values.ndim == 3 and self.values.shape[0] == 3 and self.values.dtype != np.uint8

    def to_json(self) -> dict[str, Any]:
        """Plain data: shape, type, and least, largest and mean value of each channel."""
        channels = self.channels.reshape(len(self.channels), -1).astype(np.float64)
        return {
            "step": self.name,
            "shape": list(self.values.shape),
            "dtype": self.values.dtype.name,
            "min": channels.min(axis=1).tolist(),
            "max": channels.max(axis=1).tolist(),
            "mean": channels.mean(axis=1).tolist(),
        }


def stages(encoder: Encoder, source: Input) -> list[Stage]:
    """One picture after every step: decoded upright, after each geometric step, and as the network takes it.

    Raises:
        UnsupportedInputError: the model takes no pictures.
        InputError: the picture cannot be read or decoded.
    """
    side = encoder.image
    picture = side.open(source)
    steps = side.tower.steps
    found = [("decoded", np.asarray(picture.image))]
    found += steps.stages(picture.image, (picture.width, picture.height), picture.box)
    following: list[Step | None] = [*steps.steps, None]
    return [
        Stage(name, values, _kept(values, step))
        for (name, values), step in zip(found, following, strict=True)
    ]


def _kept(values: Array, step: Step | None) -> tuple[int, int] | None:
    height, width = values.shape[:2]
    if isinstance(step, CenterCrop) and (step.width, step.height) != (width, height):
        return min(step.width, width), min(step.height, height)
    return None


def portrait(encoder: Encoder) -> dict[str, Any]:
    """Everything that is known of a model, as plain data.

    Raises:
        ModelError: a tower cannot be loaded.
    """
    encoder.warm()
    card = encoder.card
    return {
        "model": card.name,
        "source": card.source,
        "directory": str(card.directory),
        "license": card.license,
        "space": card.space,
        "options": card.options.to_dict(),
        "image": _image(encoder) if card.image else None,
        "text": _text(encoder) if card.text else None,
        "numerics": encoder.numerics(),
        "files": _files(card.directory),
    }


def _image(encoder: Encoder) -> dict[str, Any]:
    side, tower = encoder.image, encoder.image.tower
    low, high = tower.steps.bounds
    return {
        "recipe": str(tower.steps),
        "steps": tower.steps.to_json(),
        "size": tower.steps.size,
        "range": [low, high],
        "prepared": tower.prepared,
        "decode": tower.decode.meaning(),
        "output": tower.output,
        "similarity_output": tower.similarity_output,
        "dimensions": {name: side.dimensions(name) for name in side.outputs},
        "pooling": tower.pooling,
        "variant": tower.variant,
        **_graph(tower.graph.path, tower.graph.sha256),
    }


def _text(encoder: Encoder) -> dict[str, Any]:
    side, tower = encoder.text, encoder.text.tower
    return {
        **tower.rules.meaning(),
        "output": tower.output,
        "dimensions": side.dimensions,
        "variant": tower.variant,
        **_graph(tower.graph.path, tower.graph.sha256),
    }


def _graph(path: Path, sha256: str) -> dict[str, Any]:
    facts = read_graph(path, sha256)
    return {
        "graph": str(path),
        "inputs": _specs(facts.inputs),
        "outputs": _specs(facts.outputs),
        **_layers(facts),
    }


def _layers(facts: GraphFacts) -> dict[str, Any]:
    """The layers by number, as `layer=` counts them, and what `layer="penultimate"` means."""
    if not facts.flows:
        return {"layers": [], "penultimate": ""}
    return {
        "layers": [
            {
                "number": number,
                "name": tensor.name,
                "op": tensor.op,
                "shape": tensor.shape and list(tensor.shape),
            }
            for number, tensor in enumerate(facts.layers())
        ],
        "penultimate": facts.flow("logits" if "logits" in facts.flows else "").penultimate,
    }


def _specs(specs: Any) -> dict[str, Any]:
    named: list[tuple[str, TensorSpec]] = list(specs.items())
    return {name: {"dtype": spec.dtype, "shape": list(spec.shape)} for name, spec in named}


def _files(directory: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            file = artifact(path)
            found.append({"path": relative.as_posix(), "bytes": file.size, "sha256": file.sha256})
    return found


def shape_of(shape: Sequence[int | None] | None) -> str:
    """A tensor's shape for people; a free side is `n`."""
    return "?" if shape is None else "x".join("n" if side is None else str(side) for side in shape)
