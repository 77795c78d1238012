"""Pictures by their addresses on the web."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from bowerbird.errors import BowerbirdError, RowError, UnreadableError
from bowerbird.flow.plan import Source
from bowerbird.flow.remote import is_web, open_bytes
from bowerbird.flow.web import WebFile, WebLimits
from bowerbird.media.reading import one_line
from bowerbird.record import Failure, Record

PART = 200
"""Addresses in a part."""

LONGEST_LINE = 1 << 16
"""A line of more bytes is no address."""


@dataclass(frozen=True)
class WebSource(Source):
    """Pictures by a list of `http://` or `https://` addresses.

    ``WebSource(["https://host/a.jpg"])``, or ``WebSource("urls.txt")``: a file, local or in a store, of one address
    a line; empty lines and lines that begin with # are left out. One string that is itself such an address is a list
    of one. Records have the address as id, and are fetched when
    they are read. What is no such address is a failure at its place.

    Attributes:
        urls: the addresses, or the file that lists them.
        texts: for a list, a text or several for each of its addresses.
        limits: what fetching one may cost.

    Raises:
        BowerbirdError: there are more or fewer texts than addresses, or texts beside a file.
        UnreadableError: when iterated, if the file cannot be read.
    """

    urls: Sequence[str] | str | Path
    texts: Sequence[Any] | None = None
    limits: WebLimits = field(default_factory=WebLimits)

    def __post_init__(self) -> None:
        if isinstance(self.urls, str) and is_web(self.urls):
            object.__setattr__(self, "urls", (self.urls,))
        if self.texts is None:
            return
        if isinstance(self.urls, str | Path):
            raise BowerbirdError(
                "Texts go with a list of addresses, not with a file of them.", hint="Use a table: CSV."
            )
        if len(self.texts) != len(self.urls):
            raise BowerbirdError(f"There are {len(self.urls)} addresses and {len(self.texts)} texts.")

    def __iter__(self) -> Iterator[Record | Failure]:
        if isinstance(self.urls, str | Path):
            for place, line in _lines(self.urls):
                yield self._element(line, place)
            return
        for number, url in enumerate(self.urls):
            yield self._element(url, str(url), self.texts[number] if self.texts is not None else ())

    def _element(self, url: Any, place: str, texts: Any = ()) -> Record | Failure:
        if not isinstance(url, str) or not is_web(url):
            shown = one_line(url, 200)
            error = RowError(
                f"{one_line(place)}: {shown!r} is no http:// or https:// address.",
                hint="Correct it, or leave it out.",
            )
            return Failure(place, "read", error)
        several = (texts,) if isinstance(texts, str) else tuple(texts or ())
        return Record(id=url, image=WebFile(url, self.limits), texts=several, named=False)

    def describe(self) -> str:
        """See `Source`."""
        if isinstance(self.urls, str | Path):
            return f"pictures from the web, listed in {one_line(self.urls)}"
        return f"pictures from {len(self.urls):,} addresses on the web"

    def parts(self) -> Sequence[Source]:
        """See `Source`: slices. A file is read once, here."""
        if isinstance(self.urls, str | Path):
            lines = _lines(self.urls)
            found: list[Source] = []
            while slice_ := tuple(islice(lines, PART)):
                found.append(_Lines(slice_, self))
            return found
        return [
            replace(
                self,
                urls=self.urls[start : start + PART],
                texts=None if self.texts is None else self.texts[start : start + PART],
            )
            for start in range(0, len(self.urls), PART)
        ]

    def count(self) -> int | None:
        """See `Source`."""
        return None if isinstance(self.urls, str | Path) else len(self.urls)


@dataclass(frozen=True)
class _Lines(Source):
    """Some lines of a file, each with the place where it stands."""

    lines: tuple[tuple[str, str], ...] = field(repr=False)
    whole: WebSource

    def __iter__(self) -> Iterator[Record | Failure]:
        return (self.whole._element(line, place) for place, line in self.lines)

    def describe(self) -> str:
        return f"{len(self.lines)} addresses from {one_line(self.lines[0][0])}"

    def count(self) -> int:
        return len(self.lines)


def _lines(path: str | Path) -> Iterator[tuple[str, str]]:
    """`FILE:LINE` and the line, for all that are neither empty nor a comment."""
    name = one_line(str(path).rpartition("/")[2])
    try:
        file = open_bytes(path)
    except OSError as error:
        raise UnreadableError(
            f"{one_line(path)} cannot be read: {(error.strerror or 'no file').lower()}.",
            hint="Check the path.",
        ) from error
    number = 0
    with file:
        while raw := file.readline(LONGEST_LINE):
            number += 1
            line, rest = raw, raw
            while not rest.endswith(b"\n") and (rest := file.readline(LONGEST_LINE)):
                line = b"\0"  # Too long, whatever it holds.
            text = (
                line.removeprefix(b"\xef\xbb\xbf" if number == 1 else b"")
                .decode("utf-8", "backslashreplace")
                .strip()
            )
            if text and not text.startswith("#"):
                yield f"{name}:{number}", text
