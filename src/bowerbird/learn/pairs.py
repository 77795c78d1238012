"""Pairs in: pictures and what is said of them, or the classes they are in, from whatever people keep them in.

A picture is its bytes: however many rows name it, under whatever names, it is one. So it is no negative example of
itself, and no exact copy of it can be on both sides of a split. (Nearly the same pictures are another matter: see
`bowerbird.learn.copies`.)
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bowerbird.errors import InputError, LearnError
from bowerbird.flow.pictures import (
    address,
    as_record,
    default_policy,
    opened,
    picture_content,
    read_picture,
)
from bowerbird.flow.sources.addresses import is_remote
from bowerbird.judge.pairs import SHOWN
from bowerbird.learn.examples import Examples, Picture
from bowerbird.learn.sources import FOLDER, PairSource, class_name, records
from bowerbird.lookahead import ordered_map
from bowerbird.media.reading import one_line
from bowerbird.record import Failure, Record, name_of
from bowerbird.settings import settings

PARTS = ("train", "validation", "test")
"""What pictures are for."""

_MARKS = {
    **dict.fromkeys(("train", "training", "restval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}
"""What the attribute `split` may say. `restval` is what Karpathy's split of COCO adds to the training pictures."""

_KINDS = {"UnreadableError": "unreadable", "DecodeError": "undecodable", "RowError": "broken row"}


@dataclass(frozen=True)
class Dropped:
    """Something that was left out.

    Attributes:
        name: of the picture, or where the row stands.
        reason: why, for people.
        kind: what it is counted as: `no picture`, `no text`, `no class`, `two classes`, `unreadable`, `undecodable`,
            `broken row`, or the type of another error.
    """

    name: str
    reason: str
    kind: str = ""

    @classmethod
    def of(cls, name: str, error: InputError) -> Dropped:
        """What an error stands in the place of."""
        kind = type(error).__name__
        return cls(name, error.message, _KINDS.get(kind, kind))


@dataclass(frozen=True)
class Reading:
    """What was read.

    Attributes:
        examples: without vectors.
        dropped: what could not be used, each by its name.
        problems: what a person should know of the rest.
        source: what was read, for people.
    """

    examples: Examples
    dropped: tuple[Dropped, ...] = ()
    problems: tuple[str, ...] = ()
    source: str = ""


def counted(dropped: Iterable[Dropped]) -> str:
    """A line: how many were left out and why, with an example of each; empty when nothing was."""
    kinds: dict[str, list[Dropped]] = {}
    for one in dropped:
        kinds.setdefault(one.kind, []).append(one)
    told = [
        f"{len(several):,} {kind} ({one_line(several[0].name, 80)}{', ...' if len(several) > 1 else ''})"
        for kind, several in sorted(kinds.items(), key=lambda entry: -len(entry[1]))
    ]
    return f"{sum(map(len, kinds.values())):,} left out: {', '.join(told)}" if told else ""


def read_examples(  # noqa: PLR0913  what tables are given, and what they are for
    source: PairSource,
    *,
    image: str = "",
    text: str | Sequence[str] = "",
    labels: str | None = None,
    root: str | Path = "",
    id: str = "",
    delimiter: str | None = None,
    validation: PairSource | None = None,
    test: PairSource | None = None,
) -> Reading:
    """Read pairs of a picture and a text, or pictures and their classes.

    Every file is read once, for the identity of its bytes; whether it can be decoded shows when it is embedded, or in
    `decodable`. With labels, the texts are the names of the classes, underscores as spaces.

    Args:
        source: a collection of records; a list of records or of (picture, text or texts); or a path: CSV, TSV, JSON
            Lines, Parquet, a WebDataset tar, COCO captions, Karpathy's JSON, Flickr30k's token file or `results.csv`,
            told by their content; or a folder of pictures with a `metadata.csv`, or of folders named after classes, or
            of Parquet files.
        image: column of the pictures; empty: one called `image`, `photo`, `path`, `file` or so.
        text: column of the texts, or several; empty: one called `caption`, `text`, `description` or so.
        labels: `folder`: the class of a picture is the name of its folder; else the column, or attribute, with it.
        root: folder of the pictures, where that is not the folder of the table.
        id: column of the ids.
        delimiter: of a CSV file; None: found out.
        validation: pairs of the user's own to choose by; read as `source` is.
        test: likewise, to judge by.

    Returns:
        pictures in the order in which they come up first, each with all its texts. An attribute `split` (`train`,
        `restval`, `val`, `test` and the like) becomes `Picture.part`.

    Raises:
        LearnError: there is no pair, one alone, one picture, one text or one class.
        BowerbirdError: the source cannot be read, or has no such columns.
    """
    sources = {"": source, "validation": validation, "test": test}
    gathering = _Gathering(labels)
    described = []
    for part, one in sources.items():
        if one is None:
            continue
        found, told, by_label = records(one, image, text, labels, root, id, delimiter)
        described.append(told)
        for item in found:
            gathering.take(item, part, by_label=by_label)
    return gathering.reading(", ".join(described))


def decodable(examples: Examples) -> tuple[Examples, tuple[Dropped, ...]]:
    """Those whose pictures can be decoded, and those that cannot; embedding finds that out by itself.

    Raises:
        LearnError: too few are left.
    """
    policy = default_policy()

    def fault(picture: Picture) -> Dropped | None:
        try:
            opened(read_picture(picture.source, policy), policy, picture.name)
        except InputError as error:
            return Dropped.of(picture.name, error)
        return None

    faults = list(ordered_map(fault, examples.pictures, threads=settings().worker_threads))
    dropped = tuple(one for one in faults if one)
    left = examples.only([place for place, one in enumerate(faults) if one is None]) if dropped else examples
    require(left, "", dropped)
    return left, dropped


def require(examples: Examples, source: str, dropped: Sequence[Dropped] = ()) -> None:
    """Check that something can be learned from some examples.

    Raises:
        LearnError: there is no pair, one alone, one picture, one text or one class.
    """
    name, lost = source or "What was given", counted(dropped)
    more = f" {lost[:1].upper()}{lost[1:]}." if lost else ""
    pictures, pairs = len(examples.pictures), len(examples.links)
    if not pairs:
        raise LearnError(
            f"{name} holds no {'picture with a class' if examples.classes else 'pair of a picture and a text'} that "
            f"can be used.{more}" + (f" The first: {dropped[0].reason}" if dropped else ""),
            hint="Check the columns, and the folder that the pictures' paths are below (root).",
        )
    if examples.labels is not None:
        present = np.unique(examples.labels)
        if len(present) < 2:
            raise LearnError(
                f"All {pictures:,} pictures of {name} are of one class, {examples.classes[present[0]]!r}.{more}",
                hint="Give pictures of two classes at least: what is learned is what tells them apart.",
            )
        return
    if pairs == 1 or pictures == 1 or len(examples.texts) == 1:
        what = (
            "one pair of a picture and a text"
            if pairs == 1
            else f"one picture with {pairs:,} texts"
            if pictures == 1
            else f"{pictures:,} pictures with one and the same text"
        )
        raise LearnError(
            f"{name} holds {what}: there is nothing to tell apart.{more}", hint="Give more pairs."
        )


@dataclass
class _Found:
    """What is known of a picture under one name.

    Attributes:
        id: of the first record.
        source: what a model reads.
        content: of its bytes; empty until they have been read.
        texts: that were said of it.
        classes: that it is in.
        parts: that it is for, empty for those that do not say.
    """

    id: str
    source: Any
    content: str = ""
    texts: dict[str, None] = field(default_factory=dict)
    classes: dict[str, None] = field(default_factory=dict)
    parts: dict[str, None] = field(default_factory=dict)

    def join(self, other: _Found) -> None:
        """The same bytes were found under another name."""
        self.texts.update(other.texts)
        self.classes.update(other.classes)
        self.parts.update(other.parts)


class _Gathering:
    """Records on their way to examples."""

    def __init__(self, labels: str | None) -> None:
        self._labels = labels
        self._found: dict[str, _Found] = {}
        self._dropped: list[Dropped] = []
        self._unknown: Counter[str] = Counter()
        self._columns: dict[str, None] = {}

    def take(self, item: Any, part: str, *, by_label: bool) -> None:
        """A record; `part` is what all of its source is for."""
        item = as_record(item)
        if isinstance(item, Failure):
            self._dropped.append(Dropped.of(one_line(item.id, 300), item.error))
            return
        if not isinstance(item, Record):
            reason = f"is of type {type(item).__name__}, not a record of a picture and a text."
            self._dropped.append(Dropped(one_line(name_of(item), 300), reason, "no record"))
            return
        texts = [stripped for text in item.texts if (stripped := text.strip())]
        label = self._class(item, by_label=by_label) if self._labels else ""
        lacks = (
            "picture"
            if item.source is None
            else "class"
            if self._labels and not label
            else "text"
            if not (self._labels or texts)
            else ""
        )
        if lacks:
            self._dropped.append(Dropped(one_line(item.id, 300), f"has no {lacks}.", f"no {lacks}"))
            return
        found = self._place(item)
        found.texts.update(dict.fromkeys(texts))
        found.classes.update({label: None} if label else {})
        found.parts[part or self._part(item)] = None

    def _class(self, record: Record, *, by_label: bool) -> str:
        if self._labels == FOLDER and not by_label:
            return address(record.source).rstrip("/").rpartition("/")[0].rpartition("/")[2]
        self._columns.update(dict.fromkeys(record.attributes))
        value = record.attributes.get("label" if self._labels == FOLDER else str(self._labels))
        return class_name(value)

    def _part(self, record: Record) -> str:
        told = record.attributes.get("split")
        if not isinstance(told, str) or not told:
            return ""
        if told.lower() not in _MARKS:
            self._unknown[told] += 1
        return _MARKS.get(told.lower(), "")

    def _place(self, record: Record) -> _Found:
        """What was found under the name of a record's picture."""
        where = address(record.source)
        if where:
            # An address stays as it is: the two slashes of https:// are not one too many.
            name = where if is_remote(where) else os.path.normpath(where)
            return self._found.setdefault(name, _Found(record.id, record.source))
        # Of what lies nowhere, the bytes are the name.
        content = picture_content(record.source)
        return self._found.setdefault(f"\0{content}", _Found(record.id, record.source, content))

    def reading(self, source: str) -> Reading:
        """All of it."""
        names = _names(self._found)
        policy = default_policy()

        def content(one: _Found) -> str | InputError:
            try:
                return one.content or picture_content(read_picture(one.source, policy))
            except InputError as error:
                return error

        merged: dict[str, tuple[str, _Found]] = {}
        copies: list[str] = []
        contents = ordered_map(content, self._found.values(), threads=settings().worker_threads)
        for name, one, told in zip(names, self._found.values(), contents, strict=True):
            if isinstance(told, InputError):
                self._dropped.append(Dropped.of(name, told))
            elif told in merged:
                copies.append(f"{name} of {merged[told][0]}")
                merged[told][1].join(one)
            else:
                merged[told] = (name, replace(one, content=told))
        problems = self._problems(copies, [entry for entry in merged.values() if len(entry[1].parts) > 1])
        examples = self._examples(merged)
        if self._labels and self._columns and not len(examples.links) and not self._found:
            columns = ", ".join(repr(one_line(name, 60)) for name in self._columns)
            raise LearnError(
                f"{source} tells no class: {self._labels!r} is empty or not there; there are {columns}.",
                hint="Name the column of the class with labels (--labels COLUMN), or give 'folder'.",
            )
        require(examples, source, self._dropped)
        return Reading(examples, tuple(self._dropped), tuple(problems), source)

    def _problems(self, copies: Sequence[str], torn: Sequence[tuple[str, _Found]]) -> Iterator[str]:
        if copies:
            yield (
                f"{len(copies):,} {'file is a copy' if len(copies) == 1 else 'files are copies'}, byte for byte, of "
                f"others and {'counts' if len(copies) == 1 else 'count'} as one with them: {_some(copies)}"
            )
        if torn:
            yield (
                f"{len(torn):,} {'picture stands' if len(torn) == 1 else 'pictures stand'} in several of the given "
                f"parts, and {'stays' if len(torn) == 1 else 'stay'} only in the one farthest from training: "
                + _some([name for name, _ in torn])
            )
        if self._unknown:
            told = ", ".join(
                f"{one_line(name, 40)!r} {count:,} times" for name, count in self._unknown.items()
            )
            yield f"The attribute split says {told}, which is no known part: taken as pictures for training."

    def _examples(self, merged: dict[str, tuple[str, _Found]]) -> Examples:
        pictures: list[Picture] = []
        said: list[list[str]] = []
        for content, (name, one) in merged.items():
            if len(one.classes) > 1:
                several = " and ".join(map(repr, sorted(one.classes)))
                self._dropped.append(Dropped(name, f"is in the classes {several}.", "two classes"))
                continue
            # The part farthest from training: what is there may not be trained on.
            part = max(one.parts, key=lambda part: PARTS.index(part) if part else -1)
            pictures.append(Picture(one.id, name, one.source, content, part))
            said.append(list(one.classes) if self._labels else list(one.texts))
        if self._labels:
            classes = sorted({label for (label,) in said})
            rows = {label: row for row, label in enumerate(classes)}
            labels = np.asarray([rows[label] for (label,) in said], np.int64)
            links = np.stack([np.arange(len(pictures)), labels], 1).reshape(-1, 2)
            return Examples(tuple(pictures), _prompts(classes), links, labels, tuple(classes))
        place_of: dict[str, int] = {}
        pairs = [
            (picture, place_of.setdefault(text, len(place_of)))
            for picture, texts in enumerate(said)
            for text in texts
        ]
        links = np.asarray(pairs, np.int64).reshape(-1, 2)
        return Examples(tuple(pictures), tuple(place_of), links)


def _prompts(classes: Sequence[str]) -> tuple[str, ...]:
    """A text for each class: its name, as one would write it. Hyphens stay: a T-shirt has one."""
    readable = [" ".join(name.replace("_", " ").split()) or name for name in classes]
    often = Counter(readable)
    return tuple(plain if often[plain] == 1 else name for plain, name in zip(readable, classes, strict=True))


def _names(found: dict[str, _Found]) -> list[str]:
    """What pictures are called: their paths below the folder that all of them are in, or their ids."""
    local = [place for place in found if place.startswith("/")]
    folder = os.path.commonpath([os.path.dirname(place) for place in local]) if local else ""
    return [
        one_line(one.id if place.startswith("\0") else _relative(place, folder), 300)
        for place, one in found.items()
    ]


def _relative(place: str, folder: str) -> str:
    return os.path.relpath(place, folder) if place.startswith("/") else place


def _some(names: Sequence[str]) -> str:
    return ", ".join(one_line(name, 160) for name in names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")
