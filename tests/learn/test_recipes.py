"""Recipes on vectors of real pictures: they learn, they repeat themselves, and one is the published demo."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.learn.conftest import LEARNED

from bowerbird.errors import LearnError
from bowerbird.learn.choose import unfitted
from bowerbird.learn.examples import Examples
from bowerbird.learn.heads import Head, Heads
from bowerbird.learn.heads import Linear as LinearLayer
from bowerbird.learn.losses import InfoNCE, Sigmoid, SupervisedContrastive
from bowerbird.learn.network import linear
from bowerbird.learn.recall import CLASSES, PAIRS
from bowerbird.learn.recipes import (
    ALL,
    Adapter,
    Linear,
    Mlp,
    Recipe,
    Ridge,
    SharedProjection,
    Trained,
    Training,
    judged,
)
from bowerbird.learn.towers import Towers

torch = pytest.importorskip("torch")

NAMES = [recipe.__name__ for recipe in ALL]
QUICK = {"epochs": 25, "patience": 25, "lr": 3e-3}


def quick(recipe: type[Recipe]) -> Recipe:
    """With fewer epochs than by itself, where it is trained."""
    if recipe is SharedProjection:
        return SharedProjection(epochs=15, lr=3e-3)
    return recipe(**QUICK) if issubclass(recipe, Trained) else recipe()


@pytest.fixture(scope="module")
def train(embedded: Examples) -> Examples:
    return embedded.only(np.arange(LEARNED))


@pytest.fixture(scope="module")
def validation(embedded: Examples) -> Examples:
    return embedded.only(np.arange(LEARNED, len(embedded)))


def numbers(heads: Heads) -> list[np.ndarray]:
    """All that was learned."""
    return [
        array
        for head in (heads.image, heads.text)
        if head is not None
        for branch in head.branches
        for layer in branch.layers
        for array in vars(layer).values()
        if isinstance(array, np.ndarray)
    ]


def same(one: Heads, two: Heads) -> bool:
    return len(numbers(one)) == len(numbers(two)) and all(
        np.array_equal(a, b) for a, b in zip(numbers(one), numbers(two), strict=True)
    )


@pytest.mark.parametrize("recipe", ALL, ids=NAMES)
def test_every_recipe_learns(recipe: type[Recipe], towers: Towers, train: Examples, validation: Examples):
    before = judged(unfitted(towers), validation)[PAIRS]
    fitted = quick(recipe).fit(towers, train, validation, Training())
    assert fitted.figures == judged(fitted.heads, validation)
    assert fitted.figures[PAIRS] > before + 0.1
    assert (fitted.history is None) == (recipe is Ridge)
    if fitted.history:
        assert fitted.history.epochs[-1].loss < fitted.history.epochs[0].loss


@pytest.mark.parametrize("recipe", ALL, ids=NAMES)
def test_one_seed_gives_one_model(
    recipe: type[Recipe], towers: Towers, train: Examples, validation: Examples
):
    made = quick(recipe)
    made = replace(made, epochs=3) if isinstance(made, Trained) else made
    state = torch.random.get_rng_state()
    one = made.fit(towers, train, validation, Training(seed=4))
    torch.manual_seed(99)  # what the caller draws has no part in it
    two = made.fit(towers, train, validation, Training(seed=4))
    torch.random.set_rng_state(state)
    assert same(one.heads, two.heads)
    assert one.figures == two.figures
    if isinstance(made, Trained):
        assert one.history is not None and two.history is not None
        assert one.history.steps == two.history.steps
        assert not same(one.heads, made.fit(towers, train, validation, Training(seed=5)).heads)


def test_threads_are_as_before(towers: Towers, train: Examples):
    before = torch.get_num_threads()
    Linear(epochs=1).fit(towers, train, None, Training())
    assert torch.get_num_threads() == before


# The published demo.


def test_shared_projection_is_the_published_demo(towers: Towers, train: Examples, tmp_path: Path):
    """Written out in plain PyTorch, from the same first weights and order of pairs: the same losses and weights."""
    from bowerbird.learn.network import Batches

    recipe = SharedProjection()
    first = recipe.begin(towers, train, np.random.default_rng(0))
    fitted = recipe.fit(towers, train, None, Training(folder=tmp_path, seed=0))

    def linear(layer: LinearLayer) -> torch.nn.Linear:
        made = torch.nn.Linear(layer.weight.shape[1], layer.weight.shape[0])
        with torch.no_grad():
            made.weight.copy_(torch.from_numpy(layer.weight.copy()))
            made.bias.copy_(torch.from_numpy(layer.bias.copy()))
        return made

    assert first.image is not None and first.text is not None
    (of_pictures,), (of_texts,) = first.image.branches, first.text.branches
    assert (of_pictures.tensor, of_texts.tensor) == ("logits", towers.text)
    picture_side, text_side = linear(of_pictures.layers[0]), linear(of_texts.layers[0])
    shared = linear(of_pictures.layers[2])
    assert tuple(shared.weight.shape) == (64, 64)
    parameters = [*picture_side.parameters(), *text_side.parameters(), *shared.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=3e-4)
    batches = Batches(train, first, batch_size=64, seed=0)
    losses = []
    for epoch in range(1, 6):
        for batch in batches(epoch):
            pictures = torch.nn.functional.normalize(
                shared(picture_side(batch.images["logits"]).relu()), dim=1
            )
            texts = torch.nn.functional.normalize(shared(text_side(batch.texts[towers.text]).relu()), dim=1)
            # Pictures look for their texts, and not the other way round.
            loss = torch.nn.functional.cross_entropy(pictures @ texts.T / 0.07, torch.arange(len(pictures)))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
    assert fitted.history is not None
    assert len(fitted.history.epochs) == 5
    np.testing.assert_allclose(fitted.history.steps, losses, rtol=1e-5)
    assert fitted.heads.image is not None and fitted.heads.text is not None
    (image,), (text,) = fitted.heads.image.branches, fitted.heads.text.branches
    assert [type(layer).__name__ for layer in image.layers] == ["Linear", "Relu", "Linear"]
    for layer, wanted in (
        (image.layers[0], picture_side),
        (text.layers[0], text_side),
        (image.layers[2], shared),
        (text.layers[2], shared),
    ):
        assert isinstance(layer, LinearLayer)
        np.testing.assert_allclose(layer.weight, wanted.weight.detach(), atol=1e-5)
        np.testing.assert_allclose(layer.bias, wanted.bias.detach(), atol=1e-5)
    last = [head.layers[2] for head in (image, text)]
    np.testing.assert_array_equal(last[0].weight, last[1].weight)
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("*.pt")) == [
        f"epoch-000{number}.pt" for number in range(1, 6)
    ]


def test_the_demo_takes_its_last_epoch(towers: Towers, train: Examples, validation: Examples):
    """Whatever the validation says: it is a baseline, and nothing is chosen in it."""
    fitted = SharedProjection(lr=0.3).fit(towers, train, validation, Training())
    assert fitted.history is not None
    watched = [epoch.metrics[PAIRS] for epoch in fitted.history.epochs]
    assert max(watched) > watched[-1]
    assert fitted.history.best == 5
    assert fitted.figures[PAIRS] == watched[-1]


def test_the_demo_without_a_classifier_reads_the_best_layer(towers: Towers, train: Examples):
    assert SharedProjection().tensors(replace(towers, logits=""))[0] == (towers.best,)
    assert SharedProjection(layers=("image_embeds",)).tensors(towers)[0] == ("image_embeds",)
    with pytest.raises(LearnError, match="one layer"):
        SharedProjection(layers=("a", "b")).tensors(towers)


def test_layers_begin_as_those_of_pytorch():
    rng = np.random.default_rng(0)
    ours = linear(50, 400, rng)
    torch.manual_seed(0)
    theirs = torch.nn.Linear(50, 400)
    for mine, other in ((ours.weight, theirs.weight), (ours.bias, theirs.bias)):
        assert mine is not None
        values = other.detach().numpy()
        assert mine.shape == values.shape
        assert np.abs(mine).max() <= 1 / np.sqrt(50)
        assert np.abs(mine).max() == pytest.approx(np.abs(values).max(), rel=0.02)
        assert mine.std() == pytest.approx(values.std(), rel=0.08)


# Where they begin.


def test_an_adapter_begins_as_nothing(towers: Towers, train: Examples):
    assert train.images is not None and train.words is not None
    begun = Adapter().begin(towers, train, np.random.default_rng(0))
    assert begun.image is not None and begun.text is not None
    np.testing.assert_allclose(begun.image.apply(train.images), train.images[towers.shared], atol=1e-6)
    np.testing.assert_allclose(begun.text.apply(train.words), train.words[towers.text], atol=1e-6)


@pytest.mark.parametrize("recipe", [Linear, Mlp])
def test_what_comes_in_is_centred(recipe: type[Trained], towers: Towers, train: Examples):
    assert train.images is not None
    begun = recipe().begin(towers, train, np.random.default_rng(0))
    assert begun.image is not None and begun.text is not None
    mean, scale = begun.image.branches[0].layers[:2]
    centred = Head((replace(begun.image.branches[0], layers=(mean, scale)),))
    rows = train.images[towers.best].astype(np.float64) + mean.by
    np.testing.assert_allclose(rows.mean(0), 0, atol=1e-6)
    assert np.linalg.norm(rows * scale.by, axis=1).mean() == pytest.approx(1, abs=1e-5)
    assert centred.tensors == (towers.best,)
    assert begun.image.branches[0].layers[-1].weight.shape[0] == 256
    assert begun.text.branches[0].layers[-1].weight.shape[0] == 256
    narrow = recipe(dim=32).begin(towers, train, np.random.default_rng(0))
    assert narrow.image is not None
    assert narrow.image.branches[0].layers[-1].weight.shape[0] == 32


def test_several_layers_have_a_branch_each(towers: Towers, train: Examples, validation: Examples):
    recipe = Linear(layers=("features", "logits"), epochs=2)
    assert recipe.tensors(towers)[0] == ("features", "logits")
    heads = recipe.fit(towers, train, validation, Training()).heads
    assert heads.image is not None
    assert [branch.tensor for branch in heads.image.branches] == ["features", "logits"]
    both = Adapter(layers=("features", "logits"))
    assert both.tensors(towers)[0] == ("image_embeds", "features", "logits")


# When they stop.


def test_it_stops_when_nothing_gets_better_and_keeps_the_best(
    towers: Towers, train: Examples, validation: Examples
):
    recipe = Linear(epochs=200, patience=3, lr=0.05, weight_decay=0.0)
    fitted = recipe.fit(towers, train, validation, Training())
    history = fitted.history
    assert history is not None
    assert len(history.epochs) == history.best + 3 < 200
    assert "no better than epoch" in history.stopped
    watched = [epoch.metrics[PAIRS] for epoch in history.epochs]
    assert history.best == 1 + int(np.argmax(watched))
    assert fitted.figures == history.epochs[history.best - 1].metrics


@pytest.mark.parametrize("none", [True, False], ids=["none", "empty"])
def test_without_validation_the_epochs_are_fixed(none: bool, towers: Towers, train: Examples):
    fitted = Linear(epochs=3).fit(towers, train, None if none else train.only([]), Training())
    assert fitted.history is not None
    assert len(fitted.history.epochs) == fitted.history.best == 3
    assert PAIRS not in fitted.figures or np.isnan(fitted.figures[PAIRS])


def test_without_patience_the_last_epoch_is_taken(towers: Towers, train: Examples, validation: Examples):
    fitted = Linear(epochs=3, patience=0).fit(towers, train, validation, Training())
    assert fitted.history is not None
    assert len(fitted.history.epochs) == fitted.history.best == 3
    assert fitted.figures == fitted.history.epochs[-1].metrics


def test_all_captions_are_more_pairs_than_one(towers: Towers, train: Examples):
    one, every = (
        Linear(epochs=1, batch_size=40, captions=captions).fit(towers, train, None, Training())
        for captions in ("one", "all")
    )
    assert one.history is not None and every.history is not None
    assert (len(one.history.steps), len(every.history.steps)) == (2, 4)


# What is kept of them.


def test_a_run_that_is_done_can_be_resumed(
    towers: Towers, train: Examples, validation: Examples, tmp_path: Path
):
    recipe = Linear(epochs=3)
    first = recipe.fit(towers, train, validation, Training(folder=tmp_path))
    assert (tmp_path / "metrics.csv").exists()
    again = recipe.fit(towers, train, validation, Training(folder=tmp_path, resume=True))
    assert same(first.heads, again.heads)
    assert again.history is not None and first.history is not None
    assert again.history.steps == first.history.steps
    with pytest.raises(LearnError, match="recipe"):
        Linear(epochs=3, dropout=0.1).fit(towers, train, validation, Training(folder=tmp_path, resume=True))
    with pytest.raises(LearnError, match="pairs was"):
        recipe.fit(towers, train.only(range(60)), validation, Training(folder=tmp_path, resume=True))
    with pytest.raises(LearnError, match="another run"):
        recipe.fit(towers, train, validation, Training(folder=tmp_path))


def test_what_the_loss_learned_is_told(towers: Towers, train: Examples):
    fitted = Linear(epochs=2).fit(towers, train, None, Training())
    assert fitted.heads.facts["loss"] == repr(InfoNCE(learned=True))
    assert fitted.heads.facts["temperature"] != pytest.approx(0.07, abs=1e-6)
    assert fitted.heads.sigmoid is None
    sigmoid = Linear(epochs=2, loss=Sigmoid()).fit(towers, train, None, Training())
    assert sigmoid.heads.sigmoid is not None
    scale, bias = sigmoid.heads.sigmoid
    assert scale == pytest.approx(sigmoid.heads.facts["scale"])
    assert bias == pytest.approx(sigmoid.heads.facts["bias"])


# Classes.


@pytest.mark.parametrize("recipe", [Ridge, Linear, Mlp, Adapter], ids=lambda recipe: recipe.__name__)
def test_classes_are_learned_into_the_space_of_their_names(
    recipe: type[Recipe], towers: Towers, by_shape: Examples
):
    train, validation = by_shape.only(np.arange(LEARNED)), by_shape.only(np.arange(LEARNED, 120))
    fitted = quick(recipe).fit(towers, train, validation, Training())
    assert fitted.figures[CLASSES] > judged(unfitted(towers), validation)[CLASSES] + 0.1
    assert fitted.heads.text is not None and by_shape.words is not None
    # Any other word means what it meant before.
    np.testing.assert_allclose(
        fitted.heads.text.apply(by_shape.words), by_shape.words[towers.text], atol=1e-6
    )


@pytest.mark.parametrize("recipe", [Linear, Mlp], ids=lambda recipe: recipe.__name__)
def test_pictures_alone_learn_their_classes(recipe: type[Trained], towers: Towers, by_shape: Examples):
    alone = replace(towers, text="", aligned=False)
    of = replace(by_shape, words=None)
    train, validation = of.only(np.arange(LEARNED)), of.only(np.arange(LEARNED, 120))
    fitted = recipe(**QUICK).fit(alone, train, validation, Training())
    assert fitted.heads.text is None
    assert fitted.heads.facts["loss"] == repr(SupervisedContrastive(texts=False))
    assert fitted.figures["image->image AP"] > judged(unfitted(alone), validation)["image->image AP"] + 0.05
    with pytest.raises(LearnError, match="no tower for texts"):
        recipe(loss=InfoNCE()).fit(alone, train, None, Training())


# What they need.


@pytest.mark.parametrize("recipe", [Ridge, SharedProjection, Adapter], ids=lambda recipe: recipe.__name__)
def test_a_tower_for_texts_is_asked_for(recipe: type[Recipe]):
    with pytest.raises(LearnError, match="texts"):
        recipe().tensors(Towers("pooled", "pooled"))


def test_an_adapter_asks_for_an_alignment(towers: Towers):
    with pytest.raises(LearnError, match="none"):
        Adapter().tensors(replace(towers, aligned=False))


def test_ridge_reads_the_alignment_only_where_there_is_one(towers: Towers):
    assert Ridge().tensors(towers) == (("image_embeds", "features"), (towers.text,))
    assert Ridge(layer="logits").tensors(replace(towers, aligned=False)) == (("logits",), (towers.text,))


def test_names_and_how_they_are_written():
    assert [recipe().name for recipe in ALL] == ["shared-projection", "ridge", "linear", "mlp", "adapter"]
    assert repr(SharedProjection()) == "SharedProjection()"
    assert repr(Ridge(weight=0.5, layer="logits")) == "Ridge(weight=0.5, layer='logits')"
    made = Linear(loss=InfoNCE(both=False), dim=64, layers=("a",))
    assert eval(repr(made), {"Linear": Linear, "InfoNCE": InfoNCE}) == made
