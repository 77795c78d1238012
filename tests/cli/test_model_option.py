"""`--model`: a folder has one index for each model it was indexed with."""

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


def test_each_model_has_an_index_of_its_own(folder, run):
    run("index", cwd=folder)
    run("index", "--model", "../other", cwd=folder)
    spaces = set()
    for arguments in ((), ("--model", "../other")):
        facts = json.loads(run("info", "--json", *arguments, cwd=folder).out)
        assert facts["pictures"] == 2
        spaces.add(facts["models"][0]["space"])
    assert len(spaces) == 2
    assert run("search", "a cat", "--model", "../other", cwd=folder).out.count("\n") == 2


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


def test_of_several_indexes_one_must_be_named(folder, run):
    third = folder.parent / "third"
    shutil.copytree(folder.parent / "other", third)
    for model in ("../other", "../third"):
        run("index", "--model", model, cwd=folder)
    done = run("search", "a cat", cwd=folder, code=2)
    assert f"{folder} is indexed with several models" in done.err
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


def test_an_index_of_another_model_is_refused(folder, run):
    run("index", "--index", "own.bower", cwd=folder)
    done = run("search", "a cat", "--index", "own.bower", "--model", "../other", cwd=folder, code=2)
    assert "they differ in image.steps" in done.err


def test_the_environment_chooses_the_index_too(folder, run):
    environment = {"BOWERBIRD_MODEL": str(folder.parent / "other")}
    run("index", cwd=folder, env=environment)
    assert run("search", "a cat", cwd=folder, env=environment).out.count("\n") == 2
    run("search", "a cat", cwd=folder, env={"BOWERBIRD_MODEL": "mini"}, code=2)
