"""docs/serve.md runs as it is written, against a real service; and what it says of errors is so."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from tests.serve.command import options
from tests.serve.servers import serving

import bowerbird as bb
from bowerbird.serve.api.app import build
from bowerbird.serve.keys import Keys
from bowerbird.serve.metrics import Metrics
from bowerbird.serve.service import LocalService

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "serve.md").read_text("utf-8")
WRITTEN = "http://localhost:8080"
CURLS = [
    command
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for command in block.replace("\\\n", " ").splitlines()
    if command.startswith("curl ")
]
STATUSES = re.findall(r"^\| (\d{3}) \| (.*?) \|", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, model: bb.Encoder) -> Path:
    """A folder as the page supposes it: pictures, and an index of some with prices."""
    folder = tmp_path_factory.mktemp("shop")
    for name, colour in (("dress", "red"), ("cat", "orange"), ("sky", "blue")):
        Image.new("RGB", (64, 96), colour).save(folder / f"{name}.jpg")
    (folder / "broken.jpg").write_bytes(b"no picture")
    records = [
        bb.Record(name, folder / f"{name}.jpg", (f"a {name}",), {"price": price})
        for name, price in (("cat", 20), ("sky", 30))
    ]
    bb.Collection.from_items(records).embed(model).write(folder / "photos.bower")
    return folder


@pytest.fixture(scope="module")
def address(shop: Path):
    service = LocalService(str(shop / "photos.bower"), ["mini"], writable=True)
    with serving(build(service, metrics=Metrics())) as address:
        yield address


def test_the_python_of_the_page_runs(shop: Path, address: str, monkeypatch: pytest.MonkeyPatch):
    if importlib.util.find_spec("openai") is None:
        pytest.skip("openai is not installed")
    monkeypatch.chdir(shop)
    scope: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block.replace(WRITTEN, address), "serve.md", "exec"), scope)
    assert len(scope["hits"]) == len(scope["both"]) == 2  # type: ignore[arg-type]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("command", CURLS, ids=range(len(CURLS)))
def test_the_commands_of_the_page_run(command: str, shop: Path, address: str):
    done = subprocess.run(
        f"{command.replace(WRITTEN, address)} --fail-with-body",
        shell=True,
        cwd=shop,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    expected = "bowerbird_requests" if "/metrics" in command else '"object":"list"'
    assert expected in done.stdout


def test_the_page_has_commands():
    assert len(CURLS) == 6


def test_the_keys_of_the_page_are_understood():
    (text,) = re.findall(r"```\n(# keys\.txt.*?)```", PAGE, re.DOTALL)
    assert [(key.name, key.scope) for key in Keys(text=text.replace(", and", " and"))] == [
        ("shop", "read"),
        ("nightly", "write"),
        ("ops", "admin"),
    ]


def test_the_codes_of_the_page_are_those_of_the_service():
    source = "".join(path.read_text("utf-8") for path in (ROOT / "src/bowerbird/serve").rglob("*.py"))
    assert len(STATUSES) >= 12
    for status, codes in STATUSES:
        for code in re.findall(r"`(\w+)`", codes):
            assert f'"{code}"' in source, f"{status} {code}"


def test_every_option_of_the_page_exists():
    told = {*options("serve"), *options("deploy"), "--help"}
    of_docker = re.compile(r"```bash\n(docker|kubectl|curl).*?```", re.DOTALL)
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", of_docker.sub("", PAGE))) - {"--cpus"}:
        assert option in told, option


def test_every_address_of_the_page_is_in_the_openapi_document(address: str):
    import httpx2

    paths = httpx2.get(f"{address}/openapi.json").json()["paths"]
    known = {re.sub(r"\{.*?\}", "ID", path) for path in paths}
    for path in set(re.findall(r"/v1/[\w/]+|/health/\w+", PAGE)) - {"/v1/traces"}:
        assert path in known, path
