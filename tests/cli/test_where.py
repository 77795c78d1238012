"""`--where` on the command line: what it finds, and what is said of one that cannot be asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Command

ROWS = """name_of,caption,price,in_stock,bought
hat,a red hat,9.5,true,2020-12-31
scarf,a blue scarf,40,false,2020-01-01
coat,a long black coat,100,,
"""


@pytest.fixture
def indexed(run: Command, tmp_path: Path) -> Path:
    """An index of a few lines of a table."""
    (tmp_path / "shop.csv").write_text(ROWS)
    index = tmp_path / "shop.bower"
    run("index", tmp_path / "shop.csv", "--text", "caption", "--index", index)
    return index


FOUND = {
    "price < 100": {"hat", "scarf"},
    "price >= 40 and text match 'coat'": {"coat"},
    "in_stock is null or name_of in ('hat')": {"hat", "coat"},
}
REFUSED = {
    "prize < 5": "Did you mean price",
    "price < 'abc'": "price holds numbers, and 'abc' is a text.",
    "name_of = hat": "name_of = 'hat'",
    "price <": "'price <' cannot be read",
    "price = 1; drop table x": "semicolon",
    "(" * 3000: "too many parentheses",
}


@pytest.mark.slow
def test_what_passes_is_found(run: Command, indexed: Path):
    for where, expected in FOUND.items():
        said = run("search", "something to wear", "--index", indexed, "--where", where, "--json").out
        assert {name for name in ("hat", "scarf", "coat") if f'"{name}"' in said} == expected, where


@pytest.mark.slow
def test_what_cannot_be_asked_is_said_in_a_line(run: Command, indexed: Path):
    for where, said in REFUSED.items():
        failed = run("search", "a hat", "--index", indexed, "--where", where, code=2)
        assert said in failed.err.replace("\n", " "), where
        assert failed.out == ""
