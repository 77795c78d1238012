"""docs/client.md runs as it is written, against a real service."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from tests.serve.servers import serving

import bowerbird as bb
from bowerbird.client.client import Methods
from bowerbird.serve.api.app import build
from bowerbird.serve.service import LocalService

PAGE = (Path(__file__).parents[1] / "docs" / "client.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def address(tmp_path: Path, model: bb.Encoder, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a service as the page supposes it, in whose folder the page's pictures are."""
    monkeypatch.chdir(tmp_path)
    for name, colour in (("dress", "red"), ("cat", "orange"), ("sky", "blue")):
        Image.new("RGB", (64, 96), colour).save(f"{name}.jpg")
    Path("broken.jpg").write_bytes(b"no picture")
    records = [
        bb.Record(name, Path(f"{name}.jpg"), (f"a {name}",), {"price": price})
        for name, price in (("cat", 20), ("sky", 30), ("dress", 40))
    ]
    bb.Collection.from_items(records).embed(model).write("photos.bower")
    with serving(build(LocalService("photos.bower", ["mini"], writable=True))) as address:
        yield address


def test_the_page_runs(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(BLOCKS) == 8
    scope: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block.replace("http://localhost:8080", address), "client.md", "exec"), scope)
    out = capsys.readouterr().out
    assert ".jpg" in out, "names of files, where nothing is told of where they lie"
    assert "{0: 'dress.jpg', 1: 'note'} {2: DecodeError(" in out
    assert "Did you mean price" in out
    assert " 400 " in out


def test_every_method_is_on_the_page() -> None:
    methods = [name for name in dir(Methods) if not name.startswith("_")]
    assert len(methods) >= 15
    for name in (*methods, "records", "close"):
        assert re.search(rf"client\.{name}\(|`{name}`", PAGE), name
