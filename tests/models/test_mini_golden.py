"""The embedded model against the published networks it was built from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bowerbird as bb

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT.parent / "shared" / "golden" / "mini.npz"
pytestmark = pytest.mark.skipif(not GOLDEN.is_file(), reason=f"{GOLDEN} is not on this machine")


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def files(golden):
    return [GOLDEN.parents[1] / name for name in golden["image_files"]]


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def exact(request, private_places):
    return bb.load("mini", engine=request.param, precision="exact")


def cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    theirs = theirs / np.linalg.norm(theirs, axis=1, keepdims=True)
    return (ours * theirs).sum(1)


def test_crops_from_files_bit_for_bit(golden, files, exact):
    for path, crop in zip(files, golden["crops"], strict=True):
        assert np.array_equal(exact.image.pixels(exact.image.open(path)), crop), path.name


def test_texts(golden, exact):
    texts = [str(text) for text in golden["texts"]]
    assert "" in texts
    found = cosines(exact.embed(texts), golden["text_embeddings"])
    assert found.min() >= 0.99999, texts[found.argmin()]


def test_features(golden, files, exact):
    assert cosines(exact.embed(files, output="features"), golden["features"]).min() >= 0.9999


def test_lengths_before_scaling(golden, files, exact):
    outcomes = exact.outcomes(files, output="features")
    raw = np.stack([outcome.vector * outcome.norm for outcome in outcomes])
    error = np.abs(raw - golden["features"]).max() / np.abs(golden["features"]).max()
    assert error < 0.01  # weights are rounded to fp16


def test_the_space_shared_with_texts(golden, files, exact):
    """A picture's vector is the mean of class sentences, weighted by its own logits: it must follow them."""
    logits = golden["logits"]
    vectors = exact.embed(files)
    weights = np.exp((logits - logits.max(1, keepdims=True)) / 2.5)
    weights /= weights.sum(1, keepdims=True)
    similar, expected = vectors @ vectors.T, weights @ weights.T
    off = ~np.eye(len(files), dtype=bool)
    assert np.corrcoef(similar[off], expected[off])[0, 1] > 0.3


def test_auto_decodes_large_photographs_smaller_and_says_so(model, files):
    model.embed(files[:1])
    assert model.numerics()["image"]["scaled"] >= 2
    assert bb.load("mini", precision="exact").image.decode.scaled is None


@pytest.mark.slow
def test_the_fp32_export_before_rounding(golden, tmp_path):
    """Needs the wheels that mini is built from, and a Python with torch and onnx to build it with."""
    wheels, python = os.environ.get("MINI_WHEELS", ""), os.environ.get("MINI_PYTHON", sys.executable)
    if not wheels:
        pytest.skip("MINI_WHEELS does not name the folder of the wheels that mini is built from")
    if subprocess.run([python, "-c", "import torch, onnx"], capture_output=True, check=False).returncode:
        pytest.skip("MINI_PYTHON, or this Python, has no torch or no onnx")
    tool = [python, str(ROOT / "tools" / "build_mini.py"), "--wheels", wheels, "--fp32", "-o", str(tmp_path)]
    subprocess.run(tool, check=True, timeout=300)
    from bowerbird.models.network.engine import open_engine

    (graph,) = tmp_path.rglob("vision_model.onnx")
    engine = open_engine("onnxruntime", graph)
    pixels = (golden["crops"].astype(np.float32).transpose(0, 3, 1, 2) - 127) / 128
    for name, array in zip(
        ("features", "logits"), engine.run({"pixel_values": pixels}, ("features", "logits")), strict=True
    ):
        assert np.abs(array - golden[name]).max() / np.abs(golden[name]).max() <= 1e-4, name
