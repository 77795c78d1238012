"""A model's portrait, and the drawing of a picture on its way."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import bowerbird as bb
from bowerbird.judge.panels import COLUMNS, GAP, MARGIN, PAPER, SIDE, draw
from bowerbird.judge.portrait import Stage, portrait, stages
from bowerbird.models.vision.steps import Steps


def test_a_portrait_says_what_the_model_does(model: bb.Encoder) -> None:
    facts = json.loads(json.dumps(portrait(model)))
    assert facts["space"] == model.card.space
    assert Steps.parse(facts["image"]["recipe"]) == model.card.image.steps
    assert facts["image"]["steps"] == json.loads(json.dumps(model.card.image.steps.to_json()))
    assert facts["image"]["range"] == [-0.9921875, 1.0]
    assert facts["image"]["dimensions"] == {"image_embeds": 384, "features": 1280}
    assert list(facts["image"]["outputs"]) == ["image_embeds", "features", "logits"]
    assert facts["text"]["max_tokens"] == 256
    assert facts["text"]["pooling"] == ["mean"]
    assert len(facts["text"]["layers"]) == 7  # the embeddings and six blocks
    assert facts["numerics"] == model.numerics()
    files = {file["path"]: file for file in facts["files"]}
    card = model.card.directory / "preprocessor_config.json"
    assert files["preprocessor_config.json"]["sha256"] == hashlib.sha256(card.read_bytes()).hexdigest()
    assert {"onnx/vision_model.onnx", "onnx/text_model.onnx", "golden.npz"} <= set(files)


def test_stages_are_the_way_of_a_picture(model: bb.Encoder, photographs: dict[str, Path]) -> None:
    found = stages(model, photographs["coffee"])
    assert [stage.values.shape for stage in found] == [
        (213, 320, 3),
        (256, 384, 3),
        (224, 224, 3),
        (3, 224, 224),
    ]
    assert [stage.kept for stage in found] == [None, (224, 224), None, None]
    assert np.array_equal(found[2].values, model.image.ready(photographs["coffee"]))
    last = found[-1].to_json()
    assert last["step"] == str(model.card.image.steps.scale)
    assert last["mean"] == pytest.approx(found[-1].values.mean(axis=(1, 2), dtype=np.float64).tolist())
    assert len(last["min"]) == 3


def test_every_stage_is_drawn(model: bb.Encoder, photographs: dict[str, Path]) -> None:
    found = stages(model, photographs["coffee"])
    sheet = draw(found, "mini", "a subtitle that is " + "long " * 60)
    assert sheet.width == 2 * MARGIN + COLUMNS * SIDE + (COLUMNS - 1) * GAP
    pixels = np.asarray(sheet)
    inked = (pixels != np.array(PAPER)).any(axis=2)
    for column in range(COLUMNS):  # four panels in the first row, three channels in the second
        left = MARGIN + column * (SIDE + GAP)
        assert inked[: sheet.height // 2, left : left + SIDE].mean() > 0.2
    assert not inked[-MARGIN // 2 :].any()
    assert not inked[:, : MARGIN - 2].any()


def test_colours_are_those_of_the_stage() -> None:
    red = np.zeros((60, 90, 3), np.uint8)
    red[..., 0] = 200
    values = np.full((3, 60, 90), -1, np.float32)
    sheet = np.asarray(draw([Stage("decoded", red, (60, 60)), Stage("x", values)], "title", "subtitle"))
    centre = MARGIN + SIDE // 2
    assert (sheet[:, centre] == (200, 0, 0)).all(axis=1).any()  # inside the frame
    edge = sheet[:, MARGIN + 20]
    assert not (edge == (200, 0, 0)).all(axis=1).any()  # what is cut away has faded
    assert ((sheet == (33, 86, 160)).all(axis=2)).sum() > 3 * SIDE  # least value, in every channel


def test_patches_are_drawn_as_a_matrix() -> None:
    rows = np.random.default_rng(0).standard_normal((64, 768)).astype(np.float32)
    sheet = draw([Stage("patches of 16, padded to 64", rows)], "naflex", "")
    assert sheet.height > 100
    assert Stage("patches", rows).to_json()["shape"] == [64, 768]
