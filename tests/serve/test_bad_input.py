"""What clients send that they should not: each has its status and an error in OpenAI's form, and disturbs nobody."""

from __future__ import annotations

import asyncio
import json
import struct
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from tests.serve.conftest import data_url
from tests.serve.processes import check_refused, exchanged, opened, post, received, running
from tests.serve.servers import serving

from bowerbird.serve.api.app import build
from bowerbird.serve.api.door import Noted
from bowerbird.serve.keys import Keys
from bowerbird.serve.limits import Limits
from bowerbird.serve.service import LocalService

GOOD = {"model": "mini", "input": "a red dress"}
LIMITS = Limits(
    body_bytes=1 << 20,
    inputs=64,
    header_seconds=1,
    body_seconds=1,
    connections=24,
    queue_seconds=30,
    idle_seconds=60,
)


class Beside:
    """A client that asks good questions all the time, whatever others do."""

    def __init__(self, address: str) -> None:
        self.failed: list[object] = []
        self.answered = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._client = httpx2.Client(base_url=address, timeout=60)
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        while not self._stopping:
            try:
                response = self._client.post("/v1/embeddings", json=GOOD)
                good = response.status_code == 200
                failure: object = response.text
            except httpx2.HTTPError as error:
                good, failure = False, error
            with self._changed:
                self.answered += 1
                if not good:
                    self.failed.append(failure)
                self._changed.notify_all()

    def goes_on(self) -> None:
        """The question that is asked next is answered well, as were all before."""
        with self._changed:
            # Of two that are answered from now on, the second was asked after this.
            until = self.answered + 2
            assert self._changed.wait_for(lambda: self.answered >= until, 60)
            assert not self.failed

    def stop(self) -> None:
        self._stopping = True
        self._thread.join(60)
        self._client.close()


@pytest.fixture(scope="module")
def noted() -> list[Noted]:
    """What was noted of requests."""
    return []


@pytest.fixture(scope="module")
def service(index_path: Path) -> Iterator[LocalService]:
    """A service with narrow limits."""
    service = LocalService(str(index_path), ["mini"], limits=LIMITS)
    yield service
    asyncio.run(service.close())


@pytest.fixture(scope="module")
def address(service: LocalService, noted: list[Noted]) -> Iterator[str]:
    """Of the server."""
    with serving(build(service, fetch_urls=True, observers=[noted.append]), LIMITS) as address:
        yield address


@pytest.fixture(scope="module")
def beside(address: str) -> Iterator[Beside]:
    """See `Beside`."""
    beside = Beside(address)
    yield beside
    beside.stop()


@pytest.fixture(autouse=True)
def undisturbed(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test that talks to the server, good questions are still being answered."""
    beside = request.getfixturevalue("beside") if "address" in request.fixturenames else None
    yield
    if beside is not None:
        beside.goes_on()


def asked(address: str, body: object) -> httpx2.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx2.post(f"{address}/v1/embeddings", content=content, timeout=60)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"text"',
        b'{"model": "mini"}',
        b'{"model": 3, "input": "a"}',
        b'{"model": "mini", "input": {}}',
        b'{"model": "mini", "input": 3}',
        b'{"model": "mini", "input": null}',
        b'{"model": "mini", "input": []}',
        b'{"model": "mini", "input": [[]]}',
        b'{"model": "mini", "input": [1, 2, 3]}',
        b'{"model": "mini", "input": [{"text": 3}]}',
        b'{"model": "mini", "input": "a", "dimensions": 0}',
        b'{"model": "mini", "input": "a", "dimensions": 100000}',
        b'{"model": "mini", "input": "a", "encoding_format": "xml"}',
        b'{"model": "mini", "input": "a", "input": NaN}',
        b"[" * 100_000,
    ],
    ids=lambda body: body[:40].decode("latin-1"),
)
def test_what_is_no_request(address: str, body: bytes) -> None:
    check_refused(asked(address, body), 400)


def test_a_hundred_thousand_inputs(address: str) -> None:
    error = check_refused(asked(address, {"model": "mini", "input": ["a"] * 100_000}), 400)
    assert error["code"] == "too_many_inputs"
    assert error["param"] == "input"


@pytest.mark.parametrize(
    ("path", "name", "words"), [("embeddings", "input", "inputs"), ("records", "records", "records")]
)
def test_they_are_counted_before_they_are_looked_at(address: str, path: str, name: str, words: str) -> None:
    """None of them is what it should be, which is not found out."""
    response = httpx2.post(f"{address}/v1/{path}", json={name: [{}] * 100_000}, timeout=60)
    error = check_refused(response, 400)
    assert error["code"] == "too_many_inputs"
    assert error["param"] == name
    assert f"100,000 {words} were given" in error["message"]


def test_an_unknown_model(address: str) -> None:
    error = check_refused(asked(address, {"model": "minni", "input": "a"}), 404)
    assert error["code"] == "model_not_found"
    assert "mini" in error["message"]


def test_no_such_route_and_method(address: str) -> None:
    check_refused(httpx2.get(f"{address}/v1/nothing", timeout=60), 404)
    check_refused(httpx2.get(f"{address}/v1/embeddings", timeout=60), 405)


def test_what_is_no_http(address: str) -> None:
    check_refused(exchanged(address, b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + b"\x00" * 40), 400)
    check_refused(exchanged(address, b"GET / HTTP/1.1\r\nno colon here\r\n\r\n"), 400)
    lengths = (
        b"POST /v1/embeddings HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    check_refused(exchanged(address, lengths), 400)


IN_PIECES = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("rest", [b"fffffffffffffffff1\r\n", b"2\r\n{}garbage", b"-1\r\n{}\r\n"])
def test_a_body_that_is_no_http(address: str, rest: bytes) -> None:
    check_refused(exchanged(address, IN_PIECES + rest), 400)


@pytest.mark.parametrize("path", ["embeddings", "search"])
def test_a_compressed_body(address: str, path: str) -> None:
    response = httpx2.post(
        f"{address}/v1/{path}",
        content=zlib.compress(b'{"text": "a"}'),
        headers={"Content-Encoding": "deflate"},
        timeout=60,
    )
    error = check_refused(response, 415)
    assert "deflate" in error["message"]


def test_fields_behind_a_body(address: str) -> None:
    """They are no headers, and have a cap as these do."""
    body = json.dumps(GOOD).encode()
    piece = b"%x\r\n%b\r\n0\r\n" % (len(body), body)
    fields = b"Content-Type: multipart/form-data\r\nX-Api-Key: a\r\n"
    with opened(address) as connection:
        connection.sendall(IN_PIECES + piece + fields + b"\r\n")
        assert received(connection).status == 200
    error = check_refused(exchanged(address, IN_PIECES + piece + b"X: y\r\n" * 50_000), 431)
    assert error["code"] == "headers_too_large"


class TestBodies:
    def test_more_than_is_taken_is_refused_unread(self, address: str) -> None:
        error = check_refused(exchanged(address, post("/v1/embeddings", b"", length=1 << 30)), 413)
        assert error["code"] == "body_too_large"

    def test_without_a_length(self, address: str) -> None:
        head = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunk = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"
        check_refused(exchanged(address, (head, *[chunk] * 40)), 413)

    def test_a_client_that_sends_all_before_it_reads_has_the_answer(self, address: str) -> None:
        reply = httpx2.post(f"{address}/v1/embeddings", content=b"a" * (3 << 20), timeout=60)
        check_refused(reply, 413)

    def test_one_that_drips_in(self, address: str) -> None:
        with opened(address) as connection:
            connection.sendall(post("/v1/embeddings", b'{"model":', length=100))
            reply = received(connection)
        error = check_refused(reply, 408)
        assert error["code"] == "timeout"
        assert reply.headers["connection"] == "close"

    def test_a_gigabyte_takes_no_memory(self, tmp_path: Path) -> None:
        with running("--model", "mini", "--max-body", str(1 << 20)) as process:
            assert asked(process.address, GOOD).status_code == 200
            before = process.peak_bytes
            check_refused(exchanged(process.address, post("/v1/embeddings", b"", length=1 << 30)), 413)
            head = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            chunk = b"100000\r\n" + b"a" * 0x100000 + b"\r\n"

            def pieces() -> Iterator[bytes]:
                yield head
                for _ in range(1024):
                    yield chunk

            reply = exchanged(process.address, pieces())
            # One that sends on and on is cut off, and may have lost the answer by its own doing.
            assert reply.status in (0, 413)
            announced = post("/v1/embeddings", b"", length=1 << 30)
            assert exchanged(process.address, (announced, *[b"a" * (1 << 20)] * 64)).status in (0, 413)
            assert asked(process.address, GOOD).status_code == 200
            assert process.peak_bytes - before < 100 << 20


class TestHeaders:
    def test_that_drip_in(self, address: str) -> None:
        with opened(address) as connection:
            connection.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: loc")
            reply = received(connection)
        assert check_refused(reply, 408)["code"] == "timeout"

    def test_that_do_not_come_at_all(self, address: str) -> None:
        with opened(address) as connection:
            assert received(connection).status == 0

    def test_of_a_second_request_on_a_connection(self, address: str) -> None:
        with opened(address) as connection:
            connection.sendall(post("/v1/embeddings", json.dumps(GOOD).encode()))
            assert received(connection).status == 200
            connection.sendall(b"\r\n")  # what may stand between two requests, and is none
            assert received(connection).status == 0

    def test_that_never_end(self, address: str) -> None:
        line = b"X-More: " + b"a" * 4000 + b"\r\n"
        reply = exchanged(address, (b"GET /v1/models HTTP/1.1\r\n", *[line] * 64))
        assert reply.status in (0, 431)
        reply = exchanged(address, b"GET /v1/models HTTP/1.1\r\n" + line * 17)
        assert check_refused(reply, 431)["code"] == "headers_too_large"

    def test_twenty_four_slow_ones_do_not_keep_others_out(self, address: str) -> None:
        slow = [opened(address) for _ in range(LIMITS.connections + 8)]
        try:
            for connection in slow:
                connection.sendall(b"GET ")
            assert asked_until(address) == 200
        finally:
            for connection in slow:
                connection.close()


def asked_until(address: str) -> int:
    """Ask until there is a place again; every answer before says that there was none."""
    for _ in range(200):
        response = asked(address, GOOD)
        if response.status_code != 503:
            return response.status_code
        assert check_refused(response, 503)["code"] == "overloaded"
        assert response.headers["retry-after"] == "1"
    return 0


def png(width: int, height: int, *, rows: int | None = None) -> bytes:
    """A black picture of one bit a pixel, whose file is tiny."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress((b"\0" * (1 + (width + 7) // 8)) * (height if rows is None else rows), 9)
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


class TestPictures:
    @pytest.mark.parametrize(
        "data", [png(20_000, 20_000), png(2**31 - 1, 2**31 - 1, rows=0)], ids=["unfolds", "claims"]
    )
    def test_bombs(self, address: str, data: bytes) -> None:
        assert len(data) < 200_000
        error = check_refused(asked(address, {"model": "mini", "input": [{"image": data_url(data)}]}), 400)
        assert error["code"]

    def test_what_is_none(self, address: str) -> None:
        for image in (
            "data:image/png;base64,",
            "data:image/png;base64,AAAA",
            "data:image/png,AAAA",
            "!!",
            "",
        ):
            check_refused(asked(address, {"model": "mini", "input": [{"image": image}]}), 400)

    @pytest.mark.parametrize(
        "url",
        [
            "http://169.254.169.254/latest/meta-data/",
            "http://127.0.0.1:1/",
            "http://localhost:1/",
            "http://[::1]:1/",
            "http://[64:ff9b::a9fe:a9fe]/",
            "http://2852039166/",
            "http://0.0.0.0/",
        ],
    )
    def test_at_addresses_of_nobody_elses_business(self, address: str, url: str) -> None:
        error = check_refused(asked(address, {"model": "mini", "input": [{"image": url}]}), 400)
        assert "not a public address" in error["message"]

    @pytest.mark.parametrize(
        "url", ["file:///etc/passwd", "ftp://localhost/a", "s3://bucket/a", "/etc/passwd", "gopher://x"]
    )
    def test_at_addresses_of_other_kinds(self, address: str, url: str) -> None:
        error = check_refused(asked(address, {"model": "mini", "input": [{"image": url}]}), 400)
        assert "root:" not in error["message"]

    def test_one_bad_picture_leaves_the_others(self, address: str, drawn) -> None:
        inputs = [{"image": "!!"}, {"image": data_url(drawn("red", "circle"))}, "a"]
        data = asked(address, {"model": "mini", "input": inputs}).json()["data"]
        assert [entry["index"] for entry in data] == [0, 1, 2]
        assert data[0]["embedding"] is None
        assert data[0]["error"]["code"]
        assert data[1]["embedding"]
        assert data[2]["embedding"]


@pytest.mark.parametrize(
    "id_",
    [
        "..",
        "../../../../etc/passwd",
        "..%2f..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "%2fetc%2fpasswd",
        "file:%2f%2f%2fetc%2fpasswd",
        "red-circle%00",
        "red-circle/../../../etc/passwd",
        "'%20or%201=1",
    ],
)
@pytest.mark.parametrize("after", ["", "/image?size=original", "/image?size=thumbnail"])
def test_ids_that_would_be_paths(address: str, id_: str, after: str) -> None:
    """An id is an id; sent as it is, since clients tidy `..` away."""
    reply = exchanged(address, f"GET /v1/records/{id_}{after} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    check_refused(reply, (400, 404))
    assert b"root:" not in reply.body


def test_two_names_of_the_host(address: str) -> None:
    """What is in front of the service may have let it in for the sake of the other one."""
    reply = exchanged(address, b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: other\r\n\r\n")
    check_refused(reply, (400,))
    assert reply.json()["error"]["code"] == "invalid_host"


def test_wrong_keys(service: LocalService, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("the-right-key-of-many\n")
    with serving(build(service, keys=Keys(tmp_path / "keys")), LIMITS) as address:
        for headers in (
            {},
            {"Authorization": "Bearer the-wrong-key"},
            {"Authorization": "Bearer"},
            {"x-api-key": "é"},
        ):
            response = httpx2.post(
                f"{address}/v1/embeddings",
                json=GOOD,
                headers={name: value.encode("utf-8") for name, value in headers.items()},
                timeout=60,
            )
            error = check_refused(response, 401)
            assert error["type"] == "authentication_error"
            assert response.headers["www-authenticate"] == "Bearer"
        right = {"Authorization": "Bearer the-right-key-of-many"}
        assert (
            httpx2.post(f"{address}/v1/embeddings", json=GOOD, headers=right, timeout=60).status_code == 200
        )


LONG = {"model": "mini", "input": ["many words of a long text " * 60] * 64}


def test_a_client_that_leaves(address: str, service: LocalService, noted: list[Noted]) -> None:
    """Its inputs leave the queue: much more is asked for than can be done by the end of the test."""
    before = len(noted)
    clients = [opened(address) for _ in range(8)]
    for client in clients:
        client.sendall(post("/v1/embeddings", json.dumps(LONG).encode()))
    for client in clients:
        client.close()
    for _ in range(6000):
        if sum(one.status == 499 for one in noted[before:]) >= 1 and service.scheduler.waiting_seconds() < 2:
            break
        threading.Event().wait(0.01)
    else:
        pytest.fail(f"{[one.status for one in noted[before:]]} {service.scheduler.waiting_inputs()}")


def test_a_full_queue(index_path: Path) -> None:
    limits = Limits(queue_seconds=0.05, queue_bytes=1 << 20)
    service = LocalService("", ["mini"], limits=limits)
    try:
        with serving(build(service), limits) as address, ThreadPoolExecutor(24) as pool:
            assert asked(address, GOOD).status_code == 200
            some = {**LONG, "input": LONG["input"][:6]}
            answers = list(pool.map(lambda _: asked(address, some), range(24)))
            refused = [answer for answer in answers if answer.status_code != 200]
            assert refused
            assert len(refused) < len(answers)
            for answer in refused:
                assert check_refused(answer, 503)["code"] == "overloaded"
                assert int(answer.headers["retry-after"]) >= 1
            assert asked_until(address) == 200
    finally:
        asyncio.run(service.close())
