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


def test_an_index_of_another_model_is_refused(folder, run):
    run("index", "--index", "own.bower", cwd=folder)
    done = run("search", "a cat", "--index", "own.bower", "--model", "../other", cwd=folder, code=2)
    assert "they differ in image.steps" in done.err


def test_the_environment_chooses_the_index_too(folder, run):
    environment = {"BOWERBIRD_MODEL": str(folder.parent / "other")}
    run("index", cwd=folder, env=environment)
    assert run("search", "a cat", cwd=folder, env=environment).out.count("\n") == 2
    run("search", "a cat", cwd=folder, code=2)
