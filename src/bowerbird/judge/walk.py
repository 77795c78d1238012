"""One tower of a model, stage by stage: whatever `judge` knows of towers it knows from here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bowerbird.judge.faults import Feeds, Recipe
from bowerbird.models.network.engine import Engine
from bowerbird.models.text.sentence import POOLINGS, pool
from bowerbird.models.text.tokens import Tokens, feeds
from bowerbird.models.text.tower import TextSide
from bowerbird.models.towers import cut
from bowerbird.models.vision.tower import ImageSide

Array: TypeAlias = NDArray[Any]

RAW_NAMES = ("last_hidden_state", "token_embeddings", "features")
"""Outputs before pooling, in the order in which they are looked for."""


class PictureWalk:
    """The image tower.

    Attributes:
        side: the loaded tower.
        output: name of the embedding.
        tensor: of the graph, that is the embedding before pooling.
        recipe: from the file to the network's input, with full decode.
    """

    def __init__(self, side: ImageSide, output: str = "") -> None:
        self.side = side
        self.output = output or side.tower.output
        self.tensor = dict(side.tower.tensors).get(self.output, self.output)
        self.recipe = Recipe(side.tower.steps, replace(side.decode, scaled=None))

    @property
    def engine(self) -> Engine:
        """What runs the network."""
        return self.side.engine

    @property
    def takes_levels(self) -> bool:
        """Whether the graph takes 8-bit levels and scales them itself, so that it cannot be fed with pixel values."""
        return self.side.takes_levels

    def run(self, prepared: Feeds, tensors: Sequence[str], engine: Engine | None = None) -> list[Array]:
        """Tensors of the graph as float32, with a batch axis.

        Args:
            prepared: as `Recipe.prepare` gives it.
            tensors: outputs of the engine.
            engine: another engine that runs the same graph.
        """
        engine = engine or self.engine
        given = self.side.bind(engine, prepared)
        return [array.astype(np.float32, copy=False) for array in engine.run(given, list(tensors))]

    def pool(self, hidden: Array) -> Array:
        """(n, d) embeddings before they are scaled to length 1, from what the graph gives."""
        pooled = self.side.pooled(hidden, self.output)
        return cut(pooled, self.side.tower.dimensions)

    def embed(self, prepared: Feeds, engine: Engine | None = None) -> Array:
        """(n, d) embeddings before they are scaled to length 1."""
        return self.pool(self.run(prepared, (self.tensor,), engine)[0])

    def raw_output(self, raw: Array) -> str:
        """The output that fits the reference's array before pooling; empty when the graph has none."""
        return _fitting(self.engine, raw, self.tensor)


class TextWalk:
    """The text tower.

    Attributes:
        side: the loaded tower.
    """

    def __init__(self, side: TextSide) -> None:
        self.side = side

    @property
    def engine(self) -> Engine:
        """What runs the network."""
        return self.side.engine

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of prompts."""
        return tuple(name for name, _ in self.side.tower.rules.prompts)

    def tokens(self, text: str, role: str = "") -> Tokens:
        """The text as tokens, prompt and special tokens included."""
        return self.side.tokens([text], role)[0]

    def ids(self, text: str, role: str = "") -> Array:
        """int64 (T,): what the network reads, padded where it was trained with padding."""
        return self._padded(self.tokens(text, role))

    def fed_with(self, ids: Array, text: str, role: str) -> Tokens:
        """The reference's token ids; with our own types and mask where the ids are ours too."""
        own = self.tokens(text, role)
        if np.array_equal(self._padded(own), ids):
            return own
        return Tokens([int(number) for number in ids], [0] * len(ids), 0, own.prompt)

    def embed(self, tokens: Tokens) -> Array:
        """(d,), before it is scaled to length 1."""
        row: Array = self.side.vectors([tokens])[0]
        return row

    def pool(self, hidden: Array, tokens: Tokens) -> Array | None:
        """(d,) from the reference's token vectors (T, d); None where the graph pools."""
        own, kept = self.side.raw([tokens])
        if own.ndim == 2 or self.side.by_token or own.shape[1:] != hidden.shape:
            return None
        pooled = self.side.pooled(hidden[None], kept, [tokens])
        row: Array = cut(pooled, self.side.tower.dimensions)[0]
        return row

    def raw(self, tokens: Tokens, like: Array) -> Array | None:
        """(T, d) token vectors, shaped as the reference's are; None when the graph does not give them."""
        name = _fitting(self.engine, like, "")
        if not name:
            return None
        (hidden,) = self.engine.run(feeds([tokens], self.side.tower.rules, self.engine.inputs), (name,))
        first: Array = hidden[0].astype(np.float32, copy=False)
        return first

    def pooled_by_each(self, tokens: Tokens, like: Array) -> dict[str, Array]:
        """The text pooled in every way; empty when the graph gives no token vectors as long as `like`."""
        raw = self.raw(tokens, np.empty((len(self._padded(tokens)), len(like)), np.float32))
        if raw is None:
            return {}
        mask = np.zeros((1, len(raw)), np.int64)
        mask[:, : len(tokens.ids)] = 1
        return {how: pool(raw[None], mask, how)[0] for how in POOLINGS}

    def _padded(self, tokens: Tokens) -> Array:
        rules = self.side.tower.rules
        if not rules.padding:
            return np.array(tokens.ids, np.int64)
        given = feeds([tokens], rules, self.engine.inputs)
        ids: Array = given["input_ids" if "input_ids" in given else "text"][0].astype(np.int64)
        return ids


def _fitting(engine: Engine, raw: Array, output: str) -> str:
    """The output whose shape, without the batch axis, can be that of `raw`. A vector that is `output` is not raw."""

    def fits(name: str) -> bool:
        shape = engine.outputs[name].shape[1:]
        sides = zip(shape, raw.shape, strict=False)
        is_pooled = name == output and raw.ndim == 1
        return not is_pooled and len(shape) == raw.ndim and all(a is None or a == b for a, b in sides)

    found = [name for name in engine.outputs if fits(name)]
    return next((name for name in (output, *RAW_NAMES) if name in found), found[0] if found else "")
