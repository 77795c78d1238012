"""Recipes: what is sent to workers instead of models."""

from __future__ import annotations

import pickle
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

import bowerbird as bb
from bowerbird.errors import ModelError, SpaceMismatchError
from bowerbird.flow.embedding import Embed
from bowerbird.flow.recipe import ModelRecipe, WorkerLocal


def test_a_recipe_is_small_frozen_and_can_be_sent(model):
    recipe = ModelRecipe.of(model)
    sent = pickle.dumps(recipe)
    assert len(sent) < 2000
    assert pickle.loads(sent) == recipe
    assert hash(pickle.loads(sent)) == hash(recipe)
    with pytest.raises(AttributeError):
        recipe.name = "other"
    assert (recipe.name, recipe.space) == ("mini", model.card.space)


def test_names_cards_and_encoders_give_the_same_recipe(model):
    recipes = [ModelRecipe.of(given) for given in ("mini", model.card, model)]
    assert len({replace(recipe, threads=0) for recipe in recipes}) == 1


def test_a_process_builds_a_model_once_however_many_steps_ask(model):
    recipe = ModelRecipe.of(model)
    assert recipe.build() is model
    assert pickle.loads(pickle.dumps(recipe)).build() is model
    other = recipe.for_worker(recipe.threads + 1)
    built: list[bb.Encoder] = []
    threads = [threading.Thread(target=lambda: built.append(other.build())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(encoder) for encoder in built}) == 1
    assert built[0] is not model
    assert built[0].threads == recipe.threads + 1
    assert built[0].card.space == model.card.space


def test_options_are_part_of_a_recipe():
    recipe = ModelRecipe.of(bb.load("mini", dimensions=64))
    assert recipe != ModelRecipe.of("mini")
    again = pickle.loads(pickle.dumps(recipe)).for_worker(1).build()
    assert again.embed("a cat").shape == (1, 64)


def test_a_worker_refuses_another_model(tmp_path):
    source = Path(ModelRecipe.of("mini").source)
    if not source.is_dir():
        source = Path(bb.__file__).parent / "models" / "mini"
    copy = tmp_path / "model"
    shutil.copytree(source, copy)
    try:
        recipe = ModelRecipe.of(str(copy))
    except ModelError:
        pytest.skip("the embedded model is not laid out as a directory of a user")
    with pytest.raises(SpaceMismatchError, match="where the run was started") as caught:
        replace(recipe, space="another").build()
    assert "REVISION" in caught.value.hint
    with pytest.raises(ModelError):
        replace(recipe, source=str(tmp_path / "gone"), threads=7).build()


def test_what_a_worker_makes_arrives_empty_and_is_made_once():
    local = WorkerLocal()
    made = []

    def make():
        time.sleep(0.01)
        made.append(1)
        return len(made)

    threads = [threading.Thread(target=local.get, args=("x", make)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert local.get("x", make) == 1
    assert local.get("y", make) == 2
    assert pickle.loads(pickle.dumps(local)).get("x", make) == 3


def test_the_step_that_embeds_is_sent_without_its_model(model):
    step = Embed(ModelRecipe.of(model), "embed(mini)")
    step.encoder().warm()
    assert len(pickle.dumps(step)) < 3000
    again = pickle.loads(pickle.dumps(step))
    assert again == step
    assert again.for_worker(1).recipe.threads == 1
