"""Tables and shards in an object store, and in one that fails half-way."""

import io
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.flow.object_store import ObjectStore, gate, serving

from bowerbird.errors import UnreadableError
from bowerbird.flow.sources.parquet import ParquetSource
from bowerbird.flow.sources.tables import CsvSource, JsonLinesSource
from bowerbird.flow.sources.tars import WebDatasetSource
from bowerbird.media.policy import DecodePolicy
from bowerbird.record import Failure, Record

POLICY = DecodePolicy()


@pytest.fixture(scope="module")
def store():
    with serving() as found:
        yield found


def test_text_tables(store: ObjectStore):
    store.put("t/images/a.jpg", b"a picture")
    rows = CsvSource(store.put("t/r.csv", b"file,t\nimages/a.jpg,one\n"), image="file", text="t")
    lines = JsonLinesSource(
        store.put("t/r.jsonl", b'{"file": "images/a.jpg", "t": "one"}\n'), image="file", text="t"
    )
    for source, id in ((rows, "r.csv:2"), (lines, "r.jsonl:1")):
        (record,) = source
        assert (record.id, record.text) == (id, "one")
        assert str(record.image) == store.uri("t/images/a.jpg")
        assert record.image.read(POLICY) == b"a picture"
    with pytest.raises(UnreadableError):
        list(CsvSource(store.uri("t/gone.csv")))


def test_parquet(store: ObjectStore):
    for number in range(2):
        stream = io.BytesIO()
        pq.write_table(pa.table({"file": ["a.jpg", "/b.jpg"], "n": [number, None]}), stream, row_group_size=1)
        store.put(f"p/{number}.parquet", stream.getvalue())
    ids = ["0.parquet:1", "0.parquet:2", "1.parquet:1", "1.parquet:2"]
    for pattern in ("p", "p/*.parquet"):
        source = ParquetSource(store.uri(pattern), image="file")
        assert [record.id for record in source] == ids
        assert [record.id for part in source.parts() for record in part] == ids
        assert str(next(iter(source)).image) == store.uri("p/a.jpg")


def shard(store: ObjectStore, name: str, members: int, size: int = 10) -> str:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for number in range(members):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = size
            tar.addfile(info, io.BytesIO(bytes([number]) * size))
    return store.put(name, stream.getvalue())


def test_shards(store: ObjectStore):
    for number in range(2):
        shard(store, f"w/t-{number}.tar", 2)
    for pattern in ("w/t-{0..1}.tar", "w/*.tar", "w"):
        records = list(WebDatasetSource(store.uri(pattern)))
        assert [record.id for record in records] == ["t-0.tar/0", "t-0.tar/1", "t-1.tar/0", "t-1.tar/1"]
        assert records[3].image.read(POLICY) == bytes([1]) * 10


def test_a_shard_that_is_not_there(store: ObjectStore):
    shard(store, "h/0.tar", 1)
    items = list(WebDatasetSource(store.uri("h/{0..1}.tar")))
    assert [(item.id, type(item)) for item in items] == [("0.tar/0", Record), ("1.tar", Failure)]


@pytest.mark.slow
def test_a_store_that_fails_in_the_middle_of_a_table(store: ObjectStore):
    # s3fs asks for 50 MB at a time.
    body = b"n,t\n" + b"".join(b"%d,%s\n" % (n, b"x" * 100_000) for n in range(700))
    uri = store.put("cut/r.csv", body)
    with gate(store) as faults:
        items = iter(CsvSource(uri, text="t"))
        assert next(items).id == "r.csv:2"
        faults.faults.append((r"GET .*r\.csv", 403, "AccessDenied", 1000))
        *before, failure = items
    assert len(before) > 100
    assert all(isinstance(item, Record) for item in before)
    assert isinstance(failure, Failure)
    assert isinstance(failure.error, UnreadableError)
    assert failure.id == f"r.csv:{len(before) + 3}"
