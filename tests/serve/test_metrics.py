"""`/metrics`, as Prometheus reads it from a real server."""

from __future__ import annotations

import threading
import time

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client.parser import text_string_to_metric_families
from tests.serve.servers import served

from bowerbird.serve.api.door import Noted
from bowerbird.serve.batching import Scheduler
from bowerbird.serve.encoders import Answer
from bowerbird.serve.keys import Keys
from bowerbird.serve.lanes import Batch, Call, Lane, Work
from bowerbird.serve.metrics import MODELS, Metrics
from bowerbird.serve.service import LocalService


def read(client, **headers) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Samples by name and labels."""
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(samples, name: str, **labels: str) -> float:
    """The sum of what has these labels, and maybe others."""
    wanted = set(labels.items())
    return sum(value for (found, has), value in samples.items() if found == name and wanted <= has)


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture(scope="module")
def measured(index_path, metrics):
    """A client of a server that is measured."""
    service = LocalService(str(index_path), ["mini"], watch=metrics.batch)
    metrics.scheduler = service.scheduler
    with served(service, metrics=metrics) as client:
        yield client


def test_requests_are_counted_by_route_status_and_model(measured):
    before = read(measured)
    for _ in range(3):
        good = measured.post("/v1/embeddings", json={"model": "mini", "input": ["a red dress", "a hat"]})
        assert good.status_code == 200
    bad = measured.post("/v1/embeddings", json={"model": "no such thing", "input": ["x"]})
    assert bad.status_code == 404
    after = read(measured)

    def more(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    route = {"method": "POST", "route": "/v1/embeddings"}
    assert more("bowerbird_requests_total", status="200", model="mini", **route) == 3
    assert more("bowerbird_requests_total", status="404", **route) == 1
    assert not any("no such thing" in text for _, labels in after for _, text in labels)
    assert more("bowerbird_errors_total", route="/v1/embeddings", code="model_not_found") == 1
    for stage in ("queue", "model"):
        assert more("bowerbird_request_seconds_count", stage=stage, **route) == 3
    assert more("bowerbird_request_seconds_count", stage="total", **route) == 4
    assert more("bowerbird_request_seconds_sum", stage="model", **route) > 0
    assert more("bowerbird_tokens_total", model="mini") == 3 * (5 + 4)
    assert more("bowerbird_batch_inputs_sum", lane="mini/text") == 6
    assert more("bowerbird_batch_cost_total", lane="mini/text") >= 3 * (5 + 4)
    padding = more("bowerbird_batch_padding_total", lane="mini/text")
    assert padding == more("bowerbird_batch_cost_total", lane="mini/text") - 3 * (5 + 4)


def test_pictures_are_counted_and_their_decoding_timed(measured, drawn):
    import base64

    url = "data:image/png;base64," + base64.b64encode(drawn("red", "circle")).decode()
    before = read(measured)
    answer = measured.post("/v1/embeddings", json={"model": "mini", "input": [{"image": url}, "a text"]})
    assert answer.status_code == 200, answer.text
    after = read(measured)
    assert value(after, "bowerbird_pictures_total") - value(before, "bowerbird_pictures_total") == 1
    name = "bowerbird_request_seconds_count"
    assert value(after, name, stage="decode") - value(before, name, stage="decode") == 1


def test_searches_are_timed(measured):
    before = read(measured)
    assert measured.post("/v1/search", json={"text": "a red circle"}).status_code == 200
    after = read(measured)
    name, labels = "bowerbird_request_seconds_count", {"stage": "search", "route": "/v1/search"}
    assert value(after, name, **labels) - value(before, name, **labels) == 1


def test_what_is_served_is_told(measured):
    samples = read(measured)
    assert value(samples, "bowerbird_index_records") == 13
    assert value(samples, "bowerbird_index_version") > 0
    assert value(samples, "bowerbird_model_loaded", model="mini") == 1
    assert value(samples, "process_resident_memory_bytes") > 1e6
    assert value(samples, "bowerbird_requests_in_flight") == 1, "this one"
    assert value(samples, "bowerbird_queue_seconds") == 0


def test_paths_that_are_no_routes_are_one(measured):
    measured.get("/v1/records/some-id-of-mine")
    for number in range(5):
        measured.get(f"/no/such/page/{number}")
        measured.request("PROPFIND", f"/v1/pot/{number}")
    samples = read(measured)
    labels = {text for _, labels in samples for name, text in labels if name in ("route", "method")}
    assert not {text for text in labels if "some-id" in text or "/pot" in text or "/no/" in text}
    assert "PROPFIND" not in labels
    assert value(samples, "bowerbird_requests_total", route="other") >= 10


def test_a_key_is_needed_unless_it_is_made_public(index_path):
    keys = Keys(text="sk-of-the-test")
    for public, expected in ((False, 401), (True, 200)):
        with served(LocalService("", ["mini"]), metrics=Metrics(public=public), keys=keys) as client:
            assert client.get("/metrics").status_code == expected
            assert client.get("/metrics", headers={"x-api-key": "sk-of-the-test"}).status_code == 200
            assert client.get("/v1/models").status_code == 401


def test_queues_are_told_by_lane_and_forgotten_ones_are_empty(measured, metrics):
    scheduler, before = Scheduler(1), metrics.scheduler
    begun, go, done = threading.Event(), threading.Event(), threading.Event()
    lane = Lane("a lane", lambda inputs: (begun.set(), go.wait(30), list(inputs))[2], 1, 1, speed=1.0)
    call = Call([None] * 4, lambda _: done.set())
    scheduler.submit(call, [Work(call, place, 1, place, lane, size=5) for place in range(4)])
    assert begun.wait(30)
    metrics.scheduler = scheduler
    try:
        samples = read(measured)
        assert value(samples, "bowerbird_queue_inputs", lane="a lane") == 3
        assert value(samples, "bowerbird_queue_seconds") == pytest.approx(4, abs=0.1)
        assert value(samples, "bowerbird_queue_bytes") == 20
        go.set()
        assert done.wait(30)
        assert value(read(measured), "bowerbird_queue_inputs", lane="a lane") == 0
    finally:
        metrics.scheduler = before
        assert scheduler.stop(30)


def noted(model: str, status: int = 200) -> Noted:
    stages = {"queue": 0.001, "model": 0.01, "total": 0.02}
    return Noted(
        "id",
        "POST",
        "/v1/embeddings",
        0.0,
        status,
        "me",
        model,
        Answer([], 9, pictures=1, decoded=0.1),
        stages,
    )


def test_any_number_of_models_has_not_any_number_of_labels():
    metrics = Metrics()
    for number in range(10 * MODELS):
        metrics.request(noted(f"model {number}"))
        metrics.request(noted(f"nothing {number}", 404))
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    models = {sample.labels["model"] for sample in samples if "model" in sample.labels}
    assert len(models) == MODELS + 1
    assert "other" in models


def test_measuring_costs_next_to_nothing():
    metrics = Metrics()
    batch = Batch("mini/text", 8, 100, 90, 512, 0.01, 0.001)
    request = noted("mini")
    metrics.request(request)
    metrics.batch(batch)
    began = time.thread_time()
    for _ in range(2000):
        metrics.request(request)
        metrics.batch(batch)
    each = (time.thread_time() - began) / 2000
    assert each < 500e-6, "it is some 30 microseconds; this is no matter of how busy the machine is"


def test_routes_are_told_as_people_write_them_and_series_without_when_they_began(measured):
    measured.get("/v1/records/red-circle")
    measured.get("/v1/records/red-circle/image")
    text = measured.get("/metrics").text
    assert 'route="/v1/records/{id}"' in text
    assert "anything" not in text
    assert "_created" not in text
    assert "bowerbird_requests_total{" in text
    # A search that cannot be asked is told by its code.
    measured.post("/v1/search", json={"text": "a", "where": "nosuch = 1"})
    assert value(read(measured), "bowerbird_errors_total", route="/v1/search", code="invalid_query") == 1
