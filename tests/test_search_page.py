"""docs/search.md runs as it is written."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import bowerbird as bb

PAGE = (Path(__file__).parents[1] / "docs" / "search.md").read_text("utf-8")
TEXTS = {"chelsea": "a ginger cat", "coffee": "a cup of coffee with a spoon", "rocket": "", "camera": ""}


def test_the_page_runs(tmp_path: Path, model: bb.Encoder, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f"{bb.samples() / name}.jpg,{text}" for name, text in TEXTS.items()]
    Path("photos.csv").write_text("\n".join(["image,text", *lines]))
    bb.Collection.from_csv("photos.csv", image="image", text="text").embed(model).write("photos.bower")
    shutil.copy(bb.samples() / "chelsea.jpg", "query.jpg")
    scope: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, "search.md", "exec"), scope)
    first, second = capsys.readouterr().out.splitlines()
    match, score, part, name = first.split()
    assert float(match) > 0.5
    assert float(score) > 0.5
    assert (part, name) == ("text", "mini")
    assert second == "0 True"
