"""docs/fit.md runs as it is written: blocks of Python and commands, in their order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import bowerbird as bb
from bowerbird.cli.fit import fit as verb

PAGE = (Path(__file__).parents[1] / "docs" / "fit.md").read_text("utf-8")
# Those of fine-tuning name models of the hub; `tests/learn/finetune` runs the verb.
BLOCKS = [
    (kind, block)
    for kind, block in re.findall(r"```(python|sh)\n(.*?)```", PAGE, re.DOTALL)
    if not block.startswith("bowerbird fine-tune")
]


@pytest.mark.slow
def test_the_page_runs(tmp_path: Path, run, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    assert [kind for kind, _ in BLOCKS] == ["python"] * 3 + ["sh"] * 2 + ["python", "sh", "python"]
    for kind, block in BLOCKS:
        if kind == "python":
            exec(compile(block, "fit.md", "exec"), scope)
            continue
        for line in block.splitlines():
            found = run.finish(run.start(*shlex.split(line)[1:], cwd=tmp_path), seconds=300)
            if line.startswith("bowerbird search"):
                assert len(found.rows) > 0
    assert bb.load("shapes-model").embed(["a red circle"]).shape[0] == 1
    for name in ("ridge-model", "classes-model", "shapes-model", "linear-model"):
        assert (tmp_path / name / "fit.json").is_file()
    assert (tmp_path / "linear-model" / "training" / "metrics.csv").is_file()
    assert (tmp_path / "linear-model" / "image-head.pt").is_file()
    assert "R@10" in (tmp_path / "report.html").read_text("utf-8")


def test_the_page_names_every_setting_that_is_an_option():
    import inspect

    options = {"epochs", "batch_size", "lr", "dim", "temperature", "layer"}
    assert options <= set(inspect.signature(verb).parameters)
    for option in options:
        assert f"`--{option.replace('_', '-')}`" in PAGE
    for recipe in bb.recipes.ALL:
        assert f"`{recipe.__name__}`" in PAGE
        assert f"`{recipe().name}`" in PAGE
