"""Tables of pairs: which columns, which records, and what cannot be used."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

import pytest

from bowerbird.errors import BowerbirdError, QueryError
from bowerbird.judge.pairs import Records, closest, read_pairs


def records(*rows: tuple[str, str | None, str | None]) -> Records:
    return Records(iter(rows))


SHOP = records(
    ("a1", "/shop/cats/one.jpg", "a1"),
    ("b2", "/shop/dogs/one.jpg", "b2"),
    ("c3", "/shop/dogs/two.jpg", "c3"),
    ("c3-2", "/elsewhere/two.jpg", "c3"),
    ("mine", "/shop/mine.jpg", "c3"),
    ("row:1", None, None),
    ("d4", "https://example.org/three.jpg", "d4"),
    ("e5", "file:///shop/caf%E9.jpg", "e5"),
)


@pytest.mark.parametrize(
    ("name", "folder", "found"),
    [
        ("a1", "", "a1"),
        ("/shop/cats/one.jpg", "", "a1"),
        ("cats/one.jpg", "/shop", "a1"),
        ("./cats/../dogs/one.jpg", "/shop", "b2"),
        ("dogs/one.jpg", "/somewhere", "b2"),
        ("mine.jpg", "", "mine"),
        ("two.jpg", "", "c3"),  # two files of one content are one picture
        ("/elsewhere/two.jpg", "", "c3"),
        ("row:1", "", "row:1"),
        ("three.jpg", "", "d4"),
        ("https://example.org/three.jpg", "/shop", "d4"),
        ("caf\udce9.jpg", "/shop", "e5"),
        ("images/mine.jpg", "", "mine"),
        ("four.jpg", "", ""),
        ("", "", ""),
    ],
)
def test_records_are_found_by_id_path_and_file_name(name: str, folder: str, found: str):
    assert SHOP.find(name, folder) == found


def test_a_name_of_several_records_is_an_error_that_names_them():
    with pytest.raises(QueryError) as error:
        SHOP.find("one.jpg")
    assert "/shop/cats/one.jpg, /shop/dogs/one.jpg" in error.value.message


def test_folders_count_where_the_table_tells_files_of_one_name_apart(tmp_path: Path):
    """train/1.jpg is not val/1.jpg, and must not be taken for it where only one of the two is indexed."""
    (tmp_path / "t.csv").write_text(
        "image,caption\ntrain/mine.jpg,no\nval/mine.jpg,neither\ndogs/one.jpg,a dog\n"
    )
    found = read_pairs(tmp_path / "t.csv", SHOP)
    assert found.pictures == ("b2",)
    assert "2 of 3 pictures are not in the index" in found.problems[0]


def test_several_rows_may_name_a_picture_and_several_pictures_share_a_text(tmp_path: Path):
    (tmp_path / "t.csv").write_text(
        "image,caption\nc3,a dog\ntwo.jpg,a pet\nb2,a dog\nb2,a dog\nlost,a dgo\n,nothing\nb2,\n"
    )
    found = read_pairs(tmp_path / "t.csv", SHOP)
    assert (found.texts, found.pictures, found.rows) == (("a dog", "a pet"), ("c3", "b2"), 5)
    assert found.qrels(from_text=True) == {"0": {"c3": 1, "b2": 1}, "1": {"c3": 1}}
    assert found.qrels(from_text=False) == {"c3": {"0": 1, "1": 1}, "b2": {"0": 1}}
    assert found.problems == ("1 of 4 pictures is not in the index and was left out: 'lost'",)


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("phoot-0012345.jpg", "photo-0012345.jpg"),
        ("photo-00x12345.jpg", "photo-0012345.jpg"),
        ("Photo-0012345.jpg", "photo-0012345.jpg"),
        ("nothing like it", ""),
    ],
)
def test_a_slip_of_the_pen_is_found_among_many_names_without_comparing_all(
    slip: str, meant: str, monkeypatch: pytest.MonkeyPatch
):
    names = [f"photo-{number:07}.jpg" for number in range(2345, 22345)]
    compared = []
    find = difflib.get_close_matches
    monkeypatch.setattr(
        difflib,
        "get_close_matches",
        lambda word, some, *more: compared.append(len(some)) or find(word, some, *more),
    )
    assert closest(slip, names) == meant
    assert max(compared) <= 100


@pytest.mark.parametrize("image", ["image", "Photo", "picture", "path", "file_name", "filename"])
@pytest.mark.parametrize("text", ["caption", "Text", "description"])
def test_columns_are_guessed(tmp_path: Path, image: str, text: str):
    (tmp_path / "t.csv").write_text(f"number,{text},{image}\n1,a dog,b2\n")
    assert read_pairs(tmp_path / "t.csv", SHOP).texts == ("a dog",)


def test_columns_may_be_named_and_ids_stay_as_they_are(tmp_path: Path):
    """A column of digits is no column of numbers here."""
    (tmp_path / "t.csv").write_text("key,image,caption,title\n007,x,a,b\n")
    found = read_pairs(tmp_path / "t.csv", records(("007", None, None)), image="key", text="title")
    assert (found.pictures, found.texts) == (("007",), ("b",))


def test_other_tables_are_read(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "t.jsonl").write_text(json.dumps({"photo": "b2", "captions": ["a dog", "a pet"]}) + "\n")
    assert read_pairs(tmp_path / "t.jsonl", SHOP).texts == ("a dog", "a pet")
    pq.write_table(pa.table({"image": ["b2"], "text": ["a dog"]}), tmp_path / "t.parquet")
    assert read_pairs(tmp_path / "t.parquet", SHOP).texts == ("a dog",)
    (tmp_path / "t.tsv").write_text("image\tcaption\nb2\ta dog, asleep\n")
    assert read_pairs(tmp_path / "t.tsv", SHOP).texts == ("a dog, asleep",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "image,words\nb2,a dog\n",
            "Which column of {table} holds the texts is not clear; its columns: 'image', 'words'",
        ),
        ("words,caption\nb2,a dog\n", "holds the pictures is not clear"),
        ("image,caption\n", "holds no pair"),
        ("image,caption\nx.jpg,a\n", "None of the 1 pictures"),
        ("", "is empty"),
    ],
)
def test_tables_that_cannot_be_used_are_errors(tmp_path: Path, content: str, said: str):
    table = tmp_path / "t.csv"
    table.write_text(content)
    with pytest.raises(BowerbirdError) as error:
        read_pairs(table, SHOP)
    assert said.format(table=table) in error.value.message
    assert error.value.hint


def test_rows_that_are_broken_are_told_of(tmp_path: Path):
    (tmp_path / "t.csv").write_text("image,caption\nb2,a dog\nb2,a,dog\n")
    found = read_pairs(tmp_path / "t.csv", SHOP)
    assert found.texts == ("a dog",)
    assert "1 row of" in found.problems[0] and "t.csv:3" in found.problems[0]
