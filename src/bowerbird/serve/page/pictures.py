"""Pictures that people search with: kept for a while, within bounds, and never on disk."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass

from bowerbird.media.image import decode
from bowerbird.media.policy import DecodePolicy
from bowerbird.serve.api.inputs import check_pixels
from bowerbird.serve.limits import Limits

__all__ = ["Given", "Pictures", "preview"]

SIDE = 320
"""Long side of what is shown of it, in pixels."""

BYTES = 256 << 20
"""That all pictures hold together; beyond that the oldest go."""


@dataclass(frozen=True)
class Given:
    """A picture that somebody gave.

    Attributes:
        data: the bytes of its file.
        shown: a small JPEG of it.
    """

    data: bytes
    shown: bytes


class Pictures:
    """Pictures by their names, which say nothing and cannot be guessed without the picture. Safe from any thread.

    Args:
        limits: of the service.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Given] = OrderedDict()
        self._bytes = 0

    @property
    def most(self) -> int:
        """Bytes of one picture."""
        return min(self._limits.fetch_bytes, self._limits.body_bytes)

    def add(self, data: bytes) -> str:
        """Keep a picture; its name. It is decoded to see that it can be, which takes a while.

        Raises:
            InputError: it is no picture that can be read, or a larger one than is taken.
        """
        if refused := check_pixels([data], self._limits):
            raise refused[0]
        given = Given(data, preview(data))
        name = hashlib.sha256(data).hexdigest()
        with self._lock:
            if name not in self._kept:
                self._bytes += len(data) + len(given.shown)
            self._kept[name] = given
            self._kept.move_to_end(name)
            while self._bytes > BYTES and len(self._kept) > 1:
                _, gone = self._kept.popitem(last=False)
                self._bytes -= len(gone.data) + len(gone.shown)
        return name

    def get(self, name: str) -> Given | None:
        """The picture of a name; None when it is not kept any more."""
        with self._lock:
            given = self._kept.get(name)
            if given is not None:
                self._kept.move_to_end(name)
            return given


def preview(data: bytes, side: int = SIDE) -> bytes:
    """A small JPEG of a picture, upright, without anything else that its file tells.

    Raises:
        InputError: it cannot be read.
    """
    return decode(data, DecodePolicy(), name="picture", target=side).thumbnail(side)
