"""docs/reranking.md runs as it is written, with a cross-encoder that counts words in the place of the hub's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.models.overlap import write_overlap_model

import bowerbird as bb

PAGE = (Path(__file__).parents[1] / "docs" / "reranking.md").read_text("utf-8")
TEXTS = {
    "chelsea": "a ginger cat",
    "coffee": "a cup of coffee with a spoon",
    "rocket": "a rocket at night",
    "camera": "",
}


def test_the_page_runs(tmp_path: Path, model: bb.Encoder, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f"{bb.samples() / name}.jpg,{text}" for name, text in TEXTS.items()]
    Path("photos.csv").write_text("\n".join(["image,text", *lines]))
    bb.Collection.from_csv("photos.csv", image="image", text="text").embed(model).write("photos.bower")
    # A directory wins over what is called the same on the hub.
    write_overlap_model(
        tmp_path / "cross-encoder" / "ms-marco-MiniLM-L6-v2", " ".join(TEXTS.values()).split()
    )
    scope: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, "reranking.md", "exec"), scope)
    assert capsys.readouterr().out.startswith("a cup of coffee with a spoon 0.9")
