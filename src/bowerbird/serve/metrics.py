"""Measures of a service for Prometheus, in a registry of its own.

What is counted costs a request some microseconds, whatever it was. Labels have few values: routes, not paths; only
models that have answered; everything else is `other`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

if TYPE_CHECKING:
    from fastapi import FastAPI

    from bowerbird.serve.api.door import Noted
    from bowerbird.serve.batching import Scheduler
    from bowerbird.serve.lanes import Batch
    from bowerbird.serve.service import Service

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""Of what `Metrics.text` gives."""

OTHER = "other"

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
INPUTS = (1, 2, 4, 8, 12, 16, 32, 64)
SHARES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)

MODELS = 64
"""Names of models that are told apart; a service that loads any model could have any number of them."""

_METHODS = frozenset(("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"))


_CONVERTER = re.compile(r":\w+}")
"""What says of a part of a route which characters it may have."""

_CREATED = re.compile(rb"^(# \w+ )?bowerbird_\w+_created[ {].*\n", re.MULTILINE)
"""When each series began: nobody asks for it, and it makes them half as many again."""


class _Open(Protocol):
    """What knows how many requests are being answered: the door."""

    open: int


class Metrics:
    """What is measured of a service. `request` and `batch` are told; the rest is asked when somebody reads.

    Args:
        public: whether it is told without a key, where others need one.

    Attributes:
        registry: of Prometheus; others may add to it.
        scheduler: whose queues are told of; None: it is elsewhere.
        door: that knows how many requests are open; None likewise.
    """

    def __init__(self, *, public: bool = False) -> None:
        self.public = public
        self.registry = CollectorRegistry()
        self.scheduler: Scheduler | None = None
        self.door: _Open | None = None
        self._requests = self._counter("requests", "Requests answered.", "method", "route", "status", "model")
        self._errors = self._counter(
            "errors", "Requests answered with an error, by its code.", "route", "code"
        )
        self._stages = self._histogram(
            "request_seconds",
            "Seconds of requests by stage: queue, decode, model, search, total.",
            SECONDS,
            "stage",
            "method",
            "route",
        )
        self._tokens = self._counter("tokens", "Tokens read.", "model")
        self._pictures = self._counter("pictures", "Pictures given.", "model")
        self._sizes = self._histogram("batch_inputs", "Inputs that shared a run.", INPUTS, "lane")
        self._fill = self._histogram(
            "batch_fill_ratio", "Share of a batch's budget that was used, padding included.", SHARES, "lane"
        )
        self._runs = self._histogram("batch_seconds", "Seconds of runs of a network.", SECONDS, "lane")
        self._waits = self._histogram(
            "batch_wait_seconds", "Longest wait among the inputs of a batch.", SECONDS, "lane"
        )
        self._cost = self._counter(
            "batch_cost", "What batches took: tokens, or pictures; padding included.", "lane"
        )
        self._padding = self._counter("batch_padding", "That part of it which was padding.", "lane")
        self._failed = self._counter("batch_failures", "Inputs that a network failed on.", "lane")
        self._queued = self._gauge("queue_inputs", "Inputs that wait.", "lane")
        self._waiting = self._gauge("queue_seconds", "Seconds of work accepted and not done.")
        self._held = self._gauge("queue_bytes", "Bytes that inputs hold which are accepted and not done.")
        self._open = self._gauge("requests_in_flight", "Requests that are being answered.")
        self._loaded = self._gauge("model_loaded", "Whether a model is in memory.", "model")
        self._index: tuple[Gauge, Gauge] | None = None
        ProcessCollector(registry=self.registry)
        self._lanes: set[str] = set()
        self._models: set[str] = set()
        # Finding a child by its labels takes longer than counting: each is looked for once.
        self._counted: dict[tuple[str, str, int, str], Counter] = {}
        self._timed: dict[tuple[str, str, str], Histogram] = {}

    # Told

    def request(self, noted: Noted) -> None:
        """A request is over."""
        route = _CONVERTER.sub("}", noted.path) or OTHER
        method = noted.method if noted.method in _METHODS else OTHER
        model = self._model(noted)
        key = (method, route, noted.status, model)
        counter = self._counted.get(key)
        if counter is None:
            counter = self._counted[key] = self._requests.labels(method, route, str(noted.status), model)
        counter.inc()
        for stage, seconds in noted.stages.items():
            self._time(stage, method, route, seconds)
        if (answer := noted.answer) is not None:
            if answer.pictures:
                self._pictures.labels(model).inc(answer.pictures)
                if "decode" not in noted.stages:
                    self._time("decode", method, route, answer.decoded)
            if answer.tokens:
                self._tokens.labels(model).inc(answer.tokens)
        if noted.status >= 400:
            self._errors.labels(route, noted.code or str(noted.status)).inc()

    def batch(self, batch: Batch) -> None:
        """A batch was run; in the thread that ran it."""
        lane = batch.lane
        self._sizes.labels(lane).observe(batch.inputs)
        self._fill.labels(lane).observe(batch.cost / batch.budget)
        self._runs.labels(lane).observe(batch.seconds)
        self._waits.labels(lane).observe(batch.waited)
        self._cost.labels(lane).inc(batch.cost)
        self._padding.labels(lane).inc(batch.cost - batch.own)
        if batch.failed:
            self._failed.labels(lane).inc(batch.failed)

    # Asked

    def route(self, app: FastAPI, service: Service) -> None:
        """Tell it at `/metrics`."""
        from starlette.responses import Response

        async def metrics() -> Any:
            return Response(await self.text(service), media_type=CONTENT_TYPE)

        app.add_api_route(
            "/metrics",
            metrics,
            methods=["GET"],
            include_in_schema=False,
        )

    async def text(self, service: Service) -> bytes:
        """All of it in Prometheus' text format; see `CONTENT_TYPE`."""
        if self.door is not None:
            self._open.set(self.door.open)
        if self.scheduler is not None:
            self._ask_scheduler(self.scheduler)
        for state in await service.models():
            self._loaded.labels(state.id).set(state.loaded)
        if (facts := await service.facts()) is not None:
            if self._index is None:  # where there is none, none is told of
                self._index = (
                    self._gauge("index_records", "Records of the index that is served."),
                    self._gauge("index_version", "Version of the index that is served."),
                )
            records, version = self._index
            records.set(facts.records)
            version.set(facts.version)
        return _CREATED.sub(b"", generate_latest(self.registry))

    def _ask_scheduler(self, scheduler: Scheduler) -> None:
        waiting = scheduler.waiting_inputs()
        self._lanes.update(waiting)
        for lane in self._lanes:
            self._queued.labels(lane).set(waiting.get(lane, 0))
        self._waiting.set(scheduler.waiting_seconds())
        self._held.set(scheduler.held_bytes())

    def _model(self, noted: Noted) -> str:
        """The name, of a model that has answered; requests may make up any other."""
        name = noted.model
        if not name or name in self._models:
            return name
        if noted.status < 400 and len(self._models) < MODELS:
            self._models.add(name)
            return name
        return OTHER

    def _time(self, stage: str, method: str, route: str, seconds: float) -> None:
        key = (stage, method, route)
        timed = self._timed.get(key)
        if timed is None:
            timed = self._timed[key] = self._stages.labels(*key)
        timed.observe(seconds)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"bowerbird_{name}", about, labels, registry=self.registry)

    def _gauge(self, name: str, about: str, *labels: str) -> Gauge:
        return Gauge(f"bowerbird_{name}", about, labels, registry=self.registry)

    def _histogram(self, name: str, about: str, buckets: Any, *labels: str) -> Histogram:
        return Histogram(f"bowerbird_{name}", about, labels, buckets=buckets, registry=self.registry)
