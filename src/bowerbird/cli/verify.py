"""`bowerbird verify`: a model against the original, stage by stage."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bowerbird.cli import app
from bowerbird.cli.given import (
    EngineOption,
    JsonOption,
    PrecisionOption,
    base_name,
    count,
    counts,
    pictures_and_texts,
)
from bowerbird.cli.screen import is_terminal, native_libraries_silent, numerics_line, result

if TYPE_CHECKING:
    from rich.table import Table

    from bowerbird.judge.compare import Bound, Difference, StageReport
    from bowerbird.judge.report import Report


@app.command()
def verify(
    model: Annotated[str, typer.Argument(help="A name or a directory.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(help="Pictures of the reference, as files; or texts.", show_default=False),
    ] = None,
    golden: Annotated[
        Path | None,
        typer.Option(
            help="Reference arrays, from `bowerbird golden`. Default: those in the model's directory.",
            show_default=False,
        ),
    ] = None,
    precision: PrecisionOption = "",
    engine: EngineOption = "",
    as_json: JsonOption = False,
) -> None:
    """Hold a model against the original network, stage by stage, and say where the two part and why.

    \b
    bowerbird verify mini
    bowerbird verify ./my-clip --golden ref.npz photos/*.jpg

    Exit code 1 when a stage differs.
    """
    from bowerbird.judge.verify import verify as judge
    from bowerbird.models.encoder import load

    encoder = load(model, precision=precision, engine=engine)
    with native_libraries_silent():
        report = judge(encoder, golden, pictures_and_texts(inputs or []))
    if as_json:
        result(json.dumps(report.to_json(), indent=1))
    elif is_terminal():
        _screen(report, model)
    else:
        _lines(report, model)
    if not report.ok:
        raise typer.Exit(1)


def verdict(report: Report, typed: str) -> list[str]:
    """The result in a few sentences.

    Args:
        report: what was found.
        typed: the model as the user named it.
    """
    first = report.first
    if first is None:
        return _no_difference(report, typed)
    worst = (
        f", worst at {base_name(first.worst.name)}: {_how_far(first.worst, first.stage)}"
        if first.worst
        else ""
    )
    parted = "The model parts from itself" if first.run == "check" else "The two part"
    lines = [f"{parted} at {_tower(first)}, {_where(first)}{worst}."]
    if report.diagnosis:
        lines.append(report.diagnosis.sentence)
        if report.diagnosis.key:
            lines.append(f"Look at {report.diagnosis.key} in the model's configuration.")
        if report.diagnosis.steps:
            lines.append(f"Its own steps: {report.diagnosis.steps}")
    alone = [stage for stage in report.stages if stage.tower == first.tower and stage.run == "alone"]
    later = [stage for stage in alone[alone.index(first) + 1 :] if stage.items] if first in alone else []
    if later:
        wrong = [stage.stage for stage in later if stage.verdict == "DIFFERS"]
        names = " and ".join(wrong) + (" differs too" if len(wrong) == 1 else " differ too")
        lines.append(
            f"Of what comes after it, fed with the reference's own values, {names if wrong else 'all agrees'}."
        )
    return lines


def _no_difference(report: Report, typed: str) -> list[str]:
    """What is left to say where no stage differs: a failure, how little was compared, or that all agrees."""
    failing = [problem for problem in report.problems if problem.fails]
    if report.diagnosis is not None:
        lines = [report.diagnosis.sentence]
    elif failing:
        agree = f"{_stages(report)} agree, but " if report.compared else ""
        more = f" ({len(failing) - 1} more of such problems.)" if len(failing) > 1 else ""
        lines = [f"{agree}{report.model} fails at {failing[0].name}: {failing[0].message}{more}"]
    elif report.reference is None:
        lines = [
            "The model agrees with itself. Whether it computes what the original does, only the original can tell.",
            "With the ORIGINAL model (its PyTorch weights, as a directory or hub id; not this export), run:",
            "  bowerbird golden ORIGINAL pictures... -o ref.npz",
            f"  bowerbird verify {shlex.quote(typed)} --golden ref.npz pictures...",
        ]
    elif not report.compared:
        lines = ["Nothing could be compared: the reference holds nothing that this model takes."]
    elif partly := _partly(report):
        lines = [f"All {_stages(report)} agree, {partly}."]
    elif report.problems:
        lines = [f"All {_stages(report)} agree; see the {count(len(report.problems), 'problem')} above."]
    else:
        lines = [f"All {_stages(report)} agree: {report.model} computes what the original computes."]
    return lines


def _stages(report: Report) -> str:
    return count(report.compared, "stage")


def _partly(report: Report) -> str:
    """On how many of the inputs that the user named; empty when the reference has them all."""
    if all(given.known == given.count for given in report.given):
        return ""
    shares = " and ".join(f"{given.known} of {count(given.count, given.kind)}" for given in report.given)
    return f"on {shares}; the reference has no arrays for the others"


def _tower(stage: StageReport) -> str:
    return "pictures" if stage.tower == "image" else "texts"


def _where(stage: StageReport) -> str:
    if stage.run == "through":
        return f"{'file' if stage.tower == 'image' else 'text'} to {stage.stage}, {stage.precision}"
    return stage.stage


def _how_far(item: Difference, stage: str) -> str:
    if item.note:
        return item.note
    if stage == "tokens":
        return f"{item.differing} of {item.total} ids differ"
    if stage in ("decoded", "pixel values"):
        by = f"{item.levels:.3g} levels" if item.levels else f"{item.error:.3g}"
        return f"{100 * item.differing / max(item.total, 1):.3g} % of values differ, by up to {by}"
    return f"cosine {item.cosine:.6f}, error {item.error:.2g}"


def _figures(stage: StageReport) -> tuple[str, str, str]:
    """Least cosine, largest error, and the worst item, as far as they say something."""
    if not stage.items:
        return "", "", stage.note
    if stage.verdict == "exact":
        return "1", "0", ""
    cosine = "" if stage.stage == "tokens" else f"{stage.cosine:.7f}"
    return cosine, f"{stage.error:.1e}", base_name(stage.worst.name) if stage.worst else ""


def _bound(bound: Bound) -> str:
    return "equal" if bound.cosine == 1.0 else f"cos ≥ {bound.cosine:.6g}"


def _heading(report: Report) -> list[str]:
    lines = [f"{report.model}, space {report.space}"]
    reference = report.reference
    if reference is None:
        lines.append("against itself: no reference arrays were given, and its directory has none")
    else:
        made = ", ".join(f"{name} {version}" for name, version in reference.made_with.items())
        profile = f", profile {reference.profile}" if reference.profile else ""
        lines.append(f"against {reference.path or 'the arrays given'}")
        lines.append(f"{counts(reference.pictures, reference.texts)}{profile}; made with {made or '?'}")
    for precision, towers in report.numerics.items():
        for tower, numerics in towers.items():
            lines.append(f"{precision}: {tower} tower in {numerics_line(numerics)}")
    return lines


def _lines(report: Report, typed: str) -> None:
    """Tab-separated, for programs that read lines; the verdict comes last."""
    for stage in (*report.stages, *report.checks):
        result(
            "\t".join((_tower(stage), _where(stage), stage.verdict, *_figures(stage), _bound(stage.bound)))
        )
    for problem in report.problems:
        result(f"problem\t{problem.name}\t{problem.message}")
    for line in verdict(report, typed):
        result(line)


_COLOURS = {"exact": "green", "within bound": "green", "DIFFERS": "bold red", "not compared": "dim"}


def _screen(report: Report, typed: str) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    name, *rest = _heading(report)
    console.print(Text(name, style="bold"))
    for line in rest:
        console.print(Text(line, style="dim"))
    console.print(_table(report, console.width))
    bounds = dict.fromkeys(stage.bound for stage in (*report.stages, *report.checks) if stage.items)
    console.print()
    for bound in bounds:
        if bound.cosine < 1.0:
            console.print(Text(f"{_bound(bound)}, error ≤ {bound.error:.1e}: {bound.reason}", style="dim"))
    console.print()
    for problem in report.problems:
        console.print(Text.assemble((f"{problem.name}: ", "yellow"), problem.message))
    first, *more = verdict(report, typed)
    console.print(Text(first, style="bold green" if report.ok else "bold red"))
    for line in more:
        console.print(Text(line))


_WIDE = 100
"""Columns from which on there is room for the bounds beside the names of the worst items."""


def _table(report: Report, width: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    wide = width >= _WIDE
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("cosine", justify="right", no_wrap=True)
    table.add_column("error", justify="right", no_wrap=True)
    if wide:
        table.add_column("bound", style="dim", no_wrap=True)
    # A name is never cut: one that is too long goes on in the next line.
    table.add_column("worst", overflow="fold")
    sections = {
        "Pictures": [stage for stage in report.stages if stage.tower == "image"],
        "Texts": [stage for stage in report.stages if stage.tower == "text"],
        "Against itself: pictures": [stage for stage in report.checks if stage.tower == "image"],
        "Against itself: texts": [stage for stage in report.checks if stage.tower == "text"],
    }
    for heading, stages in sections.items():
        if not stages:
            continue
        table.add_row("")
        table.add_row(Text(heading, style="bold"))
        for stage in stages:
            verdict_shown = Text(stage.verdict, style=_COLOURS[stage.verdict])
            bound = [_bound(stage.bound) if stage.items else ""] * wide
            cosine, error, worst = _figures(stage)
            table.add_row(f"  {_where(stage)}", verdict_shown, cosine, error, *bound, worst)
    return table
