"""`Encoder`: a model card and an engine. Any sequence of inputs in, one outcome for each, in order."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bowerbird.errors import (
    BowerbirdError,
    EngineError,
    InputError,
    InputErrors,
    ModelFormatError,
    UnsupportedInputError,
)
from bowerbird.lookahead import chunks, ordered_map
from bowerbird.media.image import DecodePolicy, Picture, decode, from_array, from_pillow, read_bytes
from bowerbird.models.card import ImageTower, ModelCard, TextTower, read_card
from bowerbird.models.engine import Engine
from bowerbird.models.precision import Choice, check_names, choose, describe, probe_pictures, probe_sentences
from bowerbird.models.text import Tokens, load_tokenizer, pad, pool, tokenize
from bowerbird.settings import settings

Vectors: TypeAlias = NDArray[np.float32]
Input: TypeAlias = "str | Path | bytes | Image.Image | NDArray[np.uint8]"
"""A text is always a `str`. A picture is a `Path`, the bytes of a picture file, a Pillow image, or an
(h, w), (h, w, 3) or (h, w, 4) uint8 array in RGB order."""

# Each thread decodes a batch and runs the network on it by itself: on a CPU that is a third faster than one run
# spread over all cores, and nothing waits for anything (benchmarks/LOG.md).
IMAGE_BATCH = 8
"""Pictures in one run of the network: larger batches are no faster and hold more memory."""

TOKENS_PER_BATCH = 512
"""Padded tokens in one run of the network. Texts of like length share a batch, so little of it is padding."""

LONGEST_BATCH = 16
"""Texts in one run of the network."""


GENERIC_ROLES = ("query", "document")
"""Roles that any model may be asked for; one without such a prompt takes the text as it is."""


@dataclass(frozen=True)
class Outcome:
    """What became of one input: a vector, or an error.

    Attributes:
        index: of the input in the call.
        vector: float32 (dim,), of length 1; None when there is an error.
        norm: length of the vector before it was scaled to 1.
        error: why there is no vector.
        note: what a person should know, such as that a text was cut; usually empty.
    """

    index: int
    vector: NDArray[np.float32] | None = None
    norm: float = 0.0
    error: InputError | None = None
    note: str = ""


class ImageSide:
    """The image tower: pictures to pixels to vectors."""

    def __init__(self, tower: ImageTower, policy: str, engine: str, threads: int) -> None:
        self.tower = tower
        self.choice, self._engine = choose(
            policy,
            engine,
            graph=tower.graph.path,
            fingerprint=json.dumps(tower.meaning(), sort_keys=True),
            probe=self._probe,
            streams=threads,
        )
        self._threads = threads
        self.decode = decode_policy(tower, policy)
        self._input = next(iter(self._engine.inputs))
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
        self.choice, self._engine = choose(
            policy,
            engine,
            graph=tower.graph.path,
            fingerprint=json.dumps(tower.meaning(), sort_keys=True),
            probe=self._probe,
            streams=threads,
        )
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


class Encoder:
    """A model that turns texts and pictures into vectors. Made by `load`; towers load when first needed.

    Safe to use from several threads.
    """

    def __init__(
        self, card: ModelCard, *, precision: str = "auto", engine: str = "auto", threads: int = 0
    ) -> None:
        check_names(precision, engine)
        self.card = card
        self.precision = precision
        self._engine = engine
        self._threads = threads or settings().worker_threads
        self._lock = threading.RLock()
        self._text: TextSide | None = None
        self._image: ImageSide | None = None

    @property
    def text(self) -> TextSide:
        """The text tower.

        Raises:
            UnsupportedInputError: the model takes no texts.
            ModelError: it cannot be loaded.
        """
        with self._lock:
            if self._text is None:
                if self.card.text is None:
                    raise UnsupportedInputError(
                        f"The model {self.card.name!r} takes no texts.", hint="Use a model with a text tower."
                    )
                self._text = TextSide(self.card.text, self.precision, self._engine, self._threads)
            return self._text

    @property
    def image(self) -> ImageSide:
        """The image tower.

        Raises:
            UnsupportedInputError: the model takes no pictures.
            ModelError: it cannot be loaded.
        """
        with self._lock:
            if self._image is None:
                if self.card.image is None:
                    raise UnsupportedInputError(
                        f"The model {self.card.name!r} takes no pictures.",
                        hint="Use a model with an image tower.",
                    )
                self._image = ImageSide(self.card.image, self.precision, self._engine, self._threads)
            return self._image

    def warm(self) -> Encoder:
        """Load every tower now rather than at its first use.

        Raises:
            ModelError: a tower cannot be loaded.
        """
        for tower, side in ((self.card.text, "text"), (self.card.image, "image")):
            if tower is not None:
                getattr(self, side)
        return self

    def numerics(self) -> dict[str, dict[str, Any]]:
        """What each loaded tower runs in: engine, precision, drift, reason, and scaled decode. Plain data."""
        found: dict[str, dict[str, Any]] = {}
        if self._text:
            found["text"] = _numerics(self._text.choice, self._text._engine, {})
        if self._image:
            decoding = self._image.decode.numerics()
            if decoding["scaled"]:
                decoding["scaled_cosine"] = self._image.tower.scaled_cosine
            found["image"] = _numerics(self._image.choice, self._image._engine, decoding)
        return found

    def embed(self, inputs: Input | Iterable[Input], *, output: str = "", role: str = "") -> Vectors:
        """Embed texts and pictures.

        Args:
            inputs: see `Input`; a `str` is always a text and a `Path` always a picture. One input alone is taken
                as a list of one.
            output: name of the picture output; empty takes the one shared with texts. Any other takes no texts.
            role: name of a prompt of the model, such as `query`.

        Returns:
            float32 (n, dim), rows of length 1, in the order of the inputs.

        Raises:
            InputErrors: some inputs failed; it holds an error for each of them. `outcomes` gives the rest.
            ModelError: the model cannot be loaded.
        """
        results = self.outcomes(inputs, output=output, role=role)
        errors = {result.index: result.error for result in results if result.error}
        if errors:
            raise InputErrors(errors, len(results))
        rows = [result.vector for result in results if result.vector is not None]
        return np.stack(rows) if rows else np.empty((0, self._width(output)), np.float32)

    def outcomes(self, inputs: Input | Iterable[Input], *, output: str = "", role: str = "") -> list[Outcome]:
        """Like `embed`, with an outcome for every input at its own place: a vector or a typed error."""
        listed = [inputs] if isinstance(inputs, (str, Path, bytes, Image.Image, np.ndarray)) else list(inputs)
        results: list[Outcome | None] = [None] * len(listed)
        texts = [index for index, value in enumerate(listed) if isinstance(value, str)]
        pictures = [index for index, value in enumerate(listed) if not isinstance(value, str)]
        for outcome in self._texts(texts, [str(listed[index]) for index in texts], output, role):
            results[outcome.index] = outcome
        for outcome in self._pictures(((index, listed[index]) for index in pictures), output, bool(pictures)):
            results[outcome.index] = outcome
        return [result for result in results if result is not None]

    def _width(self, output: str) -> int:
        if self.card.text and not output:
            return self.text.dimensions
        return self.image.dimensions(output or self.image.tower.output)

    def _texts(
        self, indices: Sequence[int], texts: Sequence[str], output: str, role: str
    ) -> Iterator[Outcome]:
        if not texts:
            return
        if output and self.card.image and output != self.card.image.output:
            self.image.dimensions(output)
            unshared = UnsupportedInputError(
                f"The output {output!r} is of pictures only.", hint="Leave out `output` to embed texts."
            )
            yield from (Outcome(index, error=unshared) for index in indices)
            return
        try:
            raw, dropped = self.text.encode([clean(text) for text in texts], role)
        except UnsupportedInputError as error:
            yield from (Outcome(index, error=error) for index in indices)
            return
        limit = self.text.tower.max_tokens
        for index, vector, lost in zip(indices, raw, dropped, strict=True):
            note = f"cut to {limit} tokens; {lost} more were not read" if lost else ""
            yield unit_outcome(index, vector, note)

    def _pictures(self, items: Iterable[tuple[int, Input]], output: str, some: bool) -> Iterator[Outcome]:
        if not some:
            return
        try:
            side = self.image
        except UnsupportedInputError as error:
            yield from (Outcome(index, error=error) for index, _ in items)
            return
        wanted = (output or side.tower.output,)
        side.dimensions(wanted[0])  # before any picture is read

        def embed(batch: Sequence[tuple[int, Input]]) -> list[Outcome]:
            return _embed_pictures(side, batch, wanted)

        for outcomes in ordered_map(embed, chunks(items, IMAGE_BATCH), threads=self._threads):
            yield from outcomes


def load(name: str = "", *, precision: str = "", engine: str = "", threads: int = 0) -> Encoder:
    """Load a model.

    Args:
        name: `mini` (the embedded default) or a model directory; empty takes `BOWERBIRD_MODEL`.
        precision: `auto`, `exact` or `fast`; empty takes `BOWERBIRD_PRECISION`.
        engine: `auto`, `onnxruntime` or `openvino`; empty takes `BOWERBIRD_ENGINE`.
        threads: for the engine and for decoding; 0 takes `BOWERBIRD_THREADS`.

    Raises:
        BowerbirdError: no such precision, or a negative number of threads.
        EngineError: no such engine.
        ModelNotFoundError: there is no such model.
        ModelFormatError: one of its files is missing, damaged or not understood.
    """
    if threads < 0:
        raise BowerbirdError(f"threads={threads} is negative.", hint="Give 0 for one for each processor.")
    chosen = settings()
    return Encoder(
        read_card(name or chosen.model),
        precision=precision or chosen.precision,
        engine=engine or chosen.engine,
        threads=threads or chosen.threads,
    )


def decode_policy(tower: ImageTower, policy: str) -> DecodePolicy:
    """How files are decoded under a precision policy: `exact` never decodes at a reduced scale."""
    return replace(tower.decode, scaled=dict(tower.scaled).get(policy))


def unit_outcome(index: int, vector: NDArray[np.float32], note: str = "") -> Outcome:
    """Scale a raw vector to length 1; a NaN or infinity becomes an error at its own place."""
    norm = float(np.linalg.norm(vector))
    if not np.isfinite(norm):
        error = InputError(
            "The network returned a value that is not a number.", hint="Try precision='exact'."
        )
        return Outcome(index, error=error)
    return Outcome(index, vector / np.float32(max(norm, 1e-12)), norm, note=note)


def batches_by_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Row numbers in batches of like length, longest first, within the token budget."""
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    start = 0
    while start < len(order):
        longest = lengths[order[start]]
        count = max(1, min(LONGEST_BATCH, TOKENS_PER_BATCH // max(1, longest)))
        yield order[start : start + count]
        start += count


def clean(text: str) -> str:
    """Lone surrogates, as in file names that are not UTF-8, become U+FFFD: tokenisers take Unicode only."""
    return (
        text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    )


_ACCEPTED = "Give a Path, the bytes of a picture file, a Pillow image, or a uint8 array (h, w, 3)."


def _embed_pictures(
    side: ImageSide, batch: Sequence[tuple[int, Input]], outputs: Sequence[str]
) -> list[Outcome]:
    """One batch, in one thread: decode, prepare, run. A picture that fails keeps its place."""
    outcomes: dict[int, Outcome] = {}
    ready: dict[int, NDArray[np.uint8]] = {}
    for index, source in batch:
        try:
            ready[index] = side.pixels(side.open(source))
        except InputError as error:
            outcomes[index] = Outcome(index, error=error)
    if ready:
        (raw,) = side.run(list(ready.values()), outputs)
        outcomes.update(
            {index: unit_outcome(index, vector) for index, vector in zip(ready, raw, strict=True)}
        )
    return [outcomes[index] for index, _ in batch]


def _numerics(choice: Choice, engine: Engine, extra: Mapping[str, object]) -> dict[str, Any]:
    return {**describe(choice), "engine": engine.name, **extra}


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
