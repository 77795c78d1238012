"""The service on a real Ray cluster of three nodes, asked over HTTP while replicas, a node and the index change."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

pytest.importorskip("ray.serve")

import yaml
from tests.flow.ray_cluster import Nodes, running
from tests.learn.towers import text_tower
from tests.models.overlap import write_overlap_model
from tests.serve.command import told
from tests.serve.conftest import data_url, draw

import bowerbird as bb
from bowerbird.serve.cluster.plan import Deployed, as_yaml

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*metrics_interval_s")]

SECONDS = 120
"""How long anything may take here before it counts as never: replicas take long to start where others work too."""

TEXTS = ["a red circle", "a green square, seen from afar", "x"]


@dataclass
class Site:
    """An application on a cluster."""

    nodes: Nodes
    address: str
    config: dict[str, Any]
    index: Path
    words: Path
    cross: Path
    asked: httpx2.Client = field(init=False)

    def __post_init__(self) -> None:
        self.asked = httpx2.Client(base_url=self.address, timeout=SECONDS)

    def embed(self, inputs: Any, model: str = "mini") -> httpx2.Response:
        return self.asked.post("/v1/embeddings", json={"model": model, "input": inputs})

    def search(self, text: str, **more: Any) -> httpx2.Response:
        return self.asked.post("/v1/search", json={"text": text, **more})

    def application(self) -> dict[str, Any]:
        """What Serve's controller knows of it."""
        from ray.serve.context import _get_global_client

        found: dict[str, Any] = _get_global_client().get_serve_details()["applications"]["bowerbird"]
        return found

    def replicas(self, name: str) -> list[dict[str, Any]]:
        # While a new version is looked at, none is listed.
        known = self.application()["deployments"].get(name, {"replicas": []})
        return [one for one in known["replicas"] if one["state"] == "RUNNING"]

    def pids(self) -> dict[str, set[int]]:
        """Of the replicas of each deployment that has any."""
        found = {
            name: {one["pid"] for one in self.replicas(name)} for name in self.application()["deployments"]
        }
        return {name: pids for name, pids in found.items() if pids}

    def deploy(self, config: dict[str, Any]) -> None:
        """What `serve run` and `serve deploy` ask of the controller."""
        from ray.serve.context import _get_global_client
        from ray.serve.schema import ServeDeploySchema

        _get_global_client().deploy_apps(ServeDeploySchema.model_validate(config))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, index_path: Path) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("cluster")
    index = Path(shutil.copytree(index_path, folder / "shapes.bower"))
    words, cross = text_tower(folder / "words"), write_overlap_model(folder / "overlap", ["w1", "w2", "w7"])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    deployed = Deployed(
        str(index),
        models=(f"words={words}",),
        rerankers=(str(cross),),
        min_replicas=0,
        max_replicas=2,
        cpus=0.25,
        search_cpus=0.25,
        writable=True,
        poll_seconds=0.2,
        limits={"tokens": 3000},
    )
    config = changed(yaml.safe_load(as_yaml(deployed, port=port)))
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv(
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", str(SECONDS)
        )  # Ray's 5 are too few beside others
        nodes = stack.enter_context(running(2, cpus=2))
        from bowerbird.serve.cluster.start import connect

        assert not connect(nodes.address)
        import ray.serve

        ray.serve.start(proxy_location=config["proxy_location"], http_options=config["http_options"])
        site = Site(nodes, f"http://127.0.0.1:{port}", config, index, words, cross)
        site.deploy(config)
        until(lambda: site.application()["status"] not in ("NOT_STARTED", "DEPLOYING"), "deployed")
        assert site.application()["status"] == "RUNNING", site.application()["message"]
        with site.asked:
            yield site
        ray.serve.shutdown()


def changed(config: dict[str, Any]) -> dict[str, Any]:
    """The config file as whoever runs this cluster has edited it."""
    config["proxy_location"] = "HeadOnly"  # all nodes are this machine, which has the port once
    by_name = {one["name"]: one for one in config["applications"][0]["deployments"]}
    # Where the proxy is, which no test takes away: what is under way there is lost with the connection.
    by_name["ingress"]["ray_actor_options"] = {"num_cpus": 0, "resources": {"head": 0.01}}
    for name in ("mini-text", "search"):
        by_name[name]["autoscaling_config"] |= {"min_replicas": 2, "max_replicas": 2}
    by_name["words-text"] |= {"max_ongoing_requests": 1, "max_queued_requests": 2}
    by_name["words-text"]["autoscaling_config"] |= {
        "max_replicas": 1,
        "target_ongoing_requests": 1,
        "downscale_delay_s": 0.5,
        "look_back_period_s": 1.0,
        "metrics_interval_s": 0.5,
    }
    return config


def vectors(answer: httpx2.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.array([entry["embedding"] for entry in answer.json()["data"]], np.float32)


def until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end, f"{what}: never"
        time.sleep(0.1)


@contextmanager
def load(site: Site, right: Callable[[list[str], np.ndarray], bool]) -> Iterator[list[str]]:
    """Four clients that embed and search as long as the block runs; what was wrong or failed is listed."""
    wrong: list[str] = []
    over = threading.Event()
    counts = [0] * 4

    def ask(number: int) -> None:
        with httpx2.Client(base_url=site.address, timeout=SECONDS) as client:
            while not over.is_set():
                try:
                    embedded = client.post("/v1/embeddings", json={"model": "mini", "input": TEXTS})
                    found = client.post("/v1/search", json={"text": "a red circle", "k": 3})
                    if (embedded.status_code, found.status_code) != (200, 200):
                        wrong.append(f"{embedded.text[:300]} {found.text[:300]}")
                    elif not right([hit["id"] for hit in found.json()["data"]], vectors(embedded)):
                        wrong.append(found.text[:300])
                except Exception as error:  # noqa: BLE001  whatever a client meets
                    wrong.append(repr(error))
                counts[number] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: all(counts), "a first answer for each client")
        yield wrong
        before = list(counts)
        until(lambda: all(now > then for now, then in zip(counts, before, strict=True)), "a last answer")
    finally:
        over.set()
        for thread in threads:
            thread.join(SECONDS)


def test_vectors_are_those_of_the_library_each_at_its_own_index(site, model):
    """Texts and pictures of one request are embedded by different deployments."""
    picture = draw("red", "circle")
    answer = site.embed(
        [TEXTS[0], {"image": data_url(picture)}, {"image": data_url(b"no picture")}, TEXTS[1]]
    )
    entries = answer.json()["data"]
    assert entries[2]["embedding"] is None
    assert "picture" in entries[2]["error"]["message"]
    found = np.array([entries[index]["embedding"] for index in (0, 1, 3)], np.float32)
    np.testing.assert_allclose(found, model.embed([TEXTS[0], picture, TEXTS[1]]), atol=1e-5)


def test_several_models_and_what_one_does_not_take(site):
    inputs = ["w1 w2 w3", "w9"]
    np.testing.assert_allclose(
        vectors(site.embed(inputs, "words")), bb.load(str(site.words)).embed(inputs), atol=1e-5
    )
    answer = site.embed(["w1", {"image": data_url(draw("red", "circle"))}], "words").json()["data"]
    assert "takes no pictures" in answer[1]["error"]["message"]
    assert site.embed("a", "mimi").status_code == 404
    assert [one["id"] for one in site.asked.get("/v1/models").json()["data"]][:2] == ["mini", "words"]


def test_a_replica_has_the_tower_of_its_deployment_alone(site):
    from ray import serve

    site.embed({"image": data_url(draw("red", "circle"))})  # wakes it up
    for modality in ("text", "image"):
        handle = serve.get_deployment_handle(f"mini-{modality}", "bowerbird")
        assert set(handle.told.remote().result(timeout_s=SECONDS)["numerics"]) == {modality}


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ({"text": "a red circle"}, {"text": "a red circle"}),
        ({"like": "red-circle", "k": 3}, {"like": "red-circle", "k": 3}),
        ({"text": "blue", "where": "price > 20"}, {"text": "blue", "where": "price > 20"}),
        ({"like": "red-circle", "unlike": ["red-square"]}, {"like": "red-circle", "unlike": ["red-square"]}),
    ],
)
def test_hits_are_those_of_the_index(site, asked, kept):
    expected = bb.Index.open(site.index).search(**kept)
    data = site.asked.post("/v1/search", json=asked).json()["data"]
    assert [hit["id"] for hit in data] == list(expected.ids)
    np.testing.assert_allclose([hit["score"] for hit in data], expected.scores, atol=1e-4)
    np.testing.assert_allclose([hit["match"] for hit in data], expected.match, atol=1e-3)


def test_a_cross_encoder_is_asked_where_it_runs(site):
    documents = ["w1 w2", "w7", "w1"]
    answer = site.asked.post(
        "/v1/rerank", json={"model": str(site.cross), "query": "w1 w2", "documents": documents}
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["results"][0]["index"] == 0
    by_name = {one["id"]: one for one in site.asked.get("/v1/models").json()["data"]}
    assert by_name[str(site.cross)]["kind"] == "reranker"


def test_what_is_added_is_found_and_what_is_removed_is_not(site):
    picture = draw("black", "square")
    added = site.asked.post("/v1/records", json={"records": [{"id": "new", "image": data_url(picture)}]})
    assert added.status_code == 200, added.text
    asked = {"image": data_url(picture), "k": 1}
    assert site.asked.post("/v1/search", json=asked).json()["data"][0]["id"] == "new"
    for record, size in (("new", "thumbnail"), ("red-circle", "original"), ("red-circle", "320")):
        answer = site.asked.get(f"/v1/records/{record}/image", params={"size": size})
        assert answer.status_code == 200, answer.text
    assert site.asked.delete("/v1/records/new").status_code == 200
    assert site.asked.post("/v1/search", json=asked).json()["data"][0]["id"] != "new"
    assert site.asked.get("/health/ready").status_code == 200


@pytest.mark.parametrize("kind", ["map", "gap", "health"])
def test_reports_are_drawn_where_the_index_is(site, kind):
    from ray import serve

    handle = serve.get_deployment_handle("search", "bowerbird")
    page, _ = handle.read.remote("report", (kind,), {}, 0).result(timeout_s=SECONDS)
    assert page.lstrip().lower().startswith("<!doctype html")
    assert str(site.index.parent) not in page


def test_a_request_of_many_pieces_is_held_to_the_tokens_of_one(site):
    """Each piece has fewer than are allowed."""
    answer = site.embed(["w1 w2 w3 w1 w2 w3 w1 w2"] * 400, "words")
    assert answer.status_code == 400
    assert "are taken at once" in answer.json()["error"]["message"]


def test_the_page_is_made_beside_answering(site):
    pytest.importorskip("gradio")
    until(lambda: "gradio" in site.asked.get("/").text, "the page")


def test_asleep_and_awake_again_and_no_more_than_may_wait(site):
    site.embed("w1", "words")
    until(lambda: not site.replicas("words-text"), "asleep")
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: site.embed("w1", "words"), range(12)))
    good = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 503]
    assert len(good) + len(refused) == 12
    assert good
    assert refused  # twelve came, and two may wait for a replica that is asleep
    assert refused[0].json()["error"]["code"] == "overloaded"
    assert int(refused[0].headers["retry-after"]) >= 1
    assert np.allclose(vectors(good[0]), bb.load(str(site.words)).embed("w1"), atol=1e-5)


def test_replicas_and_a_node_die_under_load_and_every_answer_is_right(site, model):
    expected = model.embed(TEXTS)
    hits = list(bb.Index.open(site.index).search("a red circle", k=3).ids)
    with load(site, lambda ids, found: ids == hits and np.allclose(found, expected, atol=1e-5)) as wrong:
        victims = {name: site.replicas(name)[0]["pid"] for name in ("mini-text", "search")}
        for pid in victims.values():
            os.kill(pid, signal.SIGKILL)
        until(
            lambda: all(
                len(found := [one["pid"] for one in site.replicas(name)]) == 2 and pid not in found
                for name, pid in victims.items()
            ),
            "other replicas",
        )
        gone = site.replicas("mini-text")[0]["node_id"]
        site.nodes.kill(gone)
        site.nodes.add()
        until(
            lambda: all(
                len(site.replicas(name)) == 2 and gone not in [one["node_id"] for one in site.replicas(name)]
                for name in ("mini-text", "search")
            ),
            "replicas on the new node",
        )
    assert not wrong


def test_a_commit_and_another_index_are_taken_up_without_a_restart_or_a_failed_request(site, model, tmp_path):
    first = list(bb.Index.open(site.index).search("a red circle", k=3).ids)
    other = another(tmp_path / "other.bower", model)
    expected = model.embed(TEXTS)
    old, new = set(first), {*(f"other-{n}" for n in range(3)), "fresh too"}

    def right(ids: list[str], found: np.ndarray) -> bool:
        known = set(ids) <= old | {"fresh"} or set(ids) <= new
        return known and len(ids) == 3 and np.allclose(found, expected, atol=1e-5)

    site.asked.delete("/v1/records/nobody")  # wakes up who writes
    with load(site, right) as wrong:
        bb.Collection.from_items([bb.Record("fresh", None, ("a red circle",))]).embed(model).write(site.index)
        old |= set(bb.Index.open(site.index).search("a red circle", k=3).ids)
        until(
            lambda: site.search("a red circle", among="text").json()["data"][0]["id"] == "fresh", "the commit"
        )
        before = site.pids()
        assert {"ingress", "mini-text", "search", "writer"} <= set(before)
        for one in site.config["applications"][0]["deployments"]:
            if "user_config" in one:
                one["user_config"]["index"] = str(other)
        site.deploy(site.config)
        until(lambda: site.asked.get("/v1/index").json()["name"] == other.name, "the other index")
        until(lambda: site.application()["status"] == "RUNNING", "deployed")
        # Whoever has it goes on having it: no replica is left that searches the first.
        assert {hit["id"] for hit in site.search("a red circle").json()["data"]} == new - {"fresh too"}
        record = {"id": "fresh too", "text": "a red circle"}
        assert site.asked.post("/v1/records", json={"records": [record]}).json()["added"] == 1
        assert site.asked.delete("/v1/records/fresh%20too").status_code == 200
        assert site.pids() == before
    assert not wrong
    # The other one was written to.
    assert bb.Index.open(other).manifest.table_version > 1
    assert "fresh too" not in bb.Index.open(site.index).search("a red circle", k=20).ids


def another(path: Path, model: bb.Encoder) -> Path:
    """An index of three texts under the same model."""
    records = [bb.Record(f"other-{n}", None, (f"a red circle {n}",)) for n in range(3)]
    bb.Collection.from_items(records).embed(model).write(path)
    return path


def test_deployed_again_by_the_command_only_what_has_changed_is_renewed(site, model, tmp_path, run):
    """What is deployed by the command goes on without it."""
    from bowerbird.serve.cluster.start import deploy

    other = another(tmp_path / "another.bower", model)
    words = ("--model", f"words={site.words}", "--no-page", "--cpus", "0.25", "--search-cpus", "0.25")
    text, _ = told("deploy", site.index, *words, "--min", 0, "--config", "-")
    args = yaml.safe_load(text)["applications"][0]["args"]
    assert deploy(Deployed.of(args)) == site.address
    expected = bb.load(str(site.words)).embed("w1")
    np.testing.assert_allclose(vectors(site.embed("w1", "words")), expected, atol=1e-5)
    assert site.search("a red circle", k=1).status_code == 200
    before = site.pids()
    assert set(before) >= {"ingress", "words-text", "mini-text", "search"}
    process = run.start("deploy", other, *words, "--min", 1, "--address", site.nodes.address)
    done = run.finish(process, seconds=SECONDS)
    assert done.out.split() == [site.address]
    until(lambda: site.asked.get("/v1/index").json()["name"] == other.name, "the other index")
    assert {hit["id"] for hit in site.search("a red circle").json()["data"]} == {
        "other-0",
        "other-1",
        "other-2",
    }
    assert [one["id"] for one in site.asked.get("/v1/models").json()["data"]] == ["mini", "words"]
    assert set(site.application()["deployments"]) == {
        "ingress",
        "mini-text",
        "mini-image",
        "words-text",
        "search",
    }
    assert {name: pids & site.pids()[name] for name, pids in before.items()} == before
