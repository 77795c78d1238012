"""`Encoder`: a model card and an engine. Any sequence of inputs in, one outcome for each, in order."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bowerbird.errors import (
    BowerbirdError,
    InputError,
    InputErrors,
    UnsupportedInputError,
)
from bowerbird.lookahead import chunks, ordered_map
from bowerbird.models.card import ModelCard, Options
from bowerbird.models.directory import read_card
from bowerbird.models.network.engine import Engine
from bowerbird.models.network.precision import Choice, check_names, describe
from bowerbird.models.text.tower import TextSide
from bowerbird.models.towers import Vectors
from bowerbird.models.vision.steps import Steps
from bowerbird.models.vision.tower import ImageSide, Input, Pixels
from bowerbird.settings import settings

# Each thread decodes a batch and runs the network on it by itself: on a CPU that is a third faster than one run
# spread over all cores, and nothing waits for anything (benchmarks/LOG.md).
IMAGE_BATCH = 8
"""Pictures in one run of the network: larger batches are no faster and hold more memory."""


@dataclass(frozen=True)
class Outcome:
    """What became of one input: a vector, or an error.

    Attributes:
        index: of the input in the call.
        vector: float32 (dim,), of length 1; (tokens, dim), each row of length 1, where tokens or places are not
            pooled; None when there is an error.
        norm: length of the vector before it was scaled to 1; of several rows, of all of them together.
        error: why there is no vector.
        note: what a person should know, such as that a text was cut; usually empty.
    """

    index: int
    vector: NDArray[np.float32] | None = None
    norm: float = 0.0
    error: InputError | None = None
    note: str = ""


class Encoder:
    """A model that turns texts and pictures into vectors. Made by `load`; towers load when first needed.

    Safe to use from several threads.

    Attributes:
        card: what it was made from.
        precision: `auto`, `exact` or `fast`.
        engine: as asked for: `auto`, `onnxruntime` or `openvino`.
        threads: how many batches are decoded and run at once.
    """

    def __init__(
        self, card: ModelCard, *, precision: str = "auto", engine: str = "auto", threads: int = 0
    ) -> None:
        check_names(precision, engine)
        self.card = card
        self.precision = precision
        self.engine = engine
        self.threads = threads or settings().worker_threads
        self._lock = threading.RLock()
        self._text: TextSide | None = None
        self._image: ImageSide | None = None
        self._adapted: dict[Options, Encoder] = {}

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
                    raise self._no_tower("texts")
                self._text = TextSide(self.card.text, self.precision, self.engine, self.threads)
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
                    raise self._no_tower("pictures")
                self._image = ImageSide(self.card.image, self.precision, self.engine, self.threads)
            return self._image

    def _no_tower(self, what: str) -> UnsupportedInputError:
        options = self.card.options
        asked = " ".join(filter(None, (options.layer, options.pooling)))
        under = f" under {asked}, which its tower for them does not have" if asked else ""
        return UnsupportedInputError(
            f"The model {self.card.name!r} takes no {what}{under}.",
            hint=f"Use a model, or a layer, that takes {what}.",
        )

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
            found["text"] = _numerics(self._text.choice, self._text.engine, {})
        if self._image:
            decoding = self._image.decode.numerics()
            if decoding["scaled"]:
                decoding["scaled_cosine"] = self._image.tower.scaled_cosine
            found["image"] = _numerics(self._image.choice, self._image.engine, decoding)
        return found

    def adapted(
        self,
        *,
        preprocess: Steps | str | None = None,
        layer: int | str | None = None,
        pooling: str = "",
        dimensions: int = 0,
    ) -> Encoder:
        """The same model under other conditions; its `card.space` differs, so an index keeps the two apart.

        Args:
            preprocess: the user's own steps, or a recipe of them, for pictures; `none` for arrays that are ready for
                the network.
            layer: `penultimate`, the name of any tensor of the graph, or the number of a layer, from the end when
                negative; `bowerbird inspect` lists them.
            pooling: of a tensor with several places (`avg`, `max`, `gem`, `cls`) or tokens (see
                `bowerbird.models.text.sentence`); `none` keeps a vector for each of them.
            dimensions: keep this many and scale to length 1 again, for models trained so (Matryoshka
                representation learning, Kusupati et al. 2022, arXiv 2205.13147); 0 keeps all.

        Raises:
            ModelFormatError: there is no such layer or pooling.
            BowerbirdError: the recipe cannot be read.
        """
        asked = Options.of(preprocess=preprocess, layer=layer, pooling=pooling, dimensions=dimensions)
        options = asked.over(self.card.options)
        if options == self.card.options:
            return self
        with self._lock:
            if options not in self._adapted:
                card = read_card(self.card.source, options)
                self._adapted[options] = Encoder(
                    replace(card, name=self.card.name),
                    precision=self.precision,
                    engine=self.engine,
                    threads=self.threads,
                )
            return self._adapted[options]

    def embed(
        self,
        inputs: Input | Iterable[Input],
        *,
        output: str = "",
        role: str = "",
        preprocess: Steps | str | None = None,
        layer: int | str | None = None,
        pooling: str = "",
        dimensions: int = 0,
        normalize: bool = True,
    ) -> Vectors:
        """Embed texts and pictures.

        Args:
            inputs: see `Input`; a `str` is always a text and a `Path` always a picture. One input alone is taken
                as a list of one. With `preprocess="none"`, an array of four axes is a batch of prepared pictures.
            output: name of a picture output, such as `logits`; empty takes the one shared with texts. Any other
                takes no texts.
            role: name of a prompt of the model, such as `query`.
            preprocess: as of `adapted`.
            layer: as of `adapted`.
            pooling: as of `adapted`.
            dimensions: as of `adapted`.
            normalize: scale rows to length 1; logits, for one, may be wanted as they are.

        Returns:
            float32 (n, dim), in the order of the inputs. With `pooling="none"`, (n, longest, dim): a
            `numpy.ma.MaskedArray` that masks what is beyond an input's own tokens or places.

        Raises:
            InputErrors: some inputs failed; it holds an error for each of them. `outcomes` gives the rest.
            ModelError: the model cannot be loaded, or has no such layer or pooling.
        """
        model = self.adapted(preprocess=preprocess, layer=layer, pooling=pooling, dimensions=dimensions)
        results = model.outcomes(inputs, output=output, role=role, normalize=normalize)
        errors = {result.index: result.error for result in results if result.error}
        if errors:
            raise InputErrors(errors, len(results))
        rows = [result.vector for result in results if result.vector is not None]
        widths = sorted({row.shape[-1] for row in rows})
        if len(widths) > 1:
            raise BowerbirdError(
                f"Texts and pictures have vectors of {' and '.join(map(str, widths))} dimensions here, which one array "
                "cannot hold.",
                hint="Embed them one after the other, or use `outcomes()`.",
            )
        if any(row.ndim == 2 for row in rows):
            return _masked(rows)
        return np.stack(rows) if rows else np.empty((0, model._width(output)), np.float32)

    def outcomes(
        self, inputs: Input | Iterable[Input], *, output: str = "", role: str = "", normalize: bool = True
    ) -> list[Outcome]:
        """Like `embed`, with an outcome for every input at its own place: a vector or a typed error."""
        listed = one_by_one(inputs)
        results: list[Outcome | None] = [None] * len(listed)
        texts = [index for index, value in enumerate(listed) if isinstance(value, str)]
        pictures = [(index, value) for index, value in enumerate(listed) if not isinstance(value, str)]
        for outcome in self._texts(texts, [str(listed[index]) for index in texts], output, role, normalize):
            results[outcome.index] = outcome
        for outcome in self._pictures(pictures, output, normalize):
            results[outcome.index] = outcome
        return [result for result in results if result is not None]

    def _width(self, output: str) -> int:
        if self.card.text and not output:
            return self.text.dimensions
        return self.image.dimensions(output or self.image.tower.output)

    def _texts(
        self, indices: Sequence[int], texts: Sequence[str], output: str, role: str, normalize: bool
    ) -> Iterator[Outcome]:
        if not texts:
            return
        shared = (
            "",
            self.card.text.output if self.card.text else "",
            self.card.image.output if self.card.image else "",
        )
        if output not in shared:
            if self.card.image:
                self.image.dimensions(output)  # a name that no tower has is an error of the call
            unshared = UnsupportedInputError(
                f"Texts have no output {output!r}.", hint="Leave out `output` to embed texts."
            )
            yield from (Outcome(index, error=unshared) for index in indices)
            return
        try:
            raw, dropped = self.text.encode([clean(text) for text in texts], role)
        except UnsupportedInputError as error:
            yield from (Outcome(index, error=error) for index in indices)
            return
        limit = self.text.tower.rules.max_tokens
        for index, vector, lost in zip(indices, raw, dropped, strict=True):
            note = f"cut to {limit} tokens; {lost} more were not read" if lost else ""
            yield unit_outcome(index, vector, note, normalize=normalize)

    def _pictures(
        self, items: Sequence[tuple[int, Input]], output: str, normalize: bool
    ) -> Iterator[Outcome]:
        if not items:
            return
        try:
            side = self.image
        except UnsupportedInputError as error:
            yield from (Outcome(index, error=error) for index, _ in items)
            return
        wanted = (output or side.tower.output,)
        side.dimensions(wanted[0])  # before any picture is read

        def embed(batch: Sequence[tuple[int, Input]]) -> list[Outcome]:
            return _embed_pictures(side, batch, wanted, normalize)

        for outcomes in ordered_map(embed, chunks(items, IMAGE_BATCH), threads=self.threads):
            yield from outcomes


def load(  # noqa: PLR0913  the conditions of a model, all optional
    name: str = "",
    *,
    precision: str = "",
    engine: str = "",
    threads: int = 0,
    profile: str = "",
    variant: str = "",
    preprocess: Steps | str | None = None,
    layer: int | str | None = None,
    pooling: str = "",
    dimensions: int = 0,
) -> Encoder:
    """Load a model.

    Args:
        name: `mini` (the embedded default), a model directory, a name of the catalogue (`bowerbird models`), or a
            repository of the Hugging Face hub as `org/name` or `org/name@revision`; empty takes `BOWERBIRD_MODEL`.
        precision: `auto`, `exact` or `fast`; empty takes `BOWERBIRD_PRECISION`.
        engine: `auto`, `onnxruntime` or `openvino`; empty takes `BOWERBIRD_ENGINE`.
        threads: for the engine and for decoding; 0 takes `BOWERBIRD_THREADS`.
        profile: which reference stack's arithmetic prepares pictures: `hf4-pil`, `hf5-tv`, `openclip` or `timm`;
            empty takes the one that the model's files belong to.
        variant: a published variant of the graphs, such as `fp16` or `quantized`; empty takes the plain ones.
        preprocess: as of `Encoder.adapted`.
        layer: as of `Encoder.adapted`.
        pooling: as of `Encoder.adapted`.
        dimensions: as of `Encoder.adapted`.

    Raises:
        BowerbirdError: no such precision, a negative number of threads, or a recipe that cannot be read.
        EngineError: no such engine.
        ModelNotFoundError: there is no such model.
        ModelFormatError: one of its files is missing, damaged or not understood.
    """
    if threads < 0:
        raise BowerbirdError(f"threads={threads} is negative.", hint="Give 0 for one for each processor.")
    chosen = settings()
    options = Options.of(
        profile=profile,
        variant=variant,
        preprocess=preprocess,
        layer=layer,
        pooling=pooling,
        dimensions=dimensions,
    )
    return Encoder(
        read_card(name or chosen.model, options),
        precision=precision or chosen.precision,
        engine=engine or chosen.engine,
        threads=threads or chosen.threads,
    )


def unit_outcome(
    index: int, vector: NDArray[np.float32], note: str = "", *, normalize: bool = True
) -> Outcome:
    """Scale a raw vector to length 1, or each of its rows; a NaN or infinity becomes an error at its own place."""
    flat = vector.ravel()
    norm = math.sqrt(flat.dot(flat))
    if not math.isfinite(norm):
        error = InputError(
            "The network returned a value that is not a number.",
            hint="Try precision='exact', and a variant of the graph that is not reduced.",
        )
        return Outcome(index, error=error)
    if not normalize:
        return Outcome(index, vector, norm, note=note)
    if vector.ndim == 1:
        return Outcome(index, vector / np.float32(max(norm, 1e-12)), norm, note=note)
    lengths = np.linalg.norm(vector, axis=-1, keepdims=True)
    return Outcome(index, vector / np.maximum(lengths, np.float32(1e-12)), norm, note=note)


def clean(text: str) -> str:
    """Lone surrogates, as in file names that are not UTF-8, become U+FFFD: tokenisers take Unicode only."""
    return (
        text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    )


def one_by_one(inputs: Input | Iterable[Input]) -> list[Input]:
    """The inputs one by one: an array of four axes is a batch of pictures. Tensors of other libraries are arrays."""
    if hasattr(inputs, "__array__") and not isinstance(inputs, (np.ndarray, Image.Image)):
        inputs = np.asarray(inputs)
    single = isinstance(inputs, (str, Path, bytes, Image.Image))
    if single or (isinstance(inputs, np.ndarray) and inputs.ndim != 4):
        return [inputs]  # type: ignore[list-item]  # narrowed by the line above
    return list(inputs)  # type: ignore[arg-type]


def _masked(rows: Sequence[NDArray[np.float32]]) -> Vectors:
    """Rows of (tokens, dim) as one masked array (n, longest, dim)."""
    longest = max(len(row) for row in rows)
    values = np.zeros((len(rows), longest, rows[0].shape[1]), np.float32)
    mask = np.ones(values.shape, bool)
    for place, row in enumerate(rows):
        values[place, : len(row)] = row
        mask[place, : len(row)] = False
    return np.ma.MaskedArray(values, mask)


def _embed_pictures(
    side: ImageSide, batch: Sequence[tuple[int, Input]], outputs: Sequence[str], normalize: bool
) -> list[Outcome]:
    """One batch, in one thread: decode, prepare, run. A picture that fails keeps its place."""
    outcomes: dict[int, Outcome] = {}
    ready: dict[int, Pixels] = {}
    for index, source in batch:
        try:
            ready[index] = side.ready(source)
        except InputError as error:
            outcomes[index] = Outcome(index, error=error)
    if ready:
        (raw,) = side.run(list(ready.values()), outputs)
        outcomes.update(
            {
                index: unit_outcome(index, vector, normalize=normalize)
                for index, vector in zip(ready, raw, strict=True)
            }
        )
    return [outcomes[index] for index, _ in batch]


def _numerics(choice: Choice, engine: Engine, extra: Mapping[str, object]) -> dict[str, Any]:
    return {**describe(choice), "engine": engine.name, **extra}
