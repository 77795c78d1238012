"""What things are: records and their parts, attributes, and identity by content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bowerbird.errors import InputError
    from bowerbird.hits import Hits


class Modality(str, Enum):
    """What kind of thing a part of a record, or a query, is."""

    IMAGE = "image"
    TEXT = "text"

    def __str__(self) -> str:
        return self.value


Attribute: TypeAlias = str | int | float | bool | datetime | None


def content_id(data: bytes) -> str:
    """The identity of some bytes: the first 128 bits of their SHA-256, as 32 hexadecimal digits.

    128 bits keep the chance of any collision among 10 billion files below 1e-18.
    """
    return hashlib.sha256(data).hexdigest()[:32]


FACTS = frozenset({"width", "height", "format", "taken_at", "content"})
"""Names of what a record tells once its picture has been decoded."""


@dataclass(frozen=True, repr=False)
class Record:
    """One thing to find: a picture, texts that say what it is, or both.

    `record["price"]` gives an attribute, or `id`, `image`, `text`, `texts`, `ids` or `scores`, or a vector.

    Attributes:
        id: the user's; otherwise where it comes from: a path, an address, or `FILE:LINE`.
        image: a `Path`, the bytes of a picture file, a Pillow image, a uint8 array (h, w, 3), or something that
            is read when it is needed (`bowerbird.media.reading.Readable`); None when there is no picture.
        texts: its captions; most records have one or none.
        attributes: what else is known of it; filters ask for these.
        vectors: by name, each float32 (dim,), of length 1; of several texts (n, dim). `embed` says how it names them.
        norms: by the same names, the lengths before scaling to 1.
        content: content id of the bytes of its parts, once they have been read.
        named: whether the id is the user's own; sources that make it from a place say that it is not.
        facts: what decoding has told of its picture: `format`, `width`, `height`, `taken_at`, as of `Picture`.
        origin: (a file, the picture decoded from it). As long as `image` is that picture, models read the file
            itself, so that vectors do not depend on whether somebody has looked at the picture before.
        hits: what a search found for it.
    """

    id: str
    image: Any = None
    texts: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    vectors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    norms: Mapping[str, Any] = field(default_factory=dict)
    content: str = ""
    named: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)
    origin: tuple[Any, Any] | None = field(default=None, repr=False)
    hits: Hits | None = None

    def __repr__(self) -> str:
        parts = [repr(self.id)]
        if self.image is not None:
            parts.append(f"image={_shortened(self.image)}")
        if self.texts:
            parts.append(f"texts={_shortened(self.texts)}")
        if self.attributes:
            parts.append(f"attributes={_shortened(dict(self.attributes))}")
        if self.vectors:
            shapes = ", ".join(f"{name} {vector.shape}" for name, vector in self.vectors.items())
            parts.append(f"vectors: {shapes}")
        if self.hits is not None:
            parts.append(f"{len(self.hits)} hits")
        return f"Record({', '.join(parts)})"

    @property
    def text(self) -> str | None:
        """The first of the texts."""
        return self.texts[0] if self.texts else None

    @property
    def source(self) -> Any:
        """What a model reads: the file where the picture is as it was decoded, else the picture."""
        return self.origin[0] if self.origin and self.origin[1] is self.image else self.image

    @property
    def vector(self) -> NDArray[np.float32]:
        """The picture's vector, or the only one there is.

        Raises:
            KeyError: there is none.
        """
        if not self.vectors:
            raise KeyError(f"{self.id} has no vector; `embed` makes one")
        return self.vectors["image"] if "image" in self.vectors else next(iter(self.vectors.values()))

    def __getitem__(self, name: str) -> Any:
        if name in self.attributes:
            return self.attributes[name]
        if name in ("id", "image", "text", "texts", "content", "vector"):
            return getattr(self, name)
        if name in ("ids", "scores") and self.hits is not None:
            return getattr(self.hits, name)
        if name in self.vectors:
            return self.vectors[name]
        if name in self.facts:
            return self.facts[name]
        raise KeyError(f"{self.id} has no {name!r}; it has {', '.join(self)}")

    def get(self, name: str, default: Any = None) -> Any:
        """Like `record[name]`, with a default for what is not there."""
        try:
            return self[name]
        except KeyError:
            return default

    def __iter__(self) -> Iterator[str]:
        """The names that `record[name]` takes."""
        yield "id"
        if self.image is not None:
            yield "image"
        if self.texts:
            yield from ("text", "texts")
        if self.content:
            yield "content"
        yield from self.attributes
        yield from (name for name in self.facts if name not in self.attributes)
        if self.vectors:
            yield "vector"
        yield from self.vectors
        if self.hits is not None:
            yield from ("ids", "scores")

    def keys(self) -> list[str]:
        """The names that `record[name]` takes."""
        return list(self)

    def with_attributes(self, **attributes: Any) -> Record:
        """A copy with some attributes added or changed."""
        return replace(self, attributes={**self.attributes, **attributes})


@dataclass(frozen=True, repr=False)
class Failure:
    """What stands in the place of a record, or of any element of a collection, that could not be worked on.

    Attributes:
        id: of the record; of other elements, how they print, shortened.
        step: what failed, such as `decode` or `map(parse)`.
        error: why.
        value: the element as it was before the step; None when there never was one, as with a malformed row.
    """

    id: str
    step: str
    error: InputError
    value: Any = None

    def __repr__(self) -> str:
        return f"Failure({self.id!r}, {self.step}, {type(self.error).__name__}: {self.error.message})"

    @property
    def kind(self) -> str:
        """What it is counted as: the type of the error; of a function's, the type that it raised."""
        return getattr(self.error, "kind", "") or type(self.error).__name__


def _shortened(value: object) -> str:
    """How a value prints: pictures and bytes by what they are, other things cut."""
    if isinstance(value, bytes):
        return f"<{len(value):,} bytes>"
    if hasattr(value, "shape"):
        return f"<array {value.shape}>"
    if type(value).__module__.startswith("PIL."):
        return f"<picture {'x'.join(map(str, getattr(value, 'size', ())))}>"
    shown = str(value) if hasattr(value, "__fspath__") else repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def name_of(value: object) -> str:
    """How messages call an element of a collection."""
    if isinstance(value, Record):
        return value.id
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
