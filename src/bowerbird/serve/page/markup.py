"""What the HTML of the page is made of: addresses of pictures, names of records, drawn signs.

The page holds what strangers wrote: captions, file names, ids, queries and notes. It is made here and in `chips`,
`cards`, `boards` and `filters`. A string is either written in these modules or passes `escaped`; nothing else becomes
HTML. The policy that the page is sent with would not run a script that slipped in, either.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote, unquote

from bowerbird.search.page import attribute

__all__ = [
    "TEXT",
    "cut",
    "handle",
    "has_picture",
    "icon",
    "id_of",
    "name_of",
    "picture_address",
    "sources",
    "value_of",
]

TEXT = 400
"""Characters of a text that a card has."""


def handle(id_: str) -> str:
    """An id, whatever it holds, as ASCII that means nothing in HTML; `id_of` undoes it."""
    return quote(id_, safe="", errors="surrogatepass")


def id_of(handle: str) -> str:
    """The id of a handle."""
    return unquote(handle, errors="surrogatepass")


def picture_address(id_: str, size: str | int = "thumbnail") -> str:
    """Where the page shows a record's picture from."""
    return f"page/image?size={size}&id={handle(id_)}"


def sources(id_: str, size: int) -> str:
    """The same as attributes of an image: a preview, and one with twice as many pixels for finer screens."""
    once, twice = (attribute(picture_address(id_, one)) for one in (size, 2 * size))
    return f'src="{once}" srcset="{twice} 2x"'


def has_picture(attributes: Mapping[str, Any]) -> bool:
    """Whether a record has a picture, by its attributes."""
    return attributes.get("format") is not None


def name_of(id_: str, attributes: Mapping[str, Any]) -> str:
    """What a record is called: its file's name, or the end of its id."""
    return str(attributes.get("name") or id_.rpartition("/")[2] or id_)


def value_of(value: Any) -> str:
    """A value of an attribute, for people."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return f"{value:g}" if isinstance(value, float) else cut(str(value), TEXT)


def cut(text: str, most: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


_DRAWN = {
    "more": "M12 5v14M5 12h14",
    "less": "M5 12h14",
    "cross": "M6 6l12 12M18 6L6 18",
    "pin": "M9 4h6l-1 6 3 3H7l3-3-1-6zM12 13v7",
}


def icon(name: str) -> str:
    """A sign, as of `_DRAWN`."""
    return f'<svg class="icon" viewBox="0 0 24 24" aria-hidden="true"><path d="{_DRAWN[name]}"/></svg>'
