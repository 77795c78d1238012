"""What is kept of a run: a model that gives the same vectors, and an account that a report can read."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import bowerbird as bb
from bowerbird.learn import run as module
from bowerbird.learn.choose import Try
from bowerbird.learn.examples import Examples, Picture
from bowerbird.learn.fit import Run
from bowerbird.learn.loop import Epoch, History
from bowerbird.learn.pairs import Dropped
from bowerbird.learn.report import read_report
from bowerbird.learn.run import ARRAYS, FACTS, Account, HeldOut, kept
from bowerbird.learn.split import Copy


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def run(drawn: Path, model: bb.Encoder) -> Run:
    return bb.fit(drawn, model=model, recipe=bb.recipes.Ridge(), validation=0.2, test=0.25)


@pytest.fixture(scope="module")
def saved(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("saved") / "my-model"
    run.save(directory)
    return directory


def test_the_saved_model_gives_the_vectors_of_the_run(run: Run, saved: Path):
    fitted = bb.load(saved)
    held = run.held_out
    assert held.texts is not None
    images = fitted.embed([picture.source for picture in held.examples.pictures])
    texts = fitted.embed(list(held.examples.texts), role="query")
    assert (images * held.images).sum(1).min() > 0.9999
    assert (texts * held.texts).sum(1).min() > 0.9999
    base = run.image.embed([picture.source for picture in held.examples.pictures])
    assert (images * base).sum(1).max() < 0.999  # it is another space
    assert fitted.card.space != run.image.card.space


def test_the_report_reads_what_was_saved(run: Run, saved: Path):
    told = read_report(saved)
    assert told.recipe == "Ridge()"
    assert told.counts == run.account.counts
    assert told.source == "pairs.csv"
    assert told.held_out == "test"
    for mine, theirs in ((run.recall, told.after), (run.before, told.before)):
        for direction, measures in mine.items():
            for name, one in measures.items():
                figure = theirs[direction][name]
                assert (figure.mean, figure.low, figure.high) == (one["mean"], one["low"], one["high"])
    held = told.held
    assert held is not None and held.before is not None
    assert [picture.name for picture in held.pictures] == [
        picture.name for picture in run.held_out.examples.pictures
    ]
    assert held.texts == run.held_out.examples.texts
    np.testing.assert_array_equal(held.links, run.held_out.examples.links)
    for rows, wanted in (
        (held.after[0], run.held_out.images),
        (held.after[1], run.held_out.texts),
        (held.before[0], run.held_out.images_before),
        (held.before[1], run.held_out.texts_before),
    ):
        assert rows is not None and wanted is not None
        np.testing.assert_allclose(rows, wanted, atol=1e-3)
    for picture in held.pictures:
        with Image.open(io.BytesIO(picture.thumbnail)) as image:
            assert image.format == "JPEG"
            assert max(image.size) <= 96


def test_the_card_tells_the_figures(run: Run, saved: Path):
    card = (saved / "README.md").read_text("utf-8")
    after = run.recall["text->image"]["R@10"]
    before = run.before["text->image"]["R@10"]["mean"]
    assert (
        f"| text->image R@10 | {before:.3f} | {after['mean']:.3f} | {after['low']:.3f} to {after['high']:.3f} |"
        in card
    )
    assert "on 90 pictures of pairs.csv" in card
    assert "30 others (test)" in card


def test_the_card_of_a_model_without_a_test_does_not_claim_one(drawn: Path, model: bb.Encoder):
    from bowerbird.learn.fit import card_of

    run = bb.fit(drawn, model=model, recipe="ridge", validation=0.0, test=0.0)
    card = card_of(run)
    assert "No others were held out" in card
    assert "others (" not in card


def test_a_directory_in_use_is_left_alone(run: Run, saved: Path):
    before = sorted(path.name for path in saved.iterdir())
    with pytest.raises(bb.BowerbirdError):
        run.save(saved)
    assert sorted(path.name for path in saved.iterdir()) == before


# The account by itself.


def held_out(count: int, captions: int = 2) -> HeldOut:
    """Pictures that cannot be read any more; two texts each."""
    rng = np.random.default_rng(0)
    owner = rng.permutation(np.repeat(np.arange(count), captions))
    examples = Examples(
        tuple(Picture(f"id{row}", f"name{row}", f"/nowhere/{row}.png", f"c{row}") for row in range(count)),
        tuple(f"text {row}" for row in range(len(owner))),
        np.stack([owner, np.arange(len(owner))], 1),
    )
    vectors = [unit(rng.normal(size=(rows, 5))) for rows in (count, len(owner), count, len(owner))]
    return HeldOut("validation", examples, *vectors)


ACCOUNT = Account(
    recipe="Linear(dim=8)",
    source="pairs.csv",
    models={"image": "a", "text": "b"},
    counts={"pictures": 9, "texts": 9, "pairs": 9, "train": 3, "validation": 3, "test": 3},
    dropped=(Dropped("x.jpg", "cannot be read.", "unreadable"),),
    copies=(Copy(("a", "b"), 0.99, "train", ("b",)),),
    problems=("something",),
    seconds={"embedding": 1.5, "cached": 3, "training": 2.0, "recomputing": 30.0, "total": 4.0},
    history=History(
        [Epoch(1, 2.5, {"mean recall": 0.25}, 0.5, 1e-3, 2), Epoch(2, float("nan"), {}, 0.5, 1e-3, 4)],
        [3.0, 2.0, 2.0, 1.0],
        1,
        "no better than epoch 1 for 1 epochs",
    ),
    choice=(
        Try("Ridge()", "mean recall", 0.5, 0.1, "taken"),
        Try("Mlp()", "mean recall", None, 0.0, "not tried"),
    ),
    settings={"seed": 3},
    versions={"python": "3"},
    made="2026-01-01T00:00:00+00:00",
)


def test_everything_of_the_account_is_kept(tmp_path: Path):
    held = held_out(7)
    for name, content in kept(ACCOUNT, held).items():
        (tmp_path / name).write_bytes(content)
    facts = json.loads((tmp_path / FACTS).read_text("utf-8"))
    assert facts["format"] == 1
    assert facts["dropped"] == [{"name": "x.jpg", "reason": "cannot be read."}]
    assert facts["copies"] == [{"names": ["a", "b"], "cosine": 0.99, "part": "train", "removed": ["b"]}]
    assert facts["history"][0] == {
        "epoch": 1,
        "loss": 2.5,
        "metrics": {"mean recall": 0.25},
        "seconds": 0.5,
        "lr": 1e-3,
        "step": 2,
    }
    assert facts["history"][1]["loss"] is None  # JSON has no word for what is no number
    assert facts["steps"] == [3.0, 2.0, 2.0, 1.0]
    assert (facts["best"], facts["stopped"]) == (1, "no better than epoch 1 for 1 epochs")
    assert [one["figure"] for one in facts["choice"]] == [0.5, None]
    assert facts["held_out_pictures"][2] == {"id": "id2", "name": "name2", "thumbnail": ""}
    assert facts["held_out_of"] == {"pictures": 7, "texts": 14}
    report = read_report(tmp_path)
    assert report.recipe == "Linear(dim=8)"
    assert report.seconds == ACCOUNT.seconds
    assert ACCOUNT.history is not None
    assert report.history[0] == ACCOUNT.history.epochs[0]
    assert report.choice == ACCOUNT.choice
    assert report.copies == ACCOUNT.copies
    assert report.held is not None
    assert len(report.held.pictures) == 7


def test_of_many_pictures_some_are_kept_with_their_texts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "SHOWN", 3)
    held = held_out(6)
    found = kept(ACCOUNT, held)
    facts = json.loads(found[FACTS])
    names = [one["name"] for one in facts["held_out_pictures"]]
    places = [int(name.removeprefix("name")) for name in names]
    assert len(places) == 3 and places == sorted(set(places)) != [0, 1, 2]
    with np.load(io.BytesIO(found[ARRAYS]), allow_pickle=False) as arrays:
        assert arrays["images_after"].shape == arrays["images_before"].shape == (3, 5)
        assert arrays["texts_after"].shape == arrays["texts_before"].shape == (6, 5)
        assert {name: array.dtype.name for name, array in arrays.items()} == {
            "links": "int64",
            **dict.fromkeys(("images_after", "texts_after", "images_before", "texts_before"), "float16"),
        }
        together = {
            (facts["held_out_pictures"][picture]["id"], facts["held_out_texts"][text])
            for picture, text in arrays["links"].tolist()
        }
        rows = {text: arrays["texts_after"][row] for row, text in enumerate(facts["held_out_texts"])}
    wanted = {
        (held.examples.pictures[picture].id, held.examples.texts[text])
        for picture, text in held.examples.links.tolist()
        if picture in places
    }
    assert together == wanted
    assert held.texts is not None
    for row, text in enumerate(held.examples.texts):
        if text in rows:
            np.testing.assert_allclose(rows[text], held.texts[row], atol=1e-3)
    assert facts["held_out_of"] == {"pictures": 6, "texts": 12}
    assert kept(ACCOUNT, held)[FACTS] == found[FACTS]  # the same ones every time
    # The figures are of all of them.
    assert facts["after"]["text->image"]["R@5"]["mean"] == held.after["text->image"]["R@5"]["mean"]


@pytest.mark.parametrize("order", ["folders", "turns"])
def test_what_is_kept_of_many_pictures_has_its_share_of_every_class(
    monkeypatch: pytest.MonkeyPatch, order: str
):
    monkeypatch.setattr(module, "SHOWN", 20)
    labels = np.repeat(np.arange(4), 10) if order == "folders" else np.tile(np.arange(4), 10)
    found = kept(ACCOUNT, by_class(labels))
    with np.load(io.BytesIO(found[ARRAYS]), allow_pickle=False) as arrays:
        np.testing.assert_array_equal(np.bincount(arrays["labels"]), [5, 5, 5, 5])
        rows = np.asarray([int(one["id"]) for one in json.loads(found[FACTS])["held_out_pictures"]])
        np.testing.assert_array_equal(arrays["labels"], labels[rows])


def test_no_place_on_this_machine_is_kept():
    held = held_out(3)
    mine = "/home/somebody/secret"
    account = replace(
        ACCOUNT,
        source=f"{mine}/pairs.csv",
        models={"image": f"{mine}/tower/", "text": "mini"},
        dropped=(Dropped(f"{mine}/x.jpg", f"{mine}/my own/x.jpg does not exist.", "unreadable"),),
        problems=(f"1 of '{mine}/pairs.csv' has no text; 2 and/or 3 have", "s3://bucket/name is far away"),
        copies=(Copy((f"{mine}/a.jpg", "b"), 0.99, "train", ("b",)),),
        settings={
            "root": Path(mine),
            "source": f"file://{mine}/pairs.csv",
            "text": ["a", "b"],
            "delimiter": "/",
        },
    )
    pictures = tuple(replace(one, id=f"{mine}/{one.id}.png") for one in held.examples.pictures)
    found = kept(account, replace(held, examples=replace(held.examples, pictures=pictures)))
    assert b"/home" not in found[FACTS] and b"nowhere" not in found[FACTS]
    facts = json.loads(found[FACTS])
    assert facts["source"] == "pairs.csv"
    assert facts["models"] == {"image": "tower", "text": "mini"}
    assert facts["dropped"] == [{"name": "x.jpg", "reason": "x.jpg does not exist."}]
    assert facts["problems"][1] == "s3://bucket/name is far away"
    assert facts["settings"] == {
        "root": "secret",
        "source": "pairs.csv",
        "text": ["a", "b"],
        "delimiter": "/",
    }
    assert [one["id"] for one in facts["held_out_pictures"]] == ["id0.png", "id1.png", "id2.png"]


def test_what_the_report_says_does_the_same_again(
    run: Run, saved: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch
):
    code = re.search(r"<pre>(.*?)</pre>", read_report(saved).page(), re.DOTALL)
    assert code is not None
    monkeypatch.chdir(drawn.parent)
    setup, _, call = html.unescape(code[1]).partition("bb.fit(")
    scope: dict[str, Any] = {}
    exec(f"{setup}again = bb.fit({call}", scope)
    assert scope["again"].recall == run.recall
    assert scope["again"].account.recipe == run.account.recipe


def test_thumbnails_are_small_pictures(photographs: dict[str, Path]):
    held = held_out(2, captions=1)
    chelsea = photographs["chelsea"]
    examples = Examples(
        (Picture("cat", "cat", chelsea, "c"), Picture("bytes", "bytes", chelsea.read_bytes(), "d")),
        held.examples.texts,
        held.examples.links,
    )
    facts = json.loads(kept(ACCOUNT, HeldOut("test", examples, None, None, held.images, held.texts))[FACTS])
    first, second = facts["held_out_pictures"]
    assert first["thumbnail"] == second["thumbnail"]
    with Image.open(io.BytesIO(base64.b64decode(first["thumbnail"]))) as image:
        assert max(image.size) == 96
    assert facts["before"] == {}


def by_class(labels: np.ndarray) -> HeldOut:
    """Pictures of classes, under a model that reads no texts."""
    count, names = len(labels), tuple("abcd"[: labels.max() + 1])
    examples = Examples(
        tuple(Picture(str(row), str(row), "", str(row)) for row in range(count)),
        names,
        np.stack([np.arange(count), labels], 1),
        labels,
        names,
    )
    rows = unit(np.random.default_rng(0).normal(size=(count, 3)))
    return HeldOut("test", examples, rows, None, rows, None)


def test_pictures_alone_have_no_texts_in_it():
    labels = np.asarray([0, 0, 1, 1])
    found = kept(ACCOUNT, by_class(labels))
    facts = json.loads(found[FACTS])
    assert set(facts["after"]) == {"image->image"}
    assert facts["classes"] == ["a", "b"]
    with np.load(io.BytesIO(found[ARRAYS]), allow_pickle=False) as arrays:
        assert set(arrays) == {"links", "labels", "images_after", "images_before"}
        np.testing.assert_array_equal(arrays["labels"], labels)
