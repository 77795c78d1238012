"""The HTML of the page that holds what strangers wrote: captions, file names, ids, queries and notes.

All of it is made here. A string is either written in this module or passes `escaped`; nothing else becomes HTML. The
policy that the page is sent with would not run a script that slipped in, either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote, unquote

from bowerbird.hits import Hit, Hits
from bowerbird.search.page import attribute, escaped
from bowerbird.serve.indexed import Stored
from bowerbird.serve.page.asked import LIKELY, Asked
from bowerbird.serve.service import Facts

__all__ = [
    "cards",
    "chips",
    "collection",
    "filter_help",
    "handle",
    "id_of",
    "message",
    "picture_address",
    "side",
    "status",
    "unsure",
    "welcome",
]

TEXT = 400
"""Characters of a text that a card has."""

FACTS = {
    "name": "text",
    "format": "text, such as 'JPEG'",
    "width": "pixels",
    "height": "pixels",
    "taken_at": "time, such as '2024-05-31'",
    "size": "bytes",
}
"""Attributes that every index has, and what they are."""

PARTS = {"image": "by its picture", "text": "by its text", "words": "by its words"}
"""How a record was found, by the part that matched."""

_HIDDEN = frozenset({"text", "folder", "content"})


def handle(id_: str) -> str:
    """An id, whatever it holds, as ASCII that means nothing in HTML; `id_of` undoes it."""
    return quote(id_, safe="", errors="surrogatepass")


def id_of(handle: str) -> str:
    """The id of a handle."""
    return unquote(handle, errors="surrogatepass")


def picture_address(id_: str, size: str = "thumbnail") -> str:
    """Where the page shows a record's picture from."""
    return f"page/image?size={size}&id={handle(id_)}"


# What is asked


def chips(asked: Asked, names: Mapping[str, str]) -> str:
    """What is asked, in words and pieces that can be taken back.

    Args:
        asked: what.
        names: by id, what records of it are called.
    """
    pieces: list[str] = []
    if asked.text:
        pieces.append(_chip("text", "", f"<q>{escaped(asked.text)}</q>", f"the words {asked.text}"))
    if asked.picture:
        shown = f'<img src="page/given?name={quote(asked.picture)}" alt="">your picture'
        pieces.append(_chip("picture", "", shown, "your picture"))
    if asked.like:
        pieces.append(_record_chip("like", asked.like, names, "more like"))
    for id_ in asked.unlike:
        pieces.append(_record_chip("unlike", id_, names, "less like"))
    if asked.options.where:
        shown = f"only where <code>{escaped(asked.options.where)}</code>"
        pieces.append(_chip("where", "", shown, "the filter"))
    if not pieces:
        return ""
    again = (
        '<button type="button" class="plain" data-do="drop" data-piece="all">Start over</button>'
        if len(pieces) > 1
        else ""
    )
    said = '<span class="lead">Looking for</span>' if asked.anything else ""
    return (
        f'<div class="chips" role="group" aria-label="What is asked for">{said}{"".join(pieces)}{again}</div>'
    )


def _record_chip(piece: str, id_: str, names: Mapping[str, str], words: str) -> str:
    name = names.get(id_, id_)
    sign = "unlike" if piece == "unlike" else "like"
    shown = (
        f'<span class="{sign}">{words}</span><img src="{attribute(picture_address(id_))}" alt="">'
        f"<bdi>{escaped(_cut(name, 32))}</bdi>"
    )
    return _chip(piece, id_, shown, f"{words} {name}")


def _chip(piece: str, id_: str, shown: str, said: str) -> str:
    """A piece of the question; `shown` is HTML, all else is text."""
    return (
        f'<span class="chip {piece}" dir="auto">{shown}<button type="button" data-do="drop" data-piece="{piece}" '
        f'data-id="{handle(id_)}" aria-label="{attribute(f"Take back: {said}")}">'
        f"{_icon('cross')}</button></span>"
    )


# Results


def cards(
    hits: Hits,
    *,
    first: int = 0,
    faded: bool = False,
    models: bool = False,
    other: Sequence[str] | None = None,
) -> str:
    """Results as cards, items of a list.

    Args:
        hits: the results.
        first: how many come before.
        faded: whether they are candidates only, which do not match.
        models: whether each says under which model it was found.
        other: ids of the results beside, best first, where two lists are compared.
    """
    return "".join(
        _card(hit, rank, faded=faded, models=models, other=other) for rank, hit in enumerate(hits, first + 1)
    )


def _card(hit: Hit, rank: int, *, faded: bool, models: bool, other: Sequence[str] | None) -> str:
    attributes = hit.attributes
    text, name = str(attributes.get("text") or ""), _name(hit.id, attributes)
    kept = _beside(hit.id, other) if other is not None else ""
    part = PARTS.get(hit.part, "")
    by = f'<span class="tag">{part}</span>' if part else ""
    by += f'<span class="tag model"><bdi>{escaped(hit.model)}</bdi></span>' if models and hit.model else ""
    return (
        f'<li class="card{" faded" if faded else ""}" data-id="{handle(hit.id)}">'
        f"{_shown(hit.id, name, text, attributes, rank)}"
        f'<div class="body">{_match(hit)}<p class="text" dir="auto">{escaped(_cut(text or name, TEXT))}</p>'
        f'<p class="tags">{by}{kept}</p>{_buttons(hit.id, name)}</div>{_details(hit, name, text)}</li>'
    )


def _shown(id_: str, name: str, text: str, attributes: Mapping[str, Any], rank: int) -> str:
    """The picture, or the text where there is none; a button that shows all of it."""
    number = f'<span class="rank" aria-hidden="true">{rank}</span>' if rank else ""
    label = attribute(f"{f'{rank}. ' if rank else ''}{_cut(text or name, 120)}: look closer")
    if not _has_picture(attributes):
        inner = f'<span class="words" dir="auto">{escaped(_cut(text, 180))}</span>'
    else:
        inner = f'<img src="{attribute(picture_address(id_))}" alt="" loading="lazy" decoding="async">'
    return f'<button type="button" class="shown" data-do="look" aria-label="{label}">{inner}{number}</button>'


def _match(hit: Hit) -> str:
    raw = f"score {hit.score:.3f}" if math.isfinite(hit.score) else ""
    if math.isnan(hit.match):
        return f'<p class="match"><span class="figure">{raw}</span></p>'
    share = round(100 * min(1.0, max(0.0, hit.match)))
    level = "sure" if hit.match >= 0.75 else "likely" if hit.match >= 0.5 else "weak"
    return (
        f'<p class="match {level}" title="Match: how surely this is what was asked for. {raw}">'
        f'<svg viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="of" width="100" height="4"/>'
        f'<rect class="got" width="{share}" height="4"/></svg>'
        f'<span class="figure"><span class="vh">match </span>{share} %</span></p>'
    )


def _buttons(id_: str, name: str) -> str:
    shown = _cut(name, 80)
    return (
        '<p class="do">'
        f'<button type="button" data-do="like" data-id="{handle(id_)}" aria-label="'
        f'{attribute(f"More like this: {shown}")}" title="More like this">{_icon("more")}<span>More</span></button>'
        f'<button type="button" data-do="unlike" data-id="{handle(id_)}" aria-label="'
        f'{attribute(f"Less like this: {shown}")}" title="Less like this">{_icon("less")}<span>Less</span></button></p>'
    )


def _details(hit: Hit, name: str, text: str) -> str:
    """What a closer look shows; hidden until then."""
    rows = [("Match", "" if math.isnan(hit.match) else f"{100 * hit.match:.1f} %")]
    rows += [("Score", f"{hit.score:.4f}" if math.isfinite(hit.score) else "")]
    rows += [("Found", PARTS.get(hit.part, "")), ("Model", hit.model)]
    return _closely(hit.id, name, text, hit.attributes, rows)


def _closely(
    id_: str, name: str, text: str, attributes: Mapping[str, Any], rows: Sequence[tuple[str, str]]
) -> str:
    own = [(key, _value(value)) for key, value in attributes.items() if key not in (*FACTS, *_HIDDEN)]
    facts = [(key.replace("_", " "), _value(attributes.get(key))) for key in FACTS]
    told = [*rows, *own, *facts, ("id", id_)]
    listed = "".join(
        f'<div><dt><bdi>{escaped(key)}</bdi></dt><dd dir="auto">{escaped(value)}</dd></div>'
        for key, value in told
        if value
    )
    image = ""
    if _has_picture(attributes):
        address, said = attribute(picture_address(id_, "original")), attribute(_cut(text or name, 200))
        image = f'<img data-src="{address}" alt="{said}">'
    first, _, rest = (text or name).partition("\n")
    heading = f'<h2 dir="auto">{escaped(first)}</h2>'
    words = f'<p class="text" dir="auto">{escaped(rest)}</p>' if rest else ""
    return f'<div class="closely" hidden>{image}<div>{heading}{words}<dl>{listed}</dl></div></div>'


def _beside(id_: str, other: Sequence[str]) -> str:
    if id_ in other:
        place = list(other).index(id_) + 1
        return f'<span class="tag both">no. {place} on the other side</span>'
    return '<span class="tag only">only here</span>'


def side(name: str, hits: Hits, other: Sequence[str]) -> str:
    """One of two lists that are compared."""
    listed = cards(hits if hits or hits.below is None else hits.below, other=other, faded=not hits)
    nothing = "" if hits else _nothing(hits, 0.0)
    return (
        f'<h2 class="vh"><bdi>{escaped(name)}</bdi></h2>{nothing}<ol class="cards" role="list">{listed}</ol>'
    )


def status(hits: Hits, asked: Asked, shown: int, least: float) -> str:
    """What there is to say of results, above them."""
    notes = "".join(f'<p class="note" dir="auto">{escaped(note)}</p>' for note in hits.notes)
    if not hits:
        return _nothing(hits, least) + notes
    if unsure(hits):
        best = round(100 * float(max(hits.match if hits.match is not None else ())))
        return (
            '<div class="notice"><p><strong>Nothing here is surely what you asked for.</strong> '
            f"The best match is {best} %; these came nearest.</p></div>{notes}"
        )
    return f'<p class="sum">{shown:,} result{"" if shown == 1 else "s"}, best first</p>{notes}'


def unsure(hits: Hits) -> bool:
    """Whether even the best of results is hardly what was asked for."""
    return hits.match is not None and len(hits) > 0 and float(max(hits.match)) < LIKELY


def _nothing(hits: Hits, least: float) -> str:
    reach = f" No result reaches a match of {round(100 * least)} %." if least else ""
    nearest = " These came nearest, and are not matches:" if hits.below else ""
    advice = "" if hits.below else " Try other words, or take the filter back."
    return f'<div class="notice"><p><strong>Nothing matches.</strong>{reach}{nearest}{advice}</p></div>'


def message(said: str, hint: str = "", *, kind: str = "alert") -> str:
    """Something that went wrong, and what to do about it."""
    more = f" <span>{escaped(hint)}</span>" if hint else ""
    return f'<div class="notice {kind}" role="alert"><p dir="auto"><strong>{escaped(said)}</strong>{more}</p></div>'


# Before anything is asked


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
    return (
        '<div class="welcome"><p class="big">What are you looking for?</p>'
        "<p>Say it in your own words, or drop, paste or take a picture. Nothing has to be tagged.</p>"
        f'<div class="tries" role="group" aria-label="Examples">{tried}</div></div>'
    )


def collection(records: Sequence[Stored]) -> str:
    """Some records to begin with."""
    if not records:
        return ""
    listed = "".join(
        f'<li class="card first" data-id="{handle(one.id)}">'
        f"{_shown(one.id, _name(one.id, one.attributes), one.text, one.attributes, 0)}"
        f'<div class="body"><p class="text" dir="auto">'
        f"{escaped(_cut(one.text or _name(one.id, one.attributes), TEXT))}</p>"
        f'<p class="do"><button type="button" data-do="like" data-id="{handle(one.id)}" aria-label="'
        f'{attribute(f"More like this: {_cut(_name(one.id, one.attributes), 80)}")}">'
        f"{_icon('more')}<span>More like this</span></button></p></div>"
        f"{_closely(one.id, _name(one.id, one.attributes), one.text, one.attributes, ())}</li>"
        for one in records
    )
    return f'<h2 class="of">From the collection</h2><ol class="cards" role="list">{listed}</ol>'


def filter_help(facts: Facts | None) -> str:
    """Names and types of what filters may ask for."""
    if facts is None:
        return ""
    own = {name: _kind(kind) for name, kind in facts.attributes.items()}
    rows = "".join(
        f"<li><code>{escaped(name)}</code> <span>{escaped(kind)}</span></li>"
        for name, kind in {**own, **FACTS}.items()
    )
    first = next((name for name, kind in own.items() if kind == "number"), "width")
    example = escaped(f"{first} > 10 and name like '%a%'")
    return (
        f'<details class="help"><summary>What filters may ask for</summary><ul role="list">{rows}</ul>'
        f"<p>Such as <code>{example}</code></p></details>"
    )


def _kind(arrow: str) -> str:
    """A type, as people call it."""
    for beginnings, said in (
        (("int", "uint", "float", "double", "half", "decimal"), "number"),
        (("string", "large_string"), "text"),
        (("bool",), "true or false"),
        (("timestamp", "date"), "time"),
    ):
        if arrow.startswith(beginnings):
            return said
    return arrow


def _has_picture(attributes: Mapping[str, Any]) -> bool:
    return attributes.get("format") is not None


def _name(id_: str, attributes: Mapping[str, Any]) -> str:
    return str(attributes.get("name") or id_.rpartition("/")[2] or id_)


def _value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return f"{value:g}" if isinstance(value, float) else _cut(str(value), TEXT)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


_DRAWN = {
    "more": "M12 5v14M5 12h14",
    "less": "M5 12h14",
    "cross": "M6 6l12 12M18 6L6 18",
}


def _icon(name: str) -> str:
    return f'<svg class="icon" viewBox="0 0 24 24" aria-hidden="true"><path d="{_DRAWN[name]}"/></svg>'
