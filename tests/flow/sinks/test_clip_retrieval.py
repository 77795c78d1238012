"""The layout of clip-retrieval: rows of all three files correspond."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bowerbird.errors import BowerbirdError, RecordError
from bowerbird.flow.plan import Plan
from bowerbird.flow.report import RunReport
from bowerbird.flow.sinks.clip_retrieval import ClipRetrievalSink
from bowerbird.flow.sources.arrays import ClipRetrievalSource
from bowerbird.flow.sources.values import RangeSource
from bowerbird.record import Record


def vector(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def record(number: int, *parts: str, texts: int = 1) -> Record:
    shapes = {"image": (4,), "text": (6,) if texts == 1 else (texts, 6)}
    return Record(
        f"id{number}",
        Path(f"/p/{number}.jpg") if "image" in parts else None,
        tuple(f"text {number}.{n}" for n in range(texts)) if "text" in parts else (),
        {"width": number},
        {part: vector(number, *shapes[part]) for part in parts},
    )


def unit(row: Record) -> Record:
    vectors = {name: v / np.linalg.norm(v) for name, v in row.vectors.items()}
    return replace(row, vectors=vectors)


def write(sink: ClipRetrievalSink, *chunks: list[object]) -> RunReport:
    report = RunReport(done=sum(map(len, chunks)))
    for chunk in chunks:
        sink.write(chunk)
    sink.finish(report)
    return report


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_both_parts(tmp_path):
    rows = [record(n, "image", "text") for n in range(5)]
    write(ClipRetrievalSink(tmp_path / "o"), rows[:3], rows[3:])
    assert files(tmp_path / "o") == [
        "img_emb/img_emb_0.npy",
        "metadata/metadata_0.parquet",
        "text_emb/text_emb_0.npy",
    ]
    image = np.load(tmp_path / "o/img_emb/img_emb_0.npy")
    text = np.load(tmp_path / "o/text_emb/text_emb_0.npy")
    metadata = pq.read_table(tmp_path / "o/metadata/metadata_0.parquet")
    assert metadata.column_names == ["image_path", "caption", "id", "width"]
    assert image.tobytes() == np.stack([row.vectors["image"] for row in rows]).tobytes()
    assert text.tobytes() == np.stack([row.vectors["text"] for row in rows]).tobytes()
    assert metadata["image_path"].to_pylist() == [str(row.image) for row in rows]
    assert metadata["caption"].to_pylist() == [row.text for row in rows]


@pytest.mark.parametrize(("parts", "names"), [(3, "012"), (11, [f"{n:02}" for n in range(11)])])
def test_numbers_of_parts(tmp_path, parts, names):
    rows = [record(n, "image") for n in range(parts * 10)]
    write(ClipRetrievalSink(tmp_path / "o", rows=10), *[rows[n : n + 5] for n in range(0, len(rows), 5)])
    assert files(tmp_path / "o/img_emb") == [f"img_emb_{name}.npy" for name in names]
    assert files(tmp_path / "o/metadata") == [f"metadata_{name}.parquet" for name in names]
    assert not (tmp_path / "o/text_emb").exists()
    for name in names:
        array = np.load(tmp_path / f"o/img_emb/img_emb_{name}.npy")
        metadata = pq.read_table(tmp_path / f"o/metadata/metadata_{name}.parquet")
        assert len(array) == metadata.num_rows == 10
        first = int(name) * 10
        assert metadata["id"].to_pylist() == [f"id{n}" for n in range(first, first + 10)]


def test_all_parts_have_the_same_columns(tmp_path):
    rows = [record(n, "image") for n in range(20)]
    write(
        ClipRetrievalSink(tmp_path / "o", rows=10),
        rows[:10],
        [rows[10].with_attributes(width=0.5, label="x")],
    )
    schemas = [pq.read_schema(path) for path in sorted((tmp_path / "o/metadata").iterdir())]
    assert len(schemas) == 2
    assert schemas[0].names == schemas[1].names == ["image_path", "caption", "id", "width", "label"]
    assert schemas[0].types == schemas[1].types


def test_a_record_that_lacks_a_part_is_a_failure(tmp_path):
    rows = [
        record(0, "image", "text"),
        record(1, "image"),
        record(2, "text"),
        record(3),
        record(4, "image", "text"),
    ]
    report = write(ClipRetrievalSink(tmp_path / "o"), rows)
    assert [failure.id for failure in report.failures] == ["id1", "id2", "id3"]
    assert report.failures[0].error.message == (
        "id1 has no vector of a text, and this layout needs a text in every row."
    )
    assert report.done == 2
    assert (tmp_path / "o/errors.jsonl").read_text().count("\n") == 3
    assert len(np.load(tmp_path / "o/img_emb/img_emb_0.npy")) == 2
    assert pq.read_table(tmp_path / "o/metadata")["id"].to_pylist() == ["id0", "id4"]
    sink = ClipRetrievalSink(tmp_path / "p")
    sink.adapt(Plan(RangeSource(0, 1, 1), on_error="raise"))
    with pytest.raises(RecordError, match="id1"):
        sink.write(rows)
    sink.abort()


def test_a_part_that_comes_late(tmp_path):
    chunks = [[record(0, "image")], [record(1, "image", "text")]]
    report = write(ClipRetrievalSink(tmp_path / "o"), *chunks)
    assert "none of the first records had" in report.failures[0].error.message
    # Asked for, it is not in the way.
    report = write(ClipRetrievalSink(tmp_path / "p", vectors=("image",)), *chunks)
    assert not report.failed
    assert pq.read_table(tmp_path / "p/metadata")["caption"].to_pylist() == [None, "text 1.0"]
    assert not (tmp_path / "p/text_emb").exists()


def test_several_captions_are_several_rows(tmp_path):
    rows = [record(0, "image", "text"), record(1, "image", "text", texts=3)]
    write(ClipRetrievalSink(tmp_path / "o"), rows)
    metadata = pq.read_table(tmp_path / "o/metadata").to_pylist()
    assert [row["caption"] for row in metadata] == ["text 0.0", "text 1.0", "text 1.1", "text 1.2"]
    image = np.load(tmp_path / "o/img_emb/img_emb_0.npy")
    text = np.load(tmp_path / "o/text_emb/text_emb_0.npy")
    assert np.array_equal(image[1:], np.stack([rows[1].vectors["image"]] * 3))
    assert np.array_equal(text[1:], rows[1].vectors["text"])


def test_bad_elements(tmp_path):
    wide = Record("wide", vectors={"image": vector(1, 5)})
    report = write(ClipRetrievalSink(tmp_path / "o"), [record(1, "image"), wide, 7, {"a": 1}])
    assert [failure.error.message for failure in report.failures] == [
        "wide has a vector image of 5 numbers, where others have 4.",
        "7 is not a record.",
        "{'a': 1} is not a record.",
    ]
    assert len(np.load(tmp_path / "o/img_emb/img_emb_0.npy")) == 1


def test_attributes_called_like_its_columns(tmp_path):
    row = Record("a", None, (), {"caption": "mine", "id": 5}, {"image": vector(1, 4)})
    write(ClipRetrievalSink(tmp_path / "o"), [row])
    assert pq.read_table(tmp_path / "o/metadata").to_pylist() == [
        {"image_path": "a", "caption": None, "id": "a", "attribute:caption": "mine", "attribute:id": 5}
    ]


def test_wrong_arguments(tmp_path):
    with pytest.raises(BowerbirdError, match="'features'"):
        ClipRetrievalSink(tmp_path / "o", vectors=("features",))
    with pytest.raises(BowerbirdError, match="rows=0"):
        ClipRetrievalSink(tmp_path / "o", rows=0)


def test_read_back(tmp_path):
    rows = [unit(record(n, "image", "text")) for n in range(25)]
    write(ClipRetrievalSink(tmp_path / "o", rows=10), *[rows[n : n + 5] for n in range(0, 25, 5)])
    back = list(ClipRetrievalSource(tmp_path / "o"))
    assert len(back) == 25
    for found, row in zip(back, rows, strict=True):
        assert (str(found.image), found.texts, found["width"]) == (str(row.image), row.texts, row["width"])
        assert {name: v.tobytes() for name, v in found.vectors.items()} == {
            name: v.tobytes() for name, v in row.vectors.items()
        }
