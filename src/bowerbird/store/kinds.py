"""What a column holds, and a comparison with a value made into one that every store can carry out exactly.

A literal that the column cannot hold (10.5 or 10**30 in a column of whole numbers, a day for a column of times) would
be compared in as many ways as there are stores. So it is replaced here by one that it can hold, with the same answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from bowerbird.errors import QueryError
from bowerbird.store.filters import And, Column, Compare, Filter, In, Or, Value, quoted, value_text
from bowerbird.store.table import VECTOR_MARK

if TYPE_CHECKING:
    import pyarrow as pa

Literal: TypeAlias = Value | date
"""A value as it was written; a date is a whole day."""


class Kind(Enum):
    """What a column holds; the value is what users are told of it."""

    TEXT = "texts"
    WHOLE = "whole numbers"
    REAL = "numbers"
    TRUTH = "true or false"
    TIME = "times"
    DAY = "days"


ALIKE = ({Kind.WHOLE, Kind.REAL}, {Kind.TIME, Kind.DAY})
"""Different kinds that can be compared with each other."""

_EXAMPLES = {
    Kind.TEXT: "Write texts in single quotes: {name} = {value}.",
    Kind.WHOLE: "Write a number, without quotes: {name} >= 10.",
    Kind.REAL: "Write a number, without quotes: {name} < 9.5.",
    Kind.TRUTH: "Write {name}, not {name}, or {name} = true.",
    Kind.TIME: "Write a day, {name} >= '2024-05-31', or a time, {name} < '2024-05-31 14:30'.",
    Kind.DAY: "Write a day: {name} >= '2024-05-31'.",
}


_DIGITS = re.compile(r"-?\d{1,15}(\.\d{1,15})?", re.ASCII)


@dataclass(frozen=True)
class Held:
    """What a column holds.

    Attributes:
        name: of the column.
        kind: of its values.
        low, high: the least and the greatest of its whole numbers.
        bits: how many one of its numbers takes.
        step: of times, in microseconds: those it holds are multiples of it.
        nanoseconds: whether its times are counted in these, and so reach from 1677 to 2262 only.
    """

    name: str
    kind: Kind
    low: int = 0
    high: int = 0
    bits: int = 64
    step: int = 1
    nanoseconds: bool = False

    def refuse(self, value: Literal, operator: str = "=") -> QueryError:
        """What is said of a value of another kind, which was to be compared by an operator."""
        said = {str: "is a text", bool: "is true or false", int: "is a number", float: "is a number"}
        found = said.get(type(value), "is a date")
        if isinstance(value, str) and self.kind in (Kind.TIME, Kind.DAY):
            found = "cannot be read as one"
        return QueryError(
            f"The column {quoted(self.name)} holds {self.kind.value}, and {shown_value(value)} {found}.",
            hint=self.example(value, operator),
        )

    def example(self, value: Literal = "text", operator: str = "=") -> str:
        """How the column is asked, in a sentence; a column of texts with this value."""
        shown = value_text(value if isinstance(value, str) else str(value))
        if self.kind in (Kind.WHOLE, Kind.REAL) and isinstance(value, str) and _DIGITS.fullmatch(value):
            return f"Write it without quotes: {quoted(self.name)} {operator} {value}."
        return _EXAMPLES[self.kind].format(name=quoted(self.name), value=shown)


def type_of(name: str, fields: pa.Schema) -> pa.DataType:
    """The type of a column.

    Raises:
        QueryError: there is none of that name.
    """
    if name not in fields.names:
        raise QueryError(f"There is no column {name!r}.", hint=f"The columns: {', '.join(fields.names)}.")
    return fields.field(name).type


def sort_of_type(type_: pa.DataType) -> str:
    """What a store compares a column of a type with: `number`, `text`, `time`, `truth value`; else its own name."""
    import pyarrow as pa

    tests: dict[str, Callable[[pa.DataType], bool]] = {
        "number": lambda t: pa.types.is_integer(t) or pa.types.is_floating(t) or pa.types.is_decimal(t),
        "text": lambda t: pa.types.is_string(t) or pa.types.is_large_string(t),
        "truth value": pa.types.is_boolean,
        "time": lambda t: pa.types.is_timestamp(t) or pa.types.is_date(t),
    }
    return next((sort for sort, test in tests.items() if test(type_)), str(type_))


def sort_of_value(value: Value) -> str:
    """The same of a value."""
    if isinstance(value, bool):
        return "truth value"
    if isinstance(value, (int, float)):
        return "number"
    return "time" if isinstance(value, datetime) else "text"


def check_text(name: str, fields: pa.Schema) -> None:
    """See that a column holds texts.

    Raises:
        QueryError: it does not, or there is none of that name.
    """
    if sort_of_type(type_of(name, fields)) != "text":
        raise QueryError(f"The column {name!r} is of type {type_of(name, fields)}, which holds no text.")


def shown_value(value: Literal) -> str:
    """A value as users wrote it, cut where it is long."""
    text = value_text(value) if isinstance(value, str | bool | int | float) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_SECOND = 1_000_000
_STEPS = {"s": _SECOND, "ms": 1_000, "us": 1, "ns": 1}
_DAY = timedelta(days=1)

# What 64 bits of nanoseconds hold, in whole microseconds.
_EPOCH = datetime(1970, 1, 1)
_REACH = timedelta(microseconds=2**63 // 1000)


def held(field: pa.Field) -> Held | None:  # noqa: PLR0911  one line for each kind
    """What a column holds; None of one that filters cannot ask for: vectors, their lengths, bytes, lists."""
    import pyarrow as pa

    name, type_, types = field.name, field.type, pa.types
    if types.is_dictionary(type_):
        type_ = type_.value_type
    if VECTOR_MARK in name:
        return None
    if types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_):
        return Held(name, Kind.TEXT)
    if types.is_boolean(type_):
        return Held(name, Kind.TRUTH)
    if types.is_integer(type_):
        bits, signed = type_.bit_width, types.is_signed_integer(type_)
        least = -(2 ** (bits - 1)) if signed else 0
        return Held(name, Kind.WHOLE, low=least, high=least + 2**bits - 1, bits=bits)
    if types.is_floating(type_):
        return Held(name, Kind.REAL, bits=type_.bit_width)
    if types.is_timestamp(type_):
        return Held(name, Kind.TIME, step=_STEPS[type_.unit], nanoseconds=type_.unit == "ns")
    return Held(name, Kind.DAY, step=86_400 * _SECOND) if types.is_date(type_) else None


def compared(column: Held, operator: str, value: Literal) -> Filter:
    """`column operator value`, with a value that the column can hold.

    A day compared with a time stands for all of it: `<=` a day lets through what is of that day.

    Raises:
        QueryError: the value is of another kind than the column's, or too large a number.
    """
    return _BY_KIND[column.kind](column, operator, value)


def one_of(column: Held, values: Sequence[Literal]) -> Filter:
    """`column IN (values)`, with values that the column can hold.

    Raises:
        QueryError: a value is of another kind than the column's, or too large a number.
    """
    equal: list[Value] = []
    days: list[Filter] = []
    for value in values:
        part = compared(column, "=", value)
        if isinstance(part, Compare) and not isinstance(part.value, Column):
            equal.append(part.value)
        elif part != _never(column):
            days.append(part)
    if values and not equal and not days:
        return _never(column)
    parts = (*([In(column.name, tuple(equal))] if equal or not days else []), *days)
    return parts[0] if len(parts) == 1 else Or(parts)


def _text(column: Held, operator: str, value: Literal) -> Filter:
    if not isinstance(value, str):
        raise column.refuse(value, operator)
    return Compare(column.name, operator, value)


def _truth(column: Held, operator: str, value: Literal) -> Filter:
    if not isinstance(value, bool):
        raise column.refuse(value)
    refuse_order(column, operator)
    return Compare(column.name, operator, value)


def refuse_order(column: Held, operator: str) -> None:
    """Refuse to order what is true or false.

    Raises:
        QueryError: the operator is another one than `=` and `!=`.
    """
    if operator not in ("=", "!="):
        raise QueryError(
            f"The column {quoted(column.name)} holds true or false, which have no order for {operator}.",
            hint=column.example(),
        )


def _whole(column: Held, operator: str, value: Literal) -> Filter:
    number = _number(column, value, operator)
    floor = math.floor(number)
    return _on_grid(column, operator, floor, exact=floor == number)


def _real(column: Held, operator: str, value: Literal) -> Filter:
    number = _number(column, value, operator)
    try:
        real = float(number) + 0.0  # not -0.0, which some stores order before 0.0
    except OverflowError:
        raise QueryError(f"The number {shown_value(number)} is too large.", hint=column.example()) from None
    if column.bits < 64:
        # Else 0.1 would not equal what the column holds of 0.1.
        with np.errstate(over="ignore"):
            narrow = float(np.float32(real) if column.bits == 32 else np.float16(real))
        real = narrow if math.isfinite(narrow) else real
    return Compare(column.name, operator, real)


def _number(column: Held, value: Literal, operator: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise column.refuse(value, operator)
    return value


def _time(column: Held, operator: str, value: Literal) -> Filter:
    when = time_of(value) if isinstance(value, str) else value
    if isinstance(when, datetime):
        step = timedelta(microseconds=column.step)
        floor = _EPOCH + (when - _EPOCH) // step * step
        return _on_grid(column, operator, floor, exact=floor == when)
    if not isinstance(when, date):
        raise column.refuse(value)
    start = datetime.combine(when, time())
    if column.kind is Kind.DAY:
        return _on_grid(column, operator, start, exact=True)
    return _with_day(column, operator, start)


def _with_day(column: Held, operator: str, start: datetime) -> Filter:
    """Times compared with a day, as if each were the day it is of."""
    after = _time(column, ">=", start)
    if start.date() < date.max:
        up_to, beyond = (_time(column, sign, start + _DAY) for sign in ("<", ">="))
    else:
        up_to, beyond = (_time(column, sign, datetime.max) for sign in ("<=", ">"))
    before = _time(column, "<", start)
    found: dict[str, Filter] = {
        "=": And((after, up_to)),
        "!=": Or((before, beyond)),
        "<": before,
        "<=": up_to,
        ">": beyond,
        ">=": after,
    }
    return found[operator]


def _on_grid(column: Held, operator: str, floor: int | datetime, *, exact: bool) -> Filter:
    """A comparison with something between two values that the column can hold, or beyond all of them.

    Args:
        column: what it is compared with.
        operator: see `Compare`.
        floor: the greatest one that is not greater, if the column had no bounds.
        exact: it is the value itself.
    """
    inside = _within(column, floor)
    if exact and inside == 0:
        return Compare(column.name, operator, floor)
    if operator in ("=", "!="):
        return _never(column) if operator == "=" else _ever(column)
    below = operator in ("<", "<=")
    if inside == 0:
        return Compare(column.name, "<=" if below else ">", floor)
    return _ever(column) if below == (inside > 0) else _never(column)


def _within(column: Held, value: int | datetime) -> int:
    """-1 of what is less than all that the column can hold, 1 of what is greater, else 0."""
    if isinstance(value, datetime):
        low, high = (_EPOCH - _REACH, _EPOCH + _REACH) if column.nanoseconds else (datetime.min, datetime.max)
        return (value > high) - (value < low)
    return (value > column.high) - (value < column.low)


def _never(column: Held) -> Filter:
    """False of every value, and unknown of a null, as a comparison is; in terms that every store knows."""
    middle = 0 if column.kind is Kind.WHOLE else _EPOCH
    return And((Compare(column.name, "<", middle), Compare(column.name, ">", middle)))


def _ever(column: Held) -> Filter:
    """True of every value, and unknown of a null."""
    middle = 0 if column.kind is Kind.WHOLE else _EPOCH
    return Or((Compare(column.name, "<=", middle), Compare(column.name, ">", middle)))


_BY_KIND: dict[Kind, Callable[[Held, str, Literal], Filter]] = {
    Kind.TEXT: _text,
    Kind.TRUTH: _truth,
    Kind.WHOLE: _whole,
    Kind.REAL: _real,
    Kind.TIME: _time,
    Kind.DAY: _time,
}

_WRITTEN = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(?:(:\d\d)(?:\.(\d{1,6}))?)?\s?(Z|[+-]\d\d(?::?\d\d)?)?)?",
    re.ASCII | re.IGNORECASE,
)


def time_of(text: str) -> date | datetime | None:
    """A day, or a time in UTC without a zone; None of a text that is neither.

    Read are days as `2024-05-31`, and times as `2024-05-31 14:30`, with seconds and up to six digits after them, with
    a `T` for the space, and with a zone: `Z`, `+02`, `+0200` or `+02:00`.
    """
    found = _WRITTEN.fullmatch(text.strip())
    if not found:
        return None
    day, clock, seconds, fraction, zone = found.groups()
    try:
        if clock is None:
            return date.fromisoformat(day)
        when = datetime.fromisoformat(f"{day}T{clock}{seconds or ':00'}.{(fraction or '').ljust(6, '0')}")
        return when - _offset(zone or "Z")
    except (ValueError, OverflowError):
        return None


def _offset(zone: str) -> timedelta:
    if zone in "Zz":
        return timedelta()
    digits = zone[1:].replace(":", "").ljust(4, "0")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    if offset >= _DAY:
        raise ValueError(zone)
    return -offset if zone[0] == "-" else offset
