"""Models exported from their original stack, with the proof that the export wrote, held against it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import bowerbird as bb
from bowerbird.judge.golden import FILE_NAME, Golden
from bowerbird.judge.verify import verify

pytest.importorskip("torch")
pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.slow,
    # What the stacks themselves say while they export.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.origin.tiny import build

    from bowerbird.origin.export import export

    folder = tmp_path_factory.mktemp("clip")
    export(str(build("clip", folder / "source")), folder / "model")
    return folder / "model"


def test_an_export_carries_its_proof(clip: Path) -> None:
    report = verify(bb.load(str(clip), precision="exact"))
    assert report.ok
    assert report.reference.path == str(clip / FILE_NAME)
    assert {
        stage.verdict for stage in report.stages if stage.stage in ("decoded", "pixel values", "tokens")
    } == {"exact"}
    through = [stage for stage in report.stages if stage.run == "through"]
    assert len(through) == 2
    assert min(stage.cosine for stage in through) >= 0.999999
    assert max(stage.error for stage in through) <= 1e-4


def test_raw_outputs_are_compared_and_pooled_from(clip: Path) -> None:
    golden = Golden.read(clip / FILE_NAME)
    if golden.pictures[0].raw is None:
        pytest.skip("the export kept no raw outputs")
    wrong = tuple(dataclasses.replace(one, raw=one.raw + np.float32(1)) for one in golden.pictures)
    report = verify(bb.load(str(clip), precision="exact"), Golden(golden.meta, wrong), checks=False)
    assert (report.first.tower, report.first.stage) == ("image", "raw")
