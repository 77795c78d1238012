"""Towers of a few numbers, written as model directories: every way in which a text or a picture becomes a vector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tests.models.conftest import write_json
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(60)))
TEXTS = ("w1", "w2 w3 w4 w5 w6 w7", "w8 w9", "", "w9 w10 w11 w12 w13 w14 w15 w16 w17 w18 w19 w20")
WIDTH = 12


def numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def save_graph(
    path: Path,
    nodes: list[Any],
    inputs: list[Any],
    outputs: list[Any],
    weights: dict[str, Any],
    opset: int,
) -> None:
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def text_tower(
    directory: Path,
    *,
    pooling: dict[str, Any] | None = None,
    modules: Sequence[str] = (),
    told: dict[str, Any] | None = None,
    sentences: dict[str, Any] | None = None,
    masked: bool = True,
    opset: int = 17,
) -> Path:
    """A table of token vectors, in the layout of sentence-transformers. Padding has vectors that a mean would show.

    Args:
        directory: where it goes.
        pooling: config of the Pooling module.
        modules: kinds of the modules after it, each written by the test.
        told: more of tokenizer_config.json.
        sentences: config_sentence_transformers.json.
        masked: whether the graph takes a mask.
        opset: of the graph.
    """
    names = ("input_ids", "attention_mask") if masked else ("input_ids",)
    ids = [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"]) for name in names]
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])]
    weights = {"table": numbers(1, len(WORDS), WIDTH)}
    weights["table"][0] = 50
    if masked:  # Every token knows of all the others, as after an attention.
        nodes[0].output[0] = "looked_up"
        nodes += [
            helper.make_node("Cast", ["attention_mask"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["real", "row"], ["row3"]),
            helper.make_node("MatMul", ["row3", "looked_up"], ["sum"]),
            helper.make_node("Add", ["looked_up", "sum"], ["last_hidden_state"]),
        ]
        weights |= {"row": np.asarray([0, 1, -1], np.int64)}
    out = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["n", "t", WIDTH])
    save_graph(directory / "onnx" / "model.onnx", nodes, ids, [out], weights, opset)
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    kinds = ["Transformer", "Pooling", *modules]
    listed = [
        {"idx": at, "path": f"{at}_{kind}" if at else "", "type": f"sentence_transformers.models.{kind}"}
        for at, kind in enumerate(kinds)
    ]
    write_json(directory / "modules.json", listed)
    write_json(directory / "1_Pooling" / "config.json", pooling or {"pooling_mode": "mean"})
    write_json(directory / "sentence_bert_config.json", {"max_seq_length": 10})
    write_json(directory / "tokenizer_config.json", told or {})
    write_json(directory / "config.json", {"pad_token_id": 0})
    if sentences:
        write_json(directory / "config_sentence_transformers.json", sentences)
    return directory


def dense(folder: Path, inputs: int, outputs: int, activation: str, *, residual: bool = False) -> None:
    from safetensors.numpy import save_file

    weights = {"linear.weight": numbers(2, outputs, inputs) / 2, "linear.bias": numbers(3, outputs)}
    if residual and inputs != outputs:
        weights["residual.weight"] = numbers(4, outputs, inputs)
    config = {"in_features": inputs, "out_features": outputs, "bias": True, "use_residual": residual}
    config["activation_function"] = f"torch.nn.modules.activation.{activation}"
    write_json(folder / "config.json", config)
    save_file(weights, folder / "model.safetensors")


def layer_norm(folder: Path, width: int) -> None:
    from safetensors.numpy import save_file

    write_json(folder / "config.json", {"dimension": width})
    save_file(
        {"norm.weight": numbers(5, width), "norm.bias": numbers(6, width)}, folder / "model.safetensors"
    )


def picture_tower(directory: Path, shape: str, *, opset: int = 17, dtype: int = TensorProto.FLOAT) -> Path:
    """One convolution and a nonlinearity, then a map `nchw`, `nhwc`, or tokens `ntc`; pictures of 8 x 12."""
    kind = np.float16 if dtype == TensorProto.FLOAT16 else np.float32
    pixels = helper.make_tensor_value_info("pixel_values", dtype, ["n", 3, 8, 12])
    nodes = [
        helper.make_node("Conv", ["pixel_values", "kernel"], ["map"], strides=[2, 2], kernel_shape=[2, 2]),
        helper.make_node("Tanh", ["map"], ["active"]),
    ]
    weights: dict[str, Any] = {"kernel": numbers(7, 5, 3, 2, 2).astype(kind)}
    sides: dict[str, list[Any]] = {"nchw": ["n", 5, 4, 6], "nhwc": ["n", 4, 6, 5], "ntc": ["n", 24, 5]}
    if shape == "nchw":
        nodes.append(helper.make_node("Identity", ["active"], ["last_hidden_state"]))
    else:
        nodes.append(helper.make_node("Transpose", ["active"], ["last"], perm=[0, 2, 3, 1]))
        weights["shape"] = np.asarray([0, -1, 5] if shape == "ntc" else [0, 4, 6, 5], np.int64)
        nodes.append(helper.make_node("Reshape", ["last", "shape"], ["last_hidden_state"]))
    out = helper.make_tensor_value_info("last_hidden_state", dtype, sides[shape])
    save_graph(directory / "onnx" / "vision_model.onnx", nodes, [pixels], [out], weights, opset)
    write_json(
        directory / "preprocessor_config.json",
        {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 12}},
    )
    write_json(directory / "config.json", {"model_type": "vit"})
    return directory
