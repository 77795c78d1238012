"""Both engines give the same numbers, refuse what is not right, and send nothing anywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import bowerbird as bb
from bowerbird.errors import BowerbirdError, EngineError
from bowerbird.models.network.engine import ENGINES, open_engine
from bowerbird.models.network.graph import read_graph

MINI = Path(bb.__file__).parent / "models" / "mini" / "onnx"
VISION = MINI / "vision_model.onnx"
TEXT = MINI / "text_model.onnx"


@pytest.fixture(params=list(ENGINES))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def opened():
    return {kind: open_engine(kind, VISION) for kind in ENGINES}


def drawn(path: Path, nodes, inputs, outputs, weights=None, **options) -> Path:
    """A graph of nodes, saved. Inputs and outputs: name -> (element type, shape)."""
    graph = helper.make_graph(
        [helper.make_node(op, read, made, **attributes) for op, read, made, attributes in nodes],
        "drawn",
        [helper.make_tensor_value_info(name, *spec) for name, spec in inputs.items()],
        [helper.make_tensor_value_info(name, *spec) for name, spec in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path, **options)
    return path


def tokens(count: int, length: int = 24, padding: int = 0) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(1000, 20000, (count, length))
    ids, mask = (np.pad(values, ((0, 0), (0, padding))) for values in (ids, np.ones_like(ids)))
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def pixels(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3, 224, 224)).astype(np.float32)


def test_both_engines_agree_on_texts_and_photographs(photographs):
    inputs = ["a red dress", "", "word " * 400, *photographs.values()]
    first, second = (bb.load("mini", engine=kind, precision="exact").embed(inputs) for kind in ENGINES)
    assert np.abs(first - second).max() <= 1e-5
    features = [
        bb.load("mini", engine=kind, precision="exact").embed(photographs.values(), output="features")
        for kind in ENGINES
    ]
    assert np.abs(features[0] - features[1]).max() <= 1e-5


def test_specs_are_read_from_the_graph(opened):
    first, second = opened.values()
    assert first.inputs == second.inputs
    assert first.outputs == second.outputs
    assert first.inputs["pixel_values"].shape == (None, 3, 224, 224)
    assert first.outputs["image_embeds"].dtype == "float32"


def test_outputs_come_in_the_order_asked_for_and_stay_after_the_next_run(opened, kind):
    engine = opened[kind]
    features, embeds = engine.run(
        {"pixel_values": pixels(2), "unused": pixels(1)}, ("features", "image_embeds")
    )
    assert (features.shape, embeds.shape) == ((2, 1280), (2, 384))
    kept = features.copy()
    engine.run({"pixel_values": pixels(2, 1)}, ("features",))
    assert np.array_equal(features, kept)


def test_several_threads_at_once(opened, kind):
    engine = opened[kind]
    expected = [engine.run({"pixel_values": pixels(1, seed)}, ("features",))[0] for seed in range(4)]
    found: dict[int, np.ndarray] = {}

    def work(seed: int) -> None:
        for _ in range(3):
            (found[seed],) = engine.run({"pixel_values": pixels(1, seed)}, ("features",))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(4):
        assert np.abs(found[seed] - expected[seed]).max() <= 1e-6


@pytest.mark.parametrize(
    ("feeds", "outputs"),
    [
        ({}, ("features",)),
        ({"pixels": pixels(1)}, ("features",)),
        ({"pixel_values": pixels(1)}, ("nonsense",)),
        ({"pixel_values": pixels(1).astype(np.float64)}, ("features",)),
        ({"pixel_values": pixels(1)[:, :, :100]}, ("features",)),
    ],
    ids=["nothing", "another name", "no such output", "another type", "another shape"],
)
def test_wrong_feeds_are_refused_by_both_engines(opened, kind, feeds, outputs):
    """OpenVINO on its own fills a missing input with zeros and converts any type."""
    with pytest.raises(EngineError):
        opened[kind].run(feeds, outputs)


@pytest.mark.parametrize("damage", ["missing", "empty", "junk", "cut"])
def test_a_damaged_graph_is_an_engine_error_that_names_it(tmp_path, kind, damage):
    path = tmp_path / "model.onnx"
    content = {"empty": b"", "junk": b"\x00hello" * 99, "cut": VISION.read_bytes()[:100_000]}
    if damage != "missing":
        path.write_bytes(content[damage])
    with pytest.raises(EngineError, match=r"model\.onnx") as caught:
        open_engine(kind, path)
    assert "\n" not in str(caught.value)


def test_unknown_names_are_refused_at_once():
    with pytest.raises(EngineError, match="tensorrt"):
        bb.load("mini", engine="tensorrt")
    with pytest.raises(EngineError, match="tensorrt"):
        open_engine("tensorrt", VISION)
    with pytest.raises(BowerbirdError, match="sloppy"):
        bb.load("mini", precision="sloppy")
    with pytest.raises(EngineError, match="bf16"):
        open_engine("onnxruntime", VISION, precision="bf16")


def test_numerics_are_visible(kind):
    model = bb.load("mini", engine=kind, precision="exact")
    assert model.numerics() == {}
    model.warm()
    numerics = model.numerics()
    assert set(numerics) == {"text", "image"}
    for tower in numerics.values():
        assert tower["engine"].startswith(f"{kind} 2" if kind == "openvino" else f"{kind} 1")
        assert (tower["precision"], tower["drift"]) == ("fp32", pytest.approx(1, abs=1e-6))
        assert tower["reason"] == "exact was asked for"
    assert numerics["image"]["scaled"] is None


def test_onnxruntime_sends_no_telemetry(tmp_path):
    """Where it does, it keeps an id of the machine below the home of the user."""
    code = "import bowerbird as bb; bb.load('mini', engine='onnxruntime').embed(['a cat'])"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env={**env, "HOME": str(tmp_path)})
    assert [path for path in tmp_path.rglob("*") if "onnxruntime" in path.name] == []


def test_openvino_never_loads_its_converter_nor_its_telemetry():
    """Importing them sends a usage event over the network."""
    code = (
        "import sys, bowerbird as bb\n"
        "bb.load('mini', engine='openvino').embed(['a cat'])\n"
        "assert 'openvino' in sys.modules\n"
        "print([m for m in sys.modules if m.startswith('openvino') and ('tools' in m or 'telemetry' in m)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("graph", [VISION, TEXT], ids=["vision", "text"])
def test_layers_are_the_same_in_both_engines(graph):
    facts = read_graph(graph)
    layers = facts.flow().layers
    inside = [
        name for name in facts.tensors if name.endswith((".product", ".scores", ".shares", "_conv.out"))
    ][:9]
    feeds = tokens(3) if graph == TEXT else {"pixel_values": pixels(2)}
    names = [*layers, *inside, *facts.outputs]
    first, second = (
        engine.run(feeds, names) for engine in (open_engine(kind, graph, expose=names) for kind in ENGINES)
    )
    assert len(inside) == 9
    for name, one, other in zip(names, first, second, strict=True):
        assert one.shape == other.shape
        # An activation clips the sums, not the rounding that they carry.
        assert np.abs(one - other).max() <= 3e-5 * max(1, np.abs(one).max()), name
        spec = facts.tensors[name]
        assert one.dtype == spec.dtype
        assert all(side in (None, real) for side, real in zip(spec.shape, one.shape, strict=True))


def test_exposing_changes_no_output(opened, kind):
    layer = read_graph(VISION).flow().layers[-1]
    engine = open_engine(kind, VISION, expose=(layer, "features", layer))
    assert list(engine.outputs) == [*opened[kind].outputs, layer]
    assert engine.inputs == opened[kind].inputs
    last, features = engine.run({"pixel_values": pixels(2)}, (layer, "features"))
    assert np.abs(last.mean((2, 3)) - features).max() <= 1e-5
    (plain,) = opened[kind].run({"pixel_values": pixels(2)}, ("features",))
    assert np.abs(plain - features).max() <= 1e-6


def test_what_a_fused_step_swallows_is_still_right(tmp_path, kind):
    """Both engines fold a normalisation and an activation into the convolution, unless they are asked for."""
    rng = np.random.default_rng(3)
    weights = {name: rng.uniform(0.5, 1.5, 4).astype(np.float32) for name in ("scale", "bias", "mean", "var")}
    weights["w"] = rng.normal(size=(4, 3, 1, 1)).astype(np.float32)
    path = drawn(
        tmp_path / "model.onnx",
        [
            ("Conv", ["x", "w"], ["convolved"], {}),
            ("BatchNormalization", ["convolved", "scale", "bias", "mean", "var"], ["normed"], {}),
            ("Relu", ["normed"], ["y"], {}),
        ],
        {"x": (TensorProto.FLOAT, ["n", 3, 5, 5])},
        {"y": (TensorProto.FLOAT, ["n", 4, 5, 5])},
        weights,
    )
    x = rng.normal(size=(2, 3, 5, 5)).astype(np.float32)
    convolved = np.einsum("oi,nihw->nohw", weights["w"][:, :, 0, 0], x)
    scale, bias, mean, var = (weights[name][:, None, None] for name in ("scale", "bias", "mean", "var"))
    normed = (convolved - mean) / np.sqrt(var + 1e-5) * scale + bias
    names = ("convolved", "normed", "y")
    found = open_engine(kind, path, expose=names).run({"x": x}, names)
    for expected, real in zip((convolved, normed, np.maximum(normed, 0)), found, strict=True):
        assert np.abs(expected - real).max() <= 1e-5


def test_names_of_one_and_the_same_tensor_are_kept_apart(tmp_path, kind):
    """OpenVINO drops steps that do nothing, and with them the names around."""
    path = drawn(
        tmp_path / "model.onnx",
        [
            ("Identity", ["x"], ["same"], {}),
            ("Relu", ["same"], ["r"], {}),
            ("Identity", ["r"], ["y"], {}),
            ("Cast", ["r"], ["z"], {"to": TensorProto.FLOAT}),
            ("Dropout", ["r"], ["kept"], {}),
            ("Neg", ["kept"], ["q"], {}),
        ],
        {"x": (TensorProto.FLOAT, ["n", 2])},
        {name: (TensorProto.FLOAT, ["n", 2]) for name in "yzq"},
    )
    x = np.float32([[1, -2], [-3, 4]])
    positive = np.maximum(x, 0)
    expected = {"same": x, "r": positive, "kept": positive, "y": positive, "z": positive, "q": -positive}
    for expose in ((), ("r",), ("same", "kept"), ("y", "r", "same", "kept")):
        engine = open_engine(kind, path, expose=expose)
        assert list(engine.inputs) == ["x"]
        assert set(engine.outputs) == {*"yzq", *expose}
        for name, real in zip(engine.outputs, engine.run({"x": x}, list(engine.outputs)), strict=True):
            assert np.array_equal(real, expected[name]), name


@pytest.mark.parametrize("name", ["nonsense", "pixel_values", "_fc.bias", ""])
def test_what_the_graph_does_not_compute_cannot_be_exposed(kind, name):
    with pytest.raises(EngineError, match=r"vision_model\.onnx computes no tensor"):
        open_engine(kind, VISION, expose=(name,))


def test_case_12_output_by_name(tmp_path, kind):
    """Two graphs of one shape that differ in the order of their outputs give the same vectors by name."""
    weights = {
        name: np.random.default_rng(i).normal(size=(4, 4)).astype(np.float32) for i, name in enumerate("ab")
    }
    x = np.eye(4, dtype=np.float32)
    for order in (("pooler_output", "last_hidden_state"), ("last_hidden_state", "pooler_output")):
        path = drawn(
            tmp_path / order[0] / "model.onnx",
            [
                ("MatMul", ["x", "a"], ["last_hidden_state"], {}),
                ("MatMul", ["x", "b"], ["pooler_output"], {}),
            ],
            {"x": (TensorProto.FLOAT, ["n", 4])},
            {name: (TensorProto.FLOAT, ["n", 4]) for name in order},
            weights,
        )
        engine = open_engine(kind, path)
        assert tuple(engine.outputs) == order
        pooled, hidden = engine.run({"x": x}, ("pooler_output", "last_hidden_state"))
        assert np.abs(pooled - weights["b"]).max() <= 1e-6
        assert np.abs(hidden - weights["a"]).max() <= 1e-6
        with pytest.raises(EngineError, match="sentence_embedding"):
            engine.run({"x": x}, ("sentence_embedding",))


def random_network(path: Path) -> Path:
    """Convolution, pooling, two dense layers and a softmax, with random weights."""
    rng = np.random.default_rng(5)
    weights = {
        "w1": rng.normal(size=(16, 3, 3, 3)) / 5,
        "w2": rng.normal(size=(16, 48)) / 4,
        "w3": rng.normal(size=(48, 32)) / 7,
    }
    return drawn(
        path,
        [
            ("Conv", ["pixel_values", "w1"], ["c"], {"pads": [1, 1, 1, 1]}),
            ("Relu", ["c"], ["r"], {}),
            ("GlobalAveragePool", ["r"], ["g"], {}),
            ("Flatten", ["g"], ["f"], {}),
            ("MatMul", ["f", "w2"], ["h"], {}),
            ("Tanh", ["h"], ["t"], {}),
            ("MatMul", ["t", "w3"], ["logits"], {}),
            ("Softmax", ["logits"], ["shares"], {}),
        ],
        {"pixel_values": (TensorProto.FLOAT, ["n", 3, "h", "w"])},
        {"logits": (TensorProto.FLOAT, ["n", 32]), "shares": (TensorProto.FLOAT, ["n", 32])},
        {name: value.astype(np.float32) for name, value in weights.items()},
    )


@pytest.mark.parametrize("graph", ["vision", "text", "random"])
def test_case_30_batch_invariance(tmp_path, kind, graph):
    """What comes of a row does not depend on the rows beside it, nor on where it stands among them."""
    if graph == "text":
        path, feeds, outputs = TEXT, tokens(9), ("sentence_embedding", "last_hidden_state")
    elif graph == "vision":
        path, feeds, outputs = VISION, {"pixel_values": pixels(9)}, ("image_embeds", "features")
    else:
        path, outputs = random_network(tmp_path / "model.onnx"), ("logits", "shares")
        feeds = {"pixel_values": np.random.default_rng(1).normal(size=(9, 3, 33, 50)).astype(np.float32)}
    engine = open_engine(kind, path)
    together = engine.run(feeds, outputs)
    for rows in ([0], [8], [3, 7], [5, 1, 2], [8, 7, 6, 5, 4, 3, 2, 1, 0]):
        parts = engine.run({name: values[rows] for name, values in feeds.items()}, outputs)
        for whole, part in zip(together, parts, strict=True):
            assert np.abs(whole[rows] - part).max() <= 1e-6


def test_case_30_batch_invariance_of_padded_texts(kind):
    """A text beside a longer one is padded to its length."""
    engine = open_engine(kind, TEXT)
    (alone,) = engine.run(tokens(1), ("sentence_embedding",))
    for padding in (1, 8, 40, 200):
        (padded,) = engine.run(tokens(1, padding=padding), ("sentence_embedding",))
        assert np.abs(alone - padded).max() <= 1e-6


@pytest.mark.parametrize(
    ("dtype", "code"),
    [
        ("float32", TensorProto.FLOAT),
        ("float16", TensorProto.FLOAT16),
        ("uint8", TensorProto.UINT8),
        ("int64", TensorProto.INT64),
        ("int32", TensorProto.INT32),
    ],
)
def test_inputs_of_every_type_that_models_take(tmp_path, kind, dtype, code):
    path = drawn(
        tmp_path / "model.onnx",
        [("Cast", ["x"], ["c"], {"to": TensorProto.FLOAT}), ("Add", ["c", "half"], ["y"], {})],
        {"x": (code, ["n", 3])},
        {"y": (TensorProto.FLOAT, ["n", 3])},
        {"half": np.float32(0.5).reshape(1)},
    )
    engine = open_engine(kind, path)
    assert (engine.inputs["x"].dtype, engine.inputs["x"].shape) == (dtype, (None, 3))
    x = np.array([[0, 1, 200]], dtype)
    (y,) = engine.run({"x": x}, ("y",))
    assert np.array_equal(y, [[0.5, 1.5, 200.5]])
    with pytest.raises(EngineError, match=dtype):
        engine.run({"x": x.astype(np.float64)}, ("y",))


def test_half_precision_outputs_come_as_they_are(tmp_path, kind):
    """Also what does not fit into them: the caller is to see it."""
    path = drawn(
        tmp_path / "model.onnx",
        [("Mul", ["x", "x"], ["squared"], {}), ("Sub", ["squared", "squared"], ["y"], {})],
        {"x": (TensorProto.FLOAT16, ["n", 3])},
        {"squared": (TensorProto.FLOAT16, ["n", 3]), "y": (TensorProto.FLOAT16, ["n", 3])},
    )
    engine = open_engine(kind, path)
    assert engine.outputs["y"].dtype == "float16"
    squared, y = engine.run({"x": np.float16([[2, 300, np.inf]])}, ("squared", "y"))
    assert squared.dtype == y.dtype == np.float16
    assert np.array_equal(squared, np.float16([[4, np.inf, np.inf]]))
    assert y[0, 0] == 0
    assert np.isnan(y[0, 2])


@pytest.fixture
def apart(tmp_path):
    """A graph with its weights in a file of their own, and what it makes of ones."""
    weights = {
        name: np.random.default_rng(i).normal(size=(64, 64)).astype(np.float32) / 8
        for i, name in enumerate("ab")
    }
    path = drawn(
        tmp_path / "apart" / "model.onnx",
        [("MatMul", ["x", "a"], ["h"], {}), ("Relu", ["h"], ["r"], {}), ("MatMul", ["r", "b"], ["y"], {})],
        {"x": (TensorProto.FLOAT, ["n", 64])},
        {"y": (TensorProto.FLOAT, ["n", 64])},
        weights,
        save_as_external_data=True,
        location="model.onnx_data",
        size_threshold=0,
    )
    hidden = np.ones((1, 64), np.float32) @ weights["a"]
    return path, {"h": hidden, "y": np.maximum(hidden, 0) @ weights["b"]}


def linked(graph: Path, root: Path, how: str) -> Path:
    """The graph and its weights as they lie in a folder, or as links into the cache of a hub."""
    if how == "files":
        return graph
    blobs, snapshot = root / "blobs", root / "snapshots" / "0123abcd" / "onnx"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for name, digest in (("model.onnx", "aaaa"), ("model.onnx_data", "bbbb")):
        folder = root / "elsewhere" if how == "two folders" and digest == "bbbb" else blobs
        folder.mkdir(exist_ok=True)
        shutil.copy(graph.with_name(name), folder / digest)
        if how == "only weights linked" and name == "model.onnx":
            shutil.copy(graph, snapshot / name)
        else:
            (snapshot / name).symlink_to(Path("../../..") / folder.name / digest)
    return snapshot / "model.onnx"


@pytest.mark.parametrize("expose", [(), ("h",)], ids=["plain", "exposed"])
@pytest.mark.parametrize("how", ["files", "links", "only weights linked", "two folders"])
def test_weights_in_a_file_of_their_own(apart, tmp_path, monkeypatch, kind, how, expose):
    """Both engines refuse weights outside the graph's folder; in the cache of a hub that is where they lie."""
    monkeypatch.chdir("/")  # OpenVINO takes the current folder for that of a graph without a path.
    path = linked(apart[0], tmp_path, how)
    engine = open_engine(kind, path, expose=expose)
    names = ("y", *expose)
    for name, real in zip(names, engine.run({"x": np.ones((1, 64), np.float32)}, names), strict=True):
        assert np.abs(real - apart[1][name]).max() <= 1e-5


@pytest.mark.parametrize("expose", [(), ("h",)], ids=["plain", "exposed"])
@pytest.mark.parametrize("damage", ["missing", "dangling", "truncated", "empty"])
def test_a_damaged_file_of_weights_is_named(apart, kind, damage, expose):
    weights = apart[0].with_name("model.onnx_data")
    content = weights.read_bytes()
    weights.unlink()
    if damage == "dangling":
        weights.symlink_to("nowhere")
    elif damage != "missing":
        weights.write_bytes(content[:1000] if damage == "truncated" else b"")
    says = "missing" if damage in ("missing", "dangling") else f"{len(content)}"
    with pytest.raises(EngineError, match=rf"model\.onnx_data.*{says}"):
        open_engine(kind, apart[0], expose=expose)


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "a/../../secret"])
def test_weights_are_not_taken_from_anywhere(apart, kind, location):
    """A graph is somebody else's file: what it names as its weights must lie beside it."""
    path = apart[0]
    shutil.copy(path.with_name("model.onnx_data"), path.parents[1] / "secret")
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())
    for expose in ((), ("h",)):
        with pytest.raises(EngineError, match=r"model\.onnx"):
            open_engine(kind, path, expose=expose)


def test_an_operator_that_no_engine_knows_is_named(tmp_path, kind):
    path = drawn(
        tmp_path / "model.onnx",
        [("Frobnicate", ["x"], ["y"], {"domain": "org.example"})],
        {"x": (TensorProto.FLOAT, ["n", 3])},
        {"y": (TensorProto.FLOAT, ["n", 3])},
    )
    for expose in ((), ("y",)):
        with pytest.raises(EngineError, match=r"model\.onnx") as caught:
            open_engine(kind, path, expose=expose)
        assert "Frobnicate" in str(caught.value) or "org.example" in str(caught.value)
