"""Arrow tables, readers and files."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pytest

from bowerbird.errors import BowerbirdError, UnreadableError
from bowerbird.flow.sources import arrow
from bowerbird.flow.sources.arrow import ArrowSource
from bowerbird.record import Failure, Record


@pytest.fixture
def table():
    return pa.table({"sku": [f"s{n}" for n in range(10)], "t": ["word"] * 10, "n": list(range(10))})


def write_file(path, table):
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


def write_stream(path, table):
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


def write_feather(path, table):
    pyarrow.feather.write_feather(table, str(path), chunksize=3)


def test_rows_of_a_table(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = ArrowSource(table.slice(0, 2).append_column("file", [["a.jpg", None]]), image="file", text="t")
    assert (
        list(source)
        == list(source)
        == [
            Record("table:1", tmp_path / "a.jpg", ("word",), {"sku": "s0", "n": 0}, named=False),
            Record("table:2", None, ("word",), {"sku": "s1", "n": 1}, named=False),
        ]
    )
    assert source.count() == 2


def test_parts_are_slices_and_travel_light(table, monkeypatch):
    monkeypatch.setattr(arrow, "PART_ROWS", 4)
    wide = pa.table({"n": list(range(10)), "raw": [bytes(100_000)] * 10, "k": ["a", *"bcdefghi", "a"]})
    source = ArrowSource(wide, id="k")
    parts = source.parts()
    pickles = [pickle.dumps(part) for part in parts]
    assert [part.count() for part in parts] == [4, 4, 2]
    assert all(len(each) < 450_000 for each in pickles)
    items = [item for each in pickles for item in pickle.loads(each)]
    assert [item.id for item in items] == [*"abcdefghi", "table:10"]
    assert "is taken by table:1" in items[-1].error.message


def test_a_reader_only_once(table):
    table = table.set_column(0, "sku", pa.array(["a", "b", "a", *"cdefghi"]))
    source = ArrowSource(
        pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=2)), id="sku"
    )
    items = list(source)
    assert [item.id for item in items] == ["a", "b", "table:3", *"cdefghi"]
    assert isinstance(items[2], Failure)
    with pytest.raises(BowerbirdError, match="a second time"):
        list(source)


@pytest.mark.parametrize("write", [write_file, write_stream, write_feather])
def test_files(table, tmp_path, write):
    path = tmp_path / "photos.arrow"
    write(path, table)
    source = ArrowSource(path, text="t")
    records = list(pickle.loads(pickle.dumps(source)))
    assert [record.id for record in records] == [f"photos.arrow:{n}" for n in range(1, 11)]
    assert records[9].attributes == {"sku": "s9", "n": 9}
    assert [record.id for record in ArrowSource(str(path), id="sku")] == [f"s{n}" for n in range(10)]


def test_a_stream_that_is_cut_off(table, tmp_path):
    path = tmp_path / "photos.arrow"
    write_stream(path, table)
    path.write_bytes(path.read_bytes()[:-300])
    *before, failure = ArrowSource(path)
    assert before
    assert all(isinstance(item, Record) for item in before)
    assert failure.id == f"photos.arrow:{len(before) + 1}"
    assert isinstance(failure.error, UnreadableError)


@pytest.mark.parametrize(
    "content", [b"", b"no arrow", b"ARROW1\0\0 and nothing", b"FEA1 feather of old FEA1"]
)
def test_files_that_are_not_of_arrow(tmp_path, content):
    path = tmp_path / "photos.arrow"
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match=r"not an Arrow file"):
        list(ArrowSource(path))
    with pytest.raises(UnreadableError, match="does not exist"):
        list(ArrowSource(tmp_path / "gone.arrow"))


def test_what_is_no_table():
    with pytest.raises(BowerbirdError, match="dict is not an Arrow table"):
        ArrowSource({"a": [1]})


@pytest.mark.parametrize("part", ["image", "text", "id"])
def test_a_missing_column_stops_at_once(table, part):
    with pytest.raises(BowerbirdError, match="table has no column 'c'"):
        list(ArrowSource(table, **{part: "c"}))


def test_columns_of_the_same_name():
    with pytest.raises(BowerbirdError, match="columns of the same name"):
        list(ArrowSource(pa.table([[1], [2]], names=["a", "a"])))


@pytest.mark.parametrize(
    "type_",
    [
        pa.list_(pa.float32(), 2),
        pa.list_(pa.float32()),
        pa.large_list(pa.float64()),
        pa.list_(pa.float16(), 2),
    ],
)
def test_columns_of_vectors(type_):
    # As slices, with nulls, and without.
    values = np.array([[3, 4], [1, 0], [0, 1], [5, 6]], np.float16)
    for rows in ([*values], [values[0], None, *values[1:]]):
        column = pa.array([None if row is None else list(row) for row in rows], type_)
        table = pa.table({"vector:fashion.image": column, "norm:fashion.image": pa.array([1.5] * len(rows))})
        for start in (0, 1, 2):
            records = list(ArrowSource(table.slice(start)))
            for record, row in zip(records, rows[start:], strict=True):
                assert record.norms == {"fashion.image": 1.5}
                assert not record.attributes
                if row is None:
                    assert not record.vectors
                else:
                    assert record.vectors["fashion.image"].dtype == np.float32
                    assert np.array_equal(record.vectors["fashion.image"], row)


def test_a_data_frame_of_pandas(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"sku": ["a", "b", "c"], "t": ["x", "y", "z"], "n": [1, 2, 3]})
    source = ArrowSource(frame, text="t", id="sku")
    assert source.count() == 3
    assert [(record.id, record.text, record["n"]) for record in source] == [
        ("a", "x", 1),
        ("b", "y", 2),
        ("c", "z", 3),
    ]
    # What pandas keeps of the rows of a frame that some were taken from is no attribute.
    assert [dict(record.attributes) for record in ArrowSource(frame[frame.n > 1])] == [
        {"sku": "b", "t": "y", "n": 2},
        {"sku": "c", "t": "z", "n": 3},
    ]
    with pytest.raises(BowerbirdError, match="cannot become an Arrow table"):
        ArrowSource(pandas.DataFrame({"mixed": [1, "a", object()]}))


def test_a_data_frame_of_polars():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"t": ["x", None], "n": [1, 2], "vector:image": [[1.0, 0.0], [0.0, 1.0]]})
    first, second = list(ArrowSource(frame, text="t"))
    assert (first.id, first.texts, second.texts, dict(second.attributes)) == ("table:1", ("x",), (), {"n": 2})
    assert second.vector.tolist() == [0, 1]


def test_a_record_batch(table):
    assert [record.id for record in ArrowSource(table.to_batches()[0], id="sku")] == [
        f"s{n}" for n in range(10)
    ]


def test_a_c_stream_of_any_kind(table):
    class Exporter:
        def __arrow_c_stream__(self, requested_schema=None):
            return table.__arrow_c_stream__(requested_schema)

    source = ArrowSource(Exporter(), id="sku")
    assert (
        [record.id for record in source] == [record.id for record in source] == [f"s{n}" for n in range(10)]
    )
