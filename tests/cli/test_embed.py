"""`bowerbird embed`: pictures and texts to vectors in files, as a user runs it."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

import numpy as np
import pytest

import bowerbird as bb
from bowerbird import Collection

if TYPE_CHECKING:
    from tests.conftest import Command


@pytest.fixture
def folder(tmp_path: Path, photographs: dict[str, Path]) -> Path:
    """Three photographs."""
    root = tmp_path / "photos"
    root.mkdir()
    for name in ("chelsea", "coffee", "rocket"):
        shutil.copy(photographs[name], root)
    return root


@pytest.fixture
def table(folder: Path) -> Path:
    """Two of them with captions, and a caption alone."""
    path = folder.parent / "captions.csv"
    path.write_text("photo;caption;price\nchelsea.jpg;a cat;1\ncoffee.jpg;a cup;2\n;a chair;3\n")
    return path


TABLE = ("--image", "photo", "--text", "caption", "--delimiter", ";", "--root", "photos")


def test_a_folder_as_npy(run: Command, folder: Path, model: bb.Encoder) -> None:
    done = run("embed", folder, "-o", "out")
    assert done.raw == b"", "messages go to stderr"
    assert re.match(r"3 done in [\d.]+ s\.\n", done.err)
    assert done.err.rstrip().endswith("out")
    vectors = np.load(folder.parent / "out" / "image.npy")
    paths = sorted(folder.iterdir())
    assert np.sum(vectors * model.embed(paths), axis=1) == pytest.approx(1, abs=1e-4)
    again = run("embed", folder, "-o", "again")
    assert "3 vectors from the cache" in again.err
    assert (np.load(folder.parent / "again" / "image.npy") == vectors).all()


@pytest.mark.parametrize(
    ("output", "format"),
    [
        ("out", "npy"),
        ("out.parquet", ""),
        ("out.bin", "parquet"),
        ("out", "clip-retrieval"),
        ("out.lance", ""),
    ],
)
def test_formats_are_read_back(
    run: Command, folder: Path, table: Path, model: bb.Encoder, output: str, format: str
) -> None:
    done = run("embed", table, *TABLE, "-o", output, *(("--format", format) if format else ()))
    # That layout has a picture in every row.
    assert "2 done, 1 failed" in done.err if format == "clip-retrieval" else "3 done" in done.err
    target = folder.parent / output
    if format == "npy":
        back = Collection.from_npy(target / "text.npy", metadata=target / "records.parquet", name="text")
    elif format == "clip-retrieval":
        back = Collection.from_clip_retrieval(target)
    elif output.endswith(".lance"):
        back = Collection.from_lance(target)
    else:
        back = Collection.from_parquet(target)
    found = {record.text: record for record in back.to_list() if record.text}
    assert set(found) == {"a cat", "a cup"} | ({"a chair"} if format != "clip-retrieval" else set())
    for text, record in found.items():
        wanted = model.embed([text], role="document")[0]
        assert float(record.vectors["text"] @ wanted) == pytest.approx(1, abs=1e-3)
    assert ("image" in found["a cat"].vectors) == (format != "npy")


def test_several_sources(run: Command, folder: Path, table: Path) -> None:
    done = run("embed", folder / "rocket.jpg", folder / "chelsea.jpg", "-o", "two.parquet")
    assert "2 done" in done.err
    records = Collection.from_parquet(folder.parent / "two.parquet").to_list()
    assert [Path(record.id).name for record in records] == ["rocket.jpg", "chelsea.jpg"]


def test_what_failed_is_listed(run: Command, folder: Path, table: Path) -> None:
    (folder / "bad.jpg").write_bytes(b"no picture")
    table.write_text(table.read_text() + "gone.jpg;a ghost;4\nbad.jpg;a wreck;5\nchelsea.jpg\n")
    done = run("embed", table, *TABLE, "-o", "out.parquet")
    assert re.match(r"3 done, 3 failed \(1 \w+Error, 1 \w+Error, 1 \w+Error\) in ", done.err)
    assert re.search(r"  failed: captions\.csv:5: .*gone\.jpg does not exist", done.err)
    assert re.search(r"  failed: captions\.csv:6: .*bad\.jpg", done.err)
    assert "  failed: captions.csv:7 has 1 fields where the header has 3" in done.err
    listed = [
        json.loads(line) for line in (folder.parent / "out.parquet.errors.jsonl").read_text().splitlines()
    ]
    assert [entry["id"] for entry in listed] == ["captions.csv:5", "captions.csv:6", "captions.csv:7"]
    strict = run("embed", table, *TABLE, "-o", "out.parquet", "--overwrite", "--strict", code=1)
    assert strict.err.count("  failed: ") == 3
    assert Collection.from_parquet(folder.parent / "out.parquet").count() == 3


def test_strict_without_failures(run: Command, folder: Path) -> None:
    run("embed", folder, "-o", "out", "--strict")


def test_an_output_that_is_there(run: Command, folder: Path) -> None:
    for output in ("out", "out.parquet"):
        run("embed", folder, "-o", output)
        before = {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*") if path.is_file()}
        refused = run("embed", folder, "-o", output, code=2)
        assert output in refused.err
        assert "--overwrite" in refused.err
        assert "overwrite=True" not in refused.err
        after = {path: path.stat().st_mtime_ns for path in before}
        assert after == before
        assert "3 done" in run("embed", folder, "-o", output, "--overwrite").err


BAD = [
    (("photos",), ["--output"]),
    (("-o", "out"), ["sources"]),
    (
        ("photos", "-o", "out", "--format", "nonsense"),
        ["--format nonsense", "npy, parquet, lance, clip-retrieval"],
    ),
    (("gone", "-o", "out"), ["gone does not exist"]),
    (("void", "-o", "out"), ["void"]),
    (("captions.csv", "-o", "out"), ["Which columns of captions.csv"]),
    (("captions.csv", "--image", "photo", "-o", "out"), ["no column 'photo'", "--delimiter ';'"]),
    (("captions.csv", "--image", "foto", "--delimiter", ";", "-o", "out"), ["no column 'foto'"]),
    (("photos", "--text", "caption", "-o", "out"), ["is no table"]),
    (("photos", "-o", "out", "--on", "mars"), ["--on mars", "local or ray"]),
    (("photos", "-o", "out", "--address", "auto"), ["--on ray"]),
    (("photos", "-o", "out", "--gpus", "1"), ["--on ray"]),
    (("photos", "-o", "out", "--cpus", "4"), ["--on ray"]),
    (("photos", "-o", "out", "--workers", "-2"), ["--workers"]),
    (("photos", "-o", "out", "--model", "no-such"), ["no-such"]),
    (("photos", "-o", "out", "--precision", "sloppy"), ["sloppy"]),
    (("photos", "-o", "captions.csv"), ["What to write cannot be told from captions.csv", "--format"]),
    (("photos", "-o", "out.npz"), ["cannot be told from out.npz"]),
    (("photos", "-o", "out.npy"), ["npy writes a folder", "Name a folder"]),
    (("photos", "-o", "out.npy", "--format", "npy"), ["npy writes a folder"]),
    (("photos", "-o", "out.bower"), ["bowerbird index"]),
]


@pytest.mark.parametrize(("options", "said"), BAD, ids=[" ".join(options) for options, _ in BAD])
def test_bad_options_write_nothing(
    run: Command, folder: Path, table: Path, options: tuple[str, ...], said: list[str]
) -> None:
    (folder.parent / "void").mkdir()
    before = table.read_bytes()
    refused = run("embed", *options, code=2)
    for part in said:
        assert part in refused.err
    assert not list(folder.parent.glob("out*"))
    assert table.read_bytes() == before


def test_progress_is_for_terminals(run: Command, folder: Path) -> None:
    piped = run("embed", folder, "-o", "out")
    assert "\r" not in piped.err
    assert "\x1b" not in piped.err
    assert "embedding" not in piped.err


@pytest.mark.slow
def test_an_address(run: Command, folder: Path, photographs: dict[str, Path]) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}/chelsea.jpg"
        try:
            done = run("embed", url, "-o", "out.parquet")
            indexed = run("index", url, "--index", "web.bower")
        finally:
            server.shutdown()
    assert "1 done" in done.err
    (record,) = Collection.from_parquet(folder.parent / "out.parquet")
    assert (record.id, record["width"]) == (url, 320)
    assert re.search(r"1 picture in .*web\.bower", indexed.err)
    assert "1 vector from the cache" in run("embed", folder / "chelsea.jpg", "-o", "again").err


@pytest.mark.slow
def test_stopped(run: Command, folder: Path) -> None:
    asked, stopped = Event(), Event()

    class Slow(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.set()
            stopped.wait(60)

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        Thread(target=server.serve_forever).start()
        try:
            process = run.start("embed", f"http://127.0.0.1:{server.server_port}/a.jpg", "-o", "out")
            assert asked.wait(50)
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
        finally:
            stopped.set()
            server.shutdown()
    # Closed by now: what is still being fetched is refused at once rather than waited for.
    done = run.finish(process, code=130)
    assert "what was embedded is in the cache, and the same command continues" in done.err
    assert not (folder.parent / "out").exists()
