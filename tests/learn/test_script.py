"""TorchScript in and out: a traced backbone becomes a model that is fitted; what was fitted becomes TorchScript."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from tests.learn.towers import numbers
from tests.origin.tiny import build

import bowerbird as bb
from bowerbird.errors import LearnError
from bowerbird.learn.export import save
from bowerbird.learn.heads import Branch, Gelu, Head, Heads, Linear, Shift
from bowerbird.models.network.precision import probe_pictures
from bowerbird.origin.export import export
from bowerbird.origin.request import Request
from bowerbird.origin.source import open_source

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("transformers", reason="the extra `export` is not installed")
pytest.importorskip("onnxscript", reason="the extra `export` is not installed")


def head_on(tensor: str, width: int) -> Head:
    layers = (
        Shift(numbers(0, width) / 20),
        Linear(numbers(1, 24, width)),
        Gelu(),
        Linear(numbers(2, 10, 24)),
    )
    return Head((Branch(tensor, layers),))


def read(path):
    """As a program without Bowerbird reads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(str(path)).eval()


@pytest.mark.slow
def test_a_traced_backbone_end_to_end(photographs, tmp_path):
    """TorchScript file -> model directory -> fitted model -> index; and back to one TorchScript file."""
    from transformers import AutoModelForImageClassification

    source = build("resnet", tmp_path / "resnet")
    network = AutoModelForImageClassification.from_pretrained(source).eval()

    class Backbone(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network.resnet

        def forward(self, pixels):
            return self.network(pixels).pooler_output.flatten(1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(Backbone(), torch.randn(2, 3, 56, 56), strict=False).save(str(tmp_path / "net.pt"))
    request = Request(allow_pickle=True, processor=str(source))
    done = export(str(tmp_path / "net.pt"), tmp_path / "base", request)
    assert done.stack == "torchscript"
    base = bb.load(str(tmp_path / "base"))
    tensor = base.card.image.output
    head = head_on(tensor, base.image.dimensions(tensor))
    original = open_source(str(tmp_path / "net.pt"), request)
    directory = tmp_path / "fitted"
    fitted = save(
        directory, Heads(head, None), image=base, format="torchscript", originals={"image": original}
    )
    (script,) = fitted.scripts
    assert (script.file, script.inputs, script.why) == ("image.pt", ("pixel_values",), "")
    assert script.cosine >= 0.99999
    model = bb.load(str(directory), precision="exact")
    side = model.image
    values = side.tower.steps.feeds([side.ready(data) for data in probe_pictures()])["pixel_values"]
    got = read(directory / "image.pt")(torch.from_numpy(values)).detach().numpy()
    assert (got * model.embed(probe_pictures())).sum(1).min() >= 0.99999
    assert "`image.pt`, TorchScript: the tower with its head" in (directory / "README.md").read_text("utf-8")

    index = bb.Index.create(tmp_path / "index.bower", model)
    index.add(photographs["coffee"].parent)
    assert index.search(photographs["coffee"], k=1)[0].uri.endswith("coffee.jpg")


@pytest.mark.slow
def test_texts_with_pooling_outside_of_the_network(tmp_path):
    source = build("bert", tmp_path / "bert")
    export(str(source), tmp_path / "base")
    base = bb.load(str(tmp_path / "base"))
    head = head_on(base.card.text.output, base.text.dimensions)
    original = open_source(str(source), Request(name="bert"))
    directory = tmp_path / "fitted"
    fitted = save(directory, Heads(None, head), text=base, format="torchscript", originals={"text": original})
    (script,) = fitted.scripts
    assert (script.file, script.why) == ("text.pt", "")
    assert script.cosine >= 0.99999
    model = bb.load(str(directory), precision="exact")
    tokens = model.text.tokens(["a cat asleep on a sofa", "a red dress"])
    width = max(len(token.ids) for token in tokens)
    feeds = {
        "input_ids": [token.ids + [0] * (width - len(token.ids)) for token in tokens],
        "attention_mask": [[1] * len(token.ids) + [0] * (width - len(token.ids)) for token in tokens],
        "token_type_ids": [[0] * width for _ in tokens],
    }
    inputs = [torch.tensor(feeds[name], dtype=torch.int64) for name in script.inputs]
    got = read(directory / "text.pt")(*inputs).detach().numpy()
    assert (got * model.embed(["a cat asleep on a sofa", "a red dress"])).sum(1).min() >= 0.99999


def test_a_head_alone_where_there_is_only_onnx(model, tmp_path):
    """It says so, and what it takes."""
    heads = Heads(head_on("features", 1280), head_on("sentence_embedding", 384))
    directory = tmp_path / "fitted"
    done = save(directory, heads, image=model, text=model, format="torchscript")
    assert [script.file for script in done.scripts] == ["image-head.pt", "text-head.pt"]
    assert all("as ONNX alone" in script.why for script in done.scripts)
    base = bb.load("mini", precision="exact")
    rows = base.embed(probe_pictures(), output="features")
    got = read(directory / "image-head.pt")(torch.from_numpy(rows)).detach().numpy()
    assert (got * heads.image.apply({"features": rows})).sum(1).min() >= 0.99999
    assert np.allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    card = (directory / "README.md").read_text("utf-8")
    assert "`text-head.pt`, TorchScript: the head alone, since mini is here as ONNX alone" in card


@pytest.mark.slow
def test_a_layer_that_the_network_does_not_give(tmp_path):
    source = build("vit", tmp_path / "vit")
    export(str(source), tmp_path / "base")
    base = bb.load(str(tmp_path / "base"))
    width = base.embed(probe_pictures()[:1], layer=0).shape[1]
    done = save(
        tmp_path / "fitted",
        Heads(head_on("layer:0", width), None),
        image=base,
        format="torchscript",
        originals={"image": open_source(str(source), Request(name="vit"))},
    )
    assert [script.file for script in done.scripts] == ["image-head.pt"]
    assert "'layer:0', which the PyTorch network does not give" in done.scripts[0].why


def test_another_format_is_refused(model, tmp_path):
    with pytest.raises(LearnError, match="no format 'pickle'"):
        save(tmp_path / "x", Heads(head_on("features", 1280), None), image=model, format="pickle")
