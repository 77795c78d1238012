"""Models of the hub in collections, by the names users write: the real client, a hub on this machine."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import bowerbird as bb
from bowerbird import Collection

sys.path.insert(0, str(Path(__file__).parents[1] / "models" / "hub"))  # Test folders are no packages.
import hub_server

CHANNELS = 8


def a_resnet() -> bytes:
    """A convolution and the pooled feature map that exports of ResNet publish, (n, channels, 1, 1)."""
    weight = np.random.default_rng(0).normal(size=(CHANNELS, 3, 16, 16)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["pixel_values", "w"], ["features"], strides=[16, 16]),
        helper.make_node("Relu", ["features"], ["last_hidden_state"]),
        helper.make_node("GlobalAveragePool", ["last_hidden_state"], ["pooler_output"]),
    ]
    pixels = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["n", 3, 224, 224])
    outputs = [
        helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["n", CHANNELS, 14, 14]),
        helper.make_tensor_value_info("pooler_output", TensorProto.FLOAT, ["n", CHANNELS, 1, 1]),
    ]
    graph = helper.make_graph(nodes, "resnet", [pixels], outputs, [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in os.environ if name.upper().endswith("_PROXY") or name.startswith("HF_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    huggingface_hub.close_session()
    with hub_server.running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        server.publish(
            "Xenova/resnet-50",
            {
                "config.json": json.dumps(
                    {"model_type": "resnet", "architectures": ["ResNetModel"]}
                ).encode(),
                "preprocessor_config.json": json.dumps(
                    {
                        "image_processor_type": "ConvNextImageProcessor",
                        "size": {"shortest_edge": 224},
                        "crop_pct": 0.875,
                        "image_mean": [0.485, 0.456, 0.406],
                        "image_std": [0.229, 0.224, 0.225],
                        "resample": 3,
                    }
                ).encode(),
                "onnx/model.onnx": a_resnet(),
            },
        )
        yield server
    huggingface_hub.close_session()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "photos" / "more").mkdir(parents=True)
    (tmp_path / "query").mkdir()
    for picture in bb.samples().glob("*.jpg"):
        shutil.copy(picture, tmp_path / "photos" / "more")
    shutil.copy(bb.samples() / "coffee.jpg", tmp_path / "query" / "cup.jpg")
    shutil.copy(bb.samples() / "chelsea.jpg", tmp_path / "towhee.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_reverse_image_search_with_a_model_of_the_catalogue(hub: hub_server.Hub, folder: Path):
    photos = Collection.from_glob("photos/**/*.jpg")
    data = photos.decode().embed("resnet50")
    near = (
        Collection.from_glob("query/*.jpg")
        .decode()
        .embed("resnet50")
        .search(data, metric="l2", k=5)
        .select("ids", "scores")
        .to_list()
    )
    assert len(near) == 1
    assert near[0]["ids"][0] == "photos/more/coffee.jpg"
    assert near[0]["scores"][0] == 0.0
    assert len(near[0]["ids"]) == 5
    assert np.all(np.diff(near[0]["scores"]) >= 0)


def test_a_pipeline_by_the_name_of_its_task(hub: hub_server.Hub, folder: Path):
    embed = bb.pipeline("image-embedding-resnet50")
    vector = embed("towhee.jpg")
    assert vector.shape == (CHANNELS,)
    assert np.array_equal(vector, bb.load("resnet50").embed(Path("towhee.jpg"))[0])


def test_a_model_that_has_changed_at_its_source_is_refused(hub: hub_server.Hub, folder: Path):
    """A worker that finds other files than the run was started with says so, rather than mix two spaces."""
    from dataclasses import replace

    from bowerbird.errors import SpaceMismatchError
    from bowerbird.flow.recipe import ModelRecipe

    recipe = ModelRecipe.of("resnet50")
    with pytest.raises(SpaceMismatchError, match="where the run was started"):
        replace(recipe, space="0" * 16).build()
