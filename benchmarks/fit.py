"""Fit: what recipes, layers, losses and numbers of pairs are worth, and how long they take.

All of it with mini on photographs of clothes. They come with a class each and no captions. So captions are *made*, from
the name of the class and from colours that are measured in the middle and along the border, in three templates: "a red
dress on a grey background". They are true, but all of one kind, and say far less than people say. The figures compare
ways to fit the same pairs; those of another collection will be others.

* `captions`: the published demo (`SharedProjection` as it is) against each recipe and `auto`, on the same splits; and
  50 pairs against no fitting at all.
* `classes`: fitted on so many labelled photographs a class of the training folder, class names asked for among the
  photographs of the validation folder.
* `speed`: a linear head on 5,000 pairs of vectors; embedding once against embedding in every epoch.
* `layers`, `losses`, `pairs`: the tables of docs/choosing.md.

Every figure is the mean over splits, with the least and the largest. R@10 is strict: of several pictures with the same
caption, each has to be found. Nothing that a figure is of was learned from, stopped by or chosen by.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

import bowerbird as bb
from benchmarks.side_by_side import SHARED, report, versions
from bowerbird import losses, recipes
from bowerbird.learn.choose import choose, unfitted
from bowerbird.learn.examples import Examples, Picture
from bowerbird.learn.features import Embedded, embed
from bowerbird.learn.fit import FEW
from bowerbird.learn.heads import Heads
from bowerbird.learn.pairs import read_examples
from bowerbird.learn.parts import Parts
from bowerbird.learn.recall import figures
from bowerbird.learn.recipes import Recipe, Trained, Training
from bowerbird.learn.split import split
from bowerbird.learn.towers import Models, Towers, towers_of
from bowerbird.models.encoder import Encoder

CLOTHES = SHARED / "clothing"

COLOURS = {
    "black": (20, 20, 20),
    "white": (240, 240, 240),
    "grey": (128, 128, 128),
    "red": (190, 30, 40),
    "pink": (235, 150, 180),
    "orange": (235, 130, 40),
    "brown": (110, 70, 40),
    "beige": (215, 195, 165),
    "yellow": (230, 210, 60),
    "green": (50, 130, 60),
    "blue": (40, 80, 180),
    "light blue": (150, 190, 225),
    "navy": (25, 30, 75),
    "purple": (110, 60, 140),
}
TEMPLATES = (
    "{} {thing} on {} background",
    "{thing}, {colour}, photographed against something {ground}",
    "{} {thing} in front of {ground}",
)

LEARNED, CHOSEN_BY = 700, 100
"""Pictures to learn from and to choose by, of 1,000 with 200 held out, or 1,200 with 400."""

LAYERS = (
    ("image_embeds",),
    ("logits",),
    ("features",),
    ("_blocks.2.sum",),
    ("_blocks.5._depthwise_conv.relu6",),
    ("_blocks.11._expand_conv.relu6",),
    ("_blocks.15._project_conv.out",),
    ("features", "_blocks.5._depthwise_conv.relu6"),
    ("features", "_blocks.5._depthwise_conv.relu6", "_blocks.11._expand_conv.relu6"),
)
LOSSES = (
    losses.InfoNCE(learned=True),
    losses.InfoNCE(),
    losses.InfoNCE(temperature=0.02),
    losses.InfoNCE(temperature=0.2),
    losses.InfoNCE(learned=True, both=False),
    losses.Sigmoid(),
    losses.Margin(),
    losses.Triplet(),
    losses.Triplet(hard=False),
)
NUMBERS = (10, 50, 100, 200, 500, 1000)
A_CLASS = (10, 30, 120)
TEXT_TO_IMAGE, IMAGE_TO_TEXT = "text->image R@10", "image->text R@10"


def lab(colours: Any) -> NDArray[np.float64]:
    """sRGB, 0 to 255, to CIELAB, in which distances are about as people see them (D65, the usual formulas)."""
    values = np.asarray(colours, np.float64) / 255
    linear = np.where(values > 0.04045, ((values + 0.055) / 1.055) ** 2.4, values / 12.92)
    to_xyz = np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    xyz = linear @ to_xyz / np.array([0.9505, 1, 1.089])
    roots = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = roots[..., 0], roots[..., 1], roots[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def colour(pixels: NDArray[np.uint8]) -> str:
    """The name to which most pixels are nearest."""
    known = lab(list(COLOURS.values()))
    nearest = ((lab(pixels.reshape(-1, 3))[:, None] - known[None]) ** 2).sum(-1).argmin(1)
    return list(COLOURS)[np.bincount(nearest, minlength=len(COLOURS)).argmax()]


def caption(path: Path, thing: str, number: int) -> str:
    """What is said of a photograph."""
    with Image.open(path) as opened:
        pixels = np.asarray(ImageOps.exif_transpose(opened).convert("RGB").resize((64, 64)))
    border = [pixels[:6], pixels[:, :6], pixels[:, -6:]]
    middle, ground = colour(pixels[20:44, 20:44]), colour(np.concatenate([b.reshape(-1, 3) for b in border]))
    articles = [f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in (middle, ground)]
    return TEMPLATES[number % 3].format(*articles, thing=thing, colour=middle, ground=ground)


@dataclass(frozen=True, eq=False)
class Set:
    """All examples with their vectors, and what these are of."""

    embedded: Embedded
    towers: Towers

    @property
    def examples(self) -> Examples:
        """With vectors."""
        return self.embedded.examples


@cache
def model() -> Encoder:
    """That is fitted."""
    return bb.load("mini", precision="exact")


@cache
def captioned(layers: tuple[str, ...]) -> Set:
    """The photographs of both folders, in an order of chance, with a caption each."""
    paths = sorted(CLOTHES.glob("*/*/*.jpg"))
    order = np.random.default_rng(0).permutation(len(paths))
    records = [
        bb.Record(
            str(place), image=paths[place], texts=(caption(paths[place], paths[place].parent.name, number),)
        )
        for number, place in enumerate(order)
    ]
    reading = read_examples(bb.Collection.from_items(records))
    towers = towers_of(model(), model())
    wanted = tuple(dict.fromkeys((towers.shared, towers.best, towers.logits, towers.early, *layers)))
    return Set(embed(reading.examples, model(), model(), wanted, (towers.text,)), towers)


@dataclass(frozen=True, eq=False)
class Shared:
    """Examples shared out: what is learned from and chosen by, and what is judged by."""

    parts: Parts
    test: Examples

    @classmethod
    def of(cls, data: Set, examples: Examples, validation: float, test: float, seed: int) -> Shared:
        """By picture, copies together, as `bb.fit` does it."""
        parts = split(examples, validation=validation, test=test, seed=seed)
        embedded = replace(data.embedded, examples=examples)
        return cls(Parts(Models(model(), model(), data.towers), embedded, parts), examples.only(parts.test))

    @property
    def train(self) -> Examples:
        """To learn from."""
        return self.parts.train


def some(examples: Examples, count: int, seed: int) -> Examples:
    """So many of them, drawn."""
    return examples.only(np.random.default_rng(seed).permutation(len(examples))[:count])


def fitted(recipe: Recipe | None, towers: Towers, shared: Shared, seed: int, *, both: bool = False) -> Heads:
    """By a recipe, or by `auto`, as `bb.fit` would; with `both`, on the pictures for choosing as well."""
    training, parts = Training(seed=seed), shared.parts
    if recipe is None:
        return choose(towers, parts, training, seconds=600).fitted.heads
    few = isinstance(recipe, Trained) and bool(recipe.patience) and len(parts.validation) < FEW
    chosen_by = None if few or both or not len(parts.validation) else parts.validation
    return recipe.fit(towers, parts.both if both else parts.train, chosen_by, training).heads


def judged(heads: Heads, test: Examples) -> dict[str, float]:
    """The figures on what was held out."""
    assert heads.image is not None and heads.text is not None
    return figures(test, heads.image.apply(test.images or {}), heads.text.apply(test.words or {}))


def told(values: Sequence[float]) -> str:
    """Mean, and the least and the largest."""
    return f"{np.mean(values):.3f} ({min(values):.3f}-{max(values):.3f})"


def row(name: str, found: Sequence[dict[str, float]], *measures: str, more: str = "") -> str:
    """A line of a table."""
    return (
        " | ".join([f"| {name}", *(told([one[measure] for one in found]) for measure in measures)])
        + f" |{more}"
    )


def captions(seeds: int) -> Iterator[str]:
    """All recipes, at two pools; and 50 pairs."""
    data = captioned(())
    alike: dict[str, Callable[[int], Recipe | None]] = {
        "SharedProjection(), the published demo": lambda _: recipes.SharedProjection(),
        "Ridge()": lambda _: recipes.Ridge(),
        "Linear()": lambda _: recipes.Linear(),
        "Mlp()": lambda _: recipes.Mlp(),
        "Adapter()": lambda _: recipes.Adapter(),
        "auto": lambda _: None,
    }
    for held_out in (200, 400):
        total = LEARNED + CHOSEN_BY + held_out
        splits = [
            Shared.of(data, some(data.examples, total, seed), CHOSEN_BY / total, held_out / total, seed)
            for seed in range(seeds)
        ]
        yield f"\n| {held_out} held out, {LEARNED} learned from | text->image R@10 | image->text R@10 |\n|---|---|---|"
        yield row(
            "as it is", [judged(unfitted(data.towers), p.test) for p in splits], TEXT_TO_IMAGE, IMAGE_TO_TEXT
        )
        for name, make in alike.items():
            found = [judged(fitted(make(s), data.towers, p, s), p.test) for s, p in enumerate(splits)]
            yield row(name, found, TEXT_TO_IMAGE, IMAGE_TO_TEXT)
        found = [
            judged(fitted(recipes.SharedProjection(), data.towers, p, s, both=True), p.test)
            for s, p in enumerate(splits)
        ]
        yield row("SharedProjection() on those for choosing, too", found, TEXT_TO_IMAGE, IMAGE_TO_TEXT)
    yield "\n| 50 pairs, 200 held out | text->image R@10 | image->text R@10 |\n|---|---|---|"
    splits = [few_pairs(data, 50, seed) for seed in range(seeds)]
    yield row(
        "as it is", [judged(unfitted(data.towers), p.test) for p in splits], TEXT_TO_IMAGE, IMAGE_TO_TEXT
    )
    for name in ("SharedProjection(), the published demo", "auto"):
        found = [judged(fitted(alike[name](s), data.towers, p, s), p.test) for s, p in enumerate(splits)]
        yield row(name, found, TEXT_TO_IMAGE, IMAGE_TO_TEXT)


def few_pairs(data: Set, count: int, seed: int) -> Shared:
    """So many pictures, a tenth of them to choose by, and 200 others to judge by."""
    drawn = some(data.examples, 1200, seed)
    apart = Shared.of(data, drawn, 0.0, 200 / 1200, seed)
    chosen = some(apart.train, count, seed)
    return replace(Shared.of(data, chosen, 0.1, 0.0, seed), test=apart.test)


def classes(seeds: int) -> Iterator[str]:
    """Class names among the photographs of another folder."""
    reading = read_examples(CLOTHES / "train", labels="folder", test=CLOTHES / "validation")
    towers = towers_of(model(), model())
    wanted = tuple(dict.fromkeys((towers.shared, towers.best, towers.early)))
    data = Set(embed(reading.examples, model(), model(), wanted, (towers.text,)), towers)
    examples = data.examples
    parts = split(examples, validation=0.0, test=0.0)
    test, labels = examples.only(parts.test), examples.labels
    assert labels is not None
    yield f"\n| labelled a class | recipe | P@10, {len(examples.classes)} class names, {len(test)} photographs |"
    yield "|---|---|---|"
    yield row("0 | as it is", [judged(unfitted(towers), test)], "class->image P@10")
    for count in A_CLASS:
        for name, recipe in (("Ridge()", recipes.Ridge()), ("auto", None)):
            found = []
            for seed in range(seeds):
                order = np.random.default_rng(seed).permutation(parts.train)
                rows = np.concatenate([order[labels[order] == label][:count] for label in np.unique(labels)])
                own = Shared.of(data, examples.only(rows), 0.1, 0.0, seed)
                found.append(judged(fitted(recipe, towers, own, seed), test))
            yield row(f"{count} | {name}", found, "class->image P@10")


def speed(seeds: int) -> Iterator[str]:
    """Seconds of a linear head, and of embedding."""
    rng = np.random.default_rng(0)
    count, held = 5000, 500
    meaning = rng.normal(size=(count + held, 64))

    def rows(dim: int, noise: float) -> NDArray[np.float32]:
        made = meaning @ rng.normal(size=(64, dim)) + noise * rng.normal(size=(count + held, dim))
        unit: NDArray[np.float32] = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
        return unit

    names = [str(number) for number in range(count + held)]
    examples = Examples(
        tuple(Picture(name, name, None, name) for name in names),
        tuple(names),
        np.stack([np.arange(count + held)] * 2, 1),
        images={"features": rows(1280, 8.0)},
        words={"text": rows(384, 4.0)},
    )
    towers = Towers("features", "features", text="text")
    train, validation = examples.only(np.arange(count)), examples.only(np.arange(count, count + held))
    yield f"\n| {count:,} pairs, 1,280 and 384 numbers | seconds | of a processor | epochs |\n|---|---|---|---|"
    for recipe in (recipes.Linear(), recipes.Linear(epochs=20, patience=0), recipes.Ridge()):
        took, worked, epochs = [], [], 0
        for seed in range(seeds):
            began, worked_before = time.perf_counter(), time.process_time()
            history = recipe.fit(towers, train, validation, Training(seed=seed)).history
            took.append(time.perf_counter() - began)
            worked.append(time.process_time() - worked_before)
            epochs = len(history.epochs) if history else 0
        wall = f"{np.median(took):.1f} ({min(took):.1f}-{max(took):.1f})"
        yield f"| {recipe} | {wall} | {np.median(worked):.1f} | {epochs or ''} |"
    data = captioned(())
    parts = Shared.of(data, some(data.examples, 1000, 0), 0.1, 0.2, 0).parts
    fresh = embed(some(data.examples, 200, 0), model(), model(), ("features",), (data.towers.text,))
    began = time.perf_counter()
    history = recipes.Linear().fit(data.towers, parts.train, parts.validation, Training()).history
    learning = time.perf_counter() - began
    assert history is not None
    once, epochs = (
        fresh.seconds_if_recomputed(1) * 5,
        len(history.epochs),
    )  # of 200 photographs, and there are 1,000
    yield f"\n| 1,000 photographs, Linear(), {epochs} epochs | seconds |\n|---|---|"
    yield f"| embedding once, then learning | {once:.0f} + {learning:.1f} |"
    yield f"| embedding in every epoch | {once * epochs:.0f} + {learning:.1f} |"


def thousand(layers: tuple[str, ...], seeds: int) -> tuple[Set, list[Shared]]:
    """Splits of 1,000 photographs."""
    data = captioned(layers)
    return data, [Shared.of(data, some(data.examples, 1000, seed), 0.1, 0.2, seed) for seed in range(seeds)]


def layers(seeds: int) -> Iterator[str]:
    """A linear head on one layer, and on several."""
    data, splits = thousand(tuple(dict.fromkeys(name for names in LAYERS for name in names)), seeds)
    yield "\n| layer of mini | numbers | text->image R@10 | image->text R@10 |\n|---|---|---|---|"
    for names in LAYERS:
        recipe = recipes.Linear(layers=names)
        found = [judged(fitted(recipe, data.towers, p, s), p.test) for s, p in enumerate(splits)]
        width = sum((data.examples.images or {})[name].shape[1] for name in names)
        shown = " + ".join(f"`{name}`" for name in names)
        yield row(f"{shown} | {width:,}", found, TEXT_TO_IMAGE, IMAGE_TO_TEXT)


def losses_(seeds: int) -> Iterator[str]:
    """A linear head by each loss."""
    data, splits = thousand((), seeds)
    yield "\n| loss of Linear() | text->image R@10 | image->text R@10 |\n|---|---|---|"
    for loss in LOSSES:
        recipe = recipes.Linear(loss=loss)
        found = [judged(fitted(recipe, data.towers, p, s), p.test) for s, p in enumerate(splits)]
        yield row(f"`{loss}`", found, TEXT_TO_IMAGE, IMAGE_TO_TEXT)


def pairs(seeds: int) -> Iterator[str]:
    """What more pairs bring."""
    data = captioned(())
    able = {
        "Ridge()": recipes.Ridge(),
        "Linear()": recipes.Linear(),
        "Adapter()": recipes.Adapter(),
        "auto": None,
    }
    yield f"\n| pairs | as it is | {' | '.join(able)} |\n|---|---|{'---|' * len(able)}"
    for count in NUMBERS:
        splits = [few_pairs(data, count, seed) for seed in range(seeds)]
        cells = [told([judged(unfitted(data.towers), p.test)[TEXT_TO_IMAGE] for p in splits])]
        for recipe in able.values():
            found = [judged(fitted(recipe, data.towers, p, s), p.test) for s, p in enumerate(splits)]
            cells.append(told([one[TEXT_TO_IMAGE] for one in found]))
        yield f"| {count:,} | {' | '.join(cells)} |"


PARTS: dict[str, Callable[[int], Iterator[str]]] = {
    "captions": captions,
    "classes": classes,
    "speed": speed,
    "layers": layers,
    "losses": losses_,
    "pairs": pairs,
}


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"{', '.join(PARTS)}. Default: all.")
    parser.add_argument("--seeds", type=int, default=3, help="Splits.")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"There is no part {', '.join(sorted(unknown))}.")
    for part in options.parts or PARTS:
        for line in PARTS[part](options.seeds):
            print(line, flush=True)
    report(versions("bowerbird", "numpy", "onnxruntime", "torch"))


if __name__ == "__main__":
    main()
