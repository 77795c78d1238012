"""The contact sheet: what searches found, as one HTML file that needs nothing else.

See `page` for what such a file may hold. All that varies from tile to tile is a class or an SVG attribute.
"""

from __future__ import annotations

import html
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from bowerbird.flow.files import from_uri, printable
from bowerbird.flow.sources.addresses import is_remote
from bowerbird.search.page import attribute, clean, data_uri, document, escaped, icon, safe_href, style_with

if TYPE_CHECKING:
    from bowerbird.hits import Hit, Hits
    from bowerbird.search.index import Index
    from bowerbird.search.query import Query


@dataclass(frozen=True)
class Tile:
    """One hit.

    Attributes:
        name: file name or id, as shown below the picture.
        path: full path or URI, shown on hover and copied by the button; "" for none.
        href: where the original opens; linked only when its scheme is http, https or file. "" for none.
        thumbnail: bytes of a JPEG, PNG or WebP; b"" (or anything else) gives a drawn placeholder.
        width: of the original, in pixels as shown (after any EXIF rotation); 0 when unknown.
        height: likewise.
        score: any scale on which more is better; None when there is none.
        details: short facts, shown in this order.
    """

    name: str
    path: str
    href: str
    thumbnail: bytes
    width: int
    height: int
    score: float | None
    details: tuple[str, ...]


@dataclass(frozen=True)
class Panel:
    """One search and its hits, best first.

    Attributes:
        heading: the query, as asked.
        tiles: the hits in the order of their ranks.
        note: a remark on the search; in a panel without tiles, the reason why there are none.
        full: the score at which the bar beside it is full; 0 for the best score of the panel.
        query_image: thumbnail of a picture query; b"" for none.
    """

    heading: str
    tiles: Sequence[Tile]
    note: str = ""
    query_image: bytes = b""
    full: float = 0.0


def panel_of(index: Index, query: Query, hits: Hits, *, heading: str = "") -> Panel:
    """A search and what it found, with the thumbnails that the index keeps."""
    shown = hits if hits or hits.below is None else hits.below
    pictures = index.thumbnails(shown.ids)
    picture = b""
    if query.image is not None:
        picture = index.model.image.open(query.image).thumbnail()
    return Panel(
        heading=heading or str(query),
        tiles=tuple(_tile_of(hit, pictures.get(hit.id) or b"") for hit in shown),
        note=_remark(hits),
        query_image=picture,
        full=0.0 if shown.match is None else 1.0,
    )


def _remark(hits: Hits) -> str:
    """What a person should know of the results: that nothing matches, or hardly anything."""
    if not hits:
        return "Nothing matches. These came nearest." if hits.below else "Nothing matches."
    if hits.match is not None and max(hits.match) < 0.5:
        return f"Nothing here is surely what was asked for: the best match is {max(hits.match):.2f}."
    return ""


def _tile_of(hit: Hit, thumbnail: bytes) -> Tile:
    facts = hit.attributes
    details = [str(text).partition("\n")[0]] if (text := facts.get("text")) else []
    if facts["width"]:
        details.append(f"{facts['format'] or ''} {facts['width']} × {facts['height']}".lstrip())
    if isinstance(facts["taken_at"], datetime):
        details.append(f"{facts['taken_at']:%Y-%m-%d}")
    if facts["copies"] != 1:
        details.append(f"{facts['copies']} copies")
    path = from_uri(hit.uri)
    return Tile(
        name=str(facts["name"] or printable(hit.id)),
        path=printable(path),
        # A record that lies nowhere is called by its id, and what lies at an address has one already.
        href=path if is_remote(path) else Path(path).as_uri() if os.path.isabs(path) else "",
        thumbnail=thumbnail,
        width=int(str(facts["width"] or 0)),
        height=int(str(facts["height"] or 0)),
        score=hit.match if math.isfinite(hit.match) else hit.score,
        details=tuple(details),
    )


def contact_sheet(panels: Sequence[Panel], *, title: str, subtitle: str = "") -> str:
    """Lay out searches and their hits as one self-contained HTML5 page.

    Args:
        panels: one per search, in the order to show; more than one get a navigation bar.
        title: heading of the page and of its browser tab.
        subtitle: a line below the title, e.g. the index searched; "" for none.

    Returns:
        the page. It holds no lone surrogate, so encoding it as UTF-8 cannot fail.
    """
    body = [
        _ICONS,
        _navigation(panels) if len(panels) > 1 else "",
        "<main>\n",
        *(_panel(number, panel) for number, panel in enumerate(panels, 1)),
        "</main>\n",
        _footer(panels),
        '<p id="live" class="vh" role="status"></p>\n',
    ]
    style = style_with(("bowerbird.search", "sheet.css"))
    brand = "Bowerbird contact sheet"
    return document(title, "".join(body), style=style, script=_SCRIPT, brand=brand, subtitle=subtitle)


# Parts of the page


def _navigation(panels: Sequence[Panel]) -> str:
    items = "".join(
        f'<li><a href="#q{number}"><bdi>{escaped(panel.heading)}</bdi><span class="count">{len(panel.tiles)}'
        f'<span class="vh"> {_results(panel.tiles)}</span></span></a></li>\n'
        for number, panel in enumerate(panels, 1)
    )
    return f'<nav class="nav" aria-label="Searches"><div class="wrap"><ul>\n{items}</ul></div></nav>\n'


def _panel(number: int, panel: Panel) -> str:
    picture = ""
    if source := data_uri(panel.query_image):
        picture = f'<img src="{source}" alt="The picture that was asked with" decoding="async">'
    long = ' class="long"' if len(panel.heading) > 200 else ""  # a whole text as a query: set smaller
    heading = (
        f'<section class="panel wrap" id="q{number}" aria-labelledby="h{number}">\n'
        f'<div class="ask">{picture}<div><h2 id="h{number}"{long} dir="auto">{escaped(panel.heading)}</h2>'
    )
    if not panel.tiles:
        reason = escaped(panel.note or "This search found nothing.")
        return (
            f'{heading}</div></div>\n<div class="empty">{icon("bower")}<div>'
            f'<strong>No pictures here</strong><span dir="auto">{reason}</span></div></div>\n</section>\n'
        )
    facts = [f"{len(panel.tiles)} {_results(panel.tiles)}"]
    if panel.note:
        facts.append(f"<bdi>{escaped(panel.note)}</bdi>")
    summary = "".join(f"<span>{fact}</span>" for fact in facts)
    look = _Look.of(panel.tiles, panel.full)
    tiles = "".join(_tile(rank, tile, look) for rank, tile in enumerate(panel.tiles, 1))
    return (
        f'{heading}<p class="sum">{summary}</p></div></div>\n'
        f'<ol class="grid {look.shape}" role="list">\n{tiles}</ol>\n</section>\n'
    )


def _results(tiles: Sequence[Tile]) -> str:
    return "result" if len(tiles) == 1 else "results"


def _tile(rank: int, tile: Tile, look: _Look) -> str:
    name = tile.name or tile.path or "unnamed"
    path = attribute(tile.path or name)
    mat = f'<span class="fit">{_picture(rank, name, tile, look)}</span>'
    if href := safe_href(tile.href):
        new_tab = 'target="_blank" rel="noopener noreferrer"'
        mat = f'<a class="mat" href="{href}" title="{path}" {new_tab}>{mat}</a>'
    else:
        mat = f'<div class="mat" title="{path}">{mat}</div>'
    copy = bare = facts = ""
    if tile.path:
        copy = (
            f'<button class="copy" type="button" data-path="{path}" title="Copy the path"'
            f' aria-label="Copy the path of {attribute(name)}">{icon("copy", "no")}{icon("check", "yes")}'
            "</button>"
        )
        # Shown only where the script does not run, not by <noscript>: mail gateways and viewers that
        # block a script by a policy of their own still count as scripting.
        bare = f'<code class="path" dir="ltr">{escaped(tile.path)}</code>'
    if tile.details:
        items = "".join(f"<li><bdi>{escaped(detail)}</bdi></li>" for detail in tile.details)
        whole = attribute(" \u00b7 ".join(tile.details))
        facts = f'<ul class="facts" role="list" title="{whole}">{items}</ul>'
    stem, tail = _elidable(clean(name))
    return (
        f'<li class="tile">{mat}<div class="gauge"><span class="rank">{rank}</span>'
        f'{look.gauge(tile.score)}</div><div class="line"><div class="name" dir="auto" title="{path}">'
        f'<span class="stem">{html.escape(stem)}</span><span class="tail">{html.escape(tail)}</span></div>'
        f"{copy}</div>{facts}{bare}</li>\n"
    )


def _picture(rank: int, name: str, tile: Tile, look: _Look) -> str:
    source = data_uri(tile.thumbnail)
    alt = f"{attribute(name)}, result {rank}"
    if not source:
        return f'<span class="none" role="img" aria-label="{alt}">{icon("picture")}No preview</span>'
    size = ""
    if (aspect := _aspect(tile)) is not None:
        # The side that touches the mat; the other follows, so that corners and edge are the picture's own.
        side = "by-width" if aspect >= _SHAPES[look.shape] else "by-height"
        size = f' class="{side}" width="{tile.width}" height="{tile.height}"'
    return f'<img src="{source}" alt="{alt}"{size} decoding="async">'


def _footer(panels: Sequence[Panel]) -> str:
    if not any(_finite(tile.score) for panel in panels for tile in panel.tiles):
        return ""
    if all(panel.full for panel in panels):
        return (
            '<footer class="foot wrap">The bar beside a match is empty at 0 and full at 1; '
            "matches of different searches compare.</footer>\n"
        )
    return (
        '<footer class="foot wrap">The bar beside a score starts at zero and is full at the best score '
        "of the same search, so bars of different searches do not compare.</footer>\n"
    )


# What the tiles of one search share


@dataclass(frozen=True)
class _Look:
    """Shape of the mats and scale of the scores, common to one panel so that its tiles compare.

    Attributes:
        shape: a key of `_SHAPES`.
        best: the score of a full bar: 1.0 of matches, else the greatest finite one; 0.0 when there is none above
            zero, and then no bar is drawn.
        form: format of every score, so that the digits align.
    """

    shape: str
    best: float
    form: str

    @staticmethod
    def of(tiles: Sequence[Tile], full: float = 0.0) -> _Look:
        scores = [tile.score for tile in tiles if _finite(tile.score)]
        largest = max(map(abs, scores), default=0.0)
        form = ".3f"
        if largest and not 1e-5 <= largest < 1e6:
            form = ".2e"
        elif largest:
            form = f".{min(7, max(3, 2 - math.floor(math.log10(largest))))}f"
        return _Look(_shape(tiles), full or max([0.0, *scores]), form)

    def gauge(self, score: float | None) -> str:
        """Bar and digits of one score; nothing for None."""
        if score is None:
            return ""
        bar = share = ""
        if self.best and math.isfinite(score):
            part = 100 * max(0.0, score) / self.best
            bar = (
                '<svg class="bar" viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">'
                f'<rect width="{part:.1f}" height="1"/></svg>'
            )
            share = f' title="{part:.0f} % of a full bar"'
        digits = format(score, self.form).replace("-", "\u2212")
        return f'{bar}<span class="score"{share}><span class="vh">score </span>{digits}</span>'


_SHAPES = {"square": 1.0, "wide": 4 / 3, "tall": 3 / 4}


def _shape(tiles: Sequence[Tile]) -> str:
    """The shape of mat that uncropped pictures of these aspect ratios fill best, on average."""
    aspects = [aspect for tile in tiles if (aspect := _aspect(tile)) is not None]

    def filled(shape: str) -> float:
        return sum(min(aspect / _SHAPES[shape], _SHAPES[shape] / aspect) for aspect in aspects)

    return max(_SHAPES, key=filled)


def _aspect(tile: Tile) -> float | None:
    return tile.width / tile.height if tile.width > 0 and tile.height > 0 else None


def _finite(score: float | None) -> TypeGuard[float]:
    return score is not None and math.isfinite(score)


def _elidable(name: str) -> tuple[str, str]:
    """Split a name in two, of which only the first may be cut short to fit: ``IMG_2023…`` ``0042.jpeg``.

    The cut never falls within a letter of several code points: the end is plain ASCII or empty.
    """
    match = re.search(r"[\w-]{0,4}\.\w{1,5}$", name, re.ASCII)
    if not match or match.start() < 8:
        return name, ""
    return name[: match.start()], match[0]


# Script and drawings

# Each drawing is defined once.
_ICONS = """<svg width="0" height="0" class="vh" aria-hidden="true"><defs>
<g id="i-picture"><rect x="3.5" y="4.5" width="17" height="15" rx="2"/><circle cx="9" cy="10" r="1.5"/>
<path d="m4 17 4.5-4 3.5 3 4-4.5 4.5 5"/></g>
<g id="i-copy"><rect x="8.5" y="8.5" width="11" height="11" rx="2"/>
<path d="M15.5 5.5A1.5 1.5 0 0 0 14 4H6a2 2 0 0 0-2 2v8a1.5 1.5 0 0 0 1.5 1.5"/></g>
<g id="i-check"><path d="m5 12.5 4.5 4.5L19 7.5"/></g>
</defs></svg>
"""

# Copying, and the mark on the search being read: both may fail or be missing without loss of content.
_SCRIPT = """
"use strict";
document.documentElement.classList.add("js");
const copied = async (text) => {
  try { await navigator.clipboard.writeText(text); return true; } catch { /* not a secure context */ }
  const area = document.createElement("textarea");
  area.value = text; area.className = "vh"; document.body.append(area); area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
};
document.addEventListener("click", async (event) => {
  const button = event.target.closest(".copy"), live = document.getElementById("live");
  if (!button) return;
  const done = await copied(button.dataset.path);
  button.focus({ preventScroll: true });
  live.textContent = done ? "Path copied" : "The path could not be copied";
  button.classList.toggle("copied", done);
  setTimeout(() => { button.classList.remove("copied"); live.textContent = ""; }, 1600);
});
document.addEventListener("DOMContentLoaded", () => {
  const list = document.querySelector(".nav ul");
  if (!list || !window.IntersectionObserver) return;
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const link = list.querySelector(`a[href="#${target.id}"]`);
      if (!isIntersecting) { link.removeAttribute("aria-current"); continue; }
      link.setAttribute("aria-current", "location");
      list.scrollTo({ left: link.offsetLeft - 24 });
    }
  }, { rootMargin: "-25% 0px -75% 0px" });
  document.querySelectorAll(".panel").forEach((panel) => seen.observe(panel));
});
"""
