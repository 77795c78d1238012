"""Globs and folders of pictures, and the tables beside them."""

import os
import pickle

import pytest

from bowerbird import Collection
from bowerbird.errors import BowerbirdError, RowError, UnreadableError
from bowerbird.flow.files import from_uri
from bowerbird.flow.sources import folders
from bowerbird.flow.sources.folders import FolderSource, GlobSource
from bowerbird.record import Failure, Record


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Empty files by their paths, in the working folder."""

    def make(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        return tmp_path

    monkeypatch.chdir(tmp_path)
    return make


def test_paths_as_they_were_given(tree):
    root = tree("p/b.jpg", "p/a.jpg", "p/sub/c.png", "p/notes.txt", "p/.hidden.jpg")
    ids = ["p/a.jpg", "p/b.jpg", "p/sub/c.png"]
    assert [record.id for record in GlobSource("p")] == ids
    assert [record.id for record in GlobSource("p/**/*.*g")] == ids
    assert [record.id for record in GlobSource("./p/")] == ids
    assert [record.id for record in GlobSource(root / "p")] == [str(root / id) for id in ids]
    assert [record.image for record in GlobSource("p")] == [root / id for id in ids]
    assert not any(record.named for record in GlobSource("p"))
    assert [record.id for record in GlobSource("p/notes.txt")] == ["p/notes.txt"]
    assert [record.id for record in GlobSource(["p/sub", "p/b.jpg", "p"])] == [ids[2], ids[1], ids[0]]


def test_a_source_reads_the_same_files_from_any_folder(tree, monkeypatch):
    root = tree("p/a.jpg", "q/b.jpg")
    source = GlobSource("p/*")
    above = GlobSource("../q", folder=root / "p")
    monkeypatch.chdir("/")
    assert [(record.id, record.image) for record in source] == [("p/a.jpg", root / "p/a.jpg")]
    assert [(record.id, record.image) for record in above] == [("../q/b.jpg", root / "q/b.jpg")]


@pytest.mark.parametrize("make", [GlobSource, FolderSource])
def test_names_that_are_not_utf8(tree, make):
    root = tree("p/a.jpg")
    raw = os.path.join(os.fsencode(root), b"p", b"caf\xe9.jpg")
    try:
        open(raw, "wb").close()
    except OSError:
        pytest.skip("this file system refuses such names")
    for source in (make("p"), *pickle.loads(pickle.dumps(make("p"))).parts()):
        _, record = source
        assert record.id.startswith("file:///")
        assert record.id.endswith("caf%E9.jpg")
        assert os.fsencode(from_uri(record.id)) == os.fsencode(record.image) == raw


def test_nothing_there(tree):
    tree("p/a.jpg")
    for pattern in ("gone", "p/*.tif"):
        with pytest.raises(UnreadableError):
            list(GlobSource(pattern))
    with pytest.raises(UnreadableError, match="not a folder"):
        list(FolderSource("p/a.jpg"))


def test_links_and_folders_that_cannot_be_read(tree):
    root = tree("p/a.jpg", "p/z.jpg")
    (root / "p/m.jpg").symlink_to("nowhere.jpg")
    (root / "p/loop").symlink_to(root / "p")
    for source in (GlobSource("p"), FolderSource("p")):
        items = list(source)
        assert [(item.id, type(item)) for item in items] == [
            ("p/a.jpg", Record),
            ("p/m.jpg", Failure),
            ("p/z.jpg", Record),
        ]
        assert isinstance(items[1].error, UnreadableError)


def test_parts_are_slices_in_order(tree, monkeypatch):
    monkeypatch.setattr(folders, "PART_FILES", 2)
    root = tree(*(f"p/{n}.jpg" for n in range(5)))
    (root / "p/3.jpg").unlink()
    (root / "p/3.jpg").symlink_to("nowhere.jpg")
    (root / "p/metadata.csv").write_text("file_name,n,caption\n0.jpg,7,zero\ngone.jpg,8,\n")
    for source in (GlobSource("p"), FolderSource("p", text="caption")):
        parts = pickle.loads(pickle.dumps(source.parts()))
        assert [part.count() for part in parts][:2] == [2, 2]
        split = [item for part in parts for item in part]
        assert [(item.id, type(item)) for item in split] == [(item.id, type(item)) for item in source]
        assert [item for item in split if isinstance(item, Record)] == [
            item for item in source if isinstance(item, Record)
        ]


def test_labels(tree):
    tree("p/cat/a.jpg", "p/cat/young/b.jpg", "p/dog/c.jpg", "p/d.jpg")
    assert [(record.id, dict(record.attributes)) for record in FolderSource("p")] == [
        ("p/d.jpg", {}),
        ("p/cat/a.jpg", {"label": "cat"}),
        ("p/cat/young/b.jpg", {"label": "cat"}),
        ("p/dog/c.jpg", {"label": "dog"}),
    ]


def test_splits_are_no_labels(tree):
    tree("p/train/cat/a.jpg", "p/test/b.jpg")
    assert [dict(record.attributes) for record in FolderSource("p")] == [
        {"split": "test"},
        {"split": "train", "label": "cat"},
    ]


def test_a_class_called_test_among_others(tree):
    tree("p/test/a.jpg", "p/urine/b.jpg")
    assert [record["label"] for record in FolderSource("p")] == ["test", "urine"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_metadata(tree, kind):
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet as pq

    root = tree("p/cat/a.jpg", "p/cat/b.jpg")
    rows = [
        {"file_name": "cat/b.jpg", "caption": "a cat", "age": 3},
        {"file_name": "cat/gone.jpg", "caption": "lost", "age": 4},
        {"file_name": "cat/b.jpg", "caption": "again", "age": 5},
        {"file_name": None, "caption": "nothing", "age": 6},
    ]
    table = pa.Table.from_pylist(rows)
    path = root / f"p/metadata.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    elif kind == "csv":
        pa.csv.write_csv(table, path)
    else:
        import json

        path.write_text("\n".join(map(json.dumps, rows)))
    first, second, *failures = FolderSource("p", text="caption")
    assert first == Record("p/cat/a.jpg", root / "p/cat/a.jpg", (), {"label": "cat"}, named=False)
    told = {"label": "cat", "age": 3}
    assert second == Record("p/cat/b.jpg", root / "p/cat/b.jpg", ("a cat",), told, named=False)
    start = 2 if kind == "csv" else 1
    assert {failure.id: type(failure.error) for failure in failures} == {
        f"metadata.{kind}:{start + 2}": RowError,
        f"metadata.{kind}:{start + 3}": RowError,
        f"metadata.{kind}:{start + 1}": UnreadableError,
    }
    assert f"named by metadata.{kind}:{start} already" in failures[0].error.message
    assert "gone.jpg does not exist" in failures[2].error.message


def test_metadata_of_subfolders_and_broken_rows(tree):
    root = tree("p/train/a.jpg", "p/test/b.jpg")
    (root / "p/train/metadata.csv").write_text('image_file_name,label\na.jpg,cat\nb.jpg,"x" y\n')
    (root / "p/test/metadata.jsonl").write_text('{"file_name": "b.jpg", "label": "dog"}\n[]\n')
    items = list(FolderSource("p"))
    assert [dict(item.attributes) for item in items if isinstance(item, Record)] == [
        {"split": "test", "label": "dog"},
        {"split": "train", "label": "cat"},
    ]
    assert [item.id for item in items if isinstance(item, Failure)] == [
        "test/metadata.jsonl:2",
        "train/metadata.csv:3",
    ]


def test_metadata_for_pictures_that_are_all_missing(tree):
    root = tree("p/sub/x.txt")
    (root / "p/sub/metadata.csv").write_text("file_name\na.jpg\nx.txt\n")
    missing, other = FolderSource("p")
    assert (missing.id, other.id) == ("sub/metadata.csv:2", "sub/metadata.csv:3")
    assert "is not among the pictures" in other.error.message


def test_metadata_without_file_names(tree):
    root = tree("p/a.jpg")
    (root / "p/metadata.csv").write_text("name,caption\na.jpg,x\n")
    with pytest.raises(BowerbirdError, match="no column file_name"):
        list(FolderSource("p"))
    (root / "p/metadata.csv").write_text("file_name,caption\na.jpg,x\n")
    with pytest.raises(BowerbirdError, match="no column 'text'"):
        list(FolderSource("p", text="text"))


def test_ids_are_not_the_users(tree):
    tree("p/cat/a.jpg")
    for source in (FolderSource("p"), GlobSource("p")):
        assert [record.named for record in source] == [False]
        assert [record.named for part in source.parts() for record in part] == [False]


def test_globs_are_one_or_several_or_lists(tree):
    root = tree("p/a.jpg", "p/b.jpg", "q/c.jpg")
    for patterns in (["p", "q"], [["p", "q"]], [("p",), root / "q"], [[root / "p"], "q"]):
        records = Collection.from_glob(*patterns).to_list()
        assert [record.image.name for record in records] == ["a.jpg", "b.jpg", "c.jpg"]
    for nothing in ([], [[]]):
        with pytest.raises(BowerbirdError, match="given nothing"):
            Collection.from_glob(*nothing)
