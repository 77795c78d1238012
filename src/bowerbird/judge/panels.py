"""The way of a picture into a network, drawn: one labelled panel for every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bowerbird.judge.portrait import Stage

Array: TypeAlias = NDArray[Any]
Colour: TypeAlias = tuple[int, int, int]

PAPER: Colour = (250, 249, 246)
INK: Colour = (28, 30, 33)
FAINT: Colour = (118, 122, 128)
LINE: Colour = (216, 214, 208)
ACCENT: Colour = (203, 75, 22)
NEGATIVE: Colour = (33, 86, 160)
POSITIVE: Colour = (178, 34, 44)
WHITE: Colour = (255, 255, 255)

MARGIN, GAP, SIDE, COLUMNS = 64, 40, 420, 4
TITLE, HEADING, BODY = 40, 25, 21
LEADING = 1.38
BAR = 18


@dataclass(frozen=True)
class Panel:
    """One picture with its words.

    Attributes:
        heading: the step.
        lines: figures under it.
        image: at most `SIDE` pixels on a side.
        frame: (left, top, right, bottom) of what is kept, in pixels of `image`.
        bar: the value at both ends of a colour bar; None for none.
    """

    heading: str
    lines: tuple[str, ...]
    image: Image.Image
    frame: tuple[float, float, float, float] | None = None
    bar: float | None = None


def draw(stages: Sequence[Stage], title: str, subtitle: str) -> Image.Image:
    """Draw every stage; what the network takes is shown in colours again, and channel by channel in false colours.

    Args:
        stages: from `portrait.stages`.
        title: of the sheet, on one line.
        subtitle: below it, wrapped.

    Returns:
        An RGB picture 1,928 pixels wide.
    """
    panels = [panel for number, stage in enumerate(stages, 1) for panel in _panels(number, stage)]
    rows = [panels[start : start + COLUMNS] for start in range(0, len(panels), COLUMNS)]
    width = 2 * MARGIN + COLUMNS * SIDE + (COLUMNS - 1) * GAP
    intro = _wrapped(subtitle, BODY, width - 2 * MARGIN)
    top = MARGIN + int(TITLE * LEADING) + len(intro) * int(BODY * LEADING) + GAP
    heights = [_row_height(row) for row in rows]
    sheet = Image.new("RGB", (width, top + sum(heights) + GAP * (len(rows) - 1) + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), _fitted(title, TITLE, width - 2 * MARGIN), INK, _font(TITLE))
    _write(pen, (MARGIN, MARGIN + int(TITLE * LEADING) + 4), intro, BODY, FAINT)
    for row, height in zip(rows, heights, strict=True):
        words = _words_height(row)
        for column, panel in enumerate(row):
            _place(sheet, panel, (MARGIN + column * (SIDE + GAP), top), words)
        top += height + GAP
    return sheet


def _panels(number: int, stage: Stage) -> list[Panel]:
    channels = stage.channels.astype(np.float32)
    if stage.values.ndim == 2:
        heading = f"{number}  {stage.name}"
        rows, columns = stage.values.shape
        return [
            Panel(heading, (f"{rows} x {columns} float32", _figures(channels)), *_false_colours(channels[0]))
        ]
    if not stage.is_input:
        size = f"{channels.shape[2]} x {channels.shape[1]} {stage.values.dtype.name}"
        image, scale = _fitting(_as_picture(channels))
        return [
            Panel(f"{number}  {stage.name}", (size, _figures(channels)), image, _frame(stage, image, scale))
        ]
    _, height, width = channels.shape
    shown, _ = _fitting(_as_picture(channels))
    whole = Panel(
        f"{number}  {stage.name}",
        (f"3 x {height} x {width} float32, stretched to be seen", _figures(channels)),
        shown,
    )
    most = float(np.abs(channels).max())
    return [
        whole,
        *(
            Panel(
                f"{number}  channel {place} of 3", (_figures(channel[None]),), *_false_colours(channel, most)
            )
            for place, channel in enumerate(channels, 1)
        ),
    ]


def _figures(channels: Array) -> str:
    least, most, mean = channels.min(), channels.max(), channels.mean()
    return f"min {_number(least)}   max {_number(most)}   mean {_number(mean)}"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _as_picture(channels: Array) -> Image.Image:
    """8-bit values as they are; others stretched, all channels alike, from the least to the largest."""
    low, high = (
        (0.0, 255.0) if channels.max() > 8 and channels.min() >= 0 else (channels.min(), channels.max())
    )
    stretched = (channels - low) / max(float(high - low), 1e-12) * 255
    return Image.fromarray(np.clip(np.rint(stretched), 0, 255).astype(np.uint8).transpose(1, 2, 0))


def _false_colours(
    plane: Array, most: float = 0.0
) -> tuple[Image.Image, tuple[float, float, float, float] | None, float]:
    """Blue below zero, white at zero, red above; drawn, no frame, and the value at the ends of the bar."""
    most = most or float(np.abs(plane).max()) or 1.0
    image, _ = _fitting(Image.fromarray(_diverging(plane / most)))
    return image, None, most


def _diverging(values: Array) -> NDArray[np.uint8]:
    """(h, w) from -1 to 1 as (h, w, 3) colours."""
    strength = np.abs(values)[..., None] ** 0.8
    ends = np.where((values < 0)[..., None], np.array(NEGATIVE), np.array(POSITIVE))
    mixed = np.array(WHITE) * (1 - strength) + ends * strength
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def _fitting(image: Image.Image) -> tuple[Image.Image, float]:
    """The picture in a square of `SIDE`, and by how much it was scaled. Small ones keep their pixels visible."""
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    smooth = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    return image.resize(size, smooth), scale


def _frame(stage: Stage, image: Image.Image, scale: float) -> tuple[float, float, float, float] | None:
    if stage.kept is None:
        return None
    width, height = (side * scale for side in stage.kept)
    left, top = (image.width - width) / 2, (image.height - height) / 2
    return left, top, left + width, top + height


def _place(sheet: Image.Image, panel: Panel, corner: tuple[int, int], words: int) -> None:
    """Words first, the picture below them, so that pictures of a row stand on one line."""
    left, top = corner
    pen = ImageDraw.Draw(sheet)
    pen.line((left, top, left + SIDE, top), LINE, 2)
    heading = _wrapped(panel.heading, HEADING, SIDE)
    below = _write(pen, (left, top + 16), heading, HEADING, INK)
    _write(pen, (left, below + 4), list(panel.lines), BODY, FAINT)
    origin = (left, top + words)
    image = panel.image
    if panel.frame is not None:
        image = _dimmed(image, panel.frame)
    sheet.paste(image, origin)
    pen.rectangle(
        (origin[0] - 1, origin[1] - 1, origin[0] + image.width, origin[1] + image.height), outline=LINE
    )
    if panel.frame is not None:
        a, b, c, d = panel.frame
        box = (origin[0] + a, origin[1] + b, origin[0] + c - 1, origin[1] + d - 1)
        pen.rectangle(box, outline=ACCENT, width=3)
    if panel.bar is not None:
        _bar(sheet, (left, origin[1] + image.height + 14), panel.bar)


def _dimmed(image: Image.Image, frame: tuple[float, float, float, float]) -> Image.Image:
    """What is cut away fades into the paper."""
    faded = Image.blend(image, Image.new("RGB", image.size, PAPER), 0.6)
    left, top, right, bottom = (round(side) for side in frame)
    faded.paste(image.crop((left, top, right, bottom)), (left, top))
    return faded


def _bar(sheet: Image.Image, corner: tuple[int, int], most: float) -> None:
    ramp = _diverging(np.tile(np.linspace(-1, 1, SIDE, dtype=np.float32), (BAR, 1)))
    sheet.paste(Image.fromarray(ramp), corner)
    pen = ImageDraw.Draw(sheet)
    left, top = corner
    pen.rectangle((left - 1, top - 1, left + SIDE, top + BAR), outline=LINE)
    below = top + BAR + 6
    font = _font(BODY)
    pen.text((left, below), _number(-most), FAINT, font)
    pen.text((left + SIDE / 2, below), "0", FAINT, font, anchor="ma")
    pen.text((left + SIDE, below), _number(most), FAINT, font, anchor="ra")


def _words_height(row: Sequence[Panel]) -> int:
    return max(
        16
        + len(_wrapped(panel.heading, HEADING, SIDE)) * int(HEADING * LEADING)
        + 4
        + len(panel.lines) * int(BODY * LEADING)
        + 14
        for panel in row
    )


def _row_height(row: Sequence[Panel]) -> int:
    bar = 14 + BAR + 6 + int(BODY * LEADING)
    return _words_height(row) + max(
        panel.image.height + (bar if panel.bar is not None else 0) for panel in row
    )


def _write(
    pen: ImageDraw.ImageDraw, corner: tuple[float, float], lines: Sequence[str], size: int, colour: Colour
) -> float:
    """Write lines one below the other; gives where the next one would be."""
    left, top = corner
    for line in lines:
        pen.text((left, top), line, colour, _font(size))
        top += int(size * LEADING)
    return top


def _wrapped(text: str, size: int, width: float) -> list[str]:
    font, lines = _font(size), [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [_fitted(line, size, width) for line in lines]


def _fitted(line: str, size: int, width: float) -> str:
    """One line that is not too long: the end stays, since that is where paths differ."""
    font = _font(size)
    if font.getlength(line) <= width:
        return line
    while line and font.getlength("…" + line) > width:
        line = line[1:]
    return "…" + line


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
