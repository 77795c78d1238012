"""Filters as Lance reads them: SQL of DataFusion.

Lance converts a literal to the type of its column, and refuses where that loses anything (`width > 1.5`) or loses it
in silence (parts of seconds). It compares NaN as the largest number, -0.0 as less than 0.0, and days as nanoseconds,
which end in 2262. So values are made such as the column can hold, with the same answer, and columns are converted where
that does not help.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from bowerbird.errors import QueryError
from bowerbird.store.filters import And, Column, Compare, Filter, In, IsNull, Like, Not, Or, Value, Words
from bowerbird.store.kinds import check_text, sort_of_type, sort_of_value, type_of

if TYPE_CHECKING:
    import pyarrow as pa

_OPERATORS = ("=", "!=", "<", "<=", ">", ">=")

# What `\w` of Python's `re` matches, in the words of Rust's regex, whose own `\w` also takes accents that stand alone.
_NO_LETTER = r"[^\p{L}\p{N}_]"


def to_sql(where: Filter, fields: pa.Schema) -> str:
    """A filter for Lance.

    Args:
        where: the filter.
        fields: of the table; their types decide how values are written.

    Raises:
        QueryError: there is no such column, or it is of a type that this cannot be asked of.
    """
    if isinstance(where, (And, Or)):
        parts = [to_sql(part, fields) for part in where.parts]
        return _joined(parts, "AND", "true") if isinstance(where, And) else _joined(parts, "OR", "false")
    if isinstance(where, Not):
        return f"(NOT {to_sql(where.part, fields)})"
    return _condition(where, fields)


def _condition(where: Compare | In | IsNull | Like | Words, fields: pa.Schema) -> str:
    if isinstance(where, Compare):
        return _compare(where, fields)
    if isinstance(where, In):
        return _in(where, fields)
    if isinstance(where, IsNull):
        return _is_null(where.column, fields)
    return _like(where, fields) if isinstance(where, Like) else _words(where, fields)


def _joined(parts: Sequence[str], word: str, of_none: str) -> str:
    """Conditions in a balanced tree: the planner's stack does not bear a thousand levels."""
    if len(parts) < 2:
        return parts[0] if parts else of_none
    half = len(parts) // 2
    return f"({_joined(parts[:half], word, of_none)} {word} {_joined(parts[half:], word, of_none)})"


def _column(name: str, fields: pa.Schema) -> str:
    type_of(name, fields)
    return f"`{name}`"


def _is_null(name: str, fields: pa.Schema) -> str:
    import pyarrow as pa

    column = _column(name, fields)
    is_null = f"{column} IS NULL"
    return (
        f"({is_null} OR isnan({column}))" if pa.types.is_floating(type_of(name, fields)) else f"({is_null})"
    )


def _compare(where: Compare, fields: pa.Schema) -> str:
    if where.operator not in _OPERATORS:
        raise QueryError(f"There is no comparison {where.operator!r}.", hint=f"Use {', '.join(_OPERATORS)}.")
    type_ = type_of(where.column, fields)
    if isinstance(where.value, Column):
        other = type_of(where.value.name, fields)
        if sort_of_type(type_) != sort_of_type(other):
            raise QueryError(f"The columns {where.column!r} and {where.value.name!r} cannot be compared.")
        right = _converted(where.value.name, fields, type_)
        return f"({_converted(where.column, fields, other)} {where.operator} {right})"
    _checked(where.column, type_, where.value)
    if _is_nan(where.value):
        return _whatever(where.column, fields, where.operator == "!=")
    low = _floor(where.value, type_)
    column = _converted(where.column, fields)
    if low == where.value:
        return f"({column} {where.operator} {_literal(where.value, type_)})"
    if low is None or where.operator in ("=", "!="):
        return _whatever(where.column, fields, where.operator in ("!=", ">", ">="))
    return f"({column} {'<=' if where.operator in ('<', '<=') else '>'} {_literal(low, type_)})"


def _whatever(name: str, fields: pa.Schema, true: bool) -> str:
    """What is true, or false, of all values, and unknown of nulls."""
    unknown = f"({_is_null(name, fields)} AND CAST(NULL AS BOOLEAN))"
    return f"(NOT {unknown})" if true else unknown


def _checked(name: str, type_: pa.DataType, value: Value) -> None:
    if sort_of_type(type_) != sort_of_value(value):
        raise QueryError(
            f"The column {name!r} is of type {type_} and cannot be compared with {value!r}.",
            hint=f"Compare it with a {sort_of_type(type_)}.",
        )


def _converted(name: str, fields: pa.Schema, other: pa.DataType | None = None) -> str:
    """A column as it is compared: with values, or with a column of the type `other`."""
    import pyarrow as pa

    column, type_ = _column(name, fields), type_of(name, fields)
    if pa.types.is_floating(type_):
        return f"(nullif({column}, CAST('NaN' AS DOUBLE)) + 0.0)"  # -0.0 would be less than 0.0
    if other is None or type_.equals(other):
        return column
    if pa.types.is_temporal(type_):
        return f"CAST({column} AS TIMESTAMP(6))"
    return f"CAST({column} AS {'DOUBLE' if pa.types.is_floating(other) else 'DECIMAL(38, 0)'})"


def _floor(value: Value, type_: pa.DataType) -> Value | None:
    """The largest value of a type that is not larger than this one; None where all are larger."""
    import pyarrow as pa

    if isinstance(value, datetime):
        if pa.types.is_date(type_):
            return value.replace(hour=0, minute=0, second=0, microsecond=0)
        coarse = {"s": 1_000_000, "ms": 1000}.get(type_.unit, 1)
        return value.replace(microsecond=value.microsecond // coarse * coarse)
    if isinstance(value, (int, float)) and not pa.types.is_boolean(type_):
        return _floor_of_number(value, type_)
    return value


def _floor_of_number(value: int | float, type_: pa.DataType) -> int | float | None:
    import pyarrow as pa

    if pa.types.is_integer(type_):
        signed = bool(pa.types.is_signed_integer(type_))
        bits = int(type_.bit_width) - signed
        low, high = -signed << bits, (1 << bits) - 1
        if value > high:
            return high
        return math.floor(value) if value >= low else None
    if isinstance(value, float):
        return value
    if abs(value) > sys.float_info.max:
        return sys.float_info.max if value > 0 else -math.inf
    near = float(value)
    return near if near <= value else math.nextafter(near, -math.inf)


def _is_nan(value: Value) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _literal(value: Value, type_: pa.DataType) -> str:
    """A value that the type holds."""
    import pyarrow as pa

    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        is_day = pa.types.is_date(type_)
        return f"date '{value.date()}'" if is_day else f"timestamp '{value.isoformat(sep=' ')}'"
    return _quoted(value) if isinstance(value, str) else _number(value, type_)


def _number(value: float, type_: pa.DataType) -> str:
    import pyarrow as pa

    if pa.types.is_integer(type_):
        # The least integer of 64 bits would be read as a float.
        return f"CAST('{value}' AS BIGINT)" if value == -1 << 63 else str(int(value))
    if abs(value) > sys.float_info.max:
        return f"CAST('{'-' if value < 0 else ''}inf' AS DOUBLE)"
    return repr(float(value) + 0.0)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _in(where: In, fields: pa.Schema) -> str:
    type_ = type_of(where.column, fields)
    for value in where.values:
        _checked(where.column, type_, value)
    if not where.values or any(_is_nan(value) or _floor(value, type_) != value for value in where.values):
        return to_sql(Or(tuple(Compare(where.column, "=", value) for value in where.values)), fields)
    values = ", ".join(_literal(value, type_) for value in where.values)
    # Without the second half, DataFusion takes `x NOT IN (1) OR x NOT IN (2)` for true, of a null too.
    known = f"(NOT {_is_null(where.column, fields)} OR CAST(NULL AS BOOLEAN))"
    return f"({_converted(where.column, fields)} IN ({values}) AND {known})"


def _of_texts(name: str, fields: pa.Schema) -> str:
    check_text(name, fields)
    return _column(name, fields)


_ESCAPES = re.compile(r"\\([%_\\])|\\")


def _like(where: Like, fields: pa.Schema) -> str:
    column = _of_texts(where.column, fields)
    # Lance takes a backslash away from before any sign.
    pattern = _ESCAPES.sub(lambda found: found[0] if found[1] else r"\\", where.pattern)
    if where.ignore_case:
        return f"(lower({column}) LIKE {_quoted(pattern.lower())})"
    return f"({column} LIKE {_quoted(pattern)})"


def _words(where: Words, fields: pa.Schema) -> str:
    text = f"lower({_of_texts(where.column, fields)})"
    found = [
        f"regexp_like({text}, {_quoted(f'(^|{_NO_LETTER}){re.escape(word)}($|{_NO_LETTER})')})"
        for word in where.words
    ]
    return _joined(found, "AND", "true")
