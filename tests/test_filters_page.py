"""docs/filters.md: every filter on the page finds the records of the page's table that it says."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bowerbird.store.filters import passes, to_text
from bowerbird.store.where import parse

PAGE = (Path(__file__).parents[1] / "docs" / "filters.md").read_text("utf-8")
FIELDS = pa.schema(
    [
        ("id", pa.string()),
        ("brand", pa.string()),
        ("price", pa.float64()),
        ("in_stock", pa.bool_()),
        ("taken_at", pa.timestamp("s")),
        ("text", pa.string()),
        ("sold as", pa.string()),
    ]
)
LINES = [line for block in re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


def rows() -> list[dict[str, Any]]:
    """The page's table."""
    cells = [
        [cell.strip() for cell in line.strip("|\n").split("|")]
        for line in re.findall(r"^\|.*\|$", PAGE, re.MULTILINE)
    ]
    names, _, *values = cells
    assert names == FIELDS.names
    reads = {"price": float, "in_stock": "true".__eq__, "taken_at": datetime.fromisoformat}
    return [
        {name: reads.get(name, str)(cell) if cell else None for name, cell in zip(names, row, strict=True)}
        for row in values
    ]


@pytest.mark.parametrize("line", LINES)
def test_a_filter_finds_what_the_page_says(line: str):
    text, _, said = line.rpartition("--")
    found = parse(text, FIELDS)
    assert found is not None
    passed = [row["id"] for row in rows() if passes(found, row)]
    assert passed == said.replace(" ", "").split(",")
    assert 0 < len(passed) < len(rows())
    assert parse(to_text(found), FIELDS) == found


def test_the_page_has_filters():
    assert len(LINES) > 25
    assert len(rows()) == 4
