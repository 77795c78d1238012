"""What filters may ask for, told in words."""

from __future__ import annotations

from bowerbird.search.page import escaped
from bowerbird.serve.service import Facts

__all__ = ["FACTS", "filter_example", "filter_help"]

FACTS = {
    "name": "text",
    "format": "text, such as 'JPEG'",
    "width": "pixels",
    "height": "pixels",
    "taken_at": "time, such as '2024-05-31'",
    "size": "bytes",
}


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
