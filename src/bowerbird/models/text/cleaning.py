"""What is done to a text before its tokeniser sees it, by name: the part of a model's conditions that files only name.

open_clip cleans with ftfy. What ftfy does by table is done here without it: entities, ligatures, full-width and
half-width forms, curly quotes, line breaks, terminal escapes, control characters, NFC. What it does by guessing is
not: text in a wrong encoding ("cafÃ©") is left as it is.
"""

from __future__ import annotations

import html
import re
import string
import unicodedata
from collections.abc import Callable, Sequence

LOWER = "lower"
"""Lower case as the tokeniser's own first step, which spares special tokens: `text.load_tokenizer` puts it there."""

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def canonical(text: str) -> str:
    """SigLIP 1: lower case, no ASCII punctuation, single spaces; as `SiglipTokenizer.canonicalize_text`."""
    return re.sub(r"\s+", " ", text.lower().translate(_PUNCTUATION)).strip()


def open_clip_whitespace(text: str) -> str:
    """open_clip's `clean="whitespace"`, the default of its Hugging Face tokenisers."""
    return " ".join(_repaired(text).split())


def open_clip_lower(text: str) -> str:
    """open_clip's `clean="lower"`, the default of its own tokeniser."""
    return open_clip_whitespace(text).lower()


def open_clip_canonical(text: str) -> str:
    """open_clip's `clean="canonicalize"`: no ASCII punctuation, an underscore being a space; lower case."""
    return " ".join(_repaired(text).replace("_", " ").translate(_PUNCTUATION).lower().split())


CLEANINGS: dict[str, Callable[[str], str]] = {
    "strip": str.strip,
    "siglip": canonical,
    "open_clip whitespace": open_clip_whitespace,
    "open_clip lower": open_clip_lower,
    "open_clip canonicalize": open_clip_canonical,
}
"""`strip` is what sentence-transformers did up to 5.3, and no longer does."""


def clean(text: str, names: Sequence[str]) -> str:
    """The text after the named cleanings, in order; `LOWER` is the tokeniser's."""
    for name in names:
        if name != LOWER:
            text = CLEANINGS[name](text)
    return text


def _one_level(character: str) -> str:
    """The letters of a ligature, as Unicode's own table has them, without taking those apart again."""
    return "".join(chr(int(code, 16)) for code in unicodedata.decomposition(character).split()[1:])


def _widths() -> dict[int, str]:
    forms = {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFF01, 0xFFF0)}
    return {0x3000: " ", **{code: form for code, form in forms.items() if form != chr(code)}}


_LETTERS = {
    **{ord(ligature): _one_level(ligature) for ligature in "ĲĳŉǱǲǳǄǅǆǇǈǉǊǋǌﬀﬁﬂﬃﬄﬅﬆ"},
    **_widths(),
}
_QUOTES = {
    **dict.fromkeys([0x02BC, *range(0x2018, 0x201C)], "'"),
    **dict.fromkeys(range(0x201C, 0x2020), '"'),
}
_BREAKS = {0x2028: "\n", 0x2029: "\n", 0x85: "\n"}
_CONTROLS = dict.fromkeys(
    [*range(0x09), 0x0B, *range(0x0E, 0x20), 0x7F, *range(0x206A, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFD)]
)
_ENTITY = re.compile(r"&#?[0-9A-Za-z]{1,24};")
_ESCAPE = re.compile("\033\\[((?:\\d|;)*)([a-zA-Z])")
_C1 = re.compile("[\x80-\x9f]")


def _windows_1252(found: re.Match[str]) -> str:
    """What such a control character was meant to be; five of them were meant to be nothing."""
    return found.group().encode("latin-1").decode("cp1252", "ignore") or found.group()


def _fixed(text: str, *, entities: bool) -> str:
    """What ftfy does by table, until nothing changes any more."""
    before = None
    while text != before:
        before = text
        if entities:
            text = _ENTITY.sub(lambda found: html.unescape(found.group()), text)
        text = _C1.sub(_windows_1252, text).translate(_LETTERS).translate(_QUOTES)
        text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_BREAKS)
        text = unicodedata.normalize("NFC", _ESCAPE.sub("", text).translate(_CONTROLS))
    return text


def _repaired(text: str) -> str:
    """open_clip's `basic_clean`, but for what ftfy guesses."""
    # From the line with the first "<" on, ftfy takes a text for HTML source, whose entities mean something.
    tag = text.find("<")
    source = text.rfind("\n", 0, tag) + 1 if tag >= 0 else len(text)
    fixed = _fixed(text[:source], entities=True) + _fixed(text[source:], entities=False)
    return html.unescape(html.unescape(fixed)).strip()
