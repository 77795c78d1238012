"""Where tables and pictures lie: local paths, and addresses such as `s3://bucket/name`."""

from __future__ import annotations

import gzip
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from bowerbird.errors import UnreadableError
from bowerbird.flow.files import expand, from_uri, printable, scope, unreadable
from bowerbird.media.reading import Readable, one_line

PACKED = (".gz", ".tgz")
"""Files that end so are unpacked as they are read."""


def is_remote(text: str) -> bool:
    """Whether a text is an address rather than a local path; `file://` is local."""
    if "://" not in text:
        return False
    from bowerbird.flow import remote

    return remote.is_remote(text)


def is_web(text: str) -> bool:
    """Whether a text is an `http://` or `https://` address."""
    if "://" not in text:
        return False
    from bowerbird.flow import remote

    return remote.is_web(text)


def located(path: str | Path) -> str:
    """An absolute local path, or an address as it is; so a worker in another folder finds the same file."""
    text = os.fspath(path)
    return text if is_remote(text) else os.path.abspath(os.path.expanduser(from_uri(text)))


def shown(place: str) -> str:
    """A place as messages call it."""
    return one_line(printable(place))


def base_name(place: str) -> str:
    """The last part of a path or an address, as ids of rows have it."""
    return shown(place.rstrip("/").rpartition("/")[2])


def folder_of(place: str) -> str:
    """The folder that holds a file; of an address, everything before its last slash."""
    return place.rpartition("/")[0] or "/"


def joined(root: str, name: str) -> str:
    """A path below `root`, which may be an address; absolute paths and addresses stay as they are."""
    if is_remote(name):
        return name
    if is_remote(root) and not name.startswith("/"):
        return f"{root.rstrip('/')}/{name}"
    return os.path.join(root, from_uri(name))


def picture_at(name: str, root: str) -> Path | Readable:
    """The picture that a table names: a file below `root`, or what lies at an address. It is not looked for here."""
    place = joined(root, name)
    if is_remote(place):
        from bowerbird.flow import remote

        return remote.stored(place)
    return Path(place)


def files_of(pattern: str, suffixes: tuple[str, ...]) -> list[tuple[str, str]]:
    """The files that a path, a glob or a folder stands for, local or at an address, each with a name for ids.

    In a folder, those with one of the suffixes, in the order of their paths, nothing hidden. Names are paths below the
    folder, or below the folder that a glob starts in; a single file has its base name.

    Raises:
        UnreadableError: there are none.
    """
    if is_remote(pattern):
        places = _stored_files(pattern, suffixes)
        single = "*" in pattern or pattern.endswith(suffixes)
        top = folder_of(pattern.partition("*")[0]) if single else pattern.rstrip("/")
    else:
        roots = expand(pattern)
        top = os.fspath(scope(pattern))
        places = [place for root in roots for place in _files_below(os.fspath(root), suffixes)]
        top = folder_of(top) if roots == [Path(top)] and not os.path.isdir(top) else top
    if not places:
        raise UnreadableError(
            f"No file below {shown(pattern)} ends in {' or '.join(suffixes)}.", hint="Check the folder."
        )
    return [(place, shown(place.removeprefix(top).lstrip("/"))) for place in dict.fromkeys(places)]


def _files_below(root: str, suffixes: tuple[str, ...]) -> list[str]:
    if not os.path.isdir(root):
        return [root]
    found: list[str] = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        kept = (name for name in names if not name.startswith((".", "_")) and name.endswith(suffixes))
        found.extend(os.path.join(folder, name) for name in kept)
    return sorted(found)


def _stored_files(pattern: str, suffixes: tuple[str, ...]) -> list[str]:
    from bowerbird.flow import remote

    if "*" in pattern:
        return list(remote.list_files(pattern))
    if pattern.endswith(suffixes):
        return [pattern]
    folder = pattern.rstrip("/")
    below = (place for place in remote.list_files(f"{folder}/**/*") if place.endswith(suffixes))
    return [place for place in below if "/_" not in place[len(folder) :] and "/." not in place[len(folder) :]]


@contextmanager
def opened(place: str) -> Iterator[BinaryIO]:
    """The bytes of a file; those of `PACKED` ones unpacked as they are read.

    Raises:
        UnreadableError: it is missing, forbidden, or not a regular file.
    """
    with ExitStack() as stack:
        if is_remote(place):
            from bowerbird.flow import remote

            stream = stack.enter_context(remote.open_bytes(place))
        else:
            stream = stack.enter_context(_open_local(place))
        if place.endswith(PACKED):
            stream = cast(BinaryIO, stack.enter_context(gzip.GzipFile(fileobj=stream)))
        yield stream


def _open_local(path: str) -> BinaryIO:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UnreadableError(
                f"{shown(path)} is not a regular file.", hint="Give a file that can be read twice."
            )
        return open(path, "rb")
    except FileNotFoundError:
        raise UnreadableError(
            f"{shown(path)} does not exist.", hint="Check the spelling, or whether its disk is connected."
        ) from None
    except OSError as error:
        raise unreadable(path, error) from None
