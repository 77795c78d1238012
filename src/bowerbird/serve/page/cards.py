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
from bowerbird.serve.page.asked import FAINT, LIKELY, Asked, piece_key
from bowerbird.serve.service import Facts

__all__ = [
    "cards",
    "chips",
    "collection",
    "filter_example",
    "filter_help",
    "handle",
    "id_of",
    "message",
    "near",
    "picture_address",
    "results",
    "side",
    "status",
    "things",
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

_HIDDEN = frozenset({"text", "folder", "content", "copies"})


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
        pieces.append(_chip("picture", "", shown, "your picture", kept=_kept(asked, "picture")))
    if asked.like:
        pieces.append(_record_chip("like", asked.like, names, "more like", _kept(asked, "like")))
    for id_ in asked.unlike:
        pieces.append(_record_chip("unlike", id_, names, "less like", _kept(asked, "unlike", id_)))
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


def _kept(asked: Asked, piece: str, id_: str = "") -> bool | None:
    """Whether a piece stays when other words are asked; None: there are no words."""
    return piece_key(piece, id_) in asked.kept if asked.text or piece != "picture" else None


def _record_chip(piece: str, id_: str, names: Mapping[str, str], words: str, kept: bool | None) -> str:
    name = names.get(id_, id_)
    sign = "unlike" if piece == "unlike" else "like"
    shown = (
        f'<span class="{sign}">{words}</span><img src="{attribute(picture_address(id_))}" alt="">'
        f"<bdi>{escaped(_cut(name, 32))}</bdi>"
    )
    return _chip(piece, id_, shown, f"{words} {name}", kept=kept)


def _chip(piece: str, id_: str, shown: str, said: str, *, kept: bool | None = None) -> str:
    """A piece of the question; `shown` is HTML, all else is text. `kept` is None where that is not asked."""
    keep = (
        f'<button type="button" class="keep" data-do="keep" data-piece="{piece}" data-id="{handle(id_)}" '
        f'aria-pressed="{str(kept).lower()}" title="Keep this when other words are asked" '
        f'aria-label="{attribute(f"Keep: {said}")}">{_icon("pin")}</button>'
        if kept is not None
        else ""
    )
    return (
        f'<span class="chip {piece}" dir="auto">{shown}{keep}<button type="button" data-do="drop" '
        f'data-piece="{piece}" '
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
    parts = len(set(hits.parts)) > 1
    return "".join(
        _card(hit, rank, faded=faded, parts=parts, models=models, other=other)
        for rank, hit in enumerate(hits, first + 1)
    )


def _card(hit: Hit, rank: int, *, faded: bool, parts: bool, models: bool, other: Sequence[str] | None) -> str:
    attributes = hit.attributes
    text, name = str(attributes.get("text") or ""), _name(hit.id, attributes)
    kept = _beside(hit.id, other) if other is not None else ""
    part = PARTS.get(hit.part, "") if parts else ""
    by = f'<span class="tag">{part}</span>' if part else ""
    by += f'<span class="tag model"><bdi>{escaped(hit.model)}</bdi></span>' if models and hit.model else ""
    tags = f'<p class="tags">{by}{kept}</p>' if by or kept else ""
    return (
        f'<li class="card{" faded" if faded else ""}" data-id="{handle(hit.id)}">'
        f"{_shown(hit.id, name, text, attributes, rank)}"
        f'<div class="body">{_match(hit)}{_caption(text, name)}'
        f"{tags}{_buttons(hit.id, name)}</div>{_details(hit, name, text)}</li>"
    )


def _caption(text: str, name: str) -> str:
    """The text of a record, or else its name, of which people see the beginning and the end."""
    if text:
        return f'<p class="text" dir="auto">{escaped(_cut(text, TEXT))}</p>'
    shown = name if len(name) <= 28 else f"{name[:16]}…{name[-10:]}"
    return f'<p class="text name" dir="auto" title="{attribute(_cut(name, TEXT))}">{escaped(shown)}</p>'


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
    technical = [("Score", f"{hit.score:.4f}" if math.isfinite(hit.score) else "")]
    technical += [("Found", PARTS.get(hit.part, "")), ("Model", hit.model)]
    return _closely(hit.id, name, text, hit.attributes, rows, technical)


def _closely(
    id_: str,
    name: str,
    text: str,
    attributes: Mapping[str, Any],
    rows: Sequence[tuple[str, str]] = (),
    technical: Sequence[tuple[str, str]] = (),
) -> str:
    own = [(key, _value(value)) for key, value in attributes.items() if key not in (*FACTS, *_HIDDEN)]
    own += [("Taken", _value(attributes.get("taken_at")))]
    if (copies := attributes.get("copies") or 1) != 1:
        own += [("Copies", _value(copies))]
    size, width, height = (attributes.get(key) for key in ("size", "width", "height"))
    told = [*technical, ("File", name if name != text else ""), ("Format", _value(attributes.get("format")))]
    told += [("Pixels", f"{width} × {height}" if width and height else "")]
    told += [("Size", _bytes(size) if isinstance(size, int) else ""), ("Id", id_)]
    image = ""
    if _has_picture(attributes):
        address, said = attribute(picture_address(id_, "original")), attribute(_cut(text or name, 200))
        image = f'<img data-src="{address}" alt="{said}">'
    first, _, rest = (text or name).partition("\n")
    heading = f'<h2 dir="auto"{"" if text else " class=name"}>{escaped(first)}</h2>'
    words = f'<p class="text" dir="auto">{escaped(rest)}</p>' if rest else ""
    return (
        f'<div class="closely" hidden>{image}<div>{heading}{words}{_listed([*rows, *own])}'
        f"<details><summary>Technical details</summary>{_listed(told)}</details></div></div>"
    )


def _listed(rows: Sequence[tuple[str, str]]) -> str:
    found = "".join(
        f'<div><dt><bdi>{escaped(key)}</bdi></dt><dd dir="auto">{escaped(value)}</dd></div>'
        for key, value in rows
        if value
    )
    return f"<dl>{found}</dl>" if found else ""


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1_000_000 else f"{max(1, round(size / 1000)):,} kB"


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
    tries = f'<div class="tries" role="group" aria-label="Examples">{tried}</div>' if tried else ""
    return (
        '<div class="welcome"><p class="big">What are you looking for?</p>'
        "<p>Say it in your own words, or drop, paste or take a picture. Nothing has to be tagged.</p>"
        f"{tries}</div>"
    )


def collection(records: Sequence[Stored]) -> str:
    """Some records to begin with."""
    if not records:
        return ""
    listed = "".join(
        f'<li class="card first" data-id="{handle(one.id)}">'
        f"{_shown(one.id, _name(one.id, one.attributes), one.text, one.attributes, 0)}"
        f'<div class="body">{_caption(one.text, _name(one.id, one.attributes))}'
        f'<p class="do"><button type="button" data-do="like" data-id="{handle(one.id)}" aria-label="'
        f'{attribute(f"More like this: {_cut(_name(one.id, one.attributes), 80)}")}">'
        f"{_icon('more')}<span>More like this</span></button></p></div>"
        f"{_closely(one.id, _name(one.id, one.attributes), one.text, one.attributes)}</li>"
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
    example = escaped(filter_example(facts))
    return (
        f'<details class="help"><summary>What filters may ask for</summary><ul role="list">{rows}</ul>'
        f"<p>Such as <code>{example}</code></p></details>"
    )


def filter_example(facts: Facts | None) -> str:
    """A filter that the index understands."""
    own = {name: _kind(kind) for name, kind in facts.attributes.items()} if facts else {}
    asks = {"number": "{} < 20", "text": "{} like '%a%'", "true or false": "{} = true"}
    found = [asks[kind].format(name) for name, kind in own.items() if kind in asks and name.isidentifier()]
    if len(found) < 2 and facts and "image" in facts.parts:
        found.append("width > 1000")
    return " and ".join(found[:2]) or "name like '%a%'"


def things(facts: Facts) -> str:
    """How much the index holds, in words."""
    alone = facts.parts[0] if len(facts.parts) == 1 else ""
    kind = {"image": "picture", "text": "text"}.get(alone, "item")
    return f"{facts.records:,} {kind}{'' if facts.records == 1 else 's'}"


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
    "pin": "M9 4h6l-1 6 3 3H7l3-3-1-6zM12 13v7",
}


def _icon(name: str) -> str:
    return f'<svg class="icon" viewBox="0 0 24 24" aria-hidden="true"><path d="{_DRAWN[name]}"/></svg>'
