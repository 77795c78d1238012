"""Picture preprocessing: a declared list of steps from an upright RGB picture to what a network takes.

Every reference library does the same few things with other roundings, and each rounding is a field here: which kernel
resizes, how a side is rounded, where an odd pixel goes, in which precision a level becomes a number. What a model's
files ask for is read by `processors` beside this; `tests/models/vision/test_families.py` compares the result with the
original libraries bit for bit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bowerbird.errors import ModelFormatError, UnsupportedInputError
from bowerbird.models.vision import resample as torch_kernel
from bowerbird.models.vision.resample import Box

Resample: TypeAlias = int
"""Pillow's codes: 0 nearest, 1 lanczos, 2 bilinear, 3 bicubic, 4 box, 5 hamming."""

Canvas: TypeAlias = "Image.Image | NDArray[Any]"
"""A picture between two steps: RGB in Pillow, or (height, width, 3) uint8 or float32."""

Triple: TypeAlias = tuple[float, ...]
"""One number for each of the three channels."""

LARGEST_RESIZED = 1 << 26
"""Pixels: what a resize may make of a picture, 1000:1 at a short side of 256. A 1x20000 picture would take
4 GB and half a minute, to keep 0.004 % of it in the crop."""

RESAMPLE_NAMES = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")

_LATER = {"later": True}
"""Marks fields that came after indexes were written: they are stored only when they differ from their default."""


@dataclass(frozen=True)
class Resize:
    """Resize with antialiasing.

    Attributes:
        height: target height in pixels; with `shortest`, the target of the shorter side.
        width: target width in pixels; with `shortest`, equal to `height`.
        mode: `square` goes to (height, width) whatever the aspect ratio; the others keep it: `shortest` by the shorter
            side, `inside` so that the picture just fits into (height, width), `over` so that it just covers them.
        resample: Pillow's code.
        rounding: how a side that is not given comes out: `truncate` as Hugging Face and torchvision do, `round` as
            `ResizeKeepRatio` of timm and open_clip does.
        longest: with `shortest`, the longer side comes out no longer than this; 0 is no limit.
        kernel: `pillow`, on 8-bit values; `torch`, PyTorch's for tensors, on 8-bit values or on floats.
    """

    op: ClassVar[str] = "resize"
    height: int
    width: int
    mode: str = "shortest"
    resample: Resample = 3
    rounding: str = "truncate"
    longest: int = field(default=0, metadata=_LATER)
    kernel: str = field(default="pillow", metadata=_LATER)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """The (width, height) that a picture of `width` x `height` is resized to."""
        if self.mode == "square":
            return self.width, self.height
        if self.mode == "shortest":
            return self._by_short_side(width, height)
        if self.rounding == "truncate":  # `max_height` and `max_width` of Hugging Face
            scales = (self.width / width, self.height / height)
            scale = min(scales) if self.mode == "inside" else max(scales)
            return max(1, int(width * scale)), max(1, int(height * scale))
        ratios = (width / self.width, height / self.height)
        ratio = max(ratios) if self.mode == "inside" else min(ratios)
        return max(1, round(width / ratio)), max(1, round(height / ratio))

    def _by_short_side(self, width: int, height: int) -> tuple[int, int]:
        short, long = sorted((width, height))
        target: float = self.height
        if self.longest and long / short * target > self.longest:
            target = self.longest * short / long
        exact = target * long / short
        # Under a limit the reference rounds the short side, and makes the long one of the unrounded target.
        given = max(1, round(target))
        other = max(1, int(exact) if self.rounding == "truncate" else round(exact))
        return (given, other) if width <= height else (other, given)

    def __call__(self, image: Canvas, full: tuple[int, int] | None = None, box: Box | None = None) -> Canvas:
        """RGB in, RGB out.

        Args:
            image: the picture, or a scaled decode of it.
            full: (width, height) of the whole picture, when `image` is a scaled decode.
            box: the part of `image` that the picture covers; see `Picture.box`.

        Raises:
            UnsupportedInputError: the result would be larger than `LARGEST_RESIZED`.
        """
        return _resize(image, self.size(*(full or _size(image))), self.resample, self.kernel, box)

    def __str__(self) -> str:
        if self.mode == "shortest":
            limit = f" at most {self.longest}" if self.longest else ""
            target = f"short side {self.height}{limit}"
        else:
            target = ("" if self.mode == "square" else f"{self.mode} ") + f"{self.width}x{self.height}"
        rounded = "rounded" if self.rounding == "round" else ""
        return _phrase(
            f"resize {target} {RESAMPLE_NAMES[self.resample]}", rounded, _KERNEL_PHRASES[self.kernel]
        )


@dataclass(frozen=True)
class PatchResize:
    """Resize so that the picture is cut into whole patches, as many as fit, at about its aspect ratio (NaFlex).

    Attributes:
        patch: side of a patch in pixels.
        count: most patches.
        resample: Pillow's code.
        kernel: as in `Resize`.
    """

    op: ClassVar[str] = "patch_resize"
    patch: int
    count: int
    resample: Resample = 2
    kernel: str = "pillow"

    def size(self, width: int, height: int) -> tuple[int, int]:
        """The (width, height), multiples of `patch`, that a picture of `width` x `height` is resized to."""

        def scaled(side: int, scale: float) -> int:
            return max(self.patch, math.ceil(side * scale / self.patch) * self.patch)

        # The reference searches the scale by bisection down to this step, so its result depends on the step.
        step = 1e-5
        low, high = step / 10, 100.0
        while high - low >= step:
            middle = (low + high) / 2
            patches = scaled(height, middle) / self.patch * (scaled(width, middle) / self.patch)
            low, high = (middle, high) if patches <= self.count else (low, middle)
        return scaled(width, low), scaled(height, low)

    def __call__(self, image: Canvas, full: tuple[int, int] | None = None, box: Box | None = None) -> Canvas:
        """RGB in, RGB out; arguments and errors as of `Resize`."""
        return _resize(image, self.size(*(full or _size(image))), self.resample, self.kernel, box)

    def __str__(self) -> str:
        filter_name = RESAMPLE_NAMES[self.resample]
        return _phrase(
            f"resize into {self.count} patches of {self.patch} {filter_name}", _KERNEL_PHRASES[self.kernel]
        )


_KERNEL_PHRASES = {"pillow": "", "torch": "by torch"}


def _resize(image: Canvas, size: tuple[int, int], resample: Resample, kernel: str, box: Box | None) -> Canvas:
    if size[0] * size[1] > LARGEST_RESIZED:
        width, height = _size(image)
        raise UnsupportedInputError(
            f"A picture of {width}x{height} is too elongated: its short side scaled to "
            f"{min(size)} makes it {max(size)} long.",
            hint="Cut it into pieces.",
        )
    if _size(image) == size and box is None:
        return image
    if kernel == "torch":
        return torch_kernel.resize(np.asarray(image), size, resample, box)
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return image.resize(size, Image.Resampling(resample), box=box)


def _size(image: Canvas) -> tuple[int, int]:
    """(width, height)."""
    return image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])


@dataclass(frozen=True)
class CenterCrop:
    """Cut the centre; a side smaller than the crop is padded, before any normalisation.

    Attributes:
        height: in pixels.
        width: in pixels.
        rounding: the origin of the crop: `floor` as Hugging Face processors, `even` (round half to even) as
            torchvision, timm and open_clip.
        padding: where the odd pixel of a padding goes: `before` the picture as in the Pillow profile, or `after` it as
            in torchvision.
        fill: the colour of the padding, red, green and blue from 0 to 255.
    """

    op: ClassVar[str] = "center_crop"
    height: int
    width: int
    rounding: str = "floor"
    padding: str = field(default="before", metadata=_LATER)
    fill: tuple[int, ...] = field(default=(0, 0, 0), metadata=_LATER)

    def __call__(self, image: Canvas) -> Canvas:
        """RGB in, RGB out, exactly (height, width) pixels."""
        return _crop(image, (self.width, self.height), self.rounding, self.padding, self.fill)

    def __str__(self) -> str:
        fill = "fill " + " ".join(map(str, self.fill)) if any(self.fill) else ""
        return _phrase(f"centre crop {self.width}x{self.height}", *_crop_phrases(self), fill)


@dataclass(frozen=True)
class ShareCrop:
    """Cut a centre whose sides are shares of the picture's shorter side (Perceiver).

    Attributes:
        height: of the crop, as a share of the shorter side, truncated to pixels.
        width: likewise.
        rounding: as in `CenterCrop`.
        padding: as in `CenterCrop`; it is black.
    """

    op: ClassVar[str] = "share_crop"
    height: float
    width: float
    rounding: str = "floor"
    padding: str = "before"

    def __call__(self, image: Canvas) -> Canvas:
        """RGB in, RGB out."""
        short = min(_size(image))
        size = (max(1, int(self.width * short)), max(1, int(self.height * short)))
        return _crop(image, size, self.rounding, self.padding, (0, 0, 0))

    def __str__(self) -> str:
        share = f"{self.width!r}x{self.height!r}"
        return _phrase(f"centre crop {share} of the short side", *_crop_phrases(self))


def _crop_phrases(step: CenterCrop | ShareCrop) -> tuple[str, str]:
    even = "half to even" if step.rounding == "even" else ""
    return even, "padded after" if step.padding == "after" else ""


def _crop(image: Canvas, size: tuple[int, int], rounding: str, padding: str, fill: tuple[int, ...]) -> Canvas:
    have = _size(image)
    if have == size:
        return image
    left, top = (_origin(h, w, rounding, padding) for h, w in zip(have, size, strict=True))
    if isinstance(image, Image.Image) and not (any(fill) and (have[0] < size[0] or have[1] < size[1])):
        # Pillow fills what lies outside of the picture with zeros.
        return image.crop((left, top, left + size[0], top + size[1]))
    pixels = np.asarray(image)
    out = np.empty((size[1], size[0], 3), pixels.dtype)
    out[:] = fill
    x, y = max(0, -left), max(0, -top)
    part = pixels[max(0, top) : max(0, top) + size[1], max(0, left) : max(0, left) + size[0]]
    out[y : y + part.shape[0], x : x + part.shape[1]] = part
    return out


def _origin(have: int, want: int, rounding: str, padding: str) -> int:
    if have < want:
        # Floor division puts the odd pixel before the picture.
        return (have - want) // 2 if padding == "before" else -((want - have) // 2)
    return round((have - want) / 2) if rounding == "even" else (have - want) // 2


@dataclass(frozen=True)
class Floats:
    """8-bit values become float32 before the resize: ``float32(x) * float32(factor)`` (DINOv3)."""

    op: ClassVar[str] = "floats"
    factor: float

    def __call__(self, image: Canvas) -> NDArray[np.float32]:
        """RGB in, (height, width, 3) float32 out."""
        return np.asarray(image).astype(np.float32) * np.float32(self.factor)

    def __str__(self) -> str:
        return f"floats * {_number(self.factor)}"


@dataclass(frozen=True)
class Scale:
    """Levels become the numbers that the network takes: ``(x * factor - offset - mean) / std``, in float32.

    Attributes:
        factor: times the level, 0 to 255.
        mean: by channel, in the order in which the channels come out.
        std: likewise.
        arithmetic: `float64`, the product is rounded to float32 once (Hugging Face with Pillow); `float32`, the factor
            is rounded first; `divide`, ``x / (1 / factor)`` in float32 (torchvision's `ToTensor`); `fused`, mean and
            std are divided by the factor instead (Hugging Face with torchvision).
        offset: subtracted after the product (EfficientNet).
        again: by channel, divided by once more at the end (EfficientNet's `include_top`); empty: not.
        order: `rgb` or `bgr`, how the channels come out.
    """

    op: ClassVar[str] = "scale"
    factor: float
    mean: Triple
    std: Triple
    arithmetic: str = field(default="float64", metadata=_LATER)
    offset: float = field(default=0.0, metadata=_LATER)
    again: Triple = field(default=(), metadata=_LATER)
    order: str = field(default="rgb", metadata=_LATER)

    @cached_property
    def table(self) -> NDArray[np.float32]:
        """(3, 256): the value of every 8-bit level in every channel as it comes out, by the reference arithmetic."""
        levels = np.arange(256, dtype=np.float32)
        return np.stack([self._values(levels, channel) for channel in range(3)])

    def _values(self, x: NDArray[np.float32], channel: int) -> NDArray[np.float32]:
        mean, std = np.float32(self.mean[channel]), np.float32(self.std[channel])
        if self.arithmetic == "float64":
            x = (x.astype(np.float64) * self.factor).astype(np.float32)
        elif self.arithmetic == "divide":
            x = x / np.float32(1 / self.factor)
        elif self.arithmetic == "fused":
            mean, std = mean * np.float32(1 / self.factor), std * np.float32(1 / self.factor)
        else:
            x = x * np.float32(self.factor)
        x = (x - np.float32(self.offset) - mean) / std
        return x / np.float32(self.again[channel]) if self.again else x

    def __call__(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """(n, height, width, 3) uint8 or float32 to (n, 3, height, width) float32."""
        out = np.empty((pixels.shape[0], 3, *pixels.shape[1:3]), np.float32)
        for channel in range(3):
            source = pixels[..., 2 - channel if self.order == "bgr" else channel]
            if pixels.dtype == np.uint8:
                np.take(self.table[channel], source, out=out[:, channel], mode="clip")
            else:
                out[:, channel] = self._values(source, channel)
        return out

    @property
    def _divisor(self) -> float:
        """What a recipe may divide by; 0 where it cannot: not every factor is the inverse of a number, bit for bit."""
        inverse = 1 / self.factor if self.arithmetic == "divide" and self.factor else 0.0
        exact = math.isfinite(inverse) and inverse and 1 / inverse == self.factor
        return inverse if exact and inverse != 1 / 255 else 0.0

    def __str__(self) -> str:
        divisor = self._divisor
        head = f"x / {_number(divisor)}" if divisor else f"x * {_number(self.factor)}"
        plain = not any(self.mean) and set(self.std) == {1.0}
        return _phrase(
            head,
            f"minus {_number(self.offset)}" if self.offset else "",
            "" if plain else f"mean {_triple(self.mean)}",
            "" if plain else f"std {_triple(self.std)}",
            f"std again {_triple(self.again)}" if self.again else "",
            "" if divisor else _ARITHMETIC_PHRASES[self.arithmetic],
            "bgr" if self.order == "bgr" else "",
        )


_ARITHMETIC_PHRASES = {"float64": "", "divide": "divided", "float32": "in float32", "fused": "fused"}


@dataclass(frozen=True)
class Patches:
    """The picture goes to the network as rows of patches, padded with zeros (NaFlex).

    Attributes:
        patch: side of a patch in pixels.
        count: rows in all.
    """

    op: ClassVar[str] = "patches"
    patch: int
    count: int

    def __call__(self, values: NDArray[np.float32]) -> tuple[NDArray[np.float32], tuple[int, int]]:
        """(3, height, width) to (count, patch * patch * 3) and how many patches down and across."""
        rows, columns = values.shape[1] // self.patch, values.shape[2] // self.patch
        cut = values.reshape(3, rows, self.patch, columns, self.patch).transpose(1, 3, 2, 4, 0)
        out = np.zeros((self.count, self.patch * self.patch * 3), np.float32)
        out[: rows * columns] = cut.reshape(rows * columns, -1)
        return out, (rows, columns)

    def __str__(self) -> str:
        return f"patches of {self.patch}, padded to {self.count}"


GeometryStep: TypeAlias = "Resize | PatchResize | CenterCrop | ShareCrop | Floats"
Step: TypeAlias = "GeometryStep | Scale | Patches"


@dataclass(frozen=True)
class Steps:
    """The whole way from an upright RGB picture to the network's input.

    Geometry runs picture by picture; `scale` runs on a batch. ``str(steps)`` is a recipe that says everything that
    decides a value, and ``Steps.parse`` reads it back.

    Attributes:
        geometry: resizes and crops, in order.
        scale: levels to numbers.
        patches: how the picture is cut, for networks that take patches.
    """

    geometry: tuple[GeometryStep, ...]
    scale: Scale
    patches: Patches | None = None

    @property
    def target(self) -> int | None:
        """The side, in pixels, that the first resize wants; None when something other than a resize comes first."""
        number = self._first_resize
        first = self.geometry[number] if number is not None else None
        return max(first.height, first.width) if isinstance(first, Resize) else None

    @property
    def _first_resize(self) -> int | None:
        """The place of the resize that still sees the whole picture, and so can take it from a scaled decode."""
        for number, step in enumerate(self.geometry):
            if isinstance(step, (Resize, PatchResize)):
                return number
            if not isinstance(step, Floats):
                return None
        return None

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of what comes out; None when it depends on the picture."""
        size: tuple[int, int] | None = None
        for step in self.geometry:
            if isinstance(step, CenterCrop) or (isinstance(step, Resize) and step.mode == "square"):
                size = (step.height, step.width)
            elif not isinstance(step, Floats):
                size = None
        return None if self.patches else size

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest value that black and white pictures come to."""
        ends: NDArray[Any] = np.array([[[0] * 3, [255] * 3]], np.uint8)
        for step in self.geometry:
            ends = step(ends) if isinstance(step, Floats) else ends
        values = self.scale(ends[None])
        return float(values.min()), float(values.max())

    def pixels(
        self, image: Image.Image, full: tuple[int, int] | None = None, box: Box | None = None
    ) -> NDArray[Any]:
        """RGB picture to (height, width, 3), before scaling: uint8, or float32 where a resize works on floats.

        Arguments and errors are those of `Resize`.
        """
        *_, last = (image, *self._walk(image, full, box))
        return np.asarray(last)

    def _walk(self, image: Image.Image, full: tuple[int, int] | None, box: Box | None) -> Iterable[Canvas]:
        canvas: Canvas = image
        first = self._first_resize
        for number, step in enumerate(self.geometry):
            if number == first and isinstance(step, (Resize, PatchResize)):
                canvas = step(canvas, full, box)
            else:
                canvas = step(canvas)
            yield canvas

    def feeds(self, pixels: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """A batch for the network, under the names that published graphs use.

        Args:
            pixels: results of `pixels`.

        Returns:
            `pixel_values` (n, 3, height, width) float32. With patches: `pixel_values` (n, count, patch * patch * 3)
            float32, `pixel_attention_mask` (n, count) int32, 1 where there is a patch, and `spatial_shapes` (n, 2)
            int64, patches down and across.

        Raises:
            UnsupportedInputError: the pictures came out in different sizes, which one batch cannot hold.
        """
        if self.patches is None:
            if len({part.shape for part in pixels}) > 1:
                raise UnsupportedInputError(
                    "The steps leave pictures of different sizes, which one batch cannot hold.",
                    hint="End them with a centre crop, or embed one picture at a time.",
                )
            return {"pixel_values": self.scale(np.stack(pixels))}
        rows = [self.patches(self.scale(part[None])[0]) for part in pixels]
        shapes = np.array([shape for _, shape in rows], np.int64)
        mask = np.arange(self.patches.count)[None] < shapes.prod(axis=1)[:, None]
        return {
            "pixel_values": np.stack([values for values, _ in rows]),
            "pixel_attention_mask": mask.astype(np.int32),
            "spatial_shapes": shapes,
        }

    def stages(
        self, image: Image.Image, full: tuple[int, int] | None = None, box: Box | None = None
    ) -> list[tuple[str, NDArray[Any]]]:
        """The picture after every step, with the step as its recipe says it.

        Returns:
            (height, width, 3) for each geometric step, then (3, height, width) float32, then, for networks that take
            them, (count, patch * patch * 3) patches. Arguments and errors are those of `Resize`.
        """
        canvases = [np.asarray(canvas) for canvas in self._walk(image, full, box)]
        values = self.scale((canvases[-1] if canvases else np.asarray(image))[None])[0]
        found = [(str(step), canvas) for step, canvas in zip(self.geometry, canvases, strict=True)]
        found.append((str(self.scale), values))
        if self.patches:
            found.append((str(self.patches), self.patches(values)[0]))
        return found

    @property
    def steps(self) -> tuple[Step, ...]:
        """All of them, in order."""
        return (*self.geometry, self.scale, *((self.patches,) if self.patches else ()))

    def to_json(self) -> list[dict[str, Any]]:
        """The steps as plain data: what fingerprints are made of and indexes store."""
        return [{"op": step.op, **_plain(step)} for step in self.steps]

    @classmethod
    def of(cls, steps: Sequence[Step]) -> Steps:
        """Geometry, then one scale, then perhaps patches.

        Raises:
            ModelFormatError: they come in another order.
        """
        geometry = tuple(step for step in steps if not isinstance(step, (Scale, Patches)))
        rest = steps[len(geometry) :]
        patches = rest[1] if len(rest) == 2 else None
        if rest and isinstance(rest[0], Scale) and len(rest) <= 2 and not isinstance(patches, Scale):
            return cls(geometry, rest[0], patches if isinstance(patches, Patches) else None)
        raise ModelFormatError(
            f"The steps {' -> '.join(map(str, steps)) or '(none)'} are not resizes and crops, then one scale.",
            hint="Write for instance: resize 224x224 bicubic -> x * 1/255, mean 0.5, std 0.5",
        )

    @classmethod
    def parse(cls, text: str) -> Steps:
        """The inverse of ``str(steps)``; also reads what a person wrote, with less in it.

        Example: ``resize short side 256 bicubic -> centre crop 224x224 -> x * 1/255, mean 0.5, std 0.5``.

        Raises:
            ModelFormatError: names the part that is not understood and what would be accepted.
        """
        # The recipe's grammar is built from the steps above, so it is imported after them.
        from bowerbird.models.vision.recipe import parse

        return cls.of(parse(text))

    def __str__(self) -> str:
        return " -> ".join(map(str, self.steps))


def _plain(step: Step) -> dict[str, Any]:
    return {
        entry.name: getattr(step, entry.name)
        for entry in dataclasses.fields(step)
        if not (entry.metadata.get("later") and getattr(step, entry.name) == entry.default)
    }


def _phrase(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _number(value: float) -> str:
    """As short as it stays exact; the one fraction that everybody writes as a fraction."""
    if value == 1 / 255:
        return "1/255"
    return str(int(value)) if value == int(value) else repr(value)


def _triple(values: Triple) -> str:
    """One number when all channels agree."""
    if len(set(values)) == 1:
        return _number(values[0])
    return "[" + ", ".join(map(_number, values)) + "]"
