"""Layers and the penultimate tensor are found by structure, whichever names an exporter gives."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import bowerbird as bb
from bowerbird.errors import ModelFormatError
from bowerbird.models.network.graph import GraphFacts, read_graph, resolve

MINI = Path(bb.__file__).parent / "models" / "mini" / "onnx"
WIDTH = 8


class Drawn:
    """A graph drawn step by step. `add` returns the name of what a step makes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def add(self, op: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], domain=domain, **attributes))
        return name

    def weight(self, *shape: int) -> str:
        return self.constant((self._random.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32))

    def constant(self, value: object) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def dense(self, x: str, width: int = WIDTH) -> str:
        return self.add("Add", self.add("MatMul", x, self.weight(WIDTH, width)), self.weight(width))

    def norm(self, x: str) -> str:
        return self.add("LayerNormalization", x, self.weight(WIDTH), self.weight(WIDTH), axis=-1)

    def attention(self, x: str, query: str = "", mask: str = "") -> str:
        keys, values = self.dense(x), self.dense(x)
        turned = self.add("Transpose", keys, perm=[0, 2, 1])
        scores = self.add("MatMul", query or self.dense(x), turned)
        shares = self.add("Softmax", self.add("Add", scores, mask) if mask else scores, axis=-1)
        return self.dense(self.add("MatMul", shares, values))

    def feed_forward(self, x: str) -> str:
        hidden = self.dense(x)
        return self.dense(self.add("Mul", hidden, self.add("Sigmoid", hidden)))

    def conv(self, x: str, before: int, after: int, side: int = 3) -> str:
        pads = [side // 2] * 4
        return self.add("Conv", x, self.weight(after, before, side, side), kernel_shape=[side] * 2, pads=pads)

    def save(
        self, path: Path, inputs: dict[str, tuple[int, Sequence[object]]], outputs: dict[str, int]
    ) -> Path:
        """Outputs: what `add` returned -> its rank."""
        graph = helper.make_graph(
            self.nodes,
            "drawn",
            [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
            [
                helper.make_tensor_value_info(
                    name, TensorProto.FLOAT, [f"{name}_{axis}" for axis in range(rank)]
                )
                for name, rank in outputs.items()
            ],
            self.weights,
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path)
        return path


PIXELS = {"pixel_values": (TensorProto.FLOAT, ("n", 3, 8, 8))}
IDS = {"input_ids": (TensorProto.INT64, ("n", "t")), "attention_mask": (TensorProto.INT64, ("n", "t"))}


def looked_up(drawn: Drawn) -> str:
    """(n, t, WIDTH): rows of a table by `input_ids`, and places by how many there are."""
    words = drawn.add("Gather", drawn.weight(20, WIDTH), "input_ids")
    count = drawn.add("Gather", drawn.add("Shape", "input_ids"), drawn.constant(np.int64(1)), axis=0)
    zero, one = drawn.constant(np.int64(0)), drawn.constant(np.int64(1))
    places = drawn.add("Gather", drawn.weight(50, WIDTH), drawn.add("Range", zero, count, one))
    return drawn.add("Add", words, places)


def mask_bias(drawn: Drawn) -> str:
    real = drawn.add("Cast", "attention_mask", to=TensorProto.FLOAT)
    noise = drawn.add("Sub", real, drawn.constant(np.float32(1)))
    return drawn.add(
        "Unsqueeze", drawn.add("Mul", noise, drawn.constant(np.float32(1e4))), drawn.constant([1])
    )


def mean_of_tokens(drawn: Drawn, x: str) -> str:
    real = drawn.add("Cast", "attention_mask", to=TensorProto.FLOAT)
    column = drawn.add("Unsqueeze", real, drawn.constant([2]))
    total = drawn.add("ReduceSum", drawn.add("Mul", x, column), drawn.constant([1]), keepdims=0)
    count = drawn.add("ReduceSum", column, drawn.constant([1]), keepdims=0)
    mean = drawn.add("Div", total, count)
    return drawn.add("Div", mean, drawn.add("ReduceL2", mean, axes=[-1], keepdims=1))


@pytest.fixture
def network(tmp_path):
    """A residual network: stem, two blocks, pooling, classifier."""
    drawn = Drawn()
    stem = drawn.add("Relu", drawn.conv("pixel_values", 3, 4))
    first = drawn.add("Relu", drawn.add("Add", drawn.conv(stem, 4, 4), stem))
    wide = drawn.conv(first, 4, WIDTH)
    shortcut = drawn.conv(first, 4, WIDTH, side=1)
    second = drawn.add("Relu", drawn.add("Add", wide, shortcut))
    pooled = drawn.add("Flatten", drawn.add("GlobalAveragePool", second))
    logits = drawn.add("Gemm", pooled, drawn.weight(WIDTH, 5), drawn.weight(5))
    shares = drawn.add("Softmax", logits)
    path = drawn.save(tmp_path / "network.onnx", PIXELS, {shares: 2})
    return path, (stem, first, second), pooled


def test_layers_of_a_residual_network_are_its_blocks(network):
    path, blocks, pooled = network
    facts = read_graph(path)
    assert facts.flow().layers == blocks
    assert [tensor.shape for tensor in facts.layers()] == [
        (None, 4, 8, 8),
        (None, 4, 8, 8),
        (None, WIDTH, 8, 8),
    ]
    assert {tensor.features for tensor in facts.layers()} == {1}
    assert facts.flow().penultimate == pooled == resolve(facts, "penultimate")
    assert facts.tensors[pooled].shape == (None, WIDTH)
    assert facts.inputs["pixel_values"].shape == (None, 3, 8, 8)


def test_padding_and_casts_around_a_layer_are_no_part_of_it(tmp_path):
    """Some exporters write a convolution's padding as a step of its own, and cast what is a float already."""
    drawn = Drawn()
    around = drawn.constant([0, 0, 1, 1, 0, 0, 1, 1])
    x = drawn.add("Pad", drawn.add("Cast", "pixel_values", to=TensorProto.FLOAT), around)
    first = drawn.add("Relu", drawn.conv(x, 3, 4))
    second = drawn.add("Relu", drawn.conv(drawn.add("Pad", first, around), 4, WIDTH))
    pooled = drawn.add("Flatten", drawn.add("AveragePool", second, kernel_shape=[12, 12]))
    facts = read_graph(drawn.save(tmp_path / "padded.onnx", PIXELS, {pooled: 2}))
    assert facts.flow().layers == (first, second)


def test_layers_of_mini():
    vision = read_graph(MINI / "vision_model.onnx")
    assert list(vision.outputs) == ["image_embeds", "features", "logits"]
    assert resolve(vision, -1, "logits") == "_conv_head.relu6"
    assert resolve(vision, 0) == "_conv_stem.relu6"
    assert resolve(vision, "penultimate", "logits") == "features"
    assert vision.flow("features").penultimate == ""  # made by pooling, not by a projection
    text = read_graph(MINI / "text_model.onnx")
    blocks = [f"encoder.layer.{i}.output.LayerNorm.out" for i in range(5)]
    for output in ("", "last_hidden_state", "sentence_embedding"):
        assert text.flow(output).layers == ("embeddings.LayerNorm.out", *blocks, "last_hidden_state")
        assert text.flow(output).source == "input_ids"
        assert text.flow(output).penultimate == ""
    assert {tensor.features for tensor in text.layers()} == {2}


@pytest.mark.parametrize("is_normed_first", [True, False], ids=["pre-norm", "post-norm"])
def test_layers_of_a_transformer_are_its_hidden_states(tmp_path, is_normed_first):
    """One for the looked-up tokens, one a block; masks, places and the pooling do not count."""
    drawn = Drawn()
    bias = mask_bias(drawn)
    states = [drawn.norm(looked_up(drawn))]
    for _ in range(3):
        x = states[-1]
        if is_normed_first:
            x = drawn.add("Add", x, drawn.attention(drawn.norm(x), mask=bias))
            x = drawn.add("Add", x, drawn.feed_forward(drawn.norm(x)))
        else:
            x = drawn.norm(drawn.add("Add", drawn.attention(x, mask=bias), x))
            x = drawn.norm(drawn.add("Add", drawn.feed_forward(x), x))
        states.append(x)
    if is_normed_first:
        states[-1] = drawn.norm(states[-1])  # as in CLIP's text tower: part of the last state
    vectors = mean_of_tokens(drawn, states[-1])
    facts = read_graph(drawn.save(tmp_path / "text.onnx", IDS, {states[-1]: 3, vectors: 2}))
    assert facts.flow(vectors).layers == tuple(states)
    assert facts.flow(states[-1]).layers == tuple(states)
    assert facts.flow().penultimate == ""
    assert {tensor.features for tensor in facts.layers()} == {2}
    assert {tensor.features for tensor in facts.tensors.values() if tensor.op == "Softmax"} == {None}


def test_an_attention_that_no_feed_forward_step_follows_is_a_layer(tmp_path):
    drawn = Drawn()
    first = drawn.norm(looked_up(drawn))
    second = drawn.add("Add", first, drawn.attention(drawn.norm(first)))
    third = drawn.add("Add", second, drawn.attention(drawn.norm(second)))
    fourth = drawn.add("Add", third, drawn.feed_forward(drawn.norm(third)))
    facts = read_graph(drawn.save(tmp_path / "text.onnx", IDS, {fourth: 3}))
    assert facts.flow().layers == (first, second, fourth)


def test_what_the_ids_choose_or_hide_is_no_second_way(tmp_path):
    """CLIP's text tower takes the token at argmax(ids); some graphs make their mask of the ids."""
    drawn = Drawn()
    first = looked_up(drawn)
    is_padding = drawn.add("Equal", "input_ids", drawn.constant(np.int64(0)))
    hidden = drawn.add(
        "Mul", drawn.add("Cast", is_padding, to=TensorProto.FLOAT), drawn.constant(np.float32(-1e4))
    )
    bias = drawn.add("Unsqueeze", hidden, drawn.constant([1]))
    middle = drawn.add("Add", first, drawn.attention(drawn.norm(first), mask=bias))
    last = drawn.norm(drawn.add("Add", middle, drawn.feed_forward(drawn.norm(middle))))
    place = drawn.add("Unsqueeze", drawn.add("ArgMax", "input_ids", axis=1, keepdims=0), drawn.constant([1]))
    chosen = drawn.add("GatherND", last, place, batch_dims=1)
    vectors = drawn.add("MatMul", chosen, drawn.weight(WIDTH, 4))
    facts = read_graph(drawn.save(tmp_path / "text.onnx", {"input_ids": IDS["input_ids"]}, {vectors: 2}))
    assert facts.flow().layers == (first, last)
    assert resolve(facts, "penultimate") == chosen


@pytest.mark.parametrize("is_joint", [True, False], ids=["joint", "separate"])
def test_a_pooling_by_attention_comes_after_the_layers(tmp_path, is_joint):
    """As in SigLIP: a learned query asks the tokens, whose keys and values may come out of one product."""
    drawn = Drawn()
    patches = drawn.conv("pixel_values", 3, WIDTH, side=1)
    flat = drawn.add("Reshape", patches, drawn.constant([0, WIDTH, -1]))
    first = drawn.add("Transpose", flat, perm=[0, 2, 1])
    middle = drawn.add("Add", first, drawn.attention(drawn.norm(first)))
    last = drawn.norm(drawn.add("Add", middle, drawn.feed_forward(drawn.norm(middle))))
    query = drawn.weight(1, 1, WIDTH)
    if is_joint:
        joint = drawn.dense(last, 2 * WIDTH)
        halves = [
            drawn.add("Slice", joint, drawn.constant([at]), drawn.constant([at + WIDTH]), drawn.constant([2]))
            for at in (0, WIDTH)
        ]
        scores = drawn.add("MatMul", query, drawn.add("Transpose", halves[0], perm=[0, 2, 1]))
        pooled = drawn.add("MatMul", drawn.add("Softmax", scores, axis=-1), halves[1])
    else:
        pooled = drawn.attention(last, query=query)
    head = drawn.add("Add", pooled, drawn.feed_forward(drawn.norm(pooled)))
    vectors = drawn.add("Squeeze", head, drawn.constant([1]))
    facts = read_graph(drawn.save(tmp_path / "vision.onnx", PIXELS, {vectors: 2}))
    assert facts.flow().layers == (first, last)
    assert facts.flow().penultimate == ""


def test_a_map_with_features_last_is_told_from_one_with_features_first(tmp_path):
    drawn = Drawn()
    first = drawn.conv("pixel_values", 3, WIDTH)
    turned = drawn.norm(drawn.add("Transpose", first, perm=[0, 2, 3, 1]))
    last = drawn.add("Add", drawn.feed_forward(turned), turned)
    back = drawn.add("Transpose", last, perm=[0, 3, 1, 2])
    vectors = drawn.add("ReduceMean", back, axes=[2, 3], keepdims=0)
    facts = read_graph(drawn.save(tmp_path / "last.onnx", PIXELS, {vectors: 2}))
    assert facts.tensors[back].features == 1
    assert facts.tensors[first].features == 1
    assert facts.tensors[last].features == 3
    assert facts.layers()[-1] == facts.tensors[last]


def test_a_convolution_of_one_pixel_may_be_the_classifier(tmp_path):
    drawn = Drawn()
    features = drawn.add("Relu", drawn.conv("pixel_values", 3, WIDTH))
    pooled = drawn.add("GlobalAveragePool", features)
    scores = drawn.add("Flatten", drawn.conv(pooled, WIDTH, 5, side=1))
    facts = read_graph(drawn.save(tmp_path / "conv.onnx", PIXELS, {scores: 2}))
    assert resolve(facts, "penultimate") == pooled
    assert facts.flow().layers == (features,)


def test_a_headless_network_has_no_penultimate_tensor(tmp_path):
    drawn = Drawn()
    features = drawn.add("Relu", drawn.conv("pixel_values", 3, WIDTH, side=1))
    pooled = drawn.add("Flatten", drawn.add("GlobalAveragePool", features))
    facts = read_graph(drawn.save(tmp_path / "headless.onnx", PIXELS, {pooled: 2}))
    assert facts.flow().penultimate == ""
    with pytest.raises(ModelFormatError, match=r"headless\.onnx has no penultimate"):
        resolve(facts, "penultimate")


def test_a_quantised_product_and_fused_operators_are_layers_as_well(tmp_path):
    """The products of dynamic quantisation pass through integers; ONNX Runtime's own operators are not in ONNX."""
    drawn = Drawn()
    matrix = drawn.constant(np.eye(WIDTH, dtype=np.uint8))

    def product(x: str) -> tuple[str, str]:
        pieces = [f"{x}.{name}" for name in ("bytes", "scale", "zero")]
        drawn.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], pieces))
        sums = drawn.add("MatMulInteger", pieces[0], matrix, pieces[2])
        return drawn.add("Mul", drawn.add("Cast", sums, to=TensorProto.FLOAT), pieces[1]), sums

    first = looked_up(drawn)
    second, sums = product(first)
    gelu = drawn.add("BiasGelu", second, drawn.weight(WIDTH), domain="com.microsoft")
    third = drawn.dense(gelu)
    chosen = drawn.add("Gather", third, drawn.constant(np.int64(0)), axis=1)
    scores, _ = product(chosen)
    facts = read_graph(drawn.save(tmp_path / "int8.onnx", {"input_ids": IDS["input_ids"]}, {scores: 2}))
    assert facts.flow().layers == (first, gelu, third)
    assert resolve(facts, "penultimate") == chosen
    assert facts.tensors[gelu].shape == (None, None, WIDTH)
    with pytest.raises(ModelFormatError, match="int32"):
        resolve(facts, sums)


def test_what_the_branches_of_a_condition_read_counts(tmp_path):
    drawn = Drawn()
    stem = drawn.conv("pixel_values", 3, 4)
    branch = helper.make_graph(
        [helper.make_node("Relu", [stem], ["inside"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inside", TensorProto.FLOAT, None)],
    )
    chosen = drawn.add("If", drawn.constant(np.bool_(True)), then_branch=branch, else_branch=branch)
    last = drawn.conv(chosen, 4, WIDTH)
    pooled = drawn.add("Flatten", drawn.add("GlobalAveragePool", last))
    facts = read_graph(drawn.save(tmp_path / "if.onnx", PIXELS, {pooled: 2}))
    assert facts.flow().layers == (stem, chosen, last)


@st.composite
def wirings(draw):
    """For each step, which earlier ones it adds up; 0 is the picture."""
    count = draw(st.integers(1, 9))
    return [
        draw(st.lists(st.integers(max(0, place - 3), place), min_size=1, max_size=3))
        for place in range(count)
    ]


@settings(max_examples=60, deadline=None)
@given(wirings())
def test_layers_are_the_tensors_without_which_nothing_arrives(tmp_path_factory, steps):
    """Against what a cut means: take it away, and the output hears no more of the picture."""
    drawn = Drawn()
    names = ["pixel_values"]
    for sources in steps:
        products = [drawn.add("MatMul", names[source], drawn.weight(8, 8)) for source in sources]
        names.append(drawn.add("Sum", *products))

    def hears(place: int, without: int) -> bool:
        return place != without and (place == 0 or any(hears(s, without) for s in set(steps[place - 1])))

    expected = [names[place] for place in range(1, len(names)) if not hears(len(steps), place)]
    path = drawn.save(tmp_path_factory.mktemp("wiring") / "random.onnx", PIXELS, {names[-1]: 4})
    assert list(read_graph(path).flow().layers) == expected


def test_neither_weights_nor_their_file_are_needed(network, tmp_path):
    path, blocks, _ = network
    model = onnx.load(path)
    apart = tmp_path / "apart" / "model.onnx"
    apart.parent.mkdir()
    onnx.save(model, apart, save_as_external_data=True, location="model.onnx_data", size_threshold=0)
    (apart.parent / "model.onnx_data").unlink()
    facts = read_graph(apart)
    assert facts.flow() == read_graph(path).flow()
    assert facts.tensors == read_graph(path).tensors
    assert facts.flow().layers == blocks


def test_facts_survive_json_and_pickling(network):
    facts = read_graph(network[0])
    assert GraphFacts.from_json(json.loads(json.dumps(facts.to_json())), facts.name) == facts
    assert pickle.loads(pickle.dumps(facts)) == facts


def test_facts_are_remembered_by_hash(network, tmp_path, monkeypatch):
    monkeypatch.setenv("BOWERBIRD_CACHE_DIR", str(tmp_path / "cache"))
    path = network[0]
    facts = read_graph(path, "abc")
    path.unlink()
    assert read_graph(path, "abc") == facts
    with pytest.raises(ModelFormatError):
        read_graph(path)
    with pytest.raises(ModelFormatError):
        read_graph(path, "abd")
    (remembered,) = (tmp_path / "cache" / "graphs").iterdir()
    assert remembered.name.startswith("abc")


@pytest.mark.parametrize("damage", ["", "[]", "null", '{"inputs": {}}', "{", '{"inputs": 3}'])
def test_damaged_memory_is_not_believed(network, tmp_path, monkeypatch, damage):
    monkeypatch.setenv("BOWERBIRD_CACHE_DIR", str(tmp_path / "cache"))
    facts = read_graph(network[0], "abc")
    (remembered,) = (tmp_path / "cache" / "graphs").iterdir()
    remembered.write_text(damage)
    assert read_graph(network[0], "abc") == facts
    assert read_graph(network[0], "abc") == GraphFacts.from_json(
        json.loads(remembered.read_text()), facts.name
    )


def test_a_cache_that_cannot_be_written_costs_nothing_else(network, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BOWERBIRD_CACHE_DIR", str(tmp_path / "file"))
    assert read_graph(network[0], "abc") == read_graph(network[0])


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (3, r"network\.onnx has 3 layers, so there is no layer 3.*from -3 to 2"),
        (-4, r"network\.onnx has 3 layers, so there is no layer -4"),
        ("relu_99", r"network\.onnx computes no tensor 'relu_99'.*closest names: .*relu_"),
        ("pixel_values", r"network\.onnx computes no tensor 'pixel_values'"),
        ("", r"network\.onnx computes no tensor ''"),
    ],
)
def test_a_layer_that_is_not_there_is_refused(network, layer, says):
    with pytest.raises(ModelFormatError, match=says):
        resolve(read_graph(network[0]), layer)


def test_any_tensor_of_numbers_may_be_named(tmp_path):
    facts = read_graph(MINI / "text_model.onnx")
    inner = "encoder.layer.3.attention.shares"
    assert resolve(facts, inner) == inner
    assert inner not in facts.flow().layers
    whole = next(name for name, tensor in facts.tensors.items() if tensor.dtype == "int64")
    with pytest.raises(ModelFormatError, match="int64"):
        resolve(facts, whole)


def test_an_output_that_is_not_there_is_refused(network):
    with pytest.raises(ModelFormatError, match=r"network\.onnx computes no output 'embeds'.*softmax_"):
        resolve(read_graph(network[0]), -1, "embeds")


def test_layers_go_to_the_output_that_is_asked_for(tmp_path):
    """A graph of two towers: each output has its own input and layers."""
    drawn = Drawn()
    words = looked_up(drawn)
    text = drawn.add("Gather", words, drawn.constant(np.int64(0)), axis=1)
    stem = drawn.conv("pixel_values", 3, WIDTH)
    image = drawn.add("Flatten", drawn.add("GlobalAveragePool", stem))
    inputs = {**IDS, **PIXELS}
    facts = read_graph(drawn.save(tmp_path / "both.onnx", inputs, {text: 2, image: 2}))
    assert (facts.flow(text).source, facts.flow(text).layers) == ("input_ids", (words,))
    assert (facts.flow(image).source, facts.flow(image).layers) == ("pixel_values", (stem,))


@pytest.mark.parametrize("content", [None, b"", b"\x00hello" * 99], ids=["missing", "empty", "junk"])
def test_what_is_no_graph_is_named(tmp_path, content):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelFormatError, match=r"model\.onnx"):
        read_graph(path)


def test_what_was_remembered_comes_back_at_once(network, tmp_path, monkeypatch):
    monkeypatch.setenv("BOWERBIRD_CACHE_DIR", str(tmp_path / "cache"))
    graph = MINI / "text_model.onnx"  # 45 MB
    facts = read_graph(graph, "abc")
    started = time.perf_counter()
    assert read_graph(graph, "abc") == facts
    remembered = time.perf_counter() - started
    started = time.perf_counter()
    read_graph(graph)
    assert remembered < (time.perf_counter() - started) / 2


FAMILIES = (
    "bert",
    "mpnet",
    "qwen3",
    "clip-text",
    "siglip-text",
    "clip-vision",
    "siglip-vision",
    "dinov2",
    "resnet",
)


def original(family: str):
    """A small model of a family with random weights, from its original code, and its inputs by name."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    picture = {**sizes, "image_size": 32, "patch_size": 8}
    words = {**sizes, "vocab_size": 99, "intermediate_size": 64}
    kinds = {
        "bert": ("Bert", words),
        "mpnet": ("MPNet", words),
        "qwen3": ("Qwen3", {**words, "num_key_value_heads": 2, "head_dim": 8}),
        "clip-text": ("CLIPText", {**words, "bos_token_id": 0, "eos_token_id": 2}),
        "siglip-text": ("SiglipText", {**words, "bos_token_id": 0, "eos_token_id": 2}),
        "clip-vision": ("CLIPVision", {**picture, "intermediate_size": 64}),
        "siglip-vision": ("SiglipVision", {**picture, "intermediate_size": 64}),
        "dinov2": ("Dinov2", picture),
        "resnet": ("ResNet", {"embedding_size": 8, "hidden_sizes": [16, 24, 32], "depths": [1, 1, 1]}),
    }
    name, config = kinds[family]
    model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**config)).eval()
    if family in ("clip-vision", "siglip-vision", "dinov2", "resnet"):
        return model, {"pixel_values": torch.randn(2, 3, 32, 32)}
    ids = {"input_ids": torch.randint(3, 90, (2, 7))}
    return model, ids if family == "siglip-text" else {
        **ids,
        "attention_mask": torch.ones(2, 7, dtype=torch.int64),
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_new", [False, True], ids=["trace", "dynamo"])
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_the_hidden_states_of_the_original(tmp_path, family, is_new):
    """Of every family and both of torch's exporters, in number and in value."""
    pytest.importorskip("onnxscript")
    from bowerbird.models.network.engine import open_engine

    model, inputs = original(family)
    import torch

    class Last(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *values):
            return self.model(**dict(zip(inputs, values, strict=True))).last_hidden_state

    path = tmp_path / "model.onnx"
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True)
        torch.onnx.export(
            Last(),
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=["last_hidden_state"],
            dynamo=is_new,
            opset_version=18,
            external_data=False,
        )
    facts = read_graph(path)
    layers = facts.flow().layers
    assert len(layers) == len(states.hidden_states)
    engine = open_engine("onnxruntime", path, expose=layers)
    found = engine.run({name: value.numpy() for name, value in inputs.items()}, layers)
    # The final normalisation is part of the last layer, which only some models count that way.
    for ours, theirs in zip(found, (*states.hidden_states[:-1], states.last_hidden_state), strict=True):
        assert np.abs(ours - theirs.numpy()).max() <= 1e-4
