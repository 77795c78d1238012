"""`auto`: the recipes that suit the examples are tried, the best on the validation set is taken, and it says why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from bowerbird.errors import LearnError, MissingExtraError
from bowerbird.learn.examples import Examples
from bowerbird.learn.heads import Heads, as_it_is
from bowerbird.learn.recall import Figures, aim
from bowerbird.learn.recipes import Adapter, Fitted, Linear, Mlp, Recipe, Ridge, Towers, Training, judged
from bowerbird.origin.packages import has

ENOUGH = 20
"""Pictures to choose by: the figures of fewer are mostly luck."""

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
    """

    recipe: Recipe | None
    fitted: Fitted
    tries: tuple[Try, ...]
    problems: tuple[str, ...] = ()


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
    train: Examples,
    validation: Examples | None,
    training: Training,
    *,
    seconds: float = 60.0,
    told: Callable[[str], None] | None = None,
) -> Chosen:
    """Try what suits, and take the best.

    Args:
        towers: whose vectors they are.
        train: what is learned from.
        validation: by what is chosen; with fewer than `ENOUGH` pictures nothing is tried: what needs no choice is
            taken, which is `Ridge` where there are texts, else `Linear` with its settings as they are.
        training: where and how.
        seconds: after which no other recipe is begun. The first is always carried out.
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
    if validation is None or len(validation) < ENOUGH:
        return _without_choice(towers, train, able[0], training, 0 if validation is None else len(validation))
    return _Choice(towers, train, validation, training, seconds, told or _nobody).made(able)


def _without_choice(
    towers: Towers, train: Examples, recipe: Recipe, training: Training, pictures: int
) -> Chosen:
    began = perf_counter()
    fitted = recipe.fit(towers, train, None, _own(training, recipe))
    why = f"{pictures} pictures to choose by are too few (at least {ENOUGH})"
    settled = "it settles itself by leave-one-out" if isinstance(recipe, Ridge) else "its settings stand"
    tried = Try(repr(recipe), aim(train), None, perf_counter() - began, f"taken: {why}, and {settled}")
    return Chosen(recipe, fitted, (tried,), (f"Nothing was chosen between recipes: {why}.",))


@dataclass
class _Choice:
    """A choice on its way."""

    towers: Towers
    train: Examples
    validation: Examples
    training: Training
    seconds: float
    told: Callable[[str], None]

    def made(self, able: Sequence[Recipe]) -> Chosen:
        """Try them one after the other."""
        began, measure = perf_counter(), aim(self.train)
        found: list[tuple[Recipe | None, Fitted | None, str, float]] = []
        if self.towers.aligned:
            found.append((None, self._as_it_is(), "", 0.0))
        for recipe in able:
            spent = perf_counter() - began
            if not isinstance(recipe, Ridge) and not has("torch"):
                found.append((recipe, None, "not tried: it needs pip install 'bowerbird[train]'", 0.0))
            elif spent > self.seconds and any(fitted for one, fitted, _, _ in found if one):
                found.append((recipe, None, f"not tried: {self.seconds:g} seconds were over", 0.0))
            else:
                self.told(f"trying {recipe.name}")
                start = perf_counter()
                fitted = recipe.fit(self.towers, self.train, self.validation, _own(self.training, recipe))
                found.append((recipe, fitted, "", perf_counter() - start))
        done = [place for place, (_, fitted, _, _) in enumerate(found) if fitted]
        # The first of equals: it is the simpler one.
        best = max(done, key=lambda place: (_figure(found[place][1], measure), -place))
        taken, given, _, _ = found[best]
        assert given is not None  # among those that are done
        return Chosen(taken, given, self._tries(found, best, measure))

    def _as_it_is(self) -> Fitted:
        heads = Heads(as_it_is(self.towers.shared), as_it_is(self.towers.text))
        return Fitted(heads, None, judged(heads, self.validation))

    def _tries(
        self,
        found: Sequence[tuple[Recipe | None, Fitted | None, str, float]],
        best: int,
        measure: str,
    ) -> tuple[Try, ...]:
        taken = _figure(found[best][1], measure)
        tries = []
        for place, (recipe, fitted, left_out, seconds) in enumerate(found):
            why = left_out
            if fitted and place == best:
                why = f"taken: the best of {len(self.validation)} pictures for validation"
            elif fitted:
                lacks = taken - _figure(fitted, measure)
                why = f"{lacks:.3f} below the best" if lacks > 0 else "no better than a simpler one"
            figure = _figure(fitted, measure) if fitted else None
            tries.append(Try(NOTHING if recipe is None else repr(recipe), measure, figure, seconds, why))
        return tuple(tries)


def _own(training: Training, recipe: Recipe) -> Training:
    """Each recipe has a folder of its own, so that a run that is resumed finds the right checkpoints."""
    return replace(training, folder=training.folder / recipe.name if training.folder else None)


def _figure(fitted: Fitted | None, measure: str) -> float:
    figures: Figures = fitted.figures if fitted else {}
    return figures.get(measure, float("-inf"))


def _nobody(_: str) -> None:
    pass
