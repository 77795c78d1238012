"""Pictures in an object store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from bowerbird.flow.plan import Source
from bowerbird.flow.remote import StoredFile, UnlistedFolder, list_stored
from bowerbird.media.reading import one_line
from bowerbird.record import Failure, Record

PART = 1000
"""Objects in a part. A part is listed by the one who shares it out, and read by a worker."""


@dataclass(frozen=True)
class StoredSource(Source):
    """The pictures that an address stands for: a folder, a glob, or one object.

    ``StoredSource("s3://bucket/photos/**/*.jpg")``; a folder such as `s3://bucket/photos` gives what looks like a
    picture by its suffix, in all folders below. Records have the address as id and as picture. A folder that cannot
    be listed is a failure at its place.

    Attributes:
        pattern: the address.
        filesystem: an fsspec or pyarrow file system, picklable, where not the one of the address.

    Raises:
        UnreadableError: when iterated, if nothing is there at all.
        MissingExtraError: when iterated, if the package for the protocol is not installed.
    """

    pattern: str
    filesystem: Any = field(default=None, compare=False, repr=False)

    def __iter__(self) -> Iterator[Record | Failure]:
        for found in list_stored(self.pattern, self.filesystem):
            yield _element(found)

    def describe(self) -> str:
        """See `Source`."""
        return f"pictures of {one_line(self.pattern)}"

    def parts(self) -> Sequence[Source]:
        """See `Source`: slices of the listing, which is made once, here."""
        listing = iter(list_stored(self.pattern, self.filesystem))
        found: list[Source] = []
        while slice_ := tuple(islice(listing, PART)):
            found.append(_Listed(slice_))
        return found


@dataclass(frozen=True)
class _Listed(Source):
    """A slice of a listing."""

    found: tuple[StoredFile | UnlistedFolder, ...] = field(repr=False)

    def __iter__(self) -> Iterator[Record | Failure]:
        return map(_element, self.found)

    def describe(self) -> str:
        return f"{len(self.found)} objects from {one_line(self.found[0].uri)}"

    def count(self) -> int:
        return len(self.found)


def _element(found: StoredFile | UnlistedFolder) -> Record | Failure:
    if isinstance(found, UnlistedFolder):
        return Failure(found.uri, "read", found.error)
    return Record(id=found.uri, image=found, named=False)
