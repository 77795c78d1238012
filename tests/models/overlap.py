"""A cross-encoder of no weights, made by hand: it counts the words that two texts have in common."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def write_overlap_model(
    directory: Path,
    words: Iterable[str],
    *,
    config: dict[str, Any] | None = None,
    tokenizer_config: dict[str, Any] | None = None,
    labels: int = 1,
    max_tokens: int = 16,
    output: str = "logits",
    graph: str = "onnx/model.onnx",
) -> Path:
    """Write it in the layout of the hub. Its logit is the sum, over all words, of count in a x count in b, minus 1.

    With `labels` 2 the first logit is the negative of the second. Words that it does not know count for nothing.
    """
    vocabulary = [*SPECIAL, *dict.fromkeys(words)]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.enable_padding(length=99)  # Rules say otherwise, and win.
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    _write(
        directory / "tokenizer_config.json",
        {"pad_token": "[PAD]", "model_max_length": max_tokens, **(tokenizer_config or {})},
    )
    _write(directory / "config.json", {"id2label": {"0": "LABEL_0"}} if config is None else config)
    path = directory / graph
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(_graph(len(vocabulary), labels, output), path)
    return directory


def _graph(size: int, labels: int, output: str) -> onnx.ModelProto:
    counted = np.ones((size, 1), np.float32)
    counted[: len(SPECIAL)] = 0
    signs = np.ones((1, labels), np.float32)
    signs[0, : labels - 1] = -1
    weights = {
        "size": np.asarray(size, np.int64),
        "off_on": np.asarray([0, 1], np.float32),
        "one": np.float32(1),
        "counted": counted,
        "signs": signs,
        "last": np.asarray([-1], np.int64),
    }
    nodes = [
        helper.make_node("OneHot", ["input_ids", "size", "off_on"], ["hot"]),  # (n, t, words)
        helper.make_node("Cast", ["attention_mask"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["token_type_ids"], ["type"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["type", "real"], ["second"]),
        helper.make_node("Sub", ["real", "second"], ["first"]),
        *(node for text in ("first", "second") for node in _bag(text)),
        helper.make_node("Mul", ["first_bag", "second_bag"], ["products"]),
        helper.make_node("MatMul", ["products", "counted"], ["common"]),
        helper.make_node("Sub", ["common", "one"], ["logit"]),
        helper.make_node("MatMul", ["logit", "signs"], [output]),
    ]
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"]) for name in names]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", labels])]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "overlap", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def _bag(text: str) -> list[onnx.NodeProto]:
    """How often each word is in a text, (n, words)."""
    return [
        helper.make_node("Unsqueeze", [text, "last"], [f"{text}_column"]),
        helper.make_node("Mul", ["hot", f"{text}_column"], [f"{text}_hot"]),
        helper.make_node("Einsum", [f"{text}_hot"], [f"{text}_bag"], equation="ntw->nw"),
    ]


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), "utf-8")
