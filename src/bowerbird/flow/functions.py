"""Steps that call a function of the user: map, filter, flat_map, tee, map_batches.

A function that raises on one element becomes a `Failure` at that element's place; the others are not affected.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bowerbird.errors import BowerbirdError, FunctionError, InputError, UnsupportedInputError
from bowerbird.flow.plan import Chunk, Clock, Stateless
from bowerbird.flow.recipe import ModelRecipe, WorkerLocal
from bowerbird.record import FACTS, Failure, Record, name_of

FRAMES = 12
"""Frames of a user's traceback that are kept, the innermost ones."""


def function_name(function: object) -> str:
    """How plans and errors call a function: `is_prime`, `lambda`, `Tagger`."""
    name = getattr(function, "__name__", "") or type(function).__name__
    return "lambda" if name == "<lambda>" else name


def failed(item: Any, label: str, error: Exception) -> Failure:
    """What stands in the place of an element on which a step raised.

    Raises:
        MemoryError: that was the error; the executor tries again with fewer elements at once.
    """
    if isinstance(error, MemoryError):
        raise error
    if not isinstance(error, InputError):
        error = _of_function(label, error)
    return Failure(name_of(item), label, error, item)


def _of_function(label: str, error: Exception) -> FunctionError:
    shown = traceback.TracebackException.from_exception(error)
    # The first frame is ours, the call in this module.
    shown.stack = traceback.StackSummary.from_list(shown.stack[1:][-FRAMES:])
    kind = type(error).__name__
    said = " ".join(str(error).split())[:300]
    where = shown.stack[-1] if shown.stack else None
    place = f" (line {where.lineno} of {where.filename})" if where else ""
    return FunctionError(
        f"{label} raised {kind}{f': {said}' if said else ''}{place}.",
        kind=kind,
        trace="".join(shown.format()),
    )


@dataclass(frozen=True)
class Map(Stateless):
    """Each element becomes what the function returns for it."""

    function: Callable[[Any], Any]
    label: str
    threads: int = 1
    processes: int = 0

    def run(self, items: Chunk, clock: Clock) -> Chunk:
        """See `Stateless`."""
        function, results = self.function, []
        for item in items:
            if item.__class__ is not Failure:
                try:
                    item = function(item)  # noqa: PLW2901
                except Exception as error:  # noqa: BLE001  whatever a user's function raises is that element's
                    item = failed(item, self.label, error)  # noqa: PLW2901
            results.append(item)
        return results


@dataclass(frozen=True)
class Filter(Stateless):
    """Elements for which the function is true stay."""

    function: Callable[[Any], Any]
    label: str
    threads: int = 1
    processes: int = 0

    def run(self, items: Chunk, clock: Clock) -> Chunk:
        """See `Stateless`."""
        function, results = self.function, []
        for item in items:
            if item.__class__ is Failure:
                results.append(item)
                continue
            try:
                if function(item):
                    results.append(item)
            except Exception as error:  # noqa: BLE001
                results.append(failed(item, self.label, error))
        return results


@dataclass(frozen=True)
class FlatMap(Stateless):
    """Each element becomes all that the function returns for it, in order."""

    function: Callable[[Any], Iterable[Any]]
    label: str
    threads: int = 1
    processes: int = 0

    def run(self, items: Chunk, clock: Clock) -> Chunk:
        """See `Stateless`. What a generator gave before it raised stays, and the failure follows it."""
        function, results = self.function, []
        for item in items:
            if item.__class__ is Failure:
                results.append(item)
                continue
            try:
                results.extend(function(item))
            except Exception as error:  # noqa: BLE001
                results.append(failed(item, self.label, error))
        return results


@dataclass(frozen=True)
class Tee(Stateless):
    """The function is called with each element; the elements go on as they are."""

    function: Callable[[Any], Any]
    label: str
    threads: int = 1
    processes: int = 0

    def run(self, items: Chunk, clock: Clock) -> Chunk:
        """See `Stateless`."""
        function, results = self.function, []
        for item in items:
            if item.__class__ is not Failure:
                try:
                    function(item)
                except Exception as error:  # noqa: BLE001
                    item = failed(item, self.label, error)  # noqa: PLW2901
            results.append(item)
        return results


@dataclass(frozen=True)
class Select(Stateless):
    """Each record, or mapping, becomes a dictionary of some of its values."""

    names: tuple[str, ...]
    label: str

    @property
    def uses_picture(self) -> bool:
        """See `Step`."""
        return bool((FACTS | {"image"}) & set(self.names))

    @property
    def hides_picture(self) -> bool:
        """See `Step`: the dictionaries have only what was asked for."""
        return True

    def run(self, items: Chunk, clock: Clock) -> Chunk:
        """See `Stateless`."""
        results: Chunk = []
        for item in items:
            if item.__class__ is Failure:
                results.append(item)
                continue
            try:
                results.append({name: named_value(item, name) for name in self.names})
            except InputError as error:
                results.append(failed(item, self.label, error))
        return results


def named_value(item: Any, name: str) -> Any:
    """The value that a record, or a mapping, has under a name.

    Raises:
        InputError: it has none.
    """
    try:
        return item[name]
    except (KeyError, TypeError, IndexError) as error:
        if isinstance(item, Record):
            reason = f"{item.id} has no {name!r}; it has {', '.join(item)}"
        elif isinstance(item, Mapping):
            reason = f"{name_of(item)} has no {name!r}; it has {', '.join(map(str, item))}"
        else:
            reason = f"{name_of(item)} has no {name!r}: it is neither a record nor a mapping"
        raise InputError(f"{reason}.") from error


@dataclass(frozen=True)
class DropMissing(Stateless):
    """Records that lack a part are left out, and counted."""

    parts: tuple[str, ...]
    label: str

    @property
    def uses_picture(self) -> bool:
        """See `Step`: whether there is a picture can be told from its file, but not what decoding tells of it."""
        return bool(FACTS & set(self.parts))

    def run(self, items: Chunk, clock: Clock) -> Chunk:
        """See `Stateless`."""
        kept = [item for item in items if item.__class__ is Failure or self._has_all(item)]
        if len(kept) < len(items):
            clock.count(f"{self.label}: dropped", len(items) - len(kept))
        return kept

    def _has_all(self, item: Any) -> bool:
        return all(_has(item, part) for part in self.parts)


def _has(item: Any, part: str) -> bool:
    from pathlib import Path

    try:
        value = item[part]
    except (KeyError, TypeError):
        return False
    if isinstance(value, Path):
        try:
            return value.exists()
        except OSError:  # that cannot be told: reading it will say why, at its place
            return True
    return value is not None and not (isinstance(value, (str, tuple, list)) and not value)


@dataclass(frozen=True)
class MapBatches(Stateless):
    """Lists of elements become what the function returns for each list: one result for each element.

    When the function raises on a list it is called again with each of its elements alone, so that only those fail
    on which it raises.

    Attributes:
        function: takes a list, and with `model` an encoder too; a class is made an object of once in each worker.
        size: elements in a list at the most; 0: as many as run fastest, found by measuring.
        model: each worker builds it from this by itself.
    """

    function: Any
    label: str
    size: int = 0
    model: ModelRecipe | None = None
    threads: int = 1
    processes: int = 0
    local: WorkerLocal = field(default_factory=WorkerLocal, compare=False, repr=False)

    @property
    def actor(self) -> bool:
        """Whether workers keep something from chunk to chunk."""
        return self.model is not None or _is_made(self.function)

    def run(self, items: Chunk, clock: Clock) -> Chunk:
        """See `Stateless`."""
        call = self._call()
        good = [place for place, item in enumerate(items) if item.__class__ is not Failure]
        results = list(items)
        size = self.size or len(good) or 1
        for start in range(0, len(good), size):
            places = good[start : start + size]
            answers = self._answers(call, [items[place] for place in places])
            for place, answer in zip(places, answers, strict=True):
                results[place] = answer
        return results

    def _call(self) -> Callable[[list[Any]], Any]:
        function = self.function
        if _is_made(function):
            function = self.local.get("function", partial(_made, function, self.label))
        if self.model is None:
            return function  # type: ignore[no-any-return]
        model = self.local.get("model", self.model.build)
        return lambda batch: function(batch, model)

    def _answers(self, call: Callable[[list[Any]], Any], batch: list[Any]) -> Sequence[Any]:
        try:
            answers = list(call(batch))
        except Exception as error:  # noqa: BLE001
            if len(batch) == 1:
                return [failed(batch[0], self.label, error)]
        else:
            return self._checked(answers, batch)
        return [answer for item in batch for answer in self._answers(call, [item])]

    def _checked(self, answers: list[Any], batch: list[Any]) -> list[Any]:
        if len(answers) == len(batch):
            return answers
        error = UnsupportedInputError(
            f"{self.label} returned {len(answers)} results for {len(batch)} elements.",
            hint="Return one for each; flat_map may return any number.",
        )
        return [failed(item, self.label, error) for item in batch]


def _made(function: type, label: str) -> Any:
    try:
        return function()
    except Exception as error:
        raise BowerbirdError(
            f"{label}: a {function.__name__} could not be made: {type(error).__name__}: {error}.",
            hint="It is made without arguments, once in each worker.",
        ) from error


def _is_made(function: Any) -> bool:
    """Whether it is a class whose objects are called, rather than one that makes something of a list, as `list`."""
    return isinstance(function, type) and any("__call__" in vars(base) for base in function.__mro__)
