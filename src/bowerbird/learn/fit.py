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
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.errors import LearnError, ModelFormatError
from bowerbird.learn.choose import NOTHING, Chosen, candidates, choose, unfitted
from bowerbird.learn.examples import Examples, Vectors
from bowerbird.learn.features import Embedded, embed
from bowerbird.learn.heads import Heads
from bowerbird.learn.loop import Progress
from bowerbird.learn.pairs import Reading, counted, read_examples
from bowerbird.learn.recipes import Recipe, Towers, Trained, Training
from bowerbird.learn.run import Account, HeldOut, Told, kept
from bowerbird.learn.split import Split, split
from bowerbird.models.encoder import Encoder, load
from bowerbird.models.network.graph import GraphFacts, read_graph
from bowerbird.origin.packages import TRAIN, need
from bowerbird.settings import settings

if TYPE_CHECKING:
    from bowerbird.learn.export import Exported
    from bowerbird.learn.sources import PairSource

AUTO = "auto"
LOGITS = "logits"

Model = str | Encoder


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
    return "\n".join(lines) + "\n"


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
    towers_of = _models(model, image_model, text_model, by_class=labels is not None)
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
        validation=None if isinstance(validation, float | int) else validation,
        test=None if isinstance(test, float | int) else test,
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
        validation=float(validation) if isinstance(validation, float | int) else 0.0,
        test=float(test) if isinstance(test, float | int) else 0.0,
        seed=seed,
    )
    training = Training(
        folder=Path(folder).expanduser() if folder else None,
        resume=resume,
        seed=seed,
        tensorboard=tensorboard,
        progress=lambda told: say("training", told),
    )
    learn = perf_counter()
    vectors = _Vectors(towers_of, embedded, parts)
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
            "seed": seed,
            "validation": _share(validation),
            "test": _share(test),
            "labels": labels or "",
        },
        seconds={
            "embedding": embedded.seconds,
            "cached": embedded.cached,
            "training": took - (embedded.seconds - first),
            "recomputing": embedded.seconds_if_recomputed(epochs),
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
    known = {one().name: one for one in recipes.ALL}
    if recipe == AUTO:
        return None
    if recipe not in known:
        raise LearnError(
            f"There is no recipe {recipe!r}.",
            hint=f"Take {AUTO}, {', '.join(known)}, or one of bowerbird.recipes.",
        )
    return known[recipe]()


@dataclass(frozen=True)
class _Models:
    image: Encoder
    text: Encoder | None
    towers: Towers


def _models(model: Model, image_model: Model, text_model: Model, *, by_class: bool) -> _Models:
    default: Model = model or ("" if image_model or text_model else settings().model)
    for_pictures, for_texts = image_model or default or text_model, text_model or default or image_model
    pictures = _encoder(for_pictures)
    words = pictures if for_texts == for_pictures else _encoder(for_texts)
    if pictures.card.image is None:
        raise LearnError(
            f"{pictures.card.name} takes no pictures.", hint="Name a model for them: --image-model."
        )
    text = words if words.card.text else None
    if text is None and not by_class:
        raise LearnError(
            f"{words.card.name} reads no texts, and pairs have them.",
            hint="Name a model for them: --text-model; or learn classes: --labels.",
        )
    return _Models(pictures, text, towers_of(pictures, text))


def _encoder(model: Model) -> Encoder:
    return model if isinstance(model, Encoder) else load(model)


def towers_of(image: Encoder, text: Encoder | None) -> Towers:
    """What the towers of one model, or of two, give."""
    tower = image.image.tower
    facts = read_graph(tower.graph.path)
    own = tower.output == LOGITS or LOGITS in facts.outputs
    return Towers(
        shared=tower.output,
        best=tower.similarity_output,
        logits=LOGITS if own else "",
        text=text.text.tower.output if text else "",
        early=_early(facts, tower.output),
        aligned=text is not None and text.card.space == image.card.space,
    )


def _early(facts: GraphFacts, output: str) -> str:
    """A layer at two fifths of the way; empty where the graph tells of none with channels enough."""
    try:
        layers = facts.layers(output)
    except ModelFormatError:
        return ""
    if len(layers) < _LAYERS:
        return ""
    return layers[round(EARLY * (len(layers) - 1))].name


EARLY = 0.4
"""How far into the network the early layer lies."""

_LAYERS = 6


def _tensors(recipe: Recipe | None, towers: Towers) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those of the recipe, or of all that are tried, and those by which it is judged before."""
    recipes = [recipe] if recipe else candidates(towers)
    images = [towers.shared] if towers.aligned else [towers.best]
    words = [towers.text] if towers.text else []
    for one in recipes:
        more_images, more_words = one.tensors(towers)
        images += more_images
        words += more_words
    return tuple(dict.fromkeys(images)), tuple(dict.fromkeys(words))


class _Vectors:
    """The parts of the examples, and more of their vectors when a recipe wants them; see `choose.Parts`."""

    def __init__(self, models: _Models, embedded: Embedded, parts: Split) -> None:
        self.models = models
        self.embedded = embedded
        self.parts = parts

    @property
    def train(self) -> Examples:
        """To learn from."""
        return self.embedded.examples.only(self.parts.train)

    @property
    def validation(self) -> Examples:
        """To choose by."""
        return self.embedded.examples.only(self.parts.validation)

    @property
    def both(self) -> Examples:
        """Of the two, where too few are there to choose by: they are better learned from."""
        return self.embedded.examples.only(self.used.train)

    @property
    def used(self) -> Split:
        """The split, if both are learned from: nothing is left for validation."""
        train = np.union1d(self.parts.train, self.parts.validation)
        return replace(self.parts, train=train, validation=np.zeros(0, np.int64))

    @property
    def seconds_a_layer(self) -> float:
        """What another layer takes: about what all pictures took."""
        return self.embedded.seconds_a_pass

    def add(self, tensors: Sequence[str]) -> None:
        """Embed the pictures again, for further tensors."""
        examples = self.embedded.examples
        new = [tensor for tensor in tensors if tensor not in (examples.images or {})]
        if not new:
            return
        more = embed(examples, self.models.image, None, new, ())
        if len(more.examples) != len(examples):
            raise LearnError(
                f"{more.dropped[0].name} can be embedded, but not at {new[0]}: {more.dropped[0].reason}"
            )
        self.embedded = replace(
            self.embedded,
            examples=replace(examples, images={**(examples.images or {}), **(more.examples.images or {})}),
            seconds=self.embedded.seconds + more.seconds,
            seconds_a_pass=self.embedded.seconds_a_pass + more.seconds_a_pass,
            cached=self.embedded.cached + more.cached,
            computed=self.embedded.computed + more.computed,
        )


def _carried_out(recipe: Recipe, towers: Towers, vectors: _Vectors, training: Training) -> Chosen:
    """One recipe, as the user asked for it."""
    validation = vectors.validation
    problems: tuple[str, ...] = ()
    if isinstance(recipe, Trained) and recipe.patience and len(validation) < FEW:
        problems = (
            f"{len(validation)} pictures for validation are too few to stop by (at least {FEW}): it learned for "
            f"{recipe.without_validation} epochs, and the last is what was taken.",
        )
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
    models: _Models, reading: Reading, embedded: Embedded, parts: Split, found: Chosen, part: str
) -> Account:
    examples = embedded.examples
    problems = [*reading.problems, *embedded.problems, *parts.problems, *found.problems]
    if part != "test":
        problems.append(f"There are no pictures for the test: the figures are of those for {_PARTS[part]}.")
    return Account(
        recipe=repr(found.recipe) if found.recipe else NOTHING,
        source=reading.source,
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


def _in_words(reading: Reading) -> str:
    """What was read, and what of it was left out."""
    examples = reading.examples
    what = f"{len(examples.classes):,} classes" if examples.classes else f"{len(examples.texts):,} texts"
    told = f"{reading.source}: {len(examples):,} pictures, {what}, {len(examples.links):,} pairs"
    return "; ".join(filter(None, (told, counted(reading.dropped))))


def _share(part: Any) -> Any:
    return part if isinstance(part, float | int) else "given"


def _nobody(_: str, __: Progress | None) -> None:
    pass
