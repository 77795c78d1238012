"""The ends of collections: tables, and files by suffix or format."""

from __future__ import annotations

import builtins
import json
import logging

import numpy as np
import pytest

import bowerbird as bb
from bowerbird import Collection, Record
from bowerbird.errors import BowerbirdError, MissingExtraError, RecordError


@pytest.fixture
def records(picture, model) -> Collection:
    made = [
        Record(f"r{n}", image=picture(3000 + n), texts=(f"text {n}",), attributes={"n": n}) for n in range(3)
    ]
    return Collection.from_items(made).embed(model)


def broken(records: Collection) -> Collection:
    def fail(record):
        if record.id == "r1":
            raise ValueError("no")
        return record

    return records.map(fail)


# Tables.


def test_arrow(records):
    table = records.to_arrow()
    assert table.column("id").to_pylist() == ["r0", "r1", "r2"]
    assert table.column("texts").to_pylist() == [["text 0"], ["text 1"], ["text 2"]]
    assert table.column("n").to_pylist() == [0, 1, 2]
    vectors = np.stack([record.vector for record in records])
    assert (np.array(table.column("vector:image").to_pylist(), np.float32) == vectors).all()
    assert Collection.range(3).to_arrow().to_pydict() == {"value": [0, 1, 2]}
    assert records.select("id", "n").to_arrow().to_pydict() == {"id": ["r0", "r1", "r2"], "n": [0, 1, 2]}
    assert Collection.range(0).to_arrow().num_rows == 0


def test_failures_are_no_rows_and_are_logged(records, caplog):
    with caplog.at_level(logging.WARNING, "bowerbird"):
        table = broken(records).to_arrow()
    assert table.column("id").to_pylist() == ["r0", "r2"]
    (message,) = [record.getMessage() for record in caplog.records]
    assert "2 done, 1 failed (1 ValueError); the first, map(fail) at r1" in message


def test_pandas(records):
    pytest.importorskip("pandas")
    frame = records.select("id", "n").to_pandas()
    assert frame.to_dict("list") == {"id": ["r0", "r1", "r2"], "n": [0, 1, 2]}


def test_polars(records):
    pytest.importorskip("polars")
    frame = records.select("id", "n").to_polars()
    assert frame.to_dict(as_series=False) == {"id": ["r0", "r1", "r2"], "n": [0, 1, 2]}


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_a_package_that_is_missing_is_named_before_anything_runs(package, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **more):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real(name, *args, **more)

    seen: list[int] = []
    chain = Collection.range(3).tee(seen.append)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=f"pip install {package}"):
        getattr(chain, f"to_{package}")()
    assert seen == []


# Files.


@pytest.mark.parametrize(
    ("name", "format", "reader"),
    [
        ("out.parquet", "", "from_parquet"),
        ("OUT.PARQUET", "", "from_parquet"),
        ("out", "parquet", "from_parquet"),
        ("out.lance", "", "from_lance"),
        ("out", "lance", "from_lance"),
        ("out", "clip-retrieval", "from_clip_retrieval"),
    ],
)
def test_what_is_written_by_suffix_or_format_is_read_back(records, tmp_path, name, format, reader):
    report = records.write(tmp_path / name, format=format)
    assert (report.done, report.failed.total()) == (3, 0)
    again = getattr(Collection, reader)(tmp_path / name).to_list()
    assert [record.text for record in again] == ["text 0", "text 1", "text 2"]
    for one, other in zip(records, again, strict=True):
        assert np.allclose(
            one.vectors["image"], other.vectors["image"], atol=1e-3
        )  # clip-retrieval keeps float16


@pytest.mark.parametrize(("name", "format"), [("out", ""), ("out", "npy"), ("out.v2", "npy")])
def test_npy(records, tmp_path, name, format):
    records.write(tmp_path / name, format=format)
    written = sorted(path.name for path in tmp_path.rglob("*.npy") if path.is_file())
    assert written
    rows = np.load(next(path for path in tmp_path.rglob("image.npy") if path.is_file()))
    assert (rows == np.stack([record.vector for record in records])).all()
    back = Collection.from_npy(tmp_path / name).to_list()
    assert [(record.id, record.text, record["n"]) for record in back] == [
        ("r0", "text 0", 0),
        ("r1", "text 1", 1),
        ("r2", "text 2", 2),
    ]
    assert (rows == np.stack([record.vector for record in back])).all()


@pytest.mark.parametrize("format", ["", "npy"])
def test_npy_is_a_folder(records, tmp_path, format):
    with pytest.raises(BowerbirdError, match=r"npy writes a folder with an array.*Name a folder"):
        records.write(tmp_path / "odd.NPY", format=format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["npy", "clip-retrieval"])
def test_vectors_of_nothing(tmp_path, format):
    with pytest.raises(BowerbirdError, match=r"Nothing was embedded.*\.embed\(MODEL\)"):
        Collection.from_texts(["a"]).write(tmp_path / "out", format=format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "format", "reader"),
    [
        ("out.parquet", "", "from_parquet"),
        ("out.lance", "", "from_lance"),
        ("out", "npy", "from_npy"),
        ("out", "clip-retrieval", "from_clip_retrieval"),
    ],
)
def test_what_was_told_of_pictures_is_written(photographs, model, tmp_path, name, format, reader):
    records = Collection.from_glob(photographs["chelsea"]).embed(model)
    (before,) = records
    assert before["width"] == 320
    records.write(tmp_path / name, format=format)
    (after,) = getattr(Collection, reader)(tmp_path / name)
    for fact in ("width", "height", "format", "taken_at"):
        assert after[fact] == before[fact]
    assert records.to_arrow().column("width").to_pylist() == [320]


def test_errors_files_of_several_outputs(records, tmp_path):
    for name in ("x.parquet", "x.lance"):
        broken(records).write(tmp_path / name)
        assert (tmp_path / f"{name}.errors.jsonl").is_file()


def test_an_index(records, tmp_path):
    report = records.write(tmp_path / "photos.bower")
    assert report.counts["added"] == 3
    again = records.write(tmp_path / "photos.bower")
    assert again.counts["unchanged"] == 3
    assert len(bb.Index.open(tmp_path / "photos.bower")) == 3


def test_a_suffix_that_says_nothing_or_a_format_there_is_none(records, tmp_path):
    for target in ("out.txt", "photos.2024/", "out.npz"):
        with pytest.raises(BowerbirdError, match="cannot be told") as caught:
            records.write(tmp_path / target)
        assert ".parquet" in caught.value.hint
    with pytest.raises(BowerbirdError, match="no format 'csv'"):
        records.write(tmp_path / "x", format="csv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["out.parquet", "out.lance", "out"])
def test_what_is_there_is_not_replaced_unasked(records, tmp_path, name):
    records.write(tmp_path / name)
    with pytest.raises(BowerbirdError):
        records.write(tmp_path / name)
    assert records.limit(2).write(tmp_path / name, overwrite=True).done == 2


@pytest.mark.parametrize("name", ["out.parquet", "out.lance", "out"])
def test_failures_are_listed_beside_the_output(records, tmp_path, name):
    report = broken(records).write(tmp_path / name)
    assert (report.done, dict(report.failed)) == (2, {"ValueError": 1})
    (errors,) = [path for path in tmp_path.rglob("*errors.jsonl") if path.is_file()]
    (line,) = [json.loads(text) for text in errors.read_text().splitlines()]
    assert (line["id"], line["step"], line["kind"]) == ("r1", "map(fail)", "ValueError")
    assert "in fail" in line["trace"]


@pytest.mark.parametrize("name", ["out.parquet", "out.lance", "out"])
def test_a_run_that_stops_leaves_nothing_that_looks_complete(records, tmp_path, name):
    with pytest.raises(RecordError, match="r1"):
        broken(records).on_error("raise").write(tmp_path / name)
    # So that it can be written the next time.
    assert records.write(tmp_path / name).done == 3


def test_what_failed_is_logged_once_when_written(records, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "bowerbird"):
        broken(records).write(tmp_path / "out.parquet")
    assert len([record for record in caplog.records if "1 failed" in record.getMessage()]) == 1
