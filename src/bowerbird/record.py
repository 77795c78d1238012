"""What things are: modalities, attributes, and identity by content."""

from __future__ import annotations

import hashlib
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
