"""Where an index lies: a local directory, or an address in an object store.

Both hold a few small files by name, which are replaced in one step, and a lock for the one who writes. What the two
refuse comes out as the same errors.
"""

from __future__ import annotations

import errno
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from bowerbird.errors import (
    IndexBusyError,
    IndexNotFoundError,
    IndexReadOnlyError,
    StorageFullError,
    StoreError,
)
from bowerbird.flow.files import printable
from bowerbird.flow.remote import is_remote, scheme
from bowerbird.store.postgres_address import is_postgres

LOCK = ".lock"

DATABASES = ("postgresql", "postgres", "pinecone")
"""Protocols of addresses at which there can be nothing but an index."""

Place: TypeAlias = "str | Path | Location"
"""What `Location.of` takes."""


class Held:
    """A write lock that is held."""

    def check(self) -> None:
        """Make sure that it is still ours, before something is published.

        Raises:
            IndexBusyError: another process has taken it over.
        """


class Location(ABC):
    """Where an index lies. `str()` names it for people, and `Location.of` takes that back.

    Every method raises `StoreError` where the place does not allow it, with the reason.
    """

    @staticmethod
    def of(place: Place) -> Location:
        """The location for a path, or for an address such as `s3://bucket/photos.bower`.

        Raises:
            StoreError: there can be no index of that name.
        """
        if isinstance(place, Location):
            return place
        if isinstance(place, str) and is_postgres(place):
            from bowerbird.store.postgres_place import PostgresPlace

            return PostgresPlace.at(place)
        if isinstance(place, str) and scheme(place) == "pinecone":
            from bowerbird.store.pinecone_place import PineconePlace

            return PineconePlace.at(place)
        if isinstance(place, str) and is_remote(place):
            from bowerbird.store.objects import ObjectPlace

            return ObjectPlace.at(place)
        path = Path(place).expanduser().absolute()
        if printable(str(path)) != str(path):
            raise StoreError(
                f"{printable(str(path))} cannot hold an index.", hint="Give a name in valid UTF-8."
            )
        return Directory(path)

    @abstractmethod
    def child(self, name: str) -> str:
        """The path or address of something in it."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""

    @abstractmethod
    def read_bytes(self, name: str) -> bytes | None:
        """What a file holds; None when there is none.

        Raises:
            IndexNotFoundError: the place itself is a file.
        """

    @abstractmethod
    def replace(self, name: str, data: bytes) -> None:
        """Write a file in one step: readers see the old bytes or the new ones, whatever happens."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all that is in it; whether it is there or not."""

    @abstractmethod
    def names(self) -> list[str]:
        """The files and folders in it, sorted; none when the place does not exist."""

    def size(self) -> int | None:
        """The bytes that it takes, with all that is in it; None where nobody can say."""
        return None

    @abstractmethod
    def prepare(self) -> None:
        """Make the place where it has to be made before something can be written."""

    @contextmanager
    @abstractmethod
    def lock(self, seconds: float) -> Iterator[Held]:
        """Hold the write lock. Readers need none.

        Args:
            seconds: how long to wait for another who holds it.

        Raises:
            IndexBusyError: another process kept it for longer than `seconds`.
            IndexReadOnlyError: the place may not be written to.
        """
        yield Held()


@dataclass(frozen=True)
class Directory(Location):
    """A local directory. The system frees the lock when the process that holds it dies."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def child(self, name: str) -> str:
        """See `Location`."""
        return str(self.path / name)

    def exists(self, name: str) -> bool:
        """See `Location`."""
        try:
            (self.path / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise self._unreadable(name, error) from error
        return True

    def read_bytes(self, name: str) -> bytes | None:
        """See `Location`."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise IndexNotFoundError(
                f"{self.path} is not an index: it is a file.", hint="Give the directory of an index."
            ) from error
        except OSError as error:
            raise self._unreadable(name, error) from error

    def replace(self, name: str, data: bytes) -> None:
        """See `Location`; also after a power cut."""
        temporary = self.path / f".{name}.{os.getpid()}"
        with writable(self.path):
            try:
                with temporary.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(self.path / name)
            finally:
                temporary.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """See `Location`."""
        path = self.path / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with writable(self.path):
                path.unlink(missing_ok=True)

    def names(self) -> list[str]:
        """See `Location`."""
        try:
            return sorted(entry.name for entry in self.path.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._unreadable("", error) from error

    def size(self) -> int | None:
        """See `Location`."""
        return sum(
            os.lstat(os.path.join(folder, name)).st_size
            for folder, _, names in os.walk(self.path)
            for name in names
        )

    def prepare(self) -> None:
        """See `Location`."""
        with writable(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def lock(self, seconds: float) -> Iterator[Held]:
        """See `Location`."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / LOCK)
        try:
            with writable(self.path):
                lock.acquire(timeout=seconds)
        except Timeout as error:
            raise busy(self, seconds) from error
        try:
            yield Held()
        finally:
            lock.release()

    def _unreadable(self, name: str, error: OSError) -> StoreError:
        reason = (error.strerror or type(error).__name__).lower()
        return StoreError(
            f"{self.path / name} cannot be read: {reason}.",
            hint="Check its permissions, and those of its folders.",
        )


def busy(place: Location, seconds: float, holder: str = "") -> IndexBusyError:
    """The error for a lock that did not become free in time."""
    return IndexBusyError(
        f"Another process is writing to {place}{holder}; waited {seconds:g} seconds.",
        hint="Try again when it has finished, or wait longer with BOWERBIRD_LOCK_SECONDS.",
    )


def refusal(error: BaseException, place: object, text: str = "") -> StoreError | None:
    """The error for a place that cannot be written to, is full, or cannot be; None when it is something else.

    Args:
        error: what the system said.
        place: where it said so.
        text: the message, where there may be no number: Lance has only that.
    """
    code = getattr(error, "errno", None)
    if code == errno.ENOSPC or "No space left" in text or "os error 28" in text:
        return StorageFullError(
            f"No space is left on the device that holds {place}.",
            hint="Free some space and run the same command again; it continues where it stopped.",
        )
    refused = ("Read-only file system", "Permission denied")
    if code in (errno.EROFS, errno.EACCES, errno.EPERM) or any(sign in text for sign in refused):
        return IndexReadOnlyError(
            f"{place} cannot be written to.", hint="Check its permissions, or give another place."
        )
    if code in (errno.ENOTDIR, errno.EEXIST) or "Not a directory" in text:
        return StoreError(
            f"{place} cannot hold an index: there is a file in the way.", hint="Give another --index."
        )
    return None


@contextmanager
def writable(place: Path) -> Iterator[None]:
    """Turn the system's refusals to write into errors that name the place.

    Raises:
        IndexReadOnlyError: no permission, or a read-only file system.
        StorageFullError: no space is left.
        StoreError: there is no such folder, or a file is in the way.
    """
    try:
        yield
    except OSError as error:
        refused = refusal(error, place)
        if refused:
            raise refused from error
        if error.errno in (errno.ENOENT, errno.EISDIR, errno.ENAMETOOLONG):
            raise StoreError(
                f"{place} cannot be written: {(error.strerror or '').lower()}.",
                hint="Give a path in a folder that exists.",
            ) from error
        raise
