"""What the report of an evaluation draws: dots with whiskers, ranks, the heat map."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from bowerbird.judge.evaluation import Figure, Row, Task
from bowerbird.judge.measures import Measure, measure, measured
from bowerbird.judge.similarity import DRAWN, Similarity, cells, ramp, scale
from bowerbird.search.page import attribute, data_uri, escaped

SURE = 0.05
"""P-values below it are shown as differences."""

_WIDE, _ROW, _LEFT, _RIGHT = 320, 36, 6, 60

_BINS = ((1, 1), (2, 3), (4, 10), (11, 30), (31, 100), (101, 0))
"""First and last rank of each bar; 0: all that follow."""


def shown(value: float, one: Measure) -> str:
    """A figure as people read it."""
    if math.isinf(value):
        return "not found"
    if math.isnan(value):
        return "none"
    return f"{value:g}" if one.less_is_better else f"{value:.3f}"


def verdict(row: Row, first: Row, one: Measure) -> str:
    """A class: `first`, `better`, `worse`, or empty where no difference was found."""
    if row is first:
        return "first"
    figure, base = row.figures[one], first.figures[one]
    if figure.p is None or figure.p >= SURE:
        return ""
    return "better" if figure.mean > base.mean else "worse"


def system(row: Row) -> str:
    """What a system is called."""
    return f"{row.models}, {row.fusion}" if row.fusion else row.models


def by_system(one: Measure, rows: Sequence[Row]) -> str:
    """A panel for one measure: for each system its mean and interval."""
    lines = [(system(row), row.figures[one], verdict(row, rows[0], one)) for row in rows]
    return _whiskers(
        str(one), lines, max([0.05, *(figure.high for _, figure, _ in lines)]), compared=len(rows) > 1
    )


def by_measure(row: Row, measures: Sequence[Measure]) -> str:
    """A panel for one system: for each measure its mean and interval."""
    return _whiskers(
        system(row), [(str(one), row.figures[one], "first") for one in measures], 1.0, compared=False
    )


def _whiskers(title: str, lines: Sequence[tuple[str, Figure, str]], most: float, *, compared: bool) -> str:
    """Means and intervals from 0 to 1, a line for each; `most` is the largest value there is."""
    high = min(1.0, math.ceil(most * 10.3) / 10)

    def at(value: float) -> float:
        return _LEFT + (_WIDE - _LEFT - _RIGHT) * min(value, high) / high

    tall = _ROW * len(lines) + 20
    parts = [f'<path class="zero" d="M{at(lines[0][1].mean):.1f} 4V{tall - 18}"/>'] if compared else []
    for number, (name, figure, kind) in enumerate(lines):
        top = _ROW * number
        line = top + 25
        said = f"{name}: {figure.mean:.3f}, {figure.low:.3f} to {figure.high:.3f}"
        parts.append(
            f'<g class="{kind}"><title>{escaped(said)}</title>'
            f'<text x="{_LEFT}" y="{top + 13}">{escaped(_short(name))}</text>'
            f'<path class="rule" d="M{_LEFT} {line}H{_WIDE - _RIGHT}"/>'
            f'<path class="reach" d="M{at(figure.low):.1f} {line}H{at(figure.high):.1f}"/>'
            f'<circle class="dot" cx="{at(figure.mean):.1f}" cy="{line}" r="4.5"/>'
            f'<text class="value" x="{_WIDE}" y="{line + 4}" text-anchor="end">{figure.mean:.3f}</text></g>'
        )
    parts += [
        f'<text x="{at(value):.1f}" y="{tall - 4}" text-anchor="{anchor}">{value:g}</text>'
        for value, anchor in ((0.0, "start"), (high, "end"))
    ]
    return (
        f"<figure><figcaption>{escaped(title)}</figcaption>"
        f'<svg class="whiskers" viewBox="0 0 {_WIDE} {tall}" role="img" aria-label="{attribute(title)}: means and '
        f'intervals of {len(lines)}">{"".join(parts)}</svg></figure>\n'
    )


def _short(name: str, most: int = 46) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def ranks(task: Task, row: Row) -> str:
    """A histogram of where the first right answer stands."""
    one = measure("median rank")
    found = measured([one], task.qrels, row.run).values[one]
    depth = max((len(answers) for answers in row.run.values()), default=0)
    bars = [(first, last) for first, last in _BINS if first <= max(depth, 1)]
    counts = [
        int(((found >= first) & (found <= (last or math.inf)) & np.isfinite(found)).sum())
        for first, last in bars
    ]
    names = [
        str(first) if first == last else f"{first}\u2013{last}" if last else f"{first}+"
        for first, last in bars
    ]
    shades = list(range(len(bars)))
    if lost := int(np.isinf(found).sum()):
        counts, names, shades = [*counts, lost], [*names, "not found"], [*shades, 5]
    wide, tall, gap = 560, 200, 10
    each = (wide - 24 - gap * (len(counts) - 1)) / len(counts)
    parts = []
    for number, (count, name, shade) in enumerate(zip(counts, names, shades, strict=True)):
        left, high = 12 + number * (each + gap), 130 * count / max(1, *counts)
        share = 100 * count / max(1, len(found))
        middle, top = left + each / 2, 164 - high
        parts.append(
            f'<rect class="s{min(shade, 5)}" x="{left:.1f}" y="{top:.1f}" width="{each:.1f}" height="{high:.1f}"/>'
            f'<text class="name" x="{middle:.1f}" y="{top - 6:.1f}" text-anchor="middle">{share:.0f} %</text>'
            f'<text x="{middle:.1f}" y="182" text-anchor="middle">{name}</text>'
        )
    said = ", ".join(f"{name}: {count}" for name, count in zip(names, counts, strict=True))
    return (
        f"<figure><figcaption>Rank of the first right answer<small>{escaped(system(row))}, {len(found):,} queries"
        f'</small></figcaption><svg class="plot bars" viewBox="0 0 {wide} {tall}" role="img" aria-label="{said}">'
        f'<path class="axis" d="M12 164H{wide - 12}"/>{"".join(parts)}</svg></figure>\n'
    )


def heat(found: Similarity) -> str:
    """The matrix as a picture; what belongs together is framed where there is room."""
    rows, columns = found.values[:DRAWN, :DRAWN].shape
    low, high = scale(found.values)
    frames = ""
    if max(rows, columns) <= 60:
        boxes = "".join(
            f'<rect x="{column + 0.06}" y="{row + 0.06}" width="0.88" height="0.88"/>'
            for row, column in np.argwhere(found.truth[:rows, :columns]).tolist()
        )
        frames = (
            f'<svg viewBox="0 0 {columns} {rows}" preserveAspectRatio="none" aria-hidden="true">{boxes}</svg>'
        )
    cut = f", the first {DRAWN:,} of each" if max(found.values.shape) > DRAWN else ""
    legend = data_uri(_png(ramp(256, 4)))
    shape = f"{found.values.shape[0]:,} texts (down) against {found.values.shape[1]:,} pictures (across)"
    return (
        f'<figure class="map{" small" if frames else ""}"><figcaption>{shape}<small>{_mean_of(found)}{cut}</small>'
        f'</figcaption><div class="cells"><img src="{data_uri(_png(cells(found)))}" alt="{shape}">{frames}</div>'
        f'<div class="ramp"><span>cosine {low:.2f}</span><img src="{legend}" alt=""><span>{high:.2f}</span></div>'
        "</figure>\n"
    )


def _mean_of(found: Similarity) -> str:
    if not found.truth.any() or found.truth.all():
        return "one kind of pairs only"
    together, apart = float(found.values[found.truth].mean()), float(found.values[~found.truth].mean())
    return f"mean cosine {together:.3f} of what belongs together, {apart:.3f} of the rest"


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()
