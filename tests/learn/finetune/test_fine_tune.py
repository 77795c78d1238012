"""Models that are tuned on files: what they learn, and that what is written is what was learned."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import bowerbird as bb
from bowerbird.errors import BowerbirdError, LearnError, MissingExtraError
from bowerbird.judge.verify import verify
from bowerbird.learn.losses import Sigmoid
from bowerbird.learn.report import read_report
from bowerbird.origin.packages import has
from bowerbird.origin.request import Request

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("transformers", reason="the extra `train` is not installed")
pytest.importorskip("onnxscript", reason="the extra `train` is not installed")

slow = pytest.mark.slow
needs_peft = pytest.mark.skipif(not has("peft"), reason="peft is not installed")


def needs(*modules):
    missing = [module for module in modules if not has(module)]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} is not installed")


def cosines(one, other):
    return (one * other).sum(1)


@slow
def test_pairs_lift_recall_and_the_model_is_like_any_other(source, captioned, tmp_path):
    """Figures before and after, the directory, its proof, its report, and that it can be tuned further."""
    run = bb.fine_tune(captioned, model=source("clip-quickgelu"), epochs=8, lr=3e-3, test=0.2)
    assert len(run.losses) == 8
    assert run.losses[-1] < run.losses[0] / 3
    assert run.before["image->text"]["R@1"]["mean"] < 0.3
    assert run.recall["image->text"]["R@1"]["mean"] > 0.6
    assert run.recall["text->image"]["R@10"]["mean"] > run.before["text->image"]["R@10"]["mean"] + 0.3

    done = run.save(tmp_path / "tuned", keep_weights=True)
    assert all(agreement.holds for agreement in done.agreements)
    model = bb.load(str(tmp_path / "tuned"), precision="exact")
    held = run.held_out
    assert cosines(model.embed([p.source for p in held.examples.pictures]), held.images).min() > 0.99999
    assert cosines(model.embed(list(held.examples.texts), role="query"), held.texts).min() > 0.99999
    assert verify(model).ok
    report = read_report(tmp_path / "tuned")
    assert report.after["image->text"]["R@1"].mean == pytest.approx(run.recall["image->text"]["R@1"]["mean"])
    assert [epoch.loss for epoch in report.history] == run.losses

    again = bb.fine_tune(captioned, model=str(tmp_path / "tuned"), epochs=1, test=0.2)
    assert again.before["image->text"]["R@1"]["mean"] > 0.6, "it goes on from what it has learned"
    scales = [model_scale(directory) for directory in (source("clip-quickgelu"), tmp_path / "tuned")]
    assert scales[0] != scales[1], "the temperature that was learned is kept with the weights"


def model_scale(directory):
    from safetensors.torch import load_file

    return float(load_file(Path(directory) / "model.safetensors")["logit_scale"])


@slow
@needs_peft
def test_lora_learns_little_and_becomes_part_of_the_weights(source, captioned, tmp_path):
    run = bb.fine_tune(
        captioned, model=source("clip-quickgelu"), lora=bb.LoRA(rank=8), epochs=8, lr=5e-3, test=0.2
    )
    assert run.recall["image->text"]["R@1"]["mean"] > run.before["image->text"]["R@1"]["mean"] + 0.3
    settings = run.account.settings
    assert settings["weights that learn"] < settings["weights"] / 4
    run.original.save_weights(tmp_path)
    from safetensors import safe_open

    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "lora" in name]  # noqa: SIM118


@slow
@pytest.mark.parametrize("family", ["dinov2", "resnet"])
def test_cats_against_dogs(source, classed, tmp_path, family):
    """The backbone learns with the layer on it; afterwards its embedding tells classes apart, and `logits` does."""
    run = bb.fine_tune(
        classed, labels="folder", model=source(family), epochs=10, batch_size=16, lr=3e-3, test=0.25
    )
    assert run.recall["image->class"]["accuracy"]["mean"] > 0.9
    assert run.before["image->class"]["accuracy"]["mean"] < 0.85
    assert run.recall["image->image"]["P@10"]["mean"] > run.before["image->image"]["P@10"]["mean"] + 0.2

    run.save(tmp_path / "tuned", keep_weights=True)
    config = json.loads((tmp_path / "tuned" / "config.json").read_text())
    assert config["id2label"] == {"0": "cats", "1": "dogs"}
    held, pictures = run.held_out, [picture.source for picture in run.held_out.examples.pictures]
    model = bb.load(str(tmp_path / "tuned"), precision="exact")
    assert verify(model).ok
    assert cosines(model.embed(pictures), held.images).min() > 0.99999
    scores = bb.load(str(tmp_path / "tuned"), precision="exact", layer="logits").embed(pictures)
    assert scores.shape == (len(pictures), 2)
    assert ((scores[:, 1] > scores[:, 0]) == held.examples.labels).mean() == held.right.mean()

    again = bb.fine_tune(classed, labels="folder", model=str(tmp_path / "tuned"), epochs=1, test=0.25)
    assert again.before["image->class"]["accuracy"]["mean"] > 0.85


@slow
def test_classes_leave_pictures_and_names_in_one_space(source, classed):
    run = bb.fine_tune(
        classed, labels="folder", model=source("clip-quickgelu"), epochs=10, batch_size=16, lr=3e-3, test=0.25
    )
    assert run.recall["image->class"]["accuracy"]["mean"] > 0.85
    assert run.recall["class->image"]["AP"]["mean"] > run.before["class->image"]["AP"]["mean"] + 0.2


@slow
def test_two_models_become_one(source, captioned, tmp_path):
    """Pictures of one stack learn the space of the texts of another, through its pooling and its Dense layer."""
    run = bb.fine_tune(
        captioned, model=source("vit"), text_model=source("sentence"), epochs=8, lr=3e-3, test=0.2
    )
    assert run.before == {}, "the two shared no space"
    assert run.recall["image->text"]["R@1"]["mean"] > 0.6
    run.save(tmp_path / "tuned")
    model = bb.load(str(tmp_path / "tuned"), precision="exact")
    held = run.held_out
    assert model.embed(["red stripes"]).shape == (1, 12), "the space is that of the texts"
    assert cosines(model.embed([p.source for p in held.examples.pictures]), held.images).min() > 0.99999
    assert cosines(model.embed(list(held.examples.texts), role="query"), held.texts).min() > 0.99999


@slow
def test_a_frozen_tower_stays_as_it_is(source, captioned):
    run = bb.fine_tune(captioned, model=source("clip-quickgelu"), freeze="text", epochs=1, lr=3e-3)
    np.testing.assert_allclose(run.held_out.texts, run.held_out.texts_before, atol=1e-6)
    assert cosines(run.held_out.images, run.held_out.images_before).min() < 0.999


@slow
def test_siglip_goes_on_with_its_own_loss(source, captioned):
    run = bb.fine_tune(captioned, model=source("siglip"), epochs=1, lr=1e-3)
    scale, bias = run.original.notes["sigmoid"]
    inner = run.original.image.module.inner
    assert (float(inner.logit_scale.exp()), float(inner.logit_bias)) == pytest.approx((scale, bias), rel=1e-5)
    chosen = bb.fine_tune(captioned, model=source("siglip"), epochs=1, lr=1e-3, loss=Sigmoid(5.0, -3.0))
    assert chosen.original.notes["sigmoid"] == pytest.approx([5.0, -3.0], abs=0.1)


@slow
def test_torchscript_out_and_in_again(source, classed, tmp_path):
    """What is written as TorchScript is a source like others: traced, tuned, exported."""
    run = bb.fine_tune(classed, labels="folder", model=source("resnet"), epochs=1, lr=1e-3)
    done = run.save(tmp_path / "script", format="torchscript")
    assert done.golden is None
    with pytest.warns(DeprecationWarning, match="load"):
        script = torch.jit.load(tmp_path / "script" / "image.pt")
    logits, pooled = script(torch.zeros(2, 3, 64, 64))
    assert logits.shape == (2, 2)
    assert pooled.shape == (2, 32)

    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = script

        def forward(self, pixel_values):
            return self.inner(pixel_values)[1]

    with pytest.warns(DeprecationWarning, match="trace"):
        torch.jit.trace(Pooled(), torch.zeros(1, 3, 64, 64)).save(str(tmp_path / "traced.pt"))
    request = Request(allow_pickle=True, processor=source("resnet"))
    again = bb.fine_tune(
        classed, labels="folder", model=str(tmp_path / "traced.pt"), request=request, epochs=2, lr=3e-3
    )
    assert again.losses[1] < again.losses[0]
    again.save(tmp_path / "onnx")
    assert verify(bb.load(str(tmp_path / "onnx"), precision="exact")).ok
    with pytest.raises(LearnError, match="no linear layer"):
        lora = bb.LoRA()
        bb.fine_tune(classed, labels="folder", model=str(tmp_path / "traced.pt"), request=request, lora=lora)


@slow
@needs("accelerate")
def test_bf16_and_accumulation_learn_too(source, captioned):
    run = bb.fine_tune(
        captioned,
        model=source("clip-quickgelu"),
        epochs=4,
        lr=3e-3,
        precision="bf16",
        accumulate=2,
        batch_size=16,
    )
    assert run.losses[-1] < run.losses[0]
    batches = math.ceil(run.account.counts["train"] / 16)
    assert len(run.history.steps) == 4 * math.ceil(batches / 2)
    assert run.original.image.module.inner.logit_scale.dtype == torch.float32
    plain = bb.fine_tune(captioned, model=source("clip-quickgelu"), epochs=1, lr=3e-3)
    assert plain.losses[0] != run.losses[0], "a run after it is in fp32 again"


@slow
def test_orientation_is_heeded_as_search_heeds_it(source, captioned, tmp_path):
    """Pictures that lie on their side, and say so, give the vectors of those that do not."""
    from PIL import Image

    turned = tmp_path / "turned"
    turned.mkdir()
    for path in captioned.parent.glob("*.png"):
        with Image.open(path) as picture:
            exif = picture.getexif()
            exif[274] = 6  # to be turned by 90 degrees clockwise
            picture.rotate(90, expand=True).save(turned / path.name, exif=exif)
    (turned / "pairs.csv").write_text(captioned.read_text())
    # Without a part to judge by, all are judged: which part a file is in depends on its bytes.
    options = {"model": source("clip-quickgelu"), "epochs": 1, "validation": 0, "test": 0}
    one, other = (bb.fine_tune(table, **options) for table in (captioned, turned / "pairs.csv"))
    by_name = []
    for run in (one, other):
        names = [picture.name for picture in run.held_out.examples.pictures]
        by_name.append(dict(zip(names, run.held_out.images_before, strict=True)))
    assert by_name[0].keys() == by_name[1].keys()
    assert min(vector @ by_name[1][name] for name, vector in by_name[0].items()) > 0.99999


def test_an_unreadable_picture_is_left_out_by_name(source, captioned, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in captioned.parent.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "red-True-3.png").write_bytes(b"no picture at all")
    run = bb.fine_tune(folder / "pairs.csv", model=source("clip-quickgelu"), epochs=1)
    assert [one.name for one in run.account.dropped] == ["red-True-3.png"]
    assert sum(run.account.counts[part] for part in ("train", "validation", "test")) == 191


def test_what_cannot_be(source, captioned, classed, tmp_path):
    clip = source("clip-quickgelu")
    with pytest.raises(LearnError, match="no precision 'fp8'"):
        bb.fine_tune(captioned, model=clip, precision="fp8")
    if not torch.cuda.is_available():
        with pytest.raises(LearnError, match="fp16 needs a graphics processor"):
            bb.fine_tune(captioned, model=clip, precision="fp16")
    with pytest.raises(LearnError, match="no tower 'words' to freeze"):
        bb.fine_tune(captioned, model=clip, freeze="words")
    with pytest.raises(LearnError, match="reads no texts, so it cannot learn"):
        bb.fine_tune(captioned, model=source("vit"))
    with pytest.raises(LearnError, match="takes no pictures"):
        bb.fine_tune(captioned, model=source("bert"))
    with pytest.raises(LearnError, match="takes no texts"):
        bb.fine_tune(captioned, model=source("vit"), text_model=source("resnet"))
    with pytest.raises(LearnError, match="no tower for texts that could be frozen"):
        bb.fine_tune(classed, labels="folder", model=source("vit"), freeze="text")
    with pytest.raises(LearnError, match="no weights that could learn"):
        bb.fine_tune(classed, labels="folder", model=source("vit"), freeze="image")
    (tmp_path / "one" / "cats").mkdir(parents=True)
    for path in list((classed / "cats").iterdir())[:3]:
        (tmp_path / "one" / "cats" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(LearnError, match="are of one class"):
        bb.fine_tune(tmp_path / "one", labels="folder", model=source("vit"))


def test_a_format_that_is_none(source, classed, tmp_path):
    run = bb.fine_tune(classed, labels="folder", model=source("resnet"), epochs=1)
    with pytest.raises(BowerbirdError, match="no format 'gguf'"):
        run.save(tmp_path / "out", format="gguf")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(BowerbirdError, match="is not empty"):
        run.save(tmp_path / "full")


def test_the_command_that_installs_what_is_missing(source, captioned):
    if has("peft"):
        pytest.skip("peft is installed")
    with pytest.raises(MissingExtraError) as error:
        bb.fine_tune(captioned, model=source("clip-quickgelu"), lora=bb.LoRA())
    assert error.value.hint == "Run: pip install 'bowerbird[train]'"


@slow
@needs("timm", "torchvision")
@pytest.mark.parametrize("family", ["timm-resnet", "timm-vit"])
def test_timm(source, classed, tmp_path, family):
    run = bb.fine_tune(
        classed, labels="folder", model=source(family), epochs=8, batch_size=16, lr=3e-3, test=0.25
    )
    assert run.recall["image->class"]["accuracy"]["mean"] > 0.85
    run.save(tmp_path / "tuned", keep_weights=True)
    assert verify(bb.load(str(tmp_path / "tuned"), precision="exact")).ok
    again = bb.fine_tune(classed, labels="folder", model=str(tmp_path / "tuned"), epochs=1, test=0.25)
    assert again.before["image->class"]["accuracy"]["mean"] > 0.8


@slow
@needs("open_clip", "torchvision")
def test_open_clip(source, captioned, tmp_path):
    run = bb.fine_tune(captioned, model=source("open_clip"), epochs=8, lr=3e-3, test=0.2)
    assert run.recall["image->text"]["R@1"]["mean"] > run.before["image->text"]["R@1"]["mean"] + 0.3
    run.save(tmp_path / "tuned", keep_weights=True)
    model = bb.load(str(tmp_path / "tuned"), precision="exact")
    assert verify(model).ok
    again = bb.fine_tune(captioned, model=str(tmp_path / "tuned"), epochs=1, test=0.2)
    assert again.before["image->text"]["R@1"]["mean"] > again.before["image->text"]["R@1"]["low"]


@slow
@needs("torchvision")
def test_torchvision(classed, tmp_path):
    import torchvision

    torch.manual_seed(0)
    network = torchvision.models.get_model("mobilenet_v3_small", weights=None)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    request = Request(allow_pickle=True, architecture="torchvision:mobilenet_v3_small")
    run = bb.fine_tune(
        classed, labels="folder", model=str(tmp_path / "weights.pth"), request=request, epochs=1, lr=1e-3
    )
    run.save(tmp_path / "tuned", keep_weights=True)
    assert verify(bb.load(str(tmp_path / "tuned"), precision="exact")).ok
