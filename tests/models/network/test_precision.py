"""The precision policy, decided with real engines on real graphs.

Few processors have bf16, so the decision is exercised with two graphs of one network: `fp32` opens the
original, `bf16` opens one whose weights are rounded to a few bits. Everything else is what `choose` does. In the same
way an engine that gets a graph wrong is one that opens another graph.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import bowerbird as bb
from bowerbird.models.network.engine import ENGINES, has_native_bf16, open_engine
from bowerbird.models.network.precision import (
    AUTO_BOUND,
    FP32_BOUND,
    choose,
    decide,
    drift_between,
    probe_pictures,
    probe_sentences,
)
from bowerbird.settings import settings

FAITHFUL, COARSE = 10, 2
"""Bits of the mantissa."""


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("BOWERBIRD_CACHE_DIR", str(tmp_path / "cache"))


class Tower:
    """A tiny picture tower with its probe; counts what is opened and probed."""

    def __init__(self, tiny_image, kind: str, bits: int) -> None:
        self.kind = kind
        self.graphs = {
            "fp32": tiny_image("original") / "onnx" / "vision_model.onnx",
            "bf16": tiny_image("rounded", bits=bits) / "onnx" / "vision_model.onnx",
        }
        self.side = bb.load(str(tiny_image("side")), engine="onnxruntime", precision="exact").image
        self.wrong: Path | None = None
        """What the engine opens in fp32 instead of the original; the reference engine is always right."""
        self.opened: list[tuple[str, str]] = []
        self.probed = 0

    def open(self, kind: str, name: str):
        self.opened.append((kind, name))
        wrong = self.wrong if (kind, name) == ("openvino", "fp32") else None
        return open_engine(kind, wrong or self.graphs[name])

    def probe(self, engine):
        self.probed += 1
        return self.side._probe(engine)

    def decide(self, policy: str, fingerprint: str = "tower", has_bf16: bool = True):
        return decide(policy, self.kind, self.open, self.probe, fingerprint=fingerprint, has_bf16=has_bf16)


@pytest.fixture(params=list(ENGINES))
def kind(request):
    return request.param


def weights_of(engine) -> np.ndarray:
    """What the network answers to one bright pixel: a row of its matrix, so that we see which graph it is."""
    pixels = np.zeros((1, 3, 8, 8), np.float32)
    pixels[0, 0, 0, 0] = 1
    return engine.run({"pixel_values": pixels}, ("image_embeds",))[0]


class TestDecision:
    def test_auto_takes_what_stays_within_the_bound(self, tiny_image, kind):
        tower = Tower(tiny_image, kind, FAITHFUL)
        choice, engine = tower.decide("auto")
        assert (choice.engine, choice.precision) == (kind, "bf16")
        assert AUTO_BOUND <= choice.drift <= 1.00001
        assert f"{choice.drift:.5f}" in choice.reason
        assert np.array_equal(weights_of(engine), weights_of(tower.open(kind, "bf16")))

    def test_auto_refuses_what_does_not(self, tiny_image, kind):
        tower = Tower(tiny_image, kind, COARSE)
        choice, engine = tower.decide("auto")
        assert (choice.precision, choice.drift) == ("fp32", pytest.approx(1, abs=1e-5))
        assert "would cost" in choice.reason
        assert np.array_equal(weights_of(engine), weights_of(tower.open(kind, "fp32")))

    def test_fast_takes_it_anyway_and_says_what_it_costs(self, tiny_image, kind):
        choice, _ = Tower(tiny_image, kind, COARSE).decide("fast")
        assert choice.precision == "bf16"
        assert 0.5 < choice.drift < AUTO_BOUND
        assert f"{choice.drift:.5f}" in choice.reason

    @pytest.mark.parametrize("policy", ["auto", "fast"])
    def test_without_bf16_the_reference_is_not_probed(self, tiny_image, policy):
        tower = Tower(tiny_image, "onnxruntime", FAITHFUL)
        choice, _ = tower.decide(policy, has_bf16=False)
        assert (choice.precision, tower.opened, tower.probed) == ("fp32", [("onnxruntime", "fp32")], 0)
        assert "has no bf16" in choice.reason

    def test_exact_does_not_probe_the_reference(self, tiny_image):
        tower = Tower(tiny_image, "onnxruntime", FAITHFUL)
        assert tower.decide("exact")[0].reason == "exact was asked for"
        assert (tower.opened, tower.probed) == ([("onnxruntime", "fp32")], 0)

    @pytest.mark.parametrize("policy", ["auto", "fast", "exact"])
    def test_another_engine_is_measured_against_the_reference_in_fp32_too(self, tiny_image, policy):
        tower = Tower(tiny_image, "openvino", FAITHFUL)
        choice, engine = tower.decide(policy, has_bf16=False)
        assert (choice.engine, choice.precision, tower.probed) == ("openvino", "fp32", 2)
        assert FP32_BOUND <= choice.drift <= 1.00001
        assert engine.name.startswith("openvino")

    @pytest.mark.parametrize("policy", ["auto", "fast", "exact"])
    def test_an_engine_that_is_wrong_gives_way_to_the_reference_and_says_so(self, tiny_image, policy, caplog):
        tower = Tower(tiny_image, "openvino", COARSE)
        tower.wrong = tower.graphs["bf16"]
        choice, engine = tower.decide(policy, has_bf16=False)
        assert (choice.engine, choice.precision, choice.drift) == ("onnxruntime", "fp32", 1.0)
        assert "openvino in fp32 is at cosine 0.9" in choice.reason
        assert "onnxruntime runs it instead" in caplog.text
        assert engine.name.startswith("onnxruntime")

    def test_the_drift_found_is_that_of_the_vectors(self, tiny_image, kind):
        tower = Tower(tiny_image, kind, COARSE)
        choice, _ = tower.decide("fast")
        (reference,), (rounded,) = (tower.side._probe(tower.open(kind, name)) for name in ("fp32", "bf16"))
        assert len(reference) == len(probe_pictures())
        cosines = [
            a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(reference, rounded, strict=True)
        ]
        assert choice.drift == pytest.approx(min(cosines), abs=1e-6)

    def test_a_network_that_breaks_is_refused(self, tiny_image):
        tower = Tower(tiny_image, "onnxruntime", FAITHFUL)
        tower.graphs["bf16"] = tiny_image("divides", divides=True) / "onnx" / "vision_model.onnx"
        black = np.zeros((1, 3, 8, 8), np.float32)
        choice, _ = decide(
            "auto",
            "onnxruntime",
            tower.open,
            lambda engine: engine.run({"pixel_values": black}, ("image_embeds",)),
            fingerprint="breaks",
            has_bf16=True,
        )
        assert choice.precision == "fp32"

    @pytest.mark.parametrize("policy", ["auto", "fast"])
    def test_an_engine_that_refuses_the_graph_in_bf16_runs_it_in_fp32(self, tiny_image, policy, tmp_path):
        tower = Tower(tiny_image, "onnxruntime", FAITHFUL)
        tower.graphs["bf16"] = tmp_path / "refused.onnx"
        tower.graphs["bf16"].write_bytes(b"no graph")
        choice, _ = tower.decide(policy)
        assert choice.precision == "fp32"

    def test_choose_on_this_processor(self, tiny_image, kind):
        tower = Tower(tiny_image, kind, FAITHFUL)
        choice, engine = choose("auto", kind, graph=tower.graphs["fp32"], fingerprint="x", probe=tower.probe)
        possible = kind == "openvino" and has_native_bf16()
        probed = 0 if kind == "onnxruntime" else 2
        assert possible or (choice.precision, tower.probed) == ("fp32", probed)
        assert engine.precision == choice.precision


class TestCache:
    def files(self) -> list[Path]:
        return sorted((settings().cache_path / "probes").glob("*"))

    def test_written_and_used_again(self, tiny_image, kind):
        tower = Tower(tiny_image, kind, FAITHFUL)
        first, _ = tower.decide("auto")
        assert tower.probed == 2
        assert len(self.files()) == 1
        tower.opened.clear()
        again, _ = tower.decide("auto")
        assert again == first
        assert (tower.probed, tower.opened) == (2, [(kind, "bf16")])  # only what is used is opened

    def test_each_tower_has_its_own(self, tiny_image):
        tower = Tower(tiny_image, "onnxruntime", FAITHFUL)
        tower.decide("auto", "one")
        tower.decide("auto", "two")
        assert tower.probed == 4
        assert len(self.files()) == 2

    @pytest.mark.parametrize(
        "content", ["", "{}", '{"drift": NaN}', '{"drift": 7}', '{"drift": null}', "[1]", "\xff"]
    )
    def test_a_damaged_file_is_probed_anew_and_mended(self, tiny_image, content):
        tower = Tower(tiny_image, "onnxruntime", COARSE)
        tower.decide("auto")
        (path,) = self.files()
        path.write_bytes(content.encode("latin-1"))
        assert tower.decide("auto")[0].precision == "fp32"
        assert tower.probed == 4
        assert json.loads(path.read_text())["drift"] < AUTO_BOUND

    def test_a_cache_that_cannot_be_written_costs_only_time(self, tiny_image, monkeypatch, tmp_path):
        (tmp_path / "file").write_text("not a directory")
        monkeypatch.setenv("BOWERBIRD_CACHE_DIR", str(tmp_path / "file" / "cache"))
        tower = Tower(tiny_image, "onnxruntime", FAITHFUL)
        assert tower.decide("auto")[0].precision == "bf16"
        assert tower.decide("auto")[0].precision == "bf16"
        assert tower.probed == 4


rows = hnp.arrays(
    np.float32, (3, 5), elements=st.floats(-4, 4, width=32).filter(lambda x: x == 0 or abs(x) > 0.01)
)


class TestDrift:
    @given(rows)
    def test_of_a_run_with_itself_and_with_its_opposite(self, array):
        array[:, 0] = 1
        assert drift_between([array], [array]) == pytest.approx(1, abs=1e-5)
        assert drift_between([array], [-array]) == pytest.approx(-1, abs=1e-5)
        assert drift_between([array], [array * 3]) == pytest.approx(1, abs=1e-5)

    def test_is_the_least_of_all_outputs_and_rows(self):
        good = np.eye(4, dtype=np.float32)
        bad = good.copy()
        bad[2] = [0, 0, 0.6, 0.8]
        assert drift_between([good, good], [good, bad]) == pytest.approx(0.6)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("side", [0, 1])
    def test_what_is_not_finite_is_worst(self, value, side):
        runs = [np.ones((2, 3), np.float32), np.ones((2, 3), np.float32)]
        runs[side][1, 1] = value
        assert drift_between([runs[0]], [runs[1]]) == -1.0


def test_probes_are_photographs_and_sentences():
    assert len(probe_pictures()) >= 5
    assert all(data[:2] == b"\xff\xd8" for data in probe_pictures())
    assert len(probe_sentences()) >= 5
    assert all(sentence.strip() for sentence in probe_sentences())
