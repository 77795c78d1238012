"""An index copied between stores is the same index."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import bowerbird as bb
from bowerbird.errors import IndexBusyError, IndexNotFoundError, StoreError
from bowerbird.search import copying
from bowerbird.search.copying import NOTE, copy_index
from bowerbird.search.index import Index
from bowerbird.store import manifest as manifests
from bowerbird.store.location import Location
from bowerbird.store.table import Table


@pytest.fixture
def goods(tmp_path, picture) -> Path:
    """A table of goods: pictures, texts, and attributes of several types, with gaps."""
    lines = ["sku,photo,said,price,stock,sold,added"]
    for number in range(30):
        (tmp_path / f"p{number}.png").write_bytes(picture(number))
        photo = f"p{number}.png" if number % 7 else ""
        said = f"a red hat no {number}" if number % 3 or not photo else ""
        price = f"{number}.25" if number % 4 else ""
        lines.append(
            f"s{number},{photo},{said},{price},{number},{str(number % 2 == 0).lower()},2024-05-{number + 1:02}"
        )
    (path := tmp_path / "goods.csv").write_text("\n".join(lines))
    return path


@pytest.fixture
def index(goods, tmp_path, model) -> Index:
    place = tmp_path / "goods.bower"
    bb.Collection.from_csv(goods, image="photo", text="said", id="sku").embed(model).write(place)
    return Index.open(place, model)


@pytest.fixture
def uri(postgres_server) -> str:
    return postgres_server.uri(postgres_server.database(), table="goods")


def rows(table: Table) -> list[dict]:
    """All rows, vectors as bytes, in the order of their ids."""
    found = []
    for batch in table.scan(table.names):
        for row in batch.to_pylist():
            found.append(
                {n: np.asarray(v, np.float32).tobytes() if isinstance(v, list) else v for n, v in row.items()}
            )
    return sorted(found, key=lambda row: row["id"])


def answers(index: Index) -> list[tuple]:
    found = []
    for asked in ({"text": "a red hat"}, {"text": "hat", "where": "price < 20 and sold"}, {"like": "s5"}):
        hits = index.search(k=20, **asked)
        scores = np.round(np.asarray(hits.scores, np.float64), 5).tolist()
        found.append(sorted(zip(scores, hits.ids, strict=True), reverse=True))
    return found


class Watch:
    def __init__(self) -> None:
        self.total, self.done = -1, 0

    def start(self, total: int) -> None:
        self.total = total

    def advance(self, count: int) -> None:
        self.done += count


def test_to_postgresql_and_back_everything_is_the_same(index, uri, tmp_path, model):
    watch = Watch()
    assert copy_index(index.path, uri, progress=watch) == 30
    assert (watch.total, watch.done) == (30, 30)
    there = Index.open(uri, model)
    assert copy_index(uri, tmp_path / "again.bower") == 30
    back = Index.open(tmp_path / "again.bower", model)
    for copied in (there, back):
        assert copied.table.fields == index.table.fields
        assert rows(copied.table) == rows(index.table)
        assert answers(copied) == answers(index)
        assert copied.manifest.models == index.manifest.models
        assert (copied.manifest.created, len(copied)) == (index.manifest.created, 30)
        assert NOTE not in copied.location.names()
    assert sorted(back.location.names()) == sorted(index.location.names())


def test_a_copy_goes_on_as_an_index(index, uri, goods, model):
    copy_index(index.path, uri)
    again = bb.Collection.from_csv(goods, image="photo", text="said", id="sku").embed(model)
    again.write(uri)
    assert len(Index.open(uri, model)) == 30
    with goods.open("a") as file:
        file.write("\nnew,,a blue coat,5,1,true,2024-05-01")
    bb.Collection.from_csv(goods, image="photo", text="said", id="sku").embed(model).write(uri)
    copied = Index.open(uri, model)
    assert len(copied) == 31
    assert copied.search("a blue coat", k=1).ids == ["new"]
    assert len(index) == 30


def test_the_list_of_failures_comes_along(index, tmp_path):
    index.list_errors([{"path": "x", "reason": "y"}])
    copy_index(index.path, tmp_path / "copy.bower")
    assert (tmp_path / "copy.bower" / "errors.jsonl").read_text() == '{"path": "x", "reason": "y"}\n'


def test_what_is_there_is_never_written_over(index, tmp_path, uri):
    other = tmp_path / "other.bower"
    copy_index(index.path, other)
    copy_index(index.path, uri)
    for target in (other, uri):
        with pytest.raises(StoreError, match="already"):
            copy_index(index.path, target)
    (stranger := tmp_path / "stranger").mkdir()
    (stranger / "letter.txt").write_text("dear")
    with pytest.raises(StoreError, match=r"letter\.txt"):
        copy_index(index.path, stranger)
    with pytest.raises(StoreError, match="itself"):
        copy_index(index.path, index.path)
    assert (stranger / "letter.txt").read_text() == "dear"


def test_nothing_to_copy(tmp_path, uri):
    for source in (tmp_path / "nothing", uri):
        with pytest.raises(IndexNotFoundError):
            copy_index(source, tmp_path / "copy.bower")
    assert not (tmp_path / "copy.bower").exists()


@pytest.mark.parametrize("to", ["directory", "database"])
def test_an_interrupted_copy_goes_on(index, tmp_path, uri, monkeypatch, to, model):
    target = tmp_path / "copy.bower" if to == "directory" else uri
    monkeypatch.setattr(copying, "BATCH_BYTES", 1)
    whole = type(index.table).scan

    def halves(table, columns, where=None):
        for batch in whole(table, columns, where):
            yield batch.slice(0, 12)
            if broken and "uri" in columns:
                raise KeyboardInterrupt
            yield batch.slice(12)

    monkeypatch.setattr(type(index.table), "scan", halves)
    broken = True
    with pytest.raises(KeyboardInterrupt):
        copy_index(index.path, target)
    with pytest.raises(IndexNotFoundError):
        Index.open(target, model)
    with pytest.raises(StoreError, match="copying"):
        Index.create(target, model)
    broken, watch = False, Watch()
    assert copy_index(index.path, target, progress=watch) == 30
    assert (watch.total, watch.done) == (30, 30)
    assert rows(Index.open(target, model).table) == rows(index.table)


def test_an_unfinished_copy_of_something_else_is_left_alone(index, tmp_path):
    target = tmp_path / "copy.bower"
    target.mkdir()
    (target / NOTE).write_text('{"source": "elsewhere", "created": "", "version": 1}')
    with pytest.raises(StoreError, match="unfinished copy of something else"):
        copy_index(index.path, target)


def test_an_unfinished_copy_of_an_earlier_state_begins_anew(index, tmp_path):
    target = tmp_path / "copy.bower"
    copy_index(index.path, target)
    manifest = index.manifest
    note = f'{{"source": "{index.path}", "created": "{manifest.created}", "version": 1}}'
    (target / manifests.NAME).unlink()
    (target / NOTE).write_text(note)
    assert copy_index(index.path, target) == 30
    assert len(rows(Index.open(target, index.model).table)) == 30


def test_a_source_without_versions_is_not_written_to_meanwhile(index, tmp_path, uri, monkeypatch):
    copy_index(index.path, uri)
    monkeypatch.setenv("BOWERBIRD_LOCK_SECONDS", "0.2")
    with Location.of(uri).lock(1), pytest.raises(IndexBusyError):
        copy_index(uri, tmp_path / "copy.bower")


def test_rows_that_did_not_arrive(index, tmp_path, monkeypatch):
    real = copying._batches
    monkeypatch.setattr(copying, "_batches", lambda *words: (table.slice(1) for table in real(*words)))
    with pytest.raises(StoreError, match="30 records, and 29"):
        copy_index(index.path, tmp_path / "copy.bower")
    assert not manifests.exists(tmp_path / "copy.bower")


def test_the_command(index, tmp_path, uri, run):
    done = run("copy", index.path, uri)
    assert done.out == ""
    assert f"30 records copied to {uri}" in done.err
    assert "already" in run("copy", index.path, uri, code=2).err
    found = run("search", "a red hat", "--index", uri, "--where", "price > 3", "-k", "3")
    assert len(found.out.splitlines()) == 3
    assert (
        found.out == run("search", "a red hat", "--index", index.path, "--where", "price > 3", "-k", "3").out
    )
    shutil.rmtree(index.path)
    assert run("info", "--index", uri, "--json").out
