"""Tiny models of every stack, and pictures to tune them on; each made once in a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.learn.finetune import stripes
from tests.origin import tiny


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The directory of a tiny model of a family of `tests/origin/tiny.py`, of random weights."""
    base = tmp_path_factory.mktemp("sources")

    def build(family: str) -> str:
        directory = base / family
        return str(directory if directory.exists() else tiny.build(family, directory))

    return build


@pytest.fixture(scope="session")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of pictures of stripes with captions."""
    return stripes.pairs(tmp_path_factory.mktemp("captioned") / "pictures")


@pytest.fixture(scope="session")
def classed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of two classes."""
    return stripes.classes(tmp_path_factory.mktemp("classed"))
