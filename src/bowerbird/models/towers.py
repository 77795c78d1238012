"""One tower of a model, loaded: pictures to pixels to vectors, texts to tokens to vectors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bowerbird.errors import EngineError, ModelFormatError, UnsupportedInputError
from bowerbird.lookahead import ordered_map
from bowerbird.media.image import DecodePolicy, Picture, decode, from_array, from_pillow, read_bytes
from bowerbird.models.card import ImageTower, TextTower
from bowerbird.models.engine import Engine
from bowerbird.models.precision import Choice, Probe, choose, probe_pictures, probe_sentences
from bowerbird.models.text import Tokens, load_tokenizer, pad, pool, tokenize

Vectors: TypeAlias = NDArray[np.float32]
Input: TypeAlias = "str | Path | bytes | Image.Image | NDArray[np.uint8]"
"""A text is always a `str`. A picture is a `Path`, the bytes of a picture file, a Pillow image, or an
(h, w), (h, w, 3) or (h, w, 4) uint8 array in RGB order."""

TOKENS_PER_BATCH = 512
"""Padded tokens in one run of the network. Texts of like length share a batch, so little of it is padding."""

LONGEST_BATCH = 16
"""Texts in one run of the network."""

GENERIC_ROLES = ("query", "document")
"""Roles that any model may be asked for; one without such a prompt takes the text as it is."""


class ImageSide:
    """The image tower: pictures to pixels to vectors."""

    def __init__(self, tower: ImageTower, policy: str, engine: str, threads: int) -> None:
        self.tower = tower
        self.choice, self._engine = _chosen(tower, policy, engine, self._probe, threads)
        self.decode = decode_policy(tower, policy)
        for name in self.outputs:
            _require_output(self._engine, name, tower.graph.path)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The published outputs: the one shared with texts, then the one for picture-to-picture search."""
        return tuple(dict.fromkeys((self.tower.output, self.tower.similarity_output)))

    def dimensions(self, output: str) -> int:
        """Length of the vectors of an output."""
        return _dimensions(_require_output(self._engine, output, self.tower.graph.path))

    def open(self, source: Input, name: str = "") -> Picture:
        """Read and decode one picture.

        Raises:
            InputError: it cannot be read or decoded.
        """
        if isinstance(source, Path):
            name, source = name or str(source), read_bytes(source, self.decode)
        if isinstance(source, bytes):
            return decode(source, self.decode, name=name or "picture", target=self.tower.steps.target)
        if isinstance(source, Image.Image):
            return from_pillow(source, self.decode, name=name or "picture")
        if isinstance(source, np.ndarray):
            return from_array(source, name=name or "array")
        raise UnsupportedInputError(f"A picture cannot be given as {type(source).__name__}.", hint=_ACCEPTED)

    def pixels(self, picture: Picture) -> NDArray[np.uint8]:
        """(height, width, 3) uint8: the picture after every geometric step."""
        return self.tower.steps.pixels(picture.image, (picture.width, picture.height), picture.box)

    def run(self, pixels: Sequence[NDArray[np.uint8]], outputs: Sequence[str]) -> list[Vectors]:
        """Prepared pictures to raw vectors: one (n, dim) float32 array for each output."""
        return self._run_with(self._engine, pixels, outputs)

    def _run_with(
        self, engine: Engine, pixels: Sequence[NDArray[np.uint8]], outputs: Sequence[str]
    ) -> list[Vectors]:
        values = self.tower.steps.scale(np.stack(pixels))  # (n, 3, height, width)
        return [
            array.astype(np.float32, copy=False)
            for array in engine.run({next(iter(engine.inputs)): values}, outputs)
        ]

    def _probe(self, engine: Engine) -> list[Vectors]:
        exact = decode_policy(self.tower, "exact")
        pictures = [decode(data, exact, name="probe") for data in probe_pictures()]
        return self._run_with(engine, [self.pixels(picture) for picture in pictures], self.outputs)


class TextSide:
    """The text tower: texts to tokens to vectors."""

    def __init__(self, tower: TextTower, policy: str, engine: str, threads: int) -> None:
        self.tower = tower
        self._tokenizer = load_tokenizer(tower.tokenizer.path, tower.max_tokens)
        self.choice, self._engine = _chosen(tower, policy, engine, self._probe, threads)
        self._threads = threads
        self.output = tower.output or _pooled_output(self._engine)
        self._spec = _require_output(self._engine, self.output, tower.graph.path)

    @property
    def dimensions(self) -> int:
        """Length of the vectors."""
        return _dimensions(self._spec)

    def encode(self, texts: Sequence[str], role: str = "") -> tuple[Vectors, list[int]]:
        """(n, dim) raw vectors, and for each text how many tokens did not fit."""
        prompt = self._prompt(role)
        tokens = tokenize(self._tokenizer, [prompt + text for text in texts])
        vectors = np.empty((len(texts), self.dimensions), np.float32)

        def run(rows: Sequence[int]) -> tuple[Sequence[int], Vectors]:
            return rows, self._run_with(self._engine, [tokens[row] for row in rows])

        batches = batches_by_length([len(token.ids) for token in tokens])
        for rows, part in ordered_map(run, batches, threads=self._threads):
            vectors[rows] = part
        return vectors, [token.dropped for token in tokens]

    def _prompt(self, role: str) -> str:
        prompts = dict(self.tower.prompts)
        if role and role not in prompts and role not in GENERIC_ROLES:
            raise UnsupportedInputError(
                f"The model has no prompt {role!r}.", hint=f"It has: {', '.join(prompts) or 'none'}."
            )
        return prompts.get(role or self.tower.default_prompt, "")

    def _run_with(self, engine: Engine, tokens: Sequence[Tokens]) -> Vectors:
        feeds = pad(tokens, self.tower.pad_id)
        output = self.tower.output or _pooled_output(engine)
        (array,) = engine.run(feeds, (output,))
        vectors = array.astype(np.float32, copy=False)
        if vectors.ndim == 3:  # (batch, tokens, dim): the graph leaves the pooling to us
            return pool(vectors, feeds["attention_mask"], self.tower.pooling)
        return vectors

    def _probe(self, engine: Engine) -> list[Vectors]:
        tokens = tokenize(self._tokenizer, probe_sentences())
        return [self._run_with(engine, tokens)]


def _chosen(
    tower: ImageTower | TextTower, policy: str, engine: str, probe: Probe, threads: int
) -> tuple[Choice, Engine]:
    return choose(
        policy,
        engine,
        graph=tower.graph.path,
        fingerprint=json.dumps(tower.meaning(), sort_keys=True),
        probe=probe,
        streams=threads,
    )


def decode_policy(tower: ImageTower, policy: str) -> DecodePolicy:
    """How files are decoded under a precision policy: `exact` never decodes at a reduced scale."""
    return replace(tower.decode, scaled=dict(tower.scaled).get(policy))


def batches_by_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Row numbers in batches of like length, longest first, within the token budget."""
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    start = 0
    while start < len(order):
        longest = lengths[order[start]]
        count = max(1, min(LONGEST_BATCH, TOKENS_PER_BATCH // max(1, longest)))
        yield order[start : start + count]
        start += count


_ACCEPTED = "Give a Path, the bytes of a picture file, a Pillow image, or a uint8 array (h, w, 3)."


def _pooled_output(engine: Engine) -> str:
    """By name, never by position."""
    for name in ("sentence_embedding", "text_embeds", "last_hidden_state", "token_embeddings"):
        if name in engine.outputs:
            return name
    raise ModelFormatError(
        f"The text graph has no output we know: {', '.join(engine.outputs)}.",
        hint="Name it in bowerbird.json.",
    )


def _require_output(engine: Engine, name: str, graph: Path) -> Any:
    spec = engine.outputs.get(name)
    if spec is None:
        raise ModelFormatError(
            f"{graph} has no output {name!r}; it has {', '.join(engine.outputs)}.", hint="Name one of these."
        )
    return spec


def _dimensions(spec: Any) -> int:
    width = spec.shape[-1]
    if width is None:
        raise EngineError(
            "The graph does not say how long its vectors are.", hint="Export it with a fixed last axis."
        )
    return int(width)
