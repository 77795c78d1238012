"""Filters in Pinecone's language.

Pinecone knows no null: a field is there or not, and `$ne` and `$nin` also pass records without it. So every condition
says itself when it is true and when its opposite is, and `NOT` is carried down to the conditions by De Morgan's laws:
what is unknown is neither. What Pinecone cannot be asked is a `QueryError`: LIKE, one column against another, the
order of texts.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timezone
from fractions import Fraction
from typing import Any, TypeAlias

from bowerbird.errors import QueryError
from bowerbird.store.filters import And, Compare, Filter, In, IsNull, Not, Or, Words
from bowerbird.store.filters import Column as OtherColumn
from bowerbird.store.pinecone_rows import EXACT, Column, State, clamped, key_of, stand_in
from bowerbird.store.pinecone_space import MOST_LISTED

Condition: TypeAlias = "dict[str, Any] | bool"
"""A filter of Pinecone's, or what is the same for all records."""

_SIGNS = {"=": "$eq", "!=": "$ne", "<": "$lt", "<=": "$lte", ">": "$gt", ">=": "$gte"}
_OPPOSITE = {"=": "!=", "!=": "=", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}
_HOLDS = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_EPOCH = datetime(1970, 1, 1)
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def compiled(where: Filter | None, state: State) -> Condition:
    """A filter as Pinecone reads it, over the metadata of `pinecone_rows`.

    Raises:
        QueryError: Pinecone cannot ask for that.
    """
    return True if where is None else _Compiler(state).when(where, True)


def every(*parts: Condition) -> Condition:
    """All of some conditions."""
    if False in parts:
        return False
    kept = [part for part in parts if part is not True]
    return {"$and": kept} if len(kept) > 1 else kept[0] if kept else True


def some(*parts: Condition) -> Condition:
    """One of some conditions."""
    if True in parts:
        return True
    kept = [part for part in parts if part is not False]
    return {"$or": kept} if len(kept) > 1 else kept[0] if kept else False


def listed(key: str, values: Sequence[Any], *, inside: bool = True) -> Condition:
    """A field holds one of some values, or none of them."""
    sign, join = ("$in", some) if inside else ("$nin", every)
    blocks = [values[start : start + MOST_LISTED] for start in range(0, len(values), MOST_LISTED)]
    return join(*({key: {sign: list(block)}} for block in blocks))


class _Compiler:
    def __init__(self, state: State) -> None:
        self._columns: Mapping[str, Column] = {column.name: column for column in state.columns}
        self._unlisted = state.unlisted

    def when(self, where: Filter, truth: bool) -> Condition:
        """When a filter is true, or false: where it is unknown, neither holds."""
        if isinstance(where, Not):
            return self.when(where.part, not truth)
        if isinstance(where, And | Or):
            join = every if isinstance(where, And) is truth else some
            return join(*(self.when(part, truth) for part in where.parts))
        column = self._columns.get(where.column)
        if column is None:
            raise QueryError(f"The index has no column {where.column!r}.")
        if isinstance(where, IsNull):
            return (not truth) if column.kind == "id" else {f"c{column.number}": {"$exists": not truth}}
        if isinstance(where, In):
            for value in where.values:
                self._compare(column, "=", value)  # refuses what is of another type
            return self._in(column, where.values, truth)
        if isinstance(where, Compare):
            if where.operator not in _SIGNS:
                raise QueryError(f"There is no comparison {where.operator!r}: {where.column!r}.")
            sign = where.operator if truth else _OPPOSITE[where.operator]
            if isinstance(where.value, OtherColumn):
                raise _cannot("compare one column with another", where.column)
            return self._compare(column, sign, where.value)
        if isinstance(where, Words):
            return self._words(column, where.words, truth)
        raise _cannot("ask for ILIKE" if where.ignore_case else "ask for LIKE", where.column)

    def _compare(self, column: Column, sign: str, value: Any) -> Condition:
        kind, key = column.kind, f"c{column.number}"
        if kind in ("id", "text"):
            if not isinstance(value, str):
                raise QueryError(f"{column.name!r} holds texts, and is compared with {value!r}.")
            if sign not in ("=", "!="):
                raise _cannot(f"order texts with {sign}", column.name)
            if kind == "id":
                return {"key": {_SIGNS[sign]: key_of(value)}}
            found: Condition = {key: {_SIGNS[sign]: stand_in(value)}}
            return found if sign == "=" else every(_there(column), found)
        if kind == "flag":
            if not isinstance(value, bool):
                raise QueryError(f"{column.name!r} holds true or false, and is compared with {value!r}.")
            return some(*({key: {"$eq": flag}} for flag in (False, True) if _HOLDS[sign](flag, value)))
        if kind in ("whole", "number", "time"):
            return _number(column, sign, _as_number(column, value))
        raise _cannot("compare what it holds of", column.name)

    def _in(self, column: Column, values: Sequence[Any], truth: bool) -> Condition:
        if not values:
            return not truth
        kind, key = column.kind, f"c{column.number}"
        if kind in ("id", "text"):
            if kind == "id":
                return listed("key", [key_of(text) for text in values], inside=truth)
            found = listed(key, [stand_in(text) for text in values], inside=truth)
            return found if truth else every(_there(column), found)
        join, sign = (some, "=") if truth else (every, "!=")
        if kind in ("whole", "number", "time"):
            numbers = [_as_number(column, value) for value in values]
            small = [float(number) for number in numbers if abs(number) < EXACT]
            found = join(
                listed(key, small, inside=truth),
                *(_number(column, sign, number) for number in numbers if not abs(number) < EXACT),
            )
            return found if truth else every(_there(column), found)
        return join(*(self._compare(column, sign, value) for value in values))

    def _words(self, column: Column, words: Sequence[str], truth: bool) -> Condition:
        if not column.has_words:
            raise _cannot("ask for the words of", column.name)
        if column.number in self._unlisted:
            raise QueryError(
                f"Pinecone cannot ask for the words of {column.name!r}: some texts have more of them than it keeps.",
                hint="Search for the words instead, or copy the index to another store.",
            )
        key = f"w{column.number}"
        if truth:
            return every(*({key: {"$in": [word]}} for word in words))
        lacking = some({key: {"$exists": False}}, *({key: {"$nin": [word]}} for word in words))
        return every(_there(column), lacking)


def _there(column: Column) -> Condition:
    return {f"c{column.number}": {"$exists": True}}


def _as_number(column: Column, value: Any) -> int | float:
    """A value as the metadata of a column has it.

    Raises:
        QueryError: it is of another type.
    """
    if column.kind == "time" and isinstance(value, date):
        return _count(column, value)
    if column.kind != "time" and isinstance(value, int | float) and not math.isnan(value):
        whole = (
            isinstance(value, float)
            and math.isfinite(value)
            and column.kind == "whole"
            and value.is_integer()
        )
        return int(value) if whole else value
    said = "times" if column.kind == "time" else "numbers"
    raise QueryError(f"{column.name!r} holds {said}, and is compared with {value!r}.")


def _count(column: Column, value: date) -> int | float:
    """A time as a number of the column's units since 1970."""
    from pyarrow import types

    moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
    if moment.tzinfo is not None:
        moment = moment.astimezone(timezone.utc).replace(tzinfo=None)
    since = moment - _EPOCH
    seconds = Fraction(since.days * 86_400 + since.seconds) + Fraction(since.microseconds, 10**6)
    type_ = column.field.type
    if types.is_date32(type_):
        units = seconds / 86_400
    else:
        units = seconds * (1000 if types.is_date64(type_) else _UNITS[type_.unit])
    return int(units) if units.denominator == 1 else float(units)


def _number(column: Column, sign: str, value: int | float) -> Condition:
    key, rest = f"c{column.number}", f"d{column.number}"
    if column.kind == "number" or abs(value) < EXACT or math.isinf(value):
        found: Condition = {key: {_SIGNS[sign]: clamped(float(value))}}
        return found if sign != "!=" else every(_there(column), found)
    # As a float first, and where that is the same, by what it has lost.
    near = float(value)
    same: Condition = {key: {"$eq": near}}
    lost = int(value) - int(near)
    if sign == "!=":
        return some(every(_there(column), {key: {"$ne": near}}), every(same, {rest: {"$ne": lost}}))
    closer = every(same, {rest: {_SIGNS[sign]: lost}})
    return closer if sign == "=" else some({key: {_SIGNS[sign[0]]: near}}, closer)


def _cannot(what: str, column: str) -> QueryError:
    return QueryError(
        f"Pinecone cannot {what}: {column!r}.",
        hint="Ask with =, !=, IN, IS NULL, or < and > for numbers and times; or copy the index to another store.",
    )
