"""A fitted model is a model directory like any other: its vectors, its proof, its index; and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.learn.towers import text_tower

import bowerbird as bb
from bowerbird.errors import BowerbirdError, LearnError, ModelFormatError
from bowerbird.judge.verify import verify
from bowerbird.learn.export import Exported, save
from bowerbird.learn.heads import Branch, Gelu, Head, Heads, Linear, Relu, Scale, Shift, Unit, as_it_is
from bowerbird.models.encoder import Encoder
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


@pytest.mark.slow
def test_a_fit_upon_a_fit(fitted, tmp_path):
    """The base is a fitted model itself: its output is a tensor like others, and the new one has another name."""
    base = bb.load(str(fitted.directory))
    first = Head((Branch("fitted"), Branch("features", (linear(1280, 32, 7),))))
    heads = Heads(first, Head((Branch("fitted", (linear(32, 32, 8),)),)))
    save(tmp_path / "again", heads, image=base, text=base)
    again, exact = (
        bb.load(str(tmp_path / "again"), precision="exact"),
        bb.load(base.card.source, precision="exact"),
    )
    assert (again.card.image.output, again.card.text.output) == ("fitted_2", "fitted_2")
    assert again.card.image.similarity_output == "features"
    rows = {name: exact.embed(probe_pictures(), output=name) for name in ("fitted", "features")}
    assert (first.apply(rows) * again.embed(probe_pictures())).sum(1).min() >= 0.99999
    assert again.card.image.steps == base.card.image.steps
    assert again.card.text.rules == base.card.text.rules


@pytest.mark.slow
def test_two_towers_of_two_models_under_the_users_own_conditions(model, tmp_path):
    """Texts of one model, pictures of another that was loaded with steps of its own; both come back exactly."""
    words = bb.load(str(text_tower(tmp_path / "words", told={"truncation_side": "left"})))
    recipe = "resize short side 240 lanczos, rounded -> centre crop 224x224, half to even -> x / 255, mean 0.4, std 0.3"
    seen = model.adapted(preprocess=recipe, layer=-1, pooling="max", dimensions=300)
    heads = Heads(
        Head((Branch("layer:-1", (linear(300, 16, 1),)),)),
        Head((Branch("last_hidden_state", (linear(12, 16, 2),)),)),
    )
    save(tmp_path / "both", heads, image=seen, text=words)
    both = bb.load(str(tmp_path / "both"), precision="exact")
    assert both.card.image.steps == seen.card.image.steps
    assert both.card.text.rules == words.card.text.rules
    assert both.card.text.rules.cut_side == "left"
    assert both.card.image.scaled == (), "nothing was measured of other steps"
    assert both.embed("w1 w2").shape == both.embed(probe_pictures()[:1]).shape == (1, 16)
    exact = Encoder(seen.card, precision="exact")
    expected = heads.image.apply({"layer:-1": exact.embed(probe_pictures())})
    assert (expected * both.embed(probe_pictures())).sum(1).min() >= 0.99999
    similar = both.embed(probe_pictures(), output=both.card.image.similarity_output)
    assert (exact.embed(probe_pictures()) * similar).sum(1).min() >= 0.999999
    with pytest.raises(ModelFormatError, match="no profile applies"):
        bb.load(str(tmp_path / "both"), profile="hf4-pil")


def test_pictures_that_are_prepared_already_are_refused(model, heads, tmp_path):
    with pytest.raises(LearnError, match="preprocess='none'"):
        save(tmp_path / "x", heads, image=model.adapted(preprocess="none"), text=model)


@pytest.mark.slow
def test_an_index_of_a_fitted_model(fitted, photographs, run):
    """Made, filled, asked, described and checked like one of any other model, by the commands that people have."""
    shutil.copytree(fitted.directory, run.cwd / "my-model")
    folder = run.cwd / "pictures"
    folder.mkdir()
    for name in ("chelsea", "coffee", "rocket"):
        shutil.copyfile(photographs[name], folder / f"{name}.jpg")
    run("index", "pictures", "--model", "./my-model")
    assert len(run("search", "a cat", "--model", "../my-model", cwd=folder).paths) == 3
    like = run("search", "coffee.jpg", cwd=folder)
    assert Path(like.paths[0]).name == "coffee.jpg"
    run("verify", "./my-model")
    assert "fitted" in run("inspect", "./my-model").out
    run("doctor", cwd=folder, code=None)
    (path,) = run.records().values()
    (entry,) = bb.Index.open(path).manifest.models
    assert [column.output for column in entry.columns] == ["fitted", "features"]
    assert entry.source == str(run.cwd / "my-model")


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


FAMILIES = {
    "siglip2": ("layer:-1", "pooler_output"),
    "resnet": ("penultimate", ""),
    "dinov2": ("last_hidden_state", ""),
}
"""Exported by Bowerbird itself: the tensors that heads are put on, of pictures and of texts."""


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_pytorch_that_were_exported(family, tmp_path):
    """Their own padding, cleaning, patches and maps; the proof of the directory holds in `verify` too."""
    for package in ("torch", "transformers", "onnxscript"):
        pytest.importorskip(package, reason="the extra `export` is not installed")
    from tests.origin.tiny import build

    from bowerbird.origin.export import export

    export(str(build(family, tmp_path / "original")), tmp_path / "base")
    base = bb.load(str(tmp_path / "base"))
    image, text = FAMILIES[family]
    widths = [
        base.adapted(layer=tensor or None).embed(inputs).shape[1] if tensor else 0
        for tensor, inputs in ((image, probe_pictures()[:1]), (text, ["a cat"]))
    ]
    heads = Heads(
        Head((Branch(image, (linear(widths[0], 9, 1),)),)) if image else None,
        Head((Branch(text, (linear(widths[1], 9, 2),)),)) if text else None,
    )
    done = save(tmp_path / "fitted", heads, image=base, text=base)
    assert len(done.agreements) == 2 * (bool(image) + bool(text)), "both engines read the graphs"
    fitted = bb.load(str(tmp_path / "fitted"), precision="exact")
    assert verify(fitted).ok
    if text:
        assert fitted.card.text.rules == base.card.text.rules
    if image:
        assert fitted.card.image.steps == base.card.image.steps
