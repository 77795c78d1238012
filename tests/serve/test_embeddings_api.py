"""`POST /v1/embeddings` over real sockets: what comes back is what the library gives, each input at its own index."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from tests.serve.conftest import data_url, draw
from tests.serve.servers import served

import bowerbird as bb
from bowerbird.serve.limits import Limits
from bowerbird.serve.service import LocalService

TEXTS = ["a red dress", "deep sea", "ein Text mit Umlauten: äöü ß", "word " * 200, "x"]


def ask(client, code=200, **body):
    answer = client.post("/v1/embeddings", json=body)
    assert answer.status_code == code, answer.text
    return answer.json()


def vectors(body) -> np.ndarray:
    return np.asarray([one["embedding"] for one in body["data"]], np.float32)


def test_vectors_are_those_of_the_library_in_order(client, model):
    body = ask(client, model="mini", input=TEXTS)
    assert [one["index"] for one in body["data"]] == list(range(len(TEXTS)))
    assert np.abs(vectors(body) - model.embed(TEXTS)).max() < 1e-6
    assert body["model"] == "mini"
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] > len(TEXTS)


def test_one_text_is_a_list_of_one(client, model):
    body = ask(client, model="mini", input="a red dress")
    assert np.abs(vectors(body) - model.embed(["a red dress"])).max() < 1e-6


def test_no_model_is_the_first_and_is_named(client):
    assert ask(client, input="a")["model"] == "mini"


def test_base64_holds_the_same_floats(client):
    plain = vectors(ask(client, input=TEXTS))
    coded = ask(client, input=TEXTS, encoding_format="base64")
    raw = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in coded["data"]]
    assert np.abs(np.stack(raw) - plain).max() < 1e-6


def test_fewer_dimensions_are_scaled_again(client):
    whole, cut = vectors(ask(client, input=TEXTS)), vectors(ask(client, input=TEXTS, dimensions=64))
    assert cut.shape == (len(TEXTS), 64)
    assert np.allclose(cut, whole[:, :64] / np.linalg.norm(whole[:, :64], axis=1, keepdims=True), atol=1e-6)
    # Nothing says that the model was made for it, so this is said.
    note = ask(client, input="a", dimensions=64)["data"][0]["note"]
    assert "first 64 of 384 dimensions" in note
    assert "note" not in ask(client, input="a", dimensions=384)["data"][0]
    assert ask(client, 400, input="a", dimensions=10_000)["error"]["param"] == "dimensions"


@pytest.mark.parametrize(
    "given", [lambda url: {"image": url}, lambda url: {"type": "image_url", "image_url": {"url": url}}]
)
def test_pictures_and_texts_share_a_request(client, model, given, tmp_path):
    picture = draw("red", "circle")
    (tmp_path / "a.png").write_bytes(picture)
    body = ask(client, input=["a red circle", given(data_url(picture)), {"text": "a red circle"}])
    found = vectors(body)
    assert np.abs(found[1] - model.embed([tmp_path / "a.png"])[0]).max() < 1e-6
    assert np.array_equal(found[0], found[2])


def test_files_and_texts_of_a_form_are_in_order(client, model):
    picture = draw("blue", "square")
    answer = client.post(
        "/v1/embeddings",
        data={"model": "mini", "dimensions": "384"},
        files=[("input", (None, "a text")), ("input", ("x.exe", picture)), ("input", ("y.png", b"nothing"))],
    )
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert np.abs(np.float32(data[0]["embedding"]) - model.embed(["a text"])[0]).max() < 1e-6
    assert np.abs(np.float32(data[1]["embedding"]) - model.embed([picture])[0]).max() < 1e-6
    assert data[2]["embedding"] is None
    assert data[2]["error"]["code"] == "undecodable_input"


def test_a_bad_input_has_its_error_at_its_own_index(client, model):
    body = ask(
        client,
        input=[
            "good",
            {"image": "data:image/png;base64,AAAA"},
            "also good",
            {"image": "ftp://host/a.png"},
            "",
        ],
    )
    failed = {one["index"]: one["error"]["param"] for one in body["data"] if one["embedding"] is None}
    assert failed == {1: "input.1", 3: "input.3", 4: "input.4"}
    good = np.float32([body["data"][0]["embedding"], body["data"][2]["embedding"]])
    assert np.abs(good - model.embed(["good", "also good"])).max() < 1e-6


def test_where_all_inputs_are_bad_the_request_is(client):
    error = ask(client, 400, input=["", {"image": "%%%"}])["error"]
    assert [one["index"] for one in error["errors"]] == [0, 1]
    assert error["param"] == "input.0"


def test_a_tensor_is_what_the_network_reads(client, model):
    picture = bb.load("mini").image.open(draw("green", "square")).image
    pixels = np.asarray(picture.resize((224, 224)), np.float32).transpose(2, 0, 1)
    tensor = np.ascontiguousarray((pixels - 127) / 128)
    item = {"tensor": {"shape": [3, 224, 224], "data": base64.b64encode(tensor.tobytes()).decode()}}
    found = vectors(ask(client, input=[item], preprocess="none"))[0]
    near = model.embed([draw("green", "square")])[0]
    far = model.embed([draw("red", "circle")])[0]
    assert found @ near > 0.95 > found @ far  # resized in another way than the model does
    assert ask(client, 400, input=[item])["error"]["param"] == "input.0"
    short = {"tensor": {"shape": [3, 2, 2], "data": "AAAA"}}
    assert "does not take" in ask(client, 400, input=[short], preprocess="none")["error"]["message"]


def test_outputs_and_lengths_are_those_of_the_library(client, model):
    picture = draw("red", "square")
    features = vectors(ask(client, input=[{"image": data_url(picture)}], output="features"))
    assert np.abs(features - model.embed([picture], output="features")).max() < 1e-6
    raw = vectors(ask(client, input=[{"image": data_url(picture)}], output="features", normalize=False))
    assert np.allclose(raw, model.embed([picture], output="features", normalize=False), atol=1e-5)
    assert abs(np.linalg.norm(raw) - 1) > 0.1


def test_an_output_that_there_is_not_is_named(client):
    item = {"image": data_url(draw("red", "square"))}
    assert "nothing" in ask(client, 400, input=[item], output="nothing")["error"]["message"]
    assert ask(client, 400, input="a", output="features")["error"]["code"] == "unsupported_input"


def test_tokens_of_a_request_are_capped():
    limits = Limits(tokens=50, text_chars=1000)
    with served(LocalService("", ["mini"], limits=limits)) as small:
        assert len(ask(small, input=["a few words"] * 8)["data"]) == 8
        assert "tokens together" in ask(small, 400, input=["a few words"] * 80)["error"]["message"]
        # One that is too long is refused alone.
        body = ask(small, input=["fine", "x" * 1001])
        assert [one["embedding"] is None for one in body["data"]] == [False, True]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [[1, 2, 3]]}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": "8"}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "normalise": True}, "normalise"),
        ({"input": "a", "role": "nobody"}, "role"),
        ({"input": "a", "output": "nothing"}, "output"),
        ({"input": [{"image": "AAAA"}]}, "input.0"),
        ({"input": [""]}, "input.0"),
    ],
)
def test_what_is_not_as_it_should_be_is_named(client, body, param):
    error = ask(client, 400, **body)["error"]
    assert error["param"].startswith(param)
    assert error["type"] == "invalid_request_error"


def test_an_unknown_model_is_not_found(client):
    error = ask(client, 404, model="mimi", input="a")["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "Did you mean mini" in error["message"]


def test_too_many_inputs_are_refused_at_once(client):
    assert ask(client, 400, input=["a"] * 2049)["error"]["code"] == "too_many_inputs"


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[1]", "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"input": "\\ud800"}', "application/json", 400),
        (b'{"input": "a"}', "text/plain", 415),
        (b"nothing", "multipart/form-data; boundary=x", 400),
        (b"nothing", "multipart/form-data", 400),
    ],
)
def test_a_body_that_cannot_be_read_says_so(client, content, kind, status):
    answer = client.post("/v1/embeddings", content=content, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]
