"""Cross-encoders of the hub: pulled once, pinned, and asked without the network. The client is the real one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import huggingface_hub
import pytest
from tests.models.overlap import write_overlap_model

import bowerbird as bb
from bowerbird.errors import ModelNotFoundError

sys.path.insert(0, str(Path(__file__).parent))  # Test folders are no packages.
import hub_server

NAME = "field/judge"


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A hub with a cross-encoder, and places of its own for what comes from it."""
    for name in [name for name in os.environ if name.upper().endswith("_PROXY") or name.startswith("HF_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("BOWERBIRD_DATA_DIR", str(tmp_path / "data"))
    huggingface_hub.close_session()
    directory = write_overlap_model(tmp_path / "original", ["red", "dress", "shoe"])
    files = {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }
    with hub_server.running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        server.publish(NAME, {**files, "pytorch_model.bin": b"not wanted", "onnx/model_O3.onnx": b"nor this"})
        server.publish("field/weights", {"config.json": b"{}", "model.safetensors": b"weights"})
        yield server
    huggingface_hub.close_session()


def test_a_cross_encoder_is_pulled_and_pinned(published, tmp_path, monkeypatch):
    model = bb.CrossEncoder.load(NAME)
    assert model.scores([("red dress", "a red dress")])[0] > model.scores([("red dress", "a shoe")])[0]
    name, _, commit = model.name.partition("@")
    assert name == NAME
    assert len(commit) == 12
    assert not list((tmp_path / "hf").rglob("*.bin"))
    assert not list((tmp_path / "hf").rglob("*O3*"))
    before = len(published.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    again = bb.CrossEncoder.load(f"{NAME}@main")
    assert (again.name, again.space) == (model.name, model.space)
    assert len(published.requests) == before


def test_weights_without_a_graph(published):
    with pytest.raises(ModelNotFoundError, match="no ONNX graph"):
        bb.CrossEncoder.load("field/weights")
