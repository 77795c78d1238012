"""`bowerbird conditions`: what each wrong condition would cost on one's own pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bowerbird.cli import app
from bowerbird.cli.given import JsonOption, count, pictures
from bowerbird.cli.screen import is_terminal, native_libraries_silent, result

if TYPE_CHECKING:
    from rich.table import Table

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


_WIDE = 110
"""Columns from which on there is room for all figures beside the names of the worst pictures."""


def _screen(report: CostReport) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    used = count(report.pictures, "picture")
    console.print(Text(f"{report.model}, output {report.output}, {used}", style="bold"))
    console.print(Text(f"right: {report.steps}", style="dim"))
    console.print()
    wide = console.width >= _WIDE
    console.print(_table(report, wide=wide))
    console.print(Text(_legend(report, wide=wide), style="dim"))
    for name, why in report.without.items():
        console.print(Text(f"{name}: not tried, {why}", style="dim"))
    for name, why in report.problems.items():
        console.print(Text.assemble((f"{name}: ", "yellow"), why))


def _table(report: CostReport, *, wide: bool) -> Table:
    from rich.table import Table
    from rich.text import Text

    classifies = any(cost.label is not None for cost in report.costs)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("if", no_wrap=True)
    for heading in ("n", "mean", "least", "neighbour", *(["label"] * classifies), "pairs"):
        table.add_column(heading, justify="right", no_wrap=True)
    # A name is never cut: one that is too long goes on in the next line.
    table.add_column("worst", overflow="fold")
    nothing = [""] * (3 + classifies)
    right = Text("right", "green")
    table.add_row(right, str(report.pictures), *nothing, _pairs(report.spread, wide=wide), "")
    for cost in report.costs:
        table.add_row(
            cost.name,
            str(cost.pictures),
            Text(f"{cost.mean:.4f}", _colour(cost.mean)),
            Text(f"{cost.least:.4f}", _colour(cost.least)),
            _share(cost.neighbour),
            *([_share(cost.label)] * classifies),
            _pairs(cost.spread, wide=wide),
            Path(cost.worst).name,
        )
    return table


def _legend(report: CostReport, *, wide: bool) -> str:
    """What the columns mean."""
    classifies = any(cost.label is not None for cost in report.costs)
    label = (
        ", label: nearest picture, first class are the same"
        if classifies
        else ": nearest picture is the same"
    )
    pairs = "least, median, largest" if wide else "median"
    return (
        "n: pictures concerned; mean, least: cosine to the right conditions, fp32; "
        f"neighbour{label}; pairs: {pairs} cosine between pictures."
    )


def _pairs(spread: Spread | None, *, wide: bool) -> str:
    return _spread(spread) if wide or spread is None else f"{spread.median:.3f}"


def _colour(cosine: float) -> str:
    """Noise, noticed in a ranking, or another model."""
    if cosine >= 0.999:
        return "green"
    return "yellow" if cosine >= 0.97 else "red"
