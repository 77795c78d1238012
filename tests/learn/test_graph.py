"""Heads in graphs: whatever a tower does to its tensors is in the new output, in every engine."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tests.learn.towers import (
    TEXTS,
    WIDTH,
    dense,
    layer_norm,
    numbers,
    picture_tower,
    save_graph,
    text_tower,
)

import bowerbird as bb
from bowerbird.errors import LearnError
from bowerbird.learn.export import save
from bowerbird.learn.graph import Tap, width_of, with_head
from bowerbird.learn.heads import Branch, Gelu, Head, Heads, Linear, Relu, Scale, Shift, Unit, as_it_is
from bowerbird.models.network.engine import ENGINES, open_engine
from bowerbird.models.network.precision import probe_pictures
from bowerbird.models.text.sentence import ACTIVATIONS, POOLINGS


def head_on(tensor: str, width: int) -> Head:
    return Head((Branch(tensor, (Linear(numbers(20, 7, width), numbers(21, 7)),)),))


def same_texts(base: bb.Encoder, directory, roles=("",)) -> bb.Encoder:
    """Save with a head, load, and compare texts together and one by one."""
    tensor = base.card.text.output
    head = head_on(tensor, base.embed(["w1"]).shape[1])
    done = save(directory, Heads(None, head), text=base)
    assert {agreement.engine.split()[0] for agreement in done.agreements} == set(ENGINES)
    loaded = bb.load(str(directory), precision="exact")
    for role in roles:
        given = [text for text in TEXTS if base.outcomes(text, role=role)[0].error is None]
        for texts in (given, *([text] for text in given)):
            expected = head.apply({tensor: base.embed(texts, role=role)})
            assert (expected * loaded.embed(texts, role=role)).sum(1).min() >= 0.99999
        expected = loaded.embed(given, role=role)
        assert (expected @ expected.T).min() < 0.99, "one vector for everything proves nothing"
    return loaded


@pytest.mark.parametrize(
    ("how", "side"),
    [*((how, "right") for how in (*POOLINGS, "cls+mean")), ("cls", "left"), ("lasttoken", "left")],
)
def test_every_pooling_of_texts(how, side, tmp_path):
    pooling = {"pooling_mode": how.split("+")}
    base = bb.load(str(text_tower(tmp_path / "base", pooling=pooling, told={"padding_side": side})))
    loaded = same_texts(base, tmp_path / "fitted")
    assert loaded.card.text.rules == base.card.text.rules


@pytest.mark.parametrize(
    ("how", "side"), [*((how, "left") for how in POOLINGS), ("mean", "right"), ("cls", "right")]
)
def test_prompts_that_are_not_pooled(how, side, tmp_path):
    """The graph cannot know where a prompt ends: it is told."""
    pooling = {"pooling_mode": how, "include_prompt": False}
    prompts = {"query": "w30 w31 w32 ", "document": "", "other": "w33 "}
    base = bb.load(
        str(
            text_tower(
                tmp_path / "base",
                pooling=pooling,
                told={"padding_side": side},
                sentences={"prompts": prompts, "default_prompt_name": "other"},
            )
        )
    )
    loaded = same_texts(base, tmp_path / "fitted", roles=("", "query", "document"))
    if how != "max":  # of nothing there is no largest
        assert loaded.embed("").shape == (1, 7)
    assert set(loaded.text.engine.inputs) == {"input_ids", "attention_mask", "prompt_tokens"}
    assert loaded.card.text.rules == base.card.text.rules


@pytest.mark.parametrize("masked", [True, False], ids=["mask ignored", "no mask"])
def test_a_network_that_is_not_told_where_padding_is(masked, tmp_path):
    """Its pooling leaves padding out all the same, so the fitted graph asks for a mask of its own."""
    told = {"model_input_names": ["input_ids"]}
    base = bb.load(str(text_tower(tmp_path / "base", masked=masked, told=told)))
    loaded = same_texts(base, tmp_path / "fitted")
    assert set(loaded.text.engine.inputs) >= {"input_ids", "pooling_mask"}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dense_layers(activation, tmp_path):
    directory = text_tower(tmp_path / "base", modules=("Dense", "Dense"))
    dense(directory / "2_Dense", WIDTH, WIDTH, activation, residual=True)
    dense(directory / "3_Dense", WIDTH, 5, activation, residual=activation != "Tanh")
    loaded = same_texts(bb.load(str(directory)), tmp_path / "fitted")
    assert loaded.card.text.rules.after == ()


def test_norms_and_lengths_between_modules(tmp_path):
    modules = ("Normalize", "LayerNorm", "Dropout", "Dense", "Normalize")
    sentences = {"truncate_dim": 4}
    directory = text_tower(tmp_path / "base", modules=modules, sentences=sentences)
    layer_norm(directory / "3_LayerNorm", WIDTH)
    dense(directory / "5_Dense", WIDTH, 6, "ReLU")
    base = bb.load(str(directory))
    assert base.embed(["w1"]).shape == (1, 4)
    same_texts(base, tmp_path / "fitted")


@pytest.mark.parametrize("opset", [11, 12, 13, 18, 20])
def test_versions_of_the_operators(opset, tmp_path):
    pooling = {"pooling_mode": ["mean", "max"]}
    directory = text_tower(tmp_path / "base", pooling=pooling, modules=("LayerNorm",), opset=opset)
    layer_norm(directory / "2_LayerNorm", 2 * WIDTH)
    same_texts(bb.load(str(directory)), tmp_path / "fitted")


def test_a_graph_that_is_too_old_says_so(tmp_path):
    directory = text_tower(tmp_path / "base", opset=10)
    with pytest.raises(LearnError, match="version 10"):
        save(
            tmp_path / "fitted",
            Heads(None, head_on("last_hidden_state", WIDTH)),
            text=bb.load(str(directory)),
        )


def test_a_vector_for_each_token_is_refused(tmp_path):
    base = bb.load(str(text_tower(tmp_path / "base")), pooling="none")
    with pytest.raises(LearnError, match="for each of the tokens"):
        save(tmp_path / "fitted", Heads(None, head_on("last_hidden_state", WIDTH)), text=base)


@pytest.mark.parametrize(
    ("shape", "how", "opset"),
    [
        *(("nchw", how, opset) for how in ("avg", "max", "gem", "cls") for opset in (11, 18)),
        *(("nhwc", how, 17) for how in ("gem", "cls")),
        *(("ntc", how, 17) for how in ("avg", "cls")),
    ],
)
def test_every_pooling_of_pictures(shape, how, opset, tmp_path):
    base = bb.load(str(picture_tower(tmp_path / "base", shape, opset=opset)), pooling=how)
    same_pictures(base, tmp_path / "fitted", "last_hidden_state")


def same_pictures(base: bb.Encoder, directory, tensor: str) -> bb.Encoder:
    """Save with a head on a tensor, load, and compare; what compares pictures best stays as it was."""
    own = (base.card.image.output, base.card.image.similarity_output)
    source = base if tensor in own else base.adapted(layer=tensor)
    rows = source.embed(probe_pictures(), output=tensor)
    head = head_on(tensor, rows.shape[1])
    done = save(directory, Heads(head, None), image=base)
    assert {agreement.engine.split()[0] for agreement in done.agreements} == set(ENGINES)
    loaded = bb.load(str(directory), precision="exact")
    assert (head.apply({tensor: rows}) * loaded.embed(probe_pictures())).sum(1).min() >= 0.99999
    before = base.embed(probe_pictures(), output=own[1])
    after = loaded.embed(probe_pictures(), output=loaded.card.image.similarity_output)
    assert (before * after).sum(1).min() >= 0.999999
    assert loaded.card.image.steps == base.card.image.steps
    assert loaded.card.text is None
    return loaded


def test_half_precision_stays_in_the_graph(tmp_path):
    directory = picture_tower(tmp_path / "base", "nchw", dtype=TensorProto.FLOAT16)
    loaded = same_pictures(bb.load(str(directory), pooling="avg"), tmp_path / "fitted", "last_hidden_state")
    model = onnx.load(loaded.card.image.graph.path)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert kinds["kernel"] == TensorProto.FLOAT16


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "tensor"),
    [
        ({"layer": -1, "pooling": "gem"}, "layer:-1"),
        ({"layer": 3, "dimensions": 20}, "layer:3"),
        ({"layer": "penultimate"}, "penultimate"),
        ({}, "layer:5"),
        ({}, "logits"),
    ],
    ids=str,
)
def test_layers_of_a_real_network(options, tensor, tmp_path):
    same_pictures(bb.load("mini", **options), tmp_path / "fitted", tensor)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "tensor"), [({"layer": 2, "pooling": "max"}, "layer:2"), ({}, "layer:-1")], ids=str
)
def test_layers_of_a_real_text_network(options, tensor, tmp_path):
    base = bb.load("mini", **options)
    width = base.adapted(layer=tensor).embed(["a"]).shape[1]
    save(tmp_path / "fitted", Heads(None, head_on(tensor, width)), text=base)


def test_places_that_are_not_pooled_are_refused(tmp_path):
    base = bb.load(str(picture_tower(tmp_path / "base", "ntc")), pooling="none")
    with pytest.raises(LearnError, match="for each of the places"):
        save(tmp_path / "fitted", Heads(head_on("last_hidden_state", 5), None), image=base)


LAYERS = st.lists(
    st.one_of(
        st.builds(Unit),
        st.builds(Relu),
        st.builds(Gelu),
        st.builds(Scale, st.floats(-3, 3, width=32)),
        st.integers(0, 99).map(lambda seed: Shift(numbers(seed, 6))),
        st.integers(0, 99).map(lambda seed: Linear(numbers(seed, 6, 6), numbers(seed + 1, 6))),
        st.integers(0, 99).map(lambda seed: Linear(numbers(seed, 6, 6))),
    ),
    max_size=5,
).map(tuple)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A graph that gives its input, twice."""
    path = tmp_path_factory.mktemp("plain") / "plain.onnx"
    rows = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])
    outs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 6]) for name in ("a", "b")]
    nodes = [helper.make_node("Identity", ["x"], ["a"]), helper.make_node("Tanh", ["x"], ["b"])]
    save_graph(path, nodes, [rows], outs, {}, 17)
    return path


@settings(max_examples=40, deadline=None)
@given(first=LAYERS, second=LAYERS)
def test_any_layers_are_read_alike(first, second, plain):
    """NumPy and the graph. One branch is never 0, so that the sum has a direction."""
    anchor = Linear(np.zeros((6, 6), np.float32), numbers(11, 6))
    head = Head((Branch("a", first), Branch("b", second), Branch("a", (anchor,))))
    taps = {name: Tap(name, (1, 6), 6) for name in ("a", "b")}
    target = plain.with_name("with.onnx")
    with_head(plain, target, taps, head, "fitted")
    engine = open_engine("onnxruntime", target)
    x = numbers(0, 5, 6)
    rows = {"a": x, "b": np.tanh(x)}
    rows = {name: array / np.linalg.norm(array, axis=1, keepdims=True) for name, array in rows.items()}
    (got,) = engine.run({"x": x}, ["fitted"])
    assert engine.outputs["fitted"].shape == (None, width_of(head, taps))
    assert np.allclose(got, head.apply(rows), atol=1e-3)


def test_weights_beside_the_graph(tmp_path):
    """Copied as they are, under names of the new graph; a large graph is split."""
    path = picture_tower(tmp_path / "base", "nchw") / "onnx" / "vision_model.onnx"
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="odd name.bin", size_threshold=0)
    base = bb.load(str(tmp_path / "base"), pooling="avg")
    loaded = same_pictures(base, tmp_path / "fitted", "last_hidden_state")
    folder = loaded.card.image.graph.path.parent
    assert {file.name for file in folder.iterdir()} == {"model.onnx", "model.onnx_data", "config.json"}
    assert (folder / "model.onnx_data").read_bytes() == (path.parent / "odd name.bin").read_bytes()

    again = tmp_path / "split" / "model.onnx"
    again.parent.mkdir()
    head = Head((Branch("fitted", (Linear(numbers(8, 40, 7)),)),))
    with_head(folder / "model.onnx", again, {"fitted": Tap("fitted", (1, 7), 7)}, head, "out", one_file=1000)
    assert {file.name for file in again.parent.iterdir()} == {
        "model.onnx",
        "model.onnx_data",
        "model.onnx_data_1",
    }
    pixels = numbers(9, 2, 3, 8, 12)
    found = [
        open_engine(kind, graph).run({"pixel_values": pixels}, [name])[0]
        for kind, graph, name in (
            ("onnxruntime", folder / "model.onnx", "fitted"),
            ("onnxruntime", again, "out"),
            ("openvino", again, "out"),
        )
        if kind in ENGINES
    ]
    expected = head.apply({"fitted": found[0]})
    for got in found[1:]:
        assert np.allclose(got, expected, atol=1e-5)


def test_a_name_that_is_taken(plain):
    with pytest.raises(LearnError, match="'b' already"):
        with_head(plain, plain.with_name("no.onnx"), {"a": Tap("a", (1, 6), 6)}, as_it_is("a"), "b")


def test_a_head_that_does_not_fit(plain):
    taps = {"a": Tap("a", (1, 6), 6)}
    with pytest.raises(LearnError, match="takes vectors of 5"):
        width_of(Head((Branch("a", (Shift(numbers(0, 5)),)),)), taps)
    with pytest.raises(LearnError, match="6 and 9"):
        width_of(Head((Branch("a"), Branch("a", (Linear(numbers(0, 9, 6)),)))), taps)
