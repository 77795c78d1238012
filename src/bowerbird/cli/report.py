"""`bowerbird report`: what came of a fit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bowerbird.cli import app
from bowerbird.cli.given import JsonOption
from bowerbird.cli.screen import is_terminal, result, say

if TYPE_CHECKING:
    from bowerbird.learn.report import Figure, Report


@app.command()
def report(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Directory of a fitted model.", show_default=False)
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where the page (HTML) is written. Default: report.html, and with --json nowhere.",
            show_default=False,
        ),
    ] = "",
    method: Annotated[str, typer.Option(help="How the maps are drawn: pca, umap, or auto.")] = "pca",
    as_json: JsonOption = False,
) -> None:
    """Say what came of a fit, and draw it: losses, figures before and after, what is alike, best and worst examples.

    \b
    bowerbird report my-model/
    bowerbird report my-model/ -o fit.html
    bowerbird report my-model/ --json
    """
    from bowerbird.learn.report import read_report
    from bowerbird.learn.report_findings import measured_on, reservations
    from bowerbird.store.location import writable

    found = read_report(model)
    if found.after:
        say("\n".join([measured_on(found), *reservations(found)]))
    if as_json:
        result(json.dumps(found.to_json(), indent=1))
    else:
        _lines(found)
    if output or not as_json:
        target = Path(output or "report.html").expanduser()
        page = found.page(method=method)
        with writable(target):
            target.write_text(page, "utf-8")
        say(f"Report: {target}")


def _lines(found: Report) -> None:
    rows = [
        (direction, measure, found.before.get(direction, {}).get(measure), after)
        for direction, measures in found.after.items()
        for measure, after in measures.items()
    ]
    if not is_terminal():
        for direction, measure, before, after in rows:
            result("\t".join((direction, measure, *_cells(before), *_cells(after))))
        return
    result(f"{found.recipe} on {found.source}" if found.source else found.recipe)
    result(f"{'':<24}{'before':>10}{'after':>10}   95 % interval")
    for direction, measure, before, after in rows:
        name = f"{direction} {measure}"
        reach = f"{_said(after.low)} to {_said(after.high)}" if math.isfinite(after.low) else ""
        result(
            f"{name:<24}{_said(before.mean if before else math.nan):>10}{_said(after.mean):>10}   {reach}".rstrip()
        )


def _cells(figure: Figure | None) -> tuple[str, ...]:
    values = (figure.mean, figure.low, figure.high) if figure else (math.nan,) * 3
    return tuple(f"{value:.4f}" if math.isfinite(value) else "" for value in values)


def _said(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "\N{EN DASH}"
