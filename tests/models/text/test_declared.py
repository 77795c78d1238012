"""tokenizer_config.json beside tokenizer.json: which of the two counts, as transformers 4.57 and 5.23 have it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from bowerbird.errors import ModelFormatError
from bowerbird.models.hub.fetch import locate
from bowerbird.models.text.rules import TextRules
from bowerbird.models.text.tokens import largest_id, load_tokenizer, tokenize

RULES = TextRules(32)
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "A", "á", "中", "国", "中国")
TEXT = "Áb á A 中国"
BERT = normalizers.BertNormalizer
DIFFERENT = r"tokenizer_config\.json says .*tokenizer\.json"


def bert(folder: Path, own: object, model: dict | None = None, **config: object) -> Path:
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = own
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return written(folder, tokenizer, model or {}, config)


def by_bytes(folder: Path, own: object, **config: object) -> Path:
    letters = {letter: i for i, letter in enumerate(["<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(letters, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = own
    return written(folder, tokenizer, {}, config)


def written(folder: Path, tokenizer: Tokenizer, model: dict, config: dict) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(model), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return folder / "tokenizer.json"


def ids(path: Path, text: str = TEXT) -> list[int]:
    (tokens,) = tokenize(load_tokenizer(path, RULES), RULES, [text])
    return tokens.ids[1:-1] if tokens.ids[:1] == [2] else tokens.ids


# What both versions of transformers gave for TEXT under these settings, whatever tokenizer.json said.
MEASURED = [
    ({}, [1, 5, 5, 9, 10]),
    ({"do_lower_case": True}, [1, 5, 5, 9, 10]),
    ({"do_lower_case": False}, [1, 8, 7, 9, 10]),
    ({"do_lower_case": False, "strip_accents": True}, [1, 5, 7, 9, 10]),
    ({"strip_accents": False}, [1, 8, 5, 9, 10]),
    ({"tokenize_chinese_chars": False}, [1, 5, 5, 11]),
]
OWN = [(True, None, True), (False, None, True), (False, False, False)]


def normalizer(lower: bool, accents: bool | None, chinese: bool) -> BERT:
    return BERT(clean_text=True, handle_chinese_chars=chinese, strip_accents=accents, lowercase=lower)


class TestBert:
    @pytest.mark.parametrize("kind", ["BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer"])
    @pytest.mark.parametrize("own", OWN, ids=str)
    @pytest.mark.parametrize(("config", "expected"), MEASURED, ids=str)
    def test_the_config_counts(self, tmp_path, kind, own, config, expected):
        assert ids(bert(tmp_path, normalizer(*own), tokenizer_class=kind, **config)) == expected

    @pytest.mark.parametrize(("config", "expected"), [MEASURED[0], MEASURED[2]], ids=str)
    def test_what_only_one_version_obeys(self, tmp_path, config, expected):
        """Of MPNet, version 4 takes the Chinese characters from tokenizer.json and version 5 from the config."""
        kind = {"tokenizer_class": "MPNetTokenizer"}
        assert ids(bert(tmp_path, normalizer(True, None, True), **kind, **config)) == expected
        with pytest.raises(ModelFormatError, match=DIFFERENT) as caught:
            ids(bert(tmp_path, normalizer(True, None, False), **kind, **config))
        assert "tokenize_chinese_chars: true" in caught.value.message

    @pytest.mark.parametrize(
        "model", [{"model_type": "bert"}, {"model_type": "x", "tokenizer_class": "BertTokenizer"}], ids=str
    )
    def test_the_class_may_be_told_by_the_model(self, tmp_path, model):
        path = bert(tmp_path, normalizer(True, None, True), model, do_lower_case=False)
        assert ids(path) == [1, 8, 7, 9, 10]

    @pytest.mark.parametrize("own", OWN, ids=str)
    def test_a_class_that_does_not_read_the_keys(self, tmp_path, own):
        plain = ids(bert(tmp_path, normalizer(*own), tokenizer_class="PreTrainedTokenizerFast"))
        path = bert(
            tmp_path, normalizer(*own), tokenizer_class="PreTrainedTokenizerFast", do_lower_case=not own[0]
        )
        assert ids(path) == plain

    @pytest.mark.parametrize(
        ("own", "config"),
        [
            (normalizers.Lowercase(), {"do_lower_case": False}),
            (normalizers.NFC(), {"do_lower_case": True}),
            (normalizers.NFC(), {"strip_accents": True}),
            (None, {"tokenize_chinese_chars": True}),
        ],
        ids=["lowers", "does not", "keeps accents", "nothing"],
    )
    def test_another_normalizer_that_contradicts_is_refused(self, tmp_path, own, config):
        """Version 4 keeps it, version 5 puts its own in its place."""
        with pytest.raises(ModelFormatError, match=DIFFERENT) as caught:
            ids(bert(tmp_path, own, tokenizer_class="BertTokenizer", **config))
        assert next(iter(config)) in caught.value.message
        assert {"true", "false"} <= set(caught.value.message.replace(",", " ").replace(";", " ").split())

    def test_another_normalizer_that_agrees(self, tmp_path):
        own = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
        path = bert(tmp_path, own, tokenizer_class="BertTokenizer", do_lower_case=True, strip_accents=True)
        assert ids(path, "Á b") == [5, 6]

    @pytest.mark.parametrize("key", ["do_lower_case", "strip_accents", "tokenize_chinese_chars"])
    def test_nonsense(self, tmp_path, key):
        path = bert(tmp_path, normalizer(True, None, True), tokenizer_class="BertTokenizer", **{key: "no"})
        with pytest.raises(ModelFormatError, match=rf"tokenizer_config\.json: {key} 'no'"):
            ids(path)


class TestBytes:
    @pytest.mark.parametrize("kind", ["RobertaTokenizer", "RobertaTokenizerFast", "GPT2Tokenizer"])
    @pytest.mark.parametrize("own", [True, False])
    @pytest.mark.parametrize("said", [None, True, False])
    def test_the_config_counts(self, tmp_path, kind, own, said):
        config = {} if said is None else {"add_prefix_space": said}
        path = by_bytes(tmp_path, pre_tokenizers.ByteLevel(own), tokenizer_class=kind, **config)
        assert len(ids(path, "ab")) == (3 if said else 2)

    @pytest.mark.parametrize("kind", ["PreTrainedTokenizerFast", "RobertaTokenizer"])
    @pytest.mark.parametrize("own", [True, False])
    def test_where_the_versions_differ_a_contradiction_is_refused(self, tmp_path, kind, own):
        level = pre_tokenizers.ByteLevel(own)
        nested = pre_tokenizers.Sequence([level]) if kind == "RobertaTokenizer" else level
        path = by_bytes(tmp_path, nested, tokenizer_class=kind, add_prefix_space=own)
        assert len(ids(path, "ab")) == (3 if own else 2)
        path = by_bytes(tmp_path, nested, tokenizer_class=kind, add_prefix_space=not own)
        with pytest.raises(ModelFormatError, match=DIFFERENT.replace("says .*", "says add_prefix_space.*")):
            ids(path, "ab")


def test_the_shipped_model_is_as_it_was():
    path = locate("mini").directory / "tokenizer.json"
    text = "Ein ÜBERfall: 中国, café"
    assert load_tokenizer(path, TextRules(512)).encode(text).ids == untouched(path).encode(text).ids


def untouched(path: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def test_the_largest_id_counts_added_tokens(tmp_path):
    path = bert(tmp_path, normalizer(True, None, True))
    tokenizer = load_tokenizer(path, RULES)
    assert largest_id(tokenizer) == len(WORDS) - 1
    tokenizer.add_tokens(["another"])
    assert largest_id(tokenizer) == len(WORDS)
    content = json.loads(path.read_text("utf-8"))
    content["model"]["vocab"]["b"] = 400
    path.write_text(json.dumps(content), "utf-8")
    assert largest_id(load_tokenizer(path, RULES)) == 400
