"""timm, open_clip, torchvision and sentence-transformers: each where its own package is installed."""

from __future__ import annotations

import json

import numpy as np
import pytest

import bowerbird as bb
from bowerbird.errors import ModelFormatError, ModelNotFoundError
from bowerbird.judge.verify import verify
from bowerbird.origin.export import export, make_golden
from bowerbird.origin.packages import has
from bowerbird.origin.request import Request

pytest.importorskip("torch", reason="the extra `export` is not installed")
pytest.importorskip("onnxscript", reason="the extra `export` is not installed")

pytestmark = pytest.mark.slow


def needs(*modules):
    absent = [module for module in modules if not has(module)]
    return pytest.mark.skipif(bool(absent), reason=f"{', '.join(absent)} is not installed")


def holds(done):
    assert done.agreements
    for agreement in done.agreements:
        # Features of random weights may be large; what users compare, the unit vector, is judged by `verify`.
        assert agreement.max_error <= 1e-4 * max(1, agreement.largest)
        assert agreement.cosine >= 0.999999
    report = verify(bb.load(str(done.directory), precision="exact"))
    assert report.ok, report.first
    return done


@needs("timm", "torchvision")
@pytest.mark.parametrize("family", ["timm-resnet", "timm-vit"])
def test_timm(exported, family):
    done = holds(exported(family))
    assert [agreement.output for agreement in done.agreements] == [
        "logits",
        "pooler_output",
        "last_hidden_state",
    ]
    assert done.golden.meta["profile"] == "timm"


@needs("timm", "torchvision")
def test_timm_by_name_with_own_weights(tiny, tmp_path):
    """A fine-tuned classifier: the number of classes is that of the weights."""
    import timm
    from safetensors.torch import save_file

    model = tiny.lively(timm.create_model("test_resnet.r160_in1k", pretrained=False, num_classes=5))
    save_file(model.state_dict(), tmp_path / "mine.safetensors")
    request = Request(architecture="timm:test_resnet.r160_in1k")
    done = holds(export(str(tmp_path / "mine.safetensors"), tmp_path / "out", request))
    config = json.loads((done.directory / "config.json").read_text())
    assert config["num_classes"] == 5
    with pytest.raises(ModelFormatError, match="does not fit"):
        export(
            str(tmp_path / "mine.safetensors"),
            tmp_path / "other",
            Request(architecture="timm:test_vit.r160_in1k"),
        )
    with pytest.raises(ModelNotFoundError, match="no model 'resnet51'"):
        export("timm:resnet51", tmp_path / "other")


@needs("torchvision")
def test_torchvision_with_own_weights(tiny, tmp_path):
    import torch
    from torchvision.models import get_model

    model = tiny.lively(get_model("shufflenet_v2_x0_5", weights=None, num_classes=9))
    wrapped = {"state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}}
    torch.save(wrapped, tmp_path / "mine.pth")
    request = Request(architecture="torchvision:shufflenet_v2_x0_5", allow_pickle=True)
    with pytest.raises(ModelFormatError, match="as a pickle"):
        export(str(tmp_path / "mine.pth"), tmp_path / "out", Request(architecture=request.architecture))
    done = holds(export(str(tmp_path / "mine.pth"), tmp_path / "out", request))
    assert done.stack == "torchvision"


@needs("torchvision")
def test_torchvision_publishes_pickles(tmp_path):
    with pytest.raises(ModelFormatError, match="torchvision's resnet18 holds its weights as a pickle"):
        export("torchvision:resnet18", tmp_path / "out")
    with pytest.raises(ModelNotFoundError, match="no model 'resnet18/V9'") as error:
        export("torchvision:resnet18/V9", tmp_path / "out")
    assert "IMAGENET1K_V1" in error.value.hint


@needs("torchvision")
@pytest.mark.parametrize(
    "name", ["resnet50", "efficientnet_b4", "vit_b_16", "mobilenet_v3_large", "swin_v2_t"]
)
def test_torchvision_transforms_as_timm_writes_them(tmp_path, photographs, name):
    """Every published resize and crop survives the way through timm's config.json, bit for bit."""
    from PIL import Image
    from torchvision.models import get_model_weights

    from bowerbird.models.vision.processors import read_steps
    from bowerbird.origin.stacks.torchvision import _timm_config

    for weights in get_model_weights(name):
        transforms = weights.transforms()
        (tmp_path / "config.json").write_text(json.dumps(_timm_config(name, 1000, transforms)))
        steps = read_steps(tmp_path)
        with Image.open(photographs["coffee"]) as image:
            picture = image.convert("RGB")
        ours = steps.feeds([steps.pixels(picture)])["pixel_values"][0]
        np.testing.assert_array_equal(ours, transforms(picture).numpy())


@needs("open_clip", "torchvision")
def test_open_clip(exported):
    done = holds(exported("open_clip"))
    assert [agreement.output for agreement in done.agreements] == ["text_embeds", "image_embeds"]
    assert done.golden.meta["profile"] == "openclip"
    assert (
        json.loads((done.directory / "open_clip_config.json").read_text())["model_cfg"]["quick_gelu"] is True
    )


@needs("open_clip", "torchvision")
def test_case_13_quickgelu_of_open_clip(exported, built, tmp_path):
    right = exported("open_clip")
    directory = tmp_path / "source"
    directory.mkdir()
    for path in built("open_clip").iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    config = json.loads((directory / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = False
    (directory / "open_clip_config.json").write_text(json.dumps(config))
    wrong = export(str(directory), tmp_path / "wrong")
    report = verify(bb.load(str(wrong.directory), precision="exact"), golden=right.golden)
    assert not report.ok
    assert report.first.stage == "pooled"


@needs("open_clip", "torchvision")
def test_open_clip_tags_are_listed(tmp_path):
    with pytest.raises(ModelNotFoundError, match="no weights 'laion3b'") as error:
        export("open_clip:ViT-B-32/laion3b", tmp_path / "out")
    assert "laion2b_s34b_b79k" in error.value.hint
    with pytest.raises(ModelNotFoundError, match="no architecture"):
        export("open_clip:ViT-B-33/openai", tmp_path / "out")


@needs("sentence_transformers")
def test_sentence_transformers(exported, built):
    done = holds(exported("sentence"))
    texts = {(text.text, text.role): text for text in done.golden.texts}
    assert {role for _, role in texts} == {"", "query"}
    plain, asked = texts["a cat", ""], texts["a cat", "query"]
    assert len(asked.input_ids) > len(plain.input_ids)
    assert plain.unit.shape == (12,), "the Dense layer is part of the embedding"
    assert plain.raw.shape == (len(plain.input_ids), 32)


@needs("sentence_transformers")
def test_sentence_transformers_references(built):
    golden, _ = make_golden(str(built("sentence")), [], [("a cat", "query"), ("how do i a cat", "")])
    np.testing.assert_allclose(golden.texts[0].unit, golden.texts[1].unit, atol=1e-6)
    with pytest.raises(ModelFormatError, match="no prompt 'passage'"):
        make_golden(str(built("sentence")), [], [("a cat", "passage")])


def test_sentence_transformers_without_its_package(exported):
    pytest.importorskip("transformers")
    if has("sentence_transformers"):
        pytest.skip("sentence-transformers is installed")
    done = exported("sentence")
    assert done.golden is None
    assert "pip install sentence-transformers" in done.no_golden
    assert (done.directory / "2_Dense" / "model.safetensors").is_file()
    assert bb.load(str(done.directory), precision="exact").embed(["a cat"]).shape == (1, 12)


@needs("timm", "torchvision")
def test_nothing_is_guessed_from_a_name(built, tmp_path):
    """A timm model in a folder called clip is a timm model."""
    folder = tmp_path / "openai-clip-vit"
    folder.mkdir()
    for path in built("timm-resnet").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    assert export(str(folder), tmp_path / "out").stack == "timm"
