"""What users write to filter, such as `price < 100 and brand in ('a', 'b')`, made into a `Filter`.

sqlglot reads it; only what `Filter` can say is taken from its tree, and everything is checked against the columns that
there are. Nothing of the text ever reaches a store as text. docs/filters.md is the page for users.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, time
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from bowerbird.errors import QueryError
from bowerbird.store.filters import (
    And,
    Column,
    Compare,
    Filter,
    IsNull,
    Like,
    Not,
    Or,
    Words,
    quoted,
    value_text,
    words_of,
)
from bowerbird.store.grammar import EXAMPLE, MATCH, Node, cut, refuse, too_deep, tree_of
from bowerbird.store.kinds import (
    ALIKE,
    Held,
    Kind,
    Literal,
    compared,
    held,
    one_of,
    refuse_order,
    shown_value,
    time_of,
)

if TYPE_CHECKING:
    import pyarrow as pa

_MIRRORED = {"=": "=", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_LISTED = 20

_OWN = frozenset(("content", "picture", "mtime_ns"))
"""Columns for the index itself: filters may ask for them, and nobody is told to."""


def parse(text: str, fields: pa.Schema) -> Filter | None:
    """The filter that a text stands for; None for one that is empty.

    Args:
        text: a condition in SQL; see docs/filters.md.
        fields: the columns that it may ask for; those with vectors or bytes cannot be asked.

    Raises:
        QueryError: it cannot be read, asks for what filters cannot do, names a column that there is not, or compares a
            column with a value of another kind.
    """
    if not text.strip():
        return None
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise QueryError(
            "The filter holds a character that is not valid Unicode text.",
            hint="Leave it out.",
            param="where",
        )
    try:
        return _Reader(fields).condition(tree_of(text))
    except RecursionError:
        error = too_deep(text)
        error.param = "where"
        raise error from None
    except QueryError as error:
        error.param = "where"
        reserved = _reserved(text, fields)
        if not reserved or 'is written "' in str(error):
            raise
        hint = f"A column that is called like a word of SQL stands in double quotes: {reserved}. {error.hint}"
        raise QueryError(error.message, hint=hint, param="where") from None


_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`""")


def _reserved(text: str, fields: pa.Schema) -> str:
    """The first column that a text names without the double quotes that it needs, within them; empty: there is none."""
    from sqlglot import exp

    names = {name.lower(): name for name in fields.names}
    for word in re.findall(r"\w+", _QUOTED.sub(" ", text)):
        name = names.get(word.lower())
        if name is None:
            continue
        try:
            tree = tree_of(f"{word} = 1")
        except QueryError:
            return _within_quotes(name)
        if not isinstance(tree, exp.EQ) or not isinstance(tree.this, exp.Column):
            return _within_quotes(name)
    return ""


def _within_quotes(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


Operand: TypeAlias = "Held | str | int | float | bool | date"


class _Reader:
    """Makes filters of the tree of one text.

    Args:
        fields: see `parse`.
    """

    def __init__(self, fields: pa.Schema) -> None:
        from sqlglot import exp

        self._fields = fields
        self._names = tuple(fields.names)
        self._conditions: dict[type[Node], Callable[[Any], Filter]] = {
            exp.Paren: lambda node: self.condition(node.this),
            exp.Not: lambda node: Not(self.condition(node.this)),
            exp.And: lambda node: And(self._chain(node)),
            exp.Or: lambda node: Or(self._chain(node)),
            exp.EQ: lambda node: self._compare(node.this, "=", node.expression),
            exp.NEQ: lambda node: self._compare(node.this, "!=", node.expression),
            exp.LT: lambda node: self._compare(node.this, "<", node.expression),
            exp.LTE: lambda node: self._compare(node.this, "<=", node.expression),
            exp.GT: lambda node: self._compare(node.this, ">", node.expression),
            exp.GTE: lambda node: self._compare(node.this, ">=", node.expression),
            exp.Between: self._between,
            exp.In: self._in,
            exp.Is: self._is,
            exp.Like: lambda node: self._like(node, "LIKE"),
            exp.ILike: lambda node: self._like(node, "ILIKE"),
            exp.Glob: lambda node: self._words(node, node.this, node.expression),
            exp.Anonymous: self._function,
            exp.Column: self._truth,
            exp.Boolean: lambda node: And(()) if node.this else Or(()),
        }

    def condition(self, node: Node) -> Filter:
        """What is true, false or unknown of a row."""
        reads = self._conditions.get(type(node))
        if reads is None:
            refuse(node)
        return reads(node)

    def _chain(self, node: Node) -> tuple[Filter, ...]:
        """The parts of `a AND b AND c`, which sqlglot nests to the left; a loop, as there may be thousands."""
        kind, parts = type(node), []
        while type(node) is kind:
            parts.append(node.expression)
            node = node.this
        return tuple(self.condition(part) for part in (node, *reversed(parts)))

    def _compare(self, left: Node, operator: str, right: Node) -> Filter:
        first, second = self._operands(left, right)
        if isinstance(first, Held):
            if isinstance(second, Held):
                return _columns_compared(first, operator, second)
            return compared(first, operator, second)
        if isinstance(second, Held):
            return compared(second, _MIRRORED[operator], first)
        raise QueryError(
            f"The filter compares {shown_value(first)} with {shown_value(second)}, and no column.",
            hint=EXAMPLE,
        )

    def _between(self, node: Node) -> Filter:
        if node.args.get("symmetric"):
            refuse(node, "BETWEEN SYMMETRIC")
        low, high = node.args["low"], node.args["high"]
        return And((self._compare(node.this, ">=", low), self._compare(node.this, "<=", high)))

    def _in(self, node: Node) -> Filter:
        if node.args.get("query") or node.args.get("field") or node.args.get("unnest"):
            refuse(node)
        column = self._column(node.this)
        values: list[Literal] = []
        for part in node.expressions:
            value = self._operands(node.this, part)[1]
            if isinstance(value, Held):
                raise QueryError(
                    f"The list of {quoted(column.name)} holds the column {quoted(value.name)}.",
                    hint=f"Only values can stand in it: {quoted(column.name)} in ({value_text(value.name)}).",
                )
            values.append(value)
        return one_of(column, values)

    def _is(self, node: Node) -> Filter:
        from sqlglot import exp

        wanted = node.expression
        if isinstance(wanted, exp.Null):
            return IsNull(self._column(node.this).name)
        if not isinstance(wanted, exp.Boolean):
            refuse(node)
        column = self._column(node.this)
        # Never unknown: of a null it is false, whichever is asked.
        return And((Not(IsNull(column.name)), compared(column, "=", bool(wanted.this))))

    def _like(self, node: Node, word: str) -> Filter:
        column, pattern = self._text_and_value(node, node.this, node.expression, word)
        if pattern.replace("\\\\", "").replace("\\%", "").replace("\\_", "").count("\\"):
            raise QueryError(
                f"The pattern {shown_value(pattern)} has a \\ before a character that needs none.",
                hint=r"Write \% and \_ for these characters themselves, and \\ for a \.",
            )
        found = Like(column.name, pattern, word == "ILIKE")
        return Not(found) if node.args.get("negate") else found

    def _words(self, node: Node, left: Node, right: Node) -> Filter:
        column, text = self._text_and_value(node, left, right, "MATCH")
        words = words_of(text)
        if not words:
            raise QueryError(
                f"MATCH is given {shown_value(text)}, which has no words.",
                hint=f"Name some, as in: {quoted(column.name)} match 'red hat'.",
            )
        return Words(column.name, tuple(words))

    def _text_and_value(self, node: Node, left: Node, right: Node, word: str) -> tuple[Held, str]:
        column, value = self._column(left), self._operands(left, right)[1]
        if column.kind is not Kind.TEXT:
            raise QueryError(
                f"The column {quoted(column.name)} holds {column.kind.value}, and {word} is for texts.",
                hint=column.example(),
            )
        if isinstance(value, Held):
            refuse(node)
        if not isinstance(value, str):
            raise column.refuse(value)
        return column, value

    def _function(self, node: Node) -> Filter:
        if node.name != MATCH:
            refuse(node)
        if len(node.expressions) != 2:
            raise QueryError("MATCH takes a column and words.", hint="Write match(text, 'red hat').")
        return self._words(node, *node.expressions)

    def _truth(self, node: Node) -> Filter:
        column = self._column(node)
        if column.kind is not Kind.TRUTH:
            raise QueryError(
                f"The column {quoted(column.name)} alone is no condition: it holds {column.kind.value}.",
                hint=column.example(),
            )
        return Compare(column.name, "=", True)

    def _operands(self, left: Node, right: Node) -> tuple[Operand, Operand]:
        """Both sides of a comparison."""
        self._refuse_bare(left, right)
        self._refuse_bare(right, left)
        return self._operand(left), self._operand(right)

    def _operand(self, node: Node) -> Operand:
        from sqlglot import exp

        node = node.unnest()
        if isinstance(node, exp.Column):
            return self._column(node)
        if isinstance(node, exp.Null):
            raise QueryError("A comparison with null is never true.", hint="Write IS NULL, or IS NOT NULL.")
        if isinstance(node, exp.Boolean):
            return bool(node.this)
        if isinstance(node, exp.Cast):
            return _dated(node)
        sign = 1
        while isinstance(node, exp.Neg | exp.Paren):
            sign = -sign if isinstance(node, exp.Neg) else sign
            node = node.this
        if not isinstance(node, exp.Literal) or (sign < 0 and node.is_string):
            self._refuse_value(node)
        return str(node.this) if node.is_string else sign * _number(node.this)

    def _refuse_value(self, node: Node) -> NoReturn:
        from sqlglot import exp

        known = type(node) in self._conditions and not isinstance(node, exp.Func)
        refuse(node, "a condition as a value" if known or isinstance(node, exp.Connector) else "")

    def _refuse_bare(self, node: Node, other: Node) -> None:
        """Refuse a value without its quotes, beside a column that says which it should be."""
        from sqlglot import exp

        node, other = node.unnest(), other.unnest()
        if not isinstance(node, exp.Column | exp.Sub) or not isinstance(other, exp.Column):
            return
        column = self._find(_name(other))
        if column is None or (isinstance(node, exp.Column) and self._find(_name(node)) is not None):
            return
        if isinstance(node, exp.Sub):
            if column.kind in (Kind.TIME, Kind.DAY):
                shown = node.sql().replace(" ", "")
                raise QueryError(f"The date {shown} needs quotes.", hint=column.example())
            return
        name = _name(node).strip("‘’“”„\"'")
        if column.kind in (Kind.WHOLE, Kind.REAL) and name.lower() in ("nan", "inf", "infinity"):
            raise QueryError(f"A filter cannot use {name}: numbers have to be finite.", hint=column.example())
        if column.kind is Kind.TEXT:
            raise QueryError(
                f"There is no column {quoted(name)}.",
                hint=f"Texts stand in single quotes: {quoted(column.name)} = {value_text(name)}. "
                f"{self._near(name)}",
            )

    def _column(self, node: Node) -> Held:
        """The column that is named.

        Raises:
            QueryError: there is none, or filters cannot ask for it.
        """
        from sqlglot import exp

        node = node.unnest()
        if not isinstance(node, exp.Column):
            self._refuse_value(node)
        name = _name(node)
        column = self._find(name)
        if column is None:
            raise QueryError(
                f"There is no column {quoted(name)}.", hint=f"{self._near(name)}{self._columns()}"
            )
        return column

    def _find(self, name: str) -> Held | None:
        """The column of a name, or of one that differs in case alone; None: there is none."""
        lower = name.lower()
        found = [name] if name in self._names else [other for other in self._names if other.lower() == lower]
        if not found:
            return None
        if len(found) > 1:
            raise QueryError(
                f"There are several columns {quoted(name)}: {', '.join(map(quoted, found))}.",
                hint="Write the name as it is, within double quotes.",
            )
        column = held(self._fields.field(self._fields.get_field_index(found[0])))
        if column is None:
            raise QueryError(
                f"The column {quoted(found[0])} cannot be asked for in a filter: it holds no single value.",
                hint=self._columns(),
            )
        return column

    def _near(self, name: str) -> str:
        """A question, where columns have names like this one; else nothing."""
        lower = {other.lower(): other for other in self._askable()}
        near = get_close_matches(name.lower(), lower, n=3)
        return f"Did you mean {' or '.join(quoted(lower[other]) for other in near)}? " if near else ""

    def _columns(self) -> str:
        names = [quoted(name) for name in self._askable()]
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        return f"The columns are {', '.join(names[:_LISTED])}{more}."

    def _askable(self) -> list[str]:
        return [field.name for field in self._fields if held(field) is not None and field.name not in _OWN]


def _columns_compared(first: Held, operator: str, second: Held) -> Filter:
    kinds = {first.kind, second.kind}
    if len(kinds) > 1 and kinds not in ALIKE:
        raise QueryError(
            f"The column {quoted(first.name)} holds {first.kind.value}, and {quoted(second.name)} "
            f"{second.kind.value}.",
            hint="Only columns of the same kind can be compared with each other.",
        )
    if first.kind is Kind.TRUTH:
        refuse_order(first, operator)
    return Compare(first.name, operator, Column(second.name))


def _name(node: Node) -> str:
    """The name of a column; dots that are not quoted belong to it."""
    return ".".join(part.name for part in node.parts)


def _number(text: str) -> int | float:
    try:
        number = int(text) if text.isdecimal() else float(text)
    except ValueError:
        raise QueryError(f"The number {cut(text)} cannot be read.", hint=EXAMPLE) from None
    if number in (float("inf"), float("-inf")):
        raise QueryError(f"The number {cut(text)} is too large.", hint=EXAMPLE)
    return number


def _dated(node: Node) -> date:
    """What `date '...'` and `timestamp '...'` stand for."""
    from sqlglot import exp

    word = node.to.this.name
    if not isinstance(node.this, exp.Literal) or not word.startswith(("DATE", "TIMESTAMP")):
        refuse(node)
    found = time_of(node.this.this) if node.this.is_string else None
    if found is None or (word == "DATE" and isinstance(found, datetime)):
        raise QueryError(
            f"{shown_value(str(node.this.this))} cannot be read as a {'date' if word == 'DATE' else 'time'}.",
            hint="Write date '2024-05-31', or timestamp '2024-05-31 14:30:00'.",
        )
    return found if word == "DATE" or isinstance(found, datetime) else datetime.combine(found, time())
