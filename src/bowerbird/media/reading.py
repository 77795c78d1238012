"""Files to bytes, with a bound on size and time, and never waiting on a pipe."""

from __future__ import annotations

import math
import os
from pathlib import Path
from stat import S_ISBLK, S_ISCHR, S_ISDIR, S_ISREG
from time import monotonic
from typing import Protocol, runtime_checkable

from bowerbird.errors import DecodeError, UnreadableError
from bowerbird.media.policy import DecodePolicy

_READ_CHUNK = 1 << 22


@runtime_checkable
class Readable(Protocol):
    """Something whose bytes are fetched when they are needed: a member of a tar, an object in a store, an address.

    Picklable and small, so that it travels to the worker that reads it. `str(readable)` is its address.
    """

    def read(self, policy: DecodePolicy) -> bytes:
        """All bytes.

        Raises:
            UnreadableError: missing, forbidden, over the size cap of the policy, or over time.
        """


def read_bytes(path: Path, policy: DecodePolicy) -> bytes:
    """Read a regular file in full; never blocks on a pipe or device.

    Raises:
        UnreadableError: missing, a directory, not a regular file, forbidden, over the size cap, vanished
            while it was read, or over time.
        DecodeError: the file is empty.
    """
    path, shown = Path(path), one_line(path)
    try:
        # Before opening: opening a device can have effects, and a pipe would wait for its writer.
        _refuse_irregular(path.stat().st_mode, shown)
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
        handle = os.open(path, flags | getattr(os, "O_BINARY", 0))
        try:
            data = _read_open(handle, shown, policy)
        finally:
            os.close(handle)
    except FileNotFoundError:
        reason = "is a link to a file that does not exist" if path.is_symlink() else "does not exist"
        raise UnreadableError(f"{shown} {reason}.", hint="Check the path; the file may have moved.") from None
    except PermissionError:
        raise UnreadableError(
            f"{shown} may not be read: permission denied.", hint="Change its permissions, or leave it out."
        ) from None
    except (OSError, ValueError) as error:
        reason = one_line(getattr(error, "strerror", None) or error, 300)
        raise UnreadableError(
            f"{shown} could not be read: {reason}.", hint="Check the path and its disk."
        ) from None
    if not data:
        raise empty(shown)
    return data


def _refuse_irregular(mode: int, shown: str) -> None:
    if S_ISREG(mode):
        return
    if S_ISDIR(mode):
        raise UnreadableError(f"{shown} is a directory.", hint="Give a file, or index the directory.")
    kind = "a device" if S_ISBLK(mode) or S_ISCHR(mode) else "a pipe or socket"
    raise UnreadableError(f"{shown} is {kind}, not a regular file.", hint="Give a regular file.")


def _read_open(handle: int, shown: str, policy: DecodePolicy) -> bytes:
    status = os.fstat(handle)
    # Once more: the path may have been exchanged in between.
    _refuse_irregular(status.st_mode, shown)
    check_bytes(status.st_size, shown, policy)
    deadline = monotonic() + policy.seconds if policy.seconds else math.inf
    chunks: list[bytes] = []
    total = 0
    while True:
        # One byte more than is missing, so that the usual file takes one read and one to see its end.
        missing = max(status.st_size + 1 - total, 1 << 16)
        chunk = os.read(handle, min(_READ_CHUNK, missing))
        if not chunk:
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.append(chunk)
        total += len(chunk)
        check_bytes(total, shown, policy)
        if monotonic() > deadline:
            raise UnreadableError(
                f"{shown} took longer than {policy.seconds:g} s to read.",
                hint="Copy it to a faster disk, or raise BOWERBIRD_DECODE_SECONDS.",
            )


def check_bytes(size: int, shown: str, policy: DecodePolicy) -> None:
    """Refuse more bytes than the policy allows.

    Raises:
        UnreadableError: over the size cap.
    """
    if policy.max_bytes and size > policy.max_bytes:
        raise UnreadableError(
            f"{shown} has {size:,} bytes, more than the cap of {policy.max_bytes:,}.",
            hint="Raise BOWERBIRD_MAX_BYTES if you trust the file.",
        )


def empty(shown: str) -> DecodeError:
    """Make the error of a file of 0 bytes."""
    return DecodeError(f"{shown} is empty (0 bytes).", hint="Copy or download it again.")


def one_line(text: object, limit: int = 4096) -> str:
    """Give text that is safe to print: one line, no control characters or lone surrogates, not endless."""
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))
    return plain if len(plain) <= limit else f"{plain[: limit - 1]}…"
