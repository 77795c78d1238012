"""Text preprocessing: tokens, truncation and pooling as the model was trained with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import ModelFormatError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

POOLINGS = ("mean", "cls", "max")
"""How token vectors become one vector, when the graph does not do it itself."""


@dataclass(frozen=True)
class Tokens:
    """One tokenised text.

    Attributes:
        ids: token ids, special tokens included.
        types: token type ids, as many.
        dropped: how many tokens beyond the model's maximum were cut off.
    """

    ids: list[int]
    types: list[int]
    dropped: int


def load_tokenizer(path: Path, max_tokens: int) -> Tokenizer:
    """Read `tokenizer.json`; truncation and padding come from the card, never from this file.

    The two are known to differ: all-MiniLM-L6-v2 says 256 in `sentence_bert_config.json`, while its
    `tokenizer.json` says 128 with fixed padding to 128.

    Raises:
        ModelFormatError: the file is missing or damaged.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise ModelFormatError(f"{path} cannot be read as a tokenizer: {error}.") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Tokens]:
    """Tokenise in parallel; one `Tokens` for each text, in order."""
    return [
        Tokens(
            e.ids,
            e.type_ids,
            sum(len(rest.ids) - rest.special_tokens_mask.count(1) for rest in e.overflowing),
        )
        for e in tokenizer.encode_batch(list(texts))
    ]


def pad(tokens: Sequence[Tokens], pad_id: int) -> dict[str, NDArray[np.int64]]:
    """(batch, longest) arrays under the names the published graphs use, padded on the right."""
    width = max(len(t.ids) for t in tokens)
    ids = np.full((len(tokens), width), pad_id, np.int64)
    mask = np.zeros_like(ids)
    types = np.zeros_like(ids)
    for row, token in enumerate(tokens):
        length = len(token.ids)
        ids[row, :length] = token.ids
        mask[row, :length] = 1
        types[row, :length] = token.types
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def pool(hidden: NDArray[np.float32], mask: NDArray[np.int64], how: str) -> NDArray[np.float32]:
    """(batch, tokens, dim) and (batch, tokens) to (batch, dim); padding never counts."""
    if how == "cls":
        first: NDArray[np.float32] = hidden[np.arange(len(hidden)), mask.argmax(1)]  # unmasked token
        return first
    weight = mask[..., None].astype(np.float32)
    if how == "max":
        masked: NDArray[np.float32] = np.where(weight > 0, hidden, -np.inf).max(1)
        return masked
    summed: NDArray[np.float32] = (hidden * weight).sum(1) / np.maximum(weight.sum(1), 1e-9)
    return summed


@dataclass(frozen=True)
class TextConfig:
    """What the files of a sentence-transformers directory say.

    Attributes:
        max_tokens: from `sentence_bert_config.json`; special tokens count.
        pooling: one of `POOLINGS`.
        prompts: name -> text put before the input.
        default_prompt: the prompt used when no role is given; empty for none.
    """

    max_tokens: int
    pooling: str
    prompts: tuple[tuple[str, str], ...]
    default_prompt: str


def read_text_config(directory: Path) -> TextConfig:
    """Read modules.json, the pooling, the maximum length and the prompts.

    Raises:
        ModelFormatError: a file is missing or damaged, or asks for something that is not implemented.
    """
    modules = _json(directory / "modules.json", list)
    pooling = ""
    for module in modules:
        kind = str(module.get("type", "")).rsplit(".", 1)[-1] if isinstance(module, dict) else repr(module)
        if kind == "Pooling":
            pooling = _pooling(directory / str(module.get("path", "")) / "config.json")
        elif kind not in ("Transformer", "Normalize"):
            raise ModelFormatError(
                f"{directory / 'modules.json'}: module {kind!r} is not known.",
                hint="Known: Transformer, Pooling, Normalize. Leaving one out would change every vector.",
            )
    if not pooling:
        raise ModelFormatError(f"{directory / 'modules.json'} names no Pooling module.")
    prompts, default = _prompts(directory / "config_sentence_transformers.json")
    return TextConfig(
        max_tokens=_max_tokens(directory / "sentence_bert_config.json"),
        pooling=pooling,
        prompts=prompts,
        default_prompt=default,
    )


def _max_tokens(path: Path) -> int:
    config = _json(path)
    if config.get("do_lower_case"):
        raise ModelFormatError(f"{path}: do_lower_case is not implemented; ignoring it would change vectors.")
    length = config.get("max_seq_length")
    if not isinstance(length, int) or length < 1:
        raise ModelFormatError(f"{path}: max_seq_length {length!r} is not a number of tokens.")
    return length


def _prompts(path: Path) -> tuple[tuple[tuple[str, str], ...], str]:
    config = _json(path) if path.exists() else {}
    prompts = config.get("prompts") or {}
    default = config.get("default_prompt_name") or ""
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise ModelFormatError(f"{path}: `prompts` is an object of texts.")
    if default and default not in prompts:
        raise ModelFormatError(f"{path}: default_prompt_name {default!r} is none of {sorted(prompts)}.")
    return tuple(sorted(prompts.items())), default


def _pooling(path: Path) -> str:
    config = _json(path)
    if config.get("include_prompt") is False:
        raise ModelFormatError(f"{path}: include_prompt=false is not implemented.")
    spelled = config.get("pooling_mode")
    if isinstance(spelled, str):
        chosen = [spelled]
    else:
        flags = {
            "pooling_mode_mean_tokens": "mean",
            "pooling_mode_cls_token": "cls",
            "pooling_mode_max_tokens": "max",
        }
        chosen = [flags.get(k, k) for k, on in config.items() if k.startswith("pooling_mode_") and on]
    if len(chosen) != 1 or chosen[0] not in POOLINGS:
        raise ModelFormatError(
            f"{path}: pooling {chosen} is not implemented.", hint=f"Implemented: {', '.join(POOLINGS)}."
        )
    return chosen[0]


def _json(path: Path, kind: type[Any] = dict) -> Any:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ModelFormatError(f"{path} is missing.", hint="Fetch the model again.") from error
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"{path} cannot be read: {error}.", hint="Fetch the model again.") from error
    if not isinstance(content, kind):
        raise ModelFormatError(f"{path} holds no JSON {'list' if kind is list else 'object'}.")
    return content
