"""Requests that are not as they should be: what is said of them names the place, what is wanted, and what was meant."""

from __future__ import annotations

import pytest
from tests.serve.conftest import draw


@pytest.mark.parametrize(
    ("path", "body", "param", "said"),
    [
        (
            "embeddings",
            {"input": [{"img": "x"}]},
            "input.0.img",
            "'img' is none of them. Did you mean image?",
        ),
        ("embeddings", {"input": {"text": "a", "image": "b"}}, "input", "text and image exclude each other"),
        ("embeddings", {"input": {"type": "image"}}, "input.image", "input.image is missing"),
        ("embeddings", {"input": [{"text": 3}]}, "input.0.text", "input.0.text: give a text."),
        ("embeddings", {"input": 5}, "input", "give a text, an object or a list"),
        ("embeddings", {"inputs": "a"}, "inputs", "Did you mean input?"),
        ("embeddings", {"input": "a", "dimensions": 0}, "dimensions", "must be greater than"),
        ("embeddings", {"input": "a", "encoding_format": "hex"}, "encoding_format", "float or base64"),
        ("embeddings", [1], None, "a JSON object is wanted"),
        ("search", {"K": 2}, "K", "There is no field 'K'. Did you mean k?"),
        ("search", {"query": "a"}, "query", "Did you mean text? The fields are text,"),
        ("search", {"text": ["a", 3]}, "text.1", "give a text"),
        ("records", {"records": [{"image_url": "x"}]}, "records.0.image_url", "Did you mean image?"),
        ("records", {"records": [{"attributes": {"tags": ["a"]}}]}, "records.0.attributes.tags", "a whole"),
        ("rerank", {"query": "a", "documents": ["b"], "top_k": 1}, "top_k", "Did you mean top_n?"),
    ],
    ids=str,
)
def test_a_body_that_is_not_as_it_should_be_is_told_in_words(client, path, body, param, said):
    answer = client.post(f"/v1/{path}", json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert said in error["message"]
    # Nothing of what the service is made of.
    assert not any(word in error["message"] for word in ("union", "TextInput", "Request", "validation"))


def test_a_way_that_there_is_not_names_the_next(client):
    def said(method, path):
        answer = client.request(method, path)
        return answer, answer.json()["error"]["message"]

    answer, message = said("GET", "/v1/search")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert "GET is not taken here, but POST." in message
    answer, message = said("PUT", "/v1/records")
    assert answer.headers["allow"] == "GET, HEAD, POST"
    for path, meant in (("/v1/embedings", "/v1/embeddings"), ("/search", "/v1/search")):
        answer, message = said("POST", path)
        assert answer.status_code == 404
        assert f"Did you mean {meant}?" in message
    assert client.get("/health").json() == client.get("/health/ready").json()


def test_weights_of_a_form_are_numbers_with_commas_or_json(client):
    found = []
    for weights in ("0.3, 0.7", "[0.3, 0.7]"):
        files = {"image": ("a.png", draw("red", "circle"))}
        answer = client.post("/v1/search", files=files, data={"text": "a square", "weights": weights})
        assert answer.status_code == 200, answer.text
        found.append([one["score"] for one in answer.json()["data"]])
    assert found[0] == found[1]


def test_texts_of_a_record_are_capped(writable):
    answer = writable.post("/v1/records", json={"records": [{"id": "a", "texts": ["x"] * 65}]})
    assert answer.status_code == 400
    assert "65 texts; 64 are taken" in answer.json()["error"]["message"]


def test_parameters_that_a_route_does_not_have_are_refused(client):
    answer = client.get("/v1/records", params={"limit": 2, "were": "price > 1"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "were"
    assert "Did you mean where?" in error["message"]
    assert client.get("/v1/records", params={"limit": 2, "where": "price > 1"}).status_code == 200
    assert client.post("/v1/embeddings?modle=mini", json={"input": "a"}).status_code == 400
    assert client.get("/v1/records/red-circle/image", params={"size": "thumbnail"}).status_code == 200
    assert client.get("/health/live?probe=1").status_code == 200
