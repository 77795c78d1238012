"""Picture files: globs, folders, single files; folders whose sub-folders are labels, and the tables beside them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bowerbird.errors import BowerbirdError, RowError, UnreadableError
from bowerbird.flow.files import FoundFile, Unreachable, expand, from_uri, to_uri, walk
from bowerbird.flow.plan import Source
from bowerbird.flow.sources.addresses import located, shown
from bowerbird.flow.sources.parquet import ParquetSource
from bowerbird.flow.sources.tables import CsvSource, JsonLinesSource
from bowerbird.record import Failure, Record

PART_FILES = 256
"""Files in a part."""

SPLITS = frozenset(("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"))
"""Names of folders that say what pictures are for, not what they show."""

_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


@dataclass(frozen=True)
class GlobSource(Source):
    """Picture files: those that globs match, those in folders, and single files; a record for each.

    Folders are walked in the order of names: pictures by their suffix, nothing hidden, links followed, every file
    once. What a glob matches is taken whatever its name. A record's id is its path as it was found: relative when the
    pattern was. A path that is not UTF-8 is a percent-encoded `file://` address. A folder that cannot be read is a
    `Failure` at its place.

    Attributes:
        patterns: globs (`**` crosses folders), folders or files; one or several.
        folder: that relative patterns are below; by default the working folder when the source is made.
    """

    patterns: str | Path | Sequence[str | Path]
    folder: str | Path = field(default_factory=os.getcwd)

    label = "from_glob"

    def __post_init__(self) -> None:
        patterns = self.patterns
        several = (patterns,) if isinstance(patterns, (str, Path)) else tuple(patterns)
        object.__setattr__(self, "patterns", tuple(from_uri(os.fspath(pattern)) for pattern in several))
        object.__setattr__(self, "folder", located(self.folder))

    def describe(self) -> str:
        """See `Source`."""
        return "files of " + ", ".join(shown(str(pattern)) for pattern in self._texts())

    def __iter__(self) -> Iterator[Record | Failure]:
        """See `Source`.

        Raises:
            UnreadableError: nothing is there, or nothing matches.
        """
        texts = self._texts()
        met: set[str] = set()
        for text in texts:
            place = _Place(text, str(self.folder))
            for found in walk(expand(place.path)):
                if found.path in met:
                    continue
                if len(texts) > 1:
                    met.add(found.path)
                yield place.item(found, self.label)

    def parts(self) -> Sequence[Source]:
        """Slices of `PART_FILES` files."""
        return sliced(self, lambda item: (item.id, os.fspath(item.image)))

    def _texts(self) -> tuple[str, ...]:
        return self.patterns  # type: ignore[return-value]  # since __post_init__


@dataclass(frozen=True)
class FolderSource(Source):
    """A folder of pictures, as `imagefolder` of Hugging Face's datasets lays it out; a record for each picture.

    The first folder below the root becomes the attribute `label`. Where all folders below the root are called after
    splits (train, test, validation, ...), these become the attribute `split`, and the folder below them the label.

    A `metadata.csv`, `metadata.jsonl` or `metadata.parquet` in any folder says more of pictures in and below it: its
    column `file_name` (or one that ends in `_file_name`) is a path relative to it, its other columns become
    attributes. Records come in the order of the walk; rows that are broken, that name a file that is not there, or one
    for the second time, are `Failure`s after them. All rows of these tables are kept in memory.

    Attributes:
        path: the folder.
        text: the column of the text in the metadata, or several, such as `text` or `caption`.
        folder: that a relative path is below; by default the working folder when the source is made.
    """

    path: str | Path
    text: str | Sequence[str] = ""
    folder: str | Path = field(default_factory=os.getcwd)

    label = "from_folder"

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", from_uri(os.fspath(self.path)))
        object.__setattr__(self, "folder", located(self.folder))

    def describe(self) -> str:
        """See `Source`."""
        return f"pictures in {shown(str(self.path))}"

    def __iter__(self) -> Iterator[Record | Failure]:
        """See `Source`.

        Raises:
            BowerbirdError: there is no such folder, or a metadata file has no column of file names or lacks the text.
        """
        place = _Place(str(self.path), str(self.folder))
        root = os.path.abspath(place.path)
        if not os.path.isdir(root):
            raise UnreadableError(f"{shown(root)} is not a folder.", hint="Check the spelling.")
        known, failures = _metadata(root, self.text, self.label)
        split = _has_splits(root)
        for found in walk([Path(root)]):
            item = place.item(found, self.label)
            if isinstance(item, Record):
                labels = _labels(os.path.relpath(found.path, root), split)
                row = known.pop(found.path, None)
                item = replace(
                    item,
                    texts=row.texts if row else (),
                    attributes={**labels, **row.attributes} if row else labels,
                )
            yield item
        yield from failures
        for path, row in known.items():
            reason = (
                "does not exist" if not os.path.lexists(path) else "is not among the pictures of the folder"
            )
            error = UnreadableError(f"{row.id}: {shown(path)} {reason}.", hint="Correct the file name.")
            yield Failure(row.id, self.label, error)

    def parts(self) -> Sequence[Source]:
        """Slices of `PART_FILES` pictures, with what is known of them."""
        return sliced(self, lambda item: (item.id, os.fspath(item.image), item.texts, item.attributes))


@dataclass(frozen=True)
class _Place:
    """A path or pattern as it was given, and the folder it is relative to."""

    given: str
    folder: str

    @property
    def path(self) -> str:
        return os.path.join(self.folder, os.path.expanduser(self.given))

    def item(self, found: FoundFile | Unreachable, label: str) -> Record | Failure:
        """The record of a file, called as it was given: relative or absolute."""
        path = name = found.path
        if not os.path.isabs(os.path.expanduser(self.given)):
            base = os.path.join(self.folder, "")
            name = path[len(base) :] if path.startswith(base) else os.path.relpath(path, self.folder)
        # A path that is not UTF-8 becomes an address, which has to be absolute.
        stored = to_uri(path)
        id = name if stored == path else stored
        if isinstance(found, Unreachable):
            return Failure(id, label, found.error)
        return Record(id, image=Path(path), named=False)


def _metadata(root: str, text: str | Sequence[str], label: str) -> tuple[dict[str, Record], list[Failure]]:
    """What the metadata files in a folder and below say of pictures, by absolute path; and their broken rows."""
    known: dict[str, Record] = {}
    failures: list[Failure] = []
    for table in _tables(root):
        below = os.path.relpath(os.path.dirname(table), root)
        for row in _rows(table, text):
            id = row.id if below == "." else shown(os.path.join(below, row.id))
            if isinstance(row, Failure):
                failures.append(Failure(id, label, row.error))
                continue
            path = os.path.normpath(row.image) if isinstance(row.image, Path) else ""
            if path and path not in known:
                known[path] = replace(row, id=id)
                continue
            reason = f"{shown(path)} is named by {known[path].id} already" if path else "no file is named"
            error = RowError(f"{id}: {reason}.", hint="Every row names one file, and every file has one row.")
            failures.append(Failure(id, label, error))
    return known, failures


def _tables(root: str) -> list[str]:
    """The metadata files in a folder and below; links are followed, each folder is looked into once."""
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        info = os.stat(folder)
        if (info.st_dev, info.st_ino) in seen:
            folders.clear()
            continue
        seen.add((info.st_dev, info.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found.extend(os.path.join(folder, name) for name in _METADATA if name in names)
    return found


def _rows(table: str, text: str | Sequence[str]) -> Iterator[Any]:
    """The rows of a metadata file; their pictures are what it calls file names."""
    if table.endswith(".parquet"):
        image = _file_column(ParquetSource(table).names(), table)
        return iter(ParquetSource(table, image=image, text=text))
    if table.endswith(".csv"):
        return iter(CsvSource(table, image=_file_column(CsvSource(table).names(), table), text=text))
    first = next((row for row in JsonLinesSource(table) if isinstance(row, Record)), None)
    if first is None:
        return iter(JsonLinesSource(table))
    return iter(JsonLinesSource(table, image=_file_column(list(first.attributes), table), text=text))


def _file_column(names: Sequence[str], table: str) -> str:
    found = [name for name in names if name == "file_name" or name.endswith("_file_name")]
    for name in ("file_name", "image_file_name", *found):
        if name in found:
            return name
    raise BowerbirdError(
        f"{shown(table)} has no column file_name.",
        hint="Name the column of file names so, or rename the file.",
    )


def _has_splits(root: str) -> bool:
    try:
        names = [
            entry.name for entry in os.scandir(root) if not entry.name.startswith(".") and entry.is_dir()
        ]
    except OSError:
        return False
    return bool(names) and all(name.lower() in SPLITS for name in names)


def _labels(path: str, split: bool) -> dict[str, str]:
    """The attributes that the folders of a path say, which is relative to the root."""
    folders = [shown(folder) for folder in path.split(os.sep)[:-1]]
    if split and folders:
        label = {"label": folders[1]} if len(folders) > 1 else {}
        return {"split": folders[0], **label}
    return {"label": folders[0]} if folders else {}


def sliced(source: Source, state: Callable[[Record], tuple[Any, ...]]) -> list[Source]:
    """The elements of a source of pictures in slices of `PART_FILES`, kept as small as they can be."""
    slices: list[Source] = []
    items: list[Any] = []
    for item in source:
        items.append(item if isinstance(item, Failure) else state(item))
        if len(items) == PART_FILES:
            slices.append(_Files(tuple(items), source.describe()))
            items = []
    return [*slices, _Files(tuple(items), source.describe())] if items or not slices else slices


@dataclass(frozen=True)
class _Files(Source):
    """Files that were found, as tuples (id, path, texts, attributes), and failures between them."""

    items: tuple[Any, ...]
    name: str

    def describe(self) -> str:
        return f"{len(self.items):,} {self.name}"

    def __iter__(self) -> Iterator[Record | Failure]:
        for item in self.items:
            if isinstance(item, Failure):
                yield item
            else:
                id, path, texts, attributes = (*item, (), {})[:4]
                yield Record(id, Path(path), texts, attributes, named=False)

    def count(self) -> int:
        return len(self.items)
