"""A heat map as a sheet: the picture, and beside it the heat upon it, with words and a legend."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from bowerbird.learn.attention import Heat

LONGEST = 900
"""Pixels of the long side of each picture on the sheet; small ones are enlarged to `LEAST`."""

LEAST = 420

_PAPER, _INK, _FAINT = (250, 249, 246), (28, 30, 33), (104, 108, 114)
_MARGIN, _GAP, _BAR = 40, 24, 14
_TITLE, _BODY = 24, 17

# 17 of the 256 colours of inferno (van der Walt and Smith 2015, CC0), from black over red to pale yellow.
_INFERNO = (
    "0000040c082625084845095c610c6a7c176b932567ac335ac43d4dd84c3de86027f27a15f99b0bfabc20f6de54f1f486fcffa4"
)
_TABLE = np.array([int(_INFERNO[at : at + 2], 16) for at in range(0, len(_INFERNO), 2)], np.float32).reshape(
    -1, 3
)


def sheet(heat: Heat) -> Image.Image:
    """Draw it: an RGB picture. What the network does not see is faded."""
    picture = heat.picture
    scale = min(LONGEST / max(picture.size), max(1.0, LEAST / max(picture.size)))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    small = picture.resize(size, Image.Resampling.LANCZOS)
    upright = size[0] <= 1.8 * size[1]
    columns = 2 if upright else 1
    width = max(2 * _MARGIN + columns * size[0] + (columns - 1) * _GAP, 2 * _MARGIN + LEAST)
    strength = heat.strength_at(size)
    lines = _words(heat, width - 2 * _MARGIN)
    if np.isnan(strength).any():
        lines.append(_fitted("pale: what the model does not see", _BODY, width - 2 * _MARGIN))
    top = _MARGIN + 34 + len(lines) * 24 + 10
    down = size[1] if upright else 2 * size[1] + _GAP
    found = Image.new("RGB", (width, top + down + _GAP + _BAR + 30 + _MARGIN - 14), _PAPER)
    pen = ImageDraw.Draw(found)
    title = f"“{heat.text}”" if heat.text else "What sets this picture apart"
    if heat.method == "rollout":
        title = "Where the first token looks"
    pen.text((_MARGIN, _MARGIN - 8), _fitted(title, _TITLE, width - 2 * _MARGIN), _INK, _font(_TITLE))
    for number, line in enumerate(lines):
        pen.text((_MARGIN, _MARGIN + 30 + number * 24), line, _FAINT, _font(_BODY))
    found.paste(small, (_MARGIN, top))
    where = (_MARGIN + size[0] + _GAP, top) if upright else (_MARGIN, top + size[1] + _GAP)
    found.paste(_upon(np.asarray(small, np.float32), strength), where)
    _cross(pen, heat, where, scale)
    _legend(found, (where[0], top + down + _GAP - 8), size[0])
    return found


def _upon(pixels: NDArray[np.float32], strength: NDArray[np.float32]) -> Image.Image:
    """The picture in grey, darkened, and lit in colour where it is hot; paper shines through where nobody looks."""
    grey = (pixels @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    hot = np.nan_to_num(strength)[..., None]
    place = hot[..., 0] * (len(_TABLE) - 1)
    steps = np.arange(len(_TABLE))
    colour = np.stack([np.interp(place, steps, _TABLE[:, band]) for band in range(3)], -1)
    share = 0.2 + 0.5 * hot
    mixed = (grey * 0.75 + pixels * 0.25) * (1 - share) + colour * share
    blind = np.isnan(strength)[..., None]
    mixed = np.where(blind, 0.25 * grey + 0.75 * np.array(_PAPER, np.float32), mixed)
    return Image.fromarray(np.clip(np.rint(mixed), 0, 255).astype(np.uint8))


def _words(heat: Heat, width: int) -> list[str]:
    score = f"cosine {heat.score:.3f}, " if math.isfinite(heat.score) else ""
    by = f"{score}{heat.method}" + (f" of {heat.layer}" if heat.layer else "")
    return [_fitted(heat.model, _BODY, width), _fitted(by, _BODY, width)]


def _cross(pen: ImageDraw.ImageDraw, heat: Heat, corner: tuple[int, int], scale: float) -> None:
    """A ring around the strongest place."""
    x, y = (at * scale + start for at, start in zip(heat.strongest, corner, strict=True))
    for radius, colour in ((11, (0, 0, 0)), (10, (255, 255, 255))):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=2)


def _legend(found: Image.Image, corner: tuple[int, int], width: int) -> None:
    place = np.linspace(0, len(_TABLE) - 1, width)
    row = np.stack([np.interp(place, np.arange(len(_TABLE)), _TABLE[:, band]) for band in range(3)], -1)
    found.paste(Image.fromarray(np.tile(np.rint(row).astype(np.uint8), (_BAR, 1, 1))), corner)
    pen = ImageDraw.Draw(found)
    below = corner[1] + _BAR + 6
    pen.text((corner[0], below), "as most places", _FAINT, _font(_BODY))
    pen.text((corner[0] + width, below), "strongest", _FAINT, _font(_BODY), anchor="ra")


def _fitted(line: str, size: int, width: int) -> str:
    font = _font(size)
    line = " ".join(line.split())
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line + "…"


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
