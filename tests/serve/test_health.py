"""`/health`, and what is answered where there is nothing."""

from __future__ import annotations

import shutil
import threading

import pytest
from tests.serve.servers import SECONDS, served

from bowerbird.serve.api.app import document
from bowerbird.serve.service import LocalService


def test_who_lives_and_can_answer_says_so(client):
    assert client.get("/health/live").json() == {"status": "ok"}
    answer = client.get("/health/ready")
    assert answer.status_code == 200
    assert answer.json() == {"ready": True, "checks": {"model mini": "ok", "index": "ok"}}
    assert client.head("/health/ready").status_code == 200


def test_who_cannot_answer_says_why(own_index):
    with served(LocalService(str(own_index))) as client:
        assert client.get("/health/ready").status_code == 200
        # The data of the table, of which a reader that keeps columns in memory would not notice.
        shutil.rmtree(own_index)
        pause = threading.Event()
        for _ in range(SECONDS * 20):
            if (answer := client.get("/health/ready")).status_code == 503:
                break
            pause.wait(0.05)
        else:
            pytest.fail("it is never found out")
        body = answer.json()
        assert body["ready"] is False
        assert body["checks"]["model mini"] == "ok"
        assert body["checks"]["index"] != "ok"
        assert body["error"]["code"] == "not_ready"
        assert str(own_index.parent) not in answer.text
        assert client.get("/health/live").status_code == 200


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1", "/v1/", "/v1/search/", "/nothing.php"])
def test_unknown_routes_are_not_found(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/embeddings"), ("PUT", "/v1/records"), ("POST", "/health/live"), ("PATCH", "/v1/records/x")],
)
def test_wrong_methods_are_told_so(client, method, path):
    answer = client.request(method, path)
    assert answer.status_code == 405
    assert answer.json()["error"]["code"] == "method_not_allowed"
    assert answer.headers["allow"]


def test_the_document_is_whole(client):
    told = client.get("/openapi.json").json()
    assert told == document()
    names = [one["operationId"] for route in told["paths"].values() for one in route.values()]
    assert sorted(names) == sorted(set(names))
    known = told["components"]["schemas"]

    def walk(value):
        if isinstance(value, dict):
            if "$ref" in value:
                assert value["$ref"].rpartition("/")[2] in known, value
            for one in value.values():
                walk(one)
        elif isinstance(value, list):
            for one in value:
                walk(one)

    walk(told)
    assert "422" not in str(told["paths"])
    for route in told["paths"].values():
        for one in route.values():
            assert one["summary"]
            assert one["description"]
            assert one["tags"]


def test_examples_of_the_document_work(writable):
    asked = 0
    for path, route in document()["paths"].items():
        for method, one in route.items():
            body = one.get("requestBody", {}).get("content", {}).get("application/json", {})
            for title, example in body.get("examples", {}).items():
                answer = writable.request(method, path, json=example["value"])
                expected = 404 if path == "/v1/rerank" else 200  # no cross-encoder is served here
                assert answer.status_code == expected, (path, title, answer.text)
                asked += 1
    assert asked >= 8
