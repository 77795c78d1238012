"""Smaller pictures of records, made from the originals when somebody looks at them, and kept within bounds."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from bowerbird.errors import InputError
from bowerbird.media.image import decode
from bowerbird.media.policy import DecodePolicy

__all__ = ["SIDES", "Previews", "preview"]

SIDES = (320, 480, 640, 960, 1280, 1920)
"""Pixels that the long side of a preview may have: few, so that there are few of one picture to make and to keep."""

BYTES = 64 << 20
"""That all previews of an index hold together; beyond that the ones that were not looked at for longest go."""

QUALITY = 84
"""Of the JPEG, to 100."""


class Previews:
    """The previews of an index, by the content of a picture and the side. Safe to use from any thread.

    Args:
        most: bytes.
    """

    def __init__(self, most: int = BYTES) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._bytes = 0

    def get(self, content: str, side: int, make: Callable[[], bytes | None]) -> bytes | None:
        """A preview as it is kept, or as it is made now. Two who ask at once may both have it made.

        Args:
            content: id of the picture's content.
            side: pixels.
            make: gives it; None is not kept.
        """
        key = (content, side)
        with self._lock:
            if (data := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return data
        if (data := make()) is None:
            return None
        with self._lock:
            self._bytes += len(data) - len(self._kept.pop(key, b""))
            self._kept[key] = data
            while self._bytes > self._most:
                _, gone = self._kept.popitem(last=False)
                self._bytes -= len(gone)
        return data


def preview(data: bytes, side: int, policy: DecodePolicy) -> bytes | None:
    """A JPEG of a picture, upright, of at most so many pixels a side, with nothing else that its file tells; None where
    it cannot be decoded.

    Args:
        data: the file.
        side: pixels; a picture that has fewer is not enlarged.
        policy: of decoding.
    """
    try:
        # Its short side has as many pixels at the most: so a photograph is decoded at a fraction of its size.
        return decode(data, replace(policy, scaled=1.0), name="picture", target=side).thumbnail(side, QUALITY)
    except InputError:
        return None
