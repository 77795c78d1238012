"""An index in a database, as a whole: made, filled, searched, changed, and killed under way on both ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.store.postgres_server import Server, serving

import bowerbird as bb
from bowerbird.errors import IndexBusyError, IndexDamagedError, IndexNotFoundError, StoreError
from bowerbird.store import manifest as manifests
from bowerbird.store import postgres_session


@pytest.fixture
def database(postgres_server: Server) -> str:
    return postgres_server.database()


@pytest.fixture
def uri(postgres_server: Server, database: str) -> str:
    return postgres_server.uri(database, table="photos")


@pytest.fixture
def folder(tmp_path: Path, picture: Callable[..., bytes]) -> Path:
    root = tmp_path / "photos"
    root.mkdir()
    for seed in range(12):
        (root / f"{seed:02}.png").write_bytes(picture(seed))
    return root


def found_twice(index: bb.Index) -> list[str]:
    uris = [uri for batch in index.table.scan(["uri"]) for uri in batch["uri"].to_pylist()]
    return sorted(uri for uri in set(uris) if uris.count(uri) > 1)


def test_made_filled_searched_and_changed(uri, model, folder, photographs):
    index = bb.Index.create(uri, model)
    assert str(index.path) == uri
    assert uri in repr(index)
    report = index.add(folder)
    assert (report.added, report.failed) == (12, [])
    some = folder / "03.png"
    assert index.search(some, k=1)[0].uri == str(some)
    assert len(index.search("a pattern", k=5, where="width = 64")) == 5
    hits = index.search("a pattern", k=2)
    assert set(index.thumbnails(hits.ids)) == set(hits.ids)

    (folder / "00.png").unlink()
    (folder / "01.png").write_bytes(photographs["coffee"].read_bytes())
    (folder / "02.png").rename(folder / "moved.png")
    (folder / "bad.png").write_bytes(b"nothing")
    report = bb.Index.open(uri, model).add(folder)
    assert (report.removed, report.changed, report.moved, report.unchanged) == (1, 1, 1, 9)
    assert [fault.path for fault in report.failed] == [str(folder / "bad.png")]
    index.refresh()
    assert (len(index), index.manifest.failed) == (11, 1)
    assert index.search("a cup of coffee", k=1)[0].uri == str(folder / "01.png")
    assert index.search(folder / "moved.png", k=1)[0].uri == str(folder / "moved.png")
    assert {"errors.jsonl", "manifest.json"} <= set(index.location.names())


def test_rows_are_there_for_other_software(postgres_server, database, uri, model):
    texts = [f"a red hat no {n}" for n in range(4)]
    bb.Collection.from_texts(texts).embed(model).write(uri)
    rows = postgres_server.run("SELECT text, bowerbird_words FROM photos ORDER BY text", database)
    assert rows[1] == ("a red hat no 1", ["a", "red", "hat", "no", "1"])
    ((least,),) = postgres_server.run(
        "SELECT min(vector_norm(mini__text_embeds)) FROM photos"
        if _has(postgres_server, database, "mini__text_embeds")
        else "SELECT 1.0",
        database,
    )
    assert least == pytest.approx(1, abs=1e-5)


def _has(server: Server, database: str, column: str) -> bool:
    query = f"SELECT count(*) FROM information_schema.columns WHERE column_name = '{column}'"
    return server.run(query, database) == [(1,)]


def test_what_is_there_already(postgres_server, database, uri, model):
    bb.Index.create(uri, model)
    with pytest.raises(StoreError, match="There is an index at postgresql://"):
        bb.Index.create(uri, model)
    with pytest.raises(IndexNotFoundError, match="There is no index at postgresql://"):
        bb.Index.open(postgres_server.uri(database, table="nothing"), model)
    with pytest.raises(StoreError, match="database that does not exist"):
        bb.Index.create(postgres_server.uri("nowhere", table="t"), model)
    postgres_server.run("CREATE TABLE theirs (id int)", database)
    with pytest.raises(StoreError, match="something else"):
        bb.Index.create(postgres_server.uri(database, table="theirs"), model)


def test_what_a_killed_create_leaves(uri, model, folder):
    bb.Index.create(uri, model).location.remove("manifest.json")
    index = bb.Index.create(uri, model)
    index.add(folder / "00.png")
    index.location.remove("manifest.json")
    with pytest.raises(IndexDamagedError, match="1 records, but no manifest"):
        bb.Index.create(uri, model)


def test_a_dropped_table_is_indexed_anew(postgres_server, database, uri, model, folder):
    bb.Index.create(uri, model).add(folder)
    postgres_server.run("DROP TABLE photos", database)
    with pytest.raises(IndexNotFoundError):
        bb.Index.open(uri, model)
    assert bb.Index.create(uri, model).add(folder).added == 12


def test_damaged(uri, model):
    bb.Index.create(uri, model).location.replace("manifest.json", b"{")
    with pytest.raises(IndexDamagedError, match=r"postgresql://.*manifest\.json is damaged"):
        bb.Index.open(uri, model)


def test_the_command_line_and_the_password(postgres_server, database, uri, folder, run):
    postgres_server.run("DROP ROLE IF EXISTS keeper; CREATE ROLE keeper LOGIN SUPERUSER PASSWORD 'pa55word'")
    with_password = uri.replace("postgres@", "keeper:pa55word@")
    without = uri.replace("postgres@", "keeper@")
    done = run("index", folder, "--index", with_password)
    assert f"12 pictures in {without}" in done.err
    assert "refused the user or the password" in run("info", "--index", without, code=2).err
    secret = {"PGPASSWORD": "pa55word"}
    told = run("info", "--index", without, env=secret)
    assert re.search(r"bytes +\d", told.out)
    assert len(run("search", "a pattern", "-k", "3", "--index", without, env=secret).paths) == 3
    shown = run("info", "--json", "--index", with_password)
    assert "pa55word" not in done.err + told.out + told.err + shown.out + shown.err
    ((manifest,),) = postgres_server.run("SELECT data FROM bowerbird_files WHERE name LIKE '%json'", database)
    assert b"pa55word" not in manifest


ADD = """
import sys, bowerbird as bb
bb.Index.open(sys.argv[1]).add(sys.argv[2])
"""


def adding(uri: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ADD, uri, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "BOWERBIRD_COMMIT_SECONDS": "0.2", "BOWERBIRD_LOCK_SECONDS": "10"},
    )


def wait_for_more(uri: str, before: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while manifests.read(uri).records == before:
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_writer(uri, model, folder, picture, monkeypatch):
    """What it committed is found, its lock is free, and the next run completes the index."""
    for seed in range(12, 200):
        (folder / f"{seed:03}.png").write_bytes(picture(seed))
    bb.Index.create(uri, model)
    for _ in range(2):
        before = manifests.read(uri).records
        process = adding(uri, folder)
        wait_for_more(uri, before, process)
        monkeypatch.setenv("BOWERBIRD_LOCK_SECONDS", "0")
        with pytest.raises(IndexBusyError, match="session"):
            bb.Index.open(uri, model).add(folder)
        process.kill()
        process.communicate()
        index = bb.Index.open(uri, model)
        assert before < len(index) < 200
        assert found_twice(index) == []
    monkeypatch.setenv("BOWERBIRD_LOCK_SECONDS", "20")
    report = index.add(folder)
    assert report.added + report.unchanged == 200
    assert (len(index), index.table.count(), found_twice(index)) == (200, 200, [])


@pytest.fixture(scope="module")
def mortal() -> Iterator[Server]:
    """A server of this module's own, which may be killed."""
    with serving() as server:
        yield server


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again_in_the_middle_of_a_run(mortal, model, folder, picture):
    for seed in range(12, 200):
        (folder / f"{seed:03}.png").write_bytes(picture(seed))
    uri = mortal.uri(mortal.database(), table="photos")
    bb.Index.create(uri, model)
    process = adding(uri, folder)
    wait_for_more(uri, 0, process)
    mortal.restart()
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    index = bb.Index.open(uri, model)
    assert (len(index), index.table.count(), found_twice(index)) == (200, 200, [])


@pytest.mark.slow
def test_a_server_that_stays_away_ends_the_run_and_the_next_completes_it(
    mortal, model, folder, picture, monkeypatch
):
    for seed in range(12, 200):
        (folder / f"{seed:03}.png").write_bytes(picture(seed))
    uri = mortal.uri(mortal.database(), table="photos")
    monkeypatch.setattr(postgres_session, "PAUSES", (0.1, 0.2))
    monkeypatch.setenv("BOWERBIRD_COMMIT_SECONDS", "0.2")
    index = bb.Index.create(uri, model)

    class Killer:
        done = 0

        def start(self, total: int) -> None:
            self.total = total

        def advance(self, count: int) -> None:
            before, self.done = self.done, self.done + count
            if before < 60 <= self.done:
                mortal.kill()

    try:
        with pytest.raises(StoreError, match="cannot be reached"):
            index.add(folder, progress=Killer())
    finally:
        mortal.start()
    again = bb.Index.open(uri, model)
    assert found_twice(again) == []
    assert again.table.count() < 200
    report = again.add(folder)
    assert report.added + report.unchanged == 200
    assert (len(again), again.table.count(), found_twice(again)) == (200, 200, [])


@pytest.mark.slow
def test_a_query_while_the_server_is_started_again(mortal, model, folder):
    uri = mortal.uri(mortal.database(), table="photos")
    index = bb.Index.create(uri, model)
    index.add(folder)
    wrong: list[object] = []

    def ask() -> None:
        for _ in range(100):
            if len(index.search("a pattern", k=5)) != 5:
                wrong.append("too few")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    for _ in range(2):
        time.sleep(0.3)
        mortal.restart()
    thread.join(240)
    assert not thread.is_alive()
    assert wrong == []
