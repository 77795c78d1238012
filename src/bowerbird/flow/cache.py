"""The cache of vectors: what was embedded once, under the same conditions, is never embedded again.

Entries are found by the content id of a part's bytes. There is one SQLite file for each key space (the fingerprint
of the embedding space, the numerics, the names of the outputs) below `<cache>/vectors`, shared by threads,
processes and runs. It is a cache: whatever is wrong with it, a run goes on without it.

- SQLite's write-ahead log makes every `put` one transaction: after kill -9 an entry is there or it is not.
  Each carries a checksum, since SQLite has none for its pages.
- A damaged file is set aside: a file with the next number is begun, and names are never used for a second time,
  since SQLite removes its log by name when the last process closes it.
- Over `cache_bytes`, entries that were not used for the longest time go, other spaces first.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import sqlite3
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bowerbird.settings import settings

_log = logging.getLogger("bowerbird")

FORMAT = 1
"""Of the files. It is part of their names: files of another format are not opened."""

BUSY_SECONDS = 5.0
"""How long to wait for other processes that write; after that, this call does without the cache."""

TOUCH_SECONDS = 3600
"""The time of last use is kept to this precision, so that reading does not mean writing."""

PRUNED_TO = 0.8
"""Over the cap, entries are removed until this part of it is left, so that pruning is rare."""

_PER_QUERY = 500
_HEAD = struct.Struct("<II")  # CRC-32 of key and rest, length of the JSON header
_FILE = re.compile(r"([0-9a-f]{32})\.(\d+)\.sqlite")

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Entry:
    """What is known of some bytes.

    Attributes:
        vectors: by output name, float32 (dim,), of length 1; of several texts (n, dim).
        norms: by the same names, the lengths before scaling to 1.
        facts: found while decoding: format, width, height, taken_at (ISO 8601); anything that JSON holds.
        thumbnail: of a picture, as a file.
    """

    vectors: Mapping[str, NDArray[np.float32]]
    norms: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    thumbnail: bytes | None = None


class VectorCache:
    """Entries by content id. Safe to use from many threads and processes at once.

    Nothing is opened or made before the first `get` or `put`. Close it, or use it in a `with` block::

        with VectorCache(space) as cache:
            known = cache.get([content])

    Args:
        space: everything beside the bytes that decides what the vectors are.
        directory: where the files lie; None: the one of the settings.
        max_bytes: all files of the directory together may be this large; 0: no cache; None: as the settings say.
    """

    def __init__(self, space: str, directory: Path | None = None, max_bytes: int | None = None) -> None:
        chosen = settings()
        self.directory = chosen.cache_path / "vectors" if directory is None else Path(directory)
        self._cap = chosen.cache_bytes if max_bytes is None else max_bytes
        self._name = hashlib.sha256(f"{FORMAT}\n{space}".encode()).hexdigest()[:32]
        self._generation = 0
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._process = os.getpid()
        self._inherited: list[sqlite3.Connection | None] = []
        self._on = self._cap > 0
        self._writable = True
        self._touched: set[str] = set()
        self._unchecked = 0

    @property
    def path(self) -> Path:
        """The file in use."""
        return self.directory / f"{self._name}.{self._generation}.sqlite"

    def get(self, contents: Sequence[str]) -> dict[str, Entry]:
        """The entries there are among some content ids; vectors come back bit for bit."""
        if not (self._on and contents):
            return {}
        return self._attempt(lambda connection: self._read(connection, contents)) or {}

    def put(self, entries: Mapping[str, Entry]) -> None:
        """Keep some entries, all or none of them; those there are already are replaced."""
        if not (self._on and self._writable and entries):
            return
        rows = [(content, _now(), _encoded(content, entry)) for content, entry in entries.items()]
        self._attempt(lambda connection: self._write(connection, rows), writes=True)

    def close(self) -> None:
        """Close the file. Using the cache again opens it again."""
        if self._connection is not None and self._touched and self._writable:
            self._attempt(lambda connection: self._write(connection, []), writes=True)
        with self._lock:
            self._disconnect()

    def __del__(self) -> None:
        # Steps keep a cache as long as they are kept themselves; nobody tells them when that is over.
        with suppress(Exception):
            self._disconnect()

    def __enter__(self) -> VectorCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _attempt(
        self, work: Callable[[sqlite3.Connection], _Result], *, writes: bool = False
    ) -> _Result | None:
        """Do something with the open file; None when that is not possible."""
        with self._lock:
            # The second time with a new file, where the first one was damaged.
            for _ in range(2):
                if not self._on:
                    break
                try:
                    return work(self._connected())
                except (sqlite3.OperationalError, OSError) as error:
                    if not _is_busy(error):
                        self._switch_off(error, writes)
                    break
                except sqlite3.DatabaseError as error:
                    self._set_aside(error)
            return None

    def _connected(self) -> sqlite3.Connection:
        if self._process != os.getpid():
            # After a fork: the parent's connection may be neither used nor closed here.
            self._inherited.append(self._connection)
            self._connection, self._process = None, os.getpid()
        if self._connection is None:
            self.directory.mkdir(parents=True, exist_ok=True)
            numbers = [number for name, number, _ in self._files() if name == self._name]
            self._generation = max([self._generation, *numbers])
            self._connection = _connect(self.path)
            _prepare(self._connection)
            os.utime(self.path)
            self._prune(self._connection)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None and self._process == os.getpid():
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _switch_off(self, error: Exception, writes: bool) -> None:
        # What is there may still be read when there is only no room for more.
        if writes and self._connection is not None:
            self._writable = False
        else:
            self._on = False
            self._disconnect()
        _log.warning("Vectors are not cached in this run: %s: %s", self.path, error)

    def _set_aside(self, error: Exception) -> None:
        self._disconnect()
        damaged = self.path
        self._generation += 1
        _log.warning("The cache file %s is damaged (%s); %s is begun.", damaged, error, self.path.name)

    def _read(self, connection: sqlite3.Connection, contents: Sequence[str]) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        stale = _now() - TOUCH_SECONDS
        for start in range(0, len(contents), _PER_QUERY):
            some = contents[start : start + _PER_QUERY]
            marks = ",".join("?" * len(some))
            query = f"SELECT content, used, data FROM entries WHERE content IN ({marks})"
            for content, used, data in connection.execute(query, some).fetchall():
                entry = _decoded(content, data)
                if entry is None:
                    _log.warning("An entry of the cache file %s is damaged; it is made anew.", self.path)
                    continue
                found[content] = entry
                if used < stale:
                    self._touched.add(content)
        return found

    def _write(self, connection: sqlite3.Connection, rows: list[tuple[str, int, bytes]]) -> None:
        touched = [(_now(), content) for content in self._touched]
        with _transaction(connection):
            connection.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", rows)
            connection.executemany("UPDATE entries SET used = ? WHERE content = ?", touched)
        self._touched.clear()
        self._unchecked += sum(len(data) for _, _, data in rows)
        if self._unchecked > self._cap // 32:
            self._unchecked = 0
            self._prune(connection)

    def _files(self) -> Iterator[tuple[str, int, Path]]:
        """Of each cache file: key space, number, path."""
        for path in self.directory.iterdir():
            match = _FILE.fullmatch(path.name)
            if match:
                yield match[1], int(match[2]), path

    def _prune(self, connection: sqlite3.Connection) -> None:
        """Remove what was not used for the longest time, when all files together are over the cap."""
        files = sorted(self._files(), key=lambda file: _used_at(file[2]))
        if sum(_size(path) for _, _, path in files) <= self._cap:
            return
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        total = sum(_size(path) for _, _, path in files)
        if total <= self._cap:
            return
        newest: dict[str, int] = {}
        for name, number, _ in files:
            newest[name] = max(number, newest.get(name, 0))
        for name, number, path in files:
            if number < newest[name] and total > self._cap:
                total -= _size(path)
                # These names never come back, so nobody's log can be taken away by this.
                for each in _with_log(path):
                    each.unlink(missing_ok=True)
        target = int(self._cap * PRUNED_TO)
        for name, number, path in files:
            if total > self._cap and name != self._name and number == newest[name]:
                with suppress(sqlite3.Error):
                    other = _connect(path)
                    try:
                        total -= _shrink(other, path, total - target)
                    finally:
                        other.close()
        if total > self._cap:
            _shrink(connection, self.path, total - target)


def _now() -> int:
    return int(time.time())


def _is_busy(error: Exception) -> bool:
    # Only Python 3.11 gives the error its code.
    return "locked" in str(error) or "busy" in str(error)


def _connect(path: Path) -> sqlite3.Connection:
    # No transactions but our own; the lock of the cache allows for use by many threads.
    return sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def _prepare(connection: sqlite3.Connection) -> None:
    """Set up a new file, or check that an old one is what it should be."""
    try:
        # These two take effect in a file that has no tables yet. Entries have about 10 kB.
        connection.execute("PRAGMA page_size = 8192")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL").fetchall()
                break
            except sqlite3.OperationalError as error:
                # This one change does not wait for others that make it at the same time.
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        # Never wait for the disk. What a process wrote survives its death; a power cut may damage the file, which is
        # then set aside, and the checksums, which cover the keys, keep wrong entries out.
        connection.execute("PRAGMA synchronous = OFF")
        with _transaction(connection):
            connection.execute(
                "CREATE TABLE IF NOT EXISTS entries (content TEXT PRIMARY KEY, used INTEGER, data BLOB)"
            )
    except BaseException:
        connection.close()
        raise


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # Some errors have rolled back already; then this one says so.
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _shrink(connection: sqlite3.Connection, path: Path, excess: int) -> int:
    """Remove the entries used longest ago, about `excess` bytes of them; returns by how much the file shrank."""
    before = _size(path)
    # The log may hold the same pages many times over.
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    now = _size(path)
    excess -= before - now
    if excess > 0:
        with _transaction(connection):
            (count,) = connection.execute("SELECT count(*) FROM entries").fetchone()
            surplus = min(count, math.ceil(count * excess / max(now, 1)))
            connection.execute(
                "DELETE FROM entries WHERE rowid IN (SELECT rowid FROM entries ORDER BY used, rowid LIMIT ?)",
                (surplus,),
            )
        # `execute` would give back a single page: it makes one step when a statement has no columns.
        connection.executescript("PRAGMA incremental_vacuum")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return before - _size(path)


def _with_log(path: Path) -> list[Path]:
    return [path, Path(f"{path}-wal"), Path(f"{path}-shm")]


def _size(path: Path) -> int:
    total = 0
    for each in _with_log(path)[:2]:
        with suppress(FileNotFoundError):
            total += each.stat().st_size
    return total


def _used_at(path: Path) -> float:
    """When a file was opened or written to for the last time."""
    latest = 0.0
    for each in _with_log(path)[:2]:
        with suppress(FileNotFoundError):
            latest = max(latest, each.stat().st_mtime)
    return latest


def _encoded(content: str, entry: Entry) -> bytes:
    """An entry as bytes: checksum, length of the header, header (JSON), vectors (little-endian), thumbnail."""
    arrays = {name: np.ascontiguousarray(array, "<f4") for name, array in entry.vectors.items()}
    header = {
        "vectors": [[name, array.shape] for name, array in arrays.items()],
        "norms": {name: float(norm) for name, norm in entry.norms.items()},
        "facts": dict(entry.facts),
        "thumbnail": entry.thumbnail is not None,
    }
    head = json.dumps(header, default=str).encode()
    body = b"".join([head, *(array.tobytes() for array in arrays.values()), entry.thumbnail or b""])
    return _HEAD.pack(zlib.crc32(body, zlib.crc32(content.encode())), len(head)) + body


def _decoded(content: str, data: bytes) -> Entry | None:
    """The inverse of `_encoded`; None where the bytes are not what was written."""
    if len(data) < _HEAD.size:
        return None
    checksum, length = _HEAD.unpack_from(data)
    if zlib.crc32(memoryview(data)[_HEAD.size :], zlib.crc32(content.encode())) != checksum:
        return None
    place = _HEAD.size + length
    header = json.loads(data[_HEAD.size : place].decode())
    vectors: dict[str, NDArray[np.float32]] = {}
    for name, shape in header["vectors"]:
        count = math.prod(shape)
        # A copy: a view would keep the thumbnail in memory, and could not be written to.
        vectors[name] = np.frombuffer(data, "<f4", count, place).reshape(shape).astype(np.float32)
        place += 4 * count
    thumbnail = data[place:] if header["thumbnail"] else None
    return Entry(vectors, header["norms"], header["facts"], thumbnail)
