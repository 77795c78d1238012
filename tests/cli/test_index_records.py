"""`bowerbird index` of tables, and `search --among`: as a user runs them, and what they say when it cannot be."""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import bowerbird as bb

if TYPE_CHECKING:
    from tests.conftest import Command

ROWS = [
    ("s1", "chelsea.jpg", "a cat; it looks at you", "4"),
    ("s2", "coffee.jpg", "a cup of coffee", "2.5"),
    ("s3", "", "a wooden chair", "80"),
]
COLUMNS = ("--image", "photo", "--text", "caption")


@pytest.fixture
def shop(tmp_path: Path, photographs: dict[str, Path]) -> Path:
    """A catalogue whose pictures lie in a folder beside it."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("chelsea", "coffee"):
        shutil.copy(photographs[name], pictures)
    return catalogue(tmp_path, ROWS)


def catalogue(
    folder: Path, rows: list[tuple[str, ...]], delimiter: str = "#", name: str = "goods.csv"
) -> Path:
    path = folder / name
    lines = [("sku", "photo", "caption", "price"), *rows]
    path.write_text("".join(delimiter.join(line) + "\n" for line in lines), "utf-8")
    return path


def words(shop: Path, *more: object) -> tuple[object, ...]:
    index = shop.parent / "goods.bower"
    return (
        "index",
        shop,
        *COLUMNS,
        "--delimiter",
        "#",
        "--root",
        shop.parent / "pictures",
        "--index",
        index,
        *more,
    )


def test_a_catalogue(run: Command, shop: Path) -> None:
    first = run(*words(shop, "--id", "sku"))
    assert first.raw == b"", "messages go to stderr"
    assert re.fullmatch(r"3 added in [\d.]+ s\.\n(.*-bound.*\n)?3 records in .*goods\.bower\n", first.err)
    assert re.match(r"3 unchanged in ", run(*words(shop, "--id", "sku")).err)
    where = {"env": {"BOWERBIRD_INDEX": str(shop.parent / "goods.bower")}}
    assert Path(run("search", "a cat", **where).paths[0]).name == "chelsea.jpg"
    cheap = run("search", "a cup", "--where", "price < 3", "--json", **where)
    assert [(row["id"], row["price"], row["text"]) for row in json.loads(cheap.out)] == [
        ("s2", 2.5, "a cup of coffee")
    ]
    assert "price" in run("info", **where).out
    catalogue(shop.parent, [ROWS[0], ("s2", "coffee.jpg", "something to drink", "3"), *ROWS[2:]])
    assert re.match(r"1 changed, 2 unchanged in ", run(*words(shop, "--id", "sku")).err)


def test_search_among(run: Command, shop: Path) -> None:
    run(*words(shop, "--id", "sku"))
    index = ("--index", shop.parent / "goods.bower")
    pictures = [str(shop.parent / "pictures" / name) for name in ("chelsea.jpg", "coffee.jpg")]
    by_text = run("search", "a chair", "--among", "text", *index)
    assert by_text.paths[0] == "s3", "a record without a picture is called by its id"
    assert sorted(by_text.paths) == sorted(["s3", *pictures])
    assert by_text.rows[0][0] > 0.5
    by_picture = run("search", "a chair", "--among", "image", *index)
    assert sorted(by_picture.paths) == pictures
    everything = run("search", "a chair", *index)
    assert everything.paths[0] == "s3", "all parts are asked, and the best of each record counts"
    assert sorted(everything.paths) == sorted(by_text.paths)
    asked = run("search", pictures[1], "--among", "text", "-k", 1, *index)
    assert asked.paths == [pictures[1]], "a picture asks texts in the space they share"
    wrong = run("search", "a chair", "--among", "sound", *index, code=2)
    assert "no part 'sound'" in wrong.err
    assert "Use image, text" in wrong.err


def test_search_among_texts_where_there_are_none(run: Command, shop: Path) -> None:
    index = ("--index", shop.parent / "photos.bower")
    run("index", shop.parent / "pictures", *index)
    none = run("search", "a chair", "--among", "text", *index, code=2)
    assert "has no texts" in none.err
    assert run("search", "a cat", "--among", "image", *index).paths[0].endswith("chelsea.jpg")


def test_a_sheet_and_neighbours_of_records_without_pictures(run: Command, shop: Path) -> None:
    run(*words(shop, "--id", "sku"))
    index = ("--index", shop.parent / "goods.bower")
    sheet = shop.parent / "out.html"
    run("search", "a chair", "--among", "text", "--sheet", sheet, *index)
    page = sheet.read_text("utf-8")
    assert "a wooden chair" in page
    assert "None" not in page
    pictures = [str(shop.parent / "pictures" / name) for name in ("chelsea.jpg", "coffee.jpg")]
    assert sorted(run("search", "--like", "s3", "--among", "text", *index).paths) == pictures
    assert sorted(run("search", "--like", "s3", *index).paths) == pictures


def test_a_table_on_a_terminal(run: Command, shop: Path) -> None:
    """Records without pictures have no size, and what is said of records is shown."""
    pty = pytest.importorskip("pty", reason="needs a terminal of POSIX")
    run(*words(shop, "--id", "sku"))
    ours, theirs = pty.openpty()
    process = run.start(
        "search", "a chair", "--among", "text", "--index", shop.parent / "goods.bower",
        stdout=theirs, env={"COLUMNS": "140", "NO_COLOR": "1"},
    )  # fmt: skip
    process.communicate(timeout=60)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert process.returncode == 0
    (chair,) = (line for line in shown.splitlines() if "s3" in line)
    assert "a wooden chair" in chair
    assert "None" not in shown
    assert "320x213" in shown


def test_the_index_of_a_table_is_that_of_its_folder(run: Command, shop: Path) -> None:
    run("index", shop, *COLUMNS, "--delimiter", "#", "--root", shop.parent / "pictures")
    assert len(run.records()) == 1
    assert len(run("search", "a cat", cwd=shop.parent).rows) == 3
    # The folder's own pictures go there too, and what the table said stays.
    both = run("index", shop.parent)
    assert "2 added" in both.err
    assert "5 records" in both.err
    assert run("search", "a chair", "--among", "text", "-k", 1, cwd=shop.parent).rows[0][0] > 0.5


@pytest.mark.parametrize("kind", ["tsv", "jsonl", "parquet", "arrow", "csv.gz"])
def test_other_tables(run: Command, shop: Path, kind: str) -> None:
    target = shop.parent / f"goods.{kind}"
    delimiter: tuple[str, ...] = ()
    if kind == "tsv":
        catalogue(shop.parent, ROWS, "\t", target.name)
    elif kind == "jsonl":
        names = ("sku", "photo", "caption", "price")
        target.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in ROWS))
    elif kind == "csv.gz":
        import gzip

        target.write_bytes(gzip.compress(shop.read_bytes()))
        delimiter = ("--delimiter", "#")
    else:
        import pyarrow as pa
        import pyarrow.feather
        import pyarrow.parquet

        names = ["sku", "photo", "caption", "price"]
        table = pa.table([list(cells) for cells in zip(*ROWS, strict=True)], names=names)
        writer = pyarrow.parquet.write_table if kind == "parquet" else pyarrow.feather.write_feather
        writer(table, target)
    index = shop.parent / "other.bower"
    done = run(
        "index",
        target,
        *COLUMNS,
        *delimiter,
        "--id",
        "sku",
        "--root",
        shop.parent / "pictures",
        "--index",
        index,
    )
    assert "3 added" in done.err
    assert sorted(bb.Index.open(index).search("a cat", among="text").ids) == ["s1", "s2", "s3"]


def test_a_tar_and_several_sources_at_once(run: Command, shop: Path, photographs: dict[str, Path]) -> None:
    tar = shop.parent / "shard.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(photographs["rocket"], "000.jpg")
    index = ("--index", shop.parent / "all.bower")
    assert "1 added" in run("index", tar, *index).err
    assert "1 unchanged" in run("index", tar, *index).err
    mixed = run("index", tar, shop.parent / "pictures", *index)
    assert "2 added" in mixed.err
    assert "1 unchanged" in mixed.err
    assert len(run("search", "a rocket", *index).rows) == 3


def test_what_failed_is_listed(run: Command, shop: Path) -> None:
    (shop.parent / "pictures" / "bad.jpg").write_bytes(b"no picture")
    rows = [*ROWS, ("s4", "gone.jpg", "a ghost", "1"), ("s5", "bad.jpg", "a wreck", "1"), ("s6", "", "", "1")]
    catalogue(shop.parent, [*rows, ("s1", "", "a cat again", "1"), ("s7", "", "short")])
    report = run(*words(shop, "--id", "sku"))
    assert re.match(r"3 added, 5 failed in ", report.err)
    for record, why in [
        ("s4", "gone.jpg does not exist"),
        ("s5", "bad.jpg"),
        ("s6", "s6 has neither"),
        ("goods.csv:8", "'s1' is taken by goods.csv:2"),
        ("goods.csv:9", "has 3 fields where the header has 4"),
    ]:
        assert re.search(
            rf"  failed: .*{re.escape(record)}.*{re.escape(why)}|  failed: {re.escape(why)}", report.err
        ), why
    listed = (shop.parent / "goods.bower" / "errors.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["path"] for line in listed] == ["s4", "s5", "s6", "goods.csv:8", "goods.csv:9"]
    assert run(*words(shop, "--id", "sku", "--strict"), code=1).err.count("  failed: ") == 5
    catalogue(shop.parent, ROWS)
    clean = run(*words(shop, "--id", "sku", "--strict"))
    assert " failed" not in clean.err
    assert not (shop.parent / "goods.bower" / "errors.jsonl").exists()


def test_many_failures_are_cut_short(run: Command, shop: Path) -> None:
    catalogue(shop.parent, [*ROWS, *((f"g{n}", f"gone{n}.jpg", "", "1") for n in range(15))])
    some = run(*words(shop))
    assert some.err.count("  failed: ") == 10
    assert "... and 5 more; list them with --failures" in some.err
    assert "for 15 of these: " in some.err
    assert run(*words(shop, "--failures")).err.count("  failed: ") == 15


def test_a_value_that_does_not_fit_names_its_record(run: Command, shop: Path) -> None:
    run(*words(shop, "--id", "sku"))
    catalogue(shop.parent, [*ROWS, ("s8", "", "a lamp", "dear")])
    # The column of this file is text as a whole, since one cell is; what is a number still fits the index.
    report = run(*words(shop, "--id", "sku"))
    assert "price is 'dear', and the index holds numbers there" in report.err
    assert "makes text of the column 'price'" in report.err
    assert "1 failed" in report.err
    again = run("search", "a cup", "--where", "price < 3", "--index", shop.parent / "goods.bower")
    assert len(again.rows) == 1, "what was there is as it was"


BAD = [
    (("--image", "foto", "--delimiter", "#"), ["no column 'foto'", "'sku', 'photo', 'caption', 'price'"]),
    (("--image", "photo"), ["no column 'photo'", "--delimiter '#'"]),
    (("--image", "photo", "--delimiter", ";"), ["no column 'photo'", "--delimiter '#'"]),
    (("--image", "photo", "--delimiter", "##"), ["not one character"]),
    ((), ["Which columns of", "--image COLUMN, --text COLUMN"]),
    (("--id", "sku"), ["Which columns of"]),
    (("--image", "photo", "--delimiter", "#", "--on", "mars"), ["--on mars is not known", "local or ray"]),
    (("--image", "photo", "--delimiter", "#", "--address", "auto"), ["options of Ray", "--on ray"]),
    (("--image", "photo", "--delimiter", "#", "--cpus", "2"), ["options of Ray", "--on ray"]),
    (("--image", "photo", "--delimiter", "#", "--gpus", "1"), ["options of Ray", "--on ray"]),
    (("--image", "photo", "--delimiter", "#", "--workers", "-1"), ["--workers"]),
    (("--image", "photo", "--delimiter", "#", "--model", "no-such"), ["no-such"]),
]


@pytest.mark.parametrize(("options", "said"), BAD, ids=[" ".join(options) or "none" for options, _ in BAD])
def test_bad_options_make_nothing(
    run: Command, shop: Path, options: tuple[str, ...], said: list[str]
) -> None:
    refused = run("index", shop, *options, "--index", shop.parent / "new.bower", code=2)
    for part in said:
        assert part in refused.err
    assert not (shop.parent / "new.bower").exists(), "an index that holds nothing would be found later"


@pytest.mark.parametrize("text", ["photo,caption\n", ""])
def test_a_table_without_rows(run: Command, shop: Path, text: str) -> None:
    empty = shop.parent / "empty.csv"
    empty.write_text(text)
    refused = run("index", empty, "--image", "photo", "--index", shop.parent / "new.bower", code=2)
    assert "empty.csv" in refused.err
    assert not (shop.parent / "new.bower").exists()


def test_sources_that_are_not_there_or_are_no_tables(run: Command, shop: Path) -> None:
    gone = run("index", shop, shop.parent / "gone.csv", *COLUMNS, "--delimiter", "#", code=2)
    assert "gone.csv does not exist" in gone.err
    assert not run.records(), "nothing is done before everything is found"
    folder = run("index", shop.parent / "pictures", "--image", "photo", code=2)
    assert "is no table" in folder.err
    nowhere = run("index", "https://example.org/goods.csv", "--image", "photo", code=2)
    assert "--index PATH" in nowhere.err
    delimited = run("index", shop.parent / "gone.jsonl", "--text", "a", "--delimiter", ";", code=2)
    assert "gone.jsonl" in delimited.err


def test_another_model_is_refused(run: Command, shop: Path) -> None:
    run(*words(shop))
    path = shop.parent / "goods.bower"
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["models"][0]["space"] = "0" * 16
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert "cannot be compared" in run(*words(shop), code=2).err


@pytest.mark.slow
def test_ray_is_another_place_for_the_same_work(run: Command, shop: Path) -> None:
    pytest.importorskip("ray")
    # A cluster of its own, whatever runs on this machine.
    command = words(shop, "--id", "sku", "--on", "ray", "--address", "local", "--workers", 1)
    done = run.finish(run.start(*command), seconds=240)
    assert "3 added" in done.err
    assert "3 unchanged" in run(*words(shop, "--id", "sku")).err


def test_ray_that_is_not_installed(run: Command, shop: Path) -> None:
    hidden = shop.parent / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys\n\nsys.modules['ray'] = None\n")
    refused = run(*words(shop, "--on", "ray"), env={"PYTHONPATH": str(hidden)}, code=2)
    assert "bowerbird[ray]" in refused.err
    assert not (shop.parent / "goods.bower").exists()


def test_progress_is_for_terminals(run: Command, shop: Path) -> None:
    piped = run(*words(shop))
    assert "\r" not in piped.err
    assert "\x1b" not in piped.err
    assert "indexing" not in piped.err


def test_help_shows_real_commands(run: Command, picture: Callable[..., bytes]) -> None:
    shown = run("index", "--help").out
    assert "bowerbird index goods.csv --image photo --text description --id sku" in shown
    assert "--among" in run("search", "--help").out
