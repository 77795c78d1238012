"""What is logged of requests: enough to find one again, and nothing that is secret or long."""

from __future__ import annotations

import io
import json
import logging

import pytest
from tests.serve.servers import served

from bowerbird.serve.api.door import Noted
from bowerbird.serve.keys import Keys
from bowerbird.serve.logs import AccessLog, logged
from bowerbird.serve.service import LocalService


def lines_of(form: str, ask) -> list[str]:
    """What is logged while a client asks."""
    stream = io.StringIO()
    keys = Keys(text="sk-secret-of-the-test")
    with (
        logged(form, stream),
        served(LocalService("", ["mini"]), observers=[AccessLog()], keys=keys) as client,
    ):
        ask(client)
    return stream.getvalue().splitlines()


def ask(client) -> None:
    headers = {"Authorization": "Bearer sk-secret-of-the-test", "x-request-id": "find-me"}
    body = {"model": "mini", "input": ["a private thought", "another"]}
    traced = headers | {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    assert client.post("/v1/embeddings", json=body, headers=traced).status_code == 200
    assert client.post("/v1/embeddings", json=body | {"model": "x y\nz"}, headers=headers).status_code == 404
    assert client.get("/v1/no-such-path?q=private", headers=headers).status_code == 404
    wrong = {"Authorization": "Bearer sk-guessed"}
    assert client.post("/v1/embeddings", json=body, headers=wrong).status_code == 401


def test_lines_of_json():
    lines = lines_of("json", ask)
    found = [json.loads(line) for line in lines]
    requests = [line for line in found if line["logger"] == "bowerbird.serve.requests"]
    good, unknown, nowhere, locked = requests
    assert good["request"] == "find-me"
    assert (good["method"], good["route"], good["status"]) == ("POST", "/v1/embeddings", 200)
    assert (good["model"], good["inputs"], good["level"]) == ("mini", 2, "info")
    assert good["tokens"] > 5
    assert good["trace"] == "0af7651916cd43dd8448eb211c80319c"
    assert good["ms"] >= good["model_ms"] > 0
    assert good["queue_ms"] >= 0
    assert good["caller"] != ""
    assert (unknown["status"], unknown["code"]) == (404, "model_not_found")
    assert (nowhere["status"], nowhere["route"]) == (404, "other")
    assert locked["status"] == 401
    assert all(line["time"].endswith("Z") for line in found)
    for secret in ("sk-", "private", "no-such-path"):
        assert not any(secret in line for line in lines), secret


def test_lines_of_text():
    lines = lines_of("text", ask)
    good = next(line for line in lines if "request=find-me" in line)
    assert " POST /v1/embeddings 200 " in good
    assert " ms " in good
    assert " model=mini inputs=2 " in good
    requests = [line for line in lines if "request=" in line]
    assert len(requests) == 4, "a line each, whatever was sent"
    assert " POST /v1/embeddings 401 " in requests[-1]
    for secret in ("sk-", "private", "no-such-path"):
        assert not any(secret in line for line in lines), secret


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_a_client_makes_up_breaks_no_line(form):
    stream = io.StringIO()
    with logged(form, stream):
        AccessLog()(Noted("id", "G\nET", "", 0.0, 200, "me", "a\nmodel\x1b[31m " + "x" * 9999))
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert "\x1b" not in text
    assert len(text) < 1000


def test_what_failed_is_logged_with_its_trace_on_one_line_of_json():
    stream = io.StringIO()
    with logged("json", stream):
        try:
            raise ZeroDivisionError("why")
        except ZeroDivisionError:
            logging.getLogger("bowerbird.serve").exception("Request %s failed.", "abc")
    (line,) = stream.getvalue().splitlines()
    found = json.loads(line)
    assert (found["level"], found["message"]) == ("error", "Request abc failed.")
    assert "ZeroDivisionError: why" in found["exception"]


def test_handlers_are_as_they_were_afterwards():
    log = logging.getLogger("bowerbird")
    before = (list(log.handlers), log.level)
    with logged("json", io.StringIO()):
        assert len(log.handlers) == 1
    assert (list(log.handlers), log.level) == before
