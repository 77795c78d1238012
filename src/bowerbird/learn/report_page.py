"""The report of a run as one HTML page that needs nothing else."""

from __future__ import annotations

import math
import re

from bowerbird.judge.evaluation_charts import heat
from bowerbird.judge.gap import Measures
from bowerbird.learn.report import Figure, Report
from bowerbird.learn.report_charts import bars, duration, losses, map_of, reach, shown, times, validation
from bowerbird.learn.report_findings import (
    TOP,
    Shown,
    examples,
    gap_before_and_after,
    measured_on,
    reservations,
    sampled,
    similarity,
)
from bowerbird.learn.report_tables import choice, classes, counts, gap, points, repeat
from bowerbird.search.page import attribute, data_uri, document, escaped, style_with

_NOT_KNOWN = Figure(math.nan)
_DIRECTIONS = {
    "text->image": "From texts to pictures",
    "image->text": "From pictures to texts",
    "class->image": "From classes to pictures",
    "image->image": "From pictures to pictures of the same class",
}
_ALSO = (
    ("text->image", "R@10"),
    ("image->text", "R@10"),
    ("class->image", "Rprec"),
    ("image->image", "Rprec"),
)
"""What stands beside the headline, where it was measured: of small classes P@10 cannot be near 1."""

_KINDS = {"best": "The best", "typical": "Typical ones", "worst": "The worst"}


def report_page(report: Report, *, method: str = "pca") -> str:
    """Lay out a run.

    Args:
        report: what it left behind.
        method: of the maps; see `bowerbird.judge.projection.flat`.

    Raises:
        MissingExtraError: UMAP was asked for, and is not installed.
    """
    gaps = gap_before_and_after(report.held)
    parts = [
        _part("What came of it", _headline(report)),
        _part("What it was fitted on", counts(report)),
        _part("How the recipe was chosen", choice(report)),
        _part("Learning", _learning(report)),
        _part("Before and after", _compared(report)),
        _part("Classes", classes(report)),
        _part("Every text against every picture", _similarities(report)),
        _part(f"Pictures and their {TOP} nearest texts", _examples(report)),
        _part("The space", _maps(report, gaps, method)),
        _part("The modality gap", gap(gaps, sampled(report))),
        _part("Seconds", _seconds(report)),
        _part("How to repeat it", repeat(report)),
    ]
    styles = (
        ("bowerbird.judge", "pages.css"),
        ("bowerbird.judge", "evaluation.css"),
        ("bowerbird.learn", "report.css"),
    )
    return document(
        report.name,
        f'<main class="wrap">\n{"".join(parts)}</main>\n',
        style=style_with(*styles),
        brand="Bowerbird fit",
        subtitle=_subtitle(report),
    )


def _part(title: str, content: str) -> str:
    """A section; nothing where there is nothing to say."""
    return f'<section class="part"><h2>{escaped(title)}</h2>\n{content}</section>\n' if content else ""


def _subtitle(report: Report) -> str:
    image, text = report.models.get("image", ""), report.models.get("text", "")
    models = (
        image if image == text or not text else f"{image} for pictures, {text} for texts" if image else text
    )
    recipe = report.recipe.partition("(")[0]
    return ", ".join(
        filter(None, (f"{recipe} on {models}" if models else recipe, report.source, report.made[:10]))
    )


def _headline(report: Report) -> str:
    direction, measure = report.headline
    tiles = [
        _tile(
            f"{name}, {_DIRECTIONS.get(way, way).lower()}",
            report.before.get(way, {}).get(name, _NOT_KNOWN),
            report.after[way][name],
        )
        for way, name in dict.fromkeys([(direction, measure), *_ALSO])
        if name in report.after.get(way, {})
    ]
    spent = report.seconds.get("total", math.nan)
    if math.isfinite(spent):
        tiles.append(f'<div class="tile"><p>time in all</p><p class="big">{duration(spent)}</p></div>\n')
    if not any(report.after.values()):
        return '<p class="lead">No figures were measured.</p>\n'
    lead = f"{measured_on(report)} Before fitting and after, with 95 % intervals."
    return (
        f'<p class="lead">{escaped(lead)}</p>\n<div class="tiles">{"".join(tiles)}</div>\n'
        f"{points(reservations(report))}"
    )


def _tile(name: str, before: Figure, after: Figure) -> str:
    kind = ""
    if math.isfinite(before.mean) and math.isfinite(after.mean):
        kind = " up" if after.mean > before.mean else " down" if after.mean < before.mean else ""
    was = f"<small>{shown(before.mean)} \N{RIGHTWARDS ARROW}</small> " if math.isfinite(before.mean) else ""
    said = " \N{RIGHTWARDS ARROW} ".join(filter(None, (_interval(before), _interval(after))))
    return (
        f'<div class="tile{kind}"><p>{escaped(name)}</p><p class="big">{was}<b>{shown(after.mean)}</b></p>'
        f"<p>{said}</p></div>\n"
    )


def _interval(one: Figure) -> str:
    if not (math.isfinite(one.low) and math.isfinite(one.high)):
        return ""
    return f"{shown(one.low)} to {shown(one.high)}"


def _learning(report: Report) -> str:
    if not report.history and not report.steps:
        return '<p class="lead">In closed form: there are no epochs, so no losses.</p>\n'
    notes = []
    if report.best and len(report.history) > 1:
        notes.append(f"The weights of epoch {report.best} were kept.")
    if report.stopped:
        notes.append(f"Training ended: {report.stopped.rstrip('.')}.")
    lead = f'<p class="lead">{escaped(" ".join(notes))}</p>\n' if notes else ""
    return f'{lead}<div class="two">{losses(report)}{validation(report)}</div>\n'


def _compared(report: Report) -> str:
    states = (report.before, report.after)
    most = reach(one for state in states for found in state.values() for one in found.values())
    panels = "".join(
        bars(_DIRECTIONS.get(way, way), report.before.get(way, {}), found, most)
        for way, found in report.after.items()
        if found
    )
    if not panels:
        return ""
    missing = (
        ""
        if any(report.before.values())
        else " The models shared no space before, so there is nothing to compare with."
    )
    key = _key(("before", "before fitting"), ("after", "after"))
    return f'<p class="lead">Lines are 95 % intervals.{missing}</p>\n<div class="two">{panels}</div>{key}\n'


def _key(*kinds: tuple[str, str]) -> str:
    marks = "".join(
        f'<span><svg viewBox="0 0 12 12" aria-hidden="true"><rect class="{kind}" width="12" height="12" rx="2"/></svg>'
        f"{words}</span>"
        for kind, words in kinds
    )
    return f'<p class="key">{marks}</p>'


def _similarities(report: Report) -> str:
    if report.held is None:
        return ""
    drawn = ""
    for title, pair in (("Before", report.held.before), ("After", report.held.after)):
        found = similarity(report.held, pair)
        if found is not None:
            drawn += f"<div><h3>{title}</h3>{heat(found)}</div>\n"
    if not drawn:
        return ""
    order = (
        "Pictures of a class stand side by side"
        if report.held.labels is not None
        else "What belongs together lies on the diagonal"
    )
    of = f", of {sampled(report)}" if sampled(report) else ""
    return f'<p class="lead">{order}{of}: it should stand out.</p>\n<div class="maps">{drawn}</div>\n'


def _examples(report: Report) -> str:
    text = ""
    found = examples(report.held)
    for kind, title in _KINDS.items():
        cards = "".join(_card(one, report) for one in found if one.kind == kind)
        if cards:
            text += f'<h3>{title}</h3>\n<div class="cards">{cards}</div>\n'
    if text and sampled(report):
        return f'<p class="lead">Of {sampled(report)}.</p>\n{text}'
    return text


def _card(one: Shown, report: Report) -> str:
    assert report.held is not None  # there would be no examples
    picture = report.held.pictures[one.picture]
    source = data_uri(picture.thumbnail)
    drawn = f'<img src="{source}" alt="" loading="lazy" decoding="async">' if source else ""
    was = f"rank {one.before:,} before" if one.before else ""
    badge = "good" if one.after == 1 else "bad" if one.after > TOP else ""
    name = re.split(r"[/\\\\]", picture.name.rstrip("/"))[-1] or picture.name
    items = "".join(
        f'<li{" class=right" if said.right else ""} dir="auto">{escaped(said.text)}</li>'
        for said in one.nearest
    )
    rest = "".join(f'<li class="right" dir="auto">{escaped(said)}</li>' for said in one.own[:2])
    truth = ""
    if not any(said.right for said in one.nearest):
        truth = f'<p>Its own</p><ol class="said-of" role="list">{rest}</ol>'
    return (
        f'<article class="card"><header>{drawn}<h4 class="file" title="{attribute(picture.name)}">'
        f'<span dir="auto">{escaped(name)}</span><small>{was}</small></h4>'
        f'<span class="badge {badge}">rank {one.after:,}</span></header>'
        f'<p>Nearest after fitting</p><ol class="said-of" role="list">{items}</ol>{truth}</article>\n'
    )


def _maps(report: Report, gaps: tuple[Measures | None, Measures | None], method: str) -> str:
    held = report.held
    if held is None:
        return ""
    panels = "".join(
        map_of(title, held, pair, gap.distance if gap else math.nan, method)
        for title, pair, gap in (("Before", held.before, gaps[0]), ("After", held.after, gaps[1]))
        if pair is not None and len(pair[0])
    )
    if not panels:
        return ""
    marks = [("circle", 'class="pictures" cx="6" cy="6" r="5"', "pictures")]
    if held.labels is not None:
        few = held.classes if len(held.classes) <= 10 else ()
        marks = [("circle", f'class="c{at}" cx="6" cy="6" r="5"', name) for at, name in enumerate(few)]
    marks.append(("rect", 'class="texts" x="1" y="1" width="10" height="10"', "texts"))
    shown_as = "".join(
        f'<span><svg viewBox="0 0 12 12" aria-hidden="true"><{kind} {drawn}/></svg>{escaped(name)}</span>'
        for kind, drawn, name in marks
    )
    lines = (
        " Lines join what belongs together."
        if held.labels is None
        else " Pictures have the colour of their class."
    )
    own = (
        ""
        if method == "umap"
        else "The two directions in which these vectors differ most, each state by its own."
    )
    inside = "maps classes" if held.labels is not None else "maps"
    key = f'<p class="key">{shown_as}</p>\n'
    of = f" These are {sampled(report)}." if sampled(report) else ""
    return f'<p class="lead">{own}{lines}{of}</p>\n<div class="{inside}">{panels}{key}</div>\n'


def _seconds(report: Report) -> str:
    found = {name: value for name, value in report.seconds.items() if math.isfinite(value)}
    if not found:
        return ""
    training = found.get("training", 0.0)
    rows = [("as it was done", [("embedding", found.get("embedding", 0.0)), ("training", training)])]
    if "recomputing" in found:
        rows.append(
            ("with every epoch embedded anew", [("again", found["recomputing"]), ("training", training)])
        )
    cached = int(found.get("cached", 0))
    lead = "Frozen towers embed every picture and every text once; training then runs on their vectors."
    if cached:
        lead += f" {cached:,} vectors came from the cache, from earlier runs."
    kinds = [("embedding", "embedding once"), ("training", "training")]
    if "recomputing" in found:
        kinds.append(("again", "embedding in every epoch, estimated"))
    return f'<p class="lead">{lead}</p>\n{times(rows)}{_key(*kinds)}\n'
