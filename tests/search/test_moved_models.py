"""A model of an index is what its files are, wherever they lie: copied and moved ones are found by their space."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import bowerbird as bb
from bowerbird.errors import IndexNotFoundError, ModelNotFoundError, QueryError
from bowerbird.search.places import place, resolve
from bowerbird.store import manifest as manifests

if TYPE_CHECKING:
    from tests.conftest import Command


@pytest.fixture
def pictures(tmp_path: Path, photographs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BOWERBIRD_DATA_DIR", str(tmp_path / "data"))
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("coffee", "chelsea"):
        shutil.copy(photographs[name], folder)
    return folder


@pytest.fixture
def home(tmp_path: Path, model: bb.Encoder) -> Path:
    """A directory with the embedded model, called otherwise."""
    return Path(shutil.copytree(model.card.directory, tmp_path / "all-model"))


@pytest.fixture
def path(tmp_path: Path, pictures: Path, home: Path) -> Path:
    """An index that was made with it."""
    path = tmp_path / "pictures.bower"
    bb.Index.create(path, str(home)).add(pictures)
    return path


def moved(home: Path) -> Path:
    return Path(shutil.move(home, home.parent / "else" / "moved"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()


def test_a_copy_is_the_model(path: Path, home: Path):
    expected = bb.Index.open(path).search("a cup")
    copy = Path(shutil.copytree(home, home.parent / "else" / "moved"))
    index = bb.Index.open(path)
    assert index.search("a cup", models="./else/moved").to_dicts() == expected.to_dicts()
    assert index.model.card.directory == copy
    assert index.search("a cup", models=["else/moved", "all-model"]).to_dicts() == expected.to_dicts()
    assert index.entries("mini") == index.entries("all-model")  # the same files under a name of the catalogue
    index.add(home.parent / "pictures")
    assert manifests.read(path).models[0].source == str(home)  # it is still there


def test_one_that_was_moved_is_asked_for(path: Path, home: Path):
    before = bb.Index.open(path).search("a cup")
    moved(home)
    index = bb.Index.open(path)
    with pytest.raises(ModelNotFoundError, match="Name where it lies now: --model DIRECTORY") as caught:
        index.search("a cup")
    assert str(home) in str(caught.value)
    assert str(path) in str(caught.value)
    assert index.search("a cup", models="else/moved").to_dicts() == before.to_dicts()
    assert index.search("a cup").to_dicts() == before.to_dicts()  # this process knows it now
    assert manifests.read(path).models[0].source == str(home)  # whoever reads writes nothing


def test_the_next_run_remembers_where_it_lies(path: Path, home: Path, pictures: Path):
    there = moved(home)
    index = bb.Index.open(path)
    assert index.encoder("else/moved").card.directory == there
    report = index.add(pictures)
    assert (report.unchanged, report.added) == (2, 0)
    (entry,) = manifests.read(path).models
    assert (entry.source, entry.name) == (str(there), "all-model")
    assert bb.Index.open(path).search("a cup", models="all-model")


def test_what_is_another_model_or_none_is_not_taken(path: Path, home: Path, pictures: Path):
    other = Path(shutil.copytree(home, home.parent / "else" / "other"))
    (other / "sentence_bert_config.json").write_text('{"max_seq_length": 128, "do_lower_case": false}')
    index = bb.Index.open(path)
    assert bb.load(str(other)).card.space != index.model.card.space
    for name in (other, pictures, "else/nothing"):
        with pytest.raises(QueryError, match="holds no vectors of the model"):
            index.entries(str(name))


def test_under_several_conditions(tmp_path: Path, home: Path, pictures: Path):
    plain, short = bb.load(str(home)), bb.load(str(home), dimensions=64)
    both = bb.Index.create(tmp_path / "both.bower", [short, plain])
    one = bb.Index.create(tmp_path / "one.bower", short)
    moved(home)
    (entry,) = bb.Index.open(both.path).entries("else/moved")
    assert entry.space == plain.card.space  # as of the same name before
    found = bb.Index.open(one.path).encoder("else/moved")
    assert found.card.space == short.card.space


def test_the_index_of_a_folder_is_found_by_it(pictures: Path, home: Path, model: bb.Encoder):
    bb.Index.create(place(pictures), str(home)).add(pictures)
    name = str(moved(home))
    assert resolve("", pictures, name) == place(pictures)
    assert resolve("", pictures.parent, name, below=True) == place(pictures)
    with pytest.raises(IndexNotFoundError):
        resolve("", pictures, str(pictures))


@pytest.mark.slow
def test_as_a_user_meets_it(run: Command, path: Path, home: Path, pictures: Path):
    moved(home)
    where = {"cwd": home.parent}
    failed = run("search", "a cup", "--index", path, code=2, **where)
    assert "Name where it lies now: --model DIRECTORY" in " ".join(failed.err.split())
    assert len(run("search", "a cup", "--index", path, "--model", "./else/moved", **where).rows) == 2
    run("index", pictures, "--index", path, "--model", "else/moved", **where)
    assert len(run("search", "a cup", "--index", path, **where).rows) == 2
