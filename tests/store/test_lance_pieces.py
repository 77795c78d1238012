"""Rows written by several workers become visible together, each once."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("lance_ray", reason="needs lance-ray")

from bowerbird.errors import MissingExtraError, SpaceMismatchError, StoreError
from bowerbird.store.lance import LanceTable
from bowerbird.store.lance_pieces import commit_pieces, write_piece

# Importing lance-ray imports Ray, which warns of its own settings.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SCHEMA = pa.schema([pa.field("id", pa.string(), nullable=False), ("v", pa.list_(pa.float32(), 4))])


def rows(*ids: str) -> pa.Table:
    vectors = np.arange(4 * len(ids), dtype=np.float32)
    return pa.table(
        {"id": list(ids), "v": pa.FixedSizeListArray.from_arrays(pa.array(vectors), 4)}, schema=SCHEMA
    )


@pytest.fixture
def table(tmp_path: Path) -> LanceTable:
    return LanceTable.create(tmp_path / "records.table", SCHEMA)


def ids(place: str) -> list[str]:
    return [id_ for batch in LanceTable.open(place).scan(["id"]) for id_ in batch["id"].to_pylist()]


def test_pieces_appear_together_and_in_order(table, tmp_path):
    place = str(tmp_path / "records.table")
    with ThreadPoolExecutor(4) as pool:
        pieces = list(
            pool.map(lambda n: write_piece(place, SCHEMA, rows(*f"{n}a {n}b {n}c".split())), range(8))
        )
    assert all(isinstance(piece, bytes) and len(piece) < 1000 for piece in pieces)
    assert ids(place) == []
    version = commit_pieces(place, pieces, table.version)
    assert version == table.version + 1 == LanceTable.open(place).version
    assert ids(place) == [f"{n}{letter}" for n in range(8) for letter in "abc"]


def test_a_piece_is_committed_once(table, tmp_path):
    place = str(tmp_path / "records.table")
    one, two = (write_piece(place, SCHEMA, rows(id_)) for id_ in "ab")
    first = commit_pieces(place, [one, one], table.version)
    assert commit_pieces(place, [one], table.version) == first
    commit_pieces(place, [one, two], table.version)
    assert ids(place) == ["a", "b"]


def test_nothing_to_write(table, tmp_path):
    place = str(tmp_path / "records.table")
    empty = write_piece(place, SCHEMA, rows())
    assert commit_pieces(place, [empty], table.version) == table.version
    assert commit_pieces(place, [], table.version) == table.version


def test_what_others_did_meanwhile_stays(table, tmp_path):
    place = str(tmp_path / "records.table")
    table.upsert(rows("kept", "changed", "deleted"))
    version = table.version
    piece = write_piece(place, SCHEMA, rows("new"))
    other = LanceTable.open(place)
    other.upsert(rows("changed", "added"))
    other.delete(["deleted"])
    commit_pieces(place, [piece], version)
    assert sorted(ids(place)) == ["added", "changed", "kept", "new"]


def test_committed_rows_can_be_changed_and_deleted_like_others(table, tmp_path):
    import lance

    place = str(tmp_path / "records.table")
    commit_pieces(place, [write_piece(place, SCHEMA, rows("a", "b", "c", "d"))], table.version)
    table.refresh()
    table.upsert(rows("a"), remove=["b"])
    dataset = lance.dataset(place)
    for column, id_ in (("_rowid", "c"), ("_rowaddr", "d")):
        found = dataset.scanner(
            columns=["id"], filter=f"id = '{id_}'", with_row_id=True, with_row_address=True
        ).to_table()
        dataset.delete(f"{column} = {found[column][0].as_py()}")
    assert ids(place) == ["a"]


def test_a_table_made_anew_is_not_appended_to(table, tmp_path):
    import lance

    place = str(tmp_path / "records.table")
    version = table.version
    piece = write_piece(place, SCHEMA, rows("old"))
    lance.write_dataset(rows("x"), place, mode="overwrite")
    with pytest.raises(StoreError, match="made anew"):
        commit_pieces(place, [piece], version)
    assert ids(place) == ["x"]


@pytest.mark.parametrize(
    "wrong",
    [pa.table({"id": ["a"]}), pa.table({"id": [1], "v": rows("a")["v"]}), rows("a").select(["v", "id"])],
    ids=["lacks a column", "another type", "another order"],
)
def test_rows_of_other_columns_are_refused(table, tmp_path, wrong):
    with pytest.raises(SpaceMismatchError, match="not of its columns"):
        write_piece(str(tmp_path / "records.table"), SCHEMA, wrong)


def test_without_lance_ray_the_error_names_what_to_install():
    script = """
import sys
sys.modules["lance_ray"] = None
from bowerbird.errors import MissingExtraError
from bowerbird.store import lance_pieces
import pyarrow as pa
schema = pa.schema([("id", pa.string())])
try:
    lance_pieces.write_piece("nowhere", schema, pa.table({"id": ["a"]}, schema=schema))
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == str(MissingExtraError("lance-ray", "ray"))
