"""Pairs of texts as a cross-encoder was trained with them: which tokens, how many, and how the longer one is cut.

The conditions are those of `CrossEncoder.predict` of sentence-transformers 6.2, which leaves all of this to the
tokeniser: both texts in one row, with the separators of its own template; where the row is too long, tokens are taken
from the longer text first (`longest_first`); rows are padded to the longest of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.errors import ModelFormatError
from bowerbird.models.jsonfile import member, only, read_list, read_object, whole_number
from bowerbird.models.text.cleaning import LOWER, clean
from bowerbird.models.text.rules import TextRules, tokenizer_rules
from bowerbird.models.text.tokens import Tokens, load_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_COUNTED_FROM_PADDING = ("camembert", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl")
"""Networks (`model_type`) whose first token is at the place after that of padding: the places before are never used."""


@dataclass(frozen=True)
class Pair:
    """A tokenised pair.

    Attributes:
        tokens: of both texts in one row. How many were cut is not counted there: the tokeniser tells only whether.
        is_cut: whether the pair did not fit.
    """

    tokens: Tokens
    is_cut: bool


def read_pair_rules(directory: Path, notes: Mapping[str, Any]) -> TextRules:
    """The conditions of a cross-encoder, from the files it was published with.

    Read are tokenizer_config.json and config.json, and what sentence-transformers writes from 5.4 on: modules.json,
    sentence_bert_config.json, and the default prompt of config_sentence_transformers.json.

    Args:
        directory: holds these files.
        notes: `max_tokens`, which wins over all of them.

    Raises:
        ModelFormatError: a file is damaged or says something that is not implemented; or none says how many tokens the
            network takes.
    """
    given = _transformer(directory) if (directory / "modules.json").exists() else {}
    rules = tokenizer_rules(directory, [directory], given, notes)
    prompt = _prompt(directory / "config_sentence_transformers.json")
    return replace(
        rules,
        max_tokens=notes.get("max_tokens") or _within_places(rules.max_tokens, directory / "config.json"),
        clean=(LOWER,) if given.get("do_lower_case") else (),
        prompts=(("default", prompt),) if prompt else (),
        default_prompt="default" if prompt else "",
    )


def load_pair_tokenizer(path: Path, rules: TextRules) -> Tokenizer:
    """Read `tokenizer.json` for pairs; see `load_tokenizer`.

    Raises:
        ModelFormatError: as of `load_tokenizer`, or the maximum leaves no room for two texts.
    """
    tokenizer = load_tokenizer(path, rules)
    special = tokenizer.num_special_tokens_to_add(is_pair=True)
    if rules.max_tokens < special + 2:
        raise ModelFormatError(
            f"{path}: {rules.max_tokens} tokens leave no room for two texts beside {special} special ones."
        )
    return tokenizer


def encode_pairs(tokenizer: Tokenizer, rules: TextRules, pairs: Sequence[tuple[str, str]]) -> list[Pair]:
    """Tokenise in parallel; one `Pair` for each, in order.

    Args:
        tokenizer: from `load_pair_tokenizer`.
        rules: the same as there; a prompt goes before the first text.
        pairs: texts without lone surrogates, which are no Unicode.
    """
    prompt = rules.prompt()
    cleaned = [(clean(prompt + a, rules.clean), clean(b, rules.clean)) for a, b in pairs]
    return [Pair(Tokens(e.ids, e.type_ids, 0), bool(e.overflowing)) for e in tokenizer.encode_batch(cleaned)]


def _transformer(directory: Path) -> dict[str, Any]:
    """What sentence_bert_config.json passes to the tokeniser, in a chain that is one sequence classifier alone."""
    path = directory / "modules.json"
    kinds = [str(entry.get("type")) for entry in read_list(path) if isinstance(entry, dict)]
    if [kind.rpartition(".")[2] for kind in kinds] != ["Transformer"]:
        raise ModelFormatError(
            f"{path}: a cross-encoder of {', '.join(kinds) or 'no module'} is not implemented.",
            hint="Implemented: one Transformer that gives the scores by itself.",
        )
    path = directory / "sentence_bert_config.json"
    config = read_object(path, missing_ok=True)
    task = config.get("transformer_task", "sequence-classification")
    if task != "sequence-classification":
        raise ModelFormatError(
            f"{path}: transformer_task {task!r} is not that of a cross-encoder.",
            hint="Use `load` for a model that gives vectors.",
        )
    tokenizer: dict[str, Any] = {}
    for key in ("tokenizer_args", "processor_kwargs"):
        tokenizer |= member(config, key, path)
    only(tokenizer, {"model_max_length", "padding_side", "truncation_side", "use_fast"}, path)
    if config.get("max_seq_length") is not None:
        tokenizer["model_max_length"] = whole_number(config["max_seq_length"], "max_seq_length", path)
    return {"do_lower_case": config.get("do_lower_case"), "tokenizer": tokenizer}


def _prompt(path: Path) -> str:
    """The text that is put before the first of two texts where nobody asks for another; empty for none."""
    config = read_object(path, missing_ok=True)
    name = config.get("default_prompt_name")
    if name is None:
        return ""
    prompt = member(config, "prompts", path).get(name)
    if not isinstance(prompt, str):
        raise ModelFormatError(f"{path}: there is no prompt {name!r}, the default one.")
    return prompt


def _within_places(tokens: int, path: Path) -> int:
    """As many tokens as the network has places for, which is less than its table of places for some."""
    config = read_object(path, missing_ok=True)
    places, padding = config.get("max_position_embeddings"), config.get("pad_token_id")
    if config.get("model_type") in _COUNTED_FROM_PADDING and isinstance(places, int):
        return min(tokens, places - 1 - (padding if isinstance(padding, int) else 1))
    return tokens
