"""The vectors that a store keeps in memory: what it has read of an earlier version is not read again, and is right."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from bowerbird.store import lance_search
from bowerbird.store.lance import LanceTable
from bowerbird.store.table import VectorColumn, schema

DIM = 8
COLUMN = VectorColumn("m__v", "v", "image", DIM)


def rows(numbers, seed=0):
    """Rows whose ids are numbers, each with a unit vector; every seventh has none."""
    generator = np.random.default_rng([seed, *numbers][:2])
    vectors = generator.standard_normal((len(numbers), DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    given = [None if number % 7 == 0 else row.tolist() for number, row in zip(numbers, vectors, strict=True)]
    columns = schema((COLUMN,))
    values = {"id": [f"r{number}" for number in numbers], COLUMN.name: given}
    arrays = [pa.array(values.get(field.name, [None] * len(numbers)), field.type) for field in columns]
    return pa.Table.from_arrays(arrays, schema=columns)


@pytest.fixture
def read(monkeypatch):
    """How many rows are read of vector columns."""
    numbers = []
    batches = lance_search._batches

    def counted(*arguments, **keywords):
        for batch in batches(*arguments, **keywords):
            numbers.append(len(batch[0]))
            yield batch

    monkeypatch.setattr(lance_search, "_batches", counted)
    return numbers


@pytest.mark.parametrize("step", ["add", "replace", "delete", "compact", "column", "nothing"])
def test_what_came_since_is_read_and_the_rest_kept(tmp_path, read, step):
    place = tmp_path / "t.lance"
    table = LanceTable.create(place, schema((COLUMN,)))
    for start in (0, 50, 100):
        table.upsert(rows(range(start, start + 50)))
    vector = np.full(DIM, DIM**-0.5, np.float32)
    before = LanceTable.open(place)
    before.nearest(COLUMN.name, vector, 5, columns=["id"])
    assert sum(read) == 150
    if step == "add":
        table.upsert(rows([200, 201]))
    elif step == "replace":
        table.upsert(rows([3, 60], seed=9))
    elif step == "delete":
        table.delete(["r4", "r149"])
    elif step == "compact":
        table.upsert(rows([3], seed=9))
        table._dataset.optimize.compact_files()
        table.upsert(rows([300]))
    elif step == "column":
        table.extend([pa.field("price", pa.int64())])
    after, fresh = LanceTable.open(place), LanceTable.open(place)
    after.take_over(before)
    read.clear()
    found = after.nearest(COLUMN.name, vector, 500, columns=["id"])
    again = sum(read)
    expected = fresh.nearest(COLUMN.name, vector, 500, columns=["id"])
    assert found.equals(expected)
    assert again <= {"add": 2, "replace": 102, "delete": 100, "nothing": 0}.get(step, 200)
    # What the one before has read is its own still.
    assert before.nearest(COLUMN.name, vector, 500, columns=["id"]).num_rows == 128
