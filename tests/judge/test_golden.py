"""The file of reference arrays: what is written comes back, and what is wrong is named."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from bowerbird.errors import BowerbirdError, ModelFormatError
from bowerbird.judge.golden import Golden, PictureGolden, TextGolden, pixels_sha256


def sample() -> Golden:
    rng = np.random.default_rng(3)
    table = np.linspace(-1, 1, 256, dtype=np.float32)
    pictures = tuple(
        PictureGolden(
            name=name,
            sha256=hashlib.sha256(name.encode()).hexdigest(),
            decoded=rng.integers(0, 256, (9, 7, 3), np.uint8),
            pixel_values=table[rng.integers(0, 256, (3, 8, 8))],
            raw=raw,
            pooled=rng.standard_normal(4).astype(np.float32),
            unit=np.float32([1, 0, 0, 0]),
        )
        for name, raw in (("a.jpg", None), ("ü\n.png", np.float32([[1, 2], [3, 4]])))
    )
    texts = tuple(
        TextGolden(text, role, np.arange(length), np.float32([3, 4]), np.float32([0.6, 0.8]))
        for text, role, length in (("", "", 2), ("two\nlines ", "query", 5))
    )
    meta = {"model": "m", "profile": "hf4-pil", "made_with": {"torch": "2"}, "bound": {"unit": 0.99999}}
    return Golden(meta, pictures, texts)


@pytest.mark.parametrize("compact", [False, True])
def test_what_is_written_comes_back(tmp_path: Path, compact: bool) -> None:
    golden = sample()
    golden.write(tmp_path / "ref.npz", compact=compact)
    back = Golden.read(tmp_path / "ref.npz")
    assert {**golden.meta, "format": 1} == back.meta
    assert (back.model, back.made_with, back.bound("unit"), back.bound("raw")) == (
        "m",
        {"torch": "2"},
        0.99999,
        None,
    )
    for ours, theirs in zip(golden.pictures, back.pictures, strict=True):
        assert (theirs.name, theirs.sha256) == (ours.name, ours.sha256)
        assert theirs.decoded_sha256 == pixels_sha256(ours.decoded)
        assert theirs.decoded is None if compact else np.array_equal(theirs.decoded, ours.decoded)
        assert np.array_equal(theirs.pixel_values, ours.pixel_values)
        assert theirs.pixel_values.dtype == np.float32
        assert theirs.raw is None if ours.raw is None else np.array_equal(theirs.raw, ours.raw)
        assert np.array_equal(theirs.pooled, ours.pooled)
    for ours, theirs in zip(golden.texts, back.texts, strict=True):
        assert (theirs.text, theirs.role) == (ours.text, ours.role)
        assert np.array_equal(theirs.input_ids, ours.input_ids)
        assert theirs.raw is None
        assert np.array_equal(theirs.unit, ours.unit)


def test_the_same_arrays_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        sample().write(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_compact_keeps_float_pictures_whole(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((3, 40, 40)).astype(np.float32)  # 1600 levels
    whole = sample().pictures[0]
    picture = PictureGolden(whole.name, whole.sha256, values, whole.pooled, whole.unit, whole.decoded)
    Golden({}, (picture,)).write(tmp_path / "ref.npz", compact=True)
    assert np.array_equal(Golden.read(tmp_path / "ref.npz").pictures[0].pixel_values, values)


def rewritten(path: Path, **changed: object) -> Path:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    arrays.update({name.replace("__", "."): value for name, value in changed.items()})
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"image__pooled": None}, "image.pooled"),
        ({"image__unit": np.zeros((1, 4), np.float32)}, "image.unit has 1 rows for 2"),
        ({"image__pixel_values__1": np.zeros((3, 8, 8), np.int64)}, "image.pixel_values.1 is int64"),
        ({"image__decoded__0": np.zeros((8, 8), np.uint8)}, "image.decoded.0"),
        ({"image__decoded__0": None, "image__decoded_sha256": None}, "image.decoded.0"),
        ({"text__input_ids__1": None}, "text.input_ids.1"),
        ({"text__role": np.array(["query"])}, "text.role has 1 entries for 2"),
        ({"meta": np.array('{"format": 2}')}, "format 1"),
        ({"meta": np.array("{")}, "not JSON"),
        ({"meta": np.array(json.dumps({"format": 1, "bound": {"all": 0.9}}))}, "`bound`"),
        ({"meta": None}, "meta"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changed: dict[str, object], named: str) -> None:
    sample().write(tmp_path / "ref.npz")
    with pytest.raises(ModelFormatError, match=r"ref\.npz") as caught:
        Golden.read(rewritten(tmp_path / "ref.npz", **changed))
    assert named in str(caught.value)


def test_files_that_are_no_such_file(tmp_path: Path) -> None:
    sample().write(tmp_path / "ref.npz")
    whole = (tmp_path / "ref.npz").read_bytes()
    for name, data in (("cut", whole[:-200]), ("text", b"hello"), ("empty", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ModelFormatError, match=name):
            Golden.read(tmp_path / name)
    with pytest.raises(ModelFormatError, match="bowerbird golden"):
        Golden.read(tmp_path / "none.npz")
    np.savez(tmp_path / "pickle.npz", meta=np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ModelFormatError, match=r"pickle\.npz"):
        Golden.read(tmp_path / "pickle.npz")


def test_a_text_that_the_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    text = TextGolden("nul\0", "", np.arange(3), np.ones(2, np.float32), np.ones(2, np.float32))
    with pytest.raises(BowerbirdError, match="NUL"):
        Golden({}, (), (text,)).write(tmp_path / "ref.npz")
