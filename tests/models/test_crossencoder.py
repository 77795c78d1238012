"""Cross-encoders: what they score, where errors land, what their files may say, and parity with transformers."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.models.overlap import write_overlap_model

from bowerbird.errors import (
    EngineError,
    InputErrors,
    ModelFormatError,
    ModelNotFoundError,
    UnsupportedInputError,
)
from bowerbird.models.crossencoder import IDENTITY, SIGMOID, SOFTMAX, CrossEncoder, activated
from bowerbird.models.hub.fetch import locate

WORDS = tuple(f"w{i}" for i in range(40))


@pytest.fixture
def overlap(tmp_path: Path):
    def make(name: str = "overlap", **more) -> Path:
        return write_overlap_model(tmp_path / name, WORDS, **more)

    return make


def common(a: str, b: str) -> int:
    return sum(a.split().count(w) * b.split().count(w) for w in set(a.split())) - 1


def logits(pairs) -> np.ndarray:
    return np.asarray([common(*pair) for pair in pairs], np.float64)


PAIRS = [("w1 w2", "w2 w3"), ("w1", "w2"), ("", ""), ("w1", ""), ("w5 w5", "w5"), ("w1 w2 w3", "w3 w2 w1 w9")]


def test_scores_are_the_sigmoid_of_one_logit(overlap):
    model = CrossEncoder.load(str(overlap()))
    found = model.scores(PAIRS)
    assert found.dtype == np.float32
    assert found == pytest.approx(1 / (1 + np.exp(-logits(PAIRS))), abs=1e-6)
    assert model.range == "probability"
    assert "overlap" in repr(model)


@pytest.mark.parametrize(
    "config",
    [
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "4.1"}},
        {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
        {"sbert_ce_default_activation_function": "torch.nn.Identity", "num_labels": 1},
    ],
)
def test_logits_are_left_as_they_are_where_the_files_say_so(overlap, config):
    model = CrossEncoder.load(str(overlap(config=config)))
    assert model.scores(PAIRS) == pytest.approx(logits(PAIRS), abs=1e-5)
    assert model.range == "logit"


def test_what_sentence_transformers_6_saves(overlap):
    """Its own file wins over config.json; a chain of modules has to be one sequence classifier."""
    directory = overlap(config={"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"})
    saved = {
        "modules.json": [
            {"idx": 0, "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
        ],
        "sentence_bert_config.json": {
            "transformer_task": "sequence-classification",
            "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
            "module_output_name": "scores",
            "max_seq_length": 7,
            "do_lower_case": True,
        },
        "config_sentence_transformers.json": {
            "model_type": "CrossEncoder",
            "activation_fn": "torch.nn.modules.activation.Sigmoid",
            "prompts": {"ask": "w7 "},
            "default_prompt_name": "ask",
        },
    }
    for name, content in saved.items():
        (directory / name).write_text(json.dumps(content))
    model = CrossEncoder.load(str(directory))
    found = model.outcomes([("W1", "w1 w7"), ("w1", "w1 w2 w3 w4 w5")])
    assert [judged.score for judged in found] == pytest.approx(1 / (1 + np.exp([-1.0, 0.0])))
    assert [judged.note for judged in found] == ["", "cut to 7 tokens"]
    saved["modules.json"].append({"idx": 1, "type": "sentence_transformers.cross_encoder.modules.LogitScore"})
    (directory / "modules.json").write_text(json.dumps(saved["modules.json"]))
    with pytest.raises(ModelFormatError, match="LogitScore"):
        CrossEncoder.load(str(directory))


@pytest.mark.parametrize(
    ("names", "sign"),
    [
        ({"0": "LABEL_0", "1": "LABEL_1"}, 1),
        ({}, 1),
        ({"0": "irrelevant", "1": "Relevant"}, 1),
        ({"0": "entailment", "1": "not_entailment"}, -1),
    ],
)
def test_of_two_labels_the_one_that_means_yes_counts(overlap, names, sign):
    model = CrossEncoder.load(str(overlap(labels=2, config={"id2label": names} if names else {})))
    assert model.scores(PAIRS) == pytest.approx(1 / (1 + np.exp(-2 * sign * logits(PAIRS))), abs=1e-6)
    assert model.range == "probability"


def test_two_labels_that_nobody_understands(overlap):
    with pytest.raises(ModelFormatError, match="'cats' and 'dogs'"):
        CrossEncoder.load(str(overlap(labels=2, config={"id2label": {"0": "cats", "1": "dogs"}})))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(*[st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)] * 2), max_size=40))
def test_every_pair_has_its_own_score_whatever_it_shares_a_batch_with(tmp_path_factory, pairs):
    base = tmp_path_factory.getbasetemp() / "any-pairs"
    model = CrossEncoder.load(
        str(base if base.exists() else write_overlap_model(base, WORDS)), activation="identity"
    )
    assert model.scores(pairs) == pytest.approx(logits(pairs), abs=1e-5)


def test_errors_land_at_their_own_place(overlap):
    model = CrossEncoder.load(str(overlap()))
    found = model.outcomes([("w1", "w1"), ("w1", None), "no pair", ("w1", "w1 \udcff"), (1, 2, 3)])
    assert [judged.index for judged in found] == [0, 1, 2, 3, 4]
    assert [judged.score for judged in found] == [0.5, None, None, 0.5, None]
    assert all(isinstance(found[i].error, UnsupportedInputError) for i in (1, 2, 4))
    with pytest.raises(InputErrors) as raised:
        model.scores([("w1", "w1"), ("w1", None)])
    assert list(raised.value.errors) == [1]
    assert model.scores([]).shape == (0,)


def test_a_value_that_is_no_number_is_an_error_of_its_pair(overlap, tmp_path):
    import onnx
    from onnx import helper, numpy_helper

    directory = overlap()
    path = directory / "onnx" / "model.onnx"
    graph = onnx.load(path)
    graph.graph.node[-1].output[0] = "sum"
    graph.graph.initializer.append(numpy_helper.from_array(np.float32(2), "two"))
    graph.graph.node.append(helper.make_node("Sub", ["sum", "two"], ["less"]))
    graph.graph.node.append(
        helper.make_node("Div", ["less", "less"], ["logits"])
    )  # 0/0 where three are in common
    onnx.save(graph, path)
    found = CrossEncoder.load(str(directory)).outcomes([("w1", "w1"), ("w1 w2 w3", "w1 w2 w3")])
    assert found[0].error is None
    assert "not a number" in str(found[1].error)


def test_long_pairs_are_cut_and_say_so(overlap):
    """Sixteen tokens, three of them special: the longer text loses first, and both keep at least half."""
    model = CrossEncoder.load(str(overlap()), activation="identity")
    a, b = " ".join(WORDS[:10]), " ".join(WORDS[:10])
    found = model.outcomes([(a, b), ("w9", b + " w9 w9 w9 w9"), ("w9", b)])
    assert [judged.note for judged in found] == ["cut to 16 tokens", "cut to 16 tokens", ""]
    assert [judged.score for judged in found] == [5, 2, 0]
    assert (
        CrossEncoder.load(str(overlap()), max_tokens=5).outcomes([("w1 w2", "w2")])[0].note
        == "cut to 5 tokens"
    )


def test_padding_on_the_left(overlap):
    model = CrossEncoder.load(str(overlap(tokenizer_config={"padding_side": "left"})), activation="identity")
    assert model.scores(PAIRS) == pytest.approx(logits(PAIRS), abs=1e-5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"labels": 3}, "3 numbers"),
        ({"config": {"sbert_ce_default_activation_function": "torch.nn.modules.activation.Tanh"}}, "Tanh"),
        ({"config": {"sentence_transformers": {"activation_fn": "evil.module.Function"}}}, "evil"),
        ({"max_tokens": 4}, "no room for two texts"),
    ],
)
def test_what_is_refused(overlap, more, message):
    with pytest.raises(ModelFormatError, match=message):
        CrossEncoder.load(str(overlap(**more)))


def test_an_activation_that_is_not_implemented_can_be_named(overlap):
    directory = overlap(config={"sentence_transformers": {"activation_fn": "evil.module.Function"}})
    assert CrossEncoder.load(str(directory), activation=SIGMOID).range == "probability"
    with pytest.raises(ModelFormatError, match="no activation 'tanh'"):
        CrossEncoder.load(str(directory), activation="tanh")


def test_other_models_are_not_taken_for_one(mini_copy, tiny_text, tiny_image):
    for directory, why in [
        (locate("mini").directory, "takes pictures"),
        (mini_copy(image=False), "no cross-encoder"),
        (tiny_text(), "a vector for each token"),
        (tiny_image(), "takes pictures"),
    ]:
        with pytest.raises(ModelFormatError, match=why):
            CrossEncoder.load(str(directory))
    with pytest.raises(ModelNotFoundError, match="no such"):
        CrossEncoder.load("no such model")


def test_other_layouts_and_outputs(overlap):
    root = overlap("at-the-root", graph="model.onnx", output="scores")
    small = overlap("variant", graph="onnx/model_fp16.onnx")
    assert CrossEncoder.load(str(root)).card.output == "scores"
    assert CrossEncoder.load(str(small), variant="fp16").scores([("w1", "w1")]) == 0.5
    with pytest.raises(ModelFormatError, match="fp16"):
        CrossEncoder.load(str(small))


def test_engines(overlap):
    directory = str(overlap())
    with pytest.raises(EngineError, match="no engine"):
        CrossEncoder.load(directory, engine="abacus")
    pytest.importorskip("openvino")
    assert CrossEncoder.load(directory, engine="openvino").scores(PAIRS) == pytest.approx(
        CrossEncoder.load(directory).scores(PAIRS), abs=1e-6
    )


def test_the_fingerprint_is_of_what_decides_the_scores(overlap):
    one, same = CrossEncoder.load(str(overlap("one"))), CrossEncoder.load(str(overlap("two")))
    assert one.space == same.space
    assert len(one.space) == 16
    assert one.space != CrossEncoder.load(str(overlap("one")), activation=IDENTITY).space
    assert one.space != CrossEncoder.load(str(overlap("one")), max_tokens=9).space
    assert pickle.loads(pickle.dumps(one.card)) == one.card


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=20))
def test_activations_never_overflow(values):
    column = np.asarray(values)[:, None]
    one = activated(column, SIGMOID)
    two = activated(np.concatenate([-column, column], 1) / 2, SOFTMAX, 1)
    assert ((one >= 0) & (one <= 1)).all()
    assert one == pytest.approx(two, abs=1e-12)
    assert activated(column, IDENTITY).tolist() == values


# Parity with transformers.

QUESTIONS = ["a red dress", "how do i reset the password of my account?", "", "two dogs in the snow " * 12]
TEXTS = [
    "a red dress on a wooden hanger",
    "",
    "ein rotes kleid",
    "the committee will publish its findings " * 9,
]
GRID = [(question, text) for question in QUESTIONS for text in TEXTS]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A tiny sequence classifier of random weights: its directory, with graph, and the original."""
    torch = pytest.importorskip("torch", reason="the extra `export` is not installed")
    transformers = pytest.importorskip("transformers", reason="the extra `export` is not installed")
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    from tests.origin import tiny

    done = {}

    def make(kind: str, labels: int = 1):
        if (kind, labels) not in done:
            directory = tmp_path_factory.mktemp(f"{kind}-{labels}")
            sides = {
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 64,
            }
            with torch.random.fork_rng():
                torch.manual_seed(labels)
                if kind == "bert":
                    size = tiny._bert_tokenizer(directory, 48)
                    config = transformers.BertConfig(
                        vocab_size=size, max_position_embeddings=64, num_labels=labels, **sides
                    )
                    network = transformers.BertForSequenceClassification(config)
                else:
                    size = roberta_tokenizer(directory, tiny.CORPUS)
                    config = transformers.RobertaConfig(
                        vocab_size=size,
                        max_position_embeddings=50,
                        num_labels=labels,
                        pad_token_id=1,
                        **sides,
                    )
                    network = transformers.RobertaForSequenceClassification(config)
                network = tiny.lively(network)
            network.save_pretrained(directory)
            export(network, directory)
            done[kind, labels] = directory, network
        return done[kind, labels]

    return make


def roberta_tokenizer(directory: Path, corpus: list[str]) -> int:
    """RoBERTa's: bytes, two separators between the texts, no token types, and no length but that of the network."""
    from tokenizers import ByteLevelBPETokenizer, processors

    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(corpus, vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.save(str(directory / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}
    more = {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>", "model_max_length": 48}
    (directory / "tokenizer_config.json").write_text(
        json.dumps(
            {"tokenizer_class": "RobertaTokenizer", "model_input_names": ["input_ids", "attention_mask"]}
            | names
            | more
        )
    )
    return int(tokenizer.get_vocab_size())


def export(network, directory: Path) -> None:
    import torch

    names = ["input_ids", "attention_mask", "token_type_ids"][
        : 3 if network.config.model_type == "bert" else 2
    ]

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, *inputs):
            return self.network(**dict(zip(names, inputs, strict=True))).logits

    from bowerbird.origin.packages import quiet

    free = {0: torch.export.Dim("n"), 1: torch.export.Dim("t", max=48)}
    example = tuple(torch.ones(2, 9, dtype=torch.long) for _ in names)
    path = directory / "onnx" / "model.onnx"
    path.parent.mkdir()
    with quiet(), torch.no_grad():
        torch.onnx.export(
            Logits().eval(),
            example,
            dynamo=True,
            verbose=False,
            input_names=names,
            output_names=["logits"],
            dynamic_shapes=(tuple(free for _ in names),),
        ).save(str(path), external_data=False)


def original_scores(directory: Path, network, pairs, **options) -> np.ndarray:
    """What transformers gives for a batch, and sentence-transformers makes of it."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory, **options)
    batch = tokenizer(
        [a for a, _ in pairs], [b for _, b in pairs], padding=True, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        logits = network(**batch).logits
    return (logits.sigmoid()[:, 0] if logits.shape[1] == 1 else logits.softmax(1)[:, 1]).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_scores_are_those_of_transformers(classifier, kind, labels):
    """Long pairs, empty texts, and every other: within 1e-5."""
    directory, network = classifier(kind, labels)
    model = CrossEncoder.load(str(directory))
    expected = original_scores(directory, network, GRID)
    assert np.ptp(expected) > 0.05, "a network that says the same of everything proves nothing"
    assert model.scores(GRID) == pytest.approx(expected, abs=1e-5)
    for pair, score in zip(GRID, expected, strict=True):
        assert model.scores([pair])[0] == pytest.approx(score, abs=1e-5)
    assert {judged.note for judged in model.outcomes(GRID)} == {"", "cut to 48 tokens"}


@pytest.mark.slow
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_truncation_follow_the_tokeniser(classifier, tmp_path, side):
    directory, network = classifier("bert")
    shutil.copytree(directory, tmp_path / "model")
    path = tmp_path / "model" / "tokenizer_config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"padding_side": side, "truncation_side": side})
    )
    # Padding on the left moves the places of what follows: only rows of one batch have the same scores in both.
    pairs = GRID[:4]
    expected = original_scores(tmp_path / "model", network, pairs)
    assert CrossEncoder.load(str(tmp_path / "model")).scores(pairs) == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_a_length_beyond_the_places_of_the_network(classifier, tmp_path):
    """RoBERTa's first token is at the place after that of padding, so 50 places hold 48 tokens."""
    directory, _ = classifier("roberta")
    shutil.copytree(directory, tmp_path / "model")
    path = tmp_path / "model" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["model_max_length"]
    path.write_text(json.dumps(config))
    assert CrossEncoder.load(str(tmp_path / "model")).card.rules.max_tokens == 48


@pytest.mark.slow
def test_a_tokeniser_with_more_tokens_than_the_network(classifier, tmp_path):
    directory, _ = classifier("bert")
    shutil.copytree(directory, tmp_path / "model")
    path = tmp_path / "model" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["zebra"] = 5000
    path.write_text(json.dumps(content))
    with pytest.raises(ModelFormatError, match="different models"):
        CrossEncoder.load(str(tmp_path / "model"))
