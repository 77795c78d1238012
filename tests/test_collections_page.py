"""docs/collections.md runs as it is written, block after block; and so does the job for a cluster."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bowerbird as bb

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "collections.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TABLE = """image_path#caption#price
chelsea.jpg#a tabby cat#12.5
coffee.jpg#a cup of
coffee#3
rocket.jpg#"a rocket # on its pad"#90
lost.jpg#nobody knows#1
astronaut.jpg#an astronaut#40
"""
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")


def on_its_own() -> dict[str, str]:
    """For Ray: a cluster that happens to run on this machine is not joined."""
    return {**os.environ, "RAY_ADDRESS": "local"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the page supposes it: photos/, query/, images/ and annotations.csv."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "query").mkdir()
    shutil.copytree(bb.samples(), folder / "images", ignore=shutil.ignore_patterns("*.txt"))
    (folder / "photos" / "cats").mkdir(parents=True)
    for picture in sorted((folder / "images").glob("*.jpg")):
        shutil.copy(picture, folder / "photos" / ("cats" if picture.stem == "chelsea" else ""))
    shutil.copy(bb.samples() / "chelsea.jpg", folder / "query" / "cat.jpg")
    (folder / "annotations.csv").write_text(TABLE.replace("a cup of\ncoffee", '"a cup of\ncoffee"'))
    return folder


def test_the_page_runs(shop: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(shop)
    scope: dict[str, object] = {}
    assert len(BLOCKS) >= 6
    for block in BLOCKS:
        if "pip install 'bowerbird[ray]'" not in block:
            exec(compile(block, "collections.md", "exec"), scope)


@needs_ray
@pytest.mark.slow
def test_the_block_for_a_cluster_runs(shop: Path, tmp_path: Path):
    """In a process of its own, and on a cluster of its own: one started here would serve the tests that follow."""
    wanted = [block for block in BLOCKS if "from_csv" in block or "bowerbird[ray]" in block]
    script = tmp_path / "page.py"
    script.write_text("\n".join([BLOCKS[0], *wanted]))
    shutil.rmtree(shop / "fashion.bower", ignore_errors=True)
    subprocess.run([sys.executable, script], cwd=shop, check=True, timeout=180, env=on_its_own())
    assert len(bb.Index.open(shop / "cluster.bower")) == 4


@needs_ray
@pytest.mark.slow
def test_the_job_for_a_cluster_runs(shop: Path, tmp_path: Path):
    command = [
        sys.executable,
        ROOT / "docs" / "jobs" / "fashion.py",
        shop / "annotations.csv",
        "--images",
        shop / "images",
        "--index",
        tmp_path / "job.bower",
    ]
    done = subprocess.run(command, check=True, timeout=180, capture_output=True, text=True, env=on_its_own())
    assert done.stdout.startswith("4 done")
    index = bb.Index.open(tmp_path / "job.bower")
    assert len(index) == 4
    assert index.search("a rocket", k=1)[0].attributes["text"] == "a rocket # on its pad"
