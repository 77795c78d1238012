"""The text tower: texts to tokens to vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import ModelFormatError
from bowerbird.lookahead import ordered_map
from bowerbird.models.card import TextTower
from bowerbird.models.network.engine import Engine
from bowerbird.models.network.precision import probe_sentences
from bowerbird.models.text.sentence import Dense, load_modules, pool
from bowerbird.models.text.tokens import Tokens, feeds, largest_id, load_tokenizer, mask, tokenize
from bowerbird.models.towers import Vectors, channels, cut, open_tower, require_output, shortened

TOKENS_PER_BATCH = 512
"""Padded tokens in one run of the network. Texts of like length share a batch, so little of it is padding."""

LONGEST_BATCH = 16
"""Texts in one run of the network."""

_NOTHING = np.empty(0, np.float32)


class TextSide:
    """The text tower: texts to tokens to vectors."""

    def __init__(self, tower: TextTower, policy: str, engine: str, threads: int) -> None:
        self.tower = tower
        self._tensor = dict(tower.tensors).get(tower.output, tower.output)
        self._tokenizer = load_tokenizer(tower.tokenizer.path, tower.rules)
        self._after = load_modules(tower.rules.after)
        self._check_vocabulary()
        self.choice, self.engine = open_tower(tower, policy, engine, self._probe, threads)
        self._threads = threads
        self._check_length()
        self._spec = require_output(self.engine, self._tensor, tower.graph.path)

    def _check_vocabulary(self) -> None:
        """Refuse a tokeniser that gives tokens which the graph does not know."""
        largest, known = largest_id(self._tokenizer), self.tower.vocabulary
        if known is not None and largest >= known:
            raise ModelFormatError(
                f"{self.tower.tokenizer.path} has token ids up to {largest}, while {self.tower.graph.path} knows "
                f"{known} tokens: they belong to different models.",
                hint="Fetch the model again.",
            )

    def _check_length(self) -> None:
        """Refuse a graph that cannot take a text as long as the model's files allow."""
        rules = self.tower.rules
        fixed = {spec.shape[1] for spec in self.engine.inputs.values() if len(spec.shape) == 2} - {None}
        for length in fixed:
            if length is not None and max(rules.padding, rules.max_tokens) > length:
                raise ModelFormatError(
                    f"{self.tower.graph.path} takes exactly {length} tokens, while the model's files allow "
                    f"{max(rules.padding, rules.max_tokens)}.",
                    hint="Set text.max_tokens in bowerbird.json, or export the graph with a free length.",
                )

    @property
    def dimensions(self) -> int:
        """Length of the vectors."""
        rules = self.tower.rules
        width = channels(self._spec)
        if len(self._spec.shape) == 3:
            width *= len(rules.pooling)
            for module in rules.after:
                width = module.outputs if isinstance(module, Dense) else width
        return shortened(width, self.tower.dimensions)

    @property
    def by_token(self) -> bool:
        """Whether a text becomes a vector for each token rather than one."""
        return "none" in self.tower.rules.pooling

    def tokens(self, texts: Sequence[str], role: str = "") -> list[Tokens]:
        """What the network reads of each text: prompt, special tokens and truncation included.

        Raises:
            UnsupportedInputError: the model has no such role.
        """
        return tokenize(self._tokenizer, self.tower.rules, texts, self.tower.rules.prompt(role))

    def encode(
        self, texts: Sequence[str], role: str = "", *, repeatable: bool = False
    ) -> tuple[list[Vectors], list[int]]:
        """A raw vector (dim,) for each text, or (tokens, dim) where `by_token`; and how many tokens did not fit.

        Args:
            texts: in any number and order.
            role: name of a prompt.
            repeatable: a text's vector shall not depend on the other texts, to the last bit, so that other ways of
                sharing out the work give the same: texts share a batch only with those of their own length, and none
                is alone in one, since engines multiply a single row in another way.

        Raises:
            UnsupportedInputError: the model has no such role.
        """
        tokens = self.tokens(texts, role)
        vectors: list[Vectors] = [_NOTHING] * len(texts)

        def run(rows: Sequence[int]) -> tuple[Sequence[int], list[Vectors]]:
            wanted = [tokens[row] for row in rows]
            if repeatable and len(wanted) == 1:
                return rows, self._run_with(self.engine, wanted * 2)[:1]
            return rows, self._run_with(self.engine, wanted)

        fixed = self.tower.rules.padding
        batches = batches_by_length([max(len(token.ids), fixed) for token in tokens], exactly=repeatable)
        for rows, part in ordered_map(run, batches, threads=self._threads):
            for row, vector in zip(rows, part, strict=True):
                vectors[row] = vector
        return vectors, [token.dropped for token in tokens]

    def raw(self, tokens: Sequence[Tokens]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """What the network gives for a batch before any pooling, and the attention mask (batch, tokens)."""
        return self._raw_with(self.engine, tokens)

    def vectors(self, tokens: Sequence[Tokens]) -> list[Vectors]:
        """A raw vector for each text of a batch, or for each of its tokens where `by_token`."""
        return self._run_with(self.engine, tokens)

    def _raw_with(
        self, engine: Engine, tokens: Sequence[Tokens]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        rules = self.tower.rules
        (array,) = engine.run(feeds(tokens, rules, engine.inputs), (self._tensor,))
        return array.astype(np.float32, copy=False), mask(tokens, rules, engine.inputs)

    def _run_with(self, engine: Engine, tokens: Sequence[Tokens]) -> list[Vectors]:
        """A vector for each row, or for each of its tokens."""
        hidden, kept = self._raw_with(engine, tokens)
        keep = self.tower.dimensions
        if self.by_token:
            return [cut(row[real > 0], keep) for row, real in zip(hidden, kept, strict=True)]
        return list(cut(self.pooled(hidden, kept, tokens), keep))

    def pooled(self, hidden: Vectors, kept: NDArray[np.int64], tokens: Sequence[Tokens]) -> Vectors:
        """(n, dim) from what `raw` gives: pooled, then through the modules; as it is where the graph pools."""
        if hidden.ndim == 2:
            return hidden
        rules = self.tower.rules
        return self._after(pool(hidden, kept, rules.pooling, tokens[0].prompt))

    def _probe(self, engine: Engine) -> list[Vectors]:
        require_output(engine, self._tensor, self.tower.graph.path)
        tokens = tokenize(self._tokenizer, self.tower.rules, probe_sentences(), "")
        return [np.concatenate([np.atleast_2d(vector) for vector in self._run_with(engine, tokens)])]


def batches_by_length(lengths: Sequence[int], *, exactly: bool = False) -> Iterator[list[int]]:
    """Row numbers in batches of like length, longest first, within the token budget.

    Args:
        lengths: of each row, in tokens.
        exactly: rows of one batch are of one length.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    start = 0
    while start < len(order):
        longest = lengths[order[start]]
        end = start + max(1, min(LONGEST_BATCH, TOKENS_PER_BATCH // max(1, longest)))
        batch = order[start:end]
        if exactly:
            batch = [row for row in batch if lengths[row] == longest]
        yield batch
        start += len(batch)
