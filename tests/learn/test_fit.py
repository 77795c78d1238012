"""`bb.fit`: pairs in, a model out, with real pictures, real models and everything that people give by mistake."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.learn.towers import picture_tower, text_tower

import bowerbird as bb
from bowerbird.errors import BowerbirdError, LearnError
from bowerbird.learn.choose import NOTHING
from bowerbird.learn.fit import Run, named
from bowerbird.learn.losses import InfoNCE
from bowerbird.learn.towers import towers_of

ROOT = Path(__file__).resolve().parents[2]
SHARES = {"validation": 0.2, "test": 0.25}
"""Of 120 pictures: 66 are learned from, 24 choose, 30 judge."""


def lines(table: Path) -> list[list[str]]:
    return list(csv.reader(table.read_text("utf-8").splitlines()))


@pytest.fixture
def few(drawn: Path, tmp_path: Path) -> Path:
    """The first 20 drawn pictures, in a folder that a test may spoil; a caption each."""
    rows = lines(drawn)
    with (tmp_path / "pairs.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([rows[0], *rows[1:41:2]])
    for row in rows[1:41:2]:
        shutil.copy(drawn.parent / row[0], tmp_path)
    return tmp_path / "pairs.csv"


def rewritten(table: Path, change: Callable[[list[list[str]]], list[list[str]]]) -> Path:
    """The table with other rows below its header."""
    head, *rows = lines(table)
    with table.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([head, *change(rows)])
    return table


def kept_together(run: Run) -> bool:
    """Whether no picture that judges was learned from."""
    contents = {picture.content for picture in run.train.pictures}
    return not contents & {picture.content for picture in run.held_out.examples.pictures}


# What it gives.


@pytest.fixture(scope="module")
def ridge(drawn: Path, model: bb.Encoder) -> Run:
    return bb.fit(drawn, model=model, recipe=bb.recipes.Ridge(), **SHARES)


def test_figures_before_and_after_are_of_pictures_held_out(ridge: Run):
    assert ridge.account.counts == {
        "pictures": 120,
        "texts": 240,
        "pairs": 240,
        "train": 90,
        "validation": 0,
        "test": 30,
    }
    assert ridge.held_out.part == "test"
    assert kept_together(ridge)
    assert set(ridge.recall) == set(ridge.before) == {"text->image", "image->text"}
    for direction, measures in ridge.recall.items():
        for name, one in measures.items():
            assert one["low"] <= one["mean"] <= one["high"]
            assert one["mean"] > ridge.before[direction][name]["mean"]
    assert ridge.losses == []
    assert ridge.account.recipe == "Ridge()"
    assert ridge.account.problems == []
    assert ridge.account.models == {"image": "mini", "text": "mini"}
    assert ridge.account.seconds["total"] >= ridge.account.seconds["training"] > 0


def test_trained_recipes_tell_their_losses(drawn: Path, model: bb.Encoder, tmp_path: Path):
    pytest.importorskip("torch")
    told: list[str] = []
    recipe = bb.recipes.SharedProjection(dim=64, temperature=0.07, epochs=5, batch_size=64, lr=3e-4)
    run = bb.fit(
        drawn,
        model=model,
        recipe=recipe,
        folder=tmp_path / "run",
        progress=lambda doing, _: told.append(doing),
        **SHARES,
    )
    assert len(run.losses) == 5
    assert run.losses[-1] < run.losses[0]
    assert run.account.recipe == "SharedProjection()"  # which it is by itself
    assert len(list((tmp_path / "run" / "checkpoints").glob("epoch-*.pt"))) == 5
    assert {"reading", "embedding", "training"} <= set(told)
    assert 0 <= run.recall["text->image"]["R@10"]["mean"] <= 1
    again = bb.fit(drawn, model=model, recipe=recipe, folder=tmp_path / "run", resume=True, **SHARES)
    np.testing.assert_array_equal(again.held_out.images, run.held_out.images)
    assert again.recall == run.recall


def test_auto_says_what_it_tried(drawn: Path, model: bb.Encoder):
    pytest.importorskip("torch")
    run = bb.fit(drawn, model=model, seconds=0.0, **SHARES)
    assert [one.recipe for one in run.account.choice][:2] == [NOTHING, "Ridge()"]
    assert run.account.recipe == "Ridge()"
    assert next(one for one in run.account.choice if one.recipe == "Ridge()").why.startswith(
        "taken: the best"
    )
    assert all(one.why for one in run.account.choice)


def test_one_seed_gives_one_run(drawn: Path, model: bb.Encoder, ridge: Run):
    again = bb.fit(drawn, model=model, recipe="ridge", **SHARES)
    np.testing.assert_array_equal(again.held_out.images, ridge.held_out.images)
    other = bb.fit(drawn, model=model, recipe="ridge", seed=1, **SHARES)
    assert [picture.id for picture in other.train.pictures] != [
        picture.id for picture in ridge.train.pictures
    ]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_50_pairs_do_no_harm(seed: int, drawn: Path, model: bb.Encoder):
    rng = np.random.default_rng(seed)
    head, *others = lines(drawn)
    rows = [dict(zip(head, row, strict=True)) for row in others]
    names = rng.permutation(sorted({row["image"] for row in rows}))
    first = [next(row for row in rows if row["image"] == name) for name in names]
    parts = {"train": first[:45], "test": first[50:]}
    sources = {
        part: bb.Collection.from_items(
            [
                bb.Record(row["image"], image=drawn.parent / row["image"], texts=(row["caption"],))
                for row in some
            ]
        )
        for part, some in {**parts, "validation": first[45:50]}.items()
    }
    run = bb.fit(
        sources["train"], model=model, validation=sources["validation"], test=sources["test"], seed=seed
    )
    assert run.account.recipe == "Ridge()"
    # Too few to choose by, so they are learned from.
    assert (run.account.counts["train"], run.account.counts["validation"]) == (50, 0)
    assert len(run.train) == 50
    assert any("5 pictures to choose by are too few (at least 20)" in one for one in run.account.problems)
    for direction, measures in run.recall.items():
        for name, one in measures.items():
            assert one["mean"] >= run.before[direction][name]["mean"]


# Classes, and other models.


def test_classes_from_a_column(drawn: Path, model: bb.Encoder):
    run = bb.fit(drawn, model=model, labels="shape", recipe="ridge", **SHARES)
    assert set(run.recall) == {"class->image"}
    assert run.recall["class->image"]["AP"]["mean"] > run.before["class->image"]["AP"]["mean"] + 0.2
    assert run.train.classes == ("circle", "cross", "ring", "square", "triangle")


@pytest.fixture
def pictures_alone(tmp_path: Path) -> bb.Encoder:
    return bb.load(picture_tower(tmp_path / "pictures", "nchw"))


def test_a_model_of_pictures_alone_learns_classes(drawn: Path, pictures_alone: bb.Encoder, tmp_path: Path):
    pytest.importorskip("torch")
    run = bb.fit(drawn, model=pictures_alone, labels="shape", recipe=bb.recipes.Linear(epochs=5), **SHARES)
    assert set(run.recall) == set(run.before) == {"image->image"}
    assert run.heads.text is None
    assert run.text is None
    assert run.account.models == {"image": "pictures"}
    run.save(tmp_path / "fitted")
    pictures = [picture.source for picture in run.held_out.examples.pictures]
    found = bb.load(tmp_path / "fitted").embed(pictures)
    assert (found * run.held_out.images).sum(1).min() > 0.9999


def test_auto_may_leave_pictures_as_they_are(drawn: Path, pictures_alone: bb.Encoder):
    pytest.importorskip("torch")
    run = bb.fit(drawn, model=pictures_alone, labels="shape", seconds=0.0, **SHARES)
    assert run.account.choice[0].recipe == NOTHING
    assert run.account.choice[0].figure is not None


def test_two_towers_that_share_nothing(drawn: Path, model: bb.Encoder, tmp_path: Path):
    """Pictures of one model, texts of another: there are no figures before, and one space afterwards."""
    words = bb.load(text_tower(tmp_path / "words"))
    run = bb.fit(
        drawn, image_model=model, text_model=words, image="image", text="code", recipe="ridge", **SHARES
    )
    assert run.before == {}
    assert run.held_out.images_before is None
    assert run.account.models == {"image": "mini", "text": "words"}
    chance = 10 / len(run.held_out.examples)
    assert run.recall["text->image"]["R@10"]["mean"] > chance + 0.2
    run.save(tmp_path / "both")
    fitted = bb.load(tmp_path / "both")
    found = fitted.embed(list(run.held_out.examples.texts), role="query")
    assert run.held_out.texts is not None
    assert (found * run.held_out.texts).sum(1).min() > 0.9999
    both = bb.fit(drawn, model=model, text_model=words, image="image", text="code", recipe="ridge", **SHARES)
    assert both.account.models == run.account.models
    np.testing.assert_array_equal(both.held_out.images, run.held_out.images)


def test_a_model_beside_another_stays_for_the_other_side(drawn: Path, model: bb.Encoder, tmp_path: Path):
    """`model` is for both sides, `image_model` for one: texts are still those of `model`."""
    tiny = bb.load(picture_tower(tmp_path / "pictures", "nchw"))
    run = bb.fit(drawn, model=model, image_model=tiny, recipe="ridge", **SHARES)
    assert run.account.models == {"image": "pictures", "text": "mini"}


def test_what_the_towers_give(model: bb.Encoder, tmp_path: Path):
    mini = towers_of(model, model)
    assert (mini.shared, mini.best, mini.logits, mini.text) == (
        "image_embeds",
        "features",
        "logits",
        "sentence_embedding",
    )
    assert mini.aligned
    assert mini.early not in ("", mini.best)
    tiny = towers_of(bb.load(picture_tower(tmp_path / "pictures", "nchw")), None)
    assert (tiny.text, tiny.logits, tiny.early, tiny.aligned) == ("", "", "", False)


# What people give.


def test_pictures_that_cannot_be_read_are_dropped_by_name(few: Path, model: bb.Encoder):
    names = [row[0] for row in lines(few)][1:]
    (few.parent / names[0]).write_bytes(b"no picture at all")
    (few.parent / names[1]).unlink()
    run = bb.fit(few, model=model, recipe="ridge")
    dropped = {one.name: one for one in run.account.dropped}
    assert set(dropped) == {names[0], names[1]}
    assert all(one.reason for one in dropped.values())
    assert run.account.counts["pictures"] == 18
    used = {picture.name for picture in (*run.train.pictures, *run.held_out.examples.pictures)}
    assert not used & set(dropped)


def test_a_picture_named_twice_is_one(few: Path, model: bb.Encoder):
    """Under another name, in another row: it has two texts then, and neither is wrong for it."""
    first = lines(few)[1]
    shutil.copy(few.parent / first[0], few.parent / "copy.png")

    def twice(rows: list[list[str]]) -> list[list[str]]:
        return [*rows, ["copy.png", "the same once more", *first[2:]], [first[0], "and again", *first[2:]]]

    run = bb.fit(rewritten(few, twice), model=model, recipe="ridge", test=0.0, validation=0.0)
    assert run.account.counts["pictures"] == 20
    assert run.account.counts["pairs"] == 22
    place = next(row for row, picture in enumerate(run.train.pictures) if picture.name == first[0])
    texts = {run.train.texts[text] for picture, text in run.train.links.tolist() if picture == place}
    assert texts == {first[1], "the same once more", "and again"}
    assert any("copy.png" in problem for problem in run.account.problems)


def test_captions_that_are_too_long_are_counted(few: Path, model: bb.Encoder):
    def longer(rows: list[list[str]]) -> list[list[str]]:
        return [
            [row[0], row[1] + " and so on" * (400 if at < 3 else 0), *row[2:]] for at, row in enumerate(rows)
        ]

    run = bb.fit(rewritten(few, longer), model=model, recipe="ridge")
    assert any(problem.startswith("3 texts are longer than the") for problem in run.account.problems)


def test_no_pairs(few: Path, model: bb.Encoder):
    with pytest.raises(LearnError, match="no pair"):
        bb.fit(rewritten(few, lambda rows: []), model=model)


def test_no_pair_that_can_be_used(few: Path, model: bb.Encoder):
    with pytest.raises(LearnError, match="20 left out"):
        bb.fit(rewritten(few, lambda rows: [["no-" + row[0], *row[1:]] for row in rows]), model=model)


def test_one_class(few: Path, model: bb.Encoder):
    with pytest.raises(LearnError, match="of one class, 'ring'"):
        bb.fit(
            rewritten(few, lambda rows: [[*row[:2], "ring", row[3]] for row in rows]),
            model=model,
            labels="shape",
        )


def test_a_test_set_that_is_not_there_is_said(few: Path, model: bb.Encoder):
    run = bb.fit(few, model=model, recipe="ridge", test=0.0)
    assert run.held_out.part == "validation"
    assert kept_together(run)
    assert any("no pictures for the test" in one and "too good" in one for one in run.account.problems)
    none = bb.fit(few, model=model, recipe="ridge", test=0.0, validation=0.0)
    assert none.held_out.part == "train"
    assert any("say nothing of other pictures" in one for one in none.account.problems)
    # `auto` learns from pictures that are too few to choose by: they cannot judge it as well.
    auto = bb.fit(few, model=model, test=0.0)
    assert auto.held_out.part == "train"
    assert (auto.account.counts["train"], auto.account.counts["validation"]) == (20, 0)


def test_too_few_to_stop_by(few: Path, model: bb.Encoder):
    pytest.importorskip("torch")
    run = bb.fit(few, model=model, recipe=bb.recipes.Linear(epochs=2))
    assert len(run.losses) == 2
    assert any(
        "2 pictures for validation are too few to stop by (at least 10)" in one
        for one in run.account.problems
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"recipe": "rigde"}, "no recipe 'rigde'.*ridge"),
        ({"seed": -1}, "seed is -1"),
        ({"validation": 0.6, "test": 0.6}, "shares"),
        ({"recipe": "ridge", "labels": "colour"}, "colour"),
    ],
    ids=["recipe", "seed", "shares", "labels"],
)
def test_mistakes_are_named(given: dict[str, object], message: str, few: Path, model: bb.Encoder):
    with pytest.raises(BowerbirdError, match=message):
        bb.fit(few, model=model, **given)


def test_models_that_do_not_fit(few: Path, tmp_path: Path, model: bb.Encoder):
    pytest.importorskip("torch")
    words = bb.load(text_tower(tmp_path / "words"))
    pictures = bb.load(picture_tower(tmp_path / "tiny", "nchw"))
    with pytest.raises(LearnError, match="words takes no pictures"):
        bb.fit(few, model=words)
    with pytest.raises(LearnError, match="tiny reads no texts"):
        bb.fit(few, model=pictures)
    with pytest.raises(LearnError, match="no tower for texts"):
        bb.fit(few, model=pictures, labels="shape", recipe="ridge")
    with pytest.raises(LearnError, match="these two towers have none"):
        bb.fit(few, image_model=model, text_model=words, text="code", recipe="adapter")


def test_recipes_by_their_names():
    assert named("shared-projection") == bb.recipes.SharedProjection()
    assert named("auto") is None
    mine = bb.recipes.Linear(loss=InfoNCE(both=False))
    assert named(mine) is mine


# Without PyTorch.

WITHOUT = """
import importlib.util, json, sys
sys.path[:0] = sys.argv[1:3]
assert importlib.util.find_spec("torch") is None
import bowerbird as bb
pairs, pictures = sys.argv[3:5]
told = {}
for name, more in {"auto": {}, "ridge": {"recipe": "ridge"}, "linear": {"recipe": "linear"},
                   "mine": {"recipe": bb.recipes.SharedProjection()},
                   "alone": {"model": pictures, "labels": "shape"}}.items():
    try:
        run = bb.fit(pairs, **{"model": "mini", "validation": 0.2, "test": 0.25, **more})
        told[name] = {"recipe": run.account.recipe, "problems": list(run.account.problems),
                      "choice": [[one.recipe, one.figure, one.why] for one in run.account.choice],
                      "R@10": run.recall["text->image"]["R@10"]["mean"]}
        if name == "ridge":
            made = run.save(sys.argv[5])
            text = run.held_out.examples.texts[0]
            told["cosine"] = float(bb.load(sys.argv[5]).embed([text], role="query")[0] @ run.held_out.texts[0])
    except bb.BowerbirdError as error:
        told[name] = {"error": type(error).__name__, "message": str(error)}
assert "torch" not in sys.modules
print(json.dumps(told))
"""


@pytest.mark.slow
def test_without_pytorch(drawn: Path, ridge: Run, tmp_path: Path):
    """In a process that has all packages but PyTorch: they are laid out anew without it."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for folder in map(Path, dict.fromkeys(path for path in sys.path if path.endswith("-packages"))):
        for entry in folder.iterdir():
            if not entry.name.startswith(("torch", "functorch")) and entry.suffix != ".pth":
                (packages / entry.name).symlink_to(entry)
    source = Path(bb.__file__).parents[1]
    tiny = picture_tower(tmp_path / "pictures", "nchw")
    words = [sys.executable, "-S", "-c", WITHOUT, source, packages, drawn, tiny, tmp_path / "fitted"]
    done = subprocess.run(
        list(map(os.fspath, words)), capture_output=True, text=True, check=False, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["ridge"]["recipe"] == "Ridge()"
    assert told["ridge"]["R@10"] == pytest.approx(ridge.recall["text->image"]["R@10"]["mean"], abs=0.05)
    assert told["cosine"] > 0.9999
    command = "pip install 'bowerbird[train]'"
    assert told["auto"]["recipe"] == "Ridge()"
    assert f"PyTorch is not installed, so only Ridge was tried: {command}." in told["auto"]["problems"]
    tried = {recipe: (figure, why) for recipe, figure, why in told["auto"]["choice"]}
    assert tried["Ridge()"][1].startswith("taken")
    for recipe in ("Linear()", "Adapter()", "Mlp()"):
        assert tried[recipe] == (None, f"not tried: it needs {command}")
    for name in ("linear", "mine", "alone"):
        assert told[name]["error"] == "MissingExtraError"
        assert command in told[name]["message"]


# The clothing photographs.


@pytest.mark.slow
def test_clothes_are_found_by_their_names(shared_data: Path, model: bb.Encoder, tmp_path: Path):
    """Ten classes of real photographs: with 10 labelled ones of each, and with all there are (about 120)."""
    clothing = shared_data / "clothing"
    for folder in sorted((clothing / "train").iterdir()):
        (tmp_path / "ten" / folder.name).mkdir(parents=True)
        for path in sorted(folder.iterdir())[:10]:
            shutil.copy(path, tmp_path / "ten" / folder.name)
    ten, all_ = (
        bb.fit(folder, labels="folder", model=model, test=clothing / "validation")
        for folder in (tmp_path / "ten", clothing / "train")
    )

    def precision(told) -> float:
        return told["class->image"]["P@10"]["mean"]

    assert precision(ten.before) == precision(all_.before) < 0.5
    assert precision(ten.recall) >= 0.80
    assert precision(all_.recall) >= 0.90
    assert ten.account.recipe == "Ridge()"
    assert all_.account.counts["test"] == 341
    assert kept_together(ten) and kept_together(all_)
