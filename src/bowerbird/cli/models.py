"""`bowerbird models`: what is available."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from bowerbird.cli import app
from bowerbird.cli.screen import bytes_, is_terminal, result


@app.command()
def models(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Models to describe; default: those that need no download.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List models with their dimensions, size, modalities and where they come from.

    \b
    bowerbird models
    bowerbird models ./my-model
    """
    from bowerbird.models.card import EMBEDDED

    rows = [_row(name) for name in names or [EMBEDDED]]
    if as_json:
        result(json.dumps(rows, indent=1))
    elif is_terminal():
        _table(rows)
    else:
        for row in rows:
            result(
                "\t".join(
                    str(row[key]) for key in ("name", "modalities", "dimensions", "bytes", "license", "from")
                )
            )


def _row(name: str) -> dict[str, Any]:
    from bowerbird.models.card import EMBEDDED
    from bowerbird.models.encoder import load

    encoder = load(name)
    card = encoder.card
    dimensions = {}
    if card.text:
        dimensions["text"] = encoder.text.dimensions
    if card.image:
        dimensions.update({output: encoder.image.dimensions(output) for output in encoder.image.outputs})
    return {
        "name": card.name,
        "modalities": "+".join(map(str, card.modalities)),
        "dimensions": ", ".join(f"{what} {size}" for what, size in dimensions.items()),
        "bytes": card.size,
        "license": card.license or "?",
        "from": "inside the package" if card.name == EMBEDDED else str(card.directory),
        "space": card.space,
    }


def _table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("model", "takes", "dimensions", "size", "licence", "from"):
        table.add_column(heading)
    for row in rows:
        table.add_row(
            row["name"],
            row["modalities"],
            row["dimensions"],
            bytes_(row["bytes"]),
            row["license"],
            row["from"],
        )
    Console(highlight=False).print(table)
