"""Plain Lance datasets: written from elements, read back as records."""

from __future__ import annotations

import pickle
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from bowerbird.errors import BowerbirdError, QueryError, UnreadableError
from bowerbird.flow.report import RunReport
from bowerbird.flow.sinks.arrow import to_arrow
from bowerbird.record import Failure, Record
from bowerbird.store.lance_files import LanceSink, LanceSource


def record(number: int, texts: int = 1) -> Record:
    rng = np.random.default_rng(number)
    shape = (texts, 8) if texts > 1 else (8,)
    return Record(
        f"r{number}",
        Path(f"/photos/{number}.jpg"),
        tuple(f"text {n}" for n in range(texts)),
        {"price": number, "label": "even" if number % 2 == 0 else "odd", "id": -number},
        {"image": rng.normal(size=8).astype(np.float32), "text": rng.normal(size=shape).astype(np.float32)},
        {"image": 1.5, "text": 2.5 if texts == 1 else np.arange(texts, dtype=np.float32)},
        f"{number:032x}",
    )


def write(path: Path, *chunks: list[object], **options: object) -> None:
    sink = LanceSink(path, **options)
    for chunk in chunks:
        sink.write(chunk)
    sink.finish(RunReport())


def test_what_was_written_comes_back(tmp_path):
    rows = [record(n, texts) for n, texts in enumerate([1, 3, 2, 1])]
    write(tmp_path / "o.lance", rows[:1], rows[1:])
    source = LanceSource(tmp_path / "o.lance")
    back = list(source)
    assert source.count() == len(back) == 4
    for found, row in zip(back, rows, strict=True):
        assert (found.id, found.texts, found.content) == (row.id, row.texts, row.content)
        assert str(found.image) == str(row.image)
        assert found["price"] == row["price"]
        for name, vector in row.vectors.items():
            assert found.vectors[name].reshape(-1).tobytes() == vector.reshape(-1).tobytes()


def test_one_version_with_a_fragment_for_each_group(tmp_path):
    write(tmp_path / "o.lance", *[[record(n)] for n in range(5)], group_bytes=1)
    dataset = lance.dataset(str(tmp_path / "o.lance"))
    assert dataset.version == 1
    assert len(dataset.get_fragments()) == 5
    assert dataset.to_table().to_pylist() == to_arrow(record(n) for n in range(5)).to_pylist()


@pytest.mark.parametrize(("late", "type_"), [(0.5, pa.float64()), ("x", pa.string())])
def test_a_type_that_comes_late(tmp_path, late, type_):
    chunks = [[{"x": n}] for n in range(10)]
    write(tmp_path / "o.lance", *chunks, [{"x": late, "y": "new"}], group_bytes=1)
    table = lance.dataset(str(tmp_path / "o.lance")).to_table()
    assert table.schema.field("x").type == type_
    assert table["x"].to_pylist() == [*pa.array([*range(10)]).cast(type_).to_pylist(), late]
    assert table["y"].to_pylist() == [None] * 10 + ["new"]


def test_parts_are_fragments_and_pickle(tmp_path):
    write(tmp_path / "o.lance", *[[record(2 * n), record(2 * n + 1)] for n in range(4)], group_bytes=1)
    source = pickle.loads(pickle.dumps(LanceSource(tmp_path / "o.lance")))
    parts = [pickle.loads(pickle.dumps(part)) for part in source.parts()]
    assert [[found.id for found in part] for part in parts] == [
        [f"r{2 * n}", f"r{2 * n + 1}"] for n in range(4)
    ]
    assert [part.count() for part in parts] == [2] * 4
    # Parts stay what they were while others write.
    lance.dataset(str(tmp_path / "o.lance")).delete("price < 4")
    assert [found.id for part in parts for found in part] == [f"r{n}" for n in range(8)]
    assert [found.id for found in source] == [f"r{n}" for n in range(4, 8)]


def test_a_filter_and_columns(tmp_path):
    write(
        tmp_path / "o.lance",
        *[[record(n) for n in range(4)], [record(n) for n in range(4, 8)]],
        group_bytes=1,
    )
    source = LanceSource(tmp_path / "o.lance", where="label = 'even' and price > 2", columns=["price"])
    found = list(source)
    assert [row.id for row in found] == ["r4", "r6"]
    assert [dict(row.attributes) for row in found] == [{"price": 4}, {"price": 6}]
    assert not found[0].vectors
    assert source.count() == 2
    assert [part.count() for part in source.parts()] == [0, 2]


def test_any_dataset(tmp_path):
    table = pa.table(
        {"key": ["a", "b", "a"], "file": ["x.jpg", None, "/y.jpg"], "caption": ["one", None, "three"]}
    )
    lance.write_dataset(table, str(tmp_path / "d.lance"))
    first, second, third = LanceSource(tmp_path / "d.lance", image="file", text="caption")
    assert (first.id, str(first.image), first.texts) == ("d.lance:1", str(tmp_path / "x.jpg"), ("one",))
    assert (second.id, second.image, second.texts) == ("d.lance:2", None, ())
    assert str(third.image) == "/y.jpg"
    assert dict(third.attributes) == {"key": "a"}
    assert [row.id for row in LanceSource(tmp_path / "d.lance", where="key = 'a'")] == [
        "d.lance:1",
        "d.lance:2",
    ]
    by_id = list(LanceSource(tmp_path / "d.lance", id="key"))
    assert [row.id for row in by_id[:2]] == ["a", "b"]
    assert isinstance(by_id[2], Failure)
    assert "d.lance:1" in str(by_id[2].error)


def test_mistakes(tmp_path):
    with pytest.raises(UnreadableError, match="no Lance dataset"):
        list(LanceSource(tmp_path / "nothing.lance"))
    write(tmp_path / "o.lance", [record(1)])
    with pytest.raises(QueryError, match="'pric = 1'"):
        list(LanceSource(tmp_path / "o.lance", where="pric = 1"))
    with pytest.raises(QueryError, match="cannot be used"):
        LanceSource(tmp_path / "o.lance", where="price >").count()
    with pytest.raises(BowerbirdError, match="no column 'photo'"):
        list(LanceSource(tmp_path / "o.lance", image="photo"))
    with pytest.raises(BowerbirdError, match="no column 'photo'"):
        list(LanceSource(tmp_path / "o.lance", columns=["photo"]))


def test_a_damaged_fragment_is_a_failure_at_its_place(tmp_path):
    write(tmp_path / "o.lance", *[[record(n)] for n in range(3)], group_bytes=1)
    dataset = lance.dataset(str(tmp_path / "o.lance"))
    damaged = dataset.get_fragments()[1].data_files()[0].path
    (tmp_path / "o.lance" / "data" / damaged).write_bytes(b"broken")
    found = list(LanceSource(tmp_path / "o.lance"))
    assert [row.id for row in found] == ["r0", "o.lance:2", "r2"]
    assert isinstance(found[1], Failure)
    assert "cannot be read" in found[1].error.message


def test_nothing_at_all(tmp_path):
    write(tmp_path / "o.lance")
    assert list(LanceSource(tmp_path / "o.lance")) == []


def test_a_writer_killed_while_it_widens_a_column_loses_nothing(tmp_path: Path):
    from bowerbird.store.lance import WIDENING, LanceTable
    from bowerbird.store.table import schema

    place = tmp_path / "rows.lance"
    table = LanceTable.create(place, pa.schema([*schema(()), pa.field("price", pa.int64())]))
    rows = pa.table(
        {"id": ["a"], "price": [3]}, schema=pa.schema([("id", pa.string()), ("price", pa.int64())])
    )
    empty = [pa.nulls(1, field.type) for field in schema(()) if field.name != "id"]
    names = [field.name for field in schema(()) if field.name != "id"]
    table.upsert(pa.table([rows["id"], *empty, rows["price"]], names=["id", *names, "price"]))
    dataset = lance.dataset(str(place))
    dataset.add_columns({f"{WIDENING}price": "CAST(`price` AS DOUBLE)"})
    dataset.drop_columns(["price"])  # and here it is killed
    found = LanceTable.open(place)
    found.extend(())
    assert found.attributes().field("price").type == pa.float64()
    assert [batch.column(0).to_pylist() for batch in found.scan(["price"])] == [[3.0]]
