"""Records from lists of addresses."""

from __future__ import annotations

import pickle

import pytest
from tests.flow.web_server import PICTURE, serving

from bowerbird import Collection
from bowerbird.errors import BowerbirdError, RowError, UnreadableError
from bowerbird.flow.sources import web as module
from bowerbird.flow.sources.web import LONGEST_LINE, WebSource
from bowerbird.flow.web import WebFile, WebLimits
from bowerbird.media.policy import DecodePolicy
from bowerbird.record import Failure, Record

URLS = ["http://h/a.jpg", "https://h/b.jpg?x=1", "HTTP://h/c.jpg"]


def test_a_list():
    limits = WebLimits(retries=7)
    source = WebSource(URLS, limits=limits)
    assert list(source) == [Record(id=url, image=WebFile(url, limits), named=False) for url in URLS]
    assert list(source) == list(source)
    assert source.count() == 3
    assert "3 addresses" in source.describe()
    assert list(WebSource([])) == []


def test_texts():
    records = list(WebSource(URLS, texts=["one", ["two", "zwei"], None]))
    assert [record.texts for record in records] == [("one",), ("two", "zwei"), ()]
    with pytest.raises(BowerbirdError, match="3 addresses and 1 texts"):
        WebSource(URLS, texts=["one"])
    with pytest.raises(BowerbirdError, match="not with a file"):
        WebSource("urls.txt", texts=["one"])


@pytest.mark.parametrize("wrong", ["ftp://h/a.jpg", "/a/b.jpg", "", "s3://b/a.jpg", 7, None, "a\nb"])
def test_what_is_no_address_fails_at_its_place(wrong):
    first, failure, last = WebSource([URLS[0], wrong, URLS[1]])
    assert (first.id, last.id) == (URLS[0], URLS[1])
    assert isinstance(failure, Failure)
    assert isinstance(failure.error, RowError)
    assert "\n" not in str(failure.error)


def test_a_file(tmp_path):
    path = tmp_path / "urls.txt"
    path.write_bytes(
        b"\xef\xbb\xbfhttp://h/a.jpg\r\n\n# a comment\n  https://h/b.jpg  \nnot one\nhttp://h/\xff\n"
        + b"http://h/" + b"x" * 3 * LONGEST_LINE + b"\nhttp://h/last.jpg"
    )  # fmt: skip
    source = WebSource(path)
    found = list(source)
    assert [item.id for item in found] == [
        "http://h/a.jpg",
        "https://h/b.jpg",
        "urls.txt:5",
        "http://h/\\xff",
        "urls.txt:7",
        "http://h/last.jpg",
    ]
    assert [isinstance(item, Failure) for item in found] == [False, False, True, False, True, False]
    assert "urls.txt:5" in str(found[2].error)
    assert len(str(found[4].error)) < 1000
    assert [str(item) for item in WebSource(str(path))] == [str(item) for item in found]
    assert source.count() is None
    assert "urls.txt" in source.describe()


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UnreadableError, match="nothing"):
        list(WebSource(tmp_path / "nothing.txt"))
    with pytest.raises(UnreadableError, match="cannot be read"):
        list(WebSource(tmp_path))


def test_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART", 4)
    urls = [f"http://h/{number}.jpg" if number != 5 else "nonsense" for number in range(10)]
    (tmp_path / "urls.txt").write_text("\n".join(urls))
    for source in (WebSource(urls, texts=[f"t{n}" for n in range(10)]), WebSource(tmp_path / "urls.txt")):
        parts = [pickle.loads(pickle.dumps(part)) for part in source.parts()]
        assert [part.count() for part in parts] == [4, 4, 2]
        assert [str(item) for part in parts for item in part] == [str(item) for item in source]
        assert all(part.describe() for part in parts)


def test_from_a_server():
    with serving() as server:
        ok, gone = WebSource([f"{server.url}/picture.png", f"{server.url}/404"])
        assert ok.image.read(DecodePolicy()) == PICTURE
        with pytest.raises(UnreadableError, match="404"):
            gone.image.read(DecodePolicy())


def test_one_address_is_a_list_of_one():
    for url in URLS:
        assert [record.id for record in WebSource(url)] == [url]
    assert [record.text for record in WebSource(URLS[0], texts=["words"])] == ["words"]
    with serving() as server:
        (record,) = Collection.from_urls(f"{server.url}/picture.png")
        assert record.image.read(DecodePolicy()) == PICTURE


def test_globs_of_addresses(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    with serving() as server:
        url = f"{server.url}/picture.png"
        here, there = Collection.from_glob([url, tmp_path / "*.jpg"])
        assert (here.id, there.id) == (str(tmp_path / "a.jpg"), url)
        assert there.image.read(DecodePolicy()) == PICTURE
