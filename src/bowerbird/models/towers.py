"""What the two towers of a model share: opening the graph, and vectors of the length that is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import BowerbirdError, EngineError, ModelFormatError
from bowerbird.models.card import ImageTower, TextTower
from bowerbird.models.network.engine import Engine
from bowerbird.models.network.graph import TensorSpec
from bowerbird.models.network.precision import Choice, Probe, choose, require_finite
from bowerbird.models.text.sentence import shorten
from bowerbird.models.vision.pooling import feature_axis

Vectors: TypeAlias = NDArray[np.float32]


def open_tower(
    tower: ImageTower | TextTower, policy: str, engine: str, probe: Probe, threads: int
) -> tuple[Choice, Engine]:
    """Open the graph of a tower in the engine and precision that suit it, intermediate tensors as outputs.

    Args:
        tower: of the card.
        policy: `auto`, `exact` or `fast`.
        engine: `auto`, or a key of `ENGINES`.
        probe: runs the tower on the shipped photographs or sentences.
        threads: how many runs may go on at once.

    Raises:
        EngineError: the engine refuses the graph, or a graph of reduced precision overflows.
    """
    fingerprint = json.dumps(tower.meaning(), sort_keys=True)
    choice, opened = choose(
        policy,
        engine,
        graph=tower.graph.path,
        fingerprint=fingerprint,
        probe=probe,
        streams=threads,
        expose=[tensor for _, tensor in tower.tensors],
    )
    if tower.variant or any(
        spec.dtype == "float16" for spec in (*opened.inputs.values(), *opened.outputs.values())
    ):
        require_finite(opened, tower.graph.path, fingerprint=fingerprint, probe=probe)
    return choice, opened


def require_output(engine: Engine, name: str, graph: Path) -> TensorSpec:
    """The type and shape of an output.

    Raises:
        ModelFormatError: the graph has none of that name.
    """
    spec = engine.outputs.get(name)
    if spec is None:
        raise ModelFormatError(
            f"{graph} has no output {name!r}; it has {', '.join(engine.outputs)}.",
            hint="Name one of these, or give `layer` for any other tensor.",
        )
    return spec


def channels(spec: TensorSpec, features: int | None = None) -> int:
    """How long the vectors of a tensor are; see `bowerbird.models.vision.pooling.places` for what the axes mean."""
    shape = spec.shape
    width = shape[feature_axis(shape) if features is None else features] if len(shape) >= 2 else None
    if width is None:
        raise EngineError(
            "The graph does not say how long its vectors are.", hint="Export it with a fixed last axis."
        )
    return width


def cut(vectors: Vectors, dimensions: int) -> Vectors:
    """The first `dimensions` of each vector, scaled to length 1 again; all of them, as they are, for 0."""
    return shorten(vectors, dimensions) if dimensions else vectors


def shortened(width: int, dimensions: int) -> int:
    """The length of vectors of `width` when `dimensions` are asked for; 0 asks for all.

    Raises:
        BowerbirdError: there are not so many.
    """
    if dimensions > width:
        raise BowerbirdError(
            f"The model's vectors have {width} dimensions; {dimensions} were asked for.",
            hint=f"Ask for at most {width}.",
        )
    return dimensions or width
