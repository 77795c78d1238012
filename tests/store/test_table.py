"""The contract that every store passes, as one class over table factories."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.flow.object_store import ObjectStore, serving

from bowerbird.errors import IndexDamagedError, IndexReadOnlyError, QueryError, SpaceMismatchError, StoreError
from bowerbird.store import lance_search
from bowerbird.store.filters import And, Column, Compare, Filter, In, IsNull, Like, Not, Or, Words
from bowerbird.store.lance import LanceTable
from bowerbird.store.table import SCORE, Table, VectorColumn, schema

COLUMN = VectorColumn("v", "features", "image", 8)
SCHEMA = schema([COLUMN])


@dataclass
class Store:
    """How a kind of table is made and opened.

    Attributes:
        home: a new and empty place; used like a `Path`.
        nowhere: a place where nothing can be made.
    """

    create: Callable[[Any, pa.Schema], Table]
    open: Callable[..., Table]
    home: Callable[[], Any]
    nowhere: Callable[[], Any]


@dataclass(frozen=True)
class Key:
    """As much of a `Path` as these tests use, in an object store."""

    store: ObjectStore
    name: str

    def __truediv__(self, name: str) -> Key:
        return Key(self.store, f"{self.name}/{name}")

    def __str__(self) -> str:
        return self.store.uri(self.name)

    def iterdir(self) -> list[Key]:
        return [Key(self.store, name) for name in self.store.names(self.name)]

    def read_bytes(self) -> bytes:
        return self.store.fs.cat_file(f"{self.store.bucket}/{self.name}")

    def write_bytes(self, data: bytes) -> None:
        self.store.put(self.name, data)

    def unlink(self) -> None:
        self.store.fs.rm_file(f"{self.store.bucket}/{self.name}")


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Store:
    def nowhere() -> Path:
        (file := tmp_path_factory.mktemp("nowhere") / "file").write_text("x")
        return file / "t"

    return Store(LanceTable.create, LanceTable.open, lambda: tmp_path_factory.mktemp("table"), nowhere)


@pytest.fixture(scope="module")
def s3() -> Iterator[Store]:
    with serving() as found:
        number = itertools.count()
        yield Store(
            lambda place, columns: LanceTable.create(str(place), columns),
            lambda place, version=None: LanceTable.open(str(place), version),
            lambda: Key(found, f"table{next(number)}"),
            lambda: "s3://there-is-no-such-bucket/t",
        )


STORES = ("local", pytest.param("s3", marks=pytest.mark.slow))
ONE_STORE = [HealthCheck.function_scoped_fixture]  # Each example has a home of its own in it.


def units(count: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def rows(
    ids: Sequence[str],
    vectors: np.ndarray | None = None,
    *,
    missing: Sequence[int] = (),
    width: Sequence[int] | None = None,
    column: VectorColumn = COLUMN,
) -> pa.Table:
    count = len(ids)
    names = schema([column])
    vectors = units(count, column.dimensions) if vectors is None else vectors
    data = {field.name: pa.nulls(count, field.type) for field in names}
    data["id"] = pa.array(ids, pa.string())
    data["name"] = pa.array([f"it's {id_}" for id_ in ids], pa.string())
    data["width"] = pa.array(range(count) if width is None else width, pa.int32())
    kept = [None if row in set(missing) else vector.tolist() for row, vector in enumerate(vectors)]
    data[column.name] = pa.array(kept, pa.list_(pa.float32(), column.dimensions))
    return pa.table(data, schema=names)


def contents(table: Table, where: Filter | None = None) -> dict[str, int]:
    found: dict[str, int] = {}
    for batch in table.scan(["id", "width"], where):
        for id_, width in zip(batch["id"].to_pylist(), batch["width"].to_pylist(), strict=True):
            assert id_ not in found, f"{id_} is there twice"
            found[id_] = width
    return found


def brute_force(vectors: np.ndarray, query: np.ndarray, passing: np.ndarray, k: int) -> np.ndarray:
    scores = np.where(passing, vectors @ query, -np.inf)
    return np.sort(scores[np.isfinite(scores)])[::-1][:k]


@pytest.mark.parametrize("kind", STORES)
class TestTable:
    @pytest.fixture
    def store(self, kind, request) -> Store:
        return request.getfixturevalue(kind)

    @pytest.fixture
    def home(self, store) -> Any:
        return store.home()

    @pytest.fixture
    def table(self, store, home) -> Table:
        return store.create(home / "records.table", SCHEMA)

    # Rows.

    def test_a_new_table_is_empty(self, table):
        assert table.count() == 0
        assert contents(table) == {}
        assert table.nearest("v", units(1)[0], 5, columns=["id"]).num_rows == 0

    def test_upsert_inserts_and_replaces(self, table):
        table.upsert(rows(["a", "b", "c"]))
        table.upsert(rows(["b", "d"], width=[70, 80]))
        assert contents(table) == {"a": 0, "b": 70, "c": 2, "d": 80}

    def test_rows_are_keyed_by_id_also_within_one_call(self, table):
        table.upsert(rows(["a", "a", "b", "a"], width=[1, 2, 3, 4]))
        assert contents(table) == {"a": 4, "b": 3}

    def test_upsert_and_remove_are_one_version(self, table):
        table.upsert(rows(["a", "b", "c"]))
        before = table.version
        table.upsert(rows(["d"], width=[9]), remove=["a", "b", "not there"])
        assert contents(table) == {"c": 2, "d": 9}
        assert table.version == before + 1

    def test_remove_alone(self, table):
        table.upsert(rows(["a", "b"]))
        table.upsert(rows([]), remove=["a"])
        assert contents(table) == {"b": 1}

    def test_a_row_given_wins_over_its_removal(self, table):
        table.upsert(rows(["a"]))
        table.upsert(rows(["a"], width=[5]), remove=["a"])
        assert contents(table) == {"a": 5}

    @pytest.mark.parametrize("id_", ["it's", "''", "a;b", 'q"q', "--", "%", "日本", "a\nb", "x' OR '1'='1"])
    def test_ids_are_never_read_as_sql(self, table, id_):
        table.upsert(rows([id_, "other"]))
        table.upsert(rows([]), remove=[id_])
        assert contents(table) == {"other": 1}
        table.upsert(rows([id_, "other"]))
        assert table.delete([id_]) == 1
        assert contents(table) == {"other": 1}

    def test_delete_counts_what_was_there_in_one_version(self, table):
        table.upsert(rows([f"r{i}" for i in range(3000)]))
        before = table.version
        assert table.delete([f"r{i}" for i in range(500, 4000)]) == 2500
        assert table.count() == 500
        assert table.version == before + 1
        assert table.delete([]) == 0
        assert table.delete(["not there"]) == 0

    def test_count_and_scan_with_a_filter(self, table):
        table.upsert(rows([f"r{i}" for i in range(50)]))
        assert table.count(Compare("width", ">=", 40)) == 10
        assert contents(table, And((Compare("width", ">=", 48), Like("name", "it's%")))) == {
            "r48": 48,
            "r49": 49,
        }
        assert list(contents(table)) == list(contents(table))

    @settings(deadline=None, max_examples=15, suppress_health_check=ONE_STORE)
    @given(
        st.lists(
            st.tuples(st.lists(st.integers(0, 9), max_size=5), st.lists(st.integers(0, 9), max_size=3)),
            max_size=6,
        )
    )
    def test_any_history_ends_in_what_a_dictionary_holds(self, store, history):
        table = store.create(store.home() / "t", SCHEMA)
        expected: dict[str, int] = {}
        for number, (given_ids, gone) in enumerate(history):
            ids, gone_ids = [f"r{i}" for i in given_ids], [f"r{i}" for i in gone]
            table.upsert(rows(ids, width=[number] * len(ids)), remove=gone_ids)
            expected = {id_: width for id_, width in expected.items() if id_ not in gone_ids}
            expected.update(dict.fromkeys(ids, number))
            assert contents(table) == expected
            assert table.count() == len(expected)

    # Versions.

    def test_an_open_reader_sees_its_own_version(self, table, store, home):
        table.upsert(rows(["a", "b"]))
        reader = store.open(home / "records.table")
        version = reader.version
        table.upsert(rows(["c"]), remove=["a"])
        assert (reader.version, set(contents(reader))) == (version, {"a", "b"})
        assert reader.nearest("v", units(1)[0], 9, columns=["id"]).num_rows == 2
        reader.refresh()
        assert set(contents(reader)) == {"b", "c"}
        assert reader.nearest("v", units(1)[0], 9, columns=["id"]).num_rows == 2
        assert set(contents(store.open(home / "records.table", version))) == {"a", "b"}

    def test_nearest_after_every_kind_of_change(self, table):
        vectors = units(4)
        table.upsert(rows(["a", "b"], vectors[:2]))
        assert table.nearest("v", vectors[0], 1, columns=["id"])["id"].to_pylist() == ["a"]
        table.upsert(rows(["a"], vectors[2:3]))
        assert table.nearest("v", vectors[2], 1, columns=["id"])["id"].to_pylist() == ["a"]
        table.delete(["a"])
        assert table.nearest("v", vectors[2], 9, columns=["id"])["id"].to_pylist() == ["b"]

    def test_optimise_after_many_commits_keeps_every_row(self, table, store, home):
        for number in range(40):
            table.upsert(rows([f"r{number}", f"r{number + 1}"], width=[number, number]))
        expected = contents(table)
        assert len(expected) == 41
        reader = store.open(home / "records.table")
        table.optimize([COLUMN])
        assert contents(table) == expected
        assert contents(reader) == expected
        table.upsert(rows(["new"]), remove=["r0"])
        assert set(contents(table)) == (set(expected) | {"new"}) - {"r0"}

    # Search.

    @settings(deadline=None, max_examples=40, suppress_health_check=[*ONE_STORE, HealthCheck.too_slow])
    @given(st.data())
    def test_nearest_is_brute_force(self, store, data):
        count = data.draw(st.integers(1, 40))
        distinct = data.draw(st.integers(1, count))  # fewer vectors than rows: ties
        vectors = units(distinct, seed=count)[np.arange(count) % distinct]
        missing = data.draw(st.sets(st.integers(0, count - 1)))
        least = data.draw(st.none() | st.integers(0, 45))
        k = data.draw(st.integers(1, 50))
        query = data.draw(st.sampled_from([vectors[0], units(1, seed=99)[0], np.zeros(8, np.float32)]))
        table = store.create(store.home() / "t", SCHEMA)
        half = count // 2  # two commits
        content = rows([f"r{i}" for i in range(count)], vectors, missing=sorted(missing))
        table.upsert(content.slice(0, half))
        table.upsert(content.slice(half))

        passing = np.ones(count, bool) if least is None else np.arange(count) >= least
        passing[sorted(missing)] = False
        found = table.nearest(
            "v",
            query,
            k,
            columns=["id", "width"],
            where=None if least is None else Compare("width", ">=", least),
        )
        expected = brute_force(vectors, query, passing, k)
        scores = found[SCORE].to_numpy()
        assert scores.dtype == np.float32
        assert np.allclose(scores, expected, atol=1e-6)
        ids = found["id"].to_pylist()
        assert len(set(ids)) == len(ids) == min(k, passing.sum())
        for id_, width, score in zip(ids, found["width"].to_pylist(), scores, strict=True):
            row = int(id_[1:])
            assert width == row
            assert passing[row]
            assert score == pytest.approx(float(vectors[row] @ query), abs=1e-6)

    def test_ties_keep_the_order_of_the_rows(self, table):
        table.upsert(rows([f"r{i:02}" for i in range(30)], np.repeat(units(1), 30, 0)))
        order = [id_ for batch in table.scan(["id"]) for id_ in batch["id"].to_pylist()]
        for k in (1, 7, 30):
            assert table.nearest("v", units(1)[0], k, columns=["id"])["id"].to_pylist() == order[:k]

    def test_many_rows_in_many_commits_find_the_right_rows(self, table):
        """Rows come back from disk in another order than they were given in."""
        vectors = units(20_000)
        for start in range(0, 20_000, 10_000):
            ids = [f"r{i}" for i in range(start, start + 10_000)]
            table.upsert(rows(ids, vectors[start : start + 10_000]))
        table.delete([f"r{i}" for i in range(0, 20_000, 3)])
        for row in (1, 4_000, 9_998, 10_001, 19_999):
            found = table.nearest("v", vectors[row], 1, columns=["id"])
            assert found["id"].to_pylist() == [f"r{row}"]
            assert found[SCORE][0].as_py() == pytest.approx(1, abs=1e-6)

    @pytest.mark.parametrize(
        "where",
        [
            Compare("nothing", ">", 1),
            Compare("width", ">", "wide"),
            Compare("name", "=", 1),
            Compare("v", ">", 1.0),
            Compare("width", "~", 1),
            Compare("width", "=", Column("name")),
            In("nothing", ()),
            In("width", (1, "a")),
            IsNull("nothing"),
            Like("width", "%"),
            Words("v", ("a",)),
            Not(Or((And(()), IsNull("nothing")))),
        ],
        ids=str,
    )
    def test_a_filter_that_does_not_fit_is_a_query_error(self, table, where):
        table.upsert(rows(["a", "b"]))
        for ask in (
            lambda: table.count(where),
            lambda: list(table.scan(["id"], where)),
            lambda: table.nearest("v", units(1)[0], 2, columns=["id"], where=where),
        ):
            with pytest.raises(QueryError) as caught:
                ask()
            assert "\n" not in str(caught.value)
        assert table.count() == 2

    def test_a_query_of_another_length_is_no_damage(self, table):
        table.upsert(rows(["a"]))
        with pytest.raises(SpaceMismatchError, match="9"):
            table.nearest("v", np.ones(9, np.float32), 1, columns=["id"])

    def test_nobody_is_told_to_delete_an_index_for_a_callers_mistake(self, table, store, home):
        table.upsert(rows(["a"]))
        for wrong in (
            lambda: list(table.scan(["nothing"])),
            lambda: table.nearest("nothing", units(1)[0], 1, columns=["id"]),
            lambda: table.nearest("v", units(1)[0], 1, columns=["nothing"]),
            lambda: store.create(home / "records.table", SCHEMA),
        ):
            with pytest.raises(StoreError) as caught:
                wrong()
            assert not isinstance(caught.value, IndexDamagedError)
            assert "Delete that" not in str(caught.value)

    # Damage.

    def test_missing(self, store, home):
        with pytest.raises(IndexDamagedError):
            store.open(home / "nothing")

    def test_a_version_that_is_gone(self, table, store, home):
        with pytest.raises(IndexDamagedError):
            store.open(home / "records.table", 99)

    @pytest.mark.parametrize("damage", ["gone", "cut", "overwritten", "scrambled"])
    @pytest.mark.parametrize("where", [None, Compare("width", ">", 1)], ids=["all", "some"])
    def test_damaged_data(self, table, store, home, damage, where):
        table.upsert(rows([f"r{i}" for i in range(500)]))
        for path in (home / "records.table" / "data").iterdir():
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
                ask(store.open(home / "records.table"))

    def test_damaged_versions(self, table, store, home):
        table.upsert(rows(["a"]))
        for path in (home / "records.table" / "_versions").iterdir():
            path.write_bytes(b"junk")
        with pytest.raises(IndexDamagedError):
            store.open(home / "records.table")
        for path in (home / "records.table" / "_versions").iterdir():
            path.unlink()
        with pytest.raises(IndexDamagedError):
            store.open(home / "records.table")

    def test_a_place_that_cannot_be_written(self, store):
        with pytest.raises(StoreError) as caught:
            store.create(store.nowhere(), SCHEMA)
        assert not isinstance(caught.value, IndexDamagedError)

    def test_what_is_left_over(self, table, store, home):
        place = str(home / "records.table")
        assert LanceTable.leftover(place) == 0
        assert LanceTable.leftover(str(home / "nothing")) == 0
        table.upsert(rows(["a", "b"]))
        assert LanceTable.leftover(place) == 2
        for path in (home / "records.table" / "_versions").iterdir():
            path.unlink()
        assert LanceTable.leftover(place) is None


WIDE = VectorColumn("v", "features", "image", 32)


def clustered(count: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    centres = units(40, 32, seed=6)
    vectors = centres[rng.integers(0, 40, count)] + 0.15 * rng.normal(size=(count, 32)).astype(np.float32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    vectors = clustered(2000)
    path = tmp_path_factory.mktemp("indexed") / "t.lance"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lance_search, "EXACT_BYTES", 0)
        table = LanceTable.create(path, schema([WIDE]))
        ids = [f"r{i}" for i in range(2000)]
        table.upsert(rows(ids, vectors, missing=range(0, 2000, 50), column=WIDE))
        exact = table.nearest("v", vectors[1], 5, columns=["id"])
        table.optimize([WIDE])
    assert lance_search.has_index(table._dataset, "v")
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
        monkeypatch.setattr(lance_search, "EXACT_BYTES", 0)
        table.optimize([WIDE])
        assert table.count() == 2000
        assert table.nearest("v", fresh[0], 1, columns=["id"])["id"].to_pylist() == ["fresh"]

    @pytest.mark.parametrize("dimensions", [1, 7, 20, 300, 500])
    def test_any_length_of_vector_can_be_indexed(self, tmp_path, monkeypatch, dimensions):
        column = VectorColumn("v", "features", "image", dimensions)
        monkeypatch.setattr(lance_search, "EXACT_BYTES", 0)
        table = LanceTable.create(tmp_path / "t.lance", schema([column]))
        vectors = units(600, dimensions)
        table.upsert(rows([f"r{i}" for i in range(600)], vectors, column=column))
        table.optimize([column])
        found = table.nearest("v", vectors[3], 1, columns=["id"])
        assert found[SCORE][0].as_py() == pytest.approx(1, abs=1e-3)

    def test_hardly_any_vectors(self, tmp_path, monkeypatch):
        monkeypatch.setattr(lance_search, "EXACT_BYTES", 0)
        table = LanceTable.create(tmp_path / "t.lance", SCHEMA)
        table.upsert(rows([f"r{i}" for i in range(600)], missing=range(590)))
        table.optimize([COLUMN])
        assert table.nearest("v", units(1)[0], 20, columns=["id"]).num_rows == 10

    def test_it_prints_nothing(self, tmp_path, monkeypatch, capfd):
        monkeypatch.setattr(lance_search, "EXACT_BYTES", 0)
        table = LanceTable.create(tmp_path / "t.lance", SCHEMA)
        table.upsert(rows([f"r{i}" for i in range(600)]))
        table.optimize([COLUMN])
        assert capfd.readouterr() == ("", "")


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
