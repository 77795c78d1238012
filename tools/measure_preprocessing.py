"""Measure why preprocessing matters: every table and figure of `docs/preprocessing.md`.

    pip install "bowerbird[demo]"
    python tools/measure_preprocessing.py                                  # print the tables, draw nothing
    python tools/measure_preprocessing.py --clothing clothing-dataset-small --into docs/preprocessing.md

The photographs are those of scikit-image's package that are in the public domain, under CC0 or without known
restrictions, and those that ship with Bowerbird. The larger sets need `--clothing`: a folder whose subfolders
`*/<class>/*.jpg` hold photographs, such as github.com/alexeygrigorev/clothing-dataset-small (CC0). With `--into`,
each table replaces what stands between the comments `<!-- measured: NAME -->` and `<!-- end -->` of that page, and the
figures go to `images/` beside it. All is seeded; runs differ by rounding in the network at most.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import skimage
from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

import bowerbird as bb
from bowerbird.judge.conditions import conditions
from bowerbird.judge.portrait import portrait

Array: TypeAlias = Any
Picture: TypeAlias = Path | bytes
Box: TypeAlias = tuple[int, int, int, int]

PACKAGE = Path(bb.__file__).parent
SAMPLES = Path(skimage.__file__).parent / "data"
PHOTOGRAPHS = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "hubble_deep_field.jpg",
    "retina.jpg",
    "rocket.jpg",
)
NAMES = json.loads((PACKAGE / "models/mini/config.json").read_text("utf-8"))["id2label"]
SHOWN = (("rocket.jpg", (0, 0, 427, 427)), ("camera.png", (205, 0, 512, 307)))
"""Views whose class changes, chosen by eye; the first is drawn."""
DETAIL = (0, 150, 56, 178)
"""Part of its network input, shown larger."""
RESIZE_ONLY = {
    "0..255": bb.Steps.parse("resize 224x224 bicubic -> x * 1"),
    "0..1": bb.Steps.parse("resize 224x224 bicubic -> x * 1/255"),
}
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""EXIF orientation -> how an upright picture lies in a file that states it."""
LAYERS = (2, 9, 13, 15, 20, 23, 24, 25, 26, 28, 29, 30)
SHAPES = ("disc", "ring", "square", "triangle", "hexagon", "star")
LETTERS = "ABKR"
VARIANTS = (
    "plain",
    "small",
    "moved",
    "recoloured",
    "on a colour",
    "light on dark, turned",
    "noisy",
    "on a photograph",
)
SHEET = ("discA", "ringA", "starK")
"""Logos that are drawn."""
INK, RED, BLUE, GREY, PALE = "#222222", "#c8442b", "#2b6cb0", "#777777", "#dddddd"
LIGHT_RED, LIGHT_BLUE = "#e8aa9e", "#9dbfe0"


def main() -> None:
    """Measure, print, and fill the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--clothing", type=Path, help="folder of */<class>/*.jpg")
    parser.add_argument("--into", type=Path, help="page to fill; figures go to images/ beside it")
    given = parser.parse_args()
    clothes = sorted(given.clothing.glob("*/*/*.jpg")) if given.clothing else []
    if given.clothing and not clothes:
        sys.exit(f"{given.clothing} holds no */<class>/*.jpg")
    model = bb.load("mini", precision="exact", engine="onnxruntime")
    tables: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        figures = given.into.parent / "images" if given.into else Path(folder)
        figures.mkdir(exist_ok=True)
        for part in (classes, scores, faults, layers, turned):
            for name, text in part(model, clothes, figures):
                print(f"{name}\n\n{text}\n", flush=True)
                tables[name] = text
    if given.into:
        fill(given.into, tables)


def fill(page: Path, tables: dict[str, str]) -> None:
    """Put each table between its comments."""
    text = page.read_text("utf-8")
    for name, table in tables.items():
        block = re.compile(rf"(<!-- measured: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, found = block.subn(lambda match, table=table: f"{match[1]}\n{table}\n\n{match[2]}", text)
        if found != 1:
            print(f"{page} has {found} places for {name}", file=sys.stderr)
    page.write_text(text, "utf-8")


# 1: the same picture, two filters.


def classes(model: bb.Encoder, clothes: Sequence[Path], figures: Path) -> Iterator[tuple[str, str]]:
    """How often the first class changes with the filter of the resize alone."""
    views = [encoded(photograph(name).crop(box)) for name in PHOTOGRAPHS for box in squares(name)]
    sets: list[tuple[str, Sequence[Picture]]] = [
        ("scikit-image's photographs, whole", [SAMPLES / name for name in PHOTOGRAPHS]),
        ("the photographs shipped with Bowerbird", sorted((PACKAGE / "models/probe").glob("*.jpg"))),
        ("square views of scikit-image's photographs", views),
    ]
    if clothes:
        sets.append(("photographs of clothes", clothes))
    rows = []
    for title, pictures in sets:
        right = shares(model, pictures, "bicubic").argmax(axis=1)
        changed = [shares(model, pictures, name).argmax(axis=1) != right for name in ("bilinear", "nearest")]
        rows.append([title, f"{len(pictures):,}", *(f"{part.sum()} ({part.mean():.1%})" for part in changed)])
    yield "classes", table(["pictures", "n", "other class: bilinear", "nearest"], rows)

    rows = []
    panels = []
    for name, box in SHOWN:
        view = photograph(name).crop(box)
        for kernel in ("bicubic", "nearest"):
            (share,) = shares(model, [encoded(view)], kernel)
            best = share.argsort()[::-1][:3]
            rows.append([f"`{name}`", kernel, *(f"{NAMES[str(k)]} {share[k]:.2f}" for k in best)])
            panels.append((resized(model, kernel).pixels(view), f"{kernel}: {NAMES[str(best[0])]}"))
    side_by_side(panels[:2]).save(figures / "bicubic-nearest.png", optimize=True)
    yield "shown", table(["picture", "resize", "first class", "second", "third"], rows)


def resized(model: bb.Encoder, kernel: str) -> bb.Steps:
    """The model's own steps with another filter."""
    return bb.Steps.parse(str(model.card.image.steps).replace("bicubic", kernel))


def shares(model: bb.Encoder, pictures: Sequence[Picture], kernel: str) -> Array:
    """(n, 1000) probabilities of the classes."""
    logits = model.embed(pictures, preprocess=resized(model, kernel), output="logits", normalize=False)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def squares(name: str) -> list[Box]:
    """Up to nine square views each of 1, .9, .8, .7 and .6 of the short side, at least 300 pixels wide."""
    width, height = photograph(name).size
    found: list[Box] = []
    for share in (1, 0.9, 0.8, 0.7, 0.6):
        side = int(min(width, height) * share)
        if side >= 300:
            lefts, tops = (sorted({0, (full - side) // 2, full - side}) for full in (width, height))
            found += [(left, top, left + side, top + side) for left in lefts for top in tops]
    return found


# 2: resize and nothing else.


def scores(model: bb.Encoder, clothes: Sequence[Path], figures: Path) -> Iterator[tuple[str, str]]:
    """Similarities between like and unlike pictures, under the model's own steps and under a resize alone."""
    recipes = {"the model's own": None, **{f"resize only, {name}": r for name, r in RESIZE_ONLY.items()}}
    pictures = [encoded(view) for name in PHOTOGRAPHS for view in (photograph(name), *seen_again(name))]
    found = {}
    for title, steps in recipes.items():
        vectors = model.embed(pictures, output="features", preprocess=steps)
        found[title] = vectors @ vectors.T
    cat = 4 * PHOTOGRAPHS.index("chelsea.png")
    against = [("the cat, mirrored", cat + 1), ("the cat, closer", cat + 2), ("the cat, darker", cat + 3)]
    against += [(f"`{name}`", 4 * k) for k, name in enumerate(PHOTOGRAPHS) if 4 * k != cat]
    rows = [[title, *(f"{number(all_[cat, k])}" for all_ in found.values())] for title, k in against]
    yield "cat", table(["the cat against", *found], rows)

    same = np.kron(np.eye(len(PHOTOGRAPHS), dtype=bool), np.ones((4, 4), bool))
    upper = np.triu(np.ones_like(same), 1)
    dots = {title: (all_[same & upper], all_[~same & upper]) for title, all_ in found.items()}
    strips(dots).save(figures / "scores.png", optimize=True)
    rows = [[title, *spread(like), *spread(unlike)] for title, (like, unlike) in dots.items()]
    heads = ["steps", "same: least", "median", "most", "other: least", "median", "most"]
    yield "spread", table(heads, rows)

    if clothes:
        sample = balanced(clothes, 30)
        labels = np.array([path.parent.name for path in sample])
        rows = []
        for output in ("features", "logits"):
            for title, steps in recipes.items():
                vectors = model.embed(sample, output=output, preprocess=steps)
                all_ = vectors @ vectors.T
                like = labels[:, None] == labels
                upper = np.triu(np.ones_like(like), 1)
                first, precision = retrieval(vectors, labels)
                medians = (number(np.median(all_[part & upper])) for part in (like, ~like))
                rows.append([output, title, *medians, f"{first.mean():.2f}", f"{precision:.3f}"])
        heads = ["output", "steps", "median, same class", "median, other class", "P@1", "mAP"]
        yield "garments", table(heads, rows)


def seen_again(name: str) -> tuple[Image.Image, ...]:
    """Mirrored; the middle 70 % of each side; at 60 % of its brightness."""
    picture = photograph(name)
    width, height = picture.size
    middle = (int(0.15 * width), int(0.15 * height), int(0.85 * width), int(0.85 * height))
    return ImageOps.mirror(picture), picture.crop(middle), ImageEnhance.Brightness(picture).enhance(0.6)


# 3: the faults.


def faults(model: bb.Encoder, clothes: Sequence[Path], figures: Path) -> Iterator[tuple[str, str]]:
    """`bowerbird conditions` on a sample."""
    pictures = random.Random(0).sample(clothes, 200) if clothes else [SAMPLES / name for name in PHOTOGRAPHS]
    report = conditions(model, pictures)
    rows = [
        [cost.name, f"{cost.mean:.4f}", f"{cost.least:.4f}", share(cost.neighbour), share(cost.label)]
        for cost in sorted(report.costs, key=lambda cost: -cost.mean)
    ]
    heads = ["fault", "cosine, mean", "least", "same nearest neighbour", "same first class"]
    yield "faults", table(heads, rows)


# 4: the layer.


def layers(model: bb.Encoder, clothes: Sequence[Path], figures: Path) -> Iterator[tuple[str, str]]:
    """Which layer, pooled how, finds the same logo, and which the same kind of garment."""
    marks = [(shape + letter, k) for shape in SHAPES for letter in LETTERS for k in range(len(VARIANTS))]
    drawn = [logo(name[:-1], name[-1], k) for name, k in marks]
    shown = [picture for (name, _), picture in zip(marks, drawn, strict=True) if name in SHEET]
    sheet(shown, len(VARIANTS)).quantize(128).save(figures / "logos.png", optimize=True)
    sets = {"logos": ([encoded(picture) for picture in drawn], np.array([name for name, _ in marks]))}
    if clothes:
        sample = balanced(clothes, 30)
        sets["garments"] = (list(sample), np.array([path.parent.name for path in sample]))
    else:
        again = [(name, view) for name in PHOTOGRAPHS for view in (photograph(name), *seen_again(name))]
        sets["photographs"] = ([encoded(view) for _, view in again], np.array([name for name, _ in again]))

    found: dict[tuple[str, str], dict[int, tuple[Array, float]]] = {}
    # By name: a number would be asked of the text tower too.
    names = {layer["number"]: layer["name"] for layer in portrait(model)["image"]["layers"]}
    for title, (pictures, labels) in sets.items():
        for pooling in ("avg", "max"):
            found[title, pooling] = {
                layer: retrieval(model.embed(pictures, layer=names[layer], pooling=pooling), labels)
                for layer in LAYERS
            }
    lines(found).save(figures / "layers.png", optimize=True)
    best = {key: max(curve, key=lambda layer, curve=curve: curve[layer][1]) for key, curve in found.items()}
    rows = []
    for layer in LAYERS:
        cells = [
            f"{curve[layer][0].mean():.2f} / {bold(f'{curve[layer][1]:.3f}', layer == best[key])}"
            for key, curve in found.items()
        ]
        rows.append([str(layer), *cells])
    yield "layers", table(["layer", *(f"{title}, {pooling}" for title, pooling in found)], rows)

    variant = np.array([k for _, k in marks])
    rows = []
    for pooling in ("avg", "max"):
        layer = best["logos", pooling]
        first = found["logos", pooling][layer][0]
        rows.append(
            [
                f"layer {layer}, {pooling}",
                *(f"{first[variant == k].mean():.2f}" for k in range(len(VARIANTS))),
            ]
        )
    yield "variants", table(["asked with the logo", *VARIANTS], rows)


def logo(shape: str, letter: str, variant: int) -> Image.Image:
    """A letter cut out of a shape, 256 x 256; `variant` counts in `VARIANTS`."""
    chance = random.Random(f"{shape} {letter} {variant}")
    colours = [(200, 40, 40), (30, 90, 180), (20, 130, 80), (230, 150, 20), (120, 50, 150), (30, 30, 30)]
    own = colours[(SHAPES.index(shape) + LETTERS.index(letter)) % len(colours)]
    colour = {3: chance.choice(colours), 4: (255, 255, 255), 5: (235, 235, 225)}.get(variant, own)
    ground = Image.new(
        "RGB", (256, 256), {4: chance.choice(colours), 5: (40, 40, 50)}.get(variant, (255, 255, 255))
    )
    if variant == 7:
        name = chance.choice(PHOTOGRAPHS)
        ground = ImageOps.fit(photograph(name), (256, 256))
        colour = (255, 255, 255)
    size = {1: 90, 2: 130}.get(variant, chance.randint(140, 190))
    mark = stencil(shape, letter).resize((size, size), Image.Resampling.LANCZOS)
    if variant == 5:
        mark = mark.rotate(chance.uniform(-20, 20), Image.Resampling.BICUBIC)
    free = 256 - size
    place = (
        (chance.randint(0, free), chance.randint(0, free)) if variant in (1, 2, 7) else (free // 2, free // 2)
    )
    ground.paste(colour, (*place, place[0] + size, place[1] + size), mark)
    if variant == 6:
        noise = np.random.default_rng(chance.randrange(2**32)).normal(0, 18, (256, 256, 3))
        return Image.fromarray(np.clip(np.asarray(ground) + noise, 0, 255).astype(np.uint8))
    return ground


def stencil(shape: str, letter: str) -> Image.Image:
    """The mark as a mask, 512 x 512."""
    mask = Image.new("L", (512, 512))
    pen = ImageDraw.Draw(mask)
    corners = {"triangle": 3, "hexagon": 6, "star": 10}.get(shape, 0)
    if shape in ("disc", "ring"):
        pen.ellipse((10, 10, 502, 502), fill=255)
    elif shape == "square":
        pen.rectangle((40, 40, 472, 472), fill=255)
    else:
        angles = [2 * np.pi * k / corners for k in range(corners)]
        radii = [246 if shape != "star" or k % 2 == 0 else 150 for k in range(corners)]
        pen.polygon(
            [(256 + r * np.sin(a), 256 - r * np.cos(a)) for r, a in zip(radii, angles, strict=True)], fill=255
        )
    if shape == "ring":
        pen.ellipse((60, 60, 452, 452), fill=0)
    middle = (256, 300 if shape == "triangle" else 256)
    pen.text(middle, letter, fill=255 if shape == "ring" else 0, font=font(200), anchor="mm", stroke_width=8)
    return mask


# 5: the decoder.


def turned(model: bb.Encoder, clothes: Sequence[Path], figures: Path) -> Iterator[tuple[str, str]]:
    """The same photographs stored in each of the eight EXIF orientations; and JPEG at a reduced scale."""
    upright = model.embed([SAMPLES / name for name in PHOTOGRAPHS], output="features")
    rows, thumbs = [], []
    with tempfile.TemporaryDirectory() as folder:
        for orientation, way in STORED.items():
            files = []
            for name in PHOTOGRAPHS:
                picture = photograph(name)
                if way is not None:
                    picture = picture.transpose(way)
                exif = Image.Exif()
                exif[0x0112] = orientation
                files.append(Path(folder) / f"{orientation}-{Path(name).stem}.png")
                picture.save(files[-1], exif=exif)
                if name == "chelsea.png":
                    thumbs.append(ImageOps.contain(picture, (150, 150)))
            kept = (model.embed(files, output="features") * upright).sum(axis=1)
            report = conditions(model, files, int8=False)
            cost = next((cost for cost in report.costs if cost.name == "EXIF ignored"), None)
            ignored = (
                ["-"] * 3 if cost is None else [f"{cost.mean:.3f}", f"{cost.least:.3f}", share(cost.label)]
            )
            rows.append([str(orientation), f"{kept.min():.6f}", *ignored])
    orientations(thumbs).save(figures / "orientations.jpg", quality=88, optimize=True)
    yield (
        "exif",
        table(["orientation", "EXIF applied: least", "ignored: mean", "least", "same first class"], rows),
    )

    rows = []
    for name in PHOTOGRAPHS:
        if name.endswith(".jpg"):
            report = conditions(model, [SAMPLES / name], int8=False)
            reduced = [f"{cost.mean:.4f}" for cost in report.costs if cost.name == "JPEG reduced"]
            size = photograph(name).size
            rows.append([f"`{name}`", f"{size[0]} x {size[1]}", *(reduced or ["decoded in full"])])
    yield "reduced", table(["picture", "pixels", "cosine to full decode"], rows)


# Numbers.


def retrieval(vectors: Array, labels: Array) -> tuple[Array, float]:
    """Each picture asked of all others: whether the first is of its kind (n,), and the mean average precision."""
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -np.inf)
    order = np.argsort(-similar, axis=1, kind="stable")[:, :-1]
    hits = labels[order] == labels[:, None]
    places = np.arange(1, hits.shape[1] + 1)
    precision = (np.cumsum(hits, axis=1) / places * hits).sum(axis=1) / hits.sum(axis=1)
    return hits[:, 0], float(precision.mean())


def balanced(paths: Sequence[Path], each: int) -> list[Path]:
    """As many of every class."""
    chance = random.Random(0)
    kinds = sorted({path.parent.name for path in paths})
    return [
        path
        for kind in kinds
        for path in sorted(chance.sample([path for path in paths if path.parent.name == kind], each))
    ]


def spread(values: Array) -> list[str]:
    """Least, median and most."""
    return [number(found) for found in (values.min(), np.median(values), values.max())]


def number(value: float) -> str:
    """Three decimals."""
    return f"{value:.3f}"


def share(value: float | None) -> str:
    """Per cent."""
    return "-" if value is None else f"{value:.0%}"


def bold(text: str, yes: bool) -> str:
    """In bold if so."""
    return f"**{text}**" if yes else text


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown, numbers to the right."""
    lines_ = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines_)


# Pictures.


def photograph(name: str) -> Image.Image:
    """One of scikit-image's, RGB."""
    return Image.open(SAMPLES / name).convert("RGB")


def encoded(picture: Image.Image) -> bytes:
    """As PNG."""
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def font(size: int) -> Any:
    """The font that comes with Pillow: the same on every machine."""
    return ImageFont.load_default(size)


def side_by_side(panels: Sequence[tuple[Array, str]]) -> Image.Image:
    """Network inputs enlarged twice, with what the network calls them; below, a part of each enlarged eight times."""
    canvas = Image.new("RGB", (2 * 460 - 12, 34 + 448 + 12 + 224), "white")
    pen = ImageDraw.Draw(canvas)
    for k, (pixels, title) in enumerate(panels):
        picture = Image.fromarray(pixels)
        canvas.paste(picture.resize((448, 448), Image.Resampling.NEAREST), (k * 460, 34))
        detail = picture.crop(DETAIL).resize((448, 224), Image.Resampling.NEAREST)
        canvas.paste(detail, (k * 460, 34 + 448 + 12))
        pen.text((k * 460, 6), title, fill=INK, font=font(20))
    return canvas


def strips(dots: dict[str, tuple[Array, Array]]) -> Image.Image:
    """One strip a condition: scores of pictures of the same photograph above, of others below."""
    left, right, top, row = 230, 1560, 70, 150
    canvas = Image.new("RGB", (1600, top + row * len(dots) + 60), "white")
    pen = ImageDraw.Draw(canvas)
    low, high = -0.1, 1.0

    def x(score: float) -> float:
        return left + (score - low) / (high - low) * (right - left)

    for tick in np.arange(0, 1.01, 0.2):
        pen.line((x(tick), top, x(tick), top + row * len(dots)), fill=PALE, width=2)
        pen.text((x(tick), top + row * len(dots) + 10), f"{tick:.1f}", fill=GREY, font=font(26), anchor="ma")
    pen.text((left, 16), "two views of one photograph", fill=BLUE, font=font(28))
    pen.text((left + 420, 16), "two photographs", fill=RED, font=font(28))
    for k, (title, (like, unlike)) in enumerate(dots.items()):
        middle = top + k * row + row // 2
        for line, words in enumerate(title.split(", ")):
            pen.text((10, middle - 30 + 32 * line), words, fill=INK, font=font(26))
        for values, colour, up in ((like, BLUE, -28), (unlike, RED, 28)):
            for score in values:
                pen.line((x(score), middle + up - 20, x(score), middle + up + 20), fill=colour, width=2)
    return canvas.resize((800, canvas.height // 2), Image.Resampling.LANCZOS)


def lines(found: dict[tuple[str, str], dict[int, tuple[Array, float]]]) -> Image.Image:
    """Mean average precision by layer."""
    left, right, top, bottom, high = 90, 1240, 40, 640, 0.5
    canvas = Image.new("RGB", (1600, 740), "white")
    pen = ImageDraw.Draw(canvas)
    for tick in np.arange(0, high + 0.01, 0.1):
        y = bottom - tick / high * (bottom - top)
        pen.line((left, y, right, y), fill=PALE, width=2)
        pen.text((left - 14, y), f"{tick:.1f}", fill=GREY, font=font(26), anchor="rm")
    for layer in range(0, LAYERS[-1] + 1, 5):
        x = left + layer / LAYERS[-1] * (right - left)
        pen.text((x, bottom + 12), str(layer), fill=GREY, font=font(26), anchor="ma")
    pen.text((left, 4), "mAP", fill=GREY, font=font(26), anchor="rt")
    pen.text(((left + right) / 2, bottom + 52), "layer", fill=GREY, font=font(26), anchor="ma")
    ends = []
    for ((title, pooling), curve), colour in zip(
        found.items(), (LIGHT_RED, RED, BLUE, LIGHT_BLUE), strict=True
    ):
        best = max(value for _, value in curve.values())
        points = [
            (left + layer / LAYERS[-1] * (right - left), bottom - value / high * (bottom - top))
            for layer, (_, value) in curve.items()
        ]
        pen.line(points, fill=colour, width=6, joint="curve")
        for (x, y), (_, value) in zip(points, curve.values(), strict=True):
            size = 14 if value == best else 6
            pen.ellipse((x - size, y - size, x + size, y + size), fill=colour)
        ends.append((points[-1][1], f"{title}, {pooling}", colour))
    lowest = 0.0
    for y, title, colour in sorted(ends):
        lowest = max(y, lowest + 36)
        pen.text((right + 30, lowest), title, fill=colour, font=font(28), anchor="lm")
    return canvas.resize((800, 370), Image.Resampling.LANCZOS)


def sheet(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """Small pictures in rows."""
    canvas = Image.new("RGB", (columns * 100 - 4, len(pictures) // columns * 100 - 4), "#bbbbbb")
    for k, picture in enumerate(pictures):
        canvas.paste(
            picture.resize((96, 96), Image.Resampling.LANCZOS), (k % columns * 100, k // columns * 100)
        )
    return canvas


def orientations(thumbs: Sequence[Image.Image]) -> Image.Image:
    """What the file holds in orientations 1 to 8."""
    canvas = Image.new("RGB", (4 * 160, 2 * 185), "white")
    for k, thumb in enumerate(thumbs):
        left, top = k % 4 * 160, k // 4 * 185
        canvas.paste(thumb, (left + (150 - thumb.width) // 2, top + 28))
        ImageDraw.Draw(canvas).text((left + 75, top + 4), str(k + 1), fill=INK, font=font(18), anchor="ma")
    return canvas


if __name__ == "__main__":
    main()
