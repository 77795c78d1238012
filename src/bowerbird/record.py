"""A record: one thing to find, with a picture, a text, or both."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import TypeAlias


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


@dataclass(frozen=True)
class Record:
    """One thing to find.

    Attributes:
        id: the user's own, or the content id of the picture.
        parts: modality -> where the part comes from (a path or URI of a picture) or the text itself.
        attributes: whatever filters may ask for; values are strings, numbers, booleans, times or None.
    """

    id: str
    parts: Mapping[Modality, str]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
