"""deploy/Dockerfile: linted, and what it names exists. No image is built here; its steps run as far as they can."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from tests.serve.command import options, refused
from tests.serve.processes import started, until_ok

from bowerbird.settings import Settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[3]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
TEXT = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text("utf-8"))
LINES = [line for line in TEXT.splitlines() if line and not line.startswith("#")]
LAST = LINES[max(place for place, line in enumerate(LINES) if line.startswith("FROM ")) :]
VARIABLES = {
    name: value
    for line in LAST
    if line.startswith("ENV ")
    for name, _, value in (word.partition("=") for word in shlex.split(line)[1:])
}


def said(instruction: str) -> list[str]:
    """What the last stage says behind an instruction."""
    return [line[len(instruction) + 1 :] for line in LAST if line.startswith(f"{instruction} ")]


def test_it_passes_the_linter():
    program = Path(sys.executable).parent / "hadolint"
    if not program.exists():
        pytest.skip("hadolint is not installed")
    done = subprocess.run(
        [program, "--no-color", DOCKERFILE], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_its_base_is_pinned_and_its_user_is_nobody_in_particular():
    (base,) = re.findall(r"^ARG PYTHON=(.*)$", TEXT, re.MULTILINE)
    assert re.fullmatch(r"\d+\.\d+\.\d+-slim-\w+", base)
    assert [line for line in LINES if line.startswith("FROM ")] == [
        "FROM python:${PYTHON} AS build",
        "FROM python:${PYTHON}",
    ]
    (user,) = said("USER")
    assert re.fullmatch(r"([1-9]\d{3,}):\1", user)
    assert not any("apt-get" in line for line in LINES)


def test_what_installs_stays_behind():
    """The last stage installs nothing, and takes away what could."""
    (step,) = said("RUN")
    assert "pip uninstall --yes" in step
    assert "pip install" not in step
    assert said("COPY") == ["--from=build /opt/bowerbird /opt/bowerbird"]


def test_what_is_copied_exists_and_reaches_the_builder():
    ignore = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert ignore[1] == "*"
    sent = {line[1:] for line in ignore if line.startswith("!")}
    copied = {
        word
        for line in LINES
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    assert copied == sent
    assert all((ROOT / one).exists() for one in copied)


def test_what_it_sets_are_settings_of_the_service():
    known = options("serve").values()
    for name in VARIABLES:
        if name.startswith("BOWERBIRD_"):
            assert name in known or hasattr(Settings, name.removeprefix("BOWERBIRD_").lower()), name
    assert said("EXPOSE") == [VARIABLES["BOWERBIRD_PORT"]]
    for place in json.loads(said("VOLUME")[0]):
        assert place in {VARIABLES["BOWERBIRD_DATA_DIR"], VARIABLES["BOWERBIRD_CACHE_DIR"]}


def test_the_versions_are_those_that_the_project_asks_for():
    lines = (ROOT / "deploy" / "constraints.txt").read_text("utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    versions = {canonicalize_name(name): Version(version) for name, version in pinned.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [Requirement(text) for text in (*project["dependencies"], *extras["serve"], *extras["s3"])]
    asked = [one for one in wanted if one.marker is None or one.marker.evaluate()]
    assert {"fastapi", "gradio", "numpy", "s3fs"} <= {one.name for one in asked}
    for one in asked:
        assert versions[canonicalize_name(one.name)] in one.specifier, str(one)
    assert "[serve,s3]" in TEXT


@pytest.mark.slow
def test_its_entry_point_and_its_check_of_health_run(index_path: Path, tmp_path: Path):
    """As the image would: by its variables alone, without a flag, from a folder that it may not write to."""
    keys = tmp_path / "keys"
    keys.write_text("sk-of-a-test-0123456789\n")
    env = {
        **VARIABLES,
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path),
        "BOWERBIRD_INDEX": str(index_path),
        "BOWERBIRD_DATA_DIR": str(tmp_path / "data"),
        "BOWERBIRD_CACHE_DIR": os.environ["BOWERBIRD_CACHE_DIR"],
        "BOWERBIRD_API_KEYS_FILE": str(keys),
        "BOWERBIRD_HOST": "127.0.0.1",
        "BOWERBIRD_PORT": "0",
        "BOWERBIRD_PAGE": "0",
    }
    assert json.loads(said("ENTRYPOINT")[0]) == ["bowerbird", "serve"]
    with started(cwd=tmp_path, env=env) as process:
        (check,) = re.findall(r"HEALTHCHECK .*?CMD (\[.*\])$", TEXT, re.MULTILINE)
        asked = [sys.executable, *json.loads(check)[1:]]
        env["BOWERBIRD_PORT"] = process.address.rpartition(":")[2]
        until_ok(asked, env)
        process.signal(signal.SIGTERM)
        assert process.ended() == 0
        assert subprocess.run(asked, env=env, capture_output=True, timeout=60, check=False).returncode != 0


def test_without_keys_it_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BOWERBIRD_API_KEYS_FILE", str(tmp_path / "none-here"))
    why = refused("serve", "--model", "mini", "--port", 0)
    assert f"The API keys in {tmp_path / 'none-here'} cannot be read" in why
