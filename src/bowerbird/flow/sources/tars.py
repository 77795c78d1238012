"""WebDataset's shards: tar files whose members of the same name, suffixes aside, are one sample."""

from __future__ import annotations

import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast

from bowerbird.errors import InputError, RowError, UnreadableError
from bowerbird.flow.plan import Source
from bowerbird.flow.sources.addresses import PACKED, base_name, files_of, located, opened, shown
from bowerbird.media.image import IMAGE_SUFFIXES
from bowerbird.media.policy import DecodePolicy
from bowerbird.media.reading import check_bytes, empty, one_line
from bowerbird.record import Failure, Record

SMALL = 1 << 16
"""Members of other kinds than pictures, texts and labels become attributes as bytes up to this size."""

MAX_TEXT = 1 << 24
"""Texts, labels and JSON of more bytes are refused."""

_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_BLOCK = 512
# As webdataset.tariterators has them: base_plus_ext, and the names that it skips.
_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
_SKIPPED = re.compile(r"__[^/]*__($|/)")
_BRACES = re.compile(r"\{([^{}]*)\}")
_NUMBERS = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class TarMember:
    """A file in a tar that is not compressed, read when it is needed.

    Attributes:
        path: of the tar, or its address.
        name: of the member.
        offset: of its first byte in the tar.
        size: in bytes.
    """

    path: str
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.path}/{self.name}"

    def read(self, policy: DecodePolicy) -> bytes:
        """All bytes; see `bowerbird.media.reading.Readable`.

        Raises:
            UnreadableError: the tar is gone or has become shorter, or the member is over the size cap.
            DecodeError: the member is empty.
        """
        name = shown(str(self))
        check_bytes(self.size, name, policy)
        if not self.size:
            raise empty(name)
        try:
            with opened(self.path) as stream:
                stream.seek(self.offset)
                data = stream.read(self.size)
        except OSError as error:
            raise UnreadableError(
                f"{name} cannot be read: {one_line(error, 200)}.", hint="Check the tar and its disk."
            ) from None
        if len(data) < self.size:
            raise UnreadableError(
                f"{name} ends after {len(data):,} of {self.size:,} bytes.",
                hint="The tar has changed; run again.",
            )
        return data


def member_at(address: str) -> TarMember | None:
    """The member of a tar that `str` has named; None for an address of anything else, or of nothing there."""
    place, found, name = address.partition(".tar/")
    if not found:
        return None
    with suppress(OSError):  # an address; what has changed there is found out as it is read
        told = os.stat(f"{place}.tar")
        return _files_in(f"{place}.tar", told.st_size, told.st_mtime_ns).get(name)
    return _files_in(f"{place}.tar").get(name)


@lru_cache(maxsize=4)
def _files_in(path: str, *_: int) -> dict[str, TarMember]:
    """The files in a tar that is not compressed; none where it cannot be read."""
    found: dict[str, TarMember] = {}
    try:
        with opened(path) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for entry in tar:
                if entry.isreg():
                    found[entry.name] = TarMember(path, entry.name, entry.offset_data, entry.size)
    except (OSError, InputError, tarfile.TarError):
        pass  # Whoever reads the member's address says that nothing is there.
    return found


@dataclass(frozen=True)
class WebDatasetSource(Source):
    """Tar shards as webdataset reads them; a record for each sample.

    A sample is the members that follow each other with the same name up to the first dot of its last part. What comes
    after that dot, in small letters, says what a member is: a picture by its suffix (the first one is the record's,
    read from the tar only when it is needed); `txt`, the text; `json`, an object whose fields become attributes (other
    values: the attribute `json`); `cls`, the attribute `label`, a whole number. Every other member is an attribute by
    that suffix: its bytes up to 64 KiB, a `TarMember` beyond. In compressed shards (`.tar.gz`, `.tgz`) all members are
    bytes. Members without a dot, or with names like `__this__`, are left out.

    Ids are `SHARD/SAMPLE`: `train-0001.tar/000000017`. A broken sample is a `Failure` at its place. Of a shard that
    is damaged or cut off, what comes before the damage is kept, and one `Failure` stands for the rest.

    Attributes:
        pattern: shards as a path, an address, a glob or a folder, or a list of these. Braces stand for several:
            `train-{0000..0041}.tar`, `{train,val}.tar`.
    """

    pattern: str | Path | Sequence[str | Path]

    label = "from_webdataset"

    def __post_init__(self) -> None:
        several = (self.pattern,) if isinstance(self.pattern, (str, Path)) else self.pattern
        expanded = tuple(located(text) for pattern in several for text in braces(os.fspath(pattern)))
        object.__setattr__(self, "pattern", expanded)

    def describe(self) -> str:
        """See `Source`."""
        first, *more = cast("tuple[str, ...]", self.pattern)
        return f"samples of {shown(first)}" + (f" and {len(more):,} more" if more else "")

    def __iter__(self) -> Iterator[Record | Failure]:
        """See `Source`.

        Raises:
            UnreadableError: a glob matches nothing, or a folder has no shards. A single shard that is missing is a
                `Failure` at its place.
        """
        for shard in self.parts():
            yield from shard

    def parts(self) -> Sequence[Source]:
        """One for each shard."""
        places: dict[str, None] = {}
        for text in cast("tuple[str, ...]", self.pattern):
            single = text.endswith(_SUFFIXES) and not any(mark in text for mark in "*?[")
            places.update(
                dict.fromkeys([text] if single else [place for place, _ in files_of(text, _SUFFIXES)])
            )
        return [_Shard(place) for place in places]


@dataclass(frozen=True)
class _Shard(Source):
    """One tar file."""

    path: str

    def describe(self) -> str:
        return f"samples of {shown(self.path)}"

    def __iter__(self) -> Iterator[Record | Failure]:
        label = WebDatasetSource.label
        key, members = "", dict[str, Any]()
        unfinished: InputError | None = None
        try:
            for name, content in self._members():
                if not name:
                    unfinished = content
                    continue
                match = _NAME.fullmatch(name)
                if not match or _SKIPPED.match(name):
                    continue
                if match[1] != key:
                    if members:
                        yield self._sample(key, members)
                    key, members = match[1], {}
                suffix = match[2].lower()
                twice = RowError(f"{shown(name)} is there twice.", hint="Write the shard again.")
                members[suffix] = twice if suffix in members else content
        except InputError as error:
            # The last sample may lack members that lie behind the damage.
            yield Failure(shown(f"{self._name}/{key}" if key else self._name), label, error)
            return
        if members:
            yield self._sample(key, members)
        if unfinished:
            yield Failure(self._name, label, unfinished)

    @property
    def _name(self) -> str:
        return base_name(self.path)

    def _sample(self, key: str, members: dict[str, Any]) -> Record | Failure:
        id = shown(f"{self._name}/{key}")
        image: Any = None
        texts: tuple[str, ...] = ()
        attributes: dict[str, Any] = {}
        try:
            for suffix, content in members.items():
                if isinstance(content, InputError):
                    raise content
                last = suffix.rpartition(".")[2]
                if f".{last}" in IMAGE_SUFFIXES and image is None:
                    image = content
                elif suffix == "txt":
                    text = _text(content, f"{id}.{suffix}")
                    texts = (text,) if text.strip() else ()
                elif suffix == "json":
                    attributes.update(_fields(_text(content, f"{id}.{suffix}"), id))
                elif suffix == "cls":
                    attributes["label"] = _label(_text(content, f"{id}.{suffix}"), id)
                else:
                    attributes[suffix] = content
        except InputError as error:
            return Failure(id, WebDatasetSource.label, error)
        return Record(id, image=image, texts=texts, attributes=attributes, named=True)

    def _members(self) -> Iterator[tuple[str, Any]]:
        """Names of the regular files, and what they hold: bytes, or a `TarMember`, or why that cannot be had.

        Where the shard ends between two members, without the mark of its end, that error comes under an empty name.

        Raises:
            UnreadableError: the shard is missing, damaged, or ends in the middle of a member.
        """
        packed = self.path.endswith(PACKED)
        try:
            with opened(self.path) as stream:
                tail = _Tail(stream)
                with tarfile.open(fileobj=cast("IO[bytes]", tail), mode="r:") as tar:
                    while (member := tar.next()) is not None:
                        # Otherwise every member read so far would be kept.
                        tar.members = []  # type: ignore[attr-defined]
                        if member.isreg():
                            yield member.name, self._content(tar, member, packed)
                if not tail.last:
                    yield "", self._damaged("the mark of its end is missing; there may have been more")
                elif tail.last.count(0) != _BLOCK:
                    raise tarfile.ReadError("the header of a member is damaged")
        except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, OverflowError) as error:
            raise self._damaged(one_line(error, 200)) from None

    def _damaged(self, reason: str) -> UnreadableError:
        return UnreadableError(
            f"{shown(self.path)} is damaged, or cut off: {reason}.",
            hint="What came before the damage was read. Copy or download it again.",
        )

    def _content(self, tar: tarfile.TarFile, member: tarfile.TarInfo, packed: bool) -> Any:
        suffix = member.name.rpartition(".")[2].lower()
        parsed = suffix in ("txt", "json", "cls")
        lazy = not packed and not member.issparse() and not parsed
        if lazy and (f".{suffix}" in IMAGE_SUFFIXES or member.size > SMALL):
            return TarMember(self.path, member.name, member.offset_data, member.size)
        name = shown(f"{self.path}/{member.name}")
        limit = MAX_TEXT if parsed else DecodePolicy().max_bytes
        if limit and member.size > limit:
            return RowError(
                f"{name} has {member.size:,} bytes, more than {limit:,}.", hint="Write the shard without it."
            )
        file = tar.extractfile(member)
        data = file.read() if file else b""
        if len(data) < member.size:
            raise tarfile.ReadError("unexpected end of data")
        return data


class _Tail:
    """A stream that keeps its last block; tarfile takes a damaged header in the middle for the end."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        """Bytes from where the stream is."""
        data: bytes = self._stream.read(size)
        self.last = data[-_BLOCK:]
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go somewhere else."""
        return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        """Where the stream is."""
        return int(self._stream.tell())


def braces(pattern: str) -> list[str]:
    """What a pattern with braces stands for, as a shell has it: `{000..041}` counts, `{a,b}` lists; not nested."""
    groups = _BRACES.finditer(pattern)
    found = next((group for group in groups if "," in group[1] or _NUMBERS.fullmatch(group[1])), None)
    if not found:
        return [pattern]
    before, after = pattern[: found.start()], pattern[found.end() :]
    numbers = _NUMBERS.fullmatch(found[1])
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        width = (
            max(map(len, numbers.groups())) if any(text.startswith("0") for text in numbers.groups()) else 0
        )
        step = 1 if last >= first else -1
        choices = [f"{number:0{width}d}" for number in range(first, last + step, step)]
    else:
        choices = found[1].split(",")
    return [text for choice in choices for text in braces(f"{before}{choice}{after}")]


def _text(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowError(
            f"{name} is not UTF-8 (byte {error.start + 1}).", hint="Write the shard again."
        ) from None


def _fields(text: str, id: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowError(
            f"{id}.json is not JSON: {one_line(error, 200)}.", hint="Write the shard again."
        ) from None
    return value if isinstance(value, dict) else {"json": value}


def _label(text: str, id: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise RowError(
            f"{id}.cls is not a whole number: {one_line(text, 60)!r}.", hint="Write the shard again."
        ) from None
