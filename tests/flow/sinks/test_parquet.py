"""Parquet output: bounded row groups, columns that widen late, and our own files read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from bowerbird.flow.report import RunReport
from bowerbird.flow.sinks.arrow import to_arrow
from bowerbird.flow.sinks.parquet import ParquetSink
from bowerbird.flow.sources.parquet import ParquetSource
from bowerbird.record import Record


def write(sink: ParquetSink, *chunks: list[object]) -> RunReport:
    report = RunReport()
    for chunk in chunks:
        sink.write(chunk)
    sink.finish(report)
    return report


def record(number: int, texts: int = 1) -> Record:
    rng = np.random.default_rng(number)
    vectors = {"image": rng.normal(size=8).astype(np.float32)}
    if texts:
        vectors["text"] = rng.normal(size=(texts, 8) if texts > 1 else 8).astype(np.float32)
    norms = {
        name: 1.5 if vector.ndim == 1 else np.arange(texts, dtype=np.float32)
        for name, vector in vectors.items()
    }
    return Record(
        str(number),
        Path(f"/photos/{number}.jpg"),
        tuple(f"text {n}" for n in range(texts)),
        {"price": number},
        vectors,
        norms,
        f"{number:032x}",
    )


def test_our_files_come_back_as_they_were(tmp_path):
    rows = [record(n, texts) for n, texts in enumerate([1, 0, 3, 2])]
    for name, some in (("several.parquet", rows), ("single.parquet", rows[:2])):
        write(ParquetSink(tmp_path / name), some)
        back = list(ParquetSource(tmp_path / name))
        assert len(back) == len(some)
        for found, row in zip(back, some, strict=True):
            assert (found.id, found.texts, found.content) == (row.id, row.texts, row.content)
            assert str(found.image) == str(row.image)
            assert found["price"] == row["price"]
            assert set(found.vectors) == set(row.vectors)
            for vector, was in row.vectors.items():
                assert found.vectors[vector].reshape(-1).tobytes() == was.reshape(-1).tobytes()
                assert np.array_equal(np.ravel(found.norms[vector]), np.ravel(row.norms[vector]))


def test_compressed_with_bounded_row_groups(tmp_path):
    rows = [Record(str(n), vectors={"image": np.full(256, n, np.float32)}) for n in range(1000)]
    sink = ParquetSink(tmp_path / "o.parquet", group_bytes=100_000)
    write(sink, *[rows[start : start + 50] for start in range(0, 1000, 50)])
    file = pq.ParquetFile(tmp_path / "o.parquet")
    with file:
        sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
        assert len(sizes) >= 8
        assert max(sizes) * 1024 < 250_000
        group = file.metadata.row_group(0)
        assert {group.column(n).compression for n in range(group.num_columns)} == {"ZSTD"}
        assert file.read(["id"])["id"].to_pylist() == [str(n) for n in range(1000)]


LATE = [
    (0.5, [float(n) for n in range(100)] + [0.5], pa.float64()),
    ("x", [str(n) for n in range(100)] + ["x"], pa.string()),
    (2**70, [str(n) for n in range(100)] + [str(2**70)], pa.string()),
    (None, [*range(100), None], pa.int64()),
]


@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
@pytest.mark.parametrize(("late", "expected", "type_"), LATE)
def test_a_type_that_comes_late(tmp_path, late, expected, type_, folder):
    target = tmp_path / ("o" if folder else "o.parquet")
    # Every chunk is a row group, and in the folder a file, before the last one shows what the column really is.
    sink = ParquetSink(target, group_bytes=1, part_bytes=1)
    chunks = [[{"x": n, "y": "same"} for n in range(start, start + 10)] for start in range(0, 100, 10)]
    write(sink, *chunks, [{"x": late, "z": [1]}])
    table = pq.read_table(target)
    assert table["x"].to_pylist() == expected
    assert table.schema.field("x").type == type_
    assert table["z"].to_pylist() == [None] * 100 + [[1]]
    assert len(list(tmp_path.rglob("*.parquet"))) == (11 if folder else 1)
    assert list(tmp_path.rglob(".*")) == []


def test_large_numbers_before_a_fraction(tmp_path):
    write(
        ParquetSink(tmp_path / "o.parquet", group_bytes=1),
        [{"x": 2**53 + 1, "l": [2**53 + 1]}],
        [{"x": 0.5, "l": [0.5]}],
    )
    table = pq.read_table(tmp_path / "o.parquet")
    assert table["x"].to_pylist() == [str(2**53 + 1), "0.5"]
    assert table["l"].to_pylist() == [f"[{2**53 + 1}]", "[0.5]"]


def test_several_texts_come_late(tmp_path):
    rows = [record(n) for n in range(20)] + [record(20, texts=3)]
    write(ParquetSink(tmp_path / "o.parquet", group_bytes=1), *[[row] for row in rows])
    back = list(ParquetSource(tmp_path / "o.parquet"))
    for found, row in zip(back, rows, strict=True):
        assert found.vectors["text"].reshape(-1).tobytes() == row.vectors["text"].reshape(-1).tobytes()


def test_parts_of_a_folder_are_bounded_and_in_order(tmp_path):
    rows = [Record(str(n), vectors={"image": np.full(256, n, np.float32)}) for n in range(1000)]
    sink = ParquetSink(tmp_path / "o", group_bytes=50_000, part_bytes=200_000)
    write(sink, *[rows[start : start + 50] for start in range(0, 1000, 50)])
    files = sorted((tmp_path / "o").iterdir())
    assert [file.name for file in files] == [f"part-{n:05}.parquet" for n in range(len(files))]
    assert len(files) >= 4
    assert pq.read_table(tmp_path / "o")["id"].to_pylist() == [str(n) for n in range(1000)]


def test_pixels_are_left_out_and_said_to_be(tmp_path):
    pictures = [Image.new("RGB", (4, 4)), np.zeros((4, 4, 3), np.uint8), b"a file"]
    rows = [Record(str(n), picture) for n, picture in enumerate(pictures)]
    report = write(ParquetSink(tmp_path / "o.parquet"), rows)
    assert report.notes == ["The pixels of 2 decoded pictures are not in the output."]
    assert pq.read_table(tmp_path / "o.parquet")["image_bytes"].to_pylist() == [None, None, b"a file"]


cells = (
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
)
rows = st.dictionaries(st.sampled_from("abc"), cells | st.lists(cells, max_size=2), max_size=3)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.lists(st.lists(rows, max_size=3), max_size=4))
def test_chunks_make_no_difference(tmp_path, chunks):
    """The same rows give the same table, in whichever groups they are written."""
    for name, size in (("one", 1 << 30), ("many", 1)):
        write(ParquetSink(tmp_path / f"{name}.parquet", overwrite=True, group_bytes=size), *chunks)
    one, many = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("one", "many"))
    assert many.schema == one.schema
    assert many.num_rows == sum(map(len, chunks))
    assert plain(many.to_pylist()) == plain(one.to_pylist())


def plain(value):
    """Numbers that became text in two steps, by way of a float, read `0.0` where others read `0`: the same number."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        try:  # a list that became text
            return plain(json.loads(value)) if value.startswith("[") else value
        except ValueError:
            return value


def test_the_same_columns_as_to_arrow(tmp_path):
    some = [record(n, texts=2) for n in range(3)]
    write(ParquetSink(tmp_path / "o.parquet"), some)
    assert pq.read_table(tmp_path / "o.parquet").to_pylist() == to_arrow(some).to_pylist()
