"""Long texts: what the model reads of them is found without reading all of it, and the tokens are the same."""

from __future__ import annotations

import asyncio

import pytest
from tests.serve.test_encoders import SECONDS

from bowerbird.errors import UnsupportedInputError
from bowerbird.serve.batching import Scheduler
from bowerbird.serve.encoders import SharedEncoder
from bowerbird.serve.tokenising import LONG, TOGETHER, tokens_of

CHARACTERS = 40_000
"""More than `LONG` for each of the 256 tokens that mini reads."""

TEXTS = {
    "words": "some words of a text that goes on and on, for ever; " * (CHARACTERS // 50),
    "without blanks": "漢字" * (CHARACTERS // 2),
    "one word": "a" * CHARACTERS,
    "blanks first": " " * (CHARACTERS // 2) + "words " * (CHARACTERS // 10),
    "a long word first": "a" * (CHARACTERS // 2) + " words" * (CHARACTERS // 10),
    "blanks": " " * CHARACTERS,
    "not so long": "a few words " * 300,
}


@pytest.mark.parametrize("kind", TEXTS)
def test_the_model_reads_the_same(model, kind: str) -> None:
    assert LONG * model.text.tower.rules.max_tokens < CHARACTERS
    (whole,) = model.text.tokens([TEXTS[kind]])
    (found,), begun = tokens_of(model.text, [TEXTS[kind]])
    assert (found.ids, found.types) == (whole.ids, whole.types)
    if begun:
        assert found.dropped == pytest.approx(whole.dropped, rel=0.5)
    else:
        assert found.dropped == whole.dropped


def test_each_is_answered_at_its_place(model) -> None:
    texts = ["a red dress", *TEXTS.values(), "", *["漢" * (TOGETHER // 3)] * 5, "a cat"]
    found, begun = tokens_of(model.text, texts)
    assert [one.ids for one in found] == [one.ids for one in model.text.tokens(texts)]
    assert {1, 2} <= begun  # words, and signs without blanks
    assert not begun & {0, 7, 8, len(texts) - 1}


def test_far_more_is_not_looked_at(model) -> None:
    """The whole of it takes a kilobyte for each token."""
    looked_at = 0

    class Counting:
        tower = model.text.tower

        @staticmethod
        def tokens(texts, role=""):
            nonlocal looked_at
            looked_at += sum(map(len, texts))
            return model.text.tokens(texts, role)

    (found,), begun = tokens_of(Counting, ["漢" * 1_000_000])
    assert begun == {0}
    assert found.dropped == pytest.approx(1_000_000 - 254, rel=0.01)
    assert looked_at < 10_000


def test_no_such_role(model) -> None:
    with pytest.raises(UnsupportedInputError, match="prompt"):
        tokens_of(model.text, ["a"], "questioner")


def test_the_note_says_that_it_is_not_counted(model) -> None:
    scheduler = Scheduler(1, queue_seconds=600.0)
    try:
        shared = SharedEncoder(model, scheduler).warm()
        answer = asyncio.run(shared.embed([TEXTS["words"], TEXTS["not so long"]]))
    finally:
        assert scheduler.stop(SECONDS)
    assert answer.outcomes[0].note.startswith("cut to 256 tokens; about ")
    assert answer.outcomes[1].note.startswith("cut to 256 tokens; ")
    assert "about" not in answer.outcomes[1].note
