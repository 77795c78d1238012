"""Pictures that can be learned in seconds: stripes of a colour that stand or lie, and what is said of them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 220), "yellow": (230, 210, 40)}
SIZE = 48


def striped(first: object, second: object, rng: np.random.Generator, *, standing: bool) -> Image.Image:
    """Stripes of a random width and place, with noise."""
    width, start = int(rng.integers(4, 9)), int(rng.integers(0, 16))
    row = (np.arange(SIZE) + start) // width % 2
    mask = np.broadcast_to(row[None, :] if standing else row[:, None], (SIZE, SIZE))[..., None]
    pixels = np.where(mask > 0, first, second) + rng.normal(0, 12, (SIZE, SIZE, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def pairs(folder: Path, each: int = 24) -> Path:
    """A table of pictures and captions: eight captions, `each` pictures of every one."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    rows = []
    for number in range(each):
        for colour, pixel in COLOURS.items():
            for standing in (False, True):
                name = f"{colour}-{standing}-{number}.png"
                striped(pixel, rng.integers(0, 100, 3), rng, standing=standing).save(folder / name)
                rows.append((name, f"{colour} stripes that {'stand' if standing else 'lie'}"))
    table = folder / "pairs.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *rows])
    return table


def classes(folder: Path, each: int = 80) -> Path:
    """Two folders, of cats and dogs as it were: what tells them apart is in which direction the stripes go."""
    rng = np.random.default_rng(1)
    for name in ("cats", "dogs"):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            first, second = rng.integers(0, 256, (2, 3))
            picture = striped(first, second, rng, standing=name == "cats")
            picture.save(folder / name / f"{number}.png")
    return folder
