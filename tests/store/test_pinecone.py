"""What is particular to Pinecone: limits, reads that lag, failures in the middle, keys, the place, a whole index."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.store.pinecone_server import PineconeServer, StoredIndex, serving
from tests.store.test_table import COLUMN, SCHEMA, contents, rows, units

from bowerbird.cli.info import describe
from bowerbird.errors import (
    IndexBusyError,
    IndexDamagedError,
    IndexNotFoundError,
    IndexReadOnlyError,
    MissingExtraError,
    QueryError,
    StorageFullError,
    StoreError,
)
from bowerbird.search.copying import copy_index
from bowerbird.search.index import Index
from bowerbird.store import manifest as manifests
from bowerbird.store import pinecone as pinecone_table
from bowerbird.store.filters import And, Compare, Filter, In, IsNull, Like, Not, Or, Words
from bowerbird.store.location import Location
from bowerbird.store.opening import create_table, leftover, open_table, remove_table
from bowerbird.store.pinecone import PineconeTable
from bowerbird.store.pinecone_place import PIECE, PineconePlace

pinecone = pytest.importorskip("pinecone")


@pytest.fixture
def lag() -> int:
    return 0


@pytest.fixture
def server(lag, monkeypatch, tmp_path) -> Iterator[PineconeServer]:
    monkeypatch.setenv("BOWERBIRD_DATA_DIR", str(tmp_path / "data"))
    with serving(lag) as found:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        yield found


@pytest.fixture
def place(server) -> PineconePlace:
    found = Location.of(f"pinecone://{server.name}")
    assert isinstance(found, PineconePlace)
    return found


@pytest.fixture
def table(place) -> PineconeTable:
    made = create_table(place, SCHEMA)
    assert isinstance(made, PineconeTable)
    return made


def with_column(made: pa.Table, name: str, values: list[Any]) -> pa.Table:
    at = made.schema.get_field_index(name)
    return made.set_column(at, made.schema.field(at), pa.array(values, made.schema.field(at).type))


class TestServer:
    """The server that stands for Pinecone refuses what Pinecone refuses: asked past our own code."""

    @pytest.fixture
    def index(self, server) -> Iterator[Any]:
        client = pinecone.Pinecone()
        client.indexes.create(name=server.name, dimension=2, metric="dotproduct", deployment=MANAGED)
        with client.index(server.name) as found:
            found.upsert(vectors=[{"id": "a", "values": [1.0, 0.0], "metadata": {"n": 1}}], namespace="s")
            yield found
        client.close()

    @pytest.mark.parametrize(
        "vector",
        [
            {"id": "b", "values": [1.0]},
            {"id": "b", "values": [0.0, 0.0]},
            {"id": "b", "values": [1.0, 0.0], "metadata": {"x": "y" * 41_000}},
            {"id": "b", "values": [1.0, 0.0], "metadata": {"$x": 1}},
            {"id": "日本", "values": [1.0, 0.0]},
            {"id": "b" * 513, "values": [1.0, 0.0]},
        ],
        ids=["dimension", "zero", "size", "dollar", "ascii", "long"],
    )
    def test_upserts(self, index, vector):
        with pytest.raises(pinecone.errors.PineconeError):
            index.upsert(vectors=[vector], namespace="s")

    @pytest.mark.parametrize("metadata", [{"x": None}, {"x": [1]}, {"x": {"y": 1}}])
    def test_metadata_of_other_types(self, server, index, metadata):
        """Asked without the client, which refuses these by itself."""
        import httpx

        answer = httpx.post(
            f"{server.url}/i/{server.name}/vectors/upsert",
            json={"vectors": [{"id": "b", "values": [1.0, 0.0], "metadata": metadata}]},
            headers={"Api-Key": os.environ["PINECONE_API_KEY"], "X-Pinecone-Api-Version": "2026-07"},
        )
        assert answer.status_code == 400
        assert "Metadata value must be" in answer.json()["message"]

    def test_batches(self, index):
        some = [{"id": str(number), "values": [1.0, 0.0]} for number in range(1001)]
        with pytest.raises(pinecone.errors.ApiError, match="1000"):
            index.upsert(vectors=some, namespace="s")
        big = [{**one, "metadata": {"x": "y" * 30_000}} for one in some[:70]]
        with pytest.raises(pinecone.errors.PayloadTooLargeError):
            index.upsert(vectors=big, namespace="s")

    @pytest.mark.parametrize(
        "where",
        [
            {"n": {"$gt": "a"}},
            {"n": {"$like": "a"}},
            {"n": {"$in": []}},
            {"n": {"$in": [True]}},
            {"n": {"$eq": None}},
            {"n": {"$in": [0] * 10_001}},
            {"$not": [{"n": 1}]},
            {"$and": []},
            {"n": {"$exists": 1}},
        ],
        ids=str,
    )
    def test_filters(self, index, where):
        with pytest.raises(pinecone.errors.ApiError):
            index.query(vector=[1.0, 0.0], top_k=1, namespace="s", filter=where)

    def test_a_field_that_is_not_there_passes_ne_and_nin(self, index):
        for where, expected in (
            ({"m": {"$ne": 1}}, 1),
            ({"m": {"$nin": ["x"]}}, 1),
            ({"m": {"$lt": 9}}, 0),
            ({"m": {"$exists": False}}, 1),
        ):
            assert (
                len(index.query(vector=[1.0, 0.0], top_k=1, namespace="s", filter=where).matches) == expected
            )

    def test_namespaces_that_were_never_written_to(self, index):
        assert index.query(vector=[1.0, 0.0], top_k=1, namespace="t").matches == []
        with pytest.raises(pinecone.errors.NotFoundError):
            index.delete(ids=["a"], namespace="t")


MANAGED = {"deployment_type": "managed", "cloud": "aws", "region": "us-east-1"}


class TestPlace:
    @pytest.mark.parametrize(
        ("address", "shown"),
        [
            ("pinecone://shop", "pinecone://shop"),
            ("pinecone://shop/", "pinecone://shop"),
            ("pinecone://shop/Other.1", "pinecone://shop/Other.1"),
            ("pinecone://shop?cloud=aws&region=us-east-1", "pinecone://shop"),
            ("pinecone://shop/b?region=eu-west1&cloud=gcp", "pinecone://shop/b?cloud=gcp&region=eu-west1"),
        ],
    )
    def test_addresses(self, address, shown):
        found = Location.of(address)
        assert str(found) == shown
        assert Location.of(str(found)) == found

    @pytest.mark.parametrize(
        "address",
        [
            "pinecone://",
            "pinecone://Shop",
            "pinecone://shop_1",
            "pinecone://-shop",
            "pinecone://" + "s" * 40,
            "pinecone://shop/a/b",
            "pinecone://shop?zone=a",
            "pinecone://shop#a",
            "pinecone://me@shop",
        ],
    )
    def test_addresses_that_cannot_be_one(self, address):
        with pytest.raises(StoreError, match="cannot hold an index"):
            Location.of(address)

    @pytest.mark.parametrize("lag", [0, 2], indirect=False)
    def test_files_are_replaced_whole(self, place, lag):
        place.prepare()
        assert place.names() == []
        assert place.read_bytes("a") is None
        assert not place.exists("a")
        other = Location.of(str(place))
        for size in (0, 1, PIECE, PIECE + 1, 5 * PIECE, 3):
            data = np.random.default_rng(size).bytes(size)
            place.replace("a", data)
            assert other.read_bytes("a") == data
        place.replace("b é", b"x")
        assert other.names() == ["a", "b é"]
        place.remove("a")
        place.remove("a")
        assert other.read_bytes("a") is None
        assert other.names() == ["b é"]

    def test_nothing_is_there_before_it_is_prepared(self, place):
        assert place.names() == []
        assert place.read_bytes("a") is None
        assert leftover(place) == 0
        with pytest.raises(IndexNotFoundError):
            manifests.read(place)
        with pytest.raises(IndexDamagedError):
            open_table(place)
        with pytest.raises(StoreError, match="is not there"):
            place.replace("a", b"x")

    def test_an_index_that_takes_time_to_be_ready(self, server, place):
        server.indexes[server.name] = StoredIndex(server.name, 2, "dotproduct", MANAGED, unready=1)
        place.prepare()
        place.replace("a", b"x")
        assert place.read_bytes("a") == b"x"

    def test_pieces_of_files_do_not_pile_up(self, server, place):
        place.prepare()
        for _ in range(5):
            place.replace("a", b"x" * (3 * PIECE))
        kept = server.records(server.name, "bowerbird.files")
        assert len([id_ for id_ in kept if id_.startswith("f-")]) == 1 + 3 + 3

    def test_the_lock_holds_for_this_machine(self, place):
        entered, leave = threading.Event(), threading.Event()

        def hold() -> None:
            with Location.of(str(place)).lock(1):
                entered.set()
                leave.wait(20)

        holder = threading.Thread(target=hold)
        holder.start()
        try:
            assert entered.wait(20)
            with pytest.raises(IndexBusyError), place.lock(0.1):
                pass
        finally:
            leave.set()
            holder.join()
        with place.lock(0.1):
            pass

    def test_parts_are_apart(self, server, place, table):
        other = Location.of(f"pinecone://{server.name}/other")
        beside = create_table(other, SCHEMA)
        table.upsert(rows(["a"]))
        beside.upsert(rows(["b", "c"]))
        place.replace("x", b"1")
        assert other.names() == []
        remove_table(place)
        assert leftover(place) == 0
        assert set(contents(beside)) == {"b", "c"}
        left = [name for found in server.indexes.values() for name in found.namespaces]
        assert not [name for name in left if "bowerbird.records" in name or "bowerbird.v" in name]


class TestLag:
    """Reads that are behind writes, searches and fetches each by their own."""

    @pytest.fixture
    def lag(self) -> int:
        return 2

    def test_a_commit_is_seen_when_it_is_done(self, table, place):
        table.upsert(rows(["a", "b", "c"]))
        reader = open_table(place)
        assert contents(reader) == {"a": 0, "b": 1, "c": 2}
        table.upsert(rows(["b"], width=[9]), remove=["c"])
        assert contents(reader) == contents(open_table(place)) == {"a": 0, "b": 9}
        assert reader.count() == 2
        writer = open_table(place)
        assert writer.delete(["a", "nothing"]) == 1
        assert contents(table) == {"b": 9}
        assert table.nearest("v", units(1)[0], 9, columns=["id"]).num_rows == 1

    def test_what_a_dead_writer_left_is_cleared_away_though_it_is_not_seen_yet(self, server, table, place):
        table.upsert(rows(["a", "b"]))
        asked = itertools.count()
        # The first one counts what is there and changes nothing.
        fail_from(server, lambda path: path.endswith("/vectors/update") and next(asked) > 0)
        with pytest.raises(StoreError):
            table.upsert(rows(["b", "c"], width=[8, 9]))
        server.fault = lambda method, path: ""
        open_table(place).upsert(rows(["d"], width=[5]))
        assert contents(open_table(place)) == {"a": 0, "b": 1, "d": 5}


def fail_from(server: PineconeServer, wanted: Callable[[str], bool], fault: str = "400") -> None:
    """Let all requests fail from the first one that is wanted."""
    begun = threading.Event()

    def failing(method: str, path: str) -> str:
        if wanted(path):
            begun.set()
        return fault if begun.is_set() else ""

    server.fault = failing


def fail_at(server: PineconeServer, number: int, fault: str, *, ever_after: bool) -> list[str]:
    """Let the request of that number fail, and all after it or none; returns a list that grows with every request."""
    seen: list[str] = []

    def failing(method: str, path: str) -> str:
        seen.append(path)
        return fault if len(seen) - 1 == number or (ever_after and len(seen) - 1 > number) else ""

    server.fault = failing
    return seen


BEFORE = {"a": 0, "b": 1, "c": 2}
AFTER = {"a": 70, "c": 2, "d": 80}


def change(table: PineconeTable) -> None:
    made = rows(["a", "d"], width=[70, 80])
    table.upsert(with_column(made, "thumbnail", [b"x" * 50_000, b"y"]), remove=["b"])


def steps_of_a_change(server: PineconeServer, table: PineconeTable) -> int:
    seen = fail_at(server, -1, "", ever_after=False)
    change(table)
    server.fault = lambda method, path: ""
    return len(seen)


class TestFailures:
    @pytest.mark.slow
    def test_a_commit_that_stops_anywhere_is_whole_or_nothing(self, server):
        """For every request of a commit: it and all that follow fail, as if the network were gone, or the process."""
        ends = []
        count = steps_of_a_change(server, fresh(server, "count"))
        assert count > 10
        for number in range(count):
            table = fresh(server, f"t{number}")
            fail_at(server, number, "400", ever_after=True)
            with pytest.raises(StoreError):
                change(table)
            server.fault = lambda method, path: ""
            found = contents(open_table(table._place))
            ends.append(found)
            assert found in (BEFORE, AFTER), number
            assert open_table(table._place).count() == len(found)
            assert contents(table) == found
            # The same table goes on, or another process, with something else: what was begun is not finished by it.
            writer = table if number % 2 else open_table(table._place)
            writer.upsert(rows(["e"], width=[5]))
            assert contents(open_table(table._place)) == {**found, "e": 5}, number
            change(writer)
            assert contents(table) == contents(writer) == {**AFTER, "e": 5}
            assert writer.count() == 4
            nearest = writer.nearest("v", units(1)[0], 9, columns=["id", "width"]).to_pylist()
            assert {row["id"]: row["width"] for row in nearest} == {**AFTER, "e": 5}
            writer.optimize([COLUMN])
            kept = server.records(server.name, f"t{number}.records")
            assert len([id_ for id_ in kept if id_ != "barrier"]) == 4
        assert ends[0] == BEFORE
        assert ends[-1] == AFTER

    @pytest.mark.slow
    @pytest.mark.parametrize("fault", ["lost", "reset", "503"])
    def test_a_request_that_fails_once_is_made_again(self, server, fault):
        count = steps_of_a_change(server, fresh(server, "count"))
        for number in range(count):
            table = fresh(server, f"t{number}")
            fail_at(server, number, fault, ever_after=False)
            change(table)
            server.fault = lambda method, path: ""
            assert contents(open_table(table._place)) == AFTER
            assert table.count() == 3

    @pytest.mark.slow
    @pytest.mark.parametrize("path", ["vectors/upsert", "vectors/update", "query"])
    @pytest.mark.parametrize("times", [1, 3])
    def test_kill_9(self, server, path, times):
        table = fresh(server, "killed")
        seen: list[str] = []

        def hold(method: str, asked: str) -> str:
            if asked.endswith(path):
                seen.append(asked)
            return "hold" if len(seen) == times and asked.endswith(path) else ""

        server.fault = hold
        script = (
            "import sys; from tests.store.test_pinecone import change; from bowerbird.store.opening import open_table; "
            "from bowerbird.store.location import Location; change(open_table(Location.of(sys.argv[1])))"
        )
        root = Path(__file__).parents[2]
        child = subprocess.Popen([sys.executable, "-c", script, str(table._place)], cwd=root)
        try:
            assert server.held.wait(60)
        finally:
            child.kill()
            child.wait()
        server.fault = lambda method, asked: ""
        server.release.set()
        assert contents(open_table(table._place)) == BEFORE
        writer = open_table(table._place)
        change(writer)
        assert contents(open_table(table._place)) == AFTER
        assert writer.count() == 3

    @pytest.mark.parametrize("fault", ["429", "500", "503", "reset"])
    def test_a_search_is_tried_again(self, server, table, fault):
        table.upsert(rows(["a", "b"]))
        seen = fail_at(server, 1, fault, ever_after=False)
        assert table.nearest("v", units(1)[0], 1, columns=["id"])["id"].to_pylist() == ["a"]
        assert seen[1] == seen[2]

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("fault", "said"), [("429", "busy"), ("503", "cannot be reached"), ("reset", "reached")]
    )
    def test_a_service_that_stays_away(self, server, table, fault, said):
        table.upsert(rows(["a", "b"]))
        server.fault = lambda method, path: fault
        with pytest.raises(StoreError, match=said) as caught:
            table.nearest("v", units(1)[0], 1, columns=["id"])
        assert not isinstance(caught.value, IndexDamagedError)
        server.fault = lambda method, path: ""
        assert table.nearest("v", units(1)[0], 1, columns=["id"])["id"].to_pylist() == ["a"]

    def test_a_service_that_is_not_there(self, monkeypatch, server, table):
        table.upsert(rows(["a"]))
        server.close()
        with pytest.raises(StoreError, match="cannot be reached"):
            table.count()

    def test_keys(self, server, place, table, monkeypatch):
        table.upsert(rows(["a"]))
        beside = f"pinecone://{server.name}-b"
        monkeypatch.setenv("PINECONE_API_KEY", "pcsk_wrong")
        with pytest.raises(StoreError, match=r"refuses the API key.*PINECONE_API_KEY"):
            Location.of(beside).names()
        monkeypatch.delenv("PINECONE_API_KEY")
        with pytest.raises(StoreError, match=r"no usable API key.*PINECONE_API_KEY"):
            Location.of(beside).names()
        monkeypatch.setenv("PINECONE_API_KEY", "with a newline\n")
        with pytest.raises(StoreError, match="PINECONE_API_KEY"):
            Location.of(beside).names()
        monkeypatch.setenv("PINECONE_API_KEY", server.environment["PINECONE_API_KEY"])
        assert Location.of(beside).names() == []

    def test_a_key_that_may_only_read(self, server, table, place):
        table.upsert(rows(["a"]))
        writes = ("vectors/upsert", "vectors/update", "vectors/delete")
        server.fault = lambda method, path: "403" if path.endswith(writes) else ""
        with pytest.raises(IndexReadOnlyError, match="PINECONE_API_KEY"):
            table.upsert(rows(["b"]))
        assert contents(open_table(place)) == {"a": 0}
        assert table.count(Compare("width", "=", 0)) == 1

    def test_a_plan_that_is_used_up(self, server, table, place):
        table.upsert(rows(["a"]))
        server.fault = lambda method, path: "full" if path.endswith("vectors/upsert") else ""
        with pytest.raises(StorageFullError, match="max storage"):
            table.upsert(rows(["b"]))
        assert contents(open_table(place)) == {"a": 0}

    def test_without_the_client(self, server, monkeypatch):
        monkeypatch.setitem(sys.modules, "pinecone", None)
        with pytest.raises(MissingExtraError, match=r"bowerbird\[pinecone\]"):
            Location.of(f"pinecone://{server.name}-b").names()

    def test_a_state_that_is_damaged(self, server, table, place):
        table.upsert(rows(["a"]))
        space = server.indexes[server.name].namespaces["bowerbird.table"]
        for values, metadata in space.fetched.records.values():
            metadata["data"] = "eyJ4IjogMX0="
            assert len(values) == 2
        with pytest.raises(IndexDamagedError):
            open_table(place)
        assert leftover(place) is None
        remove_table(place)
        assert leftover(place) == 0


def fresh(server: PineconeServer, part: str) -> PineconeTable:
    """A table with the rows of BEFORE."""
    table = create_table(Location.of(f"pinecone://{server.name}/{part}"), SCHEMA)
    assert isinstance(table, PineconeTable)
    table.upsert(with_column(rows(["a", "b", "c"]), "thumbnail", [b"", b"z" * 90_000, None]))
    return table


class TestLimits:
    def test_every_value_comes_back_exactly(self, table):
        made = rows(["a", "b", "c", "日本\n'\"\\", "e"])
        values = {
            "thumbnail": [b"", None, bytes(range(256)) * 900, b"x", b"y" * 27_000],
            "text": ["", None, "été \U0001f426 " * 9_000, 'q"\\\n', "\x01\x1f"],
            "mtime_ns": [2**63 - 1, -(2**63), None, 2**53 + 1, 0],
            "taken_at": [datetime(1900, 1, 1), None, datetime(2262, 1, 1), datetime(1970, 1, 1), None],
            "v__norm": [1e-38, None, 3.4e38, 0.1, 7.0],
        }
        for name, several in values.items():
            made = with_column(made, name, several)
        made = made.append_column(
            "price", pa.array([0.1, float("inf"), float("nan"), None, -5e-324], pa.float64())
        )
        made = made.append_column(
            "tags", pa.array([["a", "b"], [], None, ["日"], [None]], pa.list_(pa.string()))
        )
        made = made.append_column("on", pa.array([True, False, None, True, False]))
        made = made.append_column("at", pa.array([1, None, 2**60, -1, 0], pa.timestamp("ns", "UTC")))
        table.extend([made.schema.field(name) for name in ("price", "tags", "on", "at")])
        table.upsert(made)
        found = pa.Table.from_batches(table.scan(table.names)).sort_by("id")
        expected = made.select(table.names).sort_by("id")
        for name in table.names:
            assert str(found[name].to_pylist()) == str(expected[name].to_pylist()), name
        assert found.schema.equals(expected.schema)

    def test_filters_on_numbers_that_a_float_cannot_hold(self, table):
        near = [2**53 - 1, 2**53, 2**53 + 1, 2**60, 2**60 + 1, -(2**60) - 1, 5, None]
        table.upsert(with_column(rows([str(at) for at in range(len(near))]), "mtime_ns", near))
        for value in (2**53, 2**53 + 1, 2**60, 2**60 + 1, -(2**60), 5.0, 2.0**60, float("inf")):
            for sign, holds in (("=", "__eq__"), ("<", "__lt__"), (">=", "__ge__"), ("!=", "__ne__")):
                expected = (
                    {
                        at
                        for at, held in enumerate(near)
                        if held is not None and getattr(held, holds)(value) is True
                    }
                    if isinstance(value, int)
                    else {
                        at
                        for at, held in enumerate(near)
                        if held is not None and getattr(float(value), SWAPPED[holds])(held)
                    }
                )
                where: Filter = Compare("mtime_ns", sign, value)
                assert set(contents(table, where).values()) == expected, where

    def test_long_texts_are_equal_only_to_themselves(self, table):
        long = ["x" * 501, "x" * 502, "x" * 500, "é" * 251]
        table.upsert(with_column(rows(["a", "b", "c", "d"]), "uri", long))
        for at, text in enumerate(long):
            assert list(contents(table, Compare("uri", "=", text)).values()) == [at]
            assert len(contents(table, Not(In("uri", (text, "y"))))) == 3

    def test_words_that_do_not_fit(self, table):
        table.upsert(with_column(rows(["a", "b"]), "text", ["red hat", "blue"]))
        assert set(contents(table, Words("text", ("hat", "red")))) == {"a"}
        many = " ".join(f"word{number}" for number in range(3_000))
        table.upsert(with_column(rows(["c"]), "text", [many]))
        with pytest.raises(QueryError, match=r"'text'.*more of them"):
            table.count(Words("text", ("hat",)))
        assert table.count(Words("name", ("s",))) == 3
        assert table.words("word2999 hat", 5, columns=["id"])["id"].to_pylist() == ["a", "c"]
        assert table.count(Compare("text", "=", many)) == 1

    def test_what_cannot_be_asked_names_the_store(self, table):
        for where in (
            Like("name", "%a"),
            Like("name", "%a", ignore_case=True),
            Compare("name", "<", "b"),
            Words("uri", ("a",)),
            Or((IsNull("name"), And((Not(Like("name", "a")),)))),
        ):
            with pytest.raises(QueryError, match="Pinecone cannot"):
                table.count(where)

    def test_attributes_that_do_not_fit(self, table):
        names = [f"a{number}" for number in range(90)]
        table.extend([pa.field(name, pa.string()) for name in names])
        made = rows(["a"])
        for name in names:
            made = made.append_column(name, pa.array(["é" * 240]))
        with pytest.raises(StoreError, match="40 KB"):
            table.upsert(made)
        assert table.count() == 0
        table.upsert(rows(["b"]))
        assert set(contents(table)) == {"b"}

    def test_large_batches_are_cut(self, server, table):
        table.upsert(with_column(rows([f"r{i}" for i in range(1200)]), "text", ["word " * 500] * 1200))
        assert table.count() == 1200
        assert sum(path.endswith("upsert") for path in server.requests) > 4

    def test_a_vector_of_zeros_comes_back_and_is_never_found(self, table):
        vectors = units(3)
        vectors[1] = 0
        table.upsert(rows(["a", "b", "c"], vectors))
        (batch,) = table.scan(["id", "v"])
        kept = dict(zip(batch["id"].to_pylist(), batch["v"].to_pylist(), strict=True))
        assert kept == {"a": vectors[0].tolist(), "b": [0.0] * 8, "c": vectors[2].tolist()}
        assert set(table.nearest("v", vectors[0], 9, columns=["id"])["id"].to_pylist()) == {"a", "c"}
        assert table.count(IsNull("v")) == 0

    def test_ties_beyond_the_candidates(self, table, monkeypatch):
        monkeypatch.setattr(pinecone_table, "CANDIDATES", 20)
        table.upsert(rows([f"r{i:02}" for i in range(60)], np.repeat(units(1), 60, 0)))
        order = [id_ for batch in table.scan(["id"]) for id_ in batch["id"].to_pylist()]
        for k in (1, 9, 10, 11, 60):
            found = table.nearest("v", units(1)[0], k, columns=["id"])
            assert found["id"].to_pylist() == order[:k]

    def test_a_dropped_column_that_is_made_again_is_empty(self, table):
        table.upsert(rows(["a", "b"]))
        table.drop(["name", "v", "v__norm"])
        table.extend([SCHEMA.field("v")])
        assert table.count(IsNull("name")) == 2
        assert table.nearest("v", units(1)[0], 5, columns=["id"]).num_rows == 0


SWAPPED = {"__eq__": "__eq__", "__ne__": "__ne__", "__lt__": "__gt__", "__ge__": "__le__"}


@pytest.mark.slow
def test_a_whole_index(server, place, tmp_path):
    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in (("red", (200, 10, 10)), ("green", (10, 200, 10)), ("blue", (10, 10, 200))):
        Image.new("RGB", (64, 48), colour).save(folder / f"{name}.png")
    index = Index.create(str(place))
    report = index.add(folder)
    assert (report.added, len(Index.open(str(place)))) == (3, 3)
    hits = Index.open(str(place)).search(folder / "green.png", k=2)
    assert Path(hits[0].uri).name == "green.png"
    found = index.search("something red", k=3, where="width = 64 and name != 'blue.png'")
    assert {Path(hit.uri).name for hit in found} == {"red.png", "green.png"}
    (folder / "blue.png").unlink()
    index.add(folder)
    assert len(Index.open(str(place))) == 2
    assert len(index.thumbnails(hits.ids)) == 1
    assert describe(index)["pictures"] == 2
    assert index.table.words("anything", 3, columns=["id"]).num_rows == 0

    copy = tmp_path / "copy.bower"
    back = f"pinecone://{server.name}/back"
    assert copy_index(str(place), copy) == copy_index(copy, back) == 2
    again = Index.open(back).search(folder / "green.png", k=2)
    assert again.ids[0] == hits.ids[0]
    assert again.scores[0] == pytest.approx(hits.scores[0], abs=1e-6)
    before, after = (
        pa.Table.from_batches(found.scan(found.names)).sort_by("id")
        for found in map(open_table, (place, Location.of(back)))
    )
    assert before.select(after.column_names).equals(after)
