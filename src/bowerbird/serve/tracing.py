"""Traces of requests for OpenTelemetry, sent over OTLP; nothing is imported or done where none are wanted.

A request becomes a span when it is over, with a child for each stage that it went through. Where the client sends a
`traceparent`, the span is part of the client's trace, and is left out where the client's is. The stages of a request
follow each other: the queue, then decoding, the model and the search; a model's seconds are the request's share of the
batches it was in, so a child is as long as what it stands for, and what lies between is the request's own.

What OpenTelemetry reads from the environment (`OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`,
`OTEL_EXPORTER_OTLP_HEADERS`, ...) holds here too.
"""

from __future__ import annotations

import time
from concurrent.futures import TimeoutError as FuturesTimeoutError
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from bowerbird.origin.packages import need
from bowerbird.serve.threads import in_thread
from bowerbird.settings import traces_endpoint

if TYPE_CHECKING:
    from bowerbird.serve.api.door import Noted

__all__ = ["Tracing", "tracing"]

STAGES = ("queue", "decode", "model", "search")

SHUTDOWN_SECONDS = 1.0
"""That the last spans may take to be sent; a collector that does not answer must not hold up the end."""


def tracing(endpoint: str = "") -> Tracing | None:
    """What traces requests; None where no traces are wanted.

    Args:
        endpoint: where they are sent by OTLP over HTTP, such as `http://localhost:4318`; empty: what
            `OTEL_EXPORTER_OTLP_ENDPOINT` says, if anything.

    Raises:
        MissingExtraError: they are wanted, and OpenTelemetry is not installed.
    """
    if not endpoint and not traces_endpoint():
        return None
    return Tracing(f"{endpoint.rstrip('/')}/v1/traces" if endpoint else "")


class Tracing:
    """Makes a span of each request; an observer of the door.

    Args:
        address: spans are posted to; empty: as the environment says.

    Raises:
        MissingExtraError: OpenTelemetry is not installed.
    """

    def __init__(self, address: str = "") -> None:
        self._trace = need("opentelemetry.trace", "serve")
        resources = need("opentelemetry.sdk.resources", "serve")
        exporting = need("opentelemetry.exporter.otlp.proto.http.trace_exporter", "serve")
        sdk = need("opentelemetry.sdk.trace", "serve")
        batching = need("opentelemetry.sdk.trace.export", "serve")
        propagation = need("opentelemetry.trace.propagation.tracecontext", "serve")
        import bowerbird

        default = resources.Resource({"service.name": "bowerbird", "service.version": bowerbird.__version__})
        found = resources.OTELResourceDetector().detect()
        self._provider = sdk.TracerProvider(
            resource=resources.Resource.create().merge(default).merge(found), shutdown_on_exit=False
        )
        self._exporter = exporting.OTLPSpanExporter(endpoint=address or None)
        self._provider.add_span_processor(batching.BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("bowerbird.serve", bowerbird.__version__)
        self._parents = propagation.TraceContextTextMapPropagator()

    def __call__(self, noted: Noted) -> None:
        """A request is over."""
        trace = self._trace
        began = time.time_ns() - int((time.perf_counter() - noted.began) * 1e9)
        parent = None
        if noted.traceparent:
            parent = self._parents.extract({"traceparent": noted.traceparent})
        route = noted.path or "other"
        span = self._tracer.start_span(
            f"{noted.method} {route}",
            context=parent,
            kind=trace.SpanKind.SERVER,
            attributes=_attributes(noted, route),
            start_time=began,
        )
        if span.is_recording():
            if noted.status >= 500:
                span.set_status(trace.StatusCode.ERROR, noted.code or None)
            self._children(noted, trace.set_span_in_context(span), began)
        span.end(began + int(noted.stages.get("total", 0.0) * 1e9))

    def _children(self, noted: Noted, inside: Any, began: int) -> None:
        seconds = dict(noted.stages)
        if noted.answer is not None and noted.answer.pictures:
            seconds.setdefault("decode", noted.answer.decoded)
        at = began
        end = began + int(seconds.get("total", 0.0) * 1e9)
        for stage in STAGES:
            if stage in seconds:
                # Workers work beside each other: what they took together may be more than the request's time.
                until = min(end, at + int(seconds[stage] * 1e9))
                child = self._tracer.start_span(stage, context=inside, start_time=at)
                child.end(until)
                at = until

    def close(self) -> None:
        """Send what is left, for a second at the most: what cannot be sent by then is given up."""
        # Told to end within a time, a processor still tries again and again to send what it has.
        ending = in_thread("traces-end", self._provider.shutdown)
        with suppress(FuturesTimeoutError):
            ending.result(SHUTDOWN_SECONDS)
            return
        self._exporter.shutdown()


def _attributes(noted: Noted, route: str) -> dict[str, Any]:
    """By the semantic conventions of OpenTelemetry, where these have a name for it."""
    found: dict[str, Any] = {
        "http.request.method": noted.method,
        "http.route": route,
        "http.response.status_code": noted.status,
        "bowerbird.request.id": noted.id,
        "bowerbird.caller": noted.caller,
        "gen_ai.request.model": noted.model,
        "error.type": noted.code,
    }
    if (answer := noted.answer) is not None:
        found["bowerbird.inputs"] = len(answer.outcomes)
        found["gen_ai.usage.input_tokens"] = answer.tokens
    return {name: value for name, value in found.items() if value != ""}
