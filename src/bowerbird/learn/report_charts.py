"""What the report of a run draws, in SVG: losses, figures before and after, seconds, maps, confusions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bowerbird.judge.projection import flat
from bowerbird.learn.examples import Vectors
from bowerbird.learn.report import Figure, Report
from bowerbird.learn.report_held import Held
from bowerbird.search.page import attribute, clean, escaped

NONE = "\N{EN DASH}"
"""Shown for a figure that is not known."""

DRAWN = 700
"""Points of pictures on a map, and as many of texts: more would hide one another."""

LINKED = 200
"""True pairs that are joined on it, at most."""

NAMED = 24
"""Texts of classes that are written on it, at most."""

_WIDE, _TALL = 440, 250
_LEFT, _RIGHT, _TOP, _BELOW = 46, 14, 16, 30
_STEPS = 500
"""Points of the curve of all steps, at most: each is the mean of as many steps."""


def shown(value: float, digits: int = 3) -> str:
    """A figure as people read it, with a true minus sign; a dash for what is no number."""
    if not math.isfinite(value):
        return NONE
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def worded(name: str) -> str:
    """`text→image R@10` for the name of a measure as data has it."""
    return name.replace("->", "\N{RIGHTWARDS ARROW}")


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if not math.isfinite(seconds):
        return NONE
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    whole = round(seconds)
    return (
        f"{whole // 60} min {whole % 60} s"
        if seconds < 3600
        else f"{whole // 3600} h {whole % 3600 // 60} min"
    )


# Curves


def losses(report: Report) -> str:
    """The loss of every step, faint, and the mean of every epoch."""
    epochs = [(epoch.number, epoch.loss) for epoch in report.history]
    last = max((number for number, _ in epochs), default=1)
    values = np.array([value for value in report.steps if math.isfinite(value)])
    parts = np.array_split(values, min(_STEPS, len(values))) if len(values) else []
    steps = [((at + 0.5) / len(parts) * last, float(part.mean())) for at, part in enumerate(parts)]
    # The mean of an epoch stands in its middle: its steps lie on both sides.
    means = [(number - 0.5, loss) for number, loss in epochs]
    lines = [("step", steps, False), ("epoch", means, True)]
    return _curves(
        "Loss of the training data", "each step faint, the mean of each epoch strong", lines, last, 0
    )


def validation(report: Report) -> str:
    """Figures of the validation set after each epoch; nothing where none were measured."""
    names = list(dict.fromkeys(name for epoch in report.history for name in epoch.metrics))[:4]
    lines = [
        (
            f"m{at}",
            [(float(epoch.number), epoch.metrics.get(name, math.nan)) for epoch in report.history],
            True,
        )
        for at, name in enumerate(names)
    ]
    if not any(math.isfinite(value) for _, points, _ in lines for _, value in points):
        return ""
    key = "".join(
        f'<span><svg viewBox="0 0 12 12" aria-hidden="true"><path class="curve m{at}" d="M0 6H12"/></svg>'
        f"{escaped(worded(name))}</span>"
        for at, name in enumerate(names)
    )
    drawn = _curves("Validation set", "after each epoch", lines, max(e.number for e in report.history), 0)
    return drawn.replace("</figure>", f'<p class="key">{key}</p></figure>')


def _curves(
    title: str,
    what: str,
    lines: Sequence[tuple[str, Sequence[tuple[float, float]], bool]],
    last: float,
    first: float,
) -> str:
    """Lines over epochs; what is no number is a gap. Each line is (class, points, whether points are dots)."""
    values = [y for _, points, _ in lines for _, y in points if math.isfinite(y)]
    if not values:
        return (
            f"<figure><figcaption>{escaped(title)}<small>nothing was recorded</small></figcaption></figure>\n"
        )
    low, high = min(0.0, *values), max(values)
    step = _tick(high - low)
    high = max(math.ceil(high / step - 1e-9) * step, low + step)

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - first) / max(last - first, 1e-9)
        up = (y - low) / (high - low)
        return _LEFT + across * (_WIDE - _LEFT - _RIGHT), _TALL - _BELOW - up * (_TALL - _TOP - _BELOW)

    marks = [
        f'<path class="axis" d="M{_LEFT} {y:.1f}H{_WIDE - _RIGHT}"/><text x="{_LEFT - 6}" y="{y + 4:.1f}" '
        f'text-anchor="end">{value:.3g}</text>'
        for value in np.arange(math.ceil(low / step), math.floor(high / step + 1e-9) + 1) * step
        for y in [at(0, float(value))[1]]
    ]
    every = max(1, math.ceil(last / 8))
    numbers = [n for n in range(0, int(last) + 1, every) if n]
    marks += [
        f'<text x="{at(n, 0)[0]:.1f}" y="{_TALL - 12}" text-anchor="middle">{n}</text>' for n in numbers
    ]
    for kind, points, dots in lines:
        placed = [at(x, y) if math.isfinite(y) else None for x, y in points]
        pen, path = "M", ""
        for place in placed:
            path += f"{pen}{place[0]:.1f} {place[1]:.1f}" if place else ""
            pen = "L" if place else "M"
        marks.append(f'<path class="curve {kind}" d="{path}"/>' if path else "")
        if dots and len(points) <= 60:
            marks += [
                f'<circle class="on {kind}" cx="{p[0]:.1f}" cy="{p[1]:.1f}" r="3"><title>epoch {x:g}: '
                f"{shown(y, 4)}</title></circle>"
                for p, (x, y) in zip(placed, points, strict=True)
                if p
            ]
    said = f"{title}, from {shown(values[0], 3)} to {shown(values[-1], 3)}"
    return (
        f"<figure><figcaption>{escaped(title)}<small>{escaped(what)}</small></figcaption>"
        f'<svg class="plot curves" viewBox="0 0 {_WIDE} {_TALL}" role="img" aria-label="{attribute(said)}">'
        f"{''.join(marks)}</svg></figure>\n"
    )


def _tick(span: float) -> float:
    """A round distance of about five ticks."""
    if span <= 0 or not math.isfinite(span):
        return 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if span / (step * power) <= 6)


# Before and after


def reach(figures: Iterable[Figure]) -> float:
    """A round value that none of the figures nor their intervals is above; 1 at most."""
    most = max([0.05, *(_high(one) for one in figures)])
    return min(1.0, math.ceil(most * 10.3) / 10)


def bars(title: str, before: Mapping[str, Figure], after: Mapping[str, Figure], most: float) -> str:
    """For each measure two bars with their intervals, from 0 to `most`."""
    names = list(after)
    left, wide, row = 56, 400, 54

    def at(value: float) -> float:
        return left + (wide - left - 52) * min(max(value, 0.0), most) / most

    tall = row * len(names) + 24
    marks = [
        f'<path class="axis" d="M{at(value):.1f} 4V{tall - 20}"/><text x="{at(value):.1f}" y="{tall - 6}" '
        f'text-anchor="middle">{value:g}</text>'
        for value in (0.0, round(most / 2, 3), most)
    ]
    for number, name in enumerate(names):
        top = row * number
        marks.append(f'<text class="name" x="8" y="{top + 32}">{escaped(name)}</text>')
        for found, kind, y in ((before, "before", top + 8), (after, "after", top + 29)):
            one = found.get(name, Figure(math.nan))
            marks.append(_bar(one, kind, y, at))
    said = ", ".join(
        f"{name} {shown(before.get(name, Figure(math.nan)).mean)} before, {shown(after[name].mean)} after"
        for name in names
    )
    return (
        f"<figure><figcaption>{escaped(title)}</figcaption>"
        f'<svg class="plot compared" viewBox="0 0 {wide} {tall}" role="img" aria-label="{attribute(said)}">'
        f"{''.join(marks)}</svg></figure>\n"
    )


def _high(one: Figure) -> float:
    return max((value for value in (one.mean, one.high) if math.isfinite(value)), default=0.0)


def _bar(one: Figure, kind: str, y: float, at: Callable[[float], float]) -> str:
    known = math.isfinite(one.mean)
    end = at(one.mean) if known else at(0)
    line = ""
    if known and math.isfinite(one.low) and math.isfinite(one.high):
        line = f'<path class="reach" d="M{at(one.low):.1f} {y + 8.5:.1f}H{at(one.high):.1f}"/>'
    interval = f", {shown(one.low)} to {shown(one.high)}" if line else ""
    text = max(end, at(one.high) if line else end) + 6
    return (
        f'<g class="{kind}"><title>{kind}: {shown(one.mean)}{interval}</title>'
        f'<rect x="{at(0):.1f}" y="{y:.1f}" width="{max(end - at(0), 0):.1f}" height="17" rx="2"/>{line}'
        f'<text class="value" x="{text:.1f}" y="{y + 13:.1f}">{shown(one.mean)}</text></g>'
    )


def times(rows: Sequence[tuple[str, Sequence[tuple[str, float]]]]) -> str:
    """Stacked bars of seconds; each row is (name, parts), each part (class, seconds)."""
    wide, row = 440, 52
    totals = [sum(seconds for _, seconds in parts) for _, parts in rows]
    most = max([*totals, 1e-9])
    marks = []
    for number, ((name, parts), total) in enumerate(zip(rows, totals, strict=True)):
        y, x = row * number + 24, 8.0
        marks.append(f'<text class="name" x="8" y="{y - 7}">{escaped(name)}</text>')
        for kind, seconds in parts:
            width = (wide - 96) * seconds / most
            marks.append(
                f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{max(width, 0.5):.1f}" height="18"/>'
            )
            x += width
        marks.append(f'<text class="value" x="{x + 6:.1f}" y="{y + 13}">{duration(total)}</text>')
    said = ", ".join(f"{name}: {duration(total)}" for (name, _), total in zip(rows, totals, strict=True))
    return (
        f'<figure><svg class="plot times" viewBox="0 0 {wide} {row * len(rows) + 4}" role="img" '
        f'aria-label="{attribute(said)}">{"".join(marks)}</svg></figure>\n'
    )


# The space


def map_of(title: str, held: Held, pair: tuple[Vectors, Vectors | None], distance: float, method: str) -> str:
    """Pictures and texts as points, each with its name; true pairs are joined."""
    images = _some(len(pair[0]))
    texts = _some(0 if pair[1] is None else len(pair[1]))
    vectors = pair[0][images] if pair[1] is None else np.concatenate([pair[0][images], pair[1][texts]])
    points, how = flat(vectors, method=method)
    wide, tall = 480, 400
    placed = (points - 0.5) * (tall - 24) + (wide / 2, tall / 2)
    ours = dict(zip(images.tolist(), placed[: len(images)].tolist(), strict=True))
    theirs = dict(zip(texts.tolist(), placed[len(images) :].tolist(), strict=True))
    every = held.links[_some(len(held.links), LINKED)].tolist() if held.labels is None else []
    joined = [(ours[a], theirs[b]) for a, b in every if a in ours and b in theirs]
    marks = [f'<path class="link" d="M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}"/>' for (a, b), (c, d) in joined]
    for at, (x, y) in ours.items():
        kind = f" c{held.labels[at] % 10}" if held.labels is not None else ""
        said = held.pictures[at].name + (
            f": {held.classes[held.labels[at]]}" if held.labels is not None else ""
        )
        marks.append(
            f'<circle class="pictures{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3">{_title(said)}</circle>'
        )
    for at, (x, y) in theirs.items():
        # With classes there are few texts, in the same places as many pictures.
        side = 9 if held.labels is not None else 5.2
        box = f'x="{x - side / 2:.1f}" y="{y - side / 2:.1f}" width="{side}" height="{side}"'
        marks.append(f'<rect class="texts dot" {box}>{_title(held.texts[at])}</rect>')
        if held.labels is not None and len(theirs) <= NAMED:
            marks.append(
                f'<text class="name" x="{x + 8:.1f}" y="{y + 4:.1f}">{escaped(_brief(held.texts[at]))}</text>'
            )
    apart = f"centroids {shown(distance)} apart; " if math.isfinite(distance) else ""
    return (
        f"<figure><figcaption>{escaped(title)}<small>{apart}{escaped(how.partition(',')[0])}</small></figcaption>"
        f'<svg class="plot space" viewBox="0 0 {wide} {tall}" role="img" aria-label="{attribute(title)}: pictures '
        f'and texts as points">{"".join(marks)}</svg></figure>\n'
    )


def _title(text: str) -> str:
    return f"<title>{escaped(text if len(text) <= 120 else text[:119] + '…')}</title>"


def _some(count: int, most: int = DRAWN) -> NDArray[np.int64]:
    """At most so many places, evenly."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, most)).round().astype(np.int64))


def confusions(title: str, found: NDArray[np.int64], classes: Sequence[str]) -> str:
    """Classes (down) by what their pictures were taken for (across), as a table of shares."""
    head = "".join(f'<th scope="col"><span>{escaped(_brief(name))}</span></th>' for name in classes)
    rows = ""
    for at, name in enumerate(classes):
        total = max(1, int(found[at].sum()))
        cells = "".join(
            f'<td class="q{min(9, int(10 * count / total))}{" own" if of == at else ""}" '
            f'title="{attribute(f"{name} as {classes[of]}: {count} of {total}")}">{count or ""}</td>'
            for of, count in enumerate(found[at].tolist())
        )
        rows += f'<tr><th scope="row">{escaped(_brief(name))}</th>{cells}</tr>\n'
    right = found.trace() / max(1, int(found.sum()))
    return (
        f"<figure><figcaption>{escaped(title)}<small>{100 * right:.0f} % of pictures lie nearest to the text of their "
        f'own class</small></figcaption><div class="scroll"><table class="confused"><thead><tr><td></td>{head}</tr>'
        f"</thead><tbody>\n{rows}</tbody></table></div></figure>\n"
    )


def _brief(name: str, most: int = 18) -> str:
    return clean(name) if len(name) <= most else f"{clean(name)[: most - 1]}…"
