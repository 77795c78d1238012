"""How alike every text is to every picture: a matrix, and the matrix as a heat map."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bowerbird.errors import QueryError
from bowerbird.judge.answering import picture_vectors
from bowerbird.store.location import writable

if TYPE_CHECKING:
    from bowerbird.judge.pairs import Pairs
    from bowerbird.models.encoder import Encoder
    from bowerbird.models.vision.tower import Input
    from bowerbird.search.index import Index
    from bowerbird.store.manifest import ModelEntry

Floats = NDArray[np.float32]

# 33 of the 256 colours of viridis (van der Walt and Smith 2015, CC0): even steps look evenly far apart, in grey too.
_VIRIDIS = (
    "440154470d6048186a482374472d7b4537814240863e49893b528b375b8d33638d2f6b8e2c728e297a8e26828e23898e21918c1f978b1f9f88"
    "21a68527ad8131b57b3dbc744cc26c5cc8636ece5881d34d95d840aadc32c0df25d5e21aeae51afde725"
)
_TABLE = np.array([int(_VIRIDIS[place : place + 2], 16) for place in range(0, len(_VIRIDIS), 2)]).reshape(
    -1, 3
)

DRAWN = 1000
"""Rows and columns of a heat map at most: each is a pixel or more."""

_SIDE, _LEAST = 900, 160
_MARGIN, _BAR, _GAP, _FONT = 48, 18, 28, 20
_PAPER, _INK, _FAINT = (250, 249, 246), (28, 30, 33), (104, 108, 114)


@dataclass(frozen=True, eq=False)
class Similarity:
    """Cosines of texts and pictures.

    Attributes:
        values: float32 (texts, pictures).
        truth: bool, likewise: which belong together.
        texts: what the rows are called.
        pictures: what the columns are called.
    """

    values: Floats
    truth: NDArray[np.bool_]
    texts: Sequence[str]
    pictures: Sequence[str]

    def save(self, path: str | Path) -> None:
        """Write the values as `.npy`, or the heat map as `.png`.

        Raises:
            QueryError: the name ends otherwise.
            StoreError: the file cannot be written.
        """
        place = Path(path)
        stream = io.BytesIO()
        if place.suffix.lower() == ".npy":
            np.save(stream, self.values)
        elif place.suffix.lower() == ".png":
            heat_map(self).save(stream, "PNG")
        else:
            raise QueryError(
                f"A matrix cannot be written as {place.name}.", hint="Give a name in .npy or .png."
            )
        with writable(place):
            place.write_bytes(stream.getvalue())


def similarities(model: Encoder, texts: Sequence[str], pictures: Iterable[Input]) -> Floats:
    """Cosines (texts, pictures) of a model that takes both.

    Raises:
        InputErrors: a text or a picture cannot be embedded.
        UnsupportedInputError: the model does not take both.
    """
    return model.embed(list(texts), role="query") @ model.embed(list(pictures)).T


def of_pairs(
    index: Index, entry: ModelEntry, pairs: Pairs, names: Sequence[str], *, most: int = DRAWN
) -> Similarity:
    """Captions against the pictures that they were said of, in an order that puts what belongs together on a diagonal.

    Args:
        index: that has the pictures.
        entry: of the model.
        pairs: which belong together.
        names: of the pictures, in their order.
        most: at most so many pictures, and so many captions, the first ones; 0: all.
    """
    vectors = picture_vectors(index, entry, pairs.pictures)
    have = [place for place, id_ in enumerate(pairs.pictures) if id_ in vectors][: most or None]
    column = {place: number for number, place in enumerate(have)}
    links = sorted((column[picture], text) for text, picture in pairs.links if picture in column)
    rows = list(dict.fromkeys(text for _, text in links))[: most or None]
    row = {text: number for number, text in enumerate(rows)}
    truth = np.zeros((len(rows), len(have)), np.bool_)
    for picture, text in links:
        if text in row:
            truth[row[text], picture] = True
    texts = [pairs.texts[text] for text in rows]
    asked: Any = index.encoder(entry.space).embed(texts, role="query")
    values = asked @ np.stack([vectors[pairs.pictures[place]] for place in have]).T if have else truth
    return Similarity(values.astype(np.float32), truth, texts, [names[place] for place in have])


def coloured(values: Floats, low: float, high: float) -> NDArray[np.uint8]:
    """Values of any shape as colours (..., 3), from dark violet at `low` to yellow at `high`."""
    place = np.clip((values - low) / max(high - low, 1e-9), 0, 1) * (len(_TABLE) - 1)
    steps = np.arange(len(_TABLE))
    return (
        np.stack([np.interp(place, steps, _TABLE[:, band]) for band in range(3)], -1).round().astype(np.uint8)
    )


def scale(values: Floats) -> tuple[float, float]:
    """The values at both ends of the colours: a few very low ones do not darken all others."""
    return (float(np.quantile(values, 0.001)), float(values.max())) if values.size else (0.0, 1.0)


def cells(found: Similarity) -> Image.Image:
    """The first `DRAWN` rows and columns as boxes of a pixel or more, texts downwards."""
    values = found.values[:DRAWN, :DRAWN]
    if not values.size:
        return Image.new("RGB", (1, 1), _PAPER)
    picture = Image.fromarray(coloured(values, *scale(found.values)))
    width, height = _box(*values.shape)
    return picture.resize((picture.width * width, picture.height * height), Image.Resampling.NEAREST)


def _box(rows: int, columns: int) -> tuple[int, int]:
    """Width and height of the box of one value, in pixels."""
    side = max(1, _SIDE // max(rows, columns))
    return max(side, _LEAST // columns), max(side, _LEAST // rows)


def ramp(width: int, height: int) -> Image.Image:
    """The colours from low to high, for a legend."""
    row = coloured(np.linspace(0, 1, width, dtype=np.float32), 0, 1)
    return Image.fromarray(np.tile(row, (height, 1, 1)))


def heat_map(found: Similarity) -> Image.Image:
    """The matrix as a picture with a legend; what belongs together is framed where there is room."""
    drawn = cells(found)
    rows, columns = found.values[:DRAWN, :DRAWN].shape
    low, high = scale(found.values)
    width = max(drawn.width, 420) + 2 * _MARGIN
    below = _MARGIN + _FONT + 12 + drawn.height + _GAP
    sheet = Image.new("RGB", (width, below + _BAR + 2 * _FONT + _MARGIN), _PAPER)
    left, top = _MARGIN, _MARGIN + _FONT + 12
    sheet.paste(drawn, (left, top))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT)
    shape = f"{found.values.shape[0]:,} texts (down) x {found.values.shape[1]:,} pictures (across)"
    pen.text((left, _MARGIN - 6), shape, _INK, font)
    wide, tall = _box(max(rows, 1), max(columns, 1))
    if min(wide, tall) >= 8:
        for row, column in np.argwhere(found.truth[:rows, :columns]).tolist():
            x, y = left + column * wide, top + row * tall
            frame = (x, y, x + wide - 1, y + tall - 1)
            pen.rectangle(frame, outline=(255, 255, 255), width=max(1, min(wide, tall) // 16))
    sheet.paste(ramp(width - 2 * _MARGIN, _BAR), (left, below))
    for place, value, anchor in ((left, low, "la"), (width - _MARGIN, high, "ra")):
        pen.text((place, below + _BAR + 8), f"cosine {value:.2f}", _FAINT, font, anchor=anchor)
    return sheet
