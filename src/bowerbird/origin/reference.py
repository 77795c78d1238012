"""Reference arrays: what the original stack, with its own processor and tokenizer, makes of pictures and texts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bowerbird.errors import InputError, UnsupportedInputError
from bowerbird.judge.golden import Golden, PictureGolden, TextGolden
from bowerbird.media.image import DecodePolicy, decode, read_bytes
from bowerbird.models.network.precision import probe_sentences
from bowerbird.origin.original import Feeds, Original, Tower


@dataclass(frozen=True)
class Failure:
    """An input of which no reference could be made.

    Attributes:
        name: of the file, or the text itself.
        error: why.
    """

    name: str
    error: InputError


@dataclass(frozen=True)
class Photo:
    """A decoded picture file, as every stack is given it.

    Attributes:
        name: file name.
        sha256: of the file's bytes.
        image: upright RGB; transparency on white, as bowerbird decodes by default.
    """

    name: str
    sha256: str
    image: Image.Image


def probes() -> list[Photo]:
    """The photographs shipped for probing."""
    folder = files("bowerbird.models") / "probe"
    entries = sorted(
        (entry for entry in folder.iterdir() if entry.name.endswith(".jpg")), key=lambda e: e.name
    )
    return [_photo(entry.name, entry.read_bytes()) for entry in entries]


def read_photos(paths: Iterable[Path]) -> Iterator[Photo | Failure]:
    """Decode picture files; one that cannot be decoded gives a `Failure` in its place."""
    for path in paths:
        try:
            yield _photo(path.name, read_bytes(path, DecodePolicy()), shown=str(path))
        except InputError as error:
            yield Failure(str(path), error)


def reference(
    original: Original, photos: Sequence[Photo], texts: Sequence[tuple[str, str]], *, version: str
) -> Golden:
    """Compute the reference arrays of a model.

    Args:
        original: the model in its original stack.
        photos: pictures, for a model that sees pictures.
        texts: (text, role) pairs, for a model that reads texts.
        version: of bowerbird, for the record.

    Raises:
        UnsupportedInputError: pictures or texts were given to a model that does not take them.
    """
    if photos and not original.image:
        raise UnsupportedInputError(f"{original.name} does not take pictures.", hint="Give it --text.")
    if texts and not original.text:
        raise UnsupportedInputError(f"{original.name} does not take texts.", hint="Give it pictures only.")
    meta = {
        "model": original.name,
        "profile": original.profile,
        "made_with": dict(original.made_with),
        "bowerbird": version,
    }
    pictures = tuple(_picture(original.image, photo) for photo in photos) if original.image else ()
    sentences = tuple(_text(original.text, *pair) for pair in texts) if original.text else ()
    return Golden(meta, pictures, sentences)


def probe_texts(tower: Tower) -> list[tuple[str, str]]:
    """The shipped sentences in the default role, and the first two once more in each role that the model knows."""
    sentences = [sentence for sentence in probe_sentences() if sentence]
    return [(text, "") for text in sentences] + [
        (text, role) for role in tower.roles for text in sentences[:2]
    ]


def unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scaled to length 1; zeros stay zeros."""
    scaled: NDArray[np.float32] = vector / np.maximum(np.linalg.norm(vector), np.float32(1e-12))
    return scaled.astype(np.float32)


def _photo(name: str, data: bytes, shown: str = "") -> Photo:
    picture = decode(data, DecodePolicy(), name=shown or name)
    return Photo(name, hashlib.sha256(data).hexdigest(), picture.image)


def _picture(tower: Tower, photo: Photo) -> PictureGolden:
    feeds = tower.prepare(photo.image, "")
    outputs = tower.run(feeds)
    pooled = _pooled(tower, outputs, feeds)
    return PictureGolden(
        name=photo.name,
        sha256=photo.sha256,
        pixel_values=feeds["pixel_values"][0],
        pooled=pooled,
        unit=unit(pooled),
        decoded=np.asarray(photo.image),
        raw=outputs[tower.raw][0] if tower.raw else None,
    )


def _text(tower: Tower, text: str, role: str) -> TextGolden:
    feeds = tower.prepare(text, role)
    outputs = tower.run(feeds)
    if tower.encode:
        pooled, scaled = tower.encode(text, role)
    else:
        pooled = _pooled(tower, outputs, feeds)
        scaled = unit(pooled)
    return TextGolden(
        text=text,
        role=role,
        input_ids=feeds["input_ids"][0].astype(np.int64),
        pooled=pooled,
        unit=scaled,
        raw=outputs[tower.raw][0] if tower.raw else None,
    )


def _pooled(tower: Tower, outputs: dict[str, NDArray[np.float32]], feeds: Feeds) -> NDArray[np.float32]:
    rows = outputs[tower.embedding]
    pooled: NDArray[np.float32] = (tower.embed(rows, feeds) if tower.embed else rows)[0]
    return pooled.astype(np.float32)
