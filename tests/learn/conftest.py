"""Drawn pictures and their vectors under the embedded model, made once in a run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from tests.learn.drawn import write

import bowerbird as bb
from bowerbird.learn.examples import Examples
from bowerbird.learn.features import embed
from bowerbird.learn.pairs import read_examples
from bowerbird.learn.towers import Towers, towers_of

LEARNED = 80
"""Of the drawn pictures; the other 40 are to choose by."""


@pytest.fixture(autouse=True)
def _as_many_threads_as_at_first() -> None:
    """umap, which other tests use in this process, gives PyTorch another number of threads, and with it other sums."""
    if (torch := sys.modules.get("torch")) and (wanted := os.environ.get("OMP_NUM_THREADS")):
        torch.set_num_threads(int(wanted))


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 120 drawn pictures with two captions each."""
    return write(tmp_path_factory.mktemp("drawn"), captions=2)


@pytest.fixture(scope="session")
def towers(model: bb.Encoder) -> Towers:
    """Those of the embedded model."""
    return towers_of(model, model)


@pytest.fixture(scope="session")
def embedded(drawn: Path, model: bb.Encoder, towers: Towers) -> Examples:
    """The drawn pictures with their vectors."""
    images = (towers.shared, towers.best, towers.logits)
    return embed(read_examples(drawn).examples, model, model, images, (towers.text,)).examples


@pytest.fixture(scope="session")
def by_shape(drawn: Path, model: bb.Encoder, towers: Towers) -> Examples:
    """The same with the shape as the class."""
    of = read_examples(drawn, labels="shape").examples
    return embed(of, model, model, (towers.shared, towers.best, towers.logits), (towers.text,)).examples
