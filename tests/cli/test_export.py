"""`bowerbird export` and `bowerbird golden`."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from bowerbird.judge.golden import Golden
from bowerbird.origin.packages import has

needs_stack = pytest.mark.skipif(
    not all(map(has, ("torch", "transformers", "onnxscript"))), reason="the extra `export` is not installed"
)


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> Path:
    path = Path(__file__).resolve().parents[1] / "origin" / "tiny.py"
    spec = importlib.util.spec_from_file_location("bowerbird_tests_tiny", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build("vit", tmp_path_factory.mktemp("originals") / "vit")


@needs_stack
@pytest.mark.slow
def test_export_then_verify(run, vit, tmp_path):
    done = run("export", vit, "out", "--json")
    report = json.loads(done.out)
    assert report["stack"] == "transformers"
    assert [output["output"] for output in report["outputs"]] == ["logits", "pooler_output"]
    assert all(output["cosine"] >= 0.999999 for output in report["outputs"])
    assert done.err == ""
    run("verify", "out")
    again = run("export", vit, "out", code=2)
    assert "is not empty" in again.err

    shown = run("export", vit, "out2")
    assert "onnx/model.onnx\tpooler_output\tlargest error" in shown.out
    assert "6 pictures and 0 texts lie in golden.npz" in shown.err


@needs_stack
@pytest.mark.slow
def test_golden_of_own_pictures(run, vit, tmp_path, photographs):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    done = run("golden", vit, photographs["coffee"], "broken.jpg", "-o", "ref.npz")
    assert "left out: broken.jpg" in done.err
    assert "1 pictures and 0 texts; 1 pictures left out" in done.err
    golden = Golden.read(tmp_path / "ref.npz")
    assert [picture.name for picture in golden.pictures] == ["coffee.jpg"]
    assert np.isfinite(golden.pictures[0].unit).all()
    run("golden", vit, photographs["coffee"], "broken.jpg", "-o", "ref.npz", "--strict", code=1)
    run("golden", vit, "broken.jpg", "-o", "none.npz", code=2)
    assert not (tmp_path / "none.npz").exists()
    assert "does not take texts" in run("golden", vit, "--text", "a cat", code=2).err


def test_a_file_without_its_network(run, tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"")
    assert "--architecture" in run("export", "weights.safetensors", "out", code=2).err
    (tmp_path / "weights.pth").write_bytes(b"")
    assert "--allow-pickle" in run("export", "weights.pth", "out", code=2).err
    assert not (tmp_path / "out").exists()


def test_texts_must_be_text(run, tmp_path):
    (tmp_path / "texts.txt").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read as text" in run("golden", "model", "--texts", "texts.txt", code=2).err


@pytest.mark.skipif(has("transformers"), reason="transformers is installed")
def test_a_missing_extra_names_its_command(run, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "config.json").write_text('{"model_type": "vit"}')
    error = run("export", "source", "out", code=2).err
    assert "'transformers', which is not installed" in error
    assert "pip install 'bowerbird[export]'" in error
