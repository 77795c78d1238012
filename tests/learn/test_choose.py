"""`auto`: what it tries, what it takes, and what it says of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.learn.conftest import LEARNED
from tests.learn.runs import examples as made_up
from tests.learn.runs import unit

from bowerbird.learn.choose import ENOUGH, NOTHING, candidates, choose, unfitted
from bowerbird.learn.examples import Examples
from bowerbird.learn.recall import CLASSES, PAIRS
from bowerbird.learn.recipes import Adapter, Linear, Mlp, Ridge, SharedProjection, Training, judged
from bowerbird.learn.towers import Towers

pytest.importorskip("torch")


class Parts:
    """Examples that were embedded before, with one layer more that can be asked for."""

    def __init__(
        self, of: Examples, learned: int, later: Sequence[str] = (), seconds_a_layer: float = 0.0
    ) -> None:
        self.all, self.learned, self.seconds_a_layer = of, learned, seconds_a_layer
        self.asked: list[str] = []
        images = {name: rows for name, rows in (of.images or {}).items() if name not in later}
        self.now = replace(of, images=images)

    @property
    def train(self) -> Examples:
        return self.now.only(np.arange(self.learned))

    @property
    def validation(self) -> Examples:
        return self.now.only(np.arange(self.learned, len(self.now)))

    @property
    def both(self) -> Examples:
        return self.now

    def add(self, tensors: Sequence[str]) -> None:
        self.asked += [name for name in tensors if name not in (self.now.images or {})]
        self.now = self.all


SMALL = Towers("image", "best", text="sentence", aligned=True)


@pytest.fixture(scope="module")
def small() -> Examples:
    """Short vectors, which are learned quickly: an alignment that is poor, a layer that knows more, an early one."""
    of, rng = made_up(pictures=100), np.random.default_rng(0)
    assert of.images is not None and of.words is not None
    noise = {"image": 1.0, "best": 0.0, "early": 0.3}
    base = {"image": of.words["sentence"], "best": of.images["features"], "early": of.images["features"]}
    return replace(
        of,
        images={
            name: unit(rows + noise[name] * rng.normal(size=rows.shape) / np.sqrt(rows.shape[1]))
            for name, rows in base.items()
        },
    )


@pytest.fixture
def parts(small: Examples) -> Parts:
    return Parts(small, 60)


def test_it_takes_the_best_and_says_why(parts: Parts):
    plain = SMALL
    told: list[str] = []
    found = choose(plain, parts, Training(), told=told.append)
    names = [one.recipe for one in found.tries]
    assert names == [NOTHING, "Ridge()", "Linear()", "Adapter()", "Mlp()"]
    assert told == ["trying ridge", "trying linear", "trying adapter", "trying mlp"]
    figures = [one.figure for one in found.tries]
    assert all(figure is not None for figure in figures)
    (taken,) = [row for row, one in enumerate(found.tries) if one.why.startswith("taken: ")]
    assert repr(found.recipe) == names[taken]
    assert (
        found.fitted.figures[PAIRS] == judged(found.fitted.heads, parts.validation)[PAIRS] == figures[taken]
    )
    assert figures[taken] > figures[0] + 0.1
    assert {one.measure for one in found.tries} == {PAIRS}
    simpler = max(figures[:taken])
    assert figures[taken] > simpler, "a simpler one that is as good would have been taken"
    for row, one in enumerate(found.tries):
        if row < taken:
            assert one.why == f"{figures[taken] - one.figure:.3f} below"
        elif figures[row] > figures[taken]:
            assert "within its standard error" in one.why
    assert all(one.seconds > 0 for one in found.tries[1:])
    assert found.problems == ()
    assert not found.used_both
    assert figures[0] == judged(unfitted(plain), parts.validation)[PAIRS]


def test_where_nothing_helps_the_model_stays_as_it_is():
    """Pictures and texts have the same vectors already: no recipe can be better, and of equals the first is taken."""
    of = made_up(pictures=60, sizes=(12, 12))
    assert of.words is not None
    perfect = replace(
        of, images={"image": of.words["sentence"], "best": made_up(60, seed=1).images["features"]}
    )
    found = choose(SMALL, Parts(perfect, 30), Training())
    assert found.recipe is None
    assert found.tries[0].recipe == NOTHING
    assert found.tries[0].figure == 1.0
    assert found.tries[0].why.startswith("taken")
    heads = found.fitted.heads
    assert heads.image is not None and perfect.images is not None
    np.testing.assert_array_equal(heads.image.apply(perfect.images), perfect.images["image"])
    ridge = next(one for one in found.tries if one.recipe == "Ridge()")
    assert ridge.figure == 1.0  # its weight is 0
    assert ridge.why == "no better than a simpler one"


@pytest.mark.parametrize("seconds", [0.0, 1e-9])
def test_when_the_time_is_over_nothing_more_is_begun(seconds: float, parts: Parts):
    found = choose(SMALL, parts, Training(), seconds=seconds)
    carried = [one.recipe for one in found.tries if one.figure is not None]
    assert carried == [NOTHING, "Ridge()"]
    assert [one.recipe for one in found.tries if one.figure is None] == ["Linear()", "Adapter()", "Mlp()"]
    assert all(
        one.why == f"not tried: {seconds:g} seconds were over" for one in found.tries if one.figure is None
    )


@pytest.mark.parametrize(("takes", "tried"), [(0.0, True), (1e6, False)], ids=["soon there", "too long"])
def test_an_early_layer_is_tried_where_there_is_time(takes: float, tried: bool, small: Examples):
    parts = Parts(small, 60, later=["early"], seconds_a_layer=takes)
    found = choose(replace(SMALL, early="early"), parts, Training())
    one = next(one for one in found.tries if "early" in one.recipe)
    assert (one.figure is not None) == tried
    assert parts.asked == (["early"] if tried else [])
    if not tried:
        assert "embedding another layer takes about 1000000 seconds" in one.why
    else:
        best = max(
            (other for other in found.tries if other.recipe in ("Linear()", "Adapter()")),
            key=lambda other: other.figure or 0,
        )
        assert one.recipe.startswith(best.recipe.removesuffix("()"))
        assert "layers=('best', 'early')" in one.recipe


def test_too_few_to_choose_by(towers: Towers, embedded: Examples):
    parts = Parts(embedded, len(embedded) - ENOUGH + 1)
    found = choose(towers, parts, Training())
    assert isinstance(found.recipe, Ridge)
    assert found.used_both
    (one,) = found.tries
    assert one.figure is None
    assert one.why.startswith("taken: 19 pictures to choose by are too few (at least 20)")
    assert "leave-one-out" in one.why
    assert any("19 pictures to choose by are too few" in problem for problem in found.problems)
    # It learned from all of them.
    alone = Ridge().fit(towers, embedded, None, Training()).heads
    assert alone.image is not None and found.fitted.heads.image is not None and embedded.images is not None
    np.testing.assert_array_equal(
        found.fitted.heads.image.apply(embedded.images), alone.image.apply(embedded.images)
    )
    enough = choose(replace(towers, early=""), Parts(embedded, len(embedded) - ENOUGH), Training(), seconds=0)
    assert len(enough.tries) > 1


def test_pictures_alone(towers: Towers, by_shape: Examples):
    alone = replace(towers, text="", aligned=False, early="")
    of = replace(by_shape, words=None)
    found = choose(alone, Parts(of, LEARNED), Training())
    assert [one.recipe for one in found.tries] == [NOTHING, "Linear()", "Mlp()"]
    assert {one.measure for one in found.tries} == {CLASSES}
    assert isinstance(found.recipe, Linear | Mlp)
    few = choose(alone, Parts(of, 110), Training())
    assert isinstance(few.recipe, Linear)
    assert "its settings stand" in few.tries[0].why


def test_with_nothing_to_judge_by_the_simplest_is_taken(towers: Towers, by_shape: Examples):
    """Of every class there is one picture for validation: none has another to be found by."""
    alone = replace(towers, text="", aligned=False, early="")
    count = len(by_shape)
    labels = np.concatenate([np.arange(LEARNED) % 4, np.arange(count - LEARNED)])
    names = tuple(f"class {row}" for row in range(count))
    of = replace(
        by_shape,
        words=None,
        texts=names,
        classes=names,
        labels=labels,
        links=np.stack([np.arange(count), labels], 1),
    )
    found = choose(alone, Parts(of, LEARNED), Training(), seconds=0)
    assert found.recipe is None
    assert [one.figure for one in found.tries] == [None, None, None]
    assert found.tries[0].why == "taken: the simplest, as there is nothing to judge by"


def test_each_recipe_has_a_folder_of_its_own(small: Examples, tmp_path: Path):
    early = replace(SMALL, early="early")
    first = choose(early, Parts(small, 60), Training(folder=tmp_path))
    (both,) = (one.recipe.partition("(")[0].lower() for one in first.tries if "early" in one.recipe)
    assert {path.name for path in tmp_path.iterdir()} == {"linear", "adapter", "mlp", f"{both}-early"}
    again = choose(early, Parts(small, 60), Training(folder=tmp_path, resume=True))
    assert [one.figure for one in again.tries] == [one.figure for one in first.tries]
    assert repr(again.recipe) == repr(first.recipe)


def test_what_suits_the_towers(towers: Towers):
    kinds = lambda known: [type(recipe) for recipe in candidates(known)]  # noqa: E731
    assert kinds(towers) == [Ridge, Linear, Adapter, Mlp]
    assert kinds(replace(towers, aligned=False)) == [Ridge, Linear, Mlp]
    assert kinds(replace(towers, aligned=False, text="")) == [Linear, Mlp]
    assert SharedProjection not in kinds(towers)
