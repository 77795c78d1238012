"""Every example in a docstring of collections runs, and says what it says."""

from __future__ import annotations

import doctest
import importlib.util
from pathlib import Path

import pytest

import bowerbird as bb
from bowerbird.collection import collection, opening, pipelines, samples

MODULES = (collection, opening, pipelines, samples)
# Examples that need another package say so.
PACKAGES = {"PANDAS": "pandas", "POLARS": "polars"}
FLAGS = {doctest.register_optionflag(name): package for name, package in PACKAGES.items()}

EXAMPLES = [
    example
    for module in MODULES
    for example in doctest.DocTestFinder(exclude_empty=True).find(module, module.__name__)
    if example.examples
]


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.name for example in EXAMPLES])
def test_examples_run_as_they_are_written(example: doctest.DocTest, tmp_path: Path):
    for flag, package in FLAGS.items():
        if any(flag in line.options for line in example.examples) and not importlib.util.find_spec(package):
            pytest.skip(f"{package} is not installed")
    example.globs.update(
        Collection=bb.Collection, Record=bb.Record, Local=bb.Local, samples=bb.samples, tmp=tmp_path
    )
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example)
    assert results.failed == 0


def test_every_public_method_has_an_example():
    shown = {example.name.rsplit(".", 1)[-1] for example in EXAMPLES}
    public = {name for name in dir(bb.Collection) if not name.startswith("_")}
    assert public - shown - {"executor", "plan"} == set()
