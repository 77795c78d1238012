"""Where in a picture a model finds what it is asked for: a heat map, from the ONNX graph alone.

The score of a picture is ``cos(v, q)``. With a text, q is its vector. Without one, q is what sets the picture
apart from an empty one of its median colour, ``unit(v - v_empty)``: the vector of a picture itself is mostly what all
pictures have in common, so it would be found everywhere.

Four methods, none of which needs gradients from a training library:

`occlusion`, the default
    A soft window takes the median colour, and everything else does (Zeiler and Fergus 2014, arXiv 1311.2901; both ways
    as in Petsiuk et al. 2018, arXiv 1806.07421): what the score loses and what it gains is the heat under the window.
    It asks nothing of the network but its output, and runs it about a hundred times.
`places`
    What the rest of the network makes of one place by itself: the last map of features is filled with the features of
    one place at a time, and the score of what comes out is the heat of that place. Where the rest is an average and a
    matrix this is the class activation map (Zhou et al. 2016, arXiv 1512.04150) of the direction q; where it is an
    attention, each place alone is attended to, which is the value path of MaskCLIP (Zhou, Loy and Dai 2022,
    arXiv 2112.01071). It takes a tenth of the time of `occlusion`, and is as good on convolutional networks; of a
    transformer it says something only where training has aligned the values of its last layer with its output.
`gradient`
    Features times the gradient of the score by them, summed for each place (HiResCAM, Draelos and Carin 2020,
    arXiv 2011.08891; Grad-CAM where the rest begins with an average). The derivative along each place's features is
    a central difference through the rest of the network.
`rollout`
    Attention of all layers multiplied, half of it passing by (Abnar and Zuidema 2020, arXiv 2005.00928). It shows
    where the first token has its information from, whatever is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bowerbird.errors import LearnError
from bowerbird.learn.attention_graph import Rest, attentions, grid_of, rest_of
from bowerbird.lookahead import chunks
from bowerbird.models.encoder import Encoder
from bowerbird.models.vision.steps import PatchResize, Resize, Steps
from bowerbird.models.vision.tower import ImageSide, Input, Pixels

Map = NDArray[np.float32]

METHODS = ("occlusion", "places", "gradient", "rollout")

WINDOWS = 7
"""Places of the window of `occlusion` along each side."""

WINDOW = 0.33
"""Side of the window, as a share of the side of the picture."""

STEP = 0.1
"""By how much `gradient` changes the features of a place, as a share of them."""

BATCH = 16


@dataclass(frozen=True, eq=False)
class Heat:
    """A heat map.

    Attributes:
        values: float32 (rows, columns) over `box`, in units of the score; of `rollout`, shares that add up to 1.
        box: (left, top, right, bottom): what the network sees, in pixels of the upright picture; beyond its sides where
            it was padded.
        picture: upright, RGB.
        score: cosine of the picture with what was asked for; NaN for `rollout`.
        text: that was asked for; empty for the picture by itself.
        method: one of `METHODS`.
        layer: the tensor whose places are shown; empty for `occlusion`.
        model: its name.
    """

    values: Map
    box: tuple[float, float, float, float]
    picture: Image.Image
    score: float
    text: str
    method: str
    layer: str
    model: str

    @property
    def strength(self) -> Map:
        """(height, width) of the picture: 0 for the median place or less, 1 for the strongest; NaN where the network
        does not look.
        """
        return self.strength_at(self.picture.size)

    def strength_at(self, size: tuple[int, int]) -> Map:
        """`strength` for the picture scaled to (width, height)."""
        base = float(np.median(self.values))
        most = float(self.values.max()) - base
        shares = np.maximum(self.values - base, 0) / most if most > 1e-9 else np.zeros_like(self.values)
        across, down = size[0] / self.picture.width, size[1] / self.picture.height
        left, top, right, bottom = self.box
        return _spread(
            shares.astype(np.float32), (left * across, top * down, right * across, bottom * down), size
        )

    @property
    def strongest(self) -> tuple[float, float]:
        """(x, y) of the middle of the strongest place, in pixels of the upright picture."""
        rows, columns = self.values.shape
        row, column = np.unravel_index(int(self.values.argmax()), self.values.shape)
        left, top, right, bottom = self.box
        x = left + (float(column) + 0.5) * (right - left) / columns
        y = top + (float(row) + 0.5) * (bottom - top) / rows
        return min(max(x, 0.0), self.picture.width - 1.0), min(max(y, 0.0), self.picture.height - 1.0)

    def half(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom): the smallest box, in pixels, around all that is hotter than half of the most."""
        rows, columns = np.nonzero(np.nan_to_num(self.strength) >= 0.5)
        if not len(rows):
            return 0, 0, *self.picture.size
        return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1

    def draw(self) -> Image.Image:
        """The picture, and beside it the heat upon it, with a legend."""
        from bowerbird.learn.attention_sheet import sheet

        return sheet(self)

    def save(self, path: str | Path) -> None:
        """Write the sheet that `draw` gives as a picture, or the values as `.npy`.

        Raises:
            LearnError: the name ends otherwise.
            StoreError: the file cannot be written.
        """
        from bowerbird.store.location import writable

        place = Path(path).expanduser()
        kind = place.suffix.lower()
        if kind not in (".png", ".jpg", ".jpeg", ".webp", ".npy"):
            raise LearnError(
                f"A heat map cannot be written as {place.name!r}.",
                hint="Give a name in .png, .jpg, .webp or .npy.",
            )
        with writable(place), place.open("wb") as stream:
            if kind == ".npy":
                np.save(stream, self.values)
            else:
                self.draw().save(stream, {".png": "PNG", ".webp": "WEBP"}.get(kind, "JPEG"))


def attention(model: Encoder, picture: Input, *, text: str = "", method: str = "occlusion") -> Heat:
    """Where a model finds something in a picture.

    Args:
        model: that takes pictures, and texts if one is given.
        picture: as `Encoder.embed` takes it.
        text: what to look for; empty for what sets the picture apart from an empty one.
        method: one of `METHODS`.

    Raises:
        InputError: the picture or the text cannot be embedded.
        LearnError: the method does not suit the network, or what is asked for is the same as an empty picture.
        ModelError: the model cannot be loaded.
    """
    if method not in METHODS:
        raise LearnError(f"There is no method {method!r}.", hint=f"Use one of {', '.join(METHODS)}.")
    side = model.image
    if side.tower.prepared or side.tower.pooling == "none":
        raise LearnError(
            "A model of prepared arrays, or of places that are not pooled, has no picture to lay a heat map on.",
            hint="Leave out preprocess='none' and pooling='none'.",
        )
    opened = side.open(picture)
    pixels = side.pixels(opened)
    box = seen(side.tower.steps, (opened.width, opened.height))
    query, score = _asked(model, side, pixels, text)
    rest = None
    if method in ("places", "gradient"):
        rest = rest_of(side, pixels)
        values = _place_by_place(rest, query) if method == "places" else _gradient(rest, query)
    elif method == "rollout":
        values, score = rollout(attentions(side, pixels), pixels.shape[:2]), float("nan")
    else:
        values = _occluded(side, pixels, query)
    whole = opened.image.resize((opened.width, opened.height)) if opened.scale > 1 else opened.image
    layer = rest.layer if rest else ""
    return Heat(values.astype(np.float32), box, whole, score, text, method, layer, model.card.name)


def seen(steps: Steps, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """(left, top, right, bottom): what part of a picture of (width, height) comes out of the steps, in its pixels.

    Every step is a scale or a shift for each axis; of a crop, the shift is read off a picture of coordinates.
    """
    offset, scale = np.zeros(2), np.ones(2)
    now = size
    for step in steps.geometry:
        if isinstance(step, (Resize, PatchResize)):
            then = step.size(*now)
            scale = scale * (np.array(now) / np.array(then))
        else:
            columns, rows = np.meshgrid(np.arange(1, now[0] + 1), np.arange(1, now[1] + 1))
            # What a crop pads with is no more than 255; no coordinate counted from there is.
            marked = np.asarray(step(np.stack([columns, rows, rows], -1).astype(np.int32) + 255))
            then = (marked.shape[1], marked.shape[0])
            if marked.dtype == np.int32:
                row, column = np.argwhere(marked[..., 0] > 255)[0]
                shift = marked[row, column, :2] - 256 - (column, row)
                offset = offset + scale * shift
        now = then
    right, bottom = offset + scale * np.array(now)
    return float(offset[0]), float(offset[1]), float(right), float(bottom)


def rollout(layers: list[Map], size: tuple[int, ...]) -> Map:
    """Attention rollout: from each layer's attention (tokens, tokens), mean over heads, to a share for each place.

    ``A~ = (A + I) / 2``, rows scaled to 1, multiplied from the last layer to the first; the row of the first token,
    without the tokens that are no places. Without such a token, the mean of all rows.

    Args:
        layers: from the first one.
        size: (height, width) of what the network takes.
    """
    joint = np.eye(len(layers[0]), dtype=np.float64)
    for layer in layers:
        mixed = (layer + np.eye(len(layer))) / 2
        joint = (mixed / mixed.sum(-1, keepdims=True)) @ joint
    rows, columns = grid_of(len(joint), size)
    extra = len(joint) - rows * columns
    shares = (joint[0] if extra else joint.mean(0))[extra:]
    found: Map = (shares / max(shares.sum(), 1e-12)).reshape(rows, columns).astype(np.float32)
    return found


def _asked(model: Encoder, side: ImageSide, pixels: Pixels, text: str) -> tuple[Map, float]:
    """The direction that is asked for, of length 1, and the picture's score along it."""
    own, empty = _vectors(side, [pixels, _emptied(pixels)])
    if text:
        (outcome,) = model.outcomes([text], role="query" if _has_prompt(model) else "")
        if outcome.error is not None or outcome.vector is None:
            raise outcome.error or LearnError("The text has no vector.")
        if outcome.vector.shape != own.shape:
            raise LearnError(
                f"Texts and pictures of {model.card.name!r} share no space.",
                hint="Leave out the text, or fit the two to each other: `bowerbird fit`.",
            )
        return outcome.vector, float(own @ outcome.vector)
    apart = own - empty
    length = float(np.linalg.norm(apart))
    if length < 1e-4:
        raise LearnError(
            "To this model the picture is the same as an empty one of its median colour, so nothing sets it apart.",
            hint="Give a text to look for.",
        )
    query: Map = apart / np.float32(length)
    return query, float(own @ query)


def _has_prompt(model: Encoder) -> bool:
    return model.card.text is not None and "query" in dict(model.card.text.rules.prompts)


def _emptied(pixels: Pixels) -> Pixels:
    """A picture of the median colour."""
    middle = np.median(pixels.reshape(-1, pixels.shape[-1]), axis=0).astype(pixels.dtype)
    return np.broadcast_to(middle, pixels.shape).copy()


def _vectors(side: ImageSide, pictures: Iterable[Pixels]) -> Map:
    """Unit rows of the output that is shared with texts."""
    return _unit(np.concatenate([side.run(some, [side.tower.output])[0] for some in chunks(pictures, BATCH)]))


def _unit(rows: Map) -> Map:
    unit: Map = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
    return unit


def _place_by_place(rest: Rest, query: Map) -> Map:
    scores = [_unit(rest.run(rest.filled(place))) @ query for place in rest.batches(BATCH)]
    found: Map = np.concatenate(scores).reshape(rest.rows, rest.columns)
    return found


def _gradient(rest: Rest, query: Map) -> Map:
    parts: list[NDArray[Any]] = []
    for places in rest.batches(BATCH):
        more, less = (_unit(rest.run(rest.scaled(places, 1 + sign * STEP))) @ query for sign in (1, -1))
        parts.append((more - less) / (2 * STEP))
    return np.concatenate(parts).reshape(rest.rows, rest.columns).astype(np.float32)


def _occluded(side: ImageSide, pixels: Pixels, query: Map) -> Map:
    """The mean of what is lost where a window is hidden and of what is gained where it alone is shown, spread over what
    the window covers: a value for each of `4 WINDOWS` rows and columns.
    """
    height, width = pixels.shape[:2]
    down, across = _profiles(height), _profiles(width)
    empty = _emptied(pixels)

    def pictures() -> Iterator[Pixels]:
        yield from (pixels, empty)
        for one in down:
            for other in across:
                share = (one[:, None] * other[None])[..., None]
                yield from (_mixed(empty, pixels, share), _mixed(pixels, empty, share))

    own, nothing, *scores = _vectors(side, pictures()) @ query
    hidden, shown = np.array(scores).reshape(len(down), len(across), 2).transpose(2, 0, 1)
    worth = (own - hidden + shown - nothing) / 2
    cells = 4 * WINDOWS
    rows, columns = (_cells(profile, cells) for profile in (down, across))
    spread: NDArray[Any] = (rows.T @ worth @ columns) / np.outer(rows.sum(0), columns.sum(0))
    return spread.astype(np.float32)


def _mixed(inside: Pixels, outside: Pixels, share: Map) -> Pixels:
    """One picture inside of a window, another outside of it."""
    values: NDArray[Any] = outside + (inside.astype(np.float32) - outside) * share
    return (np.rint(values) if inside.dtype == np.uint8 else values).astype(inside.dtype)


def _profiles(side: int) -> Map:
    """(WINDOWS, side): how far each window covers each pixel, with soft edges."""
    half, soft = WINDOW * side / 2, 0.1 * side
    pixels = np.arange(side) + 0.5
    centres = np.linspace(0, side, WINDOWS)[:, None]
    found: Map = np.clip((half - np.abs(pixels - centres)) / soft + 0.5, 0, 1).astype(np.float32)
    return found


def _cells(profiles: Map, cells: int) -> Map:
    """The profiles at the middles of so many cells."""
    middles = ((np.arange(cells) + 0.5) * profiles.shape[1] / cells).astype(int)
    found: Map = profiles[:, middles]
    return found


def _spread(shares: Map, box: tuple[float, float, float, float], size: tuple[int, int]) -> Map:
    """A grid over a box as a smooth map over a picture of (width, height); NaN outside of the box."""
    width, height = size
    left, top, right, bottom = box
    x = (np.arange(width) + 0.5 - left) / (right - left)
    y = (np.arange(height) + 0.5 - top) / (bottom - top)
    found = _along(_along(shares, y).T, x).T
    found[(y < 0) | (y > 1)] = np.nan
    found[:, (x < 0) | (x > 1)] = np.nan
    return found


def _along(values: Map, where: NDArray[Any]) -> Map:
    """Between the middles of the rows, at places from 0 to 1, by cubic convolution (Keys 1981) kept within 0 to 1."""
    place = np.clip(where * len(values) - 0.5, 0, len(values) - 1)
    first = np.floor(place).astype(int)
    found = np.zeros((len(place), values.shape[1]), np.float32)
    for tap in range(-1, 3):
        t = np.abs(place - first - tap)
        near, far = (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
        weight = np.where(t <= 1, near, np.where(t < 2, far, 0)).astype(np.float32)
        found += weight[:, None] * values[np.clip(first + tap, 0, len(values) - 1)]
    return np.clip(found, 0, 1)
