"""What an index holds already, by path and by content: what a run compares the files with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bowerbird.search.rows import TOLD, UNSEEN
from bowerbird.store.filters import Filter
from bowerbird.store.table import VECTOR_MARK, Table


class Known:
    """The rows of an index in the order they were read, then written; parallel lists, by row number.

    Attributes:
        ids: of the records.
        uris: where their files lie, or lay.
        contents: content ids of their bytes.
        stamps: (size in bytes, time of change in ns) of their files; see `rows.stamp_of`.
        by_place: what a record is found again by (see `rows.place`) -> its newest row.
        by_content: content id -> the first row that holds it; `copies` has the others.
        seen: 1 for a row whose file the run has met.
        empty: content id -> rows that have its bytes and no vector at all: runs embed those again.
        used: every id that is taken.

    Args:
        table: is read.
        only: these rows; the others are none of the run's business. None: all.
    """

    def __init__(self, table: Table, only: Filter | None = None) -> None:
        self.ids: list[str] = []
        self.uris: list[str] = []
        self.contents: list[str] = []
        self.stamps: list[tuple[int | None, int | None]] = []
        self.by_place: dict[str, int] = {}
        self.by_content: dict[str, int] = {}
        self.copies: dict[str, list[int]] = {}
        self.empty: dict[str, list[int]] = {}
        names = ["id", "uri", "content", "size", "mtime_ns"]
        # Their lengths say which vectors there are, and are read in no time.
        norms = [name for name in table.names if name.endswith(f"{VECTOR_MARK}norm")]
        for batch in table.scan([*names, *norms], where=only):
            columns = [batch.column(name).to_pylist() for name in names]
            held = np.zeros(batch.num_rows, bool)
            for name in norms:
                held |= batch.column(name).is_valid().to_numpy(zero_copy_only=False)
            for has, id_, uri, content, size, mtime in zip(held.tolist(), *columns, strict=True):
                self.add(id_, uri, content, (size, mtime), held=has)
        self.seen = bytearray(len(self.ids))
        self.used = set(self.ids)

    def at(self, place: str) -> int | None:
        """The row that is found by a place; None for an empty one."""
        return self.by_place.get(place) if place else None

    @property
    def named(self) -> Iterator[str]:
        """The ids that are the user's own."""
        return (id_ for row, id_ in enumerate(self.ids) if self.is_named(row))

    def is_named(self, row: int) -> bool:
        """Whether the id of a row is the user's own; the others are made of the content."""
        return not self.ids[row].startswith(self.contents[row])

    def is_placed(self, row: int) -> bool:
        """Whether a row is found again by its path or its address, rather than by its content."""
        return self.stamps[row][1] is not None

    def is_file(self, row: int) -> bool:
        """Whether a row is just a file, rather than a row of a table that may have a picture."""
        return self.is_placed(row) and self.stamps[row][1] != TOLD

    def add(
        self, id_: str, uri: str, content: str, stamp: tuple[int | None, int | None], *, held: bool = True
    ) -> None:
        """Take note of a row. A row at the same place, read or written before, is superseded.

        Args:
            id_: of the record.
            uri: where its file lies.
            content: content id of its bytes.
            stamp: of its file; see `rows.stamp_of`.
            held: whether the row has vectors; nothing takes them from one that has none.
        """
        row = len(self.ids)
        if not held:
            self.empty.setdefault(content, []).append(row)
            stamp = (stamp[0], UNSEEN if stamp[1] and stamp[1] != TOLD else stamp[1])
        self.ids.append(id_)
        self.uris.append(uri)
        self.contents.append(content)
        self.stamps.append(stamp)
        if self.is_named(row):
            self.by_place[f"id:{id_}"] = row
        elif self.is_placed(row):
            self.by_place[uri if self.is_file(row) else f"told:{uri}"] = row
        if held and self.by_content.setdefault(content, row) != row:
            self.copies.setdefault(content, []).append(row)

    def drop(self, row: int) -> None:
        """Forget the bytes of a row that has left the table: vectors cannot be taken from there any more."""
        content, id_ = self.contents[row], self.ids[row]
        left = [other for other in self.rows_of(content) if self.ids[other] != id_]
        self.copies.pop(content, None)
        if left:
            self.by_content[content] = left[0]
            self.copies[content] = left[1:]
        else:
            self.by_content.pop(content, None)

    def rows_of(self, content: str) -> list[int]:
        """Every row that holds these bytes."""
        first = [self.by_content[content]] if content in self.by_content else []
        return [*first, *self.copies.get(content, [])]

    def new_id(self, content: str) -> str:
        """The content id itself; an exact copy of a record gets `-2`, `-3` and so on behind it."""
        id_, count = content, 1
        while id_ in self.used:
            count += 1
            id_ = f"{content}-{count}"
        self.used.add(id_)
        return id_
