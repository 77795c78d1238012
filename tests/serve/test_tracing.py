"""Traces of requests, sent by OTLP to a receiver that reads them."""

from __future__ import annotations

import queue
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from tests.serve.servers import served

from bowerbird.serve.api.door import Noted
from bowerbird.serve.service import LocalService
from bowerbird.serve.tracing import tracing

SECONDS = 30.0
SERVER = 2  # SpanKind of OTLP


class Receiver:
    """Takes what is posted to /v1/traces."""

    def __init__(self) -> None:
        self.received: queue.Queue[ExportTraceServiceRequest] = queue.Queue()
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    import gzip

                    body = gzip.decompress(body)
                assert self.path == "/v1/traces"
                received.put(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> Receiver:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(SECONDS)

    def resources(self):
        """Of what has come, once all was sent."""
        found = []
        while not self.received.empty():
            found += self.received.get().resource_spans
        return found


def spans_of(resources) -> list:
    return [span for one in resources for scope in one.scope_spans for span in scope.spans]


def attributes(holder) -> dict[str, object]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in holder.attributes}


def traced(receiver: Receiver, ask, endpoint: str | None = None) -> list:
    """Resources and spans after a client has asked."""
    traces = tracing(receiver.address if endpoint is None else endpoint)
    assert traces is not None
    try:
        with served(LocalService("", ["mini"]), observers=[traces]) as client:
            ask(client)
    finally:
        traces.close()
    return receiver.resources()


BODY = {"model": "mini", "input": ["a red dress", "a hat"]}


def test_nothing_is_done_where_no_traces_are_wanted(monkeypatch):
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert tracing() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:1")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert tracing() is None


def test_a_request_is_a_span_of_the_clients_trace_with_its_stages_inside():
    def ask(client) -> None:
        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        answer = client.post("/v1/embeddings", json=BODY, headers={"traceparent": parent})
        assert answer.status_code == 200

    with Receiver() as receiver:
        resources = traced(receiver, ask)
    assert attributes(resources[0].resource)["service.name"] == "bowerbird"
    spans = {span.name: span for span in spans_of(resources)}
    root = spans.pop("POST /v1/embeddings")
    assert root.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert root.parent_span_id.hex() == "b7ad6b7169203331"
    assert root.kind == SERVER
    told = attributes(root)
    assert told["http.route"] == "/v1/embeddings"
    assert told["http.response.status_code"] == 200
    assert told["gen_ai.request.model"] == "mini"
    assert told["gen_ai.usage.input_tokens"] == 9
    assert told["bowerbird.inputs"] == 2
    assert set(spans) == {"queue", "model"}
    for child in spans.values():
        assert child.trace_id == root.trace_id
        assert child.parent_span_id == root.span_id
        assert root.start_time_unix_nano <= child.start_time_unix_nano
        assert child.start_time_unix_nano <= child.end_time_unix_nano <= root.end_time_unix_nano
    assert spans["queue"].end_time_unix_nano == spans["model"].start_time_unix_nano


def test_what_the_client_does_not_sample_is_not_sent():
    def ask(client) -> None:
        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
        assert client.post("/v1/embeddings", json=BODY, headers={"traceparent": parent}).status_code == 200

    with Receiver() as receiver:
        assert traced(receiver, ask) == []


def test_a_traceparent_that_is_none_begins_a_trace():
    parents = ("", "nonsense", "00-0-0-01", "\xff" * 55)

    def ask(client) -> None:
        for parent in parents:
            headers = [(b"traceparent", parent.encode("latin-1"))]
            assert client.post("/v1/embeddings", json=BODY, headers=headers).status_code == 200

    with Receiver() as receiver:
        spans = spans_of(traced(receiver, ask))
    roots = [span for span in spans if span.kind == SERVER]
    assert not any(root.parent_span_id for root in roots)
    assert len({root.trace_id for root in roots}) == len(parents)
    assert all(any(root.trace_id) for root in roots)


def test_the_environment_says_where(monkeypatch):
    def ask(client) -> None:
        assert client.get("/v1/models/none").status_code in (404, 405)

    with Receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.address)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "shop-search")
        resources = traced(receiver, ask, "")
    assert attributes(resources[0].resource)["service.name"] == "shop-search"
    (span,) = spans_of(resources)
    assert attributes(span)["http.response.status_code"] in (404, 405)


def test_a_receiver_that_is_gone_disturbs_nobody():
    with Receiver() as receiver:
        address = receiver.address
    traces = tracing(address)
    try:
        with served(LocalService("", ["mini"]), observers=[traces]) as client:
            assert client.post("/v1/embeddings", json=BODY).status_code == 200
    finally:
        traces.close()


def test_a_receiver_that_never_answers_does_not_hold_up_the_end():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        traces = tracing(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert traces is not None
        traces(Noted("an-id", "GET", "/health/live", time.perf_counter(), status=200))
        began = time.monotonic()
        traces.close()
        # It would be asked again for ten seconds.
        assert time.monotonic() - began < 7
