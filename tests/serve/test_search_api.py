"""`POST /v1/search` over real sockets."""

from __future__ import annotations


def test_words_find_the_picture(client):
    answer = client.post("/v1/search", json={"text": "a red circle", "k": 3})
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["id"] == "red-circle"
