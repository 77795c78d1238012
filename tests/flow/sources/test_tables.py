"""CSV and JSON Lines: every row in its place, as a record or as a failure."""

import csv
import gzip
import io
import json
import logging
import pickle
import tracemalloc
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bowerbird.errors import BowerbirdError, RowError, UnreadableError
from bowerbird.flow.sources import lines
from bowerbird.flow.sources.tables import CsvSource, JsonLinesSource
from bowerbird.record import Failure, Record


@pytest.fixture
def table(tmp_path):
    def write(content, name="annotations.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def kinds(items):
    """Which ids came out as records, and which as failures."""
    return [(item.id, type(item).__name__) for item in items]


def test_rows_become_records(table):
    path = table("image_path#caption#price\na.jpg#a red hat#12\nsub/b.jpg##7.5\n#only words#\n")
    source = CsvSource(path, delimiter="#", image="image_path", text="caption", root="images")
    root = Path.cwd() / "images"
    assert list(source) == [
        Record("annotations.csv:2", root / "a.jpg", ("a red hat",), {"price": 12.0}, named=False),
        Record("annotations.csv:3", root / "sub" / "b.jpg", (), {"price": 7.5}, named=False),
        Record("annotations.csv:4", None, ("only words",), {"price": None}, named=False),
    ]
    assert list(pickle.loads(pickle.dumps(source))) == list(source)
    assert [list(part) for part in source.parts()] == [list(source)]


def test_pictures_lie_beside_the_table_or_where_they_say(table, tmp_path):
    pytest.importorskip("fsspec")
    source = CsvSource(table("i\na.jpg\n/abs/b.jpg\nfile:///abs/c%20d.jpg\ns3://bucket/e.jpg\n"), image="i")
    *local, stored = [record.image for record in source]
    assert local == [tmp_path / "a.jpg", Path("/abs/b.jpg"), Path("/abs/c d.jpg")]
    assert str(stored) == "s3://bucket/e.jpg"


def test_relative_pictures_below_an_address(table):
    pytest.importorskip("fsspec")
    (record,) = CsvSource(table("i\nsub/a.jpg\n"), image="i", root="s3://bucket/images/")
    assert str(record.image) == "s3://bucket/images/sub/a.jpg"


def test_quotes_byte_order_mark_and_line_ends(table):
    content = '\ufeffname,caption\r\na,"two\r\nlines, ""quoted"""\r\n\r\nb,plain " inside\r\n'
    records = list(CsvSource(table(content), text="caption"))
    assert [(record.id, record.text, record["name"]) for record in records] == [
        ("annotations.csv:2", 'two\r\nlines, "quoted"', "a"),
        ("annotations.csv:5", 'plain " inside', "b"),
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.tsv", "a\tb\n1,5\tx\n"),
        ("t.tab", "a\tb\n1,5\tx\n"),
        ("t.csv", "a\tb\n1,5\tx\n"),
        ("t.txt", 'a,b\n"1,5",x\n'),
        ("t.csv", 'a,b\tb\n"1,5",x\n'),
        ("t.csv", "a,b\r1;5,x\r"),
    ],
)
def test_commas_and_tabs_are_told_apart(table, name, content):
    (record,) = CsvSource(table(content, name))
    assert list(record.attributes.values()) in (["1,5", "x"], ["1;5", "x"])


def test_several_texts(table):
    source = CsvSource(table("t,u,v\na,,1\n ,b,2\nc,d,3\n"), text=["t", "u"])
    assert [record.texts for record in source] == [("a",), ("b",), ("c", "d")]
    assert [dict(record.attributes) for record in source] == [{"v": 1}, {"v": 2}, {"v": 3}]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "-2", ""], [1, -2, None]),
        (["1", " 2.5 ", "1e3", "  "], [1.0, 2.5, 1000.0, None]),
        (["1", "x", " "], ["1", "x", " "]),
        (["007", "8"], ["007", "8"]),
        (["+49171", "8"], ["+49171", "8"]),
        (["1_0"], ["1_0"]),
        (["٣"], ["٣"]),
        (["9223372036854775807"], [9223372036854775807]),
        (["9223372036854775808"], ["9223372036854775808"]),
        (["true", "FALSE"], [True, False]),
        (["true", "1"], ["true", "1"]),
        (["2024-02-29", "2024-03-01T12:30"], [datetime(2024, 2, 29), datetime(2024, 3, 1, 12, 30)]),
        (["2024-02-30"], ["2024-02-30"]),
        (
            ["2024-03-01 12:30:01.5Z", "2024-03-01T12:30+0530"],
            [
                datetime(2024, 3, 1, 12, 30, 1, 500_000, timezone.utc),
                datetime(2024, 3, 1, 12, 30, tzinfo=timezone(timedelta(hours=5, minutes=30))),
            ],
        ),
        (["2024-03-01", "2024-03-01T12:30Z"], ["2024-03-01", "2024-03-01T12:30Z"]),
        (["", ""], [None, None]),
    ],
)
def test_a_column_has_one_type(table, cells, values):
    source = CsvSource(table("v,other\n" + "".join(f'"{cell}",x\n' for cell in cells)))
    found = [record["v"] for record in source]
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


def test_parts_stay_text(table):
    (record,) = CsvSource(table("n,t,i\n001,12,7\n"), image="n", text="t", id="i")
    assert (record.image.name, record.text, record.id, record.named) == ("001", "12", "7", True)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"a,b,c", "has 3 fields where the header has 2"),
        (b"a", "has 1 fields where the header has 2"),
        (b'"a" x,b', "a closing quote is followed by more"),
        (b"a,caf\xe9", "line 3 is not UTF-8 (byte 0xE9 at character 6)"),
        (b"a,b\0c", "line 3 holds a NUL byte"),
        (b'a,"one\ncaf\xe9"', "line 4 is not UTF-8"),
    ],
)
def test_a_broken_row_is_a_failure_at_its_place(table, row, reason):
    items = list(CsvSource(table(b"x,y\n1,one\n" + row + b"\n2,two\n3,three\n")))
    assert [type(item) for item in items] == [Record, Failure, Record, Record]
    assert [item["y"] for item in items if isinstance(item, Record)] == ["one", "two", "three"]
    failure = items[1]
    assert failure.id == "annotations.csv:3"
    assert failure.step == "from_csv"
    assert isinstance(failure.error, RowError)
    assert "annotations.csv:3" in failure.error.message
    assert reason in failure.error.message


def test_an_open_quote_costs_only_its_own_row(table):
    content = 'x,y\n1,"never closed\n2,two\n3,"three, quoted"\n4,four\n5,"open again\n6,six\n'
    items = list(CsvSource(table(content)))
    assert kinds(items) == [
        ("annotations.csv:2", "Failure"),
        ("annotations.csv:3", "Record"),
        ("annotations.csv:4", "Record"),
        ("annotations.csv:5", "Record"),
        ("annotations.csv:6", "Failure"),
        ("annotations.csv:7", "Record"),
    ]
    assert "not closed before the end of the file" in items[4].error.message
    assert items[5]["y"] == "six"


def test_an_open_quote_in_the_last_line(table):
    assert kinds(CsvSource(table('x\na\n"b'))) == [
        ("annotations.csv:2", "Record"),
        ("annotations.csv:3", "Failure"),
    ]


def test_long_captions_are_read_and_endless_ones_are_not(table, monkeypatch):
    long = "word " * 100_000
    (record,) = CsvSource(table(f"x,y\n1,{long}\n"), text="y")
    assert record.text == long
    monkeypatch.setattr(lines, "MAX_CHARACTERS", 1000)
    endless, quoted = "x" * 5000, "\n".join(["y" * 90] * 20)
    source = CsvSource(table(f'x,y\n1,{endless}\n2,two\n3,"{quoted}\n4,four\n'))
    items = list(source)
    assert [item["y"] for item in items if isinstance(item, Record) and item["x"] in (2, 4)] == [
        "two",
        "four",
    ]
    assert "more than 1,000 characters" in items[0].error.message
    assert items[2].id == "annotations.csv:4"
    assert "not closed within 1,000 characters" in items[2].error.message


def test_an_endless_line_is_not_held_in_memory(table, monkeypatch):
    monkeypatch.setattr(lines, "MAX_CHARACTERS", 10_000)
    path = table(b"x\n1\n" + b"9" * 20_000_000 + b"\n2\n")
    tracemalloc.start()
    items = list(CsvSource(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert kinds(items) == [
        (f"annotations.csv:{n}", kind) for n, kind in ((2, "Record"), (3, "Failure"), (4, "Record"))
    ]
    assert peak < 2_000_000


def test_memory_does_not_grow_with_rows(table):
    path = table("id,caption\n" + "".join(f"id-{n},caption {n}\n" for n in range(20_000)))
    tracemalloc.start()
    assert sum(isinstance(item, Record) for item in CsvSource(path, id="id", text="caption")) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_500_000  # The hashes of ids take 8 bytes each, sorted once.


def test_without_quoting(table):
    source = CsvSource(table('t\tn\n"a quote opens\t1\n"and again\t2\n', "c.tsv"), text="t", quote="")
    assert [record.text for record in source] == ['"a quote opens', '"and again']


def test_ids(table):
    items = list(CsvSource(table('sku,n\nA1,1\nB2,2\nA1,3\n,4\n" ",5\nA1,6\nC3,7\n'), id="sku"))
    assert [item.id for item in items if isinstance(item, Record)] == ["A1", "B2", "C3"]
    assert all(item.named for item in items if isinstance(item, Record))
    failures = {item.id: item.error.message for item in items if isinstance(item, Failure)}
    assert list(failures) == [f"annotations.csv:{n}" for n in (4, 5, 6, 7)]
    assert "'A1' is taken by annotations.csv:2" in failures["annotations.csv:4"]
    assert "'A1' is taken by annotations.csv:2" in failures["annotations.csv:7"]
    assert "the id is missing" in failures["annotations.csv:5"]
    assert "the id is missing" in failures["annotations.csv:6"]


def test_an_id_whose_first_row_is_broken_is_not_taken(table):
    items = list(CsvSource(table("sku,n\nA1,1,?\nA1,2\n"), id="sku"))
    assert kinds(items) == [("annotations.csv:2", "Failure"), ("A1", "Record")]


@pytest.mark.parametrize("part", ["image", "text", "id"])
def test_a_missing_column_stops_at_once(table, part):
    with pytest.raises(BowerbirdError, match=r"no column 'photo'; its columns: 'image', 'caption'"):
        next(iter(CsvSource(table("image,caption\na,b\n"), **{part: "photo"})))


def test_the_wrong_delimiter_is_named(table):
    with pytest.raises(BowerbirdError, match="give delimiter='#'"):
        list(CsvSource(table("image_path#caption\na,b#c\n"), image="image_path", text="caption"))
    with pytest.raises(BowerbirdError) as caught:
        list(CsvSource(table("image_path#caption\na,b#c\n"), image="photo"))
    assert "It was read with" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        ("a,b\n1,2\n".encode("utf-16"), "is UTF-16"),
        (b'"a,b\n', "header .* cannot be read"),
        (b"caf\xe9,b\n1,2\n", "header .* cannot be read"),
    ],
)
def test_a_file_that_is_no_table(table, content, reason):
    with pytest.raises(BowerbirdError, match=reason):
        list(CsvSource(table(content)))


def test_a_header_alone_has_no_rows(table):
    assert list(CsvSource(table("a,b\n"), text="a", id="b")) == []


def test_names_of_columns(table):
    (record,) = CsvSource(table(",a,a,column_1\n1,2,3,4\n"))
    assert record.attributes == {"column_1": 1, "a": 2, "a_3": 3, "column_1_4": 4}


def test_missing_and_irregular_files(tmp_path):
    with pytest.raises(UnreadableError, match="does not exist"):
        list(CsvSource(tmp_path / "gone.csv"))
    with pytest.raises(UnreadableError, match="not a regular file"):
        list(CsvSource(tmp_path))


@pytest.mark.parametrize(
    "wrong", [{"delimiter": "||"}, {"delimiter": ""}, {"delimiter": "\n"}, {"delimiter": '"'}]
)
def test_impossible_delimiters(wrong):
    with pytest.raises(BowerbirdError):
        CsvSource("a.csv", **wrong)


def test_packed_tables_and_one_that_is_cut_off(table):
    rows = "x,y\n" + "".join(f"{n},{n * n}\n" for n in range(20_000))
    packed = gzip.compress(rows.encode())
    assert sum(1 for _ in CsvSource(table(packed, "t.csv.gz"))) == 20_000
    items = list(CsvSource(table(packed[: len(packed) // 2], "t.csv.gz")))
    *before, failure = items
    assert len(before) > 1000
    assert all(isinstance(item, Record) for item in before)
    assert isinstance(failure.error, UnreadableError)
    assert "cannot be read on after line" in failure.error.message


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(
    rows=st.lists(st.tuples(text, text.filter(lambda cell: cell and not cell.isspace())), max_size=8),
    delimiter=st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"') | st.just("\t"),
    # With the end \n, Python before 3.13 leaves a lone \r unquoted, which ends a line.
    style=st.sampled_from([("\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_MINIMAL)]),
)
def test_what_python_writes_comes_back(tmp_path_factory, rows, delimiter, style):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter, lineterminator=style[0], quoting=style[1])
    writer.writerows([("first", "second"), *rows])
    path.write_bytes(stream.getvalue().encode())
    # With both columns as texts, cells are not typed; blank ones are left out.
    found = [record.texts for record in CsvSource(path, delimiter=delimiter, text=("first", "second"))]
    assert found == [tuple(cell for cell in row if cell.strip()) for row in rows]


@given(st.lists(st.binary(max_size=12), max_size=8))
def test_any_bytes_are_read_to_the_end(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes(b"a,b\n" + b"".join(row + b"\n" for row in rows) + b"last,row\n")
    last = list(CsvSource(path))[-1]
    assert isinstance(last, Failure) or tuple(last.attributes.values()) == ("last", "row")


def test_json_lines(table, tmp_path):
    path = table(
        '\ufeff{"file": "a.jpg", "t": ["one", "", "two"], "n": {"deep": [1]}, "sku": 7}\n\n'
        '{"file": null, "t": "three", "sku": "x"}\r\n'
        '{"sku": "y"}',
        "p.jsonl",
    )
    source = JsonLinesSource(path, image="file", text="t", id="sku")
    assert list(source) == [
        Record("7", tmp_path / "a.jpg", ("one", "two"), {"n": {"deep": [1]}}, named=True),
        Record("x", None, ("three",), {}, named=True),
        Record("y", None, (), {}, named=True),
    ]
    assert [record.id for record in JsonLinesSource(path)] == ["p.jsonl:1", "p.jsonl:3", "p.jsonl:4"]
    assert list(pickle.loads(pickle.dumps(source))) == list(source)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b"[1]", "not a JSON object but of type list"),
        (b'{"t": "caf\xe9"}', "not UTF-8"),
        (b'{"t": "\\ud800"}', "half of a surrogate pair"),
        (b'{"t": 3}', "column 't' holds a value of type int, not text"),
        (b'{"t": ["a", 3]}', "not text"),
        (b'{"i": ["a.jpg"]}', "column 'i' holds a value of type list, not a picture"),
        (b'{"t": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"n": ' + b"9" * 10_000 + b"}", "not JSON"),
        (b"{}\0", "NUL"),
    ],
)
def test_a_broken_line_is_a_failure_at_its_place(table, line, reason):
    content = b'{"t": "one", "i": "a"}\n' + line + b'\n{"t": "two"}\n'
    items = list(JsonLinesSource(table(content, "p.jsonl"), text="t", image="i"))
    assert kinds(items) == [("p.jsonl:1", "Record"), ("p.jsonl:2", "Failure"), ("p.jsonl:3", "Record")]
    assert isinstance(items[1].error, RowError)
    assert reason in items[1].error.message
    assert "p.jsonl:2" in items[1].error.message


def test_ids_of_json_lines(table):
    lines_ = [
        {"k": "a"},
        {"k": "a"},
        {"k": 1},
        {"k": "1"},
        {},
        {"k": True},
        {"k": ""},
        {"k": None},
        {"k": "None"},
    ]
    path = table("\n".join(map(json.dumps, lines_)), "p.jsonl")
    items = list(JsonLinesSource(path, id="k"))
    assert [item.id for item in items if isinstance(item, Record)] == ["a", "1", "None"]
    assert [item.id for item in items if isinstance(item, Failure)] == [
        f"p.jsonl:{n}" for n in (2, 4, 5, 6, 7, 8)
    ]


def test_a_key_that_no_line_has(table):
    path = table('{"a": 1}\n{"b": 2}\n', "p.jsonl")
    assert len(list(JsonLinesSource(path, text=("a", "b")))) == 2
    with pytest.raises(BowerbirdError, match="no column 'c'; its columns: 'a', 'b'"):
        list(JsonLinesSource(path, text="c"))


def warnings_of(source, caplog):
    caplog.clear()
    with caplog.at_level(logging.WARNING, "bowerbird"):
        records = list(source)
        list(source)
    return records, [record.getMessage() for record in caplog.records]


def test_a_cell_that_makes_text_of_a_column_of_numbers_is_named_once(table, caplog):
    rows = "".join(f"{n},{n}.5,x{n},{n:03}\n" for n in range(20))
    path = table(f"price,weight,word,code\n1,2,a,1\nn/a,3,b,2\n{rows}12 EUR,4,c,3\n")
    records, (message,) = warnings_of(CsvSource(path), caplog)
    assert message.startswith("annotations.csv:3: the cell 'n/a' makes text of the column 'price'")
    assert (records[0]["price"], records[0]["weight"]) == ("1", 2.0)


@pytest.mark.parametrize(
    "cells", [["n/a", "1", "2"], ["1", "2", "n/a"], ["1", "n/a", "2.5", "", "3", "?", "4"]]
)
def test_wherever_it_stands(table, caplog, cells):
    path = table("a,b\n" + "".join(f"{cell},x\n" for cell in cells))
    (message,) = warnings_of(CsvSource(path), caplog)[1]
    assert "'n/a'" in message
    assert f":{cells.index('n/a') + 2}: " in message


@pytest.mark.parametrize(
    "cells",
    [
        ["a", "b", "c", "d", "1"],
        ["1", "n/a"],
        ["1", "2", "3", "4", "5", "6", "7", "8", "9", "a", "b", "c", "d"],
        ["80331", "10115", "01067", "20095"],
        ["true", "false"],
        ["2020-01-01", "soon"],
        ["1", "", "2"],
    ],
)
def test_columns_that_are_meant_to_be_text_are_not(table, caplog, cells):
    path = table("a,b\n" + "".join(f"{cell},x\n" for cell in cells))
    assert warnings_of(CsvSource(path), caplog)[1] == []
    odd = table("price,b\n1,x\n2,x\nn/a,x\n")
    assert warnings_of(CsvSource(odd, text="price"), caplog)[1] == []
