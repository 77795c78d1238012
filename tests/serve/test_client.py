"""`bb.Client` and `bb.AsyncClient`, against real servers over real sockets."""

from __future__ import annotations

import asyncio
import io
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import numpy as np
import pytest
from PIL import Image

import bowerbird as bb
from bowerbird.client.retries import retry_after
from bowerbird.errors import (
    DecodeError,
    ModelNotFoundError,
    QueryError,
    ServiceError,
    UnreadableError,
    UnsupportedInputError,
)

MISSING = "http://127.0.0.1:9"
"""Where nobody listens."""


@pytest.fixture(scope="module")
def asked(client) -> Iterator[bb.Client]:
    """A client of the read-only server."""
    with bb.Client(str(client.base_url)) as found:
        yield found


def run_async(address: str, action: Callable[[bb.AsyncClient], object], **options):
    """What a coroutine function of an `AsyncClient` gives."""

    async def go():
        async with bb.AsyncClient(address, **options) as found:
            return await action(found)

    return asyncio.run(go())


# Embedding


def test_texts_are_what_the_model_says(asked, model):
    texts = ["a red dress", "a pair of shoes", "ein rotes Kleid"]
    vectors = asked.embed(texts)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, model.embed(texts), atol=2e-3)


def test_every_kind_of_picture_is_the_same_picture(asked, model, drawn, tmp_path):
    data = drawn("red", "circle")
    path = tmp_path / "red.png"
    path.write_bytes(data)
    image = Image.open(io.BytesIO(data))
    vectors = asked.embed([path, data, image, np.asarray(image)])
    np.testing.assert_allclose(vectors, np.repeat(model.embed(path), 4, axis=0), atol=2e-3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_pillow_images_of_any_mode_are_what_they_are_locally(asked, model, photographs, mode):
    with Image.open(photographs["chelsea"]) as opened:
        small = opened.resize((256, 192))
    image = (
        small.convert("L").convert("I").point(lambda v: v * 256).convert("I;16")
        if mode == "I;16"
        else small.convert(mode)
    )
    np.testing.assert_allclose(asked.embed(image), model.embed(image), atol=5e-3)


def test_how_an_image_is_turned_travels_with_it(asked, model, photographs):
    with Image.open(photographs["chelsea"]) as opened:
        small = opened.resize((256, 192))
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    small.save(stream, "JPEG", exif=exif)
    turned = Image.open(io.BytesIO(stream.getvalue()))
    np.testing.assert_allclose(asked.embed(turned), model.embed(turned), atol=5e-3)


def test_one_input_is_a_list_of_one_and_none_is_none(asked):
    assert asked.embed("a red dress").shape == (1, 384)
    assert asked.embed([]).shape == (0, 0)
    assert asked.outcomes([]) == []


def test_options_travel(asked, model):
    short = asked.embed("a red dress", dimensions=64)
    assert short.shape == (1, 64)
    assert np.linalg.norm(short) == pytest.approx(1, abs=1e-5)
    (outcome,) = asked.outcomes("a red dress", normalize=False)
    assert outcome.norm == pytest.approx(np.linalg.norm(outcome.vector))
    with pytest.raises(ModelNotFoundError, match="no-such-model"):
        asked.embed("a", model="no-such-model")


def test_prepared_arrays(asked, model):
    prepared = np.random.default_rng(0).uniform(-0.9, 0.9, (2, 3, 224, 224)).astype(np.float32)
    expected = bb.load("mini", preprocess="none").embed(prepared)
    np.testing.assert_allclose(asked.embed(prepared, preprocess="none"), expected, atol=5e-3)


def test_every_input_has_its_own_outcome(asked, drawn, tmp_path):
    inputs = [
        "a",
        tmp_path / "gone.jpg",
        b"no picture",
        drawn("red", "circle"),
        "",
        object(),
        np.zeros((2, 2)),
        "\ud800x",
    ]
    outcomes = asked.outcomes(inputs)
    assert [outcome.index for outcome in outcomes] == list(range(len(inputs)))
    kinds = [type(outcome.error) for outcome in outcomes]
    none = type(None)
    bad = UnsupportedInputError
    assert kinds == [none, UnreadableError, DecodeError, none, bad, bad, bad, none]
    assert all((outcome.vector is None) == (outcome.error is not None) for outcome in outcomes)
    with pytest.raises(bb.InputErrors) as caught:
        asked.embed(inputs)
    assert sorted(caught.value.errors) == [1, 2, 4, 5, 6]


def test_where_all_inputs_fail_each_has_its_error(asked):
    assert [type(o.error) for o in asked.outcomes([b"no", b"picture"])] == [DecodeError, DecodeError]
    assert [type(o.error) for o in asked.outcomes(b"no")] == [DecodeError]


def test_long_lists_are_split_and_stay_in_order(asked, model):
    texts = [f"number {number}" for number in range(300)]
    texts[270] = ""
    outcomes = asked.outcomes(iter(texts))
    assert [outcome.index for outcome in outcomes if outcome.error] == [270]
    some = [0, 255, 256, 299]
    expected = model.embed([texts[index] for index in some])
    np.testing.assert_allclose(np.stack([outcomes[index].vector for index in some]), expected, atol=2e-3)


def test_what_is_too_much_for_the_service_is_halved(model):
    from tests.serve.servers import served

    from bowerbird.serve.limits import Limits
    from bowerbird.serve.service import LocalService

    texts = [f"number {number}" for number in range(20)]
    with (
        served(LocalService("", ["mini"], limits=Limits(inputs=7))) as http,
        bb.Client(str(http.base_url)) as client,
    ):
        np.testing.assert_allclose(client.embed(texts), model.embed(texts), atol=2e-3)
    with (
        served(LocalService("", ["mini"], limits=Limits(body_bytes=200))) as http,
        bb.Client(str(http.base_url)) as client,
    ):
        np.testing.assert_allclose(client.embed(texts), model.embed(texts), atol=2e-3)
        with pytest.raises(ServiceError) as caught:
            client.embed(["x" * 1000])
        assert caught.value.status == 413
    with (
        served(LocalService("", ["mini"], limits=Limits(tokens=12))) as http,
        bb.Client(str(http.base_url)) as client,
    ):
        np.testing.assert_allclose(client.embed(texts), model.embed(texts), atol=2e-3)


def test_the_asynchronous_client_says_the_same(asked, client, drawn):
    inputs = [drawn("red", "circle"), *(f"number {number}" for number in range(260)), b"no picture"]
    expected = asked.outcomes(inputs)
    found = run_async(str(client.base_url), lambda c: c.outcomes(inputs))
    assert [type(one.error) for one in found] == [type(one.error) for one in expected]
    for one, other in zip(found[:-1], expected[:-1], strict=True):
        np.testing.assert_allclose(one.vector, other.vector, atol=2e-3)


# What goes wrong on the way


class Answers:
    """A server that gives the answers it is told to, in order, and the last one for ever; and what it was asked."""

    def __init__(self) -> None:
        self.script: list[tuple[int, dict[str, str], bytes]] = []
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.seen.append((self.command, self.path, headers, body))
                status, headers, content = outer.script.pop(0) if len(outer.script) > 1 else outer.script[0]
                self.close_connection = not status
                if not status:  # the connection breaks
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(status)
                for name, value in {"content-length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def answers() -> Iterator[Answers]:
    found = Answers()
    thread = threading.Thread(target=found.server.serve_forever, args=(0.01,))
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


MODELS = (200, {}, b'{"object": "list", "data": [{"id": "mini", "loaded": true}]}')
BUSY = b'{"error": {"message": "Busy.", "type": "server_error", "param": null, "code": "overloaded"}}'


@pytest.mark.parametrize("status", [429, 502, 503, 504])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_is_refused_for_the_moment_is_asked_again(answers, status, kind):
    answers.script = [(status, {"retry-after": "0"}, BUSY)] * 2 + [MODELS]
    if kind == "sync":
        with bb.Client(answers.address) as client:
            assert [one.id for one in client.models()] == ["mini"]
    else:
        assert [one.id for one in run_async(answers.address, lambda c: c.models())] == ["mini"]
    assert len(answers.seen) == 3


def test_a_broken_connection_is_asked_again(answers):
    answers.script = [(0, {}, b""), MODELS]
    with bb.Client(answers.address) as client:
        assert client.models()[0].loaded
    assert len(answers.seen) == 2


def test_attempts_are_bounded_in_number(answers):
    answers.script = [(503, {"retry-after": "0", "x-request-id": "abc"}, BUSY)]
    with bb.Client(answers.address, retries=2) as client, pytest.raises(ServiceError, match="Busy") as caught:
        client.models()
    assert (caught.value.status, caught.value.code, caught.value.request_id) == (503, "overloaded", "abc")
    assert len(answers.seen) == 3


def test_nobody_waits_longer_than_was_allowed(answers):
    answers.script = [(503, {"retry-after": "3600"}, BUSY)]
    with bb.Client(answers.address) as client, pytest.raises(ServiceError):
        client.models()
    assert len(answers.seen) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 507])
def test_what_would_not_get_better_is_asked_once(answers, status):
    answers.script = [(status, {}, BUSY)]
    with bb.Client(answers.address) as client, pytest.raises(ServiceError):
        client.models()
    assert len(answers.seen) == 1


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"null", b'{"data": 3}', b'{"data": [3]}', b'{"data": [{"index": 0}]}', b'{"data": []}',
     b'{"data": [{"index": 0, "embedding": "AAAA"}]}', b'{"data": [{"index": 7, "embedding": [1]}]}',
     b'{"data": [{"index": 0, "embedding": "???"}]}', b'{"data": [{"index": 0, "embedding": null}]}'],
)  # fmt: skip
def test_another_service_is_recognised(answers, body):
    answers.script = [(200, {}, body)]
    with bb.Client(answers.address) as client:
        for ask in (lambda: client.embed("a"), lambda: client.search("a"), client.index, client.page):
            if body == b'{"data": []}' and ask is not client.embed:
                continue
            with pytest.raises(ServiceError, match="not one of Bowerbird's"):
                ask()


def test_a_list_of_numbers_is_taken_too(answers):
    answers.script = [(200, {}, b'{"data": [{"index": 0, "embedding": [0.6, 0.8]}]}')]
    with bb.Client(answers.address) as client:
        assert client.embed("a").tolist() == [[np.float32(0.6), np.float32(0.8)]]


def test_keys_come_from_the_argument_or_the_environment(answers, monkeypatch):
    answers.script = [MODELS]
    monkeypatch.setenv("BOWERBIRD_API_KEY", "from-environment")
    for options in ({}, {"api_key": "given"}):
        with bb.Client(answers.address + "/v1/", **options) as client:
            client.models()
            assert "given" not in repr(client)
    said = [(path, headers.get("authorization")) for _, path, headers, _ in answers.seen]
    assert said == [("/v1/models", "Bearer from-environment"), ("/v1/models", "Bearer given")]
    monkeypatch.delenv("BOWERBIRD_API_KEY")
    with bb.Client(answers.address) as client:
        client.models()
    assert "authorization" not in answers.seen[-1][2]


@pytest.mark.parametrize("id_", ["a/b", "..", "../../etc/passwd", "a b?c#d%2F", "ü", "a%b", "."])
def test_any_id_is_one_part_of_the_path(answers, id_):
    from urllib.parse import unquote

    answers.script = [(200, {}, b'{"id": "x"}')]
    with bb.Client(answers.address) as client:
        client.record(id_)
    (_, path, _, _) = answers.seen[0]
    assert path.count("/") == 3
    assert unquote(path.rsplit("/", 1)[1]) == id_


def test_nobody_there(monkeypatch):
    with (
        bb.Client(MISSING, retries=1) as client,
        pytest.raises(ServiceError, match="cannot be reached") as caught,
    ):
        client.search("a red dress")
    assert caught.value.status == 0
    assert "bowerbird serve" in caught.value.hint
    with pytest.raises(ServiceError, match="cannot be reached"):
        run_async(MISSING, lambda c: c.search("a red dress"), retries=0)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_who_has_never_answered_is_asked_once_and_who_has_is_waited_for(kind):
    asked: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.url.path)
        if len(asked) in (1, 3):  # nobody there yet; and while it is restarted
            raise httpx2.ConnectError("refused")
        return httpx2.Response(200, content=MODELS[2])

    transport = httpx2.MockTransport(answer)
    if kind == "sync":
        with bb.Client(MISSING, transport=transport) as client:
            with pytest.raises(ServiceError, match="cannot be reached"):
                client.models()
            assert len(asked) == 1
            client.models()
            assert client.models()
    else:

        async def ask(client: bb.AsyncClient) -> None:
            with pytest.raises(ServiceError, match="cannot be reached"):
                await client.models()
            assert len(asked) == 1
            await client.models()
            assert await client.models()

        run_async(MISSING, ask, transport=transport)
    assert len(asked) == 4


@pytest.mark.parametrize(
    ("name", "said"),
    [("K", "Did you mean k?"), ("wheer", "Did you mean where?"), ("top", "There are text, k")],
)
def test_a_misspelt_argument_names_the_one_that_was_meant(name, said):
    with bb.Client(MISSING) as client, pytest.raises(TypeError) as caught:
        client.search("a red dress", **{name: 3})
    assert said in str(caught.value)
    assert f"search() has no argument {name!r}" in str(caught.value)
    with pytest.raises(TypeError, match=r"search\(\) has no argument"):
        run_async(MISSING, lambda c: c.search("a red dress", **{name: 3}))
    with bb.Client(MISSING) as client, pytest.raises(TypeError, match="missing"):
        client.rerank("a question")


def test_a_silent_server_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with (
            bb.Client(address, timeout=0.2, retries=0) as client,
            pytest.raises(ServiceError, match="in time"),
        ):
            client.models()


@pytest.mark.parametrize(
    "address", ["", "localhost:8080", "ftp://a", "http://", "http://a?x=1", "http://a:b"]
)
def test_addresses_that_are_none(address):
    with pytest.raises(ServiceError, match="no address"):
        bb.Client(address)


def test_what_cannot_be_sent(answers):
    answers.script = [MODELS]
    with bb.Client(answers.address) as client:
        with pytest.raises(QueryError, match="cannot be sent"):
            client.search("a", min_match=float("nan"))
        with pytest.raises(UnsupportedInputError, match="no input"):
            client.search("a", image=3)
    assert answers.seen == []


def test_how_long_to_wait():
    assert retry_after({}) is None
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after({"retry-after": "soon"}) is None


def test_asking_loads_nothing_of_the_service():
    heavy = (
        "fastapi",
        "starlette",
        "pydantic",
        "uvicorn",
        "onnxruntime",
        "openvino",
        "lance",
        "pyarrow",
        "tokenizers",
    )
    code = (
        f"import sys, bowerbird as bb; bb.Client('http://localhost:9').close(); "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
