"""deploy/bowerbird.service: systemd accepts it, finds it closed, and its command is one of the service."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.serve.command import options
from tests.serve.processes import started, until_ok

from bowerbird.serve.limits import Limits
from bowerbird.settings import Settings

FOLDER = Path(__file__).parents[3] / "deploy"
TEXT = (FOLDER / "bowerbird.service").read_text("utf-8")
VALUES: dict[str, list[str]] = {}
for name, value in re.findall(r"^(\w+)=(.*)$", TEXT, re.MULTILINE):
    VALUES.setdefault(name, []).append(value)
(START,) = VALUES["ExecStart"]
VARIABLES = dict(
    line.split("=", 1) for line in (FOLDER / "bowerbird.env").read_text().splitlines() if line[:1].isalpha()
)

MOST = 20
"""Exposure by systemd's own reckoning, in tenths: 0 is nothing at all, 100 a service that may do anything."""

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def analyze(*words: object) -> subprocess.CompletedProcess[str]:
    """What systemd says of a unit's file."""
    command = ["systemd-analyze", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@needs_systemd
def test_systemd_takes_it(tmp_path: Path):
    """The program need not be installed here for that: another that is stands in its place."""
    unit = tmp_path / "bowerbird.service"
    unit.write_text(TEXT.replace(START.split()[0], sys.executable))
    done = analyze("verify", "--man=no", unit)
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_systemd_finds_it_closed():
    done = analyze("security", "--offline=true", f"--threshold={MOST}", FOLDER / "bowerbird.service")
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze cannot look at files")
    assert done.returncode == 0, done.stdout.splitlines()[-1] + done.stderr


def test_it_waits_for_what_was_accepted():
    (patience,) = VALUES["TimeoutStopSec"]
    assert float(patience) > Limits().drain_seconds
    assert VALUES["KillMode"] == ["mixed"]
    assert VALUES["Restart"] == ["on-failure"]


def test_its_settings_are_those_of_the_service():
    told = options("serve")
    words = shlex.split(START)[1:]
    assert words[0] == "serve"
    assert all(word in told for word in words if word.startswith("--"))
    given = [word.partition("=")[0] for line in VALUES["Environment"] for word in shlex.split(line)]
    for name in (*given, *VARIABLES):
        if name.startswith("BOWERBIRD_"):
            assert name in told.values() or hasattr(Settings, name.removeprefix("BOWERBIRD_").lower()), name


def test_keys_come_as_a_credential_of_that_name():
    (credential,) = VALUES["LoadCredential"]
    assert f"%d/{credential.partition(':')[0]}" in START


@pytest.mark.slow
def test_its_command_starts_reloads_and_stops(index_path: Path, tmp_path: Path):
    """ExecStart, ExecReload and what systemd does to stop it."""
    (tmp_path / "keys").write_text("sk-the-first-0123456789\n")
    program, verb, *words = shlex.split(START.replace("%d", str(tmp_path)))
    assert (Path(program).name, verb) == ("bowerbird", "serve")
    env = {**VARIABLES, "BOWERBIRD_INDEX": str(index_path), "BOWERBIRD_PORT": "0", "BOWERBIRD_PAGE": "0"}
    with started(*words, cwd=tmp_path, env=env) as process:

        def asks(key: str) -> list[str]:
            fetch = (
                "import urllib.request as web; "
                f"web.urlopen(web.Request('{process.address}/v1/models', headers={{'Authorization': 'Bearer {key}'}}))"
            )
            return [sys.executable, "-c", fetch]

        until_ok(asks("sk-the-first-0123456789"), {})
        (tmp_path / "keys").write_text("sk-the-second-0123456789\n")
        assert VALUES["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
        process.signal(signal.SIGHUP)
        until_ok(asks("sk-the-second-0123456789"), {})
        process.signal(signal.SIGTERM)
        assert process.ended() == 0
