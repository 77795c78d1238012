"""Output that is not complete yet: built in a hidden folder beside its place, and moved there in one step."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bowerbird.errors import BowerbirdError, StorageFullError

if TYPE_CHECKING:
    from filelock import BaseFileLock


class Unfinished:
    """A file or folder in the making.

    It is built in `.NAME.partial` beside its place. Runs that write to the same place at the same time are
    refused. What a killed run left there is removed by the next one.

    Args:
        target: where the output will be.
        overwrite: whether it may replace output that is there already. A folder is replaced only when nothing
            in it is anything else than such output.
        holds: patterns of names that such a folder may hold; none: the output is a file.

    Raises:
        BowerbirdError: something is there already that may not be replaced.
    """

    def __init__(self, target: Path, *, overwrite: bool, holds: Sequence[str] = ()) -> None:
        self.target = Path(os.path.abspath(target))
        self._holds = tuple(holds)
        self._overwrite = overwrite
        self._lock: BaseFileLock | None = None
        self._refuse_existing()

    @property
    def folder(self) -> Path:
        """The hidden folder."""
        return self.target.parent / f".{self.target.name}.partial"

    @property
    def output(self) -> Path:
        """The file or folder in the making."""
        return self.folder / "output"

    def begin(self) -> Path:
        """Make the hidden folder; returns where to build the output. A folder is made, a file is not.

        Raises:
            BowerbirdError: another run writes to the same place, or the place cannot be written to.
        """
        from filelock import FileLock, Timeout

        with writing(self.target):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / "lock", timeout=0)
            try:
                lock.acquire()
            except Timeout:
                raise BowerbirdError(
                    f"Another run is writing to {self.target}.", hint="Wait for it, or give another place."
                ) from None
            self._lock = lock
            self._restore()
            _remove(self.output)
            if self._holds:
                self.output.mkdir()
        return self.output

    def complete(self) -> None:
        """Move the output to its place. Whoever looks sees the old one or the new one, complete."""
        with writing(self.target):
            for path in (self.output, *self.output.rglob("*")):
                if path.is_file():
                    _settle(path)
            self._refuse_existing()
            if self._holds and self.target.exists():
                # No call replaces a folder that holds something; if the run dies in between, `begin` mends it.
                self.target.replace(self._former)
            self.output.replace(self.target)
        self.discard()

    def discard(self) -> None:
        """Remove what is unfinished."""
        if self._lock is None:
            return
        self._restore()
        self._lock.release()
        self._lock = None
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _former(self) -> Path:
        return self.folder / "former"

    def _restore(self) -> None:
        if self._former.exists() and not self.target.exists():
            self._former.replace(self.target)
        _remove(self._former)

    def _refuse_existing(self) -> None:
        if not os.path.lexists(self.target):
            return
        is_folder = self.target.is_dir() and not self.target.is_symlink()
        if is_folder and self._holds:
            found = sorted(path.name for path in self.target.iterdir())
            if not found:
                return
            foreign = [name for name in found if not any(Path(name).match(held) for held in self._holds)]
            if foreign:
                raise BowerbirdError(
                    f"{self.target} holds other things already, such as {foreign[0]}.",
                    hint="Give a folder that is empty or does not exist.",
                )
        elif is_folder:
            raise BowerbirdError(f"{self.target} is a folder.", hint="Give the name of a file.")
        elif self._holds:
            raise BowerbirdError(f"{self.target} is a file.", hint="Give a folder.")
        if not self._overwrite:
            raise BowerbirdError(
                f"{self.target} is there already.",
                hint="Give another place, or overwrite=True to replace it.",
            )


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Say in our words why something cannot be written.

    Raises:
        StorageFullError: no space is left.
        BowerbirdError: the place cannot be written to.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StorageFullError(
                f"No space is left on the device that holds {target}.", hint="Free some space and run again."
            ) from error
        reason = (error.strerror or str(error)).lower()
        raise BowerbirdError(
            f"{target} cannot be written: {reason}.",
            hint="Check its folder and the permissions, or give another.",
        ) from error


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _settle(path: Path) -> None:
    """Wait until a file is on the disk, so that its name never stands for less after a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
