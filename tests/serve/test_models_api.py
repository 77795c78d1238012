"""`/v1/models`, `/v1/rerank`: what is served, loaded, unloaded, and forgotten when nobody asks."""

from __future__ import annotations

import threading

import pytest
from tests.models.overlap import write_overlap_model
from tests.serve.servers import SECONDS, served

from bowerbird.serve.service import LocalService

WORDS = ["a", "long", "red", "dress", "shirt", "blue", "car"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A client of a service without an index, whose cross-encoder counts common words."""
    judge = write_overlap_model(tmp_path_factory.mktemp("judge") / "overlap", WORDS)
    pair = ("overlap", str(judge))
    with served(LocalService("", ["mini", ("twin", "mini")], rerankers=[pair])) as client:
        yield client


def test_models_are_listed_as_openai_does(models):
    body = models.get("/v1/models").json()
    assert body["object"] == "list"
    assert [(one["id"], one["kind"]) for one in body["data"]] == [
        ("mini", "embedding"),
        ("twin", "embedding"),
        ("overlap", "reranker"),
    ]
    assert {one["object"] for one in body["data"]} == {"model"}


def test_a_model_is_loaded_and_unloaded(models):
    loaded = models.post("/v1/models/twin/load").json()
    assert loaded["loaded"] is True
    assert loaded["dimensions"] == 384
    assert loaded["modalities"] == ["text", "image"]
    assert models.get("/v1/models/twin").json() == {
        **loaded,
        "last_used": pytest.approx(loaded["last_used"], abs=60),
    }
    assert models.post("/v1/models/twin/unload").json() == {"id": "twin", "object": "model", "unloaded": True}
    assert models.post("/v1/models/twin/unload").json()["unloaded"] is False
    assert models.get("/v1/models/twin").json()["loaded"] is False
    again = models.post("/v1/embeddings", json={"model": "twin", "input": "a"})
    assert again.status_code == 200
    assert models.get("/v1/models/twin").json()["loaded"] is True


@pytest.mark.parametrize("method, path", [("GET", ""), ("POST", "/load"), ("POST", "/unload")])
@pytest.mark.parametrize("name", ["mimi", "org%2Fmodel", "..", "%00"])
def test_what_is_not_served_is_not_found(models, method, path, name):
    answer = models.request(method, f"/v1/models/{name}{path}")
    assert answer.status_code == 404, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) in (("model_not_found", "id"), ("not_found", None))


def test_models_of_the_index_stay(client):
    answer = client.post("/v1/models/mini/unload")
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "model_in_use"


def test_what_nobody_asks_is_unloaded():
    service = LocalService("", ["mini"], idle_seconds=0.3, tend_seconds=0.05)
    with served(service) as client:
        assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 200
        end = threading.Event()
        for _ in range(SECONDS * 20):
            # Looking is not asking; nor is finding out whether it is well.
            client.get("/health/ready")
            if not client.get("/v1/models/mini").json()["loaded"]:
                break
            end.wait(0.05)
        else:
            pytest.fail("the model is never unloaded")
        assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 200


def rerank(models, code=200, **body):
    answer = models.post("/v1/rerank", json=body)
    assert answer.status_code == code, answer.text
    return answer.json()


def test_texts_are_put_in_order(models):
    documents = ["a blue car", "a long red dress", {"text": "a red shirt"}, "something else"]
    body = rerank(models, model="overlap", query="red dress", documents=documents)
    assert [one["index"] for one in body["results"]] == [1, 2, 0, 3]
    scores = [one["relevance_score"] for one in body["results"]]
    assert scores == sorted(scores, reverse=True)
    assert body["model"] == "overlap"
    assert "document" not in body["results"][0]


def test_only_the_first_are_given_with_their_texts(models):
    body = rerank(
        models, query="red dress", documents=["blue", {"text": "red dress"}], top_n=1, return_documents=True
    )
    (one,) = body["results"]
    assert one["document"] == {"text": "red dress"}
    assert body["model"] == "overlap"


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"query": "a", "documents": []}, 400, "documents"),
        ({"query": "", "documents": ["a"]}, 400, "query"),
        ({"query": " ", "documents": ["a"]}, 400, "query"),
        ({"query": "a", "documents": "a"}, 400, "documents"),
        ({"query": "a", "documents": [5]}, 400, "documents"),
        ({"query": "a", "documents": ["a"], "top_n": 0}, 400, "top_n"),
        ({"query": "a", "documents": ["a"] * 2049}, 400, "documents"),
        ({"query": "a", "documents": ["a"], "model": "mini"}, 404, None),
    ],
)
def test_what_cannot_be_judged_says_why(models, body, code, param):
    error = rerank(models, code, **body)["error"]
    if param:
        assert error["param"].startswith(param)


def test_a_search_takes_a_second_look(index_path, tmp_path):
    judge = write_overlap_model(tmp_path / "overlap", ["deep", "sea", "fishing", "note"], max_tokens=64)
    with served(LocalService(str(index_path), rerankers=[("overlap", str(judge))])) as client:
        body = client.post("/v1/search", json={"text": "a note", "rerank": "cross:overlap", "k": 13}).json()
        assert body["data"][0]["id"] == "notes/a b?.txt"
