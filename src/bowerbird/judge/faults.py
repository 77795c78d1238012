"""How a file becomes a network's input, and the table of what goes wrong with it elsewhere.

Every fault is a change of the recipe: other steps or another decode policy. They are faults of published code
and of ports to other stacks, under the names by which people know them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bowerbird.media.image import DecodePolicy, Picture
from bowerbird.models.vision.resample import Box
from bowerbird.models.vision.steps import Canvas, CenterCrop, Floats, Resize, Scale, ShareCrop, Steps, Triple

Array: TypeAlias = NDArray[Any]
Feeds: TypeAlias = dict[str, Array]
"""Input name -> array with a batch axis; see `Steps.feeds`."""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
UNCHANGED = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Recipe:
    """From a picture file to the network's input.

    Attributes:
        steps: from the upright RGB picture on.
        decode: how the file becomes that picture.
    """

    steps: Steps
    decode: DecodePolicy

    def prepare(self, picture: Picture) -> Feeds:
        """What the network takes, a batch of one."""
        pixels = self.steps.pixels(picture.image, (picture.width, picture.height), picture.box)
        return self.steps.feeds([pixels])


def together(parts: Sequence[Feeds]) -> Feeds:
    """Batches as one batch."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


Change: TypeAlias = Callable[[Recipe], "Recipe | None"]
"""A recipe with one fault; None where the recipe has nothing that could go wrong so."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        name: a few words, for tables.
        what: a clause for people, which follows "as if".
        change: see `Change`.
        concerns: `all` pictures, or only those that are `turned` (EXIF), `see-through` or `jpeg`.
        key: of the model's configuration that decides it, as transformers and then timm and open_clip call it; empty
            where no key does.
    """

    name: str
    what: str
    change: Change
    concerns: str = "all"
    key: str = ""


class PointResize(Resize):
    """A resize that interpolates between the nearest pixels however much it shrinks, as OpenCV does, and PyTorch
    unless told otherwise.
    """

    def __call__(self, image: Canvas, full: tuple[int, int] | None = None, box: Box | None = None) -> Canvas:
        """RGB in, RGB out, as of `Resize`; `box` has to be None: a scaled decode has been filtered already."""
        pixels = np.asarray(image)
        width, height = self.size(*(full or (pixels.shape[1], pixels.shape[0])))
        cubic = self.resample != Image.Resampling.BILINEAR
        rows = _interpolated(pixels.astype(np.float32), height, cubic=cubic)
        both = _interpolated(rows.swapaxes(0, 1), width, cubic=cubic).swapaxes(0, 1)
        if pixels.dtype == np.uint8:
            return np.clip(np.rint(both), 0, 255).astype(np.uint8)
        return both


class ShiftedCrop(CenterCrop):
    """A centre crop that begins one pixel too far to the right and too far down."""

    def __call__(self, image: Canvas) -> Canvas:
        """RGB in, RGB out, exactly (height, width) pixels."""
        moved = np.pad(np.asarray(image), ((0, 1), (0, 1), (0, 0)), mode="edge")[1:, 1:]
        return super().__call__(np.ascontiguousarray(moved))


def _interpolated(values: Array, wanted: int, *, cubic: bool) -> Array:
    """Along the first axis, by two taps, or by four of Keys' cubic with a = -0.75 as OpenCV and PyTorch have it."""
    centre = (np.arange(wanted) + 0.5) * (len(values) / wanted) - 0.5
    first = np.floor(centre).astype(int)
    t = (centre - first).astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))
    weights = _keys(t) if cubic else [1 - t, t]
    start = first - 1 if cubic else first
    total: Array = np.zeros((wanted, *values.shape[1:]), np.float32)
    for tap, weight in enumerate(weights):
        total += weight * values[np.clip(start + tap, 0, len(values) - 1)]
    return total


def _keys(t: Array) -> list[Array]:
    """Weights of the four pixels around a place that is `t` beyond the second of them."""
    a = np.float32(-0.75)

    def near(x: Array) -> Array:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    before = ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a
    return [before, near(t), near(1 - t), 1 - before - near(t) - near(1 - t)]


def _short_side(share: float) -> Change:
    """Resize the short side to the final size over a share, and cut the centre."""

    def change(recipe: Recipe) -> Recipe | None:
        size = recipe.steps.size
        resize = next((step for step in recipe.steps.geometry if isinstance(step, Resize)), None)
        if size is None or resize is None or size[0] != size[1]:
            return None
        side = int(size[0] / share)
        crops = [step for step in recipe.steps.geometry if isinstance(step, CenterCrop)]
        crop = crops[-1] if crops else CenterCrop(*size)
        short = replace(resize, height=side, width=side, mode="shortest", longest=0)
        return _with(recipe, geometry=(*_floats(recipe), short, crop))

    return change


def _resampled(code: int) -> Change:
    return lambda recipe: _each(recipe, Resize, lambda step: replace(step, resample=code))


def _squashed(recipe: Recipe) -> Recipe | None:
    """One resize to the final size, whatever the shape of the picture."""
    size = recipe.steps.size
    resize = next((step for step in recipe.steps.geometry if isinstance(step, Resize)), None)
    if size is None or resize is None:
        return None
    squash = replace(resize, height=size[0], width=size[1], mode="square", longest=0)
    return _with(recipe, geometry=(*_floats(recipe), squash))


def _cropped(recipe: Recipe) -> Recipe | None:
    """Short side and crop, where the model was trained on squashed pictures."""
    rest = [step for step in recipe.steps.geometry if not isinstance(step, Floats)]
    only = rest[0] if len(rest) == 1 else None
    if not isinstance(only, Resize) or only.mode != "square" or only.height != only.width:
        return None
    crop = CenterCrop(only.height, only.width)
    return _with(recipe, geometry=(*_floats(recipe), replace(only, mode="shortest"), crop))


def _unfiltered(recipe: Recipe) -> Recipe | None:
    return _each(recipe, Resize, lambda step: _as(PointResize, step) if step.resample else step)


def _unrounded(recipe: Recipe) -> Recipe | None:
    """Floating-point values from the start, as `ToTensor` before the resize makes them."""
    smooth = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
    changed = _each(
        recipe, Resize, lambda step: replace(step, kernel="torch") if step.resample in smooth else step
    )
    if changed is None or _floats(recipe):
        return None
    return _with(changed, geometry=(Floats(1.0), *changed.steps.geometry))


def _shifted(recipe: Recipe) -> Recipe | None:
    return _each(recipe, CenterCrop, lambda step: _as(ShiftedCrop, step))


def _rounded_otherwise(recipe: Recipe) -> Recipe | None:
    other = {"floor": "even", "even": "floor", "truncate": "round", "round": "truncate"}
    return _each(
        recipe, (Resize, CenterCrop, ShareCrop), lambda step: replace(step, rounding=other[step.rounding])
    )


def _scaled(factor: float, statistics: tuple[Triple, Triple]) -> Change:
    def change(recipe: Recipe) -> Recipe | None:
        before = float(np.prod([step.factor for step in _floats(recipe)]))
        right = recipe.steps.scale
        wrong = Scale(factor / before, *statistics, order=right.order)
        return None if np.allclose(wrong.table, right.table, atol=1e-3) else _with(recipe, scale=wrong)

    return change


def _swapped(recipe: Recipe) -> Recipe | None:
    scale = recipe.steps.scale
    return _with(recipe, scale=replace(scale, order="rgb" if scale.order == "bgr" else "bgr"))


def _resize_only(recipe: Recipe) -> Recipe | None:
    """What is left when nobody reads the model's configuration."""
    return _scaled(1.0, UNCHANGED)(_squashed(recipe) or recipe)


def _decoded(**changes: Any) -> Change:
    return lambda recipe: replace(recipe, decode=replace(recipe.decode, **changes))


_FILTER = "resample (timm, open_clip: interpolation)"
_SIZE = "size (timm: crop_pct)"
_CROP = "do_center_crop and size (timm: crop_mode; open_clip: resize_mode)"
_MEAN = "image_mean and image_std (timm, open_clip: mean and std)"

FAULTS = (
    Fault("nearest", "pictures were resized by nearest neighbour", _resampled(0), key=_FILTER),
    Fault("bilinear", "pictures were resized bilinearly", _resampled(2), key=_FILTER),
    Fault("bicubic", "pictures were resized bicubically", _resampled(3), key=_FILTER),
    Fault("no antialias", "pictures were resized without antialiasing", _unfiltered),
    Fault("float resize", "the resize neither rounded nor cut its results to 0..255", _unrounded),
    Fault("squash", "pictures were squashed to the final size rather than cropped", _squashed, key=_CROP),
    Fault(
        "crop for squash", "pictures were cropped rather than squashed to the final size", _cropped, key=_CROP
    ),
    Fault("crop + 1 px", "the crop were off by one pixel", _shifted),
    Fault("other rounding", "sizes and crops were rounded by the other convention", _rounded_otherwise),
    Fault("BGR", "red and blue were swapped (BGR)", _swapped, key="do_flip_channel_order"),
    Fault(
        "ImageNet mean/std",
        "values were normalised by ImageNet's mean and std",
        _scaled(1 / 255, IMAGENET),
        key=_MEAN,
    ),
    Fault(
        "CLIP mean/std", "values were normalised by CLIP's mean and std", _scaled(1 / 255, CLIP), key=_MEAN
    ),
    Fault("[-1,1]", "values were scaled to [-1,1]", _scaled(1 / 255, HALF), key=_MEAN),
    Fault("[0,1]", "values were scaled to [0,1] only", _scaled(1 / 255, UNCHANGED), key=_MEAN),
    Fault(
        "0..255", "values were not scaled at all", _scaled(1.0, UNCHANGED), key="do_rescale, rescale_factor"
    ),
    Fault("resize only", "pictures were squashed to size and not scaled at all", _resize_only),
    Fault("EXIF ignored", "the EXIF orientation were ignored", _decoded(exif=False), "turned"),
    Fault(
        "alpha dropped",
        "transparency were dropped, which shows what it hides",
        _decoded(alpha="drop"),
        "see-through",
    ),
    Fault(
        "JPEG reduced",
        "JPEGs were decoded at the smallest scale that has as many pixels as the resize wants",
        _decoded(scaled=1.0),
        "jpeg",
    ),
)


SHORT_SIDES = tuple(
    Fault(
        f"crop share {share:g}",
        "the short side were resized to the crop's size"
        if share == 1
        else f"the short side were resized so that the crop keeps {share:g} of it",
        _short_side(share),
        key=_SIZE,
    )
    for share in (1.0, 0.95, 0.9, 0.875, 0.8)
)
"""Other shares of the picture than the model's own, which a diagnosis tries too."""


def faults_of(right: Recipe, faults: Sequence[Fault] = FAULTS) -> list[tuple[Fault, Recipe]]:
    """The faults that this recipe can have, each with the recipe that has it."""
    changed = ((fault, fault.change(right)) for fault in faults)
    return [(fault, recipe) for fault, recipe in changed if recipe is not None and recipe != right]


def _floats(recipe: Recipe) -> list[Floats]:
    return [step for step in recipe.steps.geometry if isinstance(step, Floats)]


def _with(recipe: Recipe, **changes: Any) -> Recipe:
    return replace(recipe, steps=replace(recipe.steps, **changes))


def _each(
    recipe: Recipe, kind: type[Any] | tuple[type[Any], ...], change: Callable[[Any], Any]
) -> Recipe | None:
    """Change every step of a kind; None where that changes nothing."""
    geometry = tuple(change(step) if isinstance(step, kind) else step for step in recipe.steps.geometry)
    return None if geometry == recipe.steps.geometry else _with(recipe, geometry=geometry)


def _as(kind: type[Any], step: Any) -> Any:
    """The same step, of another class."""
    return kind(**{field.name: getattr(step, field.name) for field in fields(step)})
