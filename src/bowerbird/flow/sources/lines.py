"""Lines of text files: numbered, bounded, and whatever their bytes are."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from bowerbird.errors import BowerbirdError, UnreadableError
from bowerbird.flow.sources.addresses import opened, shown
from bowerbird.media.reading import one_line

MAX_CHARACTERS = 1 << 24
"""The longest line, and the longest row of a table; more is taken for damage, and never held in memory."""


class TooLongError(Exception):
    """A line, or the lines of one row, have more than `MAX_CHARACTERS`."""


class StoppedError(Exception):
    """The file could not be read on; `error` says why."""

    def __init__(self, error: UnreadableError) -> None:
        super().__init__(str(error))
        self.error = error


class Lines:
    """The lines of a text file, with their ends. UTF-8; a byte order mark is left out.

    Attributes:
        number: of the line handed out last, counting from 1.
        damage: what is wrong with the bytes handed out since the last `mark`, naming the line; empty: nothing.
    """

    def __init__(self, stream: TextIO, place: str) -> None:
        self.number = 0
        self.damage = ""
        self._stream = stream
        self._shown = shown(place)
        self._taken: list[str | None] = []  # Since the mark; None stands for a line that is too long.
        self._again: deque[str | None] = deque()
        self._size = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._read()
        if line == "":
            raise StopIteration
        self.number += 1
        self._taken.append(line)
        if line is None:
            raise TooLongError(f"the line has more than {MAX_CHARACTERS:,} characters")
        self._size += len(line)
        if self._size > MAX_CHARACTERS:
            raise TooLongError(f"a quote is not closed within {MAX_CHARACTERS:,} characters")
        if "\0" in line:
            self.damage = self.damage or f"line {self.number} holds a NUL byte"
            # Before Python 3.11 the csv module stops at NUL; nothing else makes this character.
            line = line.replace("\0", "\udc00")
        if not line.isascii() and not self.damage:
            try:
                line.encode("utf-8")
            except UnicodeEncodeError as error:
                byte = ord(line[error.start]) & 0xFF
                self.damage = (
                    f"line {self.number} is not UTF-8 (byte 0x{byte:02X} at character {error.start + 1})"
                )
        return line

    def mark(self) -> None:
        """A row starts with the next line."""
        self._taken.clear()
        self._size = 0
        self.damage = ""

    def back(self, keep: int = 1) -> None:
        """All lines since the mark but the first `keep` will be handed out again."""
        again = self._taken[keep:]
        self._again.extendleft(reversed(again))
        self.number -= len(again)
        del self._taken[keep:]

    def peek(self) -> str:
        """The next line, which stays the next; empty when there is none, or when it cannot be read as one."""
        self.mark()
        try:
            return next(self)
        except (StopIteration, TooLongError, StoppedError):
            return ""
        finally:
            self.back(0)
            self.mark()

    def _read(self) -> str | None:
        try:
            line = self._stream.readline(MAX_CHARACTERS)
            if len(line) < MAX_CHARACTERS or line[-1] in "\r\n":
                return line
            while line and line[-1] not in "\r\n":
                line = self._stream.readline(MAX_CHARACTERS)
        except Exception as error:  # noqa: BLE001  what lies below may be gzip, or the library of an object store
            raise StoppedError(self._reason(error)) from None
        return None

    def _reason(self, error: Exception) -> UnreadableError:
        said = error.message if isinstance(error, BowerbirdError) else one_line(error, 300)
        return UnreadableError(
            f"{self._shown} cannot be read on after line {self.number}: {said or type(error).__name__}.",
            hint="What came before it was read. Check the file, or the connection, and run again.",
        )


@contextmanager
def open_lines(place: str) -> Iterator[Lines]:
    """The lines of a local file or an address; a `.gz` is unpacked.

    Raises:
        UnreadableError: it cannot be opened, or is UTF-16.
    """
    with (
        opened(place) as stream,
        io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="") as text,
    ):
        lines = Lines(text, place)
        first = lines.peek()
        if first.startswith(("\udcff\udcfe", "\udcfe\udcff")):
            raise UnreadableError(
                f"{shown(place)} is UTF-16.", hint="Save it as UTF-8; spreadsheets call it 'CSV UTF-8'."
            )
        yield lines
