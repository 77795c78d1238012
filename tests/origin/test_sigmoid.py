"""SigLIP's scale and bias come through an export, and a search gives the probabilities that transformers gives."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bowerbird as bb
from bowerbird.origin.export import export
from bowerbird.origin.original import sigmoid
from bowerbird.search.question import Asker

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def original(built, tmp_path_factory):
    """With scale and bias as of a trained model, and where it lies."""
    directory = tmp_path_factory.mktemp("siglip") / "siglip"
    shutil.copytree(built("siglip"), directory)
    model = transformers.SiglipModel.from_pretrained(directory)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(9.5))
        model.logit_bias.fill_(-6.25)
    model.save_pretrained(directory)
    return model.eval(), directory


@pytest.fixture(scope="module")
def encoder(original) -> bb.Encoder:
    _, directory = original
    export(str(directory), directory.with_name("exported"))
    return bb.load(str(directory.with_name("exported")), precision="exact")


@slow
def test_the_export_of_a_siglip_holds_them(encoder):
    assert encoder.card.sigmoid == pytest.approx((9.5, -6.25), rel=1e-6)


@slow
def test_that_of_a_clip_holds_none(exported):
    done = exported("clip")
    assert bb.load(str(done.directory)).card.sigmoid is None
    assert not (done.directory / "bowerbird.json").exists()


@slow
def test_presence_is_the_probability_of_transformers(original, encoder, photographs, tmp_path):
    model, directory = original
    folder = tmp_path / "photographs"
    folder.mkdir()
    for path in photographs.values():
        (folder / path.name).write_bytes(path.read_bytes())
    index = bb.Index.create(tmp_path / "a.bower", encoder)
    index.add(folder)
    index.refresh()
    (entry,) = index.entries()
    background = index.background(entry)
    assert background.sigmoid == encoder.card.sigmoid

    text = "a red dress on a wooden hanger"
    best = index.search(text, among="image", k=1)[0]
    (question,) = Asker(index, entry, background).questions(bb.Query(texts=(text,), among="image"), None)
    row = encoder.embed([Path(best.uri)])
    raw = row @ question.raw
    presence = background.presence("text", question.column, raw, row, float(raw[0])).presence

    processor = transformers.AutoImageProcessor.from_pretrained(directory, backend="pil")
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    pixels = processor(images=Image.open(best.uri).convert("RGB"), return_tensors="pt")["pixel_values"]
    tokens = tokenizer([text], padding="max_length", max_length=64, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        logits = model(input_ids=tokens["input_ids"], pixel_values=pixels).logits_per_image
    want = float(torch.sigmoid(logits)[0, 0])
    assert presence == pytest.approx(want, abs=1e-4)
    assert 0.001 < want < 0.999, "a probability at an end would prove nothing"
    assert np.all(index.search(text, among="image").match <= want + 1e-4)


@slow
def test_open_clip_models_with_a_bias():
    open_clip = pytest.importorskip("open_clip")
    layers = {"layers": 1, "width": 16, "heads": 2}
    vision = {"layers": 1, "width": 16, "head_width": 8, "image_size": 16, "patch_size": 8}
    text = {**layers, "context_length": 8, "vocab_size": 64}
    plain = open_clip.model.CLIP(8, vision, text)
    siglip = open_clip.model.CLIP(8, vision, text, init_logit_scale=math.log(10), init_logit_bias=-10)
    assert sigmoid(plain) == []
    assert sigmoid(siglip) == pytest.approx([10, -10], rel=1e-6)
