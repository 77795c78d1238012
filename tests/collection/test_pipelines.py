"""Ready pipelines: one callable, the same vectors as the model gives."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import bowerbird as bb
from bowerbird.errors import BowerbirdError, DecodeError, InputErrors, ModelError, UnsupportedInputError


@pytest.fixture(scope="module")
def pictures(private_places) -> bb.collection.pipelines.Pipeline:
    return bb.pipeline("image-embedding-mini")


def test_one_picture_however_it_is_given(pictures, photographs, model):
    path = photographs["coffee"]
    expected = model.embed(path)[0]
    for given in (path, str(path), path.read_bytes()):
        vector = pictures(given)
        assert (vector.shape, vector.dtype) == ((384,), np.float32)
        assert (vector == expected).all()
    image = Image.open(path).convert("RGB")
    pixels = model.embed(image)[0]
    assert (pictures(image) == pixels).all()
    assert (pictures(np.asarray(image)) == pixels).all()


def test_a_list_gives_rows_in_order(pictures, photographs, model):
    paths = sorted(photographs.values())
    rows = pictures(paths)
    assert rows.shape == (len(paths), 384)
    assert (rows == model.embed(paths)).all()
    assert pictures(tuple(paths[:1])).shape == (1, 384)
    assert len(pictures([])) == 0
    # The same picture twice is two rows.
    assert pictures([paths[0], paths[0]]).shape == (2, 384)


@pytest.mark.parametrize("task", ["text-embedding", "sentence-embedding"])
def test_texts(task, model):
    embed = bb.pipeline(f"{task}-mini")
    assert np.allclose(embed("a cat"), model.embed("a cat")[0], atol=1e-6)
    assert np.allclose(embed(["a cat", "a dog"]), model.embed(["a cat", "a dog"]), atol=1e-6)


def test_what_fails_is_raised(pictures, photographs, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff nothing")
    with pytest.raises(DecodeError, match=r"broken\.jpg"):
        pictures(broken)
    with pytest.raises(InputErrors) as caught:
        pictures([photographs["coffee"], broken, photographs["rocket"], tmp_path / "gone.jpg"])
    assert set(caught.value.errors) == {1, 3}
    assert caught.value.total == 4
    with pytest.raises(UnsupportedInputError):
        pictures(5)
    with pytest.raises(UnsupportedInputError):
        bb.pipeline("text-embedding-mini")(5)


def test_names_that_are_none():
    for name in ("image-embedding-", "image-embedding", "image-classification-mini", "mini", ""):
        with pytest.raises(BowerbirdError, match="There is no pipeline") as caught:
            bb.pipeline(name)
        assert "image-embedding-MODEL" in caught.value.hint
    with pytest.raises(ModelError):
        bb.pipeline("image-embedding-no-such-model")


def test_it_says_what_it_runs_and_runs_where_it_is_told(photographs):
    here = bb.Local(threads=1)
    embed = bb.pipeline("image-embedding-mini", executor=here)
    assert repr(embed).startswith("<pipeline image-embedding-mini: <Collection")
    assert "embed(mini)" in repr(embed)
    embed(photographs["coffee"])
    assert here.report.done == 1
