"""`bowerbird.fit`: pairs in, a model out. Everything on the way is a module of its own beside this one."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.collection.collection import Collection
from bowerbird.errors import LearnError
from bowerbird.flow.sources.addresses import base_name
from bowerbird.learn.choose import ENOUGH, NOTHING, Chosen, candidates, choose, unfitted
from bowerbird.learn.examples import Examples, Vectors
from bowerbird.learn.features import Embedded, embed
from bowerbird.learn.heads import Heads
from bowerbird.learn.loop import Progress
from bowerbird.learn.pairs import Reading, counted, read_examples, require
from bowerbird.learn.parts import Parts
from bowerbird.learn.recipes import BLIND, Recipe, Ridge, Trained, Training
from bowerbird.learn.run import Account, HeldOut, Told, kept
from bowerbird.learn.split import Split, split
from bowerbird.learn.towers import Model, Models, Towers, models_of
from bowerbird.models.encoder import Encoder
from bowerbird.origin.packages import TRAIN, need

if TYPE_CHECKING:
    from bowerbird.learn.export import Exported
    from bowerbird.learn.sources import PairSource

AUTO = "auto"


@dataclass(frozen=True, eq=False)
class Run:
    """A fit that has ended: what it gave, and how good that is.

    Attributes:
        heads: what was fitted.
        towers: what the heads are put on.
        held_out: pictures that took no part, before and after.
        train: what was learned from.
        account: how it went.
        image: the model for pictures.
        text: that for texts; None: there is none.
        folder: of checkpoints and metrics; None: they were not kept.
    """

    heads: Heads
    towers: Towers
    held_out: HeldOut
    train: Examples
    account: Account
    image: Encoder
    text: Encoder | None
    folder: Path | None = None

    def __repr__(self) -> str:
        """What it is, and what it reached: two lines."""
        counts, part = self.account.counts, self.held_out.part
        reached = []
        for direction, measures in self.recall.items():
            name = list(measures)[-1]
            was = self.before.get(direction, {}).get(name)
            first = f"{was['mean']:.3f} -> " if was else ""
            reached.append(f"{direction} {name} {first}{measures[name]['mean']:.3f}")
        return (
            f"<Run: {self.account.recipe} on {counts['train']:,} pictures of {self.account.source};\n"
            f" {', '.join(reached)} on {counts[part]:,} ({part})>"
        )

    @property
    def losses(self) -> list[float]:
        """The mean loss of each epoch; empty where nothing was trained, as by Ridge."""
        return [epoch.loss for epoch in self.account.history.epochs] if self.account.history else []

    @property
    def before(self) -> Told:
        """Figures of the models as they are, as `recall`; empty where pictures and texts shared no space."""
        return self.held_out.before

    @property
    def recall(self) -> Told:
        """By direction, such as `text->image`, and measure, such as `R@10`: `mean`, and the ends of its 95 % interval.

        Of classes the direction is `class->image`, or `image->image` without texts, with P@10 and AP.
        """
        return self.held_out.after

    def save(self, directory: str | Path, *, format: str = "onnx") -> Exported:
        """Write it as a model directory: a model like any other, with what a report needs beside it.

        Args:
            directory: to be made; it must not hold anything yet.
            format: `onnx`, or `torchscript`: as well as ONNX, the heads as TorchScript.

        Raises:
            LearnError: what was written does not compute what was learned.
            BowerbirdError: `directory` is in use or cannot be written.
            MissingExtraError: TorchScript was asked for, and PyTorch is not installed.
        """
        from bowerbird.learn.calibration import measured
        from bowerbird.learn.export import save

        images, words = self._vectors(self.train)
        held, calibration = self.held_out, None
        if words is not None and held.texts is not None and held.part != "train":
            calibration = measured(images, words, held.images, held.texts, held.examples.links)
        return save(
            directory,
            self.heads,
            image=self.image,
            text=self.text if self.heads.text else None,
            facts={
                "recipe": self.account.recipe,
                "source": self.account.source,
                "pairs": len(self.train.links),
            },
            calibration=calibration,
            readme=card_of(self),
            files=kept(self.account, self.held_out),
            format=format,
        )

    def _vectors(self, examples: Examples) -> tuple[Vectors, Vectors | None]:
        assert self.heads.image is not None  # every recipe gives one
        images = self.heads.image.apply(examples.images or {})
        return images, self.heads.text.apply(examples.words or {}) if self.heads.text else None


def card_of(run: Run) -> str:
    """What the model card says of a fit: Markdown."""
    account, part = run.account, run.held_out.part
    lines = [
        f"Fitted with `{account.recipe}` on {account.counts['train']:,} pictures of {account.source}. "
        + (
            "No others were held out, so these were asked for afterwards, and the figures say nothing of others:"
            if part == "train"
            else f"{account.counts[part]:,} others ({part}) were asked for afterwards:"
        ),
        "",
        "| | before | after | 95 % interval |",
        "|---|---|---|---|",
    ]
    before = run.before
    for direction, measures in run.recall.items():
        for measure, one in measures.items():
            was = before.get(direction, {}).get(measure)
            first = f"{was['mean']:.3f}" if was else "-"
            lines.append(
                f"| {direction} {measure} | {first} | {one['mean']:.3f} | {one['low']:.3f} to {one['high']:.3f} |"
            )
    use = [
        "",
        "```",
        "bowerbird index PICTURES --model ./MODEL",
        'bowerbird search "words" --model ./MODEL',
        "bowerbird report MODEL",
        "```",
        "",
        "`fit.json` and `fit.npz` hold names, thumbnails and vectors of the held-out pictures: leave them out where "
        "those are not to be shared.",
    ]
    if account.choice:
        tried = [f"- `{one.recipe}`: {one.why}" for one in account.choice]
        use = ["", "Tried:", "", *tried, *use]
    return "\n".join([*lines, *use]) + "\n"


def fit(  # noqa: PLR0913  what pairs, which models, what recipe: all optional but the first
    pairs: PairSource,
    *,
    model: Model = "",
    image_model: Model = "",
    text_model: Model = "",
    recipe: Recipe | str = AUTO,
    image: str = "",
    text: str | Sequence[str] = "",
    labels: str | None = None,
    root: str | Path = "",
    id: str = "",
    delimiter: str | None = None,
    validation: float | PairSource = 0.1,
    test: float | PairSource = 0.1,
    seconds: float = 60.0,
    seed: int = 0,
    folder: str | Path | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    progress: Callable[[str, Progress | None], None] | None = None,
) -> Run:
    """Align models on pairs of the user's own: frozen towers, and heads that are fitted in seconds.

    Args:
        pairs: see `bowerbird.learn.pairs.read_examples`, which also takes `image`, `text`, `labels`, `root`, `id` and
            `delimiter`.
        model: for pictures and texts; empty, and none of the next two: `BOWERBIRD_MODEL`.
        image_model: for pictures.
        text_model: for texts.
        recipe: one of `bowerbird.recipes`, or its name in lower case; `auto` tries and chooses.
        image: column of the pictures.
        text: column of the texts, or several.
        labels: `folder`, or the column with the class.
        root: folder of the pictures.
        id: column of the ids.
        delimiter: of a CSV file.
        validation: share of the pictures to stop and choose by, or pairs of the user's own for it.
        test: share to judge by, once, at the end; likewise.
        seconds: after which `auto` begins no other recipe.
        seed: of the split and of everything that is drawn.
        folder: for checkpoints and metrics; None: they are not kept.
        resume: go on from the last checkpoint there.
        tensorboard: write events for it, too.
        progress: is told what is being done, and how far it is; `embedding` counts pictures and texts as steps.

    Raises:
        LearnError: there is nothing to learn from, or the recipe cannot learn from these.
        BowerbirdError: the pairs cannot be read.
        ModelError: a model cannot be loaded.
        MissingExtraError: PyTorch is wanted and not installed.
    """
    began = perf_counter()
    say = progress or _nobody
    if seed < 0:
        raise LearnError(f"seed is {seed}.", hint="Give a number from 0 on.")
    chosen = named(recipe)
    if isinstance(chosen, Trained):
        need("torch", TRAIN)  # Said now, not after everything has been embedded.
    labels = labels or None
    (validation_share, own_validation), (test_share, own_test) = _share(validation), _share(test)
    towers_of = models_of(model, image_model, text_model, by_class=labels is not None)
    image_tensors, text_tensors = _tensors(chosen, towers_of.towers)
    say("reading", None)
    reading = read_examples(
        pairs,
        image=image,
        text=text,
        labels=labels,
        root=root,
        id=id,
        delimiter=delimiter,
        validation=own_validation,
        test=own_test,
    )
    say(_in_words(reading), None)
    say("embedding", None)
    embedded = embed(
        reading.examples,
        towers_of.image,
        towers_of.text,
        image_tensors,
        text_tensors,
        progress=lambda done, total: say("embedding", Progress(1, 1, done, total, math.nan, {})),
    )
    first = embedded.seconds
    parts = split(
        embedded.examples,
        by=towers_of.towers.best,
        validation=validation_share,
        test=test_share,
        seed=seed,
    )
    training = Training(
        folder=Path(folder).expanduser() if folder else None,
        resume=resume,
        seed=seed,
        tensorboard=tensorboard,
        progress=lambda told: say("training", told),
        models={
            "image model": towers_of.image.card.space,
            "text model": towers_of.text.card.space if towers_of.text else "",
        },
    )
    require(embedded.examples.only(parts.train), f"The part of {reading.source} to learn from")
    learn = perf_counter()
    vectors = Parts(towers_of, embedded, parts)
    if chosen is None:
        found = choose(
            towers_of.towers, vectors, training, seconds=seconds, told=lambda doing: say(doing, None)
        )
    else:
        found = _carried_out(chosen, towers_of.towers, vectors, training)
    took = perf_counter() - learn
    embedded, parts = vectors.embedded, vectors.used if found.used_both else parts
    heads = found.fitted.heads
    held_out = _held_out(towers_of.towers, embedded.examples, parts, heads)
    account = _account(towers_of, reading, embedded, parts, found, held_out.part)
    epochs = len(account.history.epochs) if account.history else 1
    account = replace(
        account,
        settings={
            "source": str(pairs) if isinstance(pairs, str | Path) else "",
            "recipe": recipe if isinstance(recipe, str) else repr(recipe),
            "image_model": towers_of.image.card.source,
            "text_model": towers_of.text.card.source if towers_of.text else "",
            "image": image,
            "text": text,
            "labels": labels or "",
            "root": str(root),
            "id": id,
            "delimiter": delimiter or "",
            "validation": validation_share if own_validation is None else "given",
            "test": test_share if own_test is None else "given",
            "seconds": seconds,
            "seed": seed,
        },
        seconds={
            "embedding": embedded.seconds,
            "cached": embedded.cached,
            "training": took - (embedded.seconds - first),
            "recomputing": _recomputing(embedded, parts, epochs),
            "total": perf_counter() - began,
        },
    )
    return Run(
        heads=heads,
        towers=towers_of.towers,
        held_out=held_out,
        train=embedded.examples.only(parts.train),
        account=account,
        image=towers_of.image,
        text=towers_of.text,
        folder=training.folder,
    )


def named(recipe: Recipe | str) -> Recipe | None:
    """The recipe of a name, with its settings as they are; None for `auto`.

    Raises:
        LearnError: there is none of that name.
    """
    from bowerbird.learn import recipes

    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, str):
        raise LearnError(
            f"recipe is {recipe!r}.", hint="Give a name, or a recipe such as bowerbird.recipes.Ridge()."
        )
    known = {one().name: one for one in recipes.ALL}
    if recipe == AUTO:
        return None
    if recipe not in known:
        raise LearnError(
            f"There is no recipe {recipe!r}.",
            hint=f"Take {AUTO}, {', '.join(known)}, or one of bowerbird.recipes.",
        )
    return known[recipe]()


def _tensors(recipe: Recipe | None, towers: Towers) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those of the recipe, or of all that are tried, and those by which it is judged before."""
    recipes = [recipe] if recipe else candidates(towers)
    # The best is always there: copies are told by it, so that every recipe has the same split.
    images = [towers.best, *([towers.shared] if towers.aligned else [])]
    words = [towers.text] if towers.text else []
    for one in recipes:
        more_images, more_words = one.tensors(towers)
        images += more_images
        words += more_words
    return tuple(dict.fromkeys(images)), tuple(dict.fromkeys(words))


def _carried_out(recipe: Recipe, towers: Towers, vectors: Parts, training: Training) -> Chosen:
    """One recipe, as the user asked for it."""
    validation = vectors.validation
    problems: tuple[str, ...] = ()
    if isinstance(recipe, Trained) and recipe.patience and len(validation) < FEW:
        problems = (
            f"{len(validation)} pictures for validation are too few to stop by (at least {FEW}): it learned for "
            f"{recipe.epochs or BLIND} epochs, and the last is what was taken.",
        )
    if isinstance(recipe, Ridge) and len(vectors.parts.test):
        # It settles itself by leave-one-out: what is for validation is better learned from.
        return Chosen(recipe, recipe.fit(towers, vectors.both, None, training), (), used_both=True)
    some = validation if len(validation) and not problems else None
    fitted = recipe.fit(towers, vectors.train, some, training)
    return Chosen(recipe, fitted, (), problems)


FEW = 10
"""Pictures to stop by, at least."""


def _held_out(towers: Towers, examples: Examples, parts: Split, heads: Heads) -> HeldOut:
    name, places = next(
        (name, places)
        for name, places in (("test", parts.test), ("validation", parts.validation), ("train", parts.train))
        if len(places)
    )
    some = examples.only(places)
    images, words = some.images or {}, some.words or {}
    comparable = towers.aligned or not towers.text
    first = unfitted(towers)
    assert heads.image is not None and first.image is not None  # every recipe gives one
    return HeldOut(
        name,
        some,
        first.image.apply(images) if comparable else None,
        first.text.apply(words) if first.text else None,
        heads.image.apply(images),
        heads.text.apply(words) if heads.text else None,
    )


_PARTS = {
    "validation": "validation, by which it was chosen, so that they are a little too good",
    "train": "training, and say nothing of other pictures",
}
"""What stood in for the test, and what that means."""


def _account(
    models: Models, reading: Reading, embedded: Embedded, parts: Split, found: Chosen, part: str
) -> Account:
    examples = embedded.examples
    problems = [*reading.problems, *embedded.problems, *parts.problems, *found.problems]
    held = len(getattr(parts, part))
    if held < ENOUGH:
        problems.append(
            f"{held} picture{'s'[: held != 1]} held out: the figures are rough, and R@k is 1 where k are all there are."
        )
    some = examples.only(getattr(parts, part))
    if some.labels is not None and len(some) and (fewest := int(np.bincount(some.labels).max())) < 10:
        problems.append(
            f"Of no class more than {fewest} pictures are held out, so P@10 is {fewest / 10:g} at most: see Rprec."
        )
    if models.split_in_two:
        problems.append(
            "The two models are one under different options: what aligned them was not used, and nothing tells what "
            "they were worth before."
        )
    if part != "test":
        problems.append(f"There are no pictures for the test: the figures are of those for {_PARTS[part]}.")
    return Account(
        recipe=repr(found.recipe) if found.recipe else NOTHING,
        source=_called(reading.source),
        models={"image": models.image.card.name} | ({"text": models.text.card.name} if models.text else {}),
        counts={
            "pictures": len(examples),
            "texts": len(examples.texts),
            "pairs": len(examples.links),
            "train": len(parts.train),
            "validation": len(parts.validation),
            "test": len(parts.test),
        },
        dropped=[*reading.dropped, *embedded.dropped],
        copies=parts.copies,
        problems=problems,
        history=found.fitted.history,
        choice=found.tries,
        versions=versions(),
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def versions() -> dict[str, str]:
    """Of what takes part in learning."""
    found = {"python": platform.python_version()}
    for package in ("bowerbird", "numpy", "onnxruntime", "torch", "transformers", "peft", "accelerate"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _recomputing(embedded: Embedded, parts: Split, epochs: int) -> float:
    """What embedding in every epoch would take: a text for each picture that is learned from or validated with."""
    pictures = len(parts.train) + len(parts.validation)
    return embedded.seconds_if_recomputed(epochs, pictures, min(pictures, len(embedded.examples.texts)))


def _called(source: str) -> str:
    """The name of what was read, without where it lies: a model is made to be shared."""
    return ", ".join(base_name(one) for one in source.split(", "))


def _in_words(reading: Reading) -> str:
    """What was read, and what of it was left out."""
    examples = reading.examples
    what = f"{len(examples.classes):,} classes" if examples.classes else f"{len(examples.texts):,} texts"
    told = f"{reading.source}: {len(examples):,} pictures, {what}, {len(examples.links):,} pairs"
    return "; ".join(filter(None, (told, counted(reading.dropped))))


def _share(part: float | PairSource) -> tuple[float, PairSource | None]:
    """A share of the pictures, or pairs of the user's own."""
    if isinstance(part, str | Path | Collection | Sequence):
        return 0.0, part
    return float(part), None


def _nobody(_: str, __: Progress | None) -> None:
    pass
