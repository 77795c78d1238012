"""docs/evaluation.md runs as it is written, block after block."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import bowerbird as bb

PAGE = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TABLE = re.findall(r"```\n(image,caption\n.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"^bowerbird .*", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the page supposes it: photos/ and captions.csv."""
    folder = tmp_path_factory.mktemp("evaluation")
    shutil.copytree(bb.samples(), folder / "photos", ignore=shutil.ignore_patterns("*.txt"))
    (folder / "captions.csv").write_text(TABLE[0])
    return folder


@pytest.mark.slow
def test_the_page_runs(photos: Path, run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(photos)
    scope: dict[str, object] = {}
    assert len(BLOCKS) == 5
    for block in BLOCKS:
        exec(compile(block, "evaluation.md", "exec"), scope)
    assert (photos / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert len(COMMANDS) == 5
    (photos / "other.csv").write_text(TABLE[0].replace("image,caption", "photo,description"))
    for command in COMMANDS:
        words = command.removeprefix("bowerbird ").split()
        if "--image" in words:  # the table of that example has other columns
            words[words.index("captions.csv")] = "other.csv"
        assert run(*words, cwd=photos).out
