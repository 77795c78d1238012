"""docs/stores.md: the commands and the Python of the page run, on a server of the test's own."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import bowerbird as bb

PAGE = (Path(__file__).parents[1] / "docs" / "stores.md").read_text("utf-8")
WRITTEN = "postgresql://me@localhost/photos?table=holidays"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.slow
def test_the_page_runs(postgres_server, tmp_path, photographs, model, run, monkeypatch):
    database = postgres_server.database()
    there = postgres_server.uri(database, table="holidays")
    (tmp_path / "Pictures").mkdir()
    for name, path in photographs.items():
        (tmp_path / "Pictures" / f"{name}.jpg").write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    bb.Index.create("photos.bower", model).add("Pictures")
    lines = [line for block in blocks("sh") for line in block.splitlines() if WRITTEN in line]
    assert {shlex.split(line)[1] for line in lines} == {"copy", "index", "search", "info"}
    for line in lines:
        words = [word.replace(WRITTEN, there).replace("~", str(tmp_path)) for word in shlex.split(line)[1:]]
        run(*words, cwd=tmp_path)
    for block in blocks("python"):
        exec(compile(block, "stores.md", "exec"), {})
    (statement,) = blocks("sql")
    assert isinstance(postgres_server.run(statement, database), list)
    columns = postgres_server.run(
        "SELECT DISTINCT table_name FROM information_schema.columns WHERE table_name LIKE 'bowerbird%'",
        database,
    )
    assert len(columns) == 2
