"""Pairs in: every format, every way a row can be of no use, and pictures that are the same picture."""

from __future__ import annotations

import gzip
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bowerbird import Collection, Record
from bowerbird.errors import BowerbirdError, LearnError, RecordError
from bowerbird.learn.examples import Examples
from bowerbird.learn.pairs import Dropped, counted, decodable, read_examples

SAID = {
    "a.png": ["a cat", "a pet, asleep"],
    "b.png": ["a dog", "a pet, asleep"],
    "c.png": ["a cup"],
}
"""One text is said of two pictures."""

ROWS = [(name, caption) for name, captions in SAID.items() for caption in captions]


@pytest.fixture
def folder(tmp_path: Path, picture: Callable[..., bytes]) -> Path:
    """Three pictures."""
    for seed, name in enumerate(SAID):
        (tmp_path / name).write_bytes(picture(seed))
    return tmp_path


def said(examples: Examples) -> dict[str, list[str]]:
    """By name of the picture, its texts."""
    found: dict[str, list[str]] = {picture.name: [] for picture in examples.pictures}
    for picture, text in examples.links.tolist():
        found[examples.pictures[picture].name].append(examples.texts[text])
    return found


def as_csv(folder: Path) -> Path:
    lines = "".join(f'{name},"{caption}"\n' for name, caption in ROWS)
    (folder / "pairs.csv").write_text(f"Image,Caption\n{lines}")
    return folder / "pairs.csv"


def as_tsv(folder: Path) -> Path:
    (folder / "pairs.tsv").write_text("file\ttext\n" + "".join(f"{name}\t{text}\n" for name, text in ROWS))
    return folder / "pairs.tsv"


def as_jsonl(folder: Path) -> Path:
    lines = "".join(json.dumps({"path": name, "captions": texts}) + "\n" for name, texts in SAID.items())
    (folder / "pairs.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return folder / "pairs.jsonl.gz"


def as_parquet(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"image": [name for name, _ in ROWS], "sentence": [text for _, text in ROWS]})
    pq.write_table(table, folder / "pairs.parquet")
    return folder / "pairs.parquet"


def as_coco(folder: Path) -> Path:
    ids = {name: number for number, name in enumerate(SAID, start=7)}
    value = {
        "info": {"description": "sentences"},
        "images": [{"id": id_, "file_name": name} for name, id_ in ids.items()],
        "annotations": [
            {"id": number, "image_id": ids[name], "caption": caption}
            for number, (name, caption) in enumerate(ROWS)
        ],
    }
    (folder / "captions.json").write_text(json.dumps(value))
    return folder / "captions.json"


def karpathy(folder: Path, splits: dict[str, str]) -> Path:
    images = [
        {"filename": name, "split": splits.get(name, "train"), "sentences": [{"raw": text} for text in texts]}
        for name, texts in SAID.items()
    ]
    (folder / "dataset.json").write_text(json.dumps({"images": images, "dataset": "own"}))
    return folder / "dataset.json"


def as_karpathy(folder: Path) -> Path:
    return karpathy(folder, {})


def as_token(folder: Path) -> Path:
    lines = [f"{name}#{number}\t{text}" for name, texts in SAID.items() for number, text in enumerate(texts)]
    (folder / "results.token").write_text("\n".join(lines))
    return folder / "results.token"


def as_results(folder: Path) -> Path:
    lines = [f"{name}| {number}| {text}" for name, texts in SAID.items() for number, text in enumerate(texts)]
    (folder / "results.csv").write_text("\n".join(["image_name| comment_number| comment", *lines]))
    return folder / "results.csv"


def as_folder(folder: Path) -> Path:
    lines = [json.dumps({"file_name": name, "caption": texts}) for name, texts in SAID.items()]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def as_records(folder: Path) -> Collection:
    return Collection.from_items(
        [Record(name, image=folder / name, texts=tuple(texts)) for name, texts in SAID.items()]
    )


FORMATS = (
    as_csv,
    as_tsv,
    as_jsonl,
    as_parquet,
    as_coco,
    as_karpathy,
    as_token,
    as_results,
    as_folder,
    as_records,
)


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
def test_every_format_gives_the_same_pairs(folder: Path, write: Callable[[Path], Path | Collection]):
    reading = read_examples(write(folder))
    assert said(reading.examples) == SAID
    assert len(reading.examples.texts) == 4, "one text that is said of two pictures is one text"
    assert reading.dropped == reading.problems == ()
    assert reading.source


def test_a_list_of_pairs(folder: Path):
    listed = [(str(folder / "a.png"), SAID["a.png"]), (folder / "b.png", tuple(SAID["b.png"]))]
    record = Record("c", folder / "c.png", texts=tuple(SAID["c.png"]))
    found = read_examples([*listed, record])
    assert said(found.examples) == SAID
    assert found.source == "3 pairs"
    with pytest.raises(LearnError, match=r"Element 2 of the pairs, 'a cup', is no pair"):
        read_examples([*listed, "a cup"])
    (dropped,) = read_examples([*listed, (folder / "none.png", "a ghost")]).dropped
    assert dropped.name.endswith("none.png")


def test_pictures_may_come_as_bytes_or_in_a_tar(folder: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"bytes": (folder / name).read_bytes(), "path": None} for name, _ in ROWS]
    (folder / "parts").mkdir()
    table = pa.table({"image": rows, "caption": [caption for _, caption in ROWS]})
    pq.write_table(table, folder / "parts" / "0.parquet")
    with tarfile.open(folder / "pairs.tar", "w") as tar:
        for name in SAID:
            (folder / name).with_suffix(".txt").write_text(SAID[name][0])
            tar.add(folder / name, name)
            tar.add((folder / name).with_suffix(".txt"), name.replace("png", "txt"))
    wanted = read_examples(as_csv(folder)).examples
    of_bytes = read_examples(folder / "parts").examples
    assert [picture.content for picture in of_bytes.pictures] == [p.content for p in wanted.pictures]
    assert of_bytes.links.tolist() == wanted.links.tolist()
    of_tar = read_examples(folder / "pairs.tar").examples
    assert [picture.content for picture in of_tar.pictures] == [p.content for p in wanted.pictures]
    assert of_tar.texts == ("a cat", "a dog", "a cup")


def test_columns_root_delimiter_and_ids_are_as_the_user_says(folder: Path):
    (folder / "tables").mkdir()
    table = folder / "tables" / "t.csv"
    table.write_text("sku#photo#front#words\n7#a.png#x#one\n8#b.png#y#two\n")
    with pytest.raises(BowerbirdError, match=r"Which column .* holds the texts is not clear"):
        read_examples(table, root=folder, delimiter="#")
    found = read_examples(table, root=folder, delimiter="#", text="words", id="sku").examples
    assert [picture.id for picture in found.pictures] == ["7", "8"]
    assert found.texts == ("one", "two")
    both = read_examples(table, root=folder, delimiter="#", image="photo", text=["front", "words"]).examples
    assert said(both) == {"a.png": ["x", "one"], "b.png": ["y", "two"]}


def test_a_picture_is_its_bytes(folder: Path):
    """Under three names it is one picture, with all that is said of it."""
    (folder / "copy.png").write_bytes((folder / "a.png").read_bytes())
    (folder / "t.csv").write_text(
        "image,caption\na.png,a cat\n./a.png,a cat\nb.png,a dog\ncopy.png,a tabby\ncopy.png, a cat \n"
    )
    reading = read_examples(folder / "t.csv")
    assert said(reading.examples) == {"a.png": ["a cat", "a tabby"], "b.png": ["a dog"]}
    assert reading.problems == (
        "1 file is a copy, byte for byte, of others and counts as one with them: copy.png of a.png",
    )


def test_addresses_stay_as_they_are_and_paths_are_one_however_written(folder: Path):
    import fsspec

    store, of = fsspec.filesystem("memory"), "memory://pictures-of-pairs"
    store.pipe("/pictures-of-pairs/a.png", (folder / "a.png").read_bytes())
    try:
        sources = [f"{of}/a.png", f"{folder}/./b.png", f"{folder}//b.png", f"{of}/lost.png"]
        rows = "".join(f"{source},{number}\n" for number, source in enumerate(sources))
        (folder / "t.csv").write_text(f"image,caption\n{rows}")
        reading = read_examples(folder / "t.csv")
    finally:
        store.rm("/pictures-of-pairs", recursive=True)
    assert said(reading.examples) == {f"{of}/a.png": ["0"], "b.png": ["1", "2"]}
    assert [one.name for one in reading.dropped] == [f"{of}/lost.png"]
    assert reading.problems == (), "one path is not a copy of itself"


def test_what_cannot_be_used_is_dropped_by_name(folder: Path, picture: Callable[..., bytes]):
    (folder / "empty.png").write_bytes(b"")
    (folder / "t.csv").write_text(
        "image,caption\na.png,a cat\nb.png,a dog\n,nobody\nc.png,\nc.png,   \nlost.png,gone\nempty.png,nothing\n"
        "a.png,too,many\n"
    )
    reading = read_examples(folder / "t.csv")
    assert said(reading.examples) == {"a.png": ["a cat"], "b.png": ["a dog"]}
    told = {(one.name, one.kind) for one in reading.dropped}
    assert told == {
        ("t.csv:4", "no picture"),
        ("t.csv:5", "no text"),
        ("t.csv:6", "no text"),
        ("lost.png", "unreadable"),
        ("empty.png", "undecodable"),
        ("t.csv:9", "broken row"),
    }
    assert all(one.reason.endswith(".") for one in reading.dropped)
    assert counted(reading.dropped) == (
        "6 left out: 2 no text (t.csv:5, ...), 1 no picture (t.csv:4), 1 broken row (t.csv:9), "
        "1 unreadable (lost.png), 1 undecodable (empty.png)"
    )
    assert counted(()) == ""


def test_what_a_collection_would_leave_out_without_a_word_is_named(folder: Path):
    def refuse(record: Record) -> Record:
        if record.id == "b.png":
            raise ValueError("not this one")
        return record

    records = as_records(folder).map(refuse)
    reading = read_examples(records.on_error("drop"))
    assert [(one.name, one.kind) for one in reading.dropped] == [("b.png", "FunctionError")]
    assert set(said(reading.examples)) == {"a.png", "c.png"}
    with pytest.raises(RecordError):
        read_examples(records.on_error("raise"))
    others = read_examples(Collection.from_items([*as_records(folder), {"image": "a.png"}, "words"]))
    assert [(one.name, one.kind) for one in others.dropped] == [
        ("{'image': 'a.png'}", "no record"),
        ("'words'", "no picture"),
    ]


def test_pictures_that_were_decoded_are_the_files_they_were_decoded_from(folder: Path):
    plain = read_examples(as_records(folder)).examples
    seen = read_examples(as_records(folder).decode()).examples
    assert seen.pictures == plain.pictures
    drawn = [
        Record(name, image=Image.open(folder / name).convert("RGB"), texts=(name,))
        for name in ("a.png", "b.png")
    ]
    held = read_examples(Collection.from_items([*drawn, Record("again", drawn[0].image, ("more",))])).examples
    assert said(held) == {"a.png": ["a.png", "more"], "b.png": ["b.png"]}


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_pairs_do_not_depend_on_the_order_of_rows(private_pictures: Path, chance: random.Random):
    rows = [Record(f"{number}", private_pictures / name, (text,)) for number, (name, text) in enumerate(ROWS)]
    chance.shuffle(rows)
    found = said(read_examples(Collection.from_items(rows)).examples)
    assert {name: sorted(texts) for name, texts in found.items()} == SAID


@pytest.fixture(scope="module")
def private_pictures(tmp_path_factory: pytest.TempPathFactory, picture: Callable[..., bytes]) -> Path:
    """Pictures for the tests that are run many times."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed, name in enumerate(SAID):
        (folder / name).write_bytes(picture(seed))
    return folder


# Classes.


@pytest.fixture
def classes(tmp_path: Path, picture: Callable[..., bytes]) -> Path:
    """Pictures in folders that are their classes."""
    for seed, name in enumerate(("t-shirt/1", "t-shirt/2", "winter_coat/3", "winter_coat/deep/4", "hat/5")):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / f"{name}.png").write_bytes(picture(seed))
    (tmp_path / "photos" / "loose.png").write_bytes(picture(99))
    return tmp_path / "photos"


def test_classes_from_folders(classes: Path):
    reading = read_examples(classes, labels="folder")
    found = reading.examples
    assert found.classes == ("hat", "t-shirt", "winter_coat")
    assert found.texts == ("hat", "t-shirt", "winter coat"), "as one would write them"
    assert found.labels is not None
    by_name = {
        picture.name: found.classes[label]
        for picture, label in zip(found.pictures, found.labels, strict=True)
    }
    assert by_name == {
        "hat/5.png": "hat",
        "t-shirt/1.png": "t-shirt",
        "t-shirt/2.png": "t-shirt",
        "winter_coat/3.png": "winter_coat",
        "winter_coat/deep/4.png": "winter_coat",
    }
    assert found.links.tolist() == [[row, label] for row, label in enumerate(found.labels.tolist())]
    assert [(Path(one.name).name, one.kind) for one in reading.dropped] == [("loose.png", "no class")]


def test_classes_from_a_column_or_from_the_folders_of_a_table(classes: Path):
    table = classes.parent / "t.csv"
    table.write_text(
        "file,text,kind\nphotos/hat/5.png,x,A\nphotos/t-shirt/1.png,y,B\nphotos/t-shirt/2.png,z,\n"
    )
    reading = read_examples(table, labels="kind")
    assert reading.examples.classes == reading.examples.texts == ("A", "B")
    assert [(one.name, one.kind) for one in reading.dropped] == [("t.csv:4", "no class")]
    assert read_examples(table, labels="text").examples.classes == ("x", "y", "z")
    assert read_examples(table, labels="folder").examples.classes == ("hat", "t-shirt")
    of_folder = Collection.from_folder(classes)
    assert read_examples(of_folder, labels="folder").examples.classes == ("hat", "t-shirt", "winter_coat")
    with pytest.raises(LearnError, match="'sort' is empty or not there; there are 'text', 'kind'"):
        read_examples(table, labels="sort")


def test_classes_that_are_numbers_with_gaps(classes: Path):
    """A column of whole numbers in which some are missing comes from pandas as floats with NaN."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ["hat/5.png", "t-shirt/1.png", "t-shirt/2.png", "winter_coat/3.png", "loose.png"]
    kinds = pa.array([3.0, 12.0, float("nan"), 0.5, None], pa.float64())
    table = classes / "t.parquet"
    pq.write_table(pa.table({"image": names, "kind": kinds}), table)
    reading = read_examples(table, labels="kind")
    assert reading.examples.classes == reading.examples.texts == ("0.5", "12", "3")
    assert [(one.name, one.kind) for one in reading.dropped] == [
        ("t.parquet:3", "no class"),
        ("t.parquet:5", "no class"),
    ]


def test_one_picture_in_two_classes_says_nothing(classes: Path):
    (classes / "hat" / "same.png").write_bytes((classes / "t-shirt" / "1.png").read_bytes())
    reading = read_examples(classes, labels="folder")
    assert [(one.name, one.reason) for one in reading.dropped if one.kind == "two classes"] == [
        ("hat/same.png", "is in the classes 'hat' and 't-shirt'.")
    ]
    assert {"hat/same.png", "t-shirt/1.png"}.isdisjoint(said(reading.examples))


def test_classes_that_read_alike_keep_their_names(tmp_path: Path, picture: Callable[..., bytes]):
    records = [
        Record(str(n), image=picture(n), attributes={"c": c}) for n, c in enumerate(("a_b", "a b", "c_d"))
    ]
    assert read_examples(Collection.from_items(records), labels="c").examples.texts == ("a b", "a_b", "c d")


# What pictures are for.


def test_the_parts_that_the_data_give(folder: Path):
    parts = {"a.png": "restval", "b.png": "val", "c.png": "test"}
    reading = read_examples(karpathy(folder, parts))
    assert {picture.name: picture.part for picture in reading.examples.pictures} == {
        "a.png": "train",
        "b.png": "validation",
        "c.png": "test",
    }
    odd = read_examples(karpathy(folder, {"a.png": "extra"}))
    assert [picture.part for picture in odd.examples.pictures] == ["", "train", "train"]
    assert odd.problems == (
        "The attribute split says 'extra' 1 times, which is no known part: taken as pictures for training.",
    )


def test_own_parts_and_a_picture_that_is_in_two_of_them(folder: Path, picture: Callable[..., bytes]):
    (folder / "copy.png").write_bytes((folder / "c.png").read_bytes())
    (folder / "d.png").write_bytes(picture(4))
    own = folder / "own.csv"
    own.write_text("image,caption\ncopy.png,a mug\nd.png,a hat\n")
    chosen = folder / "chosen.jsonl"
    chosen.write_text('{"image": "b.png", "text": "a hound"}\n')
    reading = read_examples(as_csv(folder), validation=chosen, test=own)
    assert {picture.name: picture.part for picture in reading.examples.pictures} == {
        "a.png": "",
        "b.png": "validation",
        "c.png": "test",
        "d.png": "test",
    }
    assert said(reading.examples)["c.png"] == ["a cup", "a mug"]
    assert reading.problems[1] == (
        "2 pictures stand in several of the given parts, and stay only in the one farthest from training: b.png, c.png"
    )
    assert [Path(place).name for place in reading.source.split(", ")] == [
        "pairs.csv",
        "chosen.jsonl",
        "own.csv",
    ]


# Bad input.


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", "holds no pair of a picture and a text that can be used"),
        (
            "lost.png,a\ngone.png,b\n",
            r"2 left out: 2 unreadable \(lost.png, ...\). The first: .*lost.png does not exist",
        ),
        ("a.png,a cat\n", "holds one pair of a picture and a text: there is nothing to tell apart"),
        ("a.png,a cat\na.png,a pet\n", "holds one picture with 2 texts"),
        ("a.png,it\nb.png,it\nc.png,it\n", "holds 3 pictures with one and the same text"),
    ],
    ids=["nothing", "no picture is there", "one pair", "one picture", "one text"],
)
def test_what_cannot_be_learned_from(folder: Path, rows: str, message: str):
    (folder / "t.csv").write_text(f"image,caption\n{rows}")
    with pytest.raises(LearnError, match=message) as error:
        read_examples(folder / "t.csv")
    assert error.value.hint


def test_one_class_only(folder: Path):
    (folder / "t.csv").write_text("image,kind\na.png,cat\nb.png,cat\nc.png,\n")
    with pytest.raises(
        LearnError, match=r"All 2 pictures of .*t.csv are of one class, 'cat'. 1 left out: 1 no class"
    ):
        read_examples(folder / "t.csv", labels="kind")


def test_sources_that_hold_no_pairs(folder: Path):
    with pytest.raises(LearnError, match="nothing that is said of them") as error:
        read_examples(folder)
    assert "--labels folder" in error.value.hint
    (folder / "none").mkdir()
    with pytest.raises(LearnError, match="holds no pictures"):
        read_examples(folder / "none")
    (folder / "metadata.csv").write_text("file_name,note,price\na.png,x,1\n")
    with pytest.raises(BowerbirdError, match="holds the texts is not clear; its columns: 'note', 'price'"):
        read_examples(folder)
    with pytest.raises(LearnError, match="cannot be given as dict"):
        read_examples({"a.png": "a cat"})  # type: ignore[arg-type]
    with pytest.raises(BowerbirdError, match=r"missing\.csv does not exist"):
        read_examples(folder / "missing.csv")


def test_pictures_that_cannot_be_decoded_are_found_on_request(folder: Path, picture: Callable[..., bytes]):
    (folder / "b.png").write_bytes(picture(1)[:60])
    examples = read_examples(as_csv(folder)).examples
    left, dropped = decodable(examples)
    assert dropped == (Dropped("b.png", dropped[0].reason, "undecodable"),)
    assert said(left) == {"a.png": SAID["a.png"], "c.png": SAID["c.png"]}
    assert left.texts == ("a cat", "a pet, asleep", "a cup"), (
        "a text that nobody says any more goes with its picture"
    )
    (folder / "c.png").write_bytes(b"no picture")
    with pytest.raises(LearnError, match=r"one picture with 2 texts: .* 2 left out: 2 undecodable"):
        decodable(read_examples(as_csv(folder)).examples)
