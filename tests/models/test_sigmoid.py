"""SigLIP's own scale and bias: where they are read from, and that they are no part of a space."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bowerbird.errors import ModelFormatError
from bowerbird.models.directory import read_card
from bowerbird.models.hub.fetch import locate

SCALE = np.asarray([math.log(117.33)], np.float32)
BIAS = np.asarray([-12.93], np.float32)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A model of two towers."""
    shutil.copytree(locate("mini").directory, tmp_path / "model")
    return tmp_path / "model"


def note(directory: Path, **more: object) -> None:
    path = directory / "bowerbird.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def test_a_directory_says_it(directory):
    before = read_card(str(directory))
    note(directory, sigmoid=[117.33, -12.93])
    card = read_card(str(directory))
    assert before.sigmoid is None
    assert card.sigmoid == (117.33, -12.93)
    assert card.space == before.space
    assert pickle.loads(pickle.dumps(card)) == card


@pytest.mark.parametrize(
    "said", [None, 3, "10,-10", [], [1], [1, 2, 3], [True, 1], ["1", 2], [0, 1], [-1, 1], [1e999, 1]]
)
def test_what_is_no_scale_and_bias(directory, said):
    note(directory, sigmoid=said)
    with pytest.raises(ModelFormatError, match=r"bowerbird\.json: sigmoid .* is not understood"):
        read_card(str(directory))


@pytest.mark.parametrize("name", ["model.safetensors", "open_clip_model.safetensors"])
def test_a_checkpoint_beside_the_graphs_says_it(directory, name):
    tensors = {"logit_scale": SCALE, "logit_bias": BIAS, "weight": np.zeros((4, 4), np.float32)}
    save_file(tensors, directory / name)
    assert read_card(str(directory)).sigmoid is None, "it is no SigLIP"
    note_as_siglip(directory, name)
    assert read_card(str(directory)).sigmoid == pytest.approx((117.33, -12.93), rel=1e-6)
    # Of cut vectors the checkpoint says nothing.
    from bowerbird.models.card import Options

    assert read_card(str(directory), Options(dimensions=64)).sigmoid is None
    note(directory, sigmoid=[10, -1])
    assert read_card(str(directory)).sigmoid == (10.0, -1.0), "what is written by hand comes first"


def note_as_siglip(directory: Path, name: str) -> None:
    if name.startswith("open_clip"):
        config = {"model_cfg": {"init_logit_bias": -10}, "preprocess_cfg": {}}
        (directory / "open_clip_config.json").write_text(json.dumps(config))
    else:
        path = directory / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "siglip"}))


def test_checkpoints_without_them_and_damaged_ones(directory):
    note_as_siglip(directory, "model.safetensors")
    save_file({"logit_scale": SCALE}, directory / "model.safetensors")
    assert read_card(str(directory)).sigmoid is None
    (directory / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelFormatError, match=r"logit_scale and logit_bias of .* cannot be read"):
        read_card(str(directory))
