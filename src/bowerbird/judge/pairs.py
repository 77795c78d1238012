"""Pictures and what is said of them: a table of pairs, its pictures found among the records of an index."""

from __future__ import annotations

import difflib
import heapq
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from bowerbird.errors import BowerbirdError, QueryError
from bowerbird.flow.files import from_uri
from bowerbird.flow.plan import Source
from bowerbird.flow.sources.addresses import base_name, folder_of, is_remote, located, shown
from bowerbird.flow.sources.parquet import ParquetSource
from bowerbird.flow.sources.tables import CsvSource, JsonLinesSource
from bowerbird.media.reading import one_line
from bowerbird.record import Failure, Record

if TYPE_CHECKING:
    from bowerbird.search.index import Index
    from bowerbird.store.filters import Filter

IMAGE_NAMES = (
    "image",
    "image_path",
    "photo",
    "picture",
    "path",
    "file",
    "file_name",
    "filename",
    "img",
    "image_id",
)
TEXT_NAMES = ("caption", "captions", "text", "texts", "description", "sentence", "sentences", "title")

SHOWN = 3
"""Examples of what is reported."""

_NAMES, _LIKELY = 20_000, 50
"""Names that are looked at for one like another, and how many of them letter by letter."""


class Records:
    """The records of an index, by what people call them.

    Exact copies of a picture, which an index shows as one, stand for each other: `same` gives the first of them.

    Attributes:
        ids: in the order of the table.
        uris: by id, where the picture lies; empty: nowhere.
        names: by id, what people call it: the name of its file, or its id.
    """

    def __init__(self, rows: Iterator[tuple[str, str | None, str | None]]) -> None:
        self.uris: dict[str, str] = {}
        self.names: dict[str, str] = {}
        self._first: dict[str, str] = {}
        self._by_path: dict[str, str] = {}
        self._by_file: dict[str, list[str]] = {}
        by_content: dict[str, str] = {}
        for id_, uri, content in rows:
            # As in search results: records to which the user gave ids are like no other.
            alike = bool(content) and id_.startswith(str(content))
            self._first[id_] = by_content.setdefault(str(content), id_) if alike else id_
            path = from_uri(uri) if uri else ""
            self.uris[id_] = path
            self.names[id_] = base_name(path) if path else one_line(id_, 200)
            if path:
                self._by_path.setdefault(path, id_)
                self._by_file.setdefault(path.rpartition("/")[2], []).append(id_)

    @classmethod
    def of(cls, index: Index, where: Filter | None = None) -> Records:
        """Those of an index that pass a filter."""
        batches = index.table.scan(["id", "uri", "content"], where=where)
        return cls(
            row
            for batch in batches
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)
        )

    @property
    def ids(self) -> Sequence[str]:
        """Of all records."""
        return list(self._first)

    def same(self, id_: str) -> str:
        """The id that stands for a record and its exact copies."""
        return self._first.get(id_, id_)

    def find(self, name: str, folder: str = "", *, by_file: bool = True) -> str:
        """The record that is meant by an id, a path, or the name of a file; empty: none.

        Args:
            name: as someone wrote it; of a path, the last parts are enough.
            folder: what a relative path is relative to.
            by_file: take a record whose file is called so, wherever it lies.

        Raises:
            QueryError: several records are called that.
        """
        if name in self._first:
            return self.same(name)
        place = name if is_remote(name) else os.path.normpath(os.path.join(folder, os.path.expanduser(name)))
        if place in self._by_path:
            return self.same(self._by_path[place])
        file = name.rpartition("/")[2]
        found = {self.same(id_) for id_ in self._by_file.get(file, ())}
        ending = {id_ for id_ in found if f"/{self.uris[id_]}".endswith(f"/{name.lstrip('./')}")}
        if ending or not by_file:
            found = ending
        if len(found) > 1:
            one, other, *_ = sorted(self.uris[id_] for id_ in found)
            raise QueryError(
                f"{one_line(name, 200)!r} is the name of {len(found)} records: {shown(one)}, {shown(other)} ...",
                hint="Write more of the path, or the id of the record.",
            )
        return found.pop() if found else ""

    def near(self, name: str) -> str:
        """The file or id whose name is most like a name; empty: none is."""
        return closest(name.rpartition("/")[2], chain(self._by_file, self._first))


def closest(name: str, names: Iterable[str]) -> str:
    """The name most like another, a slip of the pen away; empty: none is, among the first 20,000.

    What `difflib` compares is bounded: a slip leaves what is before and behind it, so only the names that share most of
    both are looked at closely.
    """
    back = name[::-1]
    likely = heapq.nlargest(
        _LIKELY,
        dict.fromkeys(islice(names, _NAMES)),
        key=lambda other: _shared(name, other) + _shared(back, other[::-1]),
    )
    return next(iter(difflib.get_close_matches(name, likely, 1, 0.8)), "")


def _shared(one: str, other: str) -> int:
    """How many characters two names begin with alike."""
    ends = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(ends, min(len(one), len(other)))


@dataclass(frozen=True)
class Pairs:
    """Which text was said of which picture.

    Attributes:
        texts: each once, in the order of the table.
        pictures: ids of records, each once.
        links: (text, picture) by their places in these.
        rows: how many pairs the table holds.
        problems: what could not be used, for people.
    """

    texts: tuple[str, ...]
    pictures: tuple[str, ...]
    links: tuple[tuple[int, int], ...]
    rows: int
    problems: tuple[str, ...]

    def qrels(self, *, from_text: bool) -> dict[str, dict[str, int]]:
        """What is right: by place of the text the pictures it was said of, or by picture the places of its texts."""
        found: dict[str, dict[str, int]] = {}
        for text, picture in self.links:
            query, record = str(text), self.pictures[picture]
            found.setdefault(query if from_text else record, {})[record if from_text else query] = 1
        return found


def read_pairs(path: str | Path, records: Records, *, image: str = "", text: str = "") -> Pairs:
    """Read a table of pairs: CSV, TSV, JSON Lines or Parquet, a picture and a text in each row.

    Pictures are matched to records by id, by path (relative to the table's folder), or by the name of their file.
    Several rows may name one picture. Texts that are the same are one, said of several pictures.

    Args:
        path: of the table.
        records: of the index.
        image: column of the pictures; empty: one called `image`, `photo`, `picture`, `path`, `file` or so.
        text: column of the texts; empty: one called `caption`, `text`, `description` or so.

    Raises:
        BowerbirdError: the table cannot be read, or has no such columns.
        QueryError: none of its pictures is in the index, or a name means several records.
    """
    table = shown(str(path))
    columns = table_columns(table_source(path), table, image, text)
    found = list(_rows(table_source(path, *columns), located(path)))
    said = [(name, words) for name, words, _ in found if not words.isspace() and name]
    faults = [fault for _, _, fault in found if fault]
    if not said:
        raise QueryError(
            f"{table} holds no pair of a picture and a text" + (f": {faults[0]}" if faults else "."),
            hint="Each row needs both; see --image and --text." if not faults else "",
        )
    means = _means({name: None for name, _ in said}, records, folder_of(located(path)))
    texts: dict[str, int] = {}
    pictures: dict[str, int] = {}
    links: dict[tuple[int, int], None] = {}
    for name, words in said:
        if id_ := means[name]:
            picture = pictures.setdefault(id_, len(pictures))
            links[texts.setdefault(words, len(texts)), picture] = None
    lost = [name for name, id_ in means.items() if not id_]
    if not pictures:
        raise QueryError(
            f"None of the {len(lost):,} pictures of {table} is in the index, for example {one_line(lost[0], 200)!r}.",
            hint="Pictures are matched by id, path or file name."
            + (
                f" The index holds {records.names[records.ids[0]]!r}."
                if records.ids
                else " The index is empty."
            ),
        )
    problems = [_told_lost(lost, len(means), records)] if lost else []
    if faults:
        problems.append(
            f"{len(faults):,} row{'s'[: len(faults) > 1]} of {table} cannot be used, the first: {faults[0]}"
        )
    return Pairs(tuple(texts), tuple(pictures), tuple(links), len(said), tuple(problems))


def _means(names: Mapping[str, None], records: Records, folder: str) -> dict[str, str]:
    # a/1.jpg is not b/1.jpg: where the table tells files of one name apart, their folders count.
    files = Counter(name.rpartition("/")[2] for name in names)
    return {
        name: records.find(name, folder, by_file="/" not in name or files[name.rpartition("/")[2]] == 1)
        for name in names
    }


def _told_lost(lost: Sequence[str], of: int, records: Records) -> str:
    examples = []
    for name in lost[:SHOWN]:
        near = records.near(name)
        examples.append(f"{one_line(name, 80)!r}" + (f" (did you mean {near!r}?)" if near else ""))
    more = " ..." if len(lost) > SHOWN else ""
    return (
        f"{len(lost):,} of {of:,} pictures {'is' if len(lost) == 1 else 'are'} not in the index and "
        f"{'was' if len(lost) == 1 else 'were'} left out: {', '.join(examples)}{more}"
    )


def table_source(
    path: str | Path,
    image: str = "",
    text: str | Sequence[str] = "",
    *,
    id: str = "",
    root: str | Path = "",
    delimiter: str | None = None,
) -> Source:
    """The rows of a table, by what its name ends in: JSON Lines, Parquet, or else CSV; see these for the arguments."""
    name = str(path).lower().removesuffix(".gz")
    if name.endswith((".jsonl", ".ndjson")):
        return JsonLinesSource(path, image, text, id, root)
    if name.endswith(".parquet"):
        return ParquetSource(path, image, text, id, root)
    return CsvSource(path, delimiter, image, text, id, root)


def table_columns(source: Source, table: str, image: str, text: str) -> tuple[str, str]:
    """The names of the columns of pictures and of texts, guessed where they are not given.

    Raises:
        BowerbirdError: which one is meant is not clear.
    """
    if image and text:
        return image, text
    have = column_names(source)
    chosen = image or guessed(have, IMAGE_NAMES, text), text or guessed(have, TEXT_NAMES, image)
    for name, what, option in zip(chosen, ("pictures", "texts"), ("image", "text"), strict=True):
        if not name:
            raise unclear(have, table, what, option)
    return chosen


def column_names(source: Source) -> Sequence[str]:
    """The columns of a table; of JSON Lines, the keys of the first line."""
    if isinstance(source, (CsvSource, ParquetSource)):
        return source.names()
    first = next((record for record in source if isinstance(record, Record)), None)
    return list(first.attributes) if first else []


def guessed(have: Sequence[str], names: Sequence[str], taken: str = "") -> str:
    """The column that is called like one of some names, the first of these that there is; empty: none is.

    Args:
        have: the columns.
        names: as `IMAGE_NAMES` and `TEXT_NAMES`, most likely first.
        taken: a column that is something else.
    """
    by_name = {column.lower().strip(): column for column in reversed(have) if column != taken}
    return next((by_name[name] for name in names if name in by_name), "")


def unclear(have: Sequence[str], table: str, what: str, option: str) -> BowerbirdError:
    """Make the error of a table of which it is not clear what a column holds."""
    columns = ", ".join(repr(one_line(column, 60)) for column in have) or "none"
    return BowerbirdError(
        f"Which column of {table} holds the {what} is not clear; its columns: {columns}.",
        hint=f"Say which one: --{option} COLUMN",
    )


def _rows(source: Source, path: str) -> Iterator[tuple[str, str, str]]:
    """Picture as the table names it, text, and what is wrong with the row; a row without one of the two is left out."""
    folder = folder_of(path).rstrip("/") + "/"
    for record in source:
        if isinstance(record, Failure):
            yield "", "", record.error.message
        elif isinstance(record, Record) and record.image is not None:
            if isinstance(record.image, bytes):
                yield "", "", f"{record.id}: a picture here is the name of a record, not the bytes of a file."
                continue
            # The source has made a path of it; an id comes back as it was.
            name = str(record.image).removeprefix(folder)
            yield from ((name, words, "") for words in record.texts)
