"""An index in an object store, as a whole: made, filled, searched, opened elsewhere, and killed under way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.flow.object_store import ObjectStore, forget_connections, gate, serving

import bowerbird as bb
from bowerbird.errors import IndexBusyError, IndexDamagedError, IndexNotFoundError, StoreError
from bowerbird.store import manifest as manifests
from bowerbird.store import objects


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with serving() as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path, picture: Callable[..., bytes]) -> Path:
    root = tmp_path / "photos"
    root.mkdir()
    for seed in range(12):
        (root / f"{seed:02}.png").write_bytes(picture(seed))
    return root


def python(store: ObjectStore, code: str, *words: object, **more) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **store.environment, **more},
    )


def test_made_filled_searched_and_opened_elsewhere(store, model, folder, photographs):
    uri = store.uri("photos.bower")
    index = bb.Index.create(uri, model)
    assert str(index.path) == uri
    assert uri in repr(index)
    report = index.add(folder)
    assert (report.added, len(report.failed)) == (12, 0)
    some = folder / "03.png"
    assert index.search(some, k=1)[0].uri == str(some)
    assert len(index.search("a pattern", k=5, where="width = 64")) == 5
    assert set(index.thumbnails(index.search("a pattern", k=2).ids)) == set(
        index.search("a pattern", k=2).ids
    )

    code = (
        "import sys, pathlib, bowerbird as bb; index = bb.Index.open(sys.argv[1]); "
        "print(len(index), index.search(pathlib.Path(sys.argv[2]), k=1)[0].uri)"
    )
    process = python(store, code, uri, some)
    out, err = process.communicate(timeout=60)
    assert (out.strip(), err) == (f"12 {some}", "")

    (folder / "00.png").unlink()
    (folder / "01.png").write_bytes(photographs["coffee"].read_bytes())
    report = bb.Index.open(uri, model).add(folder)
    assert (report.removed, report.changed, report.unchanged) == (1, 1, 10)
    assert len(index) == 12, "a reader keeps its version"
    index.refresh()
    assert len(index) == 11
    assert index.search("a cup of coffee", k=1)[0].uri == str(folder / "01.png")
    names = {name.split("/")[1] for name in store.names("photos.bower")}
    assert {name for name in names if not name.startswith("calibration-")} == {
        "manifest.json",
        "records.lance",
    }
    assert index.manifest.models[0].calibration["file"] in names


def test_what_is_there_already(store, model):
    uri = store.uri("twice.bower")
    bb.Index.create(uri, model)
    with pytest.raises(StoreError, match="There is an index at s3://"):
        bb.Index.create(uri, model)
    store.put("strangers/a.txt", b"x")
    with pytest.raises(StoreError, match=r"is not empty: it holds 'a\.txt'"):
        bb.Index.create(store.uri("strangers"), model)
    with pytest.raises(IndexNotFoundError, match="There is no index at s3://"):
        bb.Index.open(store.uri("nothing.bower"), model)
    with pytest.raises(StoreError, match="bucket that does not exist"):
        bb.Index.create("s3://there-is-no-such-bucket/a.bower", model)


def test_what_a_killed_create_leaves(store, model, folder):
    uri = store.uri("unfinished.bower")
    bb.Index.create(uri, model)
    store.fs.rm_file(f"{store.bucket}/unfinished.bower/manifest.json")
    index = bb.Index.create(uri, model)
    index.add(folder / "00.png")
    store.fs.rm_file(f"{store.bucket}/unfinished.bower/manifest.json")
    with pytest.raises(IndexDamagedError, match=r"1 records, but no manifest"):
        bb.Index.create(uri, model)


def test_damaged(store, model):
    uri = store.uri("damaged.bower")
    bb.Index.create(uri, model)
    store.put("damaged.bower/manifest.json", b"{")
    with pytest.raises(IndexDamagedError, match=r"s3://.*manifest\.json is damaged"):
        bb.Index.open(uri, model)


def test_a_store_that_refuses_or_goes_away(store, model, folder, monkeypatch):
    uri = store.uri("refused.bower")
    bb.Index.create(uri, model).add(folder / "00.png")
    with gate(store) as before:
        index = bb.Index.open(uri, model)
        before.faults.append(("PUT|POST|DELETE", 403, "AccessDenied", 999))
        with pytest.raises(bb.BowerbirdError, match="refused access"):
            index.add(folder)
        assert len(index.search("a pattern")) == 1, "reading is still allowed"
        before.faults[:] = [("records.lance.*", 403, "AccessDenied", 999)]
        with pytest.raises(StoreError, match="refused access") as caught:
            bb.Index.open(uri, model)
        assert not isinstance(caught.value, IndexDamagedError)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    forget_connections()
    try:
        with pytest.raises(StoreError, match="cannot be reached") as caught:
            bb.Index.open(uri, model)
        assert not isinstance(caught.value, IndexDamagedError)
    finally:
        monkeypatch.undo()
        forget_connections()
    assert len(bb.Index.open(uri, model)) == 1


ADD = """
import sys, bowerbird as bb
from bowerbird.store import objects
objects.LEASE = 3.0
class Tell:
    def start(self, total): pass
    def advance(self, count): print("one", flush=True)
bb.Index.open(sys.argv[1]).add(sys.argv[2], progress=Tell())
"""


@pytest.mark.slow
def test_a_killed_writer(store, model, folder, picture, monkeypatch):
    """What it committed is found, its lock is taken over, and the next run completes the index."""
    monkeypatch.setattr(objects, "LEASE", 3.0)
    for seed in range(12, 150):
        (folder / f"{seed:03}.png").write_bytes(picture(seed))
    uri = store.uri("killed.bower")
    bb.Index.create(uri, model)
    for _ in range(2):
        before = manifests.read(uri).records
        process = python(store, ADD, uri, folder, BOWERBIRD_COMMIT_SECONDS="0.2", BOWERBIRD_LOCK_SECONDS="10")
        end = time.monotonic() + 40
        while manifests.read(uri).records == before:
            assert time.monotonic() < end
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.kill()
        process.communicate()
        index = bb.Index.open(uri, model)
        assert before < len(index) < 150
        found = index.search("a pattern", k=1000)
        assert len(set(found.uris)) == len(found) == len(index)
    monkeypatch.setenv("BOWERBIRD_LOCK_SECONDS", "0.5")
    with pytest.raises(IndexBusyError, match=r"\(process \d+ on "):
        index.add(folder)
    monkeypatch.setenv("BOWERBIRD_LOCK_SECONDS", "20")
    report = index.add(folder)
    assert report.added + report.unchanged == 150
    uris = [row["uri"] for batch in index.table.scan(["uri"]) for row in batch.to_pylist()]
    assert sorted(uris) == sorted(str(path) for path in folder.iterdir())


@pytest.mark.slow
def test_a_store_that_stops_in_the_middle_of_a_run(model, folder, store):
    uri = store.uri("stops.bower")
    index = bb.Index.create(uri, model)
    index.add(folder / "00.png")
    with gate(store) as before:
        fresh = bb.Index.open(uri, model)
        before.faults.append(("records.lance/data", 0, "", 999))
        with pytest.raises(StoreError) as caught:
            fresh.add(folder)
        assert not isinstance(caught.value, IndexDamagedError)
    assert len(bb.Index.open(uri, model)) == 1
    assert bb.Index.open(uri, model).add(folder).added == 11
