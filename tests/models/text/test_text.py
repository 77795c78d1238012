"""Truncation, padding, pooling and prompts, as the models were trained with."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bowerbird as bb
from bowerbird.errors import ModelFormatError, UnsupportedInputError
from bowerbird.models.encoder import clean
from bowerbird.models.hub.fetch import locate
from bowerbird.models.network.graph import TensorSpec
from bowerbird.models.text.rules import FAMILIES, ROLES, TextRules, read_text_rules
from bowerbird.models.text.sentence import pool
from bowerbird.models.text.tokens import Tokens, feeds, load_tokenizer, mask, tokenize
from bowerbird.models.text.tower import batches_by_length

ENGINES = ("onnxruntime", "openvino")
MINI = locate("mini").directory
MINI_RULES = read_text_rules(MINI)


@pytest.fixture(scope="module", params=ENGINES)
def engine_model(request, private_places):
    return bb.load("mini", engine=request.param, precision="exact")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(MINI / "tokenizer.json", MINI_RULES)


class TestTruncation:
    @pytest.mark.parametrize(
        ("count", "length", "dropped"),
        [(0, 2, 0), (253, 255, 0), (254, 256, 0), (255, 256, 1), (1000, 256, 746)],
    )
    def test_at_the_length_of_sentence_bert_config(self, tokenizer, count, length, dropped):
        (tokens,) = tokenize(tokenizer, MINI_RULES, ["cat " * count])
        assert (len(tokens.ids), tokens.dropped) == (length, dropped)
        assert len(tokens.types) == length

    def test_special_tokens_are_kept(self, tokenizer):
        whole, cut = tokenize(tokenizer, MINI_RULES, ["cat", "cat " * 500])
        assert cut.ids[0] == whole.ids[0] == tokenizer.token_to_id("[CLS]")
        assert cut.ids[-1] == whole.ids[-1] == tokenizer.token_to_id("[SEP]")

    def test_the_tokenizer_file_says_128_and_is_overruled(self, model):
        assert model.card.text.rules.max_tokens == 256
        base = "cat " * 200
        assert model.embed([base + "dog"])[0] @ model.embed([base + "car"])[0] < 0.99999

    def test_what_lies_beyond_does_not_count(self, engine_model):
        long, longer = engine_model.outcomes(["cat " * 254, "cat " * 254 + "a red dress"])
        assert np.abs(long.vector - longer.vector).max() <= 1e-6
        assert long.note == ""
        assert longer.note == "cut to 256 tokens; 3 more were not read"

    @settings(deadline=None, max_examples=40)
    @given(st.lists(st.integers(0, 900), min_size=1, max_size=4))
    def test_dropped_is_exact(self, tokenizer, counts):
        found = [
            tokens.dropped for tokens in tokenize(tokenizer, MINI_RULES, ["cat " * count for count in counts])
        ]
        assert found == [max(0, count - 254) for count in counts]


TEXTS = ("", "a", "a red dress", "two dogs play in the snow " * 4, "x " * 300, "赤いドレス", "🙂🏽 ünïcödé")


@pytest.fixture(scope="module")
def alone(engine_model):
    return {text: engine_model.embed([text])[0] for text in TEXTS}


class TestBatches:
    @settings(deadline=None, max_examples=8)
    @given(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=12))
    def test_padding_and_order_never_change_a_vector(self, engine_model, alone, texts):
        vectors = engine_model.embed(texts)
        for text, vector in zip(texts, vectors, strict=True):
            assert np.abs(vector - alone[text]).max() <= 1e-6

    def test_more_texts_than_one_batch(self, engine_model):
        texts = [f"picture number {i} " * (i % 7) for i in range(150)]
        batched = engine_model.embed(texts)
        for i in (0, 1, 63, 64, 77, 149):
            assert np.abs(batched[i] - engine_model.embed([texts[i]])[0]).max() <= 1e-6

    @given(st.lists(st.integers(0, 600), max_size=200))
    def test_every_row_is_in_one_batch_within_the_budget(self, lengths):
        batches = list(batches_by_length(lengths))
        assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
        for rows in batches:
            assert len(rows) <= 64
            assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= 4096


class TestOddTexts:
    def test_case_35_empty_is_finite_and_a_unit(self, engine_model):
        (outcome,) = engine_model.outcomes([""])
        assert np.isfinite(outcome.vector).all()
        assert np.linalg.norm(outcome.vector) == pytest.approx(1, abs=1e-6)

    @pytest.mark.parametrize(
        "text",
        [
            "\ud800",
            "caf\udce9.jpg",
            "\udcff\udcfe",
            "\x00",
            "\u202eabc",
            "e\u0301" * 40,
            "👩‍👩‍👧‍👦",
            "\ufeff",
            "\n\t ",
        ],
        ids=ascii,
    )
    def test_odd_unicode_is_taken(self, model, text):
        assert np.isfinite(model.embed([text])).all()

    @settings(deadline=None, max_examples=60)
    @given(st.text(st.characters(), max_size=80))
    def test_any_text_has_a_vector(self, model, text):
        (outcome,) = model.outcomes([text])
        assert outcome.error is None
        assert np.linalg.norm(outcome.vector) == pytest.approx(1, abs=1e-5)

    def test_a_surrogate_pair_is_the_character_it_spells(self, model):
        joined, spelled = model.embed(["a 🙂 face", "a \ud83d\ude42 face"])
        assert np.array_equal(joined, spelled)

    @given(st.text(st.characters(codec="utf-8")))
    def test_proper_unicode_is_left_alone(self, text):
        assert clean(text) == text

    def test_a_lone_surrogate_is_one_replacement_character(self):
        assert clean("a\udce9\ud800b") == "a\ufffd\ufffdb"


def reference_pool(rows: np.ndarray, how: str) -> np.ndarray:
    return {"mean": rows.mean(0), "cls": rows[0], "max": rows.max(0)}[how]


def spellings(how: str) -> list[dict]:
    flags = {
        "mean": "pooling_mode_mean_tokens",
        "cls": "pooling_mode_cls_token",
        "max": "pooling_mode_max_tokens",
    }
    return [
        {"pooling_mode": how, "word_embedding_dimension": 12},
        {flag: name == how for name, flag in flags.items()} | {"pooling_mode_mean_sqrt_len_tokens": False},
    ]


class TestPooling:
    @pytest.mark.parametrize("engine", ENGINES)
    @pytest.mark.parametrize("spelling", [0, 1])
    @pytest.mark.parametrize("how", ["mean", "cls", "max"])
    def test_against_the_reference_from_a_directory(self, tiny_text, words, table, how, spelling, engine):
        model = bb.load(str(tiny_text(pooling=spellings(how)[spelling])), engine=engine)
        texts = ["w1 w2 w3", "", "w9", " ".join(f"w{i}" for i in range(10))]
        for text, outcome in zip(texts, model.outcomes(texts), strict=True):
            ids = [2, *(words.index(word) for word in text.split()), 3]
            raw = reference_pool(table[ids], how)
            assert np.allclose(outcome.vector * outcome.norm, raw, atol=2e-6)
            assert np.linalg.norm(outcome.vector) == pytest.approx(1, abs=1e-6)

    @settings(deadline=None)
    @given(
        st.lists(st.integers(1, 9), min_size=1, max_size=5),
        st.booleans(),
        st.sampled_from(["mean", "cls", "max"]),
    )
    def test_padding_on_either_side(self, lengths, left, how):
        rng = np.random.default_rng(sum(lengths))
        width = max(lengths)
        hidden = rng.normal(size=(len(lengths), width, 6)).astype(np.float32)
        mask = np.zeros((len(lengths), width), np.int64)
        for row, length in enumerate(lengths):
            mask[row, width - length :] = 1 if left else 0
            mask[row, :length] = mask[row, :length] if left else 1
        pooled = pool(hidden, mask, how)
        for row in range(len(lengths)):
            assert np.allclose(pooled[row], reference_pool(hidden[row][mask[row] == 1], how), atol=1e-6)

    def test_the_card_overrules_truncation_and_padding_of_the_tokenizer_file(self, tiny_text):
        model = bb.load(str(tiny_text(max_tokens=8)))
        six, seven = model.outcomes(["w1 " * 6, "w1 " * 7])
        assert (six.note, seven.note) == ("", "cut to 8 tokens; 1 more were not read")

    @pytest.mark.parametrize(
        "pooling",
        [
            {"pooling_mode": "median"},
            {"pooling_mode": ["mean", "median"]},
            {"pooling_mode": []},
            {"pooling_mode": "mean", "pooling_mode_median_tokens": True},
            {"pooling_mode": "mean", "include_prompt": "no"},
            {"pooling_mode": "mean", "colour": "blue"},
        ],
        ids=str,
    )
    def test_what_is_not_known_is_refused(self, tiny_text, pooling):
        directory = tiny_text(pooling={"word_embedding_dimension": 12, **pooling})
        with pytest.raises(ModelFormatError, match="1_Pooling"):
            bb.load(str(directory))


class TestModules:
    @pytest.mark.parametrize("module", ["WeightedLayerPooling", "CNN", "StaticEmbedding", "WordWeights"])
    def test_an_unknown_module_is_named(self, tiny_text, module):
        directory = tiny_text(modules=["Transformer", "Pooling", module, "Normalize"])
        with pytest.raises(ModelFormatError, match=module) as caught:
            bb.load(str(directory))
        assert "modules.json" in str(caught.value)

    @pytest.mark.parametrize(
        "content", ["{}", "[1]", "null", "[]", '[{"type": "sentence_transformers.models.Pooling"}]']
    )
    def test_nonsense(self, tiny_text, content):
        directory = tiny_text()
        (directory / "modules.json").write_text(content, "utf-8")
        with pytest.raises(ModelFormatError, match="json"):
            bb.load(str(directory))

    @pytest.mark.parametrize(
        "bert",
        [
            {"max_seq_length": "x"},
            {"max_seq_length": 0},
            {"max_seq_length": True},
            {"query_length": 32},
            {"processing_kwargs": {"text": {"max_length": 4}}},
            {"transformer_task": "text-generation"},
            {"modality_config": {"image": {}}},
            {"tokenizer_args": {"add_eos_token": True}},
            {"colour": "blue"},
        ],
        ids=str,
    )
    def test_sentence_bert_config_that_cannot_be_followed(self, tiny_text, bert):
        with pytest.raises(ModelFormatError, match=r"sentence_bert_config\.json"):
            bb.load(str(tiny_text(bert=bert)))


PROMPTS = {"prompts": {"query": "w1 w2 ", "passage": "w3 "}, "default_prompt_name": None}


class TestPrompts:
    def test_a_role_puts_its_prompt_before_the_text(self, tiny_text):
        model = bb.load(str(tiny_text(config=PROMPTS)))
        plain = model.embed(["w1 w2 w7", "w3 w7", "w7"])
        assert np.allclose(model.embed(["w7"], role="query"), plain[0])
        assert np.allclose(model.embed(["w7"], role="passage"), plain[1])
        assert np.allclose(model.embed(["w7"]), plain[2])

    def test_the_default_prompt(self, tiny_text):
        model = bb.load(str(tiny_text(config={**PROMPTS, "default_prompt_name": "passage"})))
        assert np.allclose(model.embed(["w7"]), model.embed(["w7"], role="passage"))
        assert not np.allclose(model.embed(["w7"]), model.embed(["w7"], role="query"))

    def test_a_model_without_prompts_takes_any_role(self, model):
        assert np.array_equal(model.embed(["a cat"], role="query"), model.embed(["a cat"]))

    @pytest.mark.parametrize(
        "config",
        [{"default_prompt_name": "query"}, {"prompts": ["a"]}, {"prompts": {"query": 1}}, []],
        ids=str,
    )
    def test_nonsense(self, tiny_text, config):
        with pytest.raises(ModelFormatError, match=r"config_sentence_transformers\.json"):
            bb.load(str(tiny_text(config=config)))


def directory_with(folder: Path, **files: object) -> Path:
    """A directory of JSON files without a graph: `a__b` is the file `a/b.json`."""
    for name, content in files.items():
        path = folder / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), "utf-8")
    return folder


MEAN = {"pooling": "mean"}
CHAIN = [
    {"path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
    {"path": "1_Pooling", "type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling"},
]


class TestLength:
    """How many tokens a model takes, by the order in which its files are asked."""

    @pytest.mark.parametrize(
        ("bert", "tokenizer", "config", "expected"),
        [
            ({"max_seq_length": 256}, {"model_max_length": 512}, {"max_position_embeddings": 512}, 256),
            ({"max_seq_length": 256}, {"model_max_length": 128}, {"max_position_embeddings": 64}, 256),
            ({"tokenizer_args": {"model_max_length": 99}}, {}, {"max_position_embeddings": 64}, 99),
            ({"max_seq_length": None}, {"model_max_length": 512}, {"max_position_embeddings": 514}, 512),
            ({}, {"model_max_length": 1000}, {"max_position_embeddings": 512}, 512),
            ({}, {"model_max_length": 1e30}, {"max_position_embeddings": 512}, 512),
            ({}, {"model_max_length": 300}, {"max_position_embeddings": -1}, 300),
            ({}, {"model_max_length": 300}, {"text_config": {"max_position_embeddings": 77}}, 77),
            ({}, {"model_max_length": 300}, {}, 300),
        ],
    )
    def test_case_11_the_file_that_decides(self, tmp_path, bert, tokenizer, config, expected):
        directory = directory_with(
            tmp_path,
            modules=CHAIN,
            **{"1_Pooling__config": {"pooling_mode": "mean"}},
            sentence_bert_config=bert,
            tokenizer_config=tokenizer,
            config=config,
            tokenizer={"truncation": {"max_length": 128}},
        )
        assert read_text_rules(directory).max_tokens == expected
        assert read_text_rules(directory, notes={"max_tokens": 17}).max_tokens == 17

    def test_nothing_says_it(self, tmp_path):
        directory = directory_with(tmp_path, tokenizer_config={"model_max_length": 1e30}, config={})
        with pytest.raises(ModelFormatError, match="max_position_embeddings") as caught:
            read_text_rules(directory, notes=MEAN)
        assert "text.max_tokens" in str(caught.value)
        assert read_text_rules(directory, notes={**MEAN, "max_tokens": 8}).max_tokens == 8

    def test_a_maximum_without_room_for_a_text(self):
        with pytest.raises(ModelFormatError, match="special"):
            load_tokenizer(MINI / "tokenizer.json", TextRules(2))


class TestPlainDirectory:
    """A BERT without modules.json, as in Qdrant's repositories."""

    def test_without_a_pooling_it_is_refused(self, tmp_path):
        directory = directory_with(
            tmp_path, config={"model_type": "bert", "max_position_embeddings": 512}, tokenizer_config={}
        )
        with pytest.raises(ModelFormatError, match=r"modules\.json.*bert") as caught:
            read_text_rules(directory)
        assert "bowerbird.json" in str(caught.value)

    @pytest.mark.parametrize(
        ("noted", "expected"),
        [("cls", ("cls",)), (["mean", "max"], ("mean", "max")), ("none", ())],
        ids=str,
    )
    def test_the_notes_say_it(self, tmp_path, noted, expected):
        directory = directory_with(
            tmp_path, config={"model_type": "bert", "max_position_embeddings": 512}, tokenizer_config={}
        )
        rules = read_text_rules(directory, notes={"pooling": noted}, prompts={"query": "Represent: "})
        assert (rules.pooling, rules.max_tokens) == (expected, 512)
        assert rules.prompt("query") == "Represent: "
        assert rules.prompt("document") == ""

    @pytest.mark.parametrize(
        "notes",
        [
            {"pooling": "median"},
            {"pooling": 3},
            {"colour": "blue"},
            {**MEAN, "max_tokens": "many"},
            {**MEAN, "padding": -1},
            {**MEAN, "pad_side": "top"},
            {**MEAN, "masked": 1},
            {**MEAN, "clean": "soap"},
            {**MEAN, "prompts": ["query"]},
            {**MEAN, "default_prompt": "query"},
        ],
        ids=str,
    )
    def test_notes_that_cannot_be_followed(self, tmp_path, notes):
        directory = directory_with(tmp_path, config={"max_position_embeddings": 512})
        with pytest.raises(ModelFormatError, match=r"bowerbird\.json"):
            read_text_rules(directory, notes=notes)

    def test_every_note_is_followed(self, tmp_path):
        directory = directory_with(tmp_path, config={"max_position_embeddings": 512})
        notes = {
            "pooling": "lasttoken",
            "include_prompt": False,
            "max_tokens": 32,
            "padding": 32,
            "pad_side": "left",
            "pad_id": 7,
            "clean": ["strip", "lower"],
            "masked": False,
            "prompts": {"a": "b "},
            "default_prompt": "a",
        }
        rules = read_text_rules(directory, notes=notes, prompts={"query": "not this"})
        assert rules == TextRules(
            max_tokens=32,
            padding=32,
            pad_side="left",
            pad_id=7,
            clean=("strip", "lower"),
            masked=False,
            pooling=("lasttoken",),
            include_prompt=False,
            prompts=(("a", "b "),),
            default_prompt="a",
        )
        assert pickle.loads(pickle.dumps(rules)) == rules
        assert json.loads(json.dumps(rules.meaning())) == rules.meaning()


class TestFamilies:
    @pytest.mark.parametrize("tokenizer", ["SiglipTokenizer", "GemmaTokenizer", "Siglip2Tokenizer"])
    @pytest.mark.parametrize("kind", ["siglip", "siglip2"])
    def test_case_09_siglip_is_told_apart_by_its_tokenizer(self, tmp_path, kind, tokenizer):
        directory = directory_with(
            tmp_path,
            config={"model_type": kind},
            tokenizer_config={"tokenizer_class": tokenizer, "pad_token": "<p>"},
            tokenizer={"model": {"vocab": {"<p>": 5}}},
        )
        rules = read_text_rules(directory)
        assert rules.clean == (("siglip",) if tokenizer == "SiglipTokenizer" else ("lower",))
        assert (rules.max_tokens, rules.padding, rules.masked, rules.pad_id) == (64, 64, False, 5)

    def test_an_unknown_tokenizer_of_siglip(self, tmp_path):
        directory = directory_with(
            tmp_path, config={"model_type": "siglip"}, tokenizer_config={"tokenizer_class": "Mine"}
        )
        with pytest.raises(ModelFormatError, match=r"tokenizer_config\.json.*'Mine'") as caught:
            read_text_rules(directory)
        assert "SiglipTokenizer" in str(caught.value)
        assert read_text_rules(directory, notes={"clean": "siglip"}).clean == ("siglip",)

    def test_case_31_the_token_that_pads_is_looked_up(self, tmp_path):
        config = {"model_type": "clip", "text_config": {"pad_token_id": 1}}
        directory = directory_with(tmp_path, config=config, tokenizer_config={"pad_token": "!"})
        directory_with(tmp_path, tokenizer={"model": {"vocab": {"!": 0, "a": 1}}})
        assert read_text_rules(directory).pad_id == 0
        directory_with(tmp_path, tokenizer={"model": {"vocab": [["a", 0.0], ["!", -1.0]]}})
        assert read_text_rules(directory).pad_id == 1
        directory_with(tmp_path, tokenizer={"added_tokens": [{"id": 9, "content": "!"}], "model": {}})
        assert read_text_rules(directory).pad_id == 9
        directory_with(tmp_path, tokenizer_config={"pad_token": {"content": "?"}})
        with pytest.raises(ModelFormatError, match=r"tokenizer\.json has no token '\?'"):
            read_text_rules(directory)
        directory_with(tmp_path, tokenizer_config={})
        assert read_text_rules(directory).pad_id == 1  # config.json's

    def test_a_family_is_not_recognised_by_a_folder(self, tmp_path):
        directory = tmp_path / "clip-vit-base-patch32"
        directory_with(directory, config={"model_type": "bert", "max_position_embeddings": 9})
        with pytest.raises(ModelFormatError, match="pool"):
            read_text_rules(directory)

    def test_no_row_hides_another(self):
        keys = [
            (kind, name) for row in FAMILIES for kind in row.model_types for name in row.tokenizers or [""]
        ]
        assert len(keys) == len(set(keys))


class TestOpenClip:
    @pytest.mark.parametrize("name", ["open_clip_config", "config"])
    def test_where_the_configuration_lies(self, tmp_path, name):
        model = {"embed_dim": 8, "text_cfg": {"context_length": 32, "vocab_size": 10}}
        content = {"model_cfg": model, "preprocess_cfg": {}} if name == "open_clip_config" else model
        directory_with(tmp_path, **{name: content}, textual__tokenizer={})
        rules = read_text_rules(tmp_path / "textual", tmp_path)
        assert (rules.max_tokens, rules.padding, rules.pad_id) == (32, 32, 0)
        assert (rules.clean, rules.masked, rules.pooling) == (("open_clip lower",), False, ())

    @pytest.mark.parametrize(
        "text",
        [
            {"tokenizer_kwargs": {"strip_sep_token": True}},
            {"tokenizer_kwargs": {"clean": "soap"}},
            {"tokenizer_mode": "clips"},
            {"context_length": 0},
        ],
        ids=str,
    )
    def test_what_is_not_implemented_is_refused(self, tmp_path, text):
        directory_with(tmp_path, open_clip_config={"model_cfg": {"text_cfg": text}})
        with pytest.raises(ModelFormatError, match=r"open_clip_config\.json"):
            read_text_rules(tmp_path)


class TestRoles:
    @pytest.mark.parametrize("role", sorted(ROLES))
    def test_case_10_a_role_finds_the_name_a_model_uses(self, role):
        for name in ROLES[role]:
            rules = TextRules(8, prompts=((name, "text "), ("other", "no ")))
            assert rules.prompt(role) == rules.prompt(name) == "text "

    def test_case_10_a_model_without_the_prompt_takes_the_text_as_it_is(self):
        rules = TextRules(8, prompts=(("clustering", "c "),), default_prompt="clustering")
        assert (rules.prompt(), rules.prompt("query"), rules.prompt("document")) == ("c ", "", "")
        with pytest.raises(UnsupportedInputError, match=r"'pasage'.*clustering"):
            rules.prompt("pasage")

    def test_case_10_those_of_the_catalogue_stand_in_for_empty_ones(self, tmp_path):
        directory = directory_with(
            tmp_path,
            modules=CHAIN,
            **{"1_Pooling__config": {"pooling_mode": "cls"}},
            sentence_bert_config={"max_seq_length": 9},
            config_sentence_transformers={"prompts": {"query": "", "document": ""}},
        )
        rules = read_text_rules(directory, prompts={"query": "q: "})
        assert rules.prompts == (("query", "q: "),)
        directory_with(directory, config_sentence_transformers={"prompts": {"query": "own: "}})
        assert read_text_rules(directory, prompts={"query": "q: "}).prompts == (("query", "own: "),)

    @pytest.mark.parametrize(
        "config", [{"truncate_dim": 0}, {"model_type": "SparseEncoder"}, {"colour": "blue"}], ids=str
    )
    def test_a_configuration_that_cannot_be_followed(self, tmp_path, config):
        directory = directory_with(
            tmp_path,
            modules=CHAIN,
            **{"1_Pooling__config": {"pooling_mode": "cls"}},
            sentence_bert_config={"max_seq_length": 9},
            config_sentence_transformers=config,
        )
        with pytest.raises(ModelFormatError, match=r"config_sentence_transformers\.json"):
            read_text_rules(directory)


TOKENS = [Tokens([5, 6, 7], [0, 0, 0], 0), Tokens([8], [1], 0)]


class TestFeeds:
    def test_names_and_types_are_those_of_the_graph(self):
        inputs = {"text": TensorSpec("int32", (None, None))}
        given = feeds(TOKENS, TextRules(8, pad_id=9), inputs)
        assert {name: (array.dtype.name, array.tolist()) for name, array in given.items()} == {
            "text": ("int32", [[5, 6, 7], [8, 9, 9]])
        }

    def test_left_padding_positions_and_types(self):
        names = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
        inputs = {name: TensorSpec("int64", (None, None)) for name in names}
        given = feeds(TOKENS, TextRules(8, pad_side="left"), inputs)
        assert [given[name][1].tolist() for name in names] == [[0, 0, 8], [0, 0, 1], [0, 0, 1], [0, 0, 0]]
        assert given["position_ids"][0].tolist() == [0, 1, 2]

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_an_unmasked_network_is_shown_its_padding(self, side):
        inputs = {"attention_mask": TensorSpec("int64", (None, None))}
        rules = TextRules(8, padding=8, masked=False, pad_side=side)
        assert feeds(TOKENS, rules, inputs)["attention_mask"].tolist() == [[1] * 8] * 2
        assert mask(TOKENS, rules, inputs).sum(1).tolist() == [3, 1]

    def test_a_length_that_the_graph_fixes(self):
        inputs = {"input_ids": TensorSpec("int64", (None, 5))}
        assert feeds(TOKENS, TextRules(5), inputs)["input_ids"].shape == (2, 5)
        assert mask(TOKENS, TextRules(5), inputs).shape == (2, 5)
        for rules in (TextRules(8, padding=8), TextRules(4, padding=4)):
            with pytest.raises(ModelFormatError, match="exactly 5 tokens"):
                feeds(TOKENS, rules, inputs)

    @pytest.mark.parametrize(
        ("name", "dtype"), [("pixel_values", "float32"), ("input_ids", "tensor(string)")]
    )
    def test_an_input_that_no_tokeniser_gives(self, name, dtype):
        with pytest.raises(ModelFormatError, match=name):
            feeds(TOKENS, TextRules(8), {name: TensorSpec(dtype, (None, None))})

    def test_case_35_the_empty_string_in_a_batch(self, tokenizer):
        tokens = tokenize(tokenizer, MINI_RULES, ["", "a cat"])
        inputs = {"attention_mask": TensorSpec("int64", (None, None))}
        assert feeds(tokens, MINI_RULES, inputs)["attention_mask"].tolist() == [[1, 1, 0, 0], [1] * 4]
