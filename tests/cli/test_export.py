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
    assert "Reference arrays of 6 pictures lie in golden.npz" in shown.err


@needs_stack
@pytest.mark.slow
def test_golden_of_own_pictures(run, vit, tmp_path, photographs):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    done = run("golden", vit, photographs["coffee"], "broken.jpg", "-o", "ref.npz")
    assert "left out: broken.jpg" in done.err
    assert "ref.npz: 1 picture; 1 picture left out." in done.err
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


@pytest.mark.parametrize("chain", [False, True])
def test_an_export_is_no_original(run, tmp_path, chain):
    """Said at once: neither torch nor transformers is imported for it."""
    (tmp_path / "mine" / "onnx").mkdir(parents=True)
    (tmp_path / "mine" / "onnx" / "model.onnx").write_bytes(b"")
    (tmp_path / "mine" / "config.json").write_text('{"model_type": "vit"}')
    if chain:
        (tmp_path / "mine" / "modules.json").write_text('[{"path": "", "type": "a.Transformer"}]')
        (tmp_path / "mine" / "2_Dense").mkdir()
        (tmp_path / "mine" / "2_Dense" / "model.safetensors").write_bytes(b"")
    for verb in (("golden", "mine", "a.jpg"), ("export", "mine", "out")):
        error = run(*verb, code=2, env={"PYTHONPATH": str(_without_stacks(tmp_path))}).err
        assert "is an export: it holds onnx/model.onnx" in error
        assert "hub id" in error


def _without_stacks(folder):
    """A folder for `PYTHONPATH`, in which the stacks cannot be imported."""
    for name in ("torch", "transformers"):
        (folder / f"{name}.py").write_text("raise SystemExit(99)")
    return folder


def test_what_is_no_original(run):
    offline = {"HF_HUB_OFFLINE": "1"}
    for verb in (("export", "{}", "out"), ("golden", "{}", "a.jpg")):
        errors = {
            name: run(*(word.format(name) for word in verb), code=2, env=offline).err
            for name in ("mini", "nosuch", "timm/resnet50")
        }
        assert "mini is the embedded model; it has no PyTorch original here" in errors["mini"]
        assert (
            "no file or directory 'nosuch', and a repository of the hub is written ORG/NAME"
            in errors["nosuch"]
        )
        assert errors["timm/resnet50"].count("mini") == 0
        assert errors["timm/resnet50"].rstrip().endswith("HF_HUB_OFFLINE is set. Unset it to download it.")
