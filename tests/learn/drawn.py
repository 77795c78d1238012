"""Drawn pictures with captions: shapes in colours, sizes and places, which are there on every machine."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (215, 40, 40),
    "green": (40, 160, 60),
    "blue": (45, 80, 210),
    "yellow": (240, 210, 50),
    "purple": (140, 60, 170),
    "orange": (245, 140, 30),
    "white": (250, 250, 250),
    "black": (15, 15, 15),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring")
GROUNDS = {"grey": (128, 128, 128), "brown": (120, 80, 50), "pink": (245, 175, 195)}
SIDE = 96


def draw(shape: str, colour: str, ground: str, count: int, rng: np.random.Generator) -> Image.Image:
    """So many shapes of a colour, where they happen to be."""
    image = Image.new("RGB", (SIDE, SIDE), GROUNDS[ground])
    pen, fill = ImageDraw.Draw(image), COLOURS[colour]
    for cell in rng.permutation(4)[:count]:
        size = int(rng.integers(26, 40)) if count > 1 else int(rng.integers(44, 72))
        span = SIDE // 2 if count > 1 else SIDE
        places = divmod(int(cell), 2) if count > 1 else (0, 0)
        left, top = (place * span + int(rng.integers(0, span - size)) for place in places)
        box = (left, top, left + size, top + size)
        if shape == "circle":
            pen.ellipse(box, fill=fill)
        elif shape == "square":
            pen.rectangle(box, fill=fill)
        elif shape == "triangle":
            pen.polygon([(left, top + size), (left + size, top + size), (left + size // 2, top)], fill=fill)
        elif shape == "cross":
            middle, width = size // 2, max(4, size // 6)
            pen.rectangle((left, top + middle - width, left + size, top + middle + width), fill=fill)
            pen.rectangle((left + middle - width, top, left + middle + width, top + size), fill=fill)
        else:
            pen.ellipse(box, outline=fill, width=max(4, size // 6))
    return image


def write(folder: Path, count: int = 120, seed: int = 0, captions: int = 1) -> Path:
    """`pairs.csv` with pictures beside it, all different in what they show.

    Its columns are image, caption, shape, and code: the same in the words of `towers.text_tower`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    what = list(itertools.product(SHAPES, COLOURS, GROUNDS, (1, 3)))
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["image", "caption", "shape", "code"])
        for number, place in enumerate(rng.permutation(len(what))[:count]):
            shape, colour, ground, shapes = what[place]
            draw(shape, colour, ground, shapes, rng).save(folder / f"{number:03}.png")
            some = f"one {colour} {shape}" if shapes == 1 else f"three {colour} {shape}s"
            told = (
                f"{some} on a {ground} background",
                f"a drawing in {colour} and {ground} of a {shape}, {shapes} times",
            )
            code = (
                f"w{SHAPES.index(shape)} w{10 + [*COLOURS].index(colour)} w{20 + [*GROUNDS].index(ground)} "
                f"w{30 + shapes}"
            )
            for caption in told[:captions]:
                rows.writerow([f"{number:03}.png", caption, shape, code])
    return folder / "pairs.csv"
