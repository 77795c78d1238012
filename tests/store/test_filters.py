"""What a filter lets through, against SQLite, which knows the same three truths; and how filters are written."""

from __future__ import annotations

import math
import sqlite3
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bowerbird.store.filters import (
    And,
    Column,
    Compare,
    Filter,
    In,
    IsNull,
    Like,
    Not,
    Or,
    Words,
    among,
    both,
    columns_of,
    passes,
    to_text,
    words_of,
)
from bowerbird.store.where import parse

FIELDS = pa.schema(
    [
        ("text", pa.string()),
        ("a name, \"so\" 'it' is", pa.string()),
        ("whole", pa.int64()),
        ("real", pa.float64()),
        ("select", pa.float64()),
        ("truth", pa.bool_()),
        ("Time", pa.timestamp("us")),
    ]
)
OPERATORS = ("=", "!=", "<", "<=", ">", ">=")

# Few of each, so that they are equal now and then.
texts = st.text(st.sampled_from("aAbé%_\\'\n \U0001f600"), max_size=4)
wholes = st.sampled_from([-(2**63), -2, 0, 1, 3, 2**53 + 1, 2**63 - 1])
reals = st.sampled_from([-math.pi, -0.0, 0.0, 0.1, 1.0, 3.0, 1e22, 5e-324])
times = st.sampled_from([datetime(1, 1, 1), datetime(2020, 2, 29, 12, 30), datetime(2020, 3, 1, 0, 0, 0, 1)])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "text": texts,
    "a name, \"so\" 'it' is": texts,
    "whole": wholes,
    "real": reals,
    "select": reals,
    "truth": st.booleans(),
    "Time": times,
}
ALIKE = (("text", "a name, \"so\" 'it' is"), ("whole", "real"), ("select", "real"), ("Time", "Time"))
patterns = st.lists(
    st.sampled_from(["a", "A", "é", "%", "_", r"\%", r"\_", r"\\", "\n", "'"]), max_size=4
).map("".join)
rows = st.fixed_dictionaries(
    {
        name: st.none() | values | (st.just(math.nan) if name in ("real", "select") else st.none())
        for name, values in VALUES.items()
    }
)


def conditions(*, everything: bool) -> st.SearchStrategy[Filter]:
    """Conditions on one column; without `everything` those that SQLite knows."""

    def on(name: str) -> st.SearchStrategy[Filter]:
        operators = st.sampled_from(OPERATORS[:2] if name == "truth" else OPERATORS)
        return st.one_of(
            st.builds(
                Compare,
                st.just(name),
                operators,
                VALUES[name].map(
                    lambda value: value + 0.0 if value == 0 and isinstance(value, float) else value
                ),
            ),
            st.builds(
                In,
                st.just(name),
                st.lists(VALUES[name].filter(lambda value: str(value) != "-0.0"), max_size=3).map(tuple),
            ),
            st.just(IsNull(name)),
        )

    pairs = st.sampled_from(ALIKE).flatmap(
        lambda pair: st.builds(
            Compare, st.just(pair[0]), st.sampled_from(OPERATORS), st.just(Column(pair[1]))
        )
    )
    found = st.sampled_from(sorted(VALUES)).flatmap(on) | pairs
    found |= st.builds(Like, st.just("text"), patterns, st.booleans() if everything else st.just(False))
    if everything:
        words = st.lists(st.sampled_from(["red", "hat", "größe", "a_1", "7"]), min_size=1, max_size=3).map(
            tuple
        )
        found |= st.builds(Words, st.just("text"), words)
    return found


def filters(*, everything: bool) -> st.SearchStrategy[Filter]:
    several = st.sampled_from([And, Or])
    return st.recursive(
        conditions(everything=everything) | st.sampled_from([And(()), Or(())]),
        lambda inner: (
            st.builds(Not, inner)
            | st.builds(
                lambda kind, parts: kind(tuple(parts)), several, st.lists(inner, min_size=2, max_size=3)
            )
        ),
        max_leaves=8,
    )


def in_sqlite(filter: Filter, values: list[Any]) -> str:  # noqa: PLR0911  a line for each kind of filter
    """The filter in SQLite's words, with its values as parameters."""

    def put(value: Any) -> str:
        values.append(value.isoformat(" ", "microseconds") if isinstance(value, datetime) else value)
        return "?"

    def name(column: str) -> str:
        return '"' + column.replace('"', '""') + '"'

    match filter:
        case Compare(column, operator, Column(other)):
            return f"{name(column)} {operator} {name(other)}"
        case Compare(column, operator, value):
            return f"{name(column)} {operator} {put(value)}"
        case In(column, some):
            return f"{name(column)} IN ({', '.join(map(put, some))})"
        case IsNull(column):
            return f"{name(column)} IS NULL"
        case Like(column, pattern):
            return f"{name(column)} LIKE {put(pattern)} ESCAPE '\\'"
        case Not(part):
            return f"NOT ({in_sqlite(part, values)})"
        case And(parts):
            return "(" + " AND ".join([f"({in_sqlite(part, values)})" for part in parts] or ["1"]) + ")"
        case Or(parts):
            return "(" + " OR ".join([f"({in_sqlite(part, values)})" for part in parts] or ["0"]) + ")"
    raise AssertionError(filter)


@given(filters(everything=False), st.lists(rows, min_size=1, max_size=4))
def test_a_row_passes_where_it_does_in_sqlite(filter: Filter, table: list[dict[str, Any]]):
    names = [name.replace('"', '""') for name in VALUES]
    types = ["TEXT", "TEXT", "INTEGER", "REAL", "REAL", "INTEGER", "TEXT"]
    database = sqlite3.connect(":memory:")
    database.execute("PRAGMA case_sensitive_like = ON")
    columns = ", ".join(f'"{name}" {type_}' for name, type_ in zip(names, types, strict=True))
    database.execute(f"CREATE TABLE t (n INTEGER, {columns})")
    for number, row in enumerate(table):
        when = row["Time"]
        held = {**row, "Time": when and when.isoformat(" ", "microseconds")}
        database.execute(
            f"INSERT INTO t VALUES ({', '.join('?' * 8)})", (number, *(held[name] for name in VALUES))
        )
    values: list[Any] = []
    found = database.execute(f"SELECT n FROM t WHERE {in_sqlite(filter, values)} ORDER BY n", values)
    assert [number for number, row in enumerate(table) if passes(filter, row)] == [n for (n,) in found]
    database.close()


@given(filters(everything=True))
def test_a_filter_that_is_written_is_read_as_it_was(filter: Filter):
    assert parse(to_text(filter), FIELDS) == filter


@given(filters(everything=True), rows)
def test_only_the_columns_that_are_named_matter(filter: Filter, row: dict[str, Any]):
    named = columns_of(filter)
    assert passes(filter, {name: row[name] for name in named}) == passes(filter, row)
    for name in named:
        with pytest.raises(KeyError, match="gone"):
            passes(Not(IsNull("gone")), {other: row[other] for other in row if other != name})


@pytest.mark.parametrize(
    ("filter", "value", "expected"),
    [
        (Like("c", "a%", ignore_case=True), "ABC", True),
        (Like("c", "É%", ignore_case=True), "école", True),
        (Like("c", "a%"), "ABC", False),
        (Like("c", "a_c"), "a\nc", True),
        (Like("c", "a_c"), "a\U0001f600c", True),
        (Like("c", r"a\c"), r"a\c", True),
        (Like("c", r"50\%"), "50%", True),
        (Like("c", r"50\%"), "501", False),
        (Like("c", ""), "", True),
        (Words("c", ("hat", "red")), "A Red, red HAT!", True),
        (Words("c", ("hat", "red")), "redhat", False),
        (Words("c", ("größe",)), "GRÖSSE? Größe.", True),
        (Words("c", ("red",)), None, False),
        (Not(Words("c", ("red",))), None, False),
        (Not(In("c", ())), None, True),
        (In("c", ()), "x", False),
        (Compare("c", "!=", "x"), None, False),
        (Compare("c", "=", Column("c")), None, False),
        (Compare("c", "=", Column("c")), math.nan, False),
        (Compare("c", ">", 1.0), math.nan, False),
        (Not(Compare("c", ">", 1.0)), math.nan, False),
        (IsNull("c"), math.nan, True),
        (Compare("c", "=", 0.0), -0.0, True),
        (Compare("c", "<", "b"), "Z", True),
        (Compare("c", "<", "\U0001f600"), "\uffff", True),
        (Compare("c", "<", 2**53 + 1), float(2**53), True),
        (Compare("c", "=", datetime(2020, 1, 1)), date(2020, 1, 1), True),
        (
            Compare("c", "=", datetime(2020, 1, 1, 10)),
            datetime(2020, 1, 1, 12, tzinfo=timezone(timedelta(hours=2))),
            True,
        ),
        (In("c", (datetime(2020, 1, 1),)), date(2020, 1, 1), True),
        (None, "anything", True),
    ],
)
def test_cases_that_stores_may_differ_on(filter: Filter | None, value: Any, expected: bool):
    assert passes(filter, {"c": value}) is expected


def test_a_row_without_the_column_is_an_error_rather_than_a_null():
    with pytest.raises(KeyError):
        passes(IsNull("b"), {"a": 1})


def test_making_filters():
    assert among("id", iter(["a", "b"])) == In("id", ("a", "b"))
    one, other = IsNull("a"), IsNull("b")
    assert both(None, None) is None
    assert both(one, None) == both(None, one) == one
    assert both(one, other) == And((one, other))
    assert columns_of(None) == frozenset()
    assert columns_of(Or((Not(one), Compare("c", "<", Column("d"))))) == {"a", "c", "d"}
    assert words_of("Naïve, don't 3x ___") == ["naïve", "don", "t", "3x", "___"]


def test_filters_are_written_for_people():
    whole = And((Compare("price", "<", 100.0), Not(Or((IsNull("brand"), Words("text", ("red", "hat")))))))
    assert to_text(whole) == "price < 100.0 and (not (brand is null or match(text, 'red hat')))"
    assert to_text(In("Brand", ("it's", "b"))) == """"Brand" in ('it''s', 'b')"""
    assert to_text(And((Like("a", "x%", True),))) == "a ilike 'x%'"
