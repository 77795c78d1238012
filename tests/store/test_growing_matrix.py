"""The vectors that a store keeps in memory: what it has read of an earlier version is not read again, and is right."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from bowerbird.store import lance_memory
from bowerbird.store.filters import In
from bowerbird.store.lance import LanceTable
from bowerbird.store.table import VectorColumn, schema

DIM = 8
WITH_VECTORS = 128
"""Of 150 rows."""

COLUMN = VectorColumn("m__v", "v", "image", DIM)


def rows(numbers, seed=0):
    """Rows whose ids are numbers, each with a unit vector; every seventh has none."""
    generator = np.random.default_rng([seed, *numbers][:2])
    vectors = generator.standard_normal((len(numbers), DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    given = [None if number % 7 == 0 else row.tolist() for number, row in zip(numbers, vectors, strict=True)]
    columns = schema((COLUMN,))
    lengths = [None if vector is None else 1.0 for vector in given]
    values = {"id": [f"r{number}" for number in numbers], COLUMN.name: given, COLUMN.norm: lengths}
    arrays = [pa.array(values.get(field.name, [None] * len(numbers)), field.type) for field in columns]
    return pa.Table.from_arrays(arrays, schema=columns)


@pytest.fixture
def read(monkeypatch):
    """How many rows are read of vector columns."""
    numbers = []
    batches = lance_memory.batches

    def counted(*arguments, **keywords):
        for batch in batches(*arguments, **keywords):
            numbers.append(len(batch[0]))
            yield batch

    monkeypatch.setattr(lance_memory, "batches", counted)
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
    assert sum(read) == WITH_VECTORS  # the others cost nothing
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
    some = In("id", tuple(f"r{number}" for number in range(0, 400, 3)))
    for asked in (
        {},
        {"centre": rows([1])[COLUMN.name].combine_chunks().flatten().to_numpy()},
        {"where": some},
    ):
        found = after.nearest(COLUMN.name, vector, 500, columns=["id"], **asked)
        again, expected = sum(read), fresh.nearest(COLUMN.name, vector, 500, columns=["id"], **asked)
        assert found.equals(expected)
        assert again <= {"add": 2, "replace": 2, "delete": 0, "nothing": 0}.get(step, 150) or asked
    # What the one before has read is its own still.
    assert before.nearest(COLUMN.name, vector, 500, columns=["id"]).num_rows == WITH_VECTORS


def test_what_no_record_has_a_vector_of_is_held_in_memory_however_many_there_are(tmp_path, read, monkeypatch):
    """An index of texts under a model for pictures too: its pictures are none, and cost what none cost."""
    table = LanceTable.create(tmp_path / "t.lance", schema((COLUMN,)))
    table.upsert(rows([7 * number for number in range(300)]))
    monkeypatch.setattr(lance_memory, "EXACT_BYTES", 4 * DIM)
    vector = np.full(DIM, DIM**-0.5, np.float32)
    assert not table.nearest(COLUMN.name, vector, 5, columns=["id"]).num_rows
    table.upsert(rows([1]))
    for _ in range(2):
        assert table.nearest(COLUMN.name, vector, 5, columns=["id"])["id"].to_pylist() == ["r1"]
    assert sum(read) == 1
