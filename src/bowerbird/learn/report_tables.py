"""What the report of a run tells in tables and lists: counts, what was tried, classes, the gap, how to repeat it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from bowerbird.judge.gap import PAIRINGS, Measures
from bowerbird.learn import losses, recipes
from bowerbird.learn.report import Report
from bowerbird.learn.report_charts import NONE, confusions, duration, shown
from bowerbird.learn.report_findings import OfClass, by_class, confusion, sampled
from bowerbird.learn.split import Copy
from bowerbird.search.page import escaped

LISTED = 200
"""Names of dropped inputs that a page holds; the others are in `fit.json`."""

_PAIRS = {
    "pictures": "two pictures",
    "texts": "two texts",
    "across": "a picture and another's text",
    "pairs": "a picture and its own text",
}


def counts(report: Report) -> str:
    """How many of what, and what could not be used."""
    named = ("pictures", "texts", "pairs")
    splits = [name for name in report.counts if name not in named]
    facts = [(name, f"{report.counts[name]:,}") for name in (*named, *splits) if name in report.counts]
    facts = [(f"pictures to {_SPLITS[name]}" if name in _SPLITS else name, value) for name, value in facts]
    if report.held is not None and report.held.classes:
        facts.append(("classes", f"{len(report.held.classes):,}"))
    facts.append(("could not be used", f"{len(report.dropped):,}"))
    facts.append(("groups of copies, none of them in two splits", f"{len(report.copies):,}"))
    removed = sum(len(one.removed) for one in report.copies)
    if removed:
        facts.append(("copies left out", f"{removed:,}"))
    return (
        _numbers(facts)
        + _notes(report.problems)
        + _listed("What could not be used", [f"{name}: {reason}" for name, reason in report.dropped])
        + _listed("Copies", list(map(told, report.copies)))
    )


def told(copy: Copy) -> str:
    """Pictures that are the same, or nearly, where they are, and which of them were left out."""
    kept = [name for name in copy.names if name not in copy.removed]
    alike = f" (cosine {copy.cosine:.3f})" if math.isfinite(copy.cosine) and copy.cosine != 1 else ""
    if not copy.removed:
        where = f", all in {copy.part}" if copy.part else ""
        return f"{' = '.join(kept)}{alike}{where}"
    where = f", {'all ' if len(kept) > 1 else ''}in {copy.part}" if copy.part else ""
    copies = "its copy" if len(kept) == 1 == len(copy.removed) else "copies"
    return f"{' = '.join(kept)}{where}; left out as {copies}: {', '.join(copy.removed)}{alike}"


_SPLITS = {"train": "learn from", "validation": "choose by", "test": "measure on"}


def _numbers(facts: Sequence[tuple[str, str]]) -> str:
    items = "".join(
        f"<div><dd>{escaped(value)}</dd><dt>{escaped(name)}</dt></div>\n" for name, value in facts
    )
    return f'<dl class="numbers">{items}</dl>\n'


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    items = "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(value)}</dd>\n" for name, value in facts)
    return f'<dl class="facts-of">{items}</dl>\n'


def _notes(problems: Sequence[str]) -> str:
    items = "".join(f"<li>{escaped(problem)}</li>\n" for problem in problems)
    return f'<ul class="said warn" role="list">{items}</ul>\n' if items else ""


def points(lines: Sequence[str]) -> str:
    """Sentences one below the other; nothing where there are none."""
    items = "".join(f"<li>{escaped(line)}</li>\n" for line in lines)
    return f'<ul class="said after" role="list">{items}</ul>\n' if items else ""


def _listed(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "".join(f'<li dir="auto">{escaped(line)}</li>\n' for line in lines[:LISTED])
    rest = f"<li>and {len(lines) - LISTED:,} more</li>\n" if len(lines) > LISTED else ""
    return (
        f"<details><summary>{escaped(title)}: {len(lines):,}</summary>"
        f'<div class="scroll"><ul class="said" role="list">{items}{rest}</ul></div></details>\n'
    )


def choice(report: Report) -> str:
    """What `auto` tried; nothing where a recipe was given."""
    if not report.choice:
        return ""
    # Of equal recipes the first one: nothing else tells which of them it was.
    chosen = next((one for one in report.choice if one.recipe == report.recipe), None)
    rows = "".join(
        f"<tr{' class=chosen' if one is chosen else ''}><th scope=row><code>{escaped(one.recipe)}</code></th>"
        f"<td class=n>{_known(one.figure)}</td><td>{escaped(one.measure)}</td><td class=n>{duration(one.seconds)}</td>"
        f"<td class=why>{escaped(one.why)}</td></tr>\n"
        for one in report.choice
    )
    return (
        '<p class="lead">By the figure of the validation set.</p>\n<div class="scroll"><table><thead><tr>'
        "<th scope=col>recipe</th><th scope=col class=n>figure</th><th scope=col>measure</th>"
        "<th scope=col class=n>time</th><th scope=col>why</th></tr></thead>"
        f"<tbody>\n{rows}</tbody></table></div>\n"
    )


def classes(report: Report) -> str:
    """Precision by class, and what pictures are taken for; nothing without classes."""
    found = by_class(report.held)
    if not found or report.held is None:
        return ""
    rows = "".join(
        f"<tr><th scope=row>{escaped(one.name)}</th><td class=n>{one.pictures:,}</td>"
        f"<td class=n>{_known(one.before, 2)}</td><td class=n>{_known(one.after, 2)}</td></tr>\n"
        for one in found
    )
    mean = (
        f"<tr class=all><th scope=row>mean</th><td class=n>{sum(one.pictures for one in found):,}</td>"
        f"<td class=n>{_mean([one.before for one in found])}</td>"
        f"<td class=n>{_mean([one.after for one in found])}</td></tr>\n"
    )
    matrices = "".join(
        confusions(title, matrix, report.held.classes)
        for title, pair in (("Before", report.held.before), ("After", report.held.after))
        if len(report.held.classes) <= 40 and (matrix := confusion(report.held, pair)) is not None
    )
    few = _few(found) + (f". Of {sampled(report)}" if sampled(report) else "")
    return (
        '<p class="lead">The share of a class among the ten pictures that its text finds first (P@10)'
        f'{few}.</p>\n<div class="scroll"><table><thead><tr><th scope=col>class</th><th scope=col class=n>pictures</th>'
        "<th scope=col class=n>P@10 before</th><th scope=col class=n>after</th></tr></thead>"
        f"<tbody>\n{rows}{mean}</tbody></table></div>\n"
        + (
            f'<h3>What pictures are taken for</h3><p class="lead">Classes down, the class whose text lies nearest '
            f'across.</p>\n<div class="two">{matrices}</div>\n'
            if matrices
            else ""
        )
    )


def _few(found: Sequence[OfClass]) -> str:
    less = [one.name for one in found if one.pictures < 10]
    return f"; {len(less)} have fewer than ten pictures, so cannot reach 1" if less else ""


def _known(value: float | None, digits: int = 3) -> str:
    return NONE if value is None else shown(value, digits)


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return shown(sum(known) / len(known)) if known else NONE


def gap(gaps: tuple[Measures | None, Measures | None], sample: str = "") -> str:
    """The modality gap before and after; nothing where pictures and texts share no space.

    Args:
        gaps: before and after.
        sample: what they are of, where that is not all.
    """
    if gaps == (None, None):
        return ""
    rows = "".join(
        f"<tr><th scope=row>{escaped(name)}</th>{''.join(f'<td class=n>{shown(v)}</td>' for v in values)}"
        f"<td class=why>{escaped(why)}</td></tr>\n"
        for name, why, values in _gap_rows(gaps)
    )
    return (
        '<p class="lead">How far pictures and texts lie apart, whatever they show (Liang et al. 2022)'
        f"{f', of {sample}' if sample else ''}.</p>\n"
        '<div class="scroll"><table><thead><tr><th scope=col>measure</th><th scope=col class=n>before</th>'
        f"<th scope=col class=n>after</th><th scope=col>what it says</th></tr></thead>"
        f"<tbody>\n{rows}</tbody></table></div>\n"
    )


def _gap_rows(gaps: tuple[Measures | None, Measures | None]) -> list[tuple[str, str, list[float]]]:
    def of(name: str) -> list[float]:
        found = [None if gap is None else getattr(gap, name) for gap in gaps]
        return [math.nan if value is None else float(value) for value in found]

    def cosine(name: str) -> list[float]:
        spreads = [None if gap is None else gap.scores[name] for gap in gaps]
        return [math.nan if spread is None else spread.mean for spread in spreads]

    return [
        ("distance of the centroids", "0: no gap", of("distance")),
        *((f"mean cosine, {_PAIRS[name]}", "", cosine(name)) for name in PAIRINGS),
        (
            "overlap, within and across",
            "1: scores of all kinds of unrelated pairs mean the same",
            of("overlap_across"),
        ),
        ("overlap, true and unrelated pairs", "0: scores tell a picture's own text", of("overlap_pairs")),
        ("true pair above two unrelated texts", "how often; .5 is a toss of a coin", of("pairs_over_texts")),
        ("linear separability", ".5: no plane tells pictures from texts", of("separability")),
    ]


def repeat(report: Report) -> str:
    """All that was asked for, and what it ran with."""
    facts = [(name, _plain(value)) for name, value in report.settings.items() if name != "command"]
    facts.append(("versions", ", ".join(f"{name} {version}" for name, version in report.versions.items())))
    facts.append(("made", report.made))
    said = report.settings.get("command")
    code = str(said) if isinstance(said, str) else _as_python(report)
    return f"<pre>{escaped(code)}</pre>\n" + _facts([(name, value) for name, value in facts if value])


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _as_python(report: Report) -> str:
    """The call that does the same again; files are named without their folders, since those are not kept."""
    asked = report.settings
    tuned = report.recipe.startswith(_TUNED)
    source = asked.get("source") or report.source
    given: dict[str, str] = {}
    if tuned:
        given = {_MODELS[kind]: repr(name) for kind, name in report.models.items() if kind in _MODELS}
        if given.get("text_model") == given.get("model"):
            given.pop("text_model", None)
    else:
        for kind, name in report.models.items():
            given[f"{kind}_model"] = repr(asked.get(f"{kind}_model") or name)
        given["recipe"] = _recipe(report)
    for name in (*_PAIRS_OF, *(_TUNING if tuned else ("seconds",)), "seed"):
        if asked.get(name) not in (None, "", [], _GIVEN):
            given[name] = _qualified(str(asked[name])) if name == "lora" else repr(asked[name])
    own = [name for name in ("validation", "test") if asked.get(name) == _GIVEN]
    given |= dict.fromkeys(own, "...")
    words = "".join(f"    {name}={value},\n" for name, value in given.items())
    lines = [f"bb.{'fine_tune' if tuned else 'fit'}(\n    {source!r},\n{words})"]
    if own:
        lines.append(f"# {' and '.join(own)}: pairs of your own were given; put them in place of the dots.")
    if not tuned and asked.get("recipe") == _AUTO and report.recipe.endswith(")"):
        lines.append(f"# auto took {_qualified(report.recipe)}")
    return "\n".join(["import bowerbird as bb\n", *lines])


def _recipe(report: Report) -> str:
    """As it was asked for, as Python writes it."""
    asked = str(report.settings.get("recipe") or report.recipe)
    if asked.endswith(")"):
        return _qualified(asked)
    # What was taken may be no recipe: the model as it is.
    return repr(asked if report.settings.get("recipe") else _AUTO)


def _qualified(code: str) -> str:
    """What a recipe, a loss, or LoRA says of itself, with the names of the modules that they are in."""
    homes = {one.__name__: "bb.recipes" for one in recipes.ALL}
    homes |= {one.__name__: "bb.losses" for one in losses.Loss.__subclasses__()} | {"LoRA": "bb"}
    found: str = re.sub(rf"(?<![\w.'\"])({'|'.join(homes)})\(", lambda one: f"{homes[one[1]]}.{one[0]}", code)
    return found


_TUNED, _AUTO, _GIVEN = "fine_tune(", "auto", "given"
_MODELS = {"image": "model", "text": "text_model"}
_PAIRS_OF = ("image", "text", "labels", "root", "id", "delimiter", "validation", "test")
_TUNING = ("lora", "epochs", "batch_size", "lr", "precision", "accumulate", "freeze")
