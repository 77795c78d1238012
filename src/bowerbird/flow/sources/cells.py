"""What the cells of a column of text are: whole numbers, numbers, truth values, times, or text."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

# Leading zeros and a plus make text: these are codes, as of postal districts, and telephone numbers.
_INT = re.compile(r"-?(0|[1-9][0-9]{0,18})")
_FLOAT = re.compile(r"-?(([0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+)|-?inf|nan|NaN")
_LEADING_ZERO = re.compile(r"-?0[0-9]")
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ]([0-9]{2}:[0-9]{2})(:[0-9]{2})?(\.[0-9]{1,6})?"
    r"(?:(Z)|([+-][0-9]{2}):?([0-9]{2}))?)?"
)
_BOOLS = {"true": True, "false": False, "True": True, "False": False, "TRUE": True, "FALSE": False}


def kind_of(cell: str) -> str:
    """The type a cell could have: `int` (64 bits), `float`, `bool`, `time`, `time with zone` or `str`; "" when blank.

    Times are ISO 8601: a date, or a date and a time of day.
    """
    cell = cell.strip()
    if not cell:
        return ""
    if cell in _BOOLS:
        return "bool"
    if _INT.fullmatch(cell):
        return "int" if -(1 << 63) <= int(cell) < 1 << 63 else "str"
    if _FLOAT.fullmatch(cell):
        return "str" if _LEADING_ZERO.match(cell) else "float"
    try:
        return "time" if _time(cell).tzinfo is None else "time with zone"
    except ValueError:
        return "str"


def merged(one: str, other: str) -> str:
    """The type of a column that holds both."""
    if not one or not other or one == other:
        return one or other
    return "float" if {one, other} == {"int", "float"} else "str"


FEW = 3
"""So many cells, and no more than one for two numbers, may be taken for slips in a column of numbers."""

_DIGITS = re.compile(r"\+?[0-9]+")


class Survey:
    """Finds the types of columns, row by row.

    Args:
        count: of all columns.
        places: of the columns to look at.

    Attributes:
        kinds: the types so far, as of `kind_of`.
    """

    def __init__(self, count: int, places: list[int]) -> None:
        self.kinds = [""] * count
        self._open = places
        self._numbers = [0] * count
        self._others = [0] * count
        self._first: dict[int, tuple[str, int]] = {}

    def look(self, row: list[str], line: int) -> None:
        """Take the cells of a row, which starts in that line, into account."""
        settled = False
        for place in self._open:
            cell = row[place]
            kind = kind_of(cell)
            self.kinds[place] = merged(self.kinds[place], kind)
            if kind in ("int", "float"):
                self._numbers[place] += 1
            elif kind:
                self._first.setdefault(place, (cell, line))
                # Digits that are no number are codes, and meant to be text.
                self._others[place] += FEW + 1 if _DIGITS.fullmatch(cell.strip()) else 1
            # Text is looked at further only while it could be one of numbers with slips.
            settled = settled or (self.kinds[place] == "str" and self._others[place] > FEW)
        if settled:
            self._open = [
                place for place in self._open if self.kinds[place] != "str" or self._others[place] <= FEW
            ]

    def odd(self) -> dict[int, tuple[str, int]]:
        """Columns that are text for the sake of a few cells: the first of these, and the line of its row."""
        return {
            place: first
            for place, first in self._first.items()
            if self.kinds[place] == "str" and self._others[place] <= min(FEW, self._numbers[place] // 2)
        }


def converter(kind: str) -> Callable[[str], Any]:
    """What turns the cells of a column of that type into values; an empty cell becomes None.

    The converter raises ValueError for a cell of another type.
    """
    if kind in ("str", ""):
        return lambda cell: cell or None
    convert = _CONVERTERS[kind]
    return lambda cell: convert(cell.strip()) if cell and not cell.isspace() else None


def _bool(cell: str) -> bool:
    if cell not in _BOOLS:
        raise ValueError(cell)
    return _BOOLS[cell]


def _time(cell: str) -> datetime:
    # Python 3.10 reads neither Z nor fractions of other than 3 or 6 digits.
    found = _TIME.fullmatch(cell)
    if not found:
        raise ValueError(cell)
    day, minutes, seconds, fraction, utc, hours, more = found.groups()
    if minutes is None:
        return datetime.fromisoformat(day)
    if fraction and not seconds:
        raise ValueError(cell)
    zone = "+00:00" if utc else f"{hours}:{more}" if hours else ""
    return datetime.fromisoformat(
        f"{day}T{minutes}{seconds or ':00'}{(fraction or '.0').ljust(7, '0')}{zone}"
    )


_CONVERTERS: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "bool": _bool,
    "time": _time,
    "time with zone": _time,
}
