"""Tokens of what strangers send: no more is read of a text than its model needs, and little is held meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from bowerbird.models.text.tokens import Tokens
from bowerbird.models.text.tower import TextSide

__all__ = ["tokens_of"]

LONG = 64
"""Characters for each token that a model reads: of a text that has more, its beginning is tokenised first."""

BEGINNING = 16
"""Characters of that for each token, at first; twice as many where these are too few, and so on."""

SPARE = 64
"""Tokens beyond those that are read: with so many, nothing that follows can change them."""

TOGETHER = 1 << 17
"""Characters that are tokenised at once. A token takes up to a kilobyte until it is known whether it is read."""


def tokens_of(side: TextSide, texts: Sequence[str], role: str = "") -> tuple[list[Tokens], frozenset[int]]:
    """As `TextSide.tokens`, in bounded memory, and of long texts in bounded time.

    Args:
        side: of the model.
        texts: without lone surrogates.
        role: name of a prompt of the model.

    Returns:
        Tokens of each, in order; and the places of those of which only a beginning was looked at, where `dropped` is
        about what the rest has.

    Raises:
        UnsupportedInputError: the model has no such prompt.
    """
    rules = side.tower.rules
    found: dict[int, Tokens] = {}
    begun: set[int] = set()
    looked_at = [
        BEGINNING * rules.max_tokens
        if rules.cut_side == "right" and len(text) > LONG * rules.max_tokens
        else len(text)
        for text in texts
    ]
    left = list(range(len(texts)))
    while left:
        for places in _groups(left, looked_at):
            given = side.tokens([texts[place][: looked_at[place]] for place in places], role)
            found.update(zip(places, given, strict=True))
        left = [place for place in left if looked_at[place] < len(texts[place])]
        for place in left:
            if (one := found[place]).dropped >= SPARE:
                whole = (len(one.ids) + one.dropped) * len(texts[place]) / looked_at[place]
                found[place] = replace(one, dropped=round(whole) - len(one.ids))
                begun.add(place)
            looked_at[place] *= 2
        left = [place for place in left if place not in begun]
    return [found[place] for place in range(len(texts))], frozenset(begun)


def _groups(places: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Some at a time, of so many characters together, or one that is longer."""
    group: list[int] = []
    size = 0
    for place in places:
        if group and size + lengths[place] > TOGETHER:
            yield group
            group, size = [], 0
        group.append(place)
        size += lengths[place]
    if group:
        yield group
