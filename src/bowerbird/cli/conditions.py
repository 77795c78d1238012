"""`bowerbird conditions`: what each wrong condition would cost on one's own pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bowerbird.cli import app
from bowerbird.cli.given import JsonOption, pictures
from bowerbird.cli.screen import is_terminal, native_libraries_silent, result

if TYPE_CHECKING:
    from bowerbird.judge.conditions import CostReport, Spread


@app.command()
def conditions(
    model: Annotated[str, typer.Argument(help="A name or a directory.")],
    sources: Annotated[list[str], typer.Argument(help="Pictures: files, folders or globs.")],
    output: Annotated[
        str,
        typer.Option(
            help="Output to compare. Default: the one that compares pictures best.", show_default=False
        ),
    ] = "",
    int8: Annotated[bool, typer.Option(help="Also try weights of 8 bits.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Say what each wrong condition would cost on your own pictures: wrong resize, wrong mean, BGR, EXIF ignored ...

    \b
    bowerbird conditions mini ~/Pictures/holiday
    bowerbird conditions clip-vit-base-patch32 "shop/*.jpg" --json
    """
    from bowerbird.judge.conditions import conditions as cost
    from bowerbird.models.encoder import load

    encoder = load(model)
    with native_libraries_silent():
        report = cost(encoder, pictures(sources), output=output, int8=int8)
    if as_json:
        result(json.dumps(report.to_json(), indent=1))
    elif is_terminal():
        _screen(report)
    else:
        _lines(report)


def _lines(report: CostReport) -> None:
    """Tab-separated, for programs that read lines."""
    result(f"right\t{report.pictures}\t1\t1\t\t\t{_spread(report.spread)}\t")
    for cost in report.costs:
        shares = (_share(cost.neighbour), _share(cost.label))
        figures = (f"{cost.mean:.5f}", f"{cost.least:.5f}", *shares, _spread(cost.spread))
        result("\t".join((cost.name, str(cost.pictures), *figures, cost.worst)))
    for name, why in (*report.without.items(), *report.problems.items()):
        result(f"without\t{name}\t{why}")


def _share(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def _spread(spread: Spread | None) -> str:
    return "" if spread is None else f"{spread.least:.3f} {spread.median:.3f} {spread.most:.3f}"


def _screen(report: CostReport) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    console.print(Text(f"{report.model}, output {report.output}, {report.pictures} pictures", style="bold"))
    console.print(Text(f"right: {report.steps}", style="dim"))
    console.print(
        Text(
            "Every condition against the right one, in fp32; neighbour: the most similar picture stays the same.",
            "dim",
        )
    )
    console.print()
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("if", no_wrap=True)
    for heading in ("pictures", "cos mean", "least", "neighbour", "label", "pairs: least median most"):
        table.add_column(heading, justify="right", no_wrap=True)
    # Only file names give way on a narrow terminal.
    table.add_column("worst", overflow="ellipsis", no_wrap=True, max_width=max(8, console.width - 94))
    table.add_row(Text("right", "green"), str(report.pictures), "", "", "", "", _spread(report.spread), "")
    for cost in report.costs:
        table.add_row(
            cost.name,
            str(cost.pictures),
            Text(f"{cost.mean:.4f}", _colour(cost.mean)),
            Text(f"{cost.least:.4f}", _colour(cost.least)),
            _share(cost.neighbour),
            _share(cost.label),
            _spread(cost.spread),
            Path(cost.worst).name,
        )
    console.print(table)
    for name, why in report.without.items():
        console.print(Text(f"{name}: not tried, {why}", style="dim"))
    for name, why in report.problems.items():
        console.print(Text.assemble((f"{name}: ", "yellow"), why))


def _colour(cosine: float) -> str:
    """Noise, noticed in a ranking, or another model."""
    if cosine >= 0.999:
        return "green"
    return "yellow" if cosine >= 0.97 else "red"
