"""The official OpenAI client for Python is a client of the service."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("openai")

import openai
from tests.serve.refusing import Refusing
from tests.serve.servers import served, serving

from bowerbird.serve.api.app import build
from bowerbird.serve.keys import Keys
from bowerbird.serve.limits import Limits
from bowerbird.serve.service import LocalService


@pytest.fixture(scope="module")
def official(client) -> Iterator[openai.OpenAI]:
    """The client of the read-only server, which wants no key."""
    with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as found:
        yield found


def test_a_text(official, model):
    answer = official.embeddings.create(model="mini", input="a red dress")
    assert (answer.object, answer.model) == ("list", "mini")
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 5
    (one,) = answer.data
    assert (one.object, one.index) == ("embedding", 0)
    # The client asks for base64 by itself, and decodes it.
    np.testing.assert_allclose(one.embedding, model.embed("a red dress")[0], atol=2e-3)


def test_a_list_in_order(official, model):
    texts = ["a red dress", "a much longer text about a pair of blue shoes", "x"]
    answer = official.embeddings.create(model="mini", input=texts)
    assert [one.index for one in answer.data] == [0, 1, 2]
    np.testing.assert_allclose([one.embedding for one in answer.data], model.embed(texts), atol=2e-3)


def test_both_encodings_say_the_same(official):
    as_floats = official.embeddings.create(model="mini", input="a red dress", encoding_format="float")
    as_text = official.embeddings.create(model="mini", input="a red dress", encoding_format="base64")
    found = np.frombuffer(base64.b64decode(as_text.data[0].embedding), "<f4")
    np.testing.assert_allclose(found, as_floats.data[0].embedding, atol=1e-6)


def test_dimensions(official):
    answer = official.embeddings.create(model="mini", input="a red dress", dimensions=64)
    assert len(answer.data[0].embedding) == 64
    assert np.linalg.norm(answer.data[0].embedding) == pytest.approx(1, abs=1e-5)


def test_pictures_go_beside_texts(official, model, drawn):
    data = drawn("red", "circle")
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    inputs = ["a red circle", {"image": url}, {"type": "image_url", "image_url": {"url": url}}]
    answer = official.embeddings.create(model="mini", input=inputs)
    expected = model.embed(["a red circle", data, data])
    np.testing.assert_allclose([one.embedding for one in answer.data], expected, atol=2e-3)


def test_models(official):
    listed = official.models.list()
    assert [one.id for one in listed] == ["mini"]
    one = official.models.retrieve("mini")
    assert (one.id, one.object) == ("mini", "model")
    assert one.owned_by
    assert one.created > 0
    with pytest.raises(openai.NotFoundError) as caught:
        official.models.retrieve("no-such-model")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("request_", "kind", "code"),
    [
        ({"model": "no-such-model", "input": "a"}, openai.NotFoundError, "model_not_found"),
        ({"model": "mini", "input": []}, openai.BadRequestError, "invalid_value"),
        ({"model": "mini", "input": ""}, openai.BadRequestError, "unsupported_input"),
        ({"model": "mini", "input": ["", ""]}, openai.BadRequestError, "unsupported_input"),
        ({"model": "mini", "input": 3}, openai.BadRequestError, "invalid_value"),
        ({"model": "mini", "input": "a", "dimensions": 0}, openai.BadRequestError, "invalid_value"),
        ({"model": "mini", "input": "a", "dimensions": 100_000}, openai.BadRequestError, None),
        ({"model": "mini", "input": "a", "extra_body": {"no_such": 1}}, openai.BadRequestError, "invalid_value"),
    ],
)  # fmt: skip
def test_errors_become_the_clients_own(official, request_, kind, code):
    with pytest.raises(kind) as caught:
        official.embeddings.create(**request_)
    error = caught.value
    assert error.type == "invalid_request_error"
    assert code is None or error.code == code
    assert error.body["message"]
    assert error.request_id == error.response.headers["x-request-id"] != ""


@pytest.mark.parametrize("tokens", [[101, 2023, 102], [[101, 2023], [102]]])
def test_who_sends_tokens_is_told_what_to_do(official, tokens):
    # As LangChain's OpenAIEmbeddings does when nobody tells it not to.
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False") as caught:
        official.embeddings.create(model="mini", input=tokens)
    assert caught.value.code == "tokens_not_supported"
    assert caught.value.param == "input"


def test_the_id_of_a_request(official):
    raw = official.embeddings.with_raw_response.create(
        model="mini", input="a", extra_headers={"x-request-id": "mine-1"}
    )
    assert raw.headers["x-request-id"] == raw.request_id == "mine-1"
    assert len(raw.parse().data) == 1
    answer = official.embeddings.create(model="mini", input="a")
    assert answer._request_id


def test_keys():
    service = LocalService("", ["mini"])
    with served(service, keys=Keys(text="secret-of-the-shop")) as http:
        base = f"{http.base_url}/v1"
        with openai.OpenAI(base_url=base, api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError) as caught:
                client.embeddings.create(model="mini", input="a")
            assert caught.value.code == "invalid_api_key"
            with pytest.raises(openai.AuthenticationError):
                client.models.list()
        with openai.OpenAI(base_url=base, api_key="secret-of-the-shop", max_retries=0) as client:
            assert len(client.embeddings.create(model="mini", input="a").data) == 1


def test_rates():
    with (
        served(LocalService("", ["mini"], limits=Limits(per_minute=1))) as http,
        openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="none", max_retries=0) as client,
    ):
        client.models.list()
        with pytest.raises(openai.RateLimitError) as caught:
            client.models.list()
        assert int(caught.value.response.headers["retry-after"]) > 0


@pytest.mark.parametrize("status", [429, 503])
def test_the_client_comes_back_when_it_is_told_to(status):
    service = LocalService("", ["mini"])
    refusing = Refusing(build(service), status, times=1)
    try:
        with serving(refusing) as address:
            with openai.OpenAI(base_url=f"{address}/v1", api_key="none") as client:
                assert len(client.embeddings.create(model="mini", input="a").data) == 1
            refusing.refused.clear()
            kind = openai.RateLimitError if status == 429 else openai.InternalServerError
            with (
                openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client,
                pytest.raises(kind) as caught,
            ):
                client.embeddings.create(model="mini", input="a")
            assert caught.value.response.headers["retry-after"] == "1"
    finally:
        asyncio.run(service.close())
    assert refusing.refused == {"/v1/embeddings": 1}


def test_the_asynchronous_client(client, model):
    texts = [f"number {number}" for number in range(20)]

    async def ask():
        async with openai.AsyncOpenAI(
            base_url=f"{client.base_url}/v1", api_key="none", max_retries=0
        ) as official:
            one = await official.embeddings.create(model="mini", input=texts)
            many = await asyncio.gather(
                *(official.embeddings.create(model="mini", input=text) for text in texts)
            )
            listed = [model async for model in official.models.list()]
        return [d.embedding for d in one.data], [a.data[0].embedding for a in many], listed

    together, apart, listed = asyncio.run(ask())
    expected = model.embed(texts)
    np.testing.assert_allclose(together, expected, atol=2e-3)
    np.testing.assert_allclose(apart, expected, atol=2e-3)
    assert [one.id for one in listed] == ["mini"]
