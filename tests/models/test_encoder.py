"""One outcome for every input, at its own place, whatever is beside it."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import bowerbird as bb
from bowerbird.errors import (
    DecodeError,
    InputError,
    InputErrors,
    ModelFormatError,
    UnreadableError,
    UnsupportedInputError,
)


def image(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC)


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    image(seed).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Kind of input -> (the input, the error it ends in or None)."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "good.png").write_bytes(png(1))
    (folder / "text.jpg").write_text("not a picture")
    (folder / "empty.jpg").write_bytes(b"")
    return {
        "text": ("a red dress", None),
        "empty text": ("", None),
        "surrogate": ("\udcff", None),
        "path": (folder / "good.png", None),
        "bytes": (png(2), None),
        "pillow": (image(3), None),
        "array": (np.asarray(image(4)), None),
        "grey array": (np.asarray(image(5).convert("L")), None),
        "missing path": (folder / "missing.png", UnreadableError),
        "folder": (folder, InputError),
        "text as picture": (folder / "text.jpg", DecodeError),
        "empty file": (folder / "empty.jpg", DecodeError),
        "junk bytes": (b"junk", DecodeError),
        "cut": (png(2)[:60], DecodeError),
        "float array": (np.zeros((4, 4, 3), np.float32), UnsupportedInputError),
        "long array": (np.zeros((4, 4, 4, 4), np.uint8), UnsupportedInputError),
        "none": (None, UnsupportedInputError),
        "number": (5, UnsupportedInputError),
        "bytearray": (bytearray(b"x"), UnsupportedInputError),
        "elongated": (np.zeros((1, 20_000, 3), np.uint8), UnsupportedInputError),
    }


@pytest.fixture(scope="module")
def exact(private_places):
    return bb.load("mini", precision="exact")


@pytest.fixture(scope="module")
def alone(exact, kinds):
    return {name: exact.outcomes([value])[0] for name, (value, _) in kinds.items()}


NAMES = (
    "text",
    "empty text",
    "surrogate",
    "path",
    "bytes",
    "pillow",
    "array",
    "grey array",
    "missing path",
    "folder",
    "text as picture",
    "empty file",
    "junk bytes",
    "cut",
    "float array",
    "long array",
    "none",
    "number",
    "bytearray",
    "elongated",
)


class TestOutcomes:
    @settings(deadline=None, max_examples=15)
    @given(st.lists(st.sampled_from(NAMES), max_size=24))
    def test_one_for_each_input_in_order_and_independent_of_its_neighbours(self, exact, kinds, alone, names):
        outcomes = exact.outcomes([kinds[name][0] for name in names])
        assert [outcome.index for outcome in outcomes] == list(range(len(names)))
        for name, outcome in zip(names, outcomes, strict=True):
            expected = kinds[name][1]
            if expected:
                assert isinstance(outcome.error, expected), name
                assert outcome.vector is None
                assert str(outcome.error) == str(alone[name].error)
                assert "\n" not in str(outcome.error)
            else:
                assert outcome.error is None, name
                assert outcome.vector.dtype == np.float32
                assert np.linalg.norm(outcome.vector) == pytest.approx(1, abs=1e-5)
                assert np.abs(outcome.vector - alone[name].vector).max() <= 1e-6

    def test_every_kind_is_drawn(self, kinds):
        assert set(NAMES) == set(kinds)

    @pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
    def test_pictures_over_several_batches_in_any_order(self, engine):
        model = bb.load("mini", precision="exact", engine=engine)
        pictures = [image(seed, (20 + seed, 50)) for seed in range(19)]
        forward, backward = model.embed(pictures), model.embed(pictures[::-1])
        assert np.abs(forward - backward[::-1]).max() <= 1e-6
        for seed in (0, 15, 16, 18):
            assert np.abs(model.embed(pictures[seed])[0] - forward[seed]).max() <= 1e-6

    def test_raw_is_unit_times_norm(self, exact):
        side = exact.image
        pixels = side.pixels(side.open(image(1)))
        (raw,) = side.run([pixels], ("features",))
        (outcome,) = exact.outcomes(image(1), output="features")
        assert np.allclose(outcome.vector * outcome.norm, raw[0], rtol=1e-5, atol=1e-6)


class TestEmbed:
    def test_the_same_picture_given_in_every_way(self, exact, tmp_path):
        (tmp_path / "a.png").write_bytes(png(7))
        rows = exact.embed([tmp_path / "a.png", png(7), image(7), np.asarray(image(7))])
        assert np.abs(rows - rows[0]).max() <= 1e-6

    def test_single_inputs(self, model, tmp_path):
        (tmp_path / "a.png").write_bytes(png(7))
        for single in ("a cat", tmp_path / "a.png", png(7), image(7), np.asarray(image(7))):
            assert model.embed(single).shape == (1, 384)

    def test_a_generator(self, model):
        assert model.embed(text for text in ("a", "b", "c")).shape == (3, 384)

    def test_nothing(self, model):
        assert model.embed([]).shape == (0, 384)
        assert model.embed([]).dtype == np.float32
        assert model.embed([], output="features").shape == (0, 1280)
        assert model.outcomes(iter(())) == []

    def test_input_errors_hold_each_at_its_index(self, model, tmp_path):
        with pytest.raises(InputErrors) as caught:
            model.embed(["fine", tmp_path / "missing.jpg", image(1), b"junk"])
        error = caught.value
        assert set(error.errors) == {1, 3}
        assert isinstance(error.errors[1], UnreadableError)
        assert isinstance(error.errors[3], DecodeError)
        assert error.total == 4
        assert "missing.jpg" in str(error)
        assert "2 of 4" in str(error)
        assert str(pickle.loads(pickle.dumps(error))) == str(error)

    def test_outputs(self, model):
        shared, other = model.embed(image(1)), model.embed(image(1), output="features")
        assert (shared.shape, other.shape) == ((1, 384), (1, 1280))
        assert np.allclose(model.embed(image(1), output="image_embeds"), shared, atol=1e-6)
        assert model.image.dimensions("features") == 1280
        assert model.image.outputs == ("image_embeds", "features")

    @pytest.mark.parametrize(
        "inputs", [["a"], [image(1)], ["a", image(1)], []], ids=["text", "picture", "both", "none"]
    )
    def test_an_unknown_output_is_refused_and_the_known_ones_named(self, model, inputs):
        with pytest.raises(ModelFormatError, match="nonsense") as caught:
            model.embed(inputs, output="nonsense")
        assert "features" in str(caught.value)

    def test_texts_have_no_place_in_an_output_of_pictures_only(self, model):
        text, picture = model.outcomes(["a cat", image(1)], output="features")
        assert isinstance(text.error, UnsupportedInputError)
        assert picture.vector.shape == (1280,)


class TestOtherModels:
    def test_text_only(self, mini_copy, model):
        only = bb.load(str(mini_copy(image=False)))
        assert only.card.modalities == (bb.Modality.TEXT,)
        text, picture = only.outcomes(["a cat", image(1)])
        assert np.abs(text.vector - model.embed("a cat")[0]).max() <= 1e-6
        assert isinstance(picture.error, UnsupportedInputError)
        assert "takes no pictures" in str(picture.error)
        assert only.embed([]).shape == (0, 384)
        only.warm()
        assert set(only.numerics()) == {"text"}

    def test_image_only(self, mini_copy, model):
        only = bb.load(str(mini_copy(text=False)))
        (only.card.directory / "config.json").unlink(missing_ok=True)
        assert only.card.modalities == (bb.Modality.IMAGE,)
        picture, text = only.outcomes([image(1), "a cat"])
        assert np.abs(picture.vector - model.embed(image(1))[0]).max() <= 1e-6
        assert isinstance(text.error, UnsupportedInputError)
        assert only.embed([]).shape == (0, 384)

    @pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
    def test_a_value_that_is_not_a_number_is_an_error_at_its_own_place(self, tiny_image, engine):
        model = bb.load(str(tiny_image(divides=True)), engine=engine)
        black, white = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), (255,) * 3)
        outcomes = model.outcomes([white, black, white, black])
        assert [outcome.error is None for outcome in outcomes] == [True, False, True, False]
        assert "not a number" in str(outcomes[1].error)
        assert np.allclose(outcomes[0].vector, 3**-0.5)

    def test_a_network_of_another_shape_than_the_steps_say(self, tiny_image):
        directory = tiny_image()
        config = json.loads((directory / "preprocessor_config.json").read_text())
        (directory / "preprocessor_config.json").write_text(json.dumps({**config, "size": [9, 9]}))
        with pytest.raises(bb.BowerbirdError):
            bb.load(str(directory)).embed(image(1))


class TestSpace:
    def test_the_same_wherever_it_lies(self, mini_copy, model):
        copied = bb.load(str(mini_copy())).card
        assert copied.space == model.card.space
        assert len(copied.space) == 16
        assert copied.meaning() == model.card.meaning()
        assert copied.name == "copied"

    def test_the_same_in_every_precision_and_engine(self, model):
        for precision in ("auto", "exact", "fast"):
            for engine in ("onnxruntime", "openvino"):
                assert bb.load("mini", precision=precision, engine=engine).card.space == model.card.space

    def test_limits_are_no_part_of_it(self, monkeypatch, model):
        monkeypatch.setenv("BOWERBIRD_MAX_PIXELS", "1000")
        monkeypatch.setenv("BOWERBIRD_DECODE_SECONDS", "1")
        assert bb.load("mini").card.space == model.card.space

    @pytest.mark.parametrize(
        ("file", "change"),
        [
            ("sentence_bert_config.json", {"max_seq_length": 128}),
            ("1_Pooling/config.json", {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}),
            ("config_sentence_transformers.json", {"prompts": {"query": "find: "}}),
            ("tokenizer_config.json", {"pad_token": "[SEP]"}),
            ("tokenizer.json", {"version": "1.0", "added": True}),
            ("preprocessor_config.json", {"resample": 2}),
            ("preprocessor_config.json", {"image_mean": [0.5, 0.5, 0.5]}),
            ("preprocessor_config.json", {"crop_size": 225}),
            ("bowerbird.json", {"image": {"output": "features"}}),
            ("bowerbird.json", {"text": {"output": "last_hidden_state"}}),
        ],
        ids=str,
    )
    def test_another_when_anything_that_matters_changes(self, mini_copy, model, file, change):
        path = mini_copy() / file
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **change}), "utf-8")
        assert (
            bb.load(str(path.parent if file.count("/") == 0 else path.parents[1])).card.space
            != model.card.space
        )

    def test_another_when_a_graph_changes(self, tiny_image):
        assert bb.load(str(tiny_image())).card.space != bb.load(str(tiny_image("b", bits=8))).card.space

    def test_another_when_the_decode_changes(self, model):
        from dataclasses import replace

        card = model.card
        for change in ({"exif": False}, {"alpha": "drop"}, {"sixteen_bit": "clamp"}):
            tower = replace(card.image, decode=replace(card.image.decode, **change))
            assert replace(card, image=tower).space != card.space
        scaled = replace(card.image, decode=replace(card.image.decode, scaled=None))
        assert replace(card, image=scaled).space == card.space

    def test_what_says_nothing_of_vectors_changes_nothing(self, mini_copy, model):
        path = mini_copy() / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "id2label": {}}), "utf-8")
        assert bb.load(str(path.parent)).card.space == model.card.space


def test_the_card_travels(model, tmp_path):
    card = pickle.loads(pickle.dumps(model.card))
    assert card == model.card
    assert card.space == model.card.space
    assert bb.Encoder(card).embed("a cat").shape == (1, 384)


def test_towers_load_when_first_needed():
    model = bb.load("mini")
    assert model.numerics() == {}
    model.embed("a cat")
    assert set(model.numerics()) == {"text"}


def test_readme_of_the_package():
    assert bb.load("mini").embed(["a red dress", "a pair of shoes"]).shape == (2, 384)
    assert Path(bb.__file__).parent.joinpath("py.typed").exists()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
@given(st.integers(1, 300), st.integers(1, 300))
def test_any_small_size_has_a_vector(model, width, height):
    if max(width, height) > 200 * min(width, height):
        return
    (outcome,) = model.outcomes(np.zeros((height, width), np.uint8))
    assert outcome.error is None
