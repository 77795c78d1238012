"""Records of any source in an index: nothing lost, nothing twice, nothing embedded again, and nothing forgotten."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.search.executors import made

import bowerbird as bb
from bowerbird import Collection, Record
from bowerbird.errors import (
    BowerbirdError,
    QueryError,
    RecordError,
    SpaceMismatchError,
    UnreadableError,
)
from bowerbird.flow.report import RunReport
from bowerbird.record import content_id
from bowerbird.search.changing import make_room_for_texts
from bowerbird.store import manifest
from bowerbird.store.table import VECTOR_MARK

if TYPE_CHECKING:
    from tests.conftest import Command

# Ray's own, which comes with lance-ray: it warns of its settings.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")

Picture = Callable[..., bytes]
Write = Callable[..., RunReport]


@pytest.fixture(scope="module")
def encoder(private_places: Path) -> bb.Encoder:
    """The embedded model for two threads: one object for all runs of these tests."""
    return bb.load("mini", threads=2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "goods.bower"


@pytest.fixture(params=["local", "distributed"])
def executor(request: pytest.FixtureRequest) -> bb.Local:
    """One that sends rows to the writer, and one whose workers write rows by themselves."""
    return made(request.param)


@pytest.fixture
def write(path: Path, encoder: bb.Encoder, executor: bb.Local) -> Write:
    """Bring the index up to date with some records."""

    def write(records: Collection[Any] | Iterable[Record], target: Path = path) -> RunReport:
        some = records if isinstance(records, Collection) else Collection.from_items(list(records))
        return some.embed(encoder).on(executor).write(target)

    return write


@pytest.fixture
def rows(path: Path, encoder: bb.Encoder) -> Callable[..., list[dict[str, Any]]]:
    """All rows of the index that a reader sees, in the order of their ids."""

    def rows(*names: str, target: Path = path) -> list[dict[str, Any]]:
        index = bb.Index.open(target, encoder)
        wanted = names or [name for name in index.table.names if VECTOR_MARK not in name]
        columns = dict.fromkeys(("id", *wanted))
        found = [row for batch in index.table.scan(list(columns)) for row in batch.to_pylist()]
        assert len(found) == len(index), "the manifest counts other rows"
        return sorted(found, key=lambda row: row["id"])

    return rows


@pytest.fixture
def ask(path: Path, encoder: bb.Encoder) -> Callable[..., list[str]]:
    """Ids of what a question finds, best first."""

    def ask(text: str, **more: Any) -> list[str]:
        return list(bb.Index.open(path, encoder).search(text, **more).ids)

    return ask


def done(report: RunReport) -> dict[str, int]:
    """What a run did, with `embedded` where the network ran at all."""
    names = ("added", "changed", "moved", "unchanged", "copies")
    found = {name: report.counts[name] for name in names if report.counts[name]}
    if report.failed:
        found["failed"] = report.failed.total()
    return {**found, "embedded": 1} if report.stages.get("network") else found


def embedded(**counts: int) -> dict[str, int]:
    return {**counts, "embedded": 1}


def table(folder: Path, text: str, name: str = "goods.csv") -> Path:
    target = folder / name
    target.write_text(text, "utf-8")
    return target


def goods(path: Path, **more: Any) -> Collection[Record]:
    return Collection.from_csv(path, **{"image": "photo", "text": "caption", "id": "sku", **more})


THREE = "sku,photo,caption,price\na1,a.png,a red dress,10\na2,b.png,blue shoes,20\na3,c.png,a green hat,30\n"


@pytest.fixture
def photos(tmp_path: Path, picture: Picture) -> Path:
    """Three pictures beside the tables."""
    for seed, name in enumerate("abc"):
        (tmp_path / f"{name}.png").write_bytes(picture(seed))
    return tmp_path


# What a second run does.


def test_named_rows(photos: Path, write: Write, rows: Any) -> None:
    source = goods(table(photos, THREE))
    assert done(write(source)) == embedded(added=3)
    first = rows()
    assert [row["id"] for row in first] == ["a1", "a2", "a3"]
    assert [row["text"] for row in first] == ["a red dress", "blue shoes", "a green hat"]
    assert [row["price"] for row in first] == [10, 20, 30]
    assert [row["uri"] for row in first] == [str(photos / f"{name}.png") for name in "abc"]
    assert all(row["thumbnail"] and row["format"] == "PNG" and row["width"] == 64 for row in first)
    assert done(write(source)) == {"unchanged": 3}
    assert [row["price"] for row in rows()] == [10, 20, 30]


def test_unnamed_rows_are_found_again_by_content(photos: Path, write: Write, rows: Any) -> None:
    source = goods(table(photos, THREE), id="")
    assert done(write(source)) == embedded(added=3)
    before = {row["sku"]: row["id"] for row in rows()}
    assert done(write(source)) == {"unchanged": 3}
    # The lines stand elsewhere now, and one is new: content alone says which is which.
    lines = THREE.splitlines()
    mixed = "\n".join([lines[0], lines[3], "a4,,a yellow coat,40", lines[1], lines[2]])
    assert done(write(goods(table(photos, mixed), id=""))) == embedded(added=1, unchanged=3)
    after = {row["sku"]: row["id"] for row in rows()}
    assert {sku: after[sku] for sku in before} == before
    assert set(after) == {"a1", "a2", "a3", "a4"}


@pytest.mark.parametrize("id", ["sku", ""])
def test_the_same_rows_from_another_place_are_not_embedded_again(
    photos: Path, write: Write, rows: Any, id: str
) -> None:
    write(goods(table(photos, THREE), id=id))
    lines = photos / "goods.jsonl"
    lines.write_text(
        "".join(
            json.dumps({"sku": f"a{n}", "photo": f"{p}.png", "caption": caption, "price": 11}) + "\n"
            for n, p, caption in [(1, "a", "a red dress"), (2, "b", "blue shoes"), (3, "c", "a green hat")]
        )
    )
    source = Collection.from_jsonl(lines, image="photo", text="caption", id=id)
    assert done(write(source)) == {"unchanged": 3}
    assert [row["price"] for row in rows()] == [11] * 3


def test_a_changed_caption(photos: Path, write: Write, rows: Any, ask: Any) -> None:
    write(goods(table(photos, THREE)))
    changed = THREE.replace("a green hat", "a wooden chair")
    assert done(write(goods(table(photos, changed)))) == embedded(changed=1, unchanged=2)
    assert [row["text"] for row in rows()] == ["a red dress", "blue shoes", "a wooden chair"]
    assert ask("a wooden chair", among="text", k=1) == ["a3"]


def test_a_changed_picture(photos: Path, write: Write, rows: Any, picture: Picture) -> None:
    source = goods(table(photos, THREE))
    write(source)
    before = rows("content", "thumbnail")
    (photos / "b.png").write_bytes(picture(9))
    assert done(write(source)) == embedded(changed=1, unchanged=2)
    after = rows("content", "thumbnail")
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]


def test_a_changed_picture_of_a_row_without_an_id_is_another_record(
    photos: Path, write: Write, rows: Any, picture: Picture
) -> None:
    """Nothing says that it is the same row; none is removed."""
    source = goods(table(photos, THREE), id="")
    write(source)
    (photos / "b.png").write_bytes(picture(9))
    assert done(write(source)) == embedded(added=1, unchanged=2)
    assert sorted(row["sku"] for row in rows()) == ["a1", "a2", "a2", "a3"]


def test_a_changed_attribute_alone(photos: Path, write: Write, rows: Any) -> None:
    write(goods(table(photos, THREE)))
    assert done(write(goods(table(photos, THREE.replace("30", "31"))))) == {"unchanged": 3}
    assert [row["price"] for row in rows()] == [10, 20, 31]
    assert done(write(goods(table(photos, THREE.replace("30", ""))))) == {"unchanged": 3}
    assert [row["price"] for row in rows()] == [10, 20, None]


def test_rows_that_left_the_table_stay_in_the_index(photos: Path, write: Write, rows: Any) -> None:
    write(goods(table(photos, THREE)))
    some = "\n".join(THREE.splitlines()[:2])
    assert done(write(goods(table(photos, some)))) == {"unchanged": 1}
    assert [row["id"] for row in rows()] == ["a1", "a2", "a3"]


def test_pictures_swapped_between_ids(photos: Path, write: Write, rows: Any) -> None:
    write(goods(table(photos, THREE), text=""))
    contents = [row["content"] for row in rows()]
    swapped = THREE.replace("a.png", "?").replace("b.png", "a.png").replace("?", "b.png")
    report = write(goods(table(photos, swapped), text=""))
    assert "embedded" not in done(report)
    assert [row["content"] for row in rows()] == [contents[1], contents[0], contents[2]]
    assert [row["name"] for row in rows()] == ["b.png", "a.png", "c.png"]


# Parts.


def test_pictures_texts_and_both(photos: Path, write: Write, rows: Any, ask: Any) -> None:
    mixed = [
        Record("both", photos / "a.png", ("a red dress",), named=True),
        Record("picture", photos / "b.png", named=True),
        Record("text", texts=("a wooden chair",), named=True),
    ]
    assert done(write(mixed)) == embedded(added=3)
    assert set(ask("a chair", k=9)) == {"both", "picture", "text"}
    assert set(ask("a chair", among="image", k=9)) == {"both", "picture"}
    assert ask("a chair", among="text", k=9) == ["text", "both"]
    (both, picture, text) = rows()
    assert (both["width"], picture["width"], text["width"]) == (64, 64, None)
    assert (both["text"], picture["text"], text["text"]) == ("a red dress", None, "a wooden chair")
    assert text["uri"] is None
    assert done(write(mixed)) == {"unchanged": 3}


def test_texts_alone_become_vectors_of_their_own(write: Write, encoder: bb.Encoder, path: Path) -> None:
    texts = ["a cat", "a dog", "a rocket"]
    write(Collection.from_texts(texts))
    index = bb.Index.open(path, encoder)
    hits = index.search("a rocket", among="text", k=3)
    assert hits[0].attributes["text"] == "a rocket"
    assert hits[0].score == pytest.approx(1, abs=1e-4)
    expected = encoder.embed(texts, role="document") @ encoder.embed(["a rocket"], role="query")[0]
    found = {hit.attributes["text"]: hit.score for hit in hits}
    assert found == pytest.approx(dict(zip(texts, expected.tolist(), strict=True)), abs=1e-4)
    assert index.search("a rocket", k=3).ids == hits.ids, "where there are no pictures texts are searched"


def test_several_texts_are_searched_by_their_mean(write: Write, encoder: bb.Encoder, path: Path) -> None:
    texts = ("a red dress", "a garment for the summer")
    assert done(write([Record("one", texts=texts, named=True)])) == embedded(added=1)
    index = bb.Index.open(path, encoder)
    hit = index.search("a dress", among="text")[0]
    mean = encoder.embed(list(texts), role="document").mean(0)
    mean /= np.linalg.norm(mean)
    assert hit.score == pytest.approx(float(encoder.embed(["a dress"])[0] @ mean), abs=1e-4)
    assert hit.attributes["text"] == "\n".join(texts)
    assert done(write([Record("one", texts=texts, named=True)])) == {"unchanged": 1}
    assert done(write([Record("one", texts=texts[:1], named=True)])) == embedded(changed=1)


def test_one_picture_with_different_captions(photos: Path, write: Write, rows: Any, ask: Any) -> None:
    lines = ["sku,photo,caption", "x,a.png,a red dress", "y,a.png,a wooden chair", "z,a.png,"]
    for id in ("sku", ""):
        target = photos / f"captions{id}.bower"
        source = goods(table(photos, "\n".join(lines)), id=id)
        assert done(write(source, target)) == embedded(added=3)
        assert done(write(source, target)) == {"unchanged": 3}
        captions = {row["text"] for row in rows(target=target)}
        assert captions == {"a red dress", "a wooden chair", None}


def test_exact_copies_are_records_of_their_own(photos: Path, write: Write, rows: Any, ask: Any) -> None:
    lines = ["sku,photo,caption", *(f"s{n},a.png,a red dress" for n in range(5))]
    source = goods(table(photos, "\n".join(lines)))
    assert done(write(source)) == embedded(added=5, copies=4)
    assert [row["id"] for row in rows()] == [f"s{n}" for n in range(5)]
    assert len({row["content"] for row in rows()}) == 1
    assert done(write(source)) == {"unchanged": 5}
    assert sorted(ask("a dress", k=9)) == [f"s{n}" for n in range(5)], "each has an id of its own"


def test_copies_without_ids_keep_what_each_says(photos: Path, write: Write, rows: Any) -> None:
    lines = ["sku,photo,caption", *(f"s{n},a.png,a red dress" for n in range(5))]
    source = goods(table(photos, "\n".join(lines)), id="")
    assert done(write(source)) == embedded(added=5, copies=4)
    before = rows("sku")
    assert sorted(row["sku"] for row in before) == [f"s{n}" for n in range(5)]
    assert done(write(source)) == {"unchanged": 5}
    assert rows("sku") == before


def test_duplicate_ids(photos: Path, write: Write, rows: Any) -> None:
    twice = [Record("one", texts=(words,), named=True) for words in ("a cat", "a dog", "a cat")]
    report = write(twice)
    assert done(report) == embedded(added=1, failed=2)
    assert report.done == 1
    assert [row["text"] for row in rows()] == ["a cat"]
    assert {failure.kind for failure in report.failures} == {"RowError"}
    assert all("one has come before" in failure.error.message for failure in report.failures)
    # In one file the source knows where the first stands; across files nobody but the index can.
    first = table(photos, THREE, "one.csv")
    second = table(photos, THREE.replace("a red dress", "a wooden chair"), "two.csv")
    report = write(goods(first), photos / "b.bower")
    from bowerbird.flow.sources.several import Several

    both = Collection.of(Several((goods(first).plan.source, goods(second).plan.source)))
    report = write(both, photos / "b.bower")
    assert done(report) == {"unchanged": 3, "failed": 3} | {"embedded": 1}
    assert rows(target=photos / "b.bower")[0]["text"] == "a red dress"


def test_broken_rows_and_pictures(photos: Path, write: Write, rows: Any, path: Path) -> None:
    lines = THREE + "a4,gone.png,a ghost,4\na5,bad.png,a wreck,5\na6,,,6\na1,a.png,again,7\na7,a.png\n"
    (photos / "bad.png").write_bytes(b"no picture")
    source = goods(table(photos, lines))
    report = write(source)
    assert done(report) == embedded(added=3, failed=5)
    assert report.done == 3
    assert [row["id"] for row in rows()] == ["a1", "a2", "a3"]
    listed = [json.loads(line) for line in (path / "errors.jsonl").read_text("utf-8").splitlines()]
    assert len(listed) == 5
    assert [entry["path"] for entry in listed] == ["a4", "a5", "a6", "goods.csv:8", "goods.csv:9"]
    for entry, said in zip(
        listed,
        ["gone.png", "bad.png", "neither a picture nor a text", "goods.csv:2", "2 fields"],
        strict=True,
    ):
        assert said in entry["reason"]
        assert entry["kind"]
        assert entry["path"].rpartition(":")[0] in entry["reason"]
    assert manifest.read(path).failed == 5
    # A clean run leaves no list behind.
    assert done(write(goods(table(photos, THREE)))) == {"unchanged": 3}
    assert not (path / "errors.jsonl").exists()
    assert manifest.read(path).failed == 0


def test_a_picture_that_no_longer_reads_keeps_its_record(photos: Path, write: Write, rows: Any) -> None:
    source = goods(table(photos, THREE))
    write(source)
    before = rows()
    (photos / "b.png").write_bytes(b"no picture")
    assert done(write(source)) == {"unchanged": 2, "failed": 1}
    assert [row["content"] for row in rows()] == [row["content"] for row in before]


def test_raise_stops_at_the_record(photos: Path, write: Write, rows: Any, path: Path) -> None:
    source = goods(table(photos, THREE))
    write(source)
    more = THREE + "a4,gone.png,a ghost,4\na5,a.png,a red skirt,5\n"
    with pytest.raises(RecordError, match=r"a4.*gone\.png") as caught:
        write(goods(table(photos, more)).on_error("raise"))
    assert caught.value.id == "a4"
    assert [row["id"] for row in rows()] == ["a1", "a2", "a3"]
    # Also what only the index refuses.
    with pytest.raises(RecordError, match="price is 'dear'") as caught:
        write(Collection.from_items([_item("b1", price=7), _item("b2", price="dear")]).on_error("raise"))
    assert caught.value.id == "b2"
    with pytest.raises(RecordError, match="c1 has come before"):
        write(Collection.from_items([_item("c1"), _item("c1")]).on_error("raise"))
    assert done(write(goods(table(photos, more)))) == embedded(added=1, unchanged=3, failed=1)


def test_raise_keeps_what_was_done_before(write: Write, rows: Any, path: Path) -> None:
    items = [_item(f"n{n:03}") for n in range(200)]
    items.append(Record("nothing", named=True))
    with pytest.raises(RecordError, match="nothing"):
        write(Collection.from_items(items).on_error("raise"))
    kept = len(rows())
    assert kept, "a run that stops keeps what it has done"
    assert done(write(items[:-1])) == (
        embedded(added=200 - kept, unchanged=kept) if kept < 200 else {"unchanged": 200}
    )


def _item(id: str, /, **attributes: Any) -> Record:
    return Record(id, texts=(f"the words of {id}",), attributes=attributes, named=True)


# Attributes.


def test_attributes_of_every_type(write: Write, rows: Any, ask: Any) -> None:
    noon = datetime(2024, 5, 6, 12, 30, 15, 123456)
    values: dict[str, Any] = {
        "words": "naïve ✓",
        "whole": 2**53 + 1,
        "real": 0.1,
        "truth": True,
        "day": date(2024, 5, 6),
        "noon": noon,
        "zoned": noon.replace(tzinfo=timezone.utc),
        "list": [1, 2.5, "x"],
        "empty list": [],
        "nested": {"a": {"b": [1, None]}, "ü": "✓"},
        "bytes": b"\x00\xff",
        "numpy": np.float32(0.5),
        "numpy whole": np.int16(7),
        "array": np.arange(3, dtype=np.float32),
        "nothing": None,
        "huge": 2**70,
        "path": Path("/a/b"),
        "lone": "half \ud800",
    }
    write([_item("full", **values), _item("bare")])
    bare, full = rows()
    assert {name: bare.get(name) for name in values} == dict.fromkeys(values)
    assert full["words"] == values["words"]
    assert (full["whole"], full["real"], full["truth"]) == (2**53 + 1, 0.1, True)
    assert full["day"] == datetime(2024, 5, 6)
    assert full["noon"] == noon
    assert full["zoned"] == values["zoned"]
    assert json.loads(full["list"]) == [1, 2.5, "x"] or json.loads(full["list"]) == ["1", "2.5", "x"]
    assert json.loads(full["nested"]) == values["nested"]
    assert json.loads(full["empty list"]) == []
    assert (full["numpy"], full["numpy whole"]) == (0.5, 7)
    assert json.loads(full["array"]) == [0, 1, 2]
    assert full["huge"] == str(2**70)
    assert full["path"] == "/a/b"
    assert "half" in full["lone"]
    assert "nothing" not in full
    for where in (
        "words = 'naïve ✓'",
        "whole = 9007199254740993",
        "real < 0.2",
        "truth",
        "day >= date '2024-05-06'",
        "noon > timestamp '2024-05-06 12:00:00'",
        "nested LIKE '%\"ü\"%'",
        "`numpy whole` = 7",
        "numpy = 0.5",
    ):
        assert ask("words", among="text", where=where) == ["full"], where
    assert ask("words", among="text", where="whole IS NULL") == ["bare"]
    # And once more, with everything there.
    assert done(write([_item("full", **values), _item("bare")])) == {"unchanged": 2}
    assert rows("whole", "zoned", "nested") == [
        {name: row[name] for name in ("id", "whole", "zoned", "nested")} for row in (bare, full)
    ]


def test_names_that_are_taken(write: Write, rows: Any, ask: Any, caplog: pytest.LogCaptureFixture) -> None:
    taken = {
        "name": "Ann", "size": "XL", "width": 3, "id": 5, "text": "t", "uri": "u", "Format": "f", "content": "c"
    }  # fmt: skip
    odd = {"a.b": 1, "x__y": 2, "tick`": 3, "new\nline": 4, "": 5, "unit price": 6, "Grün": 7, "_score": 8}
    odd |= {"copies": 9, "_rowid": 10, "_distance": 11}
    write([_item("one", **taken, **odd)])
    (row,) = rows()
    assert row["id"] == "one"
    assert row["text"] == "the words of one"
    assert row["name"] is None
    assert row["size"] is None
    for name, value in taken.items():
        assert row[f"{name}_"] == value
    assert "'size' is kept as 'size_'" in caplog.text
    for name, value in odd.items():
        kept = {"a.b": "a_b", "x__y": "x_y", "tick`": "tick_", "new\nline": "new_line"}.get(name, name)
        kept = kept if kept not in ("", "_score", "copies", "_rowid", "_distance") else f"{kept}_"
        assert row[kept] == value, name
    where = "size_ = 'XL' AND width_ = 3 AND `unit price` = 6 AND `Grün` = 7 AND a_b = 1 AND copies_ = 9"
    assert ask("words", among="text", where=where) == ["one"]
    assert ask("words", among="text", where="Format_ = 'f'") == ["one"]
    assert done(write([_item("one", **taken, **odd)])) == {"unchanged": 1}


def test_names_that_become_the_same_keep_both_values(write: Write, rows: Any) -> None:
    told = {"a.b": 1, "a_b": 2, "a__b": 3, "name": 4, "name_": 5, "Price": 6, "price": 7}
    write([_item("one", **told)])
    (row,) = rows()
    kept = [value for name, value in row.items() if isinstance(value, int) and name != "size"]
    assert sorted(kept) == [1, 2, 3, 4, 5, 6, 7]
    before = rows()
    assert done(write([_item("one", **dict(reversed(told.items())))])) == {"unchanged": 1}
    names = [name for name in before[0] if name != "indexed_at"]
    assert rows(*names) == [{name: before[0][name] for name in names}]


def test_new_columns_on_a_later_run(write: Write, rows: Any, ask: Any) -> None:
    write([_item("one", price=1), _item("two", price=2)])
    assert done(write([_item("two", price=2, colour="red"), _item("three", colour="blue")])) == embedded(
        added=1, unchanged=1
    )
    assert [(row["id"], row["price"], row["colour"]) for row in rows()] == [
        ("one", 1, None),
        ("three", None, "blue"),
        ("two", 2, "red"),
    ]
    assert ask("words", among="text", where="colour = 'red'") == ["two"]
    with pytest.raises(QueryError, match="size_of_shoe"):
        ask("words", among="text", where="size_of_shoe = 3")


@pytest.mark.parametrize("name", ["price", "unit price", "Preis"])
def test_whole_numbers_that_meet_a_fraction(write: Write, rows: Any, ask: Any, name: str) -> None:
    write([_item("one", **{name: 1}), _item("two", **{name: 2, "other": "x"})])
    assert done(write([_item("three", **{name: 2.5})])) == embedded(added=1)
    assert {row["id"]: row[name] for row in rows()} == {"one": 1.0, "three": 2.5, "two": 2.0}
    assert {row["id"]: row["other"] for row in rows()} == {"one": None, "three": None, "two": "x"}
    assert sorted(ask("words", among="text", where=f"`{name}` > 1.5")) == ["three", "two"]
    assert done(write([_item("four", **{name: 4})])) == embedded(added=1)


@pytest.mark.parametrize(
    ("held", "value"),
    [
        (1, "dear"), (1, True), (1, datetime(2024, 1, 1)), (1, [1]), (1, 2**70), (1.5, "x"), (1.5, True),
        (True, 1), (True, "true"), (True, 0.5), (datetime(2024, 1, 1), 5), (datetime(2024, 1, 1), "soon"),
        (datetime(2024, 1, 1), datetime(2024, 1, 1, tzinfo=timezone.utc)), (2**60 + 1, 0.5),
    ],
)  # fmt: skip
def test_what_does_not_fit_fails_alone(write: Write, rows: Any, held: Any, value: Any) -> None:
    write([_item("first", told=held)])
    before = rows("told")
    report = write(
        [_item("good", told=held), _item("bad", told=value), _item("other"), _item("last", told=held)]
    )
    assert done(report) == embedded(added=3, failed=1)
    assert report.done == 3
    (failure,) = report.failures
    assert (failure.id, failure.kind, failure.step) == ("bad", "RowError", "index")
    assert failure.error.message.startswith("told is ")
    kept = {row["id"]: row["told"] for row in rows("told")}
    assert kept == dict.fromkeys(("first", "good", "last"), before[0]["told"]) | {"other": None}


def test_numbers_that_come_as_text_fit_columns_of_numbers(write: Write, rows: Any) -> None:
    """As from a CSV of which one cell is no number: the others of the column come as text."""
    write([_item("first", price=1.5, count=2)])
    report = write([_item("good", price="13.5", count="3"), _item("bad", price="gratis", count="4")])
    assert done(report) == embedded(added=1, failed=1)
    assert {row["id"]: (row["price"], row["count"]) for row in rows()} == {
        "first": (1.5, 2),
        "good": (13.5, 3),
    }


def test_a_fraction_beside_what_does_not_fit(write: Write, rows: Any) -> None:
    write([_item("first", price=1)])
    report = write([_item("half", price=0.5), _item("bad", price="dear"), _item("two", price=2)])
    assert done(report) == embedded(added=2, failed=1)
    assert {row["id"]: row["price"] for row in rows()} == {"first": 1, "half": 0.5, "two": 2}


def test_numbers_become_text_where_text_is_held(write: Write, rows: Any) -> None:
    write([_item("first", code="x7")])
    assert done(write([_item("second", code=8), _item("third", code=True)])) == embedded(added=2)
    assert [row["code"] for row in rows()] == ["x7", "8", "true"]


def test_dates_and_times_share_a_column(write: Write, rows: Any) -> None:
    write([_item("day", at=date(2024, 1, 2))])
    assert done(
        write([_item("time", at=datetime(2024, 1, 2, 3, 4)), _item("zday", at=date(2025, 1, 1))])
    ) == (embedded(added=2))
    assert [row["at"] for row in rows()] == [
        datetime(2024, 1, 2), datetime(2024, 1, 2, 3, 4), datetime(2025, 1, 1)
    ]  # fmt: skip


def test_a_record_that_is_refused_loses_nothing(photos: Path, write: Write, rows: Any) -> None:
    """What the index held of it stays, whether its bytes are the same or not, and the counts say so."""
    first = [
        Record(f"a{n}", photos / f"{p}.png", (p,), {"price": n}, named=True) for n, p in enumerate("abc")
    ]
    write(first)
    before = rows("content", "text", "price")
    bad = {"price": "dear"}
    second = [
        Record("a0", photos / "a.png", ("a",), bad, named=True),
        Record("a1", photos / "b.png", ("another caption",), bad, named=True),
        Record("a2", photos / "c.png", ("c",), {"price": 2}, named=True),
        Record("a3", photos / "c.png", ("c",), bad, named=True),
    ]
    report = write(second)
    assert done(report) == embedded(unchanged=1, failed=3)
    assert report.done == 1
    assert rows("content", "text", "price") == before
    # Mended, it comes in.
    mended = [Record("a1", photos / "b.png", ("another caption",), {"price": 7}, named=True)]
    assert done(write(mended)) == embedded(changed=1)
    assert rows("text", "price")[1] == {"id": "a1", "text": "another caption", "price": 7}


_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**66), 2**66), st.floats(), st.text(max_size=5),
    st.dates(date(1, 1, 1)), st.datetimes(), st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2), st.binary(max_size=3), st.decimals(),
    st.times(), st.timedeltas(), st.uuids(), st.floats().map(np.float64), st.integers(-9, 9).map(np.int16),
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.lists(st.dictionaries(st.sampled_from(["x", "y z", "name", "X"]), _VALUES), max_size=4),
        min_size=1, max_size=3,
    )
)  # fmt: skip
def test_whatever_is_said_every_record_is_there_or_failed(
    tmp_path_factory: pytest.TempPathFactory, write: Write, rows: Any, runs: list[list[Mapping[str, Any]]]
) -> None:
    target = tmp_path_factory.mktemp("any") / "x.bower"
    kept: set[str] = set()
    for number, told in enumerate(runs):
        records = [_item(f"{number}-{place}", **attributes) for place, attributes in enumerate(told)]
        report = write(records, target)
        refused = {failure.id for failure in report.failures}
        assert {failure.kind for failure in report.failures} <= {"RowError"}
        assert report.done == len(records) - len(refused)
        kept |= {record.id for record in records} - refused
        assert number or not refused, "the first run has nothing to disagree with"
    assert {row["id"] for row in rows(target=target)} == kept


# Folders and tables of the same pictures.


def test_a_folder_then_a_table(
    photos: Path, write: Write, rows: Any, path: Path, encoder: bb.Encoder
) -> None:
    index = bb.Index.create(path, encoder)
    index.add(photos)
    plain = {row["uri"]: row["id"] for row in rows()}
    for id in ("sku", ""):
        pictures = goods(table(photos, THREE), text="", id=id)
        assert done(write(pictures)) == {"added": 3, "copies": 3}, "the pictures are known"
        assert done(write(pictures)) == {"unchanged": 3}
    captions = goods(table(photos, THREE))
    assert done(write(captions)) == embedded(changed=3)
    assert len(rows()) == 9
    index.refresh()
    report = index.add(photos)
    assert (report.unchanged, report.added, report.removed, report.moved) == (3, 0, 0, 0)
    assert {row["uri"]: row["id"] for row in rows() if row["size"] is not None} == plain
    # A file that leaves takes only the folder's own record along.
    (photos / "a.png").unlink()
    report = index.add(photos)
    assert (report.unchanged, report.removed) == (2, 1)
    assert sorted(row["id"] for row in rows() if row["id"].startswith("a") and len(row["id"]) == 2) == [
        "a1", "a2", "a3"
    ]  # fmt: skip
    assert len(rows()) == 8


@pytest.mark.parametrize("id", ["sku", ""])
@pytest.mark.parametrize("text", ["", "caption"])
def test_a_table_then_a_folder(
    photos: Path, write: Write, rows: Any, path: Path, encoder: bb.Encoder, id: str, text: str
) -> None:
    source = goods(table(photos, THREE), id=id, text=text)
    write(source)
    index = bb.Index.open(path, encoder)
    report = index.add(photos)
    assert not report.failed
    assert not report.removed
    told = [row for row in rows() if row["sku" if not id else "price"] is not None]
    assert len(told) == 3, "what the table says of its pictures is kept"
    assert len(rows()) == 6
    again = index.add(photos)
    assert (again.unchanged, again.added) == (3, 0)
    assert done(write(source)) == {"unchanged": 3}
    assert len(rows()) == 6


def test_paths_are_found_again(photos: Path, write: Write, rows: Any, path: Path, picture: Picture) -> None:
    """Records that are just files: the same as when their folder is indexed."""
    source = Collection.from_glob(photos / "*.png")
    assert done(write(source)) == embedded(added=3)
    assert done(write(source)) == {"unchanged": 3}
    before = {row["name"]: row["id"] for row in rows()}
    (photos / "a.png").write_bytes(picture(9))
    assert done(write(source)) == embedded(changed=1, unchanged=2)
    after = {row["name"]: row["content"] for row in rows()}
    assert after == {f"{n}.png": content_id((photos / f"{n}.png").read_bytes()) for n in "abc"}
    (photos / "b.png").rename(photos / "z.png")
    assert done(write(source)) == {"moved": 1, "unchanged": 2}
    assert {row["name"]: row["id"] for row in rows()}["z.png"] == before["b.png"]


def test_paths_then_their_folder(
    photos: Path, write: Write, rows: Any, path: Path, encoder: bb.Encoder, picture: Picture
) -> None:
    write(Collection.from_glob(photos))
    index = bb.Index.open(path, encoder)
    assert index.add(photos).unchanged == 3
    assert len(rows()) == 3
    assert done(write(Collection.from_glob(photos))) == {"unchanged": 3}
    (photos / "a.png").write_bytes(picture(9))
    report = index.add(photos)
    assert (report.changed, report.unchanged) == (1, 2)
    (photos / "a.png").unlink()
    report = index.add(photos)
    assert (report.unchanged, report.removed) == (2, 1)


def test_two_copies_of_a_file_stay_where_they_are(photos: Path, write: Write, rows: Any) -> None:
    shutil.copy(photos / "a.png", photos / "d.png")
    write(Collection.from_glob(photos / "a.png"))
    assert done(write(Collection.from_glob(photos / "d.png"))) == {"added": 1, "copies": 1}
    assert sorted(row["name"] for row in rows()) == ["a.png", "d.png"]


def test_a_folder_of_labels(photos: Path, write: Write, rows: Any, path: Path, encoder: bb.Encoder) -> None:
    """Attributes and captions of files stay when their folder is indexed the plain way."""
    folder = photos / "labelled"
    for place, name in enumerate("abc"):
        (folder / f"kind{place}").mkdir(parents=True)
        shutil.move(photos / f"{name}.png", folder / f"kind{place}" / f"{name}.png")
    source = Collection.from_folder(folder)
    assert done(write(source)) == embedded(added=3)
    assert done(write(source)) == {"unchanged": 3}
    bb.Index.open(path, encoder).add(folder)
    assert [row["label"] for row in sorted(rows(), key=lambda row: row["name"])] == [
        "kind0",
        "kind1",
        "kind2",
    ]


# The index as a whole.


def test_an_index_of_the_format_before_texts(
    photos: Path, write: Write, rows: Any, path: Path, encoder: bb.Encoder
) -> None:
    lance = pytest.importorskip("lance")
    index = bb.Index.create(path, encoder)
    index.add(photos)
    lance.dataset(str(path / "records.lance")).drop_columns(["text"])
    old = manifest.read(path)
    newest = lance.dataset(str(path / "records.lance")).version
    manifest.write(path, old.updated_to(table_version=newest))
    opened = bb.Index.open(path, encoder)
    assert "text" not in opened.table.names
    assert len(opened.search("a pattern", k=9)) == 3
    assert len(opened.search("a pattern", k=9, where="width = 64")) == 3
    with pytest.raises(QueryError, match="no texts"):
        opened.search("a pattern", among="text")
    # It takes pictures, records without attributes, and records with everything.
    assert opened.add(photos).unchanged == 3
    (photos / "d.png").write_bytes((photos / "a.png").read_bytes())
    assert opened.add(photos).copies == 1
    assert done(write([_item("plain")])) == embedded(added=1)
    assert done(write([_item("told", price=3)])) == embedded(added=1)
    assert [row["text"] for row in rows() if row["text"]] == ["the words of plain", "the words of told"]
    assert len(rows()) == 6


def test_a_crash_after_making_room_for_texts(
    photos: Path, write: Write, rows: Any, path: Path, encoder: bb.Encoder
) -> None:
    """The table has the column, the manifest does not name it yet."""
    index = bb.Index.create(path, encoder)
    index.add(photos)
    with index.writing():
        make_room_for_texts(index)
    assert done(write([_item("one")])) == embedded(added=1)
    assert bb.Index.open(path, encoder).search("words", among="text").ids == ["one"]


def test_what_is_there_no_part_for(photos: Path, write: Write, path: Path, encoder: bb.Encoder) -> None:
    index = bb.Index.create(path, encoder)
    index.add(photos)
    with pytest.raises(QueryError, match="has no texts") as caught:
        index.search("words", among="text")
    assert "image" in caught.value.hint
    with pytest.raises(QueryError, match="no part 'sound'"):
        index.search("words", among="sound")


def test_a_plan_that_does_not_embed_is_embedded_with_the_model_of_the_index(path: Path, rows: Any) -> None:
    first = Collection.from_texts(["a cat"]).write(path)
    assert done(first) == embedded(added=1)
    assert done(Collection.from_texts(["a cat", "a dog"]).write(path)) == embedded(added=1, unchanged=1)
    assert sorted(row["text"] for row in rows()) == ["a cat", "a dog"]


def test_one_model_twice_is_refused(path: Path, encoder: bb.Encoder) -> None:
    both = Collection.from_texts(["a cat"]).embed(encoder).embed(encoder, name="second")
    with pytest.raises(BowerbirdError, match="twice with the same model: mini, mini"):
        both.write(path)
    assert not path.exists()


def test_another_model_is_refused(path: Path, write: Write, rows: Any) -> None:
    write([_item("one")])
    before = rows()
    other = bb.load("mini", dimensions=64)
    with pytest.raises(SpaceMismatchError, match="dimensions 64"):
        Collection.from_texts(["a cat"]).embed(other).write(path)
    assert rows() == before


def test_vectors_with_a_name_of_their_own(path: Path, encoder: bb.Encoder, photos: Path) -> None:
    source = goods(table(photos, THREE))
    report = source.embed(encoder, name="fashion").write(path)
    assert done(report) == embedded(added=3)
    index = bb.Index.open(path, encoder)
    assert len(index.search("a dress", k=9)) == 3
    assert index.search("a red dress", among="text", k=1).ids == ["a1"]


def test_steps_after_embed_still_write(path: Path, encoder: bb.Encoder, photos: Path, rows: Any) -> None:
    source = goods(table(photos, THREE)).embed(encoder)
    shorter = source.filter(lambda record: record["price"] > 10).map(
        lambda record: record.with_attributes(new=1)
    )
    for counts in ({"added": 2}, {"unchanged": 2}):
        assert done(shorter.write(path)).items() >= counts.items()
    assert [(row["id"], row["new"]) for row in rows()] == [("a2", 1), ("a3", 1)]


def test_what_are_no_records(path: Path) -> None:
    report = Collection.range(3).write(path)
    assert report.failed == {"UnsupportedInputError": 3}
    assert "embed takes records, texts and paths, not int" in report.failures[0].error.message


def test_a_source_that_is_not_there_leaves_the_index_as_it_was(write: Write, rows: Any, photos: Path) -> None:
    write([_item("one")])
    before = rows()
    with pytest.raises(UnreadableError, match="does not exist"):
        write(goods(photos / "gone.csv"))
    with pytest.raises(BowerbirdError, match="no column 'photo'"):
        write(goods(table(photos, "a,b\n1,2\n")))
    assert rows() == before


def test_a_decoded_picture_is_the_same_record(photos: Path, write: Write, rows: Any) -> None:
    source = goods(table(photos, THREE))
    write(source)
    assert done(write(source.decode().filter(lambda record: record.image.width == 64))) == {"unchanged": 3}
    assert len(rows()) == 3


def test_pictures_that_lie_nowhere(photos: Path, write: Write, rows: Any, ask: Any) -> None:
    data = (photos / "a.png").read_bytes()
    array = np.zeros((32, 32, 3), np.uint8)
    records = [Record("bytes", data, named=True), Record("array", array, named=True), Record("x:1", data)]
    assert done(write(records)) == embedded(added=3, copies=1)
    assert [row["uri"] for row in rows()] == [None] * 3
    assert done(write(records)) == {"unchanged": 3}
    assert "array" in ask("black", k=9)


def test_ids_with_quotes_and_the_like(write: Write, rows: Any) -> None:
    ids = ["it's", 'a "b"', "-- x", "a;b", "🦆", "'", "a\nb", " ", "%_"]
    records = [Record(id, texts=(f"words {place}",), named=True) for place, id in enumerate(ids)]
    assert done(write(records)) == embedded(added=len(ids))
    assert done(write(records)) == {"unchanged": len(ids)}
    changed = [Record(id, texts=("other", str(place)), named=True) for place, id in enumerate(ids)]
    assert done(write(changed)) == embedded(changed=len(ids))
    assert {row["id"] for row in rows()} == set(ids)


def test_a_model_of_texts_alone(text_model: Path, tmp_path: Path, photos: Path) -> None:
    target = tmp_path / "texts.bower"
    model = bb.load(str(text_model))
    source = goods(table(photos, THREE)).embed(model)
    assert done(source.write(target)) == embedded(added=3)
    assert done(source.write(target)) == {"unchanged": 3}
    index = bb.Index.open(target, model)
    assert index.search("a red dress", k=1).ids == ["a1"]
    assert index.search("a red dress", k=1, among="text").ids == ["a1"]
    with pytest.raises(QueryError, match="no pictures"):
        index.search("a red dress", among="image")
    report = Collection.from_glob(photos).embed(model).write(target)
    assert report.failed == {"UnsupportedInputError": 3}
    assert "a picture, which" in report.failures[0].error.message


@pytest.fixture
def text_model(tmp_path: Path) -> Path:
    """A text model whose token vectors are fixed."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", "a", "red", "dress", "blue", "shoes", "green", "hat"]
    vectors = np.random.default_rng(1).normal(size=(len(words), 12)).astype(np.float32)
    shape = ["n", "t"]
    ids = [
        helper.make_tensor_value_info(n, TensorProto.INT64, shape) for n in ("input_ids", "attention_mask")
    ]
    out = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["n", "t", 12])
    node = helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])
    graph = helper.make_graph([node], "words", ids, [out], [numpy_helper.from_array(vectors, "table")])
    target = tmp_path / "words"
    (target / "onnx").mkdir(parents=True)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, target / "onnx" / "model.onnx")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(target / "tokenizer.json"))
    (target / "1_Pooling").mkdir()
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    files = {
        "modules.json": [
            {"idx": i, "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(kinds)
        ],
        "1_Pooling/config.json": {"pooling_mode": "mean"},
        "sentence_bert_config.json": {"max_seq_length": 12},
        "config.json": {"pad_token_id": 0},
    }
    for name, value in files.items():
        (target / name).write_text(json.dumps(value))
    return target


# Processes that die.

MANY = 240
EAGER = {"BOWERBIRD_COMMIT_SECONDS": "0.2"}


@pytest.mark.slow
@pytest.mark.parametrize("id", ["sku", ""])
def test_killed_in_the_middle_of_a_table(
    run: Command, tmp_path: Path, picture: Picture, rows: Any, id: str
) -> None:
    lines = ["sku,photo,caption,price"]
    for seed in range(MANY):
        (tmp_path / f"{seed}.png").write_bytes(picture(seed))
        lines.append(f"s{seed:03},{seed}.png,thing number {seed},{seed}")
    lines.append("broken,gone.png,a ghost,1")
    source, target = table(tmp_path, "\n".join(lines)), tmp_path / "goods.bower"
    words = ("index", source, "--image", "photo", "--text", "caption", "--index", target)
    words += ("--id", id) if id else ()
    kept = 0
    for _ in range(3):
        process = run.start(*words, env=EAGER)
        end = time.monotonic() + 30
        while process.poll() is None and _count(target) <= kept and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        now = _count(target)
        assert now >= kept, "what was indexed before is gone"
        kept = now
    assert 0 < kept < MANY, "it was not killed in the middle"
    last = run(*words)
    added = MANY - int(last.err.partition(" added, ")[2].partition(" unchanged")[0])
    assert f"{added} added" in last.err
    assert added <= MANY - kept, "records that were there have been embedded again"
    assert "1 failed" in last.err
    found = rows("sku" if not id else "price", "text", "content")
    assert len(found) == MANY
    assert sorted(row["text"] for row in found) == sorted(f"thing number {seed}" for seed in range(MANY))
    assert len({row["content"] for row in found}) == MANY
    if id:
        assert [(row["id"], row["price"]) for row in found] == [(f"s{n:03}", n) for n in range(MANY)]
    assert f"{MANY} unchanged, 1 failed" in run(*words).err


def _count(target: Path) -> int:
    return manifest.read(target).records if (target / manifest.NAME).exists() else 0
