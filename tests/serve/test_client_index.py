"""`bb.Client` and `bb.AsyncClient` on a served index: what they say is what the library says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime

import numpy as np
import pytest

import bowerbird as bb
from bowerbird.errors import (
    DecodeError,
    IndexNotFoundError,
    IndexReadOnlyError,
    ModelNotFoundError,
    QueryError,
    ServiceError,
    UnreadableError,
    UnsupportedInputError,
)


@pytest.fixture(scope="module")
def asked(client) -> Iterator[bb.Client]:
    """A client of the read-only server."""
    with bb.Client(str(client.base_url)) as found:
        yield found


@pytest.fixture(scope="module")
def index(index_path, model) -> bb.Index:
    """What is served, opened here."""
    return bb.Index.open(index_path, model)


@pytest.fixture
def changing(writable) -> Iterator[bb.Client]:
    """A client of a server with an index of its own."""
    with bb.Client(str(writable.base_url)) as found:
        yield found


QUESTIONS = [
    {"text": "a red circle", "k": 5},
    {"text": ["a red circle", "a blue square"], "weights": (0.3, 0.7), "k": 4},
    {"text": "a circle", "without": "red", "k": 4},
    {"like": "red-circle", "k": 3},
    {"text": "a circle", "unlike": "red-circle", "k": 4},
    {"like": "red-circle", "unlike": ["blue-circle", "red-square"], "without": "green", "k": 4},
    {"text": "deep sea fishing", "among": "text,words", "k": 3},
    {"text": "a square", "where": "price > 20 and brand = 'acme'", "k": 5},
    {"text": "a square", "k": 3, "offset": 2, "fusion": "rank"},
    {"text": "a square", "k": 3, "fusion": "weighted", "part_weights": {"image": 0.7, "text": 0.3}},
    {"text": "a square", "k": 20, "min_match": 0.4},
    {"text": "quarterly results of a bank", "k": 3, "min_match": 0.99},
    {"text": "a red circle", "models": "mini", "among": "image", "threshold": 0.01, "k": 3},
]


@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_a_search_says_what_the_library_says(asked, index, question):
    here, there = index.search(**question), asked.search(**question)
    assert isinstance(there, bb.Hits)
    same_hits(there, here)
    if "min_match" in question and question["min_match"] > 0.9:
        assert len(there) == 0
        assert len(there.below) > 0


def same_hits(there: bb.Hits, here: bb.Hits) -> None:
    assert list(there.ids) == list(here.ids)
    assert there.scale == here.scale
    assert there.notes == here.notes
    assert list(there.parts) == list(here.parts)
    assert list(there.models) == list(here.models)
    np.testing.assert_allclose(there.scores, here.scores, atol=2e-3)
    np.testing.assert_allclose(there.match, here.match, atol=2e-2)
    for name in ("price", "brand", "width", "text", "copies"):
        if len(here):
            assert list(there.attributes[name]) == list(here.attributes[name]), name
    assert (there.below is None) == (here.below is None)
    if here.below is not None:
        same_hits(there.below, here.below)


def test_where_files_lie_is_not_told(asked, index_path):
    hits = asked.search("a red circle", k=20)
    assert str(index_path.parent) not in repr(hits.to_dicts())
    names = [name or id_ for name, id_ in zip(hits.attributes["name"], hits.ids, strict=True)]
    assert list(hits.uris) == names
    assert "red-circle.png" in names
    assert "red-circle.png" in repr(hits)


def test_pictures_are_asked_with(asked, index, drawn, tmp_path):
    path = tmp_path / "query.png"
    path.write_bytes(drawn("purple", "square"))
    here = index.search(path, k=3)
    for there in (asked.search(path, k=3), asked.search(image=path.read_bytes(), k=3)):
        same_hits(there, here)
    blend = {"weights": (0.2, 0.8), "k": 3}
    same_hits(asked.search("a circle", image=path, **blend), index.search("a circle", image=path, **blend))


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ({}, QueryError),
        ({"text": " "}, QueryError),
        ({"text": "a", "where": "no_such = 1"}, QueryError),
        ({"text": "a", "among": "sound"}, QueryError),
        ({"text": "a", "models": "no-such"}, QueryError),
        ({"like": "nobody"}, QueryError),
        ({"text": "a", "unlike": ["red-circle", "nobody"]}, QueryError),
        ({"text": "a", "k": -1}, ServiceError),
        ({"text": "a", "image": b"no picture"}, DecodeError),
    ],
    ids=str,
)
def test_what_cannot_be_asked(asked, question, kind):
    with pytest.raises(kind) as caught:
        asked.search(**question)
    told = caught.value if kind is ServiceError else caught.value.__cause__
    assert isinstance(told, ServiceError)
    assert told.status == 400
    assert told.request_id


def test_a_query_picture_that_is_not_there_is_not_sent(asked, tmp_path):
    with pytest.raises(UnreadableError):
        asked.search(tmp_path / "gone.jpg")
    with pytest.raises(QueryError, match="Two query pictures"):
        asked.search(tmp_path / "gone.jpg", image=b"x")


def test_records_come_page_by_page(asked, index, monkeypatch):
    ids = sorted(id_ for batch in index.table.scan(["id"]) for id_ in batch.column("id").to_pylist())
    assert [record.id for record in asked.records()] == ids
    monkeypatch.setattr("bowerbird.client.client.PAGE", 3)
    assert [record.id for record in asked.records()] == ids
    assert {record.id for record in asked.records(where="price < 5")} == {"red-circle", "notes/a b?.txt"}
    page = asked.page(limit=2, after=ids[0])
    assert [record.id for record in page.records] == ids[1:3]
    assert page.more


@pytest.mark.parametrize("id_", ["red-circle", "notes/a b?.txt"])
def test_one_record(asked, id_):
    record = asked.record(id_)
    assert record.id == id_
    assert record.attributes["price"] in (0, 1)
    assert record.text
    assert record.uri == ""


@pytest.mark.parametrize("id_", ["nothing", "..", "../../etc/passwd", "a\nb", "ü"])
def test_records_that_are_not_there(asked, id_):
    assert asked.record(id_) is None
    assert asked.image(id_) is None


def test_images(asked, drawn):
    assert asked.image("red-circle")[:3] == b"\xff\xd8\xff"
    assert asked.image("red-circle", size="original") == drawn("red", "circle")
    assert asked.image("notes/a b?.txt") is None
    with pytest.raises(ServiceError):
        asked.image("red-circle", size="enormous")


def test_records_are_added_found_and_taken_out(changing, drawn, tmp_path):
    path = tmp_path / "ring.png"
    path.write_bytes(drawn("black", "circle"))
    before = changing.index()
    report = changing.add(
        [
            bb.Record("cap", drawn("navy", "square"), ("a sailor's cap",), {"price": 7, "since": datetime(2024, 5, 1)}),
            {"id": "note", "text": "on tides", "attributes": {"price": np.int64(3)}},
            path,
            {"id": "broken", "image": b"no picture"},
            {"id": "nothing"},
            {"image": tmp_path / "gone.png"},
            3,
        ]
    )  # fmt: skip
    assert (report.added, report.changed, report.unchanged) == (3, 0, 0)
    assert report.ids == {0: "cap", 1: "note", 2: "ring.png"}
    kinds = {index: type(error) for index, error in report.errors.items()}
    assert kinds == {3: DecodeError, 4: UnsupportedInputError, 5: UnreadableError, 6: UnsupportedInputError}
    assert changing.index().records == before.records + 3
    assert changing.index().version > before.version
    assert changing.search("a sailor's cap", k=1)[0].id == "cap"
    assert changing.record("cap").attributes["price"] == 7
    assert changing.add({"id": "note", "text": "on tides", "attributes": {"price": 3}}).unchanged == 1
    assert changing.delete(["cap", "note", "never"]) == 2
    assert changing.delete("cap") == 0
    assert changing.record("cap") is None


def test_where_no_record_can_be_added_each_has_its_error(changing):
    report = changing.add([{"id": "a", "image": b"x"}, {"id": "b", "image": b"y"}])
    assert sorted(report.errors) == [0, 1]
    assert sorted(changing.add({"id": "a", "image": b"x"}).errors) == [0]
    assert changing.add([]).added == 0


def test_who_may_not_change_is_told_so(asked):
    for change in (lambda: asked.add({"text": "a"}), lambda: asked.delete("red-circle")):
        with pytest.raises(IndexReadOnlyError, match="--writable") as caught:
            change()
        assert isinstance(caught.value.__cause__, ServiceError)
        assert caught.value.__cause__.status == 403


def test_models(asked):
    (served,) = asked.models()
    assert (served.id, served.kind) == ("mini", "embedding")
    loaded = asked.load("mini")
    assert loaded.loaded
    assert loaded.dimensions == 384
    for verb in (asked.load, asked.unload):
        with pytest.raises(ModelNotFoundError):
            verb("no-such/model")
    with pytest.raises(ServiceError) as caught:
        asked.unload("mini")  # the index is searched with it
    assert caught.value.status == 409
    with pytest.raises(ModelNotFoundError):
        asked.rerank("a", ["b"])


def test_index_and_health(asked, index):
    told = asked.index()
    assert told.records == len(index)
    assert told.models == ("mini",)
    assert "price" in told.attributes
    assert set(told.parts) >= {"image", "text"}
    assert asked.refresh() is False
    assert asked.health().ready
    assert set(asked.health().checks.values()) == {"ok"}


def test_without_an_index():
    from tests.serve.servers import served

    from bowerbird.serve.service import LocalService

    with served(LocalService("", ["mini"])) as http, bb.Client(str(http.base_url)) as client:
        for ask in (client.index, lambda: client.search("a"), lambda: list(client.records())):
            with pytest.raises(IndexNotFoundError):
                ask()
        assert client.unload("mini") is False
        assert client.embed("a").shape == (1, 384)
        assert client.unload("mini") is True


def test_the_asynchronous_client_says_the_same(client, asked, writable, drawn, tmp_path):
    path = tmp_path / "query.png"
    path.write_bytes(drawn("green", "circle"))

    async def ask():
        async with bb.AsyncClient(str(client.base_url)) as found:
            hits, by_picture = await asyncio.gather(
                found.search("a red circle", k=3), found.search(path, k=3)
            )
            records = [record async for record in found.records()]
            models, told, health = await found.models(), await found.index(), await found.health()
            image = await found.image("red-circle")
        async with bb.AsyncClient(str(writable.base_url)) as found:
            added = await found.add({"id": "x", "text": "on tides"})
            deleted = await found.delete("x")
        return hits, by_picture, records, models, told, health, image, added, deleted

    hits, by_picture, records, models, told, health, image, added, deleted = asyncio.run(ask())
    same_hits(hits, asked.search("a red circle", k=3))
    same_hits(by_picture, asked.search(path, k=3))
    assert list(map(asdict, records)) == list(map(asdict, asked.records()))
    assert [one.id for one in models] == ["mini"]
    assert told.records == asked.index().records
    assert health.ready
    assert image == asked.image("red-circle")
    assert (added.added, deleted) == (1, 1)
