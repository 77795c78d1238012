"""One model with two towers, or two models made into one: a picture model learns to speak the space of a text model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bowerbird.errors import LearnError
from bowerbird.learn.examples import Places, Vectors
from bowerbird.origin.export import named
from bowerbird.origin.original import Original, Tower, topped
from bowerbird.origin.packages import TRAIN, need
from bowerbird.origin.request import Request
from bowerbird.origin.source import open_source

BRIDGED = "fitted"
"""Output of the pictures' graph that lies in the texts' space."""

_RIDGE = 1e-2
"""Of the mean square of the pictures' vectors: how much the bridge's beginning is kept small."""


def open_towers(source: str, text_source: str, request: Request, bridge: Vectors | None = None) -> Original:
    """Open a model to be tuned.

    Args:
        source: as of `bowerbird.origin.source.open_source`; with a `text_source`, only its tower for pictures is used.
        text_source: likewise, of which only the tower for texts is used; empty: there is no other model.
        request: how to open them.
        bridge: with a `text_source`: float32 (text dim, picture dim), where the layer begins that takes vectors of
            pictures to those of texts; None: there is none, and vectors are of the two models as they are.

    Raises:
        ModelError: one of them cannot be opened.
        LearnError: one of them has no such tower.
    """
    opened = open_source(source, named(source, request))
    if not text_source:
        if opened.image is None:
            raise LearnError(
                f"{opened.name} takes no pictures: by itself it has nothing to learn from pairs.",
                hint="Give a picture model as the model, and this one as text_model (--text-model).",
            )
        return opened
    words = open_source(text_source, named(text_source, request))
    if opened.image is None or words.text is None:
        name, what = (opened.name, "pictures") if opened.image is None else (words.name, "texts")
        raise LearnError(f"{name} takes no {what}.", hint="Give a picture model, and a text_model beside it.")
    image = replace(opened.image, graph="image/model.onnx")
    if bridge is not None:
        image = _bridged(image, bridge)

    def write(out: Path) -> None:
        for folder, one in (("image", opened), ("text", words)):
            (out / folder).mkdir()
            one.write(out / folder)

    def save_weights(out: Path) -> None:
        for folder, one in (("image", opened), ("text", words)):
            if one.save_weights:
                one.save_weights(out / folder)

    notes: dict[str, Any] = {"image": {**opened.notes.get("image", {}), "output": image.embedding}}
    if said := words.notes.get("text"):
        notes["text"] = said
    return Original(
        name=request.name or f"{opened.name} with {words.name}",
        stack=" and ".join(dict.fromkeys((opened.stack, words.stack))),
        profile=opened.profile,
        made_with={**opened.made_with, **words.made_with},
        write=write,
        image=image,
        text=replace(words.text, graph="text/model.onnx"),
        notes=notes,
        no_golden=opened.no_golden or words.no_golden,
        save_weights=save_weights,
    )


def _bridged(tower: Tower, bridge: Vectors) -> Tower:
    """The tower with a linear layer on its embedding, whose result is the embedding now."""
    torch = need("torch", TRAIN)
    layer = torch.nn.Linear(bridge.shape[1], bridge.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(bridge))
    place = tower.outputs.index(tower.embedding)

    def call(bridge: Any, *given: Any) -> tuple[Any, ...]:
        return (bridge(given[place]), *given)

    module = topped(tower.module, layer, call)
    return replace(tower, module=module, outputs=(BRIDGED, *tower.outputs), embedding=BRIDGED)


def first_bridge(images: Vectors, texts: Vectors, links: Places) -> Vectors:
    """Where the bridge begins: the ridge regression from the pictures' vectors to those of their texts.

    Args:
        images: (n, picture dim), as the tower gives them.
        texts: (t, text dim), of length 1.
        links: int64 (m, 2).

    Returns:
        float32 (text dim, picture dim).
    """
    x, y = images[links[:, 0]].astype(np.float64), texts[links[:, 1]].astype(np.float64)
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += _RIDGE * np.trace(gram) / len(gram)
    weight: Vectors = np.linalg.solve(gram, x.T @ y).T.astype(np.float32)
    return np.ascontiguousarray(weight)
