"""The pictures of records: read, named by their content, decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from bowerbird.errors import InputError, UnsupportedInputError
from bowerbird.flow.files import printable
from bowerbird.flow.functions import failed
from bowerbird.flow.plan import CAPACITY, Chunk, Clock, Stateless
from bowerbird.media.image import Picture, decode, from_array, from_pillow
from bowerbird.media.policy import DecodePolicy
from bowerbird.media.reading import Readable, read_bytes
from bowerbird.record import Failure, Record, content_id, name_of
from bowerbird.settings import settings


def read_picture(image: Any, policy: DecodePolicy) -> Any:
    """The bytes of a picture file; a Pillow image or an array as it is.

    Raises:
        InputError: it cannot be read, or is of a type that is no picture.
    """
    if isinstance(image, Path):
        return read_bytes(image, policy)
    if isinstance(image, (bytes, Image.Image, np.ndarray)):
        return image
    if isinstance(image, Readable):
        return image.read(policy)
    hint = "Give a Path, the bytes of a picture file, a Pillow image, or a uint8 array (h, w, 3)."
    if isinstance(image, str):
        hint = "Wrap paths: Path('...'); for addresses see Collection.from_urls and Collection.from_glob."
    raise UnsupportedInputError(f"A picture cannot be given as {type(image).__name__}.", hint=hint)


def as_record(item: Any) -> Any:
    """A record of what is a part by itself: a `Path` is a picture, a `str` is a text; anything else as it is."""
    if isinstance(item, Path):
        return Record(str(item), item, named=False)
    if isinstance(item, str):
        return Record(name_of(item), texts=(item,), named=False)
    return item


def address(image: Any) -> str:
    """Where a picture lies, for people; empty for one that lies nowhere."""
    if isinstance(image, (bytes, Image.Image, np.ndarray)) or image is None:
        return ""
    return printable(str(image))


def picture_content(picture: Any) -> str:
    """The content id of what `read_picture` gave; of pixels, with their shape."""
    if isinstance(picture, bytes):
        return content_id(picture)
    if isinstance(picture, Image.Image):
        return content_id(repr(_look(picture)).encode() + picture.tobytes())
    array = np.ascontiguousarray(picture)
    return content_id(f"{array.dtype}{array.shape}".encode() + array.tobytes())


def _look(image: Image.Image) -> tuple[object, ...]:
    """What else than its pixels decides how a Pillow image looks; see `bowerbird.media.pixels.to_rgb`."""
    palette = image.getpalette("RGBA") if image.mode in ("P", "PA") else None
    return (
        image.mode,
        image.size,
        image.format,
        palette,
        image.info.get("transparency"),
        image.getexif().get(ExifTags.Base.Orientation),
    )


def record_content(parts: Sequence[str]) -> str:
    """The content id of a record, from those of its parts in order: the picture's, then the texts'."""
    return parts[0] if len(parts) == 1 else content_id("\n".join(parts).encode())


def text_content(text: str) -> str:
    """The content id of a text: of its bytes in UTF-8."""
    return content_id(text.encode("utf-8", "surrogatepass"))


def facts(picture: Picture) -> dict[str, Any]:
    """What decoding tells of a picture, as `Record.facts` has it."""
    return {
        "format": picture.format,
        "width": picture.width,
        "height": picture.height,
        "taken_at": picture.taken_at,
    }


def default_policy() -> DecodePolicy:
    """Full decode, under the limits of the settings."""
    chosen = settings()
    return DecodePolicy(
        max_pixels=chosen.max_pixels, max_bytes=chosen.max_bytes, seconds=chosen.decode_seconds
    )


@dataclass(frozen=True)
class Decode(Stateless):
    """The picture of each record becomes an upright RGB Pillow image; `facts` and `content` are filled in."""

    policy: DecodePolicy
    label: str = "decode"
    threads: int = 0
    timed = True

    def run(self, items: Chunk, clock: Clock) -> Chunk:
        """See `Stateless`."""
        plain = self.policy == default_policy()
        return [
            self._one(item, clock, plain=plain) if isinstance(item, Record) else self._other(item)
            for item in map(as_record, items)
        ]

    def _other(self, item: Any) -> Any:
        if item.__class__ is Failure:
            return item
        error = UnsupportedInputError(
            f"decode takes records, not {type(item).__name__}.",
            hint="Make records of pictures with Collection.from_glob, or map to bowerbird.Record.",
        )
        return failed(item, self.label, error)

    def _one(self, record: Record, clock: Clock, *, plain: bool) -> Any:
        if record.image is None:
            return record
        label = "read"
        try:
            with clock.stage("read"):
                data = read_picture(record.image, self.policy)
                content = picture_content(data)
            label = self.label
            with clock.stage("decode"):
                picture = opened(data, self.policy, address(record.image) or record.id)
        except InputError as error:
            return Failure(record.id, label, error, record)
        parts = [content, *map(text_content, record.texts)]
        # What is not a file of this machine is not fetched again.
        source = record.image if isinstance(record.image, Path) else data
        return replace(
            record,
            image=picture.image,
            # Under a policy of the user's own, what it gives is what models are to see.
            origin=(source, picture.image) if plain else None,
            facts={**record.facts, **facts(picture)},
            content=record_content(parts),
        )

    def cost(self, item: Any) -> int:
        """See `Stateless`: pictures are large."""
        return CAPACITY // 4


def opened(data: Any, policy: DecodePolicy, name: str, target: int | None = None) -> Picture:
    """Decode what `read_picture` gave.

    Raises:
        InputError: it cannot be decoded.
    """
    if isinstance(data, bytes):
        return decode(data, policy, name=name, target=target)
    if isinstance(data, Image.Image):
        return from_pillow(data, policy, name=name)
    return from_array(data, name=name)
