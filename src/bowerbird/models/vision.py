"""Picture preprocessing: a declared list of steps, read from a model's own files.

The arithmetic is that of the Pillow profile of the reference processors: the resize works on 8-bit values in
two passes and rounds to 8 bits, then ``float32(x * factor)``, then ``(x - mean) / std`` in float32.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bowerbird.errors import ModelFormatError, UnsupportedInputError

Box: TypeAlias = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels."""

Resample: TypeAlias = int
"""Pillow's codes: 0 nearest, 1 lanczos, 2 bilinear, 3 bicubic, 4 box, 5 hamming."""

LARGEST_RESIZED = 1 << 26
"""Pixels: what a resize may make of a picture, 1000:1 at a short side of 256. A 1x20000 picture would take
4 GB and half a minute, to keep 0.004 % of it in the crop."""

RESAMPLE_NAMES = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")


@dataclass(frozen=True)
class Resize:
    """Resize on 8-bit values, antialiased as Pillow does.

    Attributes:
        height: target height in pixels; with `shortest`, the target of the shorter side.
        width: target width in pixels; with `shortest`, equal to `height`.
        mode: `shortest` keeps the aspect ratio; `square` goes to (height, width) whatever the aspect ratio.
        resample: Pillow's code.
        rounding: how the longer side is rounded in `shortest`: `truncate` is `int(size * long / short)` as
            Hugging Face processors do, `round` is what timm and open_clip do.
    """

    op: ClassVar[str] = "resize"
    height: int
    width: int
    mode: str = "shortest"
    resample: Resample = 3
    rounding: str = "truncate"

    def size(self, width: int, height: int) -> tuple[int, int]:
        """The (width, height) that a picture of `width` x `height` is resized to."""
        if self.mode == "square":
            return self.width, self.height
        short, long = sorted((width, height))
        exact = self.height * long / short
        other = max(1, int(exact) if self.rounding == "truncate" else round(exact))
        return (self.height, other) if width <= height else (other, self.height)

    def __call__(
        self, image: Image.Image, full: tuple[int, int] | None = None, box: Box | None = None
    ) -> Image.Image:
        """RGB in, RGB out.

        Args:
            image: the picture, or a scaled decode of it.
            full: (width, height) of the whole picture, when `image` is a scaled decode.
            box: the part of `image` that the picture covers; see `Picture.box`.

        Raises:
            UnsupportedInputError: the result would be larger than `LARGEST_RESIZED`.
        """
        size = self.size(*(full or image.size))
        if size[0] * size[1] > LARGEST_RESIZED:
            raise UnsupportedInputError(
                f"A picture of {image.width}x{image.height} is too elongated: its short side scaled to "
                f"{min(size)} makes it {max(size)} long.",
                hint="Cut it into pieces.",
            )
        if image.size == size and box is None:
            return image
        return image.resize(size, Image.Resampling(self.resample), box=box)

    def __str__(self) -> str:
        how = f"short side {self.height}" if self.mode == "shortest" else f"{self.width}x{self.height}"
        return f"resize {how} {RESAMPLE_NAMES[self.resample]}"


@dataclass(frozen=True)
class CenterCrop:
    """Cut the centre; a side smaller than the crop is padded with black, before any normalisation.

    Attributes:
        height: in pixels.
        width: in pixels.
        rounding: the origin of the crop: `floor` as Hugging Face processors, `even` (round half to even) as
            torchvision, timm and open_clip.
    """

    op: ClassVar[str] = "center_crop"
    height: int
    width: int
    rounding: str = "floor"

    def __call__(self, image: Image.Image) -> Image.Image:
        """RGB in, RGB out, exactly (height, width) pixels."""
        if image.size == (self.width, self.height):
            return image
        left, top = (
            self._origin(have, want) for have, want in zip(image.size, (self.width, self.height), strict=True)
        )
        # Pillow fills what lies outside of the picture with zeros.
        return image.crop((left, top, left + self.width, top + self.height))

    def _origin(self, have: int, want: int) -> int:
        if have >= want and self.rounding == "even":
            return round((have - want) / 2)
        # Floor division puts the odd pixel of a padding before the picture, as the Pillow profile does.
        return (have - want) // 2

    def __str__(self) -> str:
        return f"centre crop {self.width}x{self.height}"


@dataclass(frozen=True)
class Scale:
    """8-bit values become float32: ``(float32(x * factor) - mean) / std``, channel by channel."""

    op: ClassVar[str] = "scale"
    factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @cached_property
    def table(self) -> NDArray[np.float32]:
        """(3, 256): the value of every 8-bit level in every channel, by the reference arithmetic."""
        levels = (np.arange(256, dtype=np.float64) * self.factor).astype(np.float32)
        mean = np.asarray(self.mean, np.float32)[:, None]
        std = np.asarray(self.std, np.float32)[:, None]
        return (levels[None] - mean) / std  # (3, 256)

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n, height, width, 3) uint8 to (n, 3, height, width) float32."""
        out = np.empty((pixels.shape[0], 3, *pixels.shape[1:3]), np.float32)
        for channel in range(3):
            np.take(self.table[channel], pixels[..., channel], out=out[:, channel], mode="clip")
        return out

    def __str__(self) -> str:
        return f"x * {self.factor:.6g}, mean {list(self.mean)}, std {list(self.std)}"


GeometryStep: TypeAlias = Resize | CenterCrop


@dataclass(frozen=True)
class Steps:
    """The whole way from an upright RGB picture to the network's input.

    Geometry runs on 8-bit RGB, picture by picture; `scale` runs on a batch. ``str(steps)`` reads as a recipe.

    Attributes:
        geometry: resizes and crops, in order.
        scale: the last step.
    """

    geometry: tuple[GeometryStep, ...]
    scale: Scale

    @property
    def target(self) -> int | None:
        """The short side, in pixels, that the first resize wants; None when nothing is resized first."""
        first = self.geometry[0] if self.geometry else None
        return min(first.height, first.width) if isinstance(first, Resize) else None

    def pixels(
        self, image: Image.Image, full: tuple[int, int] | None = None, box: Box | None = None
    ) -> NDArray[np.uint8]:
        """RGB picture to (height, width, 3) uint8, before scaling; arguments and errors as of `Resize`."""
        for number, step in enumerate(self.geometry):
            image = step(image, full, box) if number == 0 and isinstance(step, Resize) else step(image)
        return np.asarray(image)

    def to_json(self) -> list[dict[str, Any]]:
        """The steps as plain data: what fingerprints are made of and indexes store."""
        return [{"op": step.op, **dataclasses.asdict(step)} for step in (*self.geometry, self.scale)]

    def __str__(self) -> str:
        return " -> ".join(str(step) for step in (*self.geometry, self.scale))


# Keys that say nothing about the arithmetic.
_NEUTRAL_KEYS = frozenset(
    {
        "image_processor_type",
        "feature_extractor_type",
        "processor_class",
        "_processor_class",
        "return_tensors",
    }
)


@dataclass(frozen=True)
class Family:
    """How one class of image processor reads the common keys.

    Attributes:
        square: what an integer `size` means when `default_to_square` is not said.
        resample: the code when `resample` is not said.
        size: when not said.
        crop: whether `do_center_crop` is on when not said.
        crop_size: when not said.
        mean: when not said.
        std: when not said.
    """

    square: bool
    resample: Resample
    size: int
    crop: bool
    crop_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


_CLIP = Family(
    square=False,
    resample=3,
    size=224,
    crop=True,
    crop_size=224,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)

FAMILIES: dict[str, Family] = {"CLIPImageProcessor": _CLIP, "CLIPFeatureExtractor": _CLIP}
"""Image processor classes whose arithmetic is implemented here. Each family is a row of data."""


def read_steps(path: Path) -> Steps:
    """Read `preprocessor_config.json`.

    Raises:
        ModelFormatError: the file cannot be read, its class or one of its keys is not known. An unknown key is
            never ignored: it may change every vector.
    """
    try:
        config = json.loads(path.read_text("utf-8"))
        if not isinstance(config, dict):
            raise ModelFormatError(f"{path} does not hold a JSON object.")
        return _parse_config(config, path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFormatError(f"{path} cannot be read as an image processor: {error!r}.") from error


def _parse_config(config: Mapping[str, Any], path: Path) -> Steps:
    rest = {k: v for k, v in config.items() if k not in _NEUTRAL_KEYS}
    kind = config.get("image_processor_type") or config.get("feature_extractor_type")
    family = FAMILIES.get(str(kind))
    if family is None:
        raise ModelFormatError(
            f"{path}: image_processor_type {kind!r} is not known.",
            hint=f"Known: {', '.join(sorted(FAMILIES))}.",
        )
    geometry: list[GeometryStep] = []
    rest.pop("do_convert_rgb", None)  # Pictures are always RGB before the first step.
    square = bool(rest.pop("default_to_square", family.square))
    resample = int(rest.pop("resample", family.resample))
    if resample not in range(len(RESAMPLE_NAMES)):
        raise ModelFormatError(f"{path}: resample {resample} is not known.")
    size, crop = rest.pop("size", None), rest.pop("crop_size", None)
    fixed = False  # whether every picture comes out in one size
    if rest.pop("do_resize", True):
        height, width, mode = _size(family.size if size is None else size, square, path)
        geometry.append(Resize(height, width, mode, resample))
        fixed = mode == "square"
    if rest.pop("do_center_crop", family.crop):
        height, width, _ = _size(family.crop_size if crop is None else crop, True, path)
        geometry.append(CenterCrop(height, width))
        fixed = True
    if not fixed:
        raise ModelFormatError(f"{path} leaves pictures of different sizes, which no batch can hold.")
    factor = float(rest.pop("rescale_factor", 1 / 255))
    factor = factor if rest.pop("do_rescale", True) else 1.0
    mean, std = rest.pop("image_mean", None), rest.pop("image_std", None)
    if not rest.pop("do_normalize", True):
        mean, std = [0.0] * 3, [1.0] * 3
    mean = tuple(map(float, family.mean if mean is None else mean))
    std = tuple(map(float, family.std if std is None else std))
    if len(mean) != 3 or len(std) != 3 or 0.0 in std:
        raise ModelFormatError(f"{path}: image_mean and image_std are three numbers, image_std not zero.")
    if rest:
        raise ModelFormatError(
            f"{path}: unknown key {sorted(rest)[0]!r}; ignoring it could change every vector."
        )
    return Steps(tuple(geometry), Scale(factor, mean, std))


def _size(size: Any, square: bool, path: Path) -> tuple[int, int, str]:
    """(height, width, mode) of a `size` in any of its published spellings."""
    height, width, mode = _spelled(size, square, path)
    if height < 1 or width < 1:
        raise ModelFormatError(f"{path}: size {size!r} is not above zero.")
    return height, width, mode


def _spelled(size: Any, square: bool, path: Path) -> tuple[int, int, str]:
    if isinstance(size, int):
        return size, size, "square" if square else "shortest"
    if isinstance(size, dict) and set(size) == {"shortest_edge"}:
        return int(size["shortest_edge"]), int(size["shortest_edge"]), "shortest"
    if isinstance(size, dict) and set(size) == {"height", "width"}:
        return int(size["height"]), int(size["width"]), "square"
    if isinstance(size, list) and len(size) == 2:
        return int(size[0]), int(size[1]), "square"
    raise ModelFormatError(
        f"{path}: size {size!r} is not understood.",
        hint='Use {"shortest_edge": n} or {"height": h, "width": w}.',
    )
