"""`POST /v1/embeddings` over real sockets."""

from __future__ import annotations

import numpy as np


def test_vectors_are_those_of_the_library(client, model):
    texts = ["a red dress", "deep sea", "ein Text mit Umlauten: äöü"]
    answer = client.post("/v1/embeddings", json={"model": "mini", "input": texts})
    assert answer.status_code == 200, answer.text
    got = np.asarray([one["embedding"] for one in answer.json()["data"]], np.float32)
    assert np.abs(got - model.embed(texts)).max() < 1e-6
