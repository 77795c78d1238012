"""Arrays of vectors, and clip-retrieval's folders."""

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bowerbird.errors import BowerbirdError, RowError, UnreadableError
from bowerbird.flow.report import RunReport
from bowerbird.flow.sinks.clip_retrieval import ClipRetrievalSink
from bowerbird.flow.sinks.vectors import NpySink
from bowerbird.flow.sources import arrays
from bowerbird.flow.sources.arrays import ClipRetrievalSource, NpySource
from bowerbird.record import Failure, Record


def units(rows, dim=8, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def saved(tmp_path):
    def save(array, name="vectors.npy"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)
        return path

    return save


def test_unit_vectors_come_as_they_are(saved):
    vectors = units(5)
    records = list(NpySource(saved(vectors), name="text"))
    assert [record.id for record in records] == [f"vectors.npy:{n}" for n in range(1, 6)]
    assert all(
        record.vectors["text"].tobytes() == row.tobytes()
        for record, row in zip(records, vectors, strict=True)
    )
    assert all(abs(record.norms["text"] - 1) < 2e-6 for record in records)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_others_are_scaled(saved, dtype):
    vectors = (units(4) * np.array([[0.5], [2], [3], [10]])).astype(dtype)
    for record, row in zip(NpySource(saved(vectors)), vectors.astype(np.float64), strict=True):
        assert record.vector.dtype == np.float32
        assert record.norms["image"] == pytest.approx(np.linalg.norm(row), rel=1e-6)
        np.testing.assert_allclose(record.vector, row / np.linalg.norm(row), atol=1e-7)


def test_rows_that_are_no_vectors(saved):
    vectors = units(5)
    vectors[1, 3] = np.nan
    vectors[2] = 0
    vectors[3, 0] = np.inf
    items = list(NpySource(saved(vectors)))
    assert [type(item) for item in items] == [Record, Failure, Failure, Failure, Record]
    assert [item.id for item in items] == [f"vectors.npy:{n}" for n in range(1, 6)]
    assert [item.error.message.split(": ")[1][:22] for item in items[1:4]] == [
        "the vector holds NaN o",
        "the vector is all zero",
        "the vector holds NaN o",
    ]
    assert all(isinstance(item.error, RowError) for item in items[1:4])


def test_parts_are_slices_in_order(saved, monkeypatch):
    monkeypatch.setattr(arrays, "PART_ROWS", 4)
    source = NpySource(saved(units(10)))
    parts = pickle.loads(pickle.dumps(source.parts()))
    assert [part.count() for part in parts] == [4, 4, 2]
    assert [record.id for part in parts for record in part] == [record.id for record in source]
    assert source.count() == 10
    assert [record.vector.tobytes() for part in parts for record in part] == [
        r.vector.tobytes() for r in source
    ]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_with_a_table(saved, tmp_path, kind):
    rows = [{"file": f"{n}.jpg", "n": n} for n in range(3)]
    path = tmp_path / f"meta.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        path.write_text("file,n\n" + "".join(f"{row['file']},{row['n']}\n" for row in rows))
    vectors = units(3)
    source = NpySource(saved(vectors), path)
    assert [dict(record.attributes) for record in source] == rows
    assert [record.vector.tobytes() for part in source.parts() for record in part] == [
        v.tobytes() for v in vectors
    ]
    with pytest.raises(BowerbirdError, match=r"has 4 vectors, and its table 3 rows"):
        list(NpySource(saved(units(4)), path))


def test_a_broken_row_of_the_table_keeps_its_place(saved, tmp_path):
    (tmp_path / "meta.csv").write_text('n\n1\n"x" y\n3\n')
    vectors = units(3)
    first, second, third = NpySource(saved(vectors), tmp_path / "meta.csv")
    assert isinstance(second, Failure)
    assert (first["n"], third["n"], third.vector.tobytes()) == (1, 3, vectors[2].tobytes())


@pytest.mark.parametrize(
    "array",
    [np.zeros(3, np.float32), np.zeros((2, 2), np.int64), np.zeros((2, 2, 2), np.float32), np.zeros((2, 0))],
)
def test_arrays_that_hold_something_else(saved, array):
    with pytest.raises(UnreadableError, match="not vectors"):
        list(NpySource(saved(array)))


def test_no_vectors(saved):
    assert list(NpySource(saved(np.zeros((0, 4), np.float32)))) == []


def test_files_that_are_no_arrays(saved, tmp_path):
    path = saved(units(4))
    for content in (path.read_bytes()[:-3], b"", b"\x93NUMPY", b"x" * 100):
        path.write_bytes(content)
        with pytest.raises(UnreadableError, match=r"not an \.npy file"):
            list(NpySource(path))
    np.save(path, np.array([{}], object), allow_pickle=True)
    with pytest.raises(UnreadableError):
        list(NpySource(path))
    with pytest.raises(UnreadableError, match="does not exist"):
        list(NpySource(tmp_path / "gone.npy"))
    with pytest.raises(BowerbirdError, match="no table that is known"):
        NpySource(path, tmp_path / "meta.xlsx")


def test_what_our_own_npy_sink_wrote_comes_back(tmp_path):
    vectors, two = units(2), units(2, seed=1)
    records = [
        Record(
            "a", Path("/p/a.jpg"), ("x", "y"), {"n": 1}, {"image": vectors[0], "text": two}, {"image": 3.5}
        ),
        Record("b", None, (), {"n": 2}),
        Record("c", Path("/p/c.jpg"), (), {"n": 3}, {"image": vectors[1]}, {"image": 4.5}),
    ]
    sink = NpySink(tmp_path / "out")
    sink.write(records)
    sink.finish(RunReport())
    table = tmp_path / "out" / "records.parquet"
    images = list(NpySource(tmp_path / "out" / "image.npy", table))
    assert [(record.id, record.image, record.texts, dict(record.attributes)) for record in images] == [
        (record.id, record.image, record.texts, dict(record.attributes)) for record in records
    ]
    assert images[0].vector.tobytes() == vectors[0].tobytes()
    assert images[2].vector.tobytes() == vectors[1].tobytes()
    assert (images[0].norms, images[1].vectors, images[2].norms) == ({"image": 3.5}, {}, {"image": 4.5})
    texts = list(NpySource(tmp_path / "out" / "text.npy", table, name="text"))
    assert np.array_equal(texts[0].vectors["text"], two)
    assert not texts[2].vectors


def clip_folder(saved, tmp_path, counts, *, digits=1, dtype=np.float16):
    for number, count in enumerate(counts):
        padded = f"{number:0{digits}}"
        saved(units(count, seed=number).astype(dtype), f"out/img_emb/img_emb_{padded}.npy")
        saved(units(count, seed=number + 100).astype(dtype), f"out/text_emb/text_emb_{padded}.npy")
        rows = [
            {"image_path": f"/p/{number}-{n}.jpg", "caption": f"{number} {n}", "similarity": n}
            for n in range(count)
        ]
        (tmp_path / "out/metadata").mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"out/metadata/metadata_{padded}.parquet")
    return tmp_path / "out"


@pytest.mark.parametrize("digits", [1, 2, 4])
def test_clip_retrieval(saved, tmp_path, digits):
    counts = [3, 2, *[1] * 9]
    source = ClipRetrievalSource(clip_folder(saved, tmp_path, counts, digits=digits))
    records = list(source)
    assert [record.text for record in records] == [
        f"{k} {n}" for k, count in enumerate(counts) for n in range(count)
    ]
    assert records[1].image == Path("/p/0-1.jpg")
    assert records[1].attributes == {"similarity": 1}
    assert set(records[1].vectors) == {"image", "text"}
    np.testing.assert_allclose(records[1].vectors["image"], units(3)[1], atol=1e-3)
    assert all(
        abs(np.linalg.norm(vector) - 1) < 2e-6 for record in records for vector in record.vectors.values()
    )
    assert source.count() == sum(counts)
    parts = pickle.loads(pickle.dumps(source.parts()))
    assert [record.id for part in parts for record in part] == [record.id for record in records]


def test_clip_retrieval_with_pictures_alone(saved, tmp_path):
    saved(units(2), "out/img_emb/img_emb_0.npy")
    records = list(ClipRetrievalSource(tmp_path / "out"))
    assert [(record.id, set(record.vectors)) for record in records] == [
        ("img_emb_0.npy:1", {"image"}),
        ("img_emb_0.npy:2", {"image"}),
    ]


def test_clip_retrieval_that_does_not_belong_together(saved, tmp_path):
    folder = clip_folder(saved, tmp_path, [2, 3])
    saved(units(2), "out/text_emb/text_emb_1.npy")
    told = "part 1 .* img_emb_1.npy has 3, text_emb_1.npy has 2, metadata_1.parquet has 3"
    with pytest.raises(BowerbirdError, match=told):
        list(ClipRetrievalSource(folder))
    (folder / "text_emb/text_emb_1.npy").unlink()
    with pytest.raises(UnreadableError, match=r"Part 1 .* has no file in text_emb/"):
        list(ClipRetrievalSource(folder))
    saved(units(3), "out/text_emb/text_emb_1.npy")
    saved(units(3), "out/text_emb/text_emb_01.npy")
    with pytest.raises(BowerbirdError, match="part 1 twice"):
        list(ClipRetrievalSource(folder))


def test_clip_retrieval_that_is_not_there(tmp_path):
    with pytest.raises(UnreadableError, match="no output of clip-retrieval"):
        list(ClipRetrievalSource(tmp_path))


def test_clip_retrieval_rows_that_are_no_vectors(saved, tmp_path):
    folder = clip_folder(saved, tmp_path, [3])
    broken = units(3, seed=100)
    broken[1] = np.nan
    saved(broken, "out/text_emb/text_emb_0.npy")
    items = list(ClipRetrievalSource(folder))
    assert [type(item) for item in items] == [Record, Failure, Record]
    assert items[1].id == "img_emb_0.npy:2"


def test_what_our_own_clip_retrieval_sink_wrote_comes_back(tmp_path):
    images, texts = units(5), units(5, seed=1)
    records = [
        Record(f"r{n}", Path(f"/p/{n}.jpg"), (f"t{n}",), {"n": n}, {"image": images[n], "text": texts[n]})
        for n in range(5)
    ]
    sink = ClipRetrievalSink(tmp_path / "out", rows=2)
    for start in range(0, 5, 2):
        sink.write(records[start : start + 2])
    sink.finish(RunReport())
    found = list(ClipRetrievalSource(tmp_path / "out"))
    assert [(back.image, back.texts, back["n"]) for back in found] == [
        (r.image, r.texts, r["n"]) for r in records
    ]
    for record, back in zip(records, found, strict=True):
        assert {name: v.tobytes() for name, v in back.vectors.items()} == {
            name: v.tobytes() for name, v in record.vectors.items()
        }


@pytest.fixture
def ours(tmp_path):
    def write(*names):
        records = [
            Record(
                "a",
                Path("/a.jpg"),
                ("x",),
                {"n": 1},
                {name: units(2, seed=place)[0] for place, name in enumerate(names)},
            ),
            Record("b", None, (), {"n": 2}),
        ]
        sink = NpySink(tmp_path / "out", overwrite=True)
        sink.write(records)
        sink.finish(RunReport())
        return tmp_path / "out", records

    return write


def test_a_folder_that_we_wrote(ours):
    folder, records = ours("image", "text", "a/b")
    for path, more, name in [
        (folder, {}, "image"),
        (folder, {"name": "text"}, "text"),
        (folder, {"name": "a/b"}, "a/b"),
        (folder / "text.npy", {}, "text"),
        (folder / "a%2Fb.npy", {}, "a/b"),
    ]:
        source = NpySource(path, **more)
        first, second = source
        assert (first.id, first.text, second.id, dict(second.attributes)) == ("a", "x", "b", {"n": 2})
        assert {name: vector.tobytes() for name, vector in first.vectors.items()} == {
            name: records[0].vectors[name].tobytes()
        }
        assert not second.vectors
        assert source.count() == 2
    (renamed, _) = NpySource(folder / "text.npy", name="mine")
    assert list(renamed.vectors) == ["mine"]
    with pytest.raises(BowerbirdError, match="no vectors 'none', but a/b, image, text"):
        NpySource(folder, name="none")


def test_a_folder_with_one_array(ours):
    folder, _ = ours("text")
    assert list(next(iter(NpySource(folder))).vectors) == ["text"]


def test_a_folder_that_we_did_not_write(saved, tmp_path):
    saved(units(2), "out/image.npy")
    with pytest.raises(UnreadableError, match=r"a folder without records\.parquet"):
        NpySource(tmp_path / "out")
    # A table beside the array that says nothing of it is somebody else's.
    pq.write_table(pa.table({"n": [1, 2, 3]}), tmp_path / "out" / "records.parquet")
    first, _ = NpySource(tmp_path / "out" / "image.npy")
    assert (first.id, first.named, list(first.vectors)) == ("image.npy:1", False, ["image"])
