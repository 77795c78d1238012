"""The picture tower: files to pictures to pixels to vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bowerbird.errors import ModelFormatError, UnsupportedInputError
from bowerbird.media.image import DecodePolicy, Picture, decode, from_array, from_pillow, read_bytes
from bowerbird.models.card import ImageTower
from bowerbird.models.network.engine import Engine
from bowerbird.models.network.graph import TensorSpec
from bowerbird.models.network.precision import probe_pictures
from bowerbird.models.towers import Vectors, channels, cut, open_tower, require_output, shortened
from bowerbird.models.vision.pooling import pool_places

Pixels: TypeAlias = NDArray[Any]
"""A picture after geometry: (height, width, 3), uint8 or float32; prepared, (3, height, width) float32."""
Input: TypeAlias = "str | Path | bytes | Image.Image | NDArray[np.uint8]"
"""A text is always a `str`. A picture is a `Path`, the bytes of a picture file, a Pillow image, or an
(h, w), (h, w, 3) or (h, w, 4) uint8 array in RGB order; with `preprocess="none"`, a (3, h, w) float32 array."""

_ACCEPTED = "Give a Path, the bytes of a picture file, a Pillow image, or a uint8 array (h, w, 3)."
_PICTURE_INPUTS = ("pixel_values", "image", "images", "input", "x")


class ImageSide:
    """The image tower: pictures to pixels to vectors."""

    def __init__(self, tower: ImageTower, policy: str, engine: str, threads: int) -> None:
        self.tower = tower
        self._tensors = dict(tower.tensors)
        self._features = dict(tower.features)
        self.choice, self.engine = open_tower(tower, policy, engine, self._probe, threads)
        self.decode = decode_policy(tower, policy)
        self._input = _picture_input(self.engine, tower.graph.path)
        self._check_size()
        name, spec = self._input
        if tower.prepared and (len(spec.shape) != 4 or spec.dtype == "uint8"):
            raise ModelFormatError(
                f"{tower.graph.path} takes {name!r} as {spec.dtype} of {len(spec.shape)} axes, for which prepared "
                "arrays are not supported.",
                hint="Leave out preprocess='none'.",
            )
        for output in self.outputs:
            self.dimensions(output)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The published outputs: the one shared with texts, then the one for picture-to-picture search."""
        return tuple(dict.fromkeys((self.tower.output, self.tower.similarity_output)))

    def dimensions(self, output: str) -> int:
        """Length of the vectors of an output.

        Raises:
            ModelFormatError: there is no such output.
        """
        spec = require_output(self.engine, self._tensors.get(output, output), self.tower.graph.path)
        return shortened(channels(spec, self._features.get(output)), self.tower.dimensions)

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
        if hasattr(array, "__array__") and not isinstance(array, Image.Image):
            array = np.asarray(array)  # a tensor of another library
        if not isinstance(array, np.ndarray) or array.dtype != np.float32:
            kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise UnsupportedInputError(
                f"With preprocess='none', {kind} is not taken.",
                hint=f"{accepted} `array.astype('float32')` makes one.",
            )
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
        return self._run_with(self.engine, pixels, outputs)

    def run_prepared(self, arrays: Sequence[Pixels], outputs: Sequence[str]) -> list[Vectors]:
        """Like `run`, for arrays that `prepared` has let pass, whatever this tower takes otherwise.

        Raises:
            UnsupportedInputError: the graph scales 8-bit levels by itself, so nothing is prepared for it.
        """
        name, spec = self._input
        if spec.dtype == "uint8":
            raise UnsupportedInputError(
                f"The graph takes {name!r} as 8-bit levels, for which prepared arrays are not supported.",
                hint="Give the picture itself.",
            )
        return self._run_with(self.engine, arrays, outputs, prepared=True)

    def _run_with(
        self, engine: Engine, pixels: Sequence[Pixels], outputs: Sequence[str], *, prepared: bool = False
    ) -> list[Vectors]:
        tensors = [self._tensors.get(name, name) for name in outputs]
        shapes = [array.shape for array in pixels]
        if (
            len(set(shapes)) > 1
        ):  # Steps of the user's own may leave pictures in sizes that no batch can hold.
            return _apart([self._run_with(engine, [array], outputs, prepared=prepared) for array in pixels])
        arrays = engine.run(self.feeds(engine, pixels, prepared=prepared), tensors)
        return [
            cut(self.pooled(array.astype(np.float32, copy=False), name), self.tower.dimensions)
            for name, array in zip(outputs, arrays, strict=True)
        ]

    def feeds(
        self, engine: Engine, pixels: Sequence[Pixels], *, prepared: bool = False
    ) -> dict[str, NDArray[Any]]:
        """What the graph is given: under the names, in the layout and of the types that it has."""
        name, spec = _picture_input(engine, self.tower.graph.path)
        if spec.dtype == "uint8":
            return {name: _planes(np.stack(pixels), spec)}
        if prepared or self.tower.prepared:
            return self.bind(engine, {"pixel_values": np.stack(pixels)})
        return self.bind(engine, self.tower.steps.feeds(pixels))

    def bind(self, engine: Engine, prepared: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """What `Steps.feeds` gives, under the names, in the layout and of the types of the graph."""
        name, spec = _picture_input(engine, self.tower.graph.path)
        values = prepared["pixel_values"]
        if _channels_last(spec):
            values = np.ascontiguousarray(values.transpose(0, 2, 3, 1))
        others = {
            key: array.astype(engine.inputs[key].dtype)
            for key, array in prepared.items()
            if key != "pixel_values" and key in engine.inputs
        }
        return {name: values.astype(spec.dtype, copy=False), **others}

    @property
    def takes_levels(self) -> bool:
        """Whether the graph takes 8-bit levels and scales them by itself."""
        return self._input[1].dtype == "uint8"

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


def decode_policy(tower: ImageTower, policy: str) -> DecodePolicy:
    """How files are decoded under a precision policy: `exact` never decodes at a reduced scale."""
    return replace(tower.decode, scaled=dict(tower.scaled).get(policy))


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
