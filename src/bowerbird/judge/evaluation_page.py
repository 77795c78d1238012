"""The report of an evaluation, as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from bowerbird.judge.evaluation import Evaluation, Row, Task
from bowerbird.judge.evaluation_charts import SURE, by_measure, by_system, heat, ranks, shown, system, verdict
from bowerbird.judge.examples import Answer, Example
from bowerbird.judge.measures import Measure
from bowerbird.judge.significance import LEVEL
from bowerbird.search.page import attribute, data_uri, document, escaped, style_with

_TITLES = {
    "text to picture": "From texts to pictures",
    "picture to text": "From pictures to texts",
    "queries": "Queries with judgements",
}


def evaluation_page(found: Evaluation) -> str:
    """Lay out an evaluation."""
    sections = "".join(_direction(task, found) for task in found.tasks)
    problems = "".join(f"<li>{escaped(problem)}</li>\n" for problem in found.problems)
    body = (
        '<main class="wrap">\n'
        + (
            _part("What could not be used", f'<ul class="said warn" role="list">{problems}</ul>')
            if problems
            else ""
        )
        + sections
        + (
            _part("Every text against every picture", heat(found.similarity))
            if found.similarity is not None
            else ""
        )
        + _part("How it was measured", _facts(found))
        + "</main>\n"
    )
    return document(
        "How well this index finds what is right",
        body,
        style=style_with(("bowerbird.judge", "pages.css"), ("bowerbird.judge", "evaluation.css")),
        brand="Bowerbird evaluation",
        subtitle=f"{found.index} against {found.source}",
    )


def _part(title: str, content: str) -> str:
    return f'<section class="part"><h2>{escaped(title)}</h2>\n{content}</section>\n'


def _direction(task: Task, found: Evaluation) -> str:
    rows = [row for row in found.rows if row.direction == task.direction]
    shares = [one for one in found.measures if not one.less_is_better]
    several = len(rows) > 1
    panels = "".join(by_system(one, rows) for one in shares) if several else by_measure(rows[0], shares)
    lead = (
        f'<p class="lead">{len(rows[0].scores.queries):,} queries, {task.pool:,} answers to choose from. Lines are '
        f"{LEVEL:.0%} intervals.</p>\n"
    )
    return _part(
        _TITLES[task.direction],
        f'{lead}<div class="panels">{panels}</div>\n{_KEY if several else ""}<h3>Figures</h3>\n'
        f"{_table(rows, found.measures)}<h3>Ranks</h3>\n{ranks(task, rows[0])}"
        + _examples([one for one in found.examples if one.direction == task.direction]),
    )


def _mark(kind: str, words: str) -> str:
    drawn = '<circle class="dot" cx="6" cy="6" r="4.5"/>'
    return (
        f'<span><svg viewBox="0 0 12 12" aria-hidden="true"><g class="{kind}">{drawn}</g></svg>{words}</span>'
    )


_KEY = (
    '<p class="key">'
    + _mark("first", "the first system, which the others are compared with")
    + _mark("better", f"better, p below {SURE:g}")
    + _mark("worse", f"worse, p below {SURE:g}")
    + _mark("", "no difference found")
    + "</p>\n"
)


def _table(rows: Sequence[Row], measures: Sequence[Measure]) -> str:
    head = "".join(f'<th scope="col" class="n">{escaped(str(one))}</th>' for one in measures)
    body = ""
    for row in rows:
        cells = "".join(_cell(row, rows[0], one) for one in measures)
        body += f'<tr><th scope="row">{escaped(system(row))}</th>{cells}</tr>\n'
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr><th scope="col">system</th>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>\n"
    )


def _cell(row: Row, first: Row, one: Measure) -> str:
    figure = row.figures[one]
    p = "" if figure.p is None else f"<small>p {_p(figure.p)}</small>"
    return (
        f'<td class="n {verdict(row, first, one)}">{shown(figure.mean, one)}<small>{shown(figure.low, one)}'
        f"\u2013{shown(figure.high, one)}</small>{p}</td>"
    )


def _p(value: float) -> str:
    return "&lt; 0.001" if value < 0.001 else f"= {value:.3f}"


def _examples(found: Sequence[Example]) -> str:
    text = ""
    for good, title in ((True, "Some that went well"), (False, "The worst")):
        cards = "".join(_card(one) for one in found if one.good == good)
        if cards:
            text += f'<h3>{title}</h3>\n<div class="cards">{cards}</div>\n'
    return text


def _card(one: Example) -> str:
    picture = f'<img src="{source}" alt="" decoding="async">' if (source := data_uri(one.picture)) else ""
    file = " class=file" if picture else ""
    kind = "good" if one.rank == 1 else "bad"
    badge = f"rank {one.rank:,}" if one.rank else "not found"
    # Right answers that are among those shown need not be shown twice.
    missing = [answer for answer in one.truth if not 0 < answer.rank <= len(one.found)]
    truth = f"<p>Right would be</p>{_answers(missing)}" if missing and one.rank != 1 else ""
    return (
        f'<article class="card"><header>{picture}<h4{file} dir="auto">{escaped(one.label)}</h4>'
        f'<span class="badge {kind}">{badge}</span></header>'
        f"<p>Found</p>{_answers(one.found) if one.found else '<p>nothing</p>'}{truth}</article>\n"
    )


def _answers(found: Sequence[Answer]) -> str:
    if any(answer.picture for answer in found):
        items = "".join(
            f'<li{" class=right" if answer.right else ""} title="{attribute(answer.label)}">{_thumbnail(answer)}</li>'
            for answer in found
        )
        return f'<ol class="strip" role="list">{items}</ol>'
    items = "".join(
        f'<li{" class=right" if answer.right else ""} dir="auto">{escaped(answer.label)}</li>'
        for answer in found
    )
    return f'<ol class="said-of" role="list">{items}</ol>'


def _thumbnail(answer: Answer) -> str:
    source = data_uri(answer.picture)
    right = ", right" if answer.right else ""
    if not source:
        return f'<span class="blank">{escaped(answer.label)}</span>'
    return f'<img src="{source}" alt="{attribute(answer.label)}{right}" loading="lazy" decoding="async">'


def _facts(found: Evaluation) -> str:
    items = "".join(
        f"<dt>{escaped(name)}</dt><dd>{escaped(said)}</dd>\n" for name, said in found.protocol.items()
    )
    return f'<dl class="facts-of">{items}</dl>\n'
