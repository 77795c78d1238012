"""The TypeScript client, and the official OpenAI client for JavaScript, against running servers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.serve.refusing import Refusing
from tests.serve.servers import serving

from bowerbird.serve.api.app import build
from bowerbird.serve.keys import Keys
from bowerbird.serve.limits import Limits
from bowerbird.serve.service import LocalService

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "clients" / "typescript"
KEY = "secret-of-the-shop"


def npm(*words: str, cwd: Path, seconds: float = 300, **env: str) -> subprocess.CompletedProcess[str]:
    """Run npm."""
    return subprocess.run(
        ["npm", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**os.environ, **env},
        check=False,
    )


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the client with its packages, as they are locked."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("typescript") / "typescript"
    shutil.copytree(CLIENT, folder, ignore=shutil.ignore_patterns("node_modules", "dist"))
    there = CLIENT / "node_modules"
    if there.is_dir() and npm("ls", "--all", cwd=CLIENT).returncode == 0:
        (folder / "node_modules").symlink_to(there)
        return folder
    try:
        done = npm("ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline", cwd=folder)
    except subprocess.TimeoutExpired:
        pytest.skip("npm ci takes too long here")
    if done.returncode:
        pytest.skip(f"npm ci fails here: {done.stderr.strip().splitlines()[-1:]}")
    return folder


def test_the_document_is_that_of_the_service():
    found = build(LocalService("", ["mini"])).app.openapi()
    committed = json.loads((CLIENT / "openapi.json").read_text("utf-8"))
    assert committed == json.loads(json.dumps(found)), "run: python tools/make_typescript.py"


@pytest.mark.slow
def test_generating_gives_the_same_files(package):
    before = (package / "src" / "schema.ts").read_text("utf-8")
    done = npm("run", "generate", cwd=package)
    assert done.returncode == 0, done.stderr
    assert (package / "src" / "schema.ts").read_text("utf-8") == before, (
        "run: python tools/make_typescript.py"
    )


def test_versions_are_pinned_and_locked():
    wanted = json.loads((CLIENT / "package.json").read_text("utf-8"))
    locked = json.loads((CLIENT / "package-lock.json").read_text("utf-8"))["packages"]
    for name, version in {**wanted["dependencies"], **wanted["devDependencies"]}.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version), name
        assert locked[f"node_modules/{name}"]["version"] == version
    assert all("integrity" in one for path, one in locked.items() if path)


@pytest.mark.slow
def test_the_example_of_the_readme_compiles(package):
    (example,) = re.findall(r"```ts\n(.*?)```", (package / "README.md").read_text("utf-8"), re.DOTALL)
    path = package / "src" / "readme.ts"
    path.write_text(f"declare const file: File;\n{example}\nexport {{ text, picture }};\n", "utf-8")
    try:
        done = npm("exec", "--", "tsc", "--noEmit", cwd=package)
    finally:
        path.unlink()
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_clients_in_node(package, own_index):
    services = [
        LocalService(str(own_index), ["mini"], writable=True),
        LocalService(str(own_index), ["mini"]),
        LocalService("", ["mini"], limits=Limits(per_minute=1)),
    ]
    keys = Keys(text=f"{KEY} scope=admin")
    with ExitStack() as stack:
        for service in services:
            stack.callback(lambda service=service: asyncio.run(service.close()))
        env = {
            "TEST_SERVER": stack.enter_context(serving(build(services[0], keys=keys))),
            "TEST_BUSY_SERVER": stack.enter_context(
                serving(Refusing(build(services[1], keys=keys), 503, times=1))
            ),
            "TEST_LIMITED_SERVER": stack.enter_context(serving(build(services[2]))),
            "TEST_KEY": KEY,
        }
        done = npm("test", cwd=package, **env)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert int(re.search(r"^# pass (\d+)$", done.stdout, re.MULTILINE)[1]) > 10
