"""Requests that cost the service far more than they cost who sends them: none gets far, and others are served."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from tests.serve.processes import check_refused, opened, post, received, running
from tests.serve.servers import SECONDS, served, serving

import bowerbird as bb
from bowerbird.serve.api.app import build
from bowerbird.serve.api.door import Noted
from bowerbird.serve.batching import BusyError
from bowerbird.serve.limits import Limits
from bowerbird.serve.service import LocalService
from bowerbird.serve.threads import Threads

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(b'{"input":[' + b"{}," * 300_000 + b"{}]}", 400, id="a million faults"),
        pytest.param(b'{"input":[' + b"null," * 200_000 + b"0]}", 400, id="nulls"),
        pytest.param(b'{"input":[' + b"{}," * (16 << 20) + b"{}]}", 413, id="more values than memory"),
        pytest.param(
            b'{"input":"a"' + b"".join(b',"n%d":1' % n for n in range(200_000)) + b"}", 400, id="names"
        ),
    ],
)
def test_a_body_of_faults_takes_neither_time_nor_memory(
    greedy: httpx2.Client, peak: Any, body: bytes, status: int
) -> None:
    before = peak()
    check_refused(greedy.post("/v1/embeddings", content=body, headers=JSON), status)
    # Each fault that is written down takes a kilobyte.
    assert peak() - before < 6 * len(body) + (128 << 20)


@pytest.fixture(scope="module")
def greedy_process() -> Any:
    with running("--model", "mini") as process:
        yield process


@pytest.fixture
def greedy(greedy_process: Any) -> Any:
    with httpx2.Client(base_url=greedy_process.address, timeout=SECONDS) as client:
        yield client


@pytest.fixture
def peak(greedy_process: Any) -> Any:
    return lambda: greedy_process.peak_bytes


def test_the_first_fault_is_told(client: httpx2.Client) -> None:
    error = check_refused(client.post("/v1/embeddings", json={"input": ["a", {}, {"text": 1}]}), 400)
    assert ".1." in error["param"]


def test_a_filter_has_a_longest(client: httpx2.Client) -> None:
    where = " or ".join(["price = 1"] * 20_000)
    error = check_refused(client.post("/v1/search", json={"text": "a", "where": where}), 400)
    assert error["param"] == "where"


def test_requests_do_not_make_any_number_of_columns(writable: httpx2.Client) -> None:
    records = [{"text": "a", "attributes": {f"a{i}_{j}": 1 for j in range(100)}} for i in range(11)]
    error = check_refused(writable.post("/v1/records", json={"records": records}), 400)
    assert error["code"] == "too_many_attributes"
    assert writable.get("/v1/index").json()["attributes"].keys() >= {"price", "brand"}
    assert len(writable.get("/v1/index").json()["attributes"]) < 20


def test_answers_that_are_not_taken_are_counted(model: bb.Encoder) -> None:
    service = LocalService(models=["mini"], limits=Limits(bodies_bytes=1 << 20))
    body = json.dumps({"model": "mini", "input": ["a"] * 2048}).encode()
    with served(service) as client, socket.socket() as greedy:
        greedy.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14
        )  # so that the system takes little for it
        greedy.settimeout(SECONDS)
        greedy.connect((client.base_url.host, client.base_url.port))
        greedy.sendall(post("/v1/embeddings", body, "Content-Type: application/json"))
        assert greedy.recv(16) == b"HTTP/1.1 200 OK\r"
        error = check_refused(client.post("/v1/embeddings", json={"input": "a"}), 503)
        assert error["code"] == "overloaded"
        greedy.shutdown(socket.SHUT_RDWR)
        greedy.close()
        again = client.post("/v1/embeddings", json={"input": "a"})
        while again.status_code == 503:
            again = client.post("/v1/embeddings", json={"input": "a"})
        assert again.status_code == 200


def test_who_takes_nothing_is_cut_off() -> None:
    gone = threading.Event()

    async def large(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * (32 << 20), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        gone.set()

    limits = Limits(idle_seconds=0.2)
    with serving(large, limits) as address, opened(address) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert gone.wait(SECONDS), "its answer is held for ever"
    with serving(large, limits) as address, opened(address) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert received(connection).status == 200


class _Slow(bb.Encoder):
    """A model that is loaded for as long as somebody wants."""

    def __init__(self, card: Any) -> None:
        super().__init__(card)
        self.begun = threading.Event()
        self.may_end = threading.Event()

    def warm(self) -> bb.Encoder:
        self.begun.set()
        assert self.may_end.wait(SECONDS)
        return super().warm()


def test_unloading_a_model_that_is_being_loaded_holds_up_nobody(model: bb.Encoder) -> None:
    slow = _Slow(model.card)
    service = LocalService(models=["mini"])
    service.registry.add("slow", slow)
    with served(service) as client:
        answers: list[int] = []

        def ask(path: str) -> threading.Thread:
            thread = threading.Thread(
                target=lambda: answers.append(client.post(path).status_code), daemon=True
            )
            thread.start()
            return thread

        loading = ask("/v1/models/slow/load")
        assert slow.begun.wait(SECONDS)
        unloading = ask("/v1/models/slow/unload")
        for _ in range(20):  # the request to unload comes in meanwhile
            assert client.get("/health/live").status_code == 200
        slow.may_end.set()
        for thread in (loading, unloading):
            thread.join(SECONDS)
        assert answers == [200, 200]


def test_who_leaves_a_thread_is_counted_until_it_is_free() -> None:
    begun, may_end = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert may_end.wait(SECONDS)

    async def scene() -> None:
        threads = Threads("test", 1, seconds=60.0, most=0)
        left = asyncio.create_task(threads.run(work))
        await asyncio.to_thread(begun.wait, SECONDS)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        with pytest.raises(BusyError):
            await threads.run(work)
        may_end.set()
        assert await threads.close(SECONDS)
        with pytest.raises(BusyError) as caught:
            await threads.run(work)
        assert caught.value.stopping

    asyncio.run(scene())


def test_errors_of_every_route_are_noted_with_their_code(index_path: Path) -> None:
    seen: list[Noted] = []
    service = LocalService(str(index_path), ["mini"])
    with (
        serving(build(service, observers=[seen.append]), service.limits) as address,
        httpx2.Client(base_url=address, timeout=SECONDS) as client,
    ):
        client.get("/v1/records/none")
        client.post("/v1/search", json={"text": "a", "where": "nothing = 1"})
        client.get("/v1/nowhere")
    asyncio.run(service.close())
    assert [noted.code for noted in seen] == ["record_not_found", "invalid_query", "not_found"]


def test_more_text_than_tokens_are_taken_is_not_tokenised(client: httpx2.Client) -> None:
    error = check_refused(client.post("/v1/embeddings", json={"input": ["word " * 200_000] * 8}), 400)
    assert "8,000,000 characters" in error["message"]
