"""The contract that every store passes, as one class; the stores are in `stores.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bowerbird.errors import IndexDamagedError, QueryError, SpaceMismatchError, StoreError
from bowerbird.store.filters import (
    And,
    Column,
    Compare,
    Filter,
    In,
    IsNull,
    Like,
    Not,
    Or,
    Words,
    passes,
    words_of,
)
from bowerbird.store.table import SCORE, Table, VectorColumn, schema

COLUMN = VectorColumn("v", "features", "image", 8)
SCHEMA = schema([COLUMN])

ONE_PLACE = [HealthCheck.function_scoped_fixture]  # Each example has a place of its own.


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
    data[column.norm] = pa.array([None if one is None else 1.0 for one in kept], pa.float32())
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


MORE = [
    pa.field("stock", pa.int64()),
    pa.field("price", pa.float64()),
    pa.field("on sale", pa.bool_()),
    pa.field("Größe", pa.string()),
    pa.field("sold", pa.timestamp("us")),
]
TEXTS = [
    None,
    "",
    "a",
    "A b",
    "Straße École",
    "ÉCOLE straße_1",
    "100% a_b\\c",
    "it's",
    "red-shoes\nblue",
    "red shoes",
    "日本 語",
    "\\",
    "a\\%",
]
WHOLE = [None, 0, -1, 2, 255, 2**53 + 1, 2**63 - 1]
REAL = [None, 0.0, -0.0, 0.1, 1.5, 2.0, 1e308, -1e308, float("nan")]
TIMES = [None, datetime(1960, 5, 5, 1, 2, 3), datetime(2020, 1, 1), datetime(2020, 1, 1, 0, 0, 0, 500)]
TRUTHS = [None, True, False]


def things(count: int = 60) -> pa.Table:
    """Rows whose columns hold every kind of value."""
    rng = np.random.default_rng(4)
    made = rows([f"r{i:02}" for i in range(count)])
    drawn = {field.name: rng.integers(0, 999, count) for field in MORE}
    for more, values in zip(MORE, (WHOLE, REAL, TRUTHS, TEXTS, TIMES), strict=True):
        chosen = [values[number % len(values)] for number in drawn[more.name]]
        made = made.append_column(more, pa.array(chosen, more.type))
    texts = pa.array([TEXTS[row % len(TEXTS)] for row in range(count)], pa.string())
    taken = pa.array([TIMES[row % 3] for row in range(count)], pa.timestamp("s"))
    made = made.set_column(made.schema.get_field_index("text"), "text", texts)
    return made.set_column(made.schema.get_field_index("taken_at"), "taken_at", taken)


def _kept(values: Sequence[Any]) -> list[Any]:
    return [value for value in values if value is not None and str(value) != "nan"]


@st.composite
def _conditions(draw: st.DrawFn) -> Filter:
    """A filter without parts. Composite for a short name: Hypothesis writes out what it draws from."""
    operators = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])
    texts = st.sampled_from(_kept(TEXTS))
    columns = {
        "stock": st.sampled_from(_kept(WHOLE)),
        "width": st.integers(-1, 60),
        "price": st.sampled_from(_kept(REAL)),
        "Größe": texts,
        "text": texts,
        "name": texts,
        "sold": st.sampled_from(_kept(TIMES)),
        "taken_at": st.sampled_from(_kept(TIMES)[:2]),
        "on sale": st.booleans(),
    }
    of_texts = st.sampled_from(["Größe", "text", "name"])
    patterns = texts | st.text(alphabet="aA%_\\bé\nÉ", max_size=5)
    words = texts.map(words_of).filter(bool).map(tuple)
    leaves = [
        of_column
        for name, values in columns.items()
        for of_column in (
            st.builds(Compare, st.just(name), operators, values),
            st.builds(In, st.just(name), st.lists(values, max_size=3).map(tuple)),
            st.builds(IsNull, st.just(name)),
        )
    ]
    leaves += [
        st.builds(Like, of_texts, patterns, st.booleans()),
        st.builds(Words, of_texts, words),
        st.builds(Compare, st.just("text"), operators, st.just(Column("Größe"))),
        st.builds(Compare, st.just("stock"), operators, st.just(Column("width"))),
    ]

    return draw(st.one_of(leaves))


def filters() -> st.SearchStrategy[Filter]:
    """Filters such as `where.parse` makes: values are of their column's type."""

    def joined(inner: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
        several = st.lists(inner, max_size=3).map(tuple)
        return st.one_of(st.builds(Not, inner), several.map(And), several.map(Or))

    return st.recursive(_conditions(), joined, max_leaves=5)


def conditions(where: Filter) -> Iterator[Filter]:
    """The parts of a filter that have none themselves."""
    if isinstance(where, Not | And | Or):
        for part in (where.part,) if isinstance(where, Not) else where.parts:
            yield from conditions(part)
    else:
        yield where


class Varied:
    """A table, and what it holds. No dataclass: Hypothesis would write out all of it with an example."""

    def __init__(self, table: Table, held: list[dict[str, Any]]) -> None:
        self.table = table
        self.held = held


@pytest.fixture(scope="module")
def varied(store) -> Varied:
    """A table of things."""
    table = store.create(store.place(), SCHEMA)
    table.extend(MORE)
    made = things()
    table.upsert(made.slice(0, 20))
    table.upsert(made.slice(20))
    return Varied(table, made.to_pylist())


class TestTable:
    @pytest.fixture
    def place(self, store) -> Any:
        return store.place()

    @pytest.fixture
    def table(self, store, place) -> Table:
        return store.create(place, SCHEMA)

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
        assert table.version > before

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
        assert table.version > before
        assert table.delete([]) == 0
        assert table.delete(["not there"]) == 0

    def test_count_and_scan_with_a_filter(self, table, store):
        table.upsert(rows([f"r{i}" for i in range(50)]))
        assert table.count(Compare("width", ">=", 40)) == 10
        told = Like("name", "it's%")
        told = Words("name", ("it",)) if store.refuses(told) else told
        assert contents(table, And((Compare("width", ">=", 48), told))) == {"r48": 48, "r49": 49}
        assert list(contents(table)) == list(contents(table))

    @settings(deadline=None, max_examples=15, suppress_health_check=ONE_PLACE)
    @given(
        st.lists(
            st.tuples(st.lists(st.integers(0, 9), max_size=5), st.lists(st.integers(0, 9), max_size=3)),
            max_size=6,
        )
    )
    def test_any_history_ends_in_what_a_dictionary_holds(self, store, history):
        table = store.create(store.place(), SCHEMA)
        expected: dict[str, int] = {}
        for number, (given_ids, gone) in enumerate(history):
            ids, gone_ids = [f"r{i}" for i in given_ids], [f"r{i}" for i in gone]
            table.upsert(rows(ids, width=[number] * len(ids)), remove=gone_ids)
            expected = {id_: width for id_, width in expected.items() if id_ not in gone_ids}
            expected.update(dict.fromkeys(ids, number))
            assert contents(table) == expected
            assert table.count() == len(expected)

    # Versions.

    def test_a_reader_sees_what_it_opened_or_what_is_newest(self, table, store, place):
        table.upsert(rows(["a", "b"]))
        reader = store.open(place)
        version = reader.version
        table.upsert(rows(["c"]), remove=["a"])
        if store.kind.snapshots:
            assert (reader.version, set(contents(reader))) == (version, {"a", "b"})
            assert reader.nearest("v", units(1)[0], 9, columns=["id"]).num_rows == 2
        reader.refresh()
        assert reader.version > version
        assert set(contents(reader)) == {"b", "c"}
        assert reader.nearest("v", units(1)[0], 9, columns=["id"]).num_rows == 2
        if store.kind.snapshots:
            assert set(contents(store.open(place, version))) == {"a", "b"}

    def test_nearest_after_every_kind_of_change(self, table):
        vectors = units(4)
        table.upsert(rows(["a", "b"], vectors[:2]))
        assert table.nearest("v", vectors[0], 1, columns=["id"])["id"].to_pylist() == ["a"]
        table.upsert(rows(["a"], vectors[2:3]))
        assert table.nearest("v", vectors[2], 1, columns=["id"])["id"].to_pylist() == ["a"]
        table.delete(["a"])
        assert table.nearest("v", vectors[2], 9, columns=["id"])["id"].to_pylist() == ["b"]

    def test_optimise_after_many_commits_keeps_every_row(self, table, store, place):
        for number in range(40):
            table.upsert(rows([f"r{number}", f"r{number + 1}"], width=[number, number]))
        expected = contents(table)
        assert len(expected) == 41
        reader = store.open(place)
        table.optimize([COLUMN])
        assert contents(table) == expected
        assert contents(reader) == expected
        table.upsert(rows(["new"]), remove=["r0"])
        assert set(contents(table)) == (set(expected) | {"new"}) - {"r0"}

    # Search.

    @settings(deadline=None, max_examples=40, suppress_health_check=[*ONE_PLACE, HealthCheck.too_slow])
    @given(st.data())
    def test_nearest_is_brute_force(self, store, data):
        count = data.draw(st.integers(1, 40))
        distinct = data.draw(st.integers(1, count))  # fewer vectors than rows: ties
        vectors = units(distinct, seed=count)[np.arange(count) % distinct]
        missing = data.draw(st.sets(st.integers(0, count - 1)))
        least = data.draw(st.none() | st.integers(0, 45))
        k = data.draw(st.integers(1, 50))
        query = data.draw(st.sampled_from([vectors[0], units(1, seed=99)[0], np.zeros(8, np.float32)]))
        table = store.create(store.place(), SCHEMA)
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

    def test_nobody_is_told_to_delete_an_index_for_a_callers_mistake(self, table, store, place):
        table.upsert(rows(["a"]))
        for wrong in (
            lambda: list(table.scan(["nothing"])),
            lambda: table.nearest("nothing", units(1)[0], 1, columns=["id"]),
            lambda: table.nearest("v", units(1)[0], 1, columns=["nothing"]),
            lambda: store.create(place, SCHEMA),
        ):
            with pytest.raises(StoreError) as caught:
                wrong()
            assert not isinstance(caught.value, IndexDamagedError)
            assert "Delete that" not in str(caught.value)

    # Columns.

    def test_columns_come_and_go(self, table, store, place):
        table.upsert(rows(["a", "b"]))
        table.extend(MORE)
        assert set(table.names) == {*SCHEMA.names, *(field.name for field in MORE)}
        known = {field.name: field.type for field in table.attributes()}
        assert known == {"v": SCHEMA.field("v").type} | {field.name: field.type for field in MORE}
        assert table.count(Not(IsNull("price"))) == 0
        table.update(pa.table({"id": ["b"], "price": [1.5], "Größe": ["XL"]}))
        assert table.count(Compare("price", "=", 1.5)) == 1
        before = table.version
        table.drop(["price", "on sale", "there is no such column"])
        assert table.version > before
        assert not {"price", "on sale"} & set(table.names)
        assert store.open(place).names == table.names
        assert contents(table) == {"a": 0, "b": 1}
        table.extend([pa.field("price", pa.float64())])
        assert table.count(IsNull("price")) == 2

    def test_a_column_of_vectors_can_be_dropped_and_filled_again(self, table):
        table.upsert(rows(["a", "b", "c"]))
        table.nearest("v", units(1)[0], 1, columns=["id"])
        table.drop([COLUMN.name, COLUMN.norm])
        assert contents(table) == {"a": 0, "b": 1, "c": 2}
        table.extend([SCHEMA.field(COLUMN.name), SCHEMA.field(COLUMN.norm)])
        assert table.nearest("v", units(1)[0], 9, columns=["id"]).num_rows == 0
        vectors = units(2, seed=3)
        made = pa.array(vectors.tolist(), SCHEMA.field(COLUMN.name).type)
        lengths = pa.array([1.0, 1.0], pa.float32())
        table.update(pa.table({"id": ["c", "a"], COLUMN.name: made, COLUMN.norm: lengths}))
        for vector, id_ in zip(vectors, ["c", "a"], strict=True):
            found = table.nearest("v", vector, 3, columns=["id"])
            assert found["id"].to_pylist()[0] == id_
            assert found.num_rows == 2

    def test_update_replaces_what_it_is_given_and_nothing_else(self, table):
        vectors = units(4)
        table.upsert(rows(["a", "b", "c", "d"], vectors))
        before = table.version
        table.update(pa.table({"id": ["c", "not there", "a"], "width": pa.array([7, 8, None], pa.int32())}))
        assert table.version > before
        assert contents(table) == {"a": None, "b": 1, "c": 7, "d": 3}
        found = table.nearest("v", vectors[2], 1, columns=["id", "name", "width"])
        assert found.select(["id", "name", "width"]).to_pylist() == [
            {"id": "c", "name": "it's c", "width": 7}
        ]

    def test_of_several_updates_of_one_row_the_last_counts(self, table):
        table.upsert(rows(["a"]))
        table.update(pa.table({"id": ["a", "a"], "width": pa.array([1, 2], pa.int32())}))
        assert contents(table) == {"a": 2}

    def test_updates_of_nothing(self, table):
        table.upsert(rows(["a"]))
        table.update(pa.table({"id": pa.array([], pa.string()), "width": pa.array([], pa.int32())}))
        table.update(pa.table({"id": ["b"], "width": pa.array([1], pa.int32())}))
        assert contents(table) == {"a": 0}

    # Samples.

    def test_samples_are_rows_drawn_once(self, table):
        table.upsert(rows([f"r{i}" for i in range(200)]))
        drawn = [table.sample(["id", "width"], 50, seed=seed) for seed in (0, 0, 1)]
        ids = [sample["id"].to_pylist() for sample in drawn]
        assert ids[0] == ids[1]
        assert set(ids[0]) != set(ids[2])
        for sample in drawn:
            assert len(set(sample["id"].to_pylist())) == 50
            assert [f"r{width}" for width in sample["width"].to_pylist()] == sample["id"].to_pylist()

    def test_samples_of_what_passes_a_filter(self, table):
        table.upsert(rows([f"r{i}" for i in range(200)]))
        some = table.sample(["width"], 5, where=Compare("width", ">=", 190))["width"].to_pylist()
        assert len(set(some)) == 5
        assert min(some) >= 190
        assert table.sample(["id"], 50, where=Compare("width", ">=", 190)).num_rows == 10
        assert table.sample(["id"], 5, where=IsNull("width")).num_rows == 0
        assert table.sample(["id"], 999).num_rows == 200

    def test_every_row_is_as_likely_in_a_sample(self, table):
        table.upsert(rows([f"r{i}" for i in range(40)]))
        drawn = [id_ for seed in range(40) for id_ in table.sample(["id"], 10, seed=seed)["id"].to_pylist()]
        assert len(set(drawn)) == 40  # the chance to miss one is 40 * .75 ** 40 = .0004
        assert table.sample(["id"], 0).num_rows == 0

    # Filters.

    @settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
    @given(filters())
    def test_filters_are_what_the_reference_says(self, store, varied, where):
        table, held = varied.table, varied.held
        if any(map(store.refuses, conditions(where))):
            with pytest.raises(QueryError):
                table.count(where)
            return
        expected = {row["id"] for row in held if passes(where, row)}
        assert set(contents(table, where)) == expected
        assert table.count(where) == len(expected)

    @pytest.mark.parametrize(
        "where", [Like("name", "%"), Compare("text", "=", Column("name")), Words("text", ("red",))], ids=str
    )
    def test_what_a_store_cannot_ask_it_refuses(self, store, varied, where):
        if store.refuses(where):
            with pytest.raises(QueryError):
                varied.table.count(where)
        else:
            assert varied.table.count(where) == sum(passes(where, row) for row in varied.held)

    def test_filters_apply_to_every_way_of_asking(self, varied):
        table, held = varied.table, varied.held
        where = And((Words("text", ("red", "shoes")), Compare("width", ">", 30)))
        expected = sorted(row["id"] for row in held if passes(where, row))
        assert expected
        for found in (
            table.nearest("v", units(1)[0], 60, columns=["id"], where=where),
            table.words("red blue", 60, columns=["id"], where=where),
            table.sample(["id"], 60, where=where),
        ):
            assert sorted(found["id"].to_pylist()) == expected

    @pytest.mark.parametrize(
        "where",
        [
            Or(
                (Not(In("stock", (0, 2))), Not(In("stock", (-1, 255))))
            ),  # Lance's planner takes this for true
            Not(And((In("stock", (0, 2)), In("stock", (-1, 255))))),
            Not(Compare("stock", "=", 0)),
            Or((IsNull("stock"), Not(IsNull("stock")))),
            Not(In("stock", ())),
        ],
        ids=str,
    )
    def test_what_is_unknown_does_not_pass(self, varied, where):
        assert varied.table.count(where) == sum(passes(where, row) for row in varied.held)

    def test_hundreds_of_conditions(self, varied):
        table, held = varied.table, varied.held
        several = Or(tuple(Compare("name", "=", f"it's r{i:02}") for i in range(300)))
        assert table.count(several) == len(held)
        assert table.count(In("id", tuple(f"r{i:02}" for i in range(30, 5000)))) == 30

    # Pages.

    @pytest.mark.parametrize("centred", [False, True])
    def test_a_page_is_the_beginning_of_a_larger_one(self, store, centred):
        table = store.create(store.place(), SCHEMA)
        vectors = units(30)[np.random.default_rng(1).integers(0, 30, 400)]  # many ties
        table.upsert(rows([f"r{i}" for i in range(200)], vectors[:200]))
        table.upsert(rows([f"r{i}" for i in range(200, 400)], vectors[200:]))
        centre = vectors.mean(0) if centred else None
        query = units(1, seed=4)[0]
        whole = table.nearest("v", query, 1_000_000, columns=["id"], centre=centre)
        assert whole.num_rows == 400
        for k in (1, 2, 10, 63, 64, 65, 300, 399):
            page = table.nearest("v", query, k, columns=["id"], centre=centre)
            assert page["id"].to_pylist() == whole["id"].to_pylist()[:k]

    # Centres.

    @settings(deadline=None, max_examples=25, suppress_health_check=[*ONE_PLACE, HealthCheck.too_slow])
    @given(st.data())
    def test_centred_scores_are_dot_products_from_there(self, store, data):
        count = data.draw(st.integers(1, 40))
        vectors = units(count, seed=count)
        missing = sorted(data.draw(st.sets(st.integers(0, count - 1))))
        least = data.draw(st.none() | st.integers(0, 45))
        centre = data.draw(st.sampled_from([vectors.mean(0), vectors[0], np.zeros(8, np.float32)]))
        k = data.draw(st.integers(1, 50))
        query = units(1, seed=99)[0]
        table = store.create(store.place(), SCHEMA)
        table.upsert(rows([f"r{i}" for i in range(count)], vectors, missing=missing))
        where = None if least is None else Compare("width", ">=", least)
        found = table.nearest("v", query, k, columns=["id"], where=where, centre=centre)

        away = vectors - centre
        lengths = np.linalg.norm(away, axis=1, keepdims=True)
        away = np.divide(away, lengths, out=np.zeros_like(away), where=lengths > 1e-6)
        passing = np.ones(count, bool) if least is None else np.arange(count) >= least
        passing[missing] = False
        assert np.allclose(found[SCORE].to_numpy(), brute_force(away, query, passing, k), atol=2e-5)
        for id_, score in zip(found["id"].to_pylist(), found[SCORE].to_pylist(), strict=True):
            assert score == pytest.approx(float(away[int(id_[1:])] @ query), abs=2e-5)

    def test_a_centre_of_another_length(self, table):
        table.upsert(rows(["a"]))
        with pytest.raises(SpaceMismatchError, match="9"):
            table.nearest("v", units(1)[0], 1, columns=["id"], centre=np.ones(9, np.float32))

    def test_exact_is_the_same_in_a_small_table(self, table):
        table.upsert(rows([f"r{i}" for i in range(100)]))
        for centre in (None, units(100).mean(0)):
            ways = [
                table.nearest("v", units(1)[0], 20, columns=["id"], centre=centre, exact=exact)
                for exact in (False, True)
            ]
            assert ways[0]["id"].to_pylist() == ways[1]["id"].to_pylist()
            assert np.allclose(ways[0][SCORE].to_numpy(), ways[1][SCORE].to_numpy(), atol=1e-6)

    # Words.

    SAID = ("a red dress", "Red shoes, red hat", "blue_dress", "École de la Straße", "", None, "dress " * 20)

    def _said(self, table: Table) -> None:
        made = rows([f"r{i}" for i in range(len(self.SAID))])
        texts = pa.array(self.SAID, pa.string())
        table.upsert(made.set_column(made.schema.get_field_index("text"), "text", texts))

    @pytest.mark.parametrize("tidied", [False, True])
    @pytest.mark.parametrize(
        ("asked", "expected"),
        [
            ("red", {"r0", "r1"}),
            ("RED dress", {"r0", "r1", "r6"}),
            ("école", {"r3"}),
            ("ecole", set()),
            ("STRASSE", set()),
            ("straße", {"r3"}),
            ("blue", set()),
            ("blue_dress", {"r2"}),
            ("the nothing", set()),
            ("a de la", {"r0", "r3"}),  # no word is too common
            ("shoe", set()),
            ("red AND nothing", {"r0", "r1"}),
            ('"red hat', {"r0", "r1"}),
            ("--", set()),
            ("", set()),
        ],
    )
    def test_words_find_the_rows_that_have_one(self, table, tidied, asked, expected):
        self._said(table)
        if tidied:
            table.optimize([COLUMN])
        found = table.words(asked, 50, columns=["id", "text"])
        assert set(found["id"].to_pylist()) == expected
        assert len(found) == len(expected)
        scores = found[SCORE].to_numpy()
        assert scores.dtype == np.float32
        assert np.all(scores > 0)
        assert np.all(np.diff(scores) <= 0)

    @pytest.mark.parametrize("tidied", [False, True])
    def test_words_that_are_rare_and_texts_that_are_short_count_more(self, table, tidied):
        self._said(table)
        if tidied:
            table.optimize([COLUMN])
        assert table.words("red shoes", 9, columns=["id"])["id"].to_pylist() == ["r1", "r0"]
        assert table.words("dress", 9, columns=["id"])["id"].to_pylist()[0] in ("r0", "r6")
        assert table.words("red hat", 9, columns=["id"], where=Compare("id", "!=", "r1"))[
            "id"
        ].to_pylist() == ["r0"]

    def test_words_of_rows_that_came_or_went_after_tidying_up(self, table):
        self._said(table)
        table.optimize([COLUMN])
        made = rows(["new", "r0"])
        texts = pa.array(["a green dress", "nothing"], pa.string())
        table.upsert(made.set_column(made.schema.get_field_index("text"), "text", texts), remove=["r1"])
        assert table.words("green", 9, columns=["id"])["id"].to_pylist() == ["new"]
        assert set(table.words("dress red", 9, columns=["id"])["id"].to_pylist()) == {"new", "r6"}
        for where, expected in ((Compare("id", "=", "new"), ["new"]), (Compare("id", "!=", "new"), ["r6"])):
            assert table.words("dress", 9, columns=["id"], where=where)["id"].to_pylist() == expected
        table.update(pa.table({"id": ["r6"], "text": ["a hat"]}))
        assert set(table.words("dress hat", 9, columns=["id"])["id"].to_pylist()) == {"new", "r6"}
        assert table.words("a hat", 1, columns=["id"])["id"].to_pylist() == ["r6"]

    @pytest.mark.parametrize("tidied", [False, True])
    def test_pages_of_words(self, table, tidied):
        rng = np.random.default_rng(2)
        said = [
            " ".join(rng.choice(["red", "dress", "hat", "of", "silk"], 1 + row % 3)) for row in range(500)
        ]
        made = rows([f"r{i}" for i in range(500)])
        table.upsert(
            made.set_column(made.schema.get_field_index("text"), "text", pa.array(said, pa.string()))
        )
        if tidied:
            table.optimize([COLUMN])
        whole = table.words("red silk", 1_000_000, columns=["id", "text"])
        assert whole.num_rows == sum(bool({"red", "silk"} & set(text.split())) for text in said)
        for k in (1, 5, 64, 100, 200):
            page = table.words("red silk", k, columns=["id"])
            assert page["id"].to_pylist() == whole["id"].to_pylist()[:k]
