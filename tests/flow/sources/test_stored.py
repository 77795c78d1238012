"""Records from an object store, and from one that fails half-way."""

from __future__ import annotations

import pickle

import pytest
from tests.flow.object_store import ObjectStore, forget_connections, gate, serving

from bowerbird.errors import UnreadableError
from bowerbird.flow.sources import stored as module
from bowerbird.flow.sources.stored import StoredSource
from bowerbird.media.image import decode
from bowerbird.media.policy import DecodePolicy
from bowerbird.record import Failure, Record

POLICY = DecodePolicy()


@pytest.fixture(scope="module")
def store():
    with serving() as found:
        yield found


@pytest.fixture(scope="module")
def photos(store: ObjectStore, picture) -> list[str]:
    """Addresses, in the order in which they are listed."""
    names = [f"photos/{folder}/{number}.png" for folder in "abc" for number in range(4)]
    uris = [store.put(name, picture(seed)) for seed, name in enumerate(names)]
    store.put("photos/b/notes.txt", b"x")
    return uris


def test_pictures_of_a_folder(store: ObjectStore, photos, picture):
    source = StoredSource(store.uri("photos"))
    records = list(source)
    assert [record.id for record in records] == photos
    assert [str(record.image) for record in records] == photos
    assert records[5].image.read(POLICY) == picture(5)
    assert decode(records[5].image.read(POLICY), POLICY, name=photos[5]).width == 64
    assert not records[0].named
    assert list(source) == records, "iterated anew"
    assert store.uri("photos") in source.describe()
    assert source.count() is None


def test_a_glob_and_one_object(store: ObjectStore, photos):
    assert [record.id for record in StoredSource(store.uri("photos/**/1.png"))] == photos[1::4]
    assert [record.id for record in StoredSource(photos[3])] == [photos[3]]


def test_parts_are_the_same_in_the_same_order(store: ObjectStore, photos, monkeypatch):
    monkeypatch.setattr(module, "PART", 5)
    source = StoredSource(store.uri("photos"))
    parts = [pickle.loads(pickle.dumps(part)) for part in source.parts()]
    assert [part.count() for part in parts] == [5, 5, 2]
    assert [record for part in parts for record in part] == list(source)
    assert photos[5] in parts[1].describe()


@pytest.mark.parametrize("below", ["nothing", "nothing/*.jpg", "photos/**/*.gif"])
def test_nothing_there(store: ObjectStore, photos, below):
    with pytest.raises(UnreadableError):
        list(StoredSource(store.uri(below)))
    with pytest.raises(UnreadableError):
        StoredSource(store.uri(below)).parts()


def test_a_folder_that_cannot_be_listed(store: ObjectStore, photos):
    with gate(store) as before:
        before.faults.append(("prefix=photos%2Fb", 403, "AccessDenied", 99))
        found = list(StoredSource(store.uri("photos")))
    (failure,) = (item for item in found if isinstance(item, Failure))
    assert failure.id == store.uri("photos/b")
    assert isinstance(failure.error, UnreadableError)
    assert "refused access" in failure.error.message
    assert [item.id for item in found] == [*photos[:4], failure.id, *photos[8:]]


def test_objects_deleted_between_listing_and_reading(store: ObjectStore, picture):
    uris = [store.put(f"going/{number}.png", picture(number)) for number in range(3)]
    records = list(StoredSource(store.uri("going")))
    store.fs.rm(uris[1])
    assert records[0].image.read(POLICY) == picture(0)
    with pytest.raises(UnreadableError, match=r"1\.png does not exist"):
        records[1].image.read(POLICY)
    assert records[2].image.read(POLICY) == picture(2)


def test_a_store_that_stops_half_way(picture, monkeypatch):
    with serving() as store:
        for number in range(4):
            store.put(f"half/{number}.png", picture(number))
        source = StoredSource(store.uri("half"))
        records = [record for record in source if isinstance(record, Record)]
        assert records[0].image.read(POLICY) == picture(0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)  # where nobody is any more
    forget_connections()
    for record in records[1:]:
        with pytest.raises(UnreadableError, match=r"cannot be reached|credentials|longer than"):
            record.image.read(DecodePolicy(seconds=10))
    monkeypatch.undo()
    forget_connections()


def test_more_than_a_page_of_objects(store: ObjectStore):
    store.fill({f"many/{number:04}.jpg": b"x" for number in range(1100)})
    found = [record.id for record in StoredSource(store.uri("many"))]
    assert found == [store.uri(f"many/{number:04}.jpg") for number in range(1100)]
