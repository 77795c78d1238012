"""Conditions on the columns of a table: what every store turns into its own language.

A condition is true, false or unknown, as in SQL: a comparison with a null is unknown, `NOT unknown` is unknown, and a
row passes only where the whole is true. Every store answers the same; `passes` says what that is, in Python:

- A NaN is a null: it compares as unknown, and `IsNull` is true of it. -0.0 equals 0.0.
- Texts are ordered by code points, as their UTF-8 bytes are; nothing is normalised.
- Times without a zone are in UTC, and a date is its midnight.

`store.where` makes filters of what users write; docs/filters.md is the page for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timezone
from operator import eq, ge, gt, le, lt, ne
from typing import Any, TypeAlias

Value: TypeAlias = str | int | float | bool | datetime
"""What a column is compared with; a datetime has no time zone and stands for UTC."""


@dataclass(frozen=True)
class Column:
    """Another column of the same row, to compare with."""

    name: str


@dataclass(frozen=True)
class Compare:
    """`column operator value`.

    Attributes:
        column: its name.
        operator: one of `=`, `!=`, `<`, `<=`, `>`, `>=`.
        value: of the column's type, or another column. Of filters from `where.parse` it is one that the column can
            hold: a whole number within its range, a float of its precision, a midnight for dates.
    """

    column: str
    operator: str
    value: Value | Column


@dataclass(frozen=True)
class In:
    """The column holds one of some values. There are no nulls among them; none at all: false for every row."""

    column: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class IsNull:
    """The column holds nothing."""

    column: str


@dataclass(frozen=True)
class Like:
    r"""SQL's LIKE: `%` stands for any text, `_` for one character, `\` before `%`, `_` or `\` for that character.

    Attributes:
        column: of texts.
        pattern: for the whole text, line breaks included. A `\` before anything else stands for itself; of filters
            from `where.parse` there is none, as databases disagree on it.
        ignore_case: as ILIKE does: pattern and text are compared in lower case. Beyond ASCII stores may differ.
    """

    column: str
    pattern: str
    ignore_case: bool = False


@dataclass(frozen=True)
class Words:
    """All of some words are in the column, in any order; see `words_of` for what a word is.

    Attributes:
        column: of texts.
        words: as `words_of` gives them; never empty.
    """

    column: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Not:
    """The other way round; unknown stays unknown."""

    part: Filter


@dataclass(frozen=True)
class And:
    """All parts are true; none at all: every row passes."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True)
class Or:
    """One part is true; none at all: no row passes."""

    parts: tuple[Filter, ...]


Filter: TypeAlias = "Compare | In | IsNull | Like | Words | Not | And | Or"


def among(column: str, values: Iterable[str]) -> In:
    """The column holds one of some texts."""
    return In(column, tuple(values))


def both(first: Filter | None, second: Filter | None) -> Filter | None:
    """What passes both; None passes everything."""
    if first is None or second is None:
        return second if first is None else first
    return And((first, second))


_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """The words of a text: runs of letters, digits and underscores, in lower case."""
    return _WORD.findall(text.lower())


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {"=": eq, "!=": ne, "<": lt, "<=": le, ">": gt, ">=": ge}


def passes(filter: Filter | None, row: Mapping[str, Any]) -> bool:
    """Whether a row passes: the reference that every store is held to.

    Args:
        filter: None lets everything pass.
        row: values by column, as `pyarrow.Table.to_pylist` gives them. Times with a zone are taken to UTC.

    Raises:
        KeyError: the row has no such column.
    """
    return filter is None or _truth(filter, row) is True


def _truth(filter: Filter, row: Mapping[str, Any]) -> bool | None:
    """True, false, or None for unknown."""
    if isinstance(filter, Not):
        known = _truth(filter.part, row)
        return None if known is None else not known
    if isinstance(filter, And | Or):
        decides = isinstance(filter, Or)
        known_parts = [_truth(part, row) for part in filter.parts]
        return decides if decides in known_parts else None if None in known_parts else not decides
    value = _held(row[filter.column])
    if isinstance(filter, IsNull):
        return value is None
    if isinstance(filter, In) and not filter.values:
        return False
    return None if value is None else _holds(filter, value, row)


def _holds(filter: Compare | In | Like | Words, value: Any, row: Mapping[str, Any]) -> bool | None:
    """Whether something is true of a value that is not null; None where it is compared with a null."""
    if isinstance(filter, Compare):
        other = _held(row[filter.value.name]) if isinstance(filter.value, Column) else filter.value
        return None if other is None else _OPERATORS[filter.operator](value, other)
    if isinstance(filter, In):
        return value in filter.values
    if isinstance(filter, Words):
        return set(filter.words) <= set(words_of(value))
    pattern = filter.pattern.lower() if filter.ignore_case else filter.pattern
    return (
        re.fullmatch(_regex(pattern), value.lower() if filter.ignore_case else value, re.DOTALL) is not None
    )


def _held(value: Any) -> Any:
    """A value as it is compared: None for a NaN, times as datetimes in UTC without a zone."""
    if isinstance(value, float) and value != value:  # noqa: PLR0124  only a NaN is not itself
        return None
    if isinstance(value, datetime):
        return value if value.tzinfo is None else value.astimezone(timezone.utc).replace(tzinfo=None)
    return datetime.combine(value, time()) if isinstance(value, date) else value


_PIECE = re.compile(r"\\([%_\\])|(.)", re.DOTALL)


def _regex(pattern: str) -> str:
    """A pattern of LIKE as a regular expression."""
    wild = {"%": ".*", "_": "."}
    return "".join(
        re.escape(piece[1]) if piece[1] else wild.get(piece[2], re.escape(piece[2]))
        for piece in _PIECE.finditer(pattern)
    )


def columns_of(filter: Filter | None) -> frozenset[str]:
    """The names of the columns that a filter looks at."""
    if filter is None:
        return frozenset()
    if isinstance(filter, And | Or):
        return frozenset().union(*(columns_of(part) for part in filter.parts))
    if isinstance(filter, Not):
        return columns_of(filter.part)
    if isinstance(filter, Compare) and isinstance(filter.value, Column):
        return frozenset((filter.column, filter.value.name))
    return frozenset((filter.column,))


_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")

# What the parser takes for something else than a name, of any version that we allow.
_RESERVED = frozenset(
    words_of(
        """all alter always analyze and any array as between call case connect_by_root create cross current_catalog
        current_date current_time current_timestamp current_user describe distinct drop else except execute explain
        false fetch for from grant having if ilike in inner insert intersect into join lateral like list localtime
        localtimestamp lock map match not notnull null nullable object on optimize or outer over partitioned_by
        prepare qualify range regexp rename returning revoke rlike rollback select session_user show straight_join
        struct tablesample then true uncache union using vacuum values when where with xor"""
    )
)


def quoted(column: str) -> str:
    """A column's name as filters write it: within double quotes where it needs them."""
    if _PLAIN.fullmatch(column) and column not in _RESERVED:
        return column
    return '"' + column.replace('"', '""') + '"'


def value_text(value: Value) -> str:
    """A value as filters write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return f"timestamp '{value}'" if isinstance(value, datetime) else repr(value)


def to_text(filter: Filter) -> str:
    """A filter in the language that `where.parse` reads; read again it is the same.

    That holds of every filter that `parse` gives. And beside: of an AND or OR of a single part only the part is left.
    """
    if isinstance(filter, And | Or):
        if not filter.parts:
            return "true" if isinstance(filter, And) else "false"
        word = " and " if isinstance(filter, And) else " or "
        return word.join(map(_within, filter.parts)) if len(filter.parts) > 1 else to_text(filter.parts[0])
    return f"not {_within(filter.part)}" if isinstance(filter, Not) else _condition_text(filter)


def _condition_text(filter: Compare | In | IsNull | Like | Words) -> str:
    name = quoted(filter.column)
    if isinstance(filter, Compare):
        other = filter.value
        return f"{name} {filter.operator} {quoted(other.name) if isinstance(other, Column) else value_text(other)}"
    if isinstance(filter, In):
        return f"{name} in ({', '.join(map(value_text, filter.values))})"
    if isinstance(filter, IsNull):
        return f"{name} is null"
    if isinstance(filter, Words):
        return f"match({name}, {value_text(' '.join(filter.words))})"
    return f"{name} {'ilike' if filter.ignore_case else 'like'} {value_text(filter.pattern)}"


def _within(filter: Filter) -> str:
    """A part of a filter, within parentheses where it has parts of its own."""
    several = isinstance(filter, And | Or | Not) and filter not in (And(()), Or(()))
    return f"({to_text(filter)})" if several else to_text(filter)
