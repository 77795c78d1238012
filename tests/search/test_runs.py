"""Runs that write records: the same whatever executes them, whenever they commit, and whatever ends them."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.search.executors import made

import bowerbird as bb
from bowerbird import Collection, Record
from bowerbird.errors import BowerbirdError
from bowerbird.flow.report import RunReport
from bowerbird.record import content_id
from bowerbird.search.rows import arrow_rows
from bowerbird.search.writer import Writer
from bowerbird.store import manifest
from bowerbird.store.filters import And, IsNull
from bowerbird.store.lance import LanceTable
from bowerbird.store.location import Location

# Ray's own, which comes with lance-ray: it warns of its settings.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")

Picture = Callable[..., bytes]
Write = Callable[..., RunReport]
BOTH = ["local", "distributed"]


@pytest.fixture(scope="module")
def encoder(private_places: Path) -> bb.Encoder:
    return bb.load("mini", threads=2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "goods.bower"


@pytest.fixture(params=BOTH)
def executor(request: pytest.FixtureRequest) -> bb.Local:
    return made(request.param)


@pytest.fixture
def write(path: Path, encoder: bb.Encoder, executor: bb.Local) -> Write:
    def write(records: Collection[Any] | Iterable[Any]) -> RunReport:
        some = records if isinstance(records, Collection) else Collection.from_items(list(records))
        return some.embed(encoder, cache=False).on(executor).write(path)

    return write


def rows(path: Path, encoder: bb.Encoder, *names: str) -> list[dict[str, Any]]:
    """All rows that a reader sees, in the order of their ids."""
    index = bb.Index.open(path, encoder)
    found = [row for batch in index.table.scan(["id", *names]) for row in batch.to_pylist()]
    assert len(found) == len(index), "the manifest counts other rows"
    assert len({row["id"] for row in found}) == len(found), "an id has several rows"
    return sorted(found, key=lambda row: row["id"])


def empty(path: Path, encoder: bb.Encoder) -> int:
    """How many rows have no vector."""
    index = bb.Index.open(path, encoder)
    return index.table.count(And(tuple(IsNull(column.norm) for column in index.columns)))


def item(id: str, /, **attributes: Any) -> Record:
    return Record(id, texts=(f"the words of {id}",), attributes=attributes, named=True)


# Vectors that no column holds.


def test_texts_that_nobody_could_foresee(write: Write, path: Path, encoder: bb.Encoder) -> None:
    words = ["a red hat", "a cat", "a dog"]
    texts = Collection.from_items(words).map(lambda text: Record(text, texts=(text,), named=True))
    assert write(texts).counts["added"] == 3
    assert empty(path, encoder) == 0
    assert bb.Index.open(path, encoder).search("hat", among="text").ids[0] == "a red hat"


def test_texts_of_a_source_that_is_read_once(write: Write, path: Path, encoder: bb.Encoder) -> None:
    write(Collection.from_items(item(f"n{number}", price=number) for number in range(40)))
    assert empty(path, encoder) == 0
    assert [row["price"] for row in rows(path, encoder, "price")] == [
        int(id_[1:]) for id_ in sorted(f"n{number}" for number in range(40))
    ]


def test_rows_that_have_lost_their_vectors_are_embedded_again(
    tmp_path: Path, picture: Picture, write: Write, path: Path, encoder: bb.Encoder
) -> None:
    """Records with an id, of a file, of a table without ids, and an exact copy."""
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(picture(1))
    files = [Record(str(file), file, named=False) for file in sorted(tmp_path.glob("*.png"))]
    lines = [Record(f"t:{number}", texts=(f"line {number}",), named=False) for number in range(2)]
    records = [item("one", price=7), *lines, *files]
    write(records)
    before = rows(path, encoder, "uri", "content", "text", "price")
    index = bb.Index.open(path, encoder)
    with index.writing():
        stored = [row for batch in index.table.scan(index.table.names) for row in batch.to_pylist()]
        for row in stored:
            row |= {"attribute:price": row["price"]}
            row.update(dict.fromkeys([name for c in index.columns for name in (c.name, c.norm)]))
        index.table.upsert(arrow_rows(stored, index.columns, index.table.attributes()))
        index.publish(failed=0, roots=(), embedded=())
    assert empty(path, encoder) == 5
    report = write(records)
    assert not report.failed
    assert empty(path, encoder) == 0
    assert rows(path, encoder, "uri", "content", "text", "price") == before
    assert write(records).counts["unchanged"] == 5


def test_a_folder_that_has_lost_its_vectors(
    tmp_path: Path, picture: Picture, path: Path, encoder: bb.Encoder, executor: bb.Local
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed, name in enumerate("abc"):
        (folder / f"{name}.png").write_bytes(picture(seed))
    index = bb.Index.create(path, encoder)
    index.add(folder, executor=executor)
    before = rows(path, encoder, "uri", "mtime_ns")
    with index.writing():
        stored = [row for batch in index.table.scan(index.table.names) for row in batch.to_pylist()]
        for row in stored:
            row.update(dict.fromkeys([name for c in index.columns for name in (c.name, c.norm)]))
        index.table.upsert(arrow_rows(stored, index.columns, index.table.attributes()))
    assert index.add(folder, executor=executor).changed == 3
    assert (empty(path, encoder), rows(path, encoder, "uri", "mtime_ns")) == (0, before)
    assert index.add(folder, executor=executor).unchanged == 3


# What attributes may be.


@pytest.mark.parametrize("seconds", ["0", "60"])
def test_types_do_not_depend_on_the_clock(
    monkeypatch: pytest.MonkeyPatch, write: Write, path: Path, encoder: bb.Encoder, seconds: str
) -> None:
    monkeypatch.setenv("BOWERBIRD_COMMIT_SECONDS", seconds)
    records = [item(f"n{number:03}", price=number if number < 40 else "n/a") for number in range(50)]
    assert not write(records).failed
    assert [row["price"] for row in rows(path, encoder, "price")] == [*map(str, range(40)), *["n/a"] * 10]


@pytest.mark.parametrize("seconds", ["0", "60"])
def test_a_column_that_comes_late_takes_the_type_of_its_first_value(
    monkeypatch: pytest.MonkeyPatch, write: Write, path: Path, encoder: bb.Encoder, seconds: str
) -> None:
    monkeypatch.setenv("BOWERBIRD_COMMIT_SECONDS", seconds)
    monkeypatch.setattr("bowerbird.search.records.PEEKED", 10)
    late = {10: 1, 20: 2, 30: 2.5, 40: "n/a"}
    records = [
        item(f"n{number:03}", **({"price": late[number]} if number in late else {})) for number in range(50)
    ]
    report = write(records)
    assert [failure.id for failure in report.failures] == ["n040"]
    assert [row["price"] for row in rows(path, encoder, "price") if row["price"]] == [1.0, 2.0, 2.5]


def test_functions_say_what_attributes_are(write: Write, path: Path, encoder: bb.Encoder) -> None:
    """What they make of the source's attributes counts, not those themselves."""
    records = Collection.from_items([item("one", price="1 EUR"), item("two", price="2 EUR")])
    write(records.map(lambda record: record.with_attributes(price=int(record["price"].split()[0]))))
    assert [row["price"] for row in rows(path, encoder, "price")] == [1, 2]


# What ends a run early.


@pytest.mark.parametrize(
    "where", ["_reuse_one", "_keep_attributes", "_unfit", "_give_up", "upsert", "append"]
)
@pytest.mark.parametrize(("when", "late"), [(1, False), (1, True), (2, False), (2, True)])
def test_ctrl_c_loses_no_row(
    tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch, write: Write, path: Path,
    where: str, when: int, late: bool,
) -> None:  # fmt: skip
    """Before or after what is interrupted; here a file becomes a copy, two swap, and one is new."""
    encoder = bb.load("mini", threads=2)
    files = [tmp_path / f"{name}.png" for name in "abcde"]
    for seed, file in enumerate(files[:4]):
        file.write_bytes(picture(seed))
    records = [Record(str(file), file, attributes={"seed": 1}, named=False) for file in files]
    write(records[:4])
    for file, seed in zip(files, (3, 2, 1, 3, 9), strict=True):
        file.write_bytes(picture(seed))
    owner: Any = Writer if where.startswith("_") else LanceTable
    whole, calls = getattr(owner, where), Counter[str]()

    def interrupted(*arguments: Any, **more: Any) -> Any:
        calls[where] += 1
        if calls[where] == when and not late:
            raise KeyboardInterrupt
        result = whole(*arguments, **more)
        if calls[where] == when:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, where, interrupted)
        try:
            write(records)
        except KeyboardInterrupt:
            pass
        else:
            assert calls[where] < when, "it went unnoticed"
    assert {row["uri"] for row in rows(path, encoder, "uri")} >= {str(file) for file in files[:4]}
    write(records)
    found = [row["uri"] for row in rows(path, encoder, "uri")]
    assert sorted(found) == [str(file) for file in files]


def test_an_error_that_ends_a_run_keeps_what_was_done(
    monkeypatch: pytest.MonkeyPatch, write: Write, path: Path, encoder: bb.Encoder
) -> None:
    monkeypatch.setenv("BOWERBIRD_COMMIT_SECONDS", "60")
    records = [item(f"n{number}") for number in range(600)]
    whole = bb.Local.stream

    def stream(*arguments: Any) -> Iterator[Any]:
        yield next(whole(*arguments))
        raise BowerbirdError("The cluster is gone.")

    with monkeypatch.context() as patch, pytest.raises(BowerbirdError, match="cluster is gone"):
        patch.setattr(bb.Local, "stream", stream)
        write(records)
    kept = len(rows(path, encoder))
    assert kept
    assert write(records).counts["unchanged"] == kept


# One place, and failures.


@pytest.mark.parametrize("seconds", ["0", "60"])
def test_one_file_twice(
    tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch, write: Write, path: Path,
    encoder: bb.Encoder, seconds: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("BOWERBIRD_COMMIT_SECONDS", seconds)
    file = tmp_path / "a.png"
    file.write_bytes(picture(1))
    record = Record(str(file), file, named=False)
    assert not write([record, record]).failed
    assert [row["uri"] for row in rows(path, encoder, "uri")] == [str(file)]
    file.write_bytes(picture(2))
    assert not write([record, record]).failed
    report = write([record, record.with_attributes(price=1)])
    assert report.failed == {"RowError": 1}
    assert len(rows(path, encoder)) == 1


@dataclass(frozen=True)
class Page:
    """What lies at an address, which may be something else the next time."""

    data: bytes

    def read(self, policy: Any) -> bytes:
        return self.data

    def __str__(self) -> str:
        return "https://shop.example/a.png"


@pytest.mark.parametrize("seconds", ["0", "60"])
def test_one_address_that_gives_two_pictures(
    picture: Picture,
    monkeypatch: pytest.MonkeyPatch,
    write: Write,
    path: Path,
    encoder: bb.Encoder,
    seconds: str,
) -> None:
    """Where workers write rows, the second is in the table before anybody knows; a copy of it stays."""
    monkeypatch.setenv("BOWERBIRD_COMMIT_SECONDS", seconds)
    pages = [Page(picture(1)), Page(picture(2)), Page(picture(2)), Page(picture(1))]
    records = [Record(str(page), page, named=False) for page in pages]
    report = write([*records, Record("copy", picture(2))])
    assert report.failed == {"RowError": 2}
    found = rows(path, encoder, "uri", "content")
    contents = [content_id(picture(seed)) for seed in (1, 2)]
    assert {row["content"]: row["uri"] for row in found} == dict(
        zip(contents, [str(pages[0]), None], strict=True)
    )
    assert [row["id"] for row in found if row["content"] == contents[1]] == ["copy"]


def test_dropped_failures_are_listed(write: Write, path: Path) -> None:
    records = [item("one"), Record("none", named=True), item("two")]
    report = write(Collection.from_items(records).on_error("drop"))
    assert report.failed == {"UnsupportedInputError": 1}
    assert manifest.read(Location.of(path)).failed == 1
    assert json.loads((path / "errors.jsonl").read_text("utf-8"))["path"] == "none"


# Both executors.


@pytest.mark.parametrize("seed", range(20))
def test_both_executors_write_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: bb.Encoder, seed: int
) -> None:
    """Random records, in two runs; between these, files change. Ids may repeat, and attributes may not fit."""
    monkeypatch.setenv("BOWERBIRD_COMMIT_SECONDS", random.Random(seed).choice(["0", "0.05", "60"]))
    outcomes = []
    for name in BOTH:
        rng, path, files = random.Random(seed), tmp_path / f"{name}.bower", tmp_path / "files"
        shutil.rmtree(files, ignore_errors=True)
        files.mkdir()
        seen = []
        for _ in range(2):
            records = [item("first", k=1), *_some_records(rng, files)]
            report = Collection.from_items(records).embed(encoder, cache=False).on(made(name)).write(path)
            assert empty(path, encoder) == 0
            found = rows(path, encoder, "uri", "content", "text", "k")
            told = [
                (
                    row["id"] if not row["id"].startswith(row["content"]) else "",
                    *map(str, list(row.values())[1:]),
                )
                for row in found
            ]
            seen.append((sorted(told), report.failed))
        outcomes.append(seen)
    assert outcomes[0] == outcomes[1]


def _some_records(rng: random.Random, files: Path) -> list[Record]:
    def pixels() -> Any:
        return np.random.default_rng(rng.randint(0, 3)).integers(0, 255, (48, 48, 3), np.uint8)

    for number in range(3):
        Image.fromarray(pixels()).save(files / f"{number}.png")
    records = []
    for number in range(rng.randint(1, 25)):
        told: dict[str, Any] = {"k": rng.choice([0, 1, 2, 3, "x"])} if rng.random() < 0.7 else {}
        texts = (f"w{rng.randint(0, 4)}",)
        kind = rng.choice(["named", "named", "row", "array", "file", "broken"])
        if kind == "named":
            records.append(Record(f"n{rng.randint(0, 8)}", texts=texts, attributes=told, named=True))
        elif kind == "row":
            records.append(Record(f"row:{rng.randint(0, 12)}", texts=texts, attributes=told, named=False))
        elif kind == "array":
            records.append(Record(f"p{number % 3}", pixels(), attributes=told, named=False))
        elif kind == "file":
            file = files / f"{rng.randint(0, 2)}.png"
            records.append(Record(str(file), file, attributes=told, named=False))
        else:
            records.append(Record(f"bad{number}", files / "none.jpg", named=rng.random() < 0.5))
    return records
