"""Filters as Lance reads them: SQL of DataFusion.

Lance converts a literal to the type of its column and refuses where that loses anything (`width > 1.5`), so such
comparisons are rewritten here. It compares floats in total order: NaN equals itself and is larger than all others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from bowerbird.errors import QueryError
from bowerbird.store.filters import And, Column, Compare, Filter, In, IsNull, Like, Not, Or, Value, Words

if TYPE_CHECKING:
    import pyarrow as pa

_OPERATORS = ("=", "!=", "<", "<=", ">", ">=")

# What `\w` of Python's `re` matches, in the words of Rust's regex, whose own `\w` also takes accents that stand alone.
_LETTER = r"[\p{L}\p{N}_]"
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
        return f"({_column(where.column, fields)} IS NULL)"
    return _like(where, fields) if isinstance(where, Like) else _words(where, fields)


def _joined(parts: Sequence[str], word: str, of_none: str) -> str:
    """Conditions in a balanced tree: the planner's stack does not bear a thousand levels."""
    if len(parts) < 2:
        return parts[0] if parts else of_none
    half = len(parts) // 2
    return f"({_joined(parts[:half], word, of_none)} {word} {_joined(parts[half:], word, of_none)})"


def _column(name: str, fields: pa.Schema) -> str:
    _type(name, fields)
    return f"`{name}`"


def _type(name: str, fields: pa.Schema) -> pa.DataType:
    if name not in fields.names:
        raise QueryError(f"There is no column {name!r}.", hint=f"The columns: {', '.join(fields.names)}.")
    return fields.field(name).type


def _compare(where: Compare, fields: pa.Schema) -> str:
    if where.operator not in _OPERATORS:
        raise QueryError(f"There is no comparison {where.operator!r}.", hint=f"Use {', '.join(_OPERATORS)}.")
    left = _column(where.column, fields)
    if isinstance(where.value, Column):
        right = _column(where.value.name, fields)
        kinds = (_kind(_type(name, fields)) for name in (where.column, where.value.name))
        if len(set(kinds)) > 1:
            raise QueryError(f"The columns {where.column!r} and {where.value.name!r} cannot be compared.")
        return f"({left} {where.operator} {right})"
    type_ = _type(where.column, fields)
    if isinstance(where.value, float) and math.isnan(where.value) and _kind(type_) == "number":
        return f"(CAST({left} AS DOUBLE) {where.operator} CAST('NaN' AS DOUBLE))"
    return (
        f"({_beside(left, type_, where.value, where.column)} {where.operator} {_literal(where.value, type_)})"
    )


def _kind(type_: pa.DataType) -> str:
    import pyarrow as pa

    tests: dict[str, Callable[[pa.DataType], bool]] = {
        "number": lambda t: pa.types.is_integer(t) or pa.types.is_floating(t),
        "text": lambda t: pa.types.is_string(t) or pa.types.is_large_string(t),
        "truth value": pa.types.is_boolean,
        "time": lambda t: pa.types.is_timestamp(t) or pa.types.is_date(t),
    }
    return next((kind for kind, test in tests.items() if test(type_)), str(type_))


def _kind_of(value: Value) -> str:
    if isinstance(value, bool):
        return "truth value"
    if isinstance(value, (int, float)):
        return "number"
    return "time" if isinstance(value, datetime) else "text"


def _checked(name: str, type_: pa.DataType, value: Value) -> None:
    if _kind(type_) != _kind_of(value):
        raise QueryError(
            f"The column {name!r} is of type {type_} and cannot be compared with {value!r}.",
            hint=f"Compare it with a {_kind(type_)}.",
        )


def _beside(column: str, type_: pa.DataType, value: Value, name: str) -> str:
    """The column, as wide as it has to be to stand beside a value."""
    import pyarrow as pa

    _checked(name, type_, value)
    if pa.types.is_integer(type_):
        whole = _whole(value)
        if whole is None:
            return f"CAST({column} AS DOUBLE)"
        if not _fits(whole, type_):
            return f"CAST({column} AS DECIMAL(38, 0))"
    elif pa.types.is_floating(type_) and type_.bit_width < 64:
        return f"CAST({column} AS DOUBLE)"
    elif pa.types.is_temporal(type_):
        return f"CAST({column} AS TIMESTAMP)"
    return column


def _whole(value: Value) -> int | None:
    """The integer that a number is."""
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, float) and value.is_integer() else None


def _fits(value: int, type_: pa.DataType) -> bool:
    import pyarrow as pa

    signed = pa.types.is_signed_integer(type_)
    bits = type_.bit_width - signed
    return bool(-(signed << bits) <= value < 1 << bits)


def _literal(value: Value, type_: pa.DataType) -> str:
    import pyarrow as pa

    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        moment = value if value.tzinfo is None else value.astimezone(timezone.utc).replace(tzinfo=None)
        return f"timestamp '{moment.isoformat(sep=' ')}'"
    if isinstance(value, str):
        return _quoted(value)
    whole = _whole(value)
    if pa.types.is_integer(type_) and whole is not None:
        # Beyond this all columns of integers are on one side, and a DECIMAL has no room for more.
        near = max(-(10**37), min(whole, 10**37))
        return str(near) if _fits(near, type_) else f"CAST('{near}' AS DECIMAL(38, 0))"
    if isinstance(value, int) and abs(value) > 1 << 1000:
        value = math.copysign(math.inf, value)
    value = float(value)
    return f"CAST('{value!r}' AS DOUBLE)" if math.isinf(value) else repr(value)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _in(where: In, fields: pa.Schema) -> str:
    type_ = _type(where.column, fields)
    column = _column(where.column, fields)
    for value in where.values:
        _checked(where.column, type_, value)
    alike = all(_beside(column, type_, value, where.column) == column for value in where.values)
    if where.values and alike:
        return f"({column} IN ({', '.join(_literal(value, type_) for value in where.values)}))"
    return to_sql(Or(tuple(Compare(where.column, "=", value) for value in where.values)), fields)


def _of_texts(name: str, fields: pa.Schema) -> str:
    if _kind(_type(name, fields)) != "text":
        raise QueryError(f"The column {name!r} is of type {_type(name, fields)}, which holds no text.")
    return _column(name, fields)


def _like(where: Like, fields: pa.Schema) -> str:
    word = "ILIKE" if where.ignore_case else "LIKE"
    return f"({_of_texts(where.column, fields)} {word} {_quoted(where.pattern)})"


def _words(where: Words, fields: pa.Schema) -> str:
    text = f"lower({_of_texts(where.column, fields)})"
    found = [
        f"regexp_like({text}, {_quoted(f'(^|{_NO_LETTER}){re.escape(word)}($|{_NO_LETTER})')})"
        for word in where.words
    ]
    return _joined(found, "AND", "true")
