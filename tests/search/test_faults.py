"""Processes that die, are stopped, or meet: whatever happens, no picture is lost and none comes twice."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

import bowerbird as bb
from bowerbird.record import content_id
from bowerbird.store import manifest

if TYPE_CHECKING:
    from tests.conftest import Command

PICTURES = 120
MANY = 300
EAGER = {"BOWERBIRD_COMMIT_SECONDS": "0.3"}


@pytest.fixture
def folder(tmp_path: Path, picture: Callable[..., bytes]) -> Path:
    """Different pictures in three folders, and a file that is none."""
    root = tmp_path / "photos"
    for seed in range(PICTURES):
        path = root / f"{seed % 3}" / f"{seed:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(seed))
    (root / "broken.jpg").write_bytes(b"not a picture")
    return root


def the_index(run: Command) -> Path:
    (path,) = run.records().values()
    return path


def assert_complete(path: Path, folder: Path) -> None:
    """Every picture of the folder is there once, under its own content, and is found."""
    index = bb.Index.open(path)
    rows = [row for batch in index.table.scan(["id", "uri", "content"]) for row in batch.to_pylist()]
    expected = {str(file): content_id(file.read_bytes()) for file in folder.rglob("*.png")}
    assert len(rows) == len(expected) == len(index)
    assert {row["uri"]: row["content"] for row in rows} == expected
    assert len({row["id"] for row in rows}) == len(rows)
    some = folder / "1" / "001.png"
    assert index.search(some, k=1)[0].uri == str(some)


def searchable(run: Command, folder: Path) -> int:
    """How many pictures a search can see, in a process of its own; 0 before there is an index."""
    if not any((path / manifest.NAME).exists() for path in run.records().values()):
        return 0
    found = run("search", "a pattern", "--top", 10 * PICTURES, cwd=folder)
    assert len(set(found.paths)) == len(found.paths)
    return len(found.paths)


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def committed(run: Command) -> int:
    """How many records the manifest names now."""
    for path in run.records().values():
        if (path / manifest.NAME).exists():
            return manifest.read(path).records
    return 0


@pytest.mark.slow
def test_killed_at_any_moment(run: Command, folder: Path, picture: Callable[..., bytes]) -> None:
    for seed in range(PICTURES, MANY):
        (folder / "2" / f"{seed}.png").write_bytes(picture(seed))
    chance = random.Random(20260728)
    seen = 0
    for _ in range(5):
        process = run.start("index", folder, env=EAGER)
        time.sleep(chance.uniform(0.5, 2.5))
        process.kill()  # SIGKILL: nothing can be tidied up
        process.communicate()
        now = searchable(run, folder)
        assert now >= seen, "what was indexed before is no longer found"
        seen = now
    last = run("index", folder)
    assert f"{MANY} pictures in" in last.err
    assert "1 failed" in last.err
    assert_complete(the_index(run), folder)
    assert f"{MANY} unchanged, 1 failed" in run("index", folder).err


@pytest.mark.slow
def test_killed_while_files_move_and_change(
    run: Command, folder: Path, picture: Callable[..., bytes]
) -> None:
    run("index", folder)
    chance = random.Random(7)
    for turn in range(2):
        (folder / "0").rename(folder / f"was {turn}")
        (folder / f"was {turn}").rename(folder / "0")
        for seed in chance.sample(range(PICTURES), 40):
            (folder / f"{seed % 3}" / f"{seed:03}.png").write_bytes(picture(1000 * (turn + 1) + seed))
        for seed in chance.sample(range(1, PICTURES, 3), 20):
            old = folder / "1" / f"{seed:03}.png"
            (folder / "2" / f"{seed:03} moved {turn}.png").write_bytes(old.read_bytes())
            old.write_bytes(picture(5000 + 1000 * turn + seed))
        process = run.start("index", folder, env=EAGER)
        time.sleep(chance.uniform(0.8, 2.0))
        process.kill()
        process.communicate()
        assert searchable(run, folder) >= PICTURES
    run("index", folder)
    assert_complete(the_index(run), folder)


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_done(run: Command, folder: Path) -> None:
    process = run.start("index", folder, env=EAGER)
    wait_for(lambda: committed(run) > 0)
    process.send_signal(signal.SIGINT)
    stopped = run.finish(process, code=130)
    assert "Stopped early; what was done is kept" in stopped.err
    kept = committed(run)
    assert 0 < kept < PICTURES
    assert f"{kept} added" in stopped.err
    assert searchable(run, folder) == kept
    assert f"{PICTURES - kept} added, {kept} unchanged" in run("index", folder).err
    assert_complete(the_index(run), folder)
    # Before anything is opened there is nothing to keep; it still ends in peace.
    process = run.start("index", folder)
    time.sleep(0.25)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode in (130, -signal.SIGINT, 0)
    assert searchable(run, folder) == PICTURES


@pytest.mark.slow
def test_two_at_once(run: Command, folder: Path) -> None:
    """One makes the index while the other waits; both end well."""
    both = [run.start("index", folder, env=EAGER) for _ in range(2)]
    ends = [run.finish(process) for process in both]
    assert sorted(f"{PICTURES} added" in end.err for end in ends) == [False, True]
    assert sorted(f"{PICTURES} unchanged" in end.err for end in ends) == [False, True]
    assert_complete(the_index(run), folder)


def test_busy_is_said_after_waiting(run: Command, folder: Path) -> None:
    some = folder / "0"
    run("index", some)
    path = the_index(run)
    (some / "000.png").unlink()
    with FileLock(path / ".lock"):
        busy = run("index", some, env={"BOWERBIRD_LOCK_SECONDS": "1"}, code=2)
        assert f"Another process is writing to {path}; waited 1 seconds" in busy.err
        assert "BOWERBIRD_LOCK_SECONDS" in busy.err
        assert (
            len(run("search", "a pattern", "--top", 1000, cwd=some).paths) == PICTURES // 3
        )  # reading needs no lock
    assert "1 removed" in run("index", some).err


@pytest.mark.slow
def test_a_reader_keeps_its_version_while_others_write(run: Command, folder: Path, model: bb.Encoder) -> None:
    run("index", folder / "0")
    reader = bb.Index.open(the_index(run), model)
    before = reader.search("a pattern", k=200)
    assert len(before) == PICTURES // 3
    place = {"BOWERBIRD_INDEX": str(reader.path)}
    process = run.start("index", folder, env={**EAGER, **place})
    answers = 0
    while process.poll() is None:
        again = reader.search("a pattern", k=200, where="width = 64")
        assert again.ids == before.ids
        assert len(bb.Index.open(reader.path, model).search("a pattern", k=1000)) >= PICTURES // 3
        answers += 1
    run.finish(process)
    assert answers
    for name in (folder / "0").iterdir():
        name.unlink()
    run("index", folder, env=place)
    # Files of its version are still there: search, thumbnails, neighbours.
    assert reader.search("a pattern", k=200).ids == before.ids
    assert len(reader.thumbnails(before.ids[:5])) == 5
    reader.refresh()
    assert len(reader) == 2 * PICTURES // 3 == len(reader.search("a pattern", k=300))
