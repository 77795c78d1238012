"""`bowerbird verify`: a model against the original, stage by stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bowerbird.cli import app
from bowerbird.cli.given import EngineOption, JsonOption, PrecisionOption, pictures_and_texts
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
        _screen(report)
    else:
        _lines(report)
    if not report.ok:
        raise typer.Exit(1)


def verdict(report: Report) -> list[str]:
    """The result in a few sentences."""
    first = report.first
    if first is None and report.reference is None:
        return [
            "The model agrees with itself. Whether it is the original, only the original's arrays can tell:",
            f"  bowerbird golden {report.model} pictures... -o ref.npz",
            f"  bowerbird verify {report.model} --golden ref.npz",
        ]
    if first is None and not report.compared:
        return ["Nothing could be compared: the reference holds nothing that this model takes."]
    if first is None:
        return [f"All {report.compared} stages agree: {report.model} computes what the original computes."]
    worst = f", worst at {first.worst.name}: {_how_far(first.worst, first.stage)}" if first.worst else ""
    parted = "The model parts from itself" if first.run == "check" else "The two part"
    lines = [f"{parted} at {_tower(first)}, {_where(first)}{worst}."]
    if report.diagnosis:
        lines.append(report.diagnosis.sentence)
    alone = [stage for stage in report.stages if stage.tower == first.tower and stage.run == "alone"]
    later = [stage for stage in alone[alone.index(first) + 1 :] if stage.items] if first in alone else []
    if later:
        wrong = [stage.stage for stage in later if stage.verdict == "DIFFERS"]
        names = " and ".join(wrong) + (" differs too" if len(wrong) == 1 else " differ too")
        lines.append(
            f"Of what comes after it, fed with the reference's own values, {names if wrong else 'all agrees'}."
        )
    return lines


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
    return cosine, f"{stage.error:.1e}", stage.worst.name if stage.worst else ""


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
        lines.append(
            f"{reference.pictures} pictures, {reference.texts} texts{profile}; made with {made or '?'}"
        )
    for precision, towers in report.numerics.items():
        for tower, numerics in towers.items():
            lines.append(f"{precision}: {tower} tower in {numerics_line(numerics)}")
    return lines


def _lines(report: Report) -> None:
    """Tab-separated, for programs that read lines; the verdict comes last."""
    for stage in (*report.stages, *report.checks):
        result(
            "\t".join((_tower(stage), _where(stage), stage.verdict, *_figures(stage), _bound(stage.bound)))
        )
    for problem in report.problems:
        result(f"problem\t{problem.name}\t{problem.message}")
    for line in verdict(report):
        result(line)


_COLOURS = {"exact": "green", "within bound": "green", "DIFFERS": "bold red", "not compared": "dim"}


def _screen(report: Report) -> None:
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
    first, *more = verdict(report)
    console.print(Text(first, style="bold green" if report.ok else "bold red"))
    for line in more:
        console.print(Text(line))


def _table(report: Report, width: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    # Only the names of the worst items give way on a narrow terminal.
    table.add_column("", no_wrap=True, width=31)
    table.add_column("verdict", no_wrap=True, width=12)
    table.add_column("least cosine", justify="right", no_wrap=True, width=12)
    table.add_column("max error", justify="right", no_wrap=True, width=9)
    table.add_column("bound", style="dim", no_wrap=True, width=14)
    table.add_column("worst", overflow="ellipsis", no_wrap=True, max_width=max(8, width - 90))
    sections = {
        "Pictures": [stage for stage in report.stages if stage.tower == "image"],
        "Texts": [stage for stage in report.stages if stage.tower == "text"],
        "The model against itself": report.checks,
    }
    for heading, stages in sections.items():
        if not stages:
            continue
        table.add_row("")
        table.add_row(Text(heading, style="bold"))
        for stage in stages:
            label = f"{_tower(stage)}, {_where(stage)}" if stage.run == "check" else _where(stage)
            verdict_shown = Text(stage.verdict, style=_COLOURS[stage.verdict])
            bound = _bound(stage.bound) if stage.items else ""
            cosine, error, worst = _figures(stage)
            table.add_row(f"  {label}", verdict_shown, cosine, error, bound, worst)
    return table
