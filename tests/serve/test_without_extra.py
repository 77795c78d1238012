"""Without the extra `serve`, the command and the library say how to get it, and nothing else is the worse for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCKED = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.partition(".")[0] in {blocked!r}
        return None if absent else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""
WEB = (
    "fastapi",
    "starlette",
    "uvicorn",
    "httptools",
    "orjson",
    "gradio",
    "prometheus_client",
    "opentelemetry",
)


def without(code: str, blocked: tuple[str, ...] = WEB) -> subprocess.CompletedProcess[str]:
    """Run Python as if some packages were not installed."""
    return subprocess.run(
        [sys.executable, "-c", BLOCKED.format(blocked=blocked) + code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("blocked", [WEB, ("prometheus_client",)], ids=str)
def test_the_command_names_what_to_install(blocked):
    code = "sys.argv = ['bowerbird', 'serve', '--model', 'mini', '--port', '0']; from bowerbird.cli import main; main()"
    done = without(code, blocked)
    assert done.returncode == 2, done.stderr
    assert "pip install 'bowerbird[serve]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_everything_else_works():
    """The command line tells of its verbs, and the client of a service that is elsewhere is there."""
    code = (
        "import bowerbird as bb; bb.Client('http://localhost:1').close(); "
        "from bowerbird.cli import main; sys.argv = ['bowerbird', 'serve', '--help']; main()"
    )
    done = without(code)
    assert done.returncode == 0, done.stderr
    assert "--port" in done.stdout
