"""Pictures as requests give them: decoded beside the loop, fetched a few at once, and all of it counted."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytest.importorskip("fastapi")

from tests.serve.servers import SECONDS

from bowerbird.errors import InputError, UnsupportedInputError
from bowerbird.serve.api.errors import ApiError
from bowerbird.serve.api.inputs import AT_ONCE, LARGE, SLICE, Pictures, of_base64
from bowerbird.serve.api.memory import Memory
from bowerbird.serve.limits import Limits

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4


@contextmanager
def pictures_at(before: Callable[[], object] = lambda: None) -> Iterator[str]:
    """The address of a server that has a picture everywhere; something is done before each answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            before()
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Length", str(len(PICTURE)))
            self.end_headers()
            self.wfile.write(PICTURE)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def fetching(limits: Limits) -> Pictures:
    """As a service has it, but that this machine's own addresses may be fetched from."""
    found = Pictures(limits, fetch=True)
    found._web = replace(found._web, public_only=False)
    return found


def read(pictures: Pictures, sources: list[str], memory: Memory, scope: Any = None) -> Any:
    return asyncio.run(
        pictures.read(dict(enumerate(sources)), memory.account({} if scope is None else scope))
    )


def test_addresses_of_one_request_are_fetched_at_once():
    meeting = threading.Barrier(AT_ONCE)
    with pictures_at(lambda: meeting.wait(SECONDS)) as address:
        sources = [f"{address}/{number}.png" for number in range(2 * AT_ONCE)]
        found, refused = read(fetching(Limits()), sources, Memory(1 << 30))
    assert refused == {}
    assert [found[index] for index in range(len(sources))] == [PICTURE] * len(sources)


def test_what_is_fetched_is_counted_for_the_request_and_for_all():
    memory = Memory(3 * len(PICTURE))
    other = memory.account({})
    other.hold(len(PICTURE))
    with pictures_at() as address:
        pictures = fetching(Limits())
        read(pictures, [f"{address}/a.png", base64.b64encode(PICTURE).decode()], memory)
        assert memory.held == 2 * len(PICTURE)
        other.hold(2 * len(PICTURE))
        with pytest.raises(ApiError) as caught:
            read(pictures, [f"{address}/b.png"], memory)
    assert (caught.value.status, caught.value.code) == (503, "overloaded")


def test_pictures_of_a_request_are_capped_together():
    limits = Limits(body_bytes=5 * len(PICTURE) // 2)
    with pictures_at() as address:
        found, refused = read(
            fetching(limits), [f"{address}/{number}.png" for number in range(20)], Memory(1 << 30)
        )
    assert len(found) == 2
    assert len(refused) == 18
    assert all("together" in str(error) for error in refused.values())


def test_nobody_waits_while_much_is_decoded():
    source = base64.b64encode(bytes(20 * LARGE)).decode()

    async def scene() -> tuple[int, int]:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(others())
        await asyncio.sleep(0)
        before = turns
        found, _ = await Pictures(Limits()).read({0: source}, Memory(1 << 30).account({}))
        beside.cancel()
        return turns - before, len(found[0])

    turns, size = asyncio.run(scene())
    assert size == 20 * LARGE
    assert turns > 1


@pytest.mark.parametrize("size", [1, 2, 3, 4, SLICE, SLICE * 3 // 4, SLICE * 3 // 4 + 1, SLICE * 3 // 2 - 1])
def test_base64_of_any_length_and_alphabet(size: int):
    data = bytes((7 * index + (index >> 8)) % 256 for index in range(size))
    for written in (
        base64.b64encode(data),
        base64.urlsafe_b64encode(data),
        base64.b64encode(data).rstrip(b"="),
    ):
        assert of_base64(f" {written.decode()}\n") == data


@pytest.mark.parametrize(
    "written", ["", "====", "A", "AA=A", "AAA=AAAA", "é", "AAAA\nAAAA", "A" * (SLICE - 1) + "=" + "AAAA"]
)
def test_what_is_no_base64(written: str):
    with pytest.raises(InputError) as caught:
        of_base64(written)
    assert isinstance(caught.value, UnsupportedInputError) == bool(written.strip("="))
