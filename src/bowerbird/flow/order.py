"""Steps that have to see the elements one after the other: batch, limit, sample, sort, dedupe, progress."""

from __future__ import annotations

import hashlib
import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import InputError, UnreadableError, UnsupportedInputError
from bowerbird.flow.functions import failed
from bowerbird.flow.pictures import (
    default_policy,
    picture_content,
    read_picture,
    record_content,
    text_content,
)
from bowerbird.flow.plan import Chunk, Clock, Sequential
from bowerbird.record import Failure, Record, name_of

LOG = logging.getLogger("bowerbird")

PROGRESS_SECONDS = 5.0
"""How often `progress` says how far a run has come, where no function is given."""


def share_of(value: object, seed: int) -> float:
    """A number in [0, 1) that depends on the seed and a record's id alone, or on the value of another element.

    Raises:
        UnsupportedInputError: the element has no value that is the same in every run.
    """
    digest = hashlib.sha256(f"{seed}\0{_lasting(value)}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7], "big") / (1 << 56)


def _lasting(value: object) -> str:
    """A name of an element that is the same in every run and process."""
    if isinstance(value, Record):
        return value.id
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_lasting, value))}]"
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(map(_lasting, value)))}}}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(sorted(f'{_lasting(key)}: {_lasting(value[key])}' for key in value))}}}"
    if type(value).__repr__ is object.__repr__:
        raise UnsupportedInputError(
            f"A {type(value).__name__} has no name that is the same in every run.",
            hint="Make records of them, each with an id, or give their class a __repr__ of their value.",
        )
    return repr(value)


@dataclass(frozen=True)
class Batch(Sequential):
    """Lists of `size` elements, the last one shorter. Failures pass between them."""

    size: int
    label: str

    looks = False

    def stream(self, chunks: Iterator[Chunk], clock: Clock) -> Iterator[Chunk]:
        """See `Sequential`."""
        filling: list[Any] = []
        for chunk in chunks:
            results: Chunk = []
            for item in chunk:
                if item.__class__ is Failure:
                    results.append(item)
                    continue
                filling.append(item)
                if len(filling) == self.size:
                    results.append(filling)
                    filling = []
            yield results
        if filling:
            yield [filling]


@dataclass(frozen=True)
class Limit(Sequential):
    """The first `count` elements; failures before the last of them pass, and are not counted."""

    count: int
    label: str

    looks = False

    def stream(self, chunks: Iterator[Chunk], clock: Clock) -> Iterator[Chunk]:
        """See `Sequential`."""
        left = self.count
        if left <= 0:
            return
        for chunk in chunks:
            results: Chunk = []
            for item in chunk:
                results.append(item)
                left -= item.__class__ is not Failure
                if not left:
                    break
            yield results
            if not left:
                return


@dataclass(frozen=True)
class Sample(Sequential):
    """`count` elements, each as likely as any other, in the order they came (reservoir sampling, Vitter 1985)."""

    count: int
    seed: int
    label: str

    looks = False

    def stream(self, chunks: Iterator[Chunk], clock: Clock) -> Iterator[Chunk]:
        """See `Sequential`."""
        chance = random.Random(self.seed)
        held: list[tuple[int, Any]] = []
        seen = 0
        for chunk in chunks:
            failures = []
            for item in chunk:
                if item.__class__ is Failure:
                    failures.append(item)
                    continue
                if len(held) < self.count:
                    held.append((seen, item))
                elif (place := chance.randrange(seen + 1)) < self.count:
                    held[place] = (seen, item)
                seen += 1
            yield failures
        yield [item for _, item in sorted(held, key=lambda entry: entry[0])]


@dataclass(frozen=True)
class Sort(Sequential):
    """All elements in the order of a key; those without one, and then the failures, come last.

    Everything is held in memory, so sort before `decode` rather than after it.
    """

    key: Callable[[Any], Any]
    label: str
    reverse: bool = False

    def stream(self, chunks: Iterator[Chunk], clock: Clock) -> Iterator[Chunk]:
        """See `Sequential`."""
        keyed: list[tuple[Any, Any]] = []
        unkeyed, failures = [], []
        for chunk in chunks:
            for item in chunk:
                if item.__class__ is Failure:
                    failures.append(item)
                    continue
                try:
                    key = self.key(item)
                except Exception as error:  # noqa: BLE001
                    failures.append(failed(item, self.label, error))
                    continue
                if key is None or (isinstance(key, float) and math.isnan(key)):
                    unkeyed.append(item)
                else:
                    keyed.append((key, item))
        with clock.stage(self.label):
            try:
                keyed.sort(key=lambda entry: entry[0], reverse=self.reverse)
            except TypeError as error:
                raise InputError(
                    f"{self.label} cannot order its keys: {error}.", hint="Return keys of one type, or None."
                ) from error
        yield [item for _, item in keyed] + unkeyed + failures


@dataclass(frozen=True)
class DedupeContent(Sequential):
    """The first of all elements that have the same content; the others are left out, and counted.

    Attributes:
        key: gives what must differ; None: the content id of a record, whose picture is read for it if it has not
            been, and any other element itself.
    """

    label: str
    key: Callable[[Any], Any] | None = None

    @property
    def uses_picture(self) -> bool:
        """See `Step`."""
        return self.key is not None

    def stream(self, chunks: Iterator[Chunk], clock: Clock) -> Iterator[Chunk]:
        """See `Sequential`."""
        seen: set[Any] = set()
        for chunk in chunks:
            results: Chunk = []
            with clock.stage(self.label):
                for item in chunk:
                    if item.__class__ is Failure:
                        results.append(item)
                        continue
                    try:
                        key = self.key(item) if self.key else _content(item)
                        new = key not in seen
                    except Exception as error:  # noqa: BLE001
                        results.append(failed(item, self.label, error))
                        continue
                    seen.add(key)
                    if new:
                        results.append(item)
            clock.count(f"{self.label}: dropped", len(chunk) - len(results))
            yield results


def _content(item: Any) -> Any:
    """What must differ. The content that a record came with may be that of other parts than it has by now."""
    if not isinstance(item, Record) or (item.image is None and not item.texts):
        return getattr(item, "content", "") or item
    try:
        parts = [] if item.image is None else [picture_content(read_picture(item.source, default_policy()))]
    except UnreadableError:
        if item.content:  # read back from a file of vectors, without the pictures
            return item.content
        raise
    return record_content([*parts, *map(text_content, item.texts)])


@dataclass(frozen=True)
class DedupeVectors(Sequential):
    """The first of all records whose vectors are nearly the same: of cosine `threshold` or more.

    Every record is compared with every one kept before it, exactly; the vectors kept are held in memory.
    """

    threshold: float
    vector: str
    label: str

    looks = False

    def stream(self, chunks: Iterator[Chunk], clock: Clock) -> Iterator[Chunk]:
        """See `Sequential`."""
        kept: _Rows | None = None
        for chunk in chunks:
            results: Chunk = []
            with clock.stage(self.label):
                for item in chunk:
                    if item.__class__ is Failure:
                        results.append(item)
                        continue
                    try:
                        vector = self._vector(item, kept)
                    except InputError as error:
                        results.append(failed(item, self.label, error))
                        continue
                    kept = kept or _Rows(len(vector))
                    if kept.count == 0 or float((kept.rows @ vector).max()) < self.threshold:
                        kept.add(vector)
                        results.append(item)
            clock.count(f"{self.label}: dropped", len(chunk) - len(results))
            yield results

    def _vector(self, item: Any, kept: _Rows | None) -> NDArray[np.float32]:
        try:
            vector = item.vectors[self.vector] if self.vector else item.vector
        except (KeyError, AttributeError):
            raise UnsupportedInputError(
                f"{name_of(item)} has no vector{f' {self.vector!r}' if self.vector else ''}.",
                hint="Embed records first.",
            ) from None
        if vector.ndim != 1:
            raise UnsupportedInputError(
                f"{name_of(item)} has {len(vector)} vectors, one for each text.",
                hint="Make one record for each text with flat_map, or compare another vector.",
            )
        if kept is not None and len(vector) != kept.rows.shape[1]:
            raise UnsupportedInputError(
                f"{name_of(item)} has a vector of {len(vector)} dimensions, those before it {kept.rows.shape[1]}.",
                hint="Say which vectors are compared: dedupe(by=NAME, threshold=...).",
            )
        return np.asarray(vector, np.float32)


class _Rows:
    """A matrix that grows by doubling."""

    def __init__(self, width: int) -> None:
        self._all = np.empty((256, width), np.float32)
        self.count = 0

    @property
    def rows(self) -> NDArray[np.float32]:
        return self._all[: self.count]

    def add(self, row: NDArray[np.float32]) -> None:
        if self.count == len(self._all):
            self._all = np.concatenate([self._all, np.empty_like(self._all)])
        self._all[self.count] = row
        self.count += 1


class Progress(NamedTuple):
    """How far a run has come.

    Attributes:
        done: elements that have passed.
        failed: failures that have passed.
        total: elements there will be, where the source can tell; None otherwise.
        seconds: since the run started.
    """

    done: int
    failed: int
    total: int | None
    seconds: float

    def __str__(self) -> str:
        of = f" of {self.total:,}" if self.total else ""
        lost = f", {self.failed:,} failed" if self.failed else ""
        rate = self.done / self.seconds if self.seconds else 0.0
        return f"{self.done:,}{of} done{lost}, {rate:,.1f} a second"


@dataclass(frozen=True)
class Report(Sequential):
    """Tells a function how far the run has come, after each chunk; without one, logs it every few seconds."""

    function: Callable[[Progress], Any] | None
    total: int | None
    label: str

    looks = False

    def stream(self, chunks: Iterator[Chunk], clock: Clock) -> Iterator[Chunk]:
        """See `Sequential`."""
        started = said = time.monotonic()
        done = lost = 0
        for chunk in chunks:
            failures = sum(item.__class__ is Failure for item in chunk)
            done, lost = done + len(chunk) - failures, lost + failures
            now = time.monotonic()
            progress = Progress(done, lost, self.total, now - started)
            if self.function:
                self.function(progress)
            elif now - said >= PROGRESS_SECONDS:
                said = now
                LOG.info("%s: %s", self.label, progress)
            yield chunk
