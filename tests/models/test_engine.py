"""Both engines give the same numbers, refuse what is not right, and send nothing anywhere."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

import bowerbird as bb
from bowerbird.errors import BowerbirdError, EngineError
from bowerbird.models.fetch import locate
from bowerbird.models.engine import ENGINES, open_engine

VISION = locate("mini").directory / "onnx" / "vision_model.onnx"


@pytest.fixture(params=list(ENGINES))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def opened():
    return {kind: open_engine(kind, VISION) for kind in ENGINES}


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
        assert (tower["precision"], tower["drift"]) == ("fp32", 1.0)
        assert tower["reason"] == "exact was asked for"
    assert numerics["image"]["scaled"] is None


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
