"""`--model`: a folder has one index, and that may hold several models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bowerbird.models.hub.fetch import locate
from bowerbird.models.network.precision import probe_pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures, and beside them a model like mini with other steps."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, data in enumerate(probe_pictures()[:2]):
        (pictures / f"{number}.jpg").write_bytes(data)
    shutil.copytree(locate("mini").directory, tmp_path / "other")
    path = tmp_path / "other" / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "resample": 2}))
    return pictures


def test_a_second_model_is_added_to_the_index(folder, run):
    run("index", cwd=folder)
    second = run("index", "--model", "../other", cwd=folder)
    assert "Adding the model other beside mini." in second.err
    assert "2 unchanged, 2 filled in for other" in second.err
    assert len(run.records()) == 1
    facts = json.loads(run("info", "--json", cwd=folder).out)
    assert facts["pictures"] == 2
    assert [model["name"] for model in facts["models"]] == ["mini", "other"]
    assert len({model["space"] for model in facts["models"]}) == 2
    assert [[column["records"] for column in model["columns"]] for model in facts["models"]] == [[2, 2]] * 2
    for arguments in ((), ("--model", "../other"), ("--model", "mini")):
        assert run("search", "a cat", *arguments, cwd=folder).out.count("\n") == 2
    # From now on every run keeps both up to date.
    shutil.copy(folder / "0.jpg", folder / "copy.jpg")
    (folder / "1.jpg").unlink()
    assert "1 added (1 of them exact copies)" in run("index", cwd=folder).err
    facts = json.loads(run("info", "--json", cwd=folder).out)
    assert [[column["records"] for column in model["columns"]] for model in facts["models"]] == [[2, 2]] * 2


def test_several_models_at_once(folder, run):
    done = run("index", "--model", "mini", "--model", "../other", cwd=folder)
    assert "2 added, 2 filled in for other" in done.err
    shown = run("info", cwd=folder).out
    assert shown.count("\nmodel ") == 2
    assert "mini__image_embeds: 384 dimensions, image output image_embeds, of 2 records" in shown
    assert "Adding" not in run("index", "--model", "../other", "--model", "mini", cwd=folder).err
    assert len(run.records()) == 1


def test_a_model_is_dropped(folder, run):
    run("index", "--model", "mini", "--model", "../other", cwd=folder)
    assert "other stays" in run("drop-model", "mini", cwd=folder).err
    (model,) = json.loads(run("info", "--json", cwd=folder).out)["models"]
    assert model["name"] == "other"
    alone = run("drop-model", "other", cwd=folder, code=2)
    assert "left without a model" in alone.err
    nearly = run("drop-model", "othre", "--index", *run.records().values(), cwd=folder, code=2)
    assert "no vectors of the model 'othre'" in nearly.err
    assert "Did you mean other?" in nearly.err


def test_a_model_that_takes_nothing_of_a_folder(folder, run, tmp_path):
    """A model for texts, beside an index of pictures."""
    run("index", cwd=folder)
    texts = tmp_path / "texts"
    shutil.copytree(tmp_path / "other", texts)
    (texts / "onnx" / "vision_model.onnx").unlink()
    (texts / "preprocessor_config.json").unlink()
    config = json.loads((texts / "config.json").read_text())
    (texts / "config.json").write_text(json.dumps({k: v for k, v in config.items() if "vision" not in k}))
    before = run("info", "--json", cwd=folder).out
    done = run("index", "--model", texts, cwd=folder, code=2)
    assert "takes texts only" in done.err
    assert run("info", "--json", cwd=folder).out == before


def test_a_model_that_the_folder_was_not_indexed_with(folder, run):
    run("index", cwd=folder)
    done = run("search", "a cat", "--model", "clip-vit-base-patch32", cwd=folder, code=2)
    assert "indexed with clip-vit-base-patch32" in done.err
    assert "--model clip-vit-base-patch32" in done.err
    assert f"Indexed so far: {folder} (with mini)." in done.err


@pytest.mark.parametrize("verb", [("search", "a cat"), ("info",)])
@pytest.mark.parametrize(
    ("name", "words"),
    [("minni", "Did you mean mini?"), ("siglp", "Did you mean siglip"), ("./nodir", "no model './nodir'")],
)
def test_a_slip_of_the_pen_is_not_a_folder_to_index(folder, run, verb, name, words):
    run("index", cwd=folder)
    done = run(*verb, "--model", name, cwd=folder, code=2)
    assert words in done.err
    assert "Index it" not in done.err


def test_the_only_index_of_a_folder_needs_no_model_to_be_named(folder, run):
    run("index", "--model", "../other", cwd=folder)
    inner = folder / "inner"
    inner.mkdir()
    for place in (folder, inner):
        assert run("search", "a cat", cwd=place).out.count("\n") == 2
        assert f"source    {folder.parent / 'other'}" in run("info", cwd=place).out
    named = run("search", "a cat", cwd=folder, env={"BOWERBIRD_MODEL": "mini"}, code=2)
    assert f"is indexed with mini. Indexed so far: {folder} (with {folder.parent / 'other'})." in named.err


def as_before(run, folder, model) -> None:
    """Index as earlier versions did: with a model's name in that of the index."""
    (found,) = (path for name, path in run.records().items() if "+" not in name)
    found.rename(found.with_name(f"{found.stem}+{Path(model).name}-0123abcd.bower"))


def test_indexes_of_earlier_versions_are_found(folder, run):
    run("index", "--model", "../other", cwd=folder)
    as_before(run, folder, "../other")
    for arguments in ((), ("--model", "../other")):
        assert run("search", "a cat", *arguments, cwd=folder).out.count("\n") == 2
    # They are gone on with rather than begun anew.
    for arguments in ((), ("--model", "../other"), ("--model", "mini")):
        assert "2 unchanged" in run("index", *arguments, cwd=folder).err
    assert len(run.records()) == 1
    assert len(json.loads(run("info", "--json", cwd=folder).out)["models"]) == 2


def test_of_several_indexes_one_must_be_named(folder, run):
    third = folder.parent / "third"
    shutil.copytree(folder.parent / "other", third)
    run("index", "--model", "../other", cwd=folder)
    (of_other,) = run.records().values()
    of_other.rename(aside := folder.parent / "aside")
    run("index", "--model", third, cwd=folder)
    as_before(run, folder, third)
    aside.rename(of_other)
    as_before(run, folder, "../other")
    done = run("search", "a cat", cwd=folder, code=2)
    assert f"{folder} has several indexes" in done.err
    assert f"{folder.parent / 'other'}, {third}" in done.err
    assert f"--model {folder.parent / 'other'}" in done.err
    assert run("search", "a cat", "--model", third, cwd=folder).out.count("\n") == 2
    run("index", cwd=folder)
    assert json.loads(run("info", "--json", cwd=folder).out)["models"][0]["name"] == "mini"


def test_a_model_whose_files_changed_is_named_as_that(folder, run):
    other = folder.parent / "other"
    run("index", "--model", "../other", cwd=folder)
    path = other / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "resample": 3}))
    done = run("search", "a cat", cwd=folder, code=2)
    assert f"made with {other} as it was then" in done.err
    assert "differ in image.steps" in done.err
    assert "Put back the files" in done.err
    again = run("index", "--model", "../other", cwd=folder, code=2)
    assert f"made with {other} as it was then" in again.err
    assert "unusable" in run("info", cwd=folder).out


def test_an_index_of_another_model_is_refused(folder, run):
    run("index", "--index", "own.bower", cwd=folder)
    done = run("search", "a cat", "--index", "own.bower", "--model", "../other", cwd=folder, code=2)
    assert "own.bower holds no vectors of the model '../other', only of mini" in done.err
    assert "bowerbird index SOURCES --model ../other" in done.err


def test_the_environment_chooses_the_index_too(folder, run):
    environment = {"BOWERBIRD_MODEL": str(folder.parent / "other")}
    run("index", cwd=folder, env=environment)
    assert run("search", "a cat", cwd=folder, env=environment).out.count("\n") == 2
    run("search", "a cat", cwd=folder, env={"BOWERBIRD_MODEL": "mini"}, code=2)
