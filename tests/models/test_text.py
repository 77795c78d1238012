"""Truncation, padding, pooling and prompts, as the models were trained with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bowerbird as bb
from bowerbird.errors import ModelFormatError
from bowerbird.models.fetch import locate
from bowerbird.models.encoder import clean
from bowerbird.models.text import load_tokenizer, pool, tokenize
from bowerbird.models.towers import batches_by_length

ENGINES = ("onnxruntime", "openvino")


@pytest.fixture(scope="module", params=ENGINES)
def engine_model(request, private_places):
    return bb.load("mini", engine=request.param, precision="exact")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(locate("mini").directory / "tokenizer.json", 256)


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
        found = [tokens.dropped for tokens in tokenize(tokenizer, MINI_RULES, ["cat " * count for count in counts])]
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
    def test_empty_is_finite_and_a_unit(self, engine_model):
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
