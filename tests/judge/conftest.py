"""What tests of judgements share."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import bowerbird as bb


@pytest.fixture(scope="session")
def twins(tmp_path_factory: pytest.TempPathFactory, private_places: Path) -> bb.Index:
    """The photographs under two models of one name: mini, and the same with another interpolation."""
    home = tmp_path_factory.mktemp("twins")
    for place, resample in (("one", 3), ("other", 2)):
        shutil.copytree(Path(bb.__file__).parent / "models" / "mini", home / place / "own")
        path = home / place / "own" / "preprocessor_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "resample": resample}))
    made = bb.Index.create(
        home / "photos.bower", [bb.load(home / place / "own") for place in ("one", "other")]
    )
    made.add(bb.samples())
    return made
