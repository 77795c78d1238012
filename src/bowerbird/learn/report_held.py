"""The held-out set of a run, read again: names, texts, and vectors before and after."""

from __future__ import annotations

import base64
import binascii
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import LearnError
from bowerbird.learn.examples import Places, Vectors
from bowerbird.learn.run import ARRAYS
from bowerbird.search.gap import unit


@dataclass(frozen=True)
class HeldPicture:
    """A picture of the held-out set.

    Attributes:
        id: of its record.
        name: for people.
        thumbnail: bytes of a small JPEG; empty where there is none.
    """

    id: str
    name: str
    thumbnail: bytes


@dataclass(frozen=True, eq=False)
class Held:
    """What the run was tested on.

    Attributes:
        pictures: each once.
        texts: each once.
        links: int64 (m, 2): place of a picture, place of one of its texts.
        labels: int64 (n,): place in `classes` of each picture's class; None without classes.
        classes: their names.
        before: (pictures, texts), float32 unit rows under the model as it was; texts are None where the two towers
            shared no space. None where nothing was kept.
        after: the same under the fitted model.
    """

    pictures: tuple[HeldPicture, ...]
    texts: tuple[str, ...]
    links: Places
    labels: Places | None
    classes: tuple[str, ...]
    before: tuple[Vectors, Vectors | None] | None
    after: tuple[Vectors, Vectors | None] | None


@dataclass(frozen=True)
class Keys:
    """The keys of a JSON object; what is absent is empty, and what is of another type is damage.

    Attributes:
        file: for messages.
        data: of the file.
    """

    file: Path
    data: Mapping[str, Any]

    def text(self, key: str) -> str:
        """A string."""
        return str(self._of(key, str, ""))

    def mapping(self, key: str) -> dict[str, Any]:
        """An object."""
        return dict(self._of(key, dict, {}))

    def listed(self, key: str) -> list[Any]:
        """A list."""
        return list(self._of(key, list, []))

    def rows(self, key: str) -> list[dict[str, Any]]:
        """A list of objects."""
        found = self.listed(key)
        if any(not isinstance(one, dict) for one in found):
            raise damaged(self.file, f"{key!r} holds something else than objects")
        return found

    def _of(self, key: str, kind: type, absent: Any) -> Any:
        value = self.data.get(key)
        if value is None:
            return absent
        if not isinstance(value, kind):
            raise damaged(self.file, f"{key!r} holds {type(value).__name__}, not {kind.__name__}")
        return value


def damaged(file: Path, why: str) -> LearnError:
    """The error for a file that is not as it was written."""
    return LearnError(f"{file} is damaged: {why}.", hint="Fit again.")


def read_held(place: Path, keys: Keys) -> Held | None:
    """The held-out set, or None where no arrays lie beside the facts."""
    file = place / ARRAYS
    arrays = _arrays(file)
    if arrays is None:
        return None
    pictures = tuple(
        HeldPicture(
            str(one.get("id", "")),
            str(one.get("name", "")),
            _thumbnail(one.get("thumbnail")),
        )
        for one in keys.rows("held_out_pictures")
    )
    texts = tuple(map(str, keys.listed("held_out_texts")))
    links = np.asarray(arrays.get("links", np.zeros((0, 2))), np.int64).reshape(-1, 2)
    labels = arrays.get("labels")
    classes = tuple(map(str, keys.listed("classes")))
    held = Held(
        pictures,
        texts,
        links,
        labels.astype(np.int64) if labels is not None and labels.size and classes else None,
        classes,
        _pair(arrays, "before"),
        _pair(arrays, "after"),
    )
    _check(held, file)
    return held


def _arrays(file: Path) -> dict[str, NDArray[Any]] | None:
    try:
        # Opened here: where NumPy finds no arrays in it, it would leave it open.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except FileNotFoundError:
        return None
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        AttributeError,
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
    ) as error:
        raise damaged(file, str(error).rstrip(".") or type(error).__name__) from error


def _pair(arrays: Mapping[str, NDArray[Any]], state: str) -> tuple[Vectors, Vectors | None] | None:
    images, texts = arrays.get(f"images_{state}"), arrays.get(f"texts_{state}")
    if images is None:
        return None
    shared = texts is not None and texts.ndim == 2 and texts.shape[1:] == images.shape[1:]
    return _full(images), _full(texts) if texts is not None and shared else None


def _full(rows: NDArray[Any]) -> Vectors:
    """Float16 rows are of length 1 to three digits only; what is no number is 0."""
    return np.nan_to_num(unit(rows.astype(np.float32)))


def _check(held: Held, file: Path) -> None:
    """Refuse arrays that do not belong to the facts."""
    sizes = (len(held.pictures), len(held.texts))
    for state, pair in (("before", held.before), ("after", held.after)):
        for kind, rows, size in zip(("images", "texts"), pair or (), sizes, strict=False):
            if rows is not None and (rows.ndim != 2 or len(rows) != size):
                raise damaged(file, f"{kind}_{state} has shape {rows.shape} for {size} {kind}")
    inside = held.links.size == 0 or (held.links.min() >= 0 and (held.links.max(0) < sizes).all())
    if not inside or (held.labels is not None and len(held.labels) != sizes[0]):
        raise damaged(file, "links or labels lead to pictures or texts that are not there")
    if held.labels is not None and not ((held.labels >= 0) & (held.labels < len(held.classes))).all():
        raise damaged(file, "labels name classes that are not there")


def _thumbnail(value: object) -> bytes:
    try:
        return base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except (binascii.Error, ValueError):
        return b""
