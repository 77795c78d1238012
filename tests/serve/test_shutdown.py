"""A server that is told to stop finishes what it accepted; one that is told to renew goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from tests.serve.processes import Process, check_refused, launched, opened, post, received, running

import bowerbird as bb

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of POSIX")

GOOD = {"model": "mini", "input": "a red dress"}
PATIENT = ("--queue-seconds", "600", "--drain-seconds", "120", "--request-seconds", "120")
LONG = {"model": "mini", "input": ["many words of a longer text " * 10] * 8}


def asked(process: Process) -> int:
    return httpx2.post(f"{process.address}/v1/embeddings", json=GOOD, timeout=120).status_code


def test_what_was_accepted_is_finished() -> None:
    """Told to stop while it works on what many have asked: each has its answer, and nobody new is let in."""
    with running("--model", "mini", *PATIENT) as process:
        assert asked(process) == 200
        connections = [opened(process.address) for _ in range(12)]
        for connection in connections:
            connection.sendall(post("/v1/embeddings", json.dumps(LONG).encode()))
        # The first answer says that the server has come to them; the others are waiting or under way.
        first = received(connections[0])
        process.signal(signal.SIGTERM)
        with ThreadPoolExecutor(12) as pool:
            replies = [first, *pool.map(received, connections[1:])]
        for connection in connections:
            connection.close()
        assert process.ended() == 0
    assert [reply.status for reply in replies] == [200] * 12
    assert all(len(reply.json()["data"]) == 8 for reply in replies)
    with pytest.raises(ConnectionRefusedError):
        opened(process.address)


def test_under_load_nobody_is_left_without_an_answer() -> None:
    """Clients that go on asking until they are turned away: none has its question broken off."""
    broken: list[str] = []
    answered = [0]
    stopped = threading.Event()
    with running("--model", "mini", *PATIENT) as process:
        assert asked(process) == 200

        def ask() -> None:
            request = post("/v1/embeddings", json.dumps(GOOD).encode())
            try:
                connection = opened(process.address)
            except ConnectionRefusedError:
                return
            with connection:
                while True:
                    connection.sendall(request)
                    reply = received(connection)
                    if reply.status != 200:
                        broken.append(f"{reply.status} {reply.body!r}")
                        return
                    answered[0] += 1
                    if answered[0] >= 40:
                        stopped.set()
                    if reply.headers.get("connection") == "close":
                        return  # and not before it was told so

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        assert stopped.wait(120)
        process.signal(signal.SIGTERM)
        for thread in threads:
            thread.join(120)
        assert process.ended() == 0
    assert not broken
    assert answered[0] >= 40


def made_pipe(path: Path) -> Path:
    """In the place of a file, a pipe that nobody writes to: whoever reads it hangs."""
    path.unlink()
    os.mkfifo(path)
    return path


@contextmanager
def read(path: Path) -> Iterator[None]:
    """Wait until somebody reads a pipe, and keep it open."""
    for _ in range(12_000):
        try:
            writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError:  # nobody does
            threading.Event().wait(0.01)
    else:
        pytest.fail(f"nobody reads {path}")
    try:
        yield
    finally:
        os.close(writer)


def test_threads_that_hang_in_a_store_or_a_model_do_not_hold_up_the_end(
    own_index: Path, tmp_path: Path, model: bb.Encoder
) -> None:
    stuck = Path(shutil.copytree(model.card.directory, tmp_path / "stuck"))
    tokenizer = made_pipe(stuck / "tokenizer.json")
    service = (str(own_index), "--model", "mini", "--model", f"stuck={stuck}", "--drain-seconds", "1")
    with running(*service) as process:
        assert asked(process) == 200
        manifest = made_pipe(own_index / "manifest.json")
        questions = (
            post("/v1/index/refresh", b""),
            post("/v1/embeddings", json.dumps({**GOOD, "model": "stuck"}).encode()),
        )
        connections = [opened(process.address) for _ in questions]
        for connection, question in zip(connections, questions, strict=True):
            connection.sendall(question)
        with read(manifest), read(tokenizer):
            process.signal(signal.SIGTERM)
            replies = [received(connection) for connection in connections]
            assert process.ended() == 0
    for connection in connections:
        connection.close()
    assert [check_refused(reply, 503)["code"] for reply in replies] == ["stopping"] * 2


def test_what_hangs_elsewhere_is_cut_off() -> None:
    """Python waits for threads of libraries for ever."""
    hangs = "import threading; threading.Thread(target=threading.Event().wait).start()"
    process = launched("--model", "mini", "--no-page", "--port", "0", "--drain-seconds", "0", first=hangs)
    process.until("Serving ")
    process.signal(signal.SIGTERM)
    process.until("something works in it")
    assert process.ended() == 0


def test_killed_and_started_again(own_index: Path) -> None:
    """Nothing has to be tidied up: the port is free again, and the index is as it was."""
    with running(str(own_index)) as first:
        port = first.address.rpartition(":")[2]
        first.signal(signal.SIGKILL)
        first.ended()
    second = launched(str(own_index), "--no-page", "--port", port)
    try:
        second.until("Serving ")
        answer = httpx2.post(
            f"{second.address}/v1/search", json={"text": "a red circle", "k": 1}, timeout=120
        )
        assert answer.status_code == 200
        assert answer.json()["data"]
    finally:
        second.signal(signal.SIGTERM)
        assert second.ended() == 0


def test_keys_are_read_again_until_ctrl_c(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("the-first-of-the-keys\n")

    def status(key: str) -> int:
        headers = {"Authorization": f"Bearer {key}"}
        return httpx2.get(f"{process.address}/v1/models", headers=headers, timeout=120).status_code

    with running("--model", "mini", "--api-keys", str(file)) as process:
        assert status("the-first-of-the-keys") == 200
        file.write_text("the-second-of-the-keys\n")
        process.signal(signal.SIGHUP)
        process.until("keys were read again")
        assert status("the-first-of-the-keys") == 401
        assert status("the-second-of-the-keys") == 200
        file.write_text("")
        process.signal(signal.SIGHUP)
        process.until("stay as they were")
        assert status("the-second-of-the-keys") == 200
        assert "of-the-keys" not in "".join(process.lines)
        process.signal(signal.SIGINT)
        assert process.ended() == 130


def test_a_socket_file(tmp_path: Path) -> None:
    path = tmp_path / "service.sock"
    for _ in range(2):  # the second finds what the first, which was killed, has left behind
        process = launched("--model", "mini", "--no-page", "--uds", str(path))
        process.until("Serving ")
        transport = httpx2.HTTPTransport(uds=str(path))
        with httpx2.Client(transport=transport, base_url="http://service", timeout=120) as client:
            assert client.post("/v1/embeddings", json=GOOD).status_code == 200
        process.signal(signal.SIGKILL)
        process.ended()
    assert path.is_socket()
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(str(path))
