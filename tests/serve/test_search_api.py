"""`POST /v1/search` over real sockets: what the index finds, and nothing of where it lies."""

from __future__ import annotations

import base64
import json

import pytest
from tests.serve.conftest import COLOURS, SHAPES, data_url, draw
from tests.serve.servers import served

import bowerbird as bb
from bowerbird.search.rerank import reranker
from bowerbird.serve.service import LocalService

RECORDS = len(COLOURS) * len(SHAPES) + 1


def ask(client, code=200, **body):
    answer = client.post("/v1/search", json=body)
    assert answer.status_code == code, answer.text
    return answer.json()


def ids(body) -> list[str]:
    return [one["id"] for one in body["data"]]


@pytest.fixture(scope="module")
def index(index_path, model) -> bb.Index:
    return bb.Index.open(index_path, model)


@pytest.mark.parametrize(
    "question",
    [
        {"text": "a red circle"},
        {"text": ["a red circle", "a blue square"], "weights": [0.8, 0.2]},
        {"text": "a circle", "without": "red"},
        {"text": "sea", "among": "text,words", "fusion": "rank"},
        {"text": "a red circle", "where": "price > 20 and brand = 'acme'"},
        {"text": "a square", "fusion": "weighted", "part_weights": {"image": 0.3, "text": 0.7}},
        {"like": "red-circle"},
        {"text": "a circle", "unlike": "red-circle"},
        {"like": "red-circle", "unlike": ["red-square", "blue-circle"]},
        {"text": "a shape", "rerank": "mmr:0.5"},
        {"text": "a shape", "models": ["mini"], "threshold": 0.1, "among": "text"},
    ],
    ids=str,
)
def test_answers_are_those_of_the_index(client, index, question):
    body = ask(client, k=5, offset=1, **question)
    told = {**question, "text": question.get("text")}
    if "rerank" in told:
        told["rerank"] = reranker(told["rerank"])
    hits = index.search(k=5, offset=1, **told)
    assert ids(body) == list(hits.ids)
    for one, hit in zip(body["data"], hits, strict=True):
        assert one["score"] == pytest.approx(hit.score, abs=1e-5)
        assert one["match"] == pytest.approx(hit.match, abs=1e-4)
        assert (one["part"], one["model"]) == (hit.part, hit.model)
    assert body["scale"] == hits.scale
    assert body["records"] == RECORDS


@pytest.mark.parametrize("how", ["data url", "base64", "form"])
def test_a_picture_finds_itself(client, how):
    picture = draw("purple", "circle")
    if how == "form":
        files = {"image": ("../../etc/passwd", picture, "text/html")}
        body = client.post("/v1/search", files=files, data={"k": "3", "thumbnails": "true"}).json()
        assert base64.b64decode(body["data"][0]["thumbnail"].partition(",")[2]).startswith(b"\xff\xd8")
    else:
        url = data_url(picture) if how == "data url" else base64.b64encode(picture).decode()
        body = ask(client, image=url, k=3)
        assert "thumbnail" not in body["data"][0]
    assert ids(body)[0] == "purple-circle"
    assert len(body["data"]) == 3


def test_less_like_a_record_puts_others_first(client):
    def place(**more):
        return ids(ask(client, text="a circle", among="image", k=RECORDS, **more)).index("red-circle")

    assert place(unlike="red-circle") > place()
    files = {"image": ("a.png", draw("red", "circle"))}
    form = client.post("/v1/search", files=files, data={"k": "3", "unlike": ["red-circle", "red-square"]})
    assert (
        form.json()["data"]
        == ask(client, image=data_url(draw("red", "circle")), k=3, unlike=["red-circle", "red-square"])[
            "data"
        ]
    )


def test_nothing_matches_is_an_answer(client):
    body = ask(client, text="quarterly tax declaration", min_match=0.9)
    assert body["data"] == []
    assert body["nothing_matches"] is True
    assert 0 < len(body["below"]) <= 10
    assert ask(client, text="a red circle")["nothing_matches"] is False


def test_pages_follow_one_another(client):
    whole = ids(ask(client, text="a shape", k=RECORDS))
    assert [
        id_ for start in range(0, RECORDS, 4) for id_ in ids(ask(client, text="a shape", k=4, offset=start))
    ] == whole


def test_pictures_of_results_can_be_fetched(client):
    found = {one["id"]: one["image"] for one in ask(client, text="sea", k=RECORDS)["data"]}
    assert found["notes/a b?.txt"] is None
    assert client.get(found["red-circle"]).headers["content-type"] == "image/jpeg"


def test_where_files_lie_is_nobodys_business(client, index_path):
    for question in ({"text": "a red circle"}, {"text": "x", "min_match": 1.0}, {"like": "red-circle"}):
        said = json.dumps(ask(client, k=RECORDS, **question))
        assert str(index_path.parent) not in said
    for where in ("uri like '/%'", "folder like '/%'"):
        assert (
            "Where records lie, uri and folder, is not told"
            in ask(client, 400, text="a", where=where)["error"]["message"]
        )
    # Neither does a path find a record, nor is a model looked for on the disk.
    assert (
        ask(client, 400, like=str(index_path.parent / "red-circle.png"))["error"]["code"] == "invalid_query"
    )
    said = ask(client, 400, text="a", models=[str(index_path)])["error"]["message"]
    assert "Use one of: mini" in said


def test_where_files_lie_is_told_if_it_was_started_so(index_path):
    with served(LocalService(str(index_path)), show_paths=True) as client:
        body = ask(client, text="a red circle", where=f"folder = '{index_path.parent}'")
        assert body["data"][0]["uri"] == str(index_path.parent / "red-circle.png")
        assert body["data"][0]["attributes"]["folder"] == str(index_path.parent)


def test_a_request_cannot_have_a_cross_encoder_loaded(client):
    error = ask(client, 404, text="a", rerank="cross:org/model")["error"]
    assert error["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "text"),
        ({"text": ""}, "text"),
        ({"text": 5}, "text"),
        ({"text": "a", "k": 0}, "k"),
        ({"text": "a", "k": "5"}, "k"),
        ({"text": "a", "k": 10_001}, "k"),
        ({"text": "a", "k": 10, "offset": 9_999}, "k"),
        ({"text": "a", "k": 10**30}, "k"),
        ({"text": "a", "min_match": 2}, "min_match"),
        ({"text": "a", "where": "price >"}, "where"),
        ({"text": "a", "where": "nothing = 1"}, "where"),
        ({"text": "a", "where": "price = 1; drop table x"}, "where"),
        ({"text": "a", "fusion": "best"}, "fusion"),
        ({"text": "a", "among": "sounds"}, "among"),
        ({"text": "a", "weights": [1, 2, 3]}, "weights"),
        ({"text": "a", "rerank": "mmr:much"}, "rerank"),
        ({"text": "a", "models": ["other"]}, "models"),
        ({"text": "a", "query": "b"}, "query"),
        ({"like": "nobody"}, "like"),
        ({"like": "nobody\x00"}, None),
        ({"text": "a", "unlike": "nobody"}, "unlike"),
        ({"text": "a", "unlike": ["red-circle"] * 65}, "unlike"),
        ({"unlike": "red-circle"}, "text"),
        ({"image": "data:text/html;base64,PGI+"}, "image"),
        ({"image": "http://169.254.169.254/latest"}, "image"),
        ({"image": "file:///etc/passwd"}, "image"),
        ({"text": ["a"] * 100}, "text"),
        ({"text": "a", "image": "AAAA", "like": "red-circle"}, "like"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_says_why(client, body, param):
    error = ask(client, 400, **body)["error"]
    assert error["type"] == "invalid_request_error"
    if param:
        assert error["param"].startswith(param)


def test_an_upload_that_is_no_picture_is_named(client):
    answer = client.post("/v1/search", files={"image": ("a.png", b"nothing")})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "image"


def test_without_an_index_there_is_nothing_to_search():
    with served(LocalService("", ["mini"])) as client:
        assert ask(client, 404, text="a")["error"]["code"] == "no_index"
        assert client.get("/v1/index").status_code == 404
        assert client.get("/v1/records").status_code == 404
        assert client.get("/health/ready").json() == {"ready": True, "checks": {}}


@pytest.mark.parametrize("where", ["folder = 'x'", "price < 5 and uri like 'file:%'"])
def test_who_may_not_ask_where_records_lie_is_told_what_can_be_asked(client, where):
    said = client.post("/v1/search", json={"text": "a circle", "where": where})
    assert said.status_code == 400
    error = said.json()["error"]
    assert "--show-paths" in error["message"]
    assert error["param"] == "where"
    listed = error["message"].partition("The columns are ")[2].rstrip(".").split(", ")
    assert {"id", "name", "width", "text", "price", "brand"} <= set(listed)
    assert set(listed).isdisjoint({"uri", "folder", "picture", "content", "mtime_ns"})
    # The same list as for a column that there is not; what is for the index itself is suggested to nobody.
    other = client.post("/v1/search", json={"text": "a circle", "where": "pictur = 'x'"}).json()["error"]
    assert other["message"].partition("The columns are ")[2].rstrip(".").split(", ") == listed
    assert "picture" not in other["message"]


def test_a_query_that_is_cut_is_told_so(client):
    (note,) = client.post("/v1/search", json={"text": "fish " * 5000}).json()["notes"]
    assert "tokens" in note
    (note,) = client.post("/v1/search", json={"text": "fish", "without": ["sea " * 5000]}).json()["notes"]
    assert "tokens" in note
