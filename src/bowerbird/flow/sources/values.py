"""Values from Python: numbers, sequences, iterators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bowerbird.errors import BowerbirdError, UnsupportedInputError
from bowerbird.flow.plan import Source
from bowerbird.media.reading import one_line
from bowerbird.record import Failure, Record

PART_ITEMS = 1024
"""Elements in a part of a sequence; more where there would be more than `MOST_PARTS`."""

MOST_PARTS = 4096


def _part_size(items: Sequence[Any]) -> int:
    return max(PART_ITEMS, -(-len(items) // MOST_PARTS))


@dataclass(frozen=True)
class RangeSource(Source):
    """Whole numbers, as `range` counts them; `RangeSource(10)` is 0 to 9.

    Raises:
        BowerbirdError: `step` is 0.
    """

    start: int
    stop: int | None = None
    step: int = 1

    def __post_init__(self) -> None:
        if not self.step:
            raise BowerbirdError("A range with step=0 never ends.", hint="Give another step.")
        if self.stop is None:
            object.__setattr__(self, "stop", self.start)
            object.__setattr__(self, "start", 0)

    @property
    def _range(self) -> range:
        return range(self.start, self.stop or 0, self.step)

    def describe(self) -> str:
        """See `Source`."""
        return repr(self._range)

    def __iter__(self) -> Iterator[int]:
        """See `Source`."""
        return iter(self._range)

    def parts(self) -> Sequence[Source]:
        """Slices of `PART_ITEMS` numbers."""
        numbers = self._range
        size = _part_size(numbers)
        slices = (numbers[place : place + size] for place in range(0, len(numbers), size))
        return [RangeSource(part.start, part.stop, part.step) for part in slices]

    def count(self) -> int:
        """See `Source`."""
        return len(self._range)


@dataclass(frozen=True)
class IterableSource(Source):
    """The elements of a Python iterable, as they are.

    An iterator, such as a generator, can be gone through once; a function that returns a new one can be gone through
    any number of times. When it raises, so does the run: what is cut off in the middle must not look complete.

    Attributes:
        items: a sequence or any other iterable; or a function without arguments that returns one.
        name: how plans call it; empty: by its type.
    """

    items: Iterable[Any] | Callable[[], Iterable[Any]]
    name: str = ""
    _used: list[bool] = field(default_factory=list, init=False, repr=False, compare=False)

    label = "from_items"

    def __post_init__(self) -> None:
        if not isinstance(self.items, Iterable) and not callable(self.items):
            raise BowerbirdError(
                f"A value of type {type(self.items).__name__} cannot be iterated.",
                hint="Give an iterable, or a function that returns one.",
            )

    @property
    def once(self) -> bool:
        """See `Source`."""
        return isinstance(self.items, Iterator)

    def describe(self) -> str:
        """See `Source`."""
        if self.name:
            return self.name
        size = self.count()
        kind = getattr(self.items, "__name__", None) or type(self.items).__name__
        return f"elements of a {kind}" if size is None else f"{size:,} elements of a {kind}"

    def __iter__(self) -> Iterator[Any]:
        """See `Source`.

        Raises:
            BowerbirdError: an iterator is gone through for the second time, or raises.
        """
        if isinstance(self.items, Iterator):
            if self._used:
                raise BowerbirdError(
                    f"This {type(self.items).__name__} has been gone through already, and cannot be a second time.",
                    hint="Give a list, or a function that returns a new iterator: from_items(lambda: read()).",
                )
            self._used.append(True)
        return self._elements()

    def _elements(self) -> Iterator[Any]:
        place = 0
        try:
            elements = iter(self.items if isinstance(self.items, Iterable) else self.items())
            for element in elements:
                yield element
                place += 1
        except Exception as error:
            said = f"{type(error).__name__} after {place:,} element{'' if place == 1 else 's'}"
            raise BowerbirdError(
                f"{self.label}: the iterator raised {said}: {one_line(error, 500)}",
                hint="Catch it where the elements are made, and leave out what cannot be.",
            ) from error

    def parts(self) -> Sequence[Source]:
        """Slices of a sequence; everything else is one part."""
        items = self.items
        if not isinstance(items, Sequence) or len(items) <= PART_ITEMS:
            return (self,)
        size = _part_size(items)
        return [
            IterableSource(items[start : start + size], self.name) for start in range(0, len(items), size)
        ]

    def count(self) -> int | None:
        """See `Source`."""
        try:
            return len(self.items)  # type: ignore[arg-type]
        except TypeError:
            return None


@dataclass(frozen=True)
class TextSource(Source):
    """A record for each of some texts, with the ids `text:0`, `text:1` and so on.

    Raises:
        BowerbirdError: the texts are one string.
    """

    texts: IterableSource

    def __post_init__(self) -> None:
        if isinstance(self.texts.items, (str, bytes)):
            raise BowerbirdError(
                "from_texts takes several texts, and this is one string.", hint="Give a list: [text]."
            )

    @property
    def once(self) -> bool:
        """See `Source`."""
        return self.texts.once

    def __iter__(self) -> Iterator[Record | Failure]:
        for place, text in enumerate(self.texts):
            id_ = f"text:{place}"
            if isinstance(text, Failure):
                yield text
            elif isinstance(text, str):
                yield Record(id_, texts=(text,), named=False)
            else:
                error = UnsupportedInputError(
                    f"{id_} is of type {type(text).__name__}, not a text.", hint="Give a str."
                )
                yield Failure(id_, "from_texts", error, text)

    def describe(self) -> str:
        """See `Source`."""
        return self.texts.describe()

    def count(self) -> int | None:
        """See `Source`."""
        return self.texts.count()
