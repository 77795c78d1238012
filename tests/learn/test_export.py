"""A fitted model is a model directory like any other: its vectors, its proof, its index; and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

import bowerbird as bb
from bowerbird.errors import BowerbirdError, LearnError
from bowerbird.judge.verify import verify
from bowerbird.learn.export import Exported, save
from bowerbird.learn.heads import Branch, Gelu, Head, Heads, Linear, Relu, Scale, Shift, Unit, as_it_is
from bowerbird.models.network.precision import probe_pictures


def linear(inputs: int, outputs: int, seed: int, *, bias: bool = True) -> Linear:
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, inputs**-0.5, (outputs, inputs)).astype(np.float32)
    return Linear(weight, rng.normal(0, 0.05, outputs).astype(np.float32) if bias else None)


def shift(inputs: int, seed: int) -> Shift:
    return Shift(np.random.default_rng(seed).normal(0, 0.01, inputs).astype(np.float32))


@pytest.fixture(scope="module")
def heads() -> Heads:
    """Two branches for pictures, one for texts, every kind of layer."""
    wide = (shift(1280, 1), linear(1280, 48, 2), Gelu(), linear(48, 32, 3, bias=False))
    residual = (Unit(), linear(384, 32, 4), Relu(), Scale(0.3))
    return Heads(
        Head((Branch("features", wide), Branch("image_embeds", residual))),
        Head((Branch("sentence_embedding", (linear(384, 32, 5),)),)),
        facts={"regularisation": 300.0},
    )


@pytest.fixture(scope="module")
def fitted(heads, model, tmp_path_factory) -> Exported:
    """`mini` with both heads."""
    directory = tmp_path_factory.mktemp("fitted") / "my-model"
    return save(
        directory, heads, image=model, text=model, facts={"recipe": "Mlp()"}, readme="## Figures\n\nNone."
    )


def test_the_directory_gives_what_the_heads_give(fitted, heads, monkeypatch):
    """Found by a relative path, and without the base: pictures and texts of several lengths at once."""
    monkeypatch.chdir(fitted.directory.parent)
    loaded, base = bb.load("./my-model", precision="exact"), bb.load("mini", precision="exact")
    texts = ["a cat", "two dogs are playing in the snow near a frozen lake", "", "x " * 400]
    expected = heads.text.apply({"sentence_embedding": base.embed(texts)})
    assert (expected * loaded.embed(texts)).sum(1).min() >= 0.99999
    pictures = probe_pictures()
    rows = {name: base.embed(pictures, output=name) for name in ("features", "image_embeds")}
    expected = heads.image.apply(rows)
    assert (expected * loaded.embed(pictures)).sum(1).min() >= 0.99999
    assert loaded.embed(pictures).std(0).max() > 0.01, "one vector for everything proves nothing"
    assert loaded.card.image.similarity_output == "features"
    assert np.abs(loaded.embed(pictures, output="features") - rows["features"]).max() < 1e-5
    assert loaded.card.image.steps == base.card.image.steps
    assert loaded.card.image.scaled == base.card.image.scaled
    assert loaded.card.license == "apache-2.0"
    assert loaded.card.space != base.card.space


def test_the_directory_proves_itself(fitted):
    report = verify(bb.load(str(fitted.directory), precision="exact"))
    assert report.ok, report.first
    assert {agreement.tower for agreement in fitted.agreements} == {"image", "text"}
    assert {agreement.engine.partition(" ")[0] for agreement in fitted.agreements} >= {"onnxruntime"}
    assert min(agreement.cosine for agreement in fitted.agreements) >= 0.99999
    notes = json.loads((fitted.directory / "bowerbird.json").read_text("utf-8"))
    assert notes["fitted"] == {"regularisation": 300.0, "recipe": "Mlp()"}
    card = (fitted.directory / "README.md").read_text("utf-8")
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "## Figures" in card


def test_nothing_is_left_behind_where_it_fails(heads, model, tmp_path):
    with pytest.raises(LearnError, match="no model below it"):
        save(tmp_path / "a", heads, image=model)
    broken = Head((Branch("sentence_embedding", (linear(100, 8, 0),)),))
    with pytest.raises(LearnError, match="takes vectors of 100 dimensions, and there they have 384"):
        save(tmp_path / "b", Heads(None, broken), text=model)
    with pytest.raises(LearnError, match="is no name"):
        save(tmp_path / "c", Heads(None, as_it_is("sentence_embedding")), text=model, files={"../x": b""})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "mine.txt").write_text("mine")
    with pytest.raises(BowerbirdError, match="not empty"):
        save(tmp_path / "d", heads, image=model, text=model)
    assert (tmp_path / "d" / "mine.txt").read_text() == "mine"
