"""Rows become records: which columns are the picture, the texts and the id, and which ids are taken."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bowerbird.errors import BowerbirdError, RowError
from bowerbird.flow.sources.addresses import picture_at
from bowerbird.media.reading import one_line
from bowerbird.record import Record


@dataclass(frozen=True)
class Columns:
    """Which columns of a table become which part of a record; the others are its attributes.

    Attributes:
        image: the column of the picture; empty: none.
        text: the columns of the texts.
        id: the column of the id; empty: a record is named by where its row stands.
        root: relative paths of pictures are below this folder, or address.
    """

    image: str = ""
    text: tuple[str, ...] = ()
    id: str = ""
    root: str = ""

    @staticmethod
    def of(image: str, text: str | Sequence[str], id: str, root: str) -> Columns:
        """The columns as sources are given them: `text` may be one name or several."""
        return Columns(image, (text,) if isinstance(text, str) and text else tuple(text), id, root)

    @property
    def used(self) -> frozenset[str]:
        """The columns that become no attributes."""
        return frozenset((self.image, *self.text, self.id)) - {""}

    def check(self, have: Iterable[str], table: str, hint: str = "") -> None:
        """Check that the columns are there.

        Raises:
            BowerbirdError: one of them is not.
        """
        have = list(have)
        for name in (self.image, *self.text, self.id):
            if name and name not in have:
                there = ", ".join(repr(one_line(column, 60)) for column in have[:30]) or "none"
                raise BowerbirdError(
                    f"{table} has no column {one_line(name)!r}; its columns: {there}.",
                    hint=hint or "Name the columns as the file does.",
                )

    def record(
        self, row: Mapping[str, Any], place: str, attributes: Mapping[str, Any], **more: Any
    ) -> Record:
        """The record of a row; `more` are other parts of it.

        Raises:
            RowError: the id is missing, or a cell is of a type that its part cannot be.
        """
        return Record(
            id=self.identity(row.get(self.id), place) if self.id else place,
            image=self._picture(row.get(self.image), place) if self.image else None,
            texts=tuple(text for name in self.text for text in _texts(row.get(name), name, place)),
            attributes=attributes,
            named=bool(self.id),
            **more,
        )

    def identity(self, value: Any, place: str) -> str:
        """The id a cell holds: text, or a whole number.

        Raises:
            RowError: it is empty, or of another type.
        """
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if value is None or isinstance(value, str):
            raise RowError(f"{place}: the id is missing; column {self.id!r} is empty.", hint="Fill it in.")
        raise RowError(
            f"{place}: the id in column {self.id!r} is of type {type(value).__name__}.",
            hint="Ids are text or whole numbers.",
        )

    def _picture(self, value: Any, place: str) -> Any:
        if isinstance(value, Mapping) and "bytes" in value:
            # Hugging Face datasets' struct of an image: its bytes, or else where it lies.
            value = value["bytes"] or value.get("path")
        if isinstance(value, bytes):
            return value or None
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        if isinstance(value, str):
            return picture_at(value, self.root)
        raise RowError(
            f"{place}: column {self.image!r} holds a value of type {type(value).__name__}, not a picture.",
            hint="A picture is a path, an address, or the bytes of a file.",
        )


def _texts(value: Any, name: str, place: str) -> list[str]:
    found = [value] if value is None or isinstance(value, str) else value
    if not isinstance(found, list) or not all(text is None or isinstance(text, str) for text in found):
        raise RowError(
            f"{place}: column {name!r} holds a value of type {type(value).__name__}, not text.",
            hint="A text column holds text, or lists of texts.",
        )
    return [text for text in found if text and not text.isspace()]


class Repeats:
    """Which ids stand more than once, at 8 bytes for each id: `note` all, `settle`, then ask `earlier` in order."""

    def __init__(self) -> None:
        self._hashes = array("q")
        self._suspects: Collection[int] = frozenset()
        self._first: dict[str, str] = {}

    def note(self, id: str) -> None:
        """An id that stands in the table."""
        self._hashes.append(hash(id))

    def settle(self) -> bool:
        """All ids have been noted. Whether any may stand twice."""
        values, counts = np.unique(np.frombuffer(self._hashes, np.int64), return_counts=True)
        self._suspects = frozenset(values[counts > 1].tolist())
        self._hashes = array("q")
        return bool(self._suspects)

    def earlier(self, id: str, place: str) -> str:
        """Where the id stood first, when that was before; empty when it is here."""
        if hash(id) not in self._suspects:
            return ""
        first = self._first.setdefault(id, place)
        return "" if first == place else first

    def check(self, id: str, place: str) -> None:
        """Check that the id stands here for the first time.

        Raises:
            RowError: it is taken.
        """
        first = self.earlier(id, place)
        if first:
            raise taken(id, place, first)

    def repeated(self) -> dict[str, str]:
        """Where each id that `earlier` was asked about, and that may stand twice, stood first."""
        return dict(self._first)


def taken(id: str, place: str, first: str) -> RowError:
    """Make the error of an id that stands twice."""
    return RowError(
        f"{place}: the id {one_line(id, 200)!r} is taken by {first}.", hint="Give every row an id of its own."
    )
