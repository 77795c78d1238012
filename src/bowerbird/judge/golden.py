"""The file of reference arrays: what the original network made of pictures and texts, stage by stage.

One `.npz`, format 1, read and written with NumPy alone::

    meta                        JSON: format, model, profile, made_with {"torch": ...}, bowerbird; optionally bound
    image.name, image.sha256    (n,) str; the hash is of the picture file's bytes
    image.decoded.<i>           uint8 (h, w, 3), upright RGB; may be left out where `image.decoded_sha256` is there
    image.decoded_sha256        (n,) str; of the decoded pixels, see `pixels_sha256`
    image.pixel_values.<i>      float32, what the network takes, without the batch axis: (3, H, W)
    image.pixel_codes.<i>       uint8 (c, H, W), image.pixel_table.<i> float32 (c, 256): the same, small; see `_coded`
    image.raw.<i>               float32, the network's output before pooling; optional
    image.pooled, image.unit    float32 (n, d)
    text.text, text.role        (n,) str
    text.input_ids.<i>          int64 (T,), special tokens included; padding only where the model was trained with it
    text.raw.<i>                float32 (T, d); optional
    text.pooled, text.unit      float32 (n, d)
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import BowerbirdError, ModelFormatError

FORMAT = 1

FILE_NAME = "golden.npz"
"""Under this name a model directory carries its own proof."""

BOUNDED = ("raw", "pooled", "unit")
"""Stages for which `meta["bound"]` may give the least cosine that counts as agreement."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PictureGolden:
    """What the original network made of one picture.

    Attributes:
        name: file name, for people and for finding the file again.
        sha256: of the file's bytes, 64 hexadecimal digits.
        pixel_values: float32, what the network takes, without the batch axis: (3, H, W) for most.
        pooled: float32 (d,), the embedding before it is scaled to length 1.
        unit: float32 (d,), of length 1.
        decoded: uint8 (h, w, 3), upright RGB; None where only its hash is kept.
        raw: float32, the network's output before pooling, such as (tokens, d); None where it was not kept.
        decoded_sha256: `pixels_sha256(decoded)`; filled in when `decoded` is given.
    """

    name: str
    sha256: str
    pixel_values: Floats
    pooled: Floats
    unit: Floats
    decoded: NDArray[np.uint8] | None = None
    raw: Floats | None = None
    decoded_sha256: str = ""

    def __post_init__(self) -> None:
        if self.decoded is not None:
            object.__setattr__(self, "decoded_sha256", pixels_sha256(self.decoded))


@dataclass(frozen=True, eq=False)
class TextGolden:
    """What the original network made of one text.

    Attributes:
        text: as the user gives it, without any prompt.
        role: `query`, `document`, another prompt's name, or empty for the default.
        input_ids: int64 (T,), special tokens included.
        pooled: float32 (d,), the embedding before it is scaled to length 1.
        unit: float32 (d,), of length 1.
        raw: float32 (T, d), token vectors before pooling; None where they were not kept.
    """

    text: str
    role: str
    input_ids: NDArray[np.int64]
    pooled: Floats
    unit: Floats
    raw: Floats | None = None


@dataclass(frozen=True, eq=False)
class Golden:
    """Reference arrays of one model.

    Attributes:
        meta: plain data: `model`, `profile`, `made_with` (package -> version), `bowerbird`, and optionally `bound`
            (stage -> least cosine, see `BOUNDED`) where the published weights are rounded. Writing adds `format`.
        pictures: in the order of the file.
        texts: in the order of the file.
    """

    meta: Mapping[str, Any]
    pictures: tuple[PictureGolden, ...] = ()
    texts: tuple[TextGolden, ...] = field(default=())

    @property
    def model(self) -> str:
        """The model that the arrays are of, as its makers call it."""
        return str(self.meta.get("model", ""))

    @property
    def made_with(self) -> dict[str, str]:
        """Package -> version of the original stack."""
        return {str(name): str(version) for name, version in self.meta.get("made_with", {}).items()}

    def bound(self, stage: str) -> float | None:
        """The least cosine that the file itself allows at a stage; None where it says nothing."""
        value = self.meta.get("bound", {}).get(stage)
        return None if value is None else float(value)

    @classmethod
    def read(cls, path: Path) -> Golden:
        """Read a file of reference arrays; nothing in it is executed.

        Raises:
            ModelFormatError: it cannot be read, is damaged, or an array is missing or of another type or shape.
        """
        try:
            # Opened here: NumPy leaves a file that it opened and could not read open.
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except FileNotFoundError as error:
            raise ModelFormatError(f"There is no file {path}.", hint=_MAKE) from error
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ModelFormatError(
                f"{path} cannot be read as reference arrays: {error}.", hint=_MAKE
            ) from error
        return _Reader(path, arrays).golden()

    def write(self, path: Path, *, compact: bool = False) -> None:
        """Write the file; the same arrays give the same bytes.

        Args:
            path: replaced if it is there.
            compact: keep pixel values as 8-bit codes with a table where that loses nothing, and of decoded pictures
                only the hash.

        Raises:
            BowerbirdError: it cannot be written.
        """
        arrays: dict[str, NDArray[Any]] = {
            "meta": np.array(json.dumps({**self.meta, "format": FORMAT}, sort_keys=True))
        }
        if self.pictures:
            arrays.update(_picture_arrays(self.pictures, compact=compact))
        if self.texts:
            arrays.update(_text_arrays(self.texts))
        try:
            with path.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **arrays)
        except OSError as error:
            raise BowerbirdError(
                f"{path} cannot be written: {error.strerror or error}.", hint="Check where it should go."
            ) from error


_MAKE = "Make one with `bowerbird golden MODEL pictures... -o ref.npz`."


def pixels_sha256(pixels: NDArray[np.uint8]) -> str:
    """Hash of a decoded picture: SHA-256 over its shape, as `h,w,3` in ASCII, and its bytes row by row."""
    digest = hashlib.sha256(",".join(map(str, pixels.shape)).encode("ascii"))
    digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()


def _picture_arrays(pictures: Sequence[PictureGolden], *, compact: bool) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {
        "image.name": _strings([picture.name for picture in pictures]),
        "image.sha256": _strings([picture.sha256 for picture in pictures]),
        "image.decoded_sha256": _strings([picture.decoded_sha256 for picture in pictures]),
        "image.pooled": np.stack([picture.pooled for picture in pictures]).astype(np.float32),
        "image.unit": np.stack([picture.unit for picture in pictures]).astype(np.float32),
    }
    for number, picture in enumerate(pictures):
        if picture.decoded is not None and not compact:
            arrays[f"image.decoded.{number}"] = picture.decoded
        coded = _coded(picture.pixel_values) if compact else None
        if coded is None:
            arrays[f"image.pixel_values.{number}"] = picture.pixel_values
        else:
            arrays[f"image.pixel_codes.{number}"], arrays[f"image.pixel_table.{number}"] = coded
        if picture.raw is not None:
            arrays[f"image.raw.{number}"] = picture.raw
    return arrays


def _text_arrays(texts: Sequence[TextGolden]) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {
        "text.text": _strings([text.text for text in texts]),
        "text.role": _strings([text.role for text in texts]),
        "text.pooled": np.stack([text.pooled for text in texts]).astype(np.float32),
        "text.unit": np.stack([text.unit for text in texts]).astype(np.float32),
    }
    for number, text in enumerate(texts):
        arrays[f"text.input_ids.{number}"] = text.input_ids
        if text.raw is not None:
            arrays[f"text.raw.{number}"] = text.raw
    return arrays


def _strings(values: Sequence[str]) -> NDArray[np.str_]:
    """NumPy drops NUL characters at the end of a text, which would then be another text."""
    for value in values:
        if value.endswith("\0"):
            raise BowerbirdError(
                f"{value!r} ends in a NUL character, which the file cannot hold.", hint="Leave it out."
            )
    return np.array(values, dtype=np.str_)


def _coded(values: Floats) -> tuple[NDArray[np.uint8], Floats] | None:
    """8-bit codes and a table (channels, 256) that give the values back exactly; None where there is no such table.

    The codes are kept as differences, modulo 256, to the left neighbour and then to the first channel, as PNG does:
    deflated, that is half the size.
    """
    codes = np.empty(values.shape, np.uint8)
    table = np.zeros((len(values), 256), np.float32)
    for channel, plane in enumerate(values):
        levels, positions = np.unique(plane, return_inverse=True)
        if len(levels) > 256:
            return None
        table[channel, : len(levels)] = levels
        codes[channel] = positions.reshape(plane.shape)
    codes[..., 1:] -= codes[..., :-1].copy()
    codes[1:] -= codes[0]
    return codes, table


def _decoded(codes: NDArray[np.uint8], table: Floats) -> Floats:
    """What `_coded` was given."""
    codes = codes.copy()
    codes[1:] += codes[0]
    codes = np.cumsum(codes, axis=-1, dtype=np.uint8)
    return np.stack([table[channel][plane] for channel, plane in enumerate(codes)])


_Item = TypeVar("_Item", PictureGolden, TextGolden)


@dataclass(frozen=True)
class _Reader:
    """Takes the arrays of a file apart, checking each."""

    path: Path
    arrays: Mapping[str, NDArray[Any]]

    def golden(self) -> Golden:
        meta = self._meta()
        pictures = self._items("image", "image.name", self._picture)
        texts = self._items("text", "text.text", self._text)
        if not pictures and not texts:
            raise ModelFormatError(f"{self.path} holds neither pictures nor texts.", hint=_MAKE)
        return Golden(meta, pictures, texts)

    def _items(self, what: str, key: str, one: Callable[[int, int], _Item]) -> tuple[_Item, ...]:
        """One item for each entry of `key`; there are none where the file has no array of this kind."""
        if not any(name.startswith(f"{what}.") for name in self.arrays):
            return ()
        count = len(self._strings(key))
        return tuple(one(number, count) for number in range(count))

    def _meta(self) -> dict[str, Any]:
        try:
            meta = json.loads(str(self._array("meta", "U", 0)))
        except ValueError as error:
            raise ModelFormatError(f"{self.path}: `meta` is not JSON: {error}.", hint=_MAKE) from error
        if not isinstance(meta, dict) or meta.get("format") != FORMAT:
            raise ModelFormatError(
                f"{self.path} is of a format this version does not read; it reads format {FORMAT}.",
                hint="Upgrade bowerbird, or make the file again.",
            )
        if not isinstance(meta.get("made_with", {}), dict):
            raise ModelFormatError(f"{self.path}: `made_with` in `meta` is an object: package -> version.")
        bound = meta.get("bound", {})
        fits = isinstance(bound, dict) and all(
            stage in BOUNDED and isinstance(value, (int, float)) and 0 <= value <= 1
            for stage, value in bound.items()
        )
        if not fits:
            raise ModelFormatError(
                f"{self.path}: `bound` {bound!r} in `meta` is not understood.",
                hint=f"It maps {', '.join(BOUNDED)} to a cosine from 0 to 1.",
            )
        return meta

    def _picture(self, number: int, count: int) -> PictureGolden:
        hashes = (
            self._strings("image.decoded_sha256", count)
            if "image.decoded_sha256" in self.arrays
            else [""] * count
        )
        decoded = self._optional(f"image.decoded.{number}", "u", 3)
        if decoded is None and not hashes[number]:
            raise self._missing(f"image.decoded.{number}")
        return PictureGolden(
            name=self._strings("image.name")[number],
            sha256=self._strings("image.sha256", count)[number],
            pixel_values=self._pixel_values(number),
            pooled=self._rows("image.pooled", count)[number],
            unit=self._rows("image.unit", count)[number],
            decoded=None if decoded is None else decoded.astype(np.uint8, copy=False),
            raw=self._optional(f"image.raw.{number}", "f"),
            decoded_sha256=hashes[number],
        )

    def _text(self, number: int, count: int) -> TextGolden:
        return TextGolden(
            text=self._strings("text.text")[number],
            role=self._strings("text.role", count)[number],
            input_ids=self._array(f"text.input_ids.{number}", "iu", 1).astype(np.int64),
            pooled=self._rows("text.pooled", count)[number],
            unit=self._rows("text.unit", count)[number],
            raw=self._optional(f"text.raw.{number}", "f"),
        )

    def _pixel_values(self, number: int) -> Floats:
        if f"image.pixel_codes.{number}" not in self.arrays:
            return self._array(f"image.pixel_values.{number}", "f").astype(np.float32)
        codes = self._array(f"image.pixel_codes.{number}", "u", 3)
        table = self._array(f"image.pixel_table.{number}", "f", 2).astype(np.float32)
        if table.shape != (len(codes), 256):
            raise ModelFormatError(
                f"{self.path}: image.pixel_table.{number} has shape {table.shape}, not {(len(codes), 256)}."
            )
        return _decoded(codes, table)

    def _rows(self, key: str, count: int) -> Floats:
        rows = self._array(key, "f", 2)
        if len(rows) != count:
            raise ModelFormatError(f"{self.path}: {key} has {len(rows)} rows for {count} items.", hint=_MAKE)
        return rows.astype(np.float32)

    def _strings(self, key: str, count: int | None = None) -> list[str]:
        values = [str(value) for value in self._array(key, "U", 1)]
        if count is not None and len(values) != count:
            raise ModelFormatError(
                f"{self.path}: {key} has {len(values)} entries for {count} items.", hint=_MAKE
            )
        return values

    def _optional(self, key: str, kinds: str, axes: int | None = None) -> NDArray[Any] | None:
        return self._array(key, kinds, axes) if key in self.arrays else None

    def _array(self, key: str, kinds: str, axes: int | None = None) -> NDArray[Any]:
        """An array whose dtype is of one of `kinds` (NumPy's letters), with so many axes."""
        array = self.arrays.get(key)
        if array is None:
            raise self._missing(key)
        if array.dtype.kind not in kinds or (axes is not None and array.ndim != axes):
            raise ModelFormatError(
                f"{self.path}: {key} is {array.dtype} with shape {array.shape}, which is not what belongs there.",
                hint=_MAKE,
            )
        return array.astype(np.float32) if kinds == "f" else array

    def _missing(self, key: str) -> ModelFormatError:
        return ModelFormatError(f"{self.path} has no array {key}.", hint=_MAKE)
