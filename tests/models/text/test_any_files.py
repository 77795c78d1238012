"""Whatever the files of a model hold, they are read or refused with an error that names them."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bowerbird.errors import ModelFormatError
from bowerbird.models.text.rules import TextRules, read_text_rules

CHAIN = [
    {"path": "", "type": "sentence_transformers.models.Transformer"},
    {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    {"path": "3_Normalize", "type": "sentence_transformers.models.Normalize"},
]
TOKENIZER = {
    "added_tokens": [{"id": 0, "content": "[PAD]"}],
    "model": {"type": "WordPiece", "vocab": {"[PAD]": 0, "a": 1}},
}
COMMON = {
    "config.json": {"model_type": "bert", "max_position_embeddings": 512, "text_config": {"pad_token_id": 0}},
    "tokenizer.json": TOKENIZER,
    "tokenizer_config.json": {
        "tokenizer_class": "BertTokenizer",
        "model_max_length": 512,
        "pad_token": {"content": "[PAD]"},
        "padding_side": "right",
        "truncation_side": "right",
        "model_input_names": ["input_ids"],
        "added_tokens_decoder": {"0": {"content": "[PAD]"}},
    },
    "special_tokens_map.json": {"pad_token": "[PAD]"},
}
LAYOUTS = {
    "sentence": {
        **COMMON,
        "modules.json": CHAIN,
        "1_Pooling/config.json": {"pooling_mode": "mean", "include_prompt": True},
        "2_Dense/config.json": {"in_features": 2, "out_features": 2, "bias": False, "use_residual": False},
        "3_Normalize/config.json": {"module_input_name": "sentence_embedding"},
        "sentence_bert_config.json": {
            "max_seq_length": 256,
            "do_lower_case": False,
            "modality_config": {"text": {}},
            "tokenizer_args": {"model_max_length": 9},
        },
        "config_sentence_transformers.json": {
            "prompts": {"query": "q: "},
            "default_prompt_name": "query",
            "truncate_dim": 2,
            "model_type": "SentenceTransformer",
        },
    },
    "family": {**COMMON, "config.json": {**COMMON["config.json"], "model_type": "clip"}},
    "open_clip": {
        **COMMON,
        "config.json": {},
        "open_clip_config.json": {
            "model_cfg": {
                "text_cfg": {
                    "context_length": 77,
                    "hf_tokenizer_name": "x",
                    "tokenizer_kwargs": {"clean": "lower"},
                }
            }
        },
    },
    "unigram": {**COMMON, "tokenizer.json": {"model": {"vocab": [["[PAD]", 0.0], ["a", -1.0]]}}},
}
JUNK = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-9, 1 << 70),
        st.floats(),
        st.text(max_size=3),
        st.sampled_from(["\0", "x" * 300, "[PAD]", "\ud800"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=3,
)


def places(value: object, at: tuple = ()) -> list[tuple]:
    """Every place within a JSON value, itself included."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, inner in items for place in places(inner, (*at, key)))]


def changed(value: object, place: tuple, junk: object, away: bool) -> object:
    if not place:
        return junk
    value = copy.deepcopy(value)
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    if away:
        del inner[place[-1]]
    else:
        inner[place[-1]] = junk
    return value


def written(folder: Path, files: dict[str, object]) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content), "utf-8")
    dense = folder / "2_Dense" / "model.safetensors"
    if dense.parent.exists():
        dense.write_bytes(b"weights are read later")
    return folder


def read(folder: Path, layout: str) -> TextRules:
    return read_text_rules(folder, notes={"pooling": "cls"} if layout == "unigram" else None)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unchanged_they_are_read(tmp_path, layout):
    assert read(written(tmp_path / "m", LAYOUTS[layout]), layout).pad_id == 0


@settings(deadline=None, max_examples=120)
@given(st.sampled_from(sorted(LAYOUTS)), st.data())
def test_any_value_in_any_place(tmp_path_factory, layout, data):
    files = dict(LAYOUTS[layout])
    for _ in range(data.draw(st.integers(1, 2))):
        name = data.draw(st.sampled_from(sorted(files)))
        place = data.draw(st.sampled_from(places(files[name])))
        files[name] = changed(files[name], place, data.draw(JUNK), data.draw(st.booleans()))
    folder = written(tmp_path_factory.getbasetemp() / "any", files)
    try:
        rules = read(folder, layout)
    except ModelFormatError as error:
        assert str(folder) in error.message
        assert "\n" not in error.message
    else:
        json.dumps(rules.meaning())
        assert rules.max_tokens >= 1
        assert rules.pad_id >= 0


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                *("pooling", "include_prompt", "max_tokens", "padding", "pad_side", "pad_id", "clean"),
                *("masked", "prompts", "default_prompt"),
            ]
        ),
        JUNK,
    )
)
def test_any_note(tmp_path_factory, notes):
    folder = written(tmp_path_factory.getbasetemp() / "notes", COMMON)
    try:
        read_text_rules(folder, notes={"pooling": "cls", **notes})
    except ModelFormatError as error:
        assert "bowerbird.json" in error.message


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("config.json", "text_config", [1]),
        ("tokenizer_config.json", "added_tokens_decoder", [1]),
        ("tokenizer_config.json", "model_max_length", "many"),
        ("sentence_bert_config.json", "tokenizer_args", "x"),
        ("tokenizer.json", "model", [1]),
        ("config_sentence_transformers.json", "default_prompt_name", ["query"]),
    ],
)
def test_the_file_and_the_key_are_named(tmp_path, name, key, value):
    files = {**LAYOUTS["sentence"]}
    if name == "tokenizer.json":  # nothing before it knows the token
        files["tokenizer_config.json"] = {"pad_token": "[PAD]"}
        files["tokenizer.json"] = {}
    if key in ("model_max_length", "text_config"):  # which the maximum in this file would hide
        files["sentence_bert_config.json"] = {}
    files[name] = {**files[name], key: value}
    with pytest.raises(ModelFormatError) as caught:
        read(written(tmp_path / "m", files), "sentence")
    assert str(tmp_path / "m" / name) in caught.value.message
    assert key in caught.value.message
