"""NumPy output: arrays, and the table that says which row is whose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bowerbird.errors import RecordError
from bowerbird.flow.plan import Plan
from bowerbird.flow.report import RunReport
from bowerbird.flow.sinks.vectors import NpyFile, NpySink
from bowerbird.flow.sources.parquet import ParquetSource
from bowerbird.record import Record


def vector(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def write(sink: NpySink, *chunks: list[object]) -> RunReport:
    report = RunReport(done=sum(map(len, chunks)))
    for chunk in chunks:
        sink.write(chunk)
    sink.finish(report)
    return report


def test_a_growing_array(tmp_path):
    array = NpyFile(tmp_path / "a.npy", 5)
    pieces = [vector(n, rows, 5) for n, rows in enumerate([1, 0, 1000, 12345])]
    for piece in pieces:
        array.append(piece)
    array.close()
    array.close()
    assert np.load(tmp_path / "a.npy").tobytes() == np.concatenate(pieces).tobytes()
    assert np.load(tmp_path / "a.npy", mmap_mode="r").shape == (13346, 5)


def test_arrays_and_whose_rows_they_are(tmp_path):
    records = [
        Record("a", Path("/a.jpg"), ("x",), {"n": 1}, {"image": vector(1, 4), "text": vector(2, 6)}),
        Record(
            "b", None, ("y", "z"), {"n": 0.5}, {"text": vector(3, 2, 6)}, {"text": np.ones(2, np.float32)}
        ),
        Record("c"),
        Record(
            "d",
            Path("/d.jpg"),
            (),
            {},
            {"image": vector(4, 4), "image.features": vector(5, 3)},
            {"image": 2.0},
        ),
    ]
    report = write(NpySink(tmp_path / "o"), records[:2], records[2:])
    assert report.done == 4
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == [
        "image.features.npy",
        "image.npy",
        "records.parquet",
        "text.npy",
    ]
    arrays = {path.stem: np.load(path) for path in (tmp_path / "o").glob("*.npy")}
    assert {name: (array.shape, array.dtype) for name, array in arrays.items()} == {
        "image": ((2, 4), np.float32),
        "text": ((3, 6), np.float32),
        "image.features": ((1, 3), np.float32),
    }
    rows = pq.read_table(tmp_path / "o" / "records.parquet").to_pylist()
    assert [row["id"] for row in rows] == ["a", "b", "c", "d"]
    assert [row["n"] for row in rows] == [1, 0.5, None, None]
    assert [row["texts"] for row in rows] == [["x"], ["y", "z"], [], []]
    assert not any(name.startswith("vector:") for name in rows[0])
    for row, record in zip(rows, records, strict=True):
        for name, array in arrays.items():
            first, count = row[f"row:{name}"], row[f"rows:{name}"]
            if name in record.vectors:
                assert np.array_equal(
                    array[first : first + count].reshape(-1), record.vectors[name].reshape(-1)
                )
            else:
                assert (first, count) == (None, None)


def test_the_table_is_read_as_records(tmp_path):
    write(NpySink(tmp_path / "o"), [Record("a", Path("/a.jpg"), ("x",), {"n": 1}, {"image": vector(1, 4)})])
    (back,) = ParquetSource(tmp_path / "o" / "records.parquet")
    assert (back.id, str(back.image), back.texts) == ("a", "/a.jpg", ("x",))


def test_a_vector_of_another_width_is_a_failure(tmp_path):
    records = [
        Record("a", vectors={"image": vector(1, 4)}),
        Record("b", vectors={"text": vector(2, 6), "image": vector(2, 5)}),
        Record("c", vectors={"image": vector(3, 4), "text": vector(2, 6)}),
    ]
    report = write(NpySink(tmp_path / "o"), records)
    assert report.failed == {"UnsupportedInputError": 1}
    assert report.failures[0].id == "b"
    assert "5 numbers, where others have 4" in report.failures[0].error.message
    assert "b has a vector" in (tmp_path / "o" / "errors.jsonl").read_text()
    assert len(np.load(tmp_path / "o" / "image.npy")) == 2
    # Nothing of the refused record is in any array.
    assert len(np.load(tmp_path / "o" / "text.npy")) == 1
    sink = NpySink(tmp_path / "p")
    sink.adapt(Plan(ParquetSource(tmp_path), on_error="raise"))
    with pytest.raises(RecordError, match="b"):
        sink.write(records)
    sink.abort()


def test_elements_that_are_no_records(tmp_path):
    write(NpySink(tmp_path / "o"), [vector(1, 4), vector(2, 4)])
    assert np.array_equal(np.load(tmp_path / "o" / "vector.npy"), np.stack([vector(1, 4), vector(2, 4)]))
    write(NpySink(tmp_path / "p"), [{"id": 1, "vector": vector(1, 4)}, {"id": 2, "other": "x"}])
    assert np.load(tmp_path / "p" / "vector.npy").shape == (1, 4)
    assert pq.read_table(tmp_path / "p" / "records.parquet").to_pylist() == [
        {"id": 1, "row:vector": 0, "rows:vector": 1, "other": None},
        {"id": 2, "row:vector": None, "rows:vector": None, "other": "x"},
    ]


def test_names_that_files_cannot_have(tmp_path):
    write(NpySink(tmp_path / "o"), [Record("a", vectors={"../mine/image": vector(1, 4)})])
    assert np.load(tmp_path / "o" / "..%2Fmine%2Fimage.npy").shape == (1, 4)
