"""`gap`, `map` and `doctor` as a user runs them, and the page that describes them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

import bowerbird as bb

if TYPE_CHECKING:
    from tests.conftest import Command, Result

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "doctor.md").read_text("utf-8")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, photographs: dict[str, Path], model: bb.Encoder) -> Path:
    """A folder with `photos.bower`: photographs with texts and a brand."""
    home = tmp_path_factory.mktemp("shop")
    (home / "photos").mkdir()
    rows = ["photo,description,brand"]
    for number, (name, path) in enumerate(sorted(photographs.items())):
        shutil.copy(path, home / "photos")
        rows.append(f"{home / 'photos' / path.name},a picture of {name.replace('_', ' ')},{'ab'[number % 2]}")
    (home / "goods.csv").write_text("\n".join(rows))
    goods = bb.Collection.from_csv(home / "goods.csv", image="photo", text="description")
    goods.embed(model).write(home / "photos.bower")
    return home


def test_gap(run: Command, shop: Path, tmp_path: Path) -> None:
    found = run("gap", shop / "photos.bower", "-o", tmp_path / "gap.html")
    rows = dict(line.split("\t", 1) for line in found.out.splitlines())
    assert rows["model"] == "mini"
    assert float(rows["distance of the centroids"].split("\t")[0]) > 0
    assert rows["correction"].startswith("off")
    assert "gap.html" in found.err
    assert (tmp_path / "gap.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    data = json.loads(run("gap", shop / "photos.bower", "--json").out)
    assert (data["pictures"], data["texts"], data["pairs"]) == (6, 6, 6)
    # No JSON reader but Python's takes NaN.
    assert "NaN" not in run("gap", shop / "photos.bower", "--json", "--sample", "3").out


def test_map(run: Command, shop: Path, tmp_path: Path) -> None:
    found = run("map", shop / "photos.bower", "--colour", "brand", "--raw")
    assert found.out == "map.html\n"
    assert "mini, drawn with PCA; vectors as stored" in found.err
    page = (tmp_path / "map.html").read_text("utf-8")
    assert "12 points" in page or "6 pictures and 6 texts" in page
    assert "Did you mean brand?" in run("map", shop / "photos.bower", "--colour", "brnd", code=2).err


def test_doctor_leaves_a_sound_index_alone_and_strict_fails_a_broken_one(
    run: Command, shop: Path, tmp_path: Path
) -> None:
    place = Path(shutil.copytree(shop / "photos.bower", tmp_path / "photos.bower"))
    found = run("doctor", place, "--strict", "-o", "doctor.html")
    levels = [line.split("\t")[0] for line in found.out.splitlines()]
    assert set(levels) <= {"ok", "note"}
    assert "data:image/jpeg" not in (tmp_path / "doctor.html").read_text("utf-8")  # nothing to show
    index = bb.Index.open(place)
    id_ = next(index.table.scan(["id"])).column("id")[0].as_py()
    norm = index.columns[0].norm
    with index.writing():
        index.table.update(pa.table({"id": [id_], norm: pa.array([float("nan")], pa.float32())}))
        index.publish(failed=0, roots=())
    assert "vectors broken" in run("doctor", place, "--only", "broken").out
    broken = run("doctor", place, "--only", "broken", "--strict", "--json", code=1)
    assert json.loads(broken.out)["findings"][0]["level"] == "problem"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("doctor", "nowhere.bower"), "nowhere.bower"),
        (("doctor", "photos.bower", "--only", "everything"), "everything"),
        (("doctor", "photos.bower", "--near", "2"), "near=2"),
        (("gap", "photos.bower", "--model", "clip"), "clip"),
        (("map", "photos.bower", "-o", "no/such/folder/map.html"), "no/such/folder"),
    ],
)
def test_what_cannot_be_done_says_so(run: Command, shop: Path, words: tuple[str, ...], named: str) -> None:
    assert named in run(*words, cwd=shop, code=2).err


def test_the_commands_of_the_page_run(run: Command, shop: Path) -> None:
    blocks = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    lines = [line[2:].split("  #")[0] for block in blocks for line in block.splitlines() if line[:2] == "$ "]
    assert {shlex.split(line)[1] for line in lines} >= {"doctor", "gap", "map"}
    done: list[Result] = [run(*shlex.split(line)[1:], cwd=shop) for line in lines]
    assert all(result.out for result in done)


def test_the_python_of_the_page_runs(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert blocks
    scope: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "doctor.md", "exec"), scope)


def test_the_page_names_every_check() -> None:
    from bowerbird.judge.doctor import CHECKS

    assert set(re.findall(r"^\| `([a-z][a-z-]+)` \|", PAGE, re.MULTILINE)) == set(CHECKS)
