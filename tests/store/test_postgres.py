"""PostgreSQL as a store: what only it has. What every store does is in `test_table.py`."""

from __future__ import annotations

import math
import multiprocessing
import pickle
import threading
import time
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.store.postgres_server import Server, serving

from bowerbird.errors import (
    IndexBusyError,
    IndexDamagedError,
    IndexReadOnlyError,
    MissingExtraError,
    SpaceMismatchError,
    StoreError,
)
from bowerbird.store import postgres_search, postgres_session
from bowerbird.store.filters import And, Compare, In, IsNull, Like, Not, Words, passes, words_of
from bowerbird.store.location import Location
from bowerbird.store.opening import create_table, leftover, open_table, remove_table
from bowerbird.store.postgres_address import Address
from bowerbird.store.postgres_types import column_name
from bowerbird.store.table import SCORE, Table, VectorColumn, schema

psycopg = pytest.importorskip("psycopg")

WIDE = VectorColumn("m__v", "features", "image", 32)
SAME_DATABASE = [HealthCheck.function_scoped_fixture]


@pytest.fixture
def server(postgres_server) -> Server:
    return postgres_server


@pytest.fixture
def database(server) -> str:
    return server.database()


@pytest.fixture
def uri(server, database) -> str:
    return server.uri(database, table="photos")


def made(uri: str, fields: pa.Schema) -> Table:
    place = Location.of(uri)
    place.prepare()
    return create_table(place, fields)


def of_ids(ids: list[str], **columns: pa.Array) -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.string()), **columns})


def units(count: int, dim: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def vectors_of(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def everything(table: Table) -> pa.Table:
    batches = list(table.scan(table.names))
    return pa.Table.from_batches(batches, schema=table.fields) if batches else table.fields.empty_table()


class TestAddress:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("postgresql://me@host/db?table=t", "postgresql://me@host/db?table=t"),
            ("postgres://me:pa55@host:5433/db?table=t", "postgresql://me@host:5433/db?table=t"),
            ("postgresql:///db?host=/tmp/x&table=t", "postgresql:///db?host=/tmp/x&table=t"),
            ("POSTGRES://h/db?table=t&schema=s&sslmode=require", "postgresql://h/db?sslmode=require&table=t&schema=s"),
            ("postgresql://me:p%40ss%2F@h/db?table=t", "postgresql://me@h/db?table=t"),
            ("postgresql://me@h/db?table=t&password=pa55", "postgresql://me@h/db?table=t"),
            ("postgresql://h/db?table=Mine%20%26%20yours", "postgresql://h/db?table=Mine%20%26%20yours"),
        ],
    )  # fmt: skip
    def test_what_is_shown_has_no_password_and_can_be_read_again(self, text, shown):
        place = Location.of(text)
        assert str(place) == shown
        assert str(Location.of(shown)) == shown
        assert "pa55" not in repr(place)
        assert "p%40ss" not in repr(place)

    def test_the_password_reaches_the_server(self):
        address = Address.of("postgresql://me:p%40ss@h/db?table=t&sslmode=disable")
        assert psycopg.conninfo.conninfo_to_dict(address.uri)["password"] == "p@ss"
        assert address.without_secret("it is p@ss or p%40ss") == "it is *** or ***"

    @pytest.mark.parametrize(
        "text",
        [
            "postgresql://h/db",
            "postgresql://h/db?table=",
            f"postgresql://h/db?table={'x' * 64}",
            "postgresql://h/db?table=bowerbird_tables",
            "postgresql://h/db?table=t&schema=bowerbird_x",
            "postgresql://[h/db?table=t",
            "postgresql://h/db?table=a%00b",
        ],
    )
    def test_addresses_that_cannot_be(self, text):
        with pytest.raises(StoreError) as caught:
            Location.of(text)
        assert caught.value.hint

    def test_odd_tables_and_schemas(self, server, database):
        for number, name in enumerate(['a "b" %s', "日本", "SELECT", "x" * 63, "it's", "a.b", "{0}"]):
            uri = str(Address.of(server.uri(database, table="t", schema=f"s{number}")).shown)
            place = Location.of(uri.replace("table=t", f"table={_quoted(name)}").replace("s0", "Sch%25ema"))
            place.prepare()
            table = create_table(place, schema((WIDE,)))
            table.upsert(of_ids(["a"]))
            place.replace("manifest.json", b"{}")
            assert open_table(Location.of(str(place))).count() == 1
            assert Location.of(str(place)).read_bytes("manifest.json") == b"{}"


def _quoted(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")


INSTANT = datetime(2024, 5, 31, 12, 30, 15, 123456)
TYPES = {
    "int8": (pa.int8(), [1, -128, 127]),
    "int64": (pa.int64(), [2**63 - 1, -(2**63), 0]),
    "uint32": (pa.uint32(), [2**32 - 1, 0, 7]),
    "uint64": (pa.uint64(), [2**64 - 1, 0, 7]),
    "float": (pa.float32(), [0.1, math.inf, -0.0]),
    "double": (pa.float64(), [0.1, 5e-324, -math.inf]),
    "bool": (pa.bool_(), [True, False, True]),
    "string": (pa.string(), ["", "日本 \U0001f600", "it's \\ % \n"]),
    "large_string": (pa.large_string(), ["a", "b", "c"]),
    "binary": (pa.binary(), [b"", b"\0\xff", b"x"]),
    "date": (pa.date32(), [date(1, 1, 1), date(9999, 12, 31), date(2024, 2, 29)]),
    "timestamp_s": (pa.timestamp("s"), [INSTANT.replace(microsecond=0)] * 3),
    "timestamp_us": (pa.timestamp("us"), [INSTANT, datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59)]),
    "timestamp_ns": (pa.timestamp("ns"), [INSTANT, INSTANT, INSTANT]),
    "timestamp_utc": (pa.timestamp("us", "UTC"), [INSTANT.replace(tzinfo=timezone.utc)] * 3),
    "timestamp_zone": (
        pa.timestamp("us", "Europe/Vienna"),
        [INSTANT.replace(tzinfo=timezone(timedelta(hours=5)))] * 3,
    ),
    "decimal": (pa.decimal128(10, 2), [Decimal("12345678.90"), Decimal("-0.01"), Decimal("0.00")]),
    "null": (pa.null(), [None, None, None]),
}


class TestTypes:
    @pytest.mark.parametrize("name", TYPES)
    def test_every_type_comes_back_as_it_was(self, uri, name):
        type_, values = TYPES[name]
        table = made(uri, schema((WIDE,)))
        table.extend([pa.field("x", type_)])
        given = pa.array([*values, None], type_)
        table.upsert(of_ids(["a", "b", "c", "d"], x=given))
        again = open_table(Location.of(uri))
        assert again.fields.field("x").type == type_
        assert everything(again)["x"].combine_chunks().equals(given)

    def test_vectors_come_back_bit_for_bit(self, uri):
        table = made(uri, schema((WIDE,)))
        values = np.random.default_rng(0).integers(0, 2**32, (50, 32), np.uint32).view(np.float32)
        values = np.where(np.isfinite(values), values, np.float32(0.1))
        table.upsert(of_ids([f"r{n:02}" for n in range(50)], m__v=vectors_of(values)))
        found = everything(table)["m__v"].combine_chunks().flatten().to_numpy()
        assert found.tobytes() == values.tobytes()

    def test_a_nan_is_kept_and_is_no_value_to_filters(self, uri):
        table = made(uri, schema((WIDE,)))
        table.extend([pa.field("x", pa.float64())])
        table.upsert(of_ids(["a", "b"], x=pa.array([math.nan, 1.0])))
        assert math.isnan(everything(table)["x"][0].as_py())
        assert table.count(Compare("x", ">", 0.5)) == 1
        assert table.count(IsNull("x")) == 1

    def test_nul_becomes_the_replacement_character_everywhere(self, uri, caplog):
        table = made(uri, schema((WIDE,)))
        table.upsert(of_ids(["a\0b"], text=pa.array(["red\0hat"])))
        assert everything(table)["text"].to_pylist() == ["red\N{REPLACEMENT CHARACTER}hat"]
        assert "NUL" in caplog.text
        assert table.count(Compare("id", "=", "a\0b")) == 1
        assert table.delete(["a\0b"]) == 1
        table.upsert(of_ids(["c\0", "c\N{REPLACEMENT CHARACTER}"]))
        assert table.count() == 1

    def test_a_time_finer_than_a_microsecond_is_refused_and_nothing_changes(self, uri):
        table = made(uri, schema((WIDE,)))
        table.extend([pa.field("x", pa.timestamp("ns"))])
        version = table.version
        with pytest.raises(StoreError, match="microsecond"):
            table.upsert(of_ids(["a"], x=pa.array([1], pa.timestamp("ns"))))
        assert (table.count(), table.version) == (0, version)

    def test_columns_of_numbers_become_wider(self, uri):
        table = made(uri, schema((WIDE,)))
        table.extend([pa.field("n", pa.int64()), pa.field("m", pa.null())])
        table.upsert(of_ids(["a", "b"], n=pa.array([1, None], pa.int64())))
        table.extend([], [pa.field("n", pa.float64()), pa.field("m", pa.string())])
        table.upsert(of_ids(["c"], n=pa.array([0.5]), m=pa.array(["x"])))
        found = everything(open_table(Location.of(uri)))
        assert found["n"].to_pylist() == [1.0, None, 0.5]
        assert found["m"].to_pylist() == [None, None, "x"]

    def test_a_type_without_a_column_is_refused_by_name(self, uri):
        table = made(uri, schema((WIDE,)))
        with pytest.raises(StoreError, match="lists"):
            table.extend([pa.field("lists", pa.list_(pa.int64()))])
        with pytest.raises(StoreError, match="20,000 dimensions"):
            table.extend([pa.field("long", pa.list_(pa.float32(), 20_000))])
        assert open_table(Location.of(uri)).names == table.names

    def test_names_that_postgresql_does_not_take(self, uri, server, database):
        """Longer than 63 bytes, of its own columns, with signs that mean something to it."""
        long = "x" * 70
        names = [
            long,
            long + "y",
            "xmin",
            "ctid",
            "bowerbird_row",
            'a"b',
            "100%",
            "%s",
            "a{0}b",
            "Text",
            "日" * 30,
        ]
        table = made(uri, schema((WIDE,)))
        table.extend([pa.field(name, pa.int64()) for name in names])
        table.upsert(of_ids(["a"], **{name: pa.array([n]) for n, name in enumerate(names)}))
        again = open_table(Location.of(uri))
        assert again.attributes().names == names
        for number, name in enumerate(names):
            assert again.count(Compare(name, "=", number)) == 1
            assert [b[name].to_pylist() for b in again.scan([name])] == [[number]]
        again.drop(names[:4])
        assert open_table(Location.of(uri)).attributes().names == names[4:]
        # Other software finds the columns under these names.
        ordinary = server.run('SELECT "100%", "Text" FROM photos', database)
        assert ordinary == [(names.index("100%"), names.index("Text"))]

    @given(st.text())
    def test_names_of_columns_fit_and_differ(self, name):
        found = column_name(name)
        assert 0 < len(found.encode()) <= 63
        assert column_name(name + "\N{SNOWMAN}" * 40) != found


class TestFilters:
    """What differs between servers and locales; the contract test has the rest."""

    TEXTS = (
        "Ärger",
        "ÄRGER mit_dem wi-fi",
        "straße",
        "K und Σ",
        "x²y",
        "a\nb",
        "100%",
        "back\\slash",
        "日本語 テスト",
        "",
    )

    @pytest.fixture
    def table(self, uri) -> Table:
        table = made(uri, schema((WIDE,)))
        table.extend([pa.field("note", pa.string())])
        ids = [f"r{n}" for n in range(len(self.TEXTS))]
        texts = pa.array(self.TEXTS)
        table.upsert(of_ids(ids, note=texts, text=texts))
        return table

    @pytest.mark.parametrize("column", ["note", "text"])
    @pytest.mark.parametrize(
        "text", ["ärger", "wi fi", "mit_dem", "k", "σ", "x²y", "straße", "テスト", "日本語", "b a", "slash"]
    )
    def test_words_are_python_s(self, table, column, text):
        where = Words(column, tuple(words_of(text)))
        rows = everything(table).to_pylist()
        assert table.count(where) == sum(passes(where, row) for row in rows)
        assert table.count(where) > 0

    @pytest.mark.parametrize(
        "pattern", ["ÄR%", "%wi_fi", "100\\%", "100%", "back\\slash", "%\\", "A_B", "k und σ", "_", "%", ""]
    )
    @pytest.mark.parametrize("ignore", [True, False], ids=["ilike", "like"])
    def test_patterns_are_the_reference_s(self, table, pattern, ignore):
        where = Like("note", pattern, ignore)
        rows = everything(table).to_pylist()
        assert table.count(where) == sum(passes(where, row) for row in rows)

    def test_texts_compare_by_code_points(self, table):
        where = Compare("note", "<", "straße")
        assert table.count(where) == sum(text < "straße" for text in self.TEXTS)

    def test_many_values(self, table):
        assert table.count(In("id", tuple(f"r{n}" for n in range(100_000)))) == len(self.TEXTS)


def reference_scores(texts: list[str], query: str) -> dict[int, float]:
    """BM25, written down anew."""
    documents = [words_of(text) for text in texts]
    mean = sum(map(len, documents)) / len(documents)
    scores: dict[int, float] = {}
    for word in set(words_of(query)):
        held = sum(word in document for document in documents)
        idf = math.log(1 + (len(documents) - held + 0.5) / (held + 0.5))
        for row, document in enumerate(documents):
            times = document.count(word)
            if times:
                part = idf * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * len(document) / mean))
                scores[row] = scores.get(row, 0) + part
    return scores


class TestWords:
    @settings(deadline=None, max_examples=15, suppress_health_check=SAME_DATABASE)
    @given(
        st.lists(st.text("abc _-.,ÄäKé", max_size=20), min_size=1, max_size=12),
        st.text("abcÄk _-", max_size=8),
    )
    def test_scores_are_bm25_after_every_kind_of_change(self, server, texts, query):
        table = made(server.uri("postgres", table=f"words{next(server.numbers)}"), schema((WIDE,)))
        ids = [f"r{n:02}" for n in range(len(texts))]
        table.upsert(of_ids([*ids, "gone"], text=pa.array([*texts[::-1], "a b c"])))
        table.upsert(of_ids(ids, text=pa.array(texts)), remove=["gone"])
        table.update(of_ids(ids[:1], text=pa.array(["something else"])))
        table.update(of_ids([ids[0], "never there"], text=pa.array([texts[0], "a a a"])))
        found = table.words(query, 50, columns=["id"])
        expected = reference_scores(texts, query)
        got = dict(zip(found["id"].to_pylist(), found[SCORE].to_pylist(), strict=True))
        assert got == {ids[row]: pytest.approx(score, rel=1e-5) for row, score in expected.items()}
        remove_table(Location.of(server.uri("postgres", table=table._session.address.table)))


@pytest.fixture(scope="module")
def indexed(postgres_server):
    """2,000 rows with an HNSW index, and their vectors; every fiftieth has none."""
    rng = np.random.default_rng(5)
    centres = units(40, 32, seed=6)
    values = centres[rng.integers(0, 40, 2000)] + 0.15 * rng.normal(size=(2000, 32)).astype(np.float32)
    values = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
    missing = pa.array(np.arange(2000) % 50 == 0)
    uri = postgres_server.uri(postgres_server.database(), table="indexed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postgres_search, "EXACT_ROWS", 100)
        patch.setattr("bowerbird.store.postgres.EXACT_ROWS", 100)
        table = made(uri, schema((WIDE,)))
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 32, mask=missing)
        width = pa.array(range(2000), pa.int32())
        table.upsert(of_ids([f"r{n}" for n in range(2000)], m__v=column, width=width))
        table.optimize([WIDE])
        yield table, values


class TestVectorIndex:
    @pytest.mark.parametrize("least", [0, 1500, 1990])
    @pytest.mark.parametrize("centred", [False, True])
    def test_recall_and_filters(self, indexed, least, centred):
        table, values = indexed
        passing = (np.arange(2000) >= least) & (np.arange(2000) % 50 != 0)
        centre = values.mean(0) if centred else None
        rows = values if centre is None else values - centre
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        recalled = []
        for query in units(30, 32, seed=8):
            found = table.nearest(
                "m__v", query, 10, columns=["id"], centre=centre,
                where=Compare("width", ">=", least) if least else None,
            )  # fmt: skip
            got = [int(id_[1:]) for id_ in found["id"].to_pylist()]
            assert all(passing[row] for row in got)
            assert np.allclose(found[SCORE].to_numpy(), rows[got] @ query, atol=1e-5)
            true = np.argsort(-np.where(passing, rows @ query, -np.inf))[: min(10, passing.sum())]
            recalled.append(len(set(got) & set(true.tolist())) / len(true))
        assert np.mean(recalled) >= 0.97

    def test_the_index_is_used_unless_everything_is_to_be_compared(self, indexed, server):
        table, values = indexed
        before = _scans(table)
        table.nearest("m__v", values[1], 5, columns=["id"], exact=True)
        assert _scans(table) == before
        table.nearest("m__v", values[1], 5, columns=["id"])
        assert _scans(table) > before

    def test_what_is_found_for_fewer_begins_what_is_found_for_more(self, indexed):
        table, values = indexed
        whole = table.nearest("m__v", values[7], 300, columns=["id"])["id"].to_pylist()
        assert len(whole) == 300
        for k in (1, 10, 60, 64):
            assert table.nearest("m__v", values[7], k, columns=["id"])["id"].to_pylist() == whole[:k]

    @pytest.mark.parametrize("dimensions", [1, 2000, 2001, 4000, 4001])
    def test_any_length_of_vector(self, uri, monkeypatch, dimensions):
        monkeypatch.setattr("bowerbird.store.postgres.EXACT_ROWS", 20)
        column = VectorColumn("m__v", "features", "image", dimensions)
        table = made(uri, schema((column,)))
        values = units(60, dimensions)
        table.upsert(of_ids([f"r{n}" for n in range(60)], m__v=vectors_of(values)))
        table.optimize([column])
        found = table.nearest("m__v", values[3], 60, columns=["id"])
        assert np.allclose(found[SCORE].to_numpy(), np.sort(values @ values[3])[::-1], atol=1e-5)

    def test_a_centre_of_another_length(self, indexed):
        table, values = indexed
        with pytest.raises(SpaceMismatchError, match="centre"):
            table.nearest("m__v", values[1], 5, columns=["id"], centre=np.ones(3, np.float32))


def _scans(table: Table) -> int:
    """How often the server has scanned the vector index, by its own count."""
    with table._session.connection() as connection:
        connection.execute("SELECT pg_stat_force_next_flush()")
        time.sleep(0.05)
        connection.execute("SELECT pg_stat_clear_snapshot()")
        query = "SELECT sum(idx_scan)::int FROM pg_stat_user_indexes WHERE indexrelname LIKE '%hnsw'"
        return int(connection.execute(query).fetchone()[0])


class TestSample:
    def test_a_draw_is_fair_and_depends_on_the_seed_alone(self, uri):
        table = made(uri, schema((WIDE,)))
        table.upsert(of_ids([f"r{n}" for n in range(3000)], width=pa.array(range(3000), pa.int32())))
        table.delete([f"r{n}" for n in range(0, 3000, 2)])
        drawn = [table.sample(["width"], 20, seed=seed)["width"].to_pylist() for seed in range(60)]
        assert drawn[0] == open_table(Location.of(uri)).sample(["width"], 20, seed=0)["width"].to_pylist()
        assert all(len(set(one)) == 20 and all(n % 2 for n in one) for one in drawn)
        # 1,200 draws of uniform numbers: their mean is 1,500 give or take 25.
        assert abs(np.mean(drawn) - 1500) < 125

    def test_a_filter_that_few_pass(self, uri):
        table = made(uri, schema((WIDE,)))
        table.upsert(of_ids([f"r{n}" for n in range(5000)], width=pa.array(range(5000), pa.int32())))
        few = And((Compare("width", ">=", 100), Compare("width", "<", 103)))
        assert sorted(table.sample(["width"], 10, where=few)["width"].to_pylist()) == [100, 101, 102]
        assert table.sample(["id"], 10, where=Not(IsNull("width")), seed=1).num_rows == 10
        assert table.sample(["id"], 10, where=IsNull("width")).num_rows == 0


class TestPlace:
    def test_files(self, uri):
        place = Location.of(uri)
        assert (place.names(), place.read_bytes("a"), place.exists("a"), place.size()) == (
            [],
            None,
            False,
            None,
        )
        place.remove("a")
        place.prepare()
        place.prepare()
        place.replace("a", b"1")
        place.replace("a", b"\0\xff")
        place.replace("b", b"")
        assert (place.names(), place.read_bytes("a"), place.read_bytes("b")) == (["a", "b"], b"\0\xff", b"")
        place.remove("a")
        assert place.names() == ["b"]

    def test_two_tables_of_a_database_do_not_meet(self, server, database):
        one, two = (Location.of(server.uri(database, table=name)) for name in ("one", "two"))
        for place in (one, two):
            place.prepare()
            place.replace("a", str(place).encode())
            create_table(place, schema((WIDE,))).upsert(of_ids([str(place)]))
        assert one.read_bytes("a") == str(one).encode()
        assert everything(open_table(two))["id"].to_pylist() == [str(two)]
        with one.lock(0), two.lock(0):
            pass

    def test_the_lock_is_held_against_others_and_freed(self, uri):
        place, other = Location.of(uri), Location.of(uri)
        place.prepare()
        with place.lock(1) as held:
            held.check()
            start = time.monotonic()
            with pytest.raises(IndexBusyError, match=r"waited 0\.5 seconds"), other.lock(0.5):
                pass
            assert 0.4 < time.monotonic() - start < 3
        with other.lock(0):
            pass

    def test_the_lock_is_free_when_its_holder_is_killed(self, uri):
        place = Location.of(uri)
        place.prepare()
        context = multiprocessing.get_context("spawn")
        ready = context.Event()
        holder = context.Process(target=_hold, args=(uri, ready))
        holder.start()
        try:
            assert ready.wait(60)
            with pytest.raises(IndexBusyError), place.lock(0):
                pass
        finally:
            holder.kill()
            holder.join()
        with place.lock(10):
            pass

    def test_a_table_of_something_else_is_left_alone(self, server, database, uri):
        server.run("CREATE TABLE photos (id int); INSERT INTO photos VALUES (1)", database)
        with pytest.raises(StoreError, match="something else"):
            Location.of(uri).prepare()
        remove_table(Location.of(uri))
        assert server.run("SELECT * FROM photos", database) == [(1,)]

    def test_a_dropped_table_is_a_deleted_index(self, server, database, uri):
        place = Location.of(uri)
        made(uri, schema((WIDE,))).upsert(of_ids(["a"]))
        place.replace("manifest.json", b"{}")
        assert leftover(place) == 1
        server.run("DROP TABLE photos", database)
        assert (place.names(), place.read_bytes("manifest.json"), leftover(place)) == ([], None, 0)
        with pytest.raises(IndexDamagedError, match="not there"):
            open_table(place)
        assert made(uri, schema((WIDE,))).count() == 0
        assert place.names() == []

    def test_a_database_without_pgvector(self, server, database, uri):
        server.run("DROP ROLE IF EXISTS plain; CREATE ROLE plain LOGIN")
        server.run(
            f'GRANT CREATE ON SCHEMA public TO plain; GRANT CREATE ON DATABASE "{database}" TO plain',
            database,
        )
        place = Location.of(uri.replace("postgres@", "plain@"))
        with pytest.raises(StoreError) as caught:
            place.prepare()
        assert caught.value.hint == "Let its owner run: CREATE EXTENSION vector"
        server.run("CREATE EXTENSION vector", database)
        place.prepare()
        assert create_table(place, schema((WIDE,))).count() == 0

    def test_an_encoding_that_does_not_hold_every_text(self, server):
        server.run("CREATE DATABASE latin ENCODING 'SQL_ASCII' TEMPLATE template0")
        try:
            with pytest.raises(StoreError, match="SQL_ASCII"):
                Location.of(server.uri("latin", table="t")).prepare()
        finally:
            server.run("DROP DATABASE latin WITH (FORCE)")


def _hold(uri: str, ready) -> None:
    with Location.of(uri).lock(5):
        ready.set()
        time.sleep(120)


class TestRefusals:
    def ask(self, uri: str) -> StoreError:
        with pytest.raises(StoreError) as caught:
            Location.of(uri).read_bytes("manifest.json")
        assert "pa55" not in str(caught.value)
        assert "\n" not in str(caught.value)
        assert caught.value.hint
        return caught.value

    def test_nobody_there(self, server):
        start = time.monotonic()
        error = self.ask("postgresql://me:pa55@127.0.0.1:1/db?table=t")
        assert "cannot be reached" in error.message
        assert time.monotonic() - start < 5
        assert "cannot be reached" in self.ask("postgresql:///db?host=/nowhere&table=t").message

    def test_no_such_database_or_user(self, server):
        assert "database that does not exist" in self.ask(server.uri("nothing", table="t")).message
        server.run("DROP ROLE IF EXISTS locked; CREATE ROLE locked LOGIN PASSWORD 'right'")
        assert "does not know" in self.ask(server.uri(user="stranger", table="t")).message

    def test_a_wrong_password(self, server, database, monkeypatch):
        server.run("DROP ROLE IF EXISTS locked; CREATE ROLE locked LOGIN PASSWORD 'right'")
        uri = server.uri(database, user="locked:pa55", table="t")
        assert "refused the user or the password" in self.ask(uri).message
        monkeypatch.setenv("PGPASSWORD", "right")
        assert Location.of(server.uri(database, user="locked", table="t")).read_bytes("x") is None

    def test_an_address_that_libpq_does_not_read(self, server):
        self.ask("postgresql://me:pa55@host:port/db?table=t")
        self.ask("postgresql://me:pa55@host/db?table=t&nonsense=1")

    def test_no_permission(self, server, database, uri):
        table = made(uri, schema((WIDE,)))
        table.upsert(of_ids(["a"]))
        server.run("DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN")
        other = Location.of(uri.replace("postgres@", "reader@"))
        with pytest.raises(StoreError, match="may not be read"):
            open_table(other)
        server.run("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader", database)
        reader = open_table(other)
        assert reader.count() == 1
        with pytest.raises(IndexReadOnlyError):
            reader.upsert(of_ids(["b"]))
        with pytest.raises(IndexReadOnlyError):
            other.replace("a", b"")
        assert table.count() == 1
        server.run("DROP OWNED BY reader", database)

    def test_a_missing_package_is_named(self, monkeypatch):
        import sys

        monkeypatch.setitem(sys.modules, "pgvector", None)
        monkeypatch.setitem(sys.modules, "pgvector.psycopg", None)
        with pytest.raises(MissingExtraError, match=r"bowerbird\[postgres\]"):
            Location.of("postgresql://h/db?table=t").read_bytes("x")


class TestConnections:
    def test_threads_share_a_table(self, uri):
        table = made(uri, schema((WIDE,)))
        values = units(500, 32)
        table.upsert(of_ids([f"r{n}" for n in range(500)], m__v=vectors_of(values)))
        wrong: list[str] = []

        def ask(start: int) -> None:
            for n in range(start, start + 20):
                found = table.nearest("m__v", values[n], 1, columns=["id"])["id"].to_pylist()
                scanned = sum(batch.num_rows for batch in table.scan(["id"]))
                if (found, scanned) != ([f"r{n}"], 500):
                    wrong.append(f"{n}: {found}, {scanned}")

        threads = [threading.Thread(target=ask, args=(20 * n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    def test_a_table_may_change_while_it_is_read(self, uri):
        table = made(uri, schema((WIDE,)))
        table.upsert(of_ids([f"r{n}" for n in range(20_000)]))
        seen = 0
        for batch in table.scan(["id"]):
            table.delete(batch["id"].to_pylist())
            seen += batch.num_rows
        assert (seen, table.count()) == (20_000, 0)

    def test_tables_and_places_can_be_pickled(self, uri):
        table = made(uri, schema((WIDE,)))
        table.upsert(of_ids(["a"]))
        assert pickle.loads(pickle.dumps(table)).count() == 1
        assert pickle.loads(pickle.dumps(Location.of(uri))) == Location.of(uri)

    def test_a_forked_process_makes_connections_of_its_own(self, uri):
        table = made(uri, schema((WIDE,)))
        table.upsert(of_ids(["a"]))
        context = multiprocessing.get_context("fork")
        answers = context.Queue()
        for _ in range(2):
            child = context.Process(target=_count, args=(table, answers))
            child.start()
            assert answers.get(timeout=30) == 1
            child.join()
        assert table.count() == 1

    def test_the_type_of_a_column_may_change_under_a_reader(self, uri):
        table = made(uri, schema((WIDE,)))
        table.extend([pa.field("n", pa.int64())])
        table.upsert(of_ids(["a"], n=pa.array([1])))
        reader = open_table(Location.of(uri))
        for _ in range(10):
            assert reader.count(Compare("n", "=", 1)) == 1
        table.extend([], [pa.field("n", pa.float64())])
        assert reader.count(Compare("n", "=", 1)) == 1
        reader.refresh()
        assert everything(reader)["n"].to_pylist() == [1.0]


def _count(table: Table, answers) -> None:
    answers.put(table.count())


@pytest.fixture(scope="module")
def mortal():
    """A server of this module's own, which may be killed."""
    with serving() as server:
        yield server


@pytest.mark.slow
class TestServerGoesAway:
    @pytest.fixture
    def table(self, mortal) -> Table:
        table = made(mortal.uri(mortal.database(), table="photos"), schema((WIDE,)))
        values = units(30_000, 32)
        width = pa.array(range(30_000), pa.int32())
        ids = [f"r{n:05}" for n in range(30_000)]
        table.upsert(of_ids(ids, m__v=vectors_of(values), width=width))
        return table

    def test_a_question_after_a_restart(self, mortal, table):
        mortal.restart()
        assert table.count() == 30_000
        assert table.nearest("m__v", units(1, 32)[0], 3, columns=["id"]).num_rows == 3

    def test_a_scan_goes_on_where_it_was(self, mortal, table):
        seen: list[str] = []
        for number, batch in enumerate(table.scan(["id", "m__v"])):
            seen += batch["id"].to_pylist()
            if number == 1:
                mortal.restart()
        assert seen == [f"r{n:05}" for n in range(30_000)]

    def test_changes_while_it_is_killed_again_and_again(self, mortal, table, monkeypatch):
        monkeypatch.setattr(postgres_session, "PAUSES", (0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0))
        stop = threading.Event()

        def torment() -> None:
            for _ in range(4):
                if not stop.wait(0.4):
                    mortal.restart()

        tormentor = threading.Thread(target=torment)
        tormentor.start()
        try:
            for n in range(40):
                table.upsert(
                    of_ids([f"new{n}", "again"], width=pa.array([n, n], pa.int32())), remove=[f"r{n:05}"]
                )
                assert table.delete([f"r{29_999 - n:05}"]) == 1
        finally:
            stop.set()
            tormentor.join()
        rows = everything(table)
        ids = rows["id"].to_pylist()
        assert len(set(ids)) == len(ids) == 30_000 - 80 + 41
        assert table.count() == len(ids)
        assert dict(zip(ids, rows["width"].to_pylist(), strict=True))["again"] == 39

    def test_a_server_that_stays_away_is_a_clear_error(self, mortal, table, monkeypatch):
        monkeypatch.setattr(postgres_session, "PAUSES", (0.05, 0.1))
        mortal.kill()
        try:
            for ask in (table.count, lambda: list(table.scan(["id"])), lambda: table.upsert(of_ids(["x"]))):
                with pytest.raises(StoreError, match="cannot be reached") as caught:
                    ask()
                assert "\n" not in str(caught.value)
        finally:
            mortal.start()
        assert table.count() == 30_000

    def test_the_lock_outlives_a_restart_unless_another_took_it(self, mortal, table):
        place = Location.of(str(table._session.address.shown))
        with place.lock(1) as held:
            mortal.restart()
            held.check()
            with pytest.raises(IndexBusyError), Location.of(str(place)).lock(0):
                pass
            mortal.restart()
            with Location.of(str(place)).lock(5):
                pass
            with pytest.raises(IndexBusyError, match="another process has written"):
                held.check()
