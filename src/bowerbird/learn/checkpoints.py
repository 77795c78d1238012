"""Checkpoints: a run after each of its epochs, whole or not there.

A checkpoint is one file, `checkpoints/epoch-0003.pt`, and needs no other: it holds the weights as they are and as they
were best, the optimiser's state, the history and the settings. It is written under another name, brought to the disk
and then renamed. Whatever happens in between, those of the epochs before stay as they were.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.errors import LearnError, StorageFullError
from bowerbird.origin.packages import TRAIN, need

if TYPE_CHECKING:
    from filelock import BaseFileLock

FORMAT = 1
FOLDER = "checkpoints"

LOCK = ".lock"
"""In the folder of the run, beside `FOLDER`; held while it runs, and then removed."""

_DRAFT = ".draft"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_LOG = logging.getLogger("bowerbird")


class Checkpoints:
    """The checkpoints of one run, and the lock that keeps another out of its folder.

    Args:
        folder: of the run; they are in its folder `checkpoints`.
        keep: how many of the latest stay; None: all.
    """

    def __init__(self, folder: Path, keep: int | None = 3) -> None:
        self.folder = folder / FOLDER
        self._keep = keep
        self._lock: BaseFileLock | None = None

    def path(self, epoch: int) -> Path:
        """Where that of an epoch is, or would be."""
        return self.folder / f"epoch-{epoch:04d}.pt"

    def all(self) -> list[Path]:
        """Those that are there, the oldest first."""
        return sorted(self.folder.glob("epoch-*.pt"), key=lambda path: (len(path.name), path.name))

    def begin(self) -> None:
        """Make the folder, keep other runs out of it until `end`, and remove what a killed one left half written.

        The system frees the lock when the process that holds it dies.

        Raises:
            StorageFullError: no space is left.
            LearnError: another run is using the folder, or it cannot be written to.
        """
        from filelock import FileLock, Timeout

        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = self._lock or FileLock(self.folder.parent / LOCK, timeout=0)
            try:
                lock.acquire()
            except Timeout:
                raise LearnError(
                    f"Another run is learning in {self.folder.parent}.",
                    hint="Wait until it has finished, or give another folder.",
                ) from None
            self._lock = lock
            for path in self.folder.glob(f"*{_DRAFT}"):
                path.unlink()

    def end(self) -> None:
        """Let other runs into the folder again; nothing where `begin` was not called."""
        if self._lock is None:
            return
        with suppress(OSError):  # Windows removes no file that is open; it does no harm there.
            os.unlink(self._lock.lock_file)
        self._lock.release(force=True)
        self._lock = None

    def write(self, epoch: int, state: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Write that of an epoch, then remove the ones that are too old.

        Args:
            epoch: that was just finished, from 1.
            state: tensors, numbers, strings, and lists and dictionaries of them.
            settings: what a run that is resumed must share; JSON.

        Raises:
            StorageFullError: no space is left. The ones before stay; nothing of this one does.
            LearnError: the folder cannot be written to.
        """
        torch = need("torch", TRAIN)
        target = self.path(epoch)
        content = {"format": FORMAT, "epoch": epoch, "settings": json.dumps(settings), **state}
        before = [path for path in self.all() if path != target]
        with writing(target, before[-1] if before else None):
            _atomically(target, lambda file: torch.save(content, file))
            if self._keep is not None:
                for path in before[: max(0, len(before) + 1 - self._keep)]:
                    path.unlink()

    def latest(self, settings: Mapping[str, Any], free: tuple[str, ...] = ()) -> dict[str, Any] | None:
        """The last one that can be read; one that cannot is passed over with a warning in the log.

        Args:
            settings: of the run that wants to go on.
            free: those that may differ.

        Returns:
            What `write` was given, and `epoch`; None: there are no checkpoints.

        Raises:
            LearnError: none of them can be read, or the run's settings are not theirs.
        """
        paths = self.all()
        for path in reversed(paths):
            try:
                found = _read(path)
            except _DamagedError as damage:
                _LOG.warning("%s cannot be read (%s); the checkpoint before it is used.", path, damage)
                continue
            _refuse_others(path, json.loads(found["settings"]), settings, free)
            return found
        if paths:
            raise LearnError(
                f"None of the {len(paths)} checkpoints in {self.folder} can be read.",
                hint="Remove the folder and train from the beginning.",
            )
        return None


class _DamagedError(Exception):
    """A file is no whole checkpoint."""


def _read(path: Path) -> dict[str, Any]:
    torch = need("torch", TRAIN)
    try:
        with zipfile.ZipFile(path) as file:
            # PyTorch itself does not look at the checksums.
            if damaged := file.testzip():
                raise _DamagedError(f"{damaged} in it is damaged")
        found = torch.load(path, map_location="cpu", weights_only=True)
    except _DamagedError:
        raise
    except Exception as error:  # a damaged file may make the readers raise anything
        raise _DamagedError(" ".join(str(error).split())[:200] or type(error).__name__) from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise _DamagedError("it is no checkpoint of this version")
    return found


def _refuse_others(
    path: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any], free: tuple[str, ...]
) -> None:
    same = json.loads(json.dumps(ours))
    names = [name for name in {**theirs, **same} if theirs.get(name) != same.get(name) and name not in free]
    if names:
        differences = "; ".join(
            f"{name} was {_short(theirs.get(name))} and is {_short(same.get(name))}" for name in names
        )
        raise LearnError(
            f"{path} belongs to a run with other settings: {differences}.",
            hint="Resume with the same settings and pairs, or train into another folder.",
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@contextmanager
def writing(place: Path, last: Path | None = None) -> Iterator[None]:
    """Say in our words why something of a run cannot be written.

    Args:
        place: what is being written.
        last: the last checkpoint that is good.

    Raises:
        StorageFullError: no space is left, or a limit of the file's size is reached.
        LearnError: the place cannot be written to.
    """
    kept = f" The last good checkpoint is {last}." if last else ""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFullError(
                f"No space is left for {place}.{kept}", hint="Free some space and resume the run."
            ) from error
        reason = (error.strerror or str(error)).lower()
        raise LearnError(
            f"{place} cannot be written: {reason}.{kept}",
            hint="Check the permissions, or give another folder.",
        ) from error


def replace_file(target: Path, content: bytes) -> None:
    """Write a file so that it is the old or the new one, whole, at any moment.

    Raises:
        OSError: it cannot be written; the old one stays, and nothing else does.
    """
    _atomically(target, lambda file: file.write(content))


def _atomically(target: Path, write: Any) -> None:
    draft = target.with_name(target.name + _DRAFT)
    try:
        with draft.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        refusal = _refusal(error)
        if refusal is None or refusal is error:
            raise
        raise refusal from error
    _settle(target.parent)


def _refusal(error: BaseException) -> OSError | None:
    """What the system said: PyTorch may wrap it in an error of its own."""
    cause: BaseException | None = error
    while cause is not None and isinstance(cause, Exception):
        if isinstance(cause, OSError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def _settle(folder: Path) -> None:
    """Bring the new name to the disk, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
