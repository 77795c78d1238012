"""Where pictures come from: folders, globs and single files."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from bowerbird.errors import InputError, UnreadableError
from bowerbird.media.image import IMAGE_SUFFIXES
from bowerbird.media.reading import one_line

_GLOB_CHARACTERS = frozenset("*?[")


@dataclass(frozen=True)
class FoundFile:
    """A file that looks like a picture by its name.

    Attributes:
        path: absolute; symbolic links in it are kept.
        size: in bytes.
        mtime_ns: time of the last change, in nanoseconds.
    """

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Unreachable:
    """A place that could not be looked into."""

    path: str
    error: InputError


def to_uri(path: str) -> str:
    """A path as it is stored: itself, or a percent-encoded `file://` URI when it is not valid Unicode."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return Path(path).as_uri()
    return path


def from_uri(uri: str) -> str:
    """The inverse of `to_uri`."""
    if uri.startswith("file://"):
        return os.fsdecode(unquote_to_bytes(urlsplit(uri).path))
    return uri


def printable(path: str) -> str:
    """A path that any terminal or file takes: bytes that are not UTF-8 become backslash escapes."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def picture_at(text: str, folder: str | Path = "") -> Path | None:
    """The picture that a text is the path of: it ends as names of pictures do, and a file is there; else None.

    Args:
        text: a path, or words.
        folder: what a path is relative to; empty: the working directory.
    """
    if len(text) > 4096 or os.path.splitext(text)[1].lower() not in IMAGE_SUFFIXES:
        return None
    path = os.path.join(folder, os.path.expanduser(text))
    return Path(path) if os.path.isfile(path) else None


def expand(source: str | Path) -> list[Path]:
    """The absolute paths a source stands for: a folder, a file, or the matches of a glob.

    Raises:
        UnreadableError: nothing is there.
    """
    text = os.path.expanduser(os.fspath(source))
    if os.path.lexists(text):
        return [Path(os.path.abspath(text))]
    if not _GLOB_CHARACTERS.isdisjoint(text):
        matches = sorted(glob.glob(text, recursive=True))
        if matches:
            return [Path(os.path.abspath(match)) for match in matches]
        raise UnreadableError(
            f"Nothing matches {printable(text)}.", hint="Check the pattern; ** crosses folders."
        )
    raise UnreadableError(
        f"{printable(text)} does not exist.", hint="Check the spelling, or whether its disk is connected."
    )


def scope(source: str | Path) -> Path:
    """Where the files of a source may lie: the folder or file itself; for a glob, the folder its pattern starts in."""
    path = Path(os.path.abspath(os.path.expanduser(os.fspath(source))))
    if os.path.lexists(path):
        return path
    while not _GLOB_CHARACTERS.isdisjoint(os.fspath(path)):
        path = path.parent
    return path


def walk(roots: Iterable[Path]) -> Iterator[FoundFile | Unreachable]:
    """Every file below `roots` that looks like a picture, folder by folder in the order of names.

    Symbolic links are followed; a folder reached twice, as in a loop, is walked once. Hidden files and folders
    (a leading dot) are left out below a root. A folder that cannot be read comes out as `Unreachable`. A root
    that is a file is taken whatever its name. A path comes out once, however many roots lead to it.
    """
    seen: set[tuple[int, int]] = set()
    folders, singles = [], dict[str, None]()
    for root in roots:
        if root.is_dir():
            folders.append(os.fspath(root))
        else:
            singles[os.fspath(root)] = None
    for path in singles:
        yield _found(path)
    for folder in folders:
        for entry in _walk_folder(folder, seen):
            if entry.path not in singles:
                yield entry


def _walk_folder(top: str, seen: set[tuple[int, int]]) -> Iterator[FoundFile | Unreachable]:
    # A stack instead of recursion: folders may be nested deeper than Python's call stack.
    stack = [top]
    while stack:
        folder = stack.pop()
        try:
            info = os.stat(folder)
            if (info.st_dev, info.st_ino) in seen:
                continue
            seen.add((info.st_dev, info.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            yield Unreachable(folder, unreadable(folder, error))
            continue
        folders = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                folders.append(entry.path)
            elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
                yield _found(entry.path)
        stack.extend(reversed(folders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link that points to itself.
        return False


def _found(path: str) -> FoundFile | Unreachable:
    try:
        info = os.stat(path)
    except OSError as error:
        return Unreachable(path, unreadable(path, error))
    if not stat.S_ISREG(info.st_mode):
        return Unreachable(
            path,
            UnreadableError(
                f"{one_line(printable(path))} is not a regular file.", hint="Remove it from the folder."
            ),
        )
    return FoundFile(path, info.st_size, info.st_mtime_ns)


def unreadable(path: str, error: OSError) -> UnreadableError:
    """One line for what the system said about a path."""
    if isinstance(error, FileNotFoundError):
        return UnreadableError(
            f"{one_line(printable(path))} has vanished, or is a link that leads nowhere.",
            hint="Run the same command again, or remove the link.",
        )
    reason = (error.strerror or type(error).__name__).lower()
    return UnreadableError(
        f"{one_line(printable(path))} cannot be read: {reason}.", hint="Check its permissions."
    )


def is_gone(path: str) -> bool:
    """Whether a file is certainly no longer there; a folder that may not be entered does not prove it."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
