"""What goes wrong behind a request: the client is told what to do, the log what it was, and both by the same id."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from starlette.requests import Request
from starlette.responses import Response
from tests.serve.processes import check_refused, opened, post, received
from tests.serve.servers import served, serving

from bowerbird.errors import (
    EngineError,
    IndexBusyError,
    IndexReadOnlyError,
    ModelFetchError,
    ModelFormatError,
    StorageFullError,
    StoreError,
)
from bowerbird.serve.api.app import build
from bowerbird.serve.api.door import Noted
from bowerbird.serve.keys import Keys
from bowerbird.serve.limits import Limits
from bowerbird.serve.logs import AccessLog, logged
from bowerbird.serve.service import LocalService

PLACE = "/srv/secret/photos.bower"


class Failing(LocalService):
    """A service that fails at everything in one way."""

    def __init__(self, error: Exception) -> None:
        super().__init__("", ["mini"])
        self.error = error

    async def search(self, ask):
        raise self.error

    async def embed(self, model, inputs, **options):
        raise self.error


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        (StoreError, 503, "index_unavailable"),
        (IndexBusyError, 503, "index_busy"),
        (IndexReadOnlyError, 403, "read_only"),
        (StorageFullError, 507, "storage_full"),
        (ModelFetchError, 503, "model_unavailable"),
        (ModelFormatError, 500, "internal"),
        (EngineError, 500, "internal"),
        (OSError, 500, "internal"),
    ],
)
@pytest.mark.parametrize("path", ["search", "embeddings"])
def test_what_fails_here_is_told_to_the_log(kind, status, code, path):
    stream = io.StringIO()
    with (
        logged("json", stream),
        served(Failing(kind(f"{PLACE} is broken.")), observers=[AccessLog()]) as client,
    ):
        body = {"text": "a"} if path == "search" else {"input": "a"}
        answer = client.post(f"/v1/{path}", json=body, headers={"x-request-id": "find-me"})
    error = check_refused(answer, status)
    assert error["code"] == code
    assert PLACE not in answer.text
    assert "find-me" in error["message"]
    assert ("retry-after" in answer.headers) == (code == "index_busy")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    told = [line for line in lines if "find-me" in line.get("message", "")]
    assert len(told) == 1, "once"
    assert PLACE in json.dumps(told[0])
    assert [line["code"] for line in lines if "route" in line] == [code]


def test_health_names_no_places(own_index: Path, monkeypatch: pytest.MonkeyPatch):
    def broken() -> None:
        raise StoreError(f"{PLACE} is broken.")

    service = LocalService(str(own_index))
    monkeypatch.setattr(service.index, "check", broken)
    with served(service) as client:
        answer = client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["checks"]["index"] != "ok"
    assert PLACE not in answer.text


def test_requests_that_are_refused_at_the_door_are_noted_with_their_route():
    seen: list[Noted] = []
    limits = Limits(body_bytes=1000, per_minute=2)
    service = LocalService("", ["mini"], limits=limits)
    with served(service, keys=Keys(text="sk-of-the-test"), observers=[seen.append]) as client:
        right = {"x-api-key": "sk-of-the-test"}
        client.post("/v1/embeddings", json={"input": "a"})
        client.post("/v1/embeddings", content=b"a" * 2000, headers=right)
        client.get("/v1/records/some%2Fid/image", headers=right)
        client.get("/v1/records/some%2Fid", headers=right)
        client.get("/v1/nowhere")
        client.get("/openapi.json")
    found = [(one.status, one.path) for one in seen]
    assert found == [
        (401, "/v1/embeddings"),
        (413, "/v1/embeddings"),
        (404, "/v1/records/{id:anything}/image"),
        (429, "/v1/records/{id:anything}"),
        (401, ""),
        (401, "/openapi.json"),
    ]


def test_bodies_have_their_time_and_size_outside_the_api_too():
    limits = Limits(body_seconds=0.5, body_bytes=100)
    service = LocalService("", ["mini"], limits=limits)
    door = build(service)

    async def echo(request: Request) -> Response:
        return Response(await request.body())

    door.app.add_route("/echo", echo, ["POST"])
    try:
        with serving(door, limits) as address:
            with opened(address) as connection:
                connection.sendall(post("/echo", b"slow", length=50))
                assert check_refused(received(connection), 408)["code"] == "timeout"
            for size, status in ((100, 200), (101, 413)):
                with opened(address) as connection:
                    connection.sendall(post("/echo", b"a" * size))
                    assert received(connection).status == status
    finally:
        asyncio.run(service.close())
