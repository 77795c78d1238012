"""`auto`: the recipes that suit the examples are tried, and it says which was taken and why.

What is taken is the simplest that none is better than by more than the standard error of the difference, query by query
on the validation set (the one-standard-error rule of Breiman et al. 1984, paired).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter

from bowerbird.errors import LearnError, MissingExtraError, TrainingError
from bowerbird.learn.examples import Examples
from bowerbird.learn.heads import Heads, as_it_is
from bowerbird.learn.parts import Parts
from bowerbird.learn.recall import Figures, Watched, aim, surely, watched
from bowerbird.learn.recipes import (
    Adapter,
    Fitted,
    Linear,
    Mlp,
    Recipe,
    Ridge,
    Trained,
    Training,
    judged,
)
from bowerbird.learn.towers import Towers
from bowerbird.origin.packages import has

ENOUGH = 20
"""Pictures to choose by: the figures of fewer are mostly luck."""

_INSTALL = "pip install 'bowerbird[train]'"

NOTHING = "as it is"
"""What the unfitted model is called among the tries."""


@dataclass(frozen=True)
class Try:
    """One of the recipes that were considered.

    Attributes:
        recipe: as it is written in Python, or `as it is`.
        measure: by which it was judged.
        figure: what it reached on the validation set; None: it was not carried out, or there was nothing to judge by.
        seconds: that it took.
        why: it was taken, or was not, for people.
    """

    recipe: str
    measure: str
    figure: float | None
    seconds: float
    why: str


@dataclass(frozen=True, eq=False)
class Chosen:
    """What was taken.

    Attributes:
        recipe: that was carried out; None: the model stays as it is.
        fitted: what it gave.
        tries: all that were considered, in their order.
        problems: what a person should know of the choice.
        used_both: whether it learned from the pictures for validation, too: they are held out no longer.
    """

    recipe: Recipe | None
    fitted: Fitted
    tries: tuple[Try, ...]
    problems: tuple[str, ...] = ()
    used_both: bool = False


def candidates(towers: Towers) -> list[Recipe]:
    """The recipes that these towers have the tensors for, the quickest first."""
    able: list[Recipe] = []
    for recipe in (Ridge(), Linear(), Adapter(), Mlp()):
        try:
            recipe.tensors(towers)
        except LearnError:
            continue
        able.append(recipe)
    return able


def choose(
    towers: Towers,
    parts: Parts,
    training: Training,
    *,
    seconds: float = 60.0,
    told: Callable[[str], None] | None = None,
) -> Chosen:
    """Try what suits, and take the best.

    Args:
        towers: whose vectors they are.
        parts: what is learned from and chosen by; with fewer than `ENOUGH` pictures to choose by nothing is tried: what
            needs no choice is taken and learns from both parts, which is `Ridge` where there are texts, else `Linear`
            with its settings as they are.
        training: where and how.
        seconds: after which no other recipe is begun, and what another layer may take. The first recipe is always
            carried out.
        told: is told what is being tried.

    Raises:
        LearnError: nothing suits.
        MissingExtraError: all that suits needs PyTorch, which is not installed.
    """
    able = candidates(towers)
    if not able:
        raise LearnError("No recipe suits a model without a tower for pictures.")
    if not has("torch"):
        closed = [recipe for recipe in able if isinstance(recipe, Ridge)]
        if not closed:
            raise MissingExtraError("torch", "train")
    if len(parts.validation) < ENOUGH:
        return _without_choice(towers, parts.both, able[0], training, len(parts.validation))
    return _Choice(towers, parts, training, seconds, told or _nobody).made(able)


def _without_choice(
    towers: Towers, train: Examples, recipe: Recipe, training: Training, pictures: int
) -> Chosen:
    began = perf_counter()
    fitted = recipe.fit(towers, train, None, _own(training, recipe))
    why = f"{pictures} pictures to choose by are too few (at least {ENOUGH})"
    settled = "it settles itself by leave-one-out" if isinstance(recipe, Ridge) else "its settings stand"
    tried = Try(repr(recipe), aim(train), None, perf_counter() - began, f"taken: {why}, and {settled}")
    problem = (
        f"Nothing was chosen between recipes: {why}. All pictures but those of the test set are learned from."
    )
    return Chosen(recipe, fitted, (tried,), (problem,), used_both=True)


@dataclass
class _Choice:
    """A choice on its way.

    Attributes:
        done: what was carried out: recipe, what it gave, seconds.
        left_out: what was not: recipe, and why.
    """

    towers: Towers
    parts: Parts
    training: Training
    seconds: float
    told: Callable[[str], None]
    done: list[tuple[Recipe | None, Fitted, float]] = field(default_factory=list)
    left_out: list[tuple[Recipe, str]] = field(default_factory=list)
    began: float = field(default_factory=perf_counter)

    def made(self, able: Sequence[Recipe]) -> Chosen:
        """Try them one after the other, then the best trained one with an early layer as well."""
        if self.towers.aligned or not self.towers.text:
            heads = unfitted(self.towers)
            self.done.append((None, Fitted(heads, None, judged(heads, self.parts.validation)), 0.0))
        for recipe in able:
            if isinstance(recipe, Mlp):  # the slowest, and seldom the best
                self._try_early()
            self._try(recipe)
        best = self._simplest(self._best(self.done))
        problems = (
            () if has("torch") else (f"PyTorch is not installed, so only Ridge was tried: {_INSTALL}.",)
        )
        return Chosen(best[0], best[1], self._tries(best), problems)

    @property
    def measure(self) -> str:
        """By which is chosen."""
        return aim(self.parts.train)

    def _best(
        self, among: Sequence[tuple[Recipe | None, Fitted, float]]
    ) -> tuple[Recipe | None, Fitted, float]:
        """The first of equals: it is the simpler one."""
        return max(among, key=lambda one: _figure(one[1], self.measure))

    def _simplest(self, best: tuple[Recipe | None, Fitted, float]) -> tuple[Recipe | None, Fitted, float]:
        """The first that the best is not surely better than: of many, the best is often the luckiest."""
        if not math.isfinite(_figure(best[1], self.measure)):
            return best
        reached = self._watched(best[1])
        return next(one for one in self.done if one is best or not surely(reached, self._watched(one[1])))

    def _watched(self, fitted: Fitted) -> Watched:
        validation, heads = self.parts.validation, fitted.heads
        images = heads.image.apply(validation.images or {}) if heads.image else None
        return watched(validation, images, heads.text.apply(validation.words or {}) if heads.text else None)

    def _try(self, recipe: Recipe) -> None:
        start = perf_counter()
        if not isinstance(recipe, Ridge) and not has("torch"):
            self.left_out.append((recipe, f"not tried: it needs {_INSTALL}"))
        elif start - self.began > self.seconds and any(one for one, _, _ in self.done):
            self.left_out.append((recipe, f"not tried: {self.seconds:g} seconds were over"))
        else:
            self.told(f"trying {recipe.name}")
            training = _own(self.training, recipe)
            try:
                fitted = recipe.fit(self.towers, self.parts.train, self.parts.validation, training)
            except TrainingError as error:
                if not any(one for one, _, _ in self.done):
                    raise
                self.left_out.append((recipe, f"failed: {error.message}"))
                return
            self.done.append((recipe, fitted, perf_counter() - start))

    def _try_early(self) -> None:
        """Colours and textures may be what the texts speak of, and the last layers have forgotten most of them."""
        trained = [one for one in self.done if isinstance(one[0], Trained)]
        if not (trained and self.towers.early):
            return
        best = self._best(trained)[0]
        assert isinstance(best, Trained)  # of these it was chosen
        recipe = replace(best, layers=(*best.read(self.towers), self.towers.early))
        takes = self.parts.seconds_a_layer
        left = self.seconds - (perf_counter() - self.began)
        if takes > left:
            why = f"not tried: embedding another layer takes about {takes:.0f} seconds, and {max(left, 0):.0f} are left"
            self.left_out.append((recipe, why))
            return
        self.told(f"embedding {self.towers.early}")
        self.parts.add(recipe.tensors(self.towers)[0])
        self._try(recipe)

    def _tries(self, taken: tuple[Recipe | None, Fitted, float]) -> tuple[Try, ...]:
        measure, reached = self.measure, _figure(taken[1], self.measure)
        tries = []
        for one in self.done:
            recipe, fitted, seconds = one
            figure = _figure(fitted, measure)
            if one is taken:
                why = self._why(taken)
            elif figure > reached:
                why = f"{figure - reached:.3f} above what was taken, which is within its standard error"
            else:
                why = f"{reached - figure:.3f} below" if figure < reached else "no better than a simpler one"
            name = NOTHING if recipe is None else repr(recipe)
            tries.append(Try(name, measure, figure if math.isfinite(figure) else None, seconds, why))
        return (*tries, *(Try(repr(recipe), measure, None, 0.0, why) for recipe, why in self.left_out))

    def _why(self, taken: tuple[Recipe | None, Fitted, float]) -> str:
        if not math.isfinite(_figure(taken[1], self.measure)):
            return "taken: the simplest, as there is nothing to judge by"
        pictures = len(self.parts.validation)
        if taken is self._best(self.done):
            return f"taken: the best on {pictures} pictures for validation"
        return f"taken: the simplest that nothing surely beats on {pictures} pictures for validation"


def unfitted(towers: Towers) -> Heads:
    """The heads that change nothing: of towers that share a space, or of one for pictures alone."""
    if towers.aligned:
        return Heads(as_it_is(towers.shared), as_it_is(towers.text))
    return Heads(as_it_is(towers.best), None)


def _own(training: Training, recipe: Recipe) -> Training:
    """Each recipe has a folder of its own, so that a run that is resumed finds the right checkpoints."""
    if training.folder is None:
        return training
    early = isinstance(recipe, Trained) and len(recipe.layers) > 1
    return replace(training, folder=training.folder / f"{recipe.name}{'-early' if early else ''}")


def _figure(fitted: Fitted | None, measure: str) -> float:
    figures: Figures = fitted.figures if fitted else {}
    figure = figures.get(measure, math.nan)
    return -math.inf if math.isnan(figure) else figure


def _nobody(_: str) -> None:
    pass
