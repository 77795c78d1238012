"""Model directories made for one test each: copies of mini, and networks of a few numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from bowerbird.models.hub.fetch import locate

MINI = locate("mini").directory
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(60)))
SIDE = 8


def save_graph(path: Path, nodes: list, inputs: list, outputs: list, weights: dict[str, np.ndarray]) -> None:
    graph = helper.make_graph(
        nodes,
        "tiny",
        inputs,
        outputs,
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")


@pytest.fixture
def mini_copy(tmp_path: Path) -> Callable[..., Path]:
    """A copy of mini: all of it, or some of its files; the graphs are links."""

    def copy(name: str = "copied", *, text: bool = True, image: bool = True) -> Path:
        target = tmp_path / name
        for source in sorted(MINI.rglob("*")):
            relative = source.relative_to(MINI)
            picture_file = relative.name in ("vision_model.onnx", "preprocessor_config.json")
            if source.is_dir() or (picture_file and not image) or (not picture_file and not text):
                continue
            (target / relative).parent.mkdir(parents=True, exist_ok=True)
            if relative.suffix == ".onnx":
                (target / relative).symlink_to(source)
            else:
                shutil.copyfile(source, target / relative)
        if not image:
            config = json.loads((target / "config.json").read_text("utf-8"))
            write_json(target / "config.json", {key: config[key] for key in config if key != "vision_config"})
        return target

    return copy


@pytest.fixture
def tiny_image(tmp_path: Path) -> Callable[..., Path]:
    """A picture model of one matrix, `image_embeds = flatten(pixels) W`; or one that divides its mean by itself."""

    def make(name: str = "tiny-image", *, bits: int = 24, divides: bool = False) -> Path:
        target = tmp_path / name
        pixels = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])
        if divides:
            nodes = [
                helper.make_node("ReduceMean", ["pixel_values"], ["mean"], axes=[2, 3], keepdims=0),
                helper.make_node("Div", ["mean", "mean"], ["image_embeds"]),
            ]
            weights, width = {}, 3
        else:
            matrix = np.random.default_rng(0).normal(size=(3 * SIDE * SIDE, 16)).astype(np.float32)
            mantissa, exponent = np.frexp(matrix)
            weights, width = {"w": np.ldexp(np.round(mantissa * 2**bits) / 2**bits, exponent)}, 16
            weights = {"w": weights["w"].astype(np.float32)}
            nodes = [
                helper.make_node("Flatten", ["pixel_values"], ["flat"], axis=1),
                helper.make_node("MatMul", ["flat", "w"], ["image_embeds"]),
            ]
        out = helper.make_tensor_value_info("image_embeds", TensorProto.FLOAT, ["n", width])
        save_graph(target / "onnx" / "vision_model.onnx", nodes, [pixels], [out], weights)
        write_json(
            target / "preprocessor_config.json",
            {
                "image_processor_type": "CLIPImageProcessor",
                "size": {"height": SIDE, "width": SIDE},
                "do_center_crop": False,
                "do_normalize": False,
            },
        )
        return target

    return make


def embedding_table() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(len(WORDS), 12)).astype(np.float32)


@pytest.fixture
def tiny_text(tmp_path: Path) -> Callable[..., Path]:
    """A text model in the sentence-transformers layout whose token vectors are rows of `embedding_table()`."""

    def make(
        name: str = "tiny-text",
        *,
        pooling: dict[str, Any] | None = None,
        max_tokens: int = 12,
        modules: list[str] | None = None,
        config: dict[str, Any] | None = None,
        bert: dict[str, Any] | None = None,
    ) -> Path:
        target = tmp_path / name
        ids = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"])
            for name in ("input_ids", "attention_mask")
        ]
        nodes = [
            helper.make_node("Gather", ["table", "input_ids"], ["looked_up"]),
            # Padded positions hold large numbers, so that a pooling that counts them is found out.
            helper.make_node("Cast", ["attention_mask"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["one", "real"], ["padded"]),
            helper.make_node("Mul", ["padded", "large"], ["noise"]),
            helper.make_node("Unsqueeze", ["noise", "last"], ["noise3"]),
            helper.make_node("Add", ["looked_up", "noise3"], ["last_hidden_state"]),
        ]
        weights = {
            "table": embedding_table(),
            "one": np.float32(1),
            "large": np.float32(1e6),
            "last": np.asarray([-1], np.int64),
        }
        weights = {key: np.asarray(value) for key, value in weights.items()}
        out = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["n", "t", 12])
        save_graph(target / "onnx" / "model.onnx", nodes, ids, [out], weights)
        tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        tokenizer.enable_truncation(5)  # the card says otherwise and wins
        tokenizer.enable_padding(length=7)
        tokenizer.save(str(target / "tokenizer.json"))
        kinds = modules or ["Transformer", "Pooling", "Normalize"]
        write_json(
            target / "modules.json",
            [
                {"idx": i, "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
                for i, kind in enumerate(kinds)
            ],
        )
        write_json(target / "1_Pooling" / "config.json", pooling or {"pooling_mode": "mean"})
        write_json(target / "sentence_bert_config.json", {"max_seq_length": max_tokens, **(bert or {})})
        write_json(target / "config.json", {"pad_token_id": 0})
        if config is not None:
            write_json(target / "config_sentence_transformers.json", config)
        return target

    return make


@pytest.fixture
def words() -> tuple[str, ...]:
    return WORDS


@pytest.fixture
def table() -> np.ndarray:
    return embedding_table()
