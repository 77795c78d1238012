"""What is said of results, above and around them; and before anything is asked; as HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bowerbird.hits import Hits
from bowerbird.search.page import attribute, escaped
from bowerbird.serve.page.asked import FAINT, LIKELY, Asked
from bowerbird.serve.page.cards import cards
from bowerbird.serve.service import Facts

__all__ = ["message", "near", "results", "side", "status", "things", "unsure", "welcome"]


def side(name: str, hits: Hits, other: Sequence[str]) -> str:
    """One of two lists that are compared."""
    listed = cards(hits if hits or hits.below is None else hits.below, other=other, faded=not hits)
    nothing = "" if hits else _nothing(hits, 0.0)
    return (
        f'<h2 class="vh"><bdi>{escaped(name)}</bdi></h2>{nothing}<ol class="cards" role="list">{listed}</ol>'
    )


def status(hits: Hits, asked: Asked, least: float, words: float = math.nan) -> str:
    """What there is to say of results, above them.

    Args:
        hits: the results.
        asked: what they are of.
        least: the match that was asked for.
        words: best match of the words alone, where a picture or a record is asked together with them.
    """
    notes = "".join(f'<p class="note" dir="auto">{escaped(note)}</p>' for note in hits.notes)
    if not hits:
        return _nothing(hits, least) + notes
    if words < LIKELY:
        return (
            '<div class="notice"><p><strong>Nothing here is surely what the words say</strong> '
            f"(at best {round(100 * words)} %). These go by "
            f"{'your picture' if asked.picture else 'what they shall be like'}.</p></div>{notes}"
        )
    if unsure(hits, asked):
        best = round(100 * float(max(hits.match if hits.match is not None else ())))
        return (
            '<div class="notice"><p><strong>Nothing here is surely what you asked for.</strong> '
            f"The best match is {best} %; these came nearest.</p></div>{notes}"
        )
    return f'<p class="sum">Best match first</p>{notes}'


def near(hits: Hits) -> int:
    """How many of results, best first, are no faint matches."""
    if hits.match is None:
        return len(hits)
    return next((place for place, match in enumerate(hits.match) if match < FAINT), len(hits))


def results(head: str, listed: str, faint: str, *, opened: bool = False) -> str:
    """The list of results, and below it that of faint ones, folded.

    Args:
        head: what is said above them; HTML, like both lists.
        listed: cards.
        faint: cards of those that are hardly what was asked for.
        opened: whether the fold is open.
    """
    below = (
        f'<details class="faint"{" open" if opened else ""}><summary>Less alike</summary>'
        f'<ol class="cards" role="list">{faint}</ol></details>'
        if faint
        else ""
    )
    return f'<div class="said" role="status">{head}</div><ol class="cards" role="list">{listed}</ol>{below}'


def unsure(hits: Hits, asked: Asked) -> bool:
    """Whether even the best of results is hardly what was asked for."""
    # What is moved away from a record is a little away from the words, too, and all the same what was asked for.
    least = LIKELY / 2 if asked.unlike else LIKELY
    return hits.match is not None and len(hits) > 0 and float(max(hits.match)) < least


def _nothing(hits: Hits, least: float) -> str:
    reach = f" No result reaches a match of {round(100 * least)} %." if least else ""
    nearest = " These came nearest, and are not matches:" if hits.below else ""
    advice = "" if hits.below else " Try other words, or take the filter back."
    return f'<div class="notice"><p><strong>Nothing matches.</strong>{reach}{nearest}{advice}</p></div>'


def message(said: str, hint: str = "", *, kind: str = "alert") -> str:
    """Something that went wrong, and what to do about it."""
    more = f" <span>{escaped(hint)}</span>" if hint else ""
    return f'<div class="notice {kind}" role="alert"><p dir="auto"><strong>{escaped(said)}</strong>{more}</p></div>'


def welcome(facts: Facts | None, examples: Sequence[str]) -> str:
    """What invites to search."""
    if facts is None:
        return (
            '<div class="welcome"><p class="big">No index is served here.</p><p>Start the service with one: '
            "<code>bowerbird serve photos.bower</code></p></div>"
        )
    if not facts.records:
        return (
            '<div class="welcome"><p class="big">This index is empty.</p>'
            "<p>Add records, and search them here.</p></div>"
        )
    tried = "".join(
        f'<button type="button" class="try" data-do="ask" data-text="{attribute(text)}" dir="auto">'
        f"{escaped(text)}</button>"
        for text in examples
    )
    tries = f'<div class="tries" role="group" aria-label="Examples">{tried}</div>' if tried else ""
    return (
        '<div class="welcome"><p class="big">What are you looking for?</p>'
        "<p>Say it in your own words, or drop, paste or take a picture. Nothing has to be tagged.</p>"
        f"{tries}</div>"
    )


def things(facts: Facts) -> str:
    """How much the index holds, in words."""
    alone = facts.parts[0] if len(facts.parts) == 1 else ""
    kind = {"image": "picture", "text": "text"}.get(alone, "item")
    return f"{facts.records:,} {kind}{'' if facts.records == 1 else 's'}"
