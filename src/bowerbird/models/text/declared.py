"""What `tokenizer_config.json` says about the tokeniser that `tokenizer.json` beside it describes.

The second file would be complete by itself, but transformers reads the first one as well, and for some classes it wins:
with ``do_lower_case: false`` beside a tokenizer.json that lowers, nothing is lowered. Here it is followed where
transformers 4.57 and 5.23 agree about it, and refused where they do not and the two files contradict each other.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.errors import ModelFormatError
from bowerbird.models.jsonfile import read_object

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BERT = frozenset(
    f"{name}Tokenizer"
    for name in (
        *("Bert", "ConvBert", "DistilBert", "Electra", "Funnel", "LayoutLM", "Lxmert", "MPNet", "MobileBert"),
        "SqueezeBert",
    )
)
"""Classes that give their `BertNormalizer` the settings of tokenizer_config.json, and their own where it has none."""

_DISPUTED = {
    "ConvBertTokenizer": ("do_lower_case", "strip_accents", "tokenize_chinese_chars"),
    "MPNetTokenizer": ("tokenize_chinese_chars",),
}
"""The keys that only one of the two versions obeys."""

_BYTES = frozenset(
    f"{name}Tokenizer"
    for name in ("Bart", "CodeGen", "Deberta", "GPT2", "LED", "Longformer", "Mvp", "Roberta")
)
"""Classes that do the same with their `ByteLevel` pre-tokeniser."""

_CLASSES = {
    "bert": "BertTokenizer",
    "distilbert": "DistilBertTokenizer",
    "electra": "ElectraTokenizer",
    "mpnet": "MPNetTokenizer",
    "roberta": "RobertaTokenizer",
}
"""`model_type` of config.json -> class, where no file names one."""

_AGAIN = "Save the tokeniser again with the library it is from, so that tokenizer.json is complete."


def follow_config(tokenizer: Tokenizer, path: Path) -> None:
    """Make the tokeniser what transformers makes of both files.

    Args:
        tokenizer: read from `path`; it is changed.
        path: tokenizer.json. Read beside it are tokenizer_config.json, and config.json for the class.

    Raises:
        ModelFormatError: one of the files cannot be read, or the two contradict each other in a way that versions of
            transformers understand differently.
    """
    beside = path.with_name("tokenizer_config.json")
    config = read_object(beside, missing_ok=True)
    kind = _class(config, path.with_name("config.json"))
    if kind in _BERT:
        _follow_normalizer(tokenizer, config, path, _DISPUTED.get(kind, ()))
    _follow_bytes(tokenizer, config, path, applies=kind in _BYTES)
    _check_ends(tokenizer, config, path)


def _class(config: Mapping[str, Any], network: Path) -> str:
    named = config.get("tokenizer_class")
    if not named:
        model = read_object(network, missing_ok=True)
        named = model.get("tokenizer_class") or _CLASSES.get(str(model.get("model_type")), "")
    return str(named).removesuffix("Fast")


def _follow_normalizer(
    tokenizer: Tokenizer, config: Mapping[str, Any], path: Path, disputed: Collection[str]
) -> None:
    from tokenizers import normalizers

    lower = _flag(config, "do_lower_case", True, path)
    chinese = _flag(config, "tokenize_chinese_chars", True, path)
    accents = _flag(config, "strip_accents", None, path)
    own = tokenizer.normalizer
    if isinstance(own, normalizers.BertNormalizer):
        both = {
            "do_lower_case": (lower, own.lowercase),
            "strip_accents": (accents, own.strip_accents),
            "tokenize_chinese_chars": (chinese, own.handle_chinese_chars),
        }
        for key in disputed:
            _agree(path, key, *both[key])
        tokenizer.normalizer = normalizers.BertNormalizer(
            clean_text=own.clean_text,
            handle_chinese_chars=bool(chinese),
            strip_accents=accents,
            lowercase=bool(lower),
        )
        return
    # Version 4 keeps any other normaliser as it is, version 5 puts a BertNormalizer in its place.
    probes = {
        "do_lower_case": ("A", "a"),
        "strip_accents": ("\u00e9", "e"),
        "tokenize_chinese_chars": ("\u4e2d", " \u4e2d "),
    }
    for key, (text, changed) in probes.items():
        if config.get(key) is not None:
            found = own.normalize_str(text) if own else text
            _agree(
                path,
                key,
                config[key],
                found.lower() == changed if key == "strip_accents" else found == changed,
            )


def _follow_bytes(tokenizer: Tokenizer, config: Mapping[str, Any], path: Path, *, applies: bool) -> None:
    from tokenizers import pre_tokenizers

    own = tokenizer.pre_tokenizer
    wanted = bool(_flag(config, "add_prefix_space", False, path))
    if applies and isinstance(own, pre_tokenizers.ByteLevel):
        own.add_prefix_space = wanted
        tokenizer.pre_tokenizer = own
    elif "add_prefix_space" in config and (applies or isinstance(own, pre_tokenizers.ByteLevel)):
        # Here the versions differ: 4 changes a ByteLevel of any class but only a lone one, 5 a few classes wholly.
        spaced = own is not None and own.pre_tokenize_str("a")[0][0] != "a"
        _agree(path, "add_prefix_space", wanted, spaced)


def _agree(path: Path, key: str, said: bool | None, done: bool | None) -> None:
    if said != done:
        beside = path.with_name("tokenizer_config.json")
        raise ModelFormatError(
            f"{beside} says {key}: {json.dumps(said)}, while {path.name} beside it does as with "
            f"{json.dumps(done)}; versions of transformers differ about which counts.",
            hint=_AGAIN,
        )


def _flag(config: Mapping[str, Any], key: str, default: bool | None, path: Path) -> bool | None:
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise ModelFormatError(
            f"{path.with_name('tokenizer_config.json')}: {key} {value!r} is neither true nor false."
        )
    return default if value is None else value


def _check_ends(tokenizer: Tokenizer, config: Mapping[str, Any], path: Path) -> None:
    """Some libraries add begin and end tokens by tokenizer_config.json alone: without them every vector is another."""
    ids = tokenizer.encode("a").ids
    for flag, key, place in (("add_bos_token", "bos_token", 0), ("add_eos_token", "eos_token", -1)):
        token = config.get(key)
        token = token.get("content") if isinstance(token, dict) else token
        if config.get(flag) is True and token and (not ids or tokenizer.id_to_token(ids[place]) != token):
            raise ModelFormatError(
                f"{path} does not add {token!r} to a text, while tokenizer_config.json says {flag}: true.",
                hint=_AGAIN,
            )
