"""Pages for people: one HTML file that needs nothing else, whatever it shows.

A page may be mailed, archived or opened from a memory stick, and shows names that strangers chose. So it makes no
request of any kind (pictures are ``data:`` URIs, fonts are the system's), a content security policy allows exactly
its own style and script, by hash, and every string is escaped. Because the policy refuses ``style=`` attributes as
well, all that varies is a class or an SVG attribute.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import json
import re
from importlib import resources


@functools.cache
def resource(package: str, name: str) -> str:
    """A style or a script that lies beside the modules of a package."""
    return (resources.files(package) / name).read_text(encoding="utf-8")


def style_with(*more: tuple[str, str]) -> str:
    """The style that all pages share, and then those named by package and file."""
    return "".join(resource(*name) for name in (("bowerbird.search", "page.css"), *more))


def document(
    title: str, body: str, *, style: str, script: str = "", brand: str = "Bowerbird", subtitle: str = ""
) -> str:
    """A whole HTML5 page.

    Args:
        title: heading of the page and of its browser tab.
        body: what comes below the heading; HTML.
        style: the only style that applies.
        script: the only one that runs; it runs before the body is there.
        brand: the line above the title.
        subtitle: a line below the title; "" for none.

    Returns:
        the page. It holds no lone surrogate if `body` does not, so encoding it as UTF-8 cannot fail.
    """
    below = f'<p class="subtitle" dir="auto">{escaped(subtitle)}</p>\n' if subtitle else ""
    run = f"<script>{script}</script>\n" if script else ""
    allowed = f"'{digest(script)}'" if script else "'none'"
    policy = (
        f"default-src 'none'; img-src data:; style-src '{digest(style)}'; script-src {allowed}; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{escaped(title)}</title>\n"
        # Without an icon of its own a page that is served would make browsers ask for /favicon.ico.
        f'<link rel="icon" href="data:,">\n<style>{style}</style>\n{run}</head>\n<body>\n{_BOWER}'
        f'<header class="head wrap">\n<p class="brand">{icon("bower")}{escaped(brand)}</p>\n'
        f'<h1 dir="auto">{escaped(title)}</h1>\n{below}</header>\n{body}</body>\n</html>\n'
    )


def embedded(name: str, data: object) -> str:
    """Plain data for the page's script: an element with this id that holds JSON, which nothing runs."""
    # Without "<" nothing in it can end the element, and JSON means the same.
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>\n'


def icon(name: str, kind: str = "") -> str:
    """One of the drawings that the page defines, as an element of a line of text."""
    drawn = f' class="{kind}"' if kind else ""
    return f'<svg{drawn} viewBox="0 0 24 24" aria-hidden="true"><use href="#i-{name}"/></svg>'


# Strings made safe

# Lone surrogates cannot be encoded; the other controls are invisible, or errors in HTML. Tab and line
# ends stay, as HTML shows them as spaces.
_UNSHOWABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_LINK = re.compile(r"(?:https?://|file:/)[^\x00-\x20\x7f]+", re.IGNORECASE)


def clean(text: str) -> str:
    r"""Text with what cannot be shown written as Python would: the byte 0xE9 of a file name as ``\xe9``."""
    return _UNSHOWABLE.sub(_visible, text)


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def escaped(text: str) -> str:
    """Text that shows as itself between tags."""
    return html.escape(clean(text))


def attribute(text: str) -> str:
    """As `escaped`, but line ends survive the parser too: a path is copied from here."""
    return escaped(text).replace("\r", "&#13;").replace("\n", "&#10;").replace("\t", "&#9;")


def safe_href(href: str) -> str:
    """The link, escaped; "" for any scheme that could run or carry content (``javascript:``, ``data:``).

    Browsers drop line ends and leading blanks of a link before they look at its scheme, so a link
    that holds any is refused rather than mended. Bytes that are not UTF-8 are percent-encoded, which keeps
    the link to such a file working.
    """
    if not _LINK.fullmatch(href):
        return ""
    return escaped(re.sub("[\udc80-\udcff]", lambda match: f"%{ord(match[0]) - 0xDC00:02X}", href))


def data_uri(picture: bytes) -> str:
    """A ``data:`` URI for JPEG, PNG or WebP; "" for anything else, SVG (which can hold links) included."""
    if picture.startswith(b"\xff\xd8\xff"):
        kind = "jpeg"
    elif picture.startswith(b"\x89PNG\r\n\x1a\n"):
        kind = "png"
    elif picture[:4] == b"RIFF" and picture[8:12] == b"WEBP":
        kind = "webp"
    else:
        return ""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"


def digest(code: str) -> str:
    """The source expression by which a content security policy allows exactly this inline code."""
    return f"sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode('ascii')}"


# The bower: two walls of arched twigs, and the blue thing the bird found.
_BOWER = """<svg width="0" height="0" class="vh" aria-hidden="true"><defs>
<g id="i-bower"><path d="M4 20C3.5 13 5.5 6.5 10.5 3M7.5 20C7 14.5 8 9 11.5 5"/>
<path d="M20 20c.5-7-1.5-13.5-6.5-17M16.5 20c.5-5.5-.5-11-4-15"/>
<circle class="berry" cx="12" cy="17.5" r="2.5"/></g>
</defs></svg>
"""
