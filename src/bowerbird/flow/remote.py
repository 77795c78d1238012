"""Object stores: files at `s3://`, `gs://`, `az://` and whatever else fsspec knows.

Where a store lies and who we are is found out by the client library of each. For S3 these are the usual variables:
`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_PROFILE` and so on. The client also tries again
when a store is busy or a connection breaks, a bounded number of times.

Addresses of pages and pictures on the web are read by `bowerbird.flow.web`; `stored` and `open_bytes` hand over to it.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO, cast

from bowerbird.errors import BowerbirdError, MissingExtraError, UnreadableError
from bowerbird.flow.trouble import unreadable
from bowerbird.media.image import IMAGE_SUFFIXES
from bowerbird.media.policy import DecodePolicy
from bowerbird.media.reading import Readable, check_bytes, empty, one_line

CONNECT_SECONDS = 10
READ_SECONDS = 60
"""Without an answer, and without a byte, for so long a request to an object store is given up."""

ATTEMPTS = 2
"""Tries of one request by botocore; s3fs makes up to five of these, with growing pauses."""

CONNECTIONS = 64
"""To one store at once; whoever waits for one, waits within his time."""

_CHUNK = 1 << 22
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_GLOB = re.compile(r"[*?\[]")

EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), ("s3fs", "s3")),
    **dict.fromkeys(("gs", "gcs"), ("gcsfs", "gs")),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), ("adlfs", "az")),
}
"""By protocol: the package that speaks it, and the extra of bowerbird that brings it."""

_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "config_kwargs": {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": READ_SECONDS,
            "max_pool_connections": CONNECTIONS,
            "retries": {"total_max_attempts": ATTEMPTS, "mode": "standard"},
        }
    }
}
_OPTIONS["s3a"] = _OPTIONS["s3"]


def scheme(text: object) -> str:
    """The protocol of an address, in small letters; empty for a path."""
    found = _SCHEME.match(str(text))
    return found[1].lower() if found else ""


def is_remote(text: object) -> bool:
    """Whether something is an address such as `s3://bucket/key` or `https://host/a.jpg`, rather than a path."""
    return scheme(text) not in ("", "file")


def is_web(text: object) -> bool:
    """Whether something is an `http://` or `https://` address."""
    return scheme(text) in ("http", "https")


@lru_cache(maxsize=32)
def _by_protocol(protocol: str, process: int) -> Any:
    import fsspec

    package, extra = EXTRAS.get(protocol, ("", ""))
    try:
        # Listings are not remembered: others write to a store, and memory must not grow with what was listed.
        return fsspec.filesystem(protocol, use_listings_cache=False, **_OPTIONS.get(protocol, {}))
    except ImportError as error:
        if package:
            raise MissingExtraError(package, extra) from error
        raise BowerbirdError(
            f"Addresses that begin with {protocol}:// need a package that is not installed: {one_line(error)}.",
            hint="Install it, or copy the files to a local folder.",
        ) from error
    except ValueError as error:
        raise BowerbirdError(
            f"Addresses that begin with {protocol}:// are not known.",
            hint="Use s3://, gs://, az:// or https://.",
        ) from error


def filesystem_of(uri: str, filesystem: Any = None) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path in it.

    Args:
        uri: the address; for a given file system also a plain path in it.
        filesystem: an fsspec or pyarrow file system to use instead of the protocol's.

    Raises:
        MissingExtraError: the package for the protocol is not installed.
        BowerbirdError: the protocol is not known.
    """
    if filesystem is None:
        found = _by_protocol(scheme(uri) or "file", os.getpid())
        return found, str(found._strip_protocol(uri))
    if not hasattr(filesystem, "_strip_protocol"):  # a pyarrow one: its paths have no protocol
        from fsspec.implementations.arrow import ArrowFSWrapper

        return ArrowFSWrapper(filesystem), _SCHEME.sub("", uri, count=1)
    return filesystem, str(filesystem._strip_protocol(uri))


@dataclass(frozen=True)
class StoredFile:
    """An object in a store, read when it is needed. Picklable: workers connect themselves.

    Attributes:
        uri: its address.
        size: in bytes, where a listing told it; -1: not known.
        filesystem: an fsspec or pyarrow file system, picklable, where not the one of the address.
    """

    uri: str
    size: int = -1
    filesystem: Any = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return self.uri

    def read(self, policy: DecodePolicy) -> bytes:
        """All bytes; at most one more than the cap of the policy is transferred.

        Raises:
            UnreadableError: no such object or bucket, forbidden, unreachable, over the size cap, or over time.
            DecodeError: the object is empty.
        """
        shown = one_line(self.uri)
        check_bytes(self.size, shown, policy)
        if self.size == 0:
            raise empty(shown)
        from fsspec.exceptions import FSTimeoutError

        system, path = filesystem_of(self.uri, self.filesystem)
        try:
            data = _content(system, path, policy)
        except UnreadableError:
            raise
        except FSTimeoutError as error:
            raise over_time(shown, policy.seconds) from error
        except Exception as error:  # Every client library raises classes of its own.
            raise unreadable(self.uri, error) from error
        check_bytes(len(data), shown, policy)
        if not data:
            raise empty(shown)
        return data


def over_time(shown: str, seconds: float) -> UnreadableError:
    """The error for something that took longer than the policy allows."""
    return UnreadableError(
        f"{shown} took longer than {seconds:g} s to read.",
        hint="Try again, or raise BOWERBIRD_DECODE_SECONDS.",
    )


def _content(system: Any, path: str, policy: DecodePolicy) -> bytes:
    from fsspec.asyn import AsyncFileSystem
    from fsspec.exceptions import FSTimeoutError

    if isinstance(system, AsyncFileSystem):
        bounds = {"start": 0, "end": policy.max_bytes + 1} if policy.max_bytes else {}
        try:
            return cast(bytes, system.cat_file(path, timeout=policy.seconds or None, **bounds))
        except OSError as error:
            # No part of an object of 0 bytes can be asked for.
            if error.errno == errno.EINVAL and bounds and system.info(path)["size"] == 0:
                return b""
            raise
    deadline = monotonic() + policy.seconds if policy.seconds else float("inf")
    data = bytearray()
    with system.open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            data += chunk
            check_bytes(len(data), path, policy)
            if monotonic() > deadline:
                raise FSTimeoutError
    return bytes(data)


def stored(uri: str, filesystem: Any = None) -> Readable:
    """Something to read later, by its address: an object in a store, or a file on the web.

    Args:
        uri: such as `s3://bucket/a.jpg` or `https://host/a.jpg`.
        filesystem: an fsspec or pyarrow file system, picklable, where not the one of the address.
    """
    if filesystem is None and is_web(uri):
        from bowerbird.flow.web import WebFile

        return WebFile(uri)
    return StoredFile(uri, filesystem=filesystem)


def open_bytes(uri: str | Path, filesystem: Any = None) -> BinaryIO:
    """Open a local path or an address for reading, from its beginning, a piece at a time.

    Raises:
        UnreadableError: it cannot be had; also while it is read, where the store fails in the middle.
        OSError: for a local path.
        MissingExtraError: the package for its protocol is not installed.
    """
    text = os.fspath(uri)
    if filesystem is None and is_web(text):
        from bowerbird.flow.web import open_web

        return open_web(text)
    if filesystem is None and not is_remote(text):
        from bowerbird.flow.files import from_uri

        return open(from_uri(text), "rb")
    from bowerbird.flow.streams import buffered

    system, path = filesystem_of(text, filesystem)
    try:
        file = system.open(path, "rb")
    except Exception as error:
        raise unreadable(text, error) from error
    # The functions keep the file alive: its own methods may belong to something inside it.
    return buffered(
        lambda size: cast(bytes, file.read(size)),
        file.close,
        lambda error: unreadable(text, error),
        lambda offset, whence: int(file.seek(offset, whence)),
    )


def list_files(pattern: str, filesystem: Any = None) -> Iterator[str]:
    """The addresses that a folder, a glob such as `s3://bucket/photos/**/*.jpg`, or a single object stands for.

    Folder by folder, each in the order of names, asked for as they are needed. In a folder without a pattern only
    pictures are taken, by their suffix, and nothing hidden.

    Raises:
        UnreadableError: nothing is there, or a folder cannot be listed.
    """
    for found in list_stored(pattern, filesystem):
        if isinstance(found, UnlistedFolder):
            raise found.error
        yield found.uri


@dataclass(frozen=True)
class UnlistedFolder:
    """A folder of a store whose listing failed; the others are not affected."""

    uri: str
    error: UnreadableError


def list_stored(pattern: str, filesystem: Any = None) -> Iterator[StoredFile | UnlistedFolder]:
    """Like `list_files`, with sizes, and going on after a folder that cannot be listed.

    Raises:
        UnreadableError: nothing is there: the first listing failed, or found nothing.
    """
    system, path = filesystem_of(pattern, filesystem)
    found_scheme = _SCHEME.match(pattern)
    prefix = found_scheme[0] if found_scheme else ""
    anything = False
    for entry in _entries(system, path, is_folder=pattern.endswith("/")):
        if isinstance(entry, tuple):
            folder, error = entry
            if not anything:
                raise unreadable(pattern if folder == path else f"{prefix}{folder}", error) from error
            yield UnlistedFolder(f"{prefix}{folder}", unreadable(f"{prefix}{folder}", error))
        else:
            anything = True
            yield StoredFile(f"{prefix}{entry['name']}", _size(entry), filesystem)
    if not anything:
        raise UnreadableError(
            f"Nothing is at {one_line(pattern)}.", hint="Check the address; ** crosses folders."
        )


def _size(entry: dict[str, Any]) -> int:
    size = entry.get("size")
    return -1 if size is None else int(size)


def _entries(system: Any, path: str, *, is_folder: bool) -> Iterator[dict[str, Any] | tuple[str, Exception]]:
    """What is listed for each file, or a folder and why it could not be listed."""
    glob = _GLOB.search(path)
    if glob is None:
        try:
            info = {"type": "directory"} if is_folder else system.info(path)
        except Exception as error:  # noqa: BLE001  see StoredFile.read
            yield path, error
            return
        if info["type"] != "directory":
            yield {**info, "name": path}
            return
        yield from _walk(system, path.rstrip("/"), _is_picture, depth=-1)
        return
    from fsspec.utils import glob_translate

    root = path[: glob.start()].rpartition("/")[0]
    matches = re.compile(glob_translate(path)).match
    depth = -1 if "**" in path else path[len(root) :].lstrip("/").count("/")
    yield from _walk(system, root, lambda name: matches(name) is not None, depth=depth)


def _is_picture(name: str) -> bool:
    base = name.rpartition("/")[2]
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in IMAGE_SUFFIXES


def _walk(
    system: Any, root: str, wanted: Any, *, depth: int
) -> Iterator[dict[str, Any] | tuple[str, Exception]]:
    stack = [(root, depth)]
    while stack:
        folder, left = stack.pop()
        try:
            listing = sorted(system.ls(folder, detail=True), key=lambda entry: str(entry["name"]))
        except Exception as error:  # noqa: BLE001  see StoredFile.read
            yield folder, error
            continue
        folders = []
        for entry in listing:
            name = str(entry["name"])
            if name.rstrip("/") == folder.rstrip("/"):
                continue  # An empty object that stands for the folder itself.
            if entry["type"] == "directory":
                if left and not name.rstrip("/").rpartition("/")[2].startswith("."):
                    folders.append((name.rstrip("/"), left - 1))
            elif wanted(name):
                yield entry
        stack.extend(reversed(folders))
