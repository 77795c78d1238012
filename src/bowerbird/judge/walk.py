"""One tower of a model, stage by stage: what `verify` compares is seen here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bowerbird.judge.faults import Feeds, Recipe
from bowerbird.models.engine import Engine
from bowerbird.models.text import Tokens, pad, pool, tokenize
from bowerbird.models.towers import ImageSide, TextSide

Array: TypeAlias = NDArray[Any]

RAW_NAMES = ("last_hidden_state", "token_embeddings", "features")
"""Outputs before pooling, in the order in which they are looked for."""


class PictureWalk:
    """The image tower.

    Attributes:
        side: the loaded tower.
        output: the tensor that is the embedding.
        recipe: from the file to the network's input, with full decode.
    """

    def __init__(self, side: ImageSide, output: str = "") -> None:
        self.side = side
        self.output = output or side.tower.output
        self.recipe = Recipe(side.tower.steps, replace(side.decode, scaled=None))

    @property
    def engine(self) -> Engine:
        """What runs the network."""
        return self.side._engine

    def run(self, feeds: Feeds, outputs: Sequence[str]) -> list[Array]:
        """Named outputs of the network as float32, with a batch axis."""
        bound = {next(iter(self.engine.inputs)): feeds["pixel_values"]}
        return [array.astype(np.float32, copy=False) for array in self.engine.run(bound, list(outputs))]

    def pooled(self, feeds: Feeds) -> Array:
        """(n, d) embeddings before they are scaled to length 1."""
        (vectors,) = self.run(feeds, (self.output,))
        return vectors

    def feeds_of(self, values: Array, own: Feeds | None) -> Feeds:
        """The reference's pixel values as a batch of one; what else the network takes comes from our own steps."""
        return {**(own or {}), "pixel_values": values[None]}

    def raw_output(self, raw: Array) -> str:
        """The output that fits the reference's array before pooling; empty when the graph has none."""
        return _fitting(self.engine, raw, self.output)


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
        return self.side._engine

    @property
    def roles(self) -> dict[str, str]:
        """Name of a prompt -> the prompt."""
        return dict(self.side.tower.prompts)

    def tokens(self, text: str, role: str = "") -> Tokens:
        """The text as the network takes it, prompt and special tokens included."""
        return tokenize(self.side._tokenizer, [self.side._prompt(role) + text])[0]

    def ids(self, text: str, role: str = "") -> Array:
        """int64 (T,)."""
        return np.array(self.tokens(text, role).ids, np.int64)

    def fed_with(self, ids: Array, text: str, role: str) -> Tokens:
        """The reference's token ids; with our own types and mask where the ids are ours too."""
        own = self.tokens(text, role)
        same = own.ids == ids.tolist()
        return own if same else Tokens([int(number) for number in ids], [0] * len(ids), 0)

    def pooled(self, tokens: Tokens) -> Array:
        """(d,), before it is scaled to length 1."""
        row: Array = self.side._run_with(self.engine, [tokens])[0]
        return row

    def raw(self, tokens: Tokens, like: Array) -> Array | None:
        """(T, d) token vectors; None when the graph does not give them."""
        name = _fitting(self.engine, like, "")
        if not name:
            return None
        (hidden,) = self.engine.run(pad([tokens], self.side.tower.pad_id), (name,))
        first: Array = hidden[0].astype(np.float32, copy=False)
        return first

    def pooled_by(self, tokens: Tokens, how: str, like: Array) -> Array | None:
        """(d,) pooled in another way; None when the graph does not give token vectors of that length."""
        raw = self.raw(tokens, np.empty((len(tokens.ids), len(like))))
        if raw is None:
            return None
        mask = np.ones((1, len(raw)), np.int64)
        row: Array = pool(raw[None], mask, how)[0]
        return row


def _fitting(engine: Engine, raw: Array, output: str) -> str:
    """The output whose shape, without the batch axis, can be that of `raw`; `output` itself is not before pooling."""

    def fits(name: str) -> bool:
        shape = engine.outputs[name].shape[1:]
        sides = zip(shape, raw.shape, strict=False)
        return name != output and len(shape) == raw.ndim and all(a is None or a == b for a, b in sides)

    found = [name for name in engine.outputs if fits(name)]
    return next((name for name in RAW_NAMES if name in found), found[0] if found else "")
