"""`bowerbird serve` as a process, for tests of what starts it."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS = 60
"""How long anything may take here before it counts as never."""


@contextmanager
def started(
    run: Any, *words: object, cwd: Path, env: Mapping[str, str]
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Its address and its process, which is ended in the end.

    Args:
        run: the fixture of that name.
        words: the verb and what follows.
        cwd: where it is started.
        env: variables over those of this process.
    """
    process = run.start(*words, cwd=cwd, env=env, stdout=subprocess.DEVNULL)
    lines: list[str] = []
    found = threading.Event()

    def read() -> None:
        for raw in process.stderr:
            lines.append(raw.decode("utf-8", "replace"))
            if " at http" in lines[-1]:
                found.set()
        found.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert found.wait(SECONDS), "".join(lines)
        match = re.search(r" at (https?://[^\s/]+)", "".join(lines))
        assert match, "".join(lines)
        yield match[1], process
    finally:
        process.terminate()
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        finally:
            reader.join(SECONDS)
            process.stderr.close()


def until_ok(command: Sequence[str], env: Mapping[str, str]) -> None:
    """Run a check again and again, as a supervisor does, until it passes."""
    end = threading.Event()
    timer = threading.Timer(SECONDS, end.set)
    timer.start()
    try:
        while True:
            done = subprocess.run(
                command, env=dict(env), capture_output=True, text=True, timeout=SECONDS, check=False
            )
            if done.returncode == 0:
                return
            assert not end.wait(0.2), done.stderr
    finally:
        timer.cancel()
