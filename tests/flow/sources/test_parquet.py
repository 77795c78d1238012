"""Parquet: rows of files, folders and row groups; what our own sinks wrote comes back."""

import pickle
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bowerbird.errors import BowerbirdError, RowError, UnreadableError
from bowerbird.flow.report import RunReport
from bowerbird.flow.sinks.parquet import ParquetSink
from bowerbird.flow.sources.parquet import ParquetSource
from bowerbird.record import Failure, Record


@pytest.fixture
def table(tmp_path):
    def write(columns, name="photos.parquet", rows=1 << 20):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(
            columns if isinstance(columns, pa.Table) else pa.table(columns), path, row_group_size=rows
        )
        return path

    return write


def test_rows_become_records(table, tmp_path):
    path = table({"file": ["a.jpg", None, ""], "t": ["one", "", None], "n": [1, None, 3]})
    source = ParquetSource(path, image="file", text="t")
    assert list(source) == [
        Record("photos.parquet:1", tmp_path / "a.jpg", ("one",), {"n": 1}, named=False),
        Record("photos.parquet:2", None, (), {"n": None}, named=False),
        Record("photos.parquet:3", None, (), {"n": 3}, named=False),
    ]
    assert next(iter(ParquetSource(path))).attributes == {"file": "a.jpg", "t": "one", "n": 1}
    assert source.count() == 3


def test_pictures_as_bytes_and_as_hugging_face_has_them(table, tmp_path):
    struct = [
        {"bytes": b"x", "path": "a.jpg"},
        {"bytes": None, "path": "b.jpg"},
        {"bytes": None, "path": None},
        None,
    ]
    path = table({"image": struct, "raw": [b"1", b"", None, b"4"]})
    assert [record.image for record in ParquetSource(path, image="image")] == [
        b"x",
        tmp_path / "b.jpg",
        None,
        None,
    ]
    assert [record.image for record in ParquetSource(path, image="raw")] == [b"1", None, None, b"4"]


def test_several_texts(table):
    path = table({"t": [["a", "", "b"], [], None], "u": ["x", None, "y"]})
    assert [record.texts for record in ParquetSource(path, text=["u", "t"])] == [("x", "a", "b"), (), ("y",)]


def test_types_of_columns(table):
    nanoseconds = pa.array([1_700_000_000_123_456_789], pa.timestamp("ns"))
    (record,) = ParquetSource(
        table(
            {
                "at": nanoseconds,
                "kind": pa.array(["cat"]).dictionary_encode(),
                "large": pa.array(["x"], pa.large_string()),
                "nested": [{"a": [1, 2]}],
                "plain": [[1.5, 2.5]],
            }
        )
    )
    assert record.attributes == {
        "at": datetime(2023, 11, 14, 22, 13, 20, 123456),
        "kind": "cat",
        "large": "x",
        "nested": {"a": [1, 2]},
        "plain": [1.5, 2.5],
    }


def test_parts_are_row_groups_in_order(table):
    path = table({"n": list(range(10)), "id": [str(n % 9) for n in range(10)]}, rows=3)
    source = ParquetSource(path, id="id")
    parts = pickle.loads(pickle.dumps(source.parts()))
    assert len(parts) == 4
    *whole, failure = source
    *split, last = [item for part in parts for item in part]
    assert split == whole
    assert [record.id for record in whole] == [str(n) for n in range(9)]
    for found in (failure, last):
        assert found.id == "photos.parquet:10"
        assert "'0' is taken by photos.parquet:1" in found.error.message


def test_folders_and_globs(table, tmp_path):
    table({"n": [1, 2]}, "f/b.parquet")
    table({"n": [3]}, "f/sub/a.pq")
    table({"n": [9]}, "f/_hidden/a.parquet")
    table({"n": [0]}, "f/a.parquet")
    expected = [("a.parquet:1", 0), ("b.parquet:1", 1), ("b.parquet:2", 2), ("sub/a.pq:1", 3)]
    source = ParquetSource(tmp_path / "f")
    assert [(record.id, record["n"]) for record in source] == expected
    assert [(item.id, item["n"]) for part in source.parts() for item in part] == expected
    assert [record.id for record in ParquetSource(tmp_path / "f" / "*.parquet")] == [
        id for id, _ in expected[:3]
    ]
    assert source.count() == 4


def test_ids_across_files(table, tmp_path):
    table({"sku": ["a", "b", None]}, "f/1.parquet")
    table({"sku": ["c", "a", "b"]}, "f/2.parquet")
    source = ParquetSource(tmp_path / "f", id="sku")
    for items in (list(source), [item for part in source.parts() for item in part]):
        assert [item.id for item in items] == ["a", "b", "1.parquet:3", "c", "2.parquet:2", "2.parquet:3"]
        assert "is taken by 1.parquet:1" in items[4].error.message
        assert "the id is missing" in items[2].error.message


def test_whole_numbers_as_ids_and_other_types(table):
    assert [record.id for record in ParquetSource(table({"k": [7, 8]}), id="k")] == ["7", "8"]
    (failure,) = ParquetSource(table({"k": [7.5]}), id="k")
    assert "of type float" in failure.error.message


@pytest.mark.parametrize("part", ["image", "text", "id"])
def test_a_missing_column_stops_at_once(table, part):
    source = ParquetSource(table({"a": [1], "b": [2]}), **{part: "c"})
    for use in (list, ParquetSource.parts):
        with pytest.raises(BowerbirdError, match="no column 'c'; its columns: 'a', 'b'"):
            use(source)


def test_a_file_of_several_that_lacks_a_column_or_is_damaged(table, tmp_path):
    table({"t": ["one"]}, "f/1.parquet")
    table({"u": ["two"]}, "f/2.parquet")
    table({"t": ["three"]}, "f/3.parquet").write_bytes(b"PAR1 and then nothing")
    table({"t": ["four"]}, "f/4.parquet")
    source = ParquetSource(tmp_path / "f", text="t")
    for items in (list(source), [item for part in source.parts() for item in part]):
        assert [item.id for item in items] == ["1.parquet:1", "2.parquet", "3.parquet", "4.parquet:1"]
        assert [type(items[1].error), type(items[2].error)] == [RowError, UnreadableError]


def test_a_damaged_row_group(table):
    noise = [bytes(np.random.default_rng(n).integers(0, 256, 4000, np.uint8)) for n in range(30)]
    path = table({"raw": noise}, rows=10)
    data = bytearray(path.read_bytes())
    place = data.index(noise[10]) - 10  # In what the page says of its compression.
    data[place : place + 8] = b"\xff" * 8
    path.write_bytes(data)
    source = ParquetSource(path, image="raw")
    for items in (list(source), [item for part in source.parts() for item in part]):
        assert [item.id for item in items if isinstance(item, Record)] == [
            f"photos.parquet:{n}" for n in (*range(1, 11), *range(21, 31))
        ]
        (failure,) = [item for item in items if isinstance(item, Failure)]
        assert failure.id == "photos.parquet:11"
        assert "row group 2" in failure.error.message


def test_one_cell_that_is_not_utf8(table):
    broken = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(np.array([0, 1, 2, 3], np.int32)), pa.py_buffer(b"a\xffc")]
    )
    items = list(ParquetSource(table({"t": broken}), text="t"))
    assert [type(item) for item in items] == [Record, Failure, Record]
    assert "column 't' is damaged" in items[1].error.message


def test_files_that_are_not_there(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in ("gone.parquet", "*.parquet", "empty"):
        with pytest.raises(UnreadableError):
            list(ParquetSource(tmp_path / path))
    (tmp_path / "x.parquet").write_bytes(b"no table")
    with pytest.raises(UnreadableError, match="not a Parquet file"):
        list(ParquetSource(tmp_path / "x.parquet"))


def test_large_cells_are_read_a_few_at_a_time(tmp_path):
    path = tmp_path / "photos.parquet"
    pictures = pa.table({"raw": [bytes([n]) * 4_000_000 for n in range(24)]})
    pq.write_table(pictures, path, use_dictionary=False, write_batch_size=1)
    del pictures
    before = pa.total_allocated_bytes()
    peak = 0
    for record in ParquetSource(path, image="raw"):
        assert len(record.image) == 4_000_000
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert peak < 60_000_000


def written(path, records):
    sink = ParquetSink(path)
    sink.write(list(records))
    sink.finish(RunReport())
    return path


def unit(*values):
    vector = np.array(values, np.float32)
    return vector / np.linalg.norm(vector)


def test_what_our_own_sink_wrote_comes_back(tmp_path):
    records = [
        Record(
            "a",
            Path("/pictures/a.jpg"),
            ("one", "two"),
            {"n": 1, "id": "x"},
            {"image": unit(1, 2)},
            {"image": 2.5},
        ),
        Record(
            "b", b"bytes", (), {"n": None, "id": "y"}, {"text": unit(3, 4), "image": unit(1, 0)}, content="c0"
        ),
        Record("a", None, ("three",), {"n": 3, "id": "z"}),
    ]
    found = list(ParquetSource(written(tmp_path / "o.parquet", records)))
    for record, back in zip(records, found, strict=True):
        assert (back.id, back.image, back.texts, back.content) == (
            record.id,
            record.image,
            record.texts,
            record.content,
        )
        assert back.attributes == record.attributes
        assert back.vectors.keys() == record.vectors.keys()
        assert back.norms == record.norms
        for name, vector in record.vectors.items():
            assert back.vectors[name].dtype == np.float32
            assert back.vectors[name].tobytes() == vector.tobytes()


def test_vectors_of_several_texts_come_back(tmp_path):
    several = np.stack([unit(1, 2, 3), unit(3, 2, 1)])
    records = [
        Record("a", None, ("x", "y"), {}, {"text": several}),
        Record("b", None, ("z",), {}, {"text": unit(1, 0, 0)}),
    ]
    first, second = ParquetSource(written(tmp_path / "o.parquet", records))
    assert np.array_equal(first.vectors["text"], several)
    assert np.array_equal(second.vectors["text"].ravel(), unit(1, 0, 0))


@settings(deadline=None)  # The first to be written imports the writer.
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip),
            st.lists(
                st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip), max_size=3
            ),
            st.none() | st.integers(-(1 << 60), 1 << 60),
            st.none() | st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_any_records_come_back(tmp_path_factory, rows):
    records = [
        Record(
            id,
            None,
            tuple(texts),
            {"n": n},
            {} if vector is None else {"image": np.array(vector, np.float32)},
        )
        for id, texts, n, vector in rows
    ]
    found = list(ParquetSource(written(tmp_path_factory.mktemp("p") / "o.parquet", records)))
    assert [(back.id, back.texts, back["n"]) for back in found] == [
        (record.id, record.texts, record["n"]) for record in records
    ]
    for record, back in zip(records, found, strict=True):
        assert {name: vector.tobytes() for name, vector in back.vectors.items()} == {
            name: vector.tobytes() for name, vector in record.vectors.items()
        }


def test_what_decoding_told_comes_back(tmp_path):
    told = {"width": 320, "height": 200, "format": "JPEG", "taken_at": datetime(2020, 5, 1, 12, 30)}
    records = [
        Record("a", Path("/a.jpg"), facts={**told, "size": 77, "mtime_ns": 5, "thumbnail": b"x"}),
        Record("b", Path("/b.jpg"), facts={**told, "taken_at": None}),
        Record("c", texts=("no picture",)),
        Record("d", Path("/d.jpg"), attributes={"width": "wide", "n": 1}, facts=told),
    ]
    path = written(tmp_path / "o.parquet", records)
    names = pq.read_schema(path).names
    assert {"width", "height", "format", "taken_at"} <= set(names)
    assert not {"size", "mtime_ns", "thumbnail"} & set(names)
    first, second, third, fourth = ParquetSource(written(tmp_path / "p.parquet", [*records[:3], records[0]]))
    assert (first.facts, first.attributes) == (told, {})
    assert (second.facts, second.attributes) == ({**told, "taken_at": None}, {})
    assert (third.facts, third.attributes) == ({}, {})
    assert fourth == first
    # An attribute of the user's is never overridden.
    *_, last = ParquetSource(path)
    assert (last["width"], last["height"], last["format"], last["n"]) == ("wide", 200, "JPEG", 1)
