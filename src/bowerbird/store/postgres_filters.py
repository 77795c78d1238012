"""Filters as PostgreSQL reads them: SQL with a placeholder for every value.

Columns of text have the collation "C", so texts compare by their code points whatever the database was made with. What
a word is, and which letters are the same when case is ignored, does not follow the server's locale either: Python's
own classes are written out into the regular expression.
"""

from __future__ import annotations

import math
import re
import sys
from datetime import datetime, timezone
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from bowerbird.errors import QueryError
from bowerbird.store.filters import And, Column, Compare, Filter, In, IsNull, Like, Not, Value, Words
from bowerbird.store.kinds import check_text, sort_of_type, sort_of_value, type_of
from bowerbird.store.postgres_types import WORDS, Values, column_name, identifier

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg import sql

OPERATORS = {"=": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}

_HUGE = 1 << 1000


def condition(  # noqa: PLR0911  one for each kind of filter
    where: Filter | None, fields: pa.Schema, values: Values
) -> sql.Composable:
    """What stands behind WHERE; true for no filter.

    Args:
        where: the filter.
        fields: of the table.
        values: gets those of the filter.

    Raises:
        QueryError: there is no such column, or it is of a type that this cannot be asked of.
    """
    from psycopg import sql

    if where is None:
        return sql.SQL("true")
    if isinstance(where, Compare):
        return _compare(where, fields, values)
    if isinstance(where, In):
        return _in(where, fields, values)
    if isinstance(where, IsNull):
        return sql.SQL("({} IS NULL)").format(_column(where.column, fields))
    if isinstance(where, Like):
        return _like(where, fields, values)
    if isinstance(where, Words):
        return _words(where, fields, values)
    if isinstance(where, Not):
        return sql.SQL("(NOT {})").format(condition(where.part, fields, values))
    parts = [condition(part, fields, values) for part in where.parts]
    if not parts:
        return sql.SQL("true" if isinstance(where, And) else "false")
    joined = sql.SQL(" AND " if isinstance(where, And) else " OR ").join(parts)
    return sql.SQL("({})").format(joined)


def _column(name: str, fields: pa.Schema) -> sql.Composable:
    import pyarrow as pa
    from psycopg import sql

    column = identifier(column_name(name))
    # To filters a NaN is no value; to PostgreSQL it is the largest.
    real = pa.types.is_floating(type_of(name, fields))
    return sql.SQL("NULLIF({}, 'NaN')").format(column) if real else column


def _checked(name: str, fields: pa.Schema, value: Value) -> Any:
    """The value as it is sent, once it is known to be of the column's kind."""
    import pyarrow as pa

    type_ = type_of(name, fields)
    if sort_of_type(type_) != sort_of_value(value):
        raise QueryError(
            f"The column {name!r} is of type {type_} and cannot be compared with {value!r}.",
            hint=f"Compare it with a {sort_of_type(type_)}.",
        )
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(timezone.utc).replace(tzinfo=None)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    if isinstance(value, float):
        # A whole number beside whole numbers: as doubles, large ones that differ would be equal.
        return int(value) if value.is_integer() and not pa.types.is_floating(type_) else value
    # No column holds a larger one, and a double has no room for it.
    return math.copysign(math.inf, value) if abs(value) > _HUGE else value


def _compare(where: Compare, fields: pa.Schema, values: Values) -> sql.Composable:
    from psycopg import sql

    if where.operator not in OPERATORS:
        raise QueryError(f"There is no comparison {where.operator!r}.", hint=f"Use {', '.join(OPERATORS)}.")
    left = _column(where.column, fields)
    if isinstance(where.value, Column):
        right = _column(where.value.name, fields)
        if sort_of_type(type_of(where.column, fields)) != sort_of_type(type_of(where.value.name, fields)):
            raise QueryError(f"The columns {where.column!r} and {where.value.name!r} cannot be compared.")
    else:
        right = values.put(_checked(where.column, fields, where.value))
    return sql.SQL("({} {} {})").format(left, sql.SQL(OPERATORS[where.operator]), right)


def _in(where: In, fields: pa.Schema, values: Values) -> sql.Composable:
    from psycopg import sql

    column = _column(where.column, fields)
    sent = [_checked(where.column, fields, value) for value in where.values]
    small = all(not isinstance(value, int) or -(1 << 63) <= value < 1 << 63 for value in sent)
    if not sent:
        return sql.SQL("false")
    if len({type(value) for value in sent}) == 1 and small:
        return sql.SQL("({} = ANY({}))").format(column, values.put(sent))
    alike = [sql.SQL("{} = {}").format(column, values.put(value)) for value in sent]
    return sql.SQL("({})").format(sql.SQL(" OR ").join(alike))


def _of_texts(name: str, fields: pa.Schema) -> sql.Composable:
    check_text(name, fields)
    return _column(name, fields)


def _like(where: Like, fields: pa.Schema, values: Values) -> sql.Composable:
    from psycopg import sql

    column = _of_texts(where.column, fields)
    # A backslash before anything else is itself; PostgreSQL would swallow it, and refuse one at the end.
    parts = re.findall(r"\\[%_\\]|[\s\S]", where.pattern)
    if where.ignore_case:
        pattern = "".join({"%": ".*", "_": "."}.get(part) or _any_case(part[-1]) for part in parts)
        return sql.SQL("({} ~ {})").format(column, values.put(f"^(?:{pattern})$"))
    pattern = "".join("\\\\" if part == "\\" else part for part in parts)
    return sql.SQL("({} LIKE {} ESCAPE '\\')").format(column, values.put(pattern))


def _words(where: Words, fields: pa.Schema, values: Values) -> sql.Composable:
    from psycopg import sql

    column = _of_texts(where.column, fields)
    if where.column == "text":
        return sql.SQL("({} @> {}::text[])").format(identifier(WORDS), values.put(list(where.words)))
    letter = f"[{_word_class()}]"
    found = [
        sql.SQL("{} ~ {}").format(
            column, values.put(f"(?<!{letter})(?:{''.join(map(_any_case, word))})(?!{letter})")
        )
        for word in where.words
    ]
    return sql.SQL("({})").format(sql.SQL(" AND ").join(found))


def _any_case(sign: str) -> str:
    """A regular expression for a character in capital or small letters."""
    same = sorted(_by_small_letter().get(sign.lower(), set()) | {sign})
    return f"[{''.join(map(_escaped, same))}]" if len(same) > 1 else _escaped(sign)


def _escaped(sign: str) -> str:
    return f"\\U{ord(sign):08x}"


@lru_cache(maxsize=1)
def _by_small_letter() -> dict[str, set[str]]:
    """By small letter, the characters that become it; only where there are others."""
    found: dict[str, set[str]] = {}
    for sign in map(chr, range(sys.maxunicode + 1)):
        small = sign.lower()
        if small != sign and len(small) == 1:
            found.setdefault(small, {small}).add(sign)
    return found


@lru_cache(maxsize=1)
def _word_class() -> str:
    """The inside of a bracket expression for what a word is made of to Python's `re`."""
    every = "".join(chr(code) for code in range(1, sys.maxunicode + 1) if not 0xD800 <= code < 0xE000)
    runs = ((run[0], run[-1]) for run in re.findall(r"\w+", every))
    return "".join(
        _escaped(first) if first == last else f"{_escaped(first)}-{_escaped(last)}" for first, last in runs
    )
