"""Bad input: a clear line that names the thing and the remedy, the right exit code, and nothing indexed is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import bowerbird as bb
from bowerbird.store import manifest

if TYPE_CHECKING:
    from tests.conftest import Command

PICTURES = 5


@pytest.fixture
def folder(tmp_path: Path, picture: Callable[..., bytes]) -> Path:
    root = tmp_path / "photos"
    root.mkdir()
    for seed in range(PICTURES):
        (root / f"{seed}.png").write_bytes(picture(seed))
    return root


@pytest.fixture
def indexed(run: Command, folder: Path) -> Path:
    """The index of `folder`."""
    run("index", folder)
    (path,) = run.records().values()
    return path


@pytest.fixture
def powerless(run: Command) -> Command:
    """The command without root's right to read and write what permissions forbid."""
    if os.geteuid() != 0:
        return run
    drop = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    if not shutil.which("setpriv") or subprocess.run([*drop, "true"], check=False).returncode:
        pytest.skip("root ignores permissions here, and setpriv cannot take that right away")
    return replace(run, program=(*drop, *run.program))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A small disk in memory, to be remounted with other options."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o"]
    tried = subprocess.run([*mount, "size=1m", "tmpfs", str(place)], check=False, capture_output=True)
    if tried.returncode:
        pytest.skip("this user may not mount a small file system")

    def remount(options: str) -> Path:
        subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)
        return place

    yield remount
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def assert_still_found(run: Command, index: Path, count: int = PICTURES) -> None:
    assert len(set(run("search", "a pattern", "--index", index, "--top", 1000).paths)) == count


def test_missing_folder_and_no_pictures(run: Command, folder: Path, indexed: Path, tmp_path: Path) -> None:
    missing = run("index", tmp_path / "absent", code=2)
    assert f"{tmp_path / 'absent'} does not exist. Check the spelling" in missing.err
    # One missing source stops everything before anything is done.
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "notes.txt").write_text("no picture")
    assert "absent" in run("index", folder, tmp_path / "absent", code=2).err
    none = run("index", tmp_path / "more", code=2)
    assert f"No pictures were found in {tmp_path / 'more'}." in none.err
    assert "Check the folder" in none.err
    pattern = run("index", tmp_path / "*.gif", code=2)
    assert "Nothing matches" in pattern.err
    assert "*.gif" in pattern.err
    # No half-made index is left behind to be found instead of the one above.
    (folder / "empty").mkdir()
    run("index", folder / "empty", code=2)
    assert len(run("search", "a pattern", cwd=folder / "empty").rows) == PICTURES
    # The disk is not connected: the mount point is there and empty.
    for path in folder.glob("*.png"):
        path.unlink()
    empty = run("index", folder, code=2)
    assert f"{PICTURES} records" in empty.err
    assert "kept" in empty.err
    assert_still_found(run, indexed)


def test_unreadable_directory_and_file(powerless: Command, run: Command, folder: Path) -> None:
    (folder / "secret").mkdir()
    for name in ("0.png", "1.png"):
        (folder / name).rename(folder / "secret" / name)
    run("index", folder)
    (index,) = run.records().values()
    (folder / "secret").chmod(0)
    (folder / "2.png").chmod(0)
    os.utime(folder / "2.png", (1, 1))
    try:
        partly = powerless("index", folder)
        assert f"{folder / 'secret'} cannot be read: permission denied" in partly.err
        assert str(folder / "2.png") in partly.err
        assert "permission" in partly.err.lower()
        assert "2 failed" in partly.err
        powerless("index", folder, "--strict", code=1)
        assert_still_found(run, index)
        whole = powerless("index", folder / "secret", code=2)
        assert f"{folder / 'secret'} cannot be read: permission denied. Check its permissions" in whole.err
    finally:
        (folder / "secret").chmod(0o700)
        (folder / "2.png").chmod(0o600)
    assert f"{PICTURES} unchanged" in run("index", folder, "--strict").err


def test_files_vanish_while_indexing(run: Command, tmp_path: Path, picture: Callable[..., bytes]) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for seed in range(150):
        (folder / f"{seed:03}.png").write_bytes(picture(seed))
    process = run.start("index", folder, "--failures", env={"BOWERBIRD_COMMIT_SECONDS": "0"})
    end = time.monotonic() + 30
    while not any(
        manifest.read(path).records for path in run.records().values() if (path / manifest.NAME).exists()
    ):
        assert time.monotonic() < end
        time.sleep(0.01)
    for seed in range(100, 150):
        (folder / f"{seed}.png").unlink()
    done = run.finish(process)
    assert "vanished" in done.err or "does not exist" in done.err
    (index,) = run.records().values()
    run("index", folder)
    assert_still_found(run, index, 100)


@pytest.mark.slow
def test_odd_files(run: Command, folder: Path, indexed: Path, picture: Callable[..., bytes]) -> None:
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "itself.png").symlink_to("itself.png")
    (folder / "nowhere.png").symlink_to("no such file")
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("I am a letter, really.")
    (folder / "half.png").write_bytes(picture(70)[:80])
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "dot.png").write_bytes(picture(71, size=(1, 1)))
    (folder / "tower.png").write_bytes(picture(72, size=(1, 20000)))
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/\xe9\n\x1b[31m.jpg"))
    odd.write_bytes(b"bad name, bad content")
    (folder / "vanishes\x1b[31m.png").symlink_to("no such file")
    done = run("index", folder, "--failures")
    assert "1 added" in done.err
    assert f"{PICTURES} unchanged" in done.err
    assert "9 failed" in done.err
    broken = ("itself", "nowhere", "empty", "text", "half", "pipe", "tower", "\\xe9", "vanishes\\x1b[31m")
    for name in broken:
        assert name in done.err
    assert "0 bytes" in done.err
    assert "\x1b" not in done.err, "a file name must not steer the terminal"
    assert len([line for line in done.err.splitlines() if line.startswith("  failed: ")]) == 9
    run("index", folder, "--strict", code=1)
    assert_still_found(run, indexed, PICTURES + 1)
    assert run("search", folder / "dot.png", cwd=folder).paths[0] == str(folder / "dot.png")
    for name, reason in (("empty.png", "empty"), ("text.jpg", "not a picture"), ("half.png", "truncated")):
        refused = run("search", folder / name, cwd=folder, code=2)
        assert str(folder / name) in refused.err
        assert reason in refused.err


@pytest.mark.slow
def test_full_disk(
    run: Command, tmp_path: Path, picture: Callable[..., bytes], disk: Callable[[str], Path]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    index = disk("size=1m") / "i.bower"
    for seed in range(20):
        (folder / f"{seed}.png").write_bytes(picture(seed))
    run("index", folder, "--index", index)
    for seed in range(20, 180):
        (folder / f"{seed}.png").write_bytes(picture(seed))
    full = run("index", folder, "--index", index, env={"BOWERBIRD_COMMIT_SECONDS": "0.2"}, code=2)
    assert f"No space is left on the device that holds {index}" in full.err
    assert "Free some space and run the same command again" in full.err
    found = run("search", "a pattern", "--index", index, "--top", 1000).paths
    assert {str(folder / f"{seed}.png") for seed in range(20)} <= set(found)
    assert len(found) == len(set(found))
    disk("size=64m")
    run("index", folder, "--index", index)
    assert_still_found(run, index, 180)


def test_full_from_the_start(run: Command, folder: Path, disk: Callable[[str], Path]) -> None:
    place = disk("size=4k")
    (place / "filler").write_bytes(b"x" * 4096)
    full = run("index", folder, "--index", place / "i", code=2)
    assert "No space is left on the device that holds" in full.err
    disk("size=32m")
    run("index", folder, "--index", place / "i")
    assert_still_found(run, place / "i")


def test_read_only_disk(run: Command, folder: Path, disk: Callable[[str], Path], picture) -> None:
    index = disk("size=32m") / "i.bower"
    run("index", folder, "--index", index)
    disk("ro")
    try:
        (folder / "new.png").write_bytes(picture(50))
        for refused in (
            run("index", folder, "--index", index, code=2),
            run("index", folder, "--index", index.parent / "other", code=2),
        ):
            assert str(index.parent) in refused.err
            assert "cannot be written to. Check its permissions" in refused.err
        assert_still_found(run, index)
        assert f"{PICTURES}" in run("info", "--index", index).out
    finally:
        disk("rw")
    assert "1 added" in run("index", folder, "--index", index).err


def test_read_only_by_permission(powerless: Command, run: Command, folder: Path, indexed: Path) -> None:
    os.utime(folder / "0.png", (1, 1))
    directories = [indexed, *(path for path in indexed.rglob("*") if path.is_dir())]
    for path in directories:
        path.chmod(0o500)
    for path in indexed.rglob("*"):
        if path.is_file():
            path.chmod(0o400)
    try:
        refused = powerless("index", folder, code=2)
        assert f"{indexed} cannot be written to. Check its permissions" in refused.err
        assert_still_found(powerless, indexed)
        powerless("info", "--index", indexed)
    finally:
        for path in directories:
            path.chmod(0o700)


@pytest.mark.slow
def test_damaged_index(run: Command, folder: Path, indexed: Path) -> None:
    path = indexed / manifest.NAME
    whole = path.read_text("utf-8")
    for text in (whole[: len(whole) // 2], "", "[]", "{}", json.dumps({**json.loads(whole), "models": []})):
        path.write_text(text, "utf-8")
        for verb in (["search", "x", "--index", indexed], ["info", "--index", indexed], ["index", folder]):
            damaged = run(*verb, code=2)
            assert str(indexed) in damaged.err
            assert "index the folder again" in damaged.err
    path.write_text(json.dumps({**json.loads(whole), "format": 99}), "utf-8")
    future = run("search", "x", "--index", indexed, code=2)
    assert "is of format 99" in future.err
    assert "Use the version that wrote it" in future.err
    path.write_text(whole, "utf-8")
    assert_still_found(run, indexed)


@pytest.mark.parametrize("harm", ["cut", "empty", "garbage", "gone", "versions gone", "all gone"])
def test_damaged_table(run: Command, folder: Path, indexed: Path, harm: str) -> None:
    table = indexed / "records.lance"
    (data,) = (table / "data").iterdir()
    if harm == "cut":
        os.truncate(data, data.stat().st_size // 2)
    elif harm == "empty":
        os.truncate(data, 0)
    elif harm == "garbage":
        data.write_bytes(b"\xff" * data.stat().st_size)
    elif harm == "gone":
        data.unlink()
    else:
        shutil.rmtree(table / "_versions" if harm == "versions gone" else table)
    for verb in (
        ["search", "x", "--index", indexed],
        ["search", "x", "--where", "width > 1", "--index", indexed],
        ["index", folder],
    ):
        damaged = run(*verb, code=2)
        assert str(indexed) in damaged.err
        assert "index the folder anew" in damaged.err, damaged.err
    if harm == "cut":  # The remedy that is given works.
        shutil.rmtree(indexed)
        run("index", folder)
        assert_still_found(run, indexed)


def test_no_index(run: Command, folder: Path, tmp_path: Path) -> None:
    for place in (tmp_path / "absent", folder, folder / "0.png"):
        nothing = run("search", "x", "--index", place, code=2)
        assert str(place) in nothing.err
        assert "index" in nothing.err
    other = run("index", folder, "--index", folder, code=2)
    assert "is not empty" in other.err
    assert run("index", folder, "--index", folder / "0.png", code=2).err.count("\n") == 1
    assert len(list(folder.iterdir())) == PICTURES


def test_unknown_model(run: Command, folder: Path, indexed: Path, tmp_path: Path) -> None:
    for verb in (
        ["index", folder, "--model", "nonesuch", "--index", tmp_path / "n"],
        ["models", "nonesuch"],
        ["index", folder, "--model", "nonesuch"],
    ):
        unknown = run(*verb, code=2)
        assert "nonesuch" in unknown.err
        assert "mini" in unknown.err
    assert not (tmp_path / "n").exists()
    empty = tmp_path / "empty model"
    empty.mkdir()
    assert str(empty) in run("models", empty, code=2).err
    # A copy of the model cut short, as after an interrupted download.
    broken = tmp_path / "broken"
    shutil.copytree(Path(bb.__file__).parent / "models" / "mini", broken)
    graph = broken / "onnx" / "vision_model.onnx"
    os.truncate(graph, graph.stat().st_size // 2)
    assert (
        "vision_model.onnx" in run("index", folder, "--model", broken, "--index", tmp_path / "b", code=2).err
    )
    assert_still_found(run, indexed)


@pytest.mark.slow
def test_bad_questions(run: Command, folder: Path, indexed: Path, tmp_path: Path) -> None:
    for words in (["search"], ["search", ""], ["search", "  \t "], ["search", "a cat", "--without", ""]):
        empty = run(*words, cwd=folder, code=2)
        assert "The query is empty" in empty.err
    cases = {
        "colour": ["search", "x", "--where", "colour = 'red'"],
        "width >": ["search", "x", "--where", "width >"],
        "--weights 'a,b'": ["search", "x", "--image", folder / "0.png", "--weights", "a,b"],
        "3 weights were given for 2": ["search", "x", "--image", folder / "0.png", "--weights", "1,1,1"],
        "cannot be used": ["search", "x", "--weights", "0"],
        "(nan,)": ["search", "x", "--weights", "nan"],
        "no-such.jpg": ["search", "no-such.jpg"],
        "absent.png": ["search", "x", "--image", tmp_path / "absent.png"],
        "no-such-id": ["search", "--like", "no-such-id"],
        "O'Brien": ["search", "--like", "O'Brien's.png"],
        "Two query pictures": ["search", folder / "0.png", "--image", folder / "1.png"],
        "Give one of the two": ["search", "--like", folder / "0.png", "--image", folder / "1.png"],
        "BOWERBIRD_MAX_PIXELS": ["search", "x"],
    }
    for part, words in cases.items():
        env = {"BOWERBIRD_MAX_PIXELS": "many"} if part.startswith("BOWERBIRD") else {}
        refused = run(*words, cwd=folder, env=env, code=2)
        assert refused.raw == b""
        assert refused.err.startswith("bowerbird: ")
        assert part in refused.err
        assert refused.err.rstrip()[-1] in ".;", refused.err
    long = run("search", "holiday " * 10_000, cwd=folder)
    assert len(long.rows) == PICTURES
    assert "cut to 256 tokens" in long.err
    assert run("search", "日本語 \U0001f600 ́ \x07", cwd=folder).rows
    assert run("search", b"\xff\xfe caf\xe9", cwd=folder).rows
    assert run("search", "a" * 100_000 + ".jpg", cwd=folder, code=None).code in (0, 2)
