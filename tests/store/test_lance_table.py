"""What is Lance's own beside the contract: damaged files, the vector index, words, places that cannot be written to."""

from __future__ import annotations

import shutil
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.store.stores import local, s3
from tests.store.test_table import COLUMN, SCHEMA, contents, rows, units

from bowerbird.errors import IndexDamagedError, IndexReadOnlyError, StoreError
from bowerbird.store import lance, lance_indexes, lance_memory, lance_rows, lance_search
from bowerbird.store.filters import Compare, In, IsNull, Not, both
from bowerbird.store.lance import LanceTable
from bowerbird.store.table import SCORE, Table, VectorColumn, schema


@pytest.mark.parametrize("store", [local, pytest.param(s3, marks=pytest.mark.slow)], indirect=True)
class TestFiles:
    """Tables are files, and files are damaged."""

    @pytest.fixture
    def place(self, store) -> Any:
        return store.place()

    @pytest.fixture
    def table(self, store, place) -> Table:
        return store.create(place, SCHEMA)

    def test_missing(self, store, place):
        with pytest.raises(IndexDamagedError):
            store.open(store.place())

    def test_a_version_that_is_gone(self, table, store, place):
        with pytest.raises(IndexDamagedError):
            store.open(place, 99)

    @pytest.mark.parametrize("damage", ["gone", "cut", "overwritten", "scrambled"])
    @pytest.mark.parametrize("where", [None, Compare("width", ">", 1)], ids=["all", "some"])
    def test_damaged_data(self, table, store, place, damage, where):
        table.upsert(rows([f"r{i}" for i in range(500)]))
        for path in (place / "data").iterdir():
            content = path.read_bytes()
            if damage == "gone":
                path.unlink()
            elif damage == "cut":
                path.write_bytes(content[: len(content) // 2])
            elif damage == "overwritten":
                path.write_bytes(b"x" * len(content))
            else:
                path.write_bytes(bytes(byte ^ 0x5A for byte in content[:-60]) + content[-60:])
        for ask in (
            lambda t: list(t.scan(["id", "width", "v"], where)),
            lambda t: t.nearest("v", units(1)[0], 2, columns=["id"], where=where),
        ):
            with pytest.raises(IndexDamagedError, match="cannot be read"):
                ask(store.open(place))

    def test_damaged_versions(self, table, store, place):
        table.upsert(rows(["a"]))
        for path in (place / "_versions").iterdir():
            path.write_bytes(b"junk")
        with pytest.raises(IndexDamagedError):
            store.open(place)
        for path in (place / "_versions").iterdir():
            path.unlink()
        with pytest.raises(IndexDamagedError):
            store.open(place)

    def test_a_place_that_cannot_be_written(self, store):
        with pytest.raises(StoreError) as caught:
            store.create(store.nowhere(), SCHEMA)
        assert not isinstance(caught.value, IndexDamagedError)

    def test_what_is_left_over(self, table, store, place):
        assert LanceTable.leftover(str(place)) == 0
        assert LanceTable.leftover(str(store.place())) == 0
        table.upsert(rows(["a", "b"]))
        assert LanceTable.leftover(str(place)) == 2
        for path in (place / "_versions").iterdir():
            path.unlink()
        assert LanceTable.leftover(str(place)) is None


WIDE = VectorColumn("v", "features", "image", 32)


def clustered(count: int, seed: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = units(40, 32, seed=6)
    vectors = centres[rng.integers(0, 40, count)] + 0.15 * rng.normal(size=(count, 32)).astype(np.float32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    vectors = clustered(2000)
    path = tmp_path_factory.mktemp("indexed") / "t.lance"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lance_memory, "EXACT_BYTES", 0)
        table = LanceTable.create(path, schema([WIDE]))
        ids = [f"r{i}" for i in range(2000)]
        table.upsert(rows(ids, vectors, missing=range(0, 2000, 50), column=WIDE))
        exact = table.nearest("v", vectors[1], 5, columns=["id"])
        table.optimize([WIDE])
    assert lance_indexes.has_index(table._dataset, "v")
    assert table.nearest("v", vectors[1], 5, columns=["id"])["id"].to_pylist() == exact["id"].to_pylist()
    return path, vectors


class TestVectorIndex:
    """Lance's own: above EXACT_BYTES search is approximate."""

    @pytest.mark.parametrize("least", [0, 1500, 1990])
    def test_recall_and_filters(self, indexed, least):
        path, vectors = indexed
        table = LanceTable.open(path)
        passing = (np.arange(2000) >= least) & (np.arange(2000) % 50 != 0)
        recalled = []
        for query in units(40, 32, seed=8):
            found = table.nearest(
                "v", query, 10, columns=["id"], where=Compare("width", ">=", least) if least else None
            )
            got = [int(id_[1:]) for id_ in found["id"].to_pylist()]
            assert all(passing[row] for row in got)
            scores = found[SCORE].to_numpy()
            assert np.all(np.diff(scores) <= 1e-6)
            assert np.allclose(scores, vectors[got] @ query, atol=1e-5)
            true = np.argsort(-np.where(passing, vectors @ query, -np.inf))[: min(10, passing.sum())]
            recalled.append(len(set(got) & set(true.tolist())) / len(true))
        assert np.mean(recalled) >= 0.9

    def test_rows_added_and_deleted_afterwards(self, indexed, tmp_path, monkeypatch):
        path, vectors = indexed
        shutil.copytree(path, tmp_path / "t.lance")
        table = LanceTable.open(tmp_path / "t.lance")
        fresh = units(1, 32, seed=77)
        table.upsert(rows(["fresh"], fresh, column=WIDE), remove=["r1"])
        assert table.nearest("v", fresh[0], 1, columns=["id"])["id"].to_pylist() == ["fresh"]
        assert "r1" not in table.nearest("v", vectors[1], 20, columns=["id"])["id"].to_pylist()
        monkeypatch.setattr(lance_memory, "EXACT_BYTES", 0)
        table.optimize([WIDE])
        assert table.count() == 2000
        assert table.nearest("v", fresh[0], 1, columns=["id"])["id"].to_pylist() == ["fresh"]

    @pytest.mark.parametrize("dimensions", [1, 7, 20, 264, 300, 512])
    def test_any_length_of_vector_can_be_indexed(self, tmp_path, monkeypatch, dimensions):
        column = VectorColumn("v", "features", "image", dimensions)
        monkeypatch.setattr(lance_memory, "EXACT_BYTES", 0)
        table = LanceTable.create(tmp_path / "t.lance", schema([column]))
        vectors = units(600, dimensions)
        table.upsert(rows([f"r{i}" for i in range(600)], vectors, column=column))
        table.optimize([column])
        found = table.nearest("v", vectors[3], 1, columns=["id"])
        assert found[SCORE][0].as_py() == pytest.approx(1, abs=1e-3)

    def test_hardly_any_vectors(self, tmp_path, monkeypatch):
        monkeypatch.setattr(lance_memory, "EXACT_BYTES", 0)
        table = LanceTable.create(tmp_path / "t.lance", SCHEMA)
        table.upsert(rows([f"r{i}" for i in range(600)], missing=range(590)))
        table.optimize([COLUMN])
        assert table.nearest("v", units(1)[0], 20, columns=["id"]).num_rows == 10

    def test_it_prints_nothing(self, tmp_path, monkeypatch, capfd):
        monkeypatch.setattr(lance_memory, "EXACT_BYTES", 0)
        table = LanceTable.create(tmp_path / "t.lance", SCHEMA)
        table.upsert(rows([f"r{i}" for i in range(600)]))
        table.optimize([COLUMN])
        assert capfd.readouterr() == ("", "")


def test_an_exact_search_of_a_table_that_does_not_fit_into_memory(indexed, monkeypatch):
    path, vectors = indexed
    table = LanceTable.open(path)
    monkeypatch.setattr(lance_memory, "EXACT_BYTES", 0)
    monkeypatch.setattr(lance_memory, "BATCH_ROWS", 64)
    monkeypatch.setattr(lance_search, "BATCH_ROWS", 64)
    there = np.arange(2000) % 50 != 0
    for centre in (None, vectors.mean(0)):
        for query in units(5, 32, seed=8):
            for k in (1, 10, 300, 5000):
                found = table.nearest("v", query, k, columns=["id"], centre=centre, exact=True)
                seen = vectors if centre is None else vectors - centre
                scores = np.where(there, seen / np.linalg.norm(seen, axis=1, keepdims=True) @ query, -np.inf)
                true = np.argsort(-scores, kind="stable")[: min(k, there.sum())]
                assert np.allclose(found[SCORE].to_numpy(), scores[true], atol=1e-5)
                assert found.num_rows == len(true)


@pytest.mark.parametrize("share", [1, 0.1, 0.01])
@pytest.mark.parametrize("centred", [False, True])
def test_filters_and_centres_lose_no_recall(indexed, share, centred):
    path, vectors = indexed
    table = LanceTable.open(path)
    passing = np.random.default_rng(3).permutation(2000)[: round(2000 * share)]
    where = None if share == 1 else In("width", tuple(passing.tolist()))
    passing = passing[passing % 50 != 0]
    centre = vectors.mean(0) if centred else None
    seen = vectors if centre is None else vectors - centre
    seen = seen / np.linalg.norm(seen, axis=1, keepdims=True)
    recalled = []
    for query in clustered(40, seed=9):
        true = passing[np.argsort(-(seen[passing] @ query))][:10]
        found = table.nearest("v", query, 10, columns=["width"], where=where, centre=centre)
        recalled.append(len(set(true.tolist()) & set(found["width"].to_pylist())) / len(true))
    assert np.mean(recalled) >= 0.97


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 60), st.integers(0, 5))
def test_pages_of_the_vector_index(indexed, seed, one, other, fifth):
    """Pages below the first rung come from one ranking."""
    path, _ = indexed
    table = LanceTable.open(path)
    where = Compare("width", ">=", 400 * fifth) if fifth < 5 else None
    query = clustered(1, seed=seed)[0]
    small, large = sorted((min(one, 32), min(other, 32)))
    pages = [
        table.nearest("v", query, k, columns=["id"], where=where)["id"].to_pylist() for k in (small, large)
    ]
    assert pages[0] == pages[1][:small]
    scores = table.nearest("v", query, 2000, columns=["id"], where=where)[SCORE].to_numpy()
    assert len(scores) == table.count(both(where, Not(IsNull("v"))))
    assert np.all(np.diff(scores) <= 0)


def test_an_index_grows_without_being_built_again(indexed, tmp_path, monkeypatch):
    path, vectors = indexed
    shutil.copytree(path, tmp_path / "t.lance")
    table = LanceTable.open(tmp_path / "t.lance")
    monkeypatch.setattr(lance_memory, "EXACT_BYTES", 0)
    monkeypatch.setattr(lance_indexes, "UNINDEXED", 20)
    monkeypatch.setattr(lance_indexes, "MOST_BESIDE", 2)
    name = table._dataset.describe_indices()[0].name
    partitions, beside = lance_indexes.partitions_of(table._dataset, "v"), []
    more = clustered(5 * 40, seed=21)
    for run in range(5):
        some = more[run * 40 : run * 40 + 40]
        table.upsert(rows([f"new{run}-{row}" for row in range(40)], some, column=WIDE))
        table.optimize([WIDE])
        assert lance_indexes.partitions_of(table._dataset, "v") == partitions
        beside.append(table._dataset.stats.index_stats(name)["num_indices"] - 1)
    assert max(beside) == 2
    everything = np.concatenate([vectors, more])
    for query in more[::10]:
        found = table.nearest("v", query, 1, columns=["id"])
        assert found[SCORE][0].as_py() == pytest.approx((everything @ query).max(), abs=1e-5)


def test_a_reader_of_what_was_the_newest_a_moment_ago_can_finish_however_old_it_is(tmp_path, monkeypatch):
    path = tmp_path / "t.lance"
    table = LanceTable.create(path, SCHEMA)
    for number in range(3):
        table.upsert(rows([f"r{number}"]))
    reader = LanceTable.open(path)

    class AnHourLater(datetime):
        @classmethod
        def now(cls, tz=None):
            return later

    later = datetime.now() + lance.KEEP_VERSIONS
    monkeypatch.setattr(lance, "datetime", AnHourLater)
    for number in range(lance.FRAGMENTS_BEFORE_COMPACTION + 1):
        table.upsert(rows([f"new{number}"]))
    table.optimize([COLUMN])
    assert sorted(id_ for batch in reader.scan(["id", "v"]) for id_ in batch["id"].to_pylist()) == [
        "r0",
        "r1",
        "r2",
    ]
    assert next(one["version"] for one in table._dataset.versions()) == reader.version


def test_rows_are_kept_until_they_change(tmp_path):
    table = LanceTable.create(tmp_path / "t.lance", SCHEMA)
    vectors = units(300)
    table.upsert(rows([f"r{i}" for i in range(100)], vectors[:100]))
    table.upsert(rows([f"r{i}" for i in range(100, 300)], vectors[100:]))
    columns = ["width", "id", "thumbnail", "name"]

    def check(width: dict[str, int | None], names: list[str]) -> None:
        for vector in vectors[::30]:
            found = table.nearest("v", vector, 40, columns=names)
            assert found.column_names == [*names, SCORE]
            assert found.num_rows == min(40, table.count())
            for row in found.to_pylist():
                assert row["width"] == width[row["id"]]
                assert row["name"] == f"it's {row['id']}"

    expected = {f"r{i}": i if i < 100 else i - 100 for i in range(300)}
    check(expected, columns)
    assert table._rows_kept._kept
    table.update(pa.table({"id": ["r1", "r150"], "width": pa.array([None, 7], pa.int32())}))
    check(expected | {"r1": None, "r150": 7}, columns)
    table.delete([f"r{i}" for i in range(0, 300, 2)])
    check(expected | {"r1": None, "r150": 7}, columns)
    table.drop(["thumbnail"])
    check(expected | {"r1": None, "r150": 7}, ["width", "id", "uri", "name"])
    table.upsert(rows(["r0", "r1"], vectors[:2], width=[5, 6]).drop_columns(["thumbnail"]))
    table.optimize([COLUMN])
    check(expected | {"r0": 5, "r1": 6, "r150": 7}, ["id", "name", "width"])


def test_no_more_rows_are_kept_than_there_is_room_for(tmp_path, monkeypatch):
    monkeypatch.setattr(lance_rows, "KEPT_BYTES", 0)
    table = LanceTable.create(tmp_path / "t.lance", SCHEMA)
    for number in range(3):
        table.upsert(rows([f"r{number}{i}" for i in range(20)], units(20, seed=number)))
    for _ in range(5):
        found = table.nearest("v", units(1)[0], 60, columns=["id", "name"])
        assert [f"it's {id_}" for id_ in found["id"].to_pylist()] == found["name"].to_pylist()
    assert len(table._rows_kept._kept) == 1


def test_a_read_only_table(tmp_path):
    path = tmp_path / "t.lance"
    table = LanceTable.create(path, SCHEMA)
    table.upsert(rows(["a"]))
    folders = [path, *(entry for entry in path.rglob("*") if entry.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        try:
            (path / "probe").touch()
        except OSError:
            pass
        else:
            pytest.skip("this user may write anywhere")
        with pytest.raises(IndexReadOnlyError):
            table.upsert(rows(["b"]))
        assert set(contents(LanceTable.open(path))) == {"a"}
    finally:
        for folder in folders:
            folder.chmod(0o755)
