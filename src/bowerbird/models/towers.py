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

from bowerbird.errors import BowerbirdError, EngineError, ModelFormatError, UnsupportedInputError
from bowerbird.lookahead import ordered_map
from bowerbird.media.image import DecodePolicy, Picture, decode, from_array, from_pillow, read_bytes
from bowerbird.models.card import ImageTower, TextTower
from bowerbird.models.engine import Engine, TensorSpec
from bowerbird.models.pooling import feature_axis, pool_places
from bowerbird.models.precision import Choice, Probe, choose, probe_pictures, probe_sentences, require_finite
from bowerbird.models.sentence import Dense, load_modules, shorten
from bowerbird.models.text import Tokens, feeds, load_tokenizer, mask, pool, tokenize

Vectors: TypeAlias = NDArray[np.float32]
Pixels: TypeAlias = NDArray[Any]
"""A picture after geometry: (height, width, 3), uint8 or float32; prepared, (3, height, width) float32."""
Input: TypeAlias = "str | Path | bytes | Image.Image | NDArray[np.uint8]"
"""A text is always a `str`. A picture is a `Path`, the bytes of a picture file, a Pillow image, or an
(h, w), (h, w, 3) or (h, w, 4) uint8 array in RGB order; with `preprocess="none"`, a (3, h, w) float32 array."""

TOKENS_PER_BATCH = 512
"""Padded tokens in one run of the network. Texts of like length share a batch, so little of it is padding."""

LONGEST_BATCH = 16
"""Texts in one run of the network."""


class ImageSide:
    """The image tower: pictures to pixels to vectors."""

    def __init__(self, tower: ImageTower, policy: str, engine: str, threads: int) -> None:
        self.tower = tower
        self._tensors = dict(tower.tensors)
        self._features = dict(tower.features)
        self.choice, self._engine = _chosen(tower, policy, engine, self._probe, threads)
        self.decode = decode_policy(tower, policy)
        self._input = _picture_input(self._engine, tower.graph.path)
        self._check_size()
        for name in self.outputs:
            self.dimensions(name)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The published outputs: the one shared with texts, then the one for picture-to-picture search."""
        return tuple(dict.fromkeys((self.tower.output, self.tower.similarity_output)))

    def dimensions(self, output: str) -> int:
        """Length of the vectors of an output.

        Raises:
            ModelFormatError: there is no such output.
        """
        spec = _require_output(self._engine, self._tensors.get(output, output), self.tower.graph.path)
        return _shortened(_channels(spec, self._features.get(output)), self.tower.dimensions)

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

    def pixels(self, picture: Picture) -> Pixels:
        """The picture after every geometric step: (height, width, 3), 8-bit unless the steps resize in float."""
        return self.tower.steps.pixels(picture.image, (picture.width, picture.height), picture.box)

    def ready(self, source: Input) -> Pixels:
        """One input as the network takes it: pixels after `open` and `pixels`, or a prepared array, checked.

        Raises:
            InputError: it cannot be read or decoded, or a prepared array is of the wrong shape, type or range.
        """
        return self.prepared(source) if self.tower.prepared else self.pixels(self.open(source))

    def prepared(self, array: object) -> Pixels:
        """Check an array that is said to be ready: (3, height, width) float32 in the range of the steps.

        Raises:
            UnsupportedInputError: it is not; names what would be accepted.
        """
        name, spec = self._input
        sides = spec.shape[-2:] if not _channels_last(spec) else spec.shape[1:3]
        low, high = self.tower.steps.bounds
        shown = "x".join("any" if side is None else str(side) for side in (3, *sides))
        accepted = (
            f"Accepted is float32 of shape {shown} from {low:.4g} to {high:.4g}, as {name} is trained with."
        )
        if not isinstance(array, np.ndarray) or array.dtype != np.float32:
            kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise UnsupportedInputError(f"With preprocess='none', {kind} is not taken.", hint=accepted)
        wanted = (3, *sides)
        if array.ndim != 3 or any(w not in (None, h) for w, h in zip(wanted, array.shape, strict=True)):
            raise UnsupportedInputError(f"A prepared picture has shape {array.shape}.", hint=accepted)
        slack = 1e-3 * (high - low)
        least, most = float(array.min(initial=np.inf)), float(array.max(initial=-np.inf))
        if not (low - slack <= least and most <= high + slack):  # also where a value is not a number
            raise UnsupportedInputError(
                f"A prepared picture has values from {least:.4g} to {most:.4g}.", hint=accepted
            )
        return array

    def run(self, pixels: Sequence[Pixels], outputs: Sequence[str]) -> list[Vectors]:
        """Inputs made by `ready` to raw vectors: one float32 array for each output.

        Shapes are (n, dim), or (n, places, dim) where the pooling is `none`.
        """
        return self._run_with(self._engine, pixels, outputs)

    def _run_with(self, engine: Engine, pixels: Sequence[Pixels], outputs: Sequence[str]) -> list[Vectors]:
        tensors = [self._tensors.get(name, name) for name in outputs]
        shapes = [array.shape for array in pixels]
        if (
            len(set(shapes)) > 1
        ):  # Steps of the user's own may leave pictures in sizes that no batch can hold.
            return _apart([self._run_with(engine, [array], outputs) for array in pixels])
        arrays = engine.run(self.feeds(engine, pixels), tensors)
        return [
            _cut(self.pooled(array.astype(np.float32, copy=False), name), self.tower.dimensions)
            for name, array in zip(outputs, arrays, strict=True)
        ]

    def feeds(self, engine: Engine, pixels: Sequence[Pixels]) -> dict[str, NDArray[Any]]:
        """What the graph is given: under the names, in the layout and of the types that it has."""
        name, spec = _picture_input(engine, self.tower.graph.path)
        if spec.dtype == "uint8":
            return {name: _planes(np.stack(pixels), spec)}
        if self.tower.prepared:
            feeds: dict[str, NDArray[Any]] = {"pixel_values": np.stack(pixels)}
        else:
            feeds = dict(self.tower.steps.feeds(pixels))
        values = feeds.pop("pixel_values")
        if _channels_last(spec):
            values = np.ascontiguousarray(values.transpose(0, 2, 3, 1))
        feeds = {
            key: array.astype(engine.inputs[key].dtype)
            for key, array in feeds.items()
            if key in engine.inputs
        }
        return {name: values.astype(spec.dtype, copy=False), **feeds}

    def pooled(self, array: Vectors, output: str) -> Vectors:
        """(n, dim) from what the network gives for an output; (n, places, dim) where the pooling is `none`."""
        if array.ndim == 2:
            return array
        return pool_places(array, self.tower.pooling, self._features.get(output))

    def _check_size(self) -> None:
        """Refuse steps that end in another size than the graph takes."""
        name, spec = self._input
        if self.tower.prepared or self.tower.steps.size is None or len(spec.shape) != 4:
            return
        takes = spec.shape[1:3] if _channels_last(spec) else spec.shape[2:]
        gives = self.tower.steps.size
        if any(take not in (None, give) for take, give in zip(takes, gives, strict=True)):
            raise ModelFormatError(
                f"{self.tower.graph.path} takes {name!r} of {takes[0]}x{takes[1]}, while its preprocessing ends in "
                f"{gives[0]}x{gives[1]} (height x width).",
                hint="The two belong to different models, or were exported for different sizes.",
            )

    def _probe(self, engine: Engine) -> list[Vectors]:
        exact = decode_policy(self.tower, "exact")
        pictures = [decode(data, exact, name="probe") for data in probe_pictures()]
        if not self.tower.prepared:
            arrays = [self.pixels(picture) for picture in pictures]
        else:
            arrays = list(
                self.tower.steps.feeds([self.pixels(picture) for picture in pictures])["pixel_values"]
            )
        runs = self._run_with(engine, arrays, self.outputs)
        return [vectors.reshape(-1, vectors.shape[-1]) for vectors in runs]


class TextSide:
    """The text tower: texts to tokens to vectors."""

    def __init__(self, tower: TextTower, policy: str, engine: str, threads: int) -> None:
        self.tower = tower
        self._tensor = dict(tower.tensors).get(tower.output, tower.output)
        self._tokenizer = load_tokenizer(tower.tokenizer.path, tower.rules)
        self._after = load_modules(tower.rules.after)
        self.choice, self._engine = _chosen(tower, policy, engine, self._probe, threads)
        self._threads = threads
        self._spec = _require_output(self._engine, self._tensor, tower.graph.path)

    @property
    def dimensions(self) -> int:
        """Length of the vectors."""
        rules = self.tower.rules
        width = _channels(self._spec)
        if len(self._spec.shape) == 3:
            width *= len(rules.pooling)
            for module in rules.after:
                width = module.outputs if isinstance(module, Dense) else width
        return _shortened(width, self.tower.dimensions)

    @property
    def by_token(self) -> bool:
        """Whether a text becomes a vector for each token rather than one."""
        return "none" in self.tower.rules.pooling

    def tokens(self, texts: Sequence[str], role: str = "") -> list[Tokens]:
        """What the network reads of each text: prompt, special tokens and truncation included.

        Raises:
            UnsupportedInputError: the model has no such role.
        """
        return tokenize(self._tokenizer, self.tower.rules, texts, self.tower.rules.prompt(role))

    def encode(self, texts: Sequence[str], role: str = "") -> tuple[list[Vectors], list[int]]:
        """A raw vector (dim,) for each text, or (tokens, dim) where `by_token`; and how many tokens did not fit.

        Raises:
            UnsupportedInputError: the model has no such role.
        """
        tokens = self.tokens(texts, role)
        vectors: list[Vectors] = [_NOTHING] * len(texts)

        def run(rows: Sequence[int]) -> tuple[Sequence[int], list[Vectors]]:
            return rows, self._run_with(self._engine, [tokens[row] for row in rows])

        batches = batches_by_length([len(token.ids) for token in tokens])
        for rows, part in ordered_map(run, batches, threads=self._threads):
            for row, vector in zip(rows, part, strict=True):
                vectors[row] = vector
        return vectors, [token.dropped for token in tokens]

    def raw(self, tokens: Sequence[Tokens]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """What the network gives for a batch before any pooling, and the attention mask (batch, tokens)."""
        return self._raw_with(self._engine, tokens)

    def _raw_with(
        self, engine: Engine, tokens: Sequence[Tokens]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        rules = self.tower.rules
        (array,) = engine.run(feeds(tokens, rules, engine.inputs), (self._tensor,))
        return array.astype(np.float32, copy=False), mask(tokens, rules, engine.inputs)

    def _run_with(self, engine: Engine, tokens: Sequence[Tokens]) -> list[Vectors]:
        """A vector for each row, or for each of its tokens."""
        hidden, kept = self._raw_with(engine, tokens)
        keep = self.tower.dimensions
        if self.by_token:
            return [_cut(row[real > 0], keep) for row, real in zip(hidden, kept, strict=True)]
        return list(_cut(self.pooled(hidden, kept, tokens), keep))

    def pooled(self, hidden: Vectors, kept: NDArray[np.int64], tokens: Sequence[Tokens]) -> Vectors:
        """(n, dim) from what `raw` gives: pooled, then through the modules; as it is where the graph pools."""
        if hidden.ndim == 2:
            return hidden
        rules = self.tower.rules
        return self._after(pool(hidden, kept, rules.pooling, tokens[0].prompt))

    def _probe(self, engine: Engine) -> list[Vectors]:
        _require_output(engine, self._tensor, self.tower.graph.path)
        tokens = tokenize(self._tokenizer, self.tower.rules, probe_sentences(), "")
        return [np.concatenate([np.atleast_2d(vector) for vector in self._run_with(engine, tokens)])]


def _chosen(
    tower: ImageTower | TextTower, policy: str, engine: str, probe: Probe, threads: int
) -> tuple[Choice, Engine]:
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
_NOTHING = np.empty(0, np.float32)
_PICTURE_INPUTS = ("pixel_values", "image", "images", "input", "x")


def _picture_input(engine: Engine, graph: Path) -> tuple[str, TensorSpec]:
    """The input that takes the picture: by its name, or the only one of four axes."""
    for name in _PICTURE_INPUTS:
        if name in engine.inputs:
            return name, engine.inputs[name]
    planes = [name for name, spec in engine.inputs.items() if len(spec.shape) == 4]
    if len(planes) != 1:
        raise ModelFormatError(
            f"{graph} has no input we know for a picture; it has {', '.join(engine.inputs)}.",
            hint=f"Known are {', '.join(_PICTURE_INPUTS)}, or a single input of shape (n, 3, height, width).",
        )
    return planes[0], engine.inputs[planes[0]]


def _channels_last(spec: TensorSpec) -> bool:
    return len(spec.shape) == 4 and spec.shape[-1] == 3 and spec.shape[1] != 3


def _planes(pixels: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    return pixels if _channels_last(spec) else np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def _apart(runs: Sequence[Sequence[Vectors]]) -> list[Vectors]:
    """The outputs of runs of one picture each, as if they had been one run."""
    return [np.concatenate(arrays) for arrays in zip(*runs, strict=True)]


def _require_output(engine: Engine, name: str, graph: Path) -> TensorSpec:
    spec = engine.outputs.get(name)
    if spec is None:
        raise ModelFormatError(
            f"{graph} has no output {name!r}; it has {', '.join(engine.outputs)}.",
            hint="Name one of these, or give `layer` for any other tensor.",
        )
    return spec


def _channels(spec: TensorSpec, features: int | None = None) -> int:
    """How long the vectors of a tensor are; see `bowerbird.models.pooling.places` for what the axes mean."""
    shape = spec.shape
    width = shape[feature_axis(shape) if features is None else features] if len(shape) >= 2 else None
    if width is None:
        raise EngineError(
            "The graph does not say how long its vectors are.", hint="Export it with a fixed last axis."
        )
    return width


def _cut(vectors: Vectors, dimensions: int) -> Vectors:
    return shorten(vectors, dimensions) if dimensions else vectors


def _shortened(width: int, dimensions: int) -> int:
    if dimensions > width:
        raise BowerbirdError(
            f"The model's vectors have {width} dimensions; {dimensions} were asked for.",
            hint=f"Ask for at most {width}.",
        )
    return dimensions or width
