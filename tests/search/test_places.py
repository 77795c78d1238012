"""Which index is meant where none is named: by the folder one stands in, and by the model that is asked for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import bowerbird as bb
from bowerbird.errors import IndexNotFoundError
from bowerbird.search.places import place, resolve

if TYPE_CHECKING:
    from tests.conftest import Command


@pytest.fixture
def folders(
    tmp_path: Path, photographs: dict[str, Path], model: bb.Encoder, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Two folders in one: `cups`, which is indexed, and `cats`, whose index holds nothing."""
    monkeypatch.setenv("BOWERBIRD_DATA_DIR", str(tmp_path / "data"))
    home = tmp_path / "home"
    for name, photograph in (("cups", "coffee"), ("cats", "chelsea")):
        (home / name).mkdir(parents=True)
        shutil.copy(photographs[photograph], home / name)
        bb.Index.create(place(home / name), model)
    bb.Index.open(place(home / "cups"), model).add(home / "cups")
    return home


def test_the_only_index_with_a_model_is_found_from_above_where_that_is_wanted(folders: Path):
    cups = place(folders / "cups")
    assert resolve("", folders, "mini", below=True) == cups
    assert resolve("", folders.parent, ["mini"], below=True) == cups
    assert resolve("", folders / "cups", "mini", below=True) == cups
    (folders.parent / "linked").symlink_to(folders)
    assert resolve("", folders.parent / "linked", "mini", below=True) == cups
    for start, models, below in (
        (folders, "mini", False),  # a verb that writes
        (folders, "", True),  # no model was named
        (folders, "all", True),
        (folders, "all-MiniLM-L6-v2", True),
    ):
        with pytest.raises(IndexNotFoundError, match="nor a folder above it is indexed"):
            resolve("", start, models, below=below)
    (folders / "dogs").mkdir()
    with pytest.raises(IndexNotFoundError, match=r"Neither .*dogs nor a folder above it"):
        resolve("", folders / "dogs", "mini", below=True)


def test_of_several_below_none_is_taken_and_all_are_named(folders: Path, model: bb.Encoder):
    bb.Index.open(place(folders / "cats"), model).add(folders / "cats")
    with pytest.raises(IndexNotFoundError) as caught:
        resolve("", folders, "mini", below=True)
    said = str(caught.value)
    assert f"2 folders below {folders} are indexed with mini: {folders / 'cats'}, {folders / 'cups'}." in said
    assert f"--index {place(folders / 'cats')}" in said
    (place(folders / "cats") / "manifest.json").write_text("damaged")
    assert resolve("", folders, "mini", below=True) == place(folders / "cups")


@pytest.mark.slow
def test_a_search_looks_below_and_what_writes_does_not(run: Command, folders: Path, tmp_path: Path):
    where = {"env": {"BOWERBIRD_DATA_DIR": str(tmp_path / "data")}, "cwd": folders}
    assert len(run("search", "a cup", "--model", "mini", **where).rows) == 1
    for verb in (("drop-model", "mini"), ("calibrate", "--model", "mini")):
        failed = run(*verb, code=2, **where)
        assert "nor a folder above it is indexed with mini" in failed.err.replace("\n", " "), verb
