"""Texts as the model was trained with them: tokens, truncation, padding, and the inputs of the graph.

`read_text_rules` reads how from the files a model was published with, whatever their layout, into one frozen
`TextRules`. Then, for each batch::

    tokenizer = load_tokenizer(path, rules)
    tokens = tokenize(tokenizer, rules, texts, rules.prompt("query"))
    hidden = engine.run(feeds(tokens, rules, engine.inputs), ...)
    vectors = pool(hidden, mask(tokens, rules, engine.inputs), rules.pooling, tokens[0].prompt)
    vectors = load_modules(rules.after)(vectors)

The last two lines are for graphs that end in token vectors (n, T, d). A graph with an output `sentence_embedding` has
pooling and modules inside, and neither is applied again. What follows the network is in `sentence.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import ModelFormatError
from bowerbird.models.text.cleaning import LOWER, clean
from bowerbird.models.text.declared import follow_config
from bowerbird.models.text.rules import TextRules

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from bowerbird.models.network.graph import TensorSpec


POOLING_MASK, PROMPT_TOKENS = "pooling_mask", "prompt_tokens"
"""Inputs that only graphs with a fitted head have, which pool by themselves: where the tokens of the text are, whatever
the network is told of that; and how many at the start of each text are not pooled."""

FEW = 16
"""Texts that are tokenised by the thread that asks. To hand them to others is no faster then, and where all cores are
at work, as in a service, their turn may come only after milliseconds."""

FEW_CHARACTERS = 1 << 14
"""Together; likewise."""


@dataclass(frozen=True)
class Tokens:
    """One tokenised text, without padding.

    Attributes:
        ids: token ids, special tokens included.
        types: token type ids, as many.
        dropped: how many tokens beyond the model's maximum were cut off.
        prompt: how many tokens at the start are a prompt that is not pooled; 0 where prompts are pooled.
    """

    ids: list[int]
    types: list[int]
    dropped: int
    prompt: int = 0


def load_tokenizer(path: Path, rules: TextRules) -> Tokenizer:
    """Read `tokenizer.json`, and `tokenizer_config.json` beside it; truncation and padding come from the rules alone.

    The two are known to differ: all-MiniLM-L6-v2 says 256 in `sentence_bert_config.json`, while its
    `tokenizer.json` says 128 with fixed padding to 128.

    Raises:
        ModelFormatError: the file is missing or damaged, contradicts `tokenizer_config.json` beside it, or the maximum
            leaves no room for a text.
    """
    from tokenizers import Tokenizer, normalizers

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise ModelFormatError(f"{path} cannot be read as a tokenizer: {error}.") from error
    special = tokenizer.num_special_tokens_to_add(is_pair=False)
    if rules.max_tokens <= special:
        raise ModelFormatError(
            f"{path}: {rules.max_tokens} tokens leave no room beside {special} special ones."
        )
    tokenizer.no_padding()
    follow_config(tokenizer, path)
    tokenizer.enable_truncation(rules.max_tokens, direction=rules.cut_side)
    if LOWER in rules.clean:
        own = [tokenizer.normalizer] if tokenizer.normalizer else []
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
    return tokenizer


def largest_id(tokenizer: Tokenizer) -> int:
    """The largest id that the tokeniser can give, added tokens included; -1 where it has no token at all.

    A network has a row for each id: a tokeniser that gives a larger one is of another model.
    """
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)


def tokenize(tokenizer: Tokenizer, rules: TextRules, texts: Sequence[str], prompt: str = "") -> list[Tokens]:
    """Tokenise, many in parallel; one `Tokens` for each text, in order.

    Args:
        tokenizer: from `load_tokenizer`.
        rules: the same as there.
        texts: without lone surrogates, which are no Unicode.
        prompt: put before each text, from `TextRules.prompt`.
    """
    skipped = 0 if rules.include_prompt or not prompt else _prompt_tokens(tokenizer, rules, prompt)
    cleaned = [clean(prompt + text, rules.clean) for text in texts]
    # One by one they hold up all other threads.
    few = len(cleaned) <= FEW and sum(map(len, cleaned)) <= FEW_CHARACTERS
    return [
        Tokens(
            e.ids,
            e.type_ids,
            sum(len(rest.ids) - rest.special_tokens_mask.count(1) for rest in e.overflowing),
            skipped,
        )
        for e in (map(tokenizer.encode, cleaned) if few else tokenizer.encode_batch(cleaned))
    ]


def _prompt_tokens(tokenizer: Tokenizer, rules: TextRules, prompt: str) -> int:
    """As sentence-transformers counts: the prompt alone, but for a special token at its end."""
    ids = tokenizer.encode(clean(prompt, rules.clean)).ids
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return len(ids) - (1 if ids and ids[-1] in special else 0)


def feeds(
    tokens: Sequence[Tokens], rules: TextRules, inputs: Mapping[str, TensorSpec]
) -> dict[str, NDArray[Any]]:
    """What the graph takes, under its own names and in its own types.

    Args:
        tokens: one batch.
        rules: decide padding and mask.
        inputs: of the graph. Known are `input_ids` or `text`, `attention_mask`, `token_type_ids`, `position_ids`,
            `POOLING_MASK`, `PROMPT_TOKENS`. Where the graph fixes the length of a row, rows are padded to it.

    Returns:
        One (n, T) array for each input of the graph; (n,) of `PROMPT_TOKENS`.

    Raises:
        ModelFormatError: the graph wants something else, or fixes another length than the rules.
    """
    width = _width(tokens, rules, inputs)
    real = _placed([[1] * len(t.ids) for t in tokens], width, rules.pad_side, 0)
    ids = _placed([t.ids for t in tokens], width, rules.pad_side, rules.pad_id)
    known = {
        "input_ids": ids,
        "text": ids,  # open_clip's and immich's name
        "attention_mask": real if rules.masked else np.ones_like(real),
        "token_type_ids": _placed([t.types for t in tokens], width, rules.pad_side, 0),
        "position_ids": np.maximum(real.cumsum(1) - 1, 0) if rules.masked else np.arange(width) + 0 * real,
        POOLING_MASK: real,
        PROMPT_TOKENS: np.array([t.prompt for t in tokens], np.int64),
    }
    for name, spec in inputs.items():
        if name not in known or spec.dtype not in ("int64", "int32", "float32", "float16"):
            raise ModelFormatError(
                f"The text graph wants an input {name!r} of type {spec.dtype}, which no tokeniser gives.",
                hint=f"Known: {', '.join(known)}, in int64 or int32.",
            )
    return {name: known[name].astype(spec.dtype) for name, spec in inputs.items()}


def mask(tokens: Sequence[Tokens], rules: TextRules, inputs: Mapping[str, TensorSpec]) -> NDArray[np.int64]:
    """(n, T), 1 where `feeds` puts a token of a text and 0 where it puts padding, whatever the network is told."""
    width = _width(tokens, rules, inputs)
    return _placed([[1] * len(t.ids) for t in tokens], width, rules.pad_side, 0)


def _width(tokens: Sequence[Tokens], rules: TextRules, inputs: Mapping[str, TensorSpec]) -> int:
    longest = max((len(t.ids) for t in tokens), default=0)
    fixed = {spec.shape[1] for spec in inputs.values() if len(spec.shape) == 2 and spec.shape[1] is not None}
    width = max(longest, rules.padding)
    for length in fixed:
        if length is not None and (length < width or rules.padding not in (0, length)):
            raise ModelFormatError(
                f"The text graph takes exactly {length} tokens, while the model's files say "
                f"{rules.padding or rules.max_tokens}.",
                hint="Set text.max_tokens in bowerbird.json, or export the graph with a free length.",
            )
        width = length or width
    return width


def _placed(rows: Sequence[Sequence[int]], width: int, side: str, fill: int) -> NDArray[np.int64]:
    placed = np.full((len(rows), width), fill, np.int64)
    for row, values in enumerate(rows):
        if side == "left":
            placed[row, width - len(values) :] = values
        else:
            placed[row, : len(values)] = values
    return placed
