"""The modality gap as a page: where pictures and texts lie before and after centring, and what their scores are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bowerbird.judge.gap import PAIRINGS, Gap, Measures, Parts, in_words, score_sets
from bowerbird.judge.projection import pca
from bowerbird.search.gap import centred
from bowerbird.search.page import document, escaped, style_with

Array: TypeAlias = NDArray[Any]

DRAWN = 600
"""Points of each modality that are drawn; more would hide one another."""

_WIDE, _HIGH, _ROW = 480, 360, 76

_TITLES = {
    "pictures": "two pictures",
    "texts": "two texts",
    "across": "a picture and another's text",
    "pairs": "a picture and its own text",
}


def gap_page(gap: Gap, parts: Parts, *, place: str) -> str:
    """Lay out a gap as one self-contained HTML page.

    Args:
        gap: what was measured.
        parts: of these vectors.
        place: the index, as people call it.
    """
    x, t = parts.pictures, parts.texts
    moved = centred(x, x.mean(0)), centred(t, t.mean(0))
    states = (("As stored", (x, t), gap.before), ("Centred by modality", moved, gap.after))
    projections = "".join(_projection(title, x, t, parts.pairs, found) for title, (x, t), found in states)
    scores = [score_sets(x, t, parts.pairs) for _, (x, t), _ in states]
    low, high = _range(scores)
    histograms = "".join(
        _histograms(title, sets, low, high) for (title, _, _), sets in zip(states, scores, strict=True)
    )
    said = "".join(f"<li>{escaped(sentence)}</li>\n" for sentence in in_words(gap))
    body = (
        '<main class="wrap">\n'
        f'<section class="part"><h2>In words</h2>\n<ul class="said" role="list">{said}'
        f"<li>Correction in this index: {escaped(gap.correction)}.</li></ul></section>\n"
        '<section class="part"><h2>Where they lie</h2>\n<p class="lead">The two directions in which these vectors '
        "differ most (principal components), each state by its own. A gap shows as two islands.</p>\n"
        f'<div class="two">{projections}</div>{_KEY}</section>\n'
        '<section class="part"><h2>What their scores are</h2>\n<p class="lead">Cosines of four kinds of pairs. Scores '
        "may be compared across kinds where the hills of unrelated pairs stand at the same place, and tell a true pair "
        "where the last one stands apart.</p>\n"
        f'<div class="two">{histograms}</div></section>\n'
        f'<section class="part"><h2>Figures</h2>\n{_table(gap)}</section>\n'
        f'<p class="foot">{escaped(_footnote(gap))}</p>\n</main>\n'
    )
    drawn = "query sentences" if gap.source == "bank" else "texts"
    subtitle = f"{place}: {gap.model}, {gap.output}; {gap.pictures:,} pictures, {gap.texts:,} {drawn}" + (
        f", {gap.pairs:,} of them together" if gap.pairs else ""
    )
    style = style_with(("bowerbird.judge", "pages.css"))
    return document(
        "How far apart pictures and texts lie",
        body,
        style=style,
        brand="Bowerbird modality gap",
        subtitle=subtitle,
    )


_KEY = (
    '<p class="key"><span><svg viewBox="0 0 12 12" aria-hidden="true"><circle class="pictures" cx="6" cy="6" r="5"/>'
    '</svg>pictures</span><span><svg viewBox="0 0 12 12" aria-hidden="true"><rect class="texts" x="1" y="1" '
    'width="10" height="10"/></svg>texts</span></p>\n'
)


def _projection(title: str, x: Array, t: Array, pairs: Array, found: Measures) -> str:
    points = pca(np.concatenate([x, t]), 2)
    # Quantiles, so that one far point does not press the others together; what is beyond lies at the edge.
    low, high = np.quantile(points, 0.005, axis=0), np.quantile(points, 0.995, axis=0)
    middle, side = (low + high) / 2, max(float((high - low).max()), 1e-9) * 1.08
    scale = min(_WIDE, _HIGH) / side
    placed = np.clip((points - middle) * scale + (_WIDE / 2, _HIGH / 2), 6, (_WIDE - 6, _HIGH - 6))
    ours, theirs = placed[: len(x)], placed[len(x) :]
    linked = [(row, other) for row, other in pairs.tolist() if row < DRAWN and other < DRAWN][:120]
    marks = [
        *(
            f'<path class="link" d="M{ours[a][0]:.1f} {ours[a][1]:.1f}L{theirs[b][0]:.1f} {theirs[b][1]:.1f}"/>'
            for a, b in linked
        ),
        *(f'<circle class="pictures" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in ours[:DRAWN]),
        *(
            f'<rect class="texts dot" x="{a - 2.6:.1f}" y="{b - 2.6:.1f}" width="5.2" height="5.2"/>'
            for a, b in theirs[:DRAWN]
        ),
    ]
    return (
        f"<figure><figcaption>{escaped(title)}<small>centroids {found.distance:.3f} apart</small></figcaption>\n"
        f'<svg class="plot" viewBox="0 0 {_WIDE} {_HIGH}" role="img" aria-label="{escaped(title)}: pictures and texts '
        f'as points, centroids {found.distance:.3f} apart">{"".join(marks)}</svg></figure>\n'
    )


def _range(scores: Sequence[dict[str, Array]]) -> tuple[float, float]:
    """What the axis of scores has to show, in tenths."""
    ends = [np.quantile(s, (0.001, 0.999)) for sets in scores for s in sets.values() if len(s)]
    low, high = min(float(e[0]) for e in ends), max(float(e[1]) for e in ends)
    return float(np.floor(low * 10) / 10), min(1.0, float(np.ceil(high * 10) / 10 + 1e-9))


def _histograms(title: str, sets: dict[str, Array], low: float, high: float) -> str:
    shown = [name for name in PAIRINGS if len(sets[name])]
    tall = _ROW * len(shown) + 28

    def at(score: float) -> float:
        return 12 + (_WIDE - 24) * (score - low) / max(high - low, 1e-9)

    parts = []
    for row, name in enumerate(shown):
        base = _ROW * (row + 1)
        counts, edges = np.histogram(sets[name], np.linspace(low, high, 61))
        heights = counts / max(counts.max(), 1) * (_ROW - 30)
        line = "".join(
            f"L{at(a):.1f} {base - h:.1f}L{at(b):.1f} {base - h:.1f}"
            for h, a, b in zip(heights, edges[:-1], edges[1:], strict=True)
        )
        mean = float(sets[name].mean())
        parts.append(
            f'<path class="{name}" d="M{at(low):.1f} {base}{line}L{at(high):.1f} {base}Z"/>'
            f'<path class="axis" d="M12 {base}H{_WIDE - 12}"/>'
            f'<path class="mean" d="M{at(mean):.1f} {base}V{base - _ROW + 26}"/>'
            f'<text class="name" x="12" y="{base - _ROW + 18}">{_TITLES[name]}</text>'
            f'<text x="{_WIDE - 12}" y="{base - _ROW + 18}" text-anchor="end">mean {_signed(mean)}</text>'
        )
    step = next(step for step in (0.05, 0.1, 0.2, 0.25, 0.5) if high - low <= 8 * step or step == 0.5)
    ticks = np.arange(np.ceil(low / step + 0.3), np.floor(high / step - 0.3) + 1) * step
    parts += [
        f'<text x="{at(tick):.1f}" y="{tall - 8}" text-anchor="middle">{_signed(tick, 2)}</text>'
        for tick in ticks
    ]
    means = ", ".join(f"{_TITLES[name]} {sets[name].mean():.3f}" for name in shown)
    return (
        f"<figure><figcaption>{escaped(title)}</figcaption>\n"
        f'<svg class="plot" viewBox="0 0 {_WIDE} {tall}" role="img" aria-label="{escaped(title)}, mean cosines: '
        f'{means}">{"".join(parts)}</svg></figure>\n'
    )


def _table(gap: Gap) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escaped(name)}</th><td class="n">{_number(before)}</td>'
        f'<td class="n">{_number(after)}</td><td class="why">{escaped(why)}</td></tr>\n'
        for name, before, after, why in figures(gap)
    )
    return (
        '<div class="scroll"><table><thead><tr><th scope="col">measure</th><th scope="col" class="n">as stored</th>'
        '<th scope="col" class="n">centred</th><th scope="col">what it says</th></tr></thead>'
        f"<tbody>\n{rows}</tbody></table></div>\n"
    )


def figures(gap: Gap) -> list[tuple[str, float | None, float | None, str]]:
    """(name, before, after, what it says) of all that was measured."""
    before, after = gap.before, gap.after
    means = [
        (f"mean cosine, {_TITLES[name]}", _mean(before, name), _mean(after, name), "") for name in PAIRINGS
    ]
    return [
        ("distance of the centroids", before.distance, after.distance, "0: no gap"),
        *means,
        (
            "overlap, within and across",
            before.overlap_across,
            after.overlap_across,
            "1: scores of all kinds of unrelated pairs mean the same",
        ),
        (
            "overlap, true and unrelated pairs",
            before.overlap_pairs,
            after.overlap_pairs,
            "0: scores tell a picture's own text",
        ),
        (
            "true pair above two unrelated texts",
            before.pairs_over_texts,
            after.pairs_over_texts,
            "how often; .5 is a toss of a coin",
        ),
        (
            "linear separability",
            before.separability,
            after.separability,
            ".5: no plane tells pictures from texts",
        ),
        ("its area under the curve", before.separability_auc, after.separability_auc, "likewise"),
    ]


def _mean(found: Measures, name: str) -> float | None:
    spread = found.scores[name]
    return spread.mean if spread else None


def _number(value: float | None) -> str:
    return "" if value is None else _signed(value)


def _signed(value: float, digits: int = 3) -> str:
    """With a true minus sign; what rounds to zero has none."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _footnote(gap: Gap) -> str:
    parts = []
    if gap.source == "bank":
        parts.append("The index holds no texts: sentences that people search with stand for them.")
    if gap.rough:
        parts.append("There are few vectors: the figures are rough.")
    parts.append(
        "Centring subtracts the mean of a modality and scales to length 1 again (Liang et al. 2022, arXiv 2203.02053; "
        "GR-CLIP, arXiv 2507.19054). The discriminant is a ridge LDA over five folds."
    )
    return " ".join(parts)
