"""An index as a whole: what is never removed, what is never hidden, and what is said of its vectors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import bowerbird as bb
from bowerbird.errors import IndexDamagedError, StoreError
from bowerbird.search.places import place, resolve


@pytest.fixture
def filled(model, photographs, tmp_path) -> Path:
    path = tmp_path / "photos.bower"
    bb.Index.create(path, model).add(list(photographs.values()))
    return path


def test_records_without_a_manifest_are_never_removed(filled, model, photographs):
    manifest = (filled / "manifest.json").read_bytes()
    (filled / "manifest.json").unlink()
    with pytest.raises(IndexDamagedError, match=f"{len(photographs)} records, but no manifest"):
        bb.Index.create(filled, model)
    (filled / "manifest.json").write_bytes(manifest)
    assert len(bb.Index.open(filled, model).search("a cat", k=3)) == 3


def test_records_that_cannot_be_read_are_not_removed_either(filled, model):
    (filled / "manifest.json").unlink()
    shutil.rmtree(filled / "records.lance" / "_versions")
    with pytest.raises(IndexDamagedError, match="holds records"):
        bb.Index.create(filled, model)
    assert list((filled / "records.lance" / "data").iterdir())


def test_what_a_killed_create_leaves_is_taken_over(filled, model, tmp_path):
    path = tmp_path / "killed.bower"
    bb.Index.create(path, model)
    (path / "manifest.json").unlink()
    assert len(bb.Index.create(path, model)) == 0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "models": [3]}', "\0"])
def test_a_damaged_manifest_is_said_to_be_damaged(filled, model, text):
    (filled / "manifest.json").write_text(text)
    with pytest.raises(IndexDamagedError, match="damaged"):
        bb.Index.open(filled, model)


def test_a_name_that_no_system_takes(model, tmp_path):
    for path in (tmp_path / ("x" * 300), tmp_path / "\udcff.bower"):
        with pytest.raises(StoreError, match=r"cannot"):
            bb.Index.create(path, model)


def test_vectors_of_several_precisions_are_all_named(model, photographs, tmp_path):
    paths = sorted(photographs.values())
    path = tmp_path / "two.bower"
    bb.Index.create(path, model).add(paths[:2])
    exact = bb.load("mini", precision="exact")
    bb.Index.open(path, exact).add(paths[:2])  # nothing is embedded, so nothing changes
    (entry,) = bb.Index.open(path, model).manifest.models
    assert entry.numerics["image"]["scaled"] == 3.0
    assert "earlier" not in entry.numerics["image"]
    bb.Index.open(path, exact).add(paths)
    (entry,) = bb.Index.open(path, model).manifest.models
    assert entry.numerics["image"]["scaled"] is None
    assert [facts["scaled"] for facts in entry.numerics["image"]["earlier"]] == [3.0]
    json.dumps(dict(entry.numerics))


def test_only_what_wrote_vectors_is_named(model, photographs, tmp_path):
    paths = sorted(photographs.values())
    path = tmp_path / "first.bower"
    bb.Index.create(path, model)  # in another precision, which writes nothing
    index = bb.Index.open(path, bb.load("mini", precision="exact"))
    index.add(paths[:2])
    index.search("a cat")  # loads the text tower
    index.add(paths)
    (entry,) = bb.Index.open(path, model).manifest.models
    assert set(entry.numerics) == {"image"}
    assert entry.numerics["image"]["scaled"] is None
    assert "earlier" not in entry.numerics["image"]


def test_an_empty_index_does_not_hide_the_one_above(model, photographs, tmp_path, monkeypatch):
    monkeypatch.setenv("BOWERBIRD_DATA_DIR", str(tmp_path / "data"))
    inner = tmp_path / "photos" / "inner"
    inner.mkdir(parents=True)
    shutil.copy(photographs["coffee"], tmp_path / "photos")
    bb.Index.create(place(inner), model)
    assert resolve("", inner) == place(inner)  # better than none
    bb.Index.create(place(tmp_path / "photos"), model).add(tmp_path / "photos")
    assert resolve("", inner) == place(tmp_path / "photos")


def test_tiny_weights_count_as_they_stand_to_each_other(filled, model, photographs):
    index = bb.Index.open(filled, model)
    small = index.search("a cup", image=photographs["coffee"], weights=(1e-60, 3e-60))
    plain = index.search("a cup", image=photographs["coffee"], weights=(1, 3))
    assert small.scores == pytest.approx(plain.scores, abs=1e-6)
    with pytest.raises(bb.BowerbirdError, match="cancel"):
        index.search(["a cup", "a cup"], weights=(1, -1))
