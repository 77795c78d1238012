"""What the doctor found, as a page: the gravest first, with the pictures that it is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bowerbird.judge.checks.finding import Example, Finding, Level
from bowerbird.judge.doctor import Checkup
from bowerbird.search.page import attribute, data_uri, document, escaped, style_with

PICTURES = 12
"""Examples of a finding that are shown with their pictures; the rest are named."""

_HEADINGS = {
    Level.PROBLEM: "Problems",
    Level.WARNING: "Warnings",
    Level.NOTE: "Worth knowing",
    Level.OK: "In order",
}


def pictured(checkup: Checkup) -> list[str]:
    """Ids of the records whose thumbnails the page shows."""
    examples = [example for finding in checkup.findings for example in finding.examples[:PICTURES]]
    return list(dict.fromkeys(id_ for example in examples for id_ in example.ids[:2]))


def doctor_page(checkup: Checkup, thumbnails: Mapping[str, bytes]) -> str:
    """Lay out a checkup as one self-contained HTML page.

    Args:
        checkup: what was found.
        thumbnails: by id, of the records of `pictured`; a JPEG each, where there is one.
    """
    parts = []
    for level, heading in _HEADINGS.items():
        found = checkup.of(level)
        if found:
            cards = "".join(_card(finding, thumbnails) for finding in found)
            parts.append(
                f'<section class="part"><h2>{heading} <span class="count">{len(found)}</span></h2>\n'
                f'<ul class="findings" role="list">\n{cards}</ul></section>\n'
            )
    subtitle = f"{checkup.index}: {checkup.looked_at}, {', '.join(checkup.models)}; {checkup.seconds:.0f} s"
    return document(
        _verdict(checkup),
        f'<main class="wrap">\n{"".join(parts)}</main>\n',
        style=style_with(("bowerbird.judge", "pages.css"), ("bowerbird.judge", "doctor.css")),
        brand="Bowerbird doctor",
        subtitle=subtitle,
    )


def _verdict(checkup: Checkup) -> str:
    counts = {level: len(checkup.of(level)) for level in Level}
    said = [
        f"{counts[level]} {level}{'' if counts[level] == 1 else 's'}"
        for level in (Level.PROBLEM, Level.WARNING)
        if counts[level]
    ]
    return " and ".join(said).capitalize() if said else "This index is well"


def _card(finding: Finding, thumbnails: Mapping[str, bytes]) -> str:
    model = f' <span class="model">{escaped(finding.model)}</span>' if finding.model else ""
    do = f'<p class="do"><bdi>{escaped(finding.do)}</bdi></p>' if finding.do else ""
    said = escaped(finding.what)
    costs = finding.figures.get("costs")
    table = ""
    if costs:
        said = escaped(finding.what.partition(":")[0]) + ": what smaller vectors would keep of it."
        table = _costs(costs)
    elif "stored" in finding.figures and "centred" in finding.figures:
        table = _recalls(finding.figures)
    examples = _examples(finding.examples, thumbnails)
    return (
        f'<li class="finding {finding.level}"><p class="name"><span class="level">{finding.level}</span>'
        f"{escaped(finding.check)}{model}</p><p>{said}</p>{do}{table}{examples}</li>\n"
    )


def _costs(costs: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            escaped(str(cost["name"])),
            f"{100 * cost['overlap']:.1f} %",
            f"{cost['mean_cosine']:.4f}",
            f"{cost['least_cosine']:.4f}",
            f"{cost['bytes']:,}",
            f"{cost['saved'] / 1e6:,.1f} MB",
        )
        for cost in costs
    ]
    heads = ("stored as", "ten nearest kept", "mean cosine", "least cosine", "bytes a vector", "saved in all")
    return _table(heads, rows)


def _recalls(figures: Mapping[str, Any]) -> str:
    rows = [
        (escaped(name), f"{100 * value:.1f} %", f"{100 * figures['centred'][name]:.1f} %")
        for name, value in figures["stored"].items()
    ]
    return _table(("recall", "as stored", "centred"), rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already; the first column names the rows."""
    top = "".join(f'<th scope="col"{" class=n" if at else ""}>{head}</th>' for at, head in enumerate(heads))
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td class=n>{cell}</td>" for cell in row[1:])}</tr>\n'
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>\n{body}</tbody></table></div>'


def _examples(examples: Sequence[Example], thumbnails: Mapping[str, bytes]) -> str:
    if not examples:
        return ""
    shown = "".join(
        f'<li>{_pictures(example, thumbnails)}<span class="of"><bdi title="{attribute(_names(example))}">'
        f'{escaped(_short(example))}</bdi><span class="why"><bdi>{escaped(example.note)}</bdi></span></span></li>\n'
        for example in examples
    )
    return f'<ul class="examples" role="list">\n{shown}</ul>'


def _pictures(example: Example, thumbnails: Mapping[str, bytes]) -> str:
    found = []
    for id_, name in zip(example.ids[:2], example.names[:2], strict=False):
        if source := data_uri(thumbnails.get(id_) or b""):
            found.append(f'<img src="{source}" alt="{attribute(name)}" loading="lazy" decoding="async">')
    return f'<span class="pair">{"".join(found)}</span>' if found else ""


def _names(example: Example) -> str:
    return "\n".join(example.names)


def _short(example: Example) -> str:
    """The last parts of the paths."""
    words = "\N{LEFT DOUBLE QUOTATION MARK}"  # a text may hold slashes
    names = [
        name if name.startswith(words) else name.rstrip("/").rpartition("/")[2] or name
        for name in example.names[:2]
    ]
    more = len(example.names) - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")
