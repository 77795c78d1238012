"""What is asked, in words and pieces that can be taken back, as HTML."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from bowerbird.search.page import attribute, escaped
from bowerbird.serve.page.asked import Asked, piece_key
from bowerbird.serve.page.markup import cut, handle, icon, picture_address

__all__ = ["chips"]


def chips(asked: Asked, names: Mapping[str, str]) -> str:
    """The question, in words and pieces that can be taken back.

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
        f"<bdi>{escaped(cut(name, 32))}</bdi>"
    )
    return _chip(piece, id_, shown, f"{words} {name}", kept=kept)


def _chip(piece: str, id_: str, shown: str, said: str, *, kept: bool | None = None) -> str:
    """A piece of the question; `shown` is HTML, all else is text. `kept` is None where that is not asked."""
    keep = (
        f'<button type="button" class="keep" data-do="keep" data-piece="{piece}" data-id="{handle(id_)}" '
        f'aria-pressed="{str(kept).lower()}" title="Keep this when other words are asked" '
        f'aria-label="{attribute(f"Keep: {said}")}">{icon("pin")}</button>'
        if kept is not None
        else ""
    )
    return (
        f'<span class="chip {piece}" dir="auto">{shown}{keep}<button type="button" data-do="drop" '
        f'data-piece="{piece}" '
        f'data-id="{handle(id_)}" aria-label="{attribute(f"Take back: {said}")}">'
        f"{icon('cross')}</button></span>"
    )
