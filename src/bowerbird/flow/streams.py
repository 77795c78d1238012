"""Bytes that arrive piece by piece as an ordinary open file."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import BinaryIO, cast

_BUFFER = 1 << 18


class _Pieces(io.RawIOBase):
    """A raw stream over a function that gives the next bytes, at most as many as asked for."""

    def __init__(
        self,
        read: Callable[[int], bytes],
        close: Callable[[], None],
        translate: Callable[[Exception], Exception],
        seek: Callable[[int, int], int] | None,
    ) -> None:
        super().__init__()
        self._read = read
        self._seek = seek
        self._close = close
        self._translate = translate

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            data = self._read(len(buffer))
        except Exception as error:
            raise self._translate(error) from error
        buffer[: len(data)] = data
        return len(data)

    def seekable(self) -> bool:
        return self._seek is not None

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if self._seek is None:
            raise io.UnsupportedOperation("seek")
        return self._seek(offset, whence)

    def close(self) -> None:
        if not self.closed:
            self._close()
        super().close()


def buffered(
    read: Callable[[int], bytes],
    close: Callable[[], None],
    translate: Callable[[Exception], Exception],
    seek: Callable[[int, int], int] | None = None,
) -> BinaryIO:
    """An open file, for reading only.

    Args:
        read: gives the next bytes, at most so many; nothing at the end.
        close: called once.
        translate: what `read` raises -> what a reader of the file sees.
        seek: as of a file; None: it can only be read from its beginning to its end.
    """
    return cast(BinaryIO, io.BufferedReader(_Pieces(read, close, translate, seek), _BUFFER))
