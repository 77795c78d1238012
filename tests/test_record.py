"""Records: what they are asked for by name, and what failures say."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from bowerbird import Failure, Record
from bowerbird.errors import DecodeError, FunctionError
from bowerbird.hits import Hits
from bowerbird.record import content_id, name_of

VECTOR = np.array([1, 0], np.float32)


@pytest.fixture
def full() -> Record:
    return Record(
        "a",
        image=b"bytes",
        texts=("one", "two"),
        attributes={"price": 3, "width": "wide"},
        vectors={"image": VECTOR, "text": np.stack([VECTOR, VECTOR])},
        content="c0ffee",
        facts={"width": 640, "height": 480},
        hits=Hits(["x"], np.array([0.5], np.float32), "scale", ["x.jpg"]),
    )


def test_values_by_name(full):
    assert (full["id"], full["image"], full["content"]) == ("a", b"bytes", "c0ffee")
    assert (full["text"], full["texts"]) == ("one", ("one", "two"))
    assert full["price"] == 3
    assert full["height"] == 480
    assert full["vector"] is VECTOR
    assert full["text"] == full.text
    assert (full["ids"], full["scores"][0]) == (["x"], 0.5)


def test_the_users_attributes_come_before_what_decoding_found(full):
    assert full["width"] == "wide"
    assert list(full).count("width") == 1


def test_every_name_it_lists_gives_a_value(full):
    assert all(full[name] is not None for name in full)
    assert full.keys() == list(full)
    assert dict(full)["price"] == 3
    bare = Record("b")
    assert list(bare) == ["id"]


def test_a_name_it_does_not_have_is_named_with_those_it_has(full):
    with pytest.raises(KeyError, match="a has no 'cost'; it has id, image, text"):
        full["cost"]
    assert full.get("cost") is None
    assert full.get("cost", 7) == 7
    with pytest.raises(KeyError, match="ids"):
        Record("b")["ids"]


def test_the_vector_is_the_pictures_or_the_only_one():
    assert Record("a", vectors={"text": -VECTOR, "image": VECTOR}).vector is VECTOR
    assert Record("a", vectors={"text": VECTOR}).vector is VECTOR
    with pytest.raises(KeyError, match="embed"):
        _ = Record("a").vector


def test_records_do_not_change():
    record = Record("a", attributes={"price": 1})
    with pytest.raises(AttributeError):
        record.id = "b"
    dearer = record.with_attributes(price=2, shop="x")
    assert (record.attributes, dearer.attributes) == ({"price": 1}, {"price": 2, "shop": "x"})


def test_the_source_is_the_file_only_as_long_as_the_picture_is_the_one_decoded_from_it():
    picture, other = Image.new("RGB", (2, 2)), Image.new("RGB", (2, 2))
    decoded = Record("a", image=picture, origin=(b"file", picture))
    assert decoded.source == b"file"
    assert Record("a", image=other, origin=(b"file", picture)).source is other
    assert Record("a", image=other).source is other
    # In another process it still is.
    assert pickle.loads(pickle.dumps(decoded)).source == b"file"


def test_kinds_of_failures():
    assert Failure("a", "decode", DecodeError("no picture")).kind == "DecodeError"
    assert Failure("a", "map(f)", FunctionError("raised", kind="KeyError")).kind == "KeyError"
    again = pickle.loads(pickle.dumps(Failure("a", "map(f)", FunctionError("r", kind="E", trace="t"), 5)))
    assert (again.kind, again.error.trace, again.value) == ("E", "t", 5)


def test_names_and_content_ids():
    assert name_of(Record("a")) == "a"
    assert name_of("word") == "'word'"
    assert len(name_of("x" * 100)) == 60
    # SHA-256 of nothing, as FIPS 180-4 has it.
    assert content_id(b"") == "e3b0c44298fc1c149afbf4c8996fb924"
