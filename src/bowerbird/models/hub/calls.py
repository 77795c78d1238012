"""One call of huggingface_hub: watched, repeated when that may help, and its failures said so that a user can act.

Left to itself huggingface_hub prints warnings and bars, sleeps for as long as `Retry-After` says, five times over, and
raises some thirty classes of three libraries. `patiently` runs a call with none of that. It marks its own calls, so
that a program which uses huggingface_hub itself notices nothing.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from bowerbird.errors import ModelError, ModelFetchError, ModelFormatError, ModelNotFoundError

if TYPE_CHECKING:
    from httpx2 import Headers, Request, Response

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the bytes that are there and the bytes there will be; from one thread at a time."""

ATTEMPTS = 4
"""How often one request or one file is tried when the hub is busy or the connection breaks."""

BACKOFF = 1.0
"""Seconds before the second attempt; doubled before each further one."""

LONGEST_WAIT = 60.0
"""Seconds that the hub may ask us to wait (`Retry-After`); when it asks for more, that is an error."""

SILENCE = 20.0
"""Seconds without a byte after which a connection counts as broken."""

COMMIT = re.compile(r"[0-9a-f]{40}")
_ETAG = re.compile(r'(W/)?"?[0-9A-Za-z_-]+"?')
_RESET = re.compile(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d+)")
_LOGIN = "run `hf auth login`, or set HF_TOKEN"

T = TypeVar("T")


class StoppedError(Exception):
    """Another file failed, or the user pressed Ctrl-C: this one need not go on."""


class Meter:
    """Bytes of all the files of one download.

    Attributes:
        stopped: set when the files that are still on their way need not arrive.
    """

    def __init__(self, total: int, progress: Progress | None = None) -> None:
        self.stopped = threading.Event()
        self._total = total
        self._done = 0
        self._progress = progress
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Count bytes that arrived, or, when negative, that must arrive again."""
        with self._lock:
            self._done += count
            if self._progress:
                self._progress(min(self._done, self._total), self._total)


@dataclass
class Transfer:
    """Bytes of one file."""

    meter: Meter
    done: int = 0

    def add(self, count: int) -> None:
        """Count bytes that arrived.

        Raises:
            StoppedError: they need not arrive any more.
        """
        if self.meter.stopped.is_set():
            raise StoppedError
        self.done += count
        self.meter.add(count)

    def reach(self, count: int) -> None:
        """Set how many there are."""
        self.meter.add(count - self.done)
        self.done = count


_CURRENT: ContextVar[Transfer | None] = ContextVar("bowerbird_transfer", default=None)
"""Set while a call of ours runs: what it counts into, and what tells it from calls of the user's own."""


class Bar:
    """What huggingface_hub asks of a progress bar; it draws nothing and counts into the current transfer."""

    def __init__(self, *_: object, total: int | None = None, initial: int = 0, **__: object) -> None:
        self.total = total
        self.n = initial
        self._transfer = _CURRENT.get()

    def update(self, count: float | None = 1) -> None:
        """Bytes were written."""
        self.n += int(count or 0)
        if self._transfer:
            self._transfer.add(int(count or 0))

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _nothing(self, *_: object, **__: object) -> None:
        pass

    # Bytes on the wire differ from bytes of the file where the hub compresses; only the latter are counted.
    update_transfer = set_postfix_str = set_transfer_postfix_str = refresh = close = _nothing


def patiently(action: Callable[[], T], transfer: Transfer, what: str, repository: str, cache: Path) -> T:
    """Make a call, again when that may help.

    Args:
        action: the call.
        transfer: what its bytes are counted into.
        what: it asks for; for messages.
        repository: `org/name`; for messages.
        cache: where files are written; for messages.

    Raises:
        ModelError: it failed; the message says what, and what to do.
        StoppedError: it was told to stop.
    """
    for attempt in range(ATTEMPTS):
        try:
            with _ours(transfer):
                return action()
        except (StoppedError, ModelError):
            raise
        except Exception as error:
            wait = _wait(error, BACKOFF * 2**attempt)
            if wait is None or attempt == ATTEMPTS - 1:
                raise _explained(_root(error), what, repository, cache) from error
            if transfer.meter.stopped.wait(wait):
                raise StoppedError from error
    raise AssertionError("unreachable")


def no_space(repository: str, cache: Path, figures: str) -> ModelFetchError:
    """The error for a full disk."""
    return ModelFetchError(
        f"{repository} cannot be downloaded: there is no space in {cache}: {figures}.",
        hint="Free some, or set HF_HOME to a directory on another disk.",
    )


class _BusyError(Exception):
    """The hub answered 408, 429 or 5xx."""

    def __init__(self, status: int, wait: float | None) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.wait = wait


@contextmanager
def _ours(transfer: Transfer) -> Iterator[None]:
    """Mark what runs inside as a call of ours: bounded by `_bound`, judged by `_judge`, its warnings dropped."""
    from huggingface_hub import get_session

    for handler in logging.getLogger("huggingface_hub").handlers:
        handler.addFilter(_is_not_ours)  # Adding it twice adds it once.
    hooks = get_session().event_hooks
    if _judge not in hooks["response"]:
        hooks["request"].append(_bound)
        hooks["response"].append(_judge)
    token = _CURRENT.set(transfer)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def _is_not_ours(_: logging.LogRecord) -> bool:
    return _CURRENT.get() is None


def _bound(request: Request) -> None:
    """Before a request goes out: stop when told to, and never wait for minutes, as huggingface_hub otherwise would."""
    transfer = _CURRENT.get()
    if transfer is None:
        return
    if transfer.meter.stopped.is_set():
        raise StoppedError
    limits = request.extensions.get("timeout") or {}
    request.extensions["timeout"] = {
        kind: min(limits.get(kind) or SILENCE, SILENCE) for kind in ("connect", "read", "write", "pool")
    }


def _judge(response: Response) -> None:
    """Look at an answer before huggingface_hub does, which takes an ETag for a file name without looking at it."""
    if _CURRENT.get() is None:
        return
    status, headers = response.status_code, response.headers
    if status in (408, 429) or status >= 500:
        raise _BusyError(status, _asked_wait(headers))
    commit = headers.get("X-Repo-Commit")
    if commit is None:
        return
    etag = headers.get("X-Linked-Etag") or headers.get("ETag") or "none"
    if not COMMIT.fullmatch(commit) or not _ETAG.fullmatch(etag):
        raise ModelFormatError(
            f"The hub answered with the commit {commit!r} and the ETag {etag!r}, which are no names for files.",
            hint="Nothing was written. Check HF_ENDPOINT.",
        )


def _asked_wait(headers: Headers) -> float | None:
    """Seconds that the hub asks us to wait: `Retry-After`, or `RateLimit: "api";r=0;t=55`."""
    asked = headers.get("Retry-After", "").strip()
    if asked.isdigit():
        return float(asked)
    reset = _RESET.search(headers.get("RateLimit", ""))
    return float(reset[1]) if reset else None


def _root(error: Exception) -> Exception:
    """What went wrong: 'not in the cache either' hides why the hub could not be asked."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    cause = error.__cause__
    return (
        _root(cause) if isinstance(error, LocalEntryNotFoundError) and isinstance(cause, Exception) else error
    )


def _is_short(error: Exception) -> bool:
    """Whether huggingface_hub found that a file ended too early or went on too long."""
    return isinstance(error, OSError) and error.errno is None and "Consistency check failed" in str(error)


def _wait(error: Exception, backoff: float) -> float | None:
    """Seconds after which to try again; None when that would not help."""
    import httpx2

    if _root(error) is not error:
        return None  # huggingface_hub has tried again by itself.
    if isinstance(error, _BusyError):
        if error.status == 429 and error.wait is not None:
            return error.wait if error.wait <= LONGEST_WAIT else None
        return backoff
    if isinstance(error, httpx2.ConnectError):
        return None
    broken = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)
    return backoff if isinstance(error, broken) or _is_short(error) else None


def _explained(error: Exception, what: str, repository: str, cache: Path) -> ModelError:
    """The error that a user sees."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, _BusyError):
        return _busy(error, what, repository)
    if isinstance(error, HfHubHTTPError):
        return _refused(error, error.response.status_code, what, repository)
    return _network_error(error, what, repository) or _local_error(error, what, repository, cache)


def _busy(error: _BusyError, what: str, repository: str) -> ModelError:
    if error.status == 429:
        wait = f" It asks to wait {error.wait:.0f} s." if error.wait is not None else ""
        return ModelFetchError(
            f"The hub limits how often it may be asked (429), and refused {what}.{wait}",
            hint=f"Try again later; to raise the limit, {_LOGIN}.",
        )
    return ModelFetchError(
        f"The hub failed to answer for {what} (HTTP {error.status}, {ATTEMPTS} attempts).",
        hint=f"Try again later: {_pull(repository)}",
    )


def _refused(error: Exception, status: int, what: str, repository: str) -> ModelError:
    from huggingface_hub import errors as hub

    if isinstance(error, hub.GatedRepoError):
        return ModelFetchError(
            f"{repository} is gated: its owner wants you to accept conditions first.",
            hint=f"Accept them at https://huggingface.co/{repository}, then {_LOGIN}, and: {_pull(repository)}",
        )
    if isinstance(error, hub.RevisionNotFoundError):
        return ModelNotFoundError(
            f"{what}: the repository has no such revision.",
            hint="Give a branch, a tag or a commit after the @.",
        )
    if isinstance(error, hub.RemoteEntryNotFoundError):
        return ModelNotFoundError(
            f"{what}: the repository has no such file.", hint=f"Try again: {_pull(repository)} --update"
        )
    if isinstance(error, hub.RepositoryNotFoundError) or status in (401, 404):
        return ModelNotFoundError(
            f"The hub has no repository {repository}, or it is private and this token may not read it.",
            hint=f"Check the name; if it is private, {_LOGIN}.",
        )
    return ModelFetchError(
        f"The hub refused {what} (HTTP {status}).",
        hint=f"Check what your token may read; to change it, {_LOGIN}.",
    )


def _network_error(error: Exception, what: str, repository: str) -> ModelFetchError | None:
    import httpx2
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return ModelFetchError(
            f"{what} cannot be asked for: huggingface_hub was imported while HF_HUB_OFFLINE was set.",
            hint="Start Python again without it.",
        )
    if isinstance(error, (httpx2.ConnectError, httpx2.ProxyError)):
        return ModelFetchError(
            f"The hub cannot be reached for {what}: {error}.",
            hint="Check the network and the proxy; HF_HUB_OFFLINE=1 uses what was downloaded before.",
        )
    if isinstance(error, httpx2.HTTPError) or _is_short(error):
        return ModelFetchError(
            f"The connection broke while {what} was fetched ({type(error).__name__}, {ATTEMPTS} attempts).",
            hint=f"Try again: {_pull(repository)}. Files that are complete are kept.",
        )
    return None


def _local_error(error: Exception, what: str, repository: str, cache: Path) -> ModelError:
    from huggingface_hub.errors import HFValidationError

    if isinstance(error, HFValidationError):
        return ModelNotFoundError(
            f"{repository!r} is no name of a repository: {error}", hint="Write it ORG/NAME."
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return no_space(
            repository, cache, f"{shutil.disk_usage(existing(cache)).free / 1e6:,.1f} MB are left"
        )
    if isinstance(error, OSError) and error.errno is not None:
        return ModelFetchError(
            f"{what} cannot be written to {cache}: {os.strerror(error.errno)}.",
            hint="Set HF_HOME to a directory that can be written to.",
        )
    return ModelFetchError(
        f"{what} could not be fetched: {type(error).__name__}: {error}.",
        hint=f"Try again: {_pull(repository)}",
    )


def existing(path: Path) -> Path:
    """The path, or the first of its parents that exists."""
    return next((place for place in (path, *path.parents) if place.exists()), path)


def _pull(repository: str) -> str:
    return f"bowerbird models pull {repository}"
