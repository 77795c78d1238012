"""Requests that cost the service far more than they cost who sends them: none gets far, and others are served."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from tests.serve.processes import check_refused, opened, post, received, running
from tests.serve.servers import SECONDS, served, serving

import bowerbird as bb
from bowerbird.errors import ModelFormatError
from bowerbird.serve.api.app import build
from bowerbird.serve.api.door import Noted
from bowerbird.serve.batching import BusyError
from bowerbird.serve.lanes import Lane, Work
from bowerbird.serve.limits import Limits
from bowerbird.serve.protocol import Places
from bowerbird.serve.service import LocalService
from bowerbird.serve.threads import Threads
from bowerbird.settings import settings

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
    assert error["param"] == "input.1"


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


class _Broken(_Slow):
    """One that cannot be loaded, as is found out when somebody wants."""

    def __init__(self, card: Any) -> None:
        super().__init__(card)
        self.loads = 0

    def warm(self) -> bb.Encoder:
        self.loads += 1
        super().warm()
        raise ModelFormatError("It cannot be loaded.")


def test_many_who_wait_for_a_broken_model_have_it_loaded_once_and_hold_up_nobody(model: bb.Encoder) -> None:
    broken = _Broken(model.card)

    async def scene() -> None:
        service = LocalService(models=["mini"])
        service.registry.add("broken", broken)
        waiting = [asyncio.create_task(service.embed("broken", ["a"])) for _ in range(100)]
        # In the loop's own threads, of which there are fewer: they are free, and so is the other model.
        assert await asyncio.to_thread(broken.begun.wait, SECONDS)
        assert (await service.embed("mini", ["a"])).outcomes[0].error is None
        waiting[0].cancel()
        broken.may_end.set()
        failures = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(failures[0], asyncio.CancelledError)
        assert {type(failure) for failure in failures[1:]} == {ModelFormatError}
        assert broken.loads == 1
        with pytest.raises(ModelFormatError):
            await service.embed("broken", ["a"])
        assert broken.loads == 2, "who comes later finds out whether it is still broken"
        await service.close()

    asyncio.run(scene())


def test_a_search_whose_client_leaves_is_not_run(index_path: Path) -> None:
    service = LocalService(str(index_path), ["mini"])
    begun, may_end = threading.Semaphore(0), threading.Event()

    def hold(payloads: Sequence[Any]) -> list[Any]:
        begun.release()
        assert may_end.wait(SECONDS)
        return list(payloads)

    def waiting() -> int:
        return service.scheduler.waiting_inputs().get("mini/text", 0)

    with served(service) as client, ThreadPoolExecutor(64) as pool:
        lane = Lane("held", hold, 1, 1)
        workers = settings().worker_threads
        held = [
            pool.submit(service.scheduler.wait, lambda call: [Work(call, 0, 1, "a", lane)], 1)
            for _ in range(workers)
        ]
        try:
            for _ in held:
                assert begun.acquire(timeout=SECONDS)
            with opened(str(client.base_url)) as connection:
                connection.sendall(post("/v1/search", b'{"text":"a red circle"}'))
                until(lambda: waiting() == 1)
            until(lambda: waiting() == 0)
        finally:
            may_end.set()
        assert client.post("/v1/search", json={"text": "a red circle", "k": 1}).status_code == 200
    assert [call.result(SECONDS).results for call in held] == [["a"]] * workers


def until(reached: Callable[[], bool]) -> None:
    """Wait for something to be so."""
    for _ in range(100 * SECONDS):
        if reached():
            return
        threading.Event().wait(0.01)
    pytest.fail("it never is")


def test_one_address_does_not_take_all_connections() -> None:
    limits = Limits(connections=8, header_seconds=60)

    async def good(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = [(b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b""})

    def status(connection: socket.socket) -> int:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return received(connection).status

    with serving(good, limits) as address, ExitStack() as connections:
        greedy = [connections.enter_context(opened(address)) for _ in range(20)]
        statuses = [status(connection) for connection in greedy]
        assert statuses == [200] * 4 + [503] * 16
        try:
            place = (str(urlsplit(address).hostname), int(urlsplit(address).port or 0))
            other = socket.create_connection(place, SECONDS, ("127.0.0.2", 0))
        except OSError:
            pytest.skip("this machine has one address")
        with other:
            assert status(other) == 200


def test_whose_a_connection_is() -> None:
    places = Places(4, ["10.0.0.0/8"])

    def taken(host: str, count: int) -> list[bool]:
        return [places.take(host) is not None for _ in range(count)]

    assert taken("192.0.2.1", 2) == [True] * 2
    assert taken("::ffff:192.0.2.1", 1) == [False], "it is the same one"
    assert taken("2001:db8::1", 1) + taken("2001:db8::2:1", 1) == [True] * 2
    assert taken("2001:db8:1::1", 1) == [False], "there are no more"
    for owner in ("192.0.2.1", "192.0.2.1", "2001:db8::/64", "2001:db8::/64"):
        places.give_back(owner)
    assert taken("2001:db8::1", 3) == [True, True, False], "two that whoever has the network has"
    for _ in range(2):
        places.give_back("2001:db8::/64")
    assert taken("10.1.2.3", 5) == [True] * 4 + [False], "a proxy brings those of many"
    for host in ("", "::ffff:10.0.0.1"):  # a socket file, and the same proxies
        places = Places(4, ["10.0.0.0/8"])
        assert taken(host, 5) == [True] * 4 + [False]
    places = Places(4, ["*"])
    assert taken("192.0.2.1", 5) == [True] * 4 + [False]
    places = Places(0)
    assert taken("192.0.2.1", 5) == [True] * 5


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
