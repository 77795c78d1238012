"""A model under other conditions: prepared arrays, own steps, layers, poolings, token vectors, fewer dimensions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

import bowerbird as bb
from bowerbird.errors import (
    BowerbirdError,
    EngineError,
    InputErrors,
    ModelError,
    ModelFormatError,
    SpaceMismatchError,
)
from bowerbird.models.card import Options
from bowerbird.models.network.engine import open_engine
from bowerbird.models.network.precision import probe_pictures

from .conftest import save_graph, write_json


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{number}.jpg" for number in range(4)]
    for path, data in zip(paths, probe_pictures(), strict=False):
        path.write_bytes(data)
    return paths


@pytest.fixture(scope="module")
def mini() -> bb.Encoder:
    return bb.load("mini", precision="exact")


def prepared(model: bb.Encoder, paths: list[Path]) -> np.ndarray:
    side = model.image
    return side.tower.steps.feeds([side.pixels(side.open(path)) for path in paths])["pixel_values"]


class TestPrepared:
    def test_arrays_that_are_ready_give_the_same_vectors(self, mini, pictures):
        arrays = prepared(mini, pictures)
        expected = mini.embed(pictures)
        assert np.array_equal(mini.embed(arrays, preprocess="none"), expected)
        assert np.array_equal(mini.embed(list(arrays), preprocess="none"), expected)
        assert np.array_equal(mini.embed(arrays[0], preprocess="none"), expected[:1])

    @pytest.mark.parametrize(
        ("spoil", "what"),
        [
            (lambda a: a.astype(np.float64), "float64"),
            (lambda a: (a * 255).astype(np.uint8), "uint8"),
            (lambda a: a[:, :100], r"\(3, 100, 224\)"),
            (lambda a: a.transpose(1, 2, 0), r"\(224, 224, 3\)"),
            (lambda a: a[0], r"\(224, 224\)"),
            (lambda a: (a + 1) * 127.5, "255"),
            (lambda a: np.full_like(a, np.nan), "nan"),
        ],
        ids=["float64", "uint8", "height", "channels last", "no channels", "range", "nan"],
    )
    def test_what_is_not_says_what_would_be_accepted_at_its_own_place(self, mini, pictures, spoil, what):
        first, second = prepared(mini, pictures[:2])
        with pytest.raises(InputErrors) as caught:
            mini.embed([first, spoil(second)], preprocess="none")
        assert list(caught.value.errors) == [1]
        error = str(caught.value.errors[1])
        assert "float32 of shape 3x224x224 from -0.9922 to 1" in error
        assert __import__("re").search(what, error)

    def test_a_file_is_not_a_prepared_array(self, mini, pictures):
        with pytest.raises(InputErrors, match=r"PosixPath|WindowsPath"):
            mini.embed(pictures[0], preprocess="none")


class TestOwnSteps:
    def test_recorded_in_the_fingerprint_and_different_in_the_vectors(self, mini, pictures):
        recipe = str(mini.image.tower.steps).replace("bicubic", "nearest")
        steps = bb.Steps.parse(recipe)
        changed = mini.adapted(preprocess=steps)
        assert changed.card.space != mini.card.space
        assert changed.card.image.steps == steps
        assert np.array_equal(mini.embed(pictures, preprocess=recipe), changed.embed(pictures))
        cosines = (changed.embed(pictures, output="features") * mini.embed(pictures, output="features")).sum(
            1
        )
        assert 0.3 < cosines.min() < 0.99

    def test_the_models_own_steps_written_out_change_nothing(self, mini, pictures):
        steps = mini.image.tower.steps
        assert mini.adapted(preprocess=steps).card.space == mini.card.space
        assert np.array_equal(mini.embed(pictures, preprocess=steps), mini.embed(pictures))

    def test_pictures_of_different_sizes_go_to_the_network_one_by_one(self, tmp_path, pictures):
        model = bb.load(str(any_size(tmp_path / "any")))
        recipe = "resize short side 16 bilinear -> x * 1/255"
        together = model.embed(pictures, preprocess=recipe)
        apart = np.concatenate([model.embed(path, preprocess=recipe) for path in pictures])
        assert together.shape == (4, 3)
        assert np.array_equal(together, apart)

    def test_a_recipe_that_is_not_understood(self, mini):
        with pytest.raises(BowerbirdError, match="sqush"):
            mini.adapted(preprocess="sqush 224")

    def test_steps_that_end_in_another_size_than_the_graph_takes(self, mini, pictures):
        with pytest.raises(ModelFormatError, match=r"takes 'pixel_values' of 224x224, .* ends in 200x200"):
            mini.embed(pictures, preprocess="resize 200x200 bicubic -> x * 1/255")


class TestLayers:
    def test_a_named_tensor(self, mini, pictures):
        side = mini.image
        name = mini.adapted(layer=-1).card.image.tensors[0][1]
        engine = open_engine("onnxruntime", side.tower.graph.path, expose=[name])
        (maps,) = engine.run({"pixel_values": prepared(mini, pictures)}, [name])
        assert maps.ndim == 4
        expected = maps.astype(np.float64).mean((2, 3))
        found = mini.embed(pictures, layer=name)
        cosines = (found * expected).sum(1) / np.linalg.norm(expected, axis=1)
        assert cosines.min() > 0.999999
        assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)

    @pytest.mark.parametrize("pooling", ["avg", "max", "gem", "cls"])
    def test_poolings_are_what_they_say(self, mini, pictures, pooling):
        places = np.asarray(mini.embed(pictures, layer=-1, pooling="none", normalize=False), np.float64)
        assert places.ndim == 3
        expected = {
            "avg": places.mean(1),
            "max": places.max(1),
            "cls": places[:, 0],
            "gem": np.cbrt((np.maximum(places, 1e-6) ** 3).mean(1)),
        }[pooling]
        found = mini.embed(pictures, layer=-1, pooling=pooling, normalize=False)
        assert np.allclose(found, expected, atol=1e-4)

    def test_another_layer_is_another_space(self, mini):
        spaces = {mini.adapted(layer=layer).card.space for layer in (-1, -2, 0, "penultimate")}
        assert len(spaces | {mini.card.space}) == 5

    def test_a_tensor_of_one_tower_leaves_out_the_other(self, mini, pictures):
        name = mini.adapted(layer=-2).card.image.tensors[0][1]
        with pytest.raises(InputErrors, match="takes no texts"):
            mini.embed("a cat", layer=name)

    def test_a_number_that_only_one_tower_has_leaves_out_the_other(self, mini, pictures):
        assert len(mini.embed(pictures, layer=25)) == 4
        with pytest.raises(InputErrors, match="takes no texts under layer:25"):
            mini.embed("a cat", layer=25)

    def test_a_layer_that_is_not_there(self, mini):
        with pytest.raises(ModelError, match="nope"):
            mini.adapted(layer="nope")
        with pytest.raises(ModelError, match="999"):
            mini.adapted(layer=999)

    def test_nothing_to_pool(self, mini):
        with pytest.raises(ModelFormatError, match="one vector for each input already"):
            mini.adapted(pooling="max")
        with pytest.raises(ModelFormatError, match="sideways"):
            mini.adapted(layer=-1, pooling="sideways")


class TestTokenVectors:
    def test_one_for_each_token_with_a_mask(self, mini):
        texts = ["football", "a long sentence about soccer and footwear", ""]
        vectors = mini.embed(texts, layer=-1, pooling="none")
        assert isinstance(vectors, np.ma.MaskedArray)
        lengths = [len(token.ids) for token in mini.text.tokens(texts)]
        assert vectors.shape == (3, max(lengths), 384)
        for row, length in zip(vectors, lengths, strict=True):
            assert not row.mask[:length].any()
            assert row.mask[length:].all()
            assert np.allclose(np.linalg.norm(row.data[:length], axis=1), 1, atol=1e-6)

    def test_their_mean_is_the_sentence(self, mini):
        texts = ["football", "soccer", "footwear is what one wears on the feet"]
        tokens = mini.embed(texts, layer=-1, pooling="none", normalize=False)
        mean = np.asarray(tokens.mean(1))
        cosines = (mean * mini.embed(texts)).sum(1) / np.linalg.norm(mean, axis=1)
        assert cosines.min() > 0.999999

    def test_the_sense_of_a_word_is_in_its_token(self, mini):
        ball, soccer, shoe = mini.embed(["football", "soccer", "footwear"], layer=-1, pooling="none")
        assert ball[1] @ soccer[1] > ball[1] @ shoe[1]


class TestDimensions:
    def test_truncated_then_scaled_to_one_again(self, mini, pictures):
        for inputs in (["a dress", "a hat"], pictures):
            whole = mini.embed(inputs)
            short = mini.embed(inputs, dimensions=64)
            expected = whole[:, :64] / np.linalg.norm(whole[:, :64], axis=1, keepdims=True)
            assert np.allclose(short, expected, atol=1e-6)

    def test_more_than_there_are(self, mini):
        with pytest.raises(BowerbirdError, match=r"5000.* 384"):
            mini.embed("a cat", dimensions=5000)
        with pytest.raises(BowerbirdError, match="whole number"):
            mini.embed("a cat", dimensions=-1)

    def test_none_at_all(self, mini):
        assert mini.embed([], dimensions=64).shape == (0, 64)


@given(
    st.builds(
        Options,
        profile=st.sampled_from(["", "hf4-pil", "timm"]),
        variant=st.sampled_from(["", "fp16"]),
        layer=st.sampled_from(["", "layer:-2", "penultimate"]),
        pooling=st.sampled_from(["", "max", "none"]),
        dimensions=st.integers(0, 4),
    )
)
def test_options_come_back_from_plain_data(options):
    assert Options.of(**options.to_dict()) == options
    assert Options().over(options) == options
    assert options.over(Options(layer="x", pooling="gem")).layer == (options.layer or "x")


def test_logits_as_they_are(tmp_path, pictures):
    """A classifier that publishes no embedding: its features are the vectors, its logits stay to be had."""
    model = bb.load(str(classifier(tmp_path / "classifier")))
    assert model.card.image.output == "penultimate"
    features = model.embed(pictures, normalize=False)
    weights = np.arange(15, dtype=np.float32).reshape(3, 5)
    logits = model.embed(pictures, output="logits", normalize=False)
    assert np.allclose(logits, features @ weights, rtol=1e-4, atol=1e-4)
    unit = model.embed(pictures, output="logits")
    assert np.allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)


def test_case_12_output_by_name_never_by_position(tmp_path, pictures):
    """The embedding is found whether it comes first or last among the outputs."""
    vectors = []
    for number, order in enumerate(
        [("last_hidden_state", "image_embeds"), ("image_embeds", "last_hidden_state")]
    ):
        model = bb.load(str(two_outputs(tmp_path / str(number), order)))
        assert model.card.image.output == "image_embeds"
        vectors.append(model.embed(pictures))
    assert vectors[0].shape == (4, 3)
    assert np.array_equal(*vectors)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_case_37_fp16_nan_guard(tmp_path, pictures, engine):
    """fp16 ends at 65,504: a graph that goes beyond it is refused when it is loaded, not when a search looks odd."""
    directory = any_size(tmp_path / "half", variant="_fp16", scale=1e6, dtype=TensorProto.FLOAT16)
    with pytest.raises(EngineError, match=r"vision_model_fp16\.onnx gives values that are not numbers"):
        bb.load(str(directory), variant="fp16", engine=engine).embed(pictures)
    fine = any_size(tmp_path / "fine", variant="_fp16", scale=2, dtype=TensorProto.FLOAT16)
    assert np.isfinite(bb.load(str(fine), variant="fp16", engine=engine).embed(pictures)).all()


def test_case_38_a_fingerprint_mismatch_refuses_to_query(tmp_path, pictures, mini):
    index = bb.Index.create(
        tmp_path / "own.bower", mini.adapted(preprocess="resize 224x224 bicubic -> x * 1/255")
    )
    index.add(pictures)
    with pytest.raises(SpaceMismatchError, match=r"image\.steps"):
        bb.Index.open(tmp_path / "own.bower", mini)
    again = bb.Index.open(tmp_path / "own.bower")
    assert again.model.card.space == index.model.card.space != mini.card.space
    assert again.search(pictures[0], k=1).ids == index.search(pictures[0], k=1).ids


def test_a_layer_can_be_indexed_and_found_again(tmp_path, pictures, mini):
    bb.Index.create(tmp_path / "layer.bower", mini.adapted(layer=-2, pooling="gem")).add(pictures)
    again = bb.Index.open(tmp_path / "layer.bower")
    assert again.model.card.options == Options(layer="layer:-2", pooling="gem")
    hits = again.search(pictures[2], k=1)
    assert hits[0].score == pytest.approx(1, abs=1e-5)


def config(directory: Path, **more: object) -> Path:
    write_json(
        directory / "preprocessor_config.json",
        {
            "image_processor_type": "ViTImageProcessor",
            "size": {"height": 8, "width": 8},
            "do_normalize": False,
        },
    )
    write_json(directory / "config.json", more)
    return directory


def any_size(directory: Path, *, variant: str = "", scale: float = 1, dtype: int = TensorProto.FLOAT) -> Path:
    """`image_embeds` = the mean of each channel, times a number, for pictures of any size."""
    pixels = helper.make_tensor_value_info("pixel_values", dtype, ["n", 3, "h", "w"])
    kind = np.float16 if dtype == TensorProto.FLOAT16 else np.float32
    nodes = [
        helper.make_node("Add", ["pixel_values", "one"], ["lit"]),
        helper.make_node("ReduceMean", ["lit"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "scale"], ["image_embeds"]),
    ]
    out = helper.make_tensor_value_info("image_embeds", dtype, ["n", 3])
    with np.errstate(over="ignore"):
        weights = {"one": np.asarray(1, kind), "scale": np.asarray(scale, kind)}
    save_graph(directory / "onnx" / f"vision_model{variant}.onnx", nodes, [pixels], [out], weights)
    return config(directory)


def two_outputs(directory: Path, order: tuple[str, str]) -> Path:
    pixels = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["n", 3, 8, 8])
    nodes = [
        helper.make_node("Reshape", ["pixel_values", "shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["last_hidden_state"], perm=[0, 2, 1]),
        helper.make_node("ReduceMean", ["last_hidden_state"], ["image_embeds"], axes=[1], keepdims=0),
    ]
    shapes = {"last_hidden_state": ["n", 64, 3], "image_embeds": ["n", 3]}
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in order]
    weights = {"shape": np.asarray([0, 3, 64], np.int64)}
    save_graph(directory / "onnx" / "vision_model.onnx", nodes, [pixels], outputs, weights)
    return config(directory)


def classifier(directory: Path) -> Path:
    pixels = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["n", 3, 8, 8])
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixel_values"], ["map"]),
        helper.make_node("Flatten", ["map"], ["features"], axis=1),
        helper.make_node("MatMul", ["features", "w"], ["logits"]),
    ]
    weights = {"w": np.arange(15, dtype=np.float32).reshape(3, 5)}
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 5])
    save_graph(directory / "onnx" / "model.onnx", nodes, [pixels], [out], weights)
    return config(directory, id2label={str(number): "" for number in range(5)})


def test_a_graph_without_an_output_we_know_says_what_it_has(tmp_path):
    directory = two_outputs(tmp_path / "odd", ("last_hidden_state", "image_embeds"))
    graph = onnx.load(directory / "onnx" / "vision_model.onnx")
    for old, new in (("image_embeds", "left"), ("last_hidden_state", "right")):
        for node in graph.graph.node:
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]
        for output in graph.graph.output:
            output.name = new if output.name == old else output.name
    onnx.save(graph, directory / "onnx" / "vision_model.onnx")
    with pytest.raises(ModelFormatError, match=r"right, left.*bowerbird\.json"):
        bb.load(str(directory))
    (directory / "bowerbird.json").write_text(json.dumps({"format": 1, "image": {"output": "left"}}))
    assert bb.load(str(directory)).image.dimensions("left") == 3


def test_penultimate_of_mini_is_what_goes_into_its_classifier(mini, pictures):
    assert np.allclose(
        mini.embed(pictures, layer="penultimate"), mini.embed(pictures, output="features"), atol=1e-6
    )


class TestConditionsThatContradict:
    """Files that say one thing and a graph that does another: an error, never a vector made some other way."""

    def test_a_chain_on_a_graph_that_is_pooled_already(self, tiny_text):
        directory = tiny_text("pooled")
        graph = onnx.load(directory / "onnx" / "model.onnx")
        graph.graph.node.append(
            helper.make_node("ReduceMean", ["last_hidden_state"], ["pooler_output"], axes=[1], keepdims=0)
        )
        del graph.graph.output[:]
        graph.graph.output.append(
            helper.make_tensor_value_info("pooler_output", TensorProto.FLOAT, ["n", 12])
        )
        onnx.save(graph, directory / "onnx" / "model.onnx")
        with pytest.raises(ModelFormatError, match=r"pooled by mean, but the graph gives 'pooler_output'"):
            bb.load(str(directory))

    @pytest.fixture
    def with_sentences(self, tiny_text):
        """A graph that gives token vectors and, as `sentence_embedding`, their sum."""

        def make(**options):
            directory = tiny_text("both", **options)
            graph = onnx.load(directory / "onnx" / "model.onnx")
            graph.graph.node.append(
                helper.make_node(
                    "ReduceMean", ["last_hidden_state"], ["sentence_embedding"], axes=[1], keepdims=0
                )
            )
            out = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["n", 12])
            graph.graph.output.append(out)
            onnx.save(graph, directory / "onnx" / "model.onnx")
            return directory

        return make

    def test_the_graphs_own_sentence_vector_is_taken(self, with_sentences):
        assert bb.load(str(with_sentences())).card.text.output == "sentence_embedding"

    def test_but_not_where_bowerbird_json_says_another_pooling(self, with_sentences, table):
        directory = with_sentences()
        (directory / "bowerbird.json").write_text(json.dumps({"format": 1, "text": {"pooling": "cls"}}))
        model = bb.load(str(directory))
        assert model.card.text.output == "last_hidden_state"
        assert np.allclose(model.embed("w1 w2", normalize=False)[0], table[2], atol=1e-6)

    def test_nor_where_a_prompt_is_left_out_of_the_pooling(self, with_sentences):
        directory = with_sentences(
            pooling={"pooling_mode": "mean", "include_prompt": False}, config={"prompts": {"query": "w1 "}}
        )
        assert bb.load(str(directory)).card.text.output == "last_hidden_state"

    def test_a_noted_token_output_without_a_pooling(self, tmp_path):
        directory = two_outputs(tmp_path / "patches", ("last_hidden_state", "image_embeds"))
        (directory / "bowerbird.json").write_text(
            json.dumps({"format": 1, "image": {"output": "last_hidden_state"}})
        )
        with pytest.raises(ModelFormatError, match=r"a vector for each patch.*bowerbird\.json"):
            bb.load(str(directory))
        write_json(directory / "config.json", {"model_type": "dinov2"})
        assert bb.load(str(directory)).card.image.pooling == "cls"

    def test_a_noted_output_that_is_not_there(self, tmp_path):
        directory = two_outputs(tmp_path / "absent", ("last_hidden_state", "image_embeds"))
        (directory / "bowerbird.json").write_text(
            json.dumps({"format": 1, "image": {"output": "image_embedz"}})
        )
        with pytest.raises(ModelFormatError, match=r"image_embedz.*image_embeds"):
            bb.load(str(directory))

    def test_half_of_a_model_of_two_towers(self, mini_copy):
        directory = mini_copy()
        (directory / "onnx" / "vision_model.onnx").unlink()
        with pytest.raises(ModelFormatError, match=r"onnx.vision_model\.onnx is missing"):
            bb.load(str(directory))

    def test_a_tokenizer_of_another_model(self, tiny_text, mini_copy):
        directory = tiny_text("stranger")
        tokenizer = (mini_copy() / "tokenizer.json").read_bytes()
        (directory / "tokenizer.json").write_bytes(tokenizer)
        with pytest.raises(ModelFormatError, match=r"token ids up to 30521, while .* knows 64 tokens"):
            bb.load(str(directory)).text  # noqa: B018


def test_weights_in_another_file_are_part_of_the_fingerprint(tmp_path):
    """Whatever the file is called; and a file that merely lies there is not."""
    spaces = []
    for seed in (1, 2):
        directory = classifier(tmp_path / str(seed))
        path = directory / "onnx" / "model.onnx"
        graph = onnx.load(path)
        values = np.random.default_rng(seed).normal(size=(3, 5)).astype(np.float32)
        graph.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(values, "w"))
        onnx.save(graph, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
        card = bb.load(str(directory)).card
        assert card.size == path.stat().st_size + (directory / "onnx" / "weights.bin").stat().st_size
        spaces.append(card.space)
    assert spaces[0] != spaces[1]
    (directory / "onnx" / "model.onnx.bak").write_bytes(b"an old copy")
    assert bb.load(str(directory)).card.space == spaces[1]


def test_texts_and_pictures_of_different_widths_cannot_stand_in_one_array(mini, pictures):
    with pytest.raises(BowerbirdError, match=r"vectors of \d+ and \d+ dimensions"):
        mini.embed(["a cat", pictures[0]], layer=-1)


def test_a_layer_under_its_number_or_its_name_is_one_space(mini):
    named = mini.adapted(layer=-2).card.image.tensors[0][1]
    assert mini.adapted(layer=named).card.meaning()["image"] == mini.adapted(layer=-2).card.meaning()["image"]


@pytest.mark.parametrize(
    "options",
    [{"layer": 1.5}, {"layer": True}, {"dimensions": "64"}, {"dimensions": True}, {"preprocess": 3}],
    ids=str,
)
def test_options_of_another_type_are_refused(mini, options):
    with pytest.raises(BowerbirdError, match="is not"):
        mini.adapted(**options)
