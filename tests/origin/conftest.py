"""Tiny models and their exports, each made once in a run."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from bowerbird.origin.export import Exported, export


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The builders of `tiny.py`; it is a module beside the tests, not a package that could be imported."""
    spec = importlib.util.spec_from_file_location("bowerbird_tests_tiny", Path(__file__).with_name("tiny.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def built(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a tiny model of a family, as its own stack has written it."""
    base = tmp_path_factory.mktemp("originals")

    def build(family: str) -> Path:
        directory = base / family
        return directory if directory.exists() else tiny.build(family, directory)

    return build


@pytest.fixture(scope="session")
def exported(
    built: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Exported]:
    """The export of a tiny model of a family."""
    base = tmp_path_factory.mktemp("exports")
    done: dict[str, Exported] = {}

    def run(family: str) -> Exported:
        if family not in done:
            done[family] = export(str(built(family)), base / family)
        return done[family]

    return run
