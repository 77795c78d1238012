"""Records as cards, and the closer look at them, as HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bowerbird.hits import Hit, Hits
from bowerbird.search.page import attribute, escaped
from bowerbird.serve.indexed import Stored
from bowerbird.serve.page.filters import FACTS
from bowerbird.serve.page.markup import (
    TEXT,
    cut,
    handle,
    has_picture,
    icon,
    name_of,
    picture_address,
    sources,
    value_of,
)

__all__ = ["cards", "collection"]

CARD = 480
"""Pixels of the long side of a card's picture: a card is up to 300 wide, and shows some of a broad picture."""

CLOSER = 1280
"""Pixels of the long side of a picture that is looked at closely."""

PARTS = {"image": "by its picture", "text": "by its text", "words": "by its words"}
"""How a record was found, by the part that matched."""

_HIDDEN = frozenset({"text", "folder", "content", "copies"})


def cards(
    hits: Hits,
    *,
    first: int = 0,
    faded: bool = False,
    models: bool = False,
    other: Sequence[str] | None = None,
    copies: Mapping[str, str] | None = None,
) -> str:
    """Results as cards, items of a list.

    Args:
        hits: the results.
        first: how many come before.
        faded: whether they are candidates only, which do not match.
        models: whether each says under which model it was found.
        other: ids of the results beside, best first, where two lists are compared.
        copies: as of `near_copies`, among these results: they are folded behind the first of them, and not counted.
    """
    parts = len(set(hits.parts)) > 1
    copies = copies or {}
    behind: dict[str, list[Hit]] = {}
    for hit in hits:
        if hit.id in copies:
            behind.setdefault(copies[hit.id], []).append(hit)
    made: list[str] = []
    for rank, hit in enumerate((one for one in hits if one.id not in copies), first + 1):
        folded = behind.get(hit.id, [])
        for one in (hit, *folded):
            made.append(
                _card(
                    one,
                    rank if one is hit else 0,
                    faded=faded,
                    parts=parts,
                    models=models,
                    other=other,
                    copies=len(folded) if one is hit else -1,
                )
            )
    return "".join(made)


def _card(
    hit: Hit,
    rank: int,
    *,
    faded: bool,
    parts: bool,
    models: bool,
    other: Sequence[str] | None,
    copies: int,
) -> str:
    """A result; `copies`: how many are folded behind it, and -1 for one that is."""
    attributes = hit.attributes
    text, name = str(attributes.get("text") or ""), name_of(hit.id, attributes)
    kept = _beside(hit.id, other) if other is not None else ""
    part = PARTS.get(hit.part, "") if parts else ""
    by = f'<span class="tag">{part}</span>' if part else ""
    by += f'<span class="tag model"><bdi>{escaped(hit.model)}</bdi></span>' if models and hit.model else ""
    by += _copies(copies) if copies > 0 else ""
    tags = f'<p class="tags">{by}{kept}</p>' if by or kept else ""
    kind = f"card{' faded' if faded else ''}{' pile' if copies > 0 else ''}"
    return (
        f'<li class="{kind}" data-id="{handle(hit.id)}"{" data-copy hidden" if copies < 0 else ""}>'
        f"{_shown(hit.id, name, text, attributes, rank)}"
        f'<div class="body">{_match(hit)}{_caption(text, name)}'
        f"{tags}{_buttons(hit.id, name)}</div>{_details(hit, name, text)}</li>"
    )


def _copies(count: int) -> str:
    said = f"{count} near {'copy' if count == 1 else 'copies'}"
    return f'<button type="button" class="tag unfold" data-do="unfold" aria-expanded="false">{said}</button>'


def _caption(text: str, name: str) -> str:
    """The text of a record, or else its name, of which people see the beginning and the end."""
    if text:
        return f'<p class="text" dir="auto">{escaped(cut(text, TEXT))}</p>'
    shown = name if len(name) <= 28 else f"{name[:16]}…{name[-10:]}"
    return f'<p class="text name" dir="auto" title="{attribute(cut(name, TEXT))}">{escaped(shown)}</p>'


def _shown(id_: str, name: str, text: str, attributes: Mapping[str, Any], rank: int) -> str:
    """The picture, or the text where there is none; a button that shows all of it."""
    number = f'<span class="rank" aria-hidden="true">{rank}</span>' if rank else ""
    label = attribute(f"{f'{rank}. ' if rank else ''}{cut(text or name, 120)}: look closer")
    if not has_picture(attributes):
        inner = f'<span class="words" dir="auto">{escaped(cut(text, 180))}</span>'
    else:
        inner = f'<img {sources(id_, CARD)} alt="" loading="lazy" decoding="async">'
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
    shown = cut(name, 80)
    return (
        '<p class="do">'
        f'<button type="button" data-do="like" data-id="{handle(id_)}" aria-label="'
        f'{attribute(f"More like this: {shown}")}" title="More like this">{icon("more")}<span>More</span></button>'
        f'<button type="button" data-do="unlike" data-id="{handle(id_)}" aria-label="'
        f'{attribute(f"Less like this: {shown}")}" title="Less like this">{icon("less")}<span>Less</span></button></p>'
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
    own = [(key, value_of(value)) for key, value in attributes.items() if key not in (*FACTS, *_HIDDEN)]
    own += [("Taken", value_of(attributes.get("taken_at")))]
    if (copies := attributes.get("copies") or 1) != 1:
        own += [("Copies", value_of(copies))]
    size, width, height = (attributes.get(key) for key in ("size", "width", "height"))
    told = [
        *technical,
        ("File", name if name != text else ""),
        ("Format", value_of(attributes.get("format"))),
    ]
    told += [("Pixels", f"{width} × {height}" if width and height else "")]
    told += [("Size", _bytes(size) if isinstance(size, int) else ""), ("Id", id_)]
    image = ""
    if has_picture(attributes):
        address, said = attribute(picture_address(id_, CLOSER)), attribute(cut(text or name, 200))
        original = attribute(picture_address(id_, "original"))
        image = f'<img data-src="{address}" data-original="{original}" alt="{said}">'
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


def collection(records: Sequence[Stored]) -> str:
    """Some records to begin with."""
    if not records:
        return ""
    listed = "".join(
        f'<li class="card first" data-id="{handle(one.id)}">'
        f"{_shown(one.id, name_of(one.id, one.attributes), one.text, one.attributes, 0)}"
        f'<div class="body">{_caption(one.text, name_of(one.id, one.attributes))}'
        f'<p class="do"><button type="button" data-do="like" data-id="{handle(one.id)}" aria-label="'
        f'{attribute(f"More like this: {cut(name_of(one.id, one.attributes), 80)}")}">'
        f"{icon('more')}<span>More like this</span></button></p></div>"
        f"{_closely(one.id, name_of(one.id, one.attributes), one.text, one.attributes)}</li>"
        for one in records
    )
    return f'<h2 class="of">From the collection</h2><ol class="cards" role="list">{listed}</ol>'
