"""Every verb as a user runs it: the installed command, real files, and what comes out of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import bowerbird as bb

if TYPE_CHECKING:
    from tests.conftest import Command


@pytest.fixture
def folder(tmp_path: Path, photographs: dict[str, Path]) -> Path:
    """Photographs with real subjects: chelsea is a cat."""
    root = tmp_path / "Pictures"
    (root / "sub" / "deep").mkdir(parents=True)
    for name, path in photographs.items():
        shutil.copy(path, root / ("sub" if name in ("rocket", "camera") else "") / path.name)
    return root


@pytest.mark.slow
def test_index_then_search(run: Command, folder: Path, tmp_path: Path) -> None:
    total = len(list(folder.rglob("*.jpg")))
    first = run("index", folder)
    assert first.raw == b"", "messages go to stderr"
    assert re.match(rf"{total} added in [\d.]+ s\.", first.err)
    (place,) = run.records().values()
    assert f"{total} pictures in {place}" in first.err

    # From inside, from below, with a score and a path in each line, best first.
    for cwd in (folder, folder / "sub" / "deep"):
        found = run("search", "a cat", cwd=cwd)
        assert re.fullmatch(r"(-?\d\.\d{4}\t/[^\t\n]+\n)+", found.out)
        assert found.paths[0] == str(folder / "chelsea.jpg")
        assert [score for score, _ in found.rows] == sorted((score for score, _ in found.rows), reverse=True)
        assert len(found.rows) == total
        assert found.err == ""
    # Words need no quotes; the place may be named by flag or by environment.
    elsewhere = {"cwd": tmp_path}
    asked = run("search", "a", "cat", "--top", 1, "--index", place, **elsewhere)
    assert asked.paths == [str(folder / "chelsea.jpg")]
    assert (
        run("search", "a cat", "-k", "1", env={"BOWERBIRD_INDEX": str(place)}, **elsewhere).raw == asked.raw
    )
    nowhere = run("search", "a cat", code=2, **elsewhere)
    assert str(tmp_path) in nowhere.err
    assert f"Indexed so far: {folder}" in nowhere.err
    assert "bowerbird index" in nowhere.err

    # Again: only what changed.
    (folder / "chelsea.jpg").rename(folder / "cat.jpg")
    (folder / "coffee.jpg").unlink()
    again = run("index", cwd=folder)  # the current folder
    assert re.match(rf"1 moved, {total - 2} unchanged, 1 removed in ", again.err)
    assert run("search", "a cat", "--top", "1", cwd=folder).paths == [str(folder / "cat.jpg")]
    (folder / "cat.jpg").unlink()
    kept = run("index", folder, "--keep-missing")
    assert "1 missing but kept" in kept.err
    assert len(run("search", "a cat", cwd=folder).rows) == total - 1


@pytest.mark.slow
def test_pictures_blends_and_filters(run: Command, folder: Path, photographs: dict[str, Path]) -> None:
    place = folder.parent / "p.bower"
    run("index", folder, "--index", place)
    env = {"BOWERBIRD_INDEX": str(place)}
    cat, coffee = str(folder / "chelsea.jpg"), str(folder / "coffee.jpg")

    by_picture = run("search", photographs["chelsea"], env=env)
    assert by_picture.paths[0] == cat
    assert by_picture.rows[0][0] == pytest.approx(1, abs=0.01)
    relative = run("search", "chelsea.jpg", env=env, cwd=folder)
    assert relative.raw == by_picture.raw

    words = run("search", "a cup of coffee", env=env)
    assert words.paths[0] == coffee
    mostly_cat = run("search", "a cup of coffee", "--image", cat, "--weights", "0.05,0.95", env=env)
    assert mostly_cat.paths[0] == cat
    mostly_coffee = run("search", "a cup of coffee", "--image", cat, "--weights", "1,0", env=env)
    assert mostly_coffee.paths[0] == coffee
    assert run("search", "--image", cat, env=env).raw == by_picture.raw
    without = run("search", "a cup of coffee", "--without", "coffee", "--without", "a cup", env=env)
    assert dict(map(reversed, without.rows))[coffee] < dict(map(reversed, words.rows))[coffee]

    records = json.loads(run("search", "a cat", "--json", "--top", 2, env=env).out)
    assert records[0]["path"] == cat
    assert {"id", "score", "width", "height", "format", "taken_at", "folder", "copies"} <= set(records[0])
    assert len(records) == 2
    by_path = run("search", "--like", cat, env=env)
    by_id = run("search", "--like", records[0]["id"], env=env)
    assert by_path.raw == by_id.raw
    assert by_path.paths
    assert cat not in by_path.paths

    below = run("search", "a cat", "--where", f"folder = '{folder / 'sub'}'", env=env)
    assert sorted(Path(path).name for path in below.paths) == ["camera.jpg", "rocket.jpg"]
    above = run("search", "a cat", "--threshold", words.rows[0][0] - 0.001, "--json", env=env)
    assert [record["path"] for record in json.loads(above.out)][:1] in ([], [cat])
    for nothing in (["--threshold", "0.999"], ["--where", "width > 100000"]):
        none = run("search", "a cat", *nothing, env=env)
        assert (none.raw, "Nothing matches" in none.err) == (b"", True)
        assert json.loads(run("search", "a cat", "--json", *nothing, env=env).out) == []


def test_a_contact_sheet(run: Command, folder: Path) -> None:
    run("index", folder)
    sheet = folder.parent / "out.html"
    done = run("search", "a cat", "--sheet", sheet, cwd=folder)
    assert f"Contact sheet: {sheet}" in done.err
    page = sheet.read_text("utf-8")
    assert "a cat" in page
    assert "chelsea.jpg" in page
    assert page.count("data:image/jpeg;base64,") >= len(done.rows)
    bad = run("search", "a cat", "--sheet", folder.parent / "no" / "such" / "out.html", cwd=folder, code=2)
    assert "out.html" in bad.err


def test_strict_and_failures(run: Command, folder: Path) -> None:
    for number in range(12):
        (folder / f"letter {number}.jpg").write_text("Dear aunt, ...")
    plain = run("index", folder)
    assert "12 failed" in plain.err
    assert "... and 2 more; list them with --failures" in plain.err
    strict = run("index", folder, "--strict", "--failures", code=1)
    assert all(f"letter {number}.jpg" in strict.err for number in range(12))
    assert run("search", "a cat", "-k", "1", cwd=folder).paths == [str(folder / "chelsea.jpg")]
    for path in folder.glob("letter*"):
        path.unlink()
    run("index", folder, "--strict", code=0)


def test_info_and_models(run: Command, folder: Path) -> None:
    run("index", folder)
    total = len(list(folder.rglob("*.jpg")))
    text = run("info", cwd=folder).out
    facts = json.loads(run("info", "--json", cwd=folder).out)
    assert facts["pictures"] == total
    for named in (folder, facts["index"]):
        assert json.loads(run("info", named, "--json", cwd=folder.parent).out) == facts
    assert "given twice" in run("info", folder, "--index", facts["index"], code=2).err
    assert facts["folders"] == [str(folder)]
    assert facts["bytes"] > 10_000
    (model,) = facts["models"]
    assert model["name"] == "mini"
    assert {column["dimensions"] for column in model["columns"]} == {384, 1280}
    assert model["numerics"]["image"]["engine"]
    for shown in (str(folder), model["space"], model["numerics"]["image"]["precision"], "384 dimensions"):
        assert shown in text
    line = run("models").out.splitlines()[0].split("\t")
    assert line[:2] == ["mini", "text+image"]
    assert int(line[3]) > 1_000_000
    described, *_ = json.loads(run("models", "--json").out)
    assert described["space"] == model["space"]
    assert run("models", Path(bb.__file__).parent / "models" / "mini").out.split("\t")[0] == "mini"


@pytest.mark.slow
def test_demo(run: Command, tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    first = run("demo")
    best = re.findall(r"^(\S.*)\n +-?\d\.\d+ +(\S+)", first.out, re.MULTILINE)
    assert dict(best)["a cat"] == "chelsea.png"
    assert dict(best)["a cup of coffee"] == "coffee.png"
    sheet = tmp_path / "bowerbird-demo" / "contact-sheet.html"
    assert str(sheet.relative_to(tmp_path)) in first.err
    assert "a cup of coffee" in sheet.read_text("utf-8")
    assert "(0 new)" in run("demo").err


@pytest.mark.slow
def test_a_name_that_is_not_utf8_comes_out_byte_for_byte(
    run: Command, folder: Path, picture: Callable[..., bytes]
) -> None:
    place = os.fsencode(folder) + b"/sub/caf\xe9 \xff.png"
    try:
        Path(os.fsdecode(place)).write_bytes(picture(1))
    except OSError:
        pytest.skip("this file system takes only names in UTF-8")
    run("index", folder)
    found = run("search", place, cwd=folder)
    assert found.raw.splitlines()[0].split(b"\t")[1] == place
    assert run("search", "--like", place, cwd=folder).rows
    (record,) = json.loads(run("search", place, "--json", "-k", 1, cwd=folder).out)
    assert record["name"] == "caf\\xe9 \\xff.png"
    # The whole folder may be named so, also where the locale knows only ASCII.
    odd = Path(os.fsdecode(os.fsencode(folder.parent) + b"/\xfcber"))
    folder.rename(odd)
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert "added" in run("index", odd, env=ascii_only).err
    inside = run("search", "a cat", "-k", 1, cwd=odd, env=ascii_only)
    assert inside.raw.rstrip(b"\n").split(b"\t")[1] == os.fsencode(odd) + b"/chelsea.jpg"
    run("info", cwd=odd)
    run("search", "a cat", "--sheet", folder.parent / "s.html", cwd=odd)
    missing = run("search", "a cat", cwd=folder.parent, code=2)
    assert "Indexed so far" in missing.err


def test_several_sources_and_globs(run: Command, folder: Path) -> None:
    done = run("index", folder / "sub", folder / "*.jpg", "--index", folder.parent / "i")
    total = len(list(folder.rglob("*.jpg")))
    assert f"{total} added" in done.err
    # Each folder has an index of its own; a subfolder is searched in its own, if it has one.
    run("index", folder)
    run("index", folder / "sub")
    assert len(run.records()) == 2
    assert len(run("search", "a cat", cwd=folder / "sub").rows) == 2
    assert len(run("search", "a cat", cwd=folder).rows) == total


def test_help_shows_real_commands(run: Command) -> None:
    verbs = ("index", "search", "models", "info", "demo")
    top = run("--help").out
    assert all(verb in top for verb in verbs)
    for verb in verbs:
        page = run(verb, "--help").out
        commands = [line for line in re.findall(r"bowerbird [^│\n]+", page) if "Usage" not in line]
        assert any(re.match(rf"bowerbird {verb}\b", line) for line in commands[1:]), page
    assert run("--version").out == f"bowerbird {bb.__version__}\n"
    assert run("search", "-h").out == run("search", "--help").out


def test_usage_errors(run: Command) -> None:
    for words in (
        ["nonsense"],
        ["search", "--nonsense"],
        ["search", "x", "--top", "0"],
        ["index", "--index"],
    ):
        wrong = run(*words, code=2)
        assert wrong.raw == b""
        assert wrong.err


def test_a_reader_that_goes_away_early(run: Command, folder: Path) -> None:
    run("index", folder)
    process = run.start("search", "a cat", cwd=folder)
    process.stdout.close()
    process.stdout = None
    ended = run.finish(process)
    assert ended.err == ""
    with open("/dev/full", "wb") as full:
        lost = run.finish(run.start("search", "a cat", cwd=folder, stdout=full), code=2)
    assert "No space left" in lost.err


def test_debug_shows_tracebacks(run: Command, tmp_path: Path) -> None:
    process = run.start("--debug", "index", tmp_path / "absent", stderr=subprocess.PIPE)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert b"Traceback" in err
    assert b"UnreadableError" in err
