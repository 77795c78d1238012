"""Where published layouts keep their graphs, and models loaded from each of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import bowerbird as bb
from bowerbird.errors import ModelFormatError
from bowerbird.models.layout import choose, variants, wanted
from bowerbird.models.network.precision import probe_pictures

from .conftest import save_graph, write_json

TWO_TOWERS = [
    "README.md",
    "config.json",
    "tokenizer.json",
    "preprocessor_config.json",
    "onnx/text_model.onnx",
    "onnx/text_model_fp16.onnx",
    "onnx/text_model_quantized.onnx",
    "onnx/vision_model.onnx",
    "onnx/vision_model.onnx_data",
    "onnx/vision_model_fp16.onnx",
    "onnx/vision_model_quantized.onnx",
    "onnx/model.onnx",
    "model.safetensors",
    "pytorch_model.bin",
]
SENTENCES = [
    "modules.json",
    "tokenizer.json",
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "2_Dense/model.safetensors",
    "2_Dense/pytorch_model.bin",
    "onnx/model.onnx",
    "onnx/model_O3.onnx",
    "onnx/model_qint8_avx512.onnx",
    "openvino/openvino_model.xml",
    "openvino/config.json",
    ".gitattributes",
]


@pytest.mark.parametrize(
    ("files", "text", "image"),
    [
        (TWO_TOWERS, "onnx/text_model.onnx", "onnx/vision_model.onnx"),
        (SENTENCES, "onnx/model.onnx", ""),
        (["onnx/model.onnx", "preprocessor_config.json"], "", "onnx/model.onnx"),
        (["onnx/model.onnx", "config.json"], "", "onnx/model.onnx"),
        (["model.onnx", "tokenizer.json", "config.json"], "model.onnx", ""),
        (["model_optimized.onnx", "tokenizer.json"], "model_optimized.onnx", ""),
        (["model.onnx", "preprocessor_config.json"], "", "model.onnx"),
        (
            [
                "textual/model.onnx",
                "textual/tokenizer.json",
                "visual/model.onnx",
                "visual/preprocess_cfg.json",
            ],
            "textual/model.onnx",
            "visual/model.onnx",
        ),
        (["onnx/vision_model.onnx", "preprocessor_config.json"], "", "onnx/vision_model.onnx"),
    ],
    ids=[
        "two towers",
        "sentences",
        "picture",
        "timm",
        "qdrant",
        "optimised",
        "qdrant picture",
        "immich",
        "one of two",
    ],
)
def test_a_layout_is_chosen_by_the_files(files, text, image):
    layout = choose(files)
    assert (layout.text, layout.image) == (text, image)


def test_a_reduced_graph_only_when_asked_for():
    assert choose(TWO_TOWERS, "fp16").image == "onnx/vision_model_fp16.onnx"
    assert choose(SENTENCES, "O3").text == "onnx/model_O3.onnx"
    assert variants(TWO_TOWERS) == ["fp16", "quantized"]
    assert variants(SENTENCES) == ["O3", "qint8_avx512"]
    with pytest.raises(ModelFormatError, match=r"no variant 'int4'.*fp16, quantized"):
        choose(TWO_TOWERS, "int4")
    plain = ("onnx/text_model.onnx", "onnx/vision_model.onnx", "onnx/model.onnx")
    with pytest.raises(ModelFormatError, match=r"onnx/text_model_fp16\.onnx"):
        choose([name for name in TWO_TOWERS if name not in plain])


def test_only_what_is_needed_is_downloaded():
    assert wanted(TWO_TOWERS) == [
        "README.md",
        "config.json",
        "onnx/text_model.onnx",
        "onnx/vision_model.onnx",
        "onnx/vision_model.onnx_data",
        "preprocessor_config.json",
        "tokenizer.json",
    ]
    assert wanted(SENTENCES) == [
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "modules.json",
        "onnx/model.onnx",
        "tokenizer.json",
    ]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "is not a model directory"),
        (
            ["model.safetensors", "config.json"],
            r"weights \(model\.safetensors\) but no ONNX graph.*bowerbird export",
        ),
        (["deep/inside/net.onnx"], r"deep/inside/net\.onnx, which is where no layout"),
        (["onnx/model.onnx", "tokenizer.json", "preprocessor_config.json"], "texts and pictures at once"),
    ],
    ids=["nothing", "weights", "elsewhere", "joint"],
)
def test_no_layout_says_why(files, said):
    with pytest.raises(ModelFormatError, match=said):
        choose(files)


def tokenizer(path: Path) -> None:
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "dog")
    built = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
    )
    built.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    built.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    built.save(str(path))


def text_graph(path: Path, *, name: str, dtype: int, length: int | None) -> None:
    """Token vectors (n, T, 5), or their mean under the name `text_embeds` where rows have a fixed length."""
    ids = helper.make_tensor_value_info(name, dtype, ["n", length or "t"])
    nodes = [helper.make_node("Gather", ["table", name], ["last_hidden_state"])]
    out = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["n", length or "t", 5])
    if length:
        nodes.append(
            helper.make_node("ReduceMean", ["last_hidden_state"], ["text_embeds"], axes=[1], keepdims=0)
        )
        out = helper.make_tensor_value_info("text_embeds", TensorProto.FLOAT, ["n", 5])
    table = np.random.default_rng(2).normal(size=(7, 5)).astype(np.float32)
    save_graph(path, nodes, [ids], [out], {"table": table})


def picture_graph(path: Path, *, name: str, channels_last: bool = False) -> None:
    shape = ["n", 8, 8, 3] if channels_last else ["n", 3, 8, 8]
    pixels = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    axes = [1, 2] if channels_last else [2, 3]
    nodes = [
        helper.make_node("ReduceMean", [name], ["mean"], axes=axes, keepdims=0),
        helper.make_node("MatMul", ["mean", "w"], ["embedding"]),
    ]
    weights = {"w": np.random.default_rng(3).normal(size=(3, 5)).astype(np.float32)}
    out = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 5])
    save_graph(path, nodes, [pixels], [out], weights)


def test_immich_layout_int32_text_and_open_clip_preprocessing(tmp_path):
    directory = tmp_path / "immich"
    text_graph(directory / "textual" / "model.onnx", name="text", dtype=TensorProto.INT32, length=9)
    tokenizer(directory / "textual" / "tokenizer.json")
    picture_graph(directory / "visual" / "model.onnx", name="image")
    write_json(
        directory / "visual" / "preprocess_cfg.json",
        {
            "size": [8, 8],
            "mode": "RGB",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
            "fill_color": 0,
        },
    )
    write_json(
        directory / "config.json", {"embed_dim": 5, "text_cfg": {"context_length": 9}, "vision_cfg": {}}
    )
    model = bb.load(str(directory))
    vectors = model.embed(["a cat", *probe_pictures()[:2]])
    assert vectors.shape == (3, 5)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert model.card.image.steps.to_json()[1]["rounding"] == "even"


def test_one_graph_at_the_root_with_a_pooling_that_no_file_told(tmp_path):
    directory = tmp_path / "root"
    text_graph(directory / "model.onnx", name="input_ids", dtype=TensorProto.INT64, length=None)
    tokenizer(directory / "tokenizer.json")
    write_json(directory / "config.json", {"model_type": "bert", "max_position_embeddings": 16})
    with pytest.raises(ModelFormatError, match=r"no file says how token vectors.*bowerbird\.json"):
        bb.load(str(directory))
    (directory / "bowerbird.json").write_text(json.dumps({"format": 1, "text": {"pooling": "cls"}}))
    model = bb.load(str(directory))
    table = np.random.default_rng(2).normal(size=(7, 5)).astype(np.float32)
    assert np.allclose(model.embed("a cat", normalize=False), table[2], atol=1e-6)


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_graph_is_fed_in_its_own_layout(tmp_path, channels_last):
    """Case: the layout is read from the graph; the same network in either gives the same vectors."""
    directory = tmp_path / "layout"
    picture_graph(directory / "model.onnx", name="anything", channels_last=channels_last)
    write_json(
        directory / "preprocessor_config.json",
        {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}},
    )
    found = bb.load(str(directory)).embed(probe_pictures(), normalize=False)
    weights = np.random.default_rng(3).normal(size=(3, 5)).astype(np.float32)
    side = bb.load(str(directory)).image
    pixels = np.stack([side.pixels(side.open(data)) for data in probe_pictures()])
    expected = (pixels.mean((1, 2), dtype=np.float64) / 127.5 - 1) @ weights
    assert np.allclose(found, expected, atol=1e-5)


def test_a_picture_graph_with_inputs_we_do_not_know(tmp_path):
    directory = tmp_path / "two-inputs"
    pixels = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, 8, 8]) for name in ("left", "right")
    ]
    nodes = [
        helper.make_node("Add", ["left", "right"], ["both"]),
        helper.make_node("ReduceMean", ["both"], ["embedding"], axes=[2, 3], keepdims=0),
    ]
    out = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 3])
    save_graph(directory / "model.onnx", nodes, pixels, [out], {})
    write_json(
        directory / "preprocessor_config.json",
        {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}},
    )
    with pytest.raises(
        ModelFormatError, match=r"no input we know for a picture; it has left, right.*pixel_values"
    ):
        bb.load(str(directory)).image  # noqa: B018
