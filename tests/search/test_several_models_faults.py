"""A model is added or dropped, and the process dies, or all lies elsewhere: the index stays readable, and whole."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.flow.object_store import serving

import bowerbird as bb
from bowerbird.store import manifest as manifests
from bowerbird.store.lance import LanceTable
from bowerbird.store.manifest import ModelEntry

PICTURES = 60

ADD = """
import sys, bowerbird as bb
index = bb.Index.open(sys.argv[1])
print("open", flush=True)
index.add_model(bb.load("mini", dimensions=64))
"""

DROP = """
import sys, bowerbird as bb
from bowerbird.store.lance import LanceTable
index = bb.Index.open(sys.argv[1])
step, count = int(sys.argv[2]), 0

def die_at(function):
    # Killed as the system kills: between two of the steps that a drop consists of.
    import os, signal
    def run(*given, **named):
        global count
        count += 1
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*given, **named)
    return run

bb.Index.write_manifest = die_at(bb.Index.write_manifest)
LanceTable.drop = die_at(LanceTable.drop)
index.drop_model(sys.argv[3])
"""


@pytest.fixture(scope="module")
def mini(private_places: Path) -> bb.Encoder:
    return bb.load("mini", threads=2)


@pytest.fixture(scope="module")
def small(private_places: Path) -> bb.Encoder:
    return bb.load("mini", threads=2, dimensions=64)


@pytest.fixture
def folder(tmp_path: Path, picture: Callable[..., bytes]) -> Path:
    root = tmp_path / "photos"
    root.mkdir()
    for seed in range(PICTURES):
        (root / f"{seed:03}.png").write_bytes(picture(seed))
    return root


def python(code: str, *words: object, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )


def entry_of(index: bb.Index, model: bb.Encoder) -> ModelEntry | None:
    return next((entry for entry in index.manifest.models if entry.space == model.card.space), None)


def raw(path: Path | str, model: bb.Encoder) -> dict[str, np.ndarray]:
    """By path, what a reader sees of the vectors of a model."""
    index = bb.Index.open(path)
    entry = entry_of(index, model)
    if entry is None:
        return {}
    column = entry.columns[0]
    return {
        row["uri"]: np.asarray(row[column.name], np.float32) * row[column.norm]
        for batch in index.table.scan(["uri", column.name, column.norm])
        for row in batch.to_pylist()
        if row[column.name] is not None
    }


def assert_whole(path: Path | str, folder: Path, *models: bb.Encoder) -> None:
    """Every picture is there once, with the vector that each model gives it alone."""
    for model in models:
        have = raw(path, model)
        assert sorted(have) == sorted(map(str, folder.glob("*.png")))
        some = sorted(have)[:: PICTURES // 6]
        for place, vector in zip(some, model.embed([Path(place) for place in some]), strict=True):
            assert float(vector @ have[place] / np.linalg.norm(have[place])) > 0.9999


@pytest.mark.slow
def test_killed_while_a_model_is_added(
    folder: Path, tmp_path: Path, mini: bb.Encoder, small: bb.Encoder, picture: Callable[..., bytes]
) -> None:
    path = tmp_path / "a.bower"
    bb.Index.create(path, mini).add(folder)
    chance = random.Random(20261121)
    seen = 0
    for turn in range(4):
        process = python(ADD, path, BOWERBIRD_COMMIT_SECONDS="0.2", BOWERBIRD_CACHE_BYTES="0")
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.uniform(0.2, 2.5))
        process.kill()  # SIGKILL: nothing can be tidied up
        process.communicate()
        now = raw(path, small)
        assert len(now) >= seen, "what was filled in before is no longer there"
        seen = len(now)
        assert len(raw(path, mini)) == PICTURES
        if turn == 1:
            # What was filled in of a file that has changed in between goes with it.
            (folder / "000.png").write_bytes(picture(900))
            assert bb.Index.open(path, mini).add(folder).changed == 1
            seen = min(seen, len(raw(path, small)))
    bb.Index.open(path).add_model(small)
    assert_whole(path, folder, mini, small)


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("first", [True, False], ids=["the first", "the second"])
def test_killed_while_a_model_is_dropped(
    folder: Path, tmp_path: Path, mini: bb.Encoder, small: bb.Encoder, step: int, first: bool
) -> None:
    """Before the manifest is written, before the columns go, and before the manifest names what is left."""
    for name in sorted(folder.iterdir())[10:]:
        name.unlink()
    path = tmp_path / "a.bower"
    bb.Index.create(path, [mini, small]).add(folder)
    dropped, kept = (mini, small) if first else (small, mini)
    process = python(DROP, path, step, dropped.card.space)
    _, errors = process.communicate()
    assert process.returncode == -9, errors.decode()
    assert len(raw(path, kept)) == 10
    assert len(raw(path, dropped)) == (10 if step == 1 else 0)
    if step > 1:
        index = bb.Index.open(path)
        assert index.add(folder).unchanged == 10
        entry = entry_of(bb.Index.open(path), kept)
        assert entry is not None
        named = {name for column in entry.columns for name in (column.name, column.norm)}
        assert {name for name in LanceTable.open(path / "records.lance").names if "__" in name} == named
    index = bb.Index.open(path)
    index.add_model(dropped)
    for model in (mini, small):
        assert len(raw(path, model)) == 10


def test_killed_before_a_new_model_is_named(
    folder: Path, tmp_path: Path, mini: bb.Encoder, small: bb.Encoder
) -> None:
    """Its columns are there, and the manifest does not know of them."""
    path = tmp_path / "a.bower"
    index = bb.Index.create(path, mini)
    index.add(folder)
    before = (path / manifests.NAME).read_bytes()
    index.add_model(small)
    (path / manifests.NAME).write_bytes(before)
    assert len(raw(path, mini)) == PICTURES
    reopened = bb.Index.open(path)
    assert reopened.add(folder).unchanged == PICTURES
    assert {column.name.partition("__")[0] for column in bb.Index.open(path).columns} == {"mini"}
    assert reopened.add_model(small).filled == PICTURES


@pytest.mark.slow
def test_in_an_object_store(
    folder: Path, mini: bb.Encoder, small: bb.Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both the index and the pictures lie there; nothing is read from here."""
    monkeypatch.setenv("BOWERBIRD_CACHE_BYTES", "0")
    with serving() as store:
        for path in sorted(folder.iterdir())[:8]:
            store.put(f"photos/{path.name}", path.read_bytes())
        uri = store.uri("photos.bower")
        bb.Collection.from_glob(store.uri("photos")).embed(mini).write(uri)
        index = bb.Index.open(uri)
        report = index.add_model(small)
        assert (report.filled, report.failed) == (8, [])
        have = raw(uri, small)
        assert sorted(have) == [store.uri(f"photos/{number:03}.png") for number in range(8)]
        wanted = small.embed([folder / f"{number:03}.png" for number in range(8)])
        for number, vector in enumerate(wanted):
            one = have[store.uri(f"photos/{number:03}.png")]
            assert float(vector @ one / np.linalg.norm(one)) > 0.9999
        store.fs.rm(f"{store.bucket}/photos/003.png")
        index.drop_model(small.card.space)
        again = bb.Index.open(uri).add_model(small)
        assert again.filled == 7
        assert "photos/003.png" in again.failed[0].reason
        errors = json.loads(store.fs.cat(f"{store.bucket}/photos.bower/errors.jsonl").splitlines()[0])
        assert errors["path"].endswith("003.png")


def test_members_of_tars_are_read_again(
    folder: Path, mini: bb.Encoder, small: bb.Encoder, tmp_path: Path
) -> None:
    import tarfile

    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for path in sorted(folder.iterdir())[:4]:
            tar.add(path, path.name)
    path = tmp_path / "a.bower"
    bb.Collection.from_webdataset(str(tmp_path / "shard.tar")).embed(mini, cache=False).write(path)
    report = bb.Index.open(path).add_model(small)
    assert (report.filled, report.failed) == (4, [])
    (tmp_path / "shard.tar").unlink()
    index = bb.Index.open(path)
    third = bb.load("mini", dimensions=32)
    report = index.add_model(third)
    assert (report.filled, len(report.failed)) == (0, 4)
    assert "shard.tar" in report.failed[0].reason
