"""Elements as Arrow tables: nothing is lost, whatever comes late."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bowerbird.errors import RowError
from bowerbird.flow.sinks.arrow import to_arrow
from bowerbird.flow.sinks.widening import MisfitError, as_text, fit, text_of, unify
from bowerbird.hits import Hits
from bowerbird.record import Failure, Record

ONES = np.ones(3, np.float32)


def column(values: list[object]) -> tuple[pa.DataType, list[object]]:
    table = to_arrow([{"x": value} for value in values])
    return table.schema.field("x").type, table["x"].to_pylist()


def test_a_record():
    hits = Hits(["a", "b"], np.array([0.5, 0.25], np.float32), "scale", ["a", "b"])
    record = Record(
        "17",
        Path("photos/a.jpg"),
        ("one", "two"),
        {"price": 3, "id": 99, "vector:image": "odd", "attribute:x": True},
        {"image": ONES, "text": np.stack([ONES, 2 * ONES])},
        {"image": np.float32(2), "text": np.array([1, 2], np.float32)},
        "f00",
        hits=hits,
    )
    table = to_arrow([record])
    assert table.to_pylist() == [
        {
            "id": "17",
            "image": os.path.abspath("photos/a.jpg"),
            "texts": ["one", "two"],
            "content": "f00",
            "price": 3,
            "attribute:id": 99,
            "attribute:vector:image": "odd",
            "attribute:attribute:x": True,
            "vector:image": [1, 1, 1],
            "vector:text": [[1, 1, 1], [2, 2, 2]],
            "norm:image": 2,
            "norm:text": [1, 2],
            "ids": ["a", "b"],
            "scores": [0.5, 0.25],
        }
    ]
    assert table.schema.field("vector:image").type == pa.list_(pa.float32(), 3)
    assert table.schema.field("vector:text").type == pa.list_(pa.list_(pa.float32(), 3))
    assert table.schema.field("norm:image").type == pa.float32()


def test_parts_that_no_record_has_keep_their_types():
    table = to_arrow([Record("a"), Record("b")])
    assert table.schema.types == [pa.string(), pa.string(), pa.list_(pa.string()), pa.string()]
    assert to_arrow([]).num_rows == 0
    assert to_arrow([{}, {}]).num_rows == 2


class Stored:
    def read(self, policy: object) -> bytes:
        return b""

    def __str__(self) -> str:
        return "s3://bucket/a.jpg"


def test_pictures():
    given_pictures = [
        Path(os.fsdecode(b"/tmp/\xff.jpg")),
        Stored(),
        b"bytes",
        Image.new("RGB", (2, 2)),
        np.zeros((2, 2, 3), np.uint8),
        None,
    ]
    table = to_arrow([Record(str(n), picture) for n, picture in enumerate(given_pictures)])
    assert table["image"].to_pylist() == ["file:///tmp/%FF.jpg", "s3://bucket/a.jpg", None, None, None, None]
    assert table["image_bytes"].to_pylist() == [None, None, b"bytes", None, None, None]


def test_other_elements_and_failures():
    failure = Failure("x", "map", RowError("broken"))
    assert to_arrow([1, failure, 2]).to_pylist() == [{"value": 1}, {"value": 2}]
    assert to_arrow([{"a": 1}, failure, {"b": "x"}, {}]).to_pylist() == [
        {"a": 1, "b": None},
        {"a": None, "b": "x"},
        {"a": None, "b": None},
    ]
    assert to_arrow([ONES])["value"].type == pa.list_(pa.float32(), 3)


NOON = dt.datetime(2020, 5, 17, 12)
HERE = dt.timezone(dt.timedelta(hours=2))


@pytest.mark.parametrize(
    ("values", "type_", "expected"),
    [
        ([1, None, 2], pa.int64(), None),
        ([1, 2.5], pa.float64(), [1.0, 2.5]),
        ([1, "x"], pa.string(), ["1", "x"]),
        ([2**53 + 1, 0.5], pa.string(), ["9007199254740993", "0.5"]),
        ([2**70, 1], pa.string(), [str(2**70), "1"]),
        ([True, None], pa.bool_(), None),
        ([True, 1], pa.string(), ["true", "1"]),
        ([np.float32(0.5), 1], pa.float64(), None),
        ([np.int32(5), 2**40], pa.int64(), None),
        ([b"x", None], pa.binary(), None),
        ([NOON, NOON.date()], pa.timestamp("us"), [NOON, dt.datetime(2020, 5, 17)]),
        ([NOON, NOON.replace(tzinfo=HERE)], pa.string(), [NOON.isoformat(), NOON.isoformat() + "+02:00"]),
        ([[1], [2.5, None], None], pa.list_(pa.float64()), [[1.0], [2.5, None], None]),
        ([["a"], "b"], pa.string(), ['["a"]', "b"]),
        ([[[1]], []], pa.list_(pa.list_(pa.int64())), None),
        ([{"b": [1], "a": None}], pa.string(), ['{"b": [1], "a": null}']),
        ([Path("x")], pa.string(), ["x"]),
        (["\ud800", "\udcff", "ok"], pa.string(), ["\\ud800", "\\xff", "ok"]),
        ([ONES, None], pa.list_(pa.float32(), 3), [[1, 1, 1], None]),
        ([ONES, ONES[:2]], pa.list_(pa.float32()), [[1, 1, 1], [1, 1]]),
        ([ONES.astype(np.float16)], pa.list_(pa.float32(), 3), [[1, 1, 1]]),
        ([np.arange(3)], pa.list_(pa.int64()), [[0, 1, 2]]),
    ],
)
def test_types(values, type_, expected):
    found, kept = column(values)
    assert found == type_
    assert kept == (values if expected is None else expected)


def test_instants_keep_their_time():
    _, kept = column([NOON.replace(tzinfo=HERE)])
    assert kept == [NOON.replace(tzinfo=HERE)]


def test_one_record_with_several_texts_among_others():
    rows = [
        Record("a", vectors={"text": ONES}, norms={"text": 1.0}),
        Record("b"),
        Record("c", vectors={"text": np.stack([ONES, ONES])}, norms={"text": np.ones(2, np.float32)}),
    ]
    together = to_arrow(rows)
    assert together["vector:text"].to_pylist() == [[[1, 1, 1]], None, [[1, 1, 1]] * 2]
    # And the same when they come one after the other.
    tables = [to_arrow([row]) for row in rows]
    schema = tables[0].schema
    for table in tables[1:]:
        schema = unify(schema, table.schema)
    assert pa.concat_tables([fit(table, schema) for table in tables]).to_pylist() == together.to_pylist()


def test_a_misfit_names_its_column():
    large, half = to_arrow([{"x": 2**60 + 1}]), to_arrow([{"x": 0.5}])
    schema = unify(large.schema, half.schema)
    with pytest.raises(MisfitError) as caught:
        fit(large, schema)
    assert caught.value.column == "x"
    assert fit(large, as_text(schema, "x"))["x"].to_pylist() == [str(2**60 + 1)]


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.dates()
    | st.datetimes()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


def comparable(kept: object, value: object) -> bool:
    """Whether what came back still says what was put in."""
    if isinstance(value, list) and isinstance(kept, list):
        return len(kept) == len(value) and all(map(comparable, kept, value))
    if isinstance(kept, str):
        return kept == text_of(value)
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime) and isinstance(kept, dt.datetime):
        return kept == dt.datetime(value.year, value.month, value.day)
    return kept == value and isinstance(kept, bool) == isinstance(value, bool)


@settings(max_examples=300, deadline=None)
@given(st.lists(values, min_size=1, max_size=6))
def test_no_value_is_lost_in_one_table(items):
    _, kept = column(items)
    assert len(kept) == len(items)
    assert all(map(comparable, kept, items)), kept


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(scalars, min_size=1, max_size=3), min_size=2, max_size=4))
def test_no_value_is_lost_over_many(chunks):
    tables = [to_arrow([{"x": value} for value in chunk]) for chunk in chunks]
    schema = tables[0].schema
    for table in tables[1:]:
        schema = unify(schema, table.schema)
    try:
        fitted = [fit(table, schema) for table in tables]
    except MisfitError as misfit:
        fitted = [fit(table, as_text(schema, misfit.column)) for table in tables]
    kept = pa.concat_tables(fitted)["x"].to_pylist()
    for back, value in zip(kept, itertools.chain(*chunks), strict=True):
        if isinstance(back, str) and isinstance(value, float):
            assert json.loads(back) == value
        elif isinstance(back, str) and isinstance(value, dt.date):
            assert dt.datetime.fromisoformat(back) == dt.datetime.fromisoformat(value.isoformat())
        elif isinstance(back, str) and isinstance(value, int) and not isinstance(value, bool):
            assert float(back) == value or int(back) == value
        else:
            assert comparable(back, value)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.none() | st.lists(st.floats(width=32), min_size=2, max_size=4), min_size=1, max_size=5))
def test_vectors_come_back_bit_for_bit(vectors):
    rows = [{} if v is None else {"image": np.array(v, np.float32)} for v in vectors]
    table = to_arrow([Record(str(n), vectors=row) for n, row in enumerate(rows)])
    if "vector:image" not in table.column_names:
        assert not any(rows)
        return
    for cell, row in zip(table["vector:image"], rows, strict=True):
        if row:
            assert cell.values.to_numpy().tobytes() == row["image"].tobytes()
        else:
            assert not cell.is_valid
