"""Models of transformers, exported: the graphs, the files beside them, the proof, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import bowerbird as bb
from bowerbird.errors import BowerbirdError, ModelFormatError, ModelNotFoundError
from bowerbird.judge.golden import Golden
from bowerbird.judge.verify import verify
from bowerbird.models.network.engine import open_engine
from bowerbird.origin.export import export
from bowerbird.origin.request import Request

pytest.importorskip("torch", reason="the extra `export` is not installed")
pytest.importorskip("transformers", reason="the extra `export` is not installed")
pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
pytest.importorskip("safetensors", reason="the extra `export` is not installed")

slow = pytest.mark.slow
GRAPHS = {
    "clip-quickgelu": {
        "onnx/text_model.onnx": ["text_embeds", "last_hidden_state"],
        "onnx/vision_model.onnx": ["image_embeds", "last_hidden_state"],
    },
    "siglip": {
        "onnx/text_model.onnx": ["pooler_output", "last_hidden_state"],
        "onnx/vision_model.onnx": ["pooler_output", "last_hidden_state"],
    },
    "siglip2": {
        "onnx/text_model.onnx": ["pooler_output", "last_hidden_state"],
        "onnx/vision_model.onnx": ["pooler_output", "last_hidden_state"],
    },
    "vit": {"onnx/model.onnx": ["logits", "pooler_output"]},
    "resnet": {"onnx/model.onnx": ["logits", "pooler_output"]},
    "mobilenet_v2": {"onnx/model.onnx": ["logits", "pooler_output"]},
    "convnext": {"onnx/model.onnx": ["logits", "pooler_output"]},
    "dinov2": {"onnx/model.onnx": ["pooler_output", "last_hidden_state"]},
    "bert": {"onnx/model.onnx": ["last_hidden_state"]},
}
"""What each family publishes; `sentence` is with the other stacks, since its proof needs its own package."""


@slow
@pytest.mark.parametrize("family", GRAPHS)
def test_export_computes_what_the_original_does(exported, family):
    """Weights of one's own and no network: PyTorch's vectors, from files and texts through bowerbird."""
    done = exported(family)
    found: dict[str, list[str]] = {}
    for agreement in done.agreements:
        found.setdefault(agreement.graph, []).append(agreement.output)
        assert agreement.max_error <= 1e-4
        assert agreement.cosine >= 0.999999
        assert agreement.largest > 0.05, "a network that gives zeros proves nothing"
    assert found == GRAPHS[family]

    for graph in GRAPHS[family]:
        data = (done.directory / graph).read_bytes()
        assert b"site-packages" not in data
        assert str(Path.home()).encode() not in data

    report = verify(bb.load(str(done.directory), precision="exact"))
    assert report.ok, report.first
    assert report.reference.made_with["torch"]
    golden = Golden.read(done.directory / "golden.npz")
    assert len(golden.pictures) in (0, 6)
    units = np.stack([item.unit for item in (golden.pictures or golden.texts)])
    closest = (units @ units.T)[~np.eye(len(units), dtype=bool)].max()
    assert closest < 0.9999, "a network that gives one vector for everything proves nothing"


@slow
def test_case_13_quickgelu_is_honoured_and_its_absence_is_seen(exported, built, tmp_path):
    """The same weights with the wrong activation export without an error; the original's references tell."""
    right = exported("clip-quickgelu")
    directory = tmp_path / "source"
    directory.mkdir()
    for path in built("clip-quickgelu").iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    config = json.loads((directory / "config.json").read_text())
    for tower in ("text_config", "vision_config"):
        assert config[tower]["hidden_act"] == "quick_gelu"
        config[tower]["hidden_act"] = "gelu"
    (directory / "config.json").write_text(json.dumps(config))
    wrong = export(str(directory), tmp_path / "wrong")

    assert verify(bb.load(str(right.directory), precision="exact"), golden=right.golden).ok
    report = verify(bb.load(str(wrong.directory), precision="exact"), golden=right.golden)
    assert not report.ok
    # The conditions are right up to the network, which is where the two part.
    assert report.first.stage in ("raw", "pooled")
    assert report.first.run == "alone"


@slow
def test_axes_are_free_where_they_should_be(exported):
    done = exported("dinov2")
    engine = open_engine("onnxruntime", done.directory / "onnx" / "model.onnx", precision="fp32", streams=1)
    assert engine.inputs["pixel_values"].shape == (None, 3, 56, 56)
    (vectors,) = engine.run({"pixel_values": np.zeros((5, 3, 56, 56), np.float32)}, ["pooler_output"])
    assert vectors.shape == (5, 32)


@slow
def test_text_axes_are_free(exported):
    done = exported("bert")
    engine = open_engine("onnxruntime", done.directory / "onnx" / "model.onnx", precision="fp32", streams=1)
    assert engine.inputs["input_ids"].shape == (None, None)
    for batch, length in ((1, 1), (3, 7), (2, 64)):
        feeds = {name: np.ones((batch, length), np.int64) for name in engine.inputs}
        (hidden,) = engine.run(feeds, ["last_hidden_state"])
        assert hidden.shape == (batch, length, 32)


@slow
def test_cls_pooling_is_written_as_a_chain(built, tmp_path):
    export(str(built("bert")), tmp_path / "out", Request(pooling="cls"))
    assert json.loads((tmp_path / "out/1_Pooling/config.json").read_text())["pooling_mode_cls_token"] is True
    assert verify(bb.load(str(tmp_path / "out"), precision="exact")).ok


def test_disagreement_names_the_output_and_leaves_nothing(built, tmp_path):
    """A network that draws random numbers cannot agree with its own graph."""
    import torch

    class Noisy(torch.nn.Module):
        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return pixel_values.mean((2, 3)) + torch.randn([pixel_values.shape[0], 3])

    path = tmp_path / "noisy.pt"
    with pytest.warns(DeprecationWarning, match="script"):
        torch.jit.script(Noisy()).save(str(path))
    request = Request(allow_pickle=True, processor=str(built("vit")))
    with pytest.raises(
        ModelFormatError, match=r"onnx/model.onnx: output 'image_embeds' differs .* largest error"
    ):
        export(str(path), tmp_path / "out", request)
    assert [entry.name for entry in tmp_path.iterdir()] == ["noisy.pt"]


def test_torchscript_is_exported_when_it_is_trusted(built, tmp_path):
    import torch

    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 8, 8), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    path = tmp_path / "net.pt"
    with pytest.warns(DeprecationWarning, match="script"):
        torch.jit.script(network).save(str(path))
    with pytest.raises(ModelFormatError, match="is a TorchScript file: a program"):
        export(str(path), tmp_path / "out")
    with pytest.raises(ModelFormatError, match="does not say how its pictures are prepared"):
        export(str(path), tmp_path / "out", Request(allow_pickle=True))
    done = export(str(path), tmp_path / "out", Request(allow_pickle=True, processor=str(built("vit"))))
    assert done.stack == "torchscript"
    assert [agreement.output for agreement in done.agreements] == ["image_embeds"]
    assert done.golden.meta["model"] == "net.pt"
    assert verify(bb.load(str(tmp_path / "out"), precision="exact")).ok


def test_pickles_are_refused_and_then_read_as_tensors_only(built, tmp_path):
    import torch
    from safetensors.torch import load_file

    directory = tmp_path / "source"
    directory.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (directory / name).write_bytes((built("vit") / name).read_bytes())
    torch.save(load_file(built("vit") / "model.safetensors"), directory / "pytorch_model.bin")
    with pytest.raises(ModelFormatError, match="as a pickle, and unpickling can run any code") as error:
        export(str(directory), tmp_path / "out")
    assert "--allow-pickle" in error.value.hint

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"weight": Evil()}, directory / "pytorch_model.bin")
    with pytest.raises(ModelFormatError):
        export(str(directory), tmp_path / "out", Request(allow_pickle=True))
    torch.save({"weight": Evil()}, tmp_path / "evil.pth")
    request = Request(allow_pickle=True, architecture=str(built("vit")))
    with pytest.raises(ModelFormatError, match="cannot be read as weights alone"):
        export(str(tmp_path / "evil.pth"), tmp_path / "out", request)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


@slow
def test_weights_from_a_file_need_their_architecture(built, tmp_path):
    weights = built("vit") / "model.safetensors"
    with pytest.raises(ModelFormatError, match="do not say what network") as error:
        export(str(weights), tmp_path / "out")
    assert "--architecture" in error.value.hint
    done = export(str(weights), tmp_path / "out", Request(architecture=str(built("vit"))))
    whole = export(str(built("vit")), tmp_path / "whole")
    np.testing.assert_array_equal(done.golden.pictures[0].unit, whole.golden.pictures[0].unit)


def test_missing_weights_are_not_drawn_at_random(built, tmp_path):
    from safetensors.torch import load_file, save_file

    directory = tmp_path / "source"
    directory.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (directory / name).write_bytes((built("vit") / name).read_bytes())
    weights = load_file(built("vit") / "model.safetensors")
    gone = next(name for name in weights if name.endswith("dense.weight") or "fc1.weight" in name)
    save_file(
        {k: v for k, v in weights.items() if k != gone}, directory / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ModelFormatError, match="do not fill ViTForImageClassification"):
        export(str(directory), tmp_path / "out")


def test_naflex_is_named(built, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "siglip2", "architectures": ["Siglip2Model"]}')
    with pytest.raises(ModelFormatError, match="NaFlex"):
        export(str(tmp_path), tmp_path / "out")


def test_a_processor_is_needed(built, tmp_path):
    directory = tmp_path / "source"
    directory.mkdir()
    for name in ("config.json", "model.safetensors"):
        (directory / name).write_bytes((built("vit") / name).read_bytes())
    with pytest.raises(ModelFormatError, match="has no picture processor"):
        export(str(directory), tmp_path / "out")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds nothing that a known stack has written"),
        ({"config.json": '{"hidden_size": 3}'}, "holds nothing that a known stack has written"),
        ({"config.json": "{"}, "cannot be read"),
        ({"config.json": "[]"}, "holds no JSON object"),
        ({"config.json": '{"model_type": "no_such"}'}, "is not understood by transformers"),
        ({"config.json": '{"model_type": "vit"}'}, "holds no weights"),
        ({"modules.json": "{}"}, "begins with nothing"),
        ({"modules.json": '[{"path": "", "type": "a.CLIPModel"}]'}, "begins with CLIPModel"),
        ({"modules.json": '[{"path": ""}]'}, "is not understood"),
    ],
)
def test_directories_that_are_no_models(tmp_path, files, message):
    source = tmp_path / "source"
    source.mkdir()
    for name, content in files.items():
        (source / name).write_text(content)
    with pytest.raises(ModelFormatError, match=message):
        export(str(source), tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["source"]


def test_a_file_that_is_nothing(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("weights")
    with pytest.raises(ModelFormatError, match="neither a file of weights"):
        export(str(path), tmp_path / "out")


def test_nothing_is_overwritten(built, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(BowerbirdError, match="is not empty"):
        export(str(built("vit")), tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_options_that_do_not_exist(tmp_path):
    with pytest.raises(BowerbirdError, match="no profile 'hf3'"):
        Request(profile="hf3")
    with pytest.raises(BowerbirdError, match="no pooling 'sum'"):
        Request(pooling="sum")
    with pytest.raises(BowerbirdError, match="Opset 9"):
        export("anything", tmp_path / "out", opset=9)


def test_an_absent_source_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelNotFoundError, match="no file or directory 'org/absent'"):
        export("org/absent", tmp_path / "out")
